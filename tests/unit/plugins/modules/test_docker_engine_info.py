# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.module_utils._trust_store import Store, named
from ansible_collections.vicuna.fleet.plugins.modules import docker_engine_info

CAPTURED = Path(__file__).parents[1] / "fixtures" / "docker"
CERTIFICATES = Path(__file__).parents[1] / "fixtures" / "certificates"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module on a host whose only programs are those in tmp_path/bin."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(docker_engine_info, "SNAPS", (str(tmp_path / "snap"),))
    monkeypatch.setattr(docker_engine_info, "INIT_PID_FILE", tmp_path / "docker-ssd.pid")
    monkeypatch.setattr(docker_engine_info, "SYSTEMD", str(tmp_path / "systemd"))
    store = Store("update-ca-certificates", str(tmp_path / "anchors"), str(tmp_path / "bundle.crt"))
    monkeypatch.setattr(docker_engine_info, "STORES", (store,))
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
    found = f"Found a malformed {tmp_path / 'daemon.json'}: line 1, column 2: a comma before the closing }}. Expected"
    assert run()["engine"]["config_error"].startswith(found)


# --- what of the wanted the host does not have

WANTED = {"options": {"registry-mirrors": ["http://hub:5000"]}, "defaults": {"live-restore": True}}


def settled(tmp_path: Path, **keys: Any) -> None:
    """A host that has what WANTED asks for, and a dockerd that likes it."""
    config = {"registry-mirrors": ["http://hub:5000"], "live-restore": True, **keys}
    (tmp_path / "daemon.json").write_text(json.dumps(config), encoding="utf-8")
    program(tmp_path, "dockerd", "exit 0")


def test_nothing_is_judged_that_was_not_asked_for(run: Run, tmp_path: Path) -> None:
    (tmp_path / "daemon.json").write_text("{,}", encoding="utf-8")
    assert run()["engine"]["pending"] == []


def test_a_configuration_that_holds(run: Run, tmp_path: Path) -> None:
    settled(tmp_path, debug=True)
    assert run(**WANTED)["engine"]["pending"] == []


@pytest.mark.parametrize(
    "text",
    ["", "{}", "{,}", '{"registry-mirrors": ["http://other:5000"], "live-restore": true}', '{"live-restore": true}'],
)
def test_a_configuration_that_a_person_has_edited(run: Run, tmp_path: Path, text: str) -> None:
    settled(tmp_path)
    (tmp_path / "daemon.json").write_text(text, encoding="utf-8")
    assert run(**WANTED)["engine"]["pending"] == ["config"]


def test_a_configuration_that_is_gone(run: Run) -> None:
    assert run(**WANTED)["engine"]["pending"] == ["config"]


def test_a_default_that_a_person_has_decided_otherwise(run: Run, tmp_path: Path) -> None:
    settled(tmp_path, **{"live-restore": False})
    assert run(**WANTED)["engine"]["pending"] == []


def test_a_configuration_that_dockerd_refuses(run: Run, tmp_path: Path) -> None:
    settled(tmp_path, bogus=1)
    program(tmp_path, "dockerd", "echo 'unable to configure: bogus' >&2; exit 1")
    assert run(**WANTED)["engine"]["pending"] == ["config"]


def test_a_dockerd_that_cannot_judge(run: Run, tmp_path: Path) -> None:
    settled(tmp_path)
    program(tmp_path, "dockerd", "echo 'unknown flag: --validate' >&2; exit 125")
    assert run(**WANTED)["engine"]["pending"] == []


def test_a_password_that_others_may_read(run: Run, tmp_path: Path) -> None:
    settled(tmp_path, proxies={"http-proxy": "http://me:secret@proxy:3128"})
    (tmp_path / "daemon.json").chmod(0o644)
    assert run(**WANTED)["engine"]["pending"] == ["config"]
    (tmp_path / "daemon.json").chmod(0o600)
    assert run(**WANTED)["engine"]["pending"] == []


def test_it_tells_of_the_file_what_gpus_depend_on(run: Run, tmp_path: Path) -> None:
    assert run()["engine"]["config"] == {}
    settled(tmp_path, features={"cdi": True}, proxies={"http-proxy": "http://me:secret@proxy:3128"})
    answer = run()
    assert answer["engine"]["config"] == {"features": {"cdi": True}}
    assert "secret" not in json.dumps(answer)
    (tmp_path / "daemon.json").write_text("{", encoding="utf-8")
    assert run()["engine"]["config"] == {}


