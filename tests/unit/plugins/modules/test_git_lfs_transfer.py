# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's transfers: in a process of their own, killed and taken up again, joined, and among several hosts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_peers import stop
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import BLOCK
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_transfer import parse_peers

from ..fake_hub import TOKEN, FakeHub
from .test_git_lfs import oid, run_module

NAME = "org/vicuna-test"
WEIGHTS = os.urandom(20 * BLOCK + 123)
FILES = {
    ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs\n",
    "config.json": b"{}\n",
    "model.safetensors": WEIGHTS,
}
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(hub: FakeHub, tmp_path: Path) -> Iterator[Run]:
    """The module, for a host of the fleet that is a directory."""
    hosts: set[str] = set()

    def module(commit: str, host: str = "a", **more: Any) -> dict[str, Any]:
        hosts.add(host)
        arguments = {
            "repo": more.pop("repo", f"{hub.url}/{NAME}"),
            "revision": commit,
            "dest": str(tmp_path / host / "vicuna"),
            "side_by_side": True,
            **more,
        }
        said = run_module(arguments, tmp_path / f"scratch-{host}").communicate(timeout=60)[0]
        result: dict[str, Any] = json.loads(said)
        return result

    yield module
    for host in hosts:
        stop(tmp_path / host / ".lfs")


