# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The load generator of the fleet's tests: what it calls a failure, and that none escapes it. The servers are fakes."""

from __future__ import annotations

import importlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "fleet"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("load")


def events(*texts: str, model: str = "vicuna", done: bool = True) -> str:
    """FastChat's stream of server-sent events."""
    pieces = [{"id": "chatcmpl-a", "choices": [{"index": 0, "delta": {"role": "assistant"}}], "model": model}]
    pieces += [
        {"id": "chatcmpl-a", "choices": [{"index": 0, "delta": {"content": text}}], "model": model} for text in texts
    ]
    lines = [f"data: {json.dumps(piece)}\n\n" for piece in pieces]
    return "".join(lines) + ("data: [DONE]\n\n" if done else "")


class RawServer:
    """Fake server: each request of whatever connection gets the next of the scripted bytes; the last one stays.

    Bytes that end in CUT close the connection.
    """

    CUT = b"<cut>"

    def __init__(self, script: list[bytes]) -> None:
        self.script = script
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open: list[socket.socket] = []
        self.accepting = threading.Thread(target=self._accept, daemon=True)
        self.accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        try:
            while piece := connection.recv(65536):
                data += piece
                head, found, body = data.partition(b"\r\n\r\n")
                if not found or len(body) < int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
                    continue
                data = b""
                answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                connection.sendall(answer.removesuffix(self.CUT))
                if answer.endswith(self.CUT):
                    connection.shutdown(socket.SHUT_RDWR)
                    return
        except OSError:
            return

    def close(self) -> None:
        # In this order: a thread that is about to accept would accept for whatever gets the descriptor's number next.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join(10)
        self.listener.close()
        for connection in self.open:
            connection.close()


@pytest.fixture
def raw() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(*script: bytes) -> RawServer:
        servers.append(RawServer(list(script)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def whole(body: str, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body.encode())}\r\n{headers}\r\n{body}".encode()


def chunked(*pieces: str, end: bool = True) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece.encode()), piece.encode()) for piece in pieces)
    return head + chunks + (b"0\r\n\r\n" if end else RawServer.CUT)


def asked(load: ModuleType, url: str, number: int = 1, **settings: Any) -> list[Any]:
    """The records of so many requests, one after the other where no rate is given."""
    running = load.Load([load.Target(url, "key")], **({"clients": 1, "timeout": 3} | settings)).start()
    until = time.monotonic() + 10
    while len(running.records) < number and time.monotonic() < until:
        time.sleep(0.01)
    records: list[Any] = running.stop()
    assert len(records) >= number
    return records


@pytest.mark.parametrize("stream_share", [0.0, 1.0])
def test_good_answers_are_good_and_share_a_connection(
    load: ModuleType, raw: Callable[..., RawServer], good: Callable[..., dict[str, Any]], stream_share: float
) -> None:
    server = raw(chunked(events("one", " two")) if stream_share else whole(json.dumps(good())))
    records = asked(load, server.url, 20, stream_share=stream_share)
    assert [each.error for each in records if not each.ok] == []
    assert {each.stream for each in records} == {bool(stream_share)}
    assert server.connections == 1
    assert all(each.start <= each.first <= each.end for each in records)


def test_what_is_sent(load: ModuleType, serve: Any, good: Callable[..., dict[str, Any]]) -> None:
    endpoint = serve(good())
    asked(load, endpoint.url, 2, stream_share=0.5)
    bodies = [json.loads(each["body"]) for each in endpoint.requests[:2]]
    assert [body["stream"] for body in bodies] == [False, True]
    assert {body["max_tokens"] for body in bodies} == {8}
    assert endpoint.requests[0]["path"] == "/v1/chat/completions"
    assert endpoint.requests[0]["headers"]["Authorization"] == "Bearer key"


