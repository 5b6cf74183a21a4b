#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release
short_description: Put a release of the service on a host, keep it, or go back to one before
version_added: 0.2.0
author: The vicuna.fleet authors
description:
  - A release is the files of a compose project, the images that they name, and the model's commit. Its name is a
    hash of the three.
  - The host's record, C(release.json), holds what is current, what is still to be proven, and which releases gave a
    verified
    answer. A copy of each one's files lies beside it, for a rollback without a download.
  - A new release is pending until O(state=verified). A run that is killed before leaves it pending, and the next one
    proves it.
  - The copy is written first, then the record, then the files, each in one step; a kill at any moment leaves all of
    them readable.
  - A record that tells nothing, such as one that was cut short, is kept beside as C(release.json.bad-*), and another
    one is made of what the copies of the releases say of themselves. What is in place is pending then. The module warns
    of it. A record of a newer schema is refused and stays as it is.
  - No service is started or stopped. RV(stale) names those that are to be.
options:
  state:
    description:
      - V(planned) compares as O(state=deployed) does, looks at what runs, and writes nothing; it never reports a
        change. Without
        O(files) it plans O(state=rolled_back) and refuses what that would refuse.
      - V(deployed) writes the O(files) that differ, removes those that an earlier release put there and this one has
        not, and
        makes the release pending.
      - V(verified) makes the pending release the current one, and a good one.
      - V(failed) notes that the pending release gave no answer. It stays pending, for its files are in place.
      - V(rolled_back) puts the files of a good release back and makes it pending; a release that was pending is
        noted as failed.
        It is refused, before anything is touched, where an image, the model's directory or a file's copy is missing.
      - V(query) returns the record, and which files differ from the copy of the release that is in place.
    type: str
    choices: [planned, deployed, verified, failed, rolled_back, query]
    required: true
  directory:
    description: The compose project's directory. It and its subdirectories get the mode V(0755).
    type: path
    default: /opt/vicuna
  project:
    description: The compose project's name.
    type: str
    default: vicuna
  state_dir:
    description: The directory of C(release.json), and of C(releases) with the copies.
    type: path
    default: /var/lib/vicuna
  files:
    description: The release's files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file belongs; a relative path is one inside O(directory).
        type: str
        required: true
      content:
        description: What it holds. Logged nowhere on the host.
        type: str
        required: true
      mode:
        description: Permissions, octal.
        type: str
        default: '0644'
      owner:
        description: Name or number of the user.
        type: str
        default: root
      group:
        description: Name or number of the group.
        type: str
        default: root
      secret:
        description:
          - The file holds a credential. It is never shown, changes nothing about the release's name, and a rollback
            leaves it as
            it is, for a key may have been revoked since; it is restored only where it is gone.
        type: bool
        default: false
      read_by:
        description:
          - The services of the project, or the O(unit), whose processes read the file when they start and not again.
          - Not for what C(docker compose) reads itself, whose services have a hash of it.
        type: list
        elements: str
        default: []
      only_with:
        description: The file is wanted only where this path exists on the host, such as V(/run/systemd/system).
        type: path
  model:
    description:
      - What the release serves; C(path), C(commit), C(names), and C(max_requests), how many it answers at once.
      - C(read_by) lists the services that read the files in C(path) when they start.
    type: dict
    default: {}
  images:
    description: Names of the images, by what each is for.
    type: dict
    default: {}
  id:
    description: With O(state=rolled_back) the release to go back to; empty for the newest good one that is not in
      place.
    type: str
    default: ''
  tokens_per_second:
    description: With O(state=verified) the rate that was measured, in tokens per second. The highest is kept.
    type: float
  reason:
    description: With O(state=failed) why.
    type: str
    default: ''
  keep:
    description: How many good releases are kept. Their images and models are removed by nobody here.
    type: int
    default: 3
  unit:
    description: A systemd unit of the release, to look at.
    type: str
    default: ''
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return changed status prediction without modifying the host.
  diff_mode:
    support: full
    description: Returns details on what has changed when in diff mode, without the secret files.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing.
