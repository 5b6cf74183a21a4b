# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Revisions of a model side by side: ``x`` is a link to ``x@COMMIT``, a directory for each revision.

Which are there, which one the link shows, which ones a container uses, and how the link is switched in one step.

Private to the collection.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import typing as t
from pathlib import Path

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError, Problem

# Digits of the commit in the name of a directory.
DIGITS = 12
# What a directory is called while it is being removed.
GONE = ".gone"

# Written by vicuna.fleet.release.
RELEASES = Path("/var/lib/vicuna/release.json")

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def directory_of(link: Path, commit: str) -> Path:
    """The directory of one revision."""
    return link.with_name(f"{link.name}@{commit[:DIGITS]}")


def is_revision(name: str, link: Path) -> bool:
    """Whether a name is that of a revision's directory beside the link."""
    return re.fullmatch(re.escape(link.name) + rf"@[0-9a-f]{{{DIGITS}}}", name) is not None


def revisions(link: Path) -> list[Path]:
    """The directories of all revisions that are there."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            Path(item.path)
            for item in os.scandir(link.parent)
            if is_revision(item.name, link) and item.is_dir(follow_symlinks=False)
        )
    return []


def current(link: Path) -> Path | None:
    """The revision's directory that the link shows; None where there is no link to one."""
    try:
        target = link.readlink()
    except OSError:
        return None
    directory = link.parent / target
    return directory if directory.parent == link.parent and is_revision(directory.name, link) else None


def what_is_at(link: Path, repo: str) -> str:
    """absent, link or directory; anything else is refused and not touched."""
    expected = f"nothing, a link to one of {link.name}@…, or a clone of {repo}."
    remedy = "move it away, or choose another model_root or model_name."
    try:
        status = link.lstat()
    except FileNotFoundError:
        return "absent"
    except NotADirectoryError:
        raise GitLfsError(
            Problem("foreign_directory", f"{link.parent} is not a directory.", "a directory.", remedy)
        ) from None
    if stat.S_ISDIR(status.st_mode):
        return "directory"
    if stat.S_ISLNK(status.st_mode):
        if current(link) is not None:
            return "link"
        found = f"{link} is a link to {os.readlink(link)}."  # noqa: PTH115 - as it is written, not as Path normalises it
        raise GitLfsError(Problem("foreign_directory", found, expected, remedy))
    raise GitLfsError(Problem("foreign_directory", f"{link} is not a directory.", expected, remedy))


def switch(link: Path, directory: Path) -> None:
    """Let the link show a revision, in one step: at no moment is there no model."""
    temporary = link.with_name(f".{link.name}.vicuna-fleet")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(directory.name)  # relative: the same below any mount point
    temporary.replace(link)
    _sync_directory(link.parent)


def exchange(link: Path, directory: Path) -> None:
    """Rename the directory at the link's place, and put the link there; in one step where the file system can."""
    if os.path.lexists(directory):
        # What a killed run left, and nothing else: a link that was to be exchanged.
        if current_name(directory) != directory.name:
            raise GitLfsError(
                Problem(
                    "in_the_way",
                    f"{link} is a directory, and {directory}, which it is to be called, exists too.",
                    "one of the two.",
                    f"move one of them away; if {link} holds nothing of yours, that one.",
                )
            )
        directory.unlink()
    directory.symlink_to(directory.name)
    try:
        _rename_exchange(link, directory)
    except OSError as error:
        directory.unlink()
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
        link.rename(directory)
        switch(link, directory)
    _sync_directory(link.parent)


def current_name(path: Path) -> str:
    """Where a link points, as it is written; empty for anything else."""
    try:
        return os.readlink(path)  # noqa: PTH115 - as it is written
    except OSError:
        return ""


def _rename_exchange(one: Path, other: Path) -> None:
    """renameat2(RENAME_EXCHANGE); raises OSError, ENOSYS where the C library has none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = (os.fsencode(one), os.fsencode(other))
    if function(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_RENAME_EXCHANGE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


def _sync_directory(directory: Path) -> None:
    """A loss of power must not bring an older link back while its directory is already removed."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- who uses a directory ----------------------------------------------------------------------------------------


def parse_mountinfo(text: str) -> list[tuple[str, str, str]]:
    """(device "major:minor", mount point, type) of every mount in ``/proc/PID/mountinfo``."""
    mounts = []
    for line in text.splitlines():
        fields = line.split(" ")
        if "-" not in fields[6:]:
            continue
        kind = fields[fields.index("-", 6) + 1]
        mounts.append((fields[2], re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]), kind))
    return mounts


