# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the role docker leaves a host after one look: the condition of its own task, evaluated by Ansible."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[4] / "roles" / "docker"
FACTS = {
    "distribution": "Debian",
    "distribution_version": "13.1",
    "distribution_major_version": "13",
    "architecture": "x86_64",
}
# A host that has everything, as docker_engine_info tells it.
ENGINE: dict[str, Any] = {
    "flavour": "distribution",
    "cli": "/usr/bin/docker",
    "packages": dict.fromkeys(["docker.io", "docker-cli", "docker-compose", "docker-buildx"], "26.1.5"),
    "reachable": True,
    "error": "",
    "version": "26.1.5",
    "compose": "2.26.1",
    "buildx": "0.13.1",
    "swarm": False,
    "group_members": ["ops"],
    "systemd": True,
    "config_error": "",
    "pending": [],
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "as it should be": ({}, {}, True),
    "a user who has access": ({}, {"docker_users": ["ops"]}, True),
    "a user without access": ({}, {"docker_users": ["dev"]}, False),
    "a file that was edited": ({"pending": ["config"]}, {}, False),
    "a certificate that is missing": ({"pending": ["certificates"]}, {}, False),
    "an engine that is older than its file": ({"pending": ["restart"]}, {}, False),
    "a service that is off": ({"pending": ["service"]}, {}, False),
    "no answer": ({"reachable": False, "version": ""}, {}, False),
    "an old engine": ({"version": "24.0.9"}, {}, False),
    "an old Compose": ({"compose": "2.10.0"}, {}, False),
    "no Compose": ({"compose": ""}, {}, False),
    "no Buildx": ({"buildx": ""}, {}, False),
    "a package that is missing": ({"packages": {"docker.io": "26.1.5"}}, {}, False),
    "another source": ({}, {"docker_source": "docker"}, False),
    "the newest is wanted": ({}, {"docker_package_state": "latest"}, False),
    "somebody else's engine": ({"flavour": "other", "packages": {}}, {"docker_source": "present"}, True),
    "a snap": ({"flavour": "snap"}, {"docker_source": "present"}, False),
    "a CA file that cannot be used": ({}, {"docker_ca_certificates": ["/etc/hostname"]}, False),
    "a malformed file": ({"config_error": "line 1"}, {}, False),
}


def last_task() -> dict[str, Any]:
    tasks: list[dict[str, Any]] = DataLoader().load_from_file(
        str(ROLE / "tasks" / "preflight.yml"), trusted_as_template=True
    )
    return next(task for task in tasks if task.get("ansible.builtin.meta") == "end_role")


@pytest.mark.parametrize("name", CASES)
def test_a_host_is_left_alone(name: str) -> None:
    changes, variables, left = CASES[name]
    loader = DataLoader()
    defaults, own = (
        loader.load_from_file(str(ROLE / kind / "main.yml"), trusted_as_template=True) for kind in ("defaults", "vars")
    )
    task = last_task()
    known = {
        "ansible_facts": FACTS,
        "ansible_check_mode": False,
        "docker_source": "distribution",
        "docker_engine_found": {"engine": {**copy.deepcopy(ENGINE), **changes}},
        # What an earlier play of the run has seen says nothing about now.
        "docker_engine_verified": {"engine": ENGINE},
    }
    templar = Templar(loader=loader, variables={**defaults, **known, **variables, **own, **task["vars"]})
    conditions = [templar.template(trust_as_template("{{ " + condition + " }}")) for condition in task["when"]]
    assert all(conditions) is left, dict(zip(task["when"], conditions))
