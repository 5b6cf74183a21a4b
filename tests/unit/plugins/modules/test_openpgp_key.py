# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.modules import openpgp_key

Run = Callable[..., dict[str, Any]]
KEYS = Path(__file__).parents[1] / "fixtures" / "openpgp"
ED25519 = "A7C82E453EBD85809AA04B6A870E6192BFEFFB6A"
RSA2048 = "19B4FBA197F80FD6FFFCB1839B3A82B250D1E8DB"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(name: str, *fingerprints: str, **arguments: Any) -> dict[str, Any]:
        args = {
            "url": f"file://{KEYS / name}",
            "dest": str(tmp_path / "keyrings" / "key.asc"),
            "fingerprints": list(fingerprints),
            "_ansible_remote_tmp": str(tmp_path),
            **arguments,
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            openpgp_key.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def test_the_pinned_key_is_installed_once(run: Run, tmp_path: Path) -> None:
    dest = tmp_path / "keyrings" / "key.asc"
    result = run("ed25519.asc", ED25519.lower())
    assert (result["changed"], result["fingerprints"]) == (True, [ED25519])
    assert dest.read_bytes() == (KEYS / "ed25519.asc").read_bytes()
    assert dest.stat().st_mode & 0o777 == 0o644
    # Nothing is downloaded again: this URL would fail.
    assert not run("no-such-file", ED25519)["changed"]


def test_another_key_is_refused(run: Run, tmp_path: Path) -> None:
    result = run("rsa2048.asc", ED25519)
    assert result["failed"]
    assert RSA2048 in result["msg"]
    assert ED25519 in result["msg"]
    assert not (tmp_path / "keyrings").exists()


def test_a_second_key_in_the_file_is_refused(run: Run, tmp_path: Path) -> None:
    both = tmp_path / "both.asc"
    both.write_bytes((KEYS / "ed25519.asc").read_bytes() + (KEYS / "rsa2048.asc").read_bytes())
    assert run("", ED25519, url=f"file://{both}")["failed"]
    assert run("", ED25519, RSA2048, url=f"file://{both}")["changed"]


def test_a_key_in_place_that_is_not_pinned_is_replaced(run: Run, tmp_path: Path) -> None:
    run("rsa2048.asc", RSA2048)
    assert run("ed25519.asc", ED25519)["changed"]
    assert (tmp_path / "keyrings" / "key.asc").read_bytes() == (KEYS / "ed25519.asc").read_bytes()


def test_check_mode(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not read off the answer: where a test has loaded the control node's side of Ansible, warnings go to its display.
    warned: list[str] = []
    monkeypatch.setattr(openpgp_key.AnsibleModule, "warn", lambda _self, text, **_: warned.append(text))
    assert run("ed25519.asc", ED25519, _ansible_check_mode=True)["changed"]
    assert run("rsa2048.asc", ED25519, _ansible_check_mode=True)["failed"]
    unreachable = run("no-such-file", ED25519, _ansible_check_mode=True)
    assert unreachable["changed"]
    assert "could not be checked" in warned[0]
    assert not (tmp_path / "keyrings").exists()


@pytest.mark.parametrize("fingerprints", [[], ["0EBFCD88"], ["8D81803C0EBFCD88"]])
def test_short_fingerprints_pin_nothing(run: Run, fingerprints: list[str]) -> None:
    result = run("ed25519.asc", *fingerprints)
    assert result["failed"]
    assert "40 or 64" in result["msg"]


def test_a_page_in_place_of_a_key(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html>Please log in</html>", encoding="utf-8")
    result = run("", ED25519, url=f"file://{page}")
    assert result["failed"]
    assert "is not a signing key" in result["msg"]


def test_no_answer(run: Run) -> None:
    result = run("no-such-file", ED25519)
    assert result["failed"]
    assert "did not come" in result["msg"]
