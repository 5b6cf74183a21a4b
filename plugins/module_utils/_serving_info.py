# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a serving host runs, and in what that is not the release that it was given: no output, and files only to read.

Private to the collection.
"""

from __future__ import annotations

import calendar
import hashlib
import json
import os
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.vicuna.fleet.plugins.module_utils import _release as releases
from ansible_collections.vicuna.fleet.plugins.module_utils._host import processes
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_pointer import lstat, stamp

SERVICES = ("controller", "model-worker", "api-server", "edge")
WORKER = "model-worker"
REVISION_LABEL = "vicuna.model.revision"
# Digits of a commit or a digest in a sentence; enough to tell them apart.
SHORT = 12

# Asks workers from inside the compose network, as nothing of FastChat's control plane is published. GET /v1/models is
# never asked: it empties the controller's table.
QUEUE_PROGRAM = """
import json, sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
found = {}
for name in sys.argv[1:]:
    try:
        request = urllib.request.Request("http://%s:21002/worker_get_status" % name, data=b"", method="POST")
        with opener.open(request, timeout=3) as answer:
            found[name] = int(json.load(answer)["queue_length"])
    except Exception as error:
        found[name] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Container:
    """A container of the compose project, as `docker inspect` shows it."""

    service: str
    id: str
    state: str
    health: str  # empty without a health check
    image: str
    image_id: str
    started: str
    uptime_s: int | None  # None while it does not run
    restarts: int
    revision: str  # the model's commit that a worker was started with
    wants_gpu: bool
    pid: int = 0  # 0 while it does not run

    @property
    def of_worker(self) -> bool:
        return self.service == WORKER or self.service.startswith(f"{WORKER}-")

    @property
    def target(self) -> str:
        """Which of the release's images it runs."""
        return "worker" if self.of_worker else "edge" if self.service == "edge" else "api"


@dataclass
class Drift:
    """In what the host differs from its release, in words; None where that could not be told."""

    files: list[str] | None = None
    images: list[str] | None = None
    model: list[str] | None = None


@dataclass
class Found:
    """All that was found, and why the rest was not."""

    problems: list[dict[str, str]] = field(default_factory=list)

    def problem(self, about: str, message: str) -> None:
        self.problems.append({"about": about, "message": message})


# --- the record of releases --------------------------------------------------------------------------------------


def release_of(record: t.Mapping[str, t.Any]) -> dict[str, t.Any] | None:
    """The release whose files are in place, from a record that was loaded."""
    name = releases.deployed(dict(record))
    if not name:
        return None
    entry = record["releases"][name]
    model = entry.get("model") if isinstance(entry.get("model"), dict) else {}
    names = model.get("names")
    return {
        "id": name,
        "pending": name == record["pending"],
        "created": _or_none(entry.get("created")),
        "verified": _or_none(entry.get("verified")),
        "tokens_per_second": _number(entry.get("tokens_per_second")),
        "commit": _text(model.get("commit")),
        "model_path": _text(model.get("path")),
        "model_names": [str(each) for each in names] if isinstance(names, list) else [],
        "images": _texts(entry.get("images")),
        "image_ids": _texts(entry.get("image_ids")),
        "failed": last_failure(record),
    }


def last_failure(record: t.Mapping[str, t.Any]) -> dict[str, t.Any] | None:
    """The newest release that failed; the record's times are in UTC and of one form, so that they sort as text."""
    failures = {name: _text(entry.get("failed")) for name, entry in record["releases"].items() if entry.get("failed")}
    if not failures:
        return None
    name = max(failures, key=lambda each: failures[each])
    verified = max(_text(entry.get("verified")) for entry in record["releases"].values())
    return {
        "id": name,
        "at": failures[name] or None,
        "reason": _text(record["releases"][name].get("reason")),
        # What runs now was verified after it: a thing of the past.
        "settled": record["pending"] != name and verified >= failures[name],
    }


# --- the project's files -----------------------------------------------------------------------------------------


