"""Debian's real driver on nvidia-a, built for Debian's kernel; the fake one on nvidia-b is adopted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

DRIVER_PACKAGE = re.compile(r"(?:lib)?nvidia-|libcuda1$|firmware-nvidia-")
# What would come with a desktop.
DISPLAY = re.compile(
    r"xserver-|xorg|libx11-6$|libgl1$|libegl1$|nvidia-driver$|nvidia-settings$|nvidia-vdpau-driver$|libwayland"
)


def installed(host: Any) -> dict[str, str]:
    lines = host.check_output(
        "dpkg-query --show --showformat '${db:Status-Abbrev} ${Package} ${Version}\\n'"
    ).splitlines()
    return {fields[1]: fields[2] for fields in map(str.split, lines) if fields[0] in ("ii", "hi")}


def test_the_module_is_built_for_debians_kernel(nvidia_a: Any, kernel: str) -> None:
    assert re.search(
        rf"^nvidia\S*, {re.escape(kernel)}, \S+: installed$", nvidia_a.check_output("dkms status"), re.MULTILINE
    )
    version = nvidia_a.check_output(f"modinfo --set-version {kernel} --field version nvidia-current")
    assert installed(nvidia_a)["libcuda1"].startswith(f"{version}-")


def test_the_userland_has_the_modules_version(nvidia_a: Any) -> None:
    packages = installed(nvidia_a)
    versions = {packages[name] for name in ("nvidia-smi", "libcuda1", "libnvidia-ml1", "nvidia-kernel-dkms")}
    assert len(versions) == 1


def test_nothing_of_a_desktop_is_installed(nvidia_a: Any) -> None:
    assert [name for name in installed(nvidia_a) if DISPLAY.match(name)] == []


def test_the_drivers_packages_are_held(nvidia_a: Any) -> None:
    held = set(nvidia_a.check_output("apt-mark showhold").split())
    assert {name for name in installed(nvidia_a) if DRIVER_PACKAGE.match(name)} <= held
    assert {"nvidia-kernel-dkms", "libcuda1", "nvidia-smi"} <= held


def test_unattended_upgrades_leave_them_alone(nvidia_a: Any) -> None:
    dump = nvidia_a.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
    patterns = re.findall(r'Blacklist:: "(.*)";', dump)
    assert patterns
    names = [name for name in installed(nvidia_a) if DRIVER_PACKAGE.match(name)]
    assert [name for name in names if not any(re.match(pattern, name) for pattern in patterns)] == []


def test_nouveau_is_blacklisted_in_the_initramfs_too(nvidia_a: Any, kernel: str) -> None:
    assert "blacklist nouveau" in nvidia_a.check_output("modprobe --showconfig").splitlines()
    inside = nvidia_a.check_output(
        f"cd $(mktemp -d) && unmkinitramfs /boot/initrd.img-{kernel} . && grep -rhs '^blacklist nouveau' . | sort -u"
    )
    assert inside == "blacklist nouveau"


def test_one_source_of_the_hosts_own_mirror_was_added(nvidia_a: Any) -> None:
    ours = nvidia_a.file("/etc/apt/sources.list.d/nvidia-driver.sources").content_string
    assert "Components: contrib non-free non-free-firmware\n" in ours
    uri = re.findall(r"^URIs: (\S+?)/?$", ours, re.MULTILINE)
    assert uri == [re.findall(r"^deb (?:\[.*\] )?(\S+?)/? ", nvidia_a.file("/etc/apt/sources.list").content_string)[0]]
    result = nvidia_a.run("apt-get update")
    assert (result.rc, result.stderr) == (0, "")


def test_the_persistence_daemon_is_enabled(nvidia_a: Any) -> None:
    assert nvidia_a.service("nvidia-persistenced").is_enabled


def test_check_mode_on_a_converged_host_changes_nothing(driver: Callable[..., Any]) -> None:
    result = driver("nvidia-a", "--check", "--diff")
    assert (result.code, result.changed) == (0, 0), result.output[-3000:]


def test_a_hold_that_was_lost_comes_back(driver: Callable[..., Any], nvidia_a: Any) -> None:
    nvidia_a.check_output("apt-mark unhold libcuda1")
    result = driver("nvidia-a")
    assert (result.code, result.changed) == (0, 1), result.output[-3000:]
    assert "libcuda1" in nvidia_a.check_output("apt-mark showhold").split()


def test_a_driver_that_is_there_is_adopted(nvidia_b: Any) -> None:
    assert [name for name in installed(nvidia_b) if re.match(r"(?:lib)?nvidia-(?!container)|libcuda1$", name)] == []
    assert not nvidia_b.file("/etc/apt/sources.list.d/nvidia-driver.sources").exists
    assert (
        "blacklist nouveau" in nvidia_b.file("/etc/modprobe.d/nvidia-driver-nouveau.conf").content_string.splitlines()
    )


def test_adopting_alone_needs_a_driver_in_range_and_changes_nothing(driver: Callable[..., Any]) -> None:
    result = driver("nvidia-b", nvidia_driver_state="adopt")
    assert (result.code, result.changed) == (0, 0), result.output[-3000:]
