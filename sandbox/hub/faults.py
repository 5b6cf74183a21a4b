# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults of downloads that can be ordered of the hub, and what it has sent. Standard library only."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

KINDS = ("drop", "stall", "lie_range", "status_500", "truncate", "flip", "expire_token", "ignore_range")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
CHUNK = 64 * 1024
# Longer than any client waits for a silent server; the end of the fault ends it earlier.
STALL_SECONDS = 300.0
# A line of the log that nginx writes for /_sent: bytes of content, and the path without its arguments.
SENT = re.compile(r"(\d+) (/\S*)")


@dataclass
class Fault:
    """One fault of the downloads of a repository or of one object.

    times: how many requests it harms, 0 for all; of an expiring token, how many requests each token is good for.
    after: the bytes of an answer that are sent before it strikes; of a flipped byte, its place in the object.
    """

    kind: str
    repo: str = ""
    oid: str = ""
    times: int = 1
    after: int = 0
    struck: int = 0

    def concerns(self, repo: str, oid: str) -> bool:
        return self.repo in ("", repo) and self.oid in ("", oid)


def parse_fault(order: Any) -> Fault:
    """Read an order; ValueError says what is wrong with it."""
    if not isinstance(order, dict):
        raise ValueError("one JSON object is expected")
    unknown = set(order) - {"kind", "repo", "oid", "times", "after"}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    if order.get("kind") not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}")
    if not order.get("repo") and not order.get("oid"):
        raise ValueError("repo or oid has to be named")
    for name in ("times", "after"):
        value = order.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} is a number from 0 on")
    fault = Fault(**order)
    if fault.kind == "expire_token" and not fault.times:
        raise ValueError("a token that expires is good for at least one request")
    return fault


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The bytes that a Range header asks for, the second number exclusive; None for the whole object."""
    match = RANGE.fullmatch(header.strip())
    if not match or int(match[1]) >= size:
        return None
    stop = min(int(match[2]) + 1, size) if match[2] else size
    return (int(match[1]), stop) if stop > int(match[1]) else None


@dataclass
class Answer:
    """What is sent for one download."""

    status: int
    headers: dict[str, str]
    body: Iterator[bytes] | None = None


class Faults:
    """The faults that are set, and the downloads that they spoil."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cleared = threading.Event()
        self._set: list[Fault] = []
        self._tickets: dict[str, int] = {}

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._set.append(fault)

    def clear(self) -> None:
        """Forget all; a stalled answer ends."""
        with self._lock:
            self._set.clear()
            self._tickets.clear()
            self._cleared.set()
            self._cleared = threading.Event()

    def list(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._set]

    def suffix(self, repo: str, oid: str) -> str | None:
        """What the address of a faulty download carries; None where no fault is set for it."""
        with self._lock:
            concerned = [fault for fault in self._set if fault.concerns(repo, oid)]
            if not concerned:
                return None
            uses = next((fault.times for fault in concerned if fault.kind == "expire_token"), 0)
            if not uses:
                return ""
            ticket = secrets.token_hex(8)
            self._tickets[ticket] = uses
            return f"?ticket={ticket}"

    def _expired(self, repo: str, oid: str, ticket: str) -> bool:
        for fault in self._set:
            if fault.kind != "expire_token" or not fault.concerns(repo, oid):
                continue
            left = self._tickets.get(ticket, 0)
            self._tickets[ticket] = left - 1
            if left <= 0:
                fault.struck += 1
                return True
        return False

    def _next(self, repo: str, oid: str, wanted: tuple[int, int], partial: bool) -> Fault | None:
        """The first fault that this request meets; it has then struck once more."""
        for fault in self._set:
            harmless = fault.kind == "expire_token" or not fault.concerns(repo, oid)
            if harmless or (fault.times and fault.struck >= fault.times):
                continue
            if fault.kind == "flip" and not wanted[0] <= fault.after < wanted[1]:
                continue
            if fault.kind in ("lie_range", "ignore_range") and not partial:
                continue
            if fault.kind in ("drop", "stall", "truncate") and fault.after >= wanted[1] - wanted[0]:
                continue  # the answer ends before
            fault.struck += 1
            return fault
        return None

    def answer(
        self, file: Path, repo: str, asked: str, ticket: str, gone: Callable[[], bool] = lambda: False
    ) -> Answer:
        """The answer to a download of a file that its oid names. gone: whether the client has left the stall."""
        oid = file.name
        try:
            size = file.stat().st_size
        except FileNotFoundError:
            return Answer(404, {})
        part = parse_range(asked, size)
        first, stop = part or (0, size)
        with self._lock:
            if self._expired(repo, oid, ticket):
                return Answer(403, {})
            fault = self._next(repo, oid, (first, stop), part is not None)
            cleared = self._cleared
        kind = fault.kind if fault else ""
        after = fault.after if fault else 0
        if kind == "status_500":
            return Answer(500, {})
        told = (first, stop)
        if kind == "ignore_range":
            part, (first, stop) = None, (0, size)
        elif kind == "truncate":
            stop = min(stop, first + after)
            told = (first, stop)
        elif kind == "lie_range":
            # Other bytes than were asked for, and the header says so: a client that does not compare writes them.
            shift = -min(CHUNK, first) if first else min(CHUNK, size - stop)
            first, stop = (first + shift, stop + shift) if shift else (1, size)
            told = (first, stop)
        headers = {"Content-Length": str(stop - first), "Accept-Ranges": "bytes"}
        if part:
            headers["Content-Range"] = f"bytes {told[0]}-{max(told[0], told[1] - 1)}/{size}"
        flipped = after if kind == "flip" else -1
        ends = {"drop": after, "stall": after}.get(kind, -1)

        def body() -> Iterator[bytes]:
            sent = 0
            for chunk in _read(file, first, stop, flipped):
                if 0 <= ends < sent + len(chunk):
                    yield chunk[: ends - sent]
                    deadline = time.monotonic() + STALL_SECONDS
                    while kind == "stall" and time.monotonic() < deadline and not gone():
                        if cleared.wait(0.2):
                            break
                    # Less than Content-Length: the server can only close the connection.
                    raise ConnectionAbortedError(f"the fault {kind}")
                yield chunk
                sent += len(chunk)

        return Answer(206 if part else 200, headers, body())


