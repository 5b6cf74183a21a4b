# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: endpoint
author: The vicuna.fleet authors
version_added: 0.1.0
short_description: How a host asks its own edge, or a gateway itself
description:
  - Works out address, model name and key from the variables of the role P(vicuna.fleet.fastchat#role) for an edge,
    or of P(vicuna.fleet.gateway#role) for a gateway. What the inventory leaves open is as the role's defaults have
    it, also in a play that does not use the role.
  - Nothing is generated. Where there is no key yet, as in check mode on a fresh fleet, C(api_key) is empty.
options:
  _terms:
    description: The endpoints, V(edge) or V(gateway).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Ask this host's own edge
  vicuna.fleet.chat_completion:
    url: "{{ edge.url }}"
    model: "{{ edge.model }}"
    api_key: "{{ edge.api_key }}"
    validate_certs: "{{ edge.validate_certs }}"
  vars:
    edge: "{{ lookup('vicuna.fleet.endpoint', 'edge') }}"
"""

RETURN = r"""
_list:
  description:
    - For each endpoint C(url), C(address) (host and port), C(model), C(api_key), C(validate_certs), C(timeout) (seconds
      until its first answer) and C(compose_project) (whose logs tell why there is none).
  type: list
  elements: dict
  sample:
    - url: http://127.0.0.1:8000
      address: 127.0.0.1:8000
      model: vicuna
      api_key: secret
      validate_certs: true
      timeout: 900
      compose_project: vicuna
"""

from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from ansible.errors import AnsibleLookupError
from ansible.module_utils.common.yaml import yaml_load
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.lookup import LookupBase
from ansible.template import trust_as_template

from ansible_collections.vicuna.fleet.plugins.module_utils._chat import first_key

ROLES = Path(__file__).resolve().parents[2] / "roles"
# The variables that tell, by the role that has them; the first of each is the file with the key.
NAMES = {
    "edge": (
        "fastchat",
        ("api_key_file", "api_keys", "bind_address", "port", "tls_certificate", "model_names"),
    ),
    "gateway": ("gateway", ("key_file", "keys", "bind_address", "port", "tls", "model_names")),
}
# A host listens at all of its addresses there, the loopback address among them.
ANY = ("0.0.0.0", "::", "[::]")  # noqa: S104 # compared with, never bound to


def address(bind_address: str, port: Any) -> str:
    """Host and port at which what listens there is asked on its own host."""
    host = "127.0.0.1" if bind_address in ANY else bind_address.strip("[]")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def edge(settings: Mapping[str, Any], generated_key: str) -> dict[str, Any]:
    """A serving host's own edge, from the role fastchat's variables without their prefix."""
    tls = bool(settings["tls_certificate"])
    keys = settings["api_keys"] or []
    return {
        **_common(settings, tls),
        "api_key": str(keys[0]) if keys else generated_key,
        # The certificate is made for the public name, and the host asks at another.
        "validate_certs": not tls,
        # A large model loads for minutes.
        "timeout": 900,
        "compose_project": "vicuna",
    }


def gateway(settings: Mapping[str, Any], generated_key: str) -> dict[str, Any]:
    """A gateway, from the role gateway's variables without their prefix."""
    keys = settings["keys"] or []
    return {
        **_common(settings, boolean(settings["tls"])),
        # A key that is known only by its hash cannot be used to ask.
        "api_key": next((str(key["key"]) for key in keys if key.get("key")), "") if keys else generated_key,
        "validate_certs": False,
        # The hosts have been asked before.
        "timeout": 60,
        "compose_project": "",
    }


def _common(settings: Mapping[str, Any], tls: bool) -> dict[str, Any]:
    names = settings["model_names"]
    where = address(str(settings["bind_address"]), settings["port"])
    return {
        "url": f"{'https' if tls else 'http'}://{where}",
        "address": where,
        "model": str(names if isinstance(names, str) else next(iter(names or []), "")),
    }


@cache
def defaults(role: str) -> Mapping[str, Any]:
    """The role's defaults, as templates where they are text."""
    # Plain data of this collection: Ansible's own loader takes ten times as long.
    found = yaml_load((ROLES / role / "defaults" / "main.yml").read_text(encoding="utf-8"))
    return {name: trust_as_template(value) if isinstance(value, str) else value for name, value in found.items()}


class Known:
    """The answers to the last task's variables, of which each option of a task asks anew."""

    variables: Any = None
    endpoints: ClassVar[dict[str, dict[str, Any]]] = {}


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(
        self, terms: list[str], variables: MutableMapping[str, Any] | None = None, **_kwargs: Any
    ) -> list[dict[str, Any]]:
        variables = {} if variables is None else variables
        if Known.variables is not variables:
            Known.variables, Known.endpoints = variables, {}
        for term in terms:
            if term not in Known.endpoints:
                Known.endpoints[term] = self._endpoint(term, variables)
        return [Known.endpoints[term] for term in terms]

    def _endpoint(self, term: str, variables: MutableMapping[str, Any]) -> dict[str, Any]:
        if term not in NAMES:
            raise AnsibleLookupError(f"Found endpoint {term!r}. Expected {' or '.join(NAMES)}. Correct it.")
        role, suffixes = NAMES[term]
        known = ChainMap(variables, dict(defaults(role)))
        templar = self._templar.copy_with_new_env(available_variables=known)
        settings = templar.template({suffix: known[f"{role}_{suffix}"] for suffix in suffixes})
        key = self._generated_key(settings[suffixes[0]])
        return edge(settings, key) if term == "edge" else gateway(settings, key)

    def _generated_key(self, file: str) -> str:
        # As the lookup `password` finds it, which has made it.
        path = Path(self._loader.path_dwim(file))
        return first_key(self._loader.get_text_file_contents(str(path))) if path.is_file() else ""