"""

EXAMPLES = r"""
- name: Put the release in place
  vicuna.fleet.release:
    state: deployed
    files:
      - path: compose.yaml
        content: "{{ lookup('ansible.builtin.template', 'compose.yaml.j2') }}"
      - path: edge/keys
        content: "{{ hashes | join('\n') }}"
        mode: "0640"
        secret: true
    images: {api: "registry.example.org/fastchat-api@sha256:…"}
    model: {path: /model/vicuna-7b-v1.5-16k@c8df3ca4436a, commit: c8df3ca4436a, names: [vicuna]}

- name: Keep it, with the rate of its first answer
  vicuna.fleet.release:
    state: verified
    tokens_per_second: 39.9

- name: See what runs here, and what somebody has changed since
  vicuna.fleet.release:
    state: query
"""

RETURN = r"""
id:
  description: The release that was asked for; of a query and of a plan without files, the one in place or to go back
    to.
  returned: success
  type: str
  sample: 4f2a9c01be77
current:
  description: The last release that was verified; empty where there is none.
  returned: success
  type: str
pending:
  description: Whether the release is still to be verified, now or after it has been deployed as planned.
  returned: success
  type: bool
previous:
  description: The newest good release other than RV(id); of a plan without files, the one to go back to. Empty where
    there is none.
  returned: success
  type: str
tokens_per_second:
  description: The last rate that a good release reached here, in tokens per second; null where none was measured.
  returned: success
  type: float
rate_before:
  description:
    - The rate to hold that of the release against, in tokens per second; that of the last good one before it.
    - Null where the release gave a verified answer here before. Then a lower rate tells of another load on the host,
      and not of the release.
  returned: O(state=planned)
  type: float
changed_files:
  description: Files and directories that differ from the release, or did before they were written. Removed ones are
    among them.
  returned: O(state) is C(planned), C(deployed) or C(rolled_back)
  type: list
  elements: str
would_change:
  description: Whether O(state=deployed), or starting the services afterwards, would change anything.
  returned: O(state=planned)
  type: bool
missing_images:
  description: Those of the images that the host does not have. All, where no engine answers.
  returned: O(state) is C(planned), C(deployed) or C(rolled_back)
  type: list
  elements: str
running:
  description: Whether every service runs, made of the files and the images as they are on the host.
  returned: O(state) is C(planned) or C(query)
  type: bool
stale:
  description:
    - Running services whose process began before a file that it reads was last changed, or is to be changed now. They
      have to be started anew, which O(state=deployed) does not do.
    - The process is compared with the disk, so that a run which was killed between the two is finished by the next.
  returned: O(state) is C(planned) or C(query)
  type: list
  elements: str
  sample: [edge]
repair:
  description:
    - Whether the release that was asked for is the current one already, so that it is put in order, and not replaced.
  returned: O(state=planned)
  type: bool
differs:
  description: What is not as the release that is current says, in words. Empty where another one was asked for.
  returned: O(state=planned)
  type: list
  elements: str
  sample: ["/opt/vicuna/edge/keys differs", "edge is older than a file that it reads"]
systemd:
  description: Whether systemd is process 1.
  returned: O(state) is C(planned), C(deployed) or C(rolled_back)
  type: bool
unit_ready:
  description: Whether O(unit) is active, enabled, and loaded and started after the last change of its files. V(true)
    where systemd is not process 1.
  returned: O(state=planned)
  type: bool
release:
  description: The release's own entry of the record.
  returned: success, where there is one
  type: dict
record:
  description: The whole record, as it is in C(release.json).
  returned: O(state=query)
  type: dict
