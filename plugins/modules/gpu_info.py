#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_info
short_description: Tell which NVIDIA GPUs a host has, and what its driver and container toolkit make of them
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Tells in one go what is on the PCI bus, what the driver answers, who installed the driver, whether its parts match,
    and which GPUs containers can be given.
  - Needs neither a driver nor a GPU, and says so where there is none.
  - A sick GPU does not hold it up. Whatever does not answer within O(timeout) is killed and left to itself.
  - C(nvidia-smi) is only asked where the kernel module is loaded, since it would load the module.
options:
  kernel:
    description: Release of the kernel whose headers and modules are looked for. Empty means the running kernel.
    type: str
    default: ""
  timeout:
    description: Seconds that each query of the driver may take.
    type: int
    default: 20
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
- name: Look at the GPUs
  vicuna.fleet.gpu_info:
  register: probe

- name: Show how much memory each of them has left
  ansible.builtin.debug:
    msg: "{{ probe.gpu.gpus | items2dict(key_name='uuid', value_name='memory_free_mib') }}"

- name: Look for the headers and the module of a kernel that will be booted later
  vicuna.fleet.gpu_info:
    kernel: 6.12.107+deb13-amd64
"""

RETURN = r"""
msg:
  description: Whether there are GPUs and whether the driver answers, in words.
  returned: always
  type: str
  sample: 2 NVIDIA GPUs, driver 580.159.04 answers
