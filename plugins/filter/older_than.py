# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: older_than
short_description: Whether a version is older than another, whatever package or program wrote it
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Compares releases. Epochs, revisions of packages and marks of pre-releases do not count.
  - A version that names no release, such as C(dev), is not older. An empty text is.
positional: _input, minimum
options:
  _input:
    description: A version, as a program or a package manager writes it.
    type: str
    required: true
  minimum:
    description: The version to compare with.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse an old engine
  ansible.builtin.fail:
    msg: Found an engine before 25.0.
  when: "'5:24.0.7-1~ubuntu.22.04~jammy' | vicuna.fleet.older_than('25.0')"
"""

RETURN = r"""
_value:
  description: Whether it is older.
  type: bool
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._common.version import older


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"older_than": lambda version, minimum: older(str(version), str(minimum))}
