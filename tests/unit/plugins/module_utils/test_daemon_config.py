# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_info
from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import (
    ConfigError,
    changed_keys,
    credentials,
    data_root,
    dump,
    fill,
    legacy_runtime,
    load,
    mask,
    merge,
    read,
    restart_required,
)
from ansible_collections.vicuna.fleet.plugins.modules import docker_engine_info, host_info

BOTH = '{"data-root": "/srv/docker", "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}'
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


CASES: dict[str, tuple[bytes, tuple[str, bool] | str]] = {
    # What is in the file → data-root and whether the runtime nvidia is named, or what is wrong with it.
    "empty": (b"", ("/var/lib/docker", False)),
    "blank": (b" \r\n\t", ("/var/lib/docker", False)),
    "a mark alone": (b"\xef\xbb\xbf", ("/var/lib/docker", False)),
    "no keys": (b"{}", ("/var/lib/docker", False)),
    "plain": (BOTH.encode(), ("/srv/docker", True)),
    "windows": (BOTH.replace(",", ",\r\n").encode("utf-8-sig"), ("/srv/docker", True)),
    "utf-16": (BOTH.encode("utf-16"), ("/srv/docker", True)),
    "utf-16, big end first": (b"\xfe\xff" + BOTH.encode("utf-16-be"), ("/srv/docker", True)),
    "an older engine's key": (b'{"graph": "/data"}', ("/data", False)),
    "nulls": (b'{"data-root": null, "runtimes": null}', ("/var/lib/docker", False)),
    "another runtime": (b'{"runtimes": {"crun": {"path": "crun"}}}', ("/var/lib/docker", False)),
    "the same twice": (b'{"data-root": "/a", "data-root": "/a"}', ("/a", False)),
    "twice": (
        b'{"data-root": "/a",\n "data-root": "/b"}',
        'line 2, column 2: the key "data-root" stands here for the second time',
    ),
    "utf-16 without a mark": (BOTH.encode("utf-16-le"), "it is in UTF-16 or UTF-32 without a byte-order mark"),
    "latin-1": (b'{"labels": ["\xe9"]}', "line 1, column 14: the byte 0xe9 is no UTF-8"),
    "deep": (b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", "line 1, column 106: nested deeper than 100"),
    "a comma too many": (b'{"debug": true,}', "line 1, column 15: a comma before the closing }"),
    "a comma too few": (b'{"debug": true\n"dns": []}', "line 2, column 1: a comma or a closing bracket is missing"),
    "a comment": (b"# comment\n{}", "line 1, column 1: a comment"),
    "cut off": (b"{", "line 1, column 2: it ends in the middle"),
    "a number that none is": (b'{"mtu": NaN}', "line 1, column 9: NaN"),
    "half a character": (b'{"labels": ["\\ud83d"]}', "line 1, column 14: \\ud83d"),
    "a list": (b"[]", "a JSON array where an object was expected"),
    "a list with the runtime's name": (b'["nvidia"]', "a JSON array where an object was expected"),
    "null": (b"null", "a JSON null where an object was expected"),
    "true": (b"true", "a JSON boolean where an object was expected"),
    "a string": (b'"x"', "a JSON string where an object was expected"),
    "one mirror without a list": (
        b'{"registry-mirrors": "https://m.example"}',
        "registry-mirrors is a JSON string where an array was expected",
    ),
    "registries by name": (b'{"insecure-registries": {}}', "insecure-registries is a JSON object where an array"),
    "log options in a list": (b'{"log-opts": []}', "log-opts is a JSON array where an object was expected"),
    "runtimes in a list": (b'{"runtimes": ["nvidia"]}', "runtimes is a JSON array where an object was expected"),
    "a number for a path": (b'{"data-root": 5}', "data-root is a JSON number where a string was expected"),
}


@pytest.mark.parametrize(("data", "expected"), CASES.values(), ids=CASES.keys())
def test_every_reader_says_the_same(tmp_path: Path, data: bytes, expected: tuple[str, bool] | str) -> None:
    """What merges into it, looks for the engine's data, for the legacy runtime, and at the engine."""
    path = tmp_path / "daemon.json"
    path.write_bytes(data)
    try:
        config = read(path)
    except ConfigError as error:
        assert isinstance(expected, str)
        assert str(error).startswith(f"Found a malformed {path}: {expected}")
        assert "Expected one JSON object, or no such file. Mend the file on the host" in str(error)
        assert docker_engine_info.config_file(path) == ({}, str(error))
        assert _gpu_info.legacy_runtime(path) == {"legacy_runtime": None, "config_error": str(error)}
        assert host_info.engine_root(None, path) == ("", str(error))
    else:
        assert (data_root(config), legacy_runtime(config)) == expected
        assert docker_engine_info.config_file(path) == (config, "")
        assert _gpu_info.legacy_runtime(path) == {"legacy_runtime": expected[1], "config_error": ""}
        assert host_info.engine_root(None, path) == (expected[0], "")
        # What was read can be written.
        assert load(dump(config)) == config


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == {}
    with pytest.raises(ConfigError, match=r"Is a directory\. Expected"):
        read(tmp_path)


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
