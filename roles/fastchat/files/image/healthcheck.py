#!/usr/bin/env python3
"""Health checks of the FastChat services; exit 0 when the service is well, 1 with one line when it is not.

    healthcheck.py controller
    healthcheck.py api-server
    healthcheck.py model-worker ADDRESS

``GET /v1/models`` is never asked: it empties the controller's table and asks every worker anew with a blocking 5 s
timeout, so that a worker which is just starting is evicted.

A worker's own status stays 200 after the controller has forgotten it, so the controller is asked whether it knows the
worker: by a heartbeat in the worker's name, the one question whose answer tells of one worker where several serve the
same model. FastChat's own heartbeat thread dies when one registration fails, and such a worker never comes back by
itself: a worker that was known once and is unknown for three checks in a row, while the controller answers, ends itself
and is restarted by its restart policy. A worker that is still loading has never been known and is left alone.
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
STATE = Path("/tmp/vicuna-worker-known")  # noqa: S108 - the container's own tmpfs
UNKNOWN_LIMIT = 3


def ask(host: str, port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON answer; raises OSError or ValueError when there is none."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise ValueError(f"{path} answered {response.status}")
        return json.loads(body)
    finally:
        connection.close()


def check_worker(address: str) -> str:
    """Return what is wrong with this worker, or an empty string."""
    own = ask("127.0.0.1", 21002, "POST", "/worker_get_status")
    beat = {"worker_name": address, "queue_length": own["queue_length"]}
    if ask("controller", 21001, "POST", "/receive_heart_beat", beat)["exist"]:
        STATE.write_text("0")
        return ""
    # `own` answered, so the model is loaded; without STATE it has simply not been known yet.
    if STATE.exists():
        count = int(STATE.read_text() or 0) + 1
        STATE.write_text(str(count))
        if count >= UNKNOWN_LIMIT:
            STATE.unlink()
            os.kill(1, signal.SIGTERM)
            return f"the controller forgot {address} for {count} checks: restarting the worker"
    return f"the controller does not know {address}, which serves {own.get('model_names')}"


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
            problem = check_worker(arguments[1] if len(arguments) > 1 else "http://model-worker:21002")
        else:
            problem = f"unknown service {service!r}: expected controller, api-server or model-worker"
    except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        print(problem)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
