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

from ansible_collections.vicuna.fleet.plugins.modules import fleet_status

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(**arguments: Any) -> dict[str, Any]:
        with patch_module_args({"_ansible_remote_tmp": str(tmp_path), **arguments}), pytest.raises(SystemExit):
            fleet_status.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def host(release: str = "3f2a91c07b1e") -> dict[str, Any]:
    serving = {"release": {"id": release}, "drift": {"files": []}, "unwell": [], "problems": []}
    return {"serving": serving}


def test_two_runs(run: Run, tmp_path: Path) -> None:
    paths = {"json": str(tmp_path / "new" / "status.json"), "html": str(tmp_path / "new" / "status.html")}
    first = run(hosts={"a": host(), "b": host()}, **paths)
    assert (first["status"], first["exit_code"], first["changed"], first["changes"]) == ("healthy", 0, False, [])
    assert first["msg"] == "healthy: 2 of 2 hosts serving"
    assert first["reports"] == list(paths.values())
    second = run(hosts={"a": host("90ad11c2e7f4"), "c": {"unreachable": True}}, **paths)
    assert (second["status"], second["exit_code"]) == ("degraded", 1)
    assert [line for line in second["table"] if line.startswith("since")] == [
        "since the last report: a: release 3f2a91c07b1e -> 90ad11c2e7f4",
        "since the last report: b is gone",
        "since the last report: c is new",
    ]
    report = json.loads(Path(paths["json"]).read_text())
    assert report["changes"] == second["changes"]
    assert [entry["state"] for entry in report["hosts"]] == ["ok", "down"]
    page = Path(paths["html"]).read_text()
    assert "b is gone" in page
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["status.html", "status.json"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o644}


def test_nothing_is_written_unasked(run: Run, tmp_path: Path) -> None:
    result = run(hosts={"a": {"unreachable": True}})
    assert (result["status"], result["exit_code"], result["reports"]) == ("down", 2, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"endpoints": []}', '{"hosts": [{}]}'])
def test_a_foreign_report_is_not_fatal(run: Run, tmp_path: Path, content: str) -> None:
    path = tmp_path / "status.json"
    path.write_text(content)
    result = run(hosts={"a": host()}, json=str(path))
    assert result["status"] == "healthy"
    assert len([line for line in result["table"] if "last report" in line]) == 1
    assert json.loads(path.read_text())["status"] == "healthy"


def test_a_folder_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(hosts={"a": host()}, json=str(tmp_path / "file" / "status.json"))
    assert result["failed"]
    assert "Remedy: choose another status_report_dir." in result["msg"]
    assert "exit_code" not in result


def test_gateways(run: Run) -> None:
    probe = {"running": True, "servers": [{"name": "a", "state": "up"}]}
    answer = {"completion": {"usage": {"completion_tokens": 4}}, "latency": 0.1}
    result = run(hosts={"a": host()}, answers={"a": answer}, gateways={"g": probe}, gateway_answers={"g": answer})
    assert result["msg"] == "healthy: 1 of 1 host serving, 1 of 1 gateway answering"
    result = run(hosts={"a": host()}, answers={"a": answer}, gateways={"g": {**probe, "running": False}})
    assert (result["status"], result["exit_code"]) == ("degraded", 1)
