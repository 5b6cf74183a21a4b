# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a host's CDI specifications name its GPUs, as its driver has them: no input, no output."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KIND = "nvidia.com/gpu="
# nvidia-cdi-refresh.service of the Container Toolkit 1.18 and later writes its specification where this variable says,
# by default below /var/run: gone at a boot until the unit has run, which may be after the engine started containers.
OUTPUT = "NVIDIA_CTK_CDI_OUTPUT_FILE_PATH"

_SETTING = re.compile(r"^\s*([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Spec:
    path: str
    driver_version: str  # empty where it mounts no library of the driver
    devices: tuple[str, ...]  # nvidia.com/gpu=0

    @property
    def names(self) -> set[str]:
        return {device[len(KIND) :] for device in self.devices if device.startswith(KIND)}


@dataclass(frozen=True)
class Gpu:
    index: int
    uuid: str
    # Pairs of index and UUID of its MIG devices.
    mig: tuple[tuple[int, str], ...] = ()


def problems(specs: Sequence[Spec], path: str, driver_version: str, gpus: Sequence[Gpu]) -> list[str]:
    """Why the specification has to be written anew; none where it is the only one, complete and of this driver."""
    of_gpus = [spec for spec in specs if spec.names]
    if not of_gpus:
        return ["no CDI specification names a GPU"]
    found = [f"{spec.path} is a second specification of the GPUs" for spec in of_gpus if spec.path != path]
    for spec in of_gpus:
        if spec.path != path:
            continue
        if spec.driver_version not in ("", driver_version):
            found.append(f"{path} is of driver {spec.driver_version}, and {driver_version} is loaded")
        found += _devices(spec, gpus)
    if path not in (spec.path for spec in of_gpus):
        found.append(f"{path} is missing")
    return found


def _devices(spec: Spec, gpus: Sequence[Gpu]) -> Iterator[str]:
    parts = [(gpu.index, number, uuid) for gpu in gpus for number, uuid in gpu.mig]
    by_index = {str(gpu.index) for gpu in gpus}, {f"{index}:{number}" for index, number, _uuid in parts}
    by_uuid = {gpu.uuid for gpu in gpus}, {uuid for _index, _number, uuid in parts}
    # A GPU in MIG mode is used by its devices; whether it is named itself differs between versions of nvidia-ctk.
    optional = {str(gpu.index) for gpu in gpus if gpu.mig} | {gpu.uuid for gpu in gpus if gpu.mig}
    if "all" not in spec.names:
        yield f"{spec.path} does not name the device all"
    # nvidia-ctk names by index, by UUID, or both: each way of naming that it uses has to be complete.
    for pattern, (whole, mig) in ((r"\d+(:\d+)?", by_index), (r"(GPU|MIG)-.+", by_uuid)):
        named, there = {name for name in spec.names if re.fullmatch(pattern, name)}, whole | mig
        if named and "" not in there and not there - optional <= named <= there:
            yield f"{spec.path} names {', '.join(sorted(named))}, and the host has {', '.join(sorted(there))}"


def settings(text: str) -> dict[str, str]:
    """The variables of a systemd environment file."""
    return {name: value.strip().strip("\"'") for name, value in _SETTING.findall(text)}


def with_output(text: str, path: str) -> str:
    """The environment file with the specification's place in it; everything else stays."""
    if settings(text).get(OUTPUT) == path:
        return text
    kept = [line for line in text.splitlines() if not re.match(rf"\s*{OUTPUT}\s*=", line)]
    return "\n".join([*kept, f"{OUTPUT}={path}"]) + "\n"
