# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each role of each playbook gets for its variables, found as Ansible itself finds it, without a run.

A program of its own, as it starts Ansible's plugin loader: layer.py ROOT < QUESTIONS > ANSWERS. QUESTIONS is a list of
{"variables": of the inventory, "names": to be templated}. For each, ANSWERS has one entry for each role of each play:
{"playbook", "play", "role", "set_by": {name: file}, "values": {name: value}}; set_by has what the inventory sets, and
something else overrides.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible import constants as C
from ansible._internal._datatag._tags import Origin
from ansible.errors import AnsibleUndefinedVariable
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.playbook.block import Block
from ansible.playbook.helpers import load_list_of_blocks
from ansible.playbook.play import Play
from ansible.playbook.role_include import IncludeRole
from ansible.playbook.task import Task
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from ansible.vars.manager import VariableManager

COLLECTION = "vicuna.fleet."
HOST = "gpu-1"


class Fleet:
    """An inventory with one serving host and one gateway, and the playbooks run over it."""

    def __init__(self, root: Path, folder: Path, variables: dict[str, Any]) -> None:
        (folder / "group_vars").mkdir()
        (folder / "group_vars" / "all.yml").write_text(yaml.safe_dump(variables), encoding="utf-8")
        (folder / "hosts").write_text(f"{HOST}\n[gateway]\ngateway-1\n", encoding="utf-8")
        self.root, self.folder, self.loader = root, folder, DataLoader()
        self.inventory = InventoryManager(loader=self.loader, sources=[str(folder / "hosts")])
        self.manager = VariableManager(loader=self.loader, inventory=self.inventory, version_info={})
        self.set = variables

    def plays(self) -> Iterator[tuple[str, Play]]:
        for path in sorted((self.root / "playbooks").glob("*.yml")):
            self.loader.set_basedir(str(path.parent))
            for play in Playbook.load(str(path), variable_manager=self.manager, loader=self.loader).get_plays():
                yield path.stem, play

    def tasks(self, play: Play, blocks: list[Any]) -> Iterator[Task]:
        for item in blocks:
            if isinstance(item, Block):
                yield from self.tasks(play, [*item.block, *item.rescue, *item.always])
                continue
            yield item
            if isinstance(item, IncludeRole) and not item.statically_loaded:
                yield from self.tasks(play, item.copy().get_block_list(play, self.manager, self.loader)[0])
            elif item.action in C._ACTION_INCLUDE_TASKS:
                yield from self.tasks(play, self.included(play, item))

    def included(self, play: Play, task: Any) -> list[Block]:
        name = str(task.args.get("file") or task.args.get("_raw_params"))
        if "{{" in name:
            return []  # one file for each system: tasks of the same role
        content = self.loader.load_from_file(str(Path(task.get_path().rpartition(":")[0]).parent / name))
        included = task.copy()
        blocks: list[Block] = load_list_of_blocks(
            content,
            play=play,
            parent_block=included.build_parent_block(),
            role=task._role,
            task_include=included,
            variable_manager=self.manager,
            loader=self.loader,
        )
        return blocks

    def answers(self, public: dict[str, set[str]], names: list[str]) -> Iterator[dict[str, Any]]:
        host = self.inventory.get_host(HOST)
        for playbook, play in self.plays():
            found: dict[str, dict[str, Any]] = {}
            for task in self.tasks(play, play.compile()):
                role = task._role.get_name().removeprefix(COLLECTION) if task._role else ""
                if role not in public:
                    continue
                variables = self.manager.get_vars(play=play, host=host, task=task)
                entry = found.setdefault(
                    role, {"playbook": playbook, "play": play.name, "role": role, "set_by": {}, "values": {}}
                )
                for name in public[role] & self.set.keys():
                    if variables[name] != self.set[name]:
                        entry["set_by"][name] = self.origin(variables[name])
                templar = Templar(loader=self.loader, variables=variables)
                for name in sorted(public[role].intersection(names) - entry["values"].keys()):
                    try:
                        entry["values"][name] = templar.template(variables[name])
                    except AnsibleUndefinedVariable as error:  # what only a run can tell
                        entry["values"][name] = str(error)
            yield from found.values()

    def origin(self, value: Any) -> str:
        path = getattr(Origin.get_tag(value), "path", None)
        # A role's file is found by way of ansible_collections/vicuna/fleet, which leads back to the root.
        return str(Path(path).resolve().relative_to(self.root)) if path else "?"


def public_variables(root: Path) -> dict[str, set[str]]:
    return {
        path.parents[1].name: set(yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"])
        for path in root.glob("roles/*/meta/argument_specs.yml")
    }


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    init_plugin_loader([str(root)])
    answers = []
    for question in json.load(sys.stdin):
        with tempfile.TemporaryDirectory() as folder:
            fleet = Fleet(root, Path(folder), question["variables"])
            answers.append(list(fleet.answers(public_variables(root), question["names"])))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
