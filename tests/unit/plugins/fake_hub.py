# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fake model hub on loopback: real git behind it, and an LFS server that can be told to fail."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKEN = "made-up-token"
IN_LFS = (".safetensors", ".model", ".bin")
GIT_PATH = re.compile(r"/([^/]+/[^/]+?)(?:\.git)?/(info/refs|git-upload-pack)")
BATCH_PATH = re.compile(r"/([^/]+/[^/]+?)\.git/info/lfs/objects/batch")


def pointer(content: bytes) -> bytes:
    oid = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()


class FakeHub:
    """Serves bare repositories; ``gated/`` takes TOKEN. The attributes below make it fail."""

    def __init__(self, root: Path, context: ssl.SSLContext | None = None) -> None:
        self.root = root
        self.objects: dict[str, bytes] = {}
        self.served: list[str] = []  # oids whose content was sent
        self.requests: list[str] = []
        self.tokens: set[str] = set()  # passwords that were sent
        self.status: int = 0  # answer everything with this status
        self.batch_status: int = 0
        self.in_lfs = IN_LFS
        self.pointer = pointer
        self.damaged: set[str] = set()  # oids whose content is sent with a flipped byte
        self.cut: set[str] = set()  # oids whose content breaks off in the middle
        self.cut_when: Callable[[], bool] = lambda: True  # ... and not before this holds
        self.held: set[str] = set()  # oids whose content stops in the middle until released
        self.sent = 0  # bytes of objects
        self.pace = 0.0  # seconds for each quarter of a MiB
        self.silent = False  # accept, and say nothing until released
        self.released = threading.Event()
        self.holding = threading.Event()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._handle(self, b"")

            def do_POST(self) -> None:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub._handle(self, body)

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
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    # -- content

    def git(self, name: str, *arguments: str, content: bytes = b"") -> str:
        env = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{role}_NAME": "Test" for role in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{role}_EMAIL": "test@example.invalid" for role in ("AUTHOR", "COMMITTER")},
        }
        command = ["git", "-C", str(self.root / name), *arguments]
        return subprocess.run(command, input=content, env=env, check=True, capture_output=True).stdout.decode().strip()

    def commit(
        self, name: str, files: dict[str, bytes], branch: str = "main", *, modes: dict[str, str] | None = None
    ) -> str:
        """Add a commit that holds exactly these files; large ones become pointers."""
        repository = self.root / name
        if not repository.exists():
            repository.mkdir(parents=True)
            self.git(name, "init", "--quiet", "--bare", "--initial-branch=main")
            self.git(name, "config", "uploadpack.allowAnySHA1InWant", "true")
        lines = []
        for path, content in files.items():
            stored = content
            if path.endswith(self.in_lfs) and not content.startswith(b"version http"):
                stored = self.pointer(content)
                self.objects[hashlib.sha256(content).hexdigest()] = content
            blob = self.git(name, "hash-object", "-w", "--stdin", content=stored)
            lines.append(f"{(modes or {}).get(path, '100644')} {blob}\t{path}\n")
        self.git(name, "read-tree", "--empty")
        self.git(name, "update-index", "--index-info", content="".join(lines).encode())
        tree = self.git(name, "write-tree")
        heads = self.git(name, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")
        parents = ["-p", heads] if heads else []
        commit = self.git(name, "commit-tree", tree, *parents, "-m", "commit")
        self.git(name, "update-ref", f"refs/heads/{branch}", commit)
        return commit

    # -- requests

    def _handle(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        path, _, query = request.path.partition("?")
        self.requests.append(f"{request.command} {request.path}")
        if self.silent:
            self.released.wait(30)
            request.close_connection = True
            return
        if self.status:
            self._answer(request, self.status)
        elif not self._authorised(request, path):
            self._answer(request, 401, b"", {"WWW-Authenticate": 'Basic realm="hub"'})
        elif match := BATCH_PATH.fullmatch(path):
            self._batch(request, match[1], json.loads(body))
        elif match := GIT_PATH.fullmatch(path):
            self._git(request, match[1], match[2], query, body)
        elif "/objects/" in path:
            self._object(request, path.rsplit("/", 1)[1])
        else:
            self._answer(request, 404)

    def _authorised(self, request: http.server.BaseHTTPRequestHandler, path: str) -> bool:
        header = request.headers.get("Authorization", "")
        secret = ""
        if header.startswith("Basic "):
            secret = base64.b64decode(header[6:]).decode().partition(":")[2]
            self.tokens.add(secret)
        return not path.startswith("/gated/") or secret == TOKEN

    def _batch(self, request: http.server.BaseHTTPRequestHandler, name: str, body: dict[str, Any]) -> None:
        if self.batch_status:
            self._answer(request, self.batch_status)
            return
        objects = []
        for wanted in body["objects"]:
            answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] in self.objects:
                href = f"{self.url}/{name}/objects/{wanted['oid']}"
                header = {"Authorization": value} if (value := request.headers.get("Authorization")) else {}
                answer |= {"authenticated": True, "actions": {"download": {"href": href, "header": header}}}
            else:
                answer["error"] = {"code": 404, "message": "Object does not exist"}
            objects.append(answer)
        content = json.dumps({"transfer": "basic", "objects": objects}).encode()
        self._answer(request, 200, content, {"Content-Type": "application/vnd.git-lfs+json"})

    def _object(self, request: http.server.BaseHTTPRequestHandler, oid: str) -> None:
        content = self.objects[oid]
        if oid in self.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        if oid in self.cut or oid in self.held:
            request.send_response(200)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content[: len(content) // 2])
            request.wfile.flush()
            request.close_connection = True
            deadline = time.monotonic() + 20
            while oid in self.cut and not self.cut_when() and time.monotonic() < deadline:
                time.sleep(0.01)
            if oid in self.held:
                self.holding.set()
                self.released.wait(30)
                request.wfile.write(content[len(content) // 2 :])
                self.served.append(oid)
            return
        self.served.append(oid)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        start, stop = (int(match[1]), int(match[2]) + 1) if match else (0, len(content))
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"} if match else {}
        request.send_response(206 if match else 200)
        for key, value in {**headers, "Content-Length": str(stop - start)}.items():
            request.send_header(key, value)
        request.end_headers()
        for place in range(start, stop, 1 << 18):
            part = content[place : min(place + (1 << 18), stop)]
            request.wfile.write(part)
            self.sent += len(part)
            if self.pace:
                time.sleep(self.pace)

    def _git(
        self, request: http.server.BaseHTTPRequestHandler, name: str, service: str, query: str, body: bytes
    ) -> None:
        if not (self.root / name).is_dir():
            self._answer(request, 404)
            return
        env = {
            "PATH": os.environ["PATH"],
            "REQUEST_METHOD": request.command,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PATH_INFO": f"/{name}/{service}",
            "QUERY_STRING": query,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "HTTP_GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        output = subprocess.run(["git", "http-backend"], input=body, env=env, check=False, capture_output=True).stdout
        head, _, content = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self._answer(request, int(headers.pop("Status", "200").split()[0]), content, headers)

    @staticmethod
    def _answer(
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        content: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> None:
        request.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(content)