drift:
  description: Files that differ from the copy of the release in place, and in what; null where the copy cannot be
    read.
  returned: O(state=query)
  type: list
  elements: dict
  sample: [{"path": "compose.yaml", "differs": ["content"]}]
"""

import datetime
import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils import _release
from ansible_collections.vicuna.fleet.plugins.module_utils._host import processes
from ansible_collections.vicuna.fleet.plugins.module_utils._release import DamagedRecord, File, ReleaseError

PS_FORMAT = "\t".join(
    [
        '{{.Label "com.docker.compose.service"}}',
        '{{.Label "com.docker.compose.config-hash"}}',
        '{{.Label "com.docker.compose.image"}}',
        '{{.Label "com.docker.compose.oneoff"}}',
        "{{.State}}",
        "{{.ID}}",
    ]
)
SYSTEMD = Path("/run/systemd/system")


class Host:
    """What the module reads and writes on the host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.directory = Path(module.params["directory"])
        self.state_dir = Path(module.params["state_dir"])
        self.path = self.state_dir / "release.json"
        self.snapshots = _release.Snapshots(self.state_dir / "releases")
        self.docker = module.get_bin_path("docker")
        # What lies in the record's place, where it is a file.
        self.data: bytes | None = None
        # Why the record was rebuilt; empty where it was not.
        self.damage = ""
        try:
            if not self.path.is_file() and os.path.lexists(self.path) and not self.path.is_symlink():
                raise _release.damaged_record(f"{self.path} is no file.")
            self.data = self.path.read_bytes()
            self.state = _release.load(self.data, str(self.path))
        except FileNotFoundError:
            self.rebuild("")
        except DamagedRecord as error:
            self.rebuild(error.found)

    def rebuild(self, damage: str) -> None:
        """Goes by the copies of the releases where there is no record, or none that tells anything."""
        self.state = _release.rebuild(self.snapshots.records(), self.snapshots.in_place(self.directory))
        self.damage = damage
        if not self.damage and self.state["good"]:
            self.damage = f"{self.path} is gone."
        if not self.damage:
            return
        kept = f"keeps it as {self.aside()} and " if os.path.lexists(self.path) else ""
        good, in_place = ", ".join(self.state["good"]) or "none", self.state["pending"] or "none of them"
        self.module.warn(
            f"{self.damage} Expected: a record of releases. The run {kept}goes on with what the copies of releases in "
            f"{self.snapshots.root} say. Good: {good}; in place, and to be proven again: {in_place}."
        )

    def aside(self) -> Path:
        """Where a damaged record is kept; another one has another name."""
        status = self.path.lstat()
        told = self.data if self.data is not None else f"{status.st_ino} {status.st_ctime_ns}".encode()
        return self.path.with_name(f"{self.path.name}.bad-{hashlib.sha256(told).hexdigest()[: _release.DIGITS]}")

    @property
    def text(self) -> str:
        return "" if self.damage or self.data is None else self.data.decode()

    # --- looking ---

    def ask(self, *arguments: str) -> tuple[int, str]:
        if self.docker is None:
            return 127, ""
        cwd = str(self.directory) if self.directory.is_dir() else None
        rc, out, _err = self.module.run_command([self.docker, *arguments], cwd=cwd)
        return rc, out

    def image_ids(self, images: dict[str, str]) -> dict[str, str]:
        """The id of each image that is there."""
        names = [str(name) for name in images.values()]
        inspect = ("image", "inspect", "--format", "{{.Id}}")
        if not names or self.docker is None:
            return {}
        rc, out = self.ask(*inspect, *names)
        if rc == 0 and len(out.split()) == len(names):
            return dict(zip(images, out.split()))
        found = {key: self.ask(*inspect, str(name)) for key, name in images.items()}
        return {key: out.strip() for key, (rc, out) in found.items() if rc == 0}

    def look(
        self,
        files: list[File],
        model: dict[str, Any],
        image_ids: dict[str, str],
        differing: set[Path],
    ) -> dict[str, Any]:
        """What runs, against what is on the disk or is to be put there."""
        containers = self.containers()
        stale = self.stale(files, model, containers, differing)
        return {
            "running": self.as_configured(containers, image_ids) and not stale,
            "stale": stale,
            "unit_ready": self.unit_ready(files),
        }

    def containers(self) -> list[dict[str, str]] | None:
        """The project's; None where no engine tells."""
        label = f"label=com.docker.compose.project={self.module.params['project']}"
        rc, out = self.ask("ps", "--all", "--no-trunc", "--filter", label, "--format", PS_FORMAT)
        return _release.parse_containers(out) if rc == 0 else None

    def as_configured(self, containers: list[dict[str, str]] | None, image_ids: dict[str, str]) -> bool:
        if containers is None or not (self.directory / "compose.yaml").is_file() or not image_ids:
            return False
        rc, hashes = self.ask("compose", "--project-name", self.module.params["project"], "config", "--hash", "*")
        return rc == 0 and _release.as_configured(_release.parse_hashes(hashes), containers, image_ids.values())

    def stale(
        self,
        files: list[File],
        model: dict[str, Any],
        containers: list[dict[str, str]] | None,
        differing: set[Path],
    ) -> list[str]:
        """The running services that may go by an earlier version of a file."""
        readers = {reader for file in files for reader in file.read_by} | set(_release.model_readers(model))
        running = {
            item["id"]: item["service"]
            for item in containers or []
            if item["service"] in readers and item["state"] == "running" and item["oneoff"].lower() != "true"
        }
        if not running:
            return []
        _rc, out = self.ask("inspect", "--type", "container", "--format", "{{.Id}} {{.State.Pid}}", *running)
        # One that has just ended has no process, and is started by compose.
        pids = dict(line.split() for line in out.splitlines() if len(line.split()) == 2)
        late = {
            reader
            for file in files
            for reader in file.read_by
            if _release.place(file.path, self.directory) in differing
        }
        return sorted(
            {
                service
                for identity, service in running.items()
                if service in late or self.older(pids.get(identity, "0"), service, files, model)
            }
        )

    def older(self, pid: str, reader: str, files: list[File], model: dict[str, Any] | None = None) -> bool:
        changed = _release.reads(reader, files, self.directory, model)
        return bool(processes.newer_than(processes.started(int(pid)), changed, time.time()))

    def unit_ready(self, files: list[File]) -> bool:
        unit = self.module.params["unit"]
        if not unit or not SYSTEMD.is_dir():
            return True
        systemctl = self.module.get_bin_path("systemctl", required=True)
        properties = "--property=ActiveState,UnitFileState,NeedDaemonReload,MainPID"
        rc, out, _err = self.module.run_command([systemctl, "show", properties, unit])
        found = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        pid = found.pop("MainPID", "0")
        wanted = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
        return rc == 0 and found == wanted and not self.older(pid, unit, files)

    def directories(self, files: list[File]) -> list[Path]:
        """The project's directory and those in it, the outer first."""
        inner = {parent for file in files if not file.path.startswith("/") for parent in Path(file.path).parents}
        return [self.directory / path for path in sorted(inner | {Path()})]

    def differing_directories(self, files: list[File]) -> list[Path]:
        found = []
        for path in self.directories(files):
            status = path.stat() if path.is_dir() else None
            if status is None or stat.S_IMODE(status.st_mode) != 0o755 or status.st_uid != os.geteuid():
                found.append(path)
        return found

    def left_over(self, files: list[File]) -> list[Path]:
        """Files that a release known here put in place, and that this one has not."""
        wanted = {_release.place(file.path, self.directory) for file in files}
        known = {
            _release.place(entry["path"], self.directory)
            for name in self.snapshots.names()
            for entry in self.snapshots.manifest(name) or []
        }
        return sorted(path for path in known - wanted if os.path.lexists(path))

    def missing_for(self, record: dict[str, Any]) -> list[str]:
        """What a release needs and the host has not."""
        ids = self.image_ids(record.get("images") or {})
        missing = [f"the image {name}" for key, name in (record.get("images") or {}).items() if key not in ids]
        path = (record.get("model") or {}).get("path")
        if path and not Path(path).is_dir():
            missing.append(f"the model's directory {path}")
        return missing

    # --- writing ---

    def save(self, state: _release.State) -> None:
        if _release.dump(state) != self.text:
            self.state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self.damage and os.path.lexists(self.path):
                if self.data is None:
                    self.path.rename(self.aside())
                elif not self.aside().exists():
                    _release.put(self.aside(), self.data, 0o600)
            _release.put(self.path, _release.dump(state).encode(), 0o600)
        for name, record in state["releases"].items():
            self.snapshots.describe(name, record)

    def sweep(self, state: _release.State) -> None:
        """Last: the copies tell which files are an earlier release's, also after a run that was killed."""
        for name in self.snapshots.names():
            if name not in state["releases"]:
                self.snapshots.drop(name)

    def write(self, files: list[File], changed: list[Path], removed: list[Path]) -> None:
        for path in self.directories(files):
            if path in changed:
                path.mkdir(mode=0o755, parents=True, exist_ok=True)
                os.chown(path, os.geteuid(), os.getegid())
                path.chmod(0o755)
        for file in files:
            path = _release.place(file.path, self.directory)
            if path in changed:
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                _release.put(path, file.content, file.mode, _release.user_id(file.owner), _release.group_id(file.group))
        for path in removed:
            path.unlink()
            _release.sync(path.parent)


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def wanted_files(given: list[dict[str, Any]]) -> list[File]:
    files = []
    for item in given:
        if item["only_with"] and not Path(item["only_with"]).exists():
            continue
        try:
            mode = int(item["mode"], 8)
        except ValueError:
            raise ReleaseError(
                f"The mode of {item['path']} is {item['mode']!r}.", "octal digits.", "Correct the mode."
            ) from None
        content = item["content"].encode()
        readers = tuple(item["read_by"])
        files.append(File(item["path"], content, mode, item["owner"], item["group"], item["secret"], readers))
    return sorted(files, key=lambda file: file.path)


