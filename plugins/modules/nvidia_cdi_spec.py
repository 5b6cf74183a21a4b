#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: nvidia_cdi_spec
short_description: Keep one CDI specification of a host's NVIDIA GPUs
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Has C(nvidia-ctk) write the CDI specification where it is missing, is of another driver, or names other GPUs than
    the host has.
  - Other specifications of the same devices are removed. In one folder they make the devices unresolvable, and one
    below C(/var/run/cdi) hides that of C(/etc/cdi).
  - C(nvidia-cdi-refresh.service) of the Container Toolkit 1.18 and later is told to write the same file.
options:
  driver_version:
    description: Version of the loaded driver, as in RV(vicuna.fleet.gpu_info#module:gpu.driver.version).
    type: str
    required: true
  gpus:
    description: The GPUs, as in RV(vicuna.fleet.gpu_info#module:gpu.gpus).
    type: list
    elements: dict
    required: true
  path:
    description: The specification.
    type: path
    default: /etc/cdi/nvidia.yaml
  directories:
    description: Where the engine looks for specifications.
    type: list
    elements: path
    default: [/etc/cdi, /var/run/cdi]
  service_settings:
    description: The environment file of C(nvidia-cdi-refresh.service). It is not made where it is missing.
    type: path
    default: /etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
  timeout:
    description: Seconds that C(nvidia-ctk) may take. It asks the driver, and a sick GPU never answers.
    type: int
    default: 60
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return changed status prediction without modifying the host.
  diff_mode:
    support: none
    description: Returns no diff. RV(reasons) says why it is written.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing.
"""

EXAMPLES = r"""
- name: Ask for the GPUs
  vicuna.fleet.gpu_info:
  register: probe

- name: Keep the CDI specification
  vicuna.fleet.nvidia_cdi_spec:
    driver_version: "{{ probe.gpu.driver.version }}"
    gpus: "{{ probe.gpu.gpus }}"
"""

RETURN = r"""
msg:
  description: What was done.
  returned: success
  type: str
  sample: "Wrote /etc/cdi/nvidia.yaml: no CDI specification names a GPU"
reasons:
  description: Why the specification was written.
  returned: success
  type: list
  elements: str
  sample: ["/etc/cdi/nvidia.yaml is of driver 550.163.01, and 580.159.04 is loaded"]
removed:
  description: Other specifications of the GPUs that were removed.
  returned: success
  type: list
  elements: str
  sample: [/var/run/cdi/nvidia.yaml]
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils import _cdi_spec as cdi
from ansible_collections.vicuna.fleet.plugins.module_utils._bounded import bounded
from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_driver import parse_cdi

SUFFIXES = (".json", ".yaml", ".yml")


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def specifications(directories: list[str]) -> list[cdi.Spec]:
    found = []
    for directory in directories:
        for path in sorted(Path(directory).glob("*")):
            parsed = parse_cdi(str(path), read(path)) if path.suffix in SUFFIXES else None
            if parsed is not None:
                found.append(cdi.Spec(parsed.path, parsed.driver_version, tuple(parsed.devices)))
    return found


def generate(program: str, path: str, variables: dict[str, str], seconds: int) -> str:
    """Has nvidia-ctk write the specification; returns what went wrong."""
    done = bounded([program, "cdi", "generate", f"--output={path}"], seconds, environment={**os.environ, **variables})
    if done.rc == 0:
        return ""
    if done.hung:
        return f"it gave no answer within {seconds} s"
    return done.said.splitlines()[-1] if done.said else f"exit code {done.rc}"


def write(module: AnsibleModule, path: Path, text: str) -> None:
    candidate = Path(module.tmpdir, path.name)
    candidate.write_text(text, encoding="utf-8")
    module.atomic_move(str(candidate), str(path))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "driver_version": {"type": "str", "required": True},
            "gpus": {"type": "list", "elements": "dict", "required": True},
            "path": {"type": "path", "default": "/etc/cdi/nvidia.yaml"},
            "directories": {"type": "list", "elements": "path", "default": ["/etc/cdi", "/var/run/cdi"]},
            "service_settings": {
                "type": "path",
                "default": "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env",
            },
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    path: str = module.params["path"]
    settings = Path(module.params["service_settings"])
    gpus = [
        cdi.Gpu(
            gpu["index"], gpu["uuid"], tuple((part["index"], part["uuid"]) for part in gpu.get("mig_devices") or [])
        )
        for gpu in module.params["gpus"]
    ]

    def judge() -> tuple[list[str], list[str]]:
        """What is wrong, and which other files name GPUs."""
        specs = specifications(module.params["directories"])
        others = [spec.path for spec in specs if spec.names and spec.path != path]
        return cdi.problems(specs, path, module.params["driver_version"], gpus), others

    reasons, others = judge()
    there = read(settings)
    if settings.exists() and cdi.with_output(there, path) != there:
        reasons.append(f"nvidia-cdi-refresh.service writes another file than {path}")
    result: dict[str, Any] = {"changed": bool(reasons), "reasons": reasons, "removed": others}
    if not reasons:
        module.exit_json(**result, msg=f"{path} names the host's GPUs")
    if module.check_mode:
        module.exit_json(**result, msg=f"Would write {path}: {'; '.join(reasons)}")

    program = module.get_bin_path("nvidia-ctk")
    if program is None:
        module.fail_json(
            msg=f"Found no nvidia-ctk. Expected it, since {'; '.join(reasons)}. Install NVIDIA's Container Toolkit.",
            reasons=reasons,
        )
    if settings.exists():
        write(module, settings, cdi.with_output(there, path))
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    variables = {name: value for name, value in cdi.settings(there).items() if name != cdi.OUTPUT}
    error = generate(program, path, variables, module.params["timeout"])
    if error:
        module.fail_json(
            msg=(
                f"Found that `nvidia-ctk cdi generate` fails: {error}. Expected the host's GPUs in {path}. The "
                "driver has to answer `nvidia-smi` on the host; the role nvidia_driver says what is wrong with it."
            ),
            reasons=reasons,
        )
    for other in others:
        Path(other).unlink(missing_ok=True)
    left, _others = judge()
    if left:
        module.fail_json(
            msg=(
                f"Found after `nvidia-ctk cdi generate`: {'; '.join(left)}. Expected the host's GPUs, and driver "
                f"{module.params['driver_version']}. `nvidia-ctk --debug cdi generate` tells what it found; the "
                "libraries of two drivers on one host are the usual cause."
            ),
            reasons=reasons,
        )
    module.exit_json(**result, msg=f"Wrote {path}: {'; '.join(reasons)}")


if __name__ == "__main__":
    main()
