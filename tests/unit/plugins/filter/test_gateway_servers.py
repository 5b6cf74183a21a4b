# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway gets to know of each serving host."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.filter.gateway_servers import FilterModule


def servers(**hostvars: dict[str, Any]) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = FilterModule().filters()["gateway_servers"](list(hostvars), hostvars)
    return result


def test_a_host_of_which_nothing_is_said() -> None:
    assert servers(gpu_1={}) == [
        {"name": "gpu_1", "address": "gpu_1", "port": 8000, "max_requests": 5, "tls": False},
    ]


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({"ansible_host": "192.0.2.1"}, "192.0.2.1"),
        ({"ansible_host": "192.0.2.1", "vicuna_address": "10.0.0.1"}, "10.0.0.1"),
    ],
)
def test_the_address_for_gateways_goes_before_ansibles(variables: dict[str, Any], address: str) -> None:
    assert [server["address"] for server in servers(a=variables)] == [address]


def test_a_host_without_an_address_for_gateways_is_left_out() -> None:
    assert [server["name"] for server in servers(a={"vicuna_address": ""}, b={})] == ["b"]


@pytest.mark.parametrize(
    ("variables", "requests"),
    [
        ({"fastchat_workers": 2, "fastchat_limit_worker_concurrency": "3"}, 6),
        ({"preflight_plan": {"workers": 4, "limit_worker_concurrency": 2}}, 8),
        ({"fastchat_workers": None, "preflight_plan": {"workers": 4}}, 20),
        ({"fastchat_workers": 1, "preflight_plan": {"workers": 4}}, 5),
        ({"preflight_plan": None}, 5),
    ],
)
def test_what_the_inventory_says_goes_before_the_plan(variables: dict[str, Any], requests: int) -> None:
    assert [server["max_requests"] for server in servers(a=variables)] == [requests]


@pytest.mark.parametrize(
    ("variables", "result", "requests"),
    [
        ({}, {"release": {"model": {"max_requests": 8}}}, 8),
        # What runs counts, not what the inventory has in mind for the next rollout.
        ({"fastchat_workers": 3}, {"release": {"model": {"max_requests": 8}}}, 8),
        ({"preflight_plan": {"workers": 2}}, {"release": {"model": {"max_requests": 8}}}, 10),
        ({}, {"release": {"model": {}}}, 5),
        ({}, {"unreachable": True, "msg": "timed out"}, 5),
        ({}, {"release": None}, 5),
    ],
)
def test_a_host_that_was_not_planned_is_taken_at_its_own_word(
    variables: dict[str, Any], result: dict[str, Any], requests: int
) -> None:
    looked = [
        {"__gateway_host": "another", "release": {"model": {"max_requests": 99}}},
        {"__gateway_host": "a", **result},
    ]
    (server,) = FilterModule().filters()["gateway_servers"](["a"], {"a": variables}, looked)
    assert server["max_requests"] == requests


def test_port_and_tls() -> None:
    (server,) = servers(a={"fastchat_port": "8443", "fastchat_tls_certificate": "edge.pem"})
    assert (server["port"], server["tls"]) == (8443, True)