def shown(path: Path, file: File | None, secret: bool) -> dict[str, str]:
    """One part of the diff; None is a file that goes."""
    if secret:
        return {"before_header": str(path), "after_header": str(path), "before": "", "after": "(secret)\n"}
    try:
        before = path.read_text(encoding="utf-8", errors="replace")
        header = f"{path} ({stat.S_IMODE(path.stat().st_mode):04o})"
    except OSError:
        before, header = "", f"{path} (absent)"
    if file is None:
        return {"before_header": header, "after_header": f"{path} (absent)", "before": before, "after": ""}
    after = file.content.decode("utf-8", "replace")
    return {"before_header": header, "after_header": f"{path} ({file.mode:04o})", "before": before, "after": after}


def bring(
    module: AnsibleModule, host: Host, files: list[File], record: dict[str, Any], before: _release.State
) -> dict[str, Any]:
    """Puts files in place and makes the release pending, or only says what that would be."""
    name = str(record["id"])
    changed = {}
    for file in files:
        path = _release.place(file.path, host.directory)
        differs = _release.difference(path, file)
        if differs == ["type"] and path.is_dir() and not path.is_symlink():
            raise ReleaseError(f"{path} is a directory.", "a file, or nothing.", "Move it away and run again.")
        if differs:
            changed[path] = file
    folders = host.differing_directories(files)
    removed = host.left_over(files)
    known_ids = before["releases"].get(name, {}).get("image_ids") or {}
    touched = bool(changed or folders or removed or (known_ids and record["image_ids"] not in ({}, known_ids)))
    after = _release.prune(_release.pend(before, record, touched, now()), module.params["keep"])
    copied = host.snapshots.holds(name, files)

    result: dict[str, Any] = {
        "changed": bool(changed or folders or removed or not copied or _release.dump(after) != host.text),
        "changed_files": [str(path) for path in [*folders, *changed, *removed]],
        "state": after,
    }
    if module._diff and module.params["state"] != "planned":
        secret = {
            _release.place(entry["path"], host.directory): bool(entry.get("secret"))
            for known in host.snapshots.names()
            for entry in host.snapshots.manifest(known) or []
        }
        parts = [shown(path, file, file.secret) for path, file in changed.items()]
        result["diff"] = parts + [shown(path, None, secret.get(path, True)) for path in removed]
    if result["changed"] and not module.check_mode and module.params["state"] != "planned":
        if not copied:
            host.state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            host.snapshots.save(name, files)
        host.save(after)
        host.write(files, [*folders, *changed], removed)
        host.sweep(after)
    return result


