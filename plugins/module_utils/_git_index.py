# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""git's index, written without git, so that ``git status`` is clean and has read no weights.

git itself enters a file into its index only after the clean filter has read it, a second time for every object. The
format is https://git-scm.com/docs/index-format: version 2, or 3 where files are left out (skip-worktree).

Private to the collection.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

_SKIP_WORKTREE = 0x4000
_EXTENDED = 0x4000
_NAME_MASK = 0x0FFF
_WORD = 0xFFFFFFFF
# Ten words: both times, dev, ino, mode, uid, gid and size; the object's name and the flags follow.
_WORDS = struct.Struct(">10I")
# A clock that is off by more is not waited for; git then reads such a file once.
RACE_LIMIT = 2.0


@dataclass(frozen=True)
class IndexEntry:
    """A file of the commit: its mode there, the blob that git has for it, and its stat; without one it is left out."""

    path: str
    mode: str
    blob: str
    status: os.stat_result | None


def stat_words(status: os.stat_result, mode: int) -> tuple[int, ...]:
    """What git compares a file with, each cut to 32 bits as git does it."""
    size = status.st_size & _WORD
    if size == 0 and status.st_size:
        # A size of zero says "read it"; git 2.43 and later enter this for a multiple of 4 GiB (munge_st_size).
        size = 0x80000000
    return (
        *divmod(status.st_ctime_ns, 10**9),
        *divmod(status.st_mtime_ns, 10**9),
        status.st_dev & _WORD,
        status.st_ino & _WORD,
        mode,
        status.st_uid & _WORD,
        status.st_gid & _WORD,
        size,
    )


def index_bytes(entries: t.Iterable[IndexEntry], *, sha256: bool = False) -> bytes:
    """The whole index, its checksum included."""
    rows = _sorted(entries)
    version = 3 if any(entry.status is None for _path, entry in rows) else 2
    parts = [struct.pack(">4sII", b"DIRC", version, len(rows))]
    for path, entry in rows:
        mode = int(entry.mode, 8)
        words = (0,) * 6 + (mode, 0, 0, 0) if entry.status is None else stat_words(entry.status, mode)
        flags = min(len(path), _NAME_MASK)
        row = _WORDS.pack(*(word & _WORD for word in words)) + bytes.fromhex(entry.blob)
        if entry.status is None:
            row += struct.pack(">HH", flags | _EXTENDED, _SKIP_WORKTREE)
        else:
            row += struct.pack(">H", flags)
        row += path
        # One to eight NULs: the name ends with one, the entry at a multiple of eight.
        parts.append(row + b"\0" * (8 - len(row) % 8))
    content = b"".join(parts)
    digest = hashlib.sha256(content) if sha256 else hashlib.sha1(content, usedforsecurity=False)
    return content + digest.digest()


def _sorted(entries: t.Iterable[IndexEntry]) -> list[tuple[bytes, IndexEntry]]:
    return sorted(((os.fsencode(entry.path), entry) for entry in entries), key=lambda row: row[0])


def write_index(git_dir: Path, entries: t.Sequence[IndexEntry]) -> None:
    """Replace the index in one step, as git does: through index.lock, which is there while somebody writes.

    Raises FileExistsError where it is there. A file that is as young as the index counts as changed ("racy git"), so
    the index is written in a later second than the youngest file.
    """
    seconds = [int(entry.status.st_mtime) for entry in entries if entry.status is not None]
    wait = max(seconds, default=0) + 1 - time.time()
    if 0 < wait <= RACE_LIMIT:
        time.sleep(wait + 0.02)  # the kernel's clock for files lags by up to a tick
    lock = git_dir / "index.lock"
    descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(index_bytes(entries, sha256=any(len(entry.blob) == 64 for entry in entries)))
        lock.replace(git_dir / "index")
    except BaseException:
        with contextlib.suppress(OSError):
            lock.unlink()
        raise
