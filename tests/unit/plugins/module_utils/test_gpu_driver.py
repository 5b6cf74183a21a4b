# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_driver import (
    CdiSpec,
    Package,
    container_of,
    held_by_dnf,
    kernel_module,
    libraries,
    library_version,
    nouveau_blacklisted,
    origin,
    parse_cdi,
    parse_dpkg,
    parse_loaded,
    parse_rpm,
    secure_boot,
    units,
    version_of,
)

DEBIAN = "Debian NVIDIA Maintainers <pkg-nvidia-devel@lists.alioth.debian.org>"
UBUNTU = "Ubuntu Core Developers <ubuntu-devel-discuss@lists.ubuntu.com>"
NVIDIA = "cudatools <cudatools@nvidia.com>"
ID = "7b58343c9eea4f1ec404e2cc47c55d4b9d06fa6a45331a8460da98d532744844"


def test_parse_dpkg() -> None:
    # dpkg-query of Debian 13, with a package that dpkg only knows by name, one that was removed and one half installed
    out = (
        "un \tnvidia-driver\t\t\n"
        f"ii \tnvidia-kernel-dkms\t550.163.01-2\t{DEBIAN}\n"
        f"hi \tnvidia-smi\t550.163.01-2\t{DEBIAN}\n"
        f"rc \tnvidia-persistenced\t550.163.01-1\t{DEBIAN}\n"
        f"iU \tlibcuda1\t550.163.01-2\t{DEBIAN}\n"
        f"iF \tnvidia-kernel-support\t550.163.01-2\t{DEBIAN}\n"
    )
    assert parse_dpkg(out) == [
        Package("nvidia-kernel-dkms", "550.163.01-2", DEBIAN),
        Package("nvidia-smi", "550.163.01-2", DEBIAN, held=True),
    ]


def test_parse_rpm() -> None:
    out = (
        "nvidia-driver-cuda\t580.95.05-1.el9\tNVIDIA Corporation\n"
        "kmod-nvidia-open-dkms\t580.95.05-1.el9\tNVIDIA Corporation\n"
        "nvidia-persistenced\t580.95.05-1.el9\tNVIDIA Corporation\n"
    )
    locks = "# Added lock\nkmod-nvidia-open-dkms-3:580.95.05-1.el9.*\n\n[main]\ngpgcheck=True\nexclude=nvidia-driver*"
    assert {package.name: package.held for package in parse_rpm(out, locks)} == {
        "nvidia-driver-cuda": True,
        "kmod-nvidia-open-dkms": True,
        "nvidia-persistenced": False,
    }
    assert not any(package.held for package in parse_rpm(out, ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("nvidia-driver-3:580.95.05-1.el9.x86_64\n", ["nvidia-driver"]),
        ("nvidia-driver-0:580.95.05-1.*\n!nvidia-smi-0:1-1.*\n", ["nvidia-driver"]),
        ("[main]\nexcludepkgs = kmod-nvidia*, nvidia-driver\nbest=True\n", ["kmod-nvidia*", "nvidia-driver"]),
    ],
)
def test_held_by_dnf(text: str, expected: list[str]) -> None:
    assert held_by_dnf(text) == expected


@pytest.mark.parametrize(
    ("name", "of_driver", "of_toolkit"),
    [
        ("nvidia-kernel-dkms", True, False),
        ("nvidia-tesla-535-kernel-dkms", True, False),
        ("linux-modules-nvidia-580-server-open-generic", True, False),
        ("firmware-nvidia-gsp", True, False),
        ("nvidia-cuda-mps", True, False),
        ("nvidia-fabricmanager-580", True, False),
        ("nvidia-cuda-toolkit", False, False),
        ("libnvidia-ml-dev", False, False),
        ("libnvidia-egl-wayland1", False, False),
        ("nvidia-detect", False, False),
        ("nvidia-driver-local-repo-ubuntu2404-580.95.05", False, False),
        ("nvidia-container-toolkit-base", False, True),
        ("libnvidia-container1", False, True),
        ("nvidia-container-runtime", False, True),
        ("nvidia-docker2", False, True),
    ],
)
def test_what_a_package_belongs_to(name: str, of_driver: bool, of_toolkit: bool) -> None:
    package = Package(name, "1", "")
    assert (package.of_driver, package.of_toolkit) == (of_driver, of_toolkit)


