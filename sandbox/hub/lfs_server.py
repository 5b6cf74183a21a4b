# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hub's rules on giftless, a Git LFS server: who may read and write, and where objects are.

nginx asks ``/_auth`` before each request and serves the objects itself, so that Range requests work, as on the content
network of a model hub. Only while a fault is set for an object does the batch API lead its downloads here.
"""

# The hub's libraries are in its image alone, so type checks see none of their types.
# mypy: disable-error-code="misc, untyped-decorator"
from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

from faults import Faults, Sent, parse_fault
from flask import Flask, Request, Response, jsonify, request
from giftless.app import init_app
from giftless.auth.identity import Identity, Permission
from giftless.storage.local_storage import LocalStorage
from giftless.transfer.basic_streaming import BasicStreamingTransferAdapter

TOKEN = os.environ.get("HUB_TOKEN", "hub-sandbox-token")
OBJECTS = os.environ.get("HUB_LFS_OBJECTS", "/srv/lfs")
SENT_LOG = os.environ.get("HUB_SENT_LOG", "/run/hub/sent.log")
GATED = re.compile(r"/(?:(?:lfs-objects|_faulty)/)?gated/")
WRITES = re.compile(r"[/=]git-receive-pack(?:$|[?&])")

FAULTS = Faults()
SENT = Sent(Path(SENT_LOG))


def has_token(header: str) -> bool:
    """Whether an Authorization header carries the token: as Bearer, or as the password of any Basic user."""
    kind, _, value = header.strip().partition(" ")
    if kind.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif kind.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode(), TOKEN.encode())


def allowed(method: str, uri: str, header: str) -> bool:
    """Whether a request may pass. Reading is free outside of gated/; writing always takes the token."""
    writes = method in ("PUT", "DELETE") or WRITES.search(uri) is not None
    if header and not has_token(header):
        return False  # as on a model hub, a wrong token is refused even where none is needed
    return has_token(header) or not (writes or GATED.match(uri))


class Caller(Identity):
    """Whoever has passed nginx may do what was asked."""

    def is_authorized(self, organization: str, repo: str, permission: Permission, oid: str | None = None) -> bool:
        return True


def identity(incoming: Request) -> Identity | None:
    """The one rule that nginx cannot see: an announced upload takes the token. None makes giftless answer 401."""
    announced = incoming.get_json(silent=True) if incoming.is_json else None
    if isinstance(announced, dict) and announced.get("operation") == "upload":
        return Caller() if has_token(incoming.headers.get("Authorization", "")) else None
    return Caller()


class Storage(LocalStorage):
    """Objects as files; an upload whose content is not what its name says is refused."""

    def put(self, prefix: str, oid: str, data_stream: BinaryIO) -> int:
        target = Path(self.path) / prefix / oid
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".upload")
        digest = hashlib.sha256()
        with temporary.open("wb") as file:
            for chunk in iter(lambda: data_stream.read(1 << 20), b""):
                digest.update(chunk)
                file.write(chunk)
        size = temporary.stat().st_size
        if digest.hexdigest() != oid:
            temporary.unlink()
            raise ValueError(f"the content of {oid} has the sha256 {digest.hexdigest()}")
        temporary.replace(target)
        return size


class StaticTransfer(BasicStreamingTransferAdapter):
    """Uploads go through giftless, downloads straight to nginx."""

    def download(
        self, organization: str, repo: str, oid: str, size: int, extra: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        answer: dict[str, Any] = super().download(organization, repo, oid, size, extra)
        if "actions" in answer:
            suffix = FAULTS.suffix(f"{organization}/{repo}", oid)
            place = "lfs-objects" if suffix is None else "_faulty"
            answer["actions"]["download"] = {
                "href": f"{request.host_url}{place}/{organization}/{repo}/{oid}{suffix or ''}",
                "header": self._caller(),
                "expires_in": self.action_lifetime,
            }
            answer["authenticated"] = True
        return answer

    def upload(
        self, organization: str, repo: str, oid: str, size: int, extra: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        answer: dict[str, Any] = super().upload(organization, repo, oid, size, extra)
        for action in answer.get("actions", {}).values():
            action["header"] = self._caller()
        if "actions" in answer:
            answer["authenticated"] = True
        return answer

    @staticmethod
    def _caller() -> dict[str, str]:
        header = request.headers.get("Authorization")
        return {"Authorization": header} if header else {}


def transfer(**_options: Any) -> StaticTransfer:
    """giftless hands over the options of its default adapter; the hub has its own."""
    return StaticTransfer(Storage(OBJECTS), 3600)


def create_app() -> Flask:
    app = init_app(
        additional_config={
            "LEGACY_ENDPOINTS": False,
            "AUTH_PROVIDERS": ["lfs_server:identity"],
            "PRE_AUTHORIZED_ACTION_PROVIDER": None,
            "TRANSFER_ADAPTERS": {"basic": {"factory": "lfs_server:transfer", "options": {}}},
        }
    )

    @app.get("/_auth")
    def authorise() -> Response:
        headers = request.headers
        passed = allowed(
            headers.get("X-Original-Method", "GET"),
            headers.get("X-Original-URI", "/"),
            headers.get("Authorization", ""),
        )
        return Response(status=204 if passed else 401)

    @app.get("/_faults")
    def list_faults() -> Response:
        return jsonify(FAULTS.list())

    @app.put("/_faults")
    def set_fault() -> Response:
        try:
            FAULTS.add(parse_fault(request.get_json(silent=True)))
        except ValueError as error:
            return Response(f"{error}\n", status=400, mimetype="text/plain")
        return Response(status=204)

    @app.delete("/_faults")
    def clear_faults() -> Response:
        FAULTS.clear()
        return Response(status=204)

    @app.get("/_faulty/<organization>/<name>/<oid>")
    def faulty(organization: str, name: str, oid: str) -> Response:
        if not re.fullmatch(r"[0-9a-f]{64}", oid) or ".." in (organization, name):
            return Response(status=404)
        answer = FAULTS.answer(
            Path(OBJECTS) / organization / name / oid,
            f"{organization}/{name}",
            request.headers.get("Range", ""),
            request.args.get("ticket", ""),
            request.environ.get("waitress.client_disconnected", lambda: False),
        )
        return Response(answer.body, status=answer.status, headers=answer.headers, mimetype="application/octet-stream")

    @app.get("/_sent")
    def sent() -> Response:
        return jsonify(SENT.counts())

    @app.after_request
    def challenge(response: Response) -> Response:
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = 'Basic realm="hub"'
            response.headers["LFS-Authenticate"] = 'Basic realm="hub"'
        return response

    return app
