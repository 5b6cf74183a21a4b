# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health check neither ends a worker that loads nor leaves one that the controller forgot."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[4] / "roles/fastchat/files/image/healthcheck.py"
ADDRESS = "http://model-worker-2:21002"


class Stack:
    """The worker's and the controller's answers; a fake of both, and of the process that would be ended."""

    def __init__(self, module: Any, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
        self.module = module
        self.loaded = True
        self.known: bool | None = True
        self.signals: list[tuple[int, int]] = []
        self.paths: list[str] = []
        monkeypatch.setattr(module, "ask", self.ask)
        monkeypatch.setattr(module, "STATE", state)
        monkeypatch.setattr(module.os, "kill", lambda pid, number: self.signals.append((pid, number)))

    def ask(self, host: str, port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        self.paths.append(path)
        if path == "/worker_get_status":
            if not self.loaded:
                raise ConnectionRefusedError("Connection refused")
            return {"model_names": ["vicuna"], "queue_length": 3}
        if self.known is None:
            raise ConnectionRefusedError("Connection refused")
        assert (host, path) == ("controller", "/receive_heart_beat")
        assert body == {"worker_name": ADDRESS, "queue_length": 3}
        return {"exist": self.known}

    def check(self) -> int:
        return int(self.module.main(["model-worker", ADDRESS]))


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stack:
    spec = importlib.util.spec_from_file_location("healthcheck", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Stack(module, monkeypatch, tmp_path / "known")


def test_a_known_worker_is_well(stack: Stack) -> None:
    assert stack.check() == 0
    assert "/v1/models" not in stack.paths


def test_a_loading_worker_is_never_ended(stack: Stack) -> None:
    stack.loaded, stack.known = False, False
    assert [stack.check() for _ in range(50)] == [1] * 50
    stack.loaded = True  # it answers, and is not known yet
    assert [stack.check() for _ in range(50)] == [1] * 50
    assert stack.signals == []


def test_a_forgotten_worker_is_ended_at_the_third_check(stack: Stack) -> None:
    assert stack.check() == 0
    stack.known = False
    assert [stack.check(), stack.check()] == [1, 1]
    assert stack.signals == []
    assert stack.check() == 1
    assert stack.signals == [(1, signal.SIGTERM)]


def test_a_gap_that_closes_starts_the_count_anew(stack: Stack) -> None:
    for known in (True, False, False, True, False, False):
        stack.known = known
        stack.check()
    assert stack.signals == []


def test_a_controller_that_is_down_is_no_reason_to_end_the_worker(stack: Stack) -> None:
    stack.check()
    stack.known = None
    assert [stack.check() for _ in range(10)] == [1] * 10
    assert stack.signals == []


def test_an_unknown_service_is_named(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert stack.module.main(["nothing"]) == 1
    assert "expected controller, api-server or model-worker" in capsys.readouterr().out
