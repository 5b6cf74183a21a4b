#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_info
short_description: Tell what room a host has for a model server
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Tells in one go how much memory and disk is free, who has the ports that are wanted, how far the clock is off, which
    containers of the compose project run, and how much of the model is there already.
  - The local engine is asked over its socket. A host without one is fine.
options:
  model_path:
    description: Directory of the model; it need not be there.
    type: path
    default: ""
  model_store:
    description: Directory of the large files that all models share, if there is one besides that of O(model_path).
    type: path
    default: ""
  objects:
    description: Large files of the model, of which those that are in O(model_path) or O(model_store) are counted.
    type: list
    elements: dict
    default: []
    suboptions:
      oid:
        description: The sha256 of the file, which is its name in C(.git/lfs/objects).
        type: str
        required: true
      size:
        description: Size in bytes.
        type: int
        required: true
  ports:
    description: TCP ports that are wanted.
    type: list
    elements: int
    default: []
  bind_address:
    description: The IP address at which O(ports) are wanted. A listener at another one of the host is not in the way.
    type: str
    default: 0.0.0.0
  images:
    description: Images of which it is asked whether the engine has them.
    type: list
    elements: str
    default: []
  project:
    description: Name of the compose project whose containers are the caller's own.
    type: str
    default: vicuna
  reference_time:
    description: Seconds since the epoch by the clock to compare with. V(0) compares with none.
    type: float
    default: 0.0
  gpus:
    description: Look at the GPUs, too, as M(vicuna.fleet.gpu_info) does. That takes no second process then.
    type: bool
    default: false
  socket:
    description: Where the engine listens.
    type: path
    default: /var/run/docker.sock
  timeout:
    description: Seconds that each answer of the engine, and of the GPUs' driver, may take.
    type: int
    default: 20
attributes:
  check_mode:
    support: full
    description: Can run in check mode, and returns the same.
  diff_mode:
    support: N/A
    description: Changes nothing.
  idempotent:
    support: N/A
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Look at the host
  vicuna.fleet.host_info:
    model_path: /model/vicuna-7b-v1.5
    ports: [8000]
    reference_time: "{{ now().timestamp() }}"
  register: look

- name: Show what is free
  ansible.builtin.debug:
    msg: "{{ look.host.memory.available_mib }} MiB"
"""

RETURN = r"""
msg:
  description: What was found, in words.
  returned: always
  type: str
  sample: 61234 MiB of memory available, the engine answers
