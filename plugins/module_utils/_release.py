# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host runs and what it ran before: the record of its releases, and a copy of each one's files.

Everything is written in an order that a kill at any moment leaves readable: the copy, then the record, then the files
that the services read; each of them beside its place, and moved there in one step.

Private to the collection.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import shutil
import stat
import typing as t
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.vicuna.fleet.plugins.module_utils._host import processes

SCHEMA = 1
EXPECTED = f"a record of releases, schema {SCHEMA}."
DIGITS = 12
TEMPORARY = ".vicuna-release"
# Weights, tokenizer, template and settings: what a worker reads of a model's directory.
MODEL_SUFFIXES = (".bin", ".jinja", ".json", ".model", ".safetensors", ".txt")

State = dict[str, t.Any]


class ReleaseError(Exception):
    """Says what was found, what was expected, and what mends it."""

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        super().__init__(f"{found} Expected: {expected} {remedy}")
        self.found = found


class DamagedRecord(ReleaseError):
    """A record that tells nothing. The copies of the releases do, see ``rebuild``."""


@dataclass(frozen=True)
class File:
    """A file of a release. A relative path is one inside the compose project."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    # Credentials: shown to nobody, no part of what makes a release another one, and not taken back by a rollback.
    secret: bool = False
    # The services, or the systemd unit, whose processes read it at their start. Compose itself compares its own files.
    read_by: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def entry(self) -> dict[str, t.Any]:
        return {
            "path": self.path,
            "mode": f"{self.mode:04o}",
            "owner": self.owner,
            "group": self.group,
            "secret": self.secret,
            "read_by": list(self.read_by),
            "sha256": self.sha256,
        }


# --- what makes a release ----------------------------------------------------------------------------------------


def settings_hash(files: t.Iterable[File]) -> str:
    """One hash over all files but the credentials."""
    entries = sorted((file.entry() for file in files if not file.secret), key=lambda entry: str(entry["path"]))
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def release_id(files: t.Iterable[File], images: t.Mapping[str, str], commit: str) -> str:
    """The same files, images and model have the same name on every host."""
    parts = [settings_hash(files), dict(images), commit]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGITS]


# --- the record --------------------------------------------------------------------------------------------------


def empty() -> State:
    return {"schema": SCHEMA, "current": None, "pending": None, "good": [], "releases": {}}


def damaged_record(found: str) -> DamagedRecord:
    """The error of a record that tells nothing, of whatever kind."""
    remedy = "Run the playbook site, which keeps it beside and begins another one of what the host can tell."
    return DamagedRecord(found, EXPECTED, remedy)


def load(data: bytes, path: str) -> State:
    """The record. One of a newer schema is refused, since a guess of ours must not replace it."""
    try:
        state = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise damaged_record(f"{path} is no JSON ({error}).") from None
    if isinstance(state, dict) and isinstance(state.get("schema"), int) and state["schema"] > SCHEMA:
        raise ReleaseError(
            f"{path} has schema {state['schema']}.", EXPECTED, "Nothing was changed. Update the collection."
        )
    problem = _problem(state)
    if problem:
        raise damaged_record(f"{path} {problem}.")
    return dict(state)


def _problem(state: t.Any) -> str:
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        return "is no record of releases"
    releases = state.get("releases")
    if not isinstance(releases, dict) or not all(isinstance(item, dict) for item in releases.values()):
        return "holds no releases"
    if not all(_is_id(name) and item.get("id") == name for name, item in releases.items()):
        return "holds a release under another one's name"
    damaged = [name for name, item in releases.items() if not _is_record(item)]
    if damaged:
        return f"holds a release that is none ({', '.join(damaged)})"
    good = state.get("good")
    if not isinstance(good, list) or not all(isinstance(name, str) and name in releases for name in good):
        return "calls a release good that it does not hold"
    for key in ("current", "pending"):
        if key not in state or not (state[key] is None or (isinstance(state[key], str) and state[key] in releases)):
            return f"has a {key} release that it does not hold"
    return ""


def _is_record(item: t.Mapping[str, t.Any]) -> bool:
    """Whether this is what the record says of one release. What it does not say is None."""
    return (
        _is_id(str(item.get("id")))
        and all(isinstance(item.get(key) or {}, dict) for key in ("model", "images", "image_ids"))
        and all(isinstance(item.get(key) or "", str) for key in ("created", "verified", "failed", "reason"))
        and isinstance(item.get("tokens_per_second") or 0, (int, float))
    )


def rebuild(records: t.Iterable[t.Mapping[str, t.Any]], in_place: str) -> State:
    """A record of what the copies of releases say of themselves. What is in place is to be proven again."""
    state = empty()
    state["releases"] = {str(item["id"]): dict(item) for item in records}
    verified = sorted(
        ((str(item["verified"]), name) for name, item in state["releases"].items() if item.get("verified")),
        reverse=True,
    )
    state["good"] = [name for _when, name in verified]
    state["current"] = next(iter(state["good"]), None)
    state["pending"] = in_place or None
    return state


def _is_id(name: str) -> bool:
    # It becomes the name of a directory that is removed some day.
    return len(name) == DIGITS and all(digit in "0123456789abcdef" for digit in name)


def dump(state: State) -> str:
    return json.dumps(state, indent=2, sort_keys=True) + "\n"


def deployed(state: State) -> str:
    """The release whose files are in place, or were about to be put there."""
    return str(state["pending"] or state["current"] or "")


def previous(state: State, than: str) -> str:
    """The newest good release but one; empty where there is none."""
    return next((str(name) for name in state["good"] if name != than), "")


def last_rate(state: State, name: str) -> float | None:
    """The newest figure that the host has reached: that of the release itself, else of the last good one."""
    for item in ([name] if name in state["good"] else []) + state["good"]:
        rate = state["releases"][item].get("tokens_per_second")
        if rate:
            return float(rate)
    return None


def rate_before(state: State, name: str) -> float | None:
    """What the rate of a release is held against: nothing, where the host has served this one well before."""
    return None if name in (state["current"], *state["good"]) else last_rate(state, name)


def _copy(state: State) -> State:
    return {
        **state,
        "good": list(state["good"]),
        "releases": {name: dict(item) for name, item in state["releases"].items()},
    }


def pend(state: State, record: t.Mapping[str, t.Any], touched: bool, now: str) -> State:
    """A release is put in place. Where it is the current one and nothing is touched, there is nothing to prove."""
    name = str(record["id"])
    after = _copy(state)
    known = after["releases"].get(name, {"created": now, "verified": None, "tokens_per_second": None})
    after["releases"][name] = {
        **known,
        **record,
        "image_ids": record.get("image_ids") or known.get("image_ids") or {},
        "failed": None,
        "reason": "",
    }
    if state["current"] == name and state["pending"] is None and not touched:
        return after
    after["pending"] = name
    return after


def verify(state: State, rate: float | None, now: str) -> State:
    after = _copy(state)
    name = state["pending"]
    if name is None:
        return after
    after.update(current=name, pending=None, good=[name, *(item for item in state["good"] if item != name)])
    record = after["releases"][name]
    record.update(verified=now, failed=None, reason="")
    if rate:
        # Of the same release: what is slower than before was other load.
        record["tokens_per_second"] = max(rate, record["tokens_per_second"] or 0)
    return after


def fail(state: State, reason: str, now: str) -> State:
    """It stays pending: its files are in place until something else is."""
    after = _copy(state)
    record = after["releases"].get(state["pending"], {})
    if record and not (record.get("failed") and record.get("reason", "") == reason):
        record.update(failed=now, reason=reason)
    return after


def target(state: State, wanted: str) -> str:
    """The release to go back to."""
    known = ", ".join(state["good"]) or "none"
    if wanted:
        if wanted in state["good"]:
            return wanted
        raise ReleaseError(
            f"This host has no good release {wanted}.",
            f"one of those that gave a verified answer here: {known}.",
            "Nothing was changed. Set fastchat_rollback_to to one of them, or leave it empty.",
        )
    found = previous(state, deployed(state))
    if found:
        return found
    raise ReleaseError(
        f"This host has no good release but the one in place ({deployed(state) or 'none'}).",
        f"an earlier one that gave a verified answer (good: {known}).",
        "Nothing was changed. Deploy the wanted model and images with the playbook site.",
    )


def prune(state: State, keep: int) -> State:
    """The newest good ones stay, what is in place, and the last that failed."""
    after = _copy(state)
    after["good"] = after["good"][: max(keep, 1)]
    failed = sorted((str(item["failed"]), name) for name, item in after["releases"].items() if item.get("failed"))
    staying = {after["current"], after["pending"], *after["good"], *(name for _when, name in failed[-1:])}
    after["releases"] = {name: item for name, item in after["releases"].items() if name in staying}
    return after


# --- files -------------------------------------------------------------------------------------------------------


def _is_place(path: str) -> bool:
    return bool(path) and path == os.path.normpath(path) and not path.startswith("../") and path not in (".", "..")


def place(path: str, directory: Path) -> Path:
    """Where a file of a release lies."""
    if not _is_place(path):
        raise ReleaseError(
            f"A release has the file {path!r}.", "an absolute path, or one inside the project.", "Correct the path."
        )
    return directory / path


def _is_entry(entry: t.Any) -> bool:
    """Whether this is what File.entry says of a file. read_by is missing in the copies of version 0.1."""
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in ("path", "mode", "owner", "group", "sha256"))
        and _is_place(entry["path"])
        and set(entry["mode"]) <= set("01234567")
        and isinstance(entry.get("secret"), bool)
        and isinstance(entry.get("read_by", []), list)
    )


def user_id(name: str) -> int:
    return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid


def group_id(name: str) -> int:
    return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid


def difference(path: Path, file: File) -> list[str]:
    """In what a file on the host differs from a release's: absent, type, content, mode, owner, group."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ["absent"]
    if not stat.S_ISREG(status.st_mode):
        return ["type"]
    found = []
    if status.st_size != len(file.content) or path.read_bytes() != file.content:
        found.append("content")
    if stat.S_IMODE(status.st_mode) != file.mode:
        found.append("mode")
    if status.st_uid != user_id(file.owner):
        found.append("owner")
    if status.st_gid != group_id(file.group):
        found.append("group")
    return found


