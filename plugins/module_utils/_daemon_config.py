# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""dockerd's configuration file: its one reader, and judgement about what it holds."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._common.json_text import EMPTY, JsonError, kind
from ansible_collections.vicuna.fleet.plugins.module_utils._common.json_text import read as read_json

# What dockerd takes over at SIGHUP. Every other key needs a restart.
# Source: moby, daemon/reload.go, the comment of Daemon.Reload. Two that a reload knows are left out: "features", since
# the engine sets CDI up at a start only, and "runtimes", which usually comes with it.
RELOADABLE = frozenset(
    {
        "debug",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "shutdown-timeout",
    }
)

# scheme://user:password@host
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<userinfo>[^/?#\s\"]+)@")


DATA_ROOT = "/var/lib/docker"
# Keys that are read here or merged into key by key, and what dockerd wants them to be.
TYPES = {
    **dict.fromkeys(("data-root", "graph", "log-driver"), "string"),
    **dict.fromkeys(("runtimes", "features", "log-opts"), "object"),
    **dict.fromkeys(("registry-mirrors", "insecure-registries"), "array"),
}


class ConfigError(ValueError):
    """The file is not something that can be read as dockerd reads it, or merged into."""


def read(path: Path) -> dict[str, Any]:
    """The configuration in a file; one that is not there is empty. Raises ConfigError with a message in three parts."""
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ConfigError as error:
        raise ConfigError(refusal(path, str(error))) from error
    except OSError as error:
        raise ConfigError(refusal(path, error.strerror or str(error))) from error


def refusal(path: Path, found: str) -> str:
    return (
        f"Found a malformed {path}: {found}. Expected one JSON object, or no such file. Mend the file on the host "
        f"(`dockerd --validate --config-file {path}` judges it) or move it away; it is merged into and never replaced."
    )


def load(data: bytes | str) -> dict[str, Any]:
    """The configuration that a file's content holds; an empty file is an empty configuration, as it is to dockerd.

    A byte-order mark tells the encoding, as it does to dockerd (moby, daemon/config/config.go).
    """
    try:
        config = read_json(data)
    except JsonError as error:
        if str(error) == EMPTY:
            return {}
        raise ConfigError(str(error)) from error
    if not isinstance(config, dict):
        raise ConfigError(f"a JSON {kind(config)} where an object was expected")
    for key, expected in TYPES.items():
        if key in config and kind(config[key]) not in (expected, "null"):
            article = "a" if expected == "string" else "an"
            raise ConfigError(f"{key} is a JSON {kind(config[key])} where {article} {expected} was expected")
    return config


def data_root(config: dict[str, Any]) -> str:
    """Where the engine keeps its data; engines before 23.0 also know the key `graph`."""
    return str(config.get("data-root") or config.get("graph") or DATA_ROOT)


def legacy_runtime(config: dict[str, Any]) -> bool:
    """Whether it names the runtime `nvidia`."""
    return "nvidia" in (config.get("runtimes") or {})


def dump(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def merge(existing: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """`existing` with `wanted` laid over it.

    Objects are merged key by key, lists are joined without repeating (what is there stays first), a null removes its
    key, anything else replaces. Neither argument is changed.
    """
    result = copy.deepcopy(existing)
    for key, value in wanted.items():
        there = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merge(there if isinstance(there, dict) else {}, value)
        elif isinstance(value, list) and isinstance(there, list):
            result[key] = there + [copy.deepcopy(item) for item in _unique(value) if item not in there]
        elif isinstance(value, list):
            result[key] = copy.deepcopy(_unique(value))
        else:
            result[key] = value
    return result


def fill(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`config` with `defaults` where it says nothing itself.

    Options of a log driver belong to that driver: they are left out where the configuration names another one, since
    dockerd would then refuse to create any container.
    """
    defaults = dict(defaults)
    driver = defaults.get("log-driver", "json-file")
    if config.get("log-driver", driver) != driver:
        defaults.pop("log-opts", None)
    return _fill(config, defaults)


def _fill(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(config)
    for key, value in defaults.items():
        if value is None:
            continue
        if key not in result:
            result[key] = copy.deepcopy(value)
        elif isinstance(value, dict) and isinstance(result[key], dict):
            result[key] = _fill(result[key], value)
    return result


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Top-level keys that differ, sorted."""
    return sorted(
        key for key in before.keys() | after.keys() if (key in before) != (key in after) or before[key] != after[key]
    )


def restart_required(keys: list[str]) -> bool:
    """Whether a reload is not enough for dockerd to take these keys over."""
    return any(key not in RELOADABLE for key in keys)


def credentials(config: Any) -> set[str]:
    """The user:password parts of every URL in the configuration."""
    return {match["userinfo"] for text in _strings(config) for match in _USERINFO.finditer(text)}


def mask(text: str) -> str:
    """The text, fit to be shown: without the user:password part of any URL."""
    return _USERINFO.sub(r"\g<scheme>***@", text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _unique(items: list[Any]) -> list[Any]:
    result: list[Any] = []
    for item in items:
        if item not in result:
            result.append(item)
    return result
