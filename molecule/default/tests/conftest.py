"""What the end-to-end tests share: the inventory, the key, and requests from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import testinfra

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / "molecule/default/inventory"
sys.path.insert(0, str(ROOT / "tests/fleet"))

from endpoint import Endpoint  # noqa: E402 - the path is set above


def run(*arguments: str, playbook: str = "site.yml", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook over the scenario's hosts, as a user would."""
    command = ["ansible-playbook", str(ROOT / playbook), "-i", str(INVENTORY), *arguments]
    env = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("VICUNA_THOROUGH"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def inventory() -> dict[str, Any]:
    command = ["ansible-inventory", "-i", str(INVENTORY), "--list"]
    env = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    output = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    variables: dict[str, Any] = json.loads(output)["_meta"]["hostvars"]
    return variables


@pytest.fixture(scope="session")
def endpoints(inventory: dict[str, Any]) -> dict[str, Endpoint]:
    key = (INVENTORY / ".secrets/fastchat_api_key").read_text().strip()
    return {
        name: Endpoint(name, f"http://127.0.0.1:{variables['sandbox_api_port']}", key)
        for name, variables in inventory.items()
        if "sandbox_api_port" in variables
    }


@pytest.fixture(scope="module", params=["debian-13", "debian-12"])
def name(request: pytest.FixtureRequest) -> str:
    """Each host of the inventory in turn."""
    return str(request.param)


@pytest.fixture
def host(name: str) -> Any:
    """The host as testinfra sees it: by its container, which costs a tenth of a run of Ansible for each command."""
    return testinfra.get_host(f"docker://vicuna-sandbox-{name}")


@pytest.fixture
def endpoint(name: str, endpoints: dict[str, Endpoint]) -> Endpoint:
    return endpoints[name]


@pytest.fixture(scope="session")
def playbook() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run
