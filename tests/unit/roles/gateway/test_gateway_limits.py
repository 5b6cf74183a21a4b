# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is let in, how much, and what is said to the others. A real HAProxy before fakes of edges."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fleet import EDGE_KEY, KEYS, QUESTION, Fleet, fleet_of, needs_haproxy

pytestmark = needs_haproxy
SLOW_HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    f"Authorization: Bearer {KEYS['alice']}\r\nContent-Length: 500\r\n\r\n"
).encode()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def question(**fields: Any) -> str:
    return json.dumps({**json.loads(QUESTION), **fields})


def raw(fleet: Fleet, request: bytes, timeout: float = 10) -> bytes:
    """One answer, until its body is there: the connection may stay open for what is left of the request."""
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=timeout) as connection:
        connection.sendall(request)
        answer = b""
        while b"}}" not in answer:
            received = connection.recv(4096)
            if not received:
                break
            answer += received
        return answer


def test_the_edges_see_the_gateways_key_only(fleet: Fleet) -> None:
    answer = fleet.ask(headers={"X-Request-ID": "mine-1"})
    assert answer.status == 200
    seen = next(
        asked for edge in fleet.edges for asked in edge.asked if asked["headers"].get("x-request-id") == "mine-1"
    )
    assert seen["headers"]["authorization"] == f"Bearer {EDGE_KEY}"
    assert KEYS["alice"] not in json.dumps(seen["headers"])
    assert answer.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("given", ['a"b', "x" * 65, "", "a b"])
def test_an_odd_id_is_replaced(fleet: Fleet, given: str) -> None:
    answer = fleet.ask(headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 36


@pytest.mark.parametrize("authorization", [
    None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic KEY", "KEY", "Bearer KEYx", "Bearer HASH", "Bearer KEY x",
])  # fmt: skip
def test_no_answer_without_a_key(fleet: Fleet, authorization: str | None) -> None:
    hashed = hashlib.sha256(KEYS["alice"].encode()).hexdigest()
    headers = {}
    if authorization is not None:
        headers["Authorization"] = authorization.replace("KEY", KEYS["alice"]).replace("HASH", hashed)
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
        answer = fleet.ask(key=None, headers=headers, method=method, path=path)
        assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert fleet.ask(key=None, headers={"Authorization": f"bearer {KEYS['alice']}"}).status == 200


@pytest.mark.parametrize("path", [
    "/api/v1/chat/completions", "/docs", "/", "/register_worker", "/health", "/metrics", "/v1/../api/v1/token_check",
    "/v1/%2e%2e/docs", "//api/v1/chat/completions", "/V1/models", "/v1",
])  # fmt: skip
def test_everything_but_v1_is_refused(fleet: Fleet, path: str) -> None:
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {KEYS['alice']}\r\n"
    answer = raw(fleet, f"{request}Content-Length: {len(QUESTION)}\r\n\r\n{QUESTION}".encode())
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]
    assert b'"not_found"' in answer


def test_models_are_told_without_asking_a_host(fleet: Fleet) -> None:
    asked = sum(len(edge.asked) + edge.told for edge in fleet.edges)
    # An encoded letter is the same path to FastChat.
    for path in ("/v1/models", "/v1/models?limit=1", "/v1/%6dodels"):
        answer = fleet.ask(method="GET", path=path)
        assert [model["id"] for model in answer.json["data"]] == ["vicuna"], path
    assert sum(len(edge.asked) + edge.told for edge in fleet.edges) == asked


def test_http_2_is_not_spoken(fleet: Fleet) -> None:
    """Its bodies need no length, and the limit is one of length."""
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert connection.recv(100).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("headers", [
    "Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length: 2\r\nTransfer-Encoding: xchunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "Content-Length: +2\r\n", "Content-Length : 2\r\n",
    "Authorization: Bearer wrong\r\nContent-Length: 2\r\n",
])  # fmt: skip
def test_what_two_could_read_in_two_ways_reaches_no_host(fleet: Fleet, headers: str) -> None:
    asked = sum(len(edge.asked) for edge in fleet.edges)
    head = (
        f"POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEYS['alice']}\r\n{headers}Connection: close\r\n\r\n"
    )
    assert raw(fleet, f"{head}{{}}".encode()).startswith(b"HTTP/1.1 4")
    assert sum(len(edge.asked) for edge in fleet.edges) == asked