def file_drift(
    record: t.Mapping[str, t.Any], name: str, copies: releases.Snapshots, project: Path
) -> tuple[list[str] | None, str]:
    """In what the files on the host are not the release's, or why that cannot be told.

    A credential is not part of a release: it may be the one of any release that is kept.
    """
    try:
        files = copies.restore(name)
    except releases.ReleaseError as error:
        return None, str(error)
    except (OSError, ValueError, LookupError) as error:
        return None, f"the copy of release {name} cannot be read: {error}"
    lines = []
    try:
        for file in files:
            path = releases.place(file.path, project)
            found = releases.difference(path, file)
            if file.secret and "content" in found and _is_kept(file.path, path.read_bytes(), record, copies):
                found.remove("content")
            if found:
                lines.append(f"{file.path}: {', '.join(found)}" if found != ["absent"] else f"{file.path} is absent")
    except (OSError, LookupError, releases.ReleaseError) as error:
        return None, f"the files of release {name} cannot be compared: {error}"
    return lines, ""


def stale_drift(
    found: t.Sequence[Container],
    files: t.Sequence[releases.File],
    project: Path,
    model: t.Mapping[str, t.Any],
    now: float,
) -> list[str]:
    """Services whose process may go by an earlier version of a file: it began before the last change."""
    lines = []
    for each in found:
        changed = releases.reads(each.service, files, project, model)
        newer = processes.newer_than(processes.started(each.pid), changed, now)
        if newer:
            lines.append(f"{each.service} began before the last change of {', '.join(newer)}")
    return lines


def _is_kept(path: str, content: bytes, record: t.Mapping[str, t.Any], copies: releases.Snapshots) -> bool:
    """Whether a kept release has the file with this content."""
    sha256 = hashlib.sha256(content).hexdigest()
    entries = (entry for name in record["releases"] for entry in copies.manifest(name) or [])
    return any(entry["path"] == path and entry.get("sha256") == sha256 for entry in entries)


# --- containers --------------------------------------------------------------------------------------------------


def containers(inspected: t.Any, now: float) -> list[Container]:
    """The project's containers, from `docker inspect`. What docker does not say is empty."""
    found = [_container(one, now) for one in inspected if isinstance(one, dict)] if isinstance(inspected, list) else []
    return sorted(
        found,
        key=lambda each: (
            SERVICES.index(WORKER if each.of_worker else each.service)
            if each.of_worker or each.service in SERVICES
            else len(SERVICES),
            each.service,
        ),
    )


def _container(inspected: dict[str, t.Any], now: float) -> Container:
    state, config = inspected.get("State") or {}, inspected.get("Config") or {}
    labels = config.get("Labels") or {}
    running = state.get("Status") == "running"
    started = _text(state.get("StartedAt"))
    since = _epoch(started)
    return Container(
        service=_text(labels.get("com.docker.compose.service")),
        id=_text(inspected.get("Id"))[:SHORT],
        state=_text(state.get("Status")),
        health=_text((state.get("Health") or {}).get("Status")),
        image=_text(config.get("Image")),
        image_id=_text(inspected.get("Image")),
        started=f"{started[:19]}Z" if since is not None else "",
        uptime_s=max(0, int(now - since)) if running and since is not None else None,
        restarts=int(inspected.get("RestartCount") or 0),
        revision=_text(labels.get(REVISION_LABEL)),
        wants_gpu=bool((inspected.get("HostConfig") or {}).get("DeviceRequests")),
        pid=int(state.get("Pid") or 0),
    )


