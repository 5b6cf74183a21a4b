# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.modules import docker_daemon_config

Run = Callable[..., dict[str, Any]]
SECRET = "joe:s3cret"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module on tmp_path/docker/daemon.json; returns what it prints. Programs are looked for in bin/ only."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.get_bin_path",
        lambda _self, name, *_args, **_kwargs: str(path) if (path := tmp_path / "bin" / name).exists() else None,
    )

    def call(**arguments: Any) -> dict[str, Any]:
        args = {"path": str(tmp_path / "docker" / "daemon.json"), "_ansible_remote_tmp": str(tmp_path), **arguments}
        with patch_module_args(args), pytest.raises(SystemExit):
            docker_daemon_config.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def put(tmp_path: Path, text: str, mode: int = 0o644) -> Path:
    path = tmp_path / "docker" / "daemon.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fake_dockerd(tmp_path: Path, script: str) -> None:
    path = tmp_path / "bin" / "dockerd"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def test_new_file(run: Run, tmp_path: Path) -> None:
    result = run(options={"debug": True}, defaults={"live-restore": True})
    path = tmp_path / "docker" / "daemon.json"
    assert result["changed"]
    assert json.loads(path.read_text(encoding="utf-8")) == {"debug": True, "live-restore": True}
    assert mode_of(path) == 0o644
    assert "backup_file" not in result
    assert not run(options={"debug": True}, defaults={"live-restore": True})["changed"]


def test_existing_file_is_merged_and_kept_aside(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path, '{"bip": "10.9.0.1/24", "registry-mirrors": ["https://a"]}', 0o640)
    result = run(options={"registry-mirrors": ["https://b"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "bip": "10.9.0.1/24",
        "registry-mirrors": ["https://a", "https://b"],
    }
    assert (result["changed_keys"], result["restart_required"]) == (["registry-mirrors"], False)
    assert Path(result["backup_file"]).read_text(encoding="utf-8").startswith('{"bip"')
    assert mode_of(path) == 0o640


def test_what_holds_already_is_not_written_again(run: Run, tmp_path: Path) -> None:
    text = '{"debug":true}   '
    path = put(tmp_path, text)
    assert not run(options={"debug": True})["changed"]
    assert path.read_text(encoding="utf-8") == text


def test_check_mode_writes_nothing(run: Run, tmp_path: Path) -> None:
    result = run(options={"debug": True}, _ansible_check_mode=True, _ansible_diff=True)
    assert result["changed"]
    assert result["diff"]["after"] == '{\n  "debug": true\n}\n'
    assert not (tmp_path / "docker").exists()


@pytest.mark.parametrize("text", ["{,}", "[]", "\xff"])
def test_malformed_file_is_left_alone(run: Run, tmp_path: Path, text: str) -> None:
    path = put(tmp_path, "")
    path.write_bytes(text.encode("latin-1"))
    result = run(options={"debug": True})
    assert result["failed"]
    assert "Nothing was written" in result["msg"]
    assert path.read_bytes() == text.encode("latin-1")


def test_a_link_is_followed(run: Run, tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("{}", encoding="utf-8")
    link = tmp_path / "docker" / "daemon.json"
    link.parent.mkdir()
    link.symlink_to(real)
    assert run(options={"debug": True})["path"] == str(real)
    assert link.is_symlink()
    assert json.loads(real.read_text(encoding="utf-8")) == {"debug": True}


def test_passwords_are_never_shown(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path, json.dumps({"proxies": {"http-proxy": f"http://{SECRET}@old:1"}}))
    result = run(options={"proxies": {"https-proxy": f"http://{SECRET}@new:1"}}, _ansible_diff=True)
    assert "s3cret" not in json.dumps(result)
    assert "http://***@new:1" in result["diff"]["after"]
    assert json.loads(path.read_text(encoding="utf-8"))["proxies"]["https-proxy"] == f"http://{SECRET}@new:1"
    assert mode_of(path) == 0o600
    assert mode_of(Path(result["backup_file"])) & 0o077 == 0


def test_what_dockerd_refuses_is_not_written(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path, "{}")
    fake_dockerd(tmp_path, 'echo "unable to configure the Docker daemon with file $3: no such option" >&2; exit 1')
    result = run(options={"nope": True, "proxies": {"http-proxy": f"http://{SECRET}@p"}})
    assert result["failed"]
    assert f"with file {path}: no such option" in result["msg"]
    assert "s3cret" not in json.dumps(result)
    assert path.read_text(encoding="utf-8") == "{}"


def test_dockerd_sees_the_merged_file(run: Run, tmp_path: Path) -> None:
    put(tmp_path, '{"bip": "x"}')
    fake_dockerd(tmp_path, f'cp "$3" {tmp_path}/seen')
    assert run(options={"debug": True})["validated"]
    assert json.loads((tmp_path / "seen").read_text(encoding="utf-8")) == {"bip": "x", "debug": True}


def test_an_old_dockerd_cannot_validate(run: Run, tmp_path: Path) -> None:
    fake_dockerd(tmp_path, 'echo "unknown flag: --validate" >&2; exit 125')
    result = run(options={"debug": True})
    assert (result["changed"], result["validated"]) == (True, False)
