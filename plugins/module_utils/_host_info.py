# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What /proc and the engine say about a host's room: no input, no output. Private to the collection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROJECT_LABEL = "com.docker.compose.project"
LISTENING = "0A"


@dataclass(frozen=True)
class Listener:
    """A socket that listens."""

    port: int
    inode: str


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


def parse_listeners(text: str) -> list[Listener]:
    """The listening sockets of /proc/net/tcp or tcp6."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTENING:
            found.append(Listener(int(fields[1].rpartition(":")[2], 16), fields[9]))
    return found


def parse_containers(payload: Any, project: str) -> list[dict[str, Any]]:
    """The containers of GET /containers/json."""
    found = []
    for entry in payload if isinstance(payload, list) else []:
        ports = {int(port["PublicPort"]) for port in entry.get("Ports") or [] if port.get("PublicPort")}
        found.append(
            {
                "id": str(entry.get("Id") or ""),
                "name": str((entry.get("Names") or [""])[0]).lstrip("/"),
                "own": (entry.get("Labels") or {}).get(PROJECT_LABEL) == project,
                "running": entry.get("State") == "running",
                "ports": sorted(ports),
            }
        )
    return found


def container_of(cgroup: str, ids: Iterable[str]) -> str:
    """The container that a process belongs to, by its /proc/PID/cgroup; empty for none of them."""
    return next((identifier for identifier in ids if identifier and identifier in cgroup), "")


def parse_rss(status: str) -> int:
    """Memory in KiB that a process alone holds, from /proc/PID/status."""
    return sum(int(kib) for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", status, re.MULTILINE))


def judge_ports(
    wanted: Sequence[int],
    listeners: Sequence[Listener],
    processes: Mapping[str, str],
    containers: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Who has each port: a container that publishes it, or else the process behind its socket.

    processes: inode of a socket → the process that holds it, in words.
    """
    found = []
    for port in wanted:
        published = [container for container in containers if container["running"] and port in container["ports"]]
        sockets = [listener for listener in listeners if listener.port == port]
        by = ""
        if published:
            by = f"the container {published[0]['name']}"
        elif sockets:
            by = next((processes[socket.inode] for socket in sockets if socket.inode in processes), "")
        found.append(
            {
                "port": port,
                "free": not published and not sockets,
                "own": any(container["own"] for container in published),
                "by": by,
            }
        )
    return found
