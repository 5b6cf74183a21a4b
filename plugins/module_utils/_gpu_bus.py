# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the PCI bus alone tells of NVIDIA devices, without any driver: no input, no output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NVIDIA = "10de"
DISPLAY_CLASS = "03"
# "Bridge, other". NVIDIA's own tools tell an NVSwitch by it: PCINvSwitchClass in go-nvlib's pkg/nvpci.
NVSWITCH_CLASS = "0680"

GRACE_HOPPER = "Grace Hopper"
OLD = "Kepler or older"

# First and last device id, generation, CUDA compute capability (empty: the driver is asked).
# Ids: pci.ids, 2025-06-09, by the chips' names (GM, GP, GV, TU, GA, AD, GH, GB), and the table "Compatible GPUs" in the
# README of NVIDIA/open-gpu-kernel-modules. Capabilities: NVIDIA's table "CUDA GPU Compute Capability".
CHIPS = (
    (0x0000, 0x133F, OLD, ""),
    (0x1340, 0x13BD, "Maxwell", "5.0"),
    (0x13BE, 0x15BF, "Maxwell", "5.2"),
    (0x15C0, 0x15FF, "Pascal", "6.0"),
    (0x1600, 0x16FF, "Maxwell", "5.2"),
    (0x1700, 0x173F, "Pascal", "6.0"),
    (0x1740, 0x17BF, "Maxwell", "5.0"),
    (0x17C0, 0x17FF, "Maxwell", "5.2"),
    (0x1B00, 0x1D7F, "Pascal", "6.1"),
    (0x1D80, 0x1DFF, "Volta", "7.0"),
    (0x1E00, 0x1FFF, "Turing", "7.5"),
    (0x2080, 0x20FF, "Ampere", "8.0"),
    (0x2180, 0x21FF, "Turing", "7.5"),
    (0x2200, 0x2294, "Ampere", "8.6"),
    (0x2300, 0x233F, "Hopper", "9.0"),
    (0x2340, 0x234F, GRACE_HOPPER, "9.0"),
    (0x2350, 0x23FF, "Hopper", "9.0"),
    (0x2400, 0x25FF, "Ampere", "8.6"),
    (0x2680, 0x28FF, "Ada Lovelace", "8.9"),
    (0x2900, 0x29FF, "Blackwell", "10.0"),
    (0x2B80, 0x2DFF, "Blackwell", "12.0"),
    (0x2E00, 0x2EFF, "Blackwell", ""),
    (0x2F00, 0x2FFF, "Blackwell", "12.0"),
    (0x3180, 0x33FF, "Blackwell", "10.3"),
)
# Grace Hopper and Blackwell must have the open modules, Maxwell, Pascal and Volta cannot: developer.nvidia.com/blog,
# "NVIDIA Transitions Fully Towards Open-Source GPU Kernel Modules", 2024-07-17. Later ids are taken for the former.
FIRST_THAT_REQUIRES_OPEN = 0x2900
NOT_OPEN = frozenset({OLD, "Maxwell", "Pascal", "Volta"})


@dataclass(frozen=True)
class Device:
    """One NVIDIA device of the bus."""

    address: str
    device_id: str
    device_class: str
    kernel_driver: str
    numa_node: int

    @property
    def kind(self) -> str:
        if self.device_class.startswith(DISPLAY_CLASS):
            return "gpu"
        return "nvswitch" if self.device_class.startswith(NVSWITCH_CLASS) else "other"

    @property
    def generation(self) -> str:
        return chip(self.device_id)[0] if self.kind == "gpu" else ""


def chip(device_id: str) -> tuple[str, str]:
    """Generation and compute capability of a device id, empty where the table does not know it."""
    number = int(device_id, 16)
    for first, last, generation, capability in CHIPS:
        if first <= number <= last:
            return generation, capability
    return "", ""


def open_modules(devices: Iterable[Device]) -> str:
    """Whether the GPUs may or must be driven by NVIDIA's open kernel modules; a host loads one kind for all of them."""
    gpus = [device for device in devices if device.kind == "gpu"]
    if not gpus:
        return ""
    if any(gpu.generation in NOT_OPEN for gpu in gpus):
        return "unsupported"
    if any(gpu.generation == GRACE_HOPPER or int(gpu.device_id, 16) >= FIRST_THAT_REQUIRES_OPEN for gpu in gpus):
        return "required"
    return "supported"


def address(text: str) -> str:
    """A bus address as sysfs writes it: nvidia-smi says 00000000:3B:00.0 for 0000:3b:00.0."""
    domain, _colon, rest = text.strip().lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}" if rest else ""
    except ValueError:
        return ""