def test_a_large_body_is_refused_before_it_is_read(fleet: Fleet) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {KEYS['alice']}\r\nContent-Length: {10 * 2**20}\r\n\r\n"
    begun = time.monotonic()
    # Only the head is sent: the answer does not wait for the rest.
    answer = raw(fleet, head.encode())
    assert answer.startswith(b"HTTP/1.1 413") and b'"request_too_large"' in answer
    assert time.monotonic() - begun < 1
    chunked = raw(fleet, head.replace("Content-Length: 10485760", "Transfer-Encoding: chunked").encode())
    assert chunked.startswith(b"HTTP/1.1 411")


def test_a_large_prompt_passes_whole(fleet: Fleet) -> None:
    """Larger than what can be sent twice, smaller than the limit."""
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 900_000}]})
    assert fleet.ask(body, headers={"X-Request-ID": "large"}).status == 200
    seen = next(
        asked for edge in fleet.edges for asked in edge.asked if asked["headers"].get("x-request-id") == "large"
    )
    assert seen["body"] == body.encode()


def test_a_prompt_of_16000_tokens_can_go_to_another_host(fleet: Fleet) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 96 * 1024}]})
    fleet.edges[0].mode = "worker_gone"
    before = len(fleet.edges[0].asked)
    answers = [fleet.ask(body) for _number in range(6)]
    fleet.edges[0].mode = "ok"
    assert len(fleet.edges[0].asked) > before
    assert [answer.status for answer in answers] == [200] * 6


def test_malformed_json_is_the_hosts_to_refuse(fleet: Fleet) -> None:
    answer = fleet.ask('{"model": "vicuna", ')
    assert (answer.status, answer.json["code"]) == (400, 40001)


def test_a_refused_gateway_key_is_not_the_clients_fault(tmp_path: Path) -> None:
    with fleet_of(tmp_path, edges=1) as fleet:
        edge = fleet.edges[0]
        assert edge.server
        handler = edge.server.RequestHandlerClass
        handler.do_POST = lambda self: self.say(401, '{"error":{"code":"invalid_api_key"}}')  # type: ignore[attr-defined]
        answer = fleet.ask()
        assert (answer.status, answer.code) == (502, "bad_gateway")


def test_the_log_has_names_and_no_secrets(fleet: Fleet) -> None:
    asked = fleet.ask(
        json.dumps({"messages": [{"role": "user", "content": "the-prompt"}]}), headers={"X-Request-ID": "log-1"}
    )
    assert asked.status == 200
    fleet.ask(key="not-a-key", headers={"X-Request-ID": "log-2"})
    raw(fleet, b'POST /v1/"odd?secret-query HTTP/1.1\r\nHost: x\r\nX-Request-ID: log-3\r\nConnection: close\r\n\r\n')
    fleet.until(lambda: '"log-3"' in fleet.said(), 5)
    lines = [json.loads(line) for line in fleet.said().splitlines() if line.startswith("{")]
    by_id = {line["id"]: line for line in lines}
    assert by_id["log-1"]["key"] == "alice" and by_id["log-1"]["status"] == 200
    assert by_id["log-1"]["host"] in {edge.name for edge in fleet.edges}
    assert by_id["log-1"]["ms"]["total"] >= 0
    assert (by_id["log-2"]["key"], by_id["log-2"]["status"]) == ("-", 401)
    assert by_id["log-3"]["path"].startswith('/v1/"odd')
    for secret in ("the-prompt", "not-a-key", "secret-query", EDGE_KEY, *KEYS.values()):
        assert secret not in fleet.said()


def test_statistics_are_on_loopback(fleet: Fleet) -> None:
    metrics = fleet.ask(method="GET", path="/metrics", port=fleet.stats_port, key=None)
    assert metrics.status == 200
    assert 'haproxy_server_status{proxy="vicuna",server="host-0",state="UP"} 1' in metrics.text
    page = fleet.ask(method="GET", path="/", port=fleet.stats_port, key=None)
    assert page.status == 200 and "host-1" in page.text
    assert fleet.ask(method="GET", path="/health", port=fleet.stats_port, key=None).json == {"status": "ok"}


