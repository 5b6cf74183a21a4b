# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.module_utils import _release as releases
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_pointer import stamp
from ansible_collections.vicuna.fleet.plugins.modules import serving_info

Run = Callable[..., dict[str, Any]]
GPU = Path(__file__).parents[1] / "fixtures" / "gpu" / "h200_580.xml"
RELEASE = "0123456789ab"
COMMIT = "3321f76e3f527bd14065daf69dad9344000a201d"
IMAGE = f"sha256:{'a' * 64}"
SERVICES = ("controller", "model-worker", "api-server", "edge")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module on a host whose only programs are those in tmp_path/bin."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(serving_info, "ROOT", tmp_path)
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.get_bin_path",
        lambda _self, name, *_args, **_kwargs: str(path) if (path := tmp_path / "bin" / name).exists() else None,
    )

    def call(**arguments: Any) -> dict[str, Any]:
        args = {
            "state_dir": str(tmp_path / "state"),
            "project_dir": str(tmp_path / "project"),
            "timeout": 5,
            "_ansible_remote_tmp": str(tmp_path),
            **arguments,
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            serving_info.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert not answer.get("failed"), answer
        return answer

    return call


def program(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def inspected(service: str, **changes: Any) -> dict[str, Any]:
    return {
        "Id": service,
        "Image": IMAGE,
        "State": {"Status": "running", "StartedAt": "2026-11-22T10:00:00.1Z", "Health": {"Status": "healthy"}},
        "Config": {"Image": "image:1", "Labels": {"com.docker.compose.service": service}},
        "HostConfig": {},
        **changes,
    }


def fake_docker(tmp_path: Path, containers: list[dict[str, Any]], queues: str = '{"model-worker": 2}') -> None:
    """Answers as docker does: `ps`, `inspect`, and `exec` for the queues. What it was asked is kept."""
    (tmp_path / "inspect.json").write_text(json.dumps(containers))
    (tmp_path / "queues.json").write_text(queues)
    program(
        tmp_path,
        "docker",
        f'echo "$3 $4 $5 $6" >> {tmp_path}/asked\ncase "$3" in\n'
        f"ps) printf '%s\\n' {' '.join(each['Id'] for each in containers)} ;;\n"
        f"inspect) cat {tmp_path}/inspect.json ;;\n"
        f"exec) cat {tmp_path}/queues.json ;;\n*) exit 1 ;;\nesac",
    )


def deploy(tmp_path: Path) -> None:
    """What a deployment leaves: the record, its copy, the project, and the model."""
    model = tmp_path / "model"
    (model / ".git").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    files = {"config.json": {"stamp": stamp((model / "config.json").lstat())}}
    (model / ".git" / "vicuna-fleet.json").write_text(json.dumps({"version": 2, "commit": COMMIT, "files": files}))
    file = releases.File("compose.yaml", b"services: {}\n", 0o644, str(os.geteuid()), str(os.getegid()))
    (tmp_path / "project").mkdir()
    releases.put(tmp_path / "project" / "compose.yaml", file.content, file.mode)
    (tmp_path / "state").mkdir()
    releases.Snapshots(tmp_path / "state" / "releases").save(RELEASE, [file])
    entry = {
        "id": RELEASE,
        "images": {"edge": "image:1", "api": "image:1", "worker": "image:1"},
        "image_ids": {"edge": IMAGE, "api": IMAGE, "worker": IMAGE},
        "model": {"path": str(model), "commit": COMMIT, "names": ["vicuna"]},
        "settings": "",
    }
    state = releases.verify(
        releases.pend(releases.empty(), entry, True, "2026-11-22T10:00:00Z"), 39.9, "2026-11-22T10:01:00Z"
    )
    (tmp_path / "state" / "release.json").write_text(releases.dump(state))


def about(result: dict[str, Any]) -> list[str]:
    return [problem["about"] for problem in result["serving"]["problems"]]


def test_a_bare_host(run: Run) -> None:
    result = run()
    serving = result["serving"]
    assert not result["changed"]
    assert about(result) == ["release", "containers"]
    assert (serving["release"], serving["containers"], serving["unwell"], serving["queue"]) == (None, None, None, None)
    assert serving["drift"] == {"files": None, "images": None, "model": None}
    assert (serving["gpu"]["gpus"], serving["gpu"]["driver_version"], serving["gpu"]["trouble"]) == ([], "", "")
    assert result["msg"] == "no release, nothing differs, 2 things could not be told"


def test_a_host_that_serves(run: Run, tmp_path: Path) -> None:
    deploy(tmp_path)
    fake_docker(tmp_path, [inspected(service) for service in SERVICES])
    result = run()
    serving = result["serving"]
    assert result["msg"] == f"release {RELEASE}, nothing differs"
    assert serving["problems"] == []
    assert serving["drift"] == {"files": [], "images": [], "model": []}
    assert (serving["queue"], serving["queues"], serving["unwell"]) == (2, {"model-worker": 2}, [])
    assert (serving["release"]["verified"], serving["release"]["tokens_per_second"]) == ("2026-11-22T10:01:00Z", 39.9)
    assert (serving["model"]["commit"], serving["gpu"]["wanted"]) == (COMMIT, False)
    asked = (tmp_path / "asked").read_text()
    assert "exec api-server python3 -c" in asked
    assert "v1/models" not in asked


def test_a_service_that_began_before_the_last_change_of_its_file(run: Run, tmp_path: Path) -> None:
    deploy(tmp_path)
    keys = tmp_path / "project" / "edge" / "keys"
    keys.parent.mkdir()
    copies = releases.Snapshots(tmp_path / "state" / "releases")
    owner = (str(os.geteuid()), str(os.getegid()))
    copies.save(RELEASE, [releases.File("edge/keys", b"k", 0o640, *owner, True, ("edge",))])
    with subprocess.Popen(["sleep", "60"]) as process:
        state = {"Status": "running", "Health": {"Status": "healthy"}, "Pid": process.pid}
        fake_docker(tmp_path, [inspected("edge", State=state), inspected("api-server", State=state)])
        time.sleep(0.05)
        releases.put(keys, b"k", 0o640)
        found = run()["serving"]["drift"]["files"]
        process.kill()
    assert found == [f"edge began before the last change of {keys}"]


def test_a_host_that_drifted(run: Run, tmp_path: Path) -> None:
    deploy(tmp_path)
    (tmp_path / "project" / "compose.yaml").write_text("by hand")
    (tmp_path / "model" / "config.json").unlink()
    other = inspected("edge", Image=f"sha256:{'b' * 64}")
    fake_docker(tmp_path, [*(inspected(service) for service in SERVICES[:3]), other])
    result = run()
    assert result["serving"]["drift"] == {
        "files": ["compose.yaml: content"],
        "images": ["edge runs image bbbbbbbbbbbb, not aaaaaaaaaaaa"],
        "model": ["config.json is gone"],
    }
    assert result["msg"] == f"release {RELEASE}, 3 differences"


def test_one_silent_worker_hides_the_sum(run: Run, tmp_path: Path) -> None:
    workers = [inspected("model-worker"), inspected("model-worker-2")]
    fake_docker(
        tmp_path, [inspected("api-server"), *workers], '{"model-worker": 2, "model-worker-2": "TimeoutError: x"}'
    )
    serving = run()["serving"]
    assert (serving["queue"], serving["queues"]) == (None, {"model-worker": 2})
    assert {"about": "queue", "message": "model-worker-2: TimeoutError: x"} in serving["problems"]


def test_no_api_server(run: Run, tmp_path: Path) -> None:
    fake_docker(tmp_path, [inspected("api-server", State={"Status": "exited"}), inspected("model-worker")])
    result = run()
    assert {"about": "queue", "message": "no api-server runs"} in result["serving"]["problems"]
    assert result["serving"]["unwell"] == [
        "controller has no container",
        "edge has no container",
        "api-server is exited",
    ]


def test_no_container(run: Run, tmp_path: Path) -> None:
    program(tmp_path, "docker", "exit 0")
    serving = run()["serving"]
    assert serving["containers"] == []
    assert len(serving["unwell"]) == 4


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo Cannot connect to the Docker daemon >&2; exit 1", "Cannot connect to the Docker daemon"),
        ("sleep 60", "gave no answer within 1 s"),
        ('[ "$3" = ps ] && echo a || echo {', "docker's answer cannot be read"),
    ],
)
def test_an_engine_that_does_not_tell(run: Run, tmp_path: Path, script: str, words: str) -> None:
    program(tmp_path, "docker", script)
    serving = run(timeout=1)["serving"]
    assert serving["containers"] is None
    assert any(problem["about"] == "containers" and words in problem["message"] for problem in serving["problems"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "is no record of releases"),
        ('{"schema": 2}', "has schema 2"),
        (releases.dump(releases.empty()), "names no release that runs"),
    ],
)
def test_a_record_that_is_none(run: Run, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "release.json").write_text(content)
    serving = run()["serving"]
    assert serving["release"] is None
    assert words in serving["problems"][0]["message"]


