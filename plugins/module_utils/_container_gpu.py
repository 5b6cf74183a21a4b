# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a container sees of a host's GPUs, and why it sees less: no input, no output."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# The step in which something was said: the container's start, the first listing, the listing after a daemon-reload.
START, LIST, RELOAD = "start", "list", "reload"

ANEW = "Write the CDI specification anew: `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`."

_UUID = re.compile(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)")
_LINKED = re.compile(r"(?:^|=>|\s)\s*(/[^\s(]+)")


@dataclass(frozen=True)
class Finding:
    code: str  # stable name of the cause, for programs
    cause: str
    remedy: str


@dataclass(frozen=True)
class _Known:
    pattern: str
    finding: Finding


def listed(out: str) -> list[str]:
    """UUIDs of GPUs and MIG devices, from `nvidia-smi -L`."""
    return _UUID.findall(out)


def linked(out: str) -> list[str]:
    """The loader and the libraries that `ldd` names; none for a static program or a script."""
    paths: list[str] = []
    for line in out.splitlines():
        if "not a dynamic executable" in line or "statically linked" in line:
            return []
        paths += _LINKED.findall(line)
    return list(dict.fromkeys(paths))


def explain(stage: str, text: str) -> Finding:
    """The most specific explanation of what the engine, or nvidia-smi in the container, said."""
    if stage == RELOAD:
        return LOST
    for known in _KNOWN:
        if re.search(known.pattern, text, re.IGNORECASE | re.DOTALL):
            return known.finding
    if stage == START:
        return Finding(
            "not_started",
            "the engine does not start a container with the GPUs",
            "Look at `journalctl --unit docker` on the host.",
        )
    return Finding(
        "not_listed",
        "nvidia-smi fails in a container",
        f"Compare with `nvidia-smi` on the host. If that works: {ANEW}",
    )


def differing(expected: Iterable[str], seen: Iterable[str]) -> Finding | None:
    """What to say where a container lists other GPUs than the host; None where it lists the same."""
    wanted, found = set(expected), set(seen)
    if wanted == found:
        return None
    words = []
    if wanted - found:
        words.append(f"does not list {', '.join(sorted(wanted - found))}")
    if found - wanted:
        words.append(f"lists {', '.join(sorted(found - wanted))}, which the host does not have")
    return Finding(
        "other_gpus",
        f"a container {' and '.join(words)}",
        f"The CDI specification is of other GPUs, or of another MIG layout. {ANEW}",
    )


def message(finding: Finding, expected: int, evidence: str = "") -> str:
    """The three parts: what was found, what was expected, what mends it."""
    said = re.sub(r"\s+", " ", evidence).strip()
    # The engine puts what matters last.
    said = said if len(said) <= 300 else f"… {said[-300:]}"
    found = f"Found that {finding.cause}" + (f" ({said})" if said else "")
    gpus = "its GPUs" if not expected else "1 GPU" if expected == 1 else f"{expected} GPUs"
    return f"{found}. Expected a container that lists {gpus} of the host. {finding.remedy}"


NO_ENGINE = Finding(
    "no_engine",
    "no engine answers",
    "Start Docker Engine, or run the role docker. A rootless engine listens elsewhere and cannot be used here.",
)
SNAP = Finding(
    "snap",
    "Docker is a snap, whose confinement hides GPUs from it",
    "Save what you need of its containers, run `snap remove docker`, then run the role docker.",
)
NO_HOST_GPUS = Finding(
    "no_host_gpus",
    "nvidia-smi lists no GPU on the host itself",
    "Mend the driver first: the role nvidia_driver says what is wrong with it.",
)
NO_IMAGE = Finding(
    "no_image",
    "the throw-away image cannot be made of the host's own files",
    "Expected are /bin/sh and ldd on the host, and a tenth of a gigabyte of free disk below the engine's root.",
)
HUNG = Finding(
    "hung",
    "no answer came in time",
    "A sick GPU hangs nvidia-smi (`dmesg | grep -i xid`), a sick engine its commands (`journalctl --unit docker`). The "
    "option timeout gives more time.",
)
LOST = Finding(
    "lost_after_reload",
    "a container loses its GPUs at `systemctl daemon-reload`",
    "systemd does not know the devices of such a container. Expected is CDI, not the legacy runtime: look for "
    '"default-runtime": "nvidia" in /etc/docker/daemon.json; containers that run already have to be started anew.',
)

