# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts a run is for, and why it may be refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader

from ansible_collections.vicuna.fleet.plugins.plugin_utils._run import MISSING, Hosts, setting

FLEET = {"all": ["gpu-1", "gpu-2", "gpu-3", "front"], "gpu": ["gpu-1", "gpu-2", "gpu-3"], "gateway": ["front"]}
PLAIN = {"all": ["gpu-1", "gpu-2"], "ungrouped": ["gpu-1", "gpu-2"]}
EMPTY: dict[str, list[str]] = {"all": [], "ungrouped": []}
GATEWAYS = {"all": ["front"], "gateway": ["front"]}


def hosts(groups: dict[str, list[str]], **variables: Any) -> Hosts:
    known = {"groups": groups, "ansible_inventory_sources": ["/etc/fleet"], **variables}
    loader = DataLoader()
    loader.path_exists = lambda path: path == "/etc/fleet"
    return Hosts(known, lambda value: value, loader)


@pytest.mark.parametrize(
    ("groups", "variables", "kinds", "names"),
    [
        (FLEET, {}, ["serving"], ["gpu-1", "gpu-2", "gpu-3"]),
        (FLEET, {}, ["gateway"], ["front"]),
        (FLEET, {}, ["serving", "gateway"], ["gpu-1", "gpu-2", "gpu-3", "front"]),
        (FLEET, {}, ["training"], ["gpu-1", "gpu-2", "gpu-3"]),
        (PLAIN, {}, ["serving"], ["gpu-1", "gpu-2"]),
        (PLAIN, {}, ["gateway"], []),
        (FLEET, {"vicuna_hosts": "gpu:!gpu-2"}, ["serving"], ["gpu-1", "gpu-3"]),
        (FLEET, {"vicuna_hosts": ["gpu-2", "gpu-1"]}, ["serving"], ["gpu-2", "gpu-1"]),
        (FLEET, {"vicuna_hosts": "gpu-2"}, ["training"], ["gpu-2"]),
        (FLEET, {"vicuna_hosts": "gpu", "finetune_host": "gpu-3"}, ["training"], ["gpu-3"]),
        (FLEET, {"vicuna_hosts": []}, ["serving"], []),
        (PLAIN, {"vicuna_hosts": "gpu-1", "vicuna_gateways": "gpu-1"}, ["serving", "gateway"], ["gpu-1"]),
        (PLAIN, {"vicuna_hosts": "localhost"}, ["serving"], ["localhost"]),
    ],
)
def test_the_hosts_of_a_play(
    groups: dict[str, list[str]], variables: dict[str, Any], kinds: list[str], names: list[str]
) -> None:
    assert hosts(groups, **variables).of(kinds) == names


