# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Training on several GPUs: one process for each.

torchrun would do, but it hides the exit status of its processes (diverged, stopped, bad input) and ends them 30 seconds
after a signal, which is too soon for a checkpoint of a large model.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType

# When one process has failed, the others wait for it in a collective and never end by themselves; seconds.
GRACE = 20.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The variables that torch.distributed reads (https://docs.pytorch.org/docs/stable/elastic/run.html)."""
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def launch(command: list[str], world_size: int) -> int:
    """Run the command once for each GPU; return the exit status of the first that failed, or 0."""
    port = free_port()
    processes = [
        subprocess.Popen(command, env=environment(rank, world_size, port), start_new_session=True)
        for rank in range(world_size)
    ]

    def forward(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        return wait(processes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for process in processes:
            process.kill()
            process.wait()


def wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended, or GRACE seconds after the first failed; return the first failure's status."""
    first, failed_at = 0, 0.0
    while True:
        statuses = [process.poll() for process in processes]
        failed = [status for status in statuses if status]
        if failed and not first:
            # A negative status is a signal's: the shell's way to say it is 128 + its number.
            first, failed_at = (failed[0] if failed[0] > 0 else 128 - failed[0]), time.monotonic()
        if None not in statuses:
            return first
        if first and time.monotonic() - failed_at > GRACE:
            print(f"one process ended with {first}; the others are ended too", file=sys.stderr)
            return first
        time.sleep(0.2)
