"""A running fleet is brought to another release and back, and no request notices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scenario import GATEWAYS, NEW, OLD, SERVING, containers, on, recap, release, revision, run, servers

pytestmark = pytest.mark.usefixtures("calm")

OLD_COMMIT: dict[str, str] = {}


def old_commit() -> str:
    """The whole id of the older commit, as the hub tells it."""
    if not OLD_COMMIT:
        found = on(SERVING[0], "git ls-remote http://hub/lmsys/vicuna-tiny refs/heads/previous").split()[0]
        assert found.startswith(OLD)
        OLD_COMMIT["id"] = found
    return OLD_COMMIT["id"]


@pytest.mark.fast
def test_every_host_gets_its_share(traffic: Any) -> None:
    before = {gateway: servers(gateway) for gateway in GATEWAYS}
    with traffic.watch("calm") as watch:
        watch.rest(15)
    after = {gateway: servers(gateway) for gateway in GATEWAYS}
    served = {
        host: sum(int(after[gateway][host]["stot"]) - int(before[gateway][host]["stot"]) for gateway in GATEWAYS)
        for host in SERVING
    }
    assert watch.figures["failed"] == 0, watch.figures
    assert watch.figures["streams"] > 0
    assert min(served.values()) * 6 > sum(served.values()), served


def test_a_second_run_touches_nothing(traffic: Any) -> None:
    before = {host: containers(host) for host in SERVING}
    with traffic.watch("site.yml, nothing to do") as watch:
        done = run("site.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    assert {counts["changed"] for counts in recap(done.stdout).values()} == {0}, done.stdout[-1500:]
    assert set(recap(done.stdout)) >= {*SERVING, *GATEWAYS}
    assert {host: containers(host) for host in SERVING} == before
    assert watch.figures["failed"] == 0, watch.figures


@pytest.mark.fast
def test_the_status_of_a_healthy_fleet(tmp_path: Path) -> None:
    done = run("playbooks/status.yml", status_report_dir=str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:]
    told = json.loads((tmp_path / "status.json").read_text())
    assert (told["status"], told["exit_code"]) == ("healthy", 0)
    assert {host["host"]: host["commit"] for host in told["hosts"]} == dict.fromkeys(SERVING, NEW)
    assert all(host["answered"]["tokens_per_second"] > 0 and host["drift"] == [] for host in told["hosts"])
    assert {state for gateway in told["gateways"] for state in gateway["servers"].values()} == {"up"}
    assert "<html" in (tmp_path / "status.html").read_text()


@pytest.mark.fast
def test_a_rolling_update_of_all_hosts_fails_no_request(traffic: Any) -> None:
    assert {revision(host) for host in SERVING} == {NEW}
    with traffic.watch("rolling update of all hosts") as watch:
        done = run("playbooks/rollout.yml", vicuna_model_revision=old_commit())
        watch.extra["rollout_s"] = round(watch.passed(), 1)
    assert done.returncode == 0, done.stdout[-4000:]
    assert {revision(host) for host in SERVING} == {old_commit()}
    for host in SERVING:
        record = release(host)
        assert record["pending"] is None
        assert record["releases"][record["current"]]["model"]["commit"] == old_commit()
        kept = [record["releases"][name]["model"]["commit"] for name in record["good"]]
        assert kept[:2] == [old_commit(), NEW], "the release before is kept"
    assert watch.figures["failed"] == 0, watch.figures
    assert watch.figures["streams"] > 0
