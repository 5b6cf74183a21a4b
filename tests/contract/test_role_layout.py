# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has read one role has read them all: the same files, each with one purpose; templates say what they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tree

FILES = (
    "README.md",
    "defaults/main.yml",
    "handlers/main.yml",
    "meta/argument_specs.yml",
    "meta/main.yml",
    "tasks/main.yml",
    "tasks/preflight.yml",
    "tasks/verify.yml",
    "vars/main.yml",
)
LONGEST = 80
IMPORTS = {f"ansible.builtin.{kind}_tasks" for kind in ("import", "include")}
BESIDE_IMPORTS = {"name", "when", "vars", "loop", "loop_control"}
# What has to be a file's first line stands before the mark: a shebang, a Dockerfile's syntax, Jinja's own options.
# JSON knows no comments, so no mark is asked of it.
FIRST_LINES = re.compile(r"(?:#!|# syntax=|#jinja2:|\{#-? ?jinja2:)")
MANAGED = re.compile(r"\{\{-? ansible_managed \| comment(?:\([^{}]*\))? -?\}\}$")
DATES = re.compile(r"ansible_date_time|\bdate_time\b|\bnow\(|strftime")


def layout_problems(root: Path) -> Iterator[str]:
    for role in tree.roles(root):
        for name in FILES:
            if not (role / name).is_file():
                yield f"{role.name} has no {name}"
        for path in tree.role_files(role, "tasks", "handlers"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > LONGEST:
                yield f"{tree.short(root, path)} has {lines} lines: part it, {LONGEST} at most"


def contents_problems(root: Path) -> Iterator[str]:
    for role in tree.roles(root):
        path = role / "tasks" / "main.yml"
        for task in tree.load(path) if path.is_file() else []:
            keys = set(task) - BESIDE_IMPORTS
            if len(keys) != 1 or not keys <= IMPORTS:
                yield f"{tree.short(root, path)}: {task.get('name')!r} is no plain import: {', '.join(sorted(keys))}"


def template_problems(root: Path) -> Iterator[str]:
    for role in tree.roles(root):
        for path in sorted(path for path in (role / "templates").rglob("*") if path.is_file()):
            where = tree.short(root, path)
            if path.suffix != ".j2":
                yield f"{where} does not end in .j2"
            text = path.read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if not FIRST_LINES.match(line)]
            if path.suffixes[-2:-1] != [".json"] and not (lines and MANAGED.match(lines[0])):
                yield f"{where} does not begin with {{{{ ansible_managed | comment }}}}"
            if DATES.search(text):
                yield f"{where} holds a date: it would change at every run"


@pytest.mark.parametrize("contract", [layout_problems, contents_problems, template_problems])
def test_roles_look_alike(contract: Callable[[Path], Iterator[str]]) -> None:
    tree.check(contract(tree.ROOT))


MAIN = "roles/lamp/tasks/main.yml"
TEMPLATE = "roles/lamp/templates/lamp.conf.j2"
BREAKS = [
    ("", "", "", None),
    (TEMPLATE, "{{ ans", "#!/bin/sh\n{{ ans", None),
    (TEMPLATE, "comment }}", "comment('c') }}", None),
    (TEMPLATE, "comment }}", "comment(prefix='<!--', postfix='-->') }}", None),
    (TEMPLATE, "{{ ansible_managed | comment }}\n", "", "does not begin with"),
    (TEMPLATE, "{{ ans", "\n{{ ans", "does not begin with"),
    (TEMPLATE, "count =", "{{ now() }} =", "holds a date"),
    ("roles/lamp/templates/lamp.json.j2", "", "{}\n", None),
    ("roles/lamp/templates/lamp.conf", "", "{{ ansible_managed | comment }}\n", "does not end in .j2"),
    (MAIN, "import_tasks: preflight.yml", "debug: {}", "'main | Check the variables' is no plain import"),
    (MAIN, "import_tasks: preflight.yml", "import_tasks: preflight.yml\n  tags: [x]", "is no plain import"),
    (MAIN, "import_tasks: preflight.yml", "import_tasks: preflight.yml\n  when: lamp_room == 'x'", None),
    ("roles/lamp/tasks/long.yml", "", "---\n" + "# more\n" * 80, "tasks/long.yml has 81 lines"),
    ("roles/torch/tasks/verify.yml", "", "---\n[]\n", "torch has no tasks/preflight.yml"),
]


@pytest.mark.parametrize(("path", "old", "new", "found"), BREAKS)
def test_another_look_is_found(broken: Callable[..., Path], path: str, old: str, new: str, found: str | None) -> None:
    root = broken(path, old, new)
    problems = [*layout_problems(root), *contents_problems(root), *template_problems(root)]
    if found is None:
        assert problems == []
    else:
        assert any(found in problem for problem in problems), problems


@pytest.mark.parametrize("name", FILES)
def test_each_missing_file_is_found(broken: Callable[..., Path], name: str) -> None:
    root = broken()
    (root / "roles" / "lamp" / name).unlink()
    assert f"lamp has no {name}" in list(layout_problems(root))
