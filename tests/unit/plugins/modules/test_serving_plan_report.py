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

from ansible_collections.vicuna.fleet.plugins.module_utils._serving_plan import serving_plan
from ansible_collections.vicuna.fleet.plugins.modules import serving_plan_report

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(**arguments: Any) -> dict[str, Any]:
        with patch_module_args({"_ansible_remote_tmp": str(tmp_path), **arguments}), pytest.raises(SystemExit):
            serving_plan_report.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The module's warnings; Ansible itself tells each only once in a process."""
    found: list[str] = []
    monkeypatch.setattr("ansible.module_utils.basic.AnsibleModule.warn", lambda _self, text: found.append(text))
    return found


def bad() -> dict[str, Any]:
    return serving_plan({"model_error": "Found none. Expected one. Mend it."}, {"device": "cpu"})


def test_a_report(run: Run, tmp_path: Path, warned: list[str]) -> None:
    path = tmp_path / "new" / "preflight.json"
    good = {**bad(), "fits": True, "problems": []}
    result = run(plans={"b": good, "a": bad(), "c": {}}, path=str(path), warn=True)
    assert (result["changed"], result["ok"], result["msg"]) == (False, False, "1 of 3 hosts fit")
    assert [line.split()[0] for line in result["table"]] == ["HOST", "a", "b", "c", "a:"]
    assert warned == ["a does not fit: Found none. Expected one. Mend it."]
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["ok"], set(report["hosts"])) == (False, {"a", "b", "c"})
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["preflight.json"]


def test_all_fit(run: Run, warned: list[str]) -> None:
    result = run(plans={"z": {**bad(), "fits": True, "problems": []}}, warn=True)
    assert result["ok"] is True
    assert warned == []


def test_no_warning_where_the_host_fails_anyway(run: Run, warned: list[str]) -> None:
    assert run(plans={"a": bad()})["ok"] is False
    assert warned == []


def test_a_place_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(plans={}, path=str(tmp_path / "file" / "report.json"))
    assert result["failed"]
    assert "preflight_report" in result["msg"]
