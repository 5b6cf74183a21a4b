# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the processes of one run share on the control node: the progress of all hosts, and the secret of their peers.

Each host of a run has a process of its own. They meet in a private directory below the user's cache, so that one of
them can tell the progress of all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

from ansible_collections.vicuna.fleet.plugins.module_utils._fetch_progress import (
    Entry,
    block,
    left_lines,
    parse_entry,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import boot_id

# Blocks of progress come so many seconds apart; one second less than promised, as the processes look once a second.
BLOCK_S = 9.0
# The first one waits until most hosts of the run have something to tell.
FIRST_S = 4.0
SECRET_BYTES = 32
# Leftovers of other machines that share the home directory cannot be told from live runs.
FOREIGN_S = 7 * 86400


def cache_path() -> Path:
    """The collection's directory in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative values ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "vicuna.fleet"


def cache_dir() -> Path:
    """The same, made and private. Raises OSError."""
    path = cache_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    return _private(path)


def _private(path: Path) -> Path:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(f"{path} is not a directory of the user that runs the play")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def _start_of(pid: int) -> str:
    """When a process started, so that a later one of the same number is not taken for it; empty if there is none."""
    try:
        # The name of the program, in parentheses, may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return hashlib.sha256(done.stdout.strip().encode()).hexdigest()[:12] if done.stdout.strip() else ""


def _machine() -> str:
    return hashlib.sha256(f"{socket.gethostname()} {boot_id()}".encode()).hexdigest()[:8]


def run_id(main: int | None = None) -> str:
    """The run that this process belongs to: ansible's main process, whose child every host's process is.

    A task's own id would not do: with the strategy free, hosts that include a role at different times have different
    ones for the same task.
    """
    pid = os.getppid() if main is None else main
    return f"{_machine()}-{pid}-{_start_of(pid)}"


def _dead(name: str, modified: float) -> bool:
    machine, _, rest = name.partition("-")
    pid, _, start = rest.partition("-")
    if machine != _machine() or not pid.isdigit():
        return time.time() - modified > FOREIGN_S
    started = _start_of(int(pid))
    return not started or started != start


def _prune(runs: Path) -> None:
    for path in runs.iterdir():
        with contextlib.suppress(OSError):
            if _dead(path.name, path.stat().st_mtime):
                shutil.rmtree(path)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


# ---------------------------------------------------------------------------------------------- the peers' key


def _secret(cache: Path) -> bytes:
    """The control node's own secret, made once."""
    path = cache / "peer-secret"
    with contextlib.suppress(FileNotFoundError):
        return _read_secret(path)
    temporary = cache / f".peer-secret.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link does not replace what another process of the run made meanwhile.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return _read_secret(path)


def _read_secret(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_mode & 0o077:
            raise OSError(f"{path} can be read by others; remove it, a new one is made")
        secret = file.read()
    if len(secret) != SECRET_BYTES:
        raise OSError(f"{path} is damaged; remove it, a new one is made")
    return secret


def derive_key(secret: bytes, *parts: str) -> str:
    """A key for one purpose, from which the secret cannot be had."""
    return hmac.new(secret, json.dumps(parts).encode(), hashlib.sha256).hexdigest()


def peer_key(*parts: str) -> str:
    """The key of this run's peers: the same for all its hosts, another one in each run. Raises OSError."""
    return derive_key(_secret(cache_dir()), run_id(), *parts)


# ---------------------------------------------------------------------------------------------- the board


class Board:
    """The progress of all hosts of a run that fetch the same thing.

    Without a directory (a home that cannot be written), the host tells its own progress alone.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._own: Entry | None = None
        self._next = time.time() + FIRST_S

    @classmethod
    def open(cls, *parts: str) -> Board:
        try:
            runs = _private(cache_dir() / "runs")
            _prune(runs)
            purpose = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
            return cls(_private(_private(runs / run_id()) / purpose))
        except OSError:
            return cls(None)

    def tell(self, entry: Entry) -> None:
        """Put a host's news on the board."""
        self._own = entry
        if self._directory:
            name = hashlib.sha256(entry.host.encode()).hexdigest()[:16]
            # A full disk of the control node is no reason to stop.
            with contextlib.suppress(OSError):
                _write(self._directory / f"{name}.json", entry.to_json())

    def entries(self) -> list[Entry]:
        """What is on the board, without hosts whose process is gone."""
        every = _entries(self._directory) if self._directory else []
        found = [entry for entry in every if entry.ended or _alive(entry.pid)]
        if self._own and not any(entry.host == self._own.host for entry in found):
            found.append(self._own)
        return found

    def due(self) -> list[str]:
        """The lines to print, if it is time and no other process prints them."""
        now = time.time()
        if not self._directory:
            return self._due_alone(now)
        try:
            with (self._directory / "turn").open("a+", encoding="ascii") as turn:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                turn.seek(0)
                following = _epoch(turn.read()) or 0.0
                begun = following > 0
                # A clock that was set back must not end the lines.
                if begun and now < following <= now + BLOCK_S:
                    return []
                turn.truncate(0)
                turn.write(str(now + (BLOCK_S if begun else FIRST_S)))
            return block(self.entries(), now) if begun else []
        except BlockingIOError:
            return []
        except OSError:
            return self._due_alone(now)

    def _due_alone(self, now: float) -> list[str]:
        if now < self._next <= now + BLOCK_S:
            return []
        self._next = now + BLOCK_S
        return block([self._own], now) if self._own else []


def close_run(main: int) -> list[str]:
    """Take a run's boards away; the lines for the transfers that outlive it."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        directory = cache_path() / "runs" / run_id(main)
        for board in sorted(directory.iterdir()):
            lines += left_lines(_entries(board))
        shutil.rmtree(directory)
    return lines


def _entries(directory: Path) -> list[Entry]:
    found = []
    for path in sorted(directory.glob("*.json")):
        with contextlib.suppress(OSError):
            entry = parse_entry(path.read_text(encoding="utf-8"))
            if entry:
                found.append(entry)
    return found


def _epoch(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
