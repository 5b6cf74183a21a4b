# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model that is already on the host's disks: a clone in a directory, an archive of a clone, or a git bundle.

git reads the repository from there, and the large files come from the clone's own storage or its work tree. Of an
archive only git's own files are unpacked, into a directory that is thrown away; large files go from it straight into
the store, and are compared with their sha256 on the way.

Private to the collection.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import typing as t
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError, Problem
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_pointer import Entry
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import BLOCK, SUM_STEP, Store, hash_file

# ioctl of Linux that lets two files share their blocks (btrfs, xfs): linux/fs.h.
FICLONE = 0x40049409
_ZSTD = b"\x28\xb5\x2f\xfd"
_BUNDLE = re.compile(rb"# v[0-9]+ git bundle\n")
_REMEDY = (
    "set model_repo to a git repository, a clone in a directory, an archive of a clone (.tar, .tar.gz, .tar.bz2, "
    ".tar.xz, .tar.zst), or a git bundle; 'git clone' of the model, with git-lfs, makes one."
)
# What upload-pack reads of a repository. Not its config and hooks: they could name programs to run.
_GIT_FILES = r"(?P<rest>HEAD|packed-refs|shallow|config|refs/.+|objects/(?!info/(?:http-)?alternates$).+)"
_CLONE = re.compile(rf"(?P<root>(?:.+/)?)\.git/{_GIT_FILES}")
_BARE = re.compile(rf"(?P<root>(?:[^/]+/)?){_GIT_FILES}")
_CONFIG_LIMIT = 1024 * 1024
_BAD_ARCHIVE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, UnicodeError, ValueError)


class DiskSource(t.Protocol):
    """Where a repository is on the host's disks."""

    address: str

    def take(self, wanted: t.Mapping[str, t.Sequence[Entry]], store: Store) -> set[str]:
        """Put those of the objects that are here into the store; returns which, each with the right sha256."""


def local_path(repo: str) -> Path | None:
    """The absolute path that an address is, or file:// names; None for one of a network."""
    parts = urlsplit(repo)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(repo) if repo.startswith("/") else None


def open_source(repo: str, scratch: Path, environ: t.Mapping[str, str]) -> DiskSource | None:
    """The source at an address; None for one of a network, or where git may tell better what is wrong."""
    path = local_path(repo)
    if path is None or not path.exists():
        return None
    if path.is_dir():
        return Directory(path)
    with path.open("rb") as file:
        start = file.read(1024)
    if _BUNDLE.match(start):
        return Bundle(path)
    return Archive(path, scratch, environ, zstd=start.startswith(_ZSTD))


def not_a_repository(path: Path, what: str) -> GitLfsError:
    return GitLfsError(
        Problem("not_a_repository", f"{path} is {what}.", "a git repository with its LFS objects.", _REMEDY)
    )


# --- into the store ----------------------------------------------------------------------------------------------


def add(store: Store, entry: Entry, stream: t.BinaryIO) -> bool:
    """Copy an object into the store, if what comes has its size and sha256."""
    digest = hashlib.sha256()
    sums: list[str] = []
    done = 0
    with _incoming(store, entry.oid) as temporary:
        with temporary.open("wb", buffering=0) as file:
            if not _reflink(stream, file):
                while chunk := stream.read(min(BLOCK, SUM_STEP - done % SUM_STEP)):
                    digest.update(chunk)
                    view = memoryview(chunk)
                    while view:
                        view = view[file.write(view) :]
                    done += len(chunk)
                    if done % SUM_STEP == 0:
                        sums.append(digest.copy().hexdigest())
                found = digest.hexdigest()
            else:
                found = hash_file(temporary, sums)
            os.fdatasync(file.fileno())
        if found != entry.oid:
            return False
        # What a run over the network had of it has no worth any more.
        store.map(entry.oid).unlink(missing_ok=True)
        temporary.replace(store.part(entry.oid))
    store.publish(entry.oid, sums)
    store.settle(entry.oid)
    return True


@contextlib.contextmanager
def _incoming(store: Store, oid: str) -> t.Iterator[Path]:
    temporary = store.part(oid).with_name(f"{oid}.disk")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _reflink(source: t.BinaryIO, target: t.BinaryIO) -> bool:
    try:
        fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
    except (OSError, AttributeError, ValueError):
        return False  # another file system, or no file at all
    return True


# --- a directory, a bundle ---------------------------------------------------------------------------------------


class Directory:
    """A repository in a directory, bare or with a work tree."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.tree: Path | None = None
        git = path / ".git"
        if git.is_file():  # a further work tree, or a submodule
            with contextlib.suppress(OSError, ValueError, IndexError):
                git = path / git.read_text(encoding="utf-8").split("gitdir:", 1)[1].strip()
                git = git / (git / "commondir").read_text(encoding="utf-8").strip()
        if git.is_dir():
            self.tree, self.git_dir = path, git
        elif (path / "HEAD").is_file() and (path / "objects").is_dir():
            self.git_dir = path
        else:
            raise not_a_repository(path, "a directory that is no git repository")

    def _storage(self) -> Path:
        """Where the clone has its objects: lfs.storage in its own config, else lfs/."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            section = ""
            for line in (self.git_dir / "config").read_text(encoding="utf-8").splitlines():
                if line.lstrip().startswith("["):
                    section = line.strip().lower()
                name, _, value = line.partition("=")
                if section == "[lfs]" and name.strip().lower() == "storage":
                    return self.git_dir / value.strip().strip('"')
        return self.git_dir / "lfs"

    def take(self, wanted: t.Mapping[str, t.Sequence[Entry]], store: Store) -> set[str]:
        taken = set()
        for oid, entries in wanted.items():
            places = [
                storage / "objects" / oid[:2] / oid[2:4] / oid for storage in {self._storage(), self.git_dir / "lfs"}
            ]
            places += [self.tree / entry.path for entry in entries] if self.tree else []
            for place in places:
                if not place.is_file() or place.stat().st_size != entries[0].size:
                    continue
                with place.open("rb", buffering=0) as stream:
                    if add(store, entries[0], stream):
                        taken.add(oid)
                        break
        return taken


