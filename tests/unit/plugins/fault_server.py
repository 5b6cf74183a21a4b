# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An LFS server on loopback with every fault that a network, a cache or a server has shown, and a proxy."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import re
import select
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TOKEN = "made-up-token"
CHUNK = 64 * 1024


def oid_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Fault:
    """One way to fail, for the next `times` requests of a place.

    Of a download: drop (reset after so many bytes), stall (silence after so many bytes), truncate (an orderly end after
    so many bytes), flip (the byte at `after` of the answer), lie_range (Content-Range of other bytes), lie_total,
    lie_length, no_range (206 without Content-Range), ignore_range (200 and the whole object), encode. Of any request:
    status, redirect (to `to`), close (answer, then close without a word), hangup (no answer at all), unasked (a second
    answer to no request), chunked.
    """

    kind: str
    times: int = 1
    oid: str = ""
    after: int = 0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    to: str = ""
    place: str = "object"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_args: Any) -> None:
        pass


def _start(handler: type[http.server.BaseHTTPRequestHandler], context: ssl.SSLContext | None) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class FaultServer:
    """Serves the objects by the batch API and by Range requests.

    token: what the batch API, and an action without a signature, asks for. signed: addresses carry a signature in
    their query that `expire()` ends. seen: all requests, with their headers. batches: the oids of each batch request.
    """

    def __init__(
        self, *contents: bytes, token: str = "", signed: bool = False, context: ssl.SSLContext | None = None
    ) -> None:
        self.objects = {oid_of(content): content for content in contents}
        self.token = token
        self.signed = signed
        self.signatures: set[str] = set()
        self.uses = 0  # requests for which a signature is good; 0 for no end
        self.expires: dict[str, Any] = {}  # expires_in or expires_at of the actions
        self.batch: dict[str, Any] = {}  # laid over each batch answer
        self.entry: dict[str, Any] = {}  # laid over each object of a batch answer
        self.header: dict[str, str] = {}  # headers of the actions
        self.base = ""  # where the addresses lead, if not here
        self.faults: list[Fault] = []
        self.seen: list[dict[str, Any]] = []
        self.batches: list[list[str]] = []
        self.connections = 0
        self.sent = 0
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._issued = 0
        self._used: dict[str, int] = {}
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                with fake._lock:
                    fake.connections += 1
                super().setup()

            def do_GET(self) -> None:
                fake._handle(self, b"")

            def do_POST(self) -> None:
                fake._handle(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def log_message(self, *_args: Any) -> None:
                pass

        self.server = _start(Handler, context)
        self.port = int(self.server.server_address[1])
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self.endpoint = f"{self.url}/org/model.git/info/lfs"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(self, *_args: object) -> None:
        self.close()

    def fail(self, kind: str, **details: Any) -> None:
        self.faults.append(Fault(kind, **details))

    def expire(self) -> None:
        """End every signature that was given out."""
        with self._lock:
            self.signatures.clear()

    def requests(self, method: str) -> list[dict[str, Any]]:
        return [request for request in self.seen if request["method"] == method]

    # -- answers

    def _fault(self, place: str, oid: str = "") -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.place in (place, "any") and fault.oid in ("", oid):
                    fault.times -= 1
                    return fault
        return None

    def _handle(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        path, _, query = request.path.partition("?")
        with self._lock:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.seen.append({"method": request.command, "path": path, "query": query, "headers": headers})
        batch = path.endswith("/objects/batch")
        oid = "" if batch else path.rsplit("/", 1)[1]
        fault = self._fault("batch" if batch else "object", oid)
        kind = fault.kind if fault else ""
        if fault and kind == "hangup":
            request.close_connection = True
        elif fault and kind == "status":
            self._answer(request, fault.status, fault.body, fault.headers)
        elif fault and kind == "redirect":
            self._answer(request, fault.status if fault.status != 500 else 307, b"", {"Location": fault.to})
        elif batch:
            self._batch(request, json.loads(body), fault)
        else:
            self._object(request, oid, query, fault)
        if kind == "close":
            request.close_connection = True
        elif kind == "unasked":
            self.released.wait(0.1)  # until the reader is done with the first answer
            request.wfile.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    def _authorised(self, request: http.server.BaseHTTPRequestHandler) -> bool:
        header = request.headers.get("Authorization", "")
        given = base64.b64decode(header[6:]).decode().partition(":")[2] if header.startswith("Basic ") else ""
        return not self.token or given == self.token

    def _batch(self, request: http.server.BaseHTTPRequestHandler, body: dict[str, Any], fault: Fault | None) -> None:
        if not self._authorised(request):
            self._answer(request, 401, b'{"message": "Credentials needed"}', {"LFS-Authenticate": "Basic"})
            return
        objects = []
        for wanted in body["objects"]:
            entry: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] in self.objects:
                href = f"{self.base or self.url}/org/model/objects/{wanted['oid']}"
                if self.signed:
                    href += f"?X-Signature={self._sign()}"
                entry |= {
                    "authenticated": True,
                    "actions": {"download": {"href": href, "header": self.header, **self.expires}},
                }
            else:
                entry["error"] = {"code": 404, "message": "Object does not exist"}
            objects.append({**entry, **self.entry})
        with self._lock:
            self.batches.append([wanted["oid"] for wanted in body["objects"]])
        content = json.dumps({"transfer": "basic", "objects": objects, **self.batch}).encode()
        headers = {"Content-Type": "application/vnd.git-lfs+json"}
        if fault and fault.kind == "chunked":
            self._chunked(request, 200, content, headers)
        else:
            self._answer(request, 200, content, headers)

    def _sign(self) -> str:
        with self._lock:
            self._issued += 1
            signature = f"secret-signature-{self._issued}"
            self.signatures.add(signature)
            return signature

    def _signature_holds(self, query: str) -> bool:
        signature = query.partition("=")[2]
        with self._lock:
            self._used[signature] = self._used.get(signature, 0) + 1
            return signature in self.signatures and (not self.uses or self._used[signature] <= self.uses)

    def _object(self, request: http.server.BaseHTTPRequestHandler, oid: str, query: str, fault: Fault | None) -> None:
        if self.signed and not self._signature_holds(query):
            self._answer(request, 403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        if not self.signed and not self._authorised(request):
            self._answer(request, 401)
            return
        content = self.objects.get(oid)
        if content is None:
            self._answer(request, 404)
            return
        kind, after = (fault.kind, fault.after) if fault else ("", 0)
        start, stop, status = 0, len(content), 200
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if match and kind != "ignore_range":
            start, stop, status = int(match[1]), int(match[2]) + 1, 206
            if start >= len(content):
                self._answer(request, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
        data = content[start:stop]
        headers = {}
        if status == 206 and kind != "no_range":
            shift = 1 if kind == "lie_range" else 0
            total = len(content) + (1 if kind == "lie_total" else 0)
            headers["Content-Range"] = f"bytes {start + shift}-{stop - 1 + shift}/{total}"
        if kind == "encode":
            headers["Content-Encoding"] = "gzip"
        if kind == "flip":
            data = data[:after] + bytes([data[after] ^ 1]) + data[after + 1 :]
        if kind == "chunked":
            self._chunked(request, status, data, headers)
        elif kind in ("drop", "stall", "truncate"):
            self._broken(request, status, data, headers, kind, after)
        else:
            self._answer(request, status, data[: len(data) - 1] if kind == "lie_length" else data, headers)

    def _broken(
        self,
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        kind: str,
        after: int,
    ) -> None:
        self._answer(request, status, data[:after], {**headers, "Content-Length": str(len(data))})
        request.close_connection = True
        if kind == "drop":
            # A close that throws away what is not sent: the other side sees a reset.
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif kind == "stall":
            self.released.wait(30)

    def _answer(
        self,
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        content: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        with contextlib.suppress(OSError):  # the reader may have had enough
            for position in range(0, len(content), CHUNK):
                request.wfile.write(content[position : position + CHUNK])
                with self._lock:
                    self.sent += len(content[position : position + CHUNK])

    def _chunked(
        self, request: http.server.BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]
    ) -> None:
        request.send_response(status)
        for name, value in {"Transfer-Encoding": "chunked", **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        for position in range(0, len(content), 1000):
            part = content[position : position + 1000]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        request.wfile.write(b"0\r\n\r\n")


class FakeProxy:
    """An http proxy that leads every request to where its address says; credentials: ``user:password``."""

    def __init__(self, credentials: str = "", status: int = 0) -> None:
        self.credentials = credentials
        self.status = status  # answer everything with this
        self.seen: list[dict[str, Any]] = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self) -> None:
                if not fake._may(self):
                    return
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host, int(port)), 5) as there:
                    self.send_response(200)
                    self.end_headers()
                    self.close_connection = True
                    fake._join(self.connection, there)

            def do_GET(self) -> None:
                self._forward(b"")

            def do_POST(self) -> None:
                self._forward(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def _forward(self, body: bytes) -> None:
                if not fake._may(self):
                    return
                parts = urlsplit(self.path)
                connection = http.client.HTTPConnection(parts.netloc, timeout=5)
                headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                connection.request(self.command, path, body=body or None, headers=headers)
                response = connection.getresponse()
                content = response.read()
                self.send_response(response.status)
                for name, value in response.getheaders():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                connection.close()

            def log_message(self, *_args: Any) -> None:
                pass

        self.server = _start(Handler, None)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self) -> FakeProxy:
        return self

    def __exit__(self, *_args: object) -> None:
        self.close()

    def _may(self, request: http.server.BaseHTTPRequestHandler) -> bool:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append({"method": request.command, "path": request.path, "headers": headers})
        expected = "Basic " + base64.b64encode(self.credentials.encode()).decode()
        status = self.status
        if not status and self.credentials and headers.get("proxy-authorization") != expected:
            status = 407
        if status:
            request.send_response(status)
            request.send_header("Content-Length", "0")
            request.end_headers()
        return not status

    @staticmethod
    def _join(one: socket.socket, other: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([one, other], [], [], 10)
            for here in ready:
                data = here.recv(CHUNK)
                if not data:
                    return
                (other if here is one else one).sendall(data)
            if not ready:
                return
