# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository's root on the path (ansible_collections/vicuna/fleet is a link to it), and a scripted endpoint."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
# So that a role's variables find the collection's own lookups where a test evaluates them.
init_plugin_loader([str(ROOT)])

# These watch HAProxy, servers and lines of their own for seconds, beside whatever else the machine does: what fails is
# measured once more, and the summary says so.
TIMED = ("test_gateway_faults", "test_gateway_limits", "test_edge", "test_lfs_engine", "test_lfs_peers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in TIMED:
            item.add_marker(pytest.mark.flaky(reruns=1))


def good_answer(model: str = "vicuna", content: str = "1, 5 and 8.", **changes: Any) -> dict[str, Any]:
    """FastChat 0.2.36's own answer, in its order of keys."""
    answer: dict[str, Any] = {
        "id": "chatcmpl-NvjsMxL9AF8boJD8VnXBoa",
        "object": "chat.completion",
        "created": 1795337285,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 72, "total_tokens": 75, "completion_tokens": 3},
    }
    return {**answer, **changes}


class FakeEndpoint:
    """An HTTP server on loopback that plays a script: each question takes the next entry, the last one stays.

    An entry is (status, body) or (status, body, headers), a dict (200 and this as JSON), or one of the words
    "hang" (no answer), "drip" (a byte now and then) and "close" (the connection is closed).
    """

    def __init__(self, script: list[Any], context: ssl.SSLContext | None = None) -> None:
        self.script = list(script)
        self.requests: list[dict[str, Any]] = []
        self.released = threading.Event()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
                entry = fake.script.pop(0) if len(fake.script) > 1 else fake.script[0]
                self.close_connection = True
                if entry == "hang":
                    fake.released.wait(30)
                elif entry == "drip":
                    self.send_response(200)
                    self.send_header("Content-Length", "100000")
                    self.end_headers()
                    while not fake.released.wait(0.1):
                        self.wfile.write(b" ")
                elif entry != "close":
                    self._answer(*((200, json.dumps(entry)) if isinstance(entry, dict) else entry))

            def _answer(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
                kind = "application/json" if body.startswith("{") else "text/plain; charset=utf-8"
                self.send_response(status)
                for name, value in {
                    "Content-Type": kind,
                    "Content-Length": str(len(body.encode())),
                    "Connection": "close",
                    **(headers or {}),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_args: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.scheme = "https" if context else "http"
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeEndpoint]]:
    """Starts scripted endpoints, and ends them with the test."""
    started: list[FakeEndpoint] = []

    def start(*script: Any, context: ssl.SSLContext | None = None) -> FakeEndpoint:
        started.append(FakeEndpoint(list(script), context))
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.close()


@pytest.fixture(scope="session")
def fake_endpoint() -> type[FakeEndpoint]:
    return FakeEndpoint


@pytest.fixture(scope="session")
def good() -> Callable[..., dict[str, Any]]:
    return good_answer


@pytest.fixture
def closed_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same PEM file."""
    x509 = pytest.importorskip("cryptography.x509")
    import datetime
    import ipaddress

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "endpoint.test")])
    now = datetime.datetime.fromtimestamp(time.time(), datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "endpoint.pem"
    encoding = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(encoding)
    )
    return path


@pytest.fixture(scope="session")
def authority(certificate: Path) -> Path:
    """The certificate alone, as a CA file."""
    text = certificate.read_text(encoding="utf-8")
    path = certificate.with_name("ca.pem")
    path.write_text(text[text.index("-----BEGIN CERTIFICATE") :], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