gpu:
  description: What was found.
  returned: always
  type: dict
  contains:
    present:
      description: Whether an NVIDIA GPU is on the PCI bus.
      type: bool
    devices:
      description: NVIDIA's devices on the PCI bus, by address. No driver is needed for them.
      type: list
      elements: dict
      contains:
        address:
          description: Address on the bus, as in C(/sys/bus/pci/devices).
          type: str
          sample: 0000:00:06.0
        device_id:
          description: PCI device id.
          type: str
          sample: "2335"
        class:
          description: PCI class.
          type: str
          sample: "030200"
        kind:
          description: V(gpu) is a display controller, V(nvswitch) a bridge of class 0680, V(other) sound and the like.
          type: str
          choices: [gpu, nvswitch, other]
        generation:
          description: Generation of a GPU by its device id; empty for what is no GPU and for ids that are not known.
          type: str
          sample: Hopper
        kernel_driver:
          description: The kernel driver that has the device; empty for none.
          type: str
          sample: nvidia
        numa_node:
          description: NUMA node; -1 where the host does not tell.
          type: int
    open_modules:
      description:
        - Whether NVIDIA's open kernel modules are for these GPUs. Blackwell and Grace Hopper require them, GPUs from
          Turing on support them, and one older GPU makes them V(unsupported).
        - Empty where there is no GPU.
      type: str
      choices: [required, supported, unsupported, ""]
    driver:
      description: The driver.
      type: dict
      contains:
        loaded:
          description: Whether the kernel module is loaded.
          type: bool
        version:
          description: Version of the loaded module; empty where none is.
          type: str
          sample: 580.159.04
        flavour:
          description: Which kernel module is loaded; empty where none is.
          type: str
          choices: [open, proprietary, ""]
        library_version:
          description: Version of the library on disk, C(libnvidia-ml) or else C(libcuda); empty where there is none.
          type: str
          sample: 580.159.04
        module_version:
          description: Version of the module on disk for O(kernel); empty where there is none.
          type: str
          sample: 580.159.04
        matches:
          description: Whether the loaded module and the library have the same version; null where one is missing.
          type: bool
        answers:
          description: Whether C(nvidia-smi) lists at least one GPU.
          type: bool
        error:
          description:
            - Why the driver does not answer, in the words of C(nvidia-smi) if it has any.
            - What C(nvidia-smi) complains of beside its answer, if it does.
          type: str
        cuda_version:
          description: Highest CUDA version that the driver supports; empty where it does not answer.
          type: str
          sample: "13.0"
        origin:
          description:
            - Who installed the driver. The maker of its packages tells V(distribution) and V(nvidia), NVIDIA's
              uninstaller or its log V(runfile). V(other) is a third party's package or no package.
          type: str
          choices: [distribution, nvidia, runfile, other, none]
        packages:
          description: Installed packages that belong to the driver, and their versions.
          type: dict
          sample: {nvidia-kernel-dkms: 550.163.01-2}
        held:
          description: Those of them that are held (apt), or locked or excluded (dnf).
          type: list
          elements: str
    gpus:
      description: The GPUs that the driver lists, in its order. A figure that it does not give is null.
      type: list
      elements: dict
      contains:
        index:
          description: Number of the GPU.
          type: int
        name:
          description: Name of the product.
          type: str
          sample: NVIDIA H200
        uuid:
          description: UUID; empty where the GPU does not tell it.
          type: str
        address:
          description: Address on the bus, as in RV(gpu.devices[].address).
          type: str
        memory_total_mib:
          description: Memory in MiB.
          type: int
        memory_free_mib:
          description: Free memory in MiB.
          type: int
        memory_used_mib:
          description: Used memory in MiB. Drivers before 510 count what they reserve for themselves as used.
          type: int
        memory_reserved_mib:
          description: What the driver reserves for itself, in MiB; null with drivers before 510.
          type: int
        compute_capability:
          description: CUDA compute capability, by the device id or else the driver's answer; empty where neither tells.
          type: str
          sample: "9.0"
        mig:
          description: Whether the GPU is in MIG mode.
          type: str
          choices: [enabled, disabled, unsupported]
        mig_devices:
          description: The GPU's MIG devices.
          type: list
          elements: dict
          contains:
            index:
              description: Number of the device on its GPU.
              type: int
            uuid:
              description: UUID of the device.
              type: str
            profile:
              description: Profile of the device.
              type: str
              sample: 3g.40gb
            memory_total_mib:
              description: Memory in MiB.
              type: int
            memory_free_mib:
              description: Free memory in MiB.
              type: int
        ecc:
          description: Whether error correction is on.
          type: str
          choices: [enabled, disabled, unsupported]
        processes:
          description: Processes that hold memory of the GPU.
          type: list
          elements: dict
          contains:
            pid:
              description: Process id on the host.
              type: int
            name:
              description: Name as the driver tells it.
              type: str
            command:
              description: Command line; empty where the process has ended.
              type: str
            container:
              description: Id of the container that it runs in; empty for a process of the host.
              type: str
            memory_mib:
              description: Memory of the GPU in MiB.
              type: int
    unlisted:
      description: Addresses of GPUs on the bus that the driver does not list, but for those that C(vfio-pci) has.
      type: list
      elements: str
    fabric_manager:
      description: NVIDIA's Fabric Manager.
      type: dict
      contains:
        required:
          description:
            - Whether the GPUs need it. They do where the host has an NVSwitch or, with HGX B200 and later, a network
              adapter that manages one (C(SW_MNG) in its VPD).
          type: bool
        version:
          description: Its version; empty where it is not installed.
          type: str
        state:
          description: State of its service.
          type: str
          choices: [active, inactive, failed, absent, unknown]
    persistence:
      description: Whether the driver stays initialised without a client.
      type: dict
      contains:
        daemon:
          description: State of C(nvidia-persistenced)'s service.
          type: str
          choices: [active, inactive, absent, unknown]
        mode:
          description: Whether persistence mode is on for every GPU.
          type: bool
    nouveau:
      description: The free driver that takes the GPUs first.
      type: dict
      contains:
        loaded:
          description: Whether it is loaded.
          type: bool
        blacklisted:
          description: Whether modprobe's configuration or the kernel's command line keeps it out.
          type: bool
    secure_boot:
      description: Whether the firmware only starts what is signed. V(unsupported) is firmware that is not UEFI.
      type: str
      choices: [enabled, disabled, unsupported]
    kernel:
      description: The kernel that was asked for.
      type: dict
      contains:
        release:
          description: Its release.
          type: str
          sample: 6.12.107+deb13-amd64
        headers:
          description: Whether modules can be built for it.
          type: bool
    reboot_required:
      description: Whether the distribution asks for a reboot, or another module than the one on disk is loaded.
      type: bool
    cdi:
      description: What CDI offers to containers.
      type: dict
      contains:
        devices:
          description: Names of NVIDIA's devices.
          type: list
          elements: str
          sample: ["nvidia.com/gpu=0", "nvidia.com/gpu=all"]
        specs:
          description: The specifications that name them.
          type: list
          elements: dict
          contains:
            path:
              description: The file.
              type: str
            driver_version:
              description: Version of the driver whose libraries it mounts; empty where it mounts none.
              type: str
            devices:
              description: Names of its devices.
              type: list
              elements: str
    toolkit:
      description: NVIDIA's container toolkit.
      type: dict
      contains:
        version:
          description: What C(nvidia-ctk) says; empty where there is none.
          type: str
          sample: 1.18.0
        packages:
          description: Installed packages of it, those of nvidia-docker too, and their versions.
          type: dict
        legacy_runtime:
          description: Whether C(/etc/docker/daemon.json) names the runtime C(nvidia).
          type: bool
