# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vicuna.fleet.plugins.module_utils import _fleet_status as fleet

NOW = datetime(2026, 11, 22, 20, 0, 0, tzinfo=timezone.utc)
COMMIT = "3321f76e3f527bd14065daf69dad9344000a201d"
IMAGE = "sha256:" + "ab" * 32
LOST = {"unreachable": True, "msg": "Connection timed out"}
ANSWER: dict[str, Any] = {"completion": {"usage": {"completion_tokens": 20}}, "latency": 0.5}
NO_ANSWER: dict[str, Any] = {"failed": True, "diagnosis": {"cause": "no worker is registered", "remedy": "Wait."}}
SKIPPED = {"skipped": True, "changed": False}


def look(**changes: Any) -> dict[str, Any]:
    """What serving_info returns of a host that is well; a change of a.b is of the inner part."""
    serving: dict[str, Any] = {
        "release": {
            "id": "3f2a91c07b1e",
            "pending": False,
            "verified": "2026-11-20T20:00:00Z",
            "tokens_per_second": 39.9,
            "commit": COMMIT,
            "failed": None,
        },
        "containers": [{"service": "model-worker", "image_id": IMAGE, "revision": COMMIT, "uptime_s": 99}],
        "unwell": [],
        "drift": {"files": [], "images": [], "model": []},
        "queue": 0,
        "gpu": {
            "driver_version": "580.159.04",
            "gpus": [{"name": "NVIDIA H200"}],
            "memory_total_mib": 143771,
            "memory_free_mib": 120000,
            "trouble": "",
        },
        "problems": [],
    }
    for path, value in changes.items():
        part, _, key = path.partition("__")
        if key:
            serving[part][key] = value
        else:
            serving[part] = value
    return {"changed": False, "serving": serving}


def entry(result: dict[str, Any], answer: dict[str, Any] | None = None, **states: str) -> dict[str, Any]:
    gateways = {name: fleet.gateway_entry(name, probe(gpu=state), {}) for name, state in states.items()}
    return fleet.host_entry("gpu", result, ANSWER if answer is None else answer, gateways, NOW)


def probe(running: bool = True, **servers: str) -> dict[str, Any]:
    return {"running": running, "servers": [{"name": name, "state": state} for name, state in servers.items()]}


def test_a_host_that_is_well() -> None:
    found = entry(look(), gateway_1="up")
    assert {key: found[key] for key in ("state", "reasons", "notes", "drift", "gateway")} == {
        "state": "ok",
        "reasons": [],
        "notes": [],
        "drift": [],
        "gateway": "up",
    }
    assert found["answered"] == {
        "at": "2026-11-22T20:00:00+00:00",
        "tokens_per_second": 40.0,
        "latency_s": 0.5,
        "by": "status",
    }
    assert fleet.cells(found, NOW) == (
        "gpu", "3f2a91c07b1e", "3321f76e3f52", "abababababab", "580.159.04", "117.2 GiB", "0", "now", "40.0", "up",
        "none", "ok",
    )  # fmt: skip


DEGRADED: list[tuple[dict[str, Any], str]] = [
    ({"drift__files": ["compose.yaml: content"]}, "drift: compose.yaml: content"),
    ({"drift__images": ["edge runs image a, not b"]}, "drift: edge runs image a, not b"),
    ({"gpu__trouble": "2 GPUs on the bus, and the driver lists 1"}, "GPU: 2 GPUs on the bus"),
    (
        {"release__failed": {"id": "bad", "at": "T", "reason": "slow", "settled": False}},
        "release bad failed at T: slow",
    ),
    ({"release__pending": True}, "release 3f2a91c07b1e has not been verified"),
    ({"problems": [{"about": "files", "message": "the copy is damaged"}]}, "not known: files: the copy is damaged"),
    ({"unwell": ["model-worker-2 is exited"]}, "model-worker-2 is exited"),
]


