# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: setting
author: The vicuna.fleet authors
version_added: 0.1.0
short_description: A variable of the inventory for a keyword of a play
description:
  - Ansible evaluates C(serial), C(hosts) and the other keywords of a play without any host, so that a variable of the
    inventory has no effect there. This lookup finds it, where all hosts that have it agree on its value.
  - What is given by C(-e), or set in the play, goes before the inventory. The inventory is known from the second play
    of a run on.
options:
  _terms:
    description: The variable's name.
    type: str
    required: true
  default:
    description: What holds where no host has the variable.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Update the hosts in batches
  hosts: gpu
  serial: "{{ lookup('vicuna.fleet.setting', 'rollout_batch', default='25%') }}"
  tasks: []
"""

RETURN = r"""
_raw:
  description: The value.
  type: raw
"""

from typing import Any

from ansible.plugins.lookup import LookupBase

from ansible_collections.vicuna.fleet.plugins.plugin_utils._run import setting


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        return [setting(term, variables or {}, self._templar.template, kwargs["default"]) for term in terms]
