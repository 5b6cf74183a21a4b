# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs commands that may never end. Private to the collection.

``AnsibleModule.run_command`` has no time limit, and a process that hangs in a call of NVIDIA's driver does not even die
of SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple


class Done(NamedTuple):
    """What a command said."""

    rc: int | None  # None: it did not end in time
    out: str = ""
    err: str = ""

    @property
    def hung(self) -> bool:
        return self.rc is None

    @property
    def said(self) -> str:
        return self.err.strip() or self.out.strip()


def bounded(
    command: list[str], seconds: float, data: bytes | None = None, environment: Mapping[str, str] | None = None
) -> Done:
    """Run a command, and wait for it no longer than it may take.

    It gets a session and pipes of its own: after the time is over its group is killed and not waited for, so that
    neither the module nor the connection hangs with it. A command that cannot be started returns 127.
    """
    try:
        process = subprocess.Popen(
            command,
            env={**(os.environ if environment is None else environment), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return Done(127, "", str(error))
    try:
        out, err = process.communicate(data, seconds)
    except subprocess.TimeoutExpired:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        return Done(None, "", f"`{' '.join(command[:4])} …` gave no answer within {seconds:g} s")
    return Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
