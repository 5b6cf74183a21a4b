#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: serving_info
short_description: Tell what a host serves, how busy it is, and whether it is still what was deployed
version_added: 0.2.0
author: The vicuna.fleet authors
description:
  - Reads the record of releases, the compose project's containers, the project's files, the model's stamps, the
    workers' queues and the GPUs, and changes nothing.
  - Never fails for what it cannot find. That is null, and its reason is in RV(serving.problems).
  - No weights are read, so that it takes a second or two.
options:
  state_dir:
    description: Folder of the record of releases, C(release.json), and of their snapshots.
    type: path
    default: /var/lib/vicuna
  project_dir:
    description: Folder of the compose project.
    type: path
    default: /opt/vicuna
  project:
    description: Name of the compose project.
    type: str
    default: vicuna
  timeout:
    description: Seconds that each query of the engine or of the driver may take.
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
seealso:
  - module: vicuna.fleet.fleet_status
  - module: vicuna.fleet.gpu_info
"""

EXAMPLES = r"""
- name: Look at what this host serves
  vicuna.fleet.serving_info:
  register: look

- name: Show in what it is not what was deployed
  ansible.builtin.debug:
    msg: "{{ look.serving.drift }}"
"""

RETURN = r"""
msg:
  description: The release, and how many problems there are, in words.
  returned: always
  type: str
  sample: release 3f2a91c07b1e, nothing differs
serving:
  description: What was found. What could not be told is null.
  returned: always
  type: dict
  contains:
    release:
      description: The release that the host is meant to run.
      type: dict
      contains:
        id:
          description: Its id.
          type: str
          sample: 3f2a91c07b1e
        pending:
          description: Whether no answer has verified it yet.
          type: bool
        created:
          description: When it was deployed, in UTC.
          type: str
          sample: "2026-11-22T20:15:03+00:00"
        verified:
          description: When an answer verified it, in UTC; null for never.
          type: str
          sample: "2026-11-22T20:15:31+00:00"
        tokens_per_second:
          description: The rate of that answer; null where it was not measured.
          type: float
          sample: 39.9
        commit:
          description: Commit of its model.
          type: str
        model_path:
          description: Folder of its model.
          type: str
        model_names:
          description: Names that clients may ask for.
          type: list
          elements: str
        images:
          description: Names of its images by target, V(edge), V(api) and V(worker).
          type: dict
        image_ids:
          description: Their ids.
          type: dict
        failed:
          description:
            - The newest release that failed. It has V(id), the time V(at), the V(reason), and V(settled), which is true
              where another one was verified after it.
            - Null where none failed.
          type: dict
    containers:
      description: Containers of the compose project.
      type: list
      elements: dict
      contains:
        service:
          description: Name of its service.
          type: str
          sample: model-worker
        id:
          description: The beginning of its id.
          type: str
        state:
          description: The engine's word for its state.
          type: str
          sample: running
        health:
          description: The engine's word for its health; empty without a health check.
          type: str
          sample: healthy
        image:
          description: Name of its image.
          type: str
        image_id:
          description: Id of its image.
          type: str
        started:
          description: When it was started, in UTC.
          type: str
          sample: "2026-11-22T20:15:09Z"
        uptime_s:
          description: Seconds since then; null while it does not run.
          type: int
        restarts:
          description: How often the engine has restarted it.
          type: int
        revision:
          description: Commit of the model that a worker was started with; empty for the others.
          type: str
        wants_gpu:
          description: Whether it was given devices.
          type: bool
        pid:
          description: Its first process on the host; 0 while it does not run.
          type: int
    unwell:
      description: Services that are not there, do not run, or are ill, in words.
      type: list
      elements: str
    drift:
      description: In what the host differs from its release, in words. A part is null where that cannot be told.
      type: dict
      contains:
        files:
          description: The project's files, and the services that began before the last change of a file that they read.
          type: list
          elements: str
          sample: ["compose.yaml differs"]
        images:
          description: The images of the containers.
          type: list
          elements: str
        model:
          description: The model on the disk, by commit and by the stamps of the files that were verified.
          type: list
          elements: str
    model:
      description: The model's folder, with its V(path), V(commit), the number of V(files), and which are V(changed).
      type: dict
    queue:
      description: Requests that wait or run in all workers together.
      type: int
      sample: 3
    queues:
      description: The same for each worker.
      type: dict
    gpu:
      description: The GPUs.
      type: dict
      contains:
        wanted:
          description: Whether a worker was given GPUs; null where there is no worker.
          type: bool
        on_bus:
          description: How many NVIDIA GPUs are on the PCI bus.
          type: int
        driver_version:
          description: Version of the loaded driver; empty where none is.
          type: str
        gpus:
          description: The GPUs that the driver lists, with V(index), V(name), V(memory_total_mib), V(memory_free_mib).
          type: list
          elements: dict
        memory_total_mib:
          description: Memory of all of them in MiB; null where one does not tell.
          type: int
        memory_free_mib:
          description: Free memory of all of them in MiB; null where one does not tell.
          type: int
        trouble:
          description: What is wrong with them; empty where nothing is, or where the workers use none.
          type: str
    problems:
      description: What could not be told, with V(about), one word, and V(message), the reason.
      type: list
      elements: dict
