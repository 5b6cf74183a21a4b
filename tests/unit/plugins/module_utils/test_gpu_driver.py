# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from fnmatch import fnmatchcase

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_driver import (
    PATTERNS,
    CdiSpec,
    Package,
    container_of,
    dependents,
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


# By who packages them: what is held, and removed, with the driver.
PARTS = {
    # By their source packages: nvidia-graphics-drivers*, nvidia-open-gpu-kernel-modules, nvidia-support and others
    "Debian": (
        "glx-alternative-nvidia glx-diversions "
        "firmware-nvidia-gsp firmware-nvidia-tesla-535-gsp libcuda1 libcudadebugger1 libegl-nvidia-tesla-470-0 "
        "libegl-nvidia0 libgl1-nvidia-glvnd-glx libgl1-nvidia-tesla-535-glvnd-glx libgles-nvidia-tesla1 "
        "libgles-nvidia2 libglx-nvidia0 libnvcuvid1 libnvidia-allocator1 libnvidia-api1 libnvidia-cfg1 "
        "libnvidia-eglcore libnvidia-encode1 libnvidia-fbc1 libnvidia-glcore libnvidia-glvkspirv libnvidia-gpucomp "
        "libnvidia-ml1 libnvidia-ngx1 libnvidia-nvvm4 libnvidia-opticalflow1 libnvidia-pkcs11-openssl3 "
        "libnvidia-ptxjitcompiler1 libnvidia-rtcore libnvidia-tesla-470-cbl libnvidia-tesla-470-cuda1 "
        "libnvidia-tesla-470-ifr1 libnvidia-tesla-compiler libnvidia-tesla-535-nvcuvid1 libnvoptix1 "
        "nvidia-alternative nvidia-cuda-mps nvidia-driver nvidia-driver-bin nvidia-driver-full nvidia-driver-libs "
        "nvidia-egl-common nvidia-egl-icd nvidia-installer-cleanup nvidia-kernel-common nvidia-kernel-dkms "
        "nvidia-kernel-source nvidia-kernel-support nvidia-legacy-390xx-driver nvidia-legacy-check "
        "nvidia-libopencl1 nvidia-modprobe nvidia-open-kernel-dkms nvidia-open-kernel-support nvidia-opencl-icd "
        "nvidia-persistenced nvidia-powerd nvidia-settings nvidia-settings-tesla-535 nvidia-smi nvidia-support "
        "nvidia-suspend-common nvidia-tesla-535-kernel-dkms nvidia-tesla-alternative nvidia-tesla-legacy-check "
        "nvidia-tesla-smi nvidia-vdpau-driver nvidia-vulkan-icd nvidia-xconfig xserver-xorg-video-nvidia "
        "xserver-xorg-video-nvidia-tesla-470"
    ),
    "Ubuntu": (
        "libnvidia-cfg1-580-server libnvidia-common-580-server libnvidia-compute-580 libnvidia-decode-535-server "
        "libnvidia-encode-580 libnvidia-extra-580-server libnvidia-fbc1-580 libnvidia-gl-550-server "
        "libnvidia-nscq-580 linux-modules-nvidia-580-server-open-6.8.0-90-generic "
        "linux-modules-nvidia-580-server-open-generic linux-modules-nvidia-570-server-open-nvidia-hwe-22.04 "
        "linux-objects-nvidia-535-server-6.8.0-1020-aws linux-signatures-nvidia-6.8.0-90-generic "
        "nvidia-compute-utils-580-server nvidia-dkms-580-server-open nvidia-driver-580-server-open "
        "nvidia-fabricmanager-580 nvidia-firmware-580-server-580.95.05 nvidia-headless-580-server "
        "nvidia-headless-no-dkms-580-server-open nvidia-imex-580 nvidia-kernel-common-580-server "
        "nvidia-kernel-source-580-open nvidia-utils-580-server nvidia-340 xserver-xorg-video-nvidia-580"
    ),
    "NVIDIA, deb": (
        "cuda-drivers cuda-drivers-580 cuda-drivers-fabricmanager-580 libnvidia-nscq libnvsdm libnvsdm-580 "
        "libnvidia-sandboxutils-580 nvidia-dkms-open nvidia-driver-cuda nvidia-driver-open nvidia-fabricmanager "
        "nvidia-fabricmanager-dev-580 nvidia-firmware nvidia-imex nvidia-kernel-open-dkms nvidia-open "
        "nvidia-open-580 nvlsm "
        # of a guest with a vGPU
        "nvidia-linux-grid-580"
    ),
    "NVIDIA and RPM Fusion, rpm": (
        "akmod-nvidia cuda-drivers dkms-nvidia kmod-nvidia-5.14.0-570.el9_6 kmod-nvidia-535.54.03-5.14.0-284.18.1 "
        "kmod-nvidia-latest-dkms kmod-nvidia-open-dkms libnvidia-cfg libnvidia-fbc libnvidia-gpucomp libnvidia-ml "
        "libnvidia-nscq-535 nvidia-driver nvidia-driver-NVML nvidia-driver-NvFBCOpenGL nvidia-driver-cuda "
        "nvidia-driver-cuda-libs nvidia-driver-libs nvidia-fabric-manager nvidia-fabric-manager-devel "
        "nvidia-kmod-common nvidia-libXNVCtrl nvidia-libXNVCtrl-devel nvidia-modprobe nvidia-open "
        "nvidia-persistenced nvidia-settings nvidia-xconfig xorg-x11-drv-nvidia xorg-x11-drv-nvidia-cuda-libs "
        "xorg-x11-nvidia"
    ),
}
# What bears NVIDIA's name, and is no part of a driver.
OTHERS = {
    "keys and repositories": (
        "cuda-keyring nvidia-driver-local-repo-ubuntu2404-580.95.05 nvidia-driver-local-repo-rhel9-580.95.05 "
        "cuda-repo-debian12-12-9-local nvidia-l4t-apt-source nvidia-repo"
    ),
    "tools beside the driver": (
        "nvidia-detect nvidia-driver-assistant nvidia-driver-pinning-580 nvidia-driver-pinning-580.95.05 "
        "nvidia-prime nvidia-prime-applet nvidia-common nvidia-mig-manager nvidia-mig-parted nvidia-vaapi-driver "
        "libva-nvidia-driver nvidia-texture-tools nvidia-query-resource-opengl datacenter-gpu-manager "
        "datacenter-gpu-manager-4-cuda13 pcp-pmda-nvidia-gpu dnf-plugin-nvidia "
        "firmware-nvidia-graphics"
    ),
    "CUDA and what is made with it": (
        "cuda-toolkit-13-0 cuda-compat-12-9 nvidia-cuda-toolkit nvidia-cuda-toolkit-gcc nvidia-cuda-dev "
        "nvidia-cuda-gdb nvidia-cuda-samples nvidia-cudnn nvidia-profiler nvidia-visual-profiler nvidia-nsight "
        "nvidia-nsight-systems nvidia-opencl-dev nvidia-openjdk-8-jre libnvidia-ml-dev libcudart12 "
        "libnvidia-egl-wayland1 libnvidia-egl-gbm1 nvidia-fs nvidia-fs-dkms nvidia-gds nvidia-gds-12-9 "
        "linux-modules-nvidia-fs-6.8.0-90-generic nvidia-peer-memory"
    ),
    # DGX OS 7 User Guide, "DGX Software Stack"
    "DGX": (
        "nvidia-system-core nvidia-system-utils nvidia-system-extra nvidia-system-station nvidia-acs-disable "
        "nvidia-crashdump nvidia-disable-init-on-alloc nvidia-disable-numa-balancing nvidia-earlycon "
        "nvidia-enable-power-meter-cap nvidia-esm-hook-epilogue nvidia-fs-loader nvidia-ipmisol "
        "nvidia-kernel-defaults nvidia-pci-bridge-power nvidia-pci-realloc nvidia-raid-config nvidia-redfish-config "
        "nvidia-relaxed-ordering-gpu nvidia-relaxed-ordering-nvme nvidia-conf-cachefilesd nvidia-logrotate "
        "nvidia-motd nvidia-nvme-options nvidia-oem-config-bmc nvidia-peermem-loader nvidia-release-upgrade "
        "nvidia-repo-keys nvidia-spark-run-docker"
    ),
}
TOOLKITS = (
    "nvidia-container-toolkit nvidia-container-toolkit-base libnvidia-container1 libnvidia-container-tools "
    "nvidia-container-runtime nvidia-container-runtime-hook nvidia-docker2"
)


@pytest.mark.parametrize("names", PARTS.values(), ids=PARTS)
def test_a_part_of_a_driver_is_held_and_removed_with_it(names: str) -> None:
    assert [name for name in names.split() if not Package(name, "1", "").of_driver] == []
    assert [name for name in names.split() if not any(fnmatchcase(name, pattern) for pattern in PATTERNS)] == []
    assert not any(Package(name, "1", "").of_toolkit for name in names.split())


@pytest.mark.parametrize("names", OTHERS.values(), ids=OTHERS)
def test_what_is_no_part_of_a_driver_is_left_alone(names: str) -> None:
    packages = [Package(name, "1", "NVIDIA <cudatools@nvidia.com>") for name in names.split()]
    assert [package.name for package in packages if package.of_driver or package.of_toolkit] == []
    assert origin(packages, uninstaller=False, log=False, there=False) == "none"


def test_what_would_go_with_a_driver() -> None:
    # Captured, Debian 13
    out = (
        "Reading package lists...\nPackage 'nvidia-open-kernel-dkms' is not installed, so not removed\n"
        "The following packages will be REMOVED:\n  hashcat-nvidia libcuda1\n"
        "Remv hashcat-nvidia [20210201]\nRemv nvidia-opencl-icd [550.163.01-2]\n"
        "Remv nvidia-alternative [550.163.01-2]\nRemv glx-alternative-nvidia [1.2.2]\n"
        "Remv glx-diversions [1.2.2]\nPurg nvidia-cuda-toolkit [12.4.131~12.4.1-2]\n"
        "Remv libcuda1:i386 [550.163.01-2]\nRemv libnvidia-ml-dev [12.4.127~12.4.1-2] [nvidia-smi:amd64 ]\n"
    )
    assert dependents(out) == ["hashcat-nvidia", "libnvidia-ml-dev", "nvidia-cuda-toolkit"]
    assert dependents("Remv libcuda1 [550.163.01-2]\n") == []


def test_a_toolkit_is_no_driver() -> None:
    packages = [Package(name, "1", "") for name in TOOLKITS.split()]
    assert all(package.of_toolkit and not package.of_driver for package in packages)


ORIGINS = [
    ("nvidia-kernel-dkms", "550.163.01-2", DEBIAN, "distribution"),
    ("nvidia-headless-580-server", "580.95.05-0ubuntu0.24.04.2", UBUNTU, "distribution"),
    ("linux-modules-nvidia-580-server-6.8.0-60-generic", "6.8.0-60.63", UBUNTU, "distribution"),
    ("nvidia-driver-565", "565.57.01-0ubuntu0~gpu24.04.4", UBUNTU, "other"),
    ("cuda-drivers-580", "580.95.05-0ubuntu1", NVIDIA, "nvidia"),
    ("nvidia-open", "580.95.05-1", "NVIDIA <cudatools@nvidia.com>", "nvidia"),
    ("kmod-nvidia-open-dkms", "580.95.05-1.el9", "NVIDIA Corporation", "nvidia"),
    ("nvidia-linux-grid-580", "580.95.05", "NVIDIA Corporation", "nvidia"),
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
