#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a FAKE of NVIDIA GPUs into a sandbox host, and takes it out again. It computes nothing.

Run as root inside the host, a privileged container. Prints "changed" or "unchanged".
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

PLACE = Path("/run/fake-gpu")
STATE = PLACE / "state.json"
BUS = Path("/sys/bus/pci/devices")
PROC = Path("/proc/driver")
FIRMWARE = Path("/sys/firmware")
SECURE_BOOT = FIRMWARE / "efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# Where an image without packages mounts its driver.
DRIVER = Path("/usr/local/nvidia")
LINK = Path("/usr/local/bin/nvidia-smi")
NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
NVSWITCH_ID = "22a3"

FAULTS = {
    "mismatch": (
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: {library}",
        18,
    ),
    "unreachable": (
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
        "Make sure that the latest NVIDIA driver is installed and running.\n",
        9,
    ),
    "no-devices": ("No devices were found", 6),
    "lost": ("Unable to determine the device handle for GPU0: {address}: Unknown Error", 255),
    "hang": ("", 0),
}

SCRIPT = r"""#!/bin/sh
# A FAKE of nvidia-smi: there is no GPU. Lists those whose device nodes it finds. Builtins of the shell only, so that it
# runs in a container that has nothing but /bin/sh.
@FAULT@
units=yes header=yes query= what=
for argument; do
  case $argument in
    -q | --query) what=$what-q ;;
    -x | --xml-format) what=$what-x ;;
    -qx | -xq) what=-q-x ;;
    -L | --list-gpus) what=-L ;;
    --query-gpu=*) what=csv query=${argument#*=} ;;
    --format=*)
      case $argument in *nounits*) units=no ;; esac
      case $argument in *noheader*) header=no ;; esac
      ;;
    *) printf 'Invalid option: %s is not faked.\n' "$argument"; exit 2 ;;
  esac
done
case $what in -x-q) what=-q-x ;; esac
count=0
for number in @NUMBERS@; do
  if [ -e "/dev/nvidia$number" ]; then count=$((count + 1)); fi
done
if [ "$count" = 0 ]; then
  echo 'No devices were found'
  exit 6
fi

# The XML of GPU $1.
xml() {
  case $1 in
@XML@
  esac
}

# Line $2 of the list for GPU $1.
list() {
  case $1 in
@LIST@
  esac
}

# Field $2 of GPU $1 and its unit.
field() {
  unit=
  case $1/$2 in
@FIELDS@
    *) printf 'Field "%s" is not a valid field to query.\n' "$2"; exit 2 ;;
  esac
}

case $what in
  -q-x)
    printf '%s\n' '<?xml version="1.0" ?>' '<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">' '<nvidia_smi_log>'
    printf '\t%s\n' '<timestamp>Thu Jan  1 00:00:00 1970</timestamp>' '<driver_version>@DRIVER@</driver_version>'
    printf '\t%s\n' '<cuda_version>@CUDA@</cuda_version>' "<attached_gpus>$count</attached_gpus>"
    ;;
  -L | csv) ;;
  *) printf 'A FAKE of NVIDIA-SMI @DRIVER@, %s GPUs. It answers -q -x, -L and --query-gpu.\n' "$count"; exit 0 ;;
esac
if [ "$what" = csv ] && [ "$header" = yes ]; then printf '%s\n' "$query"; fi
index=0
for number in @NUMBERS@; do
  if [ -e "/dev/nvidia$number" ]; then
    case $what in
      -q-x) xml "$number" ;;
      -L) list "$number" ;;
      csv)
        line= rest=$query,
        while [ -n "$rest" ]; do
          name=${rest%%,*} rest=${rest#*,}
          field "$number" "${name# }"
          if [ "$units" = no ]; then unit=; fi
          line=$line${line:+, }$value$unit
        done
        printf '%s\n' "$line"
        ;;
    esac
    index=$((index + 1))
  fi
done
if [ "$what" = -q-x ]; then printf '%s\n' '</nvidia_smi_log>'; fi
exit 0
"""

