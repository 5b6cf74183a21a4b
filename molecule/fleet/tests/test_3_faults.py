"""One host is lost, in every way that the sandbox can lose one: requests fail within 10 s of it, and none after.

None fails either when the host comes back.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scenario import GATEWAYS, GRACE, SERVING, on, run, servers, states, wait_all_up, wait_for

pytestmark = pytest.mark.usefixtures("calm")

# How long the fleet is watched while the fault lasts.
LASTS = 12.0
WORKER = "$(docker inspect --format '{{.State.Pid}}' vicuna-model-worker-1)"


def kill_worker(host: str) -> None:
    on(host, f"kill -9 {WORKER}")


def stop_worker(host: str) -> None:
    """It keeps its connections, takes new ones, and never answers."""
    # Not by `docker kill`: the engine would take it for a wish to stop, and leave it down after a restart of the host.
    on(host, f"kill -STOP {WORKER}")


def wake_worker(host: str) -> None:
    on(host, f"kill -CONT {WORKER}")


def restart_engine(host: str) -> None:
    on(host, "systemctl restart docker")


def restart_host(host: str) -> None:
    subprocess.run(["docker", "restart", "--time", "20", f"vicuna-sandbox-{host}"], check=True, timeout=90)


def crash_host(host: str) -> None:
    """As when the power is cut: nothing says goodbye."""
    subprocess.run(["docker", "kill", f"vicuna-sandbox-{host}"], check=True, timeout=30)


def start_host(host: str) -> None:
    subprocess.run(["docker", "start", f"vicuna-sandbox-{host}"], check=True, timeout=60)


def rules(host: str, action: str, ways: str) -> None:
    """Drop packets between the host and the gateways. SSH and the hub are left alone."""
    for gateway in GATEWAYS:
        address = on(host, f"getent hosts vicuna-sandbox-{gateway}").split()[0]
        if "in" in ways:
            on(host, f"iptables -t mangle -{action} PREROUTING -s {address} -j DROP")
        if "out" in ways:
            on(host, f"iptables -t mangle -{action} POSTROUTING -d {address} -j DROP")


def cut(ways: str) -> Callable[[str], None]:
    return lambda host: rules(host, "I", ways)


def mend(ways: str) -> Callable[[str], None]:
    return lambda host: rules(host, "D", ways)


def taken_out(host: str) -> bool:
    return all(state.startswith("DOWN") for state in states(host))


@dataclass(frozen=True)
class Fault:
    """What happens to which host, and how it is mended where it does not mend itself."""

    host: int  # its place in the inventory
    strike: Callable[[str], None]
    heal: Callable[[str], None] | None = None
    # Whether the gateways have to take the host out; a worker that is back at once may stay in.
    taken_out: bool = True
    # Whether Ansible does not reach it either: the fleet's status says so.
    lost: bool = False


FAULTS = {
    "worker killed": Fault(0, kill_worker, taken_out=False),
    "worker hung": Fault(1, stop_worker, wake_worker),
    "engine restarted": Fault(2, restart_engine, taken_out=False),
    "host restarted": Fault(1, restart_host, taken_out=False),
    "host lost its power": Fault(2, crash_host, start_host, lost=True),
    "network cut both ways": Fault(0, cut("in out"), mend("in out")),
    # Requests arrive and answers do not: connections look fine from the host.
    "network cut one way": Fault(2, cut("out"), mend("out")),
}


FAST = ("worker killed", "worker hung")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.fast] * (name in FAST)) for name in FAULTS])
def test_a_lost_host_costs_ten_seconds_at_most(traffic: Any, name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    host = SERVING[fault.host % len(SERVING)]
    addresses = {gateway: servers(gateway)[host]["addr"] for gateway in GATEWAYS}
    with traffic.watch(name) as watch:
        watch.rest(2)
        watch.strike()
        fault.strike(host)
        watch.extra["fault_took_s"] = round(watch.passed(), 2)
        try:
            if fault.taken_out:
                wait_for(lambda: taken_out(host), GRACE, "the gateways take the host out")
                watch.extra["out_after_s"] = round(watch.passed(), 2)
            if fault.lost:
                done = run("playbooks/status.yml", status_report_dir=str(tmp_path))
            watch.rest(LASTS)
        finally:
            if fault.heal:
                fault.heal(host)
        watch.extra["back_after_s"] = round(wait_all_up(), 2)
        # Until the host has answered again.
        watch.rest(watch.passed() + 3)
    if fault.lost:
        assert done.returncode == 1, done.stdout[-3000:]
        told = json.loads((tmp_path / "status.json").read_text())
        assert told["status"] == "degraded"
        assert [each["host"] for each in told["hosts"] if each["state"] == "down"] == [host]
    assert {gateway: servers(gateway)[host]["addr"] for gateway in GATEWAYS} == addresses
    assert watch.failures(after=GRACE) == [], watch.figures
    assert watch.figures["longest_gap_s"] < GRACE, watch.figures
    assert watch.figures["ok"] > 0.8 * traffic.rate * watch.figures["seconds"], watch.figures