@pytest.mark.parametrize(("changes", "reason"), DEGRADED)
def test_a_host_that_serves_and_is_not_well(changes: dict[str, Any], reason: str) -> None:
    found = entry(look(**changes))
    assert found["state"] == "degraded"
    assert [line.startswith(reason) for line in found["reasons"]] == [True]


@pytest.mark.parametrize("state", ["down", "drain", "maint"])
def test_a_host_that_a_gateway_leaves_out(state: str) -> None:
    found = entry(look(), gateway_1="up", gateway_2=state)
    assert (found["state"], found["gateway"]) == ("degraded", f"{state}, up")
    assert found["reasons"] == [f"gateway_2 has it as {state}"]


def test_a_host_that_a_gateway_does_not_know() -> None:
    gateway = fleet.gateway_entry("g", probe(other="up"), {})
    assert fleet.host_entry("gpu", look(), ANSWER, {"g": gateway}, NOW)["reasons"] == ["g has it as absent"]


DOWN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (LOST, {}, "unreachable: Connection timed out"),
    ({}, {}, "the host gave no account of itself"),
    ({"failed": True, "msg": "MODULE FAILURE"}, {}, "the host gave no account of itself: MODULE FAILURE"),
    (look(), NO_ANSWER, "no valid answer: no worker is registered. Wait."),
    (look(), {"failed": True, "msg": "Timed out"}, "no valid answer: Timed out"),
    (look(), LOST, "unreachable: Connection timed out"),
    (look(unwell=["edge has no container"]), SKIPPED, "edge has no container"),
    (look(unwell=None, containers=None), {}, ""),
]


@pytest.mark.parametrize(("result", "answer", "reason"), DOWN)
def test_a_host_that_does_not_serve(result: dict[str, Any], answer: dict[str, Any], reason: str) -> None:
    found = entry(result, answer)
    assert found["state"] == "down"
    assert (found["reasons"] or [""])[0] == reason


def test_a_host_that_was_not_asked() -> None:
    found = entry(look(), SKIPPED)
    assert (found["state"], found["asked"]) == ("ok", False)
    assert fleet.cells(found, NOW)[7:9] == ("2 d ago", "39.9")


def test_a_host_that_answers_and_gives_no_account() -> None:
    """It serves; nothing of it is known."""
    found = entry({"failed": True, "msg": "no Python"})
    assert found["state"] == "degraded"
    assert fleet.cells(found, NOW)[1:7] == ("-", "-", "-", "-", "-", "-")
    assert fleet.cells(found, NOW)[10] == "unknown"


def test_a_failure_that_is_settled_is_a_note() -> None:
    found = entry(look(release__failed={"id": "bad", "at": "T", "reason": "", "settled": True}))
    assert (found["state"], found["reasons"]) == ("ok", [])
    assert found["notes"] == ["release bad failed at T; 3f2a91c07b1e was verified after it"]


def test_a_pending_release_that_failed_is_one_reason() -> None:
    failed = {"id": "3f2a91c07b1e", "at": "T", "reason": "", "settled": False}
    assert entry(look(release__pending=True, release__failed=failed))["reasons"] == ["release 3f2a91c07b1e failed at T"]


@pytest.mark.parametrize(
    ("parts", "drift"),
    [
        ({"files": [], "images": []}, []),
        ({"files": None, "images": []}, None),
        ({"files": None, "images": ["x"]}, ["x"]),
        ({}, None),
        (None, None),
    ],
)
def test_drift(parts: Any, drift: Any) -> None:
    assert fleet.drift({"drift": parts}) == drift


GATEWAYS: list[tuple[dict[str, Any], dict[str, Any], str, list[str]]] = [
    (probe(a="up", b="down"), {}, "ok", []),
    (probe(a="up"), ANSWER, "ok", []),
    (probe(a="down"), ANSWER, "degraded", ["none of its servers is up"]),
    (probe(a="drain"), {}, "down", ["none of its servers is up"]),
    (probe(a="up"), NO_ANSWER, "down", ["no valid answer: no worker is registered. Wait."]),
    (probe(running=False), SKIPPED, "down", ["HAProxy does not run"]),
    (probe(), {}, "down", ["it has no servers: run site.yml"]),
    (LOST, {}, "down", ["unreachable: Connection timed out"]),
    ({"failed": True, "msg": "no"}, {}, "down", ["the gateway gave no account of its servers: no"]),
    ({}, {}, "down", ["the gateway gave no account of its servers"]),
]


