# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_hosts
author: The vicuna.fleet authors
version_added: 0.1.0
short_description: The hosts that a play of the collection is for
description:
  - Names of hosts for the keyword C(hosts) of a play. C(vicuna_hosts), C(vicuna_gateways) and C(finetune_host),
    patterns or lists of them, name them by C(-e) or in the inventory; else a gateway is what is in the group
    C(gateway), and all other hosts serve.
options:
  _terms:
    description: The kinds, of V(serving), V(gateway) and V(training).
    type: list
    elements: str
    required: true
  required:
    description:
      - Kinds. Refuse a run that has no host of any of them, be it that the inventory is empty or its path mistyped,
        that a pattern or C(--limit) matches nobody, or that the inventory has gateways alone. Ansible itself ends such
        a run with V(0).
      - What only lists, or checks the syntax, is not refused.
    type: list
    elements: str
    default: []
  reports:
    description:
      - The reports that a refused run writes, of V(deployment), V(preflight) and V(status), so that none of an earlier
        run is taken for this one's. That of a deployment is the callback's, where it is enabled.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Ask every host
  hosts: "{{ query('vicuna.fleet.fleet_hosts', 'serving', required=['serving']) }}"
  roles:
    - role: vicuna.fleet.verify
"""

RETURN = r"""
_list:
  description: The names, in the order of the inventory or of the patterns.
  type: list
  elements: str
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.vicuna.fleet.plugins.plugin_utils._refused_run import tell
from ansible_collections.vicuna.fleet.plugins.plugin_utils._run import Hosts, is_run


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        variables = variables or {}
        hosts = Hosts(variables, self._templar.template, self._loader)
        # An imported playbook whose plays are to have no hosts, with the reason that only the importing one knows.
        optional = self._templar.template(variables.get("__vicuna_none", False))
        if optional:
            return []
        required = kwargs.get("required")
        if required and is_run():
            problem = hosts.problem(required)
            if problem:
                tell(problem, kwargs.get("reports") or [], variables, self._templar.template)
                raise AnsibleLookupError(problem)
        return hosts.of(terms)
