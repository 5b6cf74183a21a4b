# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A git-LFS repository in a directory: every file of one commit, every LFS object checked, stored once.

The work tree is written here and not by ``git checkout``: a checkout would put pointer files in the place of
weights that a server is reading. Weights are hard links into ``.git/lfs/objects``, so the disk holds them once.

This module is private to the collection.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
import tempfile
import threading
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError, Problem, classify_git_error

STATE_FILE = "vicuna-fleet.json"
LOCK_FILE = "vicuna-fleet.lock"
STATE_VERSION = 1
TARGET_REF = "refs/vicuna-fleet/target"
# A pointer is at most 1024 bytes: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
POINTER_LIMIT = 1024
# Room for git's own objects and for what else lives on the file system.
DISK_MARGIN = 64 * 1024 * 1024
# One command-line argument may hold 128 KiB on Linux (MAX_ARG_STRLEN).
ARGUMENT_LIMIT = 120_000
CHUNK = 4 * 1024 * 1024
# How often git-lfs tries again within one run; it goes on where the connection broke.
TRANSFER_RETRIES = 8

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_POINTER_VERSION = b"version https://git-lfs.github.com/spec/v1"
_SCHEMES = ("http", "https", "ssh", "git", "file")
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
)
# Variables of the caller's environment that still count: trust, proxies and ssh are properties of the machine.
_KEPT_GIT_VARIABLES = re.compile(r"GIT_(SSL_\w+|PROXY_\w+|HTTP_PROXY_\w+|SSH|SSH_COMMAND|SSH_VARIANT)")


# --- pure parts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pointer:
    oid: str
    size: int


@dataclass(frozen=True)
class Entry:
    """A file of a commit; ``pointer`` is set where git holds only an LFS pointer."""

    path: str
    mode: str
    blob: str
    blob_size: int
    pointer: Pointer | None = None

    @property
    def oid(self) -> str:
        return self.pointer.oid if self.pointer else self.blob

    @property
    def size(self) -> int:
        return self.pointer.size if self.pointer else self.blob_size

    @property
    def permissions(self) -> int:
        return 0o755 if self.mode == "100755" and not self.pointer else 0o644


def parse_pointer(blob: bytes) -> Pointer | None:
    """Read an LFS pointer; anything else is None."""
    if len(blob) > POINTER_LIMIT or not blob.startswith(_POINTER_VERSION):
        return None
    try:
        fields = dict(line.split(" ", 1) for line in blob.decode("utf-8").splitlines() if line)
        kind, _, oid = fields["oid"].partition(":")
        size = int(fields["size"])
    except (UnicodeDecodeError, ValueError, KeyError):
        return None
    if kind != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", oid) or size < 0:
        return None
    return Pointer(oid, size)


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
    """The commit that a tag, branch or full ref names; tags win over branches, as in git."""
    names = (revision, f"refs/tags/{revision}", f"refs/heads/{revision}")
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


def check_repo(repo: str) -> Problem | None:
    """Refuse an address that git would misread or that carries a secret."""
    expected = "an http, https, ssh, git or file address, or a local path, without a password in it."
    if not repo or repo.startswith("-") or "::" in repo or any(ord(char) < 32 for char in repo):
        return Problem(
            "url", f"the address '{redact_url(repo)}' is not one of a git repository.", expected, "correct model_repo."
        )
    parts = urlsplit(repo)
    if "://" in repo and parts.scheme not in _SCHEMES:
        return Problem(
            "url", f"the address {redact_url(repo)} has the scheme '{parts.scheme}'.", expected, "correct model_repo."
        )
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        return Problem(
            "url_with_credentials",
            f"the address {redact_url(repo)} carries credentials, which would end up in files and process lists.",
            expected,
            "take them out of model_repo; set model_token (and model_username).",
        )
    if parts.scheme in ("http", "https") and not parts.hostname:
        return Problem("url", f"the address {repo} names no host.", expected, "correct model_repo.")
    return None


def redact_url(repo: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "***@", repo)


def same_repository(one: str, other: str) -> bool:
    """Whether two addresses name the same repository: a trailing slash, .git, or case of the host do not count."""

    def normal(url: str) -> tuple[str, str, str]:
        parts = urlsplit(redact_url(url).replace("***@", "", 1))
        return parts.scheme.lower(), parts.netloc.lower(), re.sub(r"(\.git)?/*$", "", parts.path.rstrip("/"))

    return normal(one) == normal(other)


