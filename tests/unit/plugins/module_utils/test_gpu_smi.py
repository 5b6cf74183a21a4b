# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nvidia-smi's answers. One document is a capture; those of other branches are constructed in the layout of captures in
influxdata/telegraf, plugins/inputs/nvidia_smi/testdata (418 to 595)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_smi import (
    Answer,
    MigDevice,
    Process,
    parse_capabilities,
    parse_list,
    parse_query,
)

# Captured on a virtual machine with two H200, driver 580.159.04. UUIDs and serials are made up, clocks are left out.
H200_580 = (Path(__file__).parents[1] / "fixtures" / "gpu" / "h200_580.xml").read_text(encoding="utf-8")
FIRST, SECOND = "GPU-00000000-0000-0000-0000-000000000001", "GPU-00000000-0000-0000-0000-000000000002"


def gpu(number: int = 1, **changes: str) -> str:
    """A constructed GPU. The elements are those of branch 535; a change to an empty text leaves one out."""
    elements = {
        "product_name": "<product_name>Tesla T4</product_name>",
        "persistence_mode": "<persistence_mode>Disabled</persistence_mode>",
        "mig_mode": "<mig_mode><current_mig>N/A</current_mig><pending_mig>N/A</pending_mig></mig_mode>",
        "mig_devices": "<mig_devices>\n\t\t\tNone\n\t\t</mig_devices>",
        "uuid": f"<uuid>GPU-00000000-0000-0000-0000-{number:012x}</uuid>",
        "fb_memory_usage": (
            "<fb_memory_usage><total>15360 MiB</total><reserved>447 MiB</reserved><used>2 MiB</used>"
            "<free>14910 MiB</free></fb_memory_usage>"
        ),
        "ecc_mode": "<ecc_mode><current_ecc>Enabled</current_ecc><pending_ecc>Enabled</pending_ecc></ecc_mode>",
        "processes": "<processes>\n\t\t</processes>",
        **changes,
    }
    return f'\t<gpu id="00000000:{number:02X}:00.0">\n\t\t' + "\n\t\t".join(elements.values()) + "\n\t</gpu>\n"


def document(driver: str, cuda: str, *gpus: str, dtd: int = 12) -> str:
    return (
        f'<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v{dtd}.dtd">\n<nvidia_smi_log>\n'
        f"\t<driver_version>{driver}</driver_version>\n\t<cuda_version>{cuda}</cuda_version>\n"
        f"\t<attached_gpus>{len(gpus)}</attached_gpus>\n{''.join(gpus)}</nvidia_smi_log>\n"
    )


def process(pid: str, name: str, memory: str, instance: str = "N/A", kind: str = "C") -> str:
    return (
        f"<process_info><gpu_instance_id>{instance}</gpu_instance_id><compute_instance_id>{instance}"
        f"</compute_instance_id><pid>{pid}</pid><type>{kind}</type><process_name>{name}</process_name>"
        f"<used_memory>{memory}</used_memory></process_info>"
    )


def processes(*entries: str) -> tuple[Process, ...]:
    answer = parse_query(document("535.54.03", "12.2", gpu(processes=f"<processes>{''.join(entries)}</processes>")), "")
    assert answer.answers
    return answer.gpus[0].processes


def test_two_gpus_of_branch_580() -> None:
    answer = parse_query(H200_580, "")
    assert (answer.answers, answer.error) == (True, "")
    assert (answer.driver_version, answer.cuda_version) == ("580.159.04", "13.0")
    assert [(found.index, found.address, found.uuid) for found in answer.gpus] == [
        (0, "0000:00:06.0", FIRST),
        (1, "0000:00:07.0", SECOND),
    ]
    found = answer.gpus[0]
    assert (found.name, found.mig, found.mig_devices, found.ecc) == ("NVIDIA H200", "disabled", (), "enabled")
    assert (found.memory_total_mib, found.memory_free_mib) == (143771, 143156)
    assert (found.memory_used_mib, found.memory_reserved_mib) == (0, 616)
    assert (found.persistence, found.processes) == (True, ())


def test_branch_470_does_not_tell_what_is_reserved() -> None:
    memory = "<fb_memory_usage><total>15109 MiB</total><used>3 MiB</used><free>15106 MiB</free></fb_memory_usage>"
    answer = parse_query(document("470.256.02", "11.4", gpu(fb_memory_usage=memory), dtd=11), "")
    found = answer.gpus[0]
    assert (answer.driver_version, answer.cuda_version) == ("470.256.02", "11.4")
    assert (found.memory_total_mib, found.memory_free_mib, found.memory_used_mib) == (15109, 15106, 3)
    assert found.memory_reserved_mib is None
    assert (found.mig, found.ecc, found.persistence) == ("unsupported", "enabled", False)