def put(path: Path, content: bytes, mode: int, uid: int | None = None, gid: int | None = None) -> None:
    """Write a file in one step. The name beside it is always the same: what a kill leaves is used again."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o600)
        stream.write(content)
        stream.flush()
        if uid is not None and gid is not None:
            os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    temporary.replace(path)
    sync(path.parent)


def sync(directory: Path) -> None:
    """A loss of power must not bring a name back that was replaced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- the copy of a release's files -------------------------------------------------------------------------------


class Snapshots:
    """Copies of releases' files, one directory each; nobody but root may read them, for credentials are in them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, name: str) -> Path:
        return self.root / name

    def _copy_of(self, name: str, path: str) -> Path:
        inner = Path("host", path.lstrip("/")) if path.startswith("/") else Path("project", path)
        return self.directory(name) / inner

    def _read(self, name: str) -> dict[str, t.Any]:
        try:
            found = json.loads((self.directory(name) / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def manifest(self, name: str) -> list[dict[str, t.Any]] | None:
        """The files of a release, without their contents; None where there is no whole copy."""
        entries = self._read(name).get("files")
        return entries if isinstance(entries, list) and all(_is_entry(entry) for entry in entries) else None

    def records(self) -> list[dict[str, t.Any]]:
        """What the copies that are whole say of themselves."""
        found = []
        for name in self.names():
            record = self._read(name).get("release")
            if isinstance(record, dict) and record.get("id") == name and _is_record(record):
                with contextlib.suppress(ReleaseError):
                    self.restore(name)
                    found.append(record)
        return found

    def in_place(self, directory: Path) -> str:
        """The release whose files are those on the host, whatever its credentials are; empty where none is."""
        for record in sorted(self.records(), key=lambda item: str(item.get("created")), reverse=True):
            files = [file for file in self.restore(record["id"]) if not file.secret]
            with contextlib.suppress(KeyError):
                if files and not any(difference(place(file.path, directory), file) for file in files):
                    return str(record["id"])
        return ""

    def describe(self, name: str, record: t.Mapping[str, t.Any]) -> None:
        """Keeps with a copy what the record says of the release, for a host whose record is damaged."""
        found = self._read(name)
        if found.get("files") is not None and found.get("release") != record:
            self._write(name, {**found, "release": dict(record)})

    def _write(self, name: str, manifest: t.Mapping[str, t.Any]) -> None:
        put(self.directory(name) / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode(), 0o600)

    def holds(self, name: str, files: t.Sequence[File]) -> bool:
        entries = self.manifest(name)
        if entries != [file.entry() for file in files]:
            return False
        return all(self._bytes(name, file.path) == file.content for file in files)

    def _bytes(self, name: str, path: str) -> bytes | None:
        try:
            return self._copy_of(name, path).read_bytes()
        except OSError:
            return None

    def save(self, name: str, files: t.Sequence[File]) -> None:
        """The list of the files comes last: a copy that is not whole has none, or one whose hashes do not fit."""
        top = self.directory(name)
        for file in files:
            copy = self._copy_of(name, file.path)
            self._make(copy.parent)
            if self._bytes(name, file.path) != file.content:
                put(copy, file.content, 0o600)
        self._make(top)
        self._write(name, {**self._read(name), "files": [file.entry() for file in files]})

    def _make(self, directory: Path) -> None:
        missing = []
        while directory != self.root.parent and not directory.is_dir():
            missing.append(directory)
            directory = directory.parent
        for path in reversed(missing):
            path.mkdir(mode=0o700)
            sync(path.parent)

    def restore(self, name: str) -> list[File]:
        """The files of a release as they were; refuses a copy that is damaged."""
        entries = self.manifest(name)
        damaged = []
        files = []
        for entry in entries or []:
            content = self._bytes(name, str(entry["path"]))
            if content is None or hashlib.sha256(content).hexdigest() != entry.get("sha256"):
                damaged.append(str(entry["path"]))
                continue
            files.append(
                File(
                    str(entry["path"]),
                    content,
                    int(str(entry["mode"]), 8),
                    str(entry["owner"]),
                    str(entry["group"]),
                    bool(entry["secret"]),
                    tuple(str(reader) for reader in entry.get("read_by", [])),
                )
            )
        if entries is None or damaged:
            what = ", ".join(damaged) or "no list of its files"
            raise ReleaseError(
                f"The copy of release {name} in {self.directory(name)} is damaged ({what}).",
                "every file as its list says.",
                "Nothing was changed. Deploy the wanted model and images with the playbook site.",
            )
        return files

    def names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(item.name for item in os.scandir(self.root) if _is_id(item.name))
        return []

    def drop(self, name: str) -> None:
        shutil.rmtree(self.directory(name), ignore_errors=True)


def keep_secrets(files: t.Iterable[File], directory: Path) -> list[File]:
    """A rollback's files: credentials stay as they are now, for a key may have been revoked since."""
    kept = []
    for file in files:
        if file.secret:
            with contextlib.suppress(OSError):
                file = replace(file, content=place(file.path, directory).read_bytes())  # noqa: PLW2901 - the same file as it is now
        kept.append(file)
    return kept


