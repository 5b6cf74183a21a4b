"""What the driver's role refuses: a message with the way out, a failed run, and a host that is as it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

NVIDIA_LIST = "/etc/apt/sources.list.d/cuda.list"
BUS = ("--stage", "pci")
DRIVER = ("--stage", "driver")
PRESENT = {"nvidia_driver_state": "present"}
# The fake, the variables, and what the message has to hold.
REFUSALS: dict[str, tuple[tuple[str, ...], dict[str, str], list[str]]] = {
    "no GPU": (
        ("--stage", "none"),
        PRESENT,
        ["Found no NVIDIA GPU on the PCI bus.", "nvidia_driver_state: auto", "nvidia_driver_require_gpu: false"],
    ),
    "nothing to adopt": (
        BUS,
        {"nvidia_driver_state": "adopt"},
        ["Found no driver.", "525.60.13 or later", "nvidia_driver_state: auto"],
    ),
    "missing headers": (
        BUS,
        {},
        ["Found no headers of the kernel {running}", "no package linux-headers-{running}", "nvidia_driver_kernel"],
    ),
    "Secure Boot": (
        (*BUS, "--secure-boot", "enabled"),
        {},
        ["Found Secure Boot", "mokutil --import", "nvidia_driver_secure_boot_signed: true"],
    ),
    "nouveau": (
        (*BUS, "--kernel-driver", "nouveau"),
        {},
        ["Found the kernel module nouveau in charge of the GPU.", "nvidia_driver_reboot: true"],
    ),
    "driver too old": (
        (*DRIVER, "--driver", "515.105.01"),
        {},
        ["Found driver 515.105.01", "Expected one that is 525.60.13 or later", "nvidia_driver_minimum_version"],
    ),
    "minimum above an adopted driver": (
        DRIVER,
        {"nvidia_driver_state": "adopt", "nvidia_driver_minimum_version": "590.10"},
        ["Found driver 580.159.04", "Expected 590.10 or later", "nvidia_driver_replace: true"],
    ),
    "another branch": (
        DRIVER,
        {"nvidia_driver_branch": "550"},
        ["Found driver 580.159.04", "525.60.13 or later of branch 550", "nvidia_driver_branch"],
    ),
    "minimum above the system's branch": (
        BUS,
        {"nvidia_driver_minimum_version": "570.10"},
        ["Found Debian 13 with driver branch 550.", "Expected branch 570 or later", "nvidia_driver_state: adopt"],
    ),
    "branch that Debian has not": (
        BUS,
        {"nvidia_driver_branch": "580"},
        ["Found Debian 13, whose driver is of branch 550.", "nvidia_driver_branch: 580"],
    ),
    "GPU that the branch does not know": (
        (*BUS, "--device-id", "2901"),
        {},
        ["Found Debian 13 with driver branch 550.", "Expected branch 570 or later (Blackwell)"],
    ),
    "modules that the GPU cannot do with": (
        (*BUS, "--device-id", "1db4"),
        {"nvidia_driver_kernel_modules": "open"},
        ["Found Volta GPUs, for which the open kernel modules are unsupported.", "nvidia_driver_kernel_modules: auto"],
    ),
    "NVSwitch without Fabric Manager": (
        (*BUS, "--nvswitches", "2"),
        {},
        ["Found NVSwitch", "no package of Fabric Manager", "nvidia_driver_state: adopt"],
    ),
    "driver of somebody else that does not answer": (
        (*DRIVER, "--fault", "unreachable"),
        {},
        ["Found driver 580.159.04", "couldn't communicate with the NVIDIA driver", "never two drivers on one host"],
    ),
    "driver that lists too few GPUs": (
        (*DRIVER, "--gpus", "2", "--fault", "no-devices"),
        {"nvidia_driver_state": "adopt"},
        ["Found no answer from the driver: No devices were found", "nvidia_driver_query_timeout"],
    ),
}


@pytest.fixture(scope="module", autouse=True)
def fake_as_before(nvidia_b: Any, fake_gpu: Callable[..., None]) -> Iterator[None]:
    # The lists are there before, so that only what the role itself does is compared.
    nvidia_b.check_output("apt-get update")
    # An adopted driver has already had nouveau blacklisted.
    nvidia_b.check_output("rm -f /etc/modprobe.d/nvidia-driver-nouveau.conf")
    yield
    fake_gpu(nvidia_b, *DRIVER, "--gpus", "2")


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_tells_the_way_out_and_changes_nothing(
    name: str, driver: Callable[..., Any], nvidia_b: Any, fake_gpu: Callable[..., None], snapshot: Callable[[Any], str]
) -> None:
    fake, variables, message = REFUSALS[name]
    running = nvidia_b.check_output("uname -r")
    fake_gpu(nvidia_b, *fake)
    before = snapshot(nvidia_b)
    result = driver("nvidia-b", **variables)
    assert result.code != 0
    assert [part for part in message if part.format(running=running) not in result.text] == [], result.output[-3000:]
    assert snapshot(nvidia_b) == before
    assert result.changed == 0


def test_nvidias_repository_is_not_mixed_with_debians(
    driver: Callable[..., Any], nvidia_b: Any, fake_gpu: Callable[..., None], snapshot: Callable[[Any], str]
) -> None:
    fake_gpu(nvidia_b, *BUS)
    line = "deb https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/ /"
    nvidia_b.check_output(f"echo '{line}' > {NVIDIA_LIST}")
    try:
        before = snapshot(nvidia_b)
        result = driver("nvidia-b")
        assert result.code != 0
        assert f"Found NVIDIA's repository in {NVIDIA_LIST}." in result.text
        assert snapshot(nvidia_b) == before
    finally:
        nvidia_b.check_output(f"rm {NVIDIA_LIST}")


def test_a_host_without_a_gpu_is_left_alone(
    driver: Callable[..., Any], nvidia_b: Any, fake_gpu: Callable[..., None], snapshot: Callable[[Any], str]
) -> None:
    fake_gpu(nvidia_b, "--stage", "none")
    before = snapshot(nvidia_b)
    result = driver("nvidia-b")
    assert (result.code, result.changed) == (0, 0), result.output[-3000:]
    assert snapshot(nvidia_b) == before


def test_check_mode_on_a_fresh_host_tells_what_would_be_installed(
    driver: Callable[..., Any],
    nvidia_b: Any,
    fake_gpu: Callable[..., None],
    snapshot: Callable[[Any], str],
    kernel: str,
) -> None:
    fake_gpu(nvidia_b, *BUS)
    before = snapshot(nvidia_b)
    result = driver("nvidia-b", "--check", nvidia_driver_kernel=kernel)
    assert (result.code, result.changed) == (0, 1), result.output[-3000:]
    assert "Would install nvidia-smi, libcuda1" in result.text
    assert f"nvidia-kernel-dkms, linux-headers-{kernel}" in result.text
    assert snapshot(nvidia_b) == before


@pytest.fixture
def sleeping(nvidia_a: Any, fake_gpu: Callable[..., None], kernel: str) -> Iterator[Any]:
    """nvidia-a as after an upgrade of its driver: the real one on the disk, an older fake one in the kernel that runs.

    The module on the disk for that kernel has a version and no code: nothing could load it.
    """
    folder = "/lib/modules/$(uname -r)/updates/dkms"
    nvidia_a.check_output(
        f"mkdir -p {folder} && xz -dc /lib/modules/{kernel}/updates/dkms/nvidia-current.ko.xz > /tmp/module && "
        f"objcopy --only-section=.modinfo /tmp/module {folder}/nvidia-current.ko && depmod && rm /tmp/module"
    )
    fake_gpu(nvidia_a, *DRIVER, "--driver", "535.54.03", "--library", "''", "--fault", "mismatch")
    yield nvidia_a
    nvidia_a.check_output("rm -r /lib/modules/$(uname -r)")
    fake_gpu(nvidia_a, *BUS, "--gpus", "2")


REBOOTS = {
    "": ["Found driver 550.163.01 on the disk and driver 535.54.03 in the kernel.", "Set nvidia_driver_reboot: true"],
    # The containers run on the control node's own kernel.
    "true": ["Found the control node itself, or a container on it, waiting for a reboot.", "Reboot it yourself"],
}


@pytest.mark.parametrize("reboot", REBOOTS)
def test_a_reboot_is_asked_for_and_never_the_control_nodes(
    reboot: str, driver: Callable[..., Any], sleeping: Any, snapshot: Callable[[Any], str]
) -> None:
    before, started = snapshot(sleeping), sleeping.check_output("stat --format %Y /proc/1")
    result = driver("nvidia-a", nvidia_driver_kernel=sleeping.check_output("uname -r"), nvidia_driver_reboot=reboot)
    assert result.code != 0
    assert [part for part in REBOOTS[reboot] if part not in result.text] == [], result.output[-3000:]
    assert result.changed == 0
    assert snapshot(sleeping) == before
    assert sleeping.check_output("stat --format %Y /proc/1") == started


def test_a_reboot_can_be_left_for_later(driver: Callable[..., Any], sleeping: Any) -> None:
    result = driver("nvidia-a", nvidia_driver_kernel=sleeping.check_output("uname -r"), nvidia_driver_reboot="false")
    assert (result.code, result.changed) == (0, 0), result.output[-3000:]
    assert "Driver 550.163.01 waits for a reboot" in result.text


def test_absent_takes_the_driver_away_and_what_was_written_for_it(driver: Callable[..., Any], nvidia_a: Any) -> None:
    """The last of all: nvidia-a has no driver afterwards."""
    told = driver("nvidia-a", "--check", nvidia_driver_state="absent")
    assert told.code == 0 and told.changed > 0, told.output[-3000:]
    result = driver("nvidia-a", nvidia_driver_state="absent")
    assert result.code == 0, result.output[-3000:]
    status = nvidia_a.check_output("dpkg-query --show --showformat '${db:Status-Abbrev} ${Package}\\n'")
    assert [line for line in status.splitlines() if "nvidia" in line and line[1] != "n"] == []
    assert nvidia_a.check_output("apt-mark showhold") == ""
    assert nvidia_a.check_output("dkms status") == ""
    assert nvidia_a.check_output("find /etc -name '*nvidia-driver*'") == ""
    again = driver("nvidia-a", nvidia_driver_state="absent")
    assert (again.code, again.changed) == (0, 0), again.output[-3000:]
