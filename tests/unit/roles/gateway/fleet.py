# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's own configuration in a real HAProxy on loopback, before fakes of edges."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.vicuna.fleet.plugins.module_utils._haproxy import HaproxyDown, Runtime
from ansible_collections.vicuna.fleet.plugins.modules import gateway_config, gateway_server

ROLES = Path(__file__).resolve().parents[4] / "roles"
HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="no haproxy on this machine: install the package haproxy")

EDGE_KEY = "edge-key-0123456789"
KEYS = {"alice": "alice-key-0123456789", "bob": "bob-key-0123456789"}
QUESTION = json.dumps({"model": "vicuna", "messages": [{"role": "user", "content": "Hello"}]})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(role: str, **variables: Any) -> Templar:
    """A role's variables, with those that an inventory would set."""
    loader = DataLoader()
    files = [
        loader.load_from_file(str(ROLES / role / part / "main.yml"), trusted_as_template=True)
        for part in ("defaults", "vars")
    ]
    known = {
        "ansible_managed": "Ansible managed",
        "inventory_hostname": "gateway-1",
        "inventory_dir": "/nowhere",
        "ansible_check_mode": False,
        "ansible_facts": {"distribution": "Debian", "distribution_version": "12.1", "distribution_major_version": "12"},
    }
    return Templar(loader=loader, variables={**files[0], **files[1], **known, **variables})


def render(role: str, template: str, **variables: Any) -> str:
    text = (ROLES / role / "templates" / f"{template}.j2").read_text(encoding="utf-8")
    return str(settings(role, **variables).template(trust_as_template(text)))