"""

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_driver as drivers
from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_smi as smi
from ansible_collections.vicuna.fleet.plugins.module_utils import _release as releases
from ansible_collections.vicuna.fleet.plugins.module_utils import _serving_info as info
from ansible_collections.vicuna.fleet.plugins.module_utils._bounded import bounded
from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_bus import NVIDIA, Device
from ansible_collections.vicuna.fleet.plugins.module_utils._worker_log import one_line

ROOT = Path("/")
SOCKET = "unix:///var/run/docker.sock"
PROGRAM_DIRECTORIES = ["/usr/local/nvidia/bin", "/opt/bin", "/run/nvidia/driver/usr/bin"]
LONGEST = 300


def read_record(path: Path, found: info.Found) -> dict[str, Any] | None:
    try:
        return releases.load(path.read_bytes(), str(path))
    except FileNotFoundError:
        found.problem(
            "release", f"there is no {path}: nothing was deployed here, not by this version, or it was removed"
        )
    except IsADirectoryError:
        found.problem("release", str(releases.damaged_record(f"{path} is no file.")))
    except OSError as error:
        found.problem("release", f"{path} cannot be read: {error.strerror}")
    except releases.ReleaseError as error:
        found.problem("release", str(error))
    return None


def read_containers(docker: str | None, project: str, timeout: int, found: info.Found) -> list[info.Container] | None:
    if docker is None:
        found.problem("containers", "there is no docker command")
        return None
    label = "label=com.docker.compose."
    words = [docker, "--host", SOCKET]
    listed = bounded(
        [*words, "ps", "-aq", "--filter", f"{label}project={project}", "--filter", f"{label}oneoff=False"], timeout
    )
    ids = listed.out.split()
    said = bounded([*words, "inspect", *ids], timeout) if listed.rc == 0 and ids else listed
    if said.rc != 0:
        found.problem("containers", f"docker does not tell: {one_line(said.said, LONGEST)}")
        return None
    try:
        return info.containers(json.loads(said.out) if ids else [], time.time())
    except (ValueError, TypeError, AttributeError) as error:
        found.problem("containers", f"docker's answer cannot be read: {error}")
        return None


def read_queues(
    docker: str, containers: list[info.Container], timeout: int, found: info.Found
) -> tuple[int | None, dict[str, int]]:
    """The sum is None unless every worker answers."""
    workers = [each.service for each in containers if each.of_worker and each.state == "running"]
    api = next((each for each in containers if each.service == "api-server" and each.state == "running"), None)
    if api is None or not workers:
        found.problem("queue", f"no {'worker' if api else 'api-server'} runs")
        return None, {}
    said = bounded([docker, "--host", SOCKET, "exec", api.id, "python3", "-c", info.QUEUE_PROGRAM, *workers], timeout)
    if said.rc != 0:
        found.problem("queue", f"the api-server's container does not tell: {one_line(said.said, LONGEST)}")
        return None, {}
    queues, silent = info.parse_queues(said.out)
    for line in silent:
        found.problem("queue", one_line(line, LONGEST))
    return (None if silent else sum(queues.values())), queues


def gpus_on_bus() -> int:
    devices = (
        Device(folder.name, "", contents(folder / "class")[2:], "", -1)
        for folder in (ROOT / "sys/bus/pci/devices").glob("*")
        if contents(folder / "vendor") == f"0x{NVIDIA}"
    )
    return sum(device.kind == "gpu" for device in devices)


def contents(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def read_gpu(program: str | None, wanted: bool | None, timeout: int) -> dict[str, Any]:
    loaded = contents(ROOT / "proc/driver/nvidia/version")
    on_bus = gpus_on_bus()
    answer = smi.Answer(False, "there is no nvidia-smi")
    if not loaded:
        # nvidia-smi would load the module.
        answer = smi.Answer(False, "the kernel module nvidia is not loaded")
    elif program is not None:
        said = bounded([program, *smi.QUERY], timeout)
        hung = smi.Answer(False, f"nvidia-smi gave no answer within {timeout} s: a GPU or the driver hangs")
        answer = hung if said.hung else smi.parse_query(said.out, said.err)
    free = [gpu.memory_free_mib for gpu in answer.gpus]
    total = [gpu.memory_total_mib for gpu in answer.gpus]
    return {
        "wanted": wanted,
        "on_bus": on_bus,
        "driver_version": drivers.parse_loaded(loaded)[0],
        "gpus": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "memory_total_mib": gpu.memory_total_mib,
                "memory_free_mib": gpu.memory_free_mib,
            }
            for gpu in answer.gpus
        ],
        "memory_total_mib": info.total(total),
        "memory_free_mib": info.total(free),
        "trouble": one_line(info.gpu_trouble(on_bus, answer.gpus, answer.error, wanted), LONGEST),
    }


def look(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    state_dir, project_dir = Path(params["state_dir"]), Path(params["project_dir"])
    found, drift = info.Found(), info.Drift()
    record = read_record(state_dir / "release.json", found)
    release = info.release_of(record) if record else None
    if record and release is None:
        found.problem("release", "the record names no release that runs")
    docker = module.get_bin_path("docker")
    containers = read_containers(docker, params["project"], params["timeout"], found)
    queue: int | None = None
    queues: dict[str, int] = {}
    if docker and containers:
        queue, queues = read_queues(docker, containers, params["timeout"], found)
    model = None
    if release and release["model_path"]:
        model, wrong = info.model_state(Path(release["model_path"]))
        if wrong:
            found.problem("model", wrong)
    if record and release:
        copies = releases.Snapshots(state_dir / "releases")
        drift.files, wrong = info.file_drift(record, release["id"], copies, project_dir)
        if wrong:
            found.problem("files", wrong)
        if drift.files is not None:
            files, served = copies.restore(release["id"]), record["releases"][release["id"]].get("model") or {}
            drift.files += info.stale_drift(containers or [], files, project_dir, served, time.time())
        drift.model = info.model_drift(containers or [], model, release)
        if containers is not None:
            drift.images = info.image_drift(containers, release)
    workers = [each for each in containers or [] if each.of_worker]
    wanted = any(each.wants_gpu for each in workers) if workers else None
    return {
        "release": release,
        "containers": None if containers is None else [vars(each) for each in containers],
        "unwell": None if containers is None else info.unwell(containers),
        "drift": vars(drift),
        "model": model,
        "queue": queue,
        "queues": queues,
        "gpu": read_gpu(module.get_bin_path("nvidia-smi", opt_dirs=PROGRAM_DIRECTORIES), wanted, params["timeout"]),
        "problems": found.problems,
    }


def message(serving: dict[str, Any]) -> str:
    release = serving["release"]
    differs = sum(len(lines or []) for lines in serving["drift"].values())
    words = [f"release {release['id']}" if release else "no release"]
    words.append("nothing differs" if not differs else f"{differs} difference{'' if differs == 1 else 's'}")
    if serving["problems"]:
        words.append(f"{len(serving['problems'])} things could not be told")
    return ", ".join(words)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "default": "/var/lib/vicuna"},
            "project_dir": {"type": "path", "default": "/opt/vicuna"},
            "project": {"type": "str", "default": "vicuna"},
            "timeout": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    serving = look(module)
    module.exit_json(changed=False, msg=message(serving), serving=serving)


if __name__ == "__main__":
    main()