BAD: list[tuple[str, bytes, bool, str]] = [
    ("a refusal", whole('{"error":{}}', "503 Service Unavailable"), False, "status 503"),
    ("another model", whole(json.dumps({"object": "chat.completion"})), False, "model is"),
    ("no JSON", whole("hello"), False, "expected a JSON object"),
    ("no answer", RawServer.CUT, False, "before an answer began"),
    ("no HTTP", b"hello\r\n\r\n", False, "no HTTP answer"),
    ("a cut body", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{" + RawServer.CUT, False, "in the middle"),
    ("a cut stream", chunked(events("one", done=False), end=False), True, "in the middle"),
    ("a stream without its end", chunked(events("one", done=False)), True, "without [DONE]"),
    ("a stream with an error", chunked('data: {"error_code": 50001}\n\ndata: [DONE]\n\n'), True, "no piece"),
    ("a stream of another model", chunked(events("one", model="other")), True, "stream's model"),
    ("a stream without text", chunked(events()), True, "no text"),
    ("a chunk without a size", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", True, "size of a chunk"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "stream", "said"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_a_bad_answer_is_a_failure(
    load: ModuleType, raw: Callable[..., RawServer], answer: bytes, stream: bool, said: str
) -> None:
    records = asked(load, raw(answer).url, stream_share=float(stream))
    assert said in records[0].error
    assert load.summary(records)["failed"] == len(records)


def test_silence_is_a_failure(load: ModuleType, serve: Any) -> None:
    records = asked(load, serve("hang").url, timeout=0.3)
    assert records[0].error == "no end within 0 s"
    assert 0.3 <= records[0].end - records[0].start < 2


def test_a_server_that_takes_no_connection_is_a_failure(load: ModuleType, closed_port: int) -> None:
    records = asked(load, f"http://127.0.0.1:{closed_port}")
    assert "no connection to" in records[0].error


def test_failover_goes_to_the_next_address_only_where_no_connection_is_taken(
    load: ModuleType, raw: Callable[..., RawServer], good: Callable[..., dict[str, Any]], closed_port: int
) -> None:
    fine, refusing = raw(whole(json.dumps(good()))), raw(whole("{}", "503 Service Unavailable"))
    for first, failures in ((f"http://127.0.0.1:{closed_port}", 0), (refusing.url, 10)):
        targets = [load.Target(first, "key"), load.Target(fine.url, "key")]
        running = load.Load(targets, rate=200, stream_share=0.0, failover=True).start()
        while len(running.records) < 20:
            time.sleep(0.01)
        records = sorted(running.stop(), key=lambda each: each.number)[:20]
        assert sum(not each.ok for each in records) == failures
        if not failures:
            assert {each.url for each in records} == {fine.url}
            assert [each.tries for each in records] == [2, 1] * 10


def test_requests_leave_when_they_are_due_however_slow_the_answers_are(load: ModuleType, serve: Any) -> None:
    endpoint = serve("hang")
    running = load.Load([load.Target(endpoint.url, "key")], rate=20, timeout=4).start()
    while len(endpoint.requests) < 20 and running.now() < 4:
        time.sleep(0.01)
    took, ended = running.now(), len(running.records)
    endpoint.released.set()
    records = running.stop()
    assert (len(endpoint.requests) >= 20, ended) == (True, 0)
    assert took > 0.9, "not faster than asked for"
    assert {each.ok for each in records} == {False}


def test_an_answer_that_came_too_late_is_not_given_to_the_next_request(
    load: ModuleType, raw: Callable[..., RawServer], good: Callable[..., dict[str, Any]]
) -> None:
    server = raw(b"", whole(json.dumps(good())))
    records = asked(load, server.url, 3, timeout=0.3, stream_share=0.0)
    assert [each.ok for each in records[:3]] == [False, True, True]
    assert server.connections == 2


def test_tls(load: ModuleType, serve: Any, tls: ssl.SSLContext, certificate: Path, good: Callable[..., Any]) -> None:
    endpoint = serve(good(), context=tls)
    for context, works in (
        (load.trust(False, str(certificate)), True),
        (load.trust(True), True),
        (load.trust(False), False),
    ):
        running = load.Load([load.Target(endpoint.url, "key", context)], clients=1, stream_share=0.0).start()
        while not running.records:
            time.sleep(0.01)
        assert running.stop()[0].ok is works


def test_figures(load: ModuleType) -> None:
    def record(start: float, end: float, error: str = "", stream: bool = False) -> Any:
        return load.Record(0, stream, start, end=end, error=error)

    records = [record(n / 10, n / 10 + 0.1 * (1 + n % 2), stream=n % 4 == 0) for n in range(100)]
    records += [record(20.0, 20.5), record(12.0, 13.0, "x"), record(12.0, 14.0, "y")]
    whole_load = load.summary(records)
    assert (whole_load["requests"], whole_load["ok"], whole_load["failed"], whole_load["streams"]) == (103, 101, 2, 25)
    assert (whole_load["p50_s"], whole_load["p95_s"], whole_load["max_s"]) == (0.2, 0.2, 0.5)
    assert whole_load["longest_gap_s"] == pytest.approx(20.5 - 10.1, abs=1e-3)
    part = load.summary(records, 12.5, 16.5)
    assert (part["requests"], part["ok"], part["first_failure_s"], part["last_failure_s"]) == (2, 0, 0.5, 1.5)
    assert part["longest_gap_s"] == 4.0
    assert [each["error"] for each in part["failures"]] == ["x", "y"]
    json.dumps(whole_load, allow_nan=False)
    nothing = load.summary([])
    assert (nothing["requests"], nothing["p50_s"], nothing["first_failure_s"]) == (0, None, None)


@pytest.mark.parametrize(("share", "expected"), [(50, 5), (95, 10), (90, 9), (100, 10), (1, 1)])
def test_percentiles(load: ModuleType, share: float, expected: int) -> None:
    assert load.percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], share) == expected


def test_capacity(load: ModuleType, raw: Callable[..., RawServer], good: Callable[..., dict[str, Any]]) -> None:
    answer = whole(json.dumps(good()))
    figures = load.capacity([load.Target(raw(answer).url, "key")], 0.5, clients=1, stream_share=0.0)
    assert figures["failed"] == 0
    assert figures["per_second"] == pytest.approx(figures["ok"] / figures["seconds"], rel=0.05)


@pytest.mark.parametrize(("good_server", "code"), [(True, 0), (False, 1)])
def test_the_command_says_by_its_exit_code_whether_all_was_well(
    raw: Callable[..., RawServer], good: Callable[..., Any], tmp_path: Path, good_server: bool, code: int
) -> None:
    server = raw(whole(json.dumps(good())) if good_server else whole("{}", "500 Internal Server Error"))
    key = tmp_path / "key"
    key.write_text("key\n")
    command = [sys.executable, str(FOLDER / "load.py"), "--url", server.url, "--key-file", str(key)]
    command += ["--rate", "20", "--seconds", "0.5", "--streams", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["failed"] == (0 if good_server else json.loads(done.stdout)["requests"])
