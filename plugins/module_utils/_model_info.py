# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a git-LFS repository says about a model before a byte of its weights is fetched. Private to the collection.

git fetches one commit without its large blobs (``--filter=blob:limit``, where the server can). What is left are the
small files and the LFS pointers, which name the size and the sha256 of every large file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import posixpath
import re
import shutil
import tempfile
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError, Problem
from ansible_collections.vicuna.fleet.plugins.module_utils._git_lfs import (
    POINTER_LIMIT,
    TARGET_REF,
    Clone,
    Entry,
    Git,
    Pointer,
    Request,
    check_repo,
    content_is,
    fetch_pattern,
    is_commit_id,
    selected,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_batch import clean_url, endpoint_of
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_origin import Origin
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_pointer import read_pointer
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import SourceError
from ansible_collections.vicuna.fleet.plugins.module_utils._serving.published import READ, load
from ansible_collections.vicuna.fleet.plugins.module_utils._serving.published import read as read_published

# How older tools of GPTQ tell of their quantisation.
SEPARATE = "quantize_config.json"
# What a plan is told of tokenizer_config.json, which holds templates and thousands of tokens besides.
TOKENIZER_KEYS = ("tokenizer_class", "extra_special_tokens")
# Larger files that are not in LFS stay on the server; what a plan reads is far smaller.
BLOB_LIMIT = 4 * 1024 * 1024
CACHE_VERSION = 3
# A server that fails may do better at once.
TRIES = 3


@dataclass(frozen=True)
class File:
    """A file of the commit. oid is the sha256 of a file in LFS, else empty; a size of -1 is unknown."""

    path: str
    oid: str
    size: int


@dataclass
class Listing:
    """All files of one commit, and the content of those that a plan reads."""

    commit: str
    files: list[File] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    # Files that a plan reads, and why they could not be read.
    unread: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, t.Any]:
        return {
            "version": CACHE_VERSION,
            "commit": self.commit,
            "files": [[file.path, file.oid, file.size] for file in self.files],
            "contents": self.contents,
            "unread": self.unread,
        }


def from_json(data: t.Any) -> Listing | None:
    """A listing that was kept; None for anything else."""
    try:
        if data["version"] != CACHE_VERSION:
            return None
        files = [File(str(path), str(oid), int(size)) for path, oid, size in data["files"]]
        return Listing(str(data["commit"]), files, dict(data["contents"]), dict(data["unread"]))
    except (KeyError, TypeError, ValueError):
        return None


# --- pure parts --------------------------------------------------------------------------------------------------


def parse_tree(output: bytes) -> list[tuple[str, str]]:
    """Path and blob of every file, from ``git ls-tree -r -z``."""
    found = []
    for record in output.split(b"\0"):
        meta, _, path = record.partition(b"\t")
        parts = meta.decode("ascii").split()
        if len(parts) == 3 and parts[1] == "blob" and parts[0] != "120000":
            found.append((os.fsdecode(path), parts[2]))
    return found


def parse_missing(output: bytes) -> set[str]:
    """The blobs that the server kept, from ``git rev-list --objects --missing=print``."""
    return {line[1:].strip() for line in output.decode("utf-8", "replace").splitlines() if line.startswith("?")}


def weight_files(listing: Listing, wanted: t.Callable[[str], bool]) -> tuple[str, list[File]]:
    """The format and the files of the weights that transformers loads from a directory, in the order in which it looks.

    transformers 4.57, modeling_utils._get_resolved_checkpoint_files.
    """
    files = {file.path: file for file in listing.files if not file.oid or wanted(file.path)}
    for kind, whole in (("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")):
        if whole in files:
            return kind, [files[whole]]
        index = f"{whole}.index.json"
        if index in files:
            shards = load(index, listing.contents[index]).get("weight_map") if index in listing.contents else None
            parts = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
            if parts and all(part in files for part in parts):
                return kind, [files[part] for part in parts]
    # No index that helps: take what is named as it would be.
    for kind in ("safetensors", "bin"):
        pattern = re.compile(rf"(?:pytorch_)?model[^/]*\.{kind}")
        parts = sorted(path for path in files if pattern.fullmatch(path))
        if parts:
            return kind, [files[part] for part in parts]
    return "", []


def quantisation(config: t.Mapping[str, t.Any], separate: t.Mapping[str, t.Any]) -> str:
    """How the checkpoint is quantised, such as "gptq 4-bit"; empty where it is not."""
    found = config.get("quantization_config")
    if isinstance(found, dict) and found:
        bits = found.get("bits") or found.get("w_bit")
        if found.get("load_in_8bit") or found.get("_load_in_8bit"):
            bits = 8
        elif found.get("load_in_4bit") or found.get("_load_in_4bit"):
            bits = 4
        return _quantisation(str(found.get("quant_method") or "quantised"), bits)
    return _quantisation("gptq", separate.get("bits")) if separate.get("bits") else ""


def _quantisation(method: str, bits: t.Any) -> str:
    return f"{method} {bits}-bit" if isinstance(bits, int) else method