def test_a_key_has_its_rate(tmp_path: Path) -> None:
    with fleet_of(tmp_path, gateway_rate_limit=20) as fleet:
        answers = [fleet.ask() for _number in range(30)]
        assert [answer.status for answer in answers] == [200] * 20 + [429] * 10
        assert (answers[-1].code, answers[-1].headers["retry-after"]) == ("rate_limit_exceeded", "3")
        assert fleet.ask(key=KEYS["bob"]).status == 200, "another key has a rate of its own"


def test_overload_is_said(tmp_path: Path) -> None:
    with fleet_of(tmp_path, edges=1, gateway_queue_timeout=2, gateway_queue_limit=3) as fleet:
        servers = [{**fleet.variables["gateway_servers"][0], "max_requests": 2}]
        fleet.configure(gateway_servers=servers)
        with ThreadPoolExecutor(12) as pool:
            first = [pool.submit(fleet.ask, question(delay=5)) for _number in range(2)]
            fleet.until(lambda: len(fleet.edges[0].asked) == 2, 5)
            waiting = [pool.submit(fleet.ask) for _number in range(3)]
            fleet.until(lambda: ",3," in fleet.ask(method="GET", path="/;csv", port=fleet.stats_port).text, 2)
            refused = fleet.ask()
            assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "overloaded", "5")
            assert "3 requests wait already" in refused.text and refused.seconds < 0.5
            late = [each.result() for each in waiting]
        assert [(answer.status, answer.code, answer.headers["retry-after"]) for answer in late] == [
            (503, "overloaded", "5")
        ] * 3
        assert all(1.8 < answer.seconds < 4 for answer in late), late
        assert [each.result().status for each in first] == [200, 200]


def test_a_revoked_key_is_refused_after_one_reload(tmp_path: Path) -> None:
    with fleet_of(tmp_path) as fleet:
        assert fleet.ask(key=KEYS["bob"]).status == 200
        hashed = hashlib.sha256(KEYS["alice"].encode()).hexdigest().upper()
        applied = fleet.configure(gateway_keys=[{"name": "alice", "sha256": hashed}])
        assert applied["reloaded"] and applied["changed_files"] == [
            str(tmp_path / "haproxy.cfg"),
            str(tmp_path / "files" / "keys.map"),
        ]
        assert fleet.ask(key=KEYS["bob"]).status == 401
        assert fleet.ask(key=KEYS["alice"]).status == 200


def test_a_revoked_key_is_refused_on_a_kept_connection(tmp_path: Path) -> None:
    """The process of before the reload answers on it once more; so does the one before that."""
    with fleet_of(tmp_path) as fleet:
        kept = [http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=10) for _process in range(2)]
        bearer = {"Authorization": f"Bearer {KEYS['bob']}", "Content-Type": "application/json"}

        def ask(connection: http.client.HTTPConnection) -> int:
            connection.request("POST", "/v1/chat/completions", QUESTION, bearer)
            response = connection.getresponse()
            response.read()
            return response.status

        assert ask(kept[0]) == 200
        fleet.configure(gateway_queue_limit=99)
        assert ask(kept[1]) == 200
        fleet.configure(gateway_keys=[{"name": "alice", "key": KEYS["alice"]}])
        assert [ask(connection) for connection in kept] == [401, 401]
        assert fleet.ask(key=KEYS["alice"]).status == 200
        for connection in kept:
            connection.close()


def latency(fleet: Fleet, count: int = 60) -> float:
    answers = fleet.ask_many(count, clients=2, body=question(delay=0.05))
    assert [answer for answer in answers if answer.status != 200] == []
    return statistics.median(answer.seconds for answer in answers)


@contextlib.contextmanager
def idle_connections(fleet: Fleet, count: int) -> Iterator[None]:
    connections = [socket.create_connection(("127.0.0.1", fleet.port), timeout=10) for _number in range(count)]
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


@contextlib.contextmanager
def slow_clients(fleet: Fleet, count: int) -> Iterator[None]:
    """They send their body a byte at a time."""
    stopped = threading.Event()
    connections = [socket.create_connection(("127.0.0.1", fleet.port), timeout=10) for _number in range(count)]
    for connection in connections:
        connection.sendall(SLOW_HEAD)

    def drip() -> None:
        while not stopped.wait(0.2):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(5)
        for connection in connections:
            connection.close()


