# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where LFS objects are on a host: whole and verified, or on their way. Private to the collection.

A store is git-lfs's own ``lfs.storage``: ``objects/aa/bb/OID`` holds verified objects alone. Beside them, in
``vicuna-fleet/``, are the objects that are being fetched, each with a map of the blocks that have arrived, and a stamp
for each object that was verified.

What a killed run wrote is in the page cache and stays good. What a machine without power had written may be zeros: a
block counts after a reboot only if it was synced, and so does a stamp.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
import typing as t
from pathlib import Path

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import Problem

# What the map counts in: a killed run sends less than one of these again for each connection.
BLOCK = 1024 * 1024
# The digest of the object up to each multiple of this is kept, so that damage is found to within one of them.
SUM_STEP = 16 * BLOCK
MAP_HEADER = 256
MAP_VERSION = 1
# git takes a file for changed in the second of its index; objects are dated back by more than that.
BACKDATE = 5 * 10**9

_MISSING, _WRITTEN, _DURABLE = 0, 1, 2


class Named(t.Protocol):
    """An LFS object as a pointer names it."""

    @property
    def oid(self) -> str: ...

    @property
    def size(self) -> int: ...


class Stream(t.Protocol):
    """Bytes of an object, in order."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as it goes; 0 at the end. Raises SourceError."""


class SourceError(Exception):
    """A source, the origin or a peer, has not given the bytes.

    retry: whether the same request may succeed later. wait: seconds that the source asked to be left alone.
    """

    def __init__(self, problem: Problem, *, retry: bool, wait: float = 0.0) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.retry = retry
        self.wait = wait


def boot_id() -> str:
    """The kernel's name for this boot."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def piece_size(size: int) -> int:
    """Bytes that are asked of one source at a time: fewer requests for a large object, fewer bytes late for a small."""
    if size < 2 * 1024**3:
        return 4 * BLOCK
    return 8 * BLOCK if size < 8 * 1024**3 else 16 * BLOCK


def blocks_of(size: int) -> int:
    return -(-size // BLOCK)


def blocks_on_disk(path: Path) -> int:
    """Bytes that a file takes up; 0 for one that is not there."""
    try:
        return path.lstat().st_blocks * 512
    except (FileNotFoundError, NotADirectoryError):
        return 0


def replace_text(path: Path, text: str) -> None:
    """Write a small file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


class BlockMap:
    """Which blocks of a part have arrived: one byte for each, in a file that the peer server reads too."""

    def __init__(self, descriptor: int, size: int, same_boot: bool) -> None:
        self._descriptor = descriptor
        self._same_boot = same_boot
        self.size = size
        self.blocks = blocks_of(size)

    @classmethod
    def open(cls, path: Path, size: int, *, create: bool) -> BlockMap | None:
        """The map of an object of so many bytes; None where there is none that fits. create: to write in it."""
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            return None
        boot = boot_id()
        try:
            header = cls._header(descriptor)
            fits = (
                header.get("version") == MAP_VERSION
                and header.get("size") == size
                and header.get("block") == BLOCK
                and os.fstat(descriptor).st_size == MAP_HEADER + blocks_of(size)
            )
            if not (fits or create):
                os.close(descriptor)
                return None
            found = cls(descriptor, size, header.get("boot") == boot != "")
            if create and not fits:
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, MAP_HEADER + found.blocks)
            elif create and not found._same_boot:
                states = found._read(0, found.blocks)
                os.pwrite(descriptor, states.replace(bytes([_WRITTEN]), bytes([_MISSING])), MAP_HEADER)
            if create and not (fits and found._same_boot):
                line = json.dumps({"version": MAP_VERSION, "size": size, "block": BLOCK, "boot": boot})
                os.pwrite(descriptor, line.encode().ljust(MAP_HEADER - 1) + b"\n", 0)
                found._same_boot = True
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        return found

    @staticmethod
    def _header(descriptor: int) -> dict[str, t.Any]:
        with contextlib.suppress(ValueError):
            header = json.loads(os.pread(descriptor, MAP_HEADER, 0).decode("ascii", "replace"))
            if isinstance(header, dict):
                return header
        return {}

    def _read(self, first: int, stop: int) -> bytes:
        return os.pread(self._descriptor, max(0, stop - first), MAP_HEADER + first)

    def _there(self, state: int) -> bool:
        return state == _DURABLE or (state == _WRITTEN and self._same_boot)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def has(self, block: int) -> bool:
        states = self._read(block, block + 1)
        return bool(states) and self._there(states[0])

    def mark(self, first: int, stop: int) -> None:
        """These blocks are written."""
        os.pwrite(self._descriptor, bytes([_WRITTEN]) * (stop - first), MAP_HEADER + first)

    def unmark(self, first: int, stop: int) -> None:
        """These blocks have to be fetched again."""
        os.pwrite(self._descriptor, bytes([_MISSING]) * (stop - first), MAP_HEADER + first)

    def written(self) -> list[int]:
        """Blocks that are written and not known to be synced."""
        return [block for block, state in enumerate(self._read(0, self.blocks)) if state == _WRITTEN]

    def mark_durable(self, blocks: t.Iterable[int]) -> None:
        """The file was synced after these blocks were written; one that was unmarked since stays so."""
        for block in blocks:
            if self._read(block, block + 1) == bytes([_WRITTEN]):
                os.pwrite(self._descriptor, bytes([_DURABLE]), MAP_HEADER + block)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def missing(self, first: int = 0, stop: int | None = None) -> list[tuple[int, int]]:
        """Runs of blocks that are not there."""
        stop = self.blocks if stop is None else min(stop, self.blocks)
        runs: list[tuple[int, int]] = []
        for block, state in enumerate(self._read(first, stop), first):
            if self._there(state):
                continue
            if runs and runs[-1][1] == block:
                runs[-1] = (runs[-1][0], block + 1)
            else:
                runs.append((block, block + 1))
        return runs

    def count(self) -> int:
        return sum(self._there(state) for state in self._read(0, self.blocks))

    def available(self, first: int, stop: int) -> int:
        """How many blocks from the first on are there without a gap."""
        count = 0
        for state in self._read(first, min(stop, self.blocks)):
            if not self._there(state):
                break
            count += 1
        return count


