# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps follow which failure. The engine's words are those of Docker 26.1 and Compose 2.26."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from ansible_collections.vicuna.fleet.plugins.filter.repair_of import FilterModule
from ansible_collections.vicuna.fleet.plugins.module_utils._diagnosis import Container, Observation, diagnose

repair_of = FilterModule().filters()["repair_of"]

PORT = (
    "Error response from daemon: driver failed programming external connectivity on endpoint vicuna-edge-1 (c711d15e): "
    "Error starting userland proxy: listen tcp4 0.0.0.0:8000: bind: address already in use"
)


@pytest.mark.parametrize(
    ("words", "recreate"),
    [
        ("Error response from daemon: cannot start a paused container, try unpause instead", True),
        ("dependency failed to start: container 5d0e_other is unhealthy", True),
        ("container vicuna-controller-1 exited (1)", True),
        ("Error response from daemon: network f26f9b66f64c5c7b not found", True),
        ("Error response from daemon: container is marked for removal and cannot be started", True),
        (PORT, False),
        ("Error response from daemon: Bind for 0.0.0.0:8000 failed: port is already allocated", False),
        ("Error response from daemon: No such image: vicuna-fleet/fastchat-api:0.2.36", False),
        ("Error response from daemon: write /var/lib/docker/x: no space left on device", False),
        ('could not select device driver "cdi" with capabilities: [[gpu]]', False),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", False),
        ("", False),
    ],
)
def test_an_error_at_the_start(words, recreate):
    found = repair_of({"failed": True, "msg": f"General error: {words}"})
    assert (found["restart"], found["recreate"]) == ([], recreate)
    assert words in found["failure"]
    assert bool(found["say"]) is recreate


@pytest.mark.parametrize(
    ("words", "service"),
    [
        ("dependency failed to start: container vicuna-api-server-1 is unhealthy", "api-server"),
        ("container vicuna-model-worker-2-1 is unhealthy", "model-worker-2"),
    ],
)
def test_who_is_waited_for_is_started_again_first(words, service):
    running = " Container vicuna-controller-1  Running\n"
    failed = {"msg": f"Error when processing container x: {words}", "stderr": f"{running * 9}{words}"}
    assert repair_of(failed) == {
        "restart": [service],
        "recreate": True,
        "say": f"the {service} runs and does not answer, and others wait for it. Repair: {service} started "
        "again, or else all containers made anew.",
        "failure": failed["msg"],
    }
    assert repair_of(failed, restarted=True)["restart"] == []


def test_the_words_may_be_in_stderr_alone():
    assert repair_of({"msg": "rc=1", "stderr": "cannot start a paused container, try unpause instead"})["recreate"]


@pytest.fixture
def hung():
    """The result of a question to an edge that hangs."""
    seen = Observation(
        url="http://127.0.0.1:8000",
        model="vicuna",
        error_kind="timeout",
        edge_hangs=True,
        containers=[Container("edge", "running", running_for=3600)],
    )
    return {"msg": "No valid chat.completion", "diagnosis": asdict(diagnose(seen))}


def test_first_the_restart_then_new_containers(hung):
    assert repair_of(hung) == {
        "restart": ["edge"],
        "recreate": True,
        "say": "the edge runs and does not answer. Repair: edge started again, or else all containers made anew.",
        "failure": "No valid chat.completion",
    }
    assert repair_of(hung, restarted=True) == {
        "restart": [],
        "recreate": True,
        "say": "the edge runs and does not answer, also after the restart. Repair: all containers made anew.",
        "failure": "No valid chat.completion",
    }


def test_a_person_may_forbid_it(hung):
    nothing = {"restart": [], "recreate": False, "say": "", "failure": "No valid chat.completion"}
    assert repair_of(hung, allowed=False) == nothing
    assert repair_of({"msg": "cannot start a paused container"}, allowed=False)["recreate"] is False


@pytest.mark.parametrize("failed", [{}, {"msg": None}, {"diagnosis": {}}, {"diagnosis": None, "stderr": "x"}])
def test_what_is_not_known_is_left_alone(failed):
    found = repair_of(failed)
    assert (found["restart"], found["recreate"], found["say"]) == ([], False, "")
    assert found["failure"]
