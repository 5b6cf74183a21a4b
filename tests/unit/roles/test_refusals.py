# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles refuse, and that they go on where there is nothing to refuse: one real run for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
GOOD_MODEL = {"model_repo": "https://hub.test/lmsys/vicuna", "model_revision": "main"}
GOOD_PLAN = {"preflight_model_repo": "https://hub.test/lmsys/vicuna", "preflight_model_revision": "main"}
FEDORA = {"distribution": "Fedora", "distribution_version": "42", "distribution_major_version": "42"}
LOOK = {"path": "/model/vicuna@1", "revision": "1", "paths": ["config.json", "tokenizer.model", "model.safetensors"]}
# A certificate without its key.
ALONE = str(ROOT / "tests/unit/plugins/fixtures/certificates/first.pem")
GOOD_EDGE = {"fastchat_model_path": "/model/vicuna@1", "fastchat_device": "cpu"}
GOOD_GATEWAY = {
    "gateway_servers": [{"name": "gpu-1", "address": "10.0.0.1"}],
    "gateway_server_key": "edge-key-0123456789",
    "gateway_keys": [{"name": "alice", "key": "alice-key-0123456789"}],
    "ansible_facts": {"distribution": "Debian", "distribution_version": "12", "distribution_major_version": "12"},
}


def looked(*paths: str) -> dict[str, Any]:
    return {
        "__model_look": {**LOOK, "paths": list(paths)},
        "__model_bring": {"skipped": True, "changed": False},
        **GOOD_MODEL,
    }


