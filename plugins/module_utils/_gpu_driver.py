# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host's files and package manager say of NVIDIA's driver and container toolkit: no input, no output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from ansible_collections.vicuna.fleet.plugins.module_utils._common import version as versions

# As dpkg-query and rpm take them; of_toolkit and of_driver sort what they find.
PATTERNS = (
    "nvidia-*",
    "libnvidia-*",
    "lib*-nvidia*",
    "libcuda1*",
    "libcudadebugger1*",
    "libnvcuvid1*",
    "libnvoptix1*",
    "libnvsdm*",
    "nvlsm",
    "cuda-drivers*",
    "firmware-nvidia-*",
    "linux-modules-nvidia-*",
    "linux-objects-nvidia-*",
    "linux-signatures-nvidia-*",
    "xserver-xorg-video-nvidia*",
    "xorg-x11-drv-nvidia*",
    "xorg-x11-nvidia*",
    "kmod-nvidia*",
    "akmod-nvidia*",
    "dkms-nvidia*",
    "glx-alternative-nvidia",
    "glx-diversions",
)
DPKG_FORMAT = r"${db:Status-Abbrev}\t${Package}\t${Version}\t${Maintainer}\n"
RPM_FORMAT = r"%{NAME}\t%{VERSION}-%{RELEASE}\t%{VENDOR}\n"

# Container toolkits, the old ones too.
_TOOLKIT = re.compile(r"nvidia-container-(?:toolkit|runtime)|libnvidia-container|nvidia-docker")
# What tells one packaging of a driver's part from another: its branch or version, its line, the kind of its modules.
_VARIANT = re.compile(
    r"-(?:tesla|current|server|open|legacy-\d+xx)(?=[-\d]|$)|-\d{3}(?:\.\d+)*(?=-|$)|(?<=nvidia)-\d+(?=-|$)"
)
# The parts of a driver, by their names without a variant. Whatever else bears NVIDIA's name is none: CUDA's toolkit,
# tools, keys and repositories, what vendors of systems set up. The names are those of the source packages
# nvidia-graphics-drivers, nvidia-support and fabric-manager in Debian and Ubuntu, and of the drivers' repositories of
# NVIDIA and RPM Fusion.
_PARTS = re.compile(
    r"nvidia(?:-(?:driver(?:-(?:bin|full|libs(?:-i386|-nonglvnd(?:-i386)?)?|cuda(?:-libs)?|NVML|NvFBCOpenGL|devel))?"
    r"|kernel-(?:dkms|source|support|common)|dkms|headless(?:-no-dkms)?|kmod(?:-common|-headers)?|firmware|utils|compute-utils"
    r"|smi|alternative|support|installer-cleanup|legacy-check|modprobe|persistenced|powerd|suspend-common|settings|xconfig"
    r"|libXNVCtrl(?:-devel)?|libopencl1|(?:opencl|egl|vulkan)-(?:icd|common)|vdpau-driver|cuda-mps"
    r"|fabric-?manager(?:-dev(?:el)?)?|imex|linux-grid))?"
    r"|libnvidia-(?:(?:allocator|api|cfg|cuda|cudadebugger|encode|fbc|ifr|ml|ngx|nvcuvid|nvoptix|nvvm|opticalflow"
    r"|ptxjitcompiler)\d*|cbl|common|compiler|compute|decode|eglcore|extra|gl|glcore|glvkspirv|gpucomp|nscq"
    r"|pkcs11-openssl\d*|present|rtcore|sandboxutils|tileiras|vksc-core)"
    r"|lib(?:egl1?|gl1|gles|glx0?|gldispatch0|opengl0)-nvidia(?:-?\d|-glvnd)?(?:-glx)?"
    r"|libcuda1|libcudadebugger1|libnvcuvid1|libnvoptix1|libnvsdm|nvlsm|cuda-drivers(?:-fabricmanager)?"
    r"|glx-alternative-nvidia|glx-diversions|firmware-nvidia-gsp|linux-(?:(?:modules|objects)-nvidia-\d{3}-|signatures-nvidia-\d).*"
    r"|(?:xserver-xorg-video|xorg-x11|xorg-x11-drv|a?kmod|dkms)-nvidia(?:-.*)?"
)
# Those that make a driver: modules, libraries and what draws them in. Others (firmware, settings) are only about it.
_CORE = re.compile(
    r"nvidia(?:-(?:(?:driver|kernel-dkms|dkms|headless)(?:-.*)?|linux-grid))?|lib(?:nvidia-)?cuda1|libnvidia-compute|cuda-drivers.*"
    r"|linux-(?:modules|objects)-nvidia-.*|xorg-x11-drv-nvidia.*|(?:a?kmod|dkms)-nvidia.*"
)
_LIBRARY = re.compile(r"lib(?:nvidia-ml|cuda)\.so\.(\d+\.\d+(?:\.\d+)?)")
_LDCONFIG_LINE = re.compile(r"\s*(lib(?:nvidia-ml|cuda)\.so\.1)\s+\(([^)]*)\)\s+=>\s+(\S+)")
_KERNEL_MODULE = re.compile(r"nvidia(?:-current|-tesla|-legacy)?(?:-\d+(?:xx)?)?(?:-current|-open)*\.ko(?:\.\w+)?")
_LOADED = re.compile(r"NVRM version:(.*)")
# docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope with systemd; /docker/ID or /any/parent/ID without.
_CONTAINER_GROUP = re.compile(r"[-/]([0-9a-f]{64})(?:\.scope|/|$)", re.MULTILINE)
# Where engines keep the files that they mount as /etc/hostname and /etc/hosts.
_CONTAINER_MOUNT = re.compile(r"containers/([0-9a-f]{64})/")
_BLACKLIST = re.compile(
    r"^\s*(?:blacklist\s+nouveau|install\s+nouveau\s+(?:/usr)?/bin/(?:true|false))\s*$", re.MULTILINE
)
_KERNEL_BLACKLIST = re.compile(r"(?:^|\s)(?:(?:rd\.driver|modprobe|module)[._]?blacklist|module_blacklist)=(\S+)")
_YAML_KIND = re.compile(r"^kind:\s*(\S+)", re.MULTILINE)
_YAML_DEVICES = re.compile(r"^devices:[^\S\n]*\n((?:[ \t-].*(?:\n|$)|\n)*)", re.MULTILINE)
_YAML_NAME = re.compile(r"^( *)(- +)?name:[^\S\n]*(.+?)[^\S\n]*$", re.MULTILINE)


