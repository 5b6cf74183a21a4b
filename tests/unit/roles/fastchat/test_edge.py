# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge's /health, and what it makes of FastChat's answers. A real HAProxy before fakes of FastChat's services."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.vicuna.fleet.plugins.module_utils._diagnosis import Observation, diagnose

ROLE = Path(__file__).resolve().parents[4] / "roles" / "fastchat"
HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="no haproxy on this machine: install the package haproxy")
KEY = "edge-key-0123456789"
# As FastChat 0.2.36 says it.
NO_WORKER = '{"object":"error","message":"Only  allowed now, your model vicuna","code":40301}'
OTHER_NAME = '{"object":"error","message":"Only vicuna allowed now, your model gpt-4","code":40301}'
# A name that is asked for may say what it likes.
TRICK = '{"object":"error","message":"Only vicuna allowed now, your model Only  allowed now","code":40301}'
OVERLONG = '{"object":"error","message":"This model\'s maximum context length is 4096 tokens.","code":40303}'
WORKER_FAILED = '{"object":"error","message":"Server disconnected \\"early\\" in C:\\\\x\\n","code":50001}'
OUT_OF_MEMORY = (
    '{"object":"error","message":"**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**'
    '\\n\\n(CUDA out of memory.)","code":50002}'
)
CUDA_BROKEN = OUT_OF_MEMORY.replace("CUDA out of memory.", "CUDA error: device-side assert triggered").replace(
    "50002", "50001"
)
PRETENDS = '{"object":"error","message":"\\"code\\":50001}","code":40303}'


class FakeService:
    """A fake of one of FastChat's services: (status, type, body) by method and path; `hung` says nothing at all."""

    def __init__(self, **answers: tuple[int, str, str]) -> None:
        self.answers, self.hung, self.asked = answers, False, [""]
        # Of every answer, and of those to clients, which no check asks for.
        self.delay = self.thinks = 0.0
        self.silent: list[socket.socket] = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.asked.append(f"{self.command} {self.path}")
                while fake.hung:
                    time.sleep(0.1)
                time.sleep(fake.delay + (fake.thinks if self.path.startswith("/v1/") else 0.0))
                name = self.path.strip("/").replace("/", "_")
                status, kind, body = fake.answers.get(name, (404, "application/json", '{"detail":"Not Found"}'))
                if self.command == "GET" and name in ("list_models", "worker_get_status"):
                    status = 405
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, *_args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_args: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections from now on."""
        self.server.shutdown()
        self.server.server_close()

    def vanish(self) -> None:
        """Takes no connection from now on, and refuses none: the address of a container that is gone."""
        self.stop()
        self.silent = [socket.socket() for _one in range(4)]
        self.silent[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.silent[0].bind(("127.0.0.1", self.port))
        self.silent[0].listen(0)
        for filler in self.silent[1:]:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))

    def close(self) -> None:
        self.hung = False
        for one in self.silent:
            one.close()
        self.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configuration(**variables: Any) -> str:
    """The edge's, as the role writes it."""
    loader = DataLoader()
    parts = [
        loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True) for part in ("defaults", "vars")
    ]
    known = {"ansible_managed": "Ansible managed", "role_path": str(ROLE), **variables}
    text = (ROLE / "templates/edge/haproxy.cfg.j2").read_text(encoding="utf-8")
    return str(Templar(loader=loader, variables={**parts[0], **parts[1], **known}).template(trust_as_template(text)))