def test_a_member_of_a_swarm_goes_without_live_restore(run: Run, tmp_path: Path) -> None:
    (tmp_path / "daemon.json").write_text('{"registry-mirrors": ["http://hub:5000"]}', encoding="utf-8")
    assert run(**WANTED)["engine"]["pending"] == ["config"]
    info = json.loads((CAPTURED / "info_debian13.json").read_text(encoding="utf-8"))
    (tmp_path / "info.json").write_text(json.dumps({**info, "Swarm": {"LocalNodeState": "active"}}), encoding="utf-8")
    program(tmp_path, "docker", f"cat {tmp_path}/info.json")
    assert run(**WANTED)["engine"]["pending"] == []


def test_certificates(run: Run, tmp_path: Path) -> None:
    first, second = ((CERTIFICATES / f"{name}.pem").read_text(encoding="utf-8") for name in ("first", "second"))
    assert run(certificates={"first.pem": first})["engine"]["pending"] == ["certificates"]
    (tmp_path / "bundle.crt").write_text(first, encoding="utf-8")
    assert run(certificates={"first.pem": first})["engine"]["pending"] == []
    assert run(certificates={"first.pem": first, "second.pem": second})["engine"]["pending"] == ["certificates"]
    assert run(certificates={"first.pem": "no certificate"})["engine"]["pending"] == ["certificates"]


@pytest.mark.parametrize(
    ("active", "enabled", "pending"),
    [
        ("active", "enabled", []),
        ("inactive", "enabled", ["service"]),
        ("active", "disabled", ["service"]),
        ("failed", "masked", ["service"]),
        ("inactive", "", ["service"]),
    ],
)
def test_service(run: Run, tmp_path: Path, active: str, enabled: str, pending: list[str]) -> None:
    (tmp_path / "systemd").mkdir()
    program(tmp_path, "systemctl", f"[ $3 = docker ] && printf 'ActiveState={active}\nUnitFileState={enabled}\n'")
    assert run(service="docker")["engine"]["pending"] == pending


@pytest.mark.parametrize(
    ("changed", "reloaded", "pending"),
    [
        (None, False, []),
        ("daemon.json", False, ["restart"]),
        # A reload reads the file again, and the trust store not.
        ("daemon.json", True, []),
        ("anchors", False, ["restart"]),
        ("anchors", True, ["restart"]),
        # What others have put into the trust store.
        ("anchors/other.crt", False, []),
    ],
)
def test_an_engine_that_is_older_than_its_files(
    run: Run, tmp_path: Path, changed: str | None, reloaded: bool, pending: list[str]
) -> None:
    settled(tmp_path)
    pem = (CERTIFICATES / "first.pem").read_text()
    (tmp_path / "bundle.crt").write_text(pem)
    (tmp_path / "anchors").mkdir()
    (tmp_path / "systemd").mkdir()
    with subprocess.Popen(["sleep", "60"]) as dockerd:
        changes = time.monotonic()
        time.sleep(0.05)
        for name in (
            named({"first.pem": pem})["first.pem"] if changed == "anchors" else [Path(changed).name] if changed else []
        ):
            folder = tmp_path / "anchors" if str(changed).startswith("anchors") else tmp_path
            with (folder / name).open("a") as file:
                file.write("\n")
        unit = f"ActiveState=active\nUnitFileState=enabled\nMainPID={dockerd.pid}\n"
        unit += f"StateChangeTimestampMonotonic={int((time.monotonic() if reloaded else changes) * 1e6)}\n"
        program(tmp_path, "systemctl", f"printf '{unit}'")
        found = run(service="docker", certificates={"first.pem": pem}, **WANTED)["engine"]["pending"]
        dockerd.kill()
    assert found == pending


def test_a_service_without_systemd_is_left_to_the_module(run: Run, tmp_path: Path) -> None:
    program(tmp_path, "systemctl", "exit 1")
    assert run(service="docker")["engine"]["pending"] == ["service"]
