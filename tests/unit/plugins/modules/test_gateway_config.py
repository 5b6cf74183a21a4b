# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Its decisions, with a fake of the program; tests/unit/roles/gateway has it before a real HAProxy."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.modules import gateway_config

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Programs are looked for in bin/ only."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.get_bin_path",
        lambda _self, name, *_args, **_kwargs: str(path) if (path := tmp_path / "bin" / name).exists() else None,
    )

    def call(**arguments: Any) -> dict[str, Any]:
        given = {
            "config": "defaults\n    mode http\n",
            "config_path": str(tmp_path / "haproxy.cfg"),
            "directory": str(tmp_path / "files"),
            "socket": str(tmp_path / "none.sock"),
            "state_file": str(tmp_path / "state"),
            "_ansible_remote_tmp": str(tmp_path),
            **arguments,
        }
        with patch_module_args(given), pytest.raises(SystemExit):
            gateway_config.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def fake_haproxy(tmp_path: Path, version: str = "2.4.24-0ubuntu0.22.04", check: str = "exit 0") -> None:
    path = tmp_path / "bin" / "haproxy"
    path.write_text(f'#!/bin/sh\n[ "$1" = -v ] && echo "HAProxy version {version} 2026/10/17" && exit 0\n{check}\n')
    path.chmod(0o755)


def test_without_haproxy_nothing_is_done(run: Run, tmp_path: Path) -> None:
    result = run(files={"keys.map": "x"})
    assert (result["changed"], result["installed"]) == (False, False)
    assert not (tmp_path / "haproxy.cfg").exists()


@pytest.mark.parametrize(("version", "taken"), [("2.2.9", False), ("1.8.27", False), ("2.4.0", True), ("3.0.11", True)])
def test_versions(run: Run, tmp_path: Path, version: str, taken: bool) -> None:
    fake_haproxy(tmp_path, version)
    result = run()
    assert result.get("installed", False) == taken
    if not taken:
        assert f"Found HAProxy {version}" in result["msg"] and "2.4" in result["msg"]