NOBODY = (
    "Found no host in the inventory (/etc/fleet). Expected at least one host that serves. Correct the path after -i"
)
ALONE = (
    "Found gateways alone in the inventory (/etc/fleet): front. Expected at least one host that serves. Add one outside"
)
BOTH = ["serving", "gateway"]
PROBLEMS: list[tuple[dict[str, list[str]], dict[str, Any], list[str], str]] = [
    (FLEET, {}, BOTH, ""),
    (PLAIN, {}, ["serving"], ""),
    (EMPTY, {}, ["serving"], NOBODY),
    (EMPTY, {"ansible_limit": "gpu-1"}, BOTH, NOBODY),
    (EMPTY, {"ansible_inventory_sources": []}, ["serving"], "Found no host in the inventory (none was given)."),
    (EMPTY, {"vicuna_hosts": "localhost"}, ["serving"], ""),
    (EMPTY, {"vicuna_hosts": "localhost", "ansible_inventory_sources": ["/etc/ansible/hosts"]}, ["serving"], ""),
    (PLAIN, {"ansible_inventory_sources": ["/etc/fleet", "gpu-7,"]}, ["serving"], ""),
    (
        PLAIN,
        {"ansible_inventory_sources": ["/etc/fleet", "/etc/fleet-2"]},
        ["serving"],
        "Found no inventory at /etc/fleet-2, beside gpu-1, gpu-2 of another one. Expected a file",
    ),
    (GATEWAYS, {}, ["serving"], ALONE),
    (GATEWAYS, {}, BOTH, ALONE),
    (GATEWAYS, {}, ["training"], ALONE),
    (GATEWAYS, {"ansible_limit": "front"}, BOTH, ALONE),
    (
        FLEET,
        {"vicuna_hosts": "nosuch"},
        ["serving"],
        "Found no host that matches vicuna_hosts 'nosuch' in the inventory",
    ),
    (FLEET, {"vicuna_hosts": "gpu-1,gpu-9"}, ["serving"], "Found no host that matches vicuna_hosts 'gpu-9'"),
    (FLEET, {"vicuna_hosts": ["gpu-1", "gpu-9"]}, ["serving"], "Found no host that matches vicuna_hosts 'gpu-9'"),
    (FLEET, {"vicuna_hosts": ""}, ["serving"], "Found no host that matches vicuna_hosts ''"),
    (FLEET, {"vicuna_hosts": []}, ["serving"], "Found no host that matches vicuna_hosts ''"),
    (EMPTY, {"vicuna_hosts": "gpu-1"}, ["serving"], "Found no host that matches vicuna_hosts 'gpu-1'"),
    (FLEET, {"vicuna_hosts": "gpu:!nosuch"}, ["serving"], ""),
    (FLEET, {"vicuna_hosts": "gpu[0:1]"}, ["serving"], ""),
    (FLEET, {"vicuna_hosts": "~gpu-(1|2)"}, ["serving"], ""),
    (FLEET, {"vicuna_gateways": "nosuch"}, ["serving"], "Found no host that matches vicuna_gateways 'nosuch'"),
    (FLEET, {"finetune_host": "gpu-l"}, ["training"], "Found no host that matches finetune_host 'gpu-l'"),
    (FLEET, {"ansible_limit": "gpu-1"}, ["serving"], ""),
    (FLEET, {"ansible_limit": "gpu-1,gpu-9"}, BOTH, "Found no host that matches --limit 'gpu-9'"),
    (FLEET, {"ansible_limit": "all:!nosuch"}, BOTH, ""),
    (FLEET, {"ansible_limit": "front"}, BOTH, ""),
    (
        FLEET,
        {"ansible_limit": "front"},
        ["serving"],
        "Found no host that serves within --limit front. Expected at least",
    ),
    (FLEET, {"ansible_limit": "localhost"}, BOTH, "Found no host that serves or gateway within --limit localhost."),
    (
        FLEET,
        {"finetune_host": "gpu-1", "ansible_limit": "gpu-2"},
        ["training"],
        "Found no host to train on within --limit",
    ),
]


@pytest.mark.parametrize(("groups", "variables", "kinds", "message"), PROBLEMS)
def test_what_a_run_is_refused_for(
    groups: dict[str, list[str]], variables: dict[str, Any], kinds: list[str], message: str
) -> None:
    found = hosts(groups, **variables).problem(kinds)
    assert found.startswith(message) if message else found == ""
    assert not found or ("Expected" in found and found.count(". ") >= 2 and found.endswith("."))


def test_a_large_fleet_is_not_listed() -> None:
    many = [f"gpu-{number}" for number in range(40)]
    assert "gpu-0, gpu-1, gpu-2, gpu-3, gpu-4 and 35 more" in hosts({"all": many}, vicuna_hosts="x").problem(
        ["serving"]
    )


@pytest.mark.parametrize(
    ("variables", "value"),
    [
        ({}, 7),
        ({"rollout_batch": 3}, 3),
        ({"hostvars": {"a": {"rollout_batch": 2}, "b": {"rollout_batch": 2}}}, 2),
        ({"hostvars": {"a": {}, "b": {"rollout_batch": 2}}}, 2),
        ({"hostvars": {"a": {"rollout_batch": 2}, "b": {}}, "rollout_batch": 3}, 3),
        ({"hostvars": {"a": {"rollout_batch": None}, "b": {}}}, None),
    ],
)
def test_a_setting_of_the_whole_run(variables: dict[str, Any], value: Any) -> None:
    known = {"groups": {"all": ["a", "b"]}, **variables}
    assert setting("rollout_batch", known, lambda given: given, 7) == value


def test_a_setting_that_differs_is_refused() -> None:
    known = {"groups": {"all": ["a", "b"]}, "hostvars": {"a": {"rollout_batch": 2}, "b": {"rollout_batch": 3}}}
    with pytest.raises(AnsibleError, match=r"Found rollout_batch 2 for a, and 3 for b\. Expected one value"):
        setting("rollout_batch", known, lambda given: given, MISSING)
