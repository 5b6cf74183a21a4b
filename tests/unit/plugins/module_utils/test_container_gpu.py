# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._container_gpu import (
    LIST,
    RELOAD,
    START,
    Finding,
    differing,
    explain,
    linked,
    listed,
    message,
)

# `nvidia-smi -L` of driver 580 on an H200 host, UUIDs made up; and with MIG, as NVIDIA's MIG user guide shows it.
TWO_GPUS = """\
GPU 0: NVIDIA H200 (UUID: GPU-0f1e2d3c-0001-4b5a-8697-a1b2c3d4e5f6)
GPU 1: NVIDIA H200 (UUID: GPU-0f1e2d3c-0002-4b5a-8697-a1b2c3d4e5f6)
"""
MIG = """\
GPU 0: A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
"""
# `ldd /bin/sh` of Debian 13, of NixOS, of a static program, of a script.
DEBIAN = """\
\tlinux-vdso.so.1 (0x00007ffd5a5e6000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2c8a200000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f2c8a4a5000)
"""
NIXOS = """\
\tlinux-vdso.so.1 (0x00007fff0b1c2000)
\tlibc.so.6 => /nix/store/abc-glibc-2.40/lib/libc.so.6 (0x00007f1d1c000000)
\t/nix/store/abc-glibc-2.40/lib/ld-linux-x86-64.so.2 => /nix/store/abc-glibc-2.40/lib64/ld-linux-x86-64.so.2 (0x00007f)
"""
ERROR = "docker: Error response from daemon: "
RUNC = (
    ERROR + "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create "
    "failed: unable to start container process: error during container init: "
)
# What Docker Engine 26.1.5 said, and what users of other versions report.
SAID = [
    (START, ERROR + 'could not select device driver "cdi" with capabilities: [].', "cdi_off"),
    (START, ERROR + 'could not select device driver "" with capabilities: [[gpu]].', "no_legacy_runtime"),
    (START, ERROR + "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all.", "unresolvable"),
    (
        START,
        RUNC + 'error mounting "/usr/lib/x86_64-linux-gnu/libcuda.so.550.1" to rootfs at "/usr/lib/x86_64-linux-gnu/'
        'libcuda.so.550.1": create mount destination for /usr/lib/x86_64-linux-gnu/libcuda.so.550.1 mount: bind mount '
        "source stat: stat /usr/lib/x86_64-linux-gnu/libcuda.so.550.1: no such file or directory: unknown.",
        "stale_spec",
    ),
    (
        START,
        ERROR + "CDI device injection failed: failed to inject devices: failed to stat CDI host device "
        '"/dev/nvidia7": no such file or directory.',
        "no_device_node",
    ),
    (
        START,
        ERROR + 'error gathering device information while adding custom device "/dev/nvidia-uvm": no such file or '
        "directory.",
        "no_device_node",
    ),
    (
        START,
        RUNC + "error running hook #0: fork/exec /usr/bin/nvidia-cdi-hook: no such file or directory: unknown.",
        "no_hook",
    ),
    (
        START,
        ERROR + "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to "
        "retrieve OCI runtime error (open /run/containerd/io.containerd.runtime.v2.task/moby/6a86/log.json: no such "
        'file or directory): exec: "nvidia-container-runtime": executable file not found in $PATH: unknown.',
        "no_runtime",
    ),
    (START, ERROR + "unknown or invalid runtime name: nvidia.", "no_runtime"),
    (
        START,
        RUNC + "error running hook #0: error running hook: exit status 1, stdout: , stderr: Auto-detected mode as "
        "'legacy' nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown.",
        "legacy_hook",
    ),
    (
        START,
        "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "no_engine",
    ),
    (START, ERROR + "no space left on device.", "not_started"),
    (LIST, "Failed to initialize NVML: Unknown Error", "denied"),
    (LIST, "Failed to initialize NVML: Insufficient Permissions", "permissions"),
    (
        LIST,
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159",
        "mismatch",
    ),
    (LIST, "Failed to initialize NVML: Driver Not Loaded", "no_driver"),
    (
        LIST,
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
        "NVIDIA driver is installed and running.",
        "no_driver",
    ),
    (
        LIST,
        "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display "
        "Driver is properly installed and present in your system.",
        "no_library",
    ),
    (LIST, "No devices were found", "no_devices"),
    (LIST, "No devices found.", "no_devices"),
    (LIST, "/bin/sh: 1: exec: nvidia-smi: not found", "no_nvidia_smi"),
    (LIST, "Segmentation fault", "not_listed"),
    (RELOAD, "Failed to initialize NVML: Unknown Error", "lost_after_reload"),
    (RELOAD, "", "lost_after_reload"),
]


@pytest.mark.parametrize(
    ("out", "uuids"),
    [
        (
            TWO_GPUS,
            ["GPU-0f1e2d3c-0001-4b5a-8697-a1b2c3d4e5f6", "GPU-0f1e2d3c-0002-4b5a-8697-a1b2c3d4e5f6"],
        ),
        (
            MIG,
            [
                "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77",
                "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f",
                "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb",
            ],
        ),
        ("No devices were found\n", []),
        ("", []),
    ],
)
def test_listed(out: str, uuids: list[str]) -> None:
    assert listed(out) == uuids


@pytest.mark.parametrize(
    ("out", "paths"),
    [
        (DEBIAN, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]),
        (
            NIXOS,
            [
                "/nix/store/abc-glibc-2.40/lib/libc.so.6",
                "/nix/store/abc-glibc-2.40/lib/ld-linux-x86-64.so.2",
                "/nix/store/abc-glibc-2.40/lib64/ld-linux-x86-64.so.2",
            ],
        ),
        ("\tstatically linked\n", []),
        ("\tnot a dynamic executable\n", []),
        ("\tlibtinfo.so.6 => not found\n", []),
    ],
)
def test_linked(out: str, paths: list[str]) -> None:
    assert linked(out) == paths


@pytest.mark.parametrize(("stage", "text", "code"), SAID)
def test_explain(stage: str, text: str, code: str) -> None:
    assert explain(stage, text).code == code


def test_every_explanation_is_a_sentence() -> None:
    findings = {explain(stage, text) for stage, text, _code in SAID}
    assert [finding.code for finding in findings if not finding.remedy.endswith(".")] == []
    assert [finding.code for finding in findings if finding.cause.endswith(".")] == []


def test_differing() -> None:
    assert differing(["GPU-1", "GPU-2"], ["GPU-2", "GPU-1"]) is None
    fewer, more = differing(["GPU-1", "GPU-2"], ["GPU-1"]), differing([], ["GPU-1"])
    assert fewer is not None and fewer.cause == "a container does not list GPU-2"
    assert more is not None and more.cause == "a container lists GPU-1, which the host does not have"


def test_a_message_has_three_parts() -> None:
    finding = Finding("code", "it is dark", "Light a lamp.")
    assert (
        message(finding, 1) == "Found that it is dark. Expected a container that lists 1 GPU of the host. Light a lamp."
    )
    assert "(no\tlamp here)".replace("\t", " ") in message(finding, 2, " no\tlamp\n here ")
    # The engine puts what matters last.
    assert "(… " in message(finding, 2, "x" * 400 + " lost") and "lost)" in message(finding, 2, "x" * 400 + " lost")