ORIGINS = [
    ("nvidia-kernel-dkms", "550.163.01-2", DEBIAN, "distribution"),
    ("nvidia-headless-580-server", "580.95.05-0ubuntu0.24.04.2", UBUNTU, "distribution"),
    ("linux-modules-nvidia-580-server-6.8.0-60-generic", "6.8.0-60.63", UBUNTU, "distribution"),
    ("nvidia-driver-565", "565.57.01-0ubuntu0~gpu24.04.4", UBUNTU, "other"),
    ("cuda-drivers-580", "580.95.05-0ubuntu1", NVIDIA, "nvidia"),
    ("nvidia-open", "580.95.05-1", "NVIDIA <cudatools@nvidia.com>", "nvidia"),
    ("kmod-nvidia-open-dkms", "580.95.05-1.el9", "NVIDIA Corporation", "nvidia"),
    ("akmod-nvidia", "580.95.05-1.el9", "RPM Fusion", "other"),
    ("nvidia-driver-580", "580.95.05-1", "System76 <dev@system76.com>", "other"),
]


@pytest.mark.parametrize(("name", "version", "vendor", "expected"), ORIGINS)
def test_origin_by_packages(name: str, version: str, vendor: str, expected: str) -> None:
    packages = [Package("firmware-nvidia-gsp", "1", "somebody"), Package(name, version, vendor)]
    assert origin(packages, uninstaller=False, log=False, there=False) == expected


@pytest.mark.parametrize(
    "name", ["firmware-nvidia-gsp", "nvidia-settings", "libnvidia-ml1", "nvidia-detect", "nvidia-docker2"]
)
def test_what_is_only_about_a_driver_is_none(name: str) -> None:
    assert origin([Package(name, "1", DEBIAN)], uninstaller=False, log=False, there=False) == "none"


def test_origin_of_two_drivers() -> None:
    packages = [Package("libcuda1", "550.163.01-2", DEBIAN), Package("nvidia-open", "580.95.05-1", NVIDIA)]
    assert origin(packages, uninstaller=False, log=False, there=True) == "nvidia"
    assert origin(packages, uninstaller=True, log=True, there=True) == "runfile"


@pytest.mark.parametrize(
    ("uninstaller", "log", "there", "expected"),
    [
        (True, True, True, "runfile"),
        # An image whose /usr/bin was cleaned
        (False, True, True, "runfile"),
        # The log outlives the driver
        (False, True, False, "none"),
        (False, False, True, "other"),
        (False, False, False, "none"),
    ],
)
def test_origin_without_packages(uninstaller: bool, log: bool, there: bool, expected: str) -> None:
    assert origin([], uninstaller, log, there) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Captured, branch 580
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (nixbld@)  \n"
            "GCC version:  gcc version 15.3.0 (GCC) \n",
            ("580.159.04", "open"),
        ),
        # The forms of branches 470 and 535
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
            ("470.256.02", "proprietary"),
        ),
        ("NVRM version: NVIDIA UNIX aarch64 Kernel Module  535.54  Tue Jun  6\n", ("535.54", "proprietary")),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.163.01", ("550.163.01", "open")),
        ("", ("", "")),
        ("garbage", ("", "")),
    ],
)
def test_parse_loaded(text: str, expected: tuple[str, str]) -> None:
    assert parse_loaded(text) == expected


