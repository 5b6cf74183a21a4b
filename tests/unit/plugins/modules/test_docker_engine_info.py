# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.modules import docker_engine_info

CAPTURED = Path(__file__).parents[1] / "fixtures" / "docker"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module on a host whose only programs are those in tmp_path/bin."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(docker_engine_info, "SNAPS", (str(tmp_path / "snap"),))
    monkeypatch.setattr(docker_engine_info, "INIT_PID_FILE", tmp_path / "docker-ssd.pid")
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.get_bin_path",
        lambda _self, name, *_args, **_kwargs: str(path) if (path := tmp_path / "bin" / name).exists() else None,
    )

    def call(**arguments: Any) -> dict[str, Any]:
        args = {"config": str(tmp_path / "daemon.json"), "_ansible_remote_tmp": str(tmp_path), **arguments}
        with patch_module_args(args), pytest.raises(SystemExit):
            docker_engine_info.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def program(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def test_a_bare_host(run: Run) -> None:
    result = run()
    engine = result["engine"]
    assert not result["changed"]
    assert (engine["flavour"], engine["cli"], engine["packages"]) == ("none", "", {})
    assert (engine["reachable"], engine["config_error"]) == (False, "")


def test_an_engine_of_the_distribution(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
    program(tmp_path, "dpkg-query", r"printf 'ii \tdocker.io\t26.1.5+dfsg1-9\nun \tdocker-ce\t\n'; exit 1")
    program(
        tmp_path, "docker", f'[ -z "$DOCKER_HOST" ] && [ "$1 $3" = "--host info" ] && cat {CAPTURED}/info_debian13.json'
    )
    result = run()
    engine = result["engine"]
    assert result["msg"] == "Docker Engine 26.1.5 answers"
    assert (engine["flavour"], engine["packages"]) == ("distribution", {"docker.io": "26.1.5+dfsg1-9"})
    assert (engine["version"], engine["compose"], engine["buildx"]) == ("26.1.5", "2.26.1", "0.13.1")


def test_wait(run: Run, tmp_path: Path) -> None:
    program(
        tmp_path,
        "docker",
        f"[ -e {tmp_path}/asked ] && exec cat {CAPTURED}/info_debian13.json\n"
        f"touch {tmp_path}/asked; cat {CAPTURED}/info_unreachable_26.json",
    )
    assert run(wait=5)["engine"]["reachable"]


def test_no_answer(run: Run, tmp_path: Path) -> None:
    program(tmp_path, "docker", f"cat {CAPTURED}/info_unreachable_26.json")
    result = run()
    assert result["msg"].startswith("No engine answers: Cannot connect to the Docker daemon")


@pytest.mark.parametrize("flavour", ["podman", "snap"])
def test_what_is_no_engine_is_not_asked(run: Run, tmp_path: Path, flavour: str) -> None:
    program(tmp_path, "docker", f'touch {tmp_path}/asked; exec podman "$@"')
    if flavour == "snap":
        (tmp_path / "snap").touch()
    assert run()["engine"]["flavour"] == flavour
    assert not (tmp_path / "asked").exists()


def test_a_malformed_configuration(run: Run, tmp_path: Path) -> None:
    (tmp_path / "daemon.json").write_text("{,}", encoding="utf-8")
    assert run()["engine"]["config_error"].startswith("line 1, column 2")