@pytest.mark.parametrize(("driver", "cuda"), [("525.147.05", "12.0"), ("550.163.01", "12.4")])
def test_eight_gpus(driver: str, cuda: str) -> None:
    answer = parse_query(document(driver, cuda, *(gpu(number) for number in range(1, 9))), "")
    assert (answer.driver_version, answer.cuda_version) == (driver, cuda)
    assert [found.index for found in answer.gpus] == list(range(8))
    assert len({found.uuid for found in answer.gpus}) == len({found.address for found in answer.gpus}) == 8


def test_mig() -> None:
    devices = "".join(
        f"<mig_device><index>{index}</index><gpu_instance_id>{index + 3}</gpu_instance_id><compute_instance_id>0"
        "</compute_instance_id><fb_memory_usage><total>19968 MiB</total><reserved>0 MiB</reserved><used>12 MiB</used>"
        "<free>19955 MiB</free></fb_memory_usage></mig_device>"
        for index in range(2)
    )
    enabled = "<mig_mode><current_mig>Enabled</current_mig><pending_mig>Enabled</pending_mig></mig_mode>"
    answer = parse_query(
        document("535.54.03", "12.2", gpu(mig_mode=enabled, mig_devices=f"<mig_devices>{devices}</mig_devices>")), ""
    )
    assert answer.gpus[0].mig == "enabled"
    assert answer.gpus[0].mig_devices == (MigDevice(0, 19968, 19955), MigDevice(1, 19968, 19955))


def test_mig_without_devices() -> None:
    enabled = "<mig_mode><current_mig>Enabled</current_mig><pending_mig>Enabled</pending_mig></mig_mode>"
    answer = parse_query(document("535.54.03", "12.2", gpu(mig_mode=enabled)), "")
    assert (answer.gpus[0].mig, answer.gpus[0].mig_devices) == ("enabled", ())


LISTS = [
    ("", {}),
    ("No devices were found\n", {}),
    # Captured, branch 580; the UUIDs are made up
    (f"GPU 0: NVIDIA H200 (UUID: {FIRST})\nGPU 1: NVIDIA H200 (UUID: {SECOND})\n", {}),
    # The form of NVIDIA's MIG user guide
    (
        f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {FIRST})\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)\n"
        "  MIG 1g.5gb+me   Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)\n"
        f"GPU 1: NVIDIA A100-SXM4-40GB (UUID: {SECOND})\n"
        "  MIG 1c.3g.20gb  Device  0: (UUID: MIG-1e852624-f0e3-54a2-9d4c-1f1a4ae8d6e5)\n",
        {
            (FIRST, 0): ("3g.20gb", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"),
            (FIRST, 1): ("1g.5gb+me", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"),
            (SECOND, 0): ("1c.3g.20gb", "MIG-1e852624-f0e3-54a2-9d4c-1f1a4ae8d6e5"),
        },
    ),
    # Before branch 470
    (
        f"GPU 0: A100-SXM4-40GB (UUID: {FIRST})\n  MIG 1g.5gb Device 0: (UUID: MIG-{FIRST}/7/0)\n",
        {(FIRST, 0): ("1g.5gb", f"MIG-{FIRST}/7/0")},
    ),
]


@pytest.mark.parametrize(("out", "expected"), LISTS)
def test_parse_list(out: str, expected: dict[tuple[str, int], tuple[str, str]]) -> None:
    assert parse_list(out) == expected


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        (f"{FIRST}, 9.0\n{SECOND}, 12.0\n", {FIRST: "9.0", SECOND: "12.0"}),
        (f"{FIRST}, [N/A]\n", {}),
        ('Field "compute_cap" is not a valid field to query.\n\n', {}),
        ("", {}),
    ],
)
def test_parse_capabilities(out: str, expected: dict[str, str]) -> None:
    assert parse_capabilities(out) == expected


def test_processes() -> None:
    # Branch 515 on a T4 with X and a computation, and names that the driver cannot tell
    assert processes(
        process("675", "/usr/lib/xorg/Xorg", "22 MiB", kind="G"),
        process("5762", "python", "1005 MiB"),
        process("99", "[Not Found]", "N/A"),
        process("[N/A]", "[Insufficient Permissions]", "[N/A]"),
    ) == (
        Process(675, "/usr/lib/xorg/Xorg", 22),
        Process(5762, "python", 1005),
        Process(99, "[Not Found]", None),
    )


