#!/usr/bin/env python3
"""Health checks of the FastChat services; exit 0 when the service is well, 1 with one line when it is not.

    healthcheck.py controller
    healthcheck.py api-server
    healthcheck.py model-worker NAME[,NAME...]

``GET /v1/models`` is never asked: it empties the controller's table and asks every worker anew with a blocking 5 s
timeout, so that a worker which is just starting is evicted.

A worker's own status stays 200 after the controller has forgotten it, so the controller is asked whether it lists the
model. FastChat's heartbeat thread dies when one registration fails, and such a worker never comes back by itself: a
worker that was listed once and is missing for three checks in a row, while the controller answers, ends itself and is
restarted by its restart policy. A worker that is still loading has never been listed and is left alone.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

TIMEOUT = 4.0  # seconds; compose's own timeout is 5
STATE = Path("/tmp/vicuna-worker-listed")  # noqa: S108 - the container's own tmpfs
MISSING_LIMIT = 3


def ask(host: str, port: int, method: str, path: str) -> Any:
    """Return the JSON answer; raises OSError or ValueError when there is none."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise ValueError(f"{path} answered {response.status}")
        return json.loads(body)
    finally:
        connection.close()


def check_worker(names: list[str]) -> str:
    """Return what is wrong with this worker, or an empty string."""
    own = ask("127.0.0.1", 21002, "POST", "/worker_get_status")
    listed = ask("controller", 21001, "POST", "/list_models").get("models", [])
    missing = [name for name in names if name not in listed]
    if not missing:
        STATE.write_text("0")
        return ""
    # `own` answered, so the model is loaded; without STATE it has simply not been listed yet.
    if STATE.exists():
        count = int(STATE.read_text() or 0) + 1
        STATE.write_text(str(count))
        if count >= MISSING_LIMIT:
            STATE.unlink()
            os.kill(1, signal.SIGTERM)
            return f"the controller forgot {', '.join(missing)} for {count} checks: restarting the worker"
    return f"the controller does not list {', '.join(missing)}; this worker serves {own.get('model_names')}"


def main(arguments: list[str]) -> int:
    """Check the service named by the first argument."""
    service = arguments[0] if arguments else ""
    try:
        if service == "controller":
            ask("127.0.0.1", 21001, "GET", "/test_connection")
            problem = ""
        elif service == "api-server":
            socket.create_connection(("127.0.0.1", 8000), TIMEOUT).close()
            problem = ""
        elif service == "model-worker":
            problem = check_worker(arguments[1].split(",") if len(arguments) > 1 else [])
        else:
            problem = f"unknown service {service!r}: expected controller, api-server or model-worker"
    except (OSError, ValueError, http.client.HTTPException) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        print(problem)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
