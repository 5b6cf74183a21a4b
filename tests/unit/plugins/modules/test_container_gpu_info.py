# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.modules import container_gpu_info

Run = Callable[..., dict[str, Any]]
GPUS = "GPU 0: NVIDIA H200 (UUID: GPU-a)\\nGPU 1: NVIDIA H200 (UUID: GPU-b)\\n"
# A docker command that starts no container: it prints what the files beside it hold.
DOCKER = """
echo "$*" >>{0}/calls
[ -z "$DOCKER_HOST" ] || exit 99
case $3 in
  import) cat >{0}/image.tar; echo sha256:abc ;;
  run) [ ! -e {0}/refused ] || {{ cat {0}/refused >&2; exit 125; }}; echo ready; read _ ;;
  exec) . {0}/smi ;;
esac
"""


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module on a host whose only programs are those in tmp_path/bin."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
    monkeypatch.setattr(container_gpu_info, "SYSTEMD", tmp_path)
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.get_bin_path",
        lambda _self, name, *_args, **_kwargs: str(path) if (path := tmp_path / "bin" / name).exists() else None,
    )

    def call(**arguments: Any) -> dict[str, Any]:
        args = {"_ansible_remote_tmp": str(tmp_path), **arguments}
        with patch_module_args(args), pytest.raises(SystemExit):
            container_gpu_info.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def program(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def engine(tmp_path: Path, run: Run) -> Path:
    """A host with an engine whose containers list two GPUs."""
    program(tmp_path, "docker", DOCKER.format(tmp_path))
    (tmp_path / "smi").write_text(f"printf '{GPUS}'", encoding="utf-8")
    return tmp_path


def calls(tmp_path: Path) -> list[str]:
    return [line.split()[2] for line in (tmp_path / "calls").read_text(encoding="utf-8").splitlines()]


def test_a_container_that_sees_the_gpus(run: Run, engine: Path) -> None:
    result = run(expected=["GPU-b", "GPU-a"])
    assert not result["changed"] and result["msg"] == "A container lists 2 GPUs of the host"
    found = result["container_gpu"]
    assert (found["works"], found["listed"], found["code"], found["reloaded"]) == (True, ["GPU-a", "GPU-b"], "", False)
    assert calls(engine) == ["import", "run", "exec", "rmi"]
    assert "--device nvidia.com/gpu=all" in (engine / "calls").read_text(encoding="utf-8")


def test_the_image_is_made_of_the_hosts_shell(run: Run, engine: Path) -> None:
    run(expected=["GPU-a", "GPU-b"])
    with tarfile.open(engine / "image.tar") as archive:
        names = archive.getnames()
        shell = str(Path("/bin").resolve() / "sh").lstrip("/")
        member = archive.extractfile(shell)
        assert member is not None and member.read() == Path("/bin/sh").read_bytes()
    assert [part for part in ("libc.so.", "libm.so.", "/ld-") if not any(part in name for name in names)] == []
    # The driver's library has to come from the CDI specification, or the proof would be none.
    assert not any("nvidia" in name for name in names)


def test_the_hosts_own_list_is_expected_by_default(run: Run, engine: Path) -> None:
    program(engine, "nvidia-smi", "echo 'GPU 0: NVIDIA H200 (UUID: GPU-a)'")
    result = run()
    assert result["container_gpu"]["expected"] == ["GPU-a"]
    assert result["container_gpu"]["code"] == "other_gpus"
    assert "lists GPU-b, which the host does not have" in result["msg"]


def test_a_host_without_gpus(run: Run, engine: Path) -> None:
    program(engine, "nvidia-smi", "echo 'No devices were found'; exit 6")
    assert run()["container_gpu"]["code"] == "no_host_gpus"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('docker: Error response from daemon: could not select device driver "cdi" with capabilities: [].', "cdi_off"),
        (
            "docker: Error response from daemon: CDI device injection failed: unresolvable CDI devices x.",
            "unresolvable",
        ),
    ],
)
def test_a_container_that_does_not_start(run: Run, engine: Path, said: str, code: str) -> None:
    (engine / "refused").write_text(said, encoding="utf-8")
    result = run(expected=["GPU-a"])
    assert result["container_gpu"]["code"] == code and result["container_gpu"]["evidence"] == said
    assert not result["container_gpu"]["works"] and "Expected a container that lists 1 GPU" in result["msg"]
    assert calls(engine)[-1] == "rmi"


def test_nvidia_smi_fails_in_the_container(run: Run, engine: Path) -> None:
    (engine / "smi").write_text("echo 'Failed to initialize NVML: Unknown Error'; exit 255", encoding="utf-8")
    assert run(expected=["GPU-a"])["container_gpu"]["code"] == "denied"
    assert calls(engine)[-1] == "rmi"


def test_nvidia_smi_hangs_in_the_container(run: Run, engine: Path) -> None:
    (engine / "smi").write_text("exec sleep 30", encoding="utf-8")
    result = run(expected=["GPU-a"], timeout=1)
    assert result["container_gpu"]["code"] == "hung" and result["container_gpu"]["seconds"] < 10
    assert calls(engine)[-1] == "rmi"


def test_gpus_that_outlive_a_daemon_reload(run: Run, engine: Path) -> None:
    program(engine, "systemctl", f"echo reloaded >>{engine}/calls.systemd")
    found = run(expected=["GPU-a", "GPU-b"], daemon_reload=True)["container_gpu"]
    assert found["works"] and found["reloaded"]
    assert calls(engine) == ["import", "run", "exec", "exec", "rmi"]
    assert (engine / "calls.systemd").exists()


@pytest.mark.parametrize(
    "after", ["echo 'Failed to initialize NVML: Unknown Error'; exit 255", "echo 'GPU 0: X (UUID: GPU-a)'"]
)
def test_gpus_that_are_lost_at_a_daemon_reload(run: Run, engine: Path, after: str) -> None:
    program(engine, "systemctl", f'cat >{engine}/smi <<"E"\n{after}\nE')
    result = run(expected=["GPU-a", "GPU-b"], daemon_reload=True)
    assert result["container_gpu"]["code"] == "lost_after_reload" and not result["container_gpu"]["works"]
    assert "legacy runtime" in result["msg"]


def test_check_mode_reloads_nothing(run: Run, engine: Path) -> None:
    program(engine, "systemctl", f"touch {engine}/reloaded")
    found = run(expected=["GPU-a", "GPU-b"], daemon_reload=True, _ansible_check_mode=True)["container_gpu"]
    assert found["works"] and not found["reloaded"] and not (engine / "reloaded").exists()


def test_no_docker(run: Run) -> None:
    assert run(expected=["GPU-a"])["container_gpu"]["code"] == "no_engine"


def test_an_engine_that_does_not_answer(run: Run, tmp_path: Path) -> None:
    program(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon at unix:///x.' >&2; exit 1")
    assert run(expected=["GPU-a"])["container_gpu"]["code"] == "no_engine"


def test_a_snap(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.get_bin_path", lambda _self, name, *_a, **_k: f"/snap/bin/{name}"
    )
    assert run(expected=["GPU-a"])["container_gpu"]["code"] == "snap"