def deploy(module: AnsibleModule, host: Host, files: list[File], plan: bool) -> dict[str, Any]:
    images = {str(key): str(name) for key, name in module.params["images"].items()}
    model = dict(module.params["model"])
    ids = host.image_ids(images)
    record: dict[str, Any] = {
        "id": _release.release_id(files, images, str(model.get("commit") or "")),
        "model": model,
        "images": images,
        "image_ids": ids,
        "settings": _release.settings_hash(files),
    }
    result = bring(module, host, files, record, host.state)
    result["id"] = record["id"]
    result["missing_images"] = [name for key, name in images.items() if key not in ids]
    result["tokens_per_second"] = _release.last_rate(host.state, record["id"])
    if plan:
        finish_plan(host, result, files, record)
    return result


def finish_plan(host: Host, result: dict[str, Any], files: list[File], record: dict[str, Any]) -> None:
    differing = {Path(path) for path in result["changed_files"]}
    result.update(host.look(files, record.get("model") or {}, record["image_ids"], differing))
    would_change = result["changed"] or result["missing_images"] or not (result["running"] and result["unit_ready"])
    result.update(would_change=bool(would_change), changed=False)
    name = str(record["id"])
    repair = name == host.state["current"]
    result.update(repair=repair, rate_before=_release.rate_before(host.state, name))
    result["differs"] = _release.differs(result, host.module.params["unit"]) if repair else []


