# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: tls_problems
author: The vicuna.fleet authors
version_added: 0.1.0
short_description: Tell why HAProxy cannot serve with a certificate, or a client will not trust it
description:
  - Looks at a PEM file of the control node with certificate, chain and key before it is put anywhere. It has to be one
    that HAProxy starts with, and that a client trusts that asks for the host of O(url). The latter is tried by a
    handshake in memory.
  - What is about to go wrong is told as a warning, a certificate that ends within 7 days, and a key that everybody can
    read.
  - Needs the Python package cryptography on the control node, which ansible-core brings.
options:
  _terms:
    description: The file's path, once.
    type: list
    elements: str
    required: true
  ca:
    description:
      - A PEM file with the authority's certificate, which P(vicuna.fleet.ca_file#lookup) judges.
      - Empty for those that the control node trusts.
    type: str
    default: ""
  url:
    description: The URL that clients use. Names are looked at where it begins with C(https).
    type: str
    default: ""
  prefix:
    description: What the names of the role's variables begin with, for the messages.
    type: str
    default: fastchat
"""

EXAMPLES = r"""
- name: Refuse a certificate that cannot work
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join('\n') }}"
  vars:
    problems: "{{ query('vicuna.fleet.tls_problems', 'edge.pem', url='https://chat.example.com:8000') }}"
"""

RETURN = r"""
_list:
  description: Messages, each with what was found, what was expected, and what mends it. Empty where all is well.
  type: list
  elements: str
"""

from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display

from ansible_collections.vicuna.fleet.plugins.plugin_utils._vaulted import plain

display = Display()


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(
        self,
        terms: list[Any],
        variables: dict[str, Any] | None = None,
        *,
        ca: str = "",
        url: str = "",
        prefix: str = "fastchat",
    ) -> list[str]:
        # Not above: cryptography takes a tenth of a second, in each of Ansible's processes anew.
        from ansible_collections.vicuna.fleet.plugins.plugin_utils._tls_certificate import faults

        found = []
        for certificate in map(str, terms):
            content = plain(self._loader, certificate)
            found += faults(certificate, ca, url, prefix, content)
            self._loader.cleanup_tmp_file(content)
        for fault in found:
            if fault.warning:
                display.warning(fault.message)
        return [fault.message for fault in found if not fault.warning]
