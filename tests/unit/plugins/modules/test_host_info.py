# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module on this machine's own /proc, with an engine that is a fake on a socket."""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.module_utils import _gpu_info
from ansible_collections.vicuna.fleet.plugins.modules import host_info

Run = Callable[..., dict[str, Any]]


class FakeEngine:
    """Docker's API on a socket, with the answers that it is given; None hangs."""

    def __init__(self, path: Path, answers: dict[str, Any]) -> None:
        released = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answers.get(self.path, 404)
                if found is None:
                    released.wait(20)
                    return
                self.send_response(found if isinstance(found, int) else 200)
                self.end_headers()
                self.wfile.write(json.dumps({} if isinstance(found, int) else found).encode())

            def log_message(self, *_args: Any) -> None:
                pass

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def get_request(self) -> tuple[socket.socket, Any]:
                return super().get_request()[0], ("socket", 0)

        self.released = released
        self.server = Server(str(path), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., None]]:
    started: list[FakeEngine] = []

    def start(**answers: Any) -> None:
        paths = {"info": "/info", "containers": "/containers/json?all=1", "image": "/images/hub%3A5000/x:1/json"}
        known = {"/info": {"DockerRootDir": str(tmp_path)}, "/containers/json?all=1": []}
        started.append(
            FakeEngine(tmp_path / "docker.sock", {**known, **{paths.get(k, k): v for k, v in answers.items()}})
        )

    yield start
    for fake in started:
        fake.close()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(**arguments: Any) -> dict[str, Any]:
        args = {
            "socket": str(tmp_path / "docker.sock"),
            "timeout": 1,
            "_ansible_remote_tmp": str(tmp_path),
            **arguments,
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            host_info.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def test_a_bare_host(run: Run, tmp_path: Path) -> None:
    result = run(model_path=str(tmp_path / "not" / "there"), images=["x"])
    found = result["host"]
    assert not result["changed"]
    assert found["engine"]["answers"] is False
    assert (found["containers"], found["images"], found["objects_bytes"]) == ([], {"x": False}, 0)
    assert found["memory"]["total_mib"] >= found["memory"]["available_mib"] > 0
    assert found["file_systems"]["model"]["path"] == str(tmp_path)
    assert found["file_systems"]["model"]["free_bytes"] > 0


def test_the_gpus_are_looked_at_where_they_are_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:00:06.0"
    device.mkdir(parents=True)
    for name, value in {"vendor": "0x10de", "device": "0x2335", "class": "0x030200"}.items():
        (device / name).write_text(f"{value}\n", encoding="utf-8")
    monkeypatch.setattr(_gpu_info, "ROOT", tmp_path)
    assert "gpu" not in run()
    found = run(gpus=True)
    assert found["host"]["memory"]["total_mib"] > 0
    assert [device["generation"] for device in found["gpu"]["devices"]] == ["Hopper"]
    assert not found["gpu"]["driver"]["answers"]


def test_two_paths_of_one_file_system(run: Run, tmp_path: Path, engine: Callable[..., None]) -> None:
    engine()
    systems = run(model_path=str(tmp_path / "model"))["host"]["file_systems"]
    assert systems["docker"]["device"] == systems["model"]["device"]


def test_objects_that_are_there(run: Run, tmp_path: Path) -> None:
    def put(name: str, size: int) -> Path:
        path = tmp_path / ".git" / "lfs" / "objects" / name[:2] / name[2:4] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        return path

    whole, half, old, linked = ("aa" * 32, "bb" * 32, "cc" * 32, "dd" * 32)
    put(whole, 100)
    put(half, 50)
    put(old, 30)
    os.link(put(linked, 20), tmp_path / "model.bin")
    wanted = [{"oid": whole, "size": 100}, {"oid": half, "size": 100}, {"oid": "ee" * 32, "size": 100}]
    found = run(model_path=str(tmp_path), objects=wanted)["host"]
    assert found["objects_bytes"] == 100
    # What a file of the tree shares is not free when it goes.
    assert found["reclaimable_bytes"] == 30


def test_objects_in_a_store_that_revisions_share(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    whole, part = "aa" * 32, "bb" * 32
    path = store / "objects" / "aa" / "aa" / whole
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 100)
    (store / "vicuna-fleet" / "parts").mkdir(parents=True)
    with (store / "vicuna-fleet" / "parts" / part).open("wb") as file:
        file.write(b"x" * 65536)
        file.truncate(10_000_000)
    wanted = [{"oid": whole, "size": 100}, {"oid": part, "size": 10_000_000}]
    found = run(model_path=str(tmp_path / "model"), model_store=str(store), objects=wanted)["host"]
    assert found["objects_bytes"] == 100 + 65536


def test_a_port_that_a_process_has(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # not listening
        ports = run(ports=[taken.getsockname()[1], free.getsockname()[1]])["host"]["ports"]
    assert [port["free"] for port in ports] == [False, True]
    assert f"(pid {os.getpid()})" in ports[0]["by"]


def test_the_engines_answers(run: Run, tmp_path: Path, engine: Callable[..., None]) -> None:
    own = {
        "Id": "ab" * 32,
        "Names": ["/vicuna-edge-1"],
        "Labels": {"com.docker.compose.project": "vicuna"},
        "State": "running",
        "Ports": [{"PublicPort": 8000}],
    }
    engine(containers=[own], **{"/images/hub:5000/x:1/json": {}})
    found = run(ports=[8000], images=["hub:5000/x:1", "y"])["host"]
    assert found["engine"] == {"answers": True, "error": "", "root": str(tmp_path), "config_error": ""}
    assert found["images"] == {"hub:5000/x:1": True, "y": False}
    assert (found["ports"][0]["own"], found["ports"][0]["by"]) == (True, "the container vicuna-edge-1")
    assert found["containers"][0]["memory_mib"] == 0


def test_an_engine_that_hangs(run: Run, engine: Callable[..., None]) -> None:
    engine(info=None)
    started = time.monotonic()
    found = run(images=["x"])["host"]
    assert time.monotonic() - started < 5
    assert found["engine"]["answers"] is False
    assert "timed out" in found["engine"]["error"]


def test_clock(run: Run) -> None:
    assert run()["host"]["clock_skew_s"] == 0
    assert run(reference_time=time.time() - 500)["host"]["clock_skew_s"] == pytest.approx(500, abs=5)
    assert run(reference_time=time.time() + 500)["host"]["clock_skew_s"] == pytest.approx(-500, abs=5)
