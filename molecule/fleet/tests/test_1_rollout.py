"""A running fleet is brought to another release and back, and no request notices."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import GATEWAYS, NEW, OLD, SERVING, containers, on, recap, release, revision, run, servers

pytestmark = pytest.mark.usefixtures("calm")

OLD_COMMIT: dict[str, str] = {}


def old_commit() -> str:
    """The whole id of the older commit, as the hub tells it."""
    if not OLD_COMMIT:
        found = on("fleet-1", "git ls-remote http://hub/lmsys/vicuna-tiny refs/heads/previous").split()[0]
        assert found.startswith(OLD)
        OLD_COMMIT["id"] = found
    return OLD_COMMIT["id"]


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
        assert len(record["good"]) == 2, "the release before is kept"
    assert watch.figures["failed"] == 0, watch.figures
    assert watch.figures["streams"] > 0


def test_back_to_the_release_before_without_a_failed_request(traffic: Any) -> None:
    # Nothing can come from the hub meanwhile: the origin's name leads nowhere.
    for host in SERVING:
        on(host, "cp /etc/hosts /run/hosts.before && echo '192.0.2.254 hub' >> /etc/hosts")
    try:
        with traffic.watch("rollback of all hosts") as watch:
            done = run("playbooks/rollback.yml")
            watch.extra["rollback_s"] = round(watch.passed(), 1)
    finally:
        for host in SERVING:
            on(host, "cat /run/hosts.before > /etc/hosts")
    assert done.returncode == 0, done.stdout[-4000:]
    assert {revision(host) for host in SERVING} == {NEW}
    assert watch.figures["failed"] == 0, watch.figures
