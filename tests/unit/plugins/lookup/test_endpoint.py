# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host asks its own edge, or a gateway itself, by what an inventory says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.vicuna.fleet.plugins.lookup import endpoint

LONGEST = {"edge": 900, "gateway": 60}
LOGS = {"edge": "vicuna", "gateway": ""}
KEYS = [{"name": "hashed", "sha256": "0"}, {"name": "known", "key": "two"}]
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, str, str, bool]]] = {
    "nothing is said": ("edge", {}, ("http://127.0.0.1:8000", "vicuna", "", True)),
    "another port": ("edge", {"fastchat_port": "8123"}, ("http://127.0.0.1:8123", "vicuna", "", True)),
    "all addresses": ("edge", {"fastchat_bind_address": "::"}, ("http://127.0.0.1:8000", "vicuna", "", True)),
    "one address": ("edge", {"fastchat_bind_address": "10.0.0.5"}, ("http://10.0.0.5:8000", "vicuna", "", True)),
    "one address of IPv6": (
        "edge",
        {"fastchat_bind_address": "fd00::5"},
        ("http://[fd00::5]:8000", "vicuna", "", True),
    ),
    "in brackets": ("edge", {"fastchat_bind_address": "[fd00::5]"}, ("http://[fd00::5]:8000", "vicuna", "", True)),
    "a certificate": ("edge", {"fastchat_tls_certificate": "/c.pem"}, ("https://127.0.0.1:8000", "vicuna", "", False)),
    "no certificate": ("edge", {"fastchat_tls_certificate": None}, ("http://127.0.0.1:8000", "vicuna", "", True)),
    "a shared name": ("edge", {"vicuna_model_name": "chat"}, ("http://127.0.0.1:8000", "chat", "", True)),
    "shared names": ("edge", {"vicuna_model_name": ["chat", "b"]}, ("http://127.0.0.1:8000", "chat", "", True)),
    "the role's names go before": (
        "edge",
        {"vicuna_model_name": "chat", "fastchat_model_names": ["mine", "b"]},
        ("http://127.0.0.1:8000", "mine", "", True),
    ),
    "no name at all": ("edge", {"fastchat_model_names": []}, ("http://127.0.0.1:8000", "", "", True)),
    "keys": ("edge", {"fastchat_api_keys": ["one", "two"]}, ("http://127.0.0.1:8000", "vicuna", "one", True)),
    "a template": (
        "edge",
        {"fastchat_port": "{{ base + 1 }}", "base": 8100},
        ("http://127.0.0.1:8101", "vicuna", "", True),
    ),
    "a template over a default": (
        "gateway",
        {"gateway_bind_address": "10.0.0.9", "gateway_port": "{{ gateway_stats_port + 1 }}"},
        ("https://10.0.0.9:8405", "vicuna", "", False),
    ),
    "a gateway": ("gateway", {}, ("https://127.0.0.1:8443", "vicuna", "", False)),
    "a gateway without TLS": ("gateway", {"gateway_tls": "false"}, ("http://127.0.0.1:8443", "vicuna", "", False)),
    "a gateway's keys": ("gateway", {"gateway_keys": KEYS}, ("https://127.0.0.1:8443", "vicuna", "two", False)),
    "hashes alone": ("gateway", {"gateway_keys": KEYS[:1]}, ("https://127.0.0.1:8443", "vicuna", "", False)),
    "the hosts' names": (
        "gateway",
        {"fastchat_model_names": ["mine"]},
        ("https://127.0.0.1:8443", "mine", "", False),
    ),
    "a gateway's own names": (
        "gateway",
        {"gateway_model_names": ["front"], "fastchat_model_names": ["mine"]},
        ("https://127.0.0.1:8443", "front", "", False),
    ),
}


def ask(term: str, folder: Path, **variables: Any) -> dict[str, Any]:
    loader = DataLoader()
    known = {name: trust_as_template(value) if isinstance(value, str) else value for name, value in variables.items()}
    known["inventory_dir"] = str(folder)
    lookup = endpoint.LookupModule(loader=loader, templar=Templar(loader=loader, variables=known))
    return dict(lookup.run([term], variables=known)[0])


@pytest.mark.parametrize("case", CASES)
def test_where_and_how_it_is_asked(case: str, tmp_path: Path) -> None:
    term, variables, (url, model, key, checked) = CASES[case]
    assert ask(term, tmp_path, **variables) == {
        "url": url,
        "address": url.partition("://")[2],
        "model": model,
        "api_key": key,
        "validate_certs": checked,
        "timeout": LONGEST[term],
        "compose_project": LOGS[term],
    }


@pytest.mark.parametrize(
    ("term", "variables", "file", "text", "key"),
    [
        ("edge", {}, ".secrets/fastchat_api_key", "generated\n", "generated"),
        ("edge", {}, ".secrets/fastchat_api_key", "# rotated\n\ngenerated\n", "generated"),
        ("edge", {}, ".secrets/fastchat_api_key", "", ""),
        ("edge", {"fastchat_api_keys": ["given"]}, ".secrets/fastchat_api_key", "generated\n", "given"),
        ("edge", {"fastchat_api_key_file": "{{ inventory_dir }}/mine"}, "mine", "generated\n", "generated"),
        ("gateway", {}, ".secrets/gateway_api_key", "generated\n", "generated"),
        ("gateway", {"gateway_keys": KEYS[:1]}, ".secrets/gateway_api_key", "generated\n", ""),
    ],
)
def test_a_generated_key_is_read(
    term: str, variables: dict[str, Any], file: str, text: str, key: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert ask(term, tmp_path, **variables)["api_key"] == key


def test_another_endpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnsibleLookupError, match=r"Found endpoint 'worker'\. Expected edge or gateway"):
        ask("worker", tmp_path)
