"""The fleet goes back to what it served before: nothing is downloaded, and no request notices."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import SERVING, on, release, revision, run

pytestmark = pytest.mark.usefixtures("calm")


@pytest.mark.fast
def test_back_to_the_release_before_without_a_failed_request(traffic: Any) -> None:
    records = {host: release(host) for host in SERVING}
    before = {host: record["releases"][record["good"][1]]["model"]["commit"] for host, record in records.items()}
    assert all(commit != revision(host) for host, commit in before.items())
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
    assert {host: revision(host) for host in SERVING} == before
    assert watch.figures["failed"] == 0, watch.figures
