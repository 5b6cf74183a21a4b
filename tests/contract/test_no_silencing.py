# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No task hides a failure or a change, and no linter is silenced without a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tree

# What always reports a change, or is skipped in check mode, and may still only ask.
QUERIES = {
    f"{prefix}{name}"
    for prefix in ("", "ansible.builtin.")
    for name in ("command", "shell", "raw", "script", "uri", "expect", "slurp")
} | {"community.docker.docker_container_exec", "community.docker.docker_compose_v2_exec"}
REASON = re.compile(
    r"#\s*(?:noqa:?\s*(?P<rules>[\w\[\]-]+(?:\s*,\s*[\w\[\]-]+)*)?|noqa\b)(?P<reason>[^\n]*)", re.IGNORECASE
)


def is_false(value: Any) -> bool:
    return value is False or (isinstance(value, str) and value.strip().lower() in ("false", "no"))


def reads(task: dict[str, Any], name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", json.dumps(task, default=str)) is not None


def in_check_mode(task: dict[str, Any], tasks: list[dict[str, Any]]) -> bool:
    """Whether a query is asked in check mode, too, or is expressly left out of it; a block may say so for it."""
    around = [block for block in tasks if any(inner is task for inner in tree.flat([block]))]
    return any(
        is_false(item.get("check_mode")) or "not ansible_check_mode" in map(str, tree.listed(item.get("when")))
        for item in around
    )


def task_problems(root: Path) -> Iterator[str]:
    for path in tree.task_files(root):
        tasks = tree.tasks_in(path)
        for index, task in enumerate(tasks):
            where = f"{tree.short(root, path)}: {task.get('name')!r}"
            for key in ("ignore_errors", "ignore_unreachable"):
                if key in task:
                    yield f"{where} has {key}"
            if is_false(task.get("failed_when")):
                result = task.get("register")
                if not isinstance(result, str) or not any(reads(later, result) for later in tasks[index + 1 :]):
                    yield f"{where} has failed_when: false, and no later task of the file reads its result"
            if is_false(task.get("changed_when")) and not (QUERIES & set(task) and in_check_mode(task, tasks)):
                yield f"{where} has changed_when: false and is no query with check_mode: false"


def noqa_problems(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for found in REASON.finditer(line):
                where = f"{tree.short(root, path)}:{number}"
                if not found["rules"]:
                    yield f"{where}: noqa without the rule that it is for"
                elif len(re.findall(r"[A-Za-z]{2,}", found["reason"])) < 2:
                    yield f"{where}: noqa for {found['rules']} without its reason on the line"


def test_no_task_is_silenced() -> None:
    tree.check(task_problems(tree.ROOT))


def test_every_noqa_has_its_reason() -> None:
    linted = {".py", ".yml", ".yaml", ".sh", ".j2"}
    files = [path for path in tree.own_files(tree.ROOT) if path.suffix in linted and path != Path(__file__)]
    tree.check(noqa_problems(tree.ROOT, files))


FILE = "roles/lamp/tasks/install.yml"
QUERY = "- ansible.builtin.command: {cmd: x}\n  register: __lamp_x\n  changed_when: false\n"
UNREAD = "- ansible.builtin.command: {cmd: x}\n  register: __lamp_x\n  failed_when: false\n"
BREAKS = [
    ("", None),
    ("- ansible.builtin.debug: {}\n  ignore_errors: true\n", "has ignore_errors"),
    ("- block:\n    - ansible.builtin.debug: {}\n      ignore_errors: '{{ x }}'\n", "has ignore_errors"),
    (UNREAD, "no later task of the file reads its result"),
    (UNREAD + "- ansible.builtin.debug: {var: __lamp_xy}\n", "no later task of the file reads its result"),
    (UNREAD + "- ansible.builtin.assert: {that: __lamp_x.rc == 0}\n", None),
    (UNREAD + "- block:\n    - ansible.builtin.debug: {}\n      when: __lamp_x is success\n", None),
    (QUERY, "is no query with check_mode: false"),
    (QUERY + "  check_mode: false\n", None),
    (QUERY + "  when: [not ansible_check_mode]\n", None),
    ("- check_mode: false\n  block:\n    - ansible.builtin.command: {cmd: x}\n      changed_when: false\n", None),
    ("- check_mode: false\n  block: []\n" + QUERY, "is no query with check_mode: false"),
    ("- ansible.builtin.file: {path: /x}\n  check_mode: false\n  changed_when: false\n", "is no query"),
]


@pytest.mark.parametrize(("tasks", "found"), BREAKS)
def test_a_silenced_task_is_found(broken: Callable[..., Path], tasks: str, found: str | None) -> None:
    problems = list(task_problems(broken(FILE, "", f"---\n{tasks}")))
    if found is None:
        assert problems == []
    else:
        assert any(found in problem for problem in problems), problems


NOQA = "# " + "noqa"
COMMENTS = [
    (f"x = 1  {NOQA}: S101  only the tests assert\n", None),
    (f"- name: a  {NOQA}: command-instead-of-module, no-handler -- apt cannot say this\n", None),
    (f"- name: a  {NOQA}: name[prefix] the play's own name\n", None),
    (f"x = 1  {NOQA}\n", "without the rule"),
    (f"x = 1  {NOQA}: S101\n", "S101 without its reason"),
    (f"x = 1  {NOQA}: S101, E501\n", "S101, E501 without its reason"),
    (f"x = 1  {NOQA}: S101  ok\n", "S101 without its reason"),
]


@pytest.mark.parametrize(("line", "found"), COMMENTS)
def test_a_noqa_without_reason_is_found(tmp_path: Path, line: str, found: str | None) -> None:
    path = tmp_path / "a.py"
    path.write_text(line)
    problems = list(noqa_problems(tmp_path, [path]))
    if found is None:
        assert problems == []
    else:
        assert any(found in problem for problem in problems), problems
