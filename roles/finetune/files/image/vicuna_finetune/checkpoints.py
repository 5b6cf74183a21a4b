# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which checkpoints are whole. Needs no torch.

A save that is cut short leaves a directory that looks like a checkpoint. So the last thing that a save writes is a list
of its files with their sizes, and a directory that is not as its list says is none. The list is written when the files
are on the disk, and older checkpoints are removed after that: a loss of power leaves one to go on from.
"""

from __future__ import annotations

import json
import re
import shutil
import typing as t
from pathlib import Path

from .progress import tree_to_disk, write_atomically

LIST = "complete.json"


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name, or -1."""
    found = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(found.group(1)) if found else -1


def sizes(path: Path) -> dict[str, int]:
    """Return the size in bytes of every file below a checkpoint."""
    files = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith(LIST))
    return {str(file.relative_to(path)): file.stat().st_size for file in sorted(files)}


def complete(path: Path, alive: t.Callable[[], None] = lambda: None, **figures: t.Any) -> None:
    """Declare a checkpoint whole, once it is on the disk; the figures are kept with it."""
    tree_to_disk(path, alive)
    write_atomically(path / LIST, json.dumps({"files": sizes(path), **figures}, sort_keys=True) + "\n", durable=True)


def figures(path: Path) -> dict[str, t.Any] | None:
    """Return what complete() noted, or None where the checkpoint is not whole."""
    try:
        noted = json.loads((path / LIST).read_text(encoding="utf-8"))
        return dict(noted) if noted["files"] and noted["files"] == sizes(path) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def newest_whole(directory: Path) -> Path | None:
    """Return the checkpoint to continue from; None where there is none."""
    found = sorted((path for path in directory.glob("checkpoint-*") if step_of(path) >= 0), key=step_of, reverse=True)
    return next((path for path in found if figures(path) is not None), None)


def remove_broken(directory: Path) -> list[str]:
    """Remove what is not whole, which only takes disk space; return the names."""
    broken = [path for path in directory.glob("checkpoint-*") if figures(path) is None]
    for path in broken:
        shutil.rmtree(path)
    return sorted(path.name for path in broken)


def keep_newest(directory: Path, count: int) -> None:
    """Remove all whole checkpoints but the newest. Called when the newest has become whole, not before."""
    whole = sorted((path for path in directory.glob("checkpoint-*") if figures(path) is not None), key=step_of)
    for path in whole[: max(0, len(whole) - count)]:
        # Without its list it is none any more, should the removal be cut short.
        (path / LIST).unlink()
        shutil.rmtree(path)
