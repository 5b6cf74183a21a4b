# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health check neither ends a worker that loads nor leaves one that the controller forgot.

It says whose fault it is, which the host's watcher goes by.
"""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[4] / "roles/fastchat/files/image/healthcheck.py"
ADDRESS = "http://model-worker-2:21002"


# What the host's watcher restarts, and what it leaves alone.
WELL, UNWELL, NOT_ITS_FAULT = 0, 1, 3


class Stack:
    """The worker's and the controller's answers; a fake of both, and of the process that would be ended."""

    def __init__(self, module: Any, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
        self.module = module
        self.own: Exception | None = None  # what stands in the way of the worker's own answer
        self.known: bool | Exception = True
        self.signals: list[tuple[int, int]] = []
        self.paths: list[str] = []
        monkeypatch.setattr(module, "ask", self.ask)
        monkeypatch.setattr(module, "STATE", state)
        monkeypatch.setattr(module.os, "kill", lambda pid, number: self.signals.append((pid, number)))

    def ask(self, host: str, port: int, path: str, body: dict[str, Any] | None = None) -> Any:
        self.paths.append(path)
        if path == "/worker_get_status":
            if self.own:
                raise self.own
            return {"model_names": ["vicuna"], "queue_length": 3}
        assert (host, port, path) == ("controller", 21001, "/receive_heart_beat")
        assert body == {"worker_name": ADDRESS, "queue_length": 3}
        if isinstance(self.known, Exception):
            raise self.known
        return {"exist": self.known}

    def check(self, times: int = 1) -> list[int]:
        return [int(self.module.main(["model-worker", ADDRESS])) for _time in range(times)]


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stack:
    spec = importlib.util.spec_from_file_location("healthcheck", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Stack(module, monkeypatch, tmp_path / "known")


def test_a_known_worker_is_well(stack: Stack) -> None:
    assert stack.check() == [WELL]
    assert "/v1/models" not in stack.paths


def test_a_loading_worker_is_never_ended(stack: Stack) -> None:
    stack.own, stack.known = ConnectionRefusedError("Connection refused"), False
    assert stack.check(50) == [NOT_ITS_FAULT] * 50
    stack.own = None  # it answers, and is not known yet
    assert stack.check(50) == [NOT_ITS_FAULT] * 50
    assert stack.signals == []


@pytest.mark.parametrize("error", [TimeoutError("timed out"), ConnectionResetError("reset"), ValueError("500")])
def test_a_worker_that_does_not_answer_can_be_helped(
    stack: Stack, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.own = error
    assert stack.check() == [UNWELL]
    assert f"the worker does not answer: {type(error).__name__}" in capsys.readouterr().out
    assert stack.paths == ["/worker_get_status"], "what the controller says does not matter then"


def test_a_worker_that_served_and_listens_no_more_is_not_loading(stack: Stack) -> None:
    """It was told to end, and an answer without end keeps it."""
    stack.check()
    stack.own = ConnectionRefusedError("Connection refused")
    assert stack.check(2) == [UNWELL] * 2
    assert stack.signals == []


def test_a_forgotten_worker_is_ended_at_the_fifth_check(stack: Stack) -> None:
    """Five checks of 5 s: one that is well is back at a restarted controller within 10 s."""
    assert stack.check() == [WELL]
    stack.known = False
    assert stack.check(4) == [NOT_ITS_FAULT] * 4
    assert stack.signals == []
    assert stack.check() == [NOT_ITS_FAULT]
    assert stack.signals == [(1, signal.SIGTERM)]
    stack.own = ConnectionRefusedError("Connection refused")
    assert stack.check() == [UNWELL], "it ends, or it is restarted"


def test_a_gap_that_closes_starts_the_count_anew(stack: Stack) -> None:
    for known in (True, *[False] * 4, True, *[False] * 4):
        stack.known = known
        stack.check()
    assert stack.signals == []


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        ConnectionRefusedError("refused"),
        OSError("Name or service not known"),
        KeyError("exist"),
    ],
)
def test_a_silent_controller_is_not_the_workers_fault(stack: Stack, error: Exception) -> None:
    stack.check()
    stack.known = error
    assert stack.check(10) == [NOT_ITS_FAULT] * 10
    assert stack.signals == []
    stack.known = True
    assert stack.check() == [WELL]
