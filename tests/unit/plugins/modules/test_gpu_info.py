# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import platform
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_info
from ansible_collections.vicuna.fleet.plugins.modules import gpu_info

H200 = Path(__file__).parents[1] / "fixtures" / "gpu" / "h200_580.xml"
FIRST, SECOND = "0000:00:06.0", "0000:00:07.0"
RELEASE = "6.12.107+deb13-amd64"
ID = "7b58343c9eea4f1ec404e2cc47c55d4b9d06fa6a45331a8460da98d532744844"
Run = Callable[..., dict[str, Any]]


class Host:
    """A host whose files lie in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/modules", "")

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def program(self, name: str, script: str) -> None:
        self.write(f"bin/{name}", f"#!/bin/sh\n{script}\n").chmod(0o755)

    def device(self, address: str, device_id: str = "2335", driver: str = "", device_class: str = "030200") -> None:
        folder = f"sys/bus/pci/devices/{address}"
        for name, value in {"vendor": "10de", "device": device_id, "class": device_class}.items():
            self.write(f"{folder}/{name}", f"0x{value}\n")
        self.write(f"{folder}/numa_node", "1\n")
        if driver:
            (self.root / "sys/bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
            (self.root / folder / "driver").symlink_to(f"../../drivers/{driver}")

    def driver(self, version: str = "580.159.04", library: str = "580.159.04") -> None:
        self.write(
            "proc/driver/nvidia/version",
            f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build\n",
        )
        folder = "usr/local/nvidia/lib64"
        self.write(f"{folder}/libnvidia-ml.so.{library}", "")
        (self.root / folder / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{library}")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def run(host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module on that host, whose only programs are those in its bin/."""
    monkeypatch.setattr(_gpu_info, "ROOT", host.root)
    monkeypatch.setattr(platform, "release", lambda: RELEASE)
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.get_bin_path",
        lambda _self, name, *_args, **_kwargs: str(path) if (path := host.root / "bin" / name).exists() else None,
    )

    def call(**arguments: Any) -> dict[str, Any]:
        with patch_module_args({"_ansible_remote_tmp": str(host.root), **arguments}), pytest.raises(SystemExit):
            gpu_info.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert not answer["changed"]
        return answer

    return call


@pytest.fixture
def served(host: Host) -> Host:
    """Two H200, their driver and what it said."""
    for address in (FIRST, SECOND):
        host.device(address, driver="nvidia")
    host.driver()
    host.program("nvidia-smi", f'[ "$*" = "--query --xml-format" ] && exec cat {H200}; echo "unexpected: $*"; exit 1')
    return host


def test_a_host_without_a_gpu(run: Run, host: Host) -> None:
    host.write("sys/bus/pci/devices/0000:00:01.0/vendor", "0x1af4\n")
    result = run()
    gpu = result["gpu"]
    assert result["msg"] == "No NVIDIA GPU"
    assert (gpu["present"], gpu["devices"], gpu["open_modules"], gpu["unlisted"]) == (False, [], "", [])
    assert (gpu["driver"]["origin"], gpu["driver"]["matches"], gpu["driver"]["loaded"]) == ("none", None, False)
    assert gpu["secure_boot"] == "unsupported"
    assert gpu["kernel"] == {"release": RELEASE, "headers": False}
    assert gpu["fabric_manager"] == {"required": False, "version": "", "state": "absent"}
    assert gpu["persistence"] == {"daemon": "absent", "mode": False}
    assert gpu["toolkit"] == {"version": "", "packages": {}, "legacy_runtime": False, "config_error": ""}
    assert gpu["cdi"] == {"devices": [], "specs": []}