# Ordered: the first that matches is told. Sources: the engine's, runc's and NVML's own words, as users report them in
# NVIDIA/nvidia-container-toolkit #48, #146, #251, #434, #1227, #1239, #1860 and moby/moby daemon/cdi.go.
_KNOWN = (
    _Known(r"cannot connect to the docker daemon|permission denied.*docker\.sock", NO_ENGINE),
    _Known(
        r'could not select device driver "cdi"',
        Finding(
            "cdi_off",
            "CDI is switched off in the engine",
            'Set {"features": {"cdi": true}} in /etc/docker/daemon.json and restart the engine, which the role '
            "nvidia_container_toolkit does. Docker Engine 25 and later know CDI.",
        ),
    ),
    _Known(
        r'could not select device driver ""',
        Finding(
            "no_legacy_runtime",
            "the engine knows no device driver for GPUs",
            "Ask for the GPUs by CDI, `--device nvidia.com/gpu=all`, or set "
            "nvidia_container_toolkit_legacy_runtime: true for `--gpus`.",
        ),
    ),
    _Known(
        r"unresolvable CDI devices",
        Finding(
            "unresolvable",
            "the engine knows no such CDI device",
            "No CDI specification names it, or two in one folder do, or the engine cannot read the one that is there "
            f"(CDI 0.7.0 takes Docker Engine 26.1). `nvidia-ctk --debug cdi list` tells which. {ANEW}",
        ),
    ),
    _Known(
        r"(nvidia-cdi-hook|nvidia-ctk)\S*: (no such file|executable file not found)",
        Finding(
            "no_hook",
            "the CDI specification calls a program of the Container Toolkit that is not there",
            f"Install the Container Toolkit again. {ANEW}",
        ),
    ),
    _Known(
        r'exec: "[^"]*runtime[^"]*": executable file not found|unknown or invalid runtime name',
        Finding(
            "no_runtime",
            "daemon.json names a runtime that is not there",
            "Install the Container Toolkit, or take the runtime and default-runtime out of /etc/docker/daemon.json.",
        ),
    ),
    _Known(
        r"nvidia-container-cli: .*",
        Finding(
            "legacy_hook",
            "the legacy runtime's hook fails",
            'It is not needed with CDI: look for "default-runtime": "nvidia" in /etc/docker/daemon.json.',
        ),
    ),
    _Known(
        r'adding custom device "/dev/nvidia|"?/dev/nvidia[^"\s]*"?: no such (file|device)',
        Finding(
            "no_device_node",
            "a device node of the CDI specification is not there",
            f"Load the driver and have it make its nodes: `nvidia-smi`, `nvidia-modprobe --unified-memory`. {ANEW}",
        ),
    ),
    _Known(
        r'error mounting "[^"]+".*no such file or directory|\.so\.[0-9.]+\S*: no such file or directory',
        Finding(
            "stale_spec",
            "the CDI specification names a file of a driver that is no longer there",
            f"The driver has changed since it was written. {ANEW}",
        ),
    ),
    _Known(
        r"driver/library version mismatch",
        Finding(
            "mismatch",
            "the loaded kernel module and the driver's libraries are of different versions",
            "Reboot the host, or load the new module; the role nvidia_driver does it with nvidia_driver_reboot: true.",
        ),
    ),
    _Known(
        r"failed to initialize NVML: unknown error",
        Finding(
            "denied",
            "the container may not open the GPUs' device nodes",
            "A container of the legacy runtime loses them at `systemctl daemon-reload`: start it anew, by CDI.",
        ),
    ),
    _Known(
        r"insufficient permissions",
        Finding(
            "permissions",
            "the container's user may not open the GPUs' device nodes",
            "Expected is mode 0666 for /dev/nvidia*: see NVreg_DeviceFileMode in /etc/modprobe.d on the host.",
        ),
    ),
    _Known(
        r"couldn't find libnvidia-ml|libnvidia-ml\.so\S* (not found|could not be found)|NVML: (library )?not found",
        Finding(
            "no_library",
            "the container does not find the driver's library libnvidia-ml.so.1",
            f"The CDI specification does not mount it, or not where the loader looks. {ANEW}",
        ),
    ),
    _Known(
        r"driver not loaded|couldn't communicate with the NVIDIA driver",
        Finding(
            "no_driver",
            "the driver's kernel module is not loaded",
            "Run the role nvidia_driver, or `modprobe nvidia` on the host.",
        ),
    ),
    _Known(
        r"no devices (were )?found",
        Finding(
            "no_devices",
            "the container has no GPU",
            f"The CDI specification names no device node that answers. {ANEW}",
        ),
    ),
    _Known(
        r"nvidia-smi: not found|nvidia-smi: no such file",
        Finding(
            "no_nvidia_smi",
            "neither the CDI specification nor the host has nvidia-smi",
            f"Install the driver's utilities (nvidia-smi, nvidia-utils). {ANEW}",
        ),
    ),
)
