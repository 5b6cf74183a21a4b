# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""progress.json and log.jsonl: what a run tells the outside. Needs no torch."""

from __future__ import annotations

import json
import math
import os
import time
import typing as t
from pathlib import Path

SCHEMA = 1
PHASES = ("loading", "training", "saving", "merging", "evaluating", "done", "failed")
# Between two writes of what is not a new phase, seconds: a step can take a millisecond.
LEAST_INTERVAL = 1.0


def write_atomically(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file that its readers see whole: beside it, then renamed.

    A durable one is on the disk when this returns: a loss of power does not take it back.
    """
    # One for each process: several may have a failure to tell.
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    beside.chmod(0o644)
    if durable:
        to_disk(beside)
    beside.replace(path)
    if durable:
        to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Return when what was written to a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tree_to_disk(directory: Path, alive: t.Callable[[], None] = lambda: None) -> None:
    """The same for all below a directory; alive() is called for each file, since gigabytes take minutes."""
    for path in [*sorted(directory.rglob("*")), directory, directory.parent]:
        to_disk(path)
        alive()


def finite(value: float | None) -> float | None:
    """JSON knows no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None


class Progress:
    """progress.json; only one process of a run has one that writes."""

    def __init__(self, path: Path, *, writes: bool = True, clock: t.Callable[[], float] = time.time) -> None:
        self.path = path
        self.writes = writes
        self.clock = clock
        self.written = 0.0
        started = clock()
        self.values: dict[str, t.Any] = {
            "schema": SCHEMA,
            "phase": "loading",
            "step": 0,
            "steps": 0,
            "epoch": 0.0,
            "loss": None,
            "learning_rate": None,
            "tokens_per_second": None,
            "seconds_left": None,
            "updated": started,
            "started": started,
            "gpu_memory_mib": None,
            "message": "",
        }

    def update(self, phase: str | None = None, **changes: t.Any) -> None:
        """Note changes; a new phase is written at once, the rest at most once a second."""
        if phase is not None and phase not in PHASES:
            raise ValueError(phase)
        if unknown := changes.keys() - self.values.keys():
            raise ValueError(f"progress.json has no {', '.join(sorted(unknown))}")
        now = self.clock()
        fresh = self.written == 0.0 or (phase is not None and phase != self.values["phase"])
        for name, value in changes.items():
            self.values[name] = finite(value) if isinstance(value, float) else value
        if phase is not None:
            self.values["phase"] = phase
        if fresh or abs(now - self.written) >= LEAST_INTERVAL:
            self.write(now)

    def write(self, now: float | None = None) -> None:
        """Write the file now."""
        self.written = self.clock() if now is None else now
        self.values["updated"] = self.written
        if self.writes:
            write_atomically(self.path, json.dumps(self.values, sort_keys=True) + "\n")


class Log:
    """log.jsonl: one line for each step, and one for each held-out loss."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes

    def cut_after(self, step: int) -> None:
        """Forget what a run did after the checkpoint that it continues from: those steps come again."""
        if self.writes:
            kept = [line for line in read_log(self.path) if line["step"] <= step]
            write_atomically(self.path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept))

    def add(self, **entry: t.Any) -> None:
        """Append one line."""
        if self.writes:
            known = {name: finite(value) if isinstance(value, float) else value for name, value in entry.items()}
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(known, sort_keys=True) + "\n")


def read_log(path: Path) -> list[dict[str, t.Any]]:
    """Return the lines of a log; a line that a kill cut short is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
    return entries