host:
  description: What was found.
  returned: always
  type: dict
  contains:
    system:
      description: C(id), C(version) and C(name) of the operating system.
      type: dict
      sample: {id: debian, version: "13", name: Debian GNU/Linux 13 (trixie)}
    memory:
      description: C(total_mib) and C(available_mib) of C(/proc/meminfo).
      type: dict
      sample: {total_mib: 64301, available_mib: 61234}
    clock_skew_s:
      description: Seconds that the host's clock is ahead of O(reference_time). What the call itself takes is in it.
      type: float
      sample: 0.7
    file_systems:
      description:
        - Of V(model) (O(model_path)) and V(docker) (the engine's data), the nearest directory that exists (C(path)),
          its free bytes (C(free_bytes)), and its device (C(device)), by which two paths on one file system are known.
      type: dict
      sample: {docker: {path: /var/lib/docker, free_bytes: 52340822016, device: 2049}}
    objects_bytes:
      description: Bytes of O(objects) that are there already, in their full size.
      type: int
    reclaimable_bytes:
      description: Bytes of objects of other revisions, which M(vicuna.fleet.git_lfs) removes where space is needed.
      type: int
    ports:
      description:
        - For each of O(ports) whether it is C(free) at O(bind_address), C(by) whom it is taken, if by the C(own)
          project alone.
      type: list
      elements: dict
      sample: [{port: 8000, free: false, own: true, by: the container vicuna-edge-1}]
    engine:
      description:
        - Whether an engine C(answers), C(error) why not, and its C(root).
        - C(config_error) says what is wrong with the C(daemon.json) of one that does not answer. Its root is unknown
          then, and V(docker) is missing in RV(host.file_systems).
      type: dict
      sample: {answers: true, error: "", root: /var/lib/docker, config_error: ""}
    containers:
      description:
        - All containers, with C(id), C(name), C(own), C(running), the C(ports) that they publish and where
          (C(published), pairs of an address and a port), and for the project's own C(memory_mib), what their processes
          hold.
      type: list
      elements: dict
    images:
      description: For each of O(images) whether the engine has it.
      type: dict
      sample: {"vicuna-fleet/fastchat-edge:0.2.36": true}
gpu:
  description: What RV(vicuna.fleet.gpu_info#module:gpu) holds.
  returned: with O(gpus)
  type: dict
"""

import http.client
import json
import os
import socket
import time
import typing as t
from pathlib import Path
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import ConfigError, data_root
from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import read as read_config
from ansible_collections.vicuna.fleet.plugins.module_utils._host import ports
from ansible_collections.vicuna.fleet.plugins.module_utils._host_info import (
    container_of,
    parse_containers,
    parse_meminfo,
    parse_os_release,
    parse_rss,
)

PROC = Path("/proc")
OS_RELEASE = Path("/etc/os-release")
DAEMON_JSON = Path("/etc/docker/daemon.json")
ARGUMENT_SPEC: dict[str, dict[str, t.Any]] = {
    "model_path": {"type": "path", "default": ""},
    "model_store": {"type": "path", "default": ""},
    "objects": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"oid": {"type": "str", "required": True}, "size": {"type": "int", "required": True}},
    },
    "ports": {"type": "list", "elements": "int", "default": []},
    "bind_address": {"type": "str", "default": "0.0.0.0"},  # noqa: S104 - compared with, not bound
    "images": {"type": "list", "elements": "str", "default": []},
    "project": {"type": "str", "default": "vicuna"},
    "reference_time": {"type": "float", "default": 0.0},
    "gpus": {"type": "bool", "default": False},
    "socket": {"type": "path", "default": "/var/run/docker.sock"},
    "timeout": {"type": "int", "default": 20},
}


class Engine:
    """The engine's HTTP API on its socket. Every call is bounded; the first that fails is the last."""

    def __init__(self, path: str, timeout: int) -> None:
        self.path, self.timeout = path, timeout
        self.error = "" if Path(path).exists() else "there is no engine"

    def get(self, path: str) -> tuple[int, t.Any]:
        if self.error:
            return 0, None
        connection = http.client.HTTPConnection("localhost", timeout=self.timeout)
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(self.timeout)
            connection.sock.connect(self.path)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.error = str(error) or type(error).__name__
            return 0, None
        finally:
            connection.close()


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def engine_root(info: dict[str, t.Any] | None, config: Path) -> tuple[str, str]:
    """Where the engine keeps its data, by its own word or else by its configuration, or why that cannot be told."""
    if info and info.get("DockerRootDir"):
        return str(info["DockerRootDir"]), ""
    try:
        return data_root(read_config(config)), ""
    except ConfigError as error:
        return "", str(error)


def file_system(path: Path) -> dict[str, t.Any]:
    """The nearest existing directory at or above a path, and its file system."""
    nearest = path
    while not nearest.is_dir() and nearest != nearest.parent:
        nearest = nearest.parent
    status = os.statvfs(nearest)
    return {
        "path": str(nearest),
        "free_bytes": status.f_bavail * status.f_frsize,
        "device": nearest.stat().st_dev,
    }


def stored(stores: t.Iterable[Path], objects: list[dict[str, t.Any]]) -> tuple[int, int]:
    """Bytes of the wanted objects that are in these stores, parts included, and of those that may go."""
    sizes = {entry["oid"]: entry["size"] for entry in objects}
    present: dict[str, int] = {}
    reclaimable = 0
    for store in stores:
        for path in store.glob("objects/[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
            status = path.lstat()
            if path.name not in sizes:
                reclaimable += status.st_size if status.st_nlink == 1 else 0
            elif status.st_size == sizes[path.name]:
                present[path.name] = status.st_size
        for path in store.glob("vicuna-fleet/parts/*"):
            if path.name in sizes:
                # A part has its full size from the start; its blocks are what has arrived.
                present.setdefault(path.name, min(sizes[path.name], path.lstat().st_blocks * 512))
    return sum(present.values()), reclaimable


def memory_of(ids: list[str]) -> dict[str, int]:
    """MiB that the processes of each container hold."""
    kib = dict.fromkeys(ids, 0)
    for process in PROC.glob("[0-9]*") if ids else ():
        owner = container_of(read(process / "cgroup"), ids)
        if owner:
            kib[owner] += parse_rss(read(process / "status"))
    return {identifier: size // 1024 for identifier, size in kib.items()}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    # First of all: what follows takes its time.
    skew = time.time() - params["reference_time"] if params["reference_time"] else 0.0

    engine = Engine(params["socket"], max(1, params["timeout"]))
    _status, info = engine.get("/info")
    containers = parse_containers(engine.get("/containers/json?all=1")[1], params["project"])
    images = {name: engine.get(f"/images/{quote(name, safe='/:@')}/json")[0] == 200 for name in params["images"]}
    held = memory_of([container["id"] for container in containers if container["own"] and container["running"]])
    for container in containers:
        container["memory_mib"] = held.get(container["id"], 0)

    root, config_error = engine_root(info, DAEMON_JSON)
    systems = {"docker": file_system(Path(root))} if root else {}
    present, reclaimable = 0, 0
    if params["model_path"]:
        systems["model"] = file_system(Path(params["model_path"]))
        stores = [Path(params["model_path"]) / ".git" / "lfs"]
        stores += [Path(params["model_store"])] if params["model_store"] else []
        present, reclaimable = stored(stores, params["objects"])

    listening = ports.listeners(params["ports"])
    holders = ports.owners({listener.inode for listener in listening})
    memory = parse_meminfo(read(PROC / "meminfo"))
    host: dict[str, t.Any] = {
        "system": parse_os_release(read(OS_RELEASE)),
        "memory": memory,
        "clock_skew_s": round(skew, 3),
        "file_systems": systems,
        "objects_bytes": present,
        "reclaimable_bytes": reclaimable,
        "ports": ports.judge(params["ports"], params["bind_address"], listening, holders, containers),
        "engine": {
            "answers": not engine.error,
            "error": engine.error,
            "root": root,
            "config_error": config_error,
        },
        "containers": containers,
        "images": images,
    }
    result: dict[str, t.Any] = {"host": host}
    if params["gpus"]:
        # Imported by those that need it: three modules to read and compile.
        from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_info import look

        result["gpu"] = look(module, timeout=max(1, params["timeout"]))
    answers = "the engine answers" if not engine.error else f"no engine answers ({engine.error})"
    module.exit_json(changed=False, msg=f"{memory['available_mib']} MiB of memory available, {answers}", **result)


if __name__ == "__main__":
    main()