def test_a_gpu_without_a_driver(run: Run, host: Host) -> None:
    host.device(FIRST)
    host.device("0000:00:06.1", "10f0", "snd_hda_intel", "040300")
    host.program("nvidia-smi", f"touch {host.root}/asked")
    result = run()
    gpu = result["gpu"]
    assert result["msg"] == "1 NVIDIA GPU, no driver answers: the kernel module nvidia is not loaded"
    assert gpu["present"]
    assert gpu["devices"][0] == {
        "address": FIRST,
        "device_id": "2335",
        "class": "030200",
        "kind": "gpu",
        "generation": "Hopper",
        "kernel_driver": "",
        "numa_node": 1,
    }
    assert (gpu["devices"][1]["kind"], gpu["devices"][1]["kernel_driver"]) == ("other", "snd_hda_intel")
    assert (gpu["open_modules"], gpu["unlisted"], gpu["gpus"]) == ("supported", [FIRST], [])
    assert not (host.root / "asked").exists(), "nvidia-smi would load the module"


def test_two_gpus(run: Run, served: Host) -> None:
    result = run()
    gpu = result["gpu"]
    assert result["msg"] == "2 NVIDIA GPUs, driver 580.159.04 answers"
    driver = gpu["driver"]
    assert (driver["loaded"], driver["flavour"], driver["matches"], driver["answers"]) == (True, "open", True, True)
    assert (driver["version"], driver["library_version"]) == ("580.159.04", "580.159.04")
    assert (driver["cuda_version"], driver["origin"], driver["error"]) == ("13.0", "other", "")
    assert gpu["gpus"][1] == {
        "index": 1,
        "name": "NVIDIA H200",
        "uuid": "GPU-00000000-0000-0000-0000-000000000002",
        "address": SECOND,
        "memory_total_mib": 143771,
        "memory_free_mib": 143156,
        "memory_used_mib": 0,
        "memory_reserved_mib": 616,
        "compute_capability": "9.0",
        "mig": "disabled",
        "mig_devices": [],
        "ecc": "enabled",
        "processes": [],
    }
    assert gpu["unlisted"] == []
    assert gpu["persistence"]["mode"]
    assert not gpu["reboot_required"]


def test_a_gpu_that_the_driver_does_not_list(run: Run, served: Host) -> None:
    served.device("0000:3b:00.0", driver="nvidia")
    served.device("0000:3c:00.0", driver="vfio-pci")
    gpu = run()["gpu"]
    assert (gpu["driver"]["answers"], gpu["unlisted"]) == (True, ["0000:3b:00.0"])


