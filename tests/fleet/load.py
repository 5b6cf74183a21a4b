#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Short chat completions at a steady rate, each one judged and kept. Standard library only.

    load.py --url https://127.0.0.1:8443 --key-file KEY --insecure --capacity 15     answers a second, as many as come
    load.py --url https://127.0.0.1:8443 --key-file KEY --insecure --rate 3 --seconds 60

Prints one JSON object. Exit 1 where a request failed. A request fails that gets no answer, another status than 200, an
answer that is no valid chat.completion, or a stream that does not reach its [DONE]. Nothing is sent twice: what fails,
counts. The one exception is named: with --failover a request whose gateway takes no connection goes to the next
address, as with several DNS records.

The rate is an open loop: requests leave when they are due, however slow the answers are, so that a stall is seen by all
whom it would have met, not by the few who waited in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from ansible_collections.vicuna.fleet.plugins.module_utils import _chat as chat  # noqa: E402 - the path is set above

MAX_TOKENS = 8
CONNECT_TIMEOUT = 3.0
# More would say nothing new: the fleet has stopped answering.
MAX_IN_FLIGHT = 400
MAX_HEADER = 65536
MAX_FAILURES_TOLD = 40


class BrokenError(Exception):
    """The answer did not come, or not to its end."""


@dataclass(frozen=True)
class Target:
    """A gateway as a client sees it."""

    url: str
    key: str
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


@dataclass
class Record:
    """One request: when it left and ended (seconds since the load began), and what was wrong with it, if anything."""

    number: int
    stream: bool
    start: float
    url: str = ""
    end: float = math.inf
    first: float | None = None  # when the first byte of the body came
    status: int | None = None
    tries: int = 1
    error: str = ""
    request_id: str = ""

    @property
    def ok(self) -> bool:
        return not self.error


@dataclass
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    first: float = 0.0  # time.monotonic() of the body's first byte