class Edge:
    def __init__(self, folder: Path, workers: int = 1, **variables: Any) -> None:
        json_type = "application/json"
        self.variables = {"fastchat_workers": workers, **variables}
        self.controller = FakeService(list_models=(200, json_type, '{"models":["vicuna"]}'))
        self.workers = [
            FakeService(worker_get_status=(200, json_type, '{"model_names":["vicuna"],"speed":1,"queue_length":0}'))
            for _worker in range(workers)
        ]
        self.worker = self.workers[0]
        self.api = FakeService(v1_chat_completions=(200, json_type, '{"object":"chat.completion"}'))
        self.port = free_port()
        (folder / "keys").write_text(hashlib.sha256(KEY.encode()).hexdigest() + "\n", encoding="utf-8")
        (folder / "models.json").write_text("{}", encoding="utf-8")
        (folder / "haproxy.cfg").write_text(self.configuration(folder), encoding="utf-8")
        self.log = (folder / "log").open("wb")
        command = [str(HAPROXY), "-db", "-f", str(folder / "haproxy.cfg")]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        self.until(200)

    def configuration(self, folder: Path) -> str:
        text = configuration(**self.variables)
        # Ports of its own on loopback.
        ports = {number: str(free_port()) for number in range(8001, 8004 + len(self.workers))}
        text = re.sub(r"(?<=127\.0\.0\.1[: ])(port )?(80\d\d)\b", lambda m: (m[1] or "") + ports[int(m[2])], text)
        text = text.replace("api-server:8000", f"127.0.0.1:{self.api.port}")
        # The names of the compose network, here on loopback and without its name server.
        text = re.sub(r"(?ms)^resolvers docker\n.*?\n\n", "", text).replace(" resolvers docker", "")
        text = text.replace("controller:21001", f"127.0.0.1:{self.controller.port}")
        for number, worker in enumerate(self.workers):
            name = "model-worker" if number == 0 else f"model-worker-{number + 1}"
            text = text.replace(f"{name}:21002", f"127.0.0.1:{worker.port}")
        return text.replace("bind :8000", f"bind 127.0.0.1:{self.port}").replace("/etc/vicuna/", f"{folder}/")

    def ask(
        self, method: str = "POST", path: str = "/v1/chat/completions", key: str | None = KEY
    ) -> tuple[int, Any, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request(method, path, "{}" if method == "POST" else None, headers)
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, json.loads(text) if text.startswith("{") else text, response.headers
        finally:
            connection.close()

    def health(self) -> tuple[int, Any]:
        try:
            return self.ask("GET", "/health", None)[:2]
        except OSError:
            return 0, None

    def until(self, status: int, seconds: float = 10.0) -> float:
        begun = time.monotonic()
        while self.health()[0] != status:
            assert time.monotonic() - begun < seconds, f"no {status} within {seconds} s: {self.health()}"
            time.sleep(0.05)
        return time.monotonic() - begun

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()
        for service in (self.controller, *self.workers, self.api):
            service.close()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    running = Edge(tmp_path_factory.mktemp("edge"))
    yield running
    running.close()


@pytest.fixture(autouse=True)
def nothing_hangs_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails leaves its fault to no other."""
    running: Edge | None = request.getfixturevalue("edge") if "edge" in request.fixturenames else None
    yield
    if running:
        for service in (running.controller, running.worker, running.api):
            service.hung = False
        running.until(200)


def test_health_needs_no_key_and_tells_nothing_else(edge: Edge) -> None:
    # Past the first checks, so that what is seen was found out.
    time.sleep(1.2)
    assert edge.health() == (200, {"status": "ok"})
    assert edge.ask("POST", "/health", None)[0] == 404
    for path in ("/health/", "/health/x", "/HEALTH", "/v1/health"):
        assert edge.ask("GET", path, None)[0] in (401, 404), path


def test_fastchats_own_list_of_models_is_never_asked_for(edge: Edge) -> None:
    """It empties the table of workers. An encoded letter is the same path to FastChat."""
    for path in ("/v1/models", "/v1/models?x=1", "/v1/%6dodels"):
        assert edge.ask("GET", path)[:2] == (200, {}), path
    assert not any("models" in one and "/v1/" in one for one in edge.api.asked)


def test_an_edge_full_of_clients_answers_its_own_health_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a reason to restart it: what waits for a connection looks hung."""
    text = configuration()
    numbers = [int(re.findall(rf"{word} (\d+)", text)[0]) for word in ("fd-hard-limit", "maxconn")]
    assert 2 * numbers[1] + 200 < numbers[0], "a client costs two descriptors"
    small = text.replace(f"fd-hard-limit {numbers[0]}", "fd-hard-limit 300").replace(
        f"maxconn {numbers[1]}", "maxconn 100"
    )
    monkeypatch.setitem(globals(), "configuration", lambda **_variables: small)
    full = Edge(tmp_path)
    clients = []
    try:
        port = int(re.findall(r"frontend owed\n    bind 127\.0\.0\.1:(\d+)", (tmp_path / "haproxy.cfg").read_text())[0])
        clients = [socket.create_connection(("127.0.0.1", full.port), timeout=10) for _client in range(150)]
        time.sleep(1.0)  # until it has taken as many as it takes
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        for client in clients:
            client.close()
        full.close()


def test_http_2_is_not_spoken(edge: Edge) -> None:
    """Its bodies need no length, and the limit is one of length."""
    with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert connection.recv(100).startswith(b"HTTP/1.1 4")


def test_the_checks_ask_what_costs_nothing(edge: Edge) -> None:
    time.sleep(1.2)
    asked = {*edge.controller.asked, *edge.worker.asked, *edge.api.asked}
    assert {"POST /list_models", "POST /worker_get_status"} <= asked
    # The controller's own would ask every worker in turn.
    assert "POST /worker_get_status" not in edge.controller.asked
    assert not any("/v1/models" in one for one in asked)


@pytest.mark.parametrize("service", ["controller", "worker", "api"])
def test_a_hung_service_is_found(edge: Edge, service: str) -> None:
    fake = getattr(edge, service)
    fake.hung = True
    # A gateway asks twice, 0.5 s apart, up to 1 s after that: 10 s in all.
    assert edge.until(503) < 8.5
    assert edge.health() == (503, {"status": "down"})
    fake.hung = False
    assert edge.until(200) < 4


def test_what_a_hung_worker_owes_ends_without_an_answer(edge: Edge) -> None:
    """FastChat would wait for hours. A gateway asks another host for what has no answer, or says 502 or 503."""
    ended: list[tuple[float, Any]] = []
    begun = time.monotonic()

    def ask() -> None:
        try:
            found: Any = edge.ask()[0]
        except (OSError, http.client.HTTPException) as error:
            found = type(error).__name__
        ended.append((time.monotonic() - begun, found))

    edge.api.hung = edge.worker.hung = True
    client = threading.Thread(target=ask)
    client.start()
    client.join(12)
    edge.api.hung = False
    assert ended, "the request hangs as the worker does"
    assert ended[0][1] in (502, 503, "RemoteDisconnected")
    assert ended[0][0] < 9
    # FastChat would wait for it still: nothing is asked of it.
    status, answer, _headers = edge.ask()
    assert (status, answer["code"]) == (503, 50006)
    # The API server hung as well a moment ago: one of the two is named.
    assert answer["error"]["message"].endswith(" of this host hangs.")
    assert edge.health()[0] == 503
    edge.worker.hung = False
    edge.until(200)
    assert edge.ask()[0] == 200


class Client:
    """One request that waits in a thread of its own."""

    def __init__(self, edge: Edge) -> None:
        self.begun, self.seconds, self.found = time.monotonic(), 0.0, "nothing yet"
        self.thread = threading.Thread(target=self._ask, args=(edge,), daemon=True)
        self.thread.start()

    def _ask(self, edge: Edge) -> None:
        try:
            self.found = str(edge.ask()[0])
        except (OSError, http.client.HTTPException) as error:
            self.found = type(error).__name__
        self.seconds = time.monotonic() - self.begun

    def ended_unanswered(self) -> bool:
        """Before a gateway that asks /health twice would cut it."""
        self.thread.join(12)
        return self.found in ("502", "503", "RemoteDisconnected") and self.seconds < 7.5


def test_what_a_hung_api_owes_ends_without_an_answer(edge: Edge) -> None:
    """Its worker is well: only the API server says nothing."""
    edge.api.hung = True
    client = Client(edge)
    assert client.ended_unanswered(), (client.found, client.seconds)
    edge.api.hung = False
    edge.until(200)
    assert edge.ask()[0] == 200


def test_a_hung_worker_among_several(tmp_path: Path) -> None:
    """What is owed ends; the host is out until FastChat deals nothing more to that worker, then the others serve on."""
    edge = Edge(tmp_path, 2, fastchat_heartbeat_expiration=4, fastchat_heartbeat_interval=1)
    try:
        time.sleep(1.2)
        edge.api.hung = edge.workers[1].hung = True
        begun = time.monotonic()
        client = Client(edge)
        assert edge.until(503) < 8.5
        assert client.ended_unanswered(), (client.found, client.seconds)
        edge.api.hung = False
        # Two looks of the controller, 4 s apart, and what a heartbeat may be late.
        edge.until(200, 20)
        assert time.monotonic() - begun > 9
        # Later answers are guarded again, and a worker that comes back is no event.
        edge.api.delay = 2.2
        later = Client(edge)
        time.sleep(0.5)
        edge.workers[1].hung = False
        later.thread.join(10)
        assert later.found == "200"
        edge.api.delay = 0.0
        time.sleep(1.5)
        assert edge.health()[0] == 200
    finally:
        edge.close()


@pytest.mark.parametrize(("how", "seconds"), [("stop", 2.2), ("vanish", 9.0)])
def test_a_dead_worker_among_several_costs_the_others_nothing(tmp_path: Path, how: str, seconds: float) -> None:
    """One whose port refuses, and one whose address is on no interface any more."""
    edge = Edge(tmp_path, 2)
    try:
        time.sleep(1.2)
        # Longer than it takes to find a worker dead, or hung.
        edge.api.thinks = seconds
        client = Client(edge)
        time.sleep(0.2)
        getattr(edge.workers[1], how)()
        seen = set()
        while client.thread.is_alive():
            seen.add(edge.health()[0])
            time.sleep(0.1)
        assert client.found == "200"
        assert seen == {200}
    finally:
        edge.close()


@pytest.mark.parametrize("variables", [
    {}, {"fastchat_workers": 3}, {"fastchat_tls_certificate": "/nowhere/tls.pem", "fastchat_workers": 2},
])  # fmt: skip
def test_haproxy_takes_it_without_a_warning(tmp_path: Path, certificate: Path, variables: dict[str, Any]) -> None:
    """As it is written, the names of the compose network among it."""
    for name in ("keys", "models.json"):
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    (tmp_path / "tls.pem").write_bytes(certificate.read_bytes())
    path = tmp_path / "haproxy.cfg"
    path.write_text(configuration(**variables).replace("/etc/vicuna/", f"{tmp_path}/"), encoding="utf-8")
    done = subprocess.run([str(HAPROXY), "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The names lead nowhere outside of the compose network, which some versions mention.
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line and "could not resolve" not in line]
    assert warnings == []


def test_a_controller_without_the_model_is_not_well(edge: Edge) -> None:
    before = dict(edge.controller.answers)
    edge.controller.answers["list_models"] = (200, "application/json", '{"models":["vicuna-13b"]}')
    assert edge.until(503) < 4
    edge.controller.answers.update(before)
    assert edge.until(200) < 4


def test_a_busy_worker_is_well(edge: Edge) -> None:
    edge.worker.delay = 2.0
    try:
        end = time.monotonic() + 7
        while time.monotonic() < end:
            assert edge.health()[0] == 200
            time.sleep(0.1)
    finally:
        edge.worker.delay = 0.0


CASES = [
    (400, "application/json", NO_WORKER, 503, 40301),
    (500, "text/plain; charset=utf-8", "Internal Server Error", 503, 50006),
    (400, "application/json", OTHER_NAME, 400, 40301),
    (400, "application/json", TRICK, 400, 40301),
    (400, "application/json", OVERLONG, 400, 40303),
    (400, "application/json", WORKER_FAILED, 503, 50001),
    (400, "application/json", CUDA_BROKEN, 503, 50001),
    # No second host should suffer what this request has raised: 500 is not asked again.
    (400, "application/json", OUT_OF_MEMORY, 500, 50002),
    (400, "application/json", PRETENDS, 400, 40303),
    (500, "application/json", '{"object":"error","message":"x","code":50001}', 500, 50001),
    (200, "application/json", NO_WORKER, 200, 40301),
]


@pytest.mark.parametrize(("status", "kind", "body", "expected", "code"), CASES)
def test_what_becomes_of_fastchats_answers(
    edge: Edge, status: int, kind: str, body: str, expected: int, code: int
) -> None:
    edge.api.answers["v1_chat_completions"] = (status, kind, body)
    got, answer, headers = edge.ask()
    assert (got, answer["code"]) == (expected, code)
    if expected == 503:
        assert headers["Retry-After"] == "2"
        assert answer["error"]["code"] == code and answer["error"]["type"] == "server_error"
        assert headers["Content-Type"] == "application/json"
    if (status, code) in ((400, 50001), (400, 50002)):
        assert answer["message"] == answer["error"]["message"] == json.loads(body)["message"]
    elif expected != 503:
        assert answer == json.loads(body)


def test_the_diagnosis_still_knows_a_missing_worker(edge: Edge) -> None:
    edge.api.answers["v1_chat_completions"] = (400, "application/json", NO_WORKER)
    status, answer, _headers = edge.ask()
    seen = Observation(url="http://h", model="vicuna", status=status, body=json.dumps(answer), key_sent=True)
    assert diagnose(seen).code == "no_worker"