# name: role, file of its tasks, variables, what the message holds; None where the role goes on.
CASES: dict[str, tuple[str, str, dict[str, Any], list[str] | None]] = {
    "model, good": ("model", "preflight.yml", GOOD_MODEL, None),
    "model, no address": (
        "model",
        "preflight.yml",
        {"model_revision": "main"},
        ["Found no model_repo", "Set vicuna_model_repo"],
    ),
    "model, all at once": (
        "model",
        "preflight.yml",
        {**GOOD_MODEL, "model_root": "x", "model_keep_revisions": 0},
        ["model_root 'x'", "model_keep_revisions 0"],
    ),
    "model, served": ("model", "verify.yml", looked(*LOOK["paths"]), None),
    "model, no tokenizer": (
        "model",
        "verify.yml",
        looked("config.json", "model.safetensors"),
        ["Found no tokenizer.model"],
    ),
    "fastchat, CA files": (
        "fastchat",
        "preflight.yml",
        {"fastchat_tls_ca": "/etc/hostname", "fastchat_ca_certificates": ["/etc/hostname", "/nowhere.pem"]},
        ["and name that file in fastchat_tls_ca.", "and name that file in fastchat_ca_certificates.", "/nowhere.pem"],
    ),
    "image, CA files": (
        "image",
        "preflight.yml",
        {
            "image_names": {"api": "x:1"},
            "image_files": {"Dockerfile": "/etc/hostname"},
            "image_ca_certificates": ["/etc/hostname"],
        },
        ["Found /etc/hostname, which cannot be used as a CA file", "and name that file in image_ca_certificates."],
    ),
    "preflight, good": ("preflight", "preflight.yml", GOOD_PLAN, None),
    "preflight, memory": (
        "preflight",
        "preflight.yml",
        {**GOOD_PLAN, "preflight_gpu_memory": "much"},
        ["Found preflight_gpu_memory 'much'", "such as 80GiB"],
    ),
    "preflight, device": (
        "preflight",
        "preflight.yml",
        {**GOOD_PLAN, "preflight_device": "tpu"},
        ["Expected cuda or cpu"],
    ),
    "preflight, fits": ("preflight", "verify.yml", {"preflight_plan": {"fits": True, "problems": []}}, None),
    "preflight, does not fit": (
        "preflight",
        "verify.yml",
        {"preflight_plan": {"fits": False, "problems": [{"message": "Found no room."}]}},
        ["Found no room."],
    ),
    "preflight, does not fit and may": (
        "preflight",
        "verify.yml",
        {"preflight_plan": {"fits": False, "problems": [{"message": "Found no room."}]}, "preflight_enforce": False},
        None,
    ),
    "tools, another system": (
        "tools",
        "preflight.yml",
        {"ansible_facts": FEDORA},
        ["Found Fedora 42", "--skip-tags tools"],
    ),
    "tools, there": (
        "tools",
        "preflight.yml",
        {"__tools_platform": {"commands": {"sh": "x"}}, "__tools_checks": ["true"]},
        None,
    ),
    "tools, broken": (
        "tools",
        "preflight.yml",
        {"__tools_platform": {"commands": {"sh": "x"}}, "__tools_checks": ["sh -c false"]},
        ["Reinstall its package"],
    ),
    "verify, good": ("verify", "preflight.yml", {}, None),
    "verify, address": (
        "verify",
        "preflight.yml",
        {"verify_url": "http://h/v1"},
        ["verify_url=http://h/v1", "without a path"],
    ),
    "fastchat, good": ("fastchat", "preflight.yml", GOOD_EDGE, None),
    "fastchat, certificate": (
        "fastchat",
        "preflight.yml",
        {**GOOD_EDGE, "fastchat_tls_certificate": ALONE},
        [f"fastchat_tls_certificate is {ALONE}. Found: a certificate alone", f"cat {ALONE}; echo; cat KEY"],
    ),
    "fastchat, authority": (
        "fastchat",
        "preflight.yml",
        {**GOOD_EDGE, "fastchat_tls_certificate": ALONE, "fastchat_tls_ca": __file__},
        [f"Found {__file__}, which cannot be used as a CA file", "Found: a certificate alone"],
    ),
    "gateway, certificate before all": (
        "gateway",
        "certificate.yml",
        {"gateway_tls_certificate": ALONE},
        [f"gateway_tls_certificate is {ALONE}. Found: a certificate alone"],
    ),
    "gateway, no file before all": (
        "gateway",
        "certificate.yml",
        {"gateway_tls_certificate": "/nowhere/tls.pem"},
        ["Found: no such file"],
    ),
    "gateway, good": ("gateway", "preflight.yml", {**GOOD_GATEWAY, "gateway_server_ca": ALONE}, None),
    "gateway, without TLS": (
        "gateway",
        "preflight.yml",
        {**GOOD_GATEWAY, "gateway_tls": False, "gateway_tls_certificate": ALONE},
        None,
    ),
    "gateway, certificate": (
        "gateway",
        "preflight.yml",
        {**GOOD_GATEWAY, "gateway_tls_certificate": ALONE, "gateway_server_ca": __file__},
        [
            f"gateway_tls_certificate is {ALONE}. Found: a certificate alone",
            f"Found {__file__}, which cannot be used as a CA file",
        ],
    ),
    "verify, numbers": ("verify", "preflight.yml", {"verify_timeout": 0}, ["verify_timeout=0"]),
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What each case was refused with; None where it was not."""
    folder = tmp_path_factory.mktemp("refusals")
    tasks: list[dict[str, Any]] = []
    for name, (role, file, variables, _words) in CASES.items():
        include = {
            "name": name,
            "ansible.builtin.include_role": {"name": f"vicuna.fleet.{role}", "tasks_from": file},
            "vars": variables,
        }
        said = "{{ said | combine({name: ansible_failed_result.msg ~ ansible_failed_result.stdout | default('')}) }}"
        tasks.append(
            {
                "name": name,
                "vars": {"name": name},
                "block": [include],
                "rescue": [{"name": "Keep", "ansible.builtin.set_fact": {"said": said}}],
            }
        )
    tasks.append(
        {"name": "Write", "ansible.builtin.copy": {"content": "{{ said | to_json }}", "dest": f"{folder}/said.json"}}
    )
    play = {
        "name": "Refuse",
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
        "tasks": [{"name": "Begin", "ansible.builtin.set_fact": {"said": {}}}, *tasks],
    }
    (folder / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(folder / "play.yml")],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    return {name: found.get(name) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_role_refuses_what_it_should_and_nothing_else(name: str, messages: dict[str, str | None]) -> None:
    words, said = CASES[name][3], messages[name]
    if words is None:
        assert said is None
    else:
        assert said is not None
        assert [word for word in words if word not in said] == [], said
