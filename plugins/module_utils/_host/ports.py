# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who listens where on a host, and whether that is in the way of an address and a port that are wanted."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

PROC = Path("/proc")
LISTENING = "0A"


@dataclass(frozen=True)
class Listener:
    """A socket that listens."""

    address: str
    port: int
    inode: str


def parse(text: str) -> list[Listener]:
    """The listening sockets of /proc/net/tcp or tcp6 (proc(5): each word of an address in the host's byte order)."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTENING:
            address, _colon, port = fields[1].rpartition(":")
            words = [int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8)]
            found.append(Listener(str(_plain(ipaddress.ip_address(b"".join(words)))), int(port, 16), fields[9]))
    return found


def overlap(wanted: str, there: str, wanted_alone: bool = False, there_alone: bool = False) -> bool:
    """Whether one port can be listened to at only one of two addresses (bind(2), ipv6(7)).

    alone: whether a socket at :: takes IPv6 only (IPV6_V6ONLY). Others at :: take every IPv4 address, too. What is no
    address counts as all of them.
    """
    first, second = _address(wanted), _address(there)
    if first is None or second is None:
        return True
    if first.version == second.version:
        return first == second or first.is_unspecified or second.is_unspecified
    wide, alone = (first, wanted_alone) if first.version == 6 else (second, there_alone)
    return wide.is_unspecified and not alone


def in_the_way(port: int, address: str, listeners: Sequence[Listener], alone: bool = False) -> list[Listener]:
    """The sockets beside which nobody can listen at an address and a port. alone: for IPv6 alone where that is ::."""
    here = [listener for listener in listeners if listener.port == port]
    # Both can only be there where the one at :: takes IPv6 alone. Of one at :: by itself nobody can tell.
    there_alone = any(":" not in listener.address for listener in here)
    return [listener for listener in here if overlap(address, listener.address, alone, there_alone)]


def judge(
    wanted: Sequence[int],
    address: str,
    listeners: Sequence[Listener],
    processes: Mapping[str, str],
    containers: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Who is in the way of an engine that publishes each port at the address; it publishes :: for IPv6 alone.

    processes: inode of a socket → the process that holds it, in words. containers: as _host_info has them. A socket at
    an address and a port that a container publishes is that container's.
    """
    found = []
    for port in wanted:
        running = [
            (container, at)
            for container in containers
            if container["running"]
            for at, published in container["published"]
            if published == port
        ]
        publishing = [container for container, at in running if overlap(address, at, True, True)]
        foreign = [f"the container {container['name']}" for container in publishing if not container["own"]]
        foreign += [
            processes.get(listener.inode, "")
            for listener in in_the_way(port, address, listeners, alone=True)
            if not any(at in ("", listener.address) for _container, at in running)
        ]
        ours = [f"the container {container['name']}" for container in publishing if container["own"]]
        found.append(
            {
                "port": port,
                "free": not foreign and not ours,
                "own": bool(ours) and not foreign,
                "by": next((name for name in foreign if name), "") if foreign else next(iter(ours), ""),
            }
        )
    return found


def listeners(ports: Iterable[int]) -> list[Listener]:
    """Those of this host at some ports."""
    wanted = set(ports)
    found = [listener for name in ("tcp", "tcp6") for listener in parse(_read(PROC / "net" / name))]
    return [listener for listener in found if listener.port in wanted]


def owners(inodes: set[str]) -> dict[str, str]:
    """Inode of a socket → the process that holds it, in words."""
    found: dict[str, str] = {}
    for process in PROC.glob("[0-9]*") if inodes else ():
        try:
            for link in (process / "fd").iterdir():
                target = str(link.readlink())
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    found.setdefault(target[8:-1], f"{_read(process / 'comm').strip()} (pid {process.name})")
        except OSError:
            continue
    return found


def _address(text: str) -> Address | None:
    try:
        return _plain(ipaddress.ip_address(text.strip("[]").partition("%")[0]))
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    """::ffff:127.0.0.1 is 127.0.0.1, of a socket for both."""
    return getattr(address, "ipv4_mapped", None) or address


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
