# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of a release's files: nothing forgotten, and what holds a credential is marked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROLE = Path(__file__).resolve().parents[4] / "roles/fastchat"
VARS: dict[str, Any] = yaml.safe_load((ROLE / "vars/main.yml").read_text())
FILES: list[dict[str, Any]] = VARS["__fastchat_own_files"]
CREDENTIALS = re.compile(r"__fastchat_keys|fastchat_tls_certificate")


def source(file: dict[str, Any]) -> Path | None:
    if "template" in file:
        return ROLE / "templates" / str(file["template"])
    return ROLE / "files" / str(file["file"]) if "file" in file else None


def test_every_template_and_script_belongs_to_the_release() -> None:
    listed = {path for file in FILES if (path := source(file))}
    others = {"pip.conf.j2", "files.json.j2"}
    templates = {path for path in (ROLE / "templates").rglob("*.j2") if path.name not in others}
    assert listed == templates | set((ROLE / "files").glob("vicuna-*"))


def test_files_with_keys_are_secret_and_no_others() -> None:
    for file in FILES:
        path = source(file)
        text = path.read_text() if path else file["content"]
        # The compose file and the edge's configuration read them too: a hash of them, and whether there is one.
        holds = bool(CREDENTIALS.search(text)) and file["path"] not in ("compose.yaml", "edge/haproxy.cfg")
        assert file.get("secret", False) is holds, file["path"]
        if holds:
            assert file["mode"] in ("0600", "0640"), file["path"]
    for name in ("__fastchat_certificate_files", "__fastchat_ca_files"):
        assert "'secret': true" in VARS[name]
        assert "'mode': '0640'" in VARS[name]


def test_what_reads_a_file_once_is_named_with_it() -> None:
    """It is started anew after a change of the file, also by a person. Other files are read at each use."""
    readers = {file["path"]: file["read_by"] for file in FILES if "read_by" in file}
    unit = "{{ __fastchat_watch_unit }}"
    assert readers == {
        "edge/haproxy.cfg": ["edge"],
        "edge/models.json": ["edge"],
        "edge/keys": ["edge"],
        "vicuna-watch": [unit],
        f"/etc/systemd/system/{unit}": [unit],
    }
    assert "'read_by': ['edge']" in VARS["__fastchat_certificate_files"]
    assert VARS["__fastchat_release_model"]["read_by"] == "{{ __fastchat_workers }}"


def test_the_edge_reads_no_other_file() -> None:
    """Whatever its settings name is a file of the release that it is started anew for."""
    text = (ROLE / "templates/edge/haproxy.cfg.j2").read_text()
    named = set(re.findall(r"/etc/vicuna/([\w.-]+)", text)) | {"haproxy.cfg"}
    listed = {file["path"] for file in FILES if file.get("read_by") == ["edge"]}
    assert {f"edge/{name}" for name in named} == listed | {"edge/tls.pem"}