def test_a_process_that_is_listed_twice() -> None:
    # Computing and drawing is the same memory, two MIG devices are not
    assert processes(process("7", "a", "160 MiB"), process("7", "a", "160 MiB", kind="G")) == (Process(7, "a", 160),)
    assert processes(process("7", "a", "160 MiB", "1"), process("7", "a", "40 MiB", "2")) == (Process(7, "a", 200),)
    assert processes(process("7", "a", "N/A"), process("7", "a", "40 MiB")) == (Process(7, "a", 40),)
    assert processes(process("7", "a", "40 MiB"), process("7", "a", "N/A")) == (Process(7, "a", 40),)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("./serve --a=1&b=<2", "./serve --a=1&b=<2"), ("a &amp; b", "a & b"), ("\x1b[1mtop", "?[1mtop")],
)
def test_names_are_not_always_xml(name: str, expected: str) -> None:
    assert processes(process("7", name, "1 MiB")) == (Process(7, expected, 1),)


@pytest.mark.parametrize(
    "value",
    [
        "ERR!",
        "[N/A]",
        "N/A",
        "Unknown Error",
        "GPU is lost",
        "15360",
        "",
        "Not Supported",
        "[Insufficient Permissions]",
    ],
)
def test_values_of_a_sick_gpu(value: str) -> None:
    sick = gpu(
        2,
        uuid=f"<uuid>{value}</uuid>",
        fb_memory_usage=f"<fb_memory_usage><total>{value}</total><free>{value}</free><used>{value}</used></fb_memory_usage>",
        ecc_mode=f"<ecc_mode><current_ecc>{value}</current_ecc></ecc_mode>",
        mig_mode=f"<mig_mode><current_mig>{value}</current_mig></mig_mode>",
        processes=f"<processes>{value}</processes>",
    )
    answer = parse_query(document("550.163.01", value, gpu(1), sick), "")
    well, found = answer.gpus
    assert (answer.answers, answer.cuda_version) == (True, "")
    assert well.memory_free_mib == 14910
    assert (found.uuid, found.address) == ("", "0000:02:00.0")
    assert (found.memory_total_mib, found.memory_free_mib, found.memory_used_mib) == (None, None, None)
    assert (found.mig, found.ecc, found.processes) == ("unsupported", "unsupported", ())


UNREACHABLE = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running."
)
FAILURES = [
    # NVIDIA/open-gpu-kernel-modules issue 387, NVIDIA/dcgm-exporter issue 604
    ("Unable to determine the device handle for GPU 0000:0B:00.0: Unknown Error\n", ""),
    # pdbear/syno_nvidia_gpu_driver issue 22
    ("Unable to determine the device handle for GPU0000:07:00.0: Unknown Error\n", ""),
    # After JosephKJ/OWOD issue 81
    ("Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost. Reboot the system to recover it\n", ""),
    ("No devices were found\n", ""),
    (f"{UNREACHABLE}\n\n", ""),
    ("", "nvidia-smi: error while loading shared libraries: libnvidia-ml.so.1: cannot open shared object file\n"),
]


@pytest.mark.parametrize(("out", "err"), FAILURES)
def test_no_answer(out: str, err: str) -> None:
    answer = parse_query(out, err)
    assert (answer.answers, answer.gpus) == (False, ())
    assert answer.error == (out + err).strip()


def test_a_mismatch_tells_both_lines() -> None:
    out = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.171\n"
    assert parse_query(out, "").error == (
        "Failed to initialize NVML: Driver/library version mismatch; NVML library version: 535.171"
    )


@pytest.mark.parametrize("out", ["", "\n \n"])
def test_silence(out: str) -> None:
    assert parse_query(out, "").error == "nvidia-smi gave no answer"


def test_no_gpu() -> None:
    answer = parse_query(document("550.163.01", "12.4"), "")
    assert (answer.answers, answer.error, answer.driver_version) == (False, "No devices were found", "550.163.01")


def test_a_complaint_beside_the_answer() -> None:
    warning = "WARNING: infoROM is corrupted at gpu 0000:65:00.0"
    answer = parse_query(f"{warning}\n{document('535.54.03', '12.2', gpu())}", "")
    assert (answer.answers, answer.error) == (True, warning)


def test_an_answer_that_breaks_off() -> None:
    broken = document("535.54.03", "12.2", gpu()).partition("<ecc_mode>")[0]
    assert parse_query(broken, "") == Answer(False, "nvidia-smi's answer breaks off")
    lost = "Unable to determine the device handle for GPU 0000:0B:00.0: Unknown Error"
    assert parse_query(f"{broken}\n{lost}\n", "") == Answer(False, lost)
    assert len(parse_query("x" * 5000, "").error) == 500


def test_an_answer_that_is_no_xml() -> None:
    answer = parse_query(document("535.54.03", "12.2", gpu(uuid="<uuid>")), "")
    assert not answer.answers
    assert answer.error.startswith("nvidia-smi gave an answer that is no XML: mismatched tag")
