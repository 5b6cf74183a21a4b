"""A rolling update that is cut off: the fleet serves on with what it has, and the next run finishes the job.

It goes from the older commit, which test_1_rollout has brought, to the inventory's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest
from scenario import NEW, ROOT, SERVING, containers, on, playbook, recap, release, revision, run, states, wait_for
from test_1_rollout import old_commit

ROLLOUT = "playbooks/rollout.yml"


def begin_rollout(**variables: Any) -> subprocess.Popen[str]:
    command, env = playbook(ROLLOUT, **variables)
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_pending(host: str, process: subprocess.Popen[str]) -> None:
    """Until the new release's files are on the host, and no answer has proven it."""

    def pending() -> bool:
        assert process.poll() is None, process.communicate()[0][-3000:]
        return bool(release(host)["pending"])

    wait_for(pending, 240, f"a release pending on {host}")


@pytest.mark.usefixtures("calm")
def test_the_control_node_is_killed(traffic: Any) -> None:
    before = {host: containers(host) for host in SERVING[1:]}
    with traffic.watch("control node killed in a rolling update") as watch:
        process = begin_rollout()
        wait_for_pending("fleet-1", process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        watch.rest(watch.passed() + 5)
    assert {host: containers(host) for host in SERVING[1:]} == before
    assert release("fleet-1")["pending"], "nobody has proven it"
    assert watch.figures["failed"] == 0, watch.figures


def test_the_next_run_goes_on_without_a_host_that_it_does_not_reach(traffic: Any) -> None:
    before = containers("fleet-2")
    # Ansible keeps its connections open for a minute.
    on("fleet-2", "systemctl stop ssh.service; pkill -KILL --full '^sshd(-session)?: ' || true")
    try:
        with traffic.watch("rolling update without one host") as watch:
            done = run(ROLLOUT)
    finally:
        on("fleet-2", "systemctl start ssh.service")
    assert done.returncode == 4, done.stdout[-4000:]
    assert recap(done.stdout)["fleet-2"]["unreachable"] == 1
    assert {host: revision(host) for host in SERVING} == {
        "fleet-1": NEW,
        "fleet-2": old_commit(),
        "fleet-3": NEW,
    }
    assert {release(host)["pending"] for host in SERVING} == {None}
    assert containers("fleet-2") == before
    assert watch.figures["failed"] == 0, watch.figures


def test_a_host_that_restarts_while_it_is_updated_is_finished_by_the_next_run(traffic: Any) -> None:
    with traffic.watch("a host restarted in its update") as watch:
        process = begin_rollout()
        wait_for_pending("fleet-2", process)
        assert "UP" not in states("fleet-2")
        subprocess.run(["docker", "restart", "--time", "5", "vicuna-sandbox-fleet-2"], check=True, timeout=90)
        output, _none = process.communicate(timeout=600)
        watch.extra["exit_code"] = process.returncode
        again = run(ROLLOUT)
    assert process.returncode in (0, 2, 4), output[-4000:]
    assert again.returncode == 0, again.stdout[-4000:]
    assert {revision(host) for host in SERVING} == {NEW}
    assert {release(host)["pending"] for host in SERVING} == {None}
    assert watch.figures["failed"] == 0, watch.figures