def test_files_are_written_for_root_alone(run: Run, tmp_path: Path) -> None:
    fake_haproxy(tmp_path)
    result = run(files={"keys.map": "abc alice\n"})
    assert (result["changed"], result["running"], result["reloaded"]) == (True, False, False)
    assert sorted(result["changed_files"]) == [str(tmp_path / "files" / "keys.map"), str(tmp_path / "haproxy.cfg")]
    for path in (tmp_path / "haproxy.cfg", tmp_path / "files" / "keys.map"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not run(files={"keys.map": "abc alice\n"})["changed"]
    # A file that is used no more goes; a changed one changes the mark in the configuration.
    fewer = run(files={})
    assert fewer["changed"] and not (tmp_path / "files" / "keys.map").exists()


def test_check_mode_writes_nothing(run: Run, tmp_path: Path) -> None:
    fake_haproxy(tmp_path)
    result = run(_ansible_check_mode=True, _ansible_diff=True)
    assert result["changed"] and not (tmp_path / "haproxy.cfg").exists()
    assert "mode http" in result["diff"]["after"] and result["diff"]["before"] == ""


def test_a_refused_file_is_named_as_it_would_be(run: Run, tmp_path: Path) -> None:
    fake_haproxy(tmp_path, check='echo "[ALERT] parsing [$3:2] : $(ls $(dirname $3))" >&2; exit 1')
    result = run(files={"keys.map": "0123abcd alice\n"})
    assert f"[{tmp_path}/haproxy.cfg:2]" in result["msg"], result["msg"]
    assert "keys.map" in result["msg"] and "nothing was written" in result["msg"]
    assert not (tmp_path / "haproxy.cfg").exists()


def test_the_secret_is_shown_nowhere(run: Run, tmp_path: Path) -> None:
    fake_haproxy(tmp_path)
    result = run(config="# Bearer s3cret-key-of-edges\n", secrets=["s3cret-key-of-edges"], _ansible_diff=True)
    assert "s3cret-key-of-edges" not in json.dumps(result)
    assert "s3cret-key-of-edges" in (tmp_path / "haproxy.cfg").read_text(encoding="utf-8")


def test_the_state_follows_a_configuration_that_is_not_running(run: Run, tmp_path: Path) -> None:
    fake_haproxy(tmp_path)
    columns = "be_name srv_name srv_admin_state srv_port srv_use_ssl"
    (tmp_path / "state").write_text(f"1\n# {columns}\nvicuna a 8 8000 0\n", encoding="utf-8")
    run(config="backend vicuna\n    server a 10.0.0.1:9000 ssl\n")
    assert "vicuna a 8 9000 1" in (tmp_path / "state").read_text(encoding="utf-8")


def test_the_units_settings_are_put_back(run: Run, tmp_path: Path) -> None:
    """Also where the run that installed HAProxy was killed before it wrote them."""
    fake_haproxy(tmp_path)
    path = tmp_path / "haproxy.service.d" / "vicuna.conf"
    settings = {"drop_in": "[Service]\nRestart=always\n", "drop_in_path": str(path)}
    run()
    assert run(_ansible_check_mode=True, **settings)["changed_files"] == [str(path)]
    assert not path.exists()
    for harm in (lambda: None, lambda: path.write_text("edited"), path.unlink):
        harm()
        result = run(**settings)
        # They are for systemd: nothing is reloaded for them.
        assert (result["changed"], result["changed_files"], result["reloaded"]) == (True, [str(path)], False)
        assert path.read_text() == settings["drop_in"]
        assert path.stat().st_mode & 0o777 == 0o644
    assert not run(**settings)["changed"]


@pytest.mark.parametrize(
    ("said", "ready"),
    [
        ("UnitFileState=enabled\nNeedDaemonReload=no", True),
        ("NeedDaemonReload=no\nUnitFileState=enabled", True),
        ("UnitFileState=enabled\nNeedDaemonReload=yes", False),
        ("UnitFileState=disabled\nNeedDaemonReload=no", False),
        ("", False),
    ],
)
def test_what_systemd_knows_of_the_unit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, ready: bool
) -> None:
    fake_haproxy(tmp_path)
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho '{said}'\n")
    systemctl.chmod(0o755)
    monkeypatch.setattr(gateway_config, "SYSTEMD", str(tmp_path / "systemd"))
    assert run()["unit_ready"] is False
    (tmp_path / "systemd").mkdir()
    assert run()["unit_ready"] is ready
    settings = {"drop_in": "x", "drop_in_path": str(tmp_path / "unit.d" / "x.conf")}
    assert run(_ansible_check_mode=True, **settings)["unit_ready"] is False


def test_no_openssl_and_no_certificate(run: Run, tmp_path: Path) -> None:
    fake_haproxy(tmp_path)
    assert "gateway_tls_certificate" in run(self_signed=["a.example"])["msg"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["gpu.example", "10.0.0.1", "::1"], "DNS:gpu.example,IP:10.0.0.1,IP:::1"), (["127.0.0.1"], "IP:127.0.0.1")],
)
def test_names_in_a_certificate(names: list[str], expected: str) -> None:
    assert gateway_config.sans(names) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("    bind 0.0.0.0:8443 ssl crt x", [("0.0.0.0", 8443)]),
        ("    bind [::]:8443", [("[::]", 8443)]),
        ("    bind :80", [("0.0.0.0", 80)]),
        ("    bind *:80", [("0.0.0.0", 80)]),
        ("    # bind 1.2.3.4:80\n    bind 127.0.0.1:8404", [("127.0.0.1", 8404)]),
        ("    bind /run/x.sock", []),
    ],
)
def test_binds(line: str, expected: list[tuple[str, int]]) -> None:
    assert gateway_config.binds(f"frontend a\n{line}\n") == expected


@pytest.mark.parametrize("installed", [True, False])
def test_a_port_that_something_else_holds(run: Run, tmp_path: Path, installed: bool) -> None:
    if installed:
        fake_haproxy(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run(config=f"frontend a\n    bind 0.0.0.0:{port}\n")
        assert result["failed"] and not (tmp_path / "haproxy.cfg").exists()
        found = f"Found port {port} of the gateway taken by "
        assert result["msg"].startswith(found) and "which listens at 127.0.0.1. Expected" in result["msg"]
        assert "gateway_stats_port" in result["msg"]
        # Another address of the same machine.
        assert not run(config=f"frontend a\n    bind 127.0.0.2:{port}\n").get("failed")
