# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: model_sharers
short_description: Hosts of a play that can give each other a model's large files
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Of the hosts that have looked at their model already, keeps those that have an address for the others and are to
    hold the same commit of the same repository.
positional: _input
options:
  _input:
    description: Names of the hosts of the play.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
  looked:
    description:
      - Name of the variable that holds what the module M(vicuna.fleet.git_lfs) has returned with
        O(vicuna.fleet.git_lfs#module:fetch=false).
    type: str
    required: true
  port:
    description: Port of a host that names none.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: List the hosts that share what they fetch
  ansible.builtin.set_fact:
    sharers: "{{ ansible_play_batch | vicuna.fleet.model_sharers(hostvars, 'look', 15111) }}"
"""

RETURN = r"""
_value:
  description:
    - The hosts by C(repository@commit), each with C(name), C(address), C(port) and C(whole), which tells whether it has
      everything.
    - Only where there are two or more, and one of them lacks something.
  type: dict
  sample:
    https://huggingface.co/lmsys/vicuna-7b-v1.5@3321f76e3f527bd14065daf69dad9344000a201d:
      - {name: gpu-1, address: 192.0.2.1, port: 15111, whole: false}
      - {name: gpu-2, address: 192.0.2.2, port: 15111, whole: true}
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Hosts = dict[str, list[dict[str, Any]]]


def model_sharers(names: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], looked: str, port: int) -> Hosts:
    """The hosts that can share, by what they are to hold."""
    found: Hosts = {}
    for name in names:
        variables = hostvars[name]
        look = variables.get(looked)
        address = str(variables.get("model_peer_address") or "")
        if not address or not isinstance(look, Mapping) or not look.get("revision") or "missing_bytes" not in look:
            continue
        found.setdefault(f"{look.get('repo', '')}@{look['revision']}", []).append(
            {
                "name": name,
                "address": address,
                "port": int(variables.get("model_peer_port") or port),
                "whole": look["missing_bytes"] == 0,
            }
        )
    return {what: hosts for what, hosts in found.items() if len(hosts) > 1 and not all(host["whole"] for host in hosts)}


class FilterModule:
    """Filters of the collection for the hosts of a play."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"model_sharers": model_sharers}
