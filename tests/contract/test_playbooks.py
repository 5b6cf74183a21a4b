# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every playbook can be run from the installed collection, by its fully qualified name, and says for whom it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tree

# What Ansible evaluates without a host; the lookups find there what the inventory sets.
HEAD = ("hosts", "serial", "max_fail_percentage", "become", "gather_facts", "gather_subset", "strategy", "timeout")
READS = re.compile(r"\b(?:vicuna|rollout|drain|status|finetune|teardown)_[a-z_]+")


def playbook_problems(root: Path) -> Iterator[str]:
    """Ansible takes a name of three parts for a playbook only where each part is an identifier."""
    for path in sorted((root / "playbooks").glob("*.yml")):
        if not path.stem.isidentifier():
            yield f"{tree.short(root, path)} cannot be run as vicuna.fleet.{path.stem}: letters, digits and _ alone"


def test_every_playbook_has_a_name_that_ansible_finds() -> None:
    tree.check(playbook_problems(tree.ROOT))


def test_a_hyphen_is_found(tmp_path: Path) -> None:
    (tmp_path / "playbooks").mkdir()
    for name in ("site.yml", "verify-all.yml"):
        (tmp_path / "playbooks" / name).touch()
    assert [problem.split()[0] for problem in playbook_problems(tmp_path)] == ["playbooks/verify-all.yml"]


def head_problems(root: Path) -> Iterator[str]:
    for path in sorted((root / "playbooks").rglob("*.yml")):
        plays = [play for play in tree.load(path) or [] if "hosts" in play or "ansible.builtin.import_playbook" in play]
        if not plays:
            continue
        where = tree.short(root, path)
        for play in plays:
            yield from (f"{where}: {key} reads {name}" for key in HEAD for name in names_read(play.get(key)))
        if path.parent.name != "playbooks":
            continue
        if plays[0].get("ansible.builtin.import_playbook") != "plays/inventory.yml":
            yield f"{where} does not begin with plays/inventory.yml, so that the heads of its plays miss the inventory"
        if "required=" not in str(plays[1].get("hosts")):
            yield f"{where}: its first play has no required= for fleet_hosts, so that it may end well without a host"


def names_read(value: Any) -> list[str]:
    """The settings that are read as a variable, and not by a lookup, which has their names in quotes."""
    return re.findall(READS, re.sub(r"'[^']*'", "", json.dumps(value))) if value else []


def test_the_head_of_every_play_follows_the_inventory() -> None:
    tree.check(head_problems(tree.ROOT))


def test_a_head_that_misses_the_inventory_is_found(tmp_path: Path) -> None:
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "a.yml").write_text(
        "- hosts: \"{{ vicuna_hosts | default('all') }}\"\n"
        "- hosts: \"{{ query('vicuna.fleet.fleet_hosts', 'serving') }}\"\n"
        "  serial: ['{{ rollout_canary | default(1) }}']\n"
    )
    found = list(head_problems(tmp_path))
    assert found[:2] == ["playbooks/a.yml: hosts reads vicuna_hosts", "playbooks/a.yml: serial reads rollout_canary"]
    assert [problem.split(" ", 1)[1][:12] for problem in found[2:]] == ["does not beg", "its first pl"]