"""

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_bus as bus
from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_driver as drivers
from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_smi as smi
from ansible_collections.vicuna.fleet.plugins.module_utils._bounded import bounded

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
    return bounded([modinfo, "--field", "version", path], QUERY_SECONDS).out.strip()


def answer(
    module: AnsibleModule, loaded: bool, known: dict[str, str], timeout: int
) -> tuple[smi.Answer, dict[str, str]]:
    """What nvidia-smi says, and the GPUs' compute capabilities by UUID; it is asked for those that are not known."""
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
    capabilities = {gpu.uuid: known.get(gpu.address, "") for gpu in found.gpus}
    if not all(capabilities.values()):
        capabilities.update(smi.parse_capabilities(bounded([program, *smi.CAPABILITIES], timeout).out))
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
    result["compute_capability"] = capabilities.get(gpu.uuid, "")
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


def message(number: int, driver: dict[str, Any]) -> str:
    gpus = {0: "No NVIDIA GPU", 1: "1 NVIDIA GPU"}.get(number, f"{number} NVIDIA GPUs")
    if driver["answers"]:
        return f"{gpus}, driver {driver['version']} answers"
    if number == 0 and not driver["loaded"]:
        return gpus
    return f"{gpus}, no driver answers: {driver['error']}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={"kernel": {"type": "str", "default": ""}, "timeout": {"type": "int", "default": 20}},
        supports_check_mode=True,
    )
    running = platform.release()
    release = module.params["kernel"] or running
    on_bus = devices()
    on_bus_gpus = [device for device in on_bus if device.kind == "gpu"]
    nvidia_version = text(ROOT / "proc/driver/nvidia/version")
    version, flavour = drivers.parse_loaded(nvidia_version)
    library, on_disk = library_version(module), module_version(module, release)
    packages = installed(module)
    of_driver = [package for package in packages if package.of_driver]
    known = {device.address: bus.chip(device.device_id)[1] for device in on_bus_gpus}
    found, capabilities = answer(module, bool(nvidia_version), known, module.params["timeout"])

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

    gpu: dict[str, Any] = {
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
            "version": drivers.version_of(bounded([manager, "--version"], QUERY_SECONDS).out) if manager else "",
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
            "version": drivers.version_of(bounded([toolkit, "--version"], QUERY_SECONDS).out) if toolkit else "",
            "packages": {package.name: package.version for package in packages if package.of_toolkit},
            "legacy_runtime": drivers.legacy_runtime(text(ROOT / "etc/docker/daemon.json")),
        },
    }
    module.exit_json(changed=False, msg=message(len(on_bus_gpus), driver), gpu=gpu)


if __name__ == "__main__":
    main()