def ended(job: dict[str, Any], seconds: float = 30) -> dict[str, Any]:
    """The last progress of a job."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if Path(job["progress"]).exists():
            progress: dict[str, Any] = json.loads(Path(job["progress"]).read_text())
            if progress["state"] in ("done", "failed"):
                return progress
        time.sleep(0.05)
    raise AssertionError("the job has not ended in time")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- a process of its own


def test_a_job_brings_what_is_missing_and_a_second_run_links_it(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    commit = hub.commit(NAME, FILES)
    look = run(commit, fetch=False)
    assert (look["changed"], look["missing_bytes"], hub.sent) == (False, len(WEIGHTS), 0)
    first = run(commit, wait=False)
    assert first["missing_bytes"] == len(WEIGHTS)
    assert not (tmp_path / "a/vicuna").exists(), "the link is switched when everything is there"
    progress = ended(first["job"])
    assert (progress["state"], progress["pid"], progress["from_origin"]) == ("done", first["job"]["pid"], len(WEIGHTS))
    assert (progress["done_bytes"], progress["total_bytes"]) == (len(WEIGHTS), len(WEIGHTS))
    last = run(commit, fetch=False)
    assert (last["changed"], last["missing_bytes"]) == (True, 0)
    assert (tmp_path / "a/vicuna/model.safetensors").read_bytes() == WEIGHTS
    assert hub.sent == len(WEIGHTS)
    assert not run(commit)["changed"]


def test_the_caller_need_not_wait_for_the_job_to_end(hub: FakeHub, run: Run) -> None:
    commit = hub.commit(NAME, FILES)
    hub.pace = 0.05
    started = time.monotonic()
    job = run(commit, wait=False)["job"]
    assert time.monotonic() - started < 3.0, "the job holds none of the caller's pipes"
    assert os.getsid(job["pid"]) != os.getsid(0)
    assert ended(job)["state"] == "done"


def test_a_killed_job_is_taken_up(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    commit = hub.commit(NAME, FILES)
    hub.pace = 0.03
    job = run(commit, wait=False, connections=2)["job"]
    part = tmp_path / "a/.lfs/vicuna-fleet/parts" / oid(WEIGHTS)
    while hub.sent < len(WEIGHTS) // 2:
        time.sleep(0.02)
    os.kill(job["pid"], signal.SIGKILL)
    assert part.exists()
    time.sleep(0.3)
    before, hub.pace = hub.sent, 0.0
    result = run(commit)
    assert result["changed"]
    assert (tmp_path / "a/vicuna/model.safetensors").read_bytes() == WEIGHTS
    again = result["downloaded_bytes"] - (len(WEIGHTS) - before)
    assert again <= 4 * BLOCK, "two connections were in the middle of a block, and the server ahead of them"
    assert not part.exists()


def test_a_second_run_joins_a_job_that_is_at_work(hub: FakeHub, run: Run) -> None:
    commit = hub.commit(NAME, FILES)
    hub.pace = 0.1
    first = run(commit, wait=False)
    look = run(commit, fetch=False)
    assert look["missing_bytes"] > 0
    assert not look["changed"]
    assert run(commit, wait=False)["job"] == first["job"]
    assert ended(first["job"])["state"] == "done"
    assert hub.sent == len(WEIGHTS)


def test_a_job_tells_why_it_failed_and_keeps_what_came(hub: FakeHub, run: Run) -> None:
    commit = hub.commit(NAME, FILES)
    hub.damaged.add(oid(WEIGHTS))
    progress = ended(run(commit, wait=False)["job"])
    assert (progress["state"], progress["cause"]) == ("failed", "damaged_transfer")
    assert progress["msg"].startswith("Found: ")
    assert "model.safetensors" in progress["msg"]


def test_the_token_is_in_no_file_of_the_store(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    gated = "gated/vicuna-test"
    commit = hub.commit(gated, FILES)
    hub.pace = 0.02
    job = run(commit, repo=f"{hub.url}/{gated}", token=TOKEN, wait=False)["job"]
    assert TOKEN not in Path(f"/proc/{job['pid']}/cmdline").read_text()
    found = subprocess.run(["grep", "-r", TOKEN, str(tmp_path / "a")], capture_output=True, check=False)
    assert found.stdout == b""
    assert ended(job)["state"] == "done"


def test_a_large_object_takes_little_memory(hub: FakeHub, run: Run) -> None:
    commit = hub.commit(NAME, FILES)
    hub.pace = 0.02
    job = run(commit, wait=False)["job"]
    most = 0
    while (status := Path(f"/proc/{job['pid']}/status")).exists() and hub.sent < len(WEIGHTS):
        lines = status.read_text().splitlines()
        most = max([most, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
        time.sleep(0.1)
    assert 5_000 < most < 100_000, "KiB, all of Python in it"


# --- several hosts


def peers(names: str, me: str, ports: dict[str, int], **more: Any) -> dict[str, Any]:
    hosts = [{"name": name, "address": "127.0.0.1", "port": ports[name], **more.get(name, {})} for name in names]
    return {"name": me, "address": "127.0.0.1", "port": ports[me], "key": "ab" * 32, "linger": 5, "hosts": hosts}


def test_two_hosts_read_the_origin_once(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    commit = hub.commit(NAME, FILES)
    ports = {name: free_port() for name in "ab"}
    jobs = [run(commit, name, wait=False, peers=peers("ab", name, ports))["job"] for name in "ab"]
    both = [ended(job) for job in jobs]
    assert [one["state"] for one in both] == ["done", "done"]
    assert hub.sent == len(WEIGHTS)
    assert sum(one["from_peers"] for one in both) == len(WEIGHTS)
    for name in "ab":
        assert not run(commit, name, fetch=False)["missing_bytes"]
        assert (tmp_path / name / "vicuna/model.safetensors").read_bytes() == WEIGHTS


def test_a_host_that_has_everything_serves_the_others(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    commit = hub.commit(NAME, FILES)
    run(commit, "a")
    before = hub.sent
    ports = {name: free_port() for name in "ab"}
    whole = {"a": {"whole": True}}
    served = run(commit, "a", wait=False, peers=peers("ab", "a", ports, **whole))
    assert (served["changed"], "job" in served) == (False, False)
    result = run(commit, "b", peers=peers("ab", "b", ports, **whole))
    assert result["downloaded_bytes"] == len(WEIGHTS)
    assert hub.sent == before
    assert (tmp_path / "b/vicuna/model.safetensors").read_bytes() == WEIGHTS


def test_an_address_of_another_host_is_refused_before_anything_is_fetched(hub: FakeHub, run: Run) -> None:
    commit = hub.commit(NAME, FILES)
    ports = {name: free_port() for name in "ab"}
    wrong = {**peers("ab", "a", ports), "address": "192.0.2.7"}
    result = run(commit, peers=wrong)
    assert result["failed"]
    assert result["cause"] == "peer_address"
    assert hub.sent == 0


@pytest.mark.parametrize(
    "option",
    [
        {},
        {"hosts": []},
        peers("a", "a", {"a": 1}),
        {**peers("ab", "a", {"a": 1, "b": 2}), "address": ""},
        {**peers("ab", "a", {"a": 1, "b": 2}), "key": ""},
    ],
)
def test_a_host_without_address_or_company_takes_no_part(option: dict[str, Any]) -> None:
    assert parse_peers(option) is None


@pytest.mark.parametrize(
    "option", [{"hosts": [{}]}, {"hosts": "ab"}, {"name": "a", "port": "x", "hosts": [{"name": "b"}]}]
)
def test_hosts_that_are_not_described_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(GitLfsError) as caught:
        parse_peers(option)
    assert caught.value.problem.cause == "peer_address"


def test_the_key_is_not_shown() -> None:
    found = parse_peers(peers("ab", "a", {"a": 1, "b": 2}))
    assert found is not None
    assert "ab" * 32 not in repr(found)
    assert [peer.name for peer in found.others] == ["b"]
