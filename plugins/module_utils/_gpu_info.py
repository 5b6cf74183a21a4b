# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host's GPUs, their driver and the container toolkit are: looks at the host, for the modules that tell it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils import _daemon_config as daemon
from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_bus as bus
from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_driver as drivers
from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_smi as smi
from ansible_collections.vicuna.fleet.plugins.module_utils._bounded import bounded
from ansible_collections.vicuna.fleet.plugins.module_utils._common import version as versions

ROOT = Path("/")
# Where images and installers put nvidia-smi beside the usual places.
PROGRAM_DIRECTORIES = ["/usr/local/nvidia/bin", "/opt/bin", "/run/nvidia/driver/usr/bin"]
LIBRARY_DIRECTORIES = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/local/nvidia/lib64",
)
MODPROBE_DIRECTORIES = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)
CDI_DIRECTORIES = ("etc/cdi", "var/run/cdi")
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
UNINSTALLERS = ("usr/bin/nvidia-uninstall", "usr/bin/nvidia-installer")
FABRIC_MANAGER, PERSISTENCE = "nvidia-fabricmanager.service", "nvidia-persistenced.service"
# For what does not talk to a GPU.
QUERY_SECONDS = 20


def text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def devices() -> list[bus.Device]:
    found = []
    for folder in sorted((ROOT / "sys/bus/pci/devices").glob("*")):
        if text(folder / "vendor").strip() != f"0x{bus.NVIDIA}":
            continue
        driver = folder / "driver"
        node = text(folder / "numa_node").strip()
        found.append(
            bus.Device(
                address=folder.name,
                device_id=text(folder / "device").strip()[2:],
                device_class=text(folder / "class").strip()[2:],
                kernel_driver=Path(os.path.realpath(driver)).name if driver.exists() else "",
                numa_node=int(node) if node.lstrip("-").isdigit() else -1,
            )
        )
    return found


def installed(module: AnsibleModule) -> list[drivers.Package]:
    dpkg = module.get_bin_path("dpkg-query")
    if dpkg is not None:
        return drivers.parse_dpkg(
            bounded([dpkg, "--show", "--showformat", drivers.DPKG_FORMAT, *drivers.PATTERNS], QUERY_SECONDS).out
        )
    rpm = module.get_bin_path("rpm")
    if rpm is not None:
        locks = "\n".join(text(ROOT / "etc/dnf" / name) for name in ("plugins/versionlock.list", "dnf.conf"))
        return drivers.parse_rpm(
            bounded(
                [rpm, "--query", "--all", "--queryformat", drivers.RPM_FORMAT, *drivers.PATTERNS], QUERY_SECONDS
            ).out,
            locks,
        )
    return []


def foreign_uninstaller(module: AnsibleModule) -> bool:
    """Whether the .run file's uninstaller is there; a package's own is none."""
    there = [str(ROOT / name) for name in UNINSTALLERS if (ROOT / name).exists()]
    if not there:
        return False
    dpkg, rpm = module.get_bin_path("dpkg-query"), module.get_bin_path("rpm")
    if dpkg is not None:
        return any(not bounded([dpkg, "--search", path], QUERY_SECONDS).out for path in there)
    if rpm is not None:
        return any("not owned" in bounded([rpm, "--query", "--file", path], QUERY_SECONDS).out for path in there)
    return True


def library_version(module: AnsibleModule) -> str:
    ldconfig = module.get_bin_path("ldconfig")
    paths = drivers.libraries(bounded([ldconfig, "-p"], QUERY_SECONDS).out) if ldconfig else []
    paths += [
        str(ROOT / folder / name)
        for name in ("libnvidia-ml.so.1", "libcuda.so.1")
        for folder in LIBRARY_DIRECTORIES
        if (ROOT / folder / name).exists()
    ]
    versions = (drivers.library_version(os.path.realpath(path)) for path in paths)
    return next((version for version in versions if version), "")


def module_version(module: AnsibleModule, release: str) -> str:
    modinfo = module.get_bin_path("modinfo")
    files = [
        str(Path(folder) / name)
        for folder, _folders, names in os.walk(ROOT / "lib/modules" / release)
        for name in names
        if name.startswith("nvidia")
    ]
    path = drivers.kernel_module(files)
    if not path or modinfo is None:
        return ""
    return versions.of(bounded([modinfo, "--field", "version", path], QUERY_SECONDS).out)


