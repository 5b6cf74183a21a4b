# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory always wins: what it sets reaches every role of every playbook; nothing else sets a role's variable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tree

PROMOTED = "the result goes to the fleet, and the inventory still names the base"
# File, variable: why this file may set it over the inventory.
ALLOWED = {
    ("playbooks/finetune.yml", "model_repo"): PROMOTED,
    ("playbooks/finetune.yml", "model_revision"): PROMOTED,
    ("playbooks/finetune.yml", "model_name"): PROMOTED,
    ("playbooks/finetune.yml", "preflight_model_repo"): PROMOTED,
    ("playbooks/finetune.yml", "preflight_model_revision"): PROMOTED,
    (
        "playbooks/finetune.yml",
        "preflight_model_from",
    ): "the result can be in a folder of the host, which no other machine reaches",
    ("playbooks/finetune.yml", "preflight_cache_dir"): "hosts look at it, and hosts keep no cache",
    ("roles/finetune/tasks/image.yml", "image_build_host"): "the one host that trains is the one that needs the image",
    ("roles/finetune/tasks/image.yml", "image_handover"): "its name holds no registry",
}
# What several roles share, and where it has to arrive.
SHARED: dict[str, Any] = {
    "vicuna_model_repo": "https://hub.test/lmsys/vicuna-9b.git",
    "vicuna_model_revision": "c0ffee",
    "vicuna_model_token": "t0ken",
    "vicuna_model_name": "chat",
    "vicuna_ca_certificates": ["/ca.crt"],
    "model_root": "/srv/models",
    "nvidia_driver_replace": True,
    "fastchat_port": 8123,
    "fastchat_api_keys": ["edge-key"],
    "fastchat_tls_ca": "/edge-ca.pem",
    "fastchat_project_dir": "/srv/vicuna",
    "gateway_port": 9443,
    "gateway_keys": [{"name": "hashed", "sha256": "0"}, {"name": "known", "key": "gateway-key"}],
}
ARRIVES: dict[str, Any] = {
    "docker_ca_certificates": ["/ca.crt"],
    "fastchat_ca_certificates": ["/ca.crt"],
    "fastchat_model_names": ["chat"],
    "fastchat_model_path": "/srv/models/vicuna-9b",
    "fastchat_model_revision": "c0ffee",
    "finetune_base_repo": "https://hub.test/lmsys/vicuna-9b.git",
    "finetune_base_revision": "c0ffee",
    "finetune_base_token": "t0ken",
    "gateway_model_names": ["chat"],
    "gateway_server_ca": "/edge-ca.pem",
    "gateway_server_key": "edge-key",
    "image_ca_certificates": ["/ca.crt"],
    "image_build_dir": "/srv/vicuna/build",
    "model_repo": "https://hub.test/lmsys/vicuna-9b.git",
    "model_revision": "c0ffee",
    "model_token": "t0ken",
    "preflight_model_path": "/srv/models/vicuna-9b",
    "preflight_model_repo": "https://hub.test/lmsys/vicuna-9b.git",
    "preflight_model_revision": "c0ffee",
    "preflight_model_token": "t0ken",
    "preflight_replace_driver": True,
    "verify_url": "http://127.0.0.1:8123",
    "verify_model": "chat",
    "verify_api_key": "edge-key",
    "verify_validate_certs": True,
    "verify_timeout": 900,
    "verify_compose_project": "vicuna",
}
THROUGH_A_GATEWAY: dict[str, Any] = {
    "verify_url": "https://127.0.0.1:9443",
    "verify_api_key": "gateway-key",
    "verify_validate_certs": False,
    "verify_timeout": 60,
    "verify_compose_project": "",
}


def public_variables() -> set[str]:
    paths = [role / "meta" / "argument_specs.yml" for role in tree.roles(tree.ROOT)]
    return {name for path in paths for name in tree.load(path)["argument_specs"]["main"]["options"]}


@pytest.fixture(scope="module")
def answers() -> list[list[dict[str, Any]]]:
    questions = [
        {"variables": {name: f"the inventory's {name}" for name in sorted(public_variables())}, "names": []},
        {"variables": SHARED, "names": sorted(ARRIVES)},
    ]
    program = Path(__file__).with_name("layer.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tree.ROOT)],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def test_what_the_inventory_sets_reaches_every_role_of_every_playbook(answers: list[list[dict[str, Any]]]) -> None:
    tree.check(
        f"{entry['playbook']}, play {entry['play']!r}: {entry['role']} gets {name} from {file}, not from the inventory"
        for entry in answers[0]
        for name, file in entry["set_by"].items()
        if (file, name) not in ALLOWED
    )


def test_every_role_was_looked_at(answers: list[list[dict[str, Any]]]) -> None:
    assert {entry["role"] for entry in answers[0]} == {role.name for role in tree.roles(tree.ROOT)}
    used = {(entry["playbook"], entry["role"]) for entry in answers[0]}
    assert {
        ("verify", "verify"),
        ("rollback", "verify"),
        ("site", "nvidia_driver"),
        ("site", "image"),
        ("fetch", "model"),
    } <= used


def test_what_is_allowed_is_still_needed(answers: list[list[dict[str, Any]]]) -> None:
    assert {(file, name) for entry in answers[0] for name, file in entry["set_by"].items()} == ALLOWED.keys()


def test_what_roles_share_arrives_where_nothing_else_is_said(answers: list[list[dict[str, Any]]]) -> None:
    arrived = set()
    for entry in answers[1]:
        wanted = {**ARRIVES, **(THROUGH_A_GATEWAY if "gateway" in entry["play"] else {})}
        for name, value in entry["values"].items():
            if name not in entry["set_by"] and not (entry["playbook"] == "finetune" and is_promoted(name)):
                assert (entry["playbook"], entry["play"], name, value) == (
                    entry["playbook"],
                    entry["play"],
                    name,
                    wanted[name],
                )
                arrived.add(name)
    assert arrived == ARRIVES.keys()


def is_promoted(name: str) -> bool:
    return ("playbooks/finetune.yml", name) in ALLOWED or name in ("fastchat_model_path", "fastchat_model_revision")


def task_files() -> list[Path]:
    steps = sorted(tree.ROOT.glob("playbooks/**/*.yml"))
    return [*steps, *(path for role in tree.roles(tree.ROOT) for path in tree.role_files(role, "tasks", "handlers"))]


def facts_in(path: Path) -> Iterator[str]:
    """What a file's tasks set for the rest of the run, over the inventory."""
    for task in tree.tasks_in(path):
        for result in tree.listed(task.get("register")):
            yield from [result] if isinstance(result, str) else result
        for module in ("set_fact", "include_vars"):
            yield from (key for name in (module, f"ansible.builtin.{module}") for key in task.get(name) or {})


def test_no_fact_has_the_name_of_a_roles_variable() -> None:
    public = public_variables()
    tree.check(
        f"{tree.short(tree.ROOT, path)} sets {name}"
        for path in task_files()
        for name in facts_in(path)
        if name in public
    )
