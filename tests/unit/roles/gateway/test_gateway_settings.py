# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role refuses, and what it writes for the less usual settings: its own variables, evaluated by Ansible."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.template import trust_as_template
from fleet import HAPROXY, ROLES, needs_haproxy, render, settings

# printf alice-key-0123456789 | sha256sum
HASH = "7bafaa96aa2351e6b7fbc258246b08ee66ade6196c76850108303b1dd6d6eb62"
SERVER = {"name": "gpu-1", "address": "10.0.0.1"}
GOOD: dict[str, Any] = {
    "gateway_servers": [SERVER],
    "gateway_server_key": "edge-key-0123456789",
    "gateway_keys": [{"name": "alice", "key": "alice-key-0123456789"}],
}
TASK = yaml.safe_load((ROLES / "gateway/tasks/preflight.yml").read_text(encoding="utf-8"))[0]


def trusted(value: Any) -> Any:
    return trust_as_template(value) if isinstance(value, str) else value


def problems(**variables: Any) -> list[str]:
    own = {name: trusted(value) for name, value in TASK["vars"].items()}
    templar = settings("gateway", **{**GOOD, **own, **variables})
    return list(templar.template(trust_as_template("{{ __gateway_problems }}")))


CASES: list[tuple[dict[str, Any], str]] = [
    ({"gateway_servers": []}, "gateway_servers is empty"),
    ({"gateway_servers": [{"name": "a b", "address": "10.0.0.1"}]}, "hold the names a b"),
    ({"gateway_servers": [SERVER, SERVER]}, "name something twice"),
    ({"gateway_servers": [{"name": "gpu-1"}]}, "no usable address for gpu-1"),
    ({"gateway_servers": [{"name": "gpu-1", "address": "10.0.0.1 ssl"}]}, "no usable address for gpu-1"),
    ({"gateway_servers": [{**SERVER, "tls_name": "x verify none"}]}, "no usable tls_name for gpu-1"),
    ({"gateway_server_key": ""}, "gateway_server_key is empty"),
    ({"gateway_server_key": 'x" evil'}, "not one that fits a header"),
    ({"gateway_keys": [{"name": "a", "key": "short"}]}, "nothing usable for a"),
    ({"gateway_keys": [{"name": "a", "sha256": "abc"}]}, "nothing usable for a"),
    ({"gateway_keys": [{"name": "a"}]}, "nothing usable for a"),
    ({"gateway_keys": [{"name": 'a"b', "sha256": "0" * 64}]}, "hold the names a"),
    ({"gateway_model_names": ["it's"]}, "gateway_model_names is it's"),
    ({"gateway_model_names": []}, "gateway_model_names is empty"),
    ({"gateway_tls_certificate": "/nowhere/tls.pem"}, "no file /nowhere/tls.pem"),
    ({"gateway_tls_ca": "/nowhere/ca.pem"}, "no readable file /nowhere/ca.pem"),
    ({"gateway_server_ca": "/etc/hostname"}, "Found /etc/hostname, which cannot be used as a CA file"),
    ({"gateway_stats_port": 8443}, "both 8443"),
    (
        {"ansible_facts": {"distribution": "Debian", "distribution_version": "11", "distribution_major_version": "11"}},
        "Found Debian 11",
    ),
]


@pytest.mark.parametrize(("variables", "said"), CASES)
def test_refusals(variables: dict[str, Any], said: str) -> None:
    found = problems(**variables)
    assert len(found) == 1 and said in found[0], found
    assert "xpected" in found[0]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"gateway_keys": [{"name": "team@a.example", "sha256": "0F" * 32}]},
        {"gateway_servers": [{"name": "gpu-1.example.org", "address": "fd00::1"}]},
        {"gateway_server_key": "", "ansible_check_mode": True},
    ],
)
def test_what_is_taken(variables: dict[str, Any]) -> None:
    assert problems(**variables) == []


CONFIGURATIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"gateway_bind_address": "::"}, ["bind [::]:8443 ssl crt"]),
    ({"gateway_rate_limit": 90}, ["ge 90 }", "hdr Retry-After 1 string", "table gateway_rates"]),
    ({"gateway_rate_limit": 7}, ["hdr Retry-After 9 string"]),
    (
        {"gateway_servers": [{"name": "a", "address": "gpu.example", "tls": True}], "gateway_server_ca": "/ca.pem"},
        ["ssl verify required ca-file /etc/haproxy/vicuna/ca.pem", "sni str(gpu.example) check-sni gpu.example"],
    ),
    (
        {"gateway_servers": [{"name": "a", "address": "10.0.0.1", "tls": True, "tls_name": "gpu.example"}]},
        ["ca-file /etc/ssl/certs/ca-certificates.crt", "verifyhost gpu.example"],
    ),
    ({"gateway_servers": [{"name": "a", "address": "10.0.0.1", "tls": True}]}, ["ssl-min-ver TLSv1.2\n"]),
    ({"gateway_servers": [{"name": "a", "address": "fd00::1", "max_requests": 9}]}, ["a [fd00::1]:8000 maxconn 9\n"]),
]


@pytest.mark.parametrize(("variables", "parts"), CONFIGURATIONS)
def test_less_usual_settings(variables: dict[str, Any], parts: list[str]) -> None:
    text = render("gateway", "haproxy.cfg", **{**GOOD, **variables})
    assert [part for part in parts if part not in text] == []


@needs_haproxy
@pytest.mark.parametrize("variables", [{}, *(case[0] for case in CONFIGURATIONS)])
def test_haproxy_takes_them(tmp_path: Path, certificate: Path, variables: dict[str, Any]) -> None:
    """Whole, but for the user that the package makes; without the least warning."""
    (tmp_path / "state").write_text("1\n", encoding="utf-8")
    paths = {"__gateway_dir": str(tmp_path), "__gateway_state_file": str(tmp_path / "state")}
    text = render("gateway", "haproxy.cfg", **{**GOOD, **variables, **paths})
    text = text.replace("gpu.example:", "localhost:")
    for line in ("user haproxy", "group haproxy"):
        text = text.replace(f"    {line}\n", "")
    for name in ("tls.pem", "ca.pem"):
        (tmp_path / name).write_bytes(certificate.read_bytes())
    for name in ("keys.map", "models.json", "owed.lua"):
        (tmp_path / name).write_text(render("gateway", name, **{**GOOD, **variables}), encoding="utf-8")
    path = tmp_path / "haproxy.cfg"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run([str(HAPROXY), "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr


def test_keys_are_hashed_and_hashes_taken() -> None:
    keys = [{"name": "a", "key": "alice-key-0123456789"}, {"name": "b", "sha256": "0F" * 32}]
    lines = render("gateway", "keys.map", gateway_keys=keys).splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"{HASH} a", f"{'0f' * 32} b"]
