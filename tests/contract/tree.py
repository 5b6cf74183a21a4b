# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a repository's roles and playbooks, for the contract tests.

Each contract is a function that takes a root and returns the list of what is wrong there, so that the tests can
hold it against the repository, and against small broken trees.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = ("block", "rescue", "always")
PLAY_SECTIONS = ("pre_tasks", "tasks", "post_tasks", "handlers")


class NoTemplate(str):
    """A scalar that Ansible never templates: !unsafe or !vault."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads !unsafe and !vault, too."""


def _untagged(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return NoTemplate(loader.construct_scalar(node))


_Loader.add_multi_constructor("!", _untagged)


def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


def roles(root: Path) -> list[Path]:
    return sorted(path for path in (root / "roles").glob("*") if path.is_dir())


def role_files(role: Path, *folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (role / folder).rglob("*.yml"))


def playbooks(root: Path) -> list[Path]:
    """The files that hold plays: a list whose items have hosts or import a playbook."""
    places = [*root.glob("*.yml"), *root.glob("playbooks/**/*.yml"), *root.glob("molecule/**/*.yml")]
    return sorted(path for path in places if any("hosts" in item for item in _items(load(path))))


def _items(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def flat(tasks: Any) -> Iterator[dict[str, Any]]:
    """Every task and every block, in the order of the file; a block before what it holds."""
    for task in _items(tasks):
        yield task
        for section in BLOCKS:
            yield from flat(task.get(section))


def tasks_in(path: Path) -> list[dict[str, Any]]:
    """The tasks of a role's file or of a playbook."""
    content = load(path)
    if any("hosts" in item for item in _items(content)):
        return [task for play in _items(content) for part in PLAY_SECTIONS for task in flat(play.get(part))]
    return list(flat(content))


def task_files(root: Path) -> list[Path]:
    """Every file with tasks: those of roles, and the playbooks."""
    return [path for role in roles(root) for path in role_files(role, "tasks", "handlers")] + playbooks(root)


def short(root: Path, path: Path) -> str:
    return str(path.relative_to(root))


def listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def own_files(root: Path) -> list[Path]:
    """What git tracks or would track; skips the test where there is no git to tell."""
    listing = subprocess.run(
        ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("this is no git checkout, so nothing tells its own files from others")
    return [root / name for name in listing.stdout.splitlines() if (root / name).is_file()]


def check(problems: Iterable[str]) -> None:
    """Fails with every problem on a line of its own."""
    found = sorted(set(problems))
    assert not found, f"{len(found)} to mend:\n" + "\n".join(found)