def test_a_mismatch(run: Run, host: Host) -> None:
    host.device(FIRST, driver="nvidia")
    host.driver("535.161.08", library="535.171.04")
    host.program("nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    result = run()
    driver = result["gpu"]["driver"]
    assert (driver["matches"], driver["answers"]) == (False, False)
    assert (driver["version"], driver["library_version"]) == ("535.161.08", "535.171.04")
    assert result["msg"] == (
        "1 NVIDIA GPU, no driver answers: Failed to initialize NVML: Driver/library version mismatch"
    )


def test_no_nvidia_smi(run: Run, host: Host) -> None:
    host.device(FIRST, driver="nvidia")
    host.driver()
    assert run()["gpu"]["driver"]["error"] == "there is no nvidia-smi"


def test_a_gpu_that_hangs(run: Run, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child outlives the signal, as one that hangs in the kernel does, and is not waited for."""
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _signal: killed.append(group))
    host.device(FIRST, driver="nvidia")
    host.driver()
    host.program("nvidia-smi", f"cut -d' ' -f1,5,6 /proc/$$/stat >> {host.root}/asked; exec sleep 30")
    started = time.monotonic()
    driver = run(timeout=1)["gpu"]["driver"]
    assert time.monotonic() - started < 10
    assert driver["error"] == "nvidia-smi gave no answer within 1 s: a GPU or the driver hangs"
    assert not driver["answers"]
    pid, group, session = map(int, (host.root / "asked").read_text().split())
    os.kill(pid, signal.SIGKILL)
    assert killed == [pid]
    assert pid == group == session, "what it starts would be left over"


def test_mig(run: Run, host: Host) -> None:
    uuid = "GPU-00000000-0000-0000-0000-000000000001"
    mig = (
        "<current_mig>Enabled</current_mig></mig_mode><mig_devices><mig_device><index>0</index><fb_memory_usage>"
        "<total>19968 MiB</total><free>19955 MiB</free></fb_memory_usage></mig_device></mig_devices><mig_mode>"
    )
    text = H200.read_text(encoding="utf-8").replace("<current_mig>Disabled</current_mig>", mig, 1)
    host.write("answer.xml", text)
    host.device(FIRST, driver="nvidia")
    host.driver()
    host.program(
        "nvidia-smi",
        f'[ "$1" = --query ] && exec cat {host.root}/answer.xml\n'
        f"printf 'GPU 0: NVIDIA H200 (UUID: {uuid})\\n  MIG 1g.18gb     Device  0: (UUID: MIG-1)\\n'",
    )
    first, second = run()["gpu"]["gpus"]
    assert first["mig"] == "enabled"
    assert first["mig_devices"] == [
        {"index": 0, "uuid": "MIG-1", "profile": "1g.18gb", "memory_total_mib": 19968, "memory_free_mib": 19955}
    ]
    assert second["mig_devices"] == []


def test_the_driver_is_asked_for_a_capability_that_is_not_known(run: Run, served: Host) -> None:
    served.device(SECOND, "3fff")
    served.program(
        "nvidia-smi",
        f'[ "$1" = --query ] && exec cat {H200}\n'
        '[ "$*" = "--query-gpu=uuid,compute_cap --format=csv,noheader" ] || exit 2\n'
        "echo GPU-00000000-0000-0000-0000-000000000001, 9.0; echo GPU-00000000-0000-0000-0000-000000000002, 13.0",
    )
    assert [gpu["compute_capability"] for gpu in run()["gpu"]["gpus"]] == ["9.0", "13.0"]


def test_gpus_that_tell_neither_uuid_nor_memory(run: Run, served: Host) -> None:
    """N/A wherever nvidia-smi has no figure. What one GPU lacks is not taken from another."""
    served.device(SECOND, "3fff")
    text = re.sub(r"<(uuid|total|free|used|reserved|current_ecc)>[^<]*<", r"<\1>N/A<", H200.read_text(encoding="utf-8"))
    served.write("answer.xml", text)
    served.program("nvidia-smi", f'[ "$1" = --query ] && exec cat {served.root}/answer.xml; echo "[N/A], [N/A]"')
    found = run()["gpu"]
    assert found["driver"]["answers"]
    assert [gpu["compute_capability"] for gpu in found["gpus"]] == ["9.0", ""]
    for gpu in found["gpus"]:
        assert (gpu["uuid"], gpu["memory_total_mib"], gpu["memory_free_mib"], gpu["ecc"]) == (
            "",
            None,
            None,
            "unsupported",
        )


@pytest.mark.parametrize(("own", "container"), [("0::/init.scope\n", ID), (f"0::/docker/{ID}\n", "")])
def test_processes(run: Run, served: Host, own: str, container: str) -> None:
    info = (
        "<process_info><pid>4242</pid><process_name>python3</process_name><used_memory>13000 MiB</used_memory>"
        "</process_info><process_info><pid>4243</pid><process_name>[Not Found]</process_name>"
        "<used_memory>N/A</used_memory></process_info>"
    )
    text = H200.read_text(encoding="utf-8").replace("<processes>", f"<processes>{info}", 1)
    served.write("answer.xml", text)
    served.program("nvidia-smi", f"cat {served.root}/answer.xml")
    served.write("proc/self/cgroup", own)
    served.write("proc/4242/cgroup", f"0::/system.slice/docker-{ID}.scope\n")
    served.write("proc/4242/cmdline", "python3\0-m\0fastchat.serve.model_worker\0")
    assert run()["gpu"]["gpus"][0]["processes"] == [
        {
            "pid": 4242,
            "name": "python3",
            "command": "python3 -m fastchat.serve.model_worker",
            "container": container,
            "memory_mib": 13000,
        },
        {"pid": 4243, "name": "[Not Found]", "command": "", "container": "", "memory_mib": None},
    ]


def test_packages(run: Run, host: Host) -> None:
    maker = "Debian NVIDIA Maintainers <pkg-nvidia-devel@lists.alioth.debian.org>"
    host.program(
        "dpkg-query",
        f"printf 'hi \\tnvidia-kernel-dkms\\t550.163.01-2\\t{maker}\\nii \\tnvidia-smi\\t550.163.01-2\\t{maker}\\n"
        "ii \\tnvidia-container-toolkit\\t1.18.0-1\\tNVIDIA <cudatools@nvidia.com>\\n'; exit 1",
    )
    gpu = run()["gpu"]
    assert gpu["driver"]["packages"] == {"nvidia-kernel-dkms": "550.163.01-2", "nvidia-smi": "550.163.01-2"}
    assert (gpu["driver"]["held"], gpu["driver"]["origin"]) == (["nvidia-kernel-dkms"], "distribution")
    assert gpu["toolkit"]["packages"] == {"nvidia-container-toolkit": "1.18.0-1"}


def test_packages_of_rpm(run: Run, host: Host) -> None:
    host.write("etc/dnf/plugins/versionlock.list", "nvidia-driver-cuda-3:580.95.05-1.el9.*\n")
    host.program("rpm", r"printf 'nvidia-driver-cuda\t580.95.05-1.el9\tNVIDIA Corporation\n'")
    driver = run()["gpu"]["driver"]
    assert (driver["packages"], driver["held"]) == ({"nvidia-driver-cuda": "580.95.05-1.el9"}, ["nvidia-driver-cuda"])
    assert driver["origin"] == "nvidia"


@pytest.mark.parametrize(
    ("program", "script", "expected"),
    [
        ("dpkg-query", "[ $1 = --show ] || echo 'dpkg-query: no path found matching pattern' >&2; exit 1", "runfile"),
        ("dpkg-query", '[ $1 = --search ] && echo "nvidia-utils: $2"', "none"),
        ("rpm", "echo 'file /usr/bin/nvidia-uninstall is not owned by any package'; exit 1", "runfile"),
        ("rpm", "echo nvidia-driver-580.95.05-1.el9.x86_64", "none"),
        ("true", "", "runfile"),
    ],
)
def test_the_run_files_uninstaller(run: Run, host: Host, program: str, script: str, expected: str) -> None:
    host.write("usr/bin/nvidia-uninstall", "")
    host.program(program, script)
    assert run()["gpu"]["driver"]["origin"] == expected


@pytest.mark.parametrize(
    ("kernel", "loaded", "reboot"),
    [
        ("", "550.163.01", False),
        ("", "535.247.01", True),
        # What another kernel would load says nothing of what this one has loaded
        ("6.12.200+deb13-amd64", "535.247.01", False),
    ],
)
def test_a_module_on_disk(run: Run, host: Host, kernel: str, loaded: str, reboot: bool) -> None:
    release = kernel or RELEASE
    path = host.write(f"lib/modules/{release}/updates/dkms/nvidia-current.ko.xz", "")
    host.write(f"lib/modules/{release}/updates/dkms/nvidia-current-drm.ko.xz", "")
    host.write(f"usr/src/linux-headers-{release}/Makefile", "")
    host.program("modinfo", f'[ "$*" = "--field version {path}" ] && echo 550.163.01')
    host.driver(loaded, library="550.163.01")
    gpu = run(kernel=kernel)["gpu"]
    assert gpu["driver"]["module_version"] == "550.163.01"
    assert gpu["kernel"] == {"release": release, "headers": True}
    assert gpu["reboot_required"] == reboot


def test_the_distribution_asks_for_a_reboot(run: Run, host: Host) -> None:
    host.write("var/run/reboot-required", "*** System restart required ***\n")
    assert run()["gpu"]["reboot_required"]


@pytest.mark.parametrize("how", ["nvswitch", "adapter"])
def test_fabric_manager(run: Run, served: Host, how: str) -> None:
    if how == "nvswitch":
        served.device("0000:80:00.0", "22a3", "nvidia-nvswitch", "068000")
    else:
        served.write("sys/class/infiniband/mlx5_0/device/vpd", b"\x82\x10\x00ConnectX-7\xff\x00\x00")
        served.write("sys/class/infiniband/mlx5_1/device/vpd", b"\x82\x10\x00SMDL=SW_MNG\xff\x00\x00")
    (served.root / "run/systemd/system").mkdir(parents=True)
    served.program("nv-fabricmanager", "echo 'Fabric Manager version is : 580.159.04'")
    served.program(
        "systemctl",
        "printf 'Id=nvidia-fabricmanager.service\\nLoadState=loaded\\nActiveState=failed\\n\\n"
        "Id=nvidia-persistenced.service\\nLoadState=loaded\\nActiveState=failed\\n'",
    )
    gpu = run()["gpu"]
    assert gpu["fabric_manager"] == {"required": True, "version": "580.159.04", "state": "failed"}
    assert gpu["persistence"]["daemon"] == "inactive"


def test_services_without_systemd(run: Run, served: Host) -> None:
    served.program("systemctl", "echo 'System has not been booted with systemd'; exit 1")
    served.program("nv-fabricmanager", "echo 'Fabric Manager version is : 580.159.04'")
    served.program("nvidia-persistenced", "")
    gpu = run()["gpu"]
    assert (gpu["fabric_manager"]["state"], gpu["persistence"]["daemon"]) == ("unknown", "unknown")


@pytest.mark.parametrize("how", ["modules", "device"])
def test_nouveau(run: Run, host: Host, how: str) -> None:
    host.device(FIRST, driver="nouveau" if how == "device" else "")
    if how == "modules":
        host.write("proc/modules", "nouveau 3780608 0 - Live 0xffffffffc0a00000\n")
    # The file in /etc hides the one that blacklists
    host.write("usr/lib/modprobe.d/nvidia.conf", "blacklist nouveau\n")
    host.write("etc/modprobe.d/nvidia.conf", "")
    assert run()["gpu"]["nouveau"] == {"loaded": True, "blacklisted": False}
    host.write("etc/modprobe.d/nvidia.conf", "blacklist nouveau\n")
    assert run()["gpu"]["nouveau"]["blacklisted"]


def test_secure_boot(run: Run, host: Host) -> None:
    host.write(_gpu_info.SECURE_BOOT, b"\6\0\0\0\1")
    assert run()["gpu"]["secure_boot"] == "enabled"


def test_cdi_and_the_toolkit(run: Run, host: Host) -> None:
    generated = "kind: nvidia.com/gpu\ndevices:\n- name: all\n- name: '0'\nx: /usr/lib/libcuda.so.580.159.04\n"
    host.write("etc/cdi/nvidia.yaml", generated)
    host.write("var/run/cdi/nvidia.json", '{"kind": "nvidia.com/gpu", "devices": [{"name": "all"}]}')
    host.write("etc/cdi/intel.yaml", "kind: intel.com/gpu\ndevices:\n- name: card0\n")
    host.write("etc/cdi/nvidia.yaml.bak", "kind: nvidia.com/gpu\ndevices:\n- name: old\n")
    host.write("etc/docker/daemon.json", '{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}')
    host.program("nvidia-ctk", "printf 'NVIDIA Container Toolkit CLI version 1.18.0\\ncommit: 1\\n'")
    gpu = run()["gpu"]
    assert gpu["cdi"] == {
        "devices": ["nvidia.com/gpu=0", "nvidia.com/gpu=all"],
        "specs": [
            {
                "path": str(host.root / "etc/cdi/nvidia.yaml"),
                "driver_version": "580.159.04",
                "devices": ["nvidia.com/gpu=all", "nvidia.com/gpu=0"],
            },
            {
                "path": str(host.root / "var/run/cdi/nvidia.json"),
                "driver_version": "",
                "devices": ["nvidia.com/gpu=all"],
            },
        ],
    }
    assert gpu["toolkit"] == {"version": "1.18.0", "packages": {}, "legacy_runtime": True, "config_error": ""}