def environment(
    base: t.Mapping[str, str],
    *,
    repo: str,
    token: str,
    username: str,
    home: str,
    timeout: int,
    ca_bundle: str = "",
) -> dict[str, str]:
    """The environment of every git process.

    The token reaches git through a credential helper that reads it from this environment: it stands in no argument,
    no address, no file and no log, and git asks the helper for this host alone.
    """
    env = {
        key: value
        for key, value in base.items()
        if not (key.startswith("GIT_") and not _KEPT_GIT_VARIABLES.fullmatch(key))
        and key not in ("SSH_ASKPASS", "XDG_CONFIG_HOME", "LANGUAGE", "LFS_SKIP_SMUDGE")
    }
    env.update(
        LC_ALL="C",
        HOME=home,
        GIT_CONFIG_GLOBAL=os.devnull,
        GIT_TERMINAL_PROMPT="0",
        GIT_LFS_SKIP_SMUDGE="1",
        GIT_LFS_FORCE_PROGRESS="1",
        GIT_ALLOW_PROTOCOL=":".join(_SCHEMES),
    )
    env.setdefault("GIT_SSH_COMMAND", f"ssh -o BatchMode=yes -o ConnectTimeout={timeout}")
    if ca_bundle:
        env["GIT_SSL_CAINFO"] = ca_bundle
    settings = [
        ("core.hooksPath", os.devnull),
        ("core.fsmonitor", "false"),
        ("core.askPass", ""),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("init.defaultBranch", "main"),
        ("http.lowSpeedLimit", "1"),
        ("http.lowSpeedTime", str(timeout)),
        ("lfs.activitytimeout", str(max(5, timeout // 3))),
        ("lfs.dialtimeout", str(max(5, timeout // 3))),
        ("lfs.tlstimeout", str(max(5, timeout // 3))),
        ("lfs.transfer.maxretries", str(TRANSFER_RETRIES)),
        ("lfs.fetchinclude", ""),
        ("lfs.fetchexclude", ""),
        ("lfs.fetchrecentalways", "false"),
        ("lfs.storage", "lfs"),
        ("credential.helper", ""),
    ]
    parts = urlsplit(repo)
    if token and parts.scheme in ("http", "https"):
        env.update(VICUNA_FLEET_GIT_USERNAME=username, VICUNA_FLEET_GIT_TOKEN=token)
        helper = (
            '!f() { test "$1" = get || exit 0; '
            'printf "username=%s\\npassword=%s\\n" "$VICUNA_FLEET_GIT_USERNAME" "$VICUNA_FLEET_GIT_TOKEN"; }; f'
        )
        settings.append((f"credential.{parts.scheme}://{parts.netloc}.helper", helper))
    env["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings):
        env[f"GIT_CONFIG_KEY_{number}"] = key
        env[f"GIT_CONFIG_VALUE_{number}"] = value
    return env


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
    """What the kernel changes when a file's content may have changed: equal stamps need no second reading."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


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


def system_ca_bundle(env: t.Mapping[str, str]) -> str:
    paths = [env.get("GIT_SSL_CAINFO", ""), env.get("SSL_CERT_FILE", ""), *_SYSTEM_BUNDLES]
    paths.append(ssl.get_default_verify_paths().cafile or "")
    return next((path for path in paths if path and Path(path).is_file()), "")


# --- processes ---------------------------------------------------------------------------------------------------


class Git:
    """Runs git in one directory, kills it when it has been silent for too long, and explains its failures."""

    def __init__(
        self,
        executable: str,
        directory: Path,
        env: dict[str, str],
        explain: t.Callable[[str], Problem],
        *,
        timeout: int,
        secret: str = "",
    ) -> None:
        self.executable = executable
        self.directory = directory
        self.env = env
        self.explain = explain
        self.timeout = timeout
        self.secret = secret
        self.inherited: tuple[int, ...] = ()

    def __call__(self, *arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> bytes:
        """Run one git command; the answer is its standard output."""
        code, output, said = self.run(*arguments, stdin=stdin, cwd=cwd)
        if code != 0:
            text = self.redact(said.decode("utf-8", "replace") or output.decode("utf-8", "replace"))
            raise GitLfsError(self.explain(text), text[-4000:])
        return output

    def run(self, *arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> tuple[int, bytes, bytes]:
        process = subprocess.Popen(
            [self.executable, *arguments],
            cwd=cwd or self.directory,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=self.inherited,
        )
        heard = [time.monotonic()]
        buffers: tuple[list[bytes], list[bytes]] = ([], [])

        def read(stream: t.IO[bytes], buffer: list[bytes]) -> None:
            while True:
                chunk = os.read(stream.fileno(), 65536)
                if not chunk:
                    return
                buffer.append(chunk)
                heard[0] = time.monotonic()

        def write(stream: t.IO[bytes]) -> None:
            with contextlib.suppress(BrokenPipeError), stream:
                stream.write(stdin)

        streams = zip((process.stdout, process.stderr), buffers)
        threads = [threading.Thread(target=read, args=pair, daemon=True) for pair in streams]
        threads.append(threading.Thread(target=write, args=(process.stdin,), daemon=True))
        for thread in threads:
            thread.start()
        silent = False
        try:
            while True:
                try:
                    process.wait(timeout=1.0)
                    break
                except subprocess.TimeoutExpired:
                    silent = time.monotonic() - heard[0] > self.timeout
                    if silent:
                        break
        finally:
            if process.poll() is None:
                self._stop(process)
        for thread in threads:
            thread.join(timeout=5)
        said = b"".join(buffers[1])
        if silent:
            return 124, b"", said + f"\nfatal: no data for {self.timeout} s".encode()
        return process.returncode, b"".join(buffers[0]), said

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
                return

    def redact(self, text: str) -> str:
        return text.replace(self.secret, "********") if self.secret else text


def git_is_working_in(directory: Path) -> bool:
    """Whether some git process, ours or a person's, has this directory as its working directory."""
    root = str(directory)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text().strip()
            if name.startswith("git") and (str((process / "cwd").readlink()) + "/").startswith(root + "/"):
                return True
        except OSError:
            continue
    return False


# --- the clone ---------------------------------------------------------------------------------------------------


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


@dataclass
class Outcome:
    """What was done."""

    changed: bool = False
    before: str = ""
    revision: str = ""
    paths: list[str] = field(default_factory=list)
    lfs_objects: int = 0
    bytes: int = 0
    downloaded_bytes: int = 0
    verified: int = 0
    repaired: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Survey:
    """What is to do for the files of one commit."""

    good: dict[str, Entry] = field(default_factory=dict)
    to_mode: list[Entry] = field(default_factory=list)
    to_link: list[Entry] = field(default_factory=list)
    to_fetch: list[Entry] = field(default_factory=list)
    to_write: list[Entry] = field(default_factory=list)
    damaged_objects: list[Path] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    verified: int = 0

    @property
    def work(self) -> bool:
        return bool(self.to_mode or self.to_link or self.to_fetch or self.to_write)


class State:
    """``.git/vicuna-fleet.json``: what was put here, and the stamps of what was verified."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = False
        self.data: dict[str, t.Any] = {"commit": "", "files": {}}
        with contextlib.suppress(OSError, ValueError):
            data = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(data, dict) and data.get("version") == STATE_VERSION and isinstance(data.get("files"), dict):
                self.data = data
                self.known = True

    @property
    def commit(self) -> str:
        return str(self.data.get("commit", ""))

    @property
    def files(self) -> dict[str, dict[str, t.Any]]:
        return t.cast("dict[str, dict[str, t.Any]]", self.data["files"])

    def asked(self, request: Request) -> bool:
        """Whether it was written for the same repository and the same selection of files."""
        return same_repository(str(self.data.get("repo", "")), request.repo) and (
            self.data.get("include"),
            self.data.get("exclude"),
        ) == (list(request.include), list(request.exclude))

    def save(self, request: Request, commit: str, files: dict[str, dict[str, t.Any]]) -> None:
        self.data = {
            "version": STATE_VERSION,
            "repo": request.repo,
            "commit": commit,
            "include": list(request.include),
            "exclude": list(request.exclude),
            "files": files,
        }
        self.known = True
        text = json.dumps(self.data, indent=1, sort_keys=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self.path)


class Clone:
    """A directory that holds one commit of a git-LFS repository."""

    def __init__(
        self, request: Request, *, check_mode: bool = False, base_env: t.Mapping[str, str] | None = None
    ) -> None:
        self.request = request
        self.check_mode = check_mode
        self.base_env = dict(os.environ if base_env is None else base_env)
        self.dest = Path(os.path.realpath(request.dest))
        self.git_dir = self.dest / ".git"
        self.state = State(self.git_dir / STATE_FILE)
        self.outcome = Outcome(before=self.state.commit)

    # -- entry point

    def converge(self) -> Outcome:
        """Make the directory hold the revision, or say what would change."""
        request = self.request
        problem = check_repo(request.repo)
        if problem:
            raise GitLfsError(problem)
        if self._holds_all(request.revision) and request.verify == "changed":
            return self._summary(request.revision, self.state.files)
        self._refuse_foreign()
        executable = shutil.which("git", path=self.base_env.get("PATH"))
        if self.check_mode and not executable:
            self.outcome.changed = True
            self.outcome.warnings.append(
                "git is not on this host yet: neither repository nor revision could be looked up"
            )
            return self.outcome
        with tempfile.TemporaryDirectory(prefix="vicuna-fleet-") as home:
            git = self._git(executable, Path(home))
            if self.check_mode:
                return self._preview(git)
            self.dest.mkdir(parents=True, exist_ok=True)
            self.git_dir.mkdir(exist_ok=True)
            with self._locked() as descriptor:
                git.inherited = (descriptor,)
                return self._apply(git)

    # -- the two modes

    def _apply(self, git: Git) -> Outcome:
        request, outcome = self.request, self.outcome
        self.state = State(self.state.path)  # the run that held the lock may have written it
        outcome.before = self.state.commit
        self._clean_after_killed_git()
        self._initialise(git)
        outcome.before = outcome.before or self._head(git)
        known_before = self._known_files(git)
        commit = self._fetch_commit(git)
        entries = self._entries(git, commit)
        survey = self._survey(entries)
        self._refuse_overwriting(survey, known_before)
        moved = self._head(git) != commit
        if moved:
            git("read-tree", commit)  # git-lfs reads .lfsconfig from the index where the tree has none yet
        for path in survey.damaged_objects:
            path.unlink()
        downloaded = self._fetch_objects(git, commit, survey)
        # Nothing in the tree has changed so far. From here on each file is replaced in one step.
        planned = {entry.path: {"oid": entry.oid} for entry in entries}
        self.state.save(
            request, self.state.commit, {**planned, **{k: v for k, v in known_before.items() if k not in planned}}
        )
        for entry in survey.to_link + survey.to_fetch:
            self._link(entry)
        self._write_blobs(git, survey.to_write)
        for entry in survey.to_mode:
            (self.dest / entry.path).chmod(entry.permissions)
        for entry in survey.good.values():
            self._store_once(entry)
        removed = self._remove_stale(known_before, {entry.path for entry in entries})
        if moved:
            git("update-ref", "--no-deref", "HEAD", commit)
        if outcome.before and outcome.before != commit:
            self._forget_objects({e.oid for e in entries} | {str(v.get("oid")) for v in known_before.values()})
        files = {e.path: {"oid": e.oid, "stamp": stamp((self.dest / e.path).lstat())} for e in entries}
        self.state.save(request, commit, files)
        outcome.changed = moved or survey.work or bool(removed)
        outcome.downloaded_bytes = downloaded
        outcome.verified = survey.verified
        outcome.repaired = sorted(survey.damaged)
        return self._summary(commit, files, entries)

    def _preview(self, git: Git) -> Outcome:
        """Check mode: read only, and ask the server no more than for its refs."""
        outcome = self.outcome
        present = (self.git_dir / "HEAD").is_file()
        if present:
            self._refuse_other_repository(git)
        outcome.before = outcome.before or (self._head(git) if present else "")
        revision = self.request.revision
        if is_commit_id(revision) and present and self._has_commit(git, revision):
            commit = revision
        else:
            commit = self._resolve(git)
            present = present and self._has_commit(git, commit)
        outcome.revision = commit
        if not present:
            outcome.changed = True
            return outcome
        entries = self._entries(git, commit)
        survey = self._survey(entries)
        stale = set(self._known_files(git)) - {entry.path for entry in entries}
        outcome.changed = outcome.before != commit or survey.work or bool(stale)
        outcome.verified = survey.verified
        outcome.repaired = sorted(survey.damaged)
        return self._summary(commit, {entry.path: {} for entry in entries}, entries)

    def _summary(self, commit: str, files: t.Mapping[str, t.Any], entries: list[Entry] | None = None) -> Outcome:
        outcome = self.outcome
        outcome.revision = commit
        outcome.paths = sorted(files)
        if entries is None:
            outcome.lfs_objects = len({v["oid"] for v in files.values() if len(v["oid"]) == 64})
            outcome.bytes = sum(v["stamp"][0] for v in files.values())
        else:
            outcome.lfs_objects = len({entry.oid for entry in entries if entry.pointer})
            outcome.bytes = sum(entry.size for entry in entries)
        return outcome

    # -- what is there

    def _holds_all(self, commit: str) -> bool:
        """Whether the state file proves that nothing has changed since everything was verified."""
        state = self.state
        if not (state.known and state.commit == commit and state.asked(self.request)):
            return False
        return all(self._unchanged(path, record) for path, record in state.files.items())

    def _unchanged(self, path: str, record: dict[str, t.Any]) -> bool:
        status = lstat(self.dest / path)
        return status is not None and stat.S_ISREG(status.st_mode) and record.get("stamp") == stamp(status)

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
        raise GitLfsError(
            Problem(
                "in_the_way",
                f"{path} exists, was not put there from the repository, and differs from its content.",
                f"no file of your own where revision {self.request.revision} has one.",
                "move it away.",
            )
        )

    def _known_files(self, git: Git) -> dict[str, dict[str, t.Any]]:
        """Files that came from the repository: by the state file, or, in a clone made by hand, by its HEAD."""
        if self.state.known:
            return dict(self.state.files)
        head = self._head(git)
        if not head:
            return {}
        return {entry.path: {"oid": entry.oid} for entry in self._with_pointers(git, self._tree(git, head))}

    def _survey(self, entries: list[Entry]) -> Survey:
        """Look at every file, reading those whose stamp does not vouch for them."""
        survey = Survey()
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            for entry, (verdict, read) in zip(entries, pool.map(self._look_at, entries)):
                survey.verified += read
                path = self.dest / entry.path
                if verdict == "good":
                    survey.good[entry.path] = entry
                    if stat.S_IMODE(path.lstat().st_mode) != entry.permissions:
                        survey.to_mode.append(entry)
                    continue
                if entry.path in self.state.files and self.state.commit and self._was(entry) and lstat(path):
                    survey.damaged.append(entry.path)
                if not entry.pointer:
                    survey.to_write.append(entry)
                elif verdict == "link":
                    survey.to_link.append(entry)
                else:
                    survey.to_fetch.append(entry)
                    stored = self._object(entry)
                    if lstat(stored) is not None and stored not in survey.damaged_objects:
                        survey.damaged_objects.append(stored)
        return survey

    def _was(self, entry: Entry) -> bool:
        return bool(self.state.files[entry.path].get("oid") == entry.oid)

    def _look_at(self, entry: Entry) -> tuple[str, int]:
        """One file: good, to be linked from the object store, or not to be had here; and how many files were read."""
        path = self.dest / entry.path
        record = self.state.files.get(entry.path, {})
        status = lstat(path)
        if self.request.verify == "changed" and record.get("oid") == entry.oid and self._unchanged(entry.path, record):
            return "good", 0
        if (
            status is not None
            and status.st_size == entry.size
            and stat.S_ISREG(status.st_mode)
            and content_is(path, entry)
        ):
            return "good", 1
        read = int(status is not None)
        if not entry.pointer:
            return "missing", read
        stored = self._object(entry)
        kept = lstat(stored)
        if kept is None or (status is not None and os.path.samestat(kept, status)):
            return "missing", read
        return ("link" if content_is(stored, entry) else "missing"), read + 1

    def _object(self, entry: Entry) -> Path:
        return self.git_dir / "lfs" / "objects" / entry.oid[:2] / entry.oid[2:4] / entry.oid

    # -- git

    def _git(self, executable: str | None, home: Path) -> Git:
        request = self.request
        missing = "run the role vicuna.fleet.tools first, or install the package git{}."
        if not executable:
            raise GitLfsError(
                Problem("git_missing", "git is not on this host.", "git and git-lfs.", missing.format(""))
            )
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
            bundle = str(home / "ca.pem")
            with Path(bundle).open("wb") as merged:
                for source in (system_ca_bundle(self.base_env), request.ca_path):
                    if source:
                        merged.write(Path(source).read_bytes() + b"\n")
        env = environment(
            self.base_env,
            repo=request.repo,
            token=request.token,
            username=request.username,
            home=str(home),
            timeout=request.timeout,
            ca_bundle=bundle,
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
        if git.run("lfs", "version", cwd=home)[0] != 0 and not self.check_mode:
            raise GitLfsError(explain("git: 'lfs' is not a git command"))
        return git

    def _initialise(self, git: Git) -> None:
        if not all((self.git_dir / name).exists() for name in ("HEAD", "config", "objects", "refs")):
            git("init", "--quiet", "--template=", str(self.dest))
        if self._refuse_other_repository(git):
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

    def _fetch_commit(self, git: Git) -> str:
        revision = self.request.revision
        commit = revision if is_commit_id(revision) else self._resolve(git)
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
        return parse_ls_tree(git("ls-tree", "-r", "-z", "-l", "--full-tree", commit))

    def _with_pointers(self, git: Git, entries: list[Entry]) -> list[Entry]:
        small = sorted({entry.blob for entry in entries if entry.blob_size <= POINTER_LIMIT})
        pointers = {blob: parse_pointer(content) for blob, content in self._blobs(git, small)}
        return [Entry(e.path, e.mode, e.blob, e.blob_size, pointers.get(e.blob)) for e in entries]

    def _entries(self, git: Git, commit: str) -> list[Entry]:
        """The files that are wanted: everything but the large files that include and exclude leave out."""
        request = self.request
        entries = [
            entry
            for entry in self._with_pointers(git, self._tree(git, commit))
            if entry.pointer is None or selected(entry.path, request.include, request.exclude)
        ]
        unsafe = unsafe_paths(entries)
        if unsafe:
            raise GitLfsError(
                Problem(
                    "unsafe_path",
                    f"{request.repo} holds links or names that reach out of the directory ({', '.join(unsafe[:5])}).",
                    "plain files.",
                    "correct model_repo or model_revision.",
                )
            )
        return entries

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

    def _fetch_objects(self, git: Git, commit: str, survey: Survey) -> int:
        """Let git-lfs fetch what is missing, and check what came."""
        wanted = {entry.oid: entry for entry in survey.to_fetch}
        if not wanted:
            return 0
        needed = sum(entry.size for entry in wanted.values())
        self._require_space(needed, {entry.oid for entry in survey.to_link} | set(wanted))
        include = ",".join(fetch_pattern(entry.path) for entry in wanted.values())
        arguments = ["--include", include] if len(include) < ARGUMENT_LIMIT else []
        git("lfs", "fetch", *arguments, "--exclude", "", "origin", commit)
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            verdicts = pool.map(lambda entry: content_is(self._object(entry), entry), wanted.values())
            wrong = [entry for entry, good in zip(wanted.values(), verdicts) if not good]
        survey.verified += len(wanted) - len(wrong)
        if wrong:
            for entry in wrong:
                self._object(entry).unlink(missing_ok=True)
            names = ", ".join(sorted(entry.path for entry in wrong)[:5])
            raise GitLfsError(git.explain(f"error: object not found, or its sha256 differs: {names}"))
        return needed

    def _require_space(self, needed: int, wanted: set[str]) -> None:
        """Refuse before the first byte what cannot end well; objects of older revisions give way first."""
        if self._free() < needed + DISK_MARGIN:
            self._forget_objects(wanted)
        free = self._free()
        if free < needed + DISK_MARGIN:
            raise GitLfsError(
                Problem(
                    "disk_full",
                    f"{needed / 1e9:.2f} GB are to be fetched, and {free / 1e9:.2f} GB are free at {self.dest}.",
                    f"{(needed + DISK_MARGIN) / 1e9:.2f} GB free.",
                    "free space there, choose another model_root, or leave files out with model_exclude.",
                )
            )

    def _free(self) -> int:
        status = os.statvfs(self.dest)
        return status.f_bavail * status.f_frsize

    # -- the tree

    def _parent(self, path: Path) -> Path:
        for directory in reversed(path.relative_to(self.dest).parents):
            (self.dest / directory).mkdir(mode=0o755, exist_ok=True)
        return path.parent

    def _link(self, entry: Entry) -> None:
        """Put an object into the tree as a hard link, or as a copy where the file system has no links."""
        target, stored = self.dest / entry.path, self._object(entry)
        temporary = self._parent(target) / f".{target.name}.vicuna-fleet"
        temporary.unlink(missing_ok=True)
        stored.chmod(entry.permissions)
        try:
            os.link(stored, temporary)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
                raise
            self._require_space(entry.size, {entry.oid})
            shutil.copyfile(stored, temporary)
        temporary.replace(target)
        temporary.unlink(missing_ok=True)  # rename does nothing when both names are one file already

    def _store_once(self, entry: Entry) -> None:
        """Let the object store share a good file of the tree, so that the disk holds it once (a clone made by hand)."""
        if not entry.pointer:
            return
        path, stored = self.dest / entry.path, self._object(entry)
        if (kept := lstat(stored)) is not None and os.path.samestat(kept, path.lstat()):
            return
        temporary = stored.with_name(f"{entry.oid}.vicuna-fleet")
        with contextlib.suppress(OSError):
            stored.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            os.link(path, temporary)
            temporary.replace(stored)

    def _write_blobs(self, git: Git, entries: list[Entry]) -> None:
        contents = dict(self._blobs(git, sorted({entry.blob for entry in entries})))
        for entry in entries:
            target = self.dest / entry.path
            temporary = self._parent(target) / f".{target.name}.vicuna-fleet"
            temporary.write_bytes(contents[entry.blob])
            temporary.chmod(entry.permissions)
            temporary.replace(target)

    def _remove_stale(self, known: t.Mapping[str, dict[str, t.Any]], wanted: set[str]) -> list[str]:
        """Remove what an earlier revision brought and this one has not; a file that a person changed stays."""
        removed = []
        for name, record in known.items():
            path = self.dest / name
            status = lstat(path)
            if name in wanted or status is None or not stat.S_ISREG(status.st_mode):
                continue
            oid = str(record.get("oid", ""))
            entry = Entry(name, "100644", oid, status.st_size, Pointer(oid, status.st_size) if len(oid) == 64 else None)
            if not (self._unchanged(name, record) or content_is(path, entry) or self._is_pointer_to(path, oid)):
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

    @staticmethod
    def _is_pointer_to(path: Path, oid: str) -> bool:
        if path.stat().st_size > POINTER_LIMIT:
            return False
        pointer = parse_pointer(path.read_bytes())
        return pointer is not None and pointer.oid == oid

    def _forget_objects(self, wanted: set[str]) -> None:
        """Drop stored objects of other revisions that no file of the tree shares."""
        for path in (self.git_dir / "lfs" / "objects").glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
            if path.name not in wanted and path.lstat().st_nlink == 1:
                path.unlink()

    # -- locks and leftovers

    @contextlib.contextmanager
    def _locked(self) -> t.Iterator[int]:
        """One run at a time. git inherits the descriptor: an orphan of a killed run still holds the lock."""
        descriptor = os.open(self.git_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            deadline = time.monotonic() + self.request.timeout
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise GitLfsError(
                            Problem(
                                "locked",
                                f"another run has been fetching into {self.dest} for over {self.request.timeout} s.",
                                "one run at a time.",
                                f"wait for it and run again; 'fuser {self.git_dir / LOCK_FILE}' names it.",
                            )
                        ) from None
                    time.sleep(0.5)
            yield descriptor
        finally:
            os.close(descriptor)

    def _clean_after_killed_git(self) -> None:
        """Remove what a killed run left: partial downloads, which git-lfs never resumes, and lock files."""
        if git_is_working_in(self.dest):
            return
        for directory in ("lfs/tmp", "lfs/incomplete"):
            shutil.rmtree(self.git_dir / directory, ignore_errors=True)
        leftovers = [*self.git_dir.glob("*.lock"), *(self.git_dir / "refs").glob("**/*.lock")]
        leftovers += (self.git_dir / "objects").glob("pack/tmp_*")
        for path in leftovers:
            if path.name != LOCK_FILE:
                path.unlink(missing_ok=True)
