# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/status.yml in real runs over hosts of this machine, with scripted endpoints in place of edges and gateways.

Nothing is deployed on them: the best that they can be is degraded, as they answer and have no record of a release.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-5up3rs3cr3t"  # gitleaks:allow
NO_MODEL = (401, '{"error":{"message":"no","code":"invalid_api_key"}}')
LOST = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


class Run:
    """What a run left behind."""

    def __init__(self, done: subprocess.CompletedProcess[str], directory: Path, endpoints: dict[str, Any]) -> None:
        self.code, self.out, self.err, self.endpoints = done.returncode, done.stdout, done.stderr, endpoints
        report = directory / "reports" / "status.json"
        self.report: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
        page = directory / "reports" / "status.html"
        self.page = page.read_text() if page.exists() else ""

    @property
    def states(self) -> dict[str, str]:
        return {host["host"]: host["state"] for host in self.report["hosts"]}

    def reasons(self, host: str) -> list[str]:
        return next(entry["reasons"] for entry in self.report["hosts"] if entry["host"] == host)


class World:
    """The means of a scenario."""

    def __init__(self, directory: Path, fake: Any, good: Callable[..., dict[str, Any]]) -> None:
        self.directory, self.fake, self.good = directory, fake, good

    def run(self, hosts: dict[str, Any], *arguments: str, gateways: dict[str, Any] | None = None, **env: str) -> Run:
        """A run over {host: variables}; the variable `script` is what answers on the host's port."""
        endpoints = {}
        for variables, port in [(each, "fastchat_port") for each in hosts.values()] + [
            (each, "gateway_port") for each in (gateways or {}).values()
        ]:
            script = variables.pop("script", None)
            if script:
                endpoint = self.fake(script)
                variables[port] = endpoint.port
                endpoints[str(endpoint.port)] = endpoint
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "gateway_tls": False,
            "status_timeout": 2,
        }
        children = {"gateway": {"hosts": gateways}} if gateways else {}
        inventory = {"all": {"hosts": hosts, "vars": common, "children": children}}
        (self.directory / "hosts.json").write_text(json.dumps(inventory))
        (self.directory / "ansible.cfg").write_text(
            f"[defaults]\ncollections_path={ROOT}\ncallbacks_enabled=vicuna.fleet.chat_completion\n"
            f"inventory=hosts.json\nlocal_tmp={self.directory}/tmp\nremote_tmp={self.directory}/tmp\npipelining=true\n"
            "inject_facts_as_vars=false\n"
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().endswith("_PROXY") and not name.startswith(("ANSIBLE_", "VICUNA_"))
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        try:
            done = subprocess.run(
                [str(program), str(ROOT / "playbooks" / "status.yml"), *arguments],
                cwd=self.directory,
                env={**environment, "ANSIBLE_NOCOLOR": "1", "PWD": str(self.directory), **env},
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
        finally:
            for endpoint in endpoints.values():
                endpoint.close()
        return Run(done, self.directory, endpoints)


def mixed(world: World) -> Run:
    """Hosts that answer, that refuse, and that are lost; without a group of gateways."""
    hosts = {
        "good": {"script": [world.good()], "fastchat_api_keys": [KEY]},
        "refusing": {"script": [NO_MODEL]},
        "lost": dict(LOST),
    }
    return world.run(hosts)


def all_lost(world: World) -> Run:
    return world.run({"a": dict(LOST), "b": dict(LOST)}, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")


def with_gateway(world: World) -> Run:
    """A gateway that answers a question; HAProxy's socket is not there."""
    gateway = {
        "script": [world.good()],
        "gateway_keys": [{"name": "hashed", "sha256": "0"}, {"name": "me", "key": KEY}],
    }
    return world.run({"good": {"script": [world.good()]}}, gateways={"gateway-1": gateway})


def no_gateway_answers(world: World) -> Run:
    """Not one gateway is there; the callback that sets the exit code is not enabled."""
    return world.run(
        {"good": {"script": [world.good()]}},
        gateways={"gateway-1": dict(LOST)},
        ANSIBLE_CALLBACKS_ENABLED="ansible.posix.timer",
    )


def limited(world: World) -> Run:
    hosts = {"good": {"script": [world.good()]}, "other": {"script": [world.good()]}}
    return world.run(hosts, "--limit", "good", "-e", "status_ask=false", "--check")


SCENARIOS = [mixed, all_lost, with_gateway, no_gateway_answers, limited]


@pytest.fixture(scope="module")
def result_of(tmp_path_factory: pytest.TempPathFactory, fake_endpoint: Any, good: Any) -> Any:
    """The result of a scenario; all of them start with the first that is asked for."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {
            scenario: pool.submit(scenario, World(tmp_path_factory.mktemp(scenario.__name__), fake_endpoint, good))
            for scenario in SCENARIOS
        }
        yield lambda scenario: futures[scenario].result()


def test_a_fleet_that_is_degraded(result_of: Any) -> None:
    run = result_of(mixed)
    assert run.code == 1, run.out + run.err
    assert run.report["status"] == "degraded"
    assert run.states == {"good": "degraded", "lost": "down", "refusing": "down"}
    assert run.reasons("lost")[0].startswith("unreachable: ")
    assert run.reasons("refusing")[0].startswith("no valid answer: ")
    assert any("release.json" in reason for reason in run.reasons("good"))
    assert run.report["gateways"] == []


def test_its_table_and_page(result_of: Any) -> None:
    run = result_of(mixed)
    assert "HOST" in run.out
    assert "degraded: 1 of 3 hosts serving" in run.out
    assert "degraded" in run.page
    assert KEY not in run.out + run.err + run.page + json.dumps(run.report)
    good = next(host for host in run.report["hosts"] if host["host"] == "good")
    assert good["answered"]["by"] == "status"
    assert good["answered"]["tokens_per_second"] > 0


def test_the_key_is_sent(result_of: Any) -> None:
    run = result_of(mixed)
    sent = {request["headers"].get("Authorization") for each in run.endpoints.values() for request in each.requests}
    assert sent == {f"Bearer {KEY}", None}


def test_a_fleet_that_is_lost(result_of: Any) -> None:
    run = result_of(all_lost)
    assert run.code == 2, run.out + run.err
    assert run.states == {"a": "down", "b": "down"}
    assert run.report["exit_code"] == 2
    assert set(json.loads(run.out)["stats"]) == {"a", "b"}


def test_a_gateway_that_answers(result_of: Any) -> None:
    run = result_of(with_gateway)
    assert run.code == 1, run.out + run.err
    assert [(one["gateway"], one["state"], one["reasons"]) for one in run.report["gateways"]] == [
        ("gateway-1", "degraded", ["HAProxy does not run"])
    ]
    assert run.states == {"good": "degraded"}


def test_no_gateway_that_answers(result_of: Any) -> None:
    run = result_of(no_gateway_answers)
    assert run.code == 2, run.out + run.err
    assert run.report["status"] == "down"
    assert run.states == {"good": "degraded"}
    assert run.report["gateways"][0]["reachable"] is False


def test_a_limit_and_no_question(result_of: Any) -> None:
    run = result_of(limited)
    assert run.states == {"good": "down"}, "nothing runs here, and nobody asked"
    assert all(not each.requests for each in run.endpoints.values())
    assert run.code == 2
