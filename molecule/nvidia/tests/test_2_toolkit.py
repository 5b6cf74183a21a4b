"""Containers that see the fake GPUs of nvidia-b, by the fake of NVIDIA's packages and real Docker CDI."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

IMAGE = "debian:bookworm-slim"
SPEC = "/etc/cdi/nvidia.yaml"
REPOSITORY = "http://127.0.0.1:18081/stable/deb/amd64"
PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
OLD_LISTS = {
    "nvidia-docker": "deb https://nvidia.github.io/libnvidia-container/stable/ubuntu18.04/$(ARCH) /",
    "nvidia-container-runtime": "deb [signed-by=/x.gpg] https://nvidia.github.io/nvidia-docker/ubuntu18.04/$(ARCH) /",
}
# A device that a container may not open unless it is given: the fake GPUs have the number of /dev/null.
FUSE = (
    "cdiVersion: 0.5.0\\nkind: example.org/fuse\\ndevices:\\n- name: one\\n  containerEdits:\\n    deviceNodes:\\n"
    "    - path: /dev/fuse\\n"
)
DRIVER = ("--stage", "driver", "--gpus", "2")


@pytest.fixture(scope="module")
def toolkit(playbook: Callable[..., Any]) -> Callable[..., Any]:
    """Run the toolkit's role on its host, without the role docker before it."""

    def run(*arguments: str, **variables: Any) -> Any:
        return playbook("--limit", "nvidia-b", "--tags", "toolkit", "--skip-tags", "docker", *arguments, **variables)

    return run


@pytest.fixture(autouse=True)
def host(nvidia_b: Any, fake_gpu: Callable[..., None]) -> Iterator[Any]:
    """The host with two fake GPUs; as it was again afterwards."""
    fake_gpu(nvidia_b, *DRIVER)
    yield nvidia_b
    fake_gpu(nvidia_b, *DRIVER)


def listed(text: str) -> list[str]:
    return re.findall(r"UUID: (GPU-[^)]+)", text)


def install(host: Any, version: str, *others: str) -> None:
    packages = " ".join([f"{name}={version}*" for name in PACKAGES] + list(others))
    host.check_output(
        "DEBIAN_FRONTEND=noninteractive apt-get install --yes --allow-downgrades "
        f"-o Dpkg::Options::=--force-confold {packages}"
    )


def version(host: Any) -> str:
    return str(host.check_output("nvidia-ctk --version").split()[5])


def test_a_users_container_sees_the_gpus(host: Any) -> None:
    everything = listed(host.check_output("nvidia-smi -L"))
    assert len(everything) == 2
    run = f"docker run --rm --device nvidia.com/gpu={{}} {IMAGE} nvidia-smi -L"
    assert listed(host.check_output(run.format("all"))) == everything
    assert listed(host.check_output(run.format("1"))) == everything[1:]
    assert listed(host.check_output(run.format(everything[0]))) == everything[:1]


def test_a_container_keeps_its_device_at_a_daemon_reload(host: Any) -> None:
    host.check_output(f"printf '{FUSE}' >/etc/cdi/fuse.yaml; [ -e /dev/fuse ] || mknod /dev/fuse c 10 229")
    try:
        host.check_output(f"docker run --detach --name reload --device example.org/fuse=one {IMAGE} sleep 300")
        for _each in range(2):
            assert host.run("docker exec reload sh -c ': </dev/fuse'").rc == 0
            host.check_output("systemctl daemon-reload")
        denied = host.run(f"docker run --rm {IMAGE} sh -c 'mknod /tmp/fuse c 10 229 && : </tmp/fuse'")
        assert "Operation not permitted" in denied.stderr
    finally:
        host.run("docker rm --force reload; rm /etc/cdi/fuse.yaml")


def test_the_proof_leaves_nothing_behind(host: Any) -> None:
    assert "vicuna-gpu-proof" not in host.check_output("docker ps --all --format '{{.Names}}'")
    assert host.check_output("docker images --filter dangling=true --quiet") == ""


def test_one_specification(host: Any) -> None:
    assert host.check_output("ls /etc/cdi").split() == ["nvidia.yaml"]
    host.check_output("systemctl restart nvidia-cdi-refresh.service")
    assert host.run("ls /var/run/cdi/*").rc != 0
    assert '"cdi": true' in host.file("/etc/docker/daemon.json").content_string


