# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LFS pointers, the files of a commit, patterns, and the files on disk beside them. Private to the collection."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

# A pointer is less than 1024 bytes: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
POINTER_LIMIT = 1024
CHUNK = 4 * 1024 * 1024
# What a person edits, also where it is in LFS: text by its name, and no larger than this.
_TEXT = re.compile(
    r"(?i)\.(json|jsonl|txt|md|rst|ya?ml|py|sh|jinja2?|j2|toml|cfg|ini|csv|tsv|xml|html?)$|(^|/)(readme|licen[cs]e|notice)$"
)
TEXT_LIMIT = 4 * 1024 * 1024

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
# What the programs that became git-lfs wrote; git-lfs reads them all (lfs/pointer.go, v1Aliases).
_POINTER = re.compile(r"version https?://(?:(?:git-lfs|hawser)\.github\.com/spec/v(\S+)|git-media\.io/v/(\S+))")
_VERSIONS = (("1", None), (None, "2"))
_SIZE_LIMIT = 2**63  # of a file, and of git-lfs


@dataclass(frozen=True)
class Pointer:
    """extensions: programs of git-lfs that the content went through before it was stored."""

    oid: str
    size: int
    extensions: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Entry:
    """A file of a commit; ``pointer`` is set where git holds only an LFS pointer, ``fault`` where that is unusable."""

    path: str
    mode: str
    blob: str
    blob_size: int
    pointer: Pointer | None = None
    fault: str = ""

    @property
    def oid(self) -> str:
        return self.pointer.oid if self.pointer else self.blob

    @property
    def size(self) -> int:
        return self.pointer.size if self.pointer else self.blob_size

    @property
    def is_text(self) -> bool:
        """Whether it is a small text file, as its name tells."""
        return self.size <= TEXT_LIMIT and _TEXT.search(self.path) is not None

    @property
    def permissions(self) -> int:
        return 0o755 if self.mode == "100755" and not self.pointer else 0o644


def parse_pointer(blob: bytes) -> Pointer | None:
    """Read an LFS pointer; anything else is None."""
    found = read_pointer(blob)
    return found if isinstance(found, Pointer) else None


