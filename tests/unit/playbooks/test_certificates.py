# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What site.yml says of a certificate, and when: real runs, with addresses that are nobody's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[3]


def run(folder: Path, playbook: Path, gateway: dict[str, Any], **variables: Any) -> subprocess.CompletedProcess[str]:
    inventory = {
        "all": {
            "hosts": {"gpu-1": {"ansible_host": "192.0.2.1"}, "gpu-2": {"ansible_host": "192.0.2.2"}},
            "children": {"gateway": {"hosts": {"gateway-1": {"ansible_host": "192.0.2.9", **gateway}}}},
            "vars": variables,
        }
    }
    (folder / "inventory.json").write_text(json.dumps(inventory), encoding="utf-8")
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run(
        [program, "-i", str(folder / "inventory.json"), str(playbook)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "9999"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def ends_soon(tmp_path: Path) -> Path:
    """A certificate with its key that ends in three days, and that everybody can read."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=3))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("chat.example")]), critical=False)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (tmp_path / "ca.pem").write_bytes(certificate)
    path = tmp_path / "tls.pem"
    path.write_bytes(certificate + key.private_bytes(serialization.Encoding.PEM, *form))
    path.chmod(0o644)
    return path


def test_a_gateways_certificate_stops_a_run_before_any_host_is_asked(tmp_path: Path, ends_soon: Path) -> None:
    gateway = {"gateway_tls_certificate": str(ends_soon.with_name("ca.pem"))}
    done = run(tmp_path, ROOT / "playbooks/site.yml", gateway)
    assert done.returncode == 2
    assert "Found: a certificate alone, without a private key" in done.stdout + done.stderr
    assert "gpu-1" not in done.stdout + done.stderr
    assert "UNREACHABLE" not in done.stdout


def test_what_is_about_to_end_is_told_once_and_refuses_nothing(tmp_path: Path, ends_soon: Path) -> None:
    role = {"name": "vicuna.fleet.fastchat", "tasks_from": "preflight.yml", "rolespec_validate": False}
    play = {
        "name": "Check",
        "hosts": "gpu-1:gpu-2",
        "gather_facts": False,
        "tasks": [{"name": "Check", "ansible.builtin.import_role": role}],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    done = run(
        tmp_path,
        tmp_path / "play.yml",
        {},
        fastchat_model_path="/model/vicuna",
        fastchat_tls_certificate=str(ends_soon),
        fastchat_tls_ca=str(ends_soon.with_name("ca.pem")),
        fastchat_endpoint_url="https://chat.example:8000",
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("Found: a certificate that ends on") == 1
    assert said.count("Found: a private key that everybody can read") == 1
