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

from ansible_collections.vicuna.fleet.plugins.module_utils._trust_store import Store
from ansible_collections.vicuna.fleet.plugins.modules import ca_certificates

Run = Callable[..., dict[str, Any]]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "certificates"
FIRST = (FIXTURES / "first.pem").read_text(encoding="utf-8")
SECOND = (FIXTURES / "second.pem").read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module on a trust store in tmp_path, whose tool makes the bundle of all anchors."""
    store = Store(str(tmp_path / "rebuild"), str(tmp_path / "anchors"), str(tmp_path / "bundle.crt"))
    tool = Path(store.tool)
    tool.write_text(
        f"#!/bin/sh\necho run >>{tmp_path}/runs\ncat {store.anchors}/*.crt >{store.bundle}\n", encoding="utf-8"
    )
    tool.chmod(0o755)
    monkeypatch.setattr(ca_certificates, "find_store", lambda _module: (store, store.tool if tool.exists() else None))

    def call(_check: bool = False, **certificates: str) -> dict[str, Any]:
        args = {"certificates": certificates, "_ansible_check_mode": _check, "_ansible_remote_tmp": str(tmp_path)}
        with patch_module_args(args), pytest.raises(SystemExit):
            ca_certificates.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def test_added_once(run: Run, tmp_path: Path) -> None:
    result = run(company=FIRST)
    assert (result["changed"], result["rebuilt"]) == (True, True)
    assert (tmp_path / "anchors" / "vicuna-company.crt").read_text(encoding="utf-8") == FIRST
    again = run(company=FIRST)
    assert (again["changed"], again["rebuilt"], again["files"]) == (False, False, [])
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "run\n"


def test_a_renewed_certificate_takes_the_old_ones_place(run: Run, tmp_path: Path) -> None:
    run(company=FIRST)
    assert run(company=SECOND)["changed"]
    assert [path.name for path in (tmp_path / "anchors").iterdir()] == ["vicuna-company.crt"]


def test_what_the_bundle_has_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bundle.crt").write_text(SECOND + FIRST, encoding="utf-8")
    assert not run(company=FIRST)["changed"]
    assert not (tmp_path / "anchors").exists()


def test_check_mode(run: Run, tmp_path: Path) -> None:
    result = run(True, company=FIRST)
    assert (result["changed"], result["rebuilt"]) == (True, False)
    assert not (tmp_path / "anchors").exists()


def test_before_the_tool_is_installed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rebuild").unlink()
    assert run(company=FIRST)["changed"]
    assert not run(company=FIRST)["changed"]
    assert (tmp_path / "anchors" / "vicuna-company.crt").exists()


def test_a_tool_that_passes_over_a_certificate(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rebuild").write_text("#!/bin/sh\n", encoding="utf-8")
    result = run(company=FIRST)
    assert result["failed"]
    assert "still lacks vicuna-company.crt" in result["msg"]


def test_not_a_certificate(run: Run, tmp_path: Path) -> None:
    result = run(company="hello")
    assert result["failed"]
    assert result["msg"].startswith(
        "Found company, which cannot be used as a CA file: it is text without a PEM block. Expected"
    )
    assert not (tmp_path / "anchors").exists()
