# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import (
    ConfigError,
    changed_keys,
    credentials,
    dump,
    fill,
    load,
    mask,
    merge,
    restart_required,
)

NVIDIA = {"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}


@pytest.mark.parametrize(
    ("existing", "wanted", "expected"),
    [
        pytest.param({}, {}, {}, id="nothing"),
        pytest.param({}, {"debug": True}, {"debug": True}, id="new key"),
        pytest.param({"debug": True}, {}, {"debug": True}, id="a key that nobody asked for stays"),
        pytest.param({"debug": True}, {"debug": False}, {"debug": False}, id="a scalar is replaced"),
        pytest.param(
            NVIDIA,
            {"runtimes": {"kata": {"path": "/usr/bin/kata"}}},
            {"runtimes": {**NVIDIA["runtimes"], "kata": {"path": "/usr/bin/kata"}}},
            id="objects are merged",
        ),
        pytest.param(
            {"features": {"buildkit": True}},
            {"features": {"cdi": True}},
            {"features": {"buildkit": True, "cdi": True}},
            id="nested objects are merged",
        ),
        pytest.param(
            {"registry-mirrors": ["https://b", "https://a"]},
            {"registry-mirrors": ["https://c", "https://a"]},
            {"registry-mirrors": ["https://b", "https://a", "https://c"]},
            id="lists are joined, what is there stays first",
        ),
        pytest.param({}, {"dns": ["::1", "::1"]}, {"dns": ["::1"]}, id="a list does not repeat"),
        pytest.param(
            {"default-address-pools": [{"base": "10.1.0.0/16", "size": 24}]},
            {"default-address-pools": [{"base": "10.1.0.0/16", "size": 24}, {"base": "10.2.0.0/16", "size": 24}]},
            {"default-address-pools": [{"base": "10.1.0.0/16", "size": 24}, {"base": "10.2.0.0/16", "size": 24}]},
            id="lists of objects",
        ),
        pytest.param({"proxies": {"http-proxy": "x"}}, {"proxies": None}, {}, id="null removes"),
        pytest.param({}, {"proxies": None}, {}, id="null for nothing"),
        pytest.param(
            {"proxies": {"http-proxy": "x", "no-proxy": "y"}},
            {"proxies": {"http-proxy": None}},
            {"proxies": {"no-proxy": "y"}},
            id="null removes deep down",
        ),
        pytest.param({"log-opts": "x"}, {"log-opts": {"a": "b"}}, {"log-opts": {"a": "b"}}, id="a type gives way"),
        pytest.param({"dns": "x"}, {"dns": ["y"]}, {"dns": ["y"]}, id="a type gives way to a list"),
    ],
)
def test_merge(existing: dict[str, Any], wanted: dict[str, Any], expected: dict[str, Any]) -> None:
    given = copy.deepcopy((existing, wanted))
    result = merge(existing, wanted)
    assert result == expected
    assert (existing, wanted) == given
    assert merge(result, wanted) == result


def test_merge_keeps_the_order_of_the_file() -> None:
    assert list(merge({"z": 1, "a": 2}, {"m": 3, "a": 4})) == ["z", "a", "m"]


ROTATION = {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({}, ROTATION, id="nothing decided"),
        pytest.param({"log-driver": "json-file"}, ROTATION, id="the same driver"),
        pytest.param(
            {"log-opts": {"max-size": "1g"}},
            {"log-driver": "json-file", "log-opts": {"max-size": "1g", "max-file": "3"}},
            id="an own size",
        ),
        pytest.param({"log-driver": "journald"}, {"log-driver": "journald"}, id="journald knows no max-size"),
        pytest.param(
            {"log-driver": "local", "log-opts": {"max-size": "1g"}},
            {"log-driver": "local", "log-opts": {"max-size": "1g"}},
            id="another driver with options",
        ),
    ],
)
def test_fill(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert fill(config, ROTATION) == expected
    assert fill(expected, ROTATION) == expected


def test_fill_never_overrules() -> None:
    assert fill({"live-restore": False}, {"live-restore": True}) == {"live-restore": False}


@pytest.mark.parametrize("text", ["", "\n", "  \n", "\ufeff", "{}", "\ufeff{}"])
def test_an_empty_file_is_an_empty_configuration(text: str) -> None:
    assert load(text) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"debug": true\n"dns": []}', "line 2, column 1: Expecting ',' delimiter"),
        ('{"debug": true,}', "line 1, column"),
        ("# comment\n{}", "line 1, column 1"),
        ("[]", "a JSON array where an object was expected"),
        ("null", "a JSON null where an object was expected"),
        ("true", "a JSON boolean where an object was expected"),
        ('"x"', "a JSON string where an object was expected"),
        ("{", "line 1, column 2"),
    ],
)
def test_malformed(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load(text)


def test_dump_reads_back() -> None:
    config = {"labels": ["größe=1"], **ROTATION}
    assert load(dump(config)) == config
    assert dump(config).endswith("}\n")


@pytest.mark.parametrize(
    ("before", "after", "keys", "restart"),
    [
        ({}, {}, [], False),
        ({}, {"registry-mirrors": ["x"]}, ["registry-mirrors"], False),
        ({"debug": False}, {"debug": True, "labels": []}, ["debug", "labels"], False),
        ({}, {"registry-mirrors": ["x"], "proxies": {}}, ["proxies", "registry-mirrors"], True),
        ({"features": {}}, {"features": {"cdi": True}}, ["features"], True),
        ({"bip": None}, {}, ["bip"], True),
    ],
)
def test_restart_required(before: dict[str, Any], after: dict[str, Any], keys: list[str], restart: bool) -> None:
    assert changed_keys(before, after) == keys
    assert restart_required(keys) is restart


@pytest.mark.parametrize(
    ("text", "masked", "found"),
    [
        ("http://proxy:3128", "http://proxy:3128", set()),
        ("http://joe:secret@proxy:3128/", "http://***@proxy:3128/", {"joe:secret"}),
        ("http://joe:p@ss@proxy", "http://***@proxy", {"joe:p@ss"}),
        ("see http://a:b@c and https://d:e@f", "see http://***@c and https://***@f", {"a:b", "d:e"}),
        ("http://mirror/path@2", "http://mirror/path@2", set()),
        ("joe@example.org", "joe@example.org", set()),
    ],
)
def test_credentials(text: str, masked: str, found: set[str]) -> None:
    assert mask(text) == masked
    assert credentials({"proxies": {"https-proxy": text}, "x": [text, 1]}) == found
