# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy's runtime API: what its socket says, and what is told to it.

The answers' shapes are those of its management guide, sections 9.1 (statistics) and 9.3 (commands), from 2.4 on.
"""

from __future__ import annotations

import csv
import io
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Bits of srv_admin_state: maintenance or draining, set by hand (F) or by the configuration or another server (I, C),
# or for want of an address (R). Management guide, "show servers state".
_MAINTENANCE = 0x01 | 0x02 | 0x04 | 0x20
_DRAINING = 0x08 | 0x10
_OP_STOPPED = 0
_ANSWER_TIMEOUT = 10.0
_SERVER = re.compile(r"^\s+server\s+(?P<name>\S+)\s+\S+:(?P<port>\d+)(?P<options>.*)$", re.MULTILINE)
# A key of a map that can be named in a command of the runtime API.
_KEY = re.compile(r"[0-9A-Za-z._-]+")
# A service that is just being started again has its socket file, and nobody who listens.
_CONNECT_PATIENCE = 3.0


class HaproxyError(Exception):
    """HAProxy is there and did not do what it was told."""


class HaproxyDown(HaproxyError):
    """No HAProxy listens on the socket."""


@dataclass(frozen=True)
class Server:
    """One server of a backend, as HAProxy sees it now."""

    name: str
    address: str
    draining: bool
    maintenance: bool
    running: bool
    check: str  # the last check in HAProxy's words
    sessions: int  # requests that run there
    queued: int  # requests that wait for this server alone
    since: int  # seconds since it last went up or down

    @property
    def state(self) -> str:
        if self.maintenance:
            return "maint"
        if self.draining:
            return "drain"
        return "up" if self.running else "down"


class Runtime:
    """The socket of one HAProxy, and its master's where there is one."""

    def __init__(self, path: str, master: str = "", patience: float = _CONNECT_PATIENCE) -> None:
        self.path = path
        self.master = master
        self.patience = patience

    def ask(self, command: str) -> str:
        return _ask(self.path, command, self.patience)

    def tell(self, command: str) -> None:
        """For commands that answer with nothing where all is well."""
        answer = self.ask(command).strip()
        if answer:
            raise HaproxyError(f"{command!r}: {answer}")

    def info(self) -> dict[str, str]:
        lines = (line.partition(":") for line in self.ask("show info").splitlines())
        return {name.strip(): value.strip() for name, colon, value in lines if colon}

    def servers(self, backend: str) -> list[Server]:
        """The backend's servers, with what an earlier process still carries through after a reload."""
        listing = self.ask(f"show servers state {backend}")
        if "Can't find backend" in listing:
            return []
        found = merge(listing, self.ask(f"show stat {backend} 4 -1"))
        older = dict.fromkeys((server.name for server in found), 0)
        for process in self._older_processes():
            # A process that ends in this moment has nothing left to carry through.
            for row in stat_rows(_ask(self.master, f"@!{process} show stat {backend} 4 -1", 0)):
                if row.get("svname") in older:
                    older[row["svname"]] += _number(row.get("scur"))
        return [Server(**{**vars(server), "sessions": server.sessions + older[server.name]}) for server in found]

    def _older_processes(self) -> list[int]:
        if not self.master or not Path(self.master).exists():
            return []
        try:
            return older_processes(_ask(self.master, "show proc", 0))
        except HaproxyDown:
            return []

    def forget(self, path: str, keys: list[str]) -> None:
        """Takes keys out of a map, in this process and in those that end: they serve connections that clients keep."""
        for key in keys:
            # What it does not have needs no forgetting: whatever it answers is well.
            self.ask(f"del map {path} {key}")
            for process in self._older_processes():
                _ask(self.master, f"@!{process} del map {path} {key}", 0)

    def moved(self) -> list[str]:
        """The servers whose names lead to another address by now, or to one at last: HAProxy asks at its start only."""
        found = []
        for row in state_rows(self.ask("show servers state")):
            name = row.get("srv_fqdn", "-")
            if name != "-" and row["srv_addr"] not in (_addresses(name) or {row["srv_addr"]}):
                found.append(row["srv_name"])
        return found

    def save_state(self, path: str, config: str = "") -> None:
        """Writes what a reload takes over: who is drained, who is up."""
        replace(Path(path), carried_over(self.ask("show servers state"), config), 0o600)