def answer(
    module: AnsibleModule, loaded: bool, known: dict[str, str], timeout: int
) -> tuple[smi.Answer, dict[str, str]]:
    """What nvidia-smi says, and the GPUs' compute capabilities by address; it is asked for those that are not known."""
    program = module.get_bin_path("nvidia-smi", opt_dirs=PROGRAM_DIRECTORIES)
    if not loaded:
        return smi.Answer(False, "the kernel module nvidia is not loaded"), {}
    if program is None:
        return smi.Answer(False, "there is no nvidia-smi"), {}
    said = bounded([program, *smi.QUERY], timeout)
    if said.hung:
        return smi.Answer(False, f"nvidia-smi gave no answer within {timeout} s: a GPU or the driver hangs"), {}
    found = smi.parse_query(said.out, said.err)
    if any(gpu.mig_devices for gpu in found.gpus):
        found = named(found, smi.parse_list(bounded([program, *smi.LIST], timeout).out))
    capabilities = {gpu.address: known.get(gpu.address, "") for gpu in found.gpus}
    if not all(capabilities.values()):
        said_of = smi.parse_capabilities(bounded([program, *smi.CAPABILITIES], timeout).out)
        capabilities = {gpu.address: said_of.get(gpu.uuid) or capabilities[gpu.address] for gpu in found.gpus}
    return found, capabilities


def named(found: smi.Answer, names: dict[tuple[str, int], tuple[str, str]]) -> smi.Answer:
    """The same with the profiles and UUIDs of the MIG devices."""
    gpus = []
    for gpu in found.gpus:
        parts = []
        for part in gpu.mig_devices:
            profile, uuid = names.get((gpu.uuid, part.index), ("", ""))
            parts.append(replace(part, profile=profile, uuid=uuid))
        gpus.append(replace(gpu, mig_devices=tuple(parts)))
    return replace(found, gpus=tuple(gpus))


def gpu_as_dict(gpu: smi.Gpu, capabilities: dict[str, str]) -> dict[str, Any]:
    result = asdict(gpu)
    del result["persistence"]
    result["compute_capability"] = capabilities.get(gpu.address, "")
    result["mig_devices"] = [asdict(part) for part in gpu.mig_devices]
    result["processes"] = [
        {
            **asdict(process),
            "command": text(ROOT / f"proc/{process.pid}/cmdline").replace("\0", " ").strip(),
            # A host that is a container itself is none of its own containers.
            "container": id_ if (id_ := container(str(process.pid))) != container("self") else "",
        }
        for process in gpu.processes
    ]
    return result


def container(process: str) -> str:
    folder = ROOT / "proc" / process
    return drivers.container_of(text(folder / "cgroup"), text(folder / "mountinfo"))


def services(module: AnsibleModule) -> dict[str, str]:
    systemctl = module.get_bin_path("systemctl")
    if systemctl is None or not (ROOT / "run/systemd/system").is_dir():
        return {}
    command = [systemctl, "show", "--property=Id,LoadState,ActiveState", FABRIC_MANAGER, PERSISTENCE]
    return drivers.units(bounded(command, QUERY_SECONDS).out)


def manages_nvswitch() -> bool:
    """Whether a network adapter manages an NVSwitch that is not on the bus.

    So Fabric Manager's guide has it for NVSwitches of the fourth generation (HGX B200 and later).
    """
    return any(b"SW_MNG" in contents(path) for path in (ROOT / "sys/class/infiniband").glob("*/device/vpd"))


def modprobe_configuration() -> list[str]:
    """The configuration files; one in /etc hides those of its name elsewhere, as modprobe.d(5) has it."""
    files: dict[str, Path] = {}
    for folder in MODPROBE_DIRECTORIES:
        for path in (ROOT / folder).glob("*.conf"):
            files.setdefault(path.name, path)
    return [text(path) for path in files.values()]


def cdi_specs() -> Iterable[drivers.CdiSpec]:
    for folder in CDI_DIRECTORIES:
        for path in sorted((ROOT / folder).glob("*")):
            if path.suffix in (".json", ".yaml", ".yml"):
                spec = drivers.parse_cdi(str(path), text(path))
                if spec is not None:
                    yield spec


def headers(release: str) -> bool:
    places = (f"lib/modules/{release}/build", f"usr/src/linux-headers-{release}", f"usr/src/kernels/{release}")
    return any((ROOT / place / "Makefile").exists() for place in places)


def message(gpu: dict[str, Any]) -> str:
    """What was found, in words."""
    driver = gpu["driver"]
    number = sum(device["kind"] == "gpu" for device in gpu["devices"])
    gpus = {0: "No NVIDIA GPU", 1: "1 NVIDIA GPU"}.get(number, f"{number} NVIDIA GPUs")
    if driver["answers"]:
        return f"{gpus}, driver {driver['version']} answers"
    if number == 0 and not driver["loaded"]:
        return gpus
    return f"{gpus}, no driver answers: {driver['error']}"


