"""A host is taken out for a while, by hand, and put back: no request notices, and none reaches it meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import GATEWAYS, SERVING, containers, run, servers, states

pytestmark = pytest.mark.usefixtures("calm")

HOST = "fleet-2"


def served(host: str) -> int:
    return sum(int(servers(gateway)[host]["stot"]) for gateway in GATEWAYS)


def test_a_drained_host_gets_no_request_until_it_is_put_back(traffic: Any) -> None:
    before = containers(HOST)
    with traffic.watch("a host drained, and put back") as watch:
        done = run("playbooks/drain.yml", "--limit", HOST)
        assert done.returncode == 0, done.stdout[-3000:]
        assert f"{HOST}: drained at gateway-1, gateway-2; 0 answers are still running" in " ".join(done.stdout.split())
        assert all(state.startswith("DRAIN") for state in states(HOST))
        counted = served(HOST)
        watch.rest(watch.passed() + 5)
        assert served(HOST) == counted
        again = run("playbooks/drain.yml", "--limit", HOST)
        assert (again.returncode, "changed=0" in again.stdout) == (0, True), again.stdout[-3000:]
        back = run("playbooks/drain.yml", "--limit", HOST, drain_state="ready")
        assert back.returncode == 0, back.stdout[-3000:]
        watch.rest(watch.passed() + 5)
    assert states(HOST) == {"UP"}
    assert served(HOST) > counted
    assert containers(HOST) == before
    assert watch.figures["failed"] == 0, watch.figures


def test_the_whole_fleet_is_not_drained_by_a_slip(traffic: Any) -> None:
    done = run("playbooks/drain.yml")
    assert done.returncode == 2, done.stdout[-3000:]
    assert "Found every serving host of the fleet in this run." in " ".join(done.stdout.split())
    assert {status for host in SERVING for status in states(host)} == {"UP"}