class Bundle:
    """A git bundle: commits and small files, and no large ones."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)

    def take(self, wanted: t.Mapping[str, t.Sequence[Entry]], store: Store) -> set[str]:
        return set()


# --- an archive --------------------------------------------------------------------------------------------------


class Archive:
    """A tar of a clone, compressed or not."""

    def __init__(self, path: Path, scratch: Path, environ: t.Mapping[str, str], *, zstd: bool) -> None:
        self.path = path
        self.zstd = ""
        self.environ = environ
        if zstd:
            self.zstd = shutil.which("zstd", path=environ.get("PATH")) or ""
            if not self.zstd:
                raise GitLfsError(
                    Problem(
                        "zstd_missing",
                        f"{path} is compressed with zstd, which is not on this host.",
                        "the program zstd.",
                        "install the package zstd, or pack the archive as .tar.gz or .tar.",
                    )
                )
        self.sizes: dict[str, int] = {}
        self.links: dict[str, str] = {}
        self.root, git_dir = self._unpack(scratch / "archive")
        self.address = str(git_dir)
        self.git = self.root if self.bare else f"{self.root}.git/"

    @contextlib.contextmanager
    def _open(self) -> t.Iterator[tarfile.TarFile]:
        """The archive, to be read once from its start."""
        process = None
        try:
            if self.zstd:
                process = subprocess.Popen(
                    [self.zstd, "--decompress", "--stdout", "--quiet", "--memory=2048MB", "--", str(self.path)],
                    env=dict(self.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            with self._tar(process.stdout if process else None) as archive:
                yield archive
        except _BAD_ARCHIVE as error:
            raise not_a_repository(self.path, f"no readable archive ({error})") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise not_a_repository(self.path, f"no readable archive ({error})") from error  # gzip's and bz2's own
        finally:
            if process is not None:
                process.kill()
                process.communicate()

    def _tar(self, stream: t.IO[bytes] | None) -> tarfile.TarFile:
        if stream is not None:
            return tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK)
        with contextlib.suppress(tarfile.ReadError):
            return tarfile.open(self.path, mode="r:")  # one that is not compressed can be sought in
        return tarfile.open(self.path, mode="r|*", bufsize=BLOCK)

    def _name(self, name: str) -> str:
        """A member's name, without ./ in front."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise GitLfsError(
                Problem(
                    "unsafe_path",
                    f"{self.path} holds a member that reaches out of the directory ({name}).",
                    "an archive with relative names.",
                    "pack it again, from inside the directory above the clone.",
                )
            )
        return "/".join(parts)

    def _unpack(self, scratch: Path) -> tuple[str, Path]:
        """Unpack git's own files, and note where everything else is."""
        found: dict[tuple[str, bool], Path] = {}
        formats: dict[tuple[str, bool], str] = {}
        with self._open() as archive:
            for member in archive:
                name = self._name(member.name)
                if member.islnk():
                    self.links[name] = self._name(member.linkname)
                if not member.isreg():
                    continue
                self.sizes[name] = member.size
                for bare, pattern in ((False, _CLONE), (True, _BARE)):
                    match = pattern.fullmatch(name)
                    if match is None:
                        continue
                    key = (match["root"], bare)
                    content = archive.extractfile(member)
                    if content is None:
                        break
                    if match["rest"] == "config":
                        formats[key] = content.read(_CONFIG_LIMIT).decode("utf-8", "replace").lower()
                        break
                    directory = found.setdefault(key, scratch / str(len(found)))
                    target = directory / match["rest"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as file:
                        shutil.copyfileobj(content, file, BLOCK)
                    break
        whole = [key for key, place in found.items() if (place / "HEAD").is_file() and (place / "objects").is_dir()]
        if not whole:
            raise not_a_repository(self.path, "an archive without a git repository in it")
        key = min(whole, key=lambda one: (one[1], one[0].count("/"), one[0]))
        place = found[key]
        (place / "refs").mkdir(exist_ok=True)
        sha256 = re.search(r"^\s*objectformat\s*=\s*sha256\s*$", formats.get(key, ""), re.MULTILINE)
        extension = "[extensions]\n\tobjectformat = sha256\n" if sha256 else ""
        (place / "config").write_text(
            f"[core]\n\trepositoryformatversion = {int(bool(sha256))}\n\tbare = true\n{extension}"
        )
        self.bare = key[1]
        return key[0], place

    def take(self, wanted: t.Mapping[str, t.Sequence[Entry]], store: Store) -> set[str]:
        members: dict[str, str] = {}
        for oid, entries in wanted.items():
            names = [f"{self.git}lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}"]
            names += [] if self.bare else [self.root + entry.path for entry in entries]
            for name in names:
                data = self.links.get(name, name)
                if self.sizes.get(data) == entries[0].size:
                    members.setdefault(data, oid)
        taken: set[str] = set()
        if not members:
            return taken
        with self._open() as archive:
            for member in archive:
                oid = members.get(self._name(member.name), "")
                if not oid or oid in taken or not member.isreg():
                    continue
                stream = archive.extractfile(member)
                if stream is not None and add(store, wanted[oid][0], t.cast("t.BinaryIO", stream)):
                    taken.add(oid)
                if len(taken) == len(wanted):
                    break
        return taken
