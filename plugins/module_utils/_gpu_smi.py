# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What nvidia-smi says, of the driver branches 470 to 595: no input, no output."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from ansible_collections.vicuna.fleet.plugins.module_utils._common import version as versions
from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_bus import address

QUERY = ("--query", "--xml-format")
LIST = ("--list-gpus",)
# Known from branch 510 on; an older one says that the field is not valid.
CAPABILITIES = ("--query-gpu=uuid,compute_cap", "--format=csv,noheader")

_DOCUMENT = re.compile(r"<\?xml.*?</nvidia_smi_log>", re.DOTALL)
# One that breaks off, to its last line of markup.
_FRAGMENT = re.compile(r"<\?xml.*\n\s*<[^\n]*", re.DOTALL)
# The name of a process is written as it is, with & and < in it.
_PROCESS_NAME = re.compile(r"(<process_name>)(.*?)(</process_name>)", re.DOTALL)
_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ufffd]")
_NUMBER = re.compile(r"\d+")
_GPU_LINE = re.compile(r"GPU\s+\d+:.*\(UUID:\s*([^)\s]+)\)")
_MIG_LINE = re.compile(r"\s+MIG\s+(\S+)\s+Device\s+(\d+):\s+\(UUID:\s*([^)\s]+)\)")
_CAPABILITY_LINE = re.compile(r"(GPU-[^,\s]+),\s*(\d+\.\d+)\s*")
_LONGEST_ERROR = 500


@dataclass(frozen=True)
class Process:
    """A process that holds memory of a GPU."""

    pid: int
    name: str
    memory_mib: int | None


@dataclass(frozen=True)
class MigDevice:
    """A part of a GPU. Its profile and UUID are only in the list, not in the XML."""

    index: int
    memory_total_mib: int | None
    memory_free_mib: int | None
    uuid: str = ""
    profile: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver lists. A figure that the driver does not give is None."""

    index: int
    name: str
    uuid: str
    address: str
    memory_total_mib: int | None
    memory_free_mib: int | None
    memory_used_mib: int | None
    memory_reserved_mib: int | None
    mig: str
    mig_devices: tuple[MigDevice, ...]
    ecc: str
    persistence: bool
    processes: tuple[Process, ...]


@dataclass(frozen=True)
class Answer:
    """What one `nvidia-smi -q -x` says."""

    answers: bool
    error: str
    driver_version: str = ""
    cuda_version: str = ""
    gpus: tuple[Gpu, ...] = ()


def parse_query(out: str, err: str) -> Answer:
    """The answer of `nvidia-smi -q -x`. What it says beside the document is its complaint: it writes both to stdout."""
    match = _DOCUMENT.search(out)
    complaint = _complaint((_FRAGMENT if match is None else _DOCUMENT).sub("", out) + "\n" + err)
    if match is None:
        silence = "nvidia-smi's answer breaks off" if out.strip() else "nvidia-smi gave no answer"
        return Answer(False, complaint or silence)
    try:
        root = _root(match.group())
    except ElementTree.ParseError as error:
        return Answer(False, complaint or f"nvidia-smi gave an answer that is no XML: {error}")
    gpus = tuple(_gpu(index, element) for index, element in enumerate(root.findall("gpu")))
    return Answer(
        answers=bool(gpus),
        error=complaint or ("" if gpus else "No devices were found"),
        driver_version=_version(_text(root, "driver_version")),
        cuda_version=_version(_text(root, "cuda_version")),
        gpus=gpus,
    )


def parse_list(out: str) -> dict[tuple[str, int], tuple[str, str]]:
    """Profile and UUID of MIG devices by their GPU's UUID and their index, from `nvidia-smi -L`."""
    found = {}
    gpu = ""
    for line in out.splitlines():
        if (match := _GPU_LINE.match(line)) is not None:
            gpu = match.group(1)
        elif (match := _MIG_LINE.match(line)) is not None:
            found[(gpu, int(match.group(2)))] = (match.group(1), match.group(3))
    return found


def parse_capabilities(out: str) -> dict[str, str]:
    """Compute capabilities by GPU's UUID, from `nvidia-smi --query-gpu=uuid,compute_cap`."""
    return {
        match.group(1): match.group(2)
        for match in (_CAPABILITY_LINE.fullmatch(line.strip()) for line in out.splitlines())
        if match is not None
    }


def _root(document: str) -> ElementTree.Element:
    text = _NOT_IN_XML.sub("?", document)
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - written by nvidia-smi, which expands no entities of others
    except ElementTree.ParseError:
        escaped = _PROCESS_NAME.sub(
            lambda name: name.group(1) + name.group(2).replace("&", "&amp;").replace("<", "&lt;") + name.group(3), text
        )
        return ElementTree.fromstring(escaped)  # noqa: S314 - as above


def _gpu(index: int, element: ElementTree.Element) -> Gpu:
    uuid = _text(element, "uuid")
    return Gpu(
        index=index,
        name=_text(element, "product_name"),
        uuid=uuid if uuid.startswith("GPU-") else "",
        address=address(element.get("id") or _text(element, "pci/pci_bus_id")),
        memory_total_mib=_mib(element, "fb_memory_usage/total"),
        memory_free_mib=_mib(element, "fb_memory_usage/free"),
        memory_used_mib=_mib(element, "fb_memory_usage/used"),
        memory_reserved_mib=_mib(element, "fb_memory_usage/reserved"),
        mig=_mode(_text(element, "mig_mode/current_mig")),
        mig_devices=tuple(
            MigDevice(
                index=_number(_text(device, "index")) or 0,
                memory_total_mib=_mib(device, "fb_memory_usage/total"),
                memory_free_mib=_mib(device, "fb_memory_usage/free"),
            )
            for device in element.findall("mig_devices/mig_device")
        ),
        ecc=_mode(_text(element, "ecc_mode/current_ecc")),
        persistence=_text(element, "persistence_mode") == "Enabled",
        processes=_processes(element),
    )


def _processes(element: ElementTree.Element) -> tuple[Process, ...]:
    """Each process once: one that computes and draws, or holds two MIG devices, is listed twice."""
    found: dict[int, Process] = {}
    for info in element.findall("processes/process_info"):
        pid, name, memory = _number(_text(info, "pid")), _text(info, "process_name"), _mib(info, "used_memory")
        if pid is None:
            continue
        mig = _number(_text(info, "gpu_instance_id")) is not None
        before = found.get(pid)
        if before is not None and memory is not None and before.memory_mib is not None:
            memory = memory + before.memory_mib if mig else max(memory, before.memory_mib)
        elif before is not None:
            memory = before.memory_mib if memory is None else memory
        found[pid] = Process(pid, name, memory)
    return tuple(found.values())


def _complaint(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return "; ".join(line for line in lines if line)[:_LONGEST_ERROR]


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _mib(element: ElementTree.Element, path: str) -> int | None:
    value = _text(element, path)
    return _number(value[: -len("MiB")].strip()) if value.endswith("MiB") else None


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _version(text: str) -> str:
    """Neither has ever been one number: that is another field's value, or a fault's."""
    return versions.of(text) if "." in text else ""


def _mode(text: str) -> str:
    """A GPU without the feature says N/A, one that has failed says ERR! or Unknown Error."""
    return text.lower() if text in ("Enabled", "Disabled") else "unsupported"