def test_libraries() -> None:
    # Captured on an image that mounts its driver, and a 32-bit library as multiarch has it
    out = (
        "1234 libs found in cache `/etc/ld.so.cache'\n"
        "\tlibcuda.so.1 (libc6,x86-64) => /usr/local/nvidia/lib64/libcuda.so.1\n"
        "\tlibcuda.so.1 (libc6) => /lib/i386-linux-gnu/libcuda.so.1\n"
        "\tlibcuda.so (libc6,x86-64) => /lib/libcuda.so\n"
        "\tlibcudart.so.13 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.13\n"
        "\tlibnvidia-ml.so.1 (libc6,x86-64) => /usr/local/nvidia/lib64/libnvidia-ml.so.1\n"
        "\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/libnvidia-ml.so.1\n"
    )
    assert libraries(out) == [
        "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
        "/lib/libnvidia-ml.so.1",
        "/usr/local/nvidia/lib64/libcuda.so.1",
    ]
    assert libraries("\tlibcuda.so.1 (libc6,AArch64) => /lib/libcuda.so.1\n") == ["/lib/libcuda.so.1"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/lib/x86_64-linux-gnu/nvidia/current/libnvidia-ml.so.550.163.01", "550.163.01"),
        ("/usr/lib/x86_64-linux-gnu/libcuda.so.535.54", "535.54"),
        ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", ""),
        ("/usr/local/cuda-13.0/compat/libcuda.so.580.95.05", ""),
        ("/usr/local/cuda/lib64/stubs/libnvidia-ml.so.580.95.05", ""),
        ("/usr/lib/libcudadebugger.so.580.95.05", ""),
    ],
)
def test_library_version(path: str, expected: str) -> None:
    assert library_version(path) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ""),
        (["nvidia-drm.ko", "nvidia-uvm.ko.xz", "nvidia-modeset.ko", "nvidia-peermem.ko", "nvidiafb.ko"], ""),
        # DKMS of Debian, of Ubuntu and of NVIDIA
        (
            ["updates/dkms/nvidia-current.ko.xz", "updates/dkms/nvidia-current-drm.ko.xz"],
            "updates/dkms/nvidia-current.ko.xz",
        ),
        (["updates/dkms/nvidia-current-open.ko.xz"], "updates/dkms/nvidia-current-open.ko.xz"),
        (["updates/dkms/nvidia-tesla-535-current.ko"], "updates/dkms/nvidia-tesla-535-current.ko"),
        (["extra/nvidia.ko.xz", "extra/nvidia-drm.ko.xz"], "extra/nvidia.ko.xz"),
        # Ubuntu's signed module, and one that DKMS built over it
        (["kernel/nvidia-580srv/nvidia.ko", "kernel/nvidia-580srv/nvidia-uvm.ko"], "kernel/nvidia-580srv/nvidia.ko"),
        (["kernel/nvidia-580srv/nvidia.ko", "updates/dkms/nvidia.ko.zst"], "updates/dkms/nvidia.ko.zst"),
    ],
)
def test_kernel_module(names: list[str], expected: str) -> None:
    folder = "/lib/modules/6.12.107+deb13-amd64/"
    assert kernel_module(folder + name for name in names) == (folder + expected if expected else "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVIDIA Container Toolkit CLI version 1.17.4\ncommit: 9b69590c7428470a72f2ae05f826412976af1395\n", "1.17.4"),
        ("NVIDIA Container Toolkit CLI version 1.18.0-rc.4\ncommit: 0", "1.18.0-rc.4"),
        ("Fabric Manager version is : 580.95.05\n", "580.95.05"),
        ("", ""),
    ],
)
def test_version_of(text: str, expected: str) -> None:
    assert version_of(text) == expected


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "expected"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", "", ID),
        (f"12:devices:/docker/{ID}\n0::/docker/{ID}\n", "", ID),
        (f"0::/system.slice/docker-{ID}.scope/init.scope\n", "", ID),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", "", ID),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n", "", ID),
        (f"0::/vicuna/{ID}\n", "", ID),
        (f"0::/docker/{'0' * 64}/system.slice/docker-{ID}.scope\n", "", ID),
        # Seen from inside the same cgroup namespace
        (
            "0::/\n",
            f"1 0 0:60 / / rw - overlay overlay rw,upperdir=/var/lib/docker/overlay2/{'0' * 64}/diff\n"
            f"2 1 254:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/vda1 rw\n",
            ID,
        ),
        ("0::/init.scope\n", "22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n", ""),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "", ""),
        ("", "", ""),
    ],
)
def test_container_of(cgroup: str, mountinfo: str, expected: str) -> None:
    assert container_of(cgroup, mountinfo) == expected