def mounted(directories: t.Sequence[Path], proc: Path = Path("/proc")) -> dict[Path, str]:
    """Directories that are mount points in some process's mount namespace, as bind mounts of containers are."""
    wanted: dict[tuple[int, int], Path] = {}
    devices = set()
    for directory in directories:
        status = directory.lstat()
        wanted[status.st_dev, status.st_ino] = directory
        devices.add(f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}")
    found: dict[Path, str] = {}
    seen = set()
    for process in proc.glob("[0-9]*"):
        try:
            namespace = os.readlink(process / "ns" / "mnt")  # noqa: PTH115 - "mnt:[…]" is no path
            if namespace in seen:
                continue
            text = (process / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
            root = process / "root"
            if not text or not root.is_dir():
                continue  # a process that is ending has none; another of the same namespace may
        except OSError:
            continue
        seen.add(namespace)
        for device, point, kind in parse_mountinfo(text):
            # btrfs gives each subvolume a device of its own. Others are not asked: a dead NFS server would hang.
            if device not in devices and kind != "btrfs":
                continue
            with contextlib.suppress(OSError):
                status = Path(f"{root}{point}").stat()
                key = (status.st_dev, status.st_ino)
                if key in wanted:
                    found.setdefault(wanted[key], f"process {process.name} has it mounted at {point}")
    return found


def container_sources(docker: str, env: t.Mapping[str, str], timeout: int = 30) -> dict[str, str] | None:
    """Source of every bind mount of every container, running or not, and the container's name; None: it did not say."""

    def ask(*arguments: str) -> str:
        done = subprocess.run(
            [docker, *arguments],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=True,
        )
        return done.stdout.decode("utf-8", "replace")

    try:
        names = ask("ps", "-aq", "--no-trunc").split()
        sources: dict[str, str] = {}
        if names:
            for line in ask("inspect", "--type", "container", "--format", "{{json .}}", *names).splitlines():
                container = json.loads(line)
                for mount in container.get("Mounts") or []:
                    if mount.get("Type", "bind") == "bind" and mount.get("Source"):
                        sources.setdefault(str(mount["Source"]), str(container.get("Name", "")).lstrip("/"))
        return sources
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError):
        return None


def covered(directories: t.Sequence[Path], sources: t.Mapping[str, str]) -> dict[Path, str]:
    """Directories that containers mount, or a part of, or all of them together with the directory that they are in.

    A link is followed, as the engine follows it when the container starts. A container that mounts more than that, such
    as one that watches the whole host, uses no model.
    """
    found: dict[Path, str] = {}
    for source, name in sources.items():
        real = os.path.realpath(source)
        for directory in directories:
            path = os.path.realpath(directory)
            if real == str(Path(path).parent) or os.path.commonpath((real, path)) == path:
                found.setdefault(directory, f"container {name} mounts {source}")
    return found


def released(directories: t.Sequence[Path], record: Path) -> dict[Path, str]:
    """Directories of the release in place and of the last good one: a broken release is put back to it."""
    try:
        state = json.loads(record.read_text(encoding="utf-8"))
        names = dict.fromkeys([state["current"], state["pending"], *state["good"][:1]])
        paths = {name: (state["releases"][name].get("model") or {}).get("path") for name in names if name}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return dict.fromkeys(directories, f"{record} does not say which models the releases need")
    found: dict[Path, str] = {}
    for name, path in paths.items():
        for directory in directories:
            if path and os.path.realpath(path) == os.path.realpath(directory):
                found.setdefault(directory, f"release {name} of {record} serves it")
    return found


def in_use(directories: t.Sequence[Path], env: t.Mapping[str, str]) -> dict[Path, str]:
    """Directories that must stay, and why."""
    if not directories:
        return {}
    found = {**released(directories, RELEASES), **mounted(directories)}
    docker = shutil.which("docker", path=env.get("PATH"))
    if docker:
        sources = container_sources(docker, env)
        if sources is None:
            # Containers that are stopped now may start again with a mount of theirs.
            return {**dict.fromkeys(directories, "docker did not say which containers there are"), **found}
        found.update(covered(directories, sources))
    return found


# --- removal -----------------------------------------------------------------------------------------------------


def foreign_files(directory: Path, known: t.Callable[[str, os.stat_result], bool]) -> list[str]:
    """Files in a revision's directory that did not come from the repository as they are now."""
    found = []
    for top, directories, files in os.walk(directory):
        if Path(top) == directory and ".git" in directories:
            directories.remove(".git")
        for name in files + [name for name in directories if Path(top, name).is_symlink()]:
            path = Path(top, name)
            if not known(path.relative_to(directory).as_posix(), path.lstat()):
                found.append(path.relative_to(directory).as_posix())
    return sorted(found)


def remove(directory: Path) -> None:
    """Remove a revision; what a killed run leaves of it has another name, and goes with the next removal."""
    gone = directory.with_name(f".{directory.name}{GONE}")
    shutil.rmtree(gone, ignore_errors=True)
    directory.rename(gone)
    shutil.rmtree(gone)


def sweep(link: Path) -> None:
    """Finish removals that were cut off."""
    with contextlib.suppress(FileNotFoundError):
        for item in os.scandir(link.parent):
            name = item.name
            if name.startswith(".") and name.endswith(GONE) and is_revision(name[1 : -len(GONE)], link):
                shutil.rmtree(item.path, ignore_errors=True)