def roll_back(module: AnsibleModule, host: Host, plan: bool) -> dict[str, Any]:
    name = _release.target(host.state, module.params["id"])
    record = host.state["releases"][name]
    try:
        files = _release.keep_secrets(host.snapshots.restore(name), host.directory)
    except ReleaseError as error:
        whole = {item["id"] for item in host.snapshots.records()} - {_release.deployed(host.state)}
        others = [other for other in host.state["good"] if other in whole]
        if not others:
            raise
        raise ReleaseError(
            error.found,
            "every file as its list says.",
            "Nothing was changed. Set fastchat_rollback_to to a good release whose copy is whole "
            f"({', '.join(others)}), or deploy the wanted model and images with the playbook site.",
        ) from None
    missing = host.missing_for(record)
    if missing:
        raise ReleaseError(
            f"Release {name} of {record.get('verified')} cannot be started: the host lacks {', '.join(missing)}.",
            "the images and the model of a release that is kept, on the host.",
            "Nothing was changed. Deploy what is wanted with the playbook site, which fetches it.",
        )
    given_up = host.state
    left = given_up["pending"]
    if left not in (None, name, given_up["current"]) and not given_up["releases"][left].get("failed"):
        given_up = _release.fail(given_up, "It was rolled back before it was verified.", now())
    record = {**record, "image_ids": host.image_ids(record.get("images") or {})}
    result = bring(module, host, files, record, given_up)
    result.update(id=name, missing_images=[], tokens_per_second=_release.last_rate(host.state, name))
    if plan:
        finish_plan(host, result, files, record)
    return result


