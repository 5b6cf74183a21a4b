# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tree

# ansible_collections/vicuna/fleet leads from the root to the plugins.
sys.path.insert(0, str(tree.ROOT))

# The smallest role that keeps every contract; the tests break it in one place at a time.
GOOD_ROLE = {
    "README.md": "# lamp\n\n<!-- variables: start -->\n<!-- variables: end -->\n",
    "defaults/main.yml": "---\n# Where it shines.\nlamp_room: hall\n# How often.\nlamp_count: 2\n",
    "vars/main.yml": "---\n{}\n",
    "handlers/main.yml": (
        "---\n- name: Restart the lamp\n  listen: lamp changed\n  ansible.builtin.debug:\n    msg: on\n"
    ),
    "meta/main.yml": "---\ngalaxy_info: {}\n",
    "meta/argument_specs.yml": (
        "---\nargument_specs:\n  main:\n    short_description: A lamp\n    options:\n"
        "      lamp_room:\n        type: str\n        description: Where it shines.\n        default: hall\n"
        "      lamp_count:\n        type: int\n        description: How often.\n        default: 2\n"
        "      lamp_owner:\n        type: str\n        description: Whose it is.\n        required: true\n"
    ),
    "tasks/main.yml": (
        "---\n- name: main | Check the variables\n  ansible.builtin.import_tasks: preflight.yml\n"
        "- name: main | Verify\n  ansible.builtin.import_tasks: verify.yml\n"
    ),
    "tasks/preflight.yml": (
        "---\n- name: preflight | Check the room\n  ansible.builtin.assert:\n    that: lamp_room | length > 0\n"
    ),
    "tasks/verify.yml": (
        "---\n- name: verify | Write the lamp\n  ansible.builtin.template:\n    src: lamp.conf.j2\n"
        "    dest: \"/etc/{{ lamp_owner }}\"\n    mode: '0644'\n  notify: lamp changed\n"
    ),
    "templates/lamp.conf.j2": "{{ ansible_managed | comment }}\ncount = {{ lamp_count }}\n",
}


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Path]:
    """Makes a repository with the role `lamp` and one change; returns its root."""

    def make(path: str = "", old: str = "", new: str = "", **_unused: str) -> Path:
        for name, text in GOOD_ROLE.items():
            target = tmp_path / "roles" / "lamp" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        if path:
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if old:
                text = target.read_text(encoding="utf-8")
                assert old in text, f"{path} does not hold {old!r}: the test is out of date"
                target.write_text(text.replace(old, new, 1), encoding="utf-8")
            else:
                target.write_text(new, encoding="utf-8")
        return tmp_path

    return make
