#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: container_gpu_info
short_description: Tell whether a container sees exactly the host's GPUs
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Starts a container with the GPUs, has C(nvidia-smi) list them in there, and compares with those of the host.
  - No image is pulled. A throw-away one of a few MB is made of the host's own shell, loader and C library, and removed
    again with its container, also after a failure.
  - Where the container sees something else, or nothing, the cause is named together with what mends it.
  - The local engine is asked, whatever E(DOCKER_HOST) and the current context of the user say.
options:
  device:
    description: The CDI device that the container gets.
    type: str
    default: nvidia.com/gpu=all
  expected:
    description:
      - UUIDs of the GPUs and MIG devices that the container has to list, no more and no fewer.
      - When not given, those that C(nvidia-smi) lists on the host.
    type: list
    elements: str
  daemon_reload:
    description:
      - List the GPUs once more in the same container after C(systemctl daemon-reload) on the host, at which containers
        of NVIDIA's legacy runtime lose theirs.
      - Left out in check mode, and where systemd does not run the host.
    type: bool
    default: false
  socket:
    description: Where the engine listens.
    type: str
    default: unix:///var/run/docker.sock
  timeout:
    description: Seconds that each step may take. A sick GPU never answers.
    type: int
    default: 60
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
- name: Prove that containers see the GPUs, and keep them
  vicuna.fleet.container_gpu_info:
    daemon_reload: true
  register: proof
  failed_when: not proof.container_gpu.works
"""

RETURN = r"""
msg:
  description: What was found; where it does not work, also what was expected and what mends it.
  returned: always
  type: str
  sample: A container lists 2 GPUs of the host
container_gpu:
  description: What was found.
  returned: always
  type: dict
  contains:
    works:
      description: Whether the container listed exactly the GPUs that were expected, each time.
      type: bool
    expected:
      description: UUIDs that were expected.
      type: list
      elements: str
      sample: [GPU-ffa76d57-7bf9-6843-6627-953f70384126]
    listed:
      description: UUIDs that the container listed, at first.
      type: list
      elements: str
      sample: [GPU-ffa76d57-7bf9-6843-6627-953f70384126]
    reloaded:
      description: Whether they were listed once more after C(systemctl daemon-reload).
      type: bool
    code:
      description: A stable name of the cause of a failure; empty where it works.
      type: str
      sample: unresolvable
    cause:
      description: The cause of a failure in words; empty where it works.
      type: str
    remedy:
      description: What mends it; empty where it works.
      type: str
    evidence:
      description: What the engine or C(nvidia-smi) said about it.
      type: str
    seconds:
      description: Seconds that all of it took.
      type: float
"""

import io
import os
import secrets
import selectors
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._bounded import Done, bounded
from ansible_collections.vicuna.fleet.plugins.module_utils._container_gpu import (
    HUNG,
    LIST,
    NO_ENGINE,
    NO_HOST_GPUS,
    NO_IMAGE,
    RELOAD,
    SNAP,
    START,
    Finding,
    differing,
    explain,
    linked,
    listed,
    message,
)

SHELL = "/bin/sh"
# Its folder tells that systemd runs the host, as sd_booted(3) has it.
SYSTEMD = Path("/run/systemd/system")
# Where nvidia-smi may be beside the PATH: Debian's alternatives, WSL.
SMI_FOLDERS = ["/usr/lib/nvidia/current", "/usr/lib/wsl/lib"]
# Last on the container's PATH: used only where the CDI specification mounts none.
OWN_SMI = "/own/nvidia-smi"
# Folders at the root that are links where /usr is merged.
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# What belongs to the C library, and the driver's library may want of it.
C_LIBRARY = ("libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1")
# It ends when the module does, however that ends: its standard input is the module's pipe.
WAIT = "echo ready; read _"


class Failure(Exception):
    def __init__(self, finding: Finding, evidence: str = "") -> None:
        super().__init__(finding.cause)
        self.finding = finding
        self.evidence = evidence


def engine_environment() -> dict[str, str]:
    """The local engine is asked, whatever the user's variables say."""
    return {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}


def run(command: list[str], seconds: float, data: bytes | None = None) -> Done:
    return bounded(command, seconds, data, engine_environment())