def describe(listing: Listing, include: t.Sequence[str], exclude: t.Sequence[str]) -> dict[str, t.Any]:
    """What M(vicuna.fleet.model_info) returns of a listing; raises Unreadable where the worker could not read it."""

    def wanted(path: str) -> bool:
        return selected(path, include, exclude)

    config, tokenizer, notes = read_published(listing.contents)
    separate = load(SEPARATE, listing.contents[SEPARATE]) if SEPARATE in listing.contents else {}
    kind, parts = weight_files(listing, wanted)
    objects = {file.oid: file for file in listing.files if file.oid and wanted(file.path)}
    return {
        "commit": listing.commit,
        "config": config,
        "tokenizer": {key: tokenizer[key] for key in TOKENIZER_KEYS if key in tokenizer},
        "notes": notes,
        "quantisation": quantisation(config, separate),
        "weights_format": kind,
        "files": [{"path": file.path, "oid": file.oid, "size": max(0, file.size)} for file in parts],
        "weights_bytes": sum(max(0, file.size) for file in parts),
        "objects": [{"oid": file.oid, "size": file.size} for file in objects.values()],
        "download_bytes": sum(file.size for file in objects.values()),
    }


def unknown_sizes(listing: Listing, model: t.Mapping[str, t.Any]) -> list[str]:
    """Weights that are in git itself and were left on the server."""
    loaded = {file["path"] for file in model["files"]}
    return sorted(file.path for file in listing.files if file.size < 0 and file.path in loaded)


# --- the repository ----------------------------------------------------------------------------------------------