def test_the_repository_is_flat_and_its_key_pinned(host: Any) -> None:
    source = host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").content_string
    assert "Suites: /\n" in source and "Components" not in source
    assert "URIs: http://fake-nvidia-repo:8080/stable/deb/amd64\n" in source
    assert "Signed-By: /etc/apt/keyrings/nvidia-container-toolkit.asc\n" in source
    assert version(host) == "1.20.1"


def test_the_specification_follows_the_driver_and_the_gpus(
    host: Any, toolkit: Callable[..., Any], fake_gpu: Callable[..., None]
) -> None:
    fake_gpu(host, "--stage", "driver", "--gpus", "1", "--driver", "580.200.01")
    before = host.file(SPEC).content_string
    checked = toolkit("--check")
    assert checked.code == 0 and checked.changed == 1 and host.file(SPEC).content_string == before
    first, second = toolkit(), toolkit()
    assert (first.code, first.changed, second.code, second.changed) == (0, 1, 0, 0), first.output
    spec = host.file(SPEC).content_string
    assert "libcuda.so.580.200.01" in spec and "580.159.04" not in spec and 'name: "1"' not in spec


def test_mig_devices(host: Any, toolkit: Callable[..., Any], fake_gpu: Callable[..., None]) -> None:
    fake_gpu(host, "--stage", "driver", "--gpus", "1", "--mig", "3g.71gb,3g.71gb")
    first, second = toolkit(), toolkit()
    assert (first.code, first.changed, second.code, second.changed) == (0, 1, 0, 0), first.output
    assert 'name: "0:1"' in host.file(SPEC).content_string


def test_another_version_is_kept_and_named(host: Any, toolkit: Callable[..., Any]) -> None:
    assert toolkit().code == 0
    install(host, "1.17.8")
    host.check_output("rm /etc/apt/sources.list.d/nvidia-container-toolkit.sources")
    kept = toolkit()
    assert (kept.code, kept.changed, version(host)) == (0, 0, "1.17.8"), kept.output
    assert "Found NVIDIA Container Toolkit 1.17.8, which is kept." in kept.text
    assert not host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").exists


def test_predecessors_are_refused_then_replaced(
    host: Any, toolkit: Callable[..., Any], snapshot: Callable[[Any], str]
) -> None:
    assert toolkit(nvidia_container_toolkit_replace="true").code == 0
    install(host, "1.12.1", "nvidia-docker2")
    for name, line in OLD_LISTS.items():
        host.check_output(f"echo '{line}' >/etc/apt/sources.list.d/{name}.list")
    before = snapshot(host)
    refused = toolkit()
    assert refused.code == 2 and snapshot(host) == before
    assert "Found NVIDIA Container Toolkit 1.12.1. Expected 1.14.0 or later" in refused.text
    assert "nvidia_container_toolkit_replace: true" in refused.text

    replaced, again = (toolkit(nvidia_container_toolkit_replace="true") for _each in range(2))
    assert (replaced.code, again.code, again.changed) == (0, 0, 0), replaced.output
    assert version(host) == "1.20.1"
    assert not host.package("nvidia-docker2").is_installed
    for name, line in OLD_LISTS.items():
        assert host.file(f"/etc/apt/sources.list.d/{name}.list").content_string == f"# {line}\n"
    assert '"live-restore": true' in host.file("/etc/docker/daemon.json").content_string


def test_the_legacy_runtime_by_variable(host: Any, toolkit: Callable[..., Any]) -> None:
    assert toolkit().code == 0
    assert "nvidia" not in host.check_output("docker info --format '{{json .Runtimes}}'")
    assert toolkit(nvidia_container_toolkit_legacy_runtime="true").changed == 2
    assert "nvidia-container-runtime" in host.check_output("docker info --format '{{json .Runtimes}}'")


def test_a_specification_without_the_toolkit(
    host: Any, toolkit: Callable[..., Any], snapshot: Callable[[Any], str]
) -> None:
    assert toolkit().code == 0
    host.check_output("mv /usr/bin/nvidia-ctk /root/nvidia-ctk")
    try:
        present = {"nvidia_container_toolkit_source": "present"}
        adopted = toolkit(**present)
        assert (adopted.code, adopted.changed) == (0, 0), adopted.output
        host.check_output(f"sed -i s/580.159.04/550.163.01/ {SPEC}")
        before = snapshot(host)
        refused = toolkit(**present)
        assert refused.code == 2 and snapshot(host) == before
        assert "Found no nvidia-ctk, and /etc/cdi/nvidia.yaml does not name exactly the GPUs" in refused.text
    finally:
        host.check_output("mv /root/nvidia-ctk /usr/bin/nvidia-ctk")


