"""What one client does to a gateway, the others hardly notice: their latency stays within twice of what it was."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scenario import GATEWAYS, INVENTORY, context

pytestmark = pytest.mark.usefixtures("calm")

GATEWAY, PORT = next(iter(GATEWAYS.items()))
PATH = "/v1/chat/completions"
# Seconds that each abuse is watched at least.
LASTS = 15.0


def key() -> str:
    return (INVENTORY / ".secrets/guest").read_text().strip()


def connect() -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("127.0.0.1", PORT, timeout=30, context=context(GATEWAY))


def post(body: bytes, bearer: str) -> tuple[int, Any]:
    connection = connect()
    try:
        connection.request(
            "POST", PATH, body, {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def slow_clients() -> dict[str, Any]:
    """Twenty requests whose bodies come byte by byte. Each is let go after gateway_request_timeout, 10 s here."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key()}\r\nContent-Length: 1000\r\n\r\n".encode()
    ended: list[float] = []
    answers: list[bytes] = []

    def trickle() -> None:
        started = time.monotonic()
        with (
            socket.create_connection(("127.0.0.1", PORT), 10) as raw,
            context(GATEWAY).wrap_socket(raw, server_hostname="127.0.0.1") as client,
        ):
            client.sendall(head)
            client.settimeout(1)
            while time.monotonic() - started < 30:
                try:
                    client.sendall(b" ")
                    answers.append(client.recv(4096))
                    break
                except TimeoutError:
                    continue
                except OSError:
                    break
        ended.append(time.monotonic() - started)

    threads = [threading.Thread(target=trickle) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert len(ended) == 20
    assert max(ended) < 14, "a slow client is let go"
    assert all(b"408" in answer.split(b"\r\n")[0] for answer in answers if answer)
    return {"let_go_after_s": round(max(ended), 1)}


def large_bodies() -> dict[str, Any]:
    """10 MB, told ahead: refused before a byte of it is read."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key()}\r\nContent-Length: {10 * 1024**2}\r\n\r\n"
    took = []
    for _ in range(20):
        with (
            socket.create_connection(("127.0.0.1", PORT), 10) as raw,
            context(GATEWAY).wrap_socket(raw, server_hostname="127.0.0.1") as client,
        ):
            started = time.monotonic()
            client.sendall(head.encode())
            answer = client.recv(4096)
            took.append(time.monotonic() - started)
        assert answer.startswith(b"HTTP/1.1 413"), answer[:100]
        assert b"request_too_large" in answer
    return {"refused_within_s": round(max(took), 3)}


def idle_connections() -> dict[str, Any]:
    """A thousand that say nothing."""
    idle: list[socket.socket] = []
    try:
        for _ in range(1000):
            idle.append(socket.create_connection(("127.0.0.1", PORT), 10))
        status, answer = post(
            json.dumps({"model": "vicuna", "max_tokens": 4, "messages": [{"role": "user", "content": "x"}]}).encode(),
            key(),
        )
        assert status == 200, answer
        time.sleep(8)
    finally:
        for connection in idle:
            connection.close()
    return {"connections": len(idle)}


def malformed_bodies() -> dict[str, Any]:
    """No JSON, JSON of another kind, wrong types: each is the client's fault, and said to be."""
    bodies = [
        b"{",
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": 1}',
        b'{"model": "vicuna", "messages": 7, "max_tokens": "x"}',
        b"[" * 20000,
    ]
    seen = set()
    for body in bodies * 5:
        status, answer = post(body, key())
        assert 400 <= status < 500, (body[:40], status, answer)
        seen.add(status)
    return {"statuses": sorted(seen)}


def wrong_keys() -> dict[str, Any]:
    """A thousand requests with a key that nobody has, over ten connections."""
    refused: list[int] = []

    def guess(number: int) -> None:
        connection = connect()
        for attempt in range(100):
            connection.request("POST", PATH, b"{}", {"Authorization": f"Bearer wrong-{number}-{attempt}"})
            answer = connection.getresponse()
            answer.read()
            refused.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refused == [401] * 1000
    return {"refused": len(refused)}


@pytest.fixture(scope="module")
def usual(traffic: Any) -> Iterator[dict[str, Any]]:
    """The others' latency just before."""
    with traffic.watch("calm, before the abuse") as watch:
        watch.rest(20)
    return watch.figures


FAST = [pytest.param(wrong_keys, marks=[pytest.mark.fast, pytest.mark.thorough])]


@pytest.mark.parametrize("abuse", [*FAST, slow_clients, large_bodies, idle_connections, malformed_bodies])
def test_abuse_is_refused_and_the_others_hardly_notice(
    traffic: Any, usual: dict[str, Any], abuse: Callable[[], dict[str, Any]]
) -> None:
    with traffic.watch(f"abuse: {abuse.__name__}") as watch:
        watch.extra |= abuse()
        watch.rest(LASTS)
        watch.extra["p50_times_usual"] = round(watch.figures["p50_s"] / usual["p50_s"], 2)
        watch.extra["p95_times_usual"] = round(watch.figures["p95_s"] / usual["p95_s"], 2)
    assert watch.figures["failed"] == 0, watch.figures
    assert watch.extra["p50_times_usual"] <= 2, (usual, watch.figures)
    assert watch.extra["p95_times_usual"] <= 2, (usual, watch.figures)