def nvidia(tmp_path: Path, script: str) -> None:
    """A host with one GPU on the bus and a loaded driver; nvidia-smi is a fake that runs the script."""
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n"
    )
    device = tmp_path / "sys/bus/pci/devices/0000:00:06.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    program(tmp_path, "nvidia-smi", script)


def test_a_record_that_is_a_directory(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state" / "release.json").mkdir(parents=True)
    said = run()["serving"]["problems"][0]["message"]
    assert "release.json is no file. Expected: a record of releases, schema 1. Run the playbook site" in said


def test_a_gpu(run: Run, tmp_path: Path) -> None:
    nvidia(tmp_path, f"cat {GPU}")
    gpu = run()["serving"]["gpu"]
    assert (gpu["driver_version"], gpu["on_bus"], gpu["trouble"]) == ("580.159.04", 1, "")
    assert gpu["memory_free_mib"] == sum(each["memory_free_mib"] for each in gpu["gpus"]) > 0
    assert gpu["gpus"][0]["name"] == "NVIDIA H200"


def test_a_gpu_that_hangs(run: Run, tmp_path: Path) -> None:
    nvidia(tmp_path, "sleep 60")
    gpu = run(timeout=1)["serving"]["gpu"]
    assert (gpu["gpus"], gpu["memory_free_mib"]) == ([], None)
    assert "nvidia-smi gave no answer within 1 s" in gpu["trouble"]


def test_no_driver_is_no_trouble_for_workers_on_the_cpu(run: Run, tmp_path: Path) -> None:
    nvidia(tmp_path, "exit 1")
    fake_docker(tmp_path, [inspected(service) for service in SERVICES])
    assert run()["serving"]["gpu"]["trouble"] == ""
    worker = inspected("model-worker", HostConfig={"DeviceRequests": [{"Driver": "cdi"}]})
    fake_docker(tmp_path, [worker])
    assert "the driver does not answer" in run()["serving"]["gpu"]["trouble"]
