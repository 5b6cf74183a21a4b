#!/usr/bin/env python3
"""The health check of a model worker; exits with 0 when it is well, else with one line that says why it is not.

    healthcheck.py model-worker ADDRESS

Exit code 1: the worker itself does not answer, and a restart helps. Exit code 3: a restart of this container would mend
nothing, as the model is loading, or as the controller is silent or has yet to hear of the worker. The host's watcher
(vicuna-watch) restarts what stays at 1, and leaves 3 alone.

``GET /v1/models`` is never asked: it empties the controller's table and asks every worker anew with a blocking 5 s
timeout, so that a worker which is just starting is evicted.

A worker's own status stays 200 after the controller has forgotten it, so the controller is asked whether it knows the
worker: by a heartbeat in the worker's name, the one question whose answer tells of one worker where several serve the
same model. FastChat's own heartbeat thread dies when one registration fails, and such a worker never comes back by
itself: a worker that was known once and is unknown for UNKNOWN_LIMIT checks in a row, while the controller answers,
ends itself and is restarted by its restart policy. The thread of a worker that is well takes up to 10 s to come back to
a controller that was restarted. A worker that is still loading has never been known and is left alone.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

TIMEOUT = 5.0  # seconds
STATE = Path("/tmp/vicuna-worker-known")  # noqa: S108 - the container's own tmpfs, empty at every start
UNKNOWN_LIMIT = 5
WELL, UNWELL, NOT_ITS_FAULT = 0, 1, 3


def ask(host: str, port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON answer; raises OSError or ValueError when there is none."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("POST", path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise ValueError(f"{path} answered {response.status}")
        return json.loads(answer)
    except http.client.HTTPException as error:
        raise ValueError(f"{path}: {type(error).__name__} {error}") from error
    finally:
        connection.close()


def check(address: str) -> tuple[int, str]:
    """Return the exit code, and what is wrong with this worker."""
    try:
        own = ask("127.0.0.1", 21002, "/worker_get_status")
        beat = {"worker_name": address, "queue_length": own["queue_length"]}
    except (OSError, ValueError, LookupError) as error:
        if isinstance(error, ConnectionRefusedError) and not STATE.exists():
            return NOT_ITS_FAULT, "the worker does not listen yet: it is loading the model"
        return UNWELL, f"the worker does not answer: {type(error).__name__}: {error}"
    try:
        known = ask("controller", 21001, "/receive_heart_beat", beat)["exist"]
    except (OSError, ValueError, LookupError) as error:
        return NOT_ITS_FAULT, f"the controller does not answer: {type(error).__name__}: {error}"
    if known:
        STATE.write_text("0")
        return WELL, ""
    # `own` answered, so the model is loaded; without STATE it has simply not been known yet.
    if STATE.exists():
        count = int(STATE.read_text() or 0) + 1
        STATE.write_text(str(count % UNKNOWN_LIMIT))
        if count >= UNKNOWN_LIMIT:
            os.kill(1, signal.SIGTERM)
            return NOT_ITS_FAULT, f"the controller forgot {address} for {count} checks: restarting the worker"
    return NOT_ITS_FAULT, f"the controller does not know {address}, which serves {own.get('model_names')}"


def main(arguments: list[str]) -> int:
    """Check the worker with the address that is the last argument."""
    code, problem = check(arguments[-1])
    if problem:
        print(problem)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
