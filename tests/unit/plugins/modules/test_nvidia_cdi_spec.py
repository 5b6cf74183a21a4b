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

from ansible_collections.vicuna.fleet.plugins.modules import nvidia_cdi_spec

Run = Callable[..., dict[str, Any]]
GPUS = [{"index": 0, "uuid": "GPU-a", "mig_devices": []}]
# As nvidia-ctk 1.20 writes it, shortened.
SPEC = """\
---
cdiVersion: 0.7.0
containerEdits:
    mounts:
        - containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.{0}
          hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.{0}
devices:
    - containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
      name: "0"
    - containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
      name: GPU-a
    - containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
      name: all
kind: nvidia.com/gpu
"""
GOOD, STALE = SPEC.format("580.159.04"), SPEC.format("550.163.01")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module on a host whose only programs are those in tmp_path/bin, with its folders below tmp_path."""
    for name in ("bin", "etc", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.get_bin_path",
        lambda _self, name, *_args, **_kwargs: str(path) if (path := tmp_path / "bin" / name).exists() else None,
    )
    write(tmp_path / "written", GOOD)
    program(tmp_path, f'echo "$NVIDIA_CTK_DEBUG" >{tmp_path}/called; cp {tmp_path}/written "${{3#--output=}}"')

    def call(**arguments: Any) -> dict[str, Any]:
        args = {
            "driver_version": "580.159.04",
            "gpus": GPUS,
            "path": str(tmp_path / "etc/nvidia.yaml"),
            "directories": [str(tmp_path / "etc"), str(tmp_path / "run")],
            "service_settings": str(tmp_path / "refresh.env"),
            "_ansible_remote_tmp": str(tmp_path),
            **arguments,
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            nvidia_cdi_spec.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def program(tmp_path: Path, script: str) -> None:
    write(tmp_path / "bin" / "nvidia-ctk", f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "nvidia-ctk").chmod(0o755)


def test_a_missing_specification_is_written_once(run: Run, tmp_path: Path) -> None:
    first = run()
    assert first["changed"] and first["reasons"] == ["no CDI specification names a GPU"]
    assert (tmp_path / "etc/nvidia.yaml").read_text(encoding="utf-8") == GOOD
    second = run()
    assert not second["changed"] and second["reasons"] == []


def test_check_mode_writes_nothing(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "etc/nvidia.yaml", STALE)
    write(tmp_path / "run/nvidia.yaml", GOOD)
    result = run(_ansible_check_mode=True)
    assert result["changed"] and result["msg"].startswith("Would write")
    assert (tmp_path / "etc/nvidia.yaml").read_text(encoding="utf-8") == STALE
    assert (tmp_path / "run/nvidia.yaml").exists() and not (tmp_path / "called").exists()


def test_a_specification_of_another_driver_is_written_anew(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "etc/nvidia.yaml", STALE)
    assert "is of driver 550.163.01, and 580.159.04 is loaded" in run()["reasons"][0]
    assert (tmp_path / "etc/nvidia.yaml").read_text(encoding="utf-8") == GOOD


def test_other_specifications_of_the_gpus_are_removed(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "etc/nvidia.yaml", GOOD)
    write(tmp_path / "run/nvidia.yaml", GOOD)
    write(tmp_path / "etc/other.yaml", GOOD.replace("nvidia.com/gpu", "nvidia.com/imex-channel"))
    write(tmp_path / "etc/vendor.json", '{"kind": "example.org/device", "devices": [{"name": "0"}]}')
    assert run()["removed"] == [str(tmp_path / "run/nvidia.yaml")]
    assert not (tmp_path / "run/nvidia.yaml").exists()
    assert (tmp_path / "etc/other.yaml").exists() and (tmp_path / "etc/vendor.json").exists()
    assert not run()["changed"]


def test_the_refresh_service_is_told_the_same_file(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "etc/nvidia.yaml", GOOD)
    write(tmp_path / "refresh.env", "# NVIDIA's words\nNVIDIA_CTK_DEBUG=1\n")
    result = run()
    assert result["changed"] and "writes another file" in result["reasons"][0]
    assert (tmp_path / "refresh.env").read_text(encoding="utf-8") == (
        f"# NVIDIA's words\nNVIDIA_CTK_DEBUG=1\nNVIDIA_CTK_CDI_OUTPUT_FILE_PATH={tmp_path}/etc/nvidia.yaml\n"
    )
    # What the owner set for the service holds for this run of nvidia-ctk, too.
    assert (tmp_path / "called").read_text(encoding="utf-8") == "1\n"
    assert not run()["changed"]


def test_nvidia_ctk_fails(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "run/nvidia.yaml", STALE)
    program(tmp_path, "echo 'level=info msg=x'; echo 'failed to initialize NVML: Driver Not Loaded'; exit 1")
    result = run()
    assert result["failed"] and "fails: failed to initialize NVML: Driver Not Loaded. Expected" in result["msg"]
    # What was there is better than nothing.
    assert (tmp_path / "run/nvidia.yaml").exists()


def test_nvidia_ctk_hangs(run: Run, tmp_path: Path) -> None:
    program(tmp_path, "exec sleep 30")
    assert "no answer within 1 s" in run(timeout=1)["msg"]


def test_nvidia_ctk_writes_something_else(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "written", STALE)
    result = run()
    assert result["failed"] and "is of driver 550.163.01" in result["msg"]


def test_no_nvidia_ctk(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bin/nvidia-ctk").unlink()
    result = run()
    assert result["failed"] and result["msg"].startswith("Found no nvidia-ctk. Expected it, since no CDI")