class Look(Clone):
    """One commit of a repository, without its large files, in a directory that is thrown away."""

    def __init__(self, repo: str, revision: str, directory: Path, **more: t.Any) -> None:
        # Check mode: git-lfs need not be there, and nothing is put into a work tree.
        super().__init__(Request(repo=repo, revision=revision, dest=directory, **more), check_mode=True)

    def start(self, home: Path) -> Git:
        problem = check_repo(self.request.repo)
        if problem:
            raise GitLfsError(problem)
        return self._git(shutil.which("git", path=self.base_env.get("PATH")), home)

    def resolve(self, git: Git) -> str:
        revision = self.request.revision
        return revision if is_commit_id(revision) else self._resolve(git)

    def listing(self, git: Git, commit: str) -> Listing:
        """Fetch the commit, and read what there is to know."""
        git("init", "--quiet", "--template=", str(self.dest))
        git("config", "--local", "remote.origin.url", self.request.repo)
        self._fetch(git, commit)
        missing = parse_missing(
            git("rev-list", "--objects", "--no-object-names", "--missing=print", "--max-count=1", commit)
        )
        tree = parse_tree(git("ls-tree", "-r", "-z", "--full-tree", commit))
        here = sorted({blob for _path, blob in tree if blob not in missing})
        sizes = self._sizes(git, here)
        contents = dict(self._blobs(git, [blob for blob in here if sizes[blob] < POINTER_LIMIT]))
        read = {blob: read_pointer(text) for blob, text in contents.items()}
        pointers = {blob: pointer for blob, pointer in read.items() if isinstance(pointer, Pointer)}
        wanted = [blob for path, blob in tree if path in READ and blob in sizes and blob not in pointers]
        contents.update(self._blobs(git, sorted({blob for blob in wanted if blob not in contents})))
        found = Listing(commit)
        for path, blob in tree:
            pointer = pointers.get(blob)
            size = pointer.size if pointer else sizes.get(blob, -1)
            found.files.append(File(path, pointer.oid if pointer else "", size))
            if path not in READ:
                continue
            fault = read.get(blob)
            if isinstance(fault, str):
                found.unread[path] = f"is an LFS pointer that names no content: {fault}"
            elif pointer and pointer.size > BLOB_LIMIT:
                found.unread[path] = f"is an LFS pointer to {pointer.size} bytes, and {BLOB_LIMIT} are read at most"
            elif pointer:
                found.contents[path] = self._in_lfs(git, commit, path, pointer).decode("utf-8", "surrogateescape")
            elif blob in contents:
                found.contents[path] = contents[blob].decode("utf-8", "surrogateescape")
        return found

    def _in_lfs(self, git: Git, commit: str, path: str, pointer: Pointer) -> bytes:
        """A small file that is itself in LFS."""
        entry = Entry(path, "100644", "", 0, pointer)
        endpoint = None if self.source else self._endpoint(git, commit)
        if self.source:
            self.source.take({pointer.oid: [entry]}, self.store)
        elif endpoint:
            with self._origin(git, endpoint, [pointer]) as origin:
                content = read_small(origin, pointer)
            if hashlib.sha256(content).hexdigest() == pointer.oid:
                return content
            raise GitLfsError(git.explain(f"error: the sha256 differs: {path}"))
        else:
            git("lfs", "fetch", "--include", fetch_pattern(path), "--exclude", "", "origin", commit)
        if not content_is(self.store.object(pointer.oid), entry):
            raise GitLfsError(git.explain(f"error: object does not exist: {path} ({pointer.oid})"))
        return self.store.object(pointer.oid).read_bytes()

    def _endpoint(self, git: Git, commit: str) -> str | None:
        """The LFS server, without git-lfs, which need not be here; None where only that knows."""
        code, output, _said = git.run("config", "--blob", f"{commit}:.lfsconfig", "--get", "lfs.url")
        named = output.decode("utf-8", "replace").strip() if code == 0 else ""
        return (named if clean_url(named) else None) if named else endpoint_of(self.request.repo)

    def _fetch(self, git: Git, commit: str) -> None:
        fetch = ("fetch", "--no-tags", "--no-recurse-submodules", f"--filter=blob:limit={BLOB_LIMIT}")
        code, _out, said = git.run(*fetch, "--depth=1", "origin", f"{commit}:{TARGET_REF}")
        if code == 0:
            return
        text = git.redact(said.decode("utf-8", "replace"))
        problem = git.explain(text)
        if problem.cause != "revision_not_found":
            raise GitLfsError(problem, text)
        # Some servers hand out branches and tags alone: take those and look in their history.
        git(*fetch, "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        if git.run("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")[0] != 0:
            raise GitLfsError(problem, text)

    def _sizes(self, git: Git, blobs: t.Sequence[str]) -> dict[str, int]:
        request = "".join(f"{blob}\n" for blob in blobs).encode()
        output = git("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=request) if blobs else b""
        pairs = (line.split() for line in output.decode("ascii").splitlines())
        return {blob: int(size) for blob, size in pairs}


def read_small(origin: Origin, pointer: Pointer) -> bytes:
    """A small object, whole. Raises GitLfsError."""
    for attempt in range(1, TRIES + 1):
        content = bytearray(pointer.size)
        done = 0
        try:
            with origin.open(pointer.oid, 0, pointer.size) as stream:
                while count := stream.readinto(memoryview(content)[done:]):
                    done += count
            return bytes(content)
        except SourceError as error:
            if not error.retry or attempt == TRIES:
                raise GitLfsError(error.problem) from None
            time.sleep(max(0.5 * attempt, min(10.0, error.wait)))
    raise AssertionError("the last try returns or raises")


# --- the cache ---------------------------------------------------------------------------------------------------


class Cache:
    """Listings of commits, which never change, in a folder that many processes share."""

    def __init__(self, directory: Path | None, timeout: int) -> None:
        self.directory = directory / "models" if directory else None
        self.timeout = timeout

    def path(self, repo: str, commit: str) -> Path | None:
        if self.directory is None:
            return None
        name = posixpath.basename(re.sub(r"(\.git)?/*$", "", repo)) or "model"
        digest = hashlib.sha256(f"{repo}\0{commit}".encode()).hexdigest()[:16]
        return self.directory / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}-{commit[:12]}-{digest}.json"

    @staticmethod
    def read(path: Path | None) -> Listing | None:
        if path is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            return from_json(json.loads(path.read_text(encoding="utf-8")))
        return None

    @staticmethod
    def write(path: Path | None, listing: Listing) -> None:
        if path is None:
            return
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(listing.as_json(), file)
        Path(name).replace(path)

    @contextlib.contextmanager
    def locked(self, path: Path | None) -> t.Iterator[None]:
        """One process fetches; the others wait for what it keeps."""
        if path is None:
            yield
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + 2 * self.timeout
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise GitLfsError(
                            Problem(
                                "locked",
                                f"another run has been looking at the same model for over {2 * self.timeout} s.",
                                "one run at a time.",
                                f"wait for it and run again; 'fuser {path.with_suffix('.lock')}' names it.",
                            )
                        ) from None
                    time.sleep(0.1)
            yield
        finally:
            os.close(descriptor)


def remembered(repo: str, revision: str, cache_dir: Path | None) -> Listing | None:
    """What is kept of a commit, which never changes; None for one that is new, and for a tag or branch."""
    if check_repo(repo) or not is_commit_id(revision):
        return None
    cache = Cache(cache_dir, 0)
    return cache.read(cache.path(repo, revision))


def look(
    *,
    repo: str,
    revision: str,
    token: str = "",
    username: str = "token",
    ca_path: str = "",
    timeout: int = 120,
    cache_dir: Path | None = None,
) -> tuple[Listing, bool]:
    """The files of a revision, and whether they were kept from an earlier look."""
    problem = check_repo(repo)
    if problem:
        raise GitLfsError(problem)
    kept = remembered(repo, revision, cache_dir)
    if kept:
        return kept, True
    cache = Cache(cache_dir, timeout)
    with tempfile.TemporaryDirectory(prefix="vicuna-fleet-") as temporary:
        home, directory = Path(temporary) / "home", Path(temporary) / "look"
        home.mkdir()
        directory.mkdir()
        looking = Look(repo, revision, directory, token=token, username=username, ca_path=ca_path, timeout=timeout)
        git = looking.start(home)
        commit = looking.resolve(git)
        path = cache.path(repo, commit)
        with cache.locked(path):
            kept = cache.read(path)
            if kept:
                return kept, True
            listing = looking.listing(git, commit)
            cache.write(path, listing)
            return listing, False
