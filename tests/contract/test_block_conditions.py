# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No task changes the condition of the block that it is in.

Ansible evaluates a block's `when` anew for each of its tasks, those of rescue and always too: what comes after the
change is skipped, such as the task that puts a host back into the gateways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tree

SET_FACT = "ansible.builtin.set_fact"


def condition_problems(root: Path) -> Iterator[str]:
    for path in sorted([*root.glob("playbooks/**/*.yml"), *root.glob("roles/*/tasks/**/*.yml")]):
        for block in tree.tasks_in(path):
            for name in set_within(block) if "block" in block else []:
                if re.search(rf"\b{re.escape(name)}\b", str(block.get("when", ""))):
                    where = f"{tree.short(root, path)}: a task of the block {block.get('name')!r}"
                    yield f"{where} sets {name}, which its when reads"


def set_within(block: dict[str, Any]) -> list[str]:
    """The facts and the results that the tasks of a block set."""
    tasks = [task for section in tree.BLOCKS for task in tree.flat(block.get(section))]
    facts = {name for task in tasks for name in task.get(SET_FACT) or {} if name != "cacheable"}
    return sorted(facts | {str(task["register"]) for task in tasks if "register" in task})


def test_no_block_changes_its_own_condition() -> None:
    tree.check(condition_problems(tree.ROOT))


def test_a_change_is_found(tmp_path: Path) -> None:
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "a.yml").write_text(
        "- name: Mend\n  when: ill and answer.failed\n  block:\n"
        "    - ansible.builtin.command: mend\n      register: answer\n"
        "  rescue:\n    - ansible.builtin.set_fact: {ill: false, illness: none}\n"
        "- name: Look\n  when: well\n  block:\n    - ansible.builtin.set_fact: {ill: true}\n"
    )
    assert [problem.split(" sets ")[1] for problem in condition_problems(tmp_path)] == [
        "answer, which its when reads",
        "ill, which its when reads",
    ]