def read_pointer(blob: bytes) -> Pointer | str | None:
    """An LFS pointer, or what is wrong with one that cannot be used; None for what is no pointer.

    Also read are pointers that went through an editor: with a byte-order mark, other line ends, another order, keys of
    their own, or digits of the sha256 in upper case.
    """
    if len(blob) >= POINTER_LIMIT:
        return None
    try:
        text = blob.decode("utf-16" if blob[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    version = _POINTER.fullmatch(lines[0]) if lines else None
    if version is None:
        return None
    if version.groups() not in _VERSIONS:
        return f"it has the {lines[0]}, which git-lfs does not know"
    pairs = [line.partition(" ")[::2] for line in lines[1:]]
    fields = dict(pairs)
    double = sorted({key for key, value in pairs if fields[key] != value})
    if double:
        return f"it has two lines for {', '.join(double)}"
    kind, _, oid = fields.get("oid", "").partition(":")
    size = fields.get("size", "").strip()
    if kind != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", oid.strip()):
        return "it has no line 'oid sha256:' with 64 digits"
    if not re.fullmatch(r"\+?[0-9]{1,19}", size) or int(size) >= _SIZE_LIMIT:
        return "it has no line 'size' with a number of bytes below 2^63"
    extensions = sorted(key for key in fields if re.fullmatch(r"ext-\d-\w+", key))
    return Pointer(oid.strip().lower(), int(size), tuple(key[6:] for key in extensions))


def parse_ls_tree(output: bytes) -> list[Entry]:
    """Read ``git ls-tree -r -z -l``; submodules are left out, as ``git clone`` leaves them empty."""
    entries = []
    for record in output.split(b"\0"):
        if not record:
            continue
        meta, _, raw = record.partition(b"\t")
        mode, kind, blob, size = meta.decode("ascii").split()
        if kind == "blob":
            entries.append(Entry(os.fsdecode(raw), mode, blob, int(size)))
    return entries


def parse_gitlinks(output: bytes) -> list[tuple[str, str]]:
    """The submodules in ``git ls-tree -r -z``: path and commit."""
    found = []
    for record in output.split(b"\0"):
        meta, _, raw = record.partition(b"\t")
        if meta.startswith(b"160000 "):
            found.append((os.fsdecode(raw), meta.split()[2].decode("ascii")))
    return found


def unsafe_paths(entries: t.Iterable[Entry]) -> list[str]:
    """Paths that must not be written: links, and names that leave the directory or reach into .git."""

    def unsafe(entry: Entry) -> bool:
        parts = entry.path.split("/")
        return entry.mode == "120000" or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)

    return sorted(entry.path for entry in entries if unsafe(entry))


def parse_ls_remote(output: str) -> dict[str, str]:
    """Read ``git ls-remote`` into ref → commit id."""
    pairs = (line.split("\t", 1) for line in output.splitlines() if "\t" in line)
    return {ref: commit for commit, ref in pairs}


def resolve_ref(refs: dict[str, str], revision: str) -> str | None:
    """The commit that a tag, branch or full ref names; tags win over branches, as in git.

    A clone as a source has as branches of its own only those that somebody has checked out.
    """
    names = (revision, f"refs/tags/{revision}", f"refs/heads/{revision}", f"refs/remotes/origin/{revision}")
    for name in names:
        for candidate in (f"{name}^{{}}", name):
            if candidate in refs:
                return refs[candidate]
    return None


def is_commit_id(revision: str) -> bool:
    return bool(_COMMIT.fullmatch(revision))


def matches(path: str, pattern: str) -> bool:
    """Whether a path of the repository matches a pattern, by the rules of .gitignore."""
    pattern = pattern.rstrip("/") if pattern != "/" else ""
    if not pattern:
        return False
    anchored = "/" in pattern
    pieces = []
    for segment in pattern.lstrip("/").split("/"):
        pieces.append("(?:[^/]+/)*" if segment == "**" else _segment(segment) + "/")
    body = "".join(pieces)
    prefix = "" if anchored else "(?:[^/]+/)*"
    # A match of a directory takes all that is below it.
    return re.match(prefix + body, path + "/") is not None


def _segment(glob: str) -> str:
    out = []
    position = 0
    while position < len(glob):
        char = glob[position]
        position += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and "]" in glob[position + 1 :]:
            end = glob.index("]", position + 1)
            inner = glob[position:end].replace("\\", "\\\\")
            out.append(f"[{'^' + inner[1:] if inner[0] in '!^' else inner}]")
            position = end + 1
        elif char == "\\" and position < len(glob):
            out.append(re.escape(glob[position]))
            position += 1
        else:
            out.append(re.escape(char))
    return "".join(out)


def selected(path: str, include: t.Sequence[str], exclude: t.Sequence[str]) -> bool:
    """Whether a large file is wanted: an empty include means all, exclude wins."""
    if include and not any(matches(path, pattern) for pattern in include):
        return False
    return not any(matches(path, pattern) for pattern in exclude)


def fetch_pattern(path: str) -> str:
    """One path as a git-lfs include pattern; characters with a meaning of their own become ``?``."""
    return "/" + re.sub(r"[][*?!#\\,]|^ | $", "?", path)


# --- files -------------------------------------------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def blob_id(path: Path, size: int, length: int = 40) -> str:
    """git's own name of a file's content: the hash of "blob SIZE" NUL and the bytes."""
    digest = hashlib.sha1(usedforsecurity=False) if length == 40 else hashlib.sha256()
    digest.update(b"blob %d\0" % size)
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def stamp(status: os.stat_result) -> list[int]:
    """What vouches for a file that was read once. Not ctime: every further hard link of an object changes it."""
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def content_is(path: Path, entry: Entry) -> bool:
    """Whether a regular file holds exactly the content of an entry."""
    status = lstat(path)
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
        return False
    if entry.pointer:
        return sha256_file(path) == entry.pointer.oid
    return blob_id(path, entry.size, len(entry.blob)) == entry.blob


def holds_pointer(path: Path, status: os.stat_result) -> bool:
    """Whether a regular file holds an LFS pointer: what a clone without git-lfs leaves in the place of weights."""
    return status.st_size <= POINTER_LIMIT and read_pointer(path.read_bytes()) is not None
