# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What /proc and the engine say about a host's room: no input, no output. Private to the collection."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

PROJECT_LABEL = "com.docker.compose.project"


def parse_meminfo(text: str) -> dict[str, int]:
    """Total and available memory in MiB, from /proc/meminfo."""
    found = {name: int(kib) // 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return {"total_mib": found.get("MemTotal", 0), "available_mib": found.get("MemAvailable", 0)}


def parse_os_release(text: str) -> dict[str, str]:
    """Name and version of the system, from /etc/os-release."""
    pairs = dict(re.findall(r"^([A-Z_]+)=[\"']?(.*?)[\"']?$", text, re.MULTILINE))
    return {
        "id": pairs.get("ID", ""),
        "version": pairs.get("VERSION_ID", ""),
        "name": pairs.get("PRETTY_NAME", ""),
    }


def parse_containers(payload: Any, project: str) -> list[dict[str, Any]]:
    """The containers of GET /containers/json."""
    found = []
    for entry in payload if isinstance(payload, list) else []:
        published = {
            (str(port.get("IP") or ""), int(port["PublicPort"]))
            for port in entry.get("Ports") or []
            if port.get("PublicPort") and port.get("Type", "tcp") == "tcp"
        }
        found.append(
            {
                "id": str(entry.get("Id") or ""),
                "name": str((entry.get("Names") or [""])[0]).lstrip("/"),
                "own": (entry.get("Labels") or {}).get(PROJECT_LABEL) == project,
                "running": entry.get("State") == "running",
                "ports": sorted({port for _address, port in published}),
                "published": sorted(published),
            }
        )
    return found


def container_of(cgroup: str, ids: Iterable[str]) -> str:
    """The container that a process belongs to, by its /proc/PID/cgroup; empty for none of them."""
    return next((identifier for identifier in ids if identifier and identifier in cgroup), "")


def parse_rss(status: str) -> int:
    """Memory in KiB that a process alone holds, from /proc/PID/status."""
    return sum(int(kib) for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", status, re.MULTILINE))