# --- what runs ---------------------------------------------------------------------------------------------------


def parse_hashes(text: str) -> dict[str, str]:
    """``docker compose config --hash '*'``: a service and its hash on each line."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def parse_containers(text: str) -> list[dict[str, str]]:
    """Lines of ``docker ps`` in the module's format: service, hash, image, one-off, state, id; parted by tabs."""
    keys = ("service", "hash", "image", "oneoff", "state", "id")
    rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(keys, row)) for row in rows if len(row) == len(keys)]


def as_configured(
    hashes: t.Mapping[str, str], containers: t.Iterable[t.Mapping[str, str]], image_ids: t.Iterable[str]
) -> bool:
    """Whether every service runs in one container, made of the configuration and the images as they are now.

    Says no in doubt: compose then looks itself, and changes nothing if nothing differs. A paused container counts, for
    compose cannot start it: that it does not answer shows when it is asked.
    """
    own = [item for item in containers if item["oneoff"].lower() != "true"]
    ids = set(image_ids)
    return (
        bool(hashes)
        and sorted(item["service"] for item in own) == sorted(hashes)
        and all(
            item["state"] in ("running", "paused") and item["hash"] == hashes[item["service"]] and item["image"] in ids
            for item in own
        )
    )


def differs(plan: t.Mapping[str, t.Any], unit: str) -> list[str]:
    """What of a plan is to be put in order, in words."""
    lines = [f"{path} differs" for path in plan["changed_files"]]
    lines += [f"the image {name} is missing" for name in plan["missing_images"]]
    lines += [f"{service} is older than a file that it reads" for service in plan["stale"]]
    if not lines and not plan["running"]:
        lines.append("not every service runs as compose.yaml says")
    if not plan["unit_ready"]:
        lines.append(f"{unit} is not enabled, or does not run as its files say")
    return lines


def reads(
    reader: str, files: t.Iterable[File], directory: Path, model: t.Mapping[str, t.Any] | None = None
) -> dict[str, float]:
    """The files that a service or a unit reads at its start, and when each was last changed."""
    found = processes.changed_at(place(file.path, directory) for file in files if reader in file.read_by)
    if model and model.get("path") and reader in model_readers(model):
        # Its large files are hard links, which other revisions of the model share.
        found.update(processes.changed_at(_model_files(Path(str(model["path"]))), "st_mtime"))
    return found


def model_readers(model: t.Mapping[str, t.Any]) -> list[str]:
    """The services that read the model's files, from a record that anybody may have edited."""
    found = model.get("read_by")
    return [str(reader) for reader in found] if isinstance(found, list) else []


def _model_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES and path.name[0] != ".")
    except OSError:
        return []
