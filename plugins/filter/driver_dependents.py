# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: driver_dependents
short_description: Packages that would go with NVIDIA's driver and are no part of it
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Of what C(apt-get --simulate remove) would remove, keeps what is no part of a driver.
positional: _input
options:
  _input:
    description: What C(apt-get --simulate remove) printed.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Tell what needs the driver
  ansible.builtin.debug:
    msg: "{{ simulated.stdout | vicuna.fleet.driver_dependents }}"
"""

RETURN = r"""
_value:
  description: The packages, by name.
  type: list
  elements: str
  sample: [nvidia-cuda-toolkit]
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_driver import dependents


class FilterModule:
    """Filters of the collection for NVIDIA's driver."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"driver_dependents": dependents}
