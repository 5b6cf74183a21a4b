# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: gateway_servers
short_description: What a gateway has to know of each serving host
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Reads the address, the port and the number of requests that each host runs at once from the variables of the roles
    P(vicuna.fleet.fastchat#role) and P(vicuna.fleet.preflight#role), for P(vicuna.fleet.gateway#role)'s
    C(gateway_servers).
  - The address is C(vicuna_address), which a host has where gateways reach it elsewhere than Ansible does, else
    C(ansible_host), else its name. A host whose C(vicuna_address) is empty is left out.
positional: _input
options:
  _input:
    description: Names of the serving hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
  looked:
    description:
      - Results of M(vicuna.fleet.release) with O(vicuna.fleet.release#module:state=query), each with
        C(__gateway_host), the host's name. They tell what a host answers at once that this run has not planned.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Run the gateway
  ansible.builtin.include_role:
    name: vicuna.fleet.gateway
  vars:
    gateway_servers: "{{ groups['gpu'] | vicuna.fleet.gateway_servers(hostvars) }}"
"""

RETURN = r"""
_value:
  description: One entry for each host that has an address, in the order of the names.
  type: list
  elements: dict
  sample:
    - {name: gpu-1, address: 192.0.2.1, port: 8000, max_requests: 10, tls: false}
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

# FastChat's own: fastchat.serve.model_worker --limit-worker-concurrency.
CONCURRENCY = 5
PORT = 8000


def max_requests(variables: Mapping[str, Any], recorded: Any = None) -> int:
    """How many requests a host runs at once.

    A host that this run has not planned runs what its record says; else it is the inventory's word, then the plan's,
    then FastChat's default.
    """
    found = variables.get("preflight_plan")
    if not isinstance(found, Mapping) and recorded:
        return int(recorded)
    plan = found if isinstance(found, Mapping) else {}
    workers = variables.get("fastchat_workers") or plan.get("workers") or 1
    each = variables.get("fastchat_limit_worker_concurrency") or plan.get("limit_worker_concurrency") or CONCURRENCY
    return int(workers) * int(each)


def recorded_requests(looked: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the hosts' own records say, by host; of a host without one, or that was not reached, nothing."""
    found = {}
    for result in looked:
        release = result.get("release") or {}
        found[str(result.get("__gateway_host"))] = (release.get("model") or {}).get("max_requests")
    return found


def gateway_servers(
    names: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], looked: Iterable[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """The serving hosts as a gateway reaches them."""
    recorded = recorded_requests(looked)
    servers = []
    for name in names:
        variables = hostvars[name]
        address = variables.get("vicuna_address", variables.get("ansible_host", name))
        if address:
            servers.append(
                {
                    "name": name,
                    "address": str(address),
                    "port": int(variables.get("fastchat_port") or PORT),
                    "max_requests": max_requests(variables, recorded.get(name)),
                    "tls": bool(variables.get("fastchat_tls_certificate")),
                }
            )
    return servers


class FilterModule:
    """Filters of the collection for gateways."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"gateway_servers": gateway_servers}
