# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No playbook ends well where it has nobody to work on: real runs over inventories that hold nobody who is meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PLAYBOOKS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.yml"), *ROOT.glob("playbooks/*.yml")]
    if path.name not in ("galaxy.yml", "requirements.yml")
)
FLEET = "gpu-1\ngpu-2\n[gateway]\nfront\n[all:vars]\nansible_connection=local\nansible_become=false\n"
NOBODY = "Found no host in the inventory"
OLD = {"ok": True, "status": "healthy", "generated": "2026-01-01T00:00:00+00:00"}
ENTRY = {"host": "gpu-1", "verdict": "ok", "url": "http://192.0.2.1:8000", "release": "abc"}


@dataclass(frozen=True)
class Case:
    playbook: str
    inventory: str | None  # its text; None: the path has a typing error
    arguments: tuple[str, ...]
    message: str


CASES = [
    *(Case(playbook, None, (), NOBODY) for playbook in PLAYBOOKS),
    Case("playbooks/site.yml", "", (), NOBODY),
    Case("playbooks/site.yml", None, ("--limit", "gpu-1"), NOBODY),
    Case("playbooks/site.yml", None, ("--check",), NOBODY),
    Case("playbooks/site.yml", FLEET, ("-i", "hosts2"), "Found no inventory at "),
    Case("playbooks/site.yml", None, ("--tags", "tools"), NOBODY),
    Case(
        "playbooks/site.yml", FLEET, ("-e", "vicuna_hosts=nosuch"), "Found no host that matches vicuna_hosts 'nosuch'"
    ),
    Case(
        "playbooks/finetune.yml",
        FLEET,
        ("-e", "finetune_host=gpu-l"),
        "Found no host that matches finetune_host 'gpu-l'",
    ),
    Case("playbooks/rollback.yml", FLEET, ("--limit", "front"), "Found no host that serves within --limit front"),
    Case("playbooks/rollout.yml", "[gateway]\nfront\n", (), "Found gateways alone in the inventory"),
    Case("playbooks/status.yml", "[gateway]\nfront\n", (), "Found gateways alone in the inventory"),
]
# What stands in the head of a play. No model is set, so that nothing is done; a gateway would be set up here.
HEADS = """gpu-1
gpu-2
gpu-3
[all:vars]
ansible_connection=local
ansible_become=false
vicuna_hosts=gpu-2:gpu-3
vicuna_serial=1
"""
LISTS = [("site.yml", "--syntax-check"), ("status.yml", "--list-hosts"), ("finetune.yml", "--list-tasks")]


class Run:
    def __init__(self, folder: Path, playbook: str, inventory: str | None, arguments: tuple[str, ...]) -> None:
        self.reports = folder / "reports"
        self.reports.mkdir(parents=True)
        for name, content in (
            ("chat_completion", {"endpoints": [ENTRY]}),
            ("status", {"hosts": [ENTRY]}),
            ("preflight", {}),
        ):
            (self.reports / f"{name}.json").write_text(json.dumps({**OLD, **content}))
        if inventory is not None:
            (folder / "hosts").write_text(inventory)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "VICUNA_"))
        }
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts", str(ROOT / playbook), *arguments],
            cwd=folder,
            env={
                **environment,
                "PWD": str(folder),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT),
                "ANSIBLE_CALLBACKS_ENABLED": "vicuna.fleet.chat_completion",
                "ANSIBLE_HOME": str(folder),
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        self.code, self.out, self.said = done.returncode, done.stdout, " ".join((done.stdout + done.stderr).split())

    def report(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.reports / f"{name}.json").read_text())
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Case | tuple[str, str], Run]:
    with ThreadPoolExecutor(max_workers=3) as pool:
        folder = tmp_path_factory.mktemp("runs")
        asked: dict[Any, Any] = {
            case: pool.submit(Run, folder / str(number), case.playbook, case.inventory, case.arguments)
            for number, case in enumerate(CASES)
        }
        for name, option in LISTS:
            asked[name, option] = pool.submit(Run, folder / name, f"playbooks/{name}", None, (option,))
        asked[HEADS] = pool.submit(Run, folder / "heads", "playbooks/site.yml", HEADS, ())
        return {case: run.result() for case, run in asked.items()}


def test_every_playbook_is_here() -> None:
    assert {"site.yml", "playbooks/site.yml", "playbooks/verify_model.yml", "playbooks/drain.yml"} <= set(PLAYBOOKS)
    assert len(PLAYBOOKS) == 1 + len(list((ROOT / "playbooks").glob("*.yml")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.playbook} {' '.join(case.arguments)}")
def test_it_fails_with_one_sentence_and_does_nothing(runs: dict[Case, Run], case: Case) -> None:
    run = runs[case]
    assert run.code != 0
    assert run.said.count(case.message) == 1
    assert ". Expected " in run.said and any(word in run.said for word in (". Correct ", ". Add one "))
    assert "TASK" not in run.out


@pytest.mark.parametrize("listing", LISTS)
def test_what_does_nothing_anyway_is_not_refused(runs: dict[Any, Run], listing: tuple[str, str]) -> None:
    assert runs[listing].code == 0
    assert runs[listing].report("chat_completion")["ok"] is True


WRITES = {"site.yml": {"chat_completion", "preflight"}, "rollout.yml": {"chat_completion", "preflight"}}
WRITES |= {
    "rollback.yml": {"chat_completion"},
    "status.yml": {"status"},
    "preflight.yml": {"preflight"},
    "fetch.yml": {"preflight"},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.playbook} {' '.join(case.arguments)}")
def test_no_report_of_an_earlier_run_stays_in_its_place(runs: dict[Case, Run], case: Case) -> None:
    writes = WRITES.get(Path(case.playbook).name, set()) - (
        {"chat_completion"} if "--check" in case.arguments else set()
    )
    for name in ("chat_completion", "preflight", "status"):
        report = runs[case].report(name)
        if name not in writes:
            assert report.get("error") is None and report["generated"] == OLD["generated"]
            continue
        assert report["error"].startswith(case.message)
        assert report["generated"] > OLD["generated"]
        assert report["status"] == "down" if name == "status" else report["ok"] is False
        if name != "preflight":
            # What the next report is compared with.
            assert report["earlier"] == [ENTRY]
    if "status" in writes:
        assert case.message in (runs[case].reports / "status.html").read_text()


def test_the_head_of_a_play_follows_the_inventory(runs: dict[Any, Run]) -> None:
    """Of the hosts that vicuna_hosts names, the first fails alone, as vicuna_serial is 1."""
    assert runs[HEADS].code == 2
    recap = runs[HEADS].out.partition("PLAY RECAP")[2]
    assert [line.split()[0] for line in recap.splitlines()[1:] if line] == ["gpu-2"]


def test_a_deployment_that_fails_at_its_beginning_replaces_the_report(runs: dict[Any, Run]) -> None:
    report = runs[HEADS].report("chat_completion")
    assert (report["ok"], report["failed_hosts"], report["endpoints"]) == (False, ["gpu-2"], [])
    assert report["error"].startswith("no endpoint was deployed")
    assert report["earlier"] == [ENTRY]