@dataclass
class Connection:
    """One connection, kept while the server keeps it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    alive: bool = True

    def close(self) -> None:
        self.alive = False
        self.writer.close()

    async def exchange(self, request: bytes) -> Answer:
        """Send one request and read its answer to the end. The connection is no good after an error."""
        try:
            self.writer.write(request)
            await self.writer.drain()
            return await self._answer()
        except asyncio.IncompleteReadError as error:
            raise BrokenError(f"the connection was closed in the middle of the answer: {error}") from error
        except asyncio.LimitOverrunError as error:
            raise BrokenError(f"a line without an end: {error}") from error
        except OSError as error:
            raise BrokenError(f"the connection broke: {error!r}") from error

    async def _answer(self) -> Answer:
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError as error:
            raise BrokenError("the connection was closed before an answer began") from error
        try:
            status = int(head[0].split(" ", 2)[1])
        except (IndexError, ValueError) as error:
            raise BrokenError(f"no HTTP answer: {head[0][:80]!r}") from error
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        answer = Answer(status, headers, b"", time.monotonic())
        if "chunked" in headers.get("transfer-encoding", "").lower():
            answer.body = await self._chunks(answer)
        elif "content-length" in headers:
            answer.body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            answer.body = await self.reader.read()
            self.alive = False
        if headers.get("connection", "").lower() == "close":
            self.alive = False
        return answer

    async def _chunks(self, answer: Answer) -> bytes:
        pieces: list[bytes] = []
        while True:
            line = await self.reader.readuntil(b"\r\n")
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError as error:
                raise BrokenError(f"no size of a chunk: {line[:40]!r}") from error
            if not pieces:
                answer.first = time.monotonic()
            if size == 0:
                while await self.reader.readuntil(b"\r\n") != b"\r\n":
                    pass  # trailers
                return b"".join(pieces)
            pieces.append((await self.reader.readexactly(size + 2))[:-2])


def question(target: Target, model: str, stream: bool, max_tokens: int = MAX_TOKENS) -> bytes:
    """The request as bytes."""
    body = json.dumps(chat.request_body(model, max_tokens=max_tokens) | {"stream": stream}).encode()
    lines = [f"POST {chat.PATH} HTTP/1.1", f"Host: {target.address[0]}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in chat.request_headers(target.key).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def problem(answer: Answer, model: str, stream: bool) -> str:
    """What is wrong with an answer that came whole; empty where it is right."""
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"
    if not stream:
        return "; ".join(chat.violations(chat.parse(answer.body), model))
    events = [line[6:] for line in answer.body.decode(errors="replace").splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return f"the stream ends without [DONE] after {len(events)} events"
    text = ""
    for event in events[:-1]:
        piece = chat.parse(event)
        if not isinstance(piece, dict) or not isinstance(piece.get("choices"), list):
            return f"an event that is no piece of an answer: {event[:160]}"
        if piece.get("model") != model:
            return f"the stream's model is {piece.get('model')!r}, expected {model!r}"
        text += "".join(choice.get("delta", {}).get("content") or "" for choice in piece["choices"])
    return "" if text.strip() else "the stream holds no text"


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so many per cent do not exceed (nearest rank)."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)], 4) if ordered else None


def summary(records: Sequence[Record], since: float = 0.0, until: float = math.inf) -> dict[str, Any]:
    """The figures of the requests that ended in a span of the load. Times are seconds since ``since``."""
    chosen = sorted((each for each in records if since <= each.end <= until), key=lambda each: each.end)
    good, bad = [each for each in chosen if each.ok], [each for each in chosen if not each.ok]
    last = until if until < math.inf else max((each.end for each in chosen), default=since)
    points = [since, *(each.end for each in good), last]
    latencies = [each.end - each.start for each in good]
    return {
        "seconds": round(last - since, 2),
        "requests": len(chosen),
        "streams": sum(each.stream for each in chosen),
        "ok": len(good),
        "failed": len(bad),
        "p50_s": percentile(latencies, 50),
        "p95_s": percentile(latencies, 95),
        "p99_s": percentile(latencies, 99),
        "max_s": percentile(latencies, 100),
        "longest_gap_s": round(max(after - before for before, after in zip(points, points[1:])), 3),
        "first_failure_s": round(bad[0].end - since, 3) if bad else None,
        "last_failure_s": round(bad[-1].end - since, 3) if bad else None,
        "failures": [
            asdict(each) | {"start": round(each.start - since, 3), "end": round(each.end - since, 3)}
            for each in bad[:MAX_FAILURES_TOLD]
        ],
    }


@dataclass
class Load:
    """Requests to the targets in turn, from a thread of its own, until it is stopped."""

    targets: Sequence[Target]
    model: str = "vicuna"
    rate: float = 0.0  # requests a second, sent when they are due; 0: as many as `clients` can wait for
    clients: int = 4
    stream_share: float = 0.25
    timeout: float = 60.0
    failover: bool = False
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._stopped = threading.Event()
        self._pool: dict[str, list[Connection]] = {}
        self._thread: threading.Thread | None = None
        self._sent = 0

    def now(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._begun

    def start(self) -> Load:
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> list[Record]:
        """Send no more, wait for the answers that are still running, and return all."""
        self._stopped.set()
        if self._thread:
            self._thread.join(self.timeout + 10)
            if self._thread.is_alive():
                raise RuntimeError("the load did not come to its end")
        return self.records

    def summary(self, since: float = 0.0, until: float = math.inf) -> dict[str, Any]:
        return summary(list(self.records), since, until)

    async def _drive(self) -> None:
        running: set[asyncio.Task[None]] = set()
        if self.rate:
            due = self.now()
            while not self._stopped.is_set():
                await asyncio.sleep(max(0.0, min(due - self.now(), 0.2)))
                if self.now() < due:
                    continue
                due += 1 / self.rate
                running.add(asyncio.create_task(self._one(len(running))))
                running = {task for task in running if not task.done()}
        else:
            running = {asyncio.create_task(self._client()) for _ in range(self.clients)}
            while not self._stopped.is_set():
                await asyncio.sleep(0.05)
        if running:
            await asyncio.wait(running)
        for connections in self._pool.values():
            for connection in connections:
                connection.close()

    async def _client(self) -> None:
        while not self._stopped.is_set():
            before = len(self.records)
            await self._one(0)
            if any(not each.ok for each in self.records[before:]):
                await asyncio.sleep(0.2)  # what refuses at once is not asked thousands of times

    async def _one(self, in_flight: int) -> None:
        """One request, from its sending to its record."""
        number, self._sent = self._sent, self._sent + 1
        # Spread evenly: of ten requests with a share of 0.3 those numbered 3, 6 and 9 stream.
        stream = math.floor((number + 1) * self.stream_share) > math.floor(number * self.stream_share)
        record = Record(number, stream, self.now(), self.targets[number % len(self.targets)].url)
        if in_flight >= MAX_IN_FLIGHT:
            record.error = f"not sent: {in_flight} requests wait for their answers"
        else:
            try:
                await asyncio.wait_for(self._ask(record), self.timeout)
            except asyncio.TimeoutError:
                record.error = f"no end within {self.timeout:.0f} s"
            except BrokenError as error:
                record.error = str(error)
            except Exception as error:  # one request must not end the load, and must not be lost
                record.error = repr(error)
        record.end = self.now()
        self.records.append(record)

    async def _ask(self, record: Record) -> None:
        target, connection = await self._connection(record)
        try:
            answer = await connection.exchange(question(target, self.model, record.stream))
        except BaseException:  # a timeout cancels: the connection would give the next request this one's answer
            connection.close()
            raise
        record.status, record.first = answer.status, answer.first - self._begun
        record.request_id = answer.headers.get("x-request-id", "")
        record.error = problem(answer, self.model, record.stream)
        if connection.alive:
            self._pool.setdefault(target.url, []).append(connection)
        else:
            connection.close()

    async def _connection(self, record: Record) -> tuple[Target, Connection]:
        """A connection that is kept, or a new one."""
        first = record.number % len(self.targets)
        order = [*self.targets[first:], *self.targets[:first]] if self.failover else [self.targets[first]]
        for record.tries, target in enumerate(order, 1):
            record.url = target.url
            idle = self._pool.get(target.url, [])
            while idle:
                connection = idle.pop()
                if not (connection.reader.at_eof() or connection.writer.is_closing()):
                    return target, connection
                connection.close()
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                opening = asyncio.open_connection(*target.address, ssl=target.tls, limit=MAX_HEADER)
                return target, Connection(*await asyncio.wait_for(opening, CONNECT_TIMEOUT))
        raise BrokenError(f"no connection to {', '.join(target.url for target in order)}")


def capacity(
    targets: Sequence[Target], seconds: float, clients: int, model: str = "vicuna", stream_share: float = 0.25
) -> dict[str, Any]:
    """How many good answers a second come when so many clients ask without a pause. The first 2 s do not count."""
    load = Load(targets, model, clients=clients, stream_share=stream_share).start()
    try:
        time.sleep(2 + seconds)
    finally:
        until = load.now()
        load.stop()
    figures = load.summary(2.0, until)
    return figures | {"clients": clients, "per_second": round(figures["ok"] / (until - 2.0), 3)}


def trust(insecure: bool, ca: str = "") -> ssl.SSLContext:
    """How the gateway's certificate is checked."""
    context = ssl.create_default_context(cafile=ca or None)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def main() -> int:
    parser = argparse.ArgumentParser(description="Short chat completions at a steady rate, each one judged.")
    parser.add_argument("--url", action="append", required=True, help="gateway; given again, requests take turns")
    parser.add_argument("--key-file", type=Path, required=True, help="file that holds the API key")
    parser.add_argument("--model", default="vicuna")
    parser.add_argument("--ca", default="", help="PEM file of the CA of the gateways")
    parser.add_argument("--insecure", action="store_true", help="do not check certificates")
    parser.add_argument("--failover", action="store_true", help="go to the next address where one takes no connection")
    parser.add_argument("--streams", type=float, default=0.25, help="share of requests that stream")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4, help="who ask without a pause, where there is no --rate")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--rate", type=float, default=0.0, help="requests a second")
    group.add_argument("--capacity", type=float, default=0.0, metavar="SECONDS", help="only measure what is carried")
    options = parser.parse_args()
    key, tls = options.key_file.read_text().strip(), trust(options.insecure, options.ca)
    targets = [Target(url, key, tls if url.startswith("https:") else None) for url in options.url]
    if options.capacity:
        figures = capacity(targets, options.capacity, options.clients, options.model, options.streams)
    else:
        load = Load(
            targets, options.model, options.rate, options.clients, options.streams, failover=options.failover
        ).start()
        time.sleep(options.seconds)
        load.stop()
        figures = load.summary()
    print(json.dumps(figures, indent=2))
    return 1 if figures["failed"] or not figures["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