def legacy_runtime(path: Path) -> dict[str, Any]:
    """Whether the engine's configuration names the runtime `nvidia`, or why that cannot be told."""
    try:
        return {"legacy_runtime": daemon.legacy_runtime(daemon.read(path)), "config_error": ""}
    except daemon.ConfigError as error:
        return {"legacy_runtime": None, "config_error": str(error)}


def look(module: AnsibleModule, *, kernel: str = "", timeout: int = QUERY_SECONDS) -> dict[str, Any]:
    """What M(vicuna.fleet.gpu_info) returns as RV(vicuna.fleet.gpu_info#module:gpu).

    kernel: the release whose headers and modules are looked for; empty is the running one. timeout: seconds that each
    question to the driver may take.
    """
    running = platform.release()
    release = kernel or running
    on_bus = devices()
    on_bus_gpus = [device for device in on_bus if device.kind == "gpu"]
    nvidia_version = text(ROOT / "proc/driver/nvidia/version")
    version, flavour = drivers.parse_loaded(nvidia_version)
    library, on_disk = library_version(module), module_version(module, release)
    packages = installed(module)
    of_driver = [package for package in packages if package.of_driver]
    known = {device.address: bus.chip(device.device_id)[1] for device in on_bus_gpus}
    found, capabilities = answer(module, bool(nvidia_version), known, timeout)

    driver: dict[str, Any] = {
        "loaded": bool(nvidia_version),
        "version": version,
        "flavour": flavour,
        "library_version": library,
        "module_version": on_disk,
        "matches": version == library if version and library else None,
        "answers": found.answers,
        "error": found.error,
        "cuda_version": found.cuda_version,
        "origin": drivers.origin(
            packages,
            uninstaller=foreign_uninstaller(module),
            log=(ROOT / "var/log/nvidia-installer.log").exists(),
            there=bool(version or library),
        ),
        "packages": {package.name: package.version for package in of_driver},
        "held": sorted(package.name for package in of_driver if package.held),
    }
    states = services(module)
    manager, toolkit = module.get_bin_path("nv-fabricmanager"), module.get_bin_path("nvidia-ctk")
    listed = {gpu.address for gpu in found.gpus}
    specs = list(cdi_specs())
    loaded_modules = {line.split(" ", 1)[0] for line in text(ROOT / "proc/modules").splitlines()}

    return {
        "present": bool(on_bus_gpus),
        "devices": [
            {
                "address": device.address,
                "device_id": device.device_id,
                "class": device.device_class,
                "kind": device.kind,
                "generation": device.generation,
                "kernel_driver": device.kernel_driver,
                "numa_node": device.numa_node,
            }
            for device in on_bus
        ],
        "open_modules": bus.open_modules(on_bus),
        "driver": driver,
        "gpus": [gpu_as_dict(gpu, capabilities) for gpu in found.gpus],
        "unlisted": [
            device.address
            for device in on_bus_gpus
            if device.address not in listed and device.kernel_driver != "vfio-pci"
        ],
        "fabric_manager": {
            "required": any(device.kind == "nvswitch" for device in on_bus)
            or (bool(on_bus_gpus) and manages_nvswitch()),
            "version": versions.of(bounded([manager, "--version"], QUERY_SECONDS).out) if manager else "",
            "state": states.get(FABRIC_MANAGER, "unknown" if manager else "absent"),
        },
        "persistence": {
            "daemon": states.get(
                PERSISTENCE, "unknown" if module.get_bin_path("nvidia-persistenced") else "absent"
            ).replace("failed", "inactive"),
            "mode": bool(found.gpus) and all(gpu.persistence for gpu in found.gpus),
        },
        "nouveau": {
            # A kernel without /proc/modules has it built in.
            "loaded": "nouveau" in loaded_modules or any(device.kernel_driver == "nouveau" for device in on_bus),
            "blacklisted": drivers.nouveau_blacklisted(modprobe_configuration(), text(ROOT / "proc/cmdline")),
        },
        "secure_boot": drivers.secure_boot(contents(ROOT / SECURE_BOOT)),
        "kernel": {"release": release, "headers": headers(release)},
        "reboot_required": (ROOT / "var/run/reboot-required").exists()
        or bool(release == running and version and on_disk and version != on_disk),
        "cdi": {
            "devices": sorted({device for spec in specs for device in spec.devices}),
            "specs": [{**asdict(spec), "devices": list(spec.devices)} for spec in specs],
        },
        "toolkit": {
            "version": versions.of(bounded([toolkit, "--version"], QUERY_SECONDS).out) if toolkit else "",
            "packages": {package.name: package.version for package in packages if package.of_toolkit},
            **legacy_runtime(ROOT / "etc/docker/daemon.json"),
        },
    }
