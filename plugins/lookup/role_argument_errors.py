# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: role_argument_errors
author: The vicuna.fleet authors
version_added: 0.1.0
short_description: Hold the variables of several roles against their specifications at once
description:
  - Ansible validates the arguments of each role by a task of its own, which costs every host its share of time at every
    run. A playbook of many roles can ask once for all of them instead, in the condition of a task that runs only where
    something is wrong, and import them with C(rolespec_validate=false).
  - Variables that are not defined are passed over, as a role's defaults may be unknown yet; a required one is reported.
  - The value of an option with C(no_log) is masked in what is returned.
options:
  _terms:
    description: Names of roles of this collection, such as V(vicuna.fleet.docker). Their entry point V(main) is meant.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse settings of a wrong type
  ansible.builtin.fail:
    msg: "{{ errors | join('\n') }}"
  vars:
    errors: "{{ query('vicuna.fleet.role_argument_errors', 'vicuna.fleet.docker', 'vicuna.fleet.model') }}"
  when: errors | length > 0
"""

RETURN = r"""
_list:
  description: One sentence for each variable that is not as its role specifies; empty where all are.
  type: list
  elements: str
  sample: ["role docker: argument 'docker_start_timeout' is of type str and we were unable to convert to int: ..."]
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.lookup import LookupBase

COLLECTION = "vicuna.fleet."
ROLES = Path(__file__).resolve().parents[2] / "roles"


def errors(role: str, options: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """What is wrong with the given values of a role's options, without the secrets among them."""
    # A default may be a template, which only Ansible can evaluate; it is the role's own and no setting.
    asked = {
        name: {key: value for key, value in option.items() if key != "default"} for name, option in options.items()
    }
    found = ArgumentSpecValidator(asked).validate(given, validate_role_argument_spec=True).error_messages
    secrets = [
        str(given[name]) for name, option in options.items() if option.get("no_log") and str(given.get(name) or "")
    ]
    for secret in sorted(secrets, key=len, reverse=True):
        found = [message.replace(secret, "***") for message in found]
    return [f"role {role}: {message}" for message in found]


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_kwargs: Any) -> list[str]:
        found: list[str] = []
        for term in terms:
            role = term.removeprefix(COLLECTION)
            path = ROLES / role / "meta" / "argument_specs.yml"
            if not path.is_file():
                raise AnsibleLookupError(f"Found no {path}. Expected a role of this collection. Correct {term!r}.")
            # Plain data, nothing of the user's: Ansible's own loader takes ten times as long.
            options = yaml_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"].get("options") or {}
            given = {name: value for name, value in (variables or {}).items() if name in options}
            found += errors(role, options, self._templar.template(given))
        return found