@dataclass(frozen=True)
class Package:
    """An installed package and who made it."""

    name: str
    version: str
    vendor: str
    held: bool = False

    @property
    def of_toolkit(self) -> bool:
        return _TOOLKIT.match(self.name) is not None

    @property
    def of_driver(self) -> bool:
        """Whether it is held and removed with the driver."""
        return _PARTS.fullmatch(self._part) is not None

    @property
    def makes_driver(self) -> bool:
        """Whether there is no driver without it, or one of its kind."""
        return self.of_driver and _CORE.fullmatch(self._part) is not None

    @property
    def _part(self) -> str:
        # The kernel is a part of the name of modules that were built for it.
        return self.name if self.name.startswith(("linux-", "kmod-")) else _VARIANT.sub("", self.name)

    @property
    def origin(self) -> str:
        """By the maker's mail address: the team of Debian that packages the driver bears NVIDIA's name too."""
        vendor = self.vendor.lower()
        if "@nvidia.com" in vendor or vendor.startswith("nvidia"):
            return "nvidia"
        # The PPA of Ubuntu's graphics drivers team has Ubuntu's maintainers, and versions that say gpu.
        known = re.search(
            r"@(?:[\w.-]+\.)?(?:debian\.org|ubuntu\.com|canonical\.com)\b|red hat|almalinux|rocky", vendor
        )
        return "distribution" if known and "~gpu" not in self.version else "other"


@dataclass(frozen=True)
class CdiSpec:
    """A CDI specification of NVIDIA's devices."""

    path: str
    driver_version: str
    devices: tuple[str, ...]


def parse_dpkg(out: str) -> list[Package]:
    """Installed packages, from `dpkg-query --show --showformat DPKG_FORMAT`."""
    packages = []
    for line in out.splitlines():
        fields = line.split("\t")
        if len(fields) == 4 and fields[0][1:2] == "i":
            packages.append(Package(fields[1], fields[2], fields[3], held=fields[0][0] == "h"))
    return packages


def parse_rpm(out: str, locks: str) -> list[Package]:
    """Installed packages, from `rpm --query --all --queryformat RPM_FORMAT`; held where dnf locks or excludes them."""
    wanted = held_by_dnf(locks)
    packages = []
    for line in out.splitlines():
        fields = line.split("\t")
        if len(fields) == 3:
            held = any(
                fnmatchcase(fields[0], pattern) or fnmatchcase(f"{fields[0]}-{fields[1]}.", pattern)
                for pattern in wanted
            )
            packages.append(Package(fields[0], fields[1], fields[2], held=held))
    return packages


def held_by_dnf(text: str) -> list[str]:
    """Patterns of names in the texts of versionlock.list and dnf.conf."""
    patterns = []
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() in ("exclude", "excludepkgs"):
            patterns += re.split(r"[,\s]+", value.strip())
        elif not equals and (entry := line.strip()) and not entry.startswith(("#", "!", "[")):
            # name-epoch:version-release.architecture, as versionlock writes it
            patterns.append(re.sub(r"-(?:\d+:|\*:)?[^-]+-[^-]+$", "", entry))
    return [pattern for pattern in patterns if pattern]


def dependents(out: str) -> list[str]:
    """Packages that are no part of a driver, of what `apt-get --simulate remove` would remove."""
    removed = re.findall(r"^(?:Remv|Purg) ([^\s:]+)", out, re.MULTILINE)
    return sorted({name for name in removed if not Package(name, "", "").of_driver})


