# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A git-LFS repository in a directory: every file of one commit, every LFS object checked, stored once.

The work tree is written here and not by ``git checkout``: a checkout would put pointer files in the place of
weights that a server is reading. Weights are hard links into a store of objects, so the disk holds them once, and the
index is written here too, so that git does not read them again.

This module is private to the collection.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import os
import shutil
import stat
import tempfile
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.vicuna.fleet.plugins.module_utils import _model_revisions as side_by_side
from ansible_collections.vicuna.fleet.plugins.module_utils._common import version as versions
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import (
    GitLfsError,
    Problem,
    classify_git_error,
    redact_url,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._git_index import IndexEntry, write_index
from ansible_collections.vicuna.fleet.plugins.module_utils._git_process import (
    Git,
    check_mirror,
    check_repo,
    environment,
    git_is_working_in,
    same_repository,
    system_ca_bundle,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import AuthorityError, authorities
from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import bundle as as_pem
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_archive import FICLONE, DiskSource, open_source
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_batch import parse_lfs_env
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_origin import Origin
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_pointer import (
    POINTER_LIMIT,
    Entry,
    Pointer,
    blob_id,
    content_is,
    fetch_pattern,
    holds_pointer,
    is_commit_id,
    lstat,
    matches,
    parse_gitlinks,
    parse_ls_remote,
    parse_ls_tree,
    parse_pointer,
    read_pointer,
    resolve_ref,
    selected,
    sha256_file,
    stamp,
    unsafe_paths,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import (
    SourceError,
    Store,
    backdate,
    blocks_on_disk,
    boot_id,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_transfer import (
    Transfer,
    ask_ahead,
    parse_peers,
    running,
    settle_in_background,
)

__all__ = [
    "POINTER_LIMIT",
    "STATE_FILE",
    "TARGET_REF",
    "Clone",
    "Entry",
    "Git",
    "Outcome",
    "Pointer",
    "Request",
    "State",
    "Survey",
    "blob_id",
    "check_git_lfs_version",
    "check_mirror",
    "check_repo",
    "content_is",
    "environment",
    "fetch_pattern",
    "git_is_working_in",
    "is_commit_id",
    "lstat",
    "matches",
    "parse_ls_remote",
    "parse_ls_tree",
    "parse_pointer",
    "redact_url",
    "resolve_ref",
    "same_repository",
    "selected",
    "sha256_file",
    "stamp",
    "unsafe_paths",
]

STATE_FILE = "vicuna-fleet.json"
STATE_VERSION = 3
TARGET_REF = "refs/vicuna-fleet/target"
GIT_LFS_MINIMUM = "3.0"
# Room for git's own objects and for what else lives on the file system.
DISK_MARGIN = 64 * 1024 * 1024
# One command-line argument may hold 128 KiB on Linux (MAX_ARG_STRLEN).
ARGUMENT_LIMIT = 120_000
# A file that is younger than this may be as young as git's index, and git would read it ("racy git").
YOUNG = 3.0
# What a file system without hard links, or with no more of them for this file, says.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)

_Records = t.Dict[str, t.Dict[str, t.Any]]  # noqa: UP006 - evaluated at run time, and read by Python 3.9


@dataclass
class Request:
    """What is asked for."""

    repo: str
    revision: str
    dest: Path
    token: str = ""
    username: str = "token"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    verify: str = "changed"
    ca_path: str = ""
    timeout: int = 120
    store: str = ""
    side_by_side: bool = False
    keep: int = 2
    force: bool = False
    fetch: bool = True
    wait: bool = True
    bandwidth_limit: int = 0
    mirror: str = ""
    peers: dict[str, t.Any] = field(default_factory=dict)
    connections: int = 8
    # What the caller calls the settings that messages name.
    variables: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What was done."""

    changed: bool = False
    before: str = ""
    revision: str = ""
    path: str = ""
    paths: list[str] = field(default_factory=list)
    lfs_objects: int = 0
    bytes: int = 0
    downloaded_bytes: int = 0
    missing_bytes: int = 0
    job: dict[str, t.Any] = field(default_factory=dict)
    verified: int = 0
    repaired: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Listing:
    """The files of a commit: those that are wanted, the large ones that are left out, and submodules."""

    commit: str
    entries: list[Entry]
    left_out: list[Entry] = field(default_factory=list)
    gitlinks: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Finding:
    """One file: good, to be linked from the store, or not to be had here.

    fault: damaged, altered (a large file that was written to), edited by a person, or none of them. bad_object: the
    store's object has another content than its name says.
    """

    verdict: str
    read: int = 0
    fault: str = ""
    bad_object: bool = False


@dataclass
class Survey:
    """What is to do for the files of one commit."""

    good: dict[str, Entry] = field(default_factory=dict)
    to_mode: list[Entry] = field(default_factory=list)
    to_link: list[Entry] = field(default_factory=list)
    to_fetch: list[Entry] = field(default_factory=list)
    to_write: list[Entry] = field(default_factory=list)
    bad_objects: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    altered: list[Entry] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    verified: int = 0

    @property
    def work(self) -> bool:
        return bool(self.to_mode or self.to_link or self.to_fetch or self.to_write)

    @property
    def missing(self) -> dict[str, Entry]:
        """An entry for each object that has to be fetched."""
        return {entry.oid: entry for entry in self.to_fetch}

    @property
    def missing_bytes(self) -> int:
        return sum(entry.size for entry in self.missing.values())


class State:
    """``.git/vicuna-fleet.json``: what was put here, and the stamps of what was verified.

    files: path → oid, size, lfs, and the stamp of the file that was verified; copy: it shares no inode with the store.
    planned: path → oid, size, lfs of what runs that have not ended may have put there. earlier: objects of the
    revisions before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = False
        self.data: dict[str, t.Any] = {"commit": "", "files": {}}
        with contextlib.suppress(OSError, ValueError):
            data = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(data, dict) and isinstance(data.get("files"), dict):
                self.known = data.get("version") in (1, 2, STATE_VERSION)
                if data.get("version") == 1:
                    data = self._from_first(data)
                if self.known:
                    self.data = data

    @staticmethod
    def _from_first(data: dict[str, t.Any]) -> dict[str, t.Any]:
        """Version 1 knew the change time in place of a store's stamp: its files are read once more."""
        files = {
            path: {"oid": record.get("oid", ""), "lfs": len(str(record.get("oid", ""))) == 64}
            for path, record in data["files"].items()
        }
        return {**data, "files": files}

    @property
    def current(self) -> bool:
        """Whether this version has written it. Version 2 took pointers of older programs for files."""
        return self.data.get("version") == STATE_VERSION

    @property
    def commit(self) -> str:
        return str(self.data.get("commit", ""))

    @property
    def files(self) -> _Records:
        return t.cast("_Records", self.data["files"])

    @property
    def planned(self) -> dict[str, list[dict[str, t.Any]]]:
        return t.cast("dict[str, list[dict[str, t.Any]]]", self.data.get("planned") or {})

    @property
    def known_files(self) -> _Records:
        """Everything that came, or may have come, from the repository."""
        return {**{path: records[0] for path, records in self.planned.items()}, **self.files}

    @property
    def earlier(self) -> list[dict[str, t.Any]]:
        return list(self.data.get("earlier") or [])

    @property
    def used(self) -> float:
        """When it was last asked for, or shown by the link."""
        return float(self.data.get("used") or 0)

    @property
    def same_boot(self) -> bool:
        return bool(boot_id()) and self.data.get("boot") == boot_id()

    def objects(self) -> set[str]:
        """LFS objects of this revision and of those before."""
        own = {str(record["oid"]) for record in self.known_files.values() if record.get("lfs")}
        return own.union(*(map(str, revision.get("objects", [])) for revision in self.earlier))

    def asked(self, request: Request) -> bool:
        """Whether it was written for the same repository and the same selection of files."""
        return same_repository(str(self.data.get("repo", "")), request.repo) and (
            self.data.get("include"),
            self.data.get("exclude"),
        ) == (list(request.include), list(request.exclude))

    def save(
        self,
        request: Request,
        commit: str,
        files: _Records,
        *,
        planned: t.Iterable[Entry] = (),
        earlier: list[dict[str, t.Any]] | None = None,
    ) -> None:
        """Write it. planned: what is about to be put there; without it, everything is in place."""
        plans: dict[str, list[dict[str, t.Any]]] = dict(self.planned) if planned else {}
        for entry in planned:
            record = record_of(entry)
            plans[entry.path] = [record, *(other for other in plans.get(entry.path, []) if other != record)]
        self._write(
            {
                "version": STATE_VERSION,
                "repo": request.repo,
                "commit": commit,
                "include": list(request.include),
                "exclude": list(request.exclude),
                "files": files,
                "planned": plans,
                "earlier": self.earlier if earlier is None else earlier,
                "boot": self.data.get("boot", "") if plans else boot_id(),
                "used": time.time(),
            }
        )

    def touch(self) -> None:
        """It is in use now."""
        if self.known:
            self._write({**self.data, "used": time.time()})

    def _write(self, data: dict[str, t.Any]) -> None:
        self.data = data
        self.known = True
        text = json.dumps(self.data, indent=1, sort_keys=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self.path)


def object_entry(path: str, record: t.Mapping[str, t.Any], size: int) -> Entry:
    """The entry that a record of the state file was written for."""
    oid = str(record.get("oid", ""))
    return Entry(path, "100644", oid, size, Pointer(oid, size) if record.get("lfs") else None)


def record_of(entry: Entry) -> dict[str, t.Any]:
    return {"oid": entry.oid, "size": entry.size, "lfs": entry.pointer is not None}


class Clone:
    """A directory that holds one commit of a git-LFS repository, or a link to one of several."""

    def __init__(
        self, request: Request, *, check_mode: bool = False, base_env: t.Mapping[str, str] | None = None
    ) -> None:
        self.request = request
        self.check_mode = check_mode
        self.base_env = dict(os.environ if base_env is None else base_env)
        # The link's own place: its parents are resolved, it is not.
        self.link = Path(os.path.realpath(request.dest.parent)) / request.dest.name
        self.outcome = Outcome()
        self.source: DiskSource | None = None
        self.served = False
        self._use(self.link if request.side_by_side else Path(os.path.realpath(request.dest)))
        self.outcome.before = self.state.commit

    def _use(self, directory: Path) -> None:
        """Work in this directory."""
        self.dest = directory
        self.git_dir = directory / ".git"
        self.state = State(self.git_dir / STATE_FILE)
        self.outcome.path = str(directory)
        if self.request.store:
            self.store = Store(Path(os.path.realpath(self.request.store)))
        elif self.request.side_by_side:
            self.store = Store(self.link.parent / ".lfs")
        else:
            self.store = Store(self.git_dir / "lfs")

    @property
    def own_store(self) -> bool:
        """Whether no other directory has objects in the store."""
        return self.store.path == self.git_dir / "lfs"

    # -- entry point

    def converge(self) -> Outcome:
        """Make the directory hold the revision, or say what would change."""
        self._converge()
        self._serve_others()
        return self.outcome

    def _converge(self) -> Outcome:
        request = self.request
        problem = check_repo(request.repo) or (check_mirror(request.mirror, request.repo) if request.mirror else None)
        if problem:
            raise GitLfsError(problem)
        if request.side_by_side:
            return self._converge_side_by_side()
        self._refuse_revision_link()
        if self._holds_all(request.revision) and request.verify == "changed":
            return self._summary(request.revision, self.state.files)
        self._refuse_foreign()
        self._refuse_read_only(self.dest, self.store.path)
        executable = self._executable()
        if not executable:
            return self.outcome
        with tempfile.TemporaryDirectory(prefix="vicuna-fleet-") as home:
            git = self._git(executable, Path(home))
            if self.check_mode:
                return self._preview(git)
            if self._join(request.revision):
                return self.outcome
            self._make_directory()
            with self._locked() as descriptor:
                git.inherited = (descriptor,)
                return self._apply(git)

    def _converge_side_by_side(self) -> Outcome:
        """The same for a link to a directory of each revision; the link is switched last."""
        request = self.request
        kind = side_by_side.what_is_at(self.link, request.repo)
        if kind == "link":
            self.outcome.before = State(self._shown() / ".git" / STATE_FILE).commit
        if is_commit_id(request.revision) and kind != "directory" and self._only_switch(request.revision):
            return self.outcome
        if kind == "directory":
            self._refuse_foreign()
            if os.path.ismount(self.link):
                raise GitLfsError(
                    Problem(
                        "mount_point",
                        f"{self.link} is a mount point, which cannot be renamed to make room for several revisions.",
                        "a directory, or nothing.",
                        f"mount the file system at {self.link.parent}.",
                    )
                )
        self._refuse_read_only(self.link.parent, self.store.path)
        executable = self._executable()
        if not executable:
            return self.outcome
        with tempfile.TemporaryDirectory(prefix="vicuna-fleet-") as home:
            git = self._git(executable, Path(home))
            if kind == "directory":
                self._refuse_other_repository(git)
            commit = request.revision if is_commit_id(request.revision) else self._resolve(git)
            if kind != "directory" and self._only_switch(commit):
                return self.outcome
            if self.check_mode:
                return self._preview_side_by_side(git, kind, commit)
            if self._join(commit):
                return self.outcome
            with self._locked() as descriptor:
                git.inherited = (descriptor,)
                kind = side_by_side.what_is_at(
                    self.link, request.repo
                )  # the run that held the lock may have changed it
                if kind == "link":
                    self.outcome.before = State(self._shown() / ".git" / STATE_FILE).commit
                adopted = kind == "directory" and self._adopt(git, commit)
                self._work_in(git, side_by_side.directory_of(self.link, commit))
                before = self.outcome.before
                self._make_directory()
                self._apply(git, commit)
                self.outcome.before = before
                self.outcome.changed = self.outcome.changed or adopted
                if not self.outcome.missing_bytes:
                    self._show()
                return self.outcome

    def _join(self, commit: str) -> bool:
        """Follow a transfer of the same commit that is at work already, such as one whose run was killed."""
        request = self.request
        if request.fetch and request.wait:
            return False
        progress = running(self.store)
        if progress.get("label") != f"{request.repo}@{commit}":
            return False
        self.outcome.revision = commit
        self.outcome.missing_bytes = max(1, int(progress["total_bytes"]) - int(progress["done_bytes"]))
        if request.fetch:
            self.outcome.job = {"pid": int(progress["pid"]), "progress": str(self.store.progress)}
        return True

    def _only_switch(self, commit: str) -> bool:
        """Show a revision that is there, without git and without a look at its bytes; tell whether that was enough."""
        self._use(side_by_side.directory_of(self.link, commit))
        if self.request.verify != "changed" or not self._holds_all(commit):
            return False
        self._summary(commit, self.state.files)
        shown = self._shown() == self.dest
        self.outcome.changed = not shown
        if self.check_mode or (shown and len(side_by_side.revisions(self.link)) <= self.request.keep):
            return True
        self._refuse_read_only(self.link.parent, self.store.path)
        with self._locked():
            if not self._holds_all(commit):  # the run that held the lock may have removed it
                return False
            self._show()
        return True

    def _shown(self) -> Path:
        return side_by_side.current(self.link) or self.link

    def _work_in(self, git: Git, directory: Path) -> None:
        self._use(directory)
        git.directory = directory

    def _executable(self) -> str:
        """git's path; empty in check mode on a host that has none yet."""
        executable = shutil.which("git", path=self.base_env.get("PATH"))
        if executable:
            return executable
        if not self.check_mode:
            remedy = "run the role vicuna.fleet.tools first, or install the package git."
            raise GitLfsError(Problem("git_missing", "git is not on this host.", "git and git-lfs.", remedy))
        self.outcome.changed = True
        self.outcome.warnings.append("git is not on this host yet: neither repository nor revision could be looked up")
        return ""

    def _make_directory(self) -> None:
        self.dest.mkdir(parents=True, exist_ok=True)
        self.git_dir.mkdir(exist_ok=True)

    # -- the two modes

    def _apply(self, git: Git, commit: str = "") -> Outcome:
        request, outcome = self.request, self.outcome
        self.state = State(self.state.path)  # the run that held the lock may have written it
        outcome.before = self.state.commit
        self._clean_after_killed_git()
        revision = commit or request.revision
        if not is_commit_id(revision):
            if (self.git_dir / "HEAD").is_file():
                self._refuse_other_repository(git)
            revision = self._resolve(git)
        self._initialise(git, "sha256" if len(revision) == 64 else "sha1")
        head = self._head(git)
        outcome.before = outcome.before or head
        known_before = self._known_files(git)
        commit = self._fetch_commit(git, revision)
        if self._take_objects(self.git_dir / "lfs"):
            git("config", "--local", "lfs.storage", str(self.store.path))
        listing = self._listing(git, commit)
        entries = listing.entries
        survey = self._survey(entries, known_before)
        self._refuse_overwriting(survey, known_before)
        self._refuse_edits(survey)
        if request.side_by_side and not self.state.known:
            self.state.save(request, "", known_before, planned=entries)  # ours, even if it never comes about
        outcome.verified = survey.verified
        outcome.missing_bytes = survey.missing_bytes
        if survey.to_fetch and not request.fetch:
            for oid in survey.bad_objects:  # so that the run that fetches need not read everything to find them again
                self.store.distrust(oid)
            return self._summary(commit, {entry.path: {} for entry in entries}, entries)
        outcome.repaired = sorted(survey.damaged)
        self._quarantine(survey.bad_objects)
        if not request.wait:  # the run that links what comes does not read everything again
            self._write_blobs(git, [entry for entry in survey.to_write if entry.path in survey.damaged])
        fetch = self._take_from_disk if self.source else self._fetch_objects
        downloaded = fetch(git, commit, survey)
        if outcome.job:
            return self._summary(commit, {entry.path: {} for entry in entries}, entries)
        outcome.missing_bytes = 0
        # Nothing in the tree has changed so far. From here on each file is replaced in one step.
        earlier = self._earlier(commit)
        self.state.save(
            request,
            self.state.commit,
            self.state.files if self.state.known else known_before,
            planned=entries,
        )
        for entry in survey.to_link + survey.to_fetch:
            self._put(entry, survey)
        self._write_blobs(git, survey.to_write)
        for entry in survey.to_mode:
            (self.dest / entry.path).chmod(entry.permissions)
        for entry in survey.good.values():
            self._store_once(entry)
        removed = self._remove_stale(known_before, {entry.path for entry in entries})
        moved = head != commit
        if moved:
            git("update-ref", "--no-deref", "HEAD", commit)
        # The good content is in place now.
        for entry in entries:
            if entry.pointer:
                self.store.bad(entry.oid).unlink(missing_ok=True)
        files = {entry.path: self._record(entry) for entry in entries}
        outcome.changed = moved or survey.work or bool(removed)
        if outcome.changed or self._index_is_stale(files):
            self._write_index(git, listing)
        dropped = self._objects_of(self.state.earlier, known_before) - self._objects_of(earlier, files)
        self.state.save(request, commit, files, earlier=earlier)
        if outcome.before and outcome.before != commit:
            self._forget_objects(dropped)
        outcome.downloaded_bytes = downloaded
        outcome.verified = survey.verified
        outcome.kept.sort()
        return self._summary(commit, files, entries)

    def _preview(self, git: Git, commit: str = "") -> Outcome:
        """Check mode: read only, and ask the server no more than for its refs."""
        outcome = self.outcome
        present = (self.git_dir / "HEAD").is_file()
        if present and not (self.request.side_by_side and self.dest != self.link):
            self._refuse_other_repository(git)
        outcome.before = outcome.before or (self._head(git) if present else "")
        revision = commit or self.request.revision
        if is_commit_id(revision) and present and self._has_commit(git, revision):
            commit = revision
        else:
            commit = self._resolve(git)
            present = present and self._has_commit(git, commit)
        outcome.revision = commit
        if not present:
            outcome.changed = True
            return outcome
        entries = self._listing(git, commit).entries
        known = self._known_files(git)
        survey = self._survey(entries, known)
        self._refuse_overwriting(survey, known)
        self._refuse_edits(survey)
        stale = set(known) - {entry.path for entry in entries}
        outcome.changed = outcome.before != commit or survey.work or bool(stale)
        outcome.verified = survey.verified
        outcome.missing_bytes = survey.missing_bytes
        outcome.repaired = sorted(survey.damaged)
        return self._summary(commit, {entry.path: {} for entry in entries}, entries)

    def _preview_side_by_side(self, git: Git, kind: str, commit: str) -> Outcome:
        directory = side_by_side.directory_of(self.link, commit)
        before = self.outcome.before
        if kind == "directory":
            self._work_in(git, self.link)
            before = self.state.commit or self._head(git)
            if before:
                self._refuse_edits(self._survey_all(git, before)[1])
        if not (kind == "directory" and before == commit):
            self._work_in(git, directory)
        if not self.dest.is_dir():
            git.directory = Path(git.env["HOME"])
        self.outcome.before = before
        self._preview(git, commit)
        self.outcome.before = before
        self.outcome.path = str(directory)
        self.outcome.changed = self.outcome.changed or self._shown() != directory
        return self.outcome

    def _summary(self, commit: str, files: t.Mapping[str, t.Any], entries: list[Entry] | None = None) -> Outcome:
        outcome = self.outcome
        outcome.revision = commit
        outcome.paths = sorted(files)
        if entries is None:
            outcome.lfs_objects = len({v["oid"] for v in files.values() if v.get("lfs")})
            outcome.bytes = sum(v["stamp"][0] for v in files.values())
        else:
            outcome.lfs_objects = len({entry.oid for entry in entries if entry.pointer})
            outcome.bytes = sum(entry.size for entry in entries)
        return outcome

    # -- several revisions

    def _show(self) -> None:
        """Let the link show this revision, and remove the oldest of the others."""
        shown = self._shown()
        if shown != self.dest:
            if shown != self.link:
                State(shown / ".git" / STATE_FILE).touch()
            self.state.touch()
            side_by_side.switch(self.link, self.dest)
            self.outcome.changed = True
        self._prune()

    def _prune(self) -> None:
        """Keep so many revisions; never remove one that a container uses, or that holds somebody's files."""
        side_by_side.sweep(self.link)
        others = []
        for directory in side_by_side.revisions(self.link):
            state = State(directory / ".git" / STATE_FILE)
            if directory != self.dest and state.known:
                others.append((bool(state.commit), state.used, directory, state))
        # One that never came about is not worth the place of one that did.
        others.sort(key=lambda row: row[:3], reverse=True)
        kept = self.request.keep - 1
        surplus = [row[2:] for row in others[kept:]] + [row[2:] for row in others[:kept] if not row[0]]
        if not surplus:
            return
        used = side_by_side.in_use([directory for directory, _state in surplus], self.base_env)
        staying = [state for directory, state in ((row[2], row[3]) for row in others[:kept] if row[0])]
        staying.append(self.state)
        dropped: set[str] = set()
        for directory, state in surplus:
            reason = used.get(directory, "")
            if not reason:
                own = side_by_side.foreign_files(directory, functools.partial(self._came, state))
                if own:
                    reason = f"it holds files that did not come from the repository ({', '.join(own[:5])})"
            if reason:
                self.outcome.warnings.append(f"the older revision in {directory} stays: {reason}")
                staying.append(state)
                continue
            side_by_side.remove(directory)
            dropped |= state.objects()
            self.outcome.removed.append(str(directory))
            self.outcome.changed = True
        self._forget_objects(dropped.difference(*(state.objects() for state in staying)))

    @staticmethod
    def _came(state: State, path: str, status: os.stat_result) -> bool:
        """Whether a file of another revision is as it was put there."""
        record = state.known_files.get(path)
        if record is None or not stat.S_ISREG(status.st_mode):
            return False
        return record.get("stamp") == stamp(status) or path in state.planned

    def _adopt(self, git: Git, commit: str) -> bool:
        """Make the directory at the link's place, a clone, the revision that it holds, and put the link there."""
        self._work_in(git, self.link)
        self._clean_after_killed_git()
        head = self.state.commit or self._head(git)
        if head:
            listing, survey = self._survey_all(git, head)
            self._refuse_overwriting(survey, self._known_files(git))
            self._refuse_edits(survey)
        target = side_by_side.directory_of(self.link, head or commit)
        if head:
            self.outcome.before = head
            whole = not survey.work
            for entry in survey.good.values():
                self._store_once(entry)
            for entry in survey.altered:  # it goes with this directory, when that is removed
                self._keep(entry, self.dest / entry.path)
            files = {entry.path: self._record(entry) for entry in survey.good.values()}
            if whole:
                self._configure(git, listing)
                self._write_index(git, listing)
            planned = [] if whole else listing.entries
            # The selection of the files that are here, so that this revision is not taken for another selection.
            request = dataclasses.replace(self.request, include=(), exclude=())
            if head != commit or not self.state.known:
                self.state.save(request, head if whole else "", files, planned=planned, earlier=[])
        self._take_objects(self.git_dir / "lfs")
        side_by_side.exchange(self.link, target)
        return True

    def _survey_all(self, git: Git, commit: str) -> tuple[Listing, Survey]:
        """Every file of a commit that is here, whatever is to be selected later; one that is missing is no work."""
        listing = self._listing(git, commit, everything=True)
        known = self._known_files(git)
        left_out = [entry for entry in listing.entries if entry.pointer and not os.path.lexists(self.dest / entry.path)]
        listing.left_out = left_out
        listing.entries = [entry for entry in listing.entries if entry not in left_out]
        return listing, self._survey(listing.entries, known)

    def _take_objects(self, storage: Path) -> bool:
        """Move the objects of a clone's own storage into the store; a bad one goes into quarantine there."""
        if storage == self.store.path or not (storage / "objects").is_dir():
            return False
        before = Store(storage)
        for path in (storage / "objects").glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/" + "[0-9a-f]" * 64):
            pointer = Pointer(path.name, path.lstat().st_size)
            target = self.store.object(pointer.oid)
            if target.exists():
                path.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            vouched = before.verified(pointer)
            if _move(path, target) and vouched:
                self.store.put_stamp(pointer.oid)  # the same file under another name
                continue
            self._age(target)
            if not self.store.verify(pointer):
                self._quarantine([pointer.oid])
        shutil.rmtree(storage / "objects", ignore_errors=True)
        shutil.rmtree(before.own, ignore_errors=True)
        return True

    # -- what is there

    def _holds_all(self, commit: str) -> bool:
        """Whether stamps prove that nothing has changed since everything was verified."""
        state = self.state
        if not (state.current and state.commit == commit and state.asked(self.request)) or state.planned:
            return False
        return all(self._trusted(path, record) and self._has_mode(path, record) for path, record in state.files.items())

    def _has_mode(self, path: str, record: t.Mapping[str, t.Any]) -> bool:
        return stat.S_IMODE((self.dest / path).lstat().st_mode) == record.get("mode")

    def _trusted(self, path: str, record: t.Mapping[str, t.Any]) -> bool:
        """Whether a file is the one that was verified.

        A large file is trusted as the store's own object: where the store has another one now, this one was found bad
        from elsewhere. A small file that may not have reached the disk before a loss of power is read again.
        """
        status = lstat(self.dest / path)
        if status is None or not stat.S_ISREG(status.st_mode) or record.get("stamp") != stamp(status):
            return False
        entry = object_entry(path, record, status.st_size)
        if not entry.pointer:
            return self.state.same_boot or content_is(self.dest / path, entry)
        if record.get("copy"):
            return True
        kept = lstat(self.store.object(entry.oid))
        return kept is not None and os.path.samestat(kept, status) and self.store.verified(entry.pointer)

    def _refuse_revision_link(self) -> None:
        """Without side_by_side, a link to a revision's directory would let that become another revision."""
        directory = side_by_side.current(self.link)
        if directory is not None and self.link.is_symlink():
            raise GitLfsError(
                Problem(
                    "side_by_side",
                    f"{self.link} is a link to {directory.name}, one of several revisions side by side.",
                    "a directory that holds one revision.",
                    "set the option side_by_side, or remove the link and choose what is to be there.",
                )
            )

    def _refuse_foreign(self) -> None:
        """Never touch a directory that is something else."""
        remedy = "move it away, or choose another model_root or model_name."
        expected = f"nothing, an empty directory, or an earlier clone of {self.request.repo}."
        status = lstat(self.dest)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            raise GitLfsError(Problem("foreign_directory", f"{self.dest} is not a directory.", expected, remedy))
        if (self.git_dir / "config").is_file():
            return  # _initialise compares the address once git can read it
        others = [path.name for path in self.dest.iterdir() if path.name not in (".git", "lost+found")]
        if others:
            names = ", ".join(sorted(others)[:5])
            found = f"{self.dest} holds files that did not come from a git repository ({names})."
            raise GitLfsError(Problem("foreign_directory", found, expected, remedy))

    @staticmethod
    def _refuse_read_only(*places: Path) -> None:
        """Tell before anything else that nothing can be written."""
        effective = os.access in os.supports_effective_ids
        for place in places:
            existing = next(path for path in (place, *place.parents) if os.path.lexists(path))
            if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK, effective_ids=effective):
                status = os.statvfs(existing)
                why = "its file system is read-only" if status.f_flag & os.ST_RDONLY else "its permissions forbid it"
                raise GitLfsError(
                    Problem(
                        "read_only",
                        f"{existing} cannot be written: {why}.",
                        "a directory that can be written.",
                        "mount it writable, let the user that fetches the model (root through become) write there, "
                        "or choose another model_root.",
                    )
                )

    def _refuse_other_repository(self, git: Git) -> bool:
        """Refuse a clone of something else; tell whether the address is to be set."""
        code, output, said = git.run("config", "--local", "--get", "remote.origin.url")
        if code not in (0, 1):
            text = said.decode("utf-8", "replace")
            raise GitLfsError(git.explain(text), text)
        origin = output.decode("utf-8", "replace").strip()
        if origin and same_repository(origin, self.request.repo):
            return False
        if origin and (self.state.known or self._head(git)):
            raise GitLfsError(
                Problem(
                    "other_repository",
                    f"{self.dest} is a clone of {redact_url(origin)}.",
                    f"a clone of {self.request.repo}.",
                    "choose another model_name, move the directory away, or, if both hold the same model, run "
                    f"'git -C {self.dest} remote set-url origin {self.request.repo}'.",
                )
            )
        return True  # a new clone, or one that never came about because its address was wrong

    def _refuse_overwriting(self, survey: Survey, known: t.Mapping[str, t.Any]) -> None:
        """A person's own file in the place of one that this revision brings is not overwritten."""
        for entry in survey.to_link + survey.to_fetch + survey.to_write:
            parent = self.dest
            for part in entry.path.split("/")[:-1]:
                parent = parent / part
                status = lstat(parent)
                if status is not None and not stat.S_ISDIR(status.st_mode):
                    self._in_the_way(parent)
            status = lstat(self.dest / entry.path)
            if status is not None and (entry.path not in known or stat.S_ISDIR(status.st_mode)):
                self._in_the_way(self.dest / entry.path)

    def _in_the_way(self, path: Path) -> t.NoReturn:
        if path.is_dir() and not path.is_symlink():
            found = f"{path} is a directory."
        else:
            found = f"{path} exists, was not put there from the repository, and differs from its content."
        raise GitLfsError(
            Problem(
                "in_the_way",
                found,
                f"no file of your own where revision {self.request.revision} has one.",
                "move it away.",
            )
        )

    def _refuse_edits(self, survey: Survey) -> None:
        """What a person has made of a file of the repository is theirs, until they say otherwise."""
        if survey.edited and not self.request.force:
            raise GitLfsError(
                Problem(
                    "local_edits",
                    f"files of the repository in {self.dest} were changed on this host: "
                    f"{', '.join(sorted(survey.edited))}.",
                    "files as the repository has them.",
                    "copy what you want to keep to another place, and set model_force: true to restore them.",
                )
            )
        survey.damaged += survey.edited
        survey.edited = []

    def _known_files(self, git: Git) -> _Records:
        """Files that came from the repository: by the state file, or, in a clone made by hand, by its HEAD."""
        if self.state.known:
            return self.state.known_files
        head = self._head(git)
        if not head:
            return {}
        return {entry.path: record_of(entry) for entry in self._with_pointers(git, self._tree(git, head))}

    def _survey(self, entries: list[Entry], known: _Records) -> Survey:
        """Look at every file, reading those whose stamp does not vouch for them."""
        survey = Survey()
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            findings = pool.map(lambda entry: self._look_at(entry, known), entries)
            for entry, finding in zip(entries, findings):
                survey.verified += finding.read
                path = self.dest / entry.path
                if finding.verdict == "good":
                    survey.good[entry.path] = entry
                    if stat.S_IMODE(path.lstat().st_mode) != entry.permissions:
                        survey.to_mode.append(entry)
                    continue
                if finding.fault:
                    (survey.edited if finding.fault == "edited" else survey.damaged).append(entry.path)
                if finding.fault == "altered":
                    survey.altered.append(entry)
                if finding.bad_object and entry.oid not in survey.bad_objects:
                    survey.bad_objects.append(entry.oid)
                if not entry.pointer:
                    survey.to_write.append(entry)
                elif finding.verdict == "link":
                    survey.to_link.append(entry)
                else:
                    survey.to_fetch.append(entry)
        return survey

    def _look_at(self, entry: Entry, known: _Records) -> Finding:
        path = self.dest / entry.path
        status = lstat(path)
        regular = status is not None and stat.S_ISREG(status.st_mode)
        always = self.request.verify != "changed"
        stored = self._object(entry)
        kept = lstat(stored) if entry.pointer else None
        shared = status is not None and kept is not None and os.path.samestat(kept, status)
        vouched = not always and entry.pointer is not None and self.store.verified(entry.pointer)
        if regular and not always:
            record = self.state.files.get(entry.path, {})
            if (shared and vouched) or (record.get("oid") == entry.oid and self._trusted(entry.path, record)):
                return Finding("good")
        read = 0
        if status is not None and regular and status.st_size == entry.size:
            read = 1
            if content_is(path, entry):
                return Finding("good", read)
        fault = "" if status is None else self._fault(entry, path, status, known)
        if kept is None:
            return Finding("missing", read, fault)
        if shared:
            return Finding("missing", read, fault, bad_object=True)
        if vouched:
            return Finding("link", read, fault)
        good = content_is(stored, entry)
        return Finding("link" if good else "missing", read + 1, fault, bad_object=not good)

    def _fault(self, entry: Entry, path: Path, status: os.stat_result, known: _Records) -> str:
        """What has become of a file of other content; nothing, if it is what was there before.

        A large file that was written to or cut short is kept, and the right one is put back. A file with the stamp of
        its verification was not written by anybody since: the disk has changed it. What a clone without git-lfs or a
        full disk has left, a pointer or nothing, is nobody's work.
        """
        if entry.path not in known or stat.S_ISDIR(status.st_mode):
            return ""  # _refuse_overwriting sees to it
        if not stat.S_ISREG(status.st_mode):
            return "edited"
        own = self.state.files.get(entry.path, {})
        loss = "damaged" if own.get("oid") == entry.oid and "stamp" in own else ""
        if status.st_size == 0 or holds_pointer(path, status) or own.get("stamp") == stamp(status):
            return loss
        if self._was_put_there(path, entry.path, status, known):
            return ""
        return "altered" if known[entry.path].get("lfs") and entry.pointer and not entry.is_text else "edited"

    def _was_put_there(self, path: Path, name: str, status: os.stat_result, known: _Records) -> bool:
        """Whether a file has the content that some revision, or a run that was killed, has put there."""
        for record in (known[name], *self.state.planned.get(name, [])):
            entry = object_entry(name, record, status.st_size)
            if record.get("size", status.st_size) == status.st_size and content_is(path, entry):
                return True
        return False

    def _object(self, entry: Entry) -> Path:
        return self.store.object(entry.oid)

    # -- git

    def _git(self, executable: str | None, home: Path) -> Git:
        request = self.request
        if not executable:
            remedy = "run the role vicuna.fleet.tools first, or install the package git."
            raise GitLfsError(Problem("git_missing", "git is not on this host.", "git and git-lfs.", remedy))
        bundle = ""
        if request.ca_path:
            if not Path(request.ca_path).is_file():
                raise GitLfsError(
                    Problem(
                        "ca_missing",
                        f"there is no file {request.ca_path} on this host.",
                        "a PEM file with the certificate of the authority.",
                        "correct model_ca_path, or leave it empty to trust what the host trusts.",
                    )
                )
            try:
                added = authorities(Path(request.ca_path).read_bytes())
            except AuthorityError as error:
                raise GitLfsError(
                    Problem(
                        "ca_unusable",
                        f"{request.ca_path} on this host, which cannot be used as a CA file: {error}.",
                        "certificates of authorities in PEM form, and nothing else.",
                        f"{error.command(request.ca_path)}, and name that file in model_ca_path.",
                    )
                ) from error
            system = system_ca_bundle(self.base_env)
            bundle = str(home / "ca.pem")
            trusted = Path(system).read_bytes() + b"\n" if system else b""
            Path(bundle).write_bytes(trusted + as_pem(added).encode())
        self.source = open_source(request.repo, home, self.base_env)
        env = environment(
            self.base_env,
            repo=request.repo,
            token=request.token,
            username=request.username,
            home=str(home),
            timeout=request.timeout,
            ca_bundle=bundle,
            storage=str(self.store.path),
            mirror=request.mirror,
            stand_in=self.source.address if self.source else "",
        )

        def explain(said: str) -> Problem:
            return classify_git_error(
                said,
                repo=request.repo,
                revision=request.revision,
                dest=str(self.dest),
                has_token=bool(request.token),
                timeout=request.timeout,
            )

        git = Git(executable, self.dest, env, explain, timeout=request.timeout, secret=request.token)
        if not self.check_mode:
            code, output, _said = git.run("lfs", "version", cwd=home)
            if code != 0:
                raise GitLfsError(explain("git: 'lfs' is not a git command"))
            problem = check_git_lfs_version(output.decode("utf-8", "replace"))
            if problem:
                raise GitLfsError(problem)
        return git

    def _initialise(self, git: Git, object_format: str) -> None:
        fresh = not (self.git_dir / "config").is_file()
        if fresh or not all((self.git_dir / name).exists() for name in ("HEAD", "objects", "refs")):
            # git before 2.29 knows no other format than sha1, and not the option either.
            wanted = () if object_format == "sha1" or not fresh else (f"--object-format={object_format}",)
            git("init", "--quiet", "--template=", *wanted, str(self.dest))
        # A directory that is named for its commit holds the same files from whatever address: a mirror, a disk.
        if (self.request.side_by_side and self.dest != self.link) or self._refuse_other_repository(git):
            git("config", "--local", "remote.origin.url", self.request.repo)

    def _head(self, git: Git) -> str:
        code, output, _said = git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        return output.decode().strip() if code == 0 else ""

    def _has_commit(self, git: Git, commit: str) -> bool:
        return git.run("cat-file", "-e", f"{commit}^{{tree}}")[0] == 0

    def _resolve(self, git: Git) -> str:
        """The commit that the revision names on the server now; a commit id stands for itself."""
        revision = self.request.revision
        patterns = [] if is_commit_id(revision) else [revision, f"{revision}^{{}}"]
        cwd = Path(git.env["HOME"])
        output = git("ls-remote", "--", self.request.repo, *patterns, cwd=cwd).decode("utf-8", "replace")
        if is_commit_id(revision):
            return revision
        commit = resolve_ref(parse_ls_remote(output), revision)
        if commit is None:
            raise GitLfsError(git.explain("fatal: couldn't find remote ref"))
        return commit

    def _fetch_commit(self, git: Git, commit: str) -> str:
        if self._has_commit(git, commit):
            return git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
        fetch = ("fetch", "--no-tags", "--no-recurse-submodules", "--progress", "--force")
        code, _out, said = git.run(*fetch, "--depth=1", "origin", f"{commit}:{TARGET_REF}")
        if code != 0:
            text = git.redact(said.decode("utf-8", "replace"))
            problem = git.explain(text)
            if problem.cause != "revision_not_found":
                raise GitLfsError(problem, text)
            # Some servers hand out branches and tags alone: take the history of those and look in it.
            shallow = ("--unshallow",) if (self.git_dir / "shallow").is_file() else ()
            git(*fetch, *shallow, "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
            if not self._has_commit(git, commit):
                raise GitLfsError(problem, text)
        return git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()

    def _tree(self, git: Git, commit: str) -> list[Entry]:
        return parse_ls_tree(self._ls_tree(git, commit))

    def _ls_tree(self, git: Git, commit: str) -> bytes:
        return git("ls-tree", "-r", "-z", "-l", "--full-tree", commit)

    def _with_pointers(self, git: Git, entries: list[Entry]) -> list[Entry]:
        small = sorted({entry.blob for entry in entries if entry.blob_size < POINTER_LIMIT})
        read = {blob: read_pointer(content) for blob, content in self._blobs(git, small)}
        return [_with_pointer(entry, read.get(entry.blob)) for entry in entries]

    def _listing(self, git: Git, commit: str, *, everything: bool = False) -> Listing:
        """The files of a commit, apart from the large ones that include and exclude leave out."""
        request = self.request
        output = self._ls_tree(git, commit)
        listing = Listing(commit, [], gitlinks=parse_gitlinks(output))
        for entry in self._with_pointers(git, parse_ls_tree(output)):
            large = entry.pointer is not None or entry.fault != ""
            wanted = everything or not large or selected(entry.path, request.include, request.exclude)
            (listing.entries if wanted else listing.left_out).append(entry)
            if wanted and entry.pointer and entry.pointer.extensions:
                names = ", ".join(entry.pointer.extensions)
                self.outcome.warnings.append(
                    f"{entry.path} went through the git-lfs extension {names} before it was stored: it is here as such"
                )
        faults = [f"{entry.path}: {entry.fault}" for entry in listing.entries if entry.fault]
        if faults and not everything:
            raise GitLfsError(
                Problem(
                    "lfs_pointer",
                    f"{request.repo} holds LFS pointers that name no content ({'; '.join(faults[:5])}).",
                    "pointers as git-lfs writes them.",
                    "have the files committed again with git-lfs, correct model_revision, or leave them out with "
                    "model_exclude.",
                )
            )
        unsafe = unsafe_paths(listing.entries)
        if unsafe:
            raise GitLfsError(
                Problem(
                    "unsafe_path",
                    f"{request.repo} holds links or names that reach out of the directory ({', '.join(unsafe[:5])}).",
                    "plain files.",
                    "correct model_repo or model_revision.",
                )
            )
        return listing

    def _blobs(self, git: Git, blobs: t.Sequence[str]) -> t.Iterator[tuple[str, bytes]]:
        if not blobs:
            return
        output = git("cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in blobs).encode())
        position = 0
        for blob in blobs:
            end = output.index(b"\n", position)
            header = output[position:end].split()
            if len(header) != 3:
                raise GitLfsError(git.explain(f"fatal: bad object {blob}"))
            position = end + 1 + int(header[2]) + 1
            yield blob, output[end + 1 : position - 1]

    # -- objects

    def _fetch_objects(self, git: Git, commit: str, survey: Survey) -> int:
        """Bring what is missing into the store, in this process or, where nobody waits, in one of its own."""
        wanted = survey.missing
        if not wanted:
            return 0
        # A part has its full size from the start; its blocks are what has arrived.
        here = sum(min(entry.size, blocks_on_disk(self.store.part(oid))) for oid, entry in wanted.items())
        self._require_space(survey.missing_bytes - here, survey)
        if self._head(git) != commit:
            git("read-tree", commit)  # git-lfs reads .lfsconfig from the index where the tree has none yet
        try:
            transfer = self._transfer(git, commit, survey)
        except SourceError as error:
            if error.problem.cause != "transfer_unsupported":
                raise GitLfsError(error.problem) from None
            transfer = None
        if transfer is None:
            return self._fetch_with_git_lfs(git, commit, survey)
        if not self.request.wait:
            self.outcome.job = transfer.start(git.inherited)
            return 0
        result = transfer.run()
        settle_in_background(transfer)
        self.served = True
        survey.verified += len(wanted)
        self.outcome.warnings += result.notes
        return result.from_origin + result.from_peers

    def _transfer(self, git: Git, commit: str, survey: Survey) -> Transfer | None:
        """What is to be brought, and from where; None where only git-lfs itself can (ssh, a transfer of its own)."""
        request = self.request
        endpoint = parse_lfs_env(git("lfs", "env").decode("utf-8", "replace"))
        if endpoint is None:
            return None
        pointers = [entry.pointer for entry in survey.missing.values() if entry.pointer]
        peers = parse_peers(request.peers)
        origin = self._origin(git, endpoint, pointers)
        if not (peers and peers.whole):
            ask_ahead(origin)
        return Transfer(
            store=self.store,
            label=f"{request.repo}@{commit}",
            wanted=[(entry.pointer, entry.path) for entry in survey.missing.values() if entry.pointer],
            every=[
                entry.pointer for entry in [*survey.good.values(), *survey.to_link, *survey.to_fetch] if entry.pointer
            ],
            origin=origin,
            peers=peers,
            connections=request.connections,
            bandwidth_limit=request.bandwidth_limit,
            timeout=request.timeout,
            variables=request.variables,
        )

    def _origin(self, git: Git, endpoint: str, pointers: t.Iterable[Pointer]) -> Origin:
        """The LFS server of the repository, with its token and trust."""
        request = self.request
        mirror, repository = request.mirror.rstrip("/"), urlsplit(request.repo)
        replaced = f"{repository.scheme}://{repository.netloc}/"

        def rewrite(href: str) -> str:
            return f"{mirror}/{href[len(replaced) :]}" if mirror and href.startswith(replaced) else href

        return Origin(
            endpoint,
            pointers,
            username=request.username,
            token=request.token,
            credentials_host=mirror or request.repo,
            ca_file=git.env.get("GIT_SSL_CAINFO", ""),
            timeout=request.timeout,
            environ=self.base_env,
            rewrite=rewrite,
        )

    def _serve_others(self) -> None:
        """Give the other hosts of the run what is here; whoever lacked something serves already."""
        if self.check_mode or self.served or not self.request.fetch or self.outcome.missing_bytes or self.outcome.job:
            return
        peers = parse_peers(self.request.peers)
        if peers is None:
            return
        records = self.state.files.values()
        every = [Pointer(str(one["oid"]), int(one["size"])) for one in records if one.get("lfs")]
        Transfer(
            store=self.store,
            label=f"{self.request.repo}@{self.outcome.revision}",
            wanted=[],
            every=every,
            origin=None,
            peers=peers,
            bandwidth_limit=self.request.bandwidth_limit,
        ).serve()

    def _fetch_with_git_lfs(self, git: Git, commit: str, survey: Survey) -> int:
        """Let git-lfs fetch what is missing, and check what came."""
        wanted = survey.missing
        include = ",".join(fetch_pattern(entry.path) for entry in wanted.values())
        arguments = ["--include", include] if len(include) < ARGUMENT_LIMIT else []
        git("lfs", "fetch", *arguments, "--exclude", "", "origin", commit)
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            verdicts = list(pool.map(self._check_fetched, wanted.values()))
        wrong = [entry for entry, good in zip(wanted.values(), verdicts) if not good]
        survey.verified += len(wanted) - len(wrong)
        if wrong:
            for entry in wrong:
                self._object(entry).unlink(missing_ok=True)
            names = ", ".join(sorted(entry.path for entry in wrong)[:5])
            raise GitLfsError(git.explain(f"error: object not found, or its sha256 differs: {names}"))
        return survey.missing_bytes

    def _take_from_disk(self, _git: Git, _commit: str, survey: Survey) -> int:
        """Copy what is missing from a clone, or out of an archive, on a disk of the host."""
        wanted: dict[str, list[Entry]] = {}
        for entry in survey.to_fetch:
            wanted.setdefault(entry.oid, []).append(entry)
        if not wanted or self.source is None:
            return 0
        self._require_space(survey.missing_bytes, survey)
        taken = self.source.take(wanted, self.store)
        survey.verified += len(taken)
        lacking = sorted(entries[0].path for oid, entries in wanted.items() if oid not in taken)
        if lacking:
            raise GitLfsError(
                Problem(
                    "lfs_object_missing",
                    f"{self.request.repo} has the pointer, but not the content with the right sha256, of "
                    f"{', '.join(lacking)}.",
                    "every large file of the revision in the clone, as 'git lfs fetch' puts it there.",
                    "run 'git lfs fetch' and 'git lfs fsck' in the clone, and pack it again (a git bundle holds no "
                    "large files); or leave the file out with model_exclude.",
                )
            )
        return survey.missing_bytes

    def _check_fetched(self, entry: Entry) -> bool:
        """Stamp what git-lfs has fetched, if it is right."""
        stored = self._object(entry)
        if entry.pointer is None or lstat(stored) is None:
            return False
        stored.chmod(0o644)
        self._age(stored)
        return self.store.verify(entry.pointer)

    def _require_space(self, needed: int, survey: Survey) -> None:
        """Refuse before the first byte what cannot end well; objects of older revisions give way first."""
        wanted = {entry.oid for entry in survey.to_link + survey.to_fetch}
        if self._free() < needed + DISK_MARGIN:
            self._forget_objects(self._stored_objects() - wanted)
            self._forget_parts(wanted)
        if self._free() < needed + DISK_MARGIN:
            self._give_up_cut(survey.altered)
        free = self._free()
        if free < needed + DISK_MARGIN:
            kept = [str(path) for path in self.store.all_kept()]
            kept += [str(self.dest / entry.path) for entry in survey.altered if lstat(self.dest / entry.path)]
            changed = f" remove or move away what was changed on this host ({', '.join(kept)})," if kept else ""
            raise GitLfsError(
                Problem(
                    "disk_full",
                    f"{needed / 1e9:.2f} GB are to be fetched, and {free / 1e9:.2f} GB are free at {self.store.path}.",
                    f"{(needed + DISK_MARGIN) / 1e9:.2f} GB free.",
                    f"free space there,{changed} choose another model_root, lower model_keep_revisions, or leave files "
                    "out with model_exclude.",
                )
            )

    def _give_up_cut(self, altered: t.Iterable[Entry]) -> None:
        """A file that was cut short holds nobody's work: it makes room for the whole one."""
        for entry in altered:
            path = self.dest / entry.path
            status = path.lstat()
            if status.st_size >= entry.size:
                continue
            stored = (self.store.object(entry.oid), self.store.bad(entry.oid))
            for name in (path, *self._also_in(entry, status), *stored):
                other = lstat(name)
                if other is not None and os.path.samestat(other, status):
                    name.unlink()
            self.outcome.warnings.append(
                f"{path} had been cut to {status.st_size} of {entry.size} bytes, and was removed to make room for it"
            )

    def _forget_parts(self, wanted: set[str]) -> None:
        """What transfers that nobody went on with have left."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.store.part("").iterdir():
                if path.name.partition(".")[0] not in wanted:
                    path.unlink()

    def _free(self) -> int:
        place = self.store.path
        status = os.statvfs(next(path for path in (place, *place.parents) if path.exists()))
        return status.f_bavail * status.f_frsize

    def _stored_objects(self) -> set[str]:
        """Objects that only this directory may need: all of a store of its own, else those that it has brought."""
        if self.own_store:
            return {path.name for path in (self.store.path / "objects").glob("??/??/*")}
        return self.state.objects()

    def _earlier(self, commit: str) -> list[dict[str, t.Any]]:
        """The revisions before this one whose objects stay, so that going back fetches nothing."""
        if self.request.side_by_side:
            return []
        before = self.state.commit
        own = [{"commit": before, "objects": sorted(self._objects_of([], self.state.files))}] if before else []
        found = [row for row in own if row["commit"] != commit]
        found += [row for row in self.state.earlier if row.get("commit") not in (commit, before)]
        return found[: max(0, self.request.keep - 1)]

    @staticmethod
    def _objects_of(
        earlier: t.Iterable[t.Mapping[str, t.Any]], files: t.Mapping[str, t.Mapping[str, t.Any]]
    ) -> set[str]:
        own = {str(record["oid"]) for record in files.values() if record.get("lfs")}
        return own.union(*(map(str, row.get("objects", [])) for row in earlier))

    def _forget_objects(self, oids: t.Iterable[str]) -> None:
        """Drop objects that no file of any tree shares."""
        for oid in oids:
            path = self.store.object(oid)
            status = lstat(path)
            if status is not None and status.st_nlink == 1:
                path.unlink()
                self.store.stamp_path(oid).unlink(missing_ok=True)
            if status is None or status.st_nlink == 1:
                leftovers = (self.store.part(oid), self.store.map(oid), self.store.bad(oid))
                for leftover in (*leftovers, *self.store.all_kept(oid)):
                    leftover.unlink(missing_ok=True)

    def _quarantine(self, oids: t.Iterable[str]) -> None:
        """Take objects with a wrong sha256 out of the store; they stay beside it until a good one is in place."""
        for oid in oids:
            path = self.store.object(oid)
            if lstat(path) is None:
                continue
            self.store.stamp_path(oid).unlink(missing_ok=True)
            bad = self.store.quarantine(path, oid)
            self.outcome.warnings.append(
                f"{path} did not have the sha256 that it is named for; it is in {bad} until a good one is in place"
            )

    # -- the tree

    def _made(self, name: str) -> Path:
        """The path of a file whose directories are there."""
        path = self.dest / name
        for directory in reversed(path.relative_to(self.dest).parents):
            (self.dest / directory).mkdir(mode=0o755, exist_ok=True)
        return path

    @staticmethod
    def _age(path: Path) -> None:
        """Date a file back that is so young that git would read it; always before its stamp is taken."""
        if path.lstat().st_mtime > time.time() - YOUNG:
            backdate(path)

    def _put(self, entry: Entry, survey: Survey) -> None:
        """Put an object into the tree; in the place of a damaged file with the time of now."""
        path = self.dest / entry.path
        before = lstat(path)
        if entry.path not in survey.damaged or before is None:
            self._link(entry)
            return
        elsewhere = self._also_in(entry, before)
        if entry in survey.altered:
            self._keep(entry, path)
        # A process that was started before has the old content: the time tells, even if this run is killed now.
        backdate(self._object(entry))
        self.store.put_stamp(entry.oid, durable=bool(self.store.stamp(entry.oid).get("durable")))
        for other in [*elsewhere, path]:
            self._link(entry, other)

    def _also_in(self, entry: Entry, status: os.stat_result) -> list[Path]:
        """The same file in the directories of other revisions."""
        if not self.request.side_by_side:
            return []
        found = []
        for directory in side_by_side.revisions(self.link):
            for name, record in State(directory / ".git" / STATE_FILE).files.items():
                other = lstat(directory / name)
                if directory != self.dest and record.get("oid") == entry.oid and other is not None:
                    found += [directory / name] if os.path.samestat(other, status) else []
        return found

    def _keep(self, entry: Entry, path: Path) -> None:
        kept = self.store.kept(entry.oid, path.name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".{kept.name}.vicuna-fleet")
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            _move(path, temporary)
        temporary.replace(kept)
        temporary.unlink(missing_ok=True)  # rename does nothing when both names are one file already
        if str(kept) not in self.outcome.kept:
            self.outcome.kept.append(str(kept))
            self.outcome.warnings.append(f"{path} was changed on this host: what it held is in {kept}")

    def _link(self, entry: Entry, target: Path | None = None) -> None:
        """Put an object into the tree as a hard link; as a reflink or a copy where the file system has no links."""
        target, stored = target or self._made(entry.path), self._object(entry)
        temporary = target.with_name(f".{target.name}.vicuna-fleet")
        temporary.unlink(missing_ok=True)
        if stat.S_IMODE(stored.lstat().st_mode) != entry.permissions:
            stored.chmod(entry.permissions)
        if entry.pointer and not self.store.verified(entry.pointer):
            self._age(stored)
            self.store.put_stamp(entry.oid)  # it was read a moment ago
        try:
            os.link(stored, temporary)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            self._copy(stored, temporary, entry)
        temporary.replace(target)
        temporary.unlink(missing_ok=True)  # rename does nothing when both names are one file already

    def _copy(self, stored: Path, temporary: Path, entry: Entry) -> None:
        status = stored.lstat()
        with stored.open("rb") as source, temporary.open("wb") as copied:
            try:
                fcntl.ioctl(copied.fileno(), FICLONE, source.fileno())
            except OSError:
                self._require_space_at(temporary.parent, entry.size)
                shutil.copyfileobj(source, copied, 1024 * 1024)
        temporary.chmod(entry.permissions)
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _require_space_at(self, place: Path, needed: int) -> None:
        status = os.statvfs(place)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise GitLfsError(
                Problem(
                    "disk_full",
                    f"{needed / 1e9:.2f} GB are to be copied to {place}, which has {free / 1e9:.2f} GB free and no "
                    f"hard links into {self.store.path}.",
                    "a store on the same file system, or room for a copy.",
                    "put both on one file system (model_root), or free space there.",
                )
            )

    def _store_once(self, entry: Entry) -> None:
        """Let the store and the tree share one file, so that the disk holds it once (a clone made by hand)."""
        if not entry.pointer:
            return
        path, stored = self.dest / entry.path, self._object(entry)
        kept = lstat(stored)
        if kept is None or not os.path.samestat(kept, path.lstat()):
            record = self.state.files.get(entry.path, {})
            if record.get("copy") and record.get("oid") == entry.oid and self._trusted(entry.path, record):
                return
            if self.store.verified(entry.pointer):
                self._link(entry)
                return
            temporary = stored.with_name(f"{entry.oid}.vicuna-fleet")
            stored.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            try:
                os.link(path, temporary)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                return
            temporary.replace(stored)
        if not self.store.verified(entry.pointer):
            self._age(stored)
            self.store.put_stamp(entry.oid)

    def _write_blobs(self, git: Git, entries: list[Entry]) -> None:
        contents = dict(self._blobs(git, sorted({entry.blob for entry in entries})))
        for entry in entries:
            target = self._made(entry.path)
            temporary = target.with_name(f".{target.name}.vicuna-fleet")
            temporary.write_bytes(contents[entry.blob])
            temporary.chmod(entry.permissions)
            backdate(temporary)
            temporary.replace(target)

    def _record(self, entry: Entry) -> dict[str, t.Any]:
        """What the state file says of a file that is right."""
        path = self.dest / entry.path
        status = path.lstat()
        record = {**record_of(entry), "mode": entry.permissions, "stamp": stamp(status)}
        if entry.pointer:
            kept = lstat(self._object(entry))
            if kept is None or not os.path.samestat(kept, status):
                record["copy"] = True
                if self.state.files.get(entry.path) != record:
                    _sync_file(path)  # no stamp of the store vouches for it after a loss of power
        return record

    def _index_is_stale(self, files: _Records) -> bool:
        def stamps(records: _Records) -> dict[str, t.Any]:
            return {path: record.get("stamp") for path, record in records.items()}

        return not (self.git_dir / "index").exists() or stamps(files) != stamps(self.state.files)

    def _configure(self, git: Git, listing: Listing) -> None:
        """Let the git of a person, with no environment of ours, see the directory as it is meant."""
        # The change time of an object changes with every further link; an object is 0644 whatever git has it as.
        executable = any(entry.pointer and entry.mode == "100755" for entry in listing.entries)
        settings = {"core.trustctime": "false", "core.fileMode": "false" if executable else "true"}
        if not self.own_store:
            settings["lfs.storage"] = str(self.store.path)
        for key, value in settings.items():
            git("config", "--local", key, value)

    def _write_index(self, git: Git, listing: Listing) -> None:
        rows = [
            IndexEntry(entry.path, "100755" if entry.mode == "100755" else "100644", entry.blob, status)
            for entries, here in ((listing.entries, True), (listing.left_out, False))
            for entry in entries
            for status in [(self.dest / entry.path).lstat() if here else None]
        ]
        rows += [IndexEntry(path, "160000", commit, None) for path, commit in listing.gitlinks]
        self._configure(git, listing)
        try:
            write_index(self.git_dir, rows)
        except FileExistsError as error:
            raise GitLfsError(git.explain(f"fatal: Unable to create '{error.filename}': File exists.")) from None

    def _remove_stale(self, known: _Records, wanted: set[str]) -> list[str]:
        """Remove what an earlier revision brought and this one has not; a file that a person changed stays."""
        removed = []
        for name, record in known.items():
            path = self.dest / name
            status = lstat(path)
            if name in wanted or status is None or not stat.S_ISREG(status.st_mode):
                continue
            came = (
                record.get("stamp") == stamp(status)
                or self._was_put_there(path, name, status, known)
                or holds_pointer(path, status)
            )
            if not came:
                self.outcome.warnings.append(
                    f"{path} is not part of this revision and was changed on this host: it stays"
                )
                continue
            path.unlink()
            removed.append(name)
            for parent in path.relative_to(self.dest).parents:
                with contextlib.suppress(OSError):
                    if parent.parts:
                        (self.dest / parent).rmdir()
        return removed

    # -- locks and leftovers

    @contextlib.contextmanager
    def _locked(self) -> t.Iterator[int]:
        """One run at a time. git inherits the descriptor: an orphan of a killed run still holds the lock."""
        lock = self.store.lock
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            deadline = time.monotonic() + self.request.timeout
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if running(self.store):
                        # It may take hours, and it is seen to be at work.
                        deadline = time.monotonic() + self.request.timeout
                    if time.monotonic() > deadline:
                        raise GitLfsError(
                            Problem(
                                "locked",
                                f"another run has been fetching into {self.store.path} for over "
                                f"{self.request.timeout} s.",
                                "one run at a time.",
                                f"wait for it and run again; 'fuser {lock}' names it.",
                            )
                        ) from None
                    time.sleep(0.5)
            yield descriptor
        finally:
            os.close(descriptor)

    def _clean_after_killed_git(self) -> None:
        """Remove what a killed run left: partial downloads of git-lfs, which it never resumes, and lock files."""
        if git_is_working_in(self.dest):
            return
        for storage in {self.git_dir / "lfs", self.store.path}:
            for name in ("tmp", "incomplete"):
                shutil.rmtree(storage / name, ignore_errors=True)
        leftovers = [*self.git_dir.glob("*.lock"), *(self.git_dir / "refs").glob("**/*.lock")]
        leftovers += (self.git_dir / "objects").glob("pack/tmp_*")
        for path in leftovers:
            path.unlink(missing_ok=True)


def _with_pointer(entry: Entry, read: Pointer | str | None) -> Entry:
    if isinstance(read, str):
        return dataclasses.replace(entry, fault=read)
    return dataclasses.replace(entry, pointer=read)


def check_git_lfs_version(said: str) -> Problem | None:
    """Refuse a git-lfs that is too old; one that does not tell its version is taken as it is."""
    if not versions.of(said) or not versions.older(said, GIT_LFS_MINIMUM):
        return None
    return Problem(
        "git_lfs_old",
        f"git-lfs {versions.of(said)} is on this host.",
        f"git-lfs {GIT_LFS_MINIMUM} or later.",
        "install a newer package of git-lfs; distributions from 2021 on have one.",
    )


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(path: Path, target: Path) -> bool:
    """Rename a file, or copy it to another file system; tells whether it is the same file still."""
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = target.with_name(f"{target.name}.vicuna-fleet")
        shutil.copyfile(path, temporary)
        temporary.replace(target)
        path.unlink()
        return False
    return True
