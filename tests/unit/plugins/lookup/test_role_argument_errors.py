# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles' own specifications, held against variables as Ansible gives them to a lookup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.vicuna.fleet.plugins.lookup import role_argument_errors

ROLES = sorted(path.name for path in (Path(__file__).resolve().parents[4] / "roles").iterdir() if path.is_dir())


def ask(*roles: str, **variables: Any) -> list[str]:
    loader = DataLoader()
    known = {name: trust_as_template(value) if isinstance(value, str) else value for name, value in variables.items()}
    lookup = role_argument_errors.LookupModule(loader=loader, templar=Templar(loader=loader, variables=known))
    found: list[str] = lookup.run(list(roles), variables=known)
    return found


def test_nothing_is_wrong_with_what_nobody_has_set() -> None:
    assert ask("vicuna.fleet.docker", "vicuna.fleet.tools") == []


def test_what_fits_passes() -> None:
    assert ask("vicuna.fleet.docker", docker_source="{{ 'pre' ~ 'sent' }}", docker_start_timeout="60") == []


def test_each_error_names_its_role() -> None:
    found = ask("vicuna.fleet.docker", "vicuna.fleet.tools", docker_source="dcker", tools_lock_timeout="soon")
    assert len(found) == 2
    assert found[0].startswith("role docker: ") and "docker_source" in found[0] and "dcker" in found[0]
    assert found[1].startswith("role tools: ") and "tools_lock_timeout" in found[1]


def test_a_template_is_evaluated_before_it_is_judged() -> None:
    assert "'xy'" in ask("vicuna.fleet.docker", docker_start_timeout="{{ 'x' ~ 'y' }}")[0]


def test_a_secret_is_not_told() -> None:
    options = {"lamp_key": {"type": "str", "choices": ["a"], "no_log": True}, "lamp_room": {"type": "int"}}
    found = role_argument_errors.errors("lamp", options, {"lamp_key": "5up3r", "lamp_room": "hall"})
    assert len(found) == 2
    assert not any("5up3r" in message for message in found)
    assert any("***" in message for message in found)


def test_a_required_one_is_reported() -> None:
    found = role_argument_errors.errors("lamp", {"lamp_owner": {"type": "str", "required": True}}, {})
    assert found == ["role lamp: missing required arguments: lamp_owner"]


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(AnsibleLookupError, match=r"vicuna\.fleet\.nothing"):
        ask("vicuna.fleet.nothing")


@pytest.mark.parametrize("role", ROLES)
def test_every_role_can_be_asked_about(role: str) -> None:
    found = ask(f"vicuna.fleet.{role}")
    assert [message for message in found if "missing required arguments" not in message] == []
