# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-doc shows every plugin, and what it shows is what the plugin takes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tree
import yaml

KINDS = {"modules": "module", "callback": "callback", "filter": "filter", "test": "test", "lookup": "lookup"}
PLUGINS = [
    (kind, path.stem)
    for folder, kind in KINDS.items()
    for path in sorted((tree.ROOT / "plugins" / folder).glob("*.py"))
    if not path.stem.startswith("_")
]
MODULES = [name for kind, name in PLUGINS if kind == "module"]
COMPARED = {"type": "str", "required": False, "default": None, "choices": None, "elements": None, "aliases": []}


def ansible_doc(kind: str, names: list[str]) -> tuple[dict[str, Any], str]:
    """ansible-doc's pages by short name, or none and what it said: one plugin that it cannot read ends it."""
    command = Path(sys.executable).with_name("ansible-doc")
    done = subprocess.run(
        [
            str(command) if command.exists() else "ansible-doc",
            *("-t", kind, "--json"),
            *(f"vicuna.fleet.{name}" for name in names),
        ],
        cwd=tree.ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(tree.ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    return {name.rsplit(".", 1)[-1]: entry for name, entry in found.items()}, done.stderr


@cache
def pages(kind: str) -> dict[str, Any]:
    """The page of every plugin of one kind; for one without a page, the error as text."""
    names = [name for plugin, name in PLUGINS if plugin == kind]
    together, _error = ansible_doc(kind, names)
    if together:
        return together
    alone = {name: ansible_doc(kind, [name]) for name in names}
    return {name: found.get(name, error) for name, (found, error) in alone.items()}


def page(kind: str, name: str) -> dict[str, Any]:
    entry = pages(kind)[name]
    if isinstance(entry, str):
        pytest.fail(entry.strip(), pytrace=False)
    return dict(entry)


class _Asked(Exception):
    """Ends a module's main() where it has said which arguments it takes."""


def arguments_of(name: str) -> dict[str, Any]:
    """The keywords with which a module's main() makes its AnsibleModule."""
    module = importlib.import_module(f"ansible_collections.vicuna.fleet.plugins.modules.{name}")
    with mock.patch.object(module, "AnsibleModule", side_effect=_Asked) as made, pytest.raises(_Asked):
        module.main()
    return dict(made.call_args.kwargs)


def argument_problems(documented: dict[str, Any], taken: dict[str, Any], where: str) -> Iterator[str]:
    for name in sorted(documented.keys() ^ taken.keys()):
        yield f"{where}{name} is only in the {'DOCUMENTATION' if name in documented else 'argument_spec'}"
    for name in sorted(documented.keys() & taken.keys()):
        for key, usual in COMPARED.items():
            said, does = documented[name].get(key, usual), taken[name].get(key, usual)
            if said != does or type(said) is not type(does):
                yield f"{where}{name}: {key} is documented as {said!r} and is {does!r}"
        inner = documented[name].get("suboptions") or {}, taken[name].get("options") or {}
        yield from argument_problems(*inner, where=f"{where}{name}.")


def test_there_are_plugins() -> None:
    assert ("module", "chat_completion") in PLUGINS
    assert ("callback", "chat_completion") in PLUGINS


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_ansible_doc_shows_it(kind: str, name: str) -> None:
    entry = page(kind, name)
    documentation = entry["doc"]
    assert documentation["short_description"].strip()
    assert documentation["description"]
    assert documentation["author"]
    for option, content in (documentation.get("options") or {}).items():
        assert content.get("description"), f"{option} has no description"
        assert content.get("type"), f"{option} has no type"


@pytest.mark.parametrize(
    ("kind", "name"), [plugin for plugin in PLUGINS if plugin[0] in ("module", "filter", "lookup")]
)
def test_its_examples_are_tasks(kind: str, name: str) -> None:
    examples = yaml.safe_load(page(kind, name)["examples"])
    assert isinstance(examples, list) and examples
    used = {key for task in examples for inner in tree.flat([task]) for key in inner}
    if kind == "module":
        assert f"vicuna.fleet.{name}" in used, "no example calls the module by its full name"


@pytest.mark.parametrize("name", MODULES)
def test_it_documents_what_it_returns(name: str) -> None:
    returned = page("module", name)["return"]
    assert returned
    for key, content in returned.items():
        assert {"description", "returned", "type"} <= content.keys(), f"{key} lacks description, returned or type"


@pytest.mark.parametrize("name", MODULES)
def test_it_documents_what_it_takes(name: str) -> None:
    documentation, taken = page("module", name)["doc"], arguments_of(name)
    tree.check(argument_problems(documentation.get("options") or {}, taken.get("argument_spec") or {}, ""))
    attributes = documentation["attributes"]
    assert {"check_mode", "diff_mode", "idempotent"} <= attributes.keys()
    supported = attributes["check_mode"]["support"]
    assert (supported in ("full", "partial")) == bool(taken.get("supports_check_mode"))


def test_a_difference_is_found() -> None:
    taken: dict[str, Any] = {"url": {"required": True}, "count": {"type": "int", "default": 2}, "new": {}}
    taken["list"] = {"type": "list", "elements": "dict", "options": {"a": {}, "b": {"choices": [1]}}}
    documented: dict[str, Any] = {
        "url": {"type": "str"},
        "count": {"type": "int", "default": 2.0},
        "old": {"type": "str"},
        "list": {"type": "list", "elements": "dict", "suboptions": {"a": {"type": "bool"}, "b": {"type": "str"}}},
    }
    assert sorted(argument_problems(documented, taken, "")) == [
        "count: default is documented as 2.0 and is 2",
        "list.a: type is documented as 'bool' and is 'str'",
        "list.b: choices is documented as None and is [1]",
        "new is only in the argument_spec",
        "old is only in the DOCUMENTATION",
        "url: required is documented as False and is True",
    ]
    assert list(argument_problems({"url": {"type": "str"}}, {"url": {}}, "")) == []
