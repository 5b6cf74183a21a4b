# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every playbook can be run from the installed collection, by its fully qualified name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tree


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
