# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts of a play give each other what they fetch."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.filter.model_sharers import FilterModule

REPO = "https://hub.example/lmsys/vicuna"


def host(missing: int | None = 5, address: str = "192.0.2.1", **more: Any) -> dict[str, Any]:
    look = {"revision": "c1", "repo": REPO, "missing_bytes": missing}
    if missing is None:
        del look["missing_bytes"]
    return {"look": {**look, **more.pop("look", {})}, "model_peer_address": address, **more}


def sharers(**hostvars: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = FilterModule().filters()["model_sharers"](list(hostvars), hostvars, "look", 15111)
    return result


def test_hosts_that_are_to_hold_the_same_share() -> None:
    found = sharers(a=host(), b=host(0, "192.0.2.2", model_peer_port="9"))
    assert found == {
        f"{REPO}@c1": [
            {"name": "a", "address": "192.0.2.1", "port": 15111, "whole": False},
            {"name": "b", "address": "192.0.2.2", "port": 9, "whole": True},
        ]
    }


@pytest.mark.parametrize(
    "other",
    [
        host(address=""),
        host(look={"revision": "c2"}),
        host(look={"repo": "https://hub.example/other"}),
        host(look={"revision": ""}),
        host(None),
        {"model_peer_address": "192.0.2.2"},
        {"model_peer_address": "192.0.2.2", "look": "nonsense"},
        {**host(), "model_peer_address": None},
    ],
)
def test_a_host_alone_shares_with_nobody(other: dict[str, Any]) -> None:
    assert sharers(a=host(), b=other) == {}


def test_where_nobody_lacks_anything_nobody_serves() -> None:
    assert sharers(a=host(0), b=host(0)) == {}


def test_two_models_in_one_play_are_shared_apart() -> None:
    other = {"revision": "c2"}
    found = sharers(a=host(), b=host(look=other), c=host(), d=host(look=other))
    assert {what: [one["name"] for one in hosts] for what, hosts in found.items()} == {
        f"{REPO}@c1": ["a", "c"],
        f"{REPO}@c2": ["b", "d"],
    }
