# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module does to a runtime API that is a fake; tests/unit/roles/gateway has it before a real HAProxy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.module_utils._haproxy import HaproxyDown, HaproxyError, Server
from ansible_collections.vicuna.fleet.plugins.modules import gateway_server

Run = Callable[..., dict[str, Any]]
UP = Server("gpu-1", "10.0.0.1:8000", False, False, True, "Layer7 check passed, code 200", 0, 0, 9)


class FakeRuntime:
    """One server; each look takes the next of what is to be seen, the last one stays."""

    def __init__(self, *seen: Server | Exception) -> None:
        self.seen = list(seen)
        self.told: list[str] = []
        self.saved: list[str] = []

    def servers(self, backend: str) -> list[Server]:
        assert backend == "vicuna"
        now = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        if isinstance(now, Exception):
            raise now
        return [now]

    def tell(self, command: str) -> None:
        self.told.append(command)

    def save_state(self, path: str) -> None:
        self.saved.append(path)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(fake: FakeRuntime, **arguments: Any) -> dict[str, Any]:
        monkeypatch.setattr(gateway_server, "Runtime", lambda *_paths: fake)
        monkeypatch.setattr(gateway_server, "POLL", 0.01)
        given = {"state_file": str(tmp_path / "state"), "_ansible_remote_tmp": str(tmp_path), **arguments}
        with patch_module_args(given), pytest.raises(SystemExit):
            gateway_server.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def test_it_waits_until_nothing_runs(run: Run, tmp_path: Path) -> None:
    draining = replace(UP, draining=True)
    fake = FakeRuntime(UP, replace(draining, sessions=2), replace(draining, queued=1), draining)
    result = run(fake, name="gpu-1", state="drained", timeout=5)
    assert fake.told == ["set server vicuna/gpu-1 state drain"]
    assert fake.saved == [str(tmp_path / "state")]
    assert (result["changed"], result["drained"], result["state"], result["sessions"]) == (True, True, "drain", 0)


def test_its_patience_ends(run: Run) -> None:
    fake = FakeRuntime(replace(UP, draining=True, sessions=2))
    result = run(fake, name="gpu-1", state="drained", timeout=0)
    assert (result["changed"], result["drained"], result["sessions"], fake.told) == (False, False, 2, [])


def test_ready(run: Run) -> None:
    fake = FakeRuntime(replace(UP, draining=True), replace(UP, running=False), UP)
    result = run(fake, name="gpu-1", state="ready", timeout=5)
    assert fake.told == ["set server vicuna/gpu-1 state ready"]
    assert (result["changed"], result["state"], result["drained"]) == (True, "up", False)
    assert not run(FakeRuntime(UP), name="gpu-1", state="ready")["changed"]


def test_ready_and_not_well(run: Run) -> None:
    ill = replace(UP, running=False, check="Layer7 wrong status, code 503")
    failed = run(FakeRuntime(ill), name="gpu-1", state="ready", timeout=1)
    assert failed["failed"] and "Found gpu-1 down" in failed["msg"] and "code 503" in failed["msg"]
    assert run(FakeRuntime(ill), name="gpu-1", state="ready", timeout=0)["state"] == "down"


def test_maintenance_is_drained_and_ends_with_ready(run: Run) -> None:
    resting = replace(UP, maintenance=True)
    assert run(FakeRuntime(resting), name="gpu-1", state="probe")["drained"]
    assert run(FakeRuntime(resting, UP), name="gpu-1", state="ready")["changed"]


@pytest.mark.parametrize("state", ["drained", "ready", "probe"])
def test_no_haproxy_sends_nothing(run: Run, state: str) -> None:
    result = run(FakeRuntime(HaproxyDown("nobody")), name="gpu-1", state=state)
    assert (result["changed"], result["running"], result["state"], result["drained"]) == (False, False, "absent", True)


def test_a_haproxy_that_refuses_fails(run: Run) -> None:
    result = run(FakeRuntime(HaproxyError("permission denied")), name="gpu-1", state="drained")
    assert result["failed"] and "permission denied" in result["msg"]


def test_all_servers(run: Run) -> None:
    result = run(FakeRuntime(UP))
    assert [(server["name"], server["state"], server["since"]) for server in result["servers"]] == [("gpu-1", "up", 9)]
    assert "drained" not in result
    assert run(FakeRuntime(UP), state="drained")["failed"]


def test_check_mode_tells_nothing(run: Run) -> None:
    fake = FakeRuntime(UP)
    result = run(fake, name="gpu-1", state="drained", _ansible_check_mode=True, _ansible_diff=True)
    assert (result["changed"], fake.told, fake.saved) == (True, [], [])
    assert result["diff"] == {"before": "gpu-1: up\n", "after": "gpu-1: drain\n"}