def _epoch(timestamp: str) -> float | None:
    """Seconds since 1970 of the engine's times, which are in UTC and of nanosecond precision."""
    try:
        return float(calendar.timegm(time.strptime(timestamp[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return None


def unwell(found: t.Sequence[Container]) -> list[str]:
    """Which services are not there, do not run, or are ill; a container that is starting is neither."""
    there = {WORKER if each.of_worker else each.service for each in found}
    lines = [f"{service} has no container" for service in SERVICES if service not in there]
    for each in found:
        if each.state != "running":
            lines.append(f"{each.service} is {each.state or 'in an unknown state'}")
        elif each.health == "unhealthy":
            lines.append(f"{each.service} is unhealthy")
    return lines


def image_drift(found: t.Sequence[Container], release: t.Mapping[str, t.Any]) -> list[str] | None:
    """Containers with another image than their release's; by its id, or by its name where the record has no id."""
    if not release["image_ids"] and not release["images"]:
        return None
    lines = []
    for each in found:
        wanted, named = release["image_ids"].get(each.target, ""), release["images"].get(each.target, "")
        if wanted and each.image_id and each.image_id != wanted:
            lines.append(f"{each.service} runs image {short(each.image_id)}, not {short(wanted)}")
        elif not wanted and named and each.image != named:
            lines.append(f"{each.service} runs image {each.image}, not {named}")
    return lines


def short(digest: str) -> str:
    """The beginning of a digest or a commit."""
    return digest.rpartition(":")[2][:SHORT]


# --- the model ---------------------------------------------------------------------------------------------------


def model_state(path: Path) -> tuple[dict[str, t.Any] | None, str]:
    """Commit and files of a model's directory by the stamps of their verification, or why they cannot be told.

    A stamp is size, modification time and inode: nothing of the weights is read. What a disk has damaged without a
    write is seen by playbooks/verify_model.yml alone.
    """
    state = path / ".git" / "vicuna-fleet.json"
    try:
        data = json.loads(state.read_text(encoding="utf-8"))
        files = data["files"].items()
        commit = str(data.get("commit") or "")
    except OSError as error:
        return None, f"{state} cannot be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return None, f"{state} is damaged"
    changed = []
    for name, record in files:
        status = lstat(path / name)
        if status is None:
            changed.append(f"{name} is gone")
        elif not isinstance(record, dict) or record.get("stamp") != stamp(status):
            changed.append(f"{name} is not the file that was verified")
    return {"path": os.fspath(path), "commit": commit, "files": len(files), "changed": sorted(changed)}, ""


def model_drift(
    found: t.Sequence[Container], model: t.Mapping[str, t.Any] | None, release: t.Mapping[str, t.Any]
) -> list[str] | None:
    """In what the model on the disk, or the one that a worker was started with, is not the release's."""
    lines = []
    commit = release["commit"]
    for each in found:
        if each.of_worker and each.revision and commit and each.revision != commit:
            lines.append(f"{each.service} was started with the model at {short(each.revision)}, not {short(commit)}")
    if model is None:
        return lines or None
    if commit and model["commit"] and model["commit"] != commit:
        lines.append(f"{model['path']} is at {short(model['commit'])}, not {short(commit)}")
    return lines + list(model["changed"])


# --- queue and GPUs ----------------------------------------------------------------------------------------------


def parse_queues(out: str) -> tuple[dict[str, int], list[str]]:
    """Queue lengths by worker, from QUEUE_PROGRAM, and what the others said."""
    try:
        answer = json.loads(out)
        pairs = sorted(answer.items())
    except (ValueError, AttributeError):
        return {}, ["the api-server's container gave no answer that can be read"]
    queues = {name: value for name, value in pairs if isinstance(value, int) and not isinstance(value, bool)}
    return queues, [f"{name}: {value}" for name, value in pairs if name not in queues]


def gpu_trouble(on_bus: int, gpus: t.Sequence[t.Any], error: str, wanted: bool | None) -> str:
    """What is wrong with the GPUs, for a host that serves with them; wanted is None where no worker tells."""
    if wanted is False:
        return ""
    if wanted and not on_bus and not gpus:
        return "the worker wants a GPU, and the host has none"
    if on_bus and not gpus:
        return f"{_gpus(on_bus)} on the bus, and the driver does not answer: {error}"
    if len(gpus) < on_bus:
        return f"{_gpus(on_bus)} on the bus, and the driver lists {len(gpus)}"
    return error if gpus else ""


def total(values: t.Sequence[int | None]) -> int | None:
    """The sum; None where there is nothing to add, or one of them is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if values and len(known) == len(values) else None


def _gpus(number: int) -> str:
    return f"{number} GPU{'' if number == 1 else 's'}"


# --- values of a file that anybody may have written --------------------------------------------------------------


def _text(value: t.Any) -> str:
    return value if isinstance(value, str) else ""


def _or_none(value: t.Any) -> str | None:
    return _text(value) or None


def _number(value: t.Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _texts(value: t.Any) -> dict[str, str]:
    return {str(key): each for key, each in value.items() if isinstance(each, str)} if isinstance(value, dict) else {}
