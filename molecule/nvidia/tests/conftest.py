"""What the tests share: runs of the scenario's playbook, the hosts seen by their containers, the fake of GPUs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra

ROOT = Path(__file__).resolve().parents[3]
SCENARIO = ROOT / "molecule/nvidia"


@dataclass
class Run:
    """One run of the playbook."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        """Tasks that changed something, of all hosts."""
        return sum(int(number) for number in re.findall(r"changed=(\d+)", self.output.rsplit("PLAY RECAP", 1)[-1]))

    @property
    def text(self) -> str:
        """The output in one line, as the callback breaks messages at the terminal's width."""
        return re.sub(r"\s+", " ", self.output)


def run(*arguments: str, path: Path = SCENARIO / "converge.yml", **variables: Any) -> Run:
    command = ["ansible-playbook", str(path), "-i", str(SCENARIO / "inventory"), *arguments]
    for name, value in variables.items():
        command += ["-e", f"{name}={value}"]
    env = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False)
    return Run(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def playbook() -> Callable[..., Run]:
    return run


@pytest.fixture(scope="session")
def driver() -> Callable[..., Run]:
    """Run the driver's role on one host."""

    def driver_of(host: str, *arguments: str, **variables: Any) -> Run:
        return run("--limit", host, "--tags", "driver", *arguments, **variables)

    return driver_of


@pytest.fixture(scope="session")
def plan() -> Callable[..., Run]:
    """Plan for the host with the fake driver, or run the whole site there."""

    def plan_of(name: str = "playbooks/preflight.yml", *arguments: str, **variables: Any) -> Run:
        return run("--limit", "nvidia-b", *arguments, path=ROOT / name, **variables)

    return plan_of


@pytest.fixture(scope="session")
def nvidia_a() -> Any:
    """The host with Debian's real driver; seen by its container, which costs a tenth of a run of Ansible."""
    return testinfra.get_host("docker://vicuna-sandbox-nvidia-a")


@pytest.fixture(scope="session")
def nvidia_b() -> Any:
    """The host with the fake driver."""
    return testinfra.get_host("docker://vicuna-sandbox-nvidia-b")


@pytest.fixture(scope="session")
def fake_gpu() -> Callable[..., None]:
    """Change the fake of GPUs in a host."""

    def change(host: Any, *arguments: str) -> None:
        host.check_output("/usr/local/sbin/fake-gpu.py " + " ".join(arguments))

    return change


@pytest.fixture
def snapshot() -> Callable[[Any], str]:
    """The host's packages and a checksum of its configuration."""
    command = (
        "dpkg-query --show --showformat '${Status} ${Package} ${Version}\\n'; "
        "find /etc /boot /lib/modules -type f -exec sha256sum {} + 2>/dev/null | sort"
    )

    def take(host: Any) -> str:
        return str(host.check_output(command + " ; true"))

    return take


@pytest.fixture(scope="session")
def kernel(nvidia_a: Any) -> Iterator[str]:
    """The release of Debian's kernel, for which the modules are built."""
    depends = nvidia_a.check_output("apt-cache depends --important linux-headers-amd64")
    yield re.findall(r"Depends: linux-headers-(\S+)", depends)[0]