class FakeEdge:
    """A fake of a serving host's edge: /health, and answers by FastChat's shape. `mode` is what ails it.

    ok; hung (takes connections and says nothing); lying (health says something else with 200); down (health says 503);
    worker_gone (health is well, every question gets 503); saturated (health is well, answers wait).
    """

    def __init__(self, name: str, port: int = 0) -> None:
        self.name, self.mode, self.delay = name, "ok", 0.0
        self.asked: list[dict[str, Any]] = []
        self.health_asked = self.told = 0
        self.most = self._running = 0
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._waiting: list[socket.socket] = []
        self.port = port or free_port()
        self.server: http.server.ThreadingHTTPServer | None = None
        self.start()

    def start(self) -> None:
        edge = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def say(self, status: int, body: str) -> None:
                data = body.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def hang(self) -> bool:
                if edge.mode == "hung":
                    edge._released.wait(60)
                    self.close_connection = True
                    return True
                return False

            def do_GET(self) -> None:
                edge.health_asked += self.path == "/health"
                edge.told += self.path != "/health"
                if not self.hang():
                    body = "<html>welcome</html>" if edge.mode == "lying" else '{"status":"ok"}'
                    self.say(503 if edge.mode == "down" else 200, body)

            def generate(self, delay: float) -> None:
                """What takes its time, and is counted; what follows is no load for a host."""
                with edge._lock:
                    edge._running += 1
                    edge.most = max(edge.most, edge._running)
                edge._released.wait(delay)
                with edge._lock:
                    edge._running -= 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                edge.asked.append({"path": self.path, "headers": dict(self.headers), "body": body})
                if self.hang():
                    return
                if edge.mode == "worker_gone":
                    self.say(503, '{"error":{"message":"no worker","type":"server_error","param":null,"code":40301}}')
                    return
                try:
                    question = json.loads(body)
                except ValueError:
                    self.say(400, '{"object":"error","message":"malformed","code":40001}')
                    return
                delay = float(question.get("delay", edge.delay))
                if question.get("stream"):
                    self.stream(delay)
                    return
                self.generate(delay)
                self.say(200, json.dumps({"object": "chat.completion", "host": edge.name}))

            def stream(self, delay: float) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for number in range(5):
                    piece = f'data: {{"n": {number}}}\n\n'.encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.hang()
                    edge._released.wait(delay)
                self.wfile.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

            def log_message(self, *_args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_args: Any) -> None:
                pass

        self._released.clear()
        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections from now on, and ends those that hang."""
        self._released.set()
        for waiting in self._waiting:
            waiting.close()
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def vanish(self) -> None:
        """Answers no attempt to connect from now on: its queue of them is as good as none, and full."""
        assert self.server
        self.server.shutdown()
        self.server.socket.listen(0)
        for _number in range(3):
            self._waiting.append(socket.socket())
            self._waiting[-1].setblocking(False)
            self._waiting[-1].connect_ex(("127.0.0.1", self.port))

    def recover(self) -> None:
        self.mode = "ok"
        self._released.set()
        self._released = threading.Event()
        if self.server is None:
            self.start()


class Fleet:
    """A gateway as the role configures it, and the fakes behind it."""

    def __init__(self, folder: Path, edges: int = 2, **variables: Any) -> None:
        self.folder = folder
        self.edges = [FakeEdge(f"host-{number}") for number in range(edges)]
        self.port, self.stats_port = free_port(), free_port()
        self.variables: dict[str, Any] = {
            "gateway_keys": [{"name": name, "key": key} for name, key in KEYS.items()],
            "gateway_servers": [
                {"name": edge.name, "address": "127.0.0.1", "port": edge.port, "max_requests": 50}
                for edge in self.edges
            ],
            "gateway_server_key": EDGE_KEY,
            "gateway_bind_address": "127.0.0.1",
            "gateway_tls": False,
            "gateway_port": self.port,
            "gateway_stats_port": self.stats_port,
            "__gateway_dir": str(folder / "files"),
            "__gateway_socket": str(folder / "admin.sock"),
            "__gateway_state_file": str(folder / "server-state"),
            **variables,
        }
        self.tls_files: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        applied = self.configure()
        assert applied.get("installed"), applied
        self.log = (folder / "log").open("wb")
        self.start()

    def start(self) -> None:
        command = [
            str(HAPROXY),
            "-W",
            "-db",
            "-S",
            str(self.folder / "master.sock"),
            "-f",
            str(self.folder / "haproxy.cfg"),
        ]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        self.until(
            lambda: all(server["state"] == "up" for server in self.look()["servers"]) and self.look()["running"], 10
        )

    def configure(self, **variables: Any) -> dict[str, Any]:
        """What the role's task does."""
        self.variables |= variables
        config = render("gateway", "haproxy.cfg", **self.variables)
        # A user's own process can neither change its user nor its root.
        config = re.sub(r"(?m)^ +(chroot|user|group) .*\n", "", config)
        names = ("keys.map", "models.json", "owed.lua")
        return self._module(
            gateway_config,
            config=config,
            config_path=str(self.folder / "haproxy.cfg"),
            files={**{name: render("gateway", name, **self.variables) for name in names}, **self.tls_files},
            directory=str(self.folder / "files"),
            self_signed=["127.0.0.1", "gateway-1"] if self.variables["gateway_tls"] else [],
            secrets=[EDGE_KEY],
            socket=str(self.folder / "admin.sock"),
            master_socket=str(self.folder / "master.sock"),
            state_file=str(self.folder / "server-state"),
            reload_command=["kill", "-USR2", str(self.process.pid)] if self.process else ["false"],
            timeout=10,
        )

    def server(self, name: str, state: str, timeout: int = 20, **arguments: Any) -> dict[str, Any]:
        return self._module(
            gateway_server,
            name=name,
            state=state,
            timeout=timeout,
            socket=str(self.folder / "admin.sock"),
            master_socket=str(self.folder / "master.sock"),
            state_file=str(self.folder / "server-state"),
            **arguments,
        )

    def look(self) -> dict[str, Any]:
        runtime = Runtime(str(self.folder / "admin.sock"), patience=0)
        try:
            return {"running": True, "servers": [{"name": s.name, "state": s.state} for s in runtime.servers("vicuna")]}
        except HaproxyDown:
            return {"running": False, "servers": []}

    def _module(self, module: Any, **arguments: Any) -> dict[str, Any]:
        printed = io.StringIO()
        with (
            patch_module_args({"_ansible_remote_tmp": str(self.folder), **arguments}),
            contextlib.redirect_stdout(printed),
            pytest.raises(SystemExit),
        ):
            module.main()
        result: dict[str, Any] = json.loads(printed.getvalue())
        return result

    def until(self, condition: Any, seconds: float) -> float:
        """Seconds until it holds; fails where it does not in time."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > seconds:
                pytest.fail(f"not within {seconds} s; {self.look()}; {self.said()[-2000:]}")
            time.sleep(0.05)
        return time.monotonic() - begun

    def until_state(self, edge: FakeEdge, state: str, seconds: float = 10) -> float:
        return self.until(lambda: {"name": edge.name, "state": state} in self.look()["servers"], seconds)

    def ask(
        self, body: str = QUESTION, *, key: str | None = KEYS["alice"], method: str = "POST", **options: Any
    ) -> Answer:
        path = options.get("path", "/v1/chat/completions")
        headers = {"Content-Type": "application/json", **options.get("headers", {})}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", options.get("port", self.port), timeout=60)
        try:
            connection.request(method, path, body if method == "POST" else None, headers)
            response = connection.getresponse()
            return Answer(
                response.status, dict(response.getheaders()), response.read().decode(), time.monotonic() - begun
            )
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, {}, f"{type(error).__name__}: {error}", time.monotonic() - begun)
        finally:
            connection.close()

    def ask_many(self, count: int, clients: int = 8, **options: Any) -> list[Answer]:
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(lambda _number: self.ask(**options), range(count)))

    def said(self) -> str:
        return (
            (self.folder / "log").read_text(encoding="utf-8", errors="replace")
            if (self.folder / "log").exists()
            else ""
        )

    def close(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
        self.log.close()
        for edge in self.edges:
            edge.stop()


class Answer:
    def __init__(self, status: int, headers: dict[str, str], text: str, seconds: float) -> None:
        self.status, self.text, self.seconds = status, text, seconds
        self.headers = {name.lower(): value for name, value in headers.items()}

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> Any:
        return self.json["error"]["code"]

    def __repr__(self) -> str:
        return f"{self.status} after {self.seconds:.2f} s: {self.text[:200]}"


@contextlib.contextmanager
def fleet_of(folder: Path, edges: int = 2, **variables: Any) -> Iterator[Fleet]:
    fleet = Fleet(folder, edges, **variables)
    try:
        yield fleet
    finally:
        fleet.close()