def is_elf(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def needed(program: str, ldd: str, seconds: float) -> list[str]:
    return linked(run([ldd, program], seconds).out)


def root_file_system(files: dict[str, str]) -> bytes:
    """A tar archive: each file at its path, links followed, below the same merged folders as on the host."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:

        def add(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            member = tarfile.TarInfo(name.lstrip("/"))
            member.type, member.linkname, member.size, member.mode = kind, link, len(content), 0o755
            archive.addfile(member, io.BytesIO(content))

        for name in MERGED:
            if Path("/", name).is_symlink():
                add(name, kind=tarfile.SYMTYPE, link=str(Path("/", name).readlink()).lstrip("/"))
        for folder in ("etc", "etc/ld.so.conf.d", "tmp"):
            add(folder, kind=tarfile.DIRTYPE)
        # The toolkit's hook rewrites the loader's cache only where there is one.
        add("etc/ld.so.cache")
        add("etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n")
        for target, source in files.items():
            place = Path(os.path.realpath(Path(target).parent), Path(target).name)
            add(str(place), Path(source).read_bytes())
    return out.getvalue()


class Proof:
    """One container, from its image to its end."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        cli = module.get_bin_path("docker")
        if cli is None:
            raise Failure(NO_ENGINE, "there is no docker command")
        if cli.startswith("/snap/") or os.path.realpath(cli).startswith(("/snap/", "/var/lib/snapd/")):
            raise Failure(SNAP)
        self.docker = [cli, "--host", params["socket"]]
        self.device: str = params["device"]
        self.seconds: float = params["timeout"]
        self.smi: str | None = module.get_bin_path("nvidia-smi", opt_dirs=SMI_FOLDERS)
        self.ldd: str = module.get_bin_path("ldd") or "ldd"
        self.systemctl: str | None = module.get_bin_path("systemctl")
        self.name = f"vicuna-gpu-proof-{secrets.token_hex(4)}"
        self.image = ""
        self.holder: subprocess.Popen[bytes] | None = None

    def host_gpus(self) -> list[str]:
        if self.smi is None:
            raise Failure(NO_HOST_GPUS, "there is no nvidia-smi")
        done = run([self.smi, "-L"], self.seconds)
        if done.rc is None:
            raise Failure(HUNG, done.said)
        if not listed(done.out):
            raise Failure(NO_HOST_GPUS, done.said)
        return listed(done.out)

    def make_image(self) -> None:
        files = {path: path for path in [SHELL, *needed(SHELL, self.ldd, self.seconds)]}
        for path in [path for path in files if Path(path).name.startswith("libc.so.")]:
            beside = [str(Path(path).with_name(name)) for name in C_LIBRARY]
            files.update({name: name for name in beside if Path(name).exists()})
        if self.smi is not None and is_elf(self.smi):
            files.update({path: path for path in needed(self.smi, self.ldd, self.seconds)})
            files[OWN_SMI] = self.smi
        try:
            archive = root_file_system(files)
        except OSError as error:
            raise Failure(NO_IMAGE, str(error)) from error
        done = run([*self.docker, "import", "-"], self.seconds, archive)
        if done.rc is None:
            raise Failure(HUNG, done.said)
        if done.rc != 0:
            finding = explain(START, done.said)
            raise Failure(finding if finding is NO_ENGINE else NO_IMAGE, done.said)
        self.image = done.out.strip()

    def start(self) -> None:
        self.holder = subprocess.Popen(
            [
                *self.docker, "run", "--rm", "--interactive", "--name", self.name, "--device", self.device,
                "--network", "none", "--pull", "never", "--log-driver", "none", self.image, SHELL, "-c", WAIT,
            ],
            env=engine_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert self.holder.stdout is not None and self.holder.stderr is not None  # noqa: S101 pipes were asked for
        if not readable(self.holder.stdout, self.seconds):
            raise Failure(HUNG, f"the container did not start within {self.seconds:g} s")
        if not self.holder.stdout.readline():
            said = self.holder.stderr.read().decode(errors="replace").strip()
            raise Failure(explain(START, said), said)

    def list_gpus(self, stage: str, expected: list[str]) -> list[str]:
        folders = [Path(self.smi).parent, Path(os.path.realpath(self.smi)).parent] if self.smi else []
        path = ":".join([os.defpath, "/usr/local/bin:/usr/sbin:/sbin", *SMI_FOLDERS, *map(str, folders), "/own"])
        command = [*self.docker, "exec", self.name, SHELL, "-c", f"PATH={path}; exec nvidia-smi -L"]
        done = run(command, self.seconds)
        if done.rc is None:
            raise Failure(HUNG, done.said)
        if done.rc != 0 or not listed(done.out):
            raise Failure(explain(stage, done.said), done.said)
        finding = differing(expected, listed(done.out))
        if finding is not None:
            raise Failure(explain(stage, "") if stage == RELOAD else finding)
        return listed(done.out)

    def reload(self) -> bool:
        if self.systemctl is None or not SYSTEMD.is_dir():
            return False
        done = run([self.systemctl, "daemon-reload"], self.seconds)
        if done.rc != 0:
            raise Failure(Finding("no_reload", "`systemctl daemon-reload` fails", "Mend systemd first."), done.said)
        return True

    def end(self) -> None:
        if self.holder is not None:
            with suppress(OSError):
                if self.holder.stdin is not None:
                    self.holder.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self.holder.wait(5)
            if self.holder.returncode is None:
                run([*self.docker, "rm", "--force", self.name], self.seconds)
                self.holder.kill()
        if self.image:
            run([*self.docker, "rmi", "--force", self.image], self.seconds)


def readable(stream: IO[bytes], seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "device": {"type": "str", "default": "nvidia.com/gpu=all"},
            "expected": {"type": "list", "elements": "str"},
            "daemon_reload": {"type": "bool", "default": False},
            "socket": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    started = time.monotonic()
    found: dict[str, Any] = {
        "works": False,
        "expected": module.params["expected"] or [],
        "listed": [],
        "reloaded": False,
        "code": "",
        "cause": "",
        "remedy": "",
        "evidence": "",
    }

    def leave(text: str) -> NoReturn:
        found["seconds"] = round(time.monotonic() - started, 1)
        module.exit_json(changed=False, msg=text, container_gpu=found)
        raise AssertionError("exit_json returns never")

    proof: Proof | None = None
    try:
        proof = Proof(module)
        if module.params["expected"] is None:
            found["expected"] = proof.host_gpus()
        proof.make_image()
        proof.start()
        found["listed"] = proof.list_gpus(LIST, found["expected"])
        if module.params["daemon_reload"] and not module.check_mode:
            found["reloaded"] = proof.reload()
            if found["reloaded"]:
                proof.list_gpus(RELOAD, found["expected"])
    except Failure as failure:
        finding = failure.finding
        found.update(code=finding.code, cause=finding.cause, remedy=finding.remedy, evidence=failure.evidence)
        text = message(finding, len(found["expected"]), failure.evidence)
    else:
        found["works"] = True
        count = len(found["listed"])
        text = f"A container lists {count} GPU{'' if count == 1 else 's'} of the host"
        text += ", also after a daemon-reload" if found["reloaded"] else ""
    finally:
        if proof is not None:
            proof.end()
    leave(text)


if __name__ == "__main__":
    main()