GPU = """\t<gpu id="0000{address}">
\t\t<product_name>{name}</product_name>
\t\t<persistence_mode>Enabled</persistence_mode>
\t\t<mig_mode>
\t\t\t<current_mig>{mig_mode}</current_mig>
\t\t\t<pending_mig>{mig_mode}</pending_mig>
\t\t</mig_mode>
\t\t<mig_devices>{mig_devices}</mig_devices>
\t\t<serial>N/A</serial>
\t\t<uuid>{uuid}</uuid>
\t\t<minor_number>{number}</minor_number>
\t\t<pci>
\t\t\t<pci_device_id>{pci_device_id}</pci_device_id>
\t\t\t<pci_bus_id>0000{address}</pci_bus_id>
\t\t</pci>
\t\t<fb_memory_usage>
\t\t\t<total>{total} MiB</total>
\t\t\t<reserved>{reserved} MiB</reserved>
\t\t\t<used>{used} MiB</used>
\t\t\t<free>{free} MiB</free>
\t\t</fb_memory_usage>
\t\t<ecc_mode>
\t\t\t<current_ecc>Enabled</current_ecc>
\t\t\t<pending_ecc>Enabled</pending_ecc>
\t\t</ecc_mode>
\t\t<processes>{processes}</processes>
\t</gpu>"""
MIG = (
    "<mig_device><index>{index}</index><gpu_instance_id>{instance}</gpu_instance_id><compute_instance_id>0"
    "</compute_instance_id><fb_memory_usage><total>{total} MiB</total><reserved>0 MiB</reserved><used>{used} MiB</used>"
    "<free>{free} MiB</free></fb_memory_usage></mig_device>"
)
PROCESS = (
    "<process_info><gpu_instance_id>N/A</gpu_instance_id><compute_instance_id>N/A</compute_instance_id><pid>{pid}</pid>"
    "<type>C</type><process_name>{name}</process_name><used_memory>{memory} MiB</used_memory></process_info>"
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--stage",
        choices=["none", "pci", "driver"],
        default="driver",
        help="none takes the fake out; pci has no driver",
    )
    add("--gpus", type=int, default=1, help="number of GPUs")
    add("--model", default="NVIDIA H200", help="name of the product")
    add("--device-id", default="2335", help="PCI device id, which tells the generation")
    add("--memory", default="143771", help="MiB of each GPU, or a list with commas, one for each GPU")
    add("--free", default="", help="free MiB, likewise; default: all but 616 and what processes hold")
    add("--process", action="append", default=[], metavar="GPU:PID:MIB", help="a process that holds memory")
    add("--mig", default="", metavar="PROFILE,…", help="MIG devices of each GPU, such as 3g.71gb,3g.71gb")
    add("--driver", default="580.159.04", help="version of the loaded kernel module")
    add("--library", default=None, help="version of the library, by default the driver's; empty for none")
    add("--flavour", choices=["open", "proprietary"], default="open", help="of the kernel module")
    add("--cuda", default="13.0", help="highest CUDA version of the driver")
    add("--capability", default="9.0", help="compute capability that nvidia-smi tells")
    add("--kernel-driver", default=None, help="who has the PCI devices, such as nouveau; default: nvidia with a driver")
    add("--nvswitches", type=int, default=0, help="number of NVSwitches on the bus")
    add("--secure-boot", choices=["enabled", "disabled"], default="", help="makes the host a UEFI one")
    add("--fault", choices=sorted(FAULTS), default="", help="what is wrong with nvidia-smi")
    return parser.parse_args()


def figures(text: str, number: int) -> list[int]:
    values = [int(value) for value in text.split(",")]
    if len(values) not in (1, number):
        sys.exit(f"fake-gpu: found {len(values)} figures, expected 1 or {number}: {text}")
    return values * number if len(values) == 1 else values


def address(number: int) -> str:
    return f"0000:{number:02x}:00.0"