@pytest.mark.parametrize(("looked", "answer", "state", "reasons"), GATEWAYS)
def test_gateways(looked: dict[str, Any], answer: dict[str, Any], state: str, reasons: list[str]) -> None:
    found = fleet.gateway_entry("g", looked, answer)
    assert (found["state"], found["reasons"]) == (state, reasons)


FLEETS: list[tuple[list[str], list[str], str]] = [
    (["ok"], [], "healthy"),
    (["ok", "ok"], ["ok"], "healthy"),
    (["ok", "degraded"], [], "degraded"),
    (["ok", "down"], [], "degraded"),
    (["degraded"], [], "degraded"),
    (["down", "down"], [], "down"),
    ([], [], "down"),
    (["ok"], ["down"], "down"),
    (["ok"], ["ok", "down"], "degraded"),
    (["ok"], ["degraded"], "degraded"),
    (["down"], ["ok"], "down"),
]


@pytest.mark.parametrize(("hosts", "gateways", "status"), FLEETS)
def test_judge(hosts: list[str], gateways: list[str], status: str) -> None:
    entries = [[{"state": state} for state in states] for states in (hosts, gateways)]
    assert fleet.judge(*entries) == status


STATES = st.lists(st.sampled_from(["ok", "degraded", "down"]), max_size=5)


@given(STATES, STATES)
def test_judge_is_never_too_kind(hosts: list[str], gateways: list[str]) -> None:
    status = fleet.judge([{"state": state} for state in hosts], [{"state": state} for state in gateways])
    assert (status == "healthy") == (bool(hosts) and set(hosts + gateways) == {"ok"})
    assert (status == "down") == (set(hosts) <= {"down"} or set(gateways) == {"down"})


def test_a_report() -> None:
    looks = {"gpu-10": LOST, "gpu-2": look(drift__files=["x: mode"])}
    probes = {"gateway-1": probe(**{"gpu-2": "up", "gpu-10": "down"})}
    found = fleet.report(looks, {"gpu-2": ANSWER}, probes, {"gateway-1": ANSWER}, NOW)
    assert (found["status"], found["exit_code"]) == ("degraded", 1)
    assert fleet.summary(found) == "degraded: 1 of 2 hosts serving, 1 of 1 gateway answering"
    lines = fleet.table(found)
    assert [line.split()[0] for line in lines[:3]] == ["HOST", "gpu-2", "gpu-10"]
    assert lines[3:] == [
        "gateway gateway-1: ok, 1 of 2 servers up",
        "gpu-2: drift: x: mode",
        "gpu-10: unreachable: Connection timed out",
        "gpu-10: gateway-1 has it as down",
    ]
    assert lines[1].split()[-4:] == ["40.0", "up", "1", "degraded"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "now"), (0, "now"), (1, "1 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (86400 * 3, "3 d ago")],
)
def test_age(seconds: int, words: str) -> None:
    then = NOW - timedelta(seconds=seconds)
    assert fleet.age(f"{then:%Y-%m-%dT%H:%M:%SZ}", NOW) == words
    assert fleet.age(then.isoformat(), NOW) == words


@pytest.mark.parametrize("at", [None, "", "yesterday", 7])
def test_no_age(at: Any) -> None:
    assert fleet.age(at, NOW) == "-"


def test_nothing_is_changed_of_what_is_given() -> None:
    looks, answers = {"a": look()}, {"a": ANSWER}
    before = copy.deepcopy((looks, answers))
    fleet.report(looks, answers, {}, {}, NOW)
    assert (looks, answers) == before
