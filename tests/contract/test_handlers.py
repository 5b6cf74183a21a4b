# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every `notify` has a handler, every handler is notified. The match is case-sensitive, and lint does not look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tree


def notified_by(tasks: list[dict[str, Any]]) -> list[str]:
    return [str(topic) for task in tasks for topic in tree.listed(task.get("notify"))]


def answers_to(handler: dict[str, Any]) -> list[str]:
    return [str(name) for name in [handler.get("name"), *tree.listed(handler.get("listen"))] if name]


def compare(where: str, notified: list[str], handlers: list[dict[str, Any]]) -> Iterator[str]:
    topics = {topic for handler in handlers for topic in answers_to(handler)}
    for topic in sorted(set(notified) - topics):
        near = [other for other in topics if other.lower() == topic.lower()]
        yield f"{where}: nothing listens to {topic!r}" + (f"; {near[0]!r} differs by case" if near else "")
    for handler in handlers:
        if not set(answers_to(handler)) & set(notified):
            yield f"{where}: nothing notifies the handler {handler.get('name')!r}"
    for name, count in Counter(str(handler.get("name")) for handler in handlers).items():
        if count > 1:
            yield f"{where}: {count} handlers are named {name!r}; only the last is run"


def handler_problems(root: Path) -> Iterator[str]:
    """A role is whole in itself, and so is a playbook: neither counts on another's handlers."""
    for role in tree.roles(root):
        handlers = [task for path in tree.role_files(role, "handlers") for task in tree.tasks_in(path)]
        tasks = [task for path in tree.role_files(role, "tasks") for task in tree.tasks_in(path)]
        yield from compare(f"role {role.name}", notified_by(tasks + handlers), handlers)
    for path in tree.playbooks(root):
        plays = [play for play in tree.load(path) if isinstance(play, dict)]
        handlers = [task for play in plays for task in tree.flat(play.get("handlers"))]
        yield from compare(tree.short(root, path), notified_by(tree.tasks_in(path)), handlers)


def test_every_notify_meets_its_handler() -> None:
    tree.check(handler_problems(tree.ROOT))


NOTIFY = "roles/lamp/tasks/verify.yml"
HANDLERS = "roles/lamp/handlers/main.yml"
SECOND = "---\n- name: Dim the lamp\n  listen: lamp dimmed\n"
BREAKS = [
    ("", "", "", None),
    (NOTIFY, "lamp changed", "Restart the lamp", None),
    (NOTIFY, "notify: lamp changed", "notify: [lamp changed]", None),
    (NOTIFY, "lamp changed", "lamp moved", "nothing listens to 'lamp moved'"),
    (NOTIFY, "lamp changed", "Lamp changed", "'lamp changed' differs by case"),
    (NOTIFY, "  notify: lamp changed\n", "", "nothing notifies the handler 'Restart the lamp'"),
    (HANDLERS, "---\n", SECOND, "nothing notifies the handler 'Dim the lamp'"),
    (HANDLERS, "---\n", "---\n- name: Restart the lamp\n", "2 handlers are named 'Restart the lamp'"),
    (HANDLERS, "    msg: on\n", "    msg: on\n  notify: lamp waits\n", "nothing listens to 'lamp waits'"),
    ("playbooks/a.yml", "", "- hosts: all\n  tasks: [{block: [{notify: lamp changed}]}]\n", "playbooks/a.yml: nothing"),
]


@pytest.mark.parametrize(("path", "old", "new", "found"), BREAKS)
def test_a_miss_is_found(broken: Callable[..., Path], path: str, old: str, new: str, found: str | None) -> None:
    problems = list(handler_problems(broken(path, old, new)))
    if found is None:
        assert problems == []
    else:
        assert any(found in problem for problem in problems), problems
