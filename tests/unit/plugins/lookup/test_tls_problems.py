# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.vicuna.fleet.plugins.lookup import tls_problems
from ansible_collections.vicuna.fleet.plugins.plugin_utils import _tls_certificate as tls

LOADER = DataLoader()
SECRET = VaultSecret(b"a passphrase")


def query(*terms: str, **options: Any) -> list[str]:
    found: list[str] = tls_problems.LookupModule(LOADER).run(list(terms), **options)
    return found


def test_the_options_reach_the_judgement_and_a_warning_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    warned: list[str] = []

    def faults(*words: str) -> list[tls.Fault]:
        asked.append(words)
        return [tls.Fault("soon", "ends soon"), tls.Fault("no_key", "has no key")]

    monkeypatch.setattr(tls, "faults", faults)
    monkeypatch.setattr(tls_problems.display, "warning", warned.append)
    assert query("edge.pem", ca="ca.pem", url="https://a", prefix="gateway") == ["has no key"]
    assert asked == [("edge.pem", "ca.pem", "https://a", "gateway", "edge.pem")]
    assert warned == ["ends soon"]


def test_it_looks_at_the_file() -> None:
    (message,) = query("none.pem")
    assert message.startswith("fastchat_tls_certificate is none.pem. Found: no such file")


def test_a_file_of_ansible_vault_is_decrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the lookup `file` does, by which the role has its content."""
    path = tmp_path / "edge.pem"
    path.write_bytes(VaultLib([("default", SECRET)]).encrypt("a certificate", SECRET))
    loader = DataLoader()
    loader.set_vault_secrets([("default", SECRET)])
    read: list[str] = []

    def faults(*words: str) -> list[tls.Fault]:
        read.append(Path(words[4]).read_text(encoding="utf-8"))
        return []

    monkeypatch.setattr(tls, "faults", faults)
    assert tls_problems.LookupModule(loader).run([str(path)]) == []
    assert read == ["a certificate"]
    path.write_text("plain", encoding="utf-8")
    tls_problems.LookupModule(loader).run([str(path)])
    assert read[1:] == ["plain"] and path.exists()