def test_packages_of_the_control_node(host: Any, toolkit: Callable[..., Any], tmp_path: Path) -> None:
    index = requests.get(f"{REPOSITORY}/Packages", timeout=30).text
    files = re.findall(r"^Filename: \./(\S+_1\.20\.1-\S+\.deb)$", index, re.MULTILINE)
    variables = {"nvidia_container_toolkit_source": "directory", "nvidia_container_toolkit_directory": str(tmp_path)}
    host.check_output(
        "apt-get purge --yes nvidia-container-toolkit-base libnvidia-container1; "
        "rm /etc/apt/sources.list.d/nvidia-container-toolkit.sources /etc/cdi/nvidia.yaml"
    )
    refused = toolkit(**variables)
    assert refused.code == 2 and refused.changed == 0
    assert "Found no deb package of libnvidia-container-tools, libnvidia-container1," in refused.text
    for name in files:
        (tmp_path / name).write_bytes(requests.get(f"{REPOSITORY}/{name}", timeout=30).content)
    installed, again = (toolkit(**variables) for _each in range(2))
    assert (installed.code, again.code, again.changed) == (0, 0, 0), installed.output
    assert version(host) == "1.20.1"
    assert not host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").exists


STOPPED = "systemctl stop docker.service docker.socket; cd /etc/docker; mv daemon.json /root/; echo '{,}' >daemon.json"
STARTED = "mv /root/daemon.json /etc/docker/; systemctl start docker"
# The fake, what is done to the host and undone, the variables, and what the message has to hold.
REFUSALS: dict[str, tuple[tuple[str, ...], tuple[str, str], dict[str, str], list[str]]] = {
    "mismatch": (
        (*DRIVER, "--library", "580.100.1", "--fault", "mismatch"),
        ("true", "true"),
        {},
        ["Found the kernel module of driver 580.159.04 and the libraries of 580.100.1", "nvidia_driver_reboot: true"],
    ),
    "a driver that does not answer": (
        (*DRIVER, "--fault", "unreachable"),
        ("true", "true"),
        {},
        ["Found no answer from NVIDIA's driver: NVIDIA-SMI has failed", "Run the role nvidia_driver first"],
    ),
    "a GPU that hangs": (
        (*DRIVER, "--fault", "hang"),
        ("true", "true"),
        {"nvidia_container_toolkit_timeout": "3"},
        ["gave no answer within 3 s"],
    ),
    "no driver": (("--stage", "pci"), ("true", "true"), {}, ["the kernel module nvidia is not loaded"]),
    "no GPU, but wanted": (
        ("--stage", "none"),
        ("true", "true"),
        {"nvidia_container_toolkit_require_gpu": "true"},
        ["Found no NVIDIA GPU on the PCI bus.", "nvidia_container_toolkit_require_gpu: false"],
    ),
    # The folder alone is what tells a snap; there is none for Debian in a container.
    "Docker as a snap": (
        DRIVER,
        ("mkdir -p /snap/docker/current", "rm -r /snap"),
        {},
        ["Found Docker as a snap", "snap remove docker"],
    ),
    "several at once": (
        (*DRIVER, "--fault", "no-devices"),
        (STOPPED, STARTED),
        {},
        [
            "Found no answer from NVIDIA's driver",
            "Found no engine that answers",
            "Found a malformed /etc/docker/daemon.json",
        ],
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(
    name: str, host: Any, toolkit: Callable[..., Any], fake_gpu: Callable[..., None], snapshot: Callable[[Any], str]
) -> None:
    fake, (do, undo), variables, words = REFUSALS[name]
    fake_gpu(host, *fake)
    host.run(do)
    try:
        before = snapshot(host)
        run = toolkit(**variables)
        assert run.code == 2 and run.changed == 0 and snapshot(host) == before, run.output
        assert [word for word in words if word not in run.text] == []
    finally:
        host.run(undo)


def test_a_host_without_a_gpu_is_left_alone(
    host: Any, toolkit: Callable[..., Any], fake_gpu: Callable[..., None], snapshot: Callable[[Any], str]
) -> None:
    fake_gpu(host, "--stage", "none")
    before = snapshot(host)
    run = toolkit()
    assert (run.code, run.changed) == (0, 0) and snapshot(host) == before