def _read(file: Path, first: int, stop: int, flipped: int) -> Iterator[bytes]:
    """The bytes of a file, one of them with its lowest bit turned over."""
    with file.open("rb") as stream:
        stream.seek(first)
        while first < stop:
            chunk = stream.read(min(CHUNK, stop - first))
            if not chunk:
                return
            if first <= flipped < first + len(chunk):
                at = flipped - first
                chunk = chunk[:at] + bytes([chunk[at] ^ 1]) + chunk[at + 1 :]
            yield chunk
            first += len(chunk)


class Sent:
    """Bytes and requests for each beginning of a path, read from a log that grows."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._lock = threading.Lock()
        self._offset = 0
        self._inode = 0
        self._counts: dict[str, dict[str, int]] = {}

    def counts(self) -> dict[str, dict[str, int]]:
        with self._lock:
            with contextlib.suppress(FileNotFoundError), self.log.open("rb") as stream:
                self._read(stream)
            return {prefix: dict(count) for prefix, count in sorted(self._counts.items())}

    def _read(self, stream: BinaryIO) -> None:
        # A container that starts again begins a new file.
        inode = os.fstat(stream.fileno()).st_ino
        if inode != self._inode:
            self._inode, self._offset = inode, 0
        stream.seek(self._offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return  # nginx is writing it
            self._offset += len(line)
            match = SENT.match(line.decode("utf-8", "replace"))
            if match:
                count = self._counts.setdefault(sent_prefix(match[2]), {"bytes": 0, "requests": 0})
                count["bytes"] += int(match[1])
                count["requests"] += 1


def sent_prefix(path: str) -> str:
    """A path up to its repository: ``/lfs-objects/<org>/<name>``."""
    return "/".join(path.split("/")[:4])