def origin(packages: Iterable[Package], uninstaller: bool, log: bool, there: bool) -> str:
    """Who installed the driver. An uninstaller of no package is the .run file's, which no package manager knows of."""
    if uninstaller:
        return "runfile"
    makers = {package.origin for package in packages if package.makes_driver}
    for maker in ("nvidia", "other", "distribution"):
        if maker in makers:
            return maker
    if not there:
        return "none"
    return "runfile" if log else "other"


def parse_loaded(text: str) -> tuple[str, str]:
    """Version and flavour of the loaded module, from /proc/driver/nvidia/version."""
    match = _LOADED.search(text)
    version = versions.of(match.group(1)) if match else ""
    if not version:
        return "", ""
    return version, "open" if "Open Kernel Module" in text else "proprietary"


def libraries(out: str) -> list[str]:
    """Where the linker finds the driver's libraries, from `ldconfig -p`: NVML first, then CUDA, 64-bit ones."""
    found = [match.groups() for match in map(_LDCONFIG_LINE.match, out.splitlines()) if match is not None]
    wide = [(name, path) for name, kind, path in found if "64" in kind]
    return [path for name in ("libnvidia-ml.so.1", "libcuda.so.1") for key, path in wide if key == name]


def library_version(path: str) -> str:
    """The version in a library's file name. Those of CUDA's compatibility package and its stubs are no driver's."""
    if {"compat", "stubs"} & set(PurePosixPath(path).parts):
        return ""
    match = _LIBRARY.fullmatch(PurePosixPath(path).name)
    return match.group(1) if match else ""


def kernel_module(paths: Iterable[str]) -> str:
    """Which of a kernel's modules is the driver; as depmod does, updates/ goes before the others."""
    found = sorted(path for path in paths if _KERNEL_MODULE.fullmatch(PurePosixPath(path).name))
    return next((path for path in found if "updates" in PurePosixPath(path).parts), found[0] if found else "")


def container_of(cgroup: str, mountinfo: str) -> str:
    """The container's id, from /proc/PID/cgroup or else /proc/PID/mountinfo; empty for a process of the host.

    The last one is the innermost, where a container runs in a container.
    """
    found = _CONTAINER_GROUP.findall(cgroup) or _CONTAINER_MOUNT.findall(mountinfo)
    return str(found[-1]) if found else ""


def nouveau_blacklisted(configuration: Iterable[str], command_line: str) -> bool:
    names = ",".join(_KERNEL_BLACKLIST.findall(command_line)).split(",")
    return "nouveau" in names or any(_BLACKLIST.search(text) for text in configuration)


def secure_boot(variable: bytes) -> str:
    """Four bytes of attributes, one of value (UEFI 2.10, 3.3)."""
    if len(variable) != 5:
        return "unsupported"
    return "enabled" if variable[4] == 1 else "disabled"


def units(out: str) -> dict[str, str]:
    """States of services, from `systemctl show --property=Id,LoadState,ActiveState`."""
    states = {}
    for block in re.split(r"\n\s*\n", out.strip()):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        if values.get("LoadState") == "not-found":
            state = "absent"
        else:
            state = {"active": "active", "failed": "failed"}.get(values.get("ActiveState", ""), "inactive")
        states[values.get("Id", "")] = state
    return states


def parse_cdi(path: str, text: str) -> CdiSpec | None:
    """A CDI specification, or None where it is not NVIDIA's or not readable."""
    if path.endswith(".json"):
        kind, names = _cdi_json(text)
    else:
        kind, names = _cdi_yaml(text)
    if not kind.startswith("nvidia.com/"):
        return None
    version = _LIBRARY.search(text)
    return CdiSpec(path, version.group(1) if version else "", tuple(f"{kind}={name}" for name in names))


def _cdi_json(text: str) -> tuple[str, list[str]]:
    try:
        content = json.loads(text)
        return str(content.get("kind") or ""), [str(device["name"]) for device in content.get("devices") or []]
    except (ValueError, AttributeError, TypeError, KeyError):
        return "", []


def _cdi_yaml(text: str) -> tuple[str, list[str]]:
    """Reads what nvidia-ctk writes: a host has no YAML library.

    The name of a device is the key `name` in the column where its item begins.
    """
    kind, devices = _YAML_KIND.search(text), _YAML_DEVICES.search(text)
    block = devices.group(1) if devices else ""
    first = re.search(r"^( *)-( +)", block, re.MULTILINE)
    if first is None:
        return (_bare(kind.group(1)) if kind else ""), []
    column = len(first.group(0))
    names = [
        _bare(match.group(3))
        for match in _YAML_NAME.finditer(block)
        if len(match.group(1)) + len(match.group(2) or "") == column
    ]
    return (_bare(kind.group(1)) if kind else ""), names


def _bare(scalar: str) -> str:
    return scalar.strip().strip("\"'")
