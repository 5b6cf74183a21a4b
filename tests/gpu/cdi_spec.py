#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write a CDI specification for a machine without nvidia-ctk, whose driver lies in a folder of its own.

    cdi_spec.py --driver-folder /usr/local/nvidia > /etc/cdi/nvidia.json

It stands in for ``nvidia-ctk cdi generate``: every /dev/nvidia* node, the driver's folder read-only at its own path,
and its compute libraries where a container's loader looks by itself.
Format: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

LOADER = f"/usr/lib/{platform.machine()}-linux-gnu"


def mount(source: str, target: str, kind: str) -> dict[str, Any]:
    return {"hostPath": source, "containerPath": target, "options": ["ro", "nosuid", "nodev", kind]}


def specification(folder: Path, devices: Path = Path("/dev")) -> dict[str, Any]:
    """The specification as nvidia-ctk names things: one device for each GPU by index, and ``all``."""
    nodes = sorted(
        str(node) for node in [*devices.glob("nvidia*"), *devices.glob("nvidia-caps/*")] if not node.is_dir()
    )
    gpus = [node for node in nodes if re.fullmatch(r".*/nvidia\d+", node)]
    shared = [node for node in nodes if node not in gpus]

    def device(name: str, paths: list[str]) -> dict[str, Any]:
        return {"name": name, "containerEdits": {"deviceNodes": [{"path": path} for path in paths]}}

    single = [device(re.sub(r"\D*", "", Path(path).name), [path]) for path in gpus]
    mounts = [mount(str(folder), str(folder), "rbind")]
    for path in sorted((folder / "lib64").glob("lib*.so.*")):
        if re.match(r"lib(cuda|nvidia-)", path.name):
            mounts.append(mount(str(path.resolve()), f"{LOADER}/{path.name}", "bind"))
    return {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [*single, device("all", gpus)],
        "containerEdits": {
            "deviceNodes": [{"path": path} for path in shared],
            "mounts": mounts,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a CDI specification to stdout.")
    parser.add_argument("--driver-folder", type=Path, required=True)
    json.dump(specification(parser.parse_args().driver_folder), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