class Store:
    """A directory of LFS objects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own = path / "vicuna-fleet"

    def object(self, oid: str) -> Path:
        return self.path / "objects" / oid[:2] / oid[2:4] / oid

    def bad(self, oid: str) -> Path:
        return self.path / "bad" / oid

    def kept(self, oid: str, name: str) -> Path:
        """Where a file goes that was changed on this host: it may be somebody's work. One for each object and name."""
        return self.path / "bad" / f"{oid}.{name[-180:]}"

    def all_kept(self, oid: str = "") -> list[Path]:
        return sorted((self.path / "bad").glob(f"{oid or '?' * 64}.*"))

    def part(self, oid: str) -> Path:
        return self.own / "parts" / oid

    def map(self, oid: str) -> Path:
        return self.own / "parts" / f"{oid}.map"

    def stamp_path(self, oid: str) -> Path:
        return self.own / "stamps" / f"{oid}.json"

    @property
    def lock(self) -> Path:
        return self.own / "lock"

    @property
    def progress(self) -> Path:
        return self.own / "progress.json"

    # -- stamps

    def stamp(self, oid: str) -> dict[str, t.Any]:
        """What is known of a verified object; empty where nothing is."""
        with contextlib.suppress(OSError, ValueError):
            data = json.loads(self.stamp_path(oid).read_text(encoding="utf-8"))
            if isinstance(data, dict):
                return data
        return {}

    def put_stamp(self, oid: str, *, sums: t.Sequence[str] | None = None, durable: bool = False) -> None:
        """Record that the object was just read and found right.

        sums: digests of the object up to each multiple of SUM_STEP, where they were taken.
        """
        status = self.object(oid).lstat()
        data = {
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "ino": status.st_ino,
            "boot": boot_id(),
            "durable": durable,
            "sums": self.stamp(oid).get("sums", []) if sums is None else list(sums),
        }
        replace_text(self.stamp_path(oid), json.dumps(data) + "\n")

    def distrust(self, oid: str) -> None:
        """The object was read and found wrong: its stamp vouches for nothing now, but its digests still tell where."""
        data = self.stamp(oid)
        if data:
            replace_text(self.stamp_path(oid), json.dumps({**data, "ino": 0}) + "\n")

    def sums(self, oid: str) -> list[str]:
        found = self.stamp(oid).get("sums")
        return [str(digest) for digest in found] if isinstance(found, list) else []

    def verified(self, pointer: Named) -> bool:
        """Whether the object is here and has not changed since it was read and found right."""
        try:
            status = self.object(pointer.oid).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(status.st_mode) or status.st_size != pointer.size:
            return False
        return self._vouches(self.stamp(pointer.oid), status)

    @staticmethod
    def _vouches(data: t.Mapping[str, t.Any], status: os.stat_result) -> bool:
        same = (status.st_size, status.st_mtime_ns, status.st_ino)
        if (data.get("size"), data.get("mtime_ns"), data.get("ino")) != same:
            return False
        return bool(data.get("durable")) or data.get("boot") == boot_id() != ""

    def settle(self, oid: str) -> None:
        """Wait until the disk has a verified object, so that its stamp also counts after a loss of power."""
        data = self.stamp(oid)
        if not data or data.get("durable"):
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(self.object(oid), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
                vouched = self._vouches(data, os.fstat(descriptor))
            finally:
                os.close(descriptor)
            if vouched and self.stamp(oid) == data:
                replace_text(self.stamp_path(oid), json.dumps({**data, "durable": True}) + "\n")

    # -- objects

    def publish(self, oid: str, sums: t.Sequence[str]) -> None:
        """Make a part whose sha256 is right an object."""
        part, target = self.part(oid), self.object(oid)
        target.parent.mkdir(parents=True, exist_ok=True)
        backdate(part)
        part.chmod(0o644)
        part.replace(target)
        self.put_stamp(oid, sums=sums)
        self.map(oid).unlink(missing_ok=True)
        self.bad(oid).unlink(missing_ok=True)

    def quarantine(self, path: Path, oid: str) -> Path:
        """Take a bad object, or a bad part, out of the way; git-lfs has this place for them too."""
        target = self.bad(oid)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        return target

    def verify(self, pointer: Named, *, sums: list[str] | None = None) -> bool:
        """Read an object whole and compare; a good one is stamped. sums: takes the digests along the way."""
        taken: list[str] = [] if sums is None else sums
        try:
            if self.object(pointer.oid).lstat().st_size != pointer.size:
                return False
            digest = hash_file(self.object(pointer.oid), taken)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if digest != pointer.oid:
            return False
        self.put_stamp(pointer.oid, sums=taken)
        return True


def backdate(path: Path) -> None:
    now = time.time_ns() - BACKDATE
    os.utime(path, ns=(now, now))


def hash_file(path: Path, sums: list[str]) -> str:
    """sha256 of a file; sums takes the digest up to each multiple of SUM_STEP."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    done = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            # SUM_STEP is a multiple of the buffer, and a short read of a regular file is its last.
            digest.update(buffer[:count])
            done += count
            if done % SUM_STEP == 0:
                sums.append(digest.copy().hexdigest())
    return digest.hexdigest()
