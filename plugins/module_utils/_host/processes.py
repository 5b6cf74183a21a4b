# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a process may still go by an earlier version of a file: its start against the file's last change.

What a task has changed tells less: a run may be killed between the file and the restart, and a file that a person has
edited may have been read meanwhile.

Private to the collection.
"""

from __future__ import annotations

import os
import time
import typing as t
from pathlib import Path

PROC = Path("/proc")


def started(pid: int, proc: Path = PROC) -> float | None:
    """When a process began, in seconds since 1970; None where there is no such process.

    It is told in ticks of 10 ms. The end of the tick is taken: what was written before the start is never newer.
    """
    try:
        # The name in parentheses may hold blanks and parentheses: starttime is the 20th field after it (proc(5)).
        ticks = int((proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return since_boot((ticks + 1) / os.sysconf("SC_CLK_TCK"), time.CLOCK_BOOTTIME)


def since_boot(seconds: float, clock: int) -> float:
    """A time of a clock that counts from the boot, in seconds since 1970. Steps of the wall clock do not alter it."""
    return time.time() - time.clock_gettime(clock) + seconds


def changed_at(paths: t.Iterable[Path], stamp: str = "st_ctime") -> dict[str, float]:
    """When each file was last changed; those that are gone are left out.

    Nothing can set the inode's time back. A further hard link alters it, though: of files that others share, take
    ``st_mtime``.
    """
    found = {}
    for path in paths:
        try:
            found[os.fspath(path)] = getattr(path.stat(), stamp)
        except OSError:
            continue
    return found


def newer_than(start: float | None, changed: t.Mapping[str, float], now: float) -> list[str]:
    """The files that a process may have read before their last change; none where no process runs.

    Equal times count as newer. A time to come is from before the clock was set back, and counts as older: otherwise it
    would be newer at every run.
    """
    return [] if start is None else sorted(name for name, when in changed.items() if start <= when <= now)