def note(module: AnsibleModule, host: Host) -> dict[str, Any]:
    """verified, failed."""
    if module.params["state"] == "verified":
        after = _release.verify(host.state, module.params["tokens_per_second"], now())
        after = _release.prune(after, module.params["keep"])
    else:
        after = _release.fail(host.state, module.params["reason"], now())
    changed = bool(host.damage) or _release.dump(after) != _release.dump(host.state)
    if changed and not module.check_mode:
        host.save(after)
        host.sweep(after)
    return {"changed": changed, "state": after}


def query(module: AnsibleModule, host: Host) -> dict[str, Any]:
    name = _release.deployed(host.state)
    drift: list[dict[str, Any]] | None = []
    files: list[File] = []
    if name:
        try:
            files = host.snapshots.restore(name)
        except ReleaseError as error:
            module.warn(str(error))
            drift = None
        else:
            differences = {
                file.path: _release.difference(_release.place(file.path, host.directory), file) for file in files
            }
            drift = [{"path": path, "differs": differs} for path, differs in differences.items() if differs]
    record = host.state["releases"].get(name, {})
    found = host.look(files, record.get("model") or {}, host.image_ids(record.get("images") or {}), set())
    return {"changed": False, "state": host.state, "record": host.state, "drift": drift, **found}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["planned", "deployed", "verified", "failed", "rolled_back", "query"],
                "required": True,
            },
            "directory": {"type": "path", "default": "/opt/vicuna"},
            "project": {"type": "str", "default": "vicuna"},
            "state_dir": {"type": "path", "default": "/var/lib/vicuna"},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    # The host's log would hold every file otherwise; those that are no secret are shown again below.
                    "content": {"type": "str", "required": True, "no_log": True},
                    "mode": {"type": "str", "default": "0644"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "secret": {"type": "bool", "default": False, "no_log": False},
                    "read_by": {"type": "list", "elements": "str", "default": []},
                    "only_with": {"type": "path"},
                },
            },
            "model": {"type": "dict", "default": {}},
            "images": {"type": "dict", "default": {}},
            "id": {"type": "str", "default": ""},
            "tokens_per_second": {"type": "float"},
            "reason": {"type": "str", "default": ""},
            "keep": {"type": "int", "default": 3},
            "unit": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given: list[dict[str, Any]] = module.params["files"]
    secret = {item["content"] for item in given if item["secret"]}
    module.no_log_values.difference_update({item["content"] for item in given} - secret)
    # The arguments are returned with the result; the files' contents would fill the control node's memory.
    module.params["files"] = [{**item, "content": ""} for item in given]
    wanted = module.params["state"]
    plan = wanted == "planned"
    try:
        host = Host(module)
        if wanted == "deployed" or (plan and given):
            result = deploy(module, host, wanted_files(given), plan)
        elif wanted in ("planned", "rolled_back"):
            result = roll_back(module, host, plan)
        elif wanted == "query":
            result = query(module, host)
        else:
            result = note(module, host)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    except (OSError, KeyError) as error:
        module.fail_json(
            msg=(
                f"The release could not be read or written: {error}. Expected: file systems of "
                f"{module.params['directory']} and {module.params['state_dir']} that take it, and the files' owners "
                "on the host. Mend that (df shows a full one) and run again: what was cut off is finished then."
            )
        )
    state = result.pop("state")
    name = result.setdefault("id", _release.deployed(state))
    result["current"] = state["current"] or ""
    result["pending"] = state["pending"] is not None
    result["previous"] = name if plan and not given else _release.previous(state, name)
    result.setdefault("tokens_per_second", _release.last_rate(state, name) if name else None)
    if name in state["releases"]:
        result["release"] = state["releases"][name]
    result["systemd"] = SYSTEMD.is_dir()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
