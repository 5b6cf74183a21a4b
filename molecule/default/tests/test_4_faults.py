"""A service that is killed, and a host that restarts, come back without help."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

HOST = "debian-13"


def on_host(*command: str) -> str:
    return subprocess.run(
        ["docker", "exec", f"vicuna-sandbox-{HOST}", *command], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@pytest.mark.parametrize("service", ["model-worker", "controller", "api-server", "edge"])
def test_a_killed_process_comes_back(endpoints: Any, service: str) -> None:
    pid = on_host("docker", "inspect", "--format", "{{.State.Pid}}", f"vicuna-{service}-1")
    on_host("kill", "-9", pid)
    assert endpoints[HOST].wait_for_answer(30) <= 30


def test_a_killed_worker_container_comes_back(endpoints: Any) -> None:
    on_host("docker", "kill", "vicuna-model-worker-1")
    assert endpoints[HOST].wait_for_answer(30) <= 30


def test_a_stopped_service_stays_stopped(endpoints: Any) -> None:
    """Somebody who stops a service wants it stopped."""
    on_host("docker", "stop", "vicuna-edge-1")
    on_host("sleep", "8")
    assert on_host("docker", "inspect", "--format", "{{.State.Running}}", "vicuna-edge-1") == "false"
    on_host("docker", "start", "vicuna-edge-1")
    assert endpoints[HOST].wait_for_answer(30) <= 30


@pytest.mark.thorough
def test_a_host_comes_back_after_a_restart(endpoints: Any) -> None:
    subprocess.run(["docker", "restart", "--time", "20", f"vicuna-sandbox-{HOST}"], check=True, timeout=90)
    assert endpoints[HOST].wait_for_answer(90) <= 90