def removed(before: str, after: str) -> list[str]:
    """The keys that a map had, and has no more. One whose value alone is another stays until the reload."""
    keys = [
        {line.split(None, 1)[0] for line in text.splitlines() if line.strip() and line[:1] != "#"}
        for text in (before, after)
    ]
    return sorted(key for key in keys[0] - keys[1] if _KEY.fullmatch(key))


def older_processes(listing: str) -> list[int]:
    """The workers of configurations before the present one, from the master's `show proc`."""
    heading, found = "", []
    for line in listing.splitlines():
        if line.startswith("#"):
            heading = line.strip("# ").lower()
        elif heading == "old workers" and line.split()[:1] and line.split()[0].isdigit():
            found.append(int(line.split()[0]))
    return found


def stat_rows(text: str) -> list[dict[str, str]]:
    """The rows of `show stat`; its first line names the columns, after a number sign."""
    start = text.find("# pxname")
    return list(csv.DictReader(io.StringIO(text[start + 2 :].strip()))) if start >= 0 else []


def state_rows(text: str) -> Iterator[dict[str, str]]:
    """The rows of `show servers state`: a version, a line with the columns' names, then values between blanks."""
    columns: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            columns = line.lstrip("# ").split()
        elif columns and len(line.split()) >= len(columns) - 2:
            yield dict(zip(columns, line.split()))


def carried_over(states: str, config: str) -> str:
    """The state of the servers, for a new configuration.

    HAProxy takes port and TLS from its state file even where the configuration has changed: they become the new.
    """
    columns: list[str] = []
    lines = []
    defined = {found["name"]: found for found in _SERVER.finditer(config)}
    for line in states.splitlines():
        words = line.split()
        if line.startswith("#"):
            columns = words[1:]
        elif columns and len(words) == len(columns):
            server = defined.get(words[columns.index("srv_name")])
            if server:
                words[columns.index("srv_port")] = server["port"]
                words[columns.index("srv_use_ssl")] = str(int(" ssl " in f"{server['options']} "))
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def merge(states: str, stats: str) -> list[Server]:
    """The servers of `show servers state`, which knows who is drained, with the figures of `show stat`."""
    figures = {row.get("svname", ""): row for row in stat_rows(stats)}
    found = []
    for row in state_rows(states):
        name, admin = row["srv_name"], _number(row.get("srv_admin_state"))
        stat = figures.get(name, {})
        # One that HAProxy has no check for counts as running.
        found.append(
            Server(
                name=name,
                address=f"{row.get('srv_addr', '')}:{row.get('srv_port', '')}",
                draining=bool(admin & _DRAINING),
                maintenance=bool(admin & _MAINTENANCE),
                running=_number(row.get("srv_op_state")) != _OP_STOPPED,
                check=_check(stat),
                sessions=_number(stat.get("scur")),
                queued=_number(stat.get("qcur")),
                since=_number(stat.get("lastchg")),
            )
        )
    return found


def _check(stat: dict[str, str]) -> str:
    words = [stat.get("check_desc") or stat.get("check_status") or "", stat.get("last_chk") or ""]
    if stat.get("check_code"):
        words.insert(1, f"code {stat['check_code']}")
    return ", ".join(word for word in words if word)


def _addresses(name: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _number(text: str | None) -> int:
    return int(text) if text and text.lstrip("-").isdigit() else 0


def replace(path: Path, text: str, mode: int) -> None:
    """Puts a file in place at once, without a moment in which others may read it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, mode)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def _ask(path: str, command: str, patience: float) -> str:
    deadline = time.monotonic() + patience
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_ANSWER_TIMEOUT)
                connection.connect(path)
                connection.sendall(command.encode() + b"\n")
                # The master keeps a connection open for further commands otherwise.
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
        except FileNotFoundError as error:
            raise HaproxyDown(f"{path} does not exist") from error
        except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError) as error:
            if time.monotonic() >= deadline:
                raise HaproxyDown(f"nobody listens on {path}") from error
            time.sleep(0.2)
        except OSError as error:
            raise HaproxyError(f"{path}: {error}") from error