@pytest.mark.parametrize(
    ("configuration", "command_line", "expected"),
    [
        ([], "", False),
        (["options snd power_save=1\n", "# blacklist\nblacklist nouveau\noptions nouveau modeset=0\n"], "", True),
        (["install nouveau /bin/false\n"], "", True),
        (["#blacklist nouveau\n", "blacklist nouveau_fake\n", "alias nouveau off\n"], "", False),
        ([], "ro rd.driver.blacklist=nouveau modprobe.blacklist=nouveau", True),
        ([], "quiet modprobe.blacklist=floppy,nouveau", True),
        ([], "module_blacklist=nouveau", True),
        ([], "ro nouveau.modeset=0 modprobe.blacklist=nouveaux", False),
    ],
)
def test_nouveau_blacklisted(configuration: list[str], command_line: str, expected: bool) -> None:
    assert nouveau_blacklisted(configuration, command_line) == expected


@pytest.mark.parametrize(
    ("variable", "expected"),
    [(b"\6\0\0\0\1", "enabled"), (b"\6\0\0\0\0", "disabled"), (b"", "unsupported"), (b"\1", "unsupported")],
)
def test_secure_boot(variable: bytes, expected: str) -> None:
    assert secure_boot(variable) == expected


def test_units() -> None:
    # systemd 257
    out = (
        "Id=a.service\nLoadState=loaded\nActiveState=active\n\n"
        "Id=b.service\nLoadState=not-found\nActiveState=inactive\n\n"
        "Id=c.service\nLoadState=loaded\nActiveState=failed\n\n"
        "Id=d.service\nLoadState=loaded\nActiveState=activating\n\n"
        "Id=e.service\nLoadState=masked\nActiveState=inactive\n"
    )
    assert units(out) == {
        "a.service": "active",
        "b.service": "absent",
        "c.service": "failed",
        "d.service": "inactive",
        "e.service": "inactive",
    }


# Constructed in the layouts that NVIDIA/nvidia-container-toolkit issue 38 and docker/buildx issue 3295 show: keys in
# alphabetical order, so that a device's name comes last.
SORTED = """\
---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args:
    - nvidia-cdi-hook
    - create-symlinks
    - --link
    - libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts:
  - containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.575.57.08
    hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.575.57.08
    options:
    - ro
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: "0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      name: no device
  name: GPU-00000000-0000-0000-0000-000000000001
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: all
kind: nvidia.com/gpu
"""
# Kind first and deeper indents, as in NVIDIA/nvidia-container-runtime issue 85 and later toolkits.
NAMED_FIRST = """\
cdiVersion: 0.7.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0

    - name: '1:0'
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia1
containerEdits:
    mounts:
        - hostPath: /usr/lib64/libnvidia-ml.so.580.95.05
          containerPath: /usr/lib64/libnvidia-ml.so.580.95.05
    hooks:
        - hookName: createContainer
          name: no device
"""
CDI = [
    ("nvidia.yaml", SORTED, "575.57.08", ("0", "GPU-00000000-0000-0000-0000-000000000001", "all")),
    ("nvidia.yml", NAMED_FIRST, "580.95.05", ("0", "1:0")),
    (
        "nvidia.json",
        json.dumps({"kind": "nvidia.com/gpu", "devices": [{"name": "0"}], "x": "/usr/lib64/libcuda.so.580.95.05"}),
        "580.95.05",
        ("0",),
    ),
    ("empty.yaml", "kind: nvidia.com/gpu\ndevices: []\n", "", ()),
    ("none.json", '{"kind": "nvidia.com/gpu"}', "", ()),
]


@pytest.mark.parametrize(("name", "text", "version", "devices"), CDI)
def test_parse_cdi(name: str, text: str, version: str, devices: tuple[str, ...]) -> None:
    expected = tuple(f"nvidia.com/gpu={device}" for device in devices)
    assert parse_cdi(f"/etc/cdi/{name}", text) == CdiSpec(f"/etc/cdi/{name}", version, expected)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("intel.yaml", "kind: intel.com/gpu\ndevices:\n- name: card0\n"),
        ("broken.json", "{"),
        ("list.json", "[]"),
        ("nameless.json", '{"kind": "nvidia.com/gpu", "devices": [{}]}'),
        ("empty.yaml", ""),
    ],
)
def test_what_is_no_specification_of_nvidia(name: str, text: str) -> None:
    assert parse_cdi(f"/etc/cdi/{name}", text) is None
