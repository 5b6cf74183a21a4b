# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's argument_specs, its defaults and the variables that are used or set agree.

ansible-core does not tell: it neither applies a spec's defaults nor notices a variable that no spec knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import tree
from jinja2 import nodes

TYPES: dict[str, Any] = {
    "str": str,
    "path": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
    "raw": object,
}
# Keys whose value is an expression without braces.
EXPRESSIONS = {"when", "that", "until", "failed_when", "changed_when", "var"}
JINJA = jinja2.Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])


def options_of(role: Path) -> dict[str, dict[str, Any]]:
    """The options of every entry point together."""
    path = role / "meta" / "argument_specs.yml"
    specs = tree.load(path)["argument_specs"] if path.exists() else {}
    return {name: option for point in specs.values() for name, option in (point.get("options") or {}).items()}


def defaults_of(role: Path) -> dict[str, Any]:
    path = role / "defaults" / "main.yml"
    return (tree.load(path) if path.exists() else None) or {}


def same(one: Any, other: Any) -> bool:
    """Equal in value and in type, all the way down: 1 is neither true nor "1"."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other))
    return bool(one == other)


def is_template(value: Any) -> bool:
    """What it becomes is known in a run only."""
    return isinstance(value, str) and "{{" in value


def is_type(value: Any, name: str) -> bool:
    # null leaves a choice open; ansible-core takes it for a variable that is not given.
    if value is None or is_template(value):
        return True
    return isinstance(value, TYPES[name]) and (name in ("bool", "raw") or not isinstance(value, bool))


def spec_problems(root: Path) -> Iterator[str]:
    for role in tree.roles(root):
        options, defaults, prefix = options_of(role), defaults_of(role), f"{role.name}_"
        for name in options.keys() | defaults.keys():
            where = f"{role.name}: {name}"
            if not name.startswith(prefix):
                yield f"{where} does not begin with {prefix}"
            if name not in options:
                yield f"{where} is in defaults/main.yml and not in meta/argument_specs.yml"
                continue
            option = options[name]
            yield from (f"{where} has no {key}" for key in ("type", "description") if not option.get(key))
            if option.get("required"):
                if name in defaults or "default" in option:
                    yield f"{where} is required and has a default"
            elif name not in defaults:
                yield f"{where} is not required and has no default in defaults/main.yml"
            elif "default" not in option:
                yield f"{where} has a default in defaults/main.yml and none in meta/argument_specs.yml"
            elif not same(option["default"], defaults[name]):
                yield f"{where} is {defaults[name]!r} in defaults and {option['default']!r} in the specs"
            elif not is_type(defaults[name], option.get("type", "str")):
                yield f"{where} is of type {option['type']}, and its default is {defaults[name]!r}"
            elif option.get("choices") and not is_template(defaults[name]) and defaults[name] not in option["choices"]:
                yield f"{where} defaults to {defaults[name]!r}, which is none of its choices"


def comment_problems(root: Path) -> Iterator[str]:
    for role in tree.roles(root):
        path = role / "defaults" / "main.yml"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        commented = False
        for line in lines:
            # One comment may speak for several variables that stand close together.
            commented = bool(line.strip()) and (commented or line.startswith("#"))
            found = re.match(r"([a-z_0-9]+):", line)
            if found and not commented:
                yield f"{role.name}: {found[1]} has no comment above it in defaults/main.yml"


def names_in(source: str, expression: bool = False) -> set[str]:
    """The variables that a template, or a bare expression, reads."""
    if not expression and "{{" not in source and "{%" not in source:
        return set()
    parsed = JINJA.parse("{{ " + source + " }}" if expression else source)
    names = list(parsed.find_all(nodes.Name))
    return {name.name for name in names if name.ctx == "load"} - {name.name for name in names if name.ctx != "load"}


def names_read(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from names_read(item, str(inner).rsplit(".", 1)[-1])
    elif isinstance(value, list):
        for item in value:
            yield from names_read(item, key)
    elif isinstance(value, str) and not isinstance(value, tree.NoTemplate):
        yield from names_in(value, expression=key in EXPRESSIONS and "{{" not in value)


def names_set(path: Path) -> Iterator[str]:
    """What the tasks of a file define by themselves: facts, registered results, vars, loop variables."""
    for task in tree.tasks_in(path):
        yield from task.get("vars") or {}
        for result in tree.listed(task.get("register")):
            yield from [result] if isinstance(result, str) else result
        yield from (value for key, value in (task.get("loop_control") or {}).items() if key.endswith("_var"))
        for module in ("ansible.builtin.set_fact", "set_fact"):
            yield from (task.get(module) or {})


def reads_of(role: Path) -> Iterator[tuple[Path, set[str]]]:
    for path in tree.role_files(role, "tasks", "handlers", "vars", "defaults"):
        yield path, set(names_read(tree.load(path)))
    for path in sorted((role / "templates").rglob("*.j2")):
        yield path, names_in(path.read_text(encoding="utf-8"))


def usage_problems(root: Path) -> Iterator[str]:
    roles = tree.roles(root)
    known = {role.name: options_of(role).keys() | defaults_of(role).keys() for role in roles}
    made = {role.name: {n for path in tree.role_files(role, "tasks") for n in names_set(path)} for role in roles}
    everywhere = set().union(*known.values(), *made.values())
    # Another role may take it as its default: the role image builds as the role fastchat is told.
    passed_on = {name for role in roles for name in names_read(defaults_of(role))}
    for role in roles:
        used: set[str] = set()
        for path, names in reads_of(role):
            used |= names
            for name in sorted(names - everywhere):
                owner = next((r for r in known if name.startswith(f"{r}_")), None)
                if owner:
                    yield f"{tree.short(root, path)} reads {name}, which role {owner} does not have"
        for name in sorted(known[role.name] - used - passed_on):
            yield f"{role.name}: {name} is offered and nothing in the role reads it"


def assigned(root: Path) -> Iterator[tuple[Path, str]]:
    """The variables that playbooks, inventories and scenarios set."""
    for path in tree.playbooks(root):
        for play in tree.load(path):
            given = [play, *(item for item in play.get("roles") or [] if isinstance(item, dict)), *tree.tasks_in(path)]
            for item in given:
                yield from ((path, name) for name in item.get("vars") or {})
    for path in sorted([*root.glob("inventories/**/*.yml"), *root.glob("molecule/**/inventory/**/*.yml")]):
        yield from ((path, name) for name in _keys(tree.load(path)))


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            if key in ("all", "children", "hosts", "vars") or (isinstance(item, dict) and item.keys() & _GROUP):
                yield from _keys(item)
            elif isinstance(item, dict):
                yield from map(str, item)


_GROUP = {"children", "hosts", "vars"}


def assignment_problems(root: Path) -> Iterator[str]:
    known = {role.name: options_of(role).keys() for role in tree.roles(root)}
    for path, name in assigned(root):
        owner = next((role for role in known if name.startswith(f"{role}_")), None)
        if owner and not any(name in options for options in known.values()):
            yield f"{tree.short(root, path)} sets {name}, which role {owner} does not have"


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # a regex in a Jinja string
@pytest.mark.parametrize("contract", [spec_problems, comment_problems, usage_problems, assignment_problems])
def test_variables_agree(contract: Callable[[Path], Iterator[str]]) -> None:
    tree.check(contract(tree.ROOT))


def test_there_are_roles() -> None:
    assert tree.roles(tree.ROOT)


SPECS = "roles/lamp/meta/argument_specs.yml"
DEFAULTS = "roles/lamp/defaults/main.yml"
TASKS = "roles/lamp/tasks/preflight.yml"
BREAKS = [
    ("", "", "", None),
    (DEFAULTS, "hall", "attic", "lamp_room is 'attic' in defaults and 'hall' in the specs"),
    (DEFAULTS, ": 2", ': "2"', "lamp_count is '2' in defaults and 2 in the specs"),
    (DEFAULTS, ": 2", ": 2.0", "lamp_count is 2.0 in defaults"),
    (DEFAULTS, "# How often.\nlamp_count: 2\n", "", "lamp_count is not required and has no default"),
    (DEFAULTS, "# How often.\n", "", None),
    (DEFAULTS, "# How often.\n", "\n", "lamp_count has no comment"),
    (DEFAULTS, "# How often.\n", "# Whose it is.\nlamp_owner: me\n# How often.\n", "lamp_owner is required and has"),
    (DEFAULTS, "# How often.\n", "# New.\nlamp_new: 1\n# How often.\n", "lamp_new is in defaults/main.yml and not"),
    (DEFAULTS, "# How often.\n", "# New.\nshade: 1\n# How often.\n", "shade does not begin with lamp_"),
    (SPECS, "        default: 2\n", "", "lamp_count has a default in defaults/main.yml and none in"),
    (SPECS, "type: int", "type: bool", "lamp_count is of type bool"),
    (SPECS, "        default: hall\n", "        default: hall\n        choices: [attic]\n", "none of its choices"),
    (SPECS, "        description: How often.\n", "", "lamp_count has no description"),
    (TASKS, "lamp_room", "lamp_rom", "tasks/preflight.yml reads lamp_rom, which role lamp does not have"),
    (TASKS, "lamp_room", "true or __lamp_x", "lamp_room is offered and nothing in the role reads it"),
    ("roles/lamp/templates/lamp.conf.j2", "lamp_count", "lamp_cont", "lamp.conf.j2 reads lamp_cont"),
    ("playbooks/a.yml", "", "- hosts: all\n  vars: {lamp_rom: x}\n", "playbooks/a.yml sets lamp_rom"),
    ("playbooks/a.yml", "", "- hosts: all\n  roles: [{role: lamp, vars: {lamp_rom: x}}]\n", "sets lamp_rom"),
    ("playbooks/a.yml", "", "- hosts: all\n  tasks: [{include_role: {}, vars: {lamp_rom: x}}]\n", "sets lamp_rom"),
    ("inventories/a/group_vars/all/lamp.yml", "", "lamp_rom: x\n", "group_vars/all/lamp.yml sets lamp_rom"),
    ("inventories/a/hosts.yml", "", "all: {hosts: {h1: {lamp_rom: x}}}\n", "hosts.yml sets lamp_rom"),
    ("inventories/a/hosts.yml", "", "all: {children: {g: {vars: {lamp_rom: x}}}}\n", "hosts.yml sets lamp_rom"),
]


@pytest.mark.parametrize(("path", "old", "new", "found"), BREAKS)
def test_a_disagreement_is_found(broken: Callable[..., Path], path: str, old: str, new: str, found: str | None) -> None:
    root = broken(path, old, new)
    problems = [
        problem
        for contract in (spec_problems, comment_problems, usage_problems, assignment_problems)
        for problem in contract(root)
    ]
    if found is None:
        assert problems == []
    else:
        assert any(found in problem for problem in problems), problems
