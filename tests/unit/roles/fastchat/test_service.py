# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is started, restarted and taken back: the conditions of the tasks, evaluated by Ansible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[4]
PLAN: dict[str, Any] = {
    "running": True,
    "stale": [],
    "missing_images": [],
    "systemd": True,
    "unit_ready": True,
    "pending": False,
}
UP, LOOK, RESTART = "Start the services", "See what still goes by an earlier version of a file", "Restart what does"
SAY, WATCH = "Say that the services would be started", "Watch for killed containers, now and at every boot"
STALE = {"running": False, "stale": ["edge"]}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "as it should be": ({}, {}, []),
    # The file is as it should be, and the process is older.
    "a run that was killed before the restart": (STALE, {"after": ["edge"]}, [UP, LOOK, RESTART]),
    "a file that is put back": ({**STALE, "pending": True}, {"written": True, "after": ["edge"]}, [
        UP, LOOK, RESTART, WATCH,
    ]),
    "compose has started it anew by itself": (STALE, {"written": True, "after": []}, [UP, LOOK]),
    "another release": ({"running": False, "pending": True}, {"written": True}, [UP, WATCH]),
    "check mode": (STALE, {"check": True}, [UP, RESTART]),
    "check mode, a file that would be put back": (STALE, {"check": True, "written": True}, [SAY]),
    "check mode, no image": ({**STALE, "missing_images": ["x"]}, {"check": True}, [SAY]),
}  # fmt: skip


def runs(task: dict[str, Any], variables: dict[str, Any]) -> bool:
    templar = Templar(loader=DataLoader(), variables=variables)
    conditions = task["when"] if isinstance(task["when"], list) else [task["when"]]
    return all(templar.template(trust_as_template("{{ " + str(each) + " }}")) for each in conditions)


@pytest.mark.parametrize("name", CASES)
def test_what_is_started(name: str) -> None:
    plan, given, expected = CASES[name]
    started = {"stale": given["after"]} if "after" in given else {"skipped": True, "changed": False}
    variables = {
        "ansible_check_mode": given.get("check", False),
        "fastchat_release": {**PLAN, **plan},
        "__fastchat_written": {"changed": given.get("written", False)},
        "__fastchat_started": started,
    }
    tasks = DataLoader().load_from_file(str(ROOT / "roles/fastchat/tasks/service.yml"), trusted_as_template=True)
    assert [task["name"].partition(" | ")[2] for task in tasks if runs(task, variables)] == expected


@pytest.mark.parametrize(
    ("release", "back"),
    [
        ({"repair": False, "previous": "b" * 12}, True),
        ({"repair": False, "previous": ""}, False),
        # The inventory names no other release than the one that is put in order.
        ({"repair": True, "previous": "b" * 12}, False),
    ],
)
def test_what_is_taken_back(release: dict[str, Any], back: bool) -> None:
    tasks = DataLoader().load_from_file(str(ROOT / "playbooks/steps/roll.yml"), trusted_as_template=True)
    block = next(task for task in tasks if "rescue" in task)
    task = next(task for task in block["rescue"] if task["name"].endswith("Put the last good release back"))
    assert runs(task, {**block["vars"], "ansible_check_mode": False, "fastchat_release": release}) is back


@pytest.mark.parametrize(
    ("check", "would_change", "told"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_check_mode_tells_where_a_rollback_would_go(check: bool, would_change: bool, told: bool) -> None:
    plays = DataLoader().load_from_file(str(ROOT / "playbooks/rollback.yml"), trusted_as_template=True)
    task = next(task for task in plays[1]["tasks"] if task["name"].startswith("Say "))
    release = {"id": "b" * 12, "would_change": would_change, "release": {"verified": "2026-01-31T12:00:00Z"}}
    variables = {"ansible_check_mode": check, "fastchat_release": release, "inventory_hostname": "gpu-1"}
    assert runs(task, variables) is told
    said = Templar(loader=DataLoader(), variables=variables).template(task["ansible.builtin.debug"]["msg"])
    assert said == "gpu-1: would go back to release bbbbbbbbbbbb, verified at 2026-01-31T12:00:00Z"
    assert task["changed_when"] is True


FAILED = {"groups": {"vicuna_rollout_failed": ["gpu-1"]}}


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"fastchat_release": {"repair": False}}, False),
        ({**FAILED, "fastchat_release": {"repair": False}}, True),
        (
            {**FAILED, "fastchat_release": {"repair": False}, "rollout_canary": 0, "rollout_max_fail_percentage": 34},
            False,
        ),
        ({"ansible_play_hosts": ["gpu-2", "gpu-3"], "fastchat_release": {"repair": False}}, True),
        # What has answered here before is put in order, whatever became of another host.
        ({**FAILED, "fastchat_release": {"repair": True}}, False),
    ],
)
def test_who_is_left_after_a_failure(given: dict[str, Any], left: bool) -> None:
    task = DataLoader().load_from_file(str(ROOT / "playbooks/steps/roll.yml"), trusted_as_template=True)[0]
    every = ["gpu-1", "gpu-2", "gpu-3"]
    assert [next(key for key in each if "." in key) for each in task["block"]] == [
        "ansible.builtin.debug",
        "ansible.builtin.meta",
    ]
    variables = {"groups": {}, "ansible_play_hosts_all": every, "ansible_play_hosts": every, **task["vars"], **given}
    assert runs(task, variables) is left


def test_a_repair_finishes_what_a_failed_start_has_left() -> None:
    """Where the endpoint is not handed over, nobody asks the host in the end."""
    loader, folder = DataLoader(), ROOT / "roles/fastchat/tasks"
    rolled = [task.get("ansible.builtin.import_tasks") for task in loader.load_from_file(str(folder / "roll.yml"))]
    tasks = loader.load_from_file(str(folder / "repair.yml"), trusted_as_template=True)
    left = [task for task in tasks if "ansible.builtin.include_tasks" in task]
    assert [task["ansible.builtin.include_tasks"] for task in left] == rolled[rolled.index("configure.yml") + 1 :]
    for would_change in (True, False):
        assert all(runs(task, {"fastchat_release": {"would_change": would_change}}) is would_change for task in left)