@contextlib.contextmanager
def wrong_keys(fleet: Fleet, count: int) -> Iterator[None]:
    statuses: list[int] = []

    def hammer() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=10)
        for number in range(count):
            connection.request("POST", "/v1/chat/completions", QUESTION, {"Authorization": f"Bearer wrong-{number}"})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
            time.sleep(0.001)

    thread = threading.Thread(target=hammer, daemon=True)
    thread.start()
    yield
    thread.join(30)
    assert statuses == [401] * count


@pytest.mark.parametrize(("nuisance", "count"), [(idle_connections, 1000), (slow_clients, 50), (wrong_keys, 1000)])
def test_the_others_keep_their_latency(fleet: Fleet, nuisance: Any, count: int) -> None:
    alone = latency(fleet)
    with nuisance(fleet, count):
        beside = latency(fleet)
    assert beside < 2 * alone, (
        f"{1000 * alone:.0f} ms alone, {1000 * beside:.0f} ms beside {count} of {nuisance.__name__}"
    )


def test_a_slow_client_holds_no_host_up(tmp_path: Path) -> None:
    with fleet_of(tmp_path, edges=1, gateway_request_timeout=2) as fleet:
        begun = time.monotonic()
        answer = raw(fleet, SLOW_HEAD + b"some")
        assert answer.startswith(b"HTTP/1.1 408") and b'"request_timeout"' in answer
        assert 1.5 < time.monotonic() - begun < 4
        assert fleet.edges[0].asked == []


def test_it_speaks_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    with fleet_of(tmp_path, gateway_tls=True) as fleet:
        pem = (tmp_path / "files" / "tls.pem").read_text(encoding="utf-8")
        assert (tmp_path / "files" / "tls.pem").stat().st_mode & 0o777 == 0o600
        again = fleet.configure()
        assert not again["changed"], "a certificate that is there is kept"
        assert again["certificate"] in pem and "PRIVATE" not in again["certificate"]
        trusted = ssl.create_default_context(cadata=again["certificate"])
        connection = http.client.HTTPSConnection("127.0.0.1", fleet.port, timeout=10, context=trusted)
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEYS['alice']}"})
        assert connection.getresponse().status == 200
        connection.close()
        old = ssl.create_default_context(cadata=again["certificate"])
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, OSError)), socket.create_connection(("127.0.0.1", fleet.port), 5) as plain:
            old.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_given_certificate_replaces_its_own(tmp_path: Path, certificate: Path) -> None:
    with fleet_of(tmp_path, gateway_tls=True) as fleet:
        fleet.tls_files = {"tls.pem": certificate.read_text(encoding="utf-8")}
        applied = fleet.configure()
        assert applied["reloaded"] and applied["certificate"] == ""
        broken = {"tls.pem": fleet.tls_files["tls.pem"].replace("BEGIN CERTIFICATE", "BEGIN NONSENSE")}
        fleet.tls_files = broken
        refused = fleet.configure()
        assert refused["failed"] and "gateway_tls_certificate" in refused["msg"]
        assert (tmp_path / "files" / "tls.pem").read_text(encoding="utf-8") == certificate.read_text(encoding="utf-8")


def test_edges_with_tls_are_verified(tmp_path: Path, authority: Path, tls: ssl.SSLContext) -> None:
    with fleet_of(tmp_path, edges=1) as fleet:
        edge = fleet.edges[0]
        edge.stop()
        edge.start()
        assert edge.server
        edge.server.socket = tls.wrap_socket(edge.server.socket, server_side=True, do_handshake_on_connect=False)
        servers = [{**fleet.variables["gateway_servers"][0], "tls": True}]
        ca = tmp_path / "authority.pem"
        ca.write_text(authority.read_text(encoding="utf-8"), encoding="utf-8")
        fleet.tls_files = {"ca.pem": ca.read_text(encoding="utf-8")}
        fleet.configure(gateway_servers=servers, gateway_server_ca=str(ca))
        fleet.until_state(edge, "up")
        assert fleet.ask().status == 200
        # Another authority: the host is not trusted, and nothing is sent to it.
        fleet.tls_files = {
            "ca.pem": (Path(__file__).parents[2] / "plugins/fixtures/certificates/first.pem").read_text()
        }
        fleet.configure()
        fleet.until_state(edge, "down")
        assert fleet.ask().status == 503