def gpus(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What is told of each GPU. UUIDs stay the same on a host."""
    machine = uuid.uuid5(uuid.NAMESPACE_OID, Path("/etc/machine-id").read_text(encoding="utf-8").strip())
    totals = figures(options.memory, options.gpus)
    frees = figures(options.free, options.gpus) if options.free else [None] * options.gpus
    found = []
    for number, (total, free) in enumerate(zip(totals, frees)):
        processes = [entry.split(":") for entry in options.process if entry.split(":")[0] == str(number)]
        used = sum(int(memory) for _gpu, _pid, memory in processes)
        left = total - 616 - used if free is None else free
        mig = [profile for profile in options.mig.split(",") if profile]
        memory = [int(float(profile.partition(".")[2].partition("gb")[0]) * 1000) for profile in mig]
        found.append(
            {
                "number": number,
                "address": address(number + 6),
                "name": escape(options.model),
                "uuid": f"GPU-{uuid.uuid5(machine, f'gpu {number}')}",
                "pci_device_id": f"{options.device_id.upper()}10DE",
                "total": total,
                "free": left,
                "reserved": 616,
                "used": max(total - 616 - left, 0),
                "mig": [(profile, f"MIG-{uuid.uuid5(machine, f'mig {number} {i}')}") for i, profile in enumerate(mig)],
                "mig_mode": "Enabled" if mig else "Disabled",
                "mig_devices": "".join(
                    MIG.format(index=i, instance=i + 1, total=size, used=12, free=size - 12)
                    for i, size in enumerate(memory)
                )
                or "None",
                "processes": "".join(
                    PROCESS.format(pid=pid, name=escape(comm(pid)), memory=memory) for _gpu, pid, memory in processes
                ),
                "capability": options.capability,
                "driver": options.driver,
            }
        )
    return found


def comm(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return "[Not Found]"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def program(options: argparse.Namespace, found: list[dict[str, Any]]) -> str:
    xml, lines, fields = [], [], []
    for gpu in found:
        number = gpu["number"]
        xml.append(f"    {number}) printf '%s\\n' {quoted(GPU.format(**gpu))} ;;")
        text = f"GPU %s: {gpu['name']} (UUID: {gpu['uuid']})\\n" + "".join(
            f"  MIG {profile} Device {i:2}: (UUID: {mig})\\n" for i, (profile, mig) in enumerate(gpu["mig"])
        )
        lines.append(f'    {number}) printf {quoted(text)} "$index" ;;')
        values = {
            "name": gpu["name"],
            "gpu_name": gpu["name"],
            "uuid": gpu["uuid"],
            "gpu_uuid": gpu["uuid"],
            "pci.bus_id": f"0000{gpu['address']}",
            "gpu_bus_id": f"0000{gpu['address']}",
            "driver_version": gpu["driver"],
            "compute_cap": gpu["capability"],
            "mig.mode.current": gpu["mig_mode"],
            "ecc.mode.current": "Enabled",
            "persistence_mode": "Enabled",
            "utilization.gpu": "0 %",
            "memory.total": f"{gpu['total']} MiB",
            "memory.free": f"{gpu['free']} MiB",
            "memory.used": f"{gpu['used']} MiB",
            "memory.reserved": f"{gpu['reserved']} MiB",
        }
        fields.append(f"    {number}/index) value=$index ;;")
        fields.append(f"    {number}/count) value=$count ;;")
        for name, value in values.items():
            amount, space, unit = value.rpartition(" ") if value.endswith((" MiB", " %")) else (value, "", "")
            fields.append(f"    {number}/{name}) value={quoted(amount)} unit={quoted(space + unit)} ;;")
    fault = ""
    if options.fault:
        text, code = FAULTS[options.fault]
        told = text.format(library=library(options), address=found[0]["address"] if found else "")
        fault = "sleep 3600" if options.fault == "hang" else f"printf '%s\\n' {quoted(told)}\nexit {code}"
    replaced = {
        "FAULT": fault,
        "NUMBERS": " ".join(str(gpu["number"]) for gpu in found),
        "XML": "\n".join(xml),
        "LIST": "\n".join(lines),
        "FIELDS": "\n".join(fields),
        "DRIVER": options.driver,
        "CUDA": options.cuda,
    }
    script = SCRIPT
    for key, value in replaced.items():
        script = script.replace(f"@{key}@", value)
    return script


def library(options: argparse.Namespace) -> str:
    return str(options.driver if options.library is None else options.library)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def device(address_: str, device_id: str, device_class: str, driver: str) -> None:
    folder = PLACE / "pci" / address_
    write(folder / "vendor", "0x10de\n")
    write(folder / "device", f"0x{device_id.lower()}\n")
    write(folder / "class", f"0x{device_class}\n")
    write(folder / "numa_node", "-1\n")
    if driver:
        (PLACE / "drivers" / driver).mkdir(parents=True, exist_ok=True)
        (folder / "driver").symlink_to(PLACE / "drivers" / driver)


def mount(*command: str) -> None:
    subprocess.run(["mount", *command], check=True, timeout=20)


def mounted(path: Path) -> bool:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return any(line.split()[1] == str(path) for line in lines)


def remove() -> None:
    for path in (BUS, PROC, FIRMWARE):
        while mounted(path):
            subprocess.run(["umount", str(path)], check=True, timeout=20)
    for node in [*Path("/dev").glob("nvidia[0-9]*"), *(Path("/dev") / name for name in NODES)]:
        # Only nodes of /dev/null's number: those of a real driver have another.
        if node.exists() and stat.S_ISCHR(node.stat().st_mode) and node.stat().st_rdev == os.makedev(1, 3):
            node.unlink()
    if (DRIVER / "FAKE").exists():
        shutil.rmtree(DRIVER)
    if LINK.is_symlink() and LINK.readlink() == DRIVER / "bin/nvidia-smi":
        LINK.unlink()
    shutil.rmtree(PLACE, ignore_errors=True)


def make_bus(options: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    driver = options.kernel_driver
    if driver is None:
        driver = "nvidia" if options.stage == "driver" else ""
    (PLACE / "pci").mkdir(parents=True)
    for entry in BUS.iterdir():
        (PLACE / "pci" / entry.name).symlink_to(entry.resolve())
    for gpu in found:
        device(gpu["address"], options.device_id, "030200", driver)
    for number in range(options.nvswitches):
        device(address(number + 0x80), NVSWITCH_ID, "068000", "nvidia-nvswitch" if driver == "nvidia" else "")
    mount("--bind", str(PLACE / "pci"), str(BUS))


def make_firmware(options: argparse.Namespace) -> None:
    mount("-t", "tmpfs", "fake-gpu", str(FIRMWARE))
    SECURE_BOOT.parent.mkdir(parents=True)
    SECURE_BOOT.write_bytes(bytes([6, 0, 0, 0, options.secure_boot == "enabled"]))


def make_driver(options: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    mount("-t", "tmpfs", "fake-gpu", str(PROC))
    kind = "Open Kernel Module for x86_64" if options.flavour == "open" else "x86_64 Kernel Module"
    write(
        PROC / "nvidia/version",
        f"NVRM version: NVIDIA UNIX {kind}  {options.driver}  Release Build  (a FAKE)\nGCC version:  a FAKE\n",
        0o444,
    )
    for gpu in found:
        write(
            PROC / "nvidia/gpus" / gpu["address"] / "information",
            f"Model: \t\t {gpu['name']}\nGPU UUID: \t {gpu['uuid']}\nBus Location: \t {gpu['address']}\n"
            f"Device Minor: \t {gpu['number']}\n",
            0o444,
        )
    for name in [*(f"nvidia{gpu['number']}" for gpu in found), *NODES]:
        node = Path("/dev") / name
        if not node.exists():
            os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            node.chmod(0o666)
    write(DRIVER / "FAKE", "This driver is a fake: sandbox/fake-gpu\n")
    write(DRIVER / "bin/nvidia-smi", program(options, found), 0o755)
    if not LINK.exists():
        LINK.symlink_to(DRIVER / "bin/nvidia-smi")
    version = library(options)
    if version:
        for name in ("libnvidia-ml.so", "libcuda.so"):
            write(DRIVER / "lib64" / f"{name}.{version}", "a FAKE\n", 0o755)
            (DRIVER / "lib64" / f"{name}.1").symlink_to(f"{name}.{version}")


def main() -> None:
    options = arguments()
    if os.geteuid() != 0 or not Path("/run/systemd/container").exists():
        sys.exit("fake-gpu: found no container or no root, expected root in a sandbox host: run it there")
    if DRIVER.exists() and not (DRIVER / "FAKE").exists():
        sys.exit(f"fake-gpu: found a driver in {DRIVER} that is no fake: expected none")
    wanted = json.dumps(vars(options), sort_keys=True)
    there = STATE.read_text(encoding="utf-8") if STATE.exists() else ""
    if (there == wanted and mounted(BUS)) or (options.stage == "none" and not PLACE.exists()):
        print("unchanged")
        return
    remove()
    if options.stage != "none":
        found = gpus(options)
        make_bus(options, found)
        if options.secure_boot:
            make_firmware(options)
        if options.stage == "driver":
            make_driver(options, found)
        STATE.write_text(wanted, encoding="utf-8")
    print("changed")


if __name__ == "__main__":
    main()
