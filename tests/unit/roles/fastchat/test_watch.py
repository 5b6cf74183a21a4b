# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's watcher: what hangs is restarted and nothing else, and a fault that comes back costs fewer restarts.

The clock is a number. The engine is a fake: what it shows and reports has the shape of Docker's own.
"""

from __future__ import annotations

import http.server
import importlib.machinery
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[4] / "roles/fastchat"
FILE = ROLE / "files/vicuna-watch"
HANGS, LOADS = 1, 3  # exit codes of a check


def load() -> Any:
    loader = importlib.machinery.SourceFileLoader("vicuna_watch", str(FILE))
    spec = importlib.util.spec_from_loader("vicuna_watch", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["vicuna_watch"] = module  # dataclasses look their module up
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


WATCH = load()


def inspected(
    name: str = "api-server", status: str = "running", health: str | None = "healthy", exits: tuple[int, ...] = (0, 0)
) -> dict[str, Any]:
    """An entry of `docker inspect`, as Docker 26 writes it."""
    log = [
        {"Start": "2026-01-01T00:00:00Z", "End": "2026-01-01T00:00:05Z", "ExitCode": code, "Output": ""}
        for code in exits
    ]
    if log:
        log[-1]["Output"] = "the worker does not answer:\n TimeoutError: timed out\n"
    state: dict[str, Any] = {"Status": status, "Running": status in ("running", "paused"), "Paused": status == "paused"}
    if health:
        state["Health"] = {"Status": health, "FailingStreak": 0, "Log": log or None}
    return {"Id": f"id-of-{name}", "Name": f"/vicuna-{name}-1", "State": state}


def event(action: str, name: str = "api-server", **attributes: str) -> dict[str, Any]:
    """A line of `docker events`."""
    return {"Type": "container", "Action": action, "Actor": {"ID": f"id-of-{name}", "Attributes": attributes}}


@dataclass
class Host:
    """An engine with containers and a clock. A restart makes a container well, unless it is `incurable`."""

    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    incurable: set[str] = field(default_factory=set)
    watch: Any = field(default_factory=WATCH.Watch)
    now: float = 1000.0
    restarts: list[tuple[float, str]] = field(default_factory=list)

    def set(self, name: str, **how: Any) -> None:
        self.containers[name] = inspected(name, **how)

    def hear(self, *events: dict[str, Any]) -> None:
        for one in events:
            self.watch.hear(one, self.now)

    def look(self) -> float:
        chosen, wait = self.watch.decide([WATCH.read(each) for each in self.containers.values()], self.now)
        for each in chosen:
            name = each.id.removeprefix("id-of-")
            self.restarts.append((self.now - 1000.0, name))
            if name not in self.incurable:
                self.set(name)
        return float(wait)

    def run(self, seconds: float) -> list[tuple[float, str]]:
        """Look whenever the watcher wants to; the restarts so far, by the seconds since the beginning."""
        end = self.now + seconds
        while True:
            wait = self.look()
            assert wait > 0, "a watcher that does not wait keeps a processor busy"
            if self.now + wait > end:
                self.now = end
                return self.restarts
            self.now += wait


def hung(**how: Any) -> dict[str, Any]:
    return {"health": "unhealthy", "exits": (0, HANGS, HANGS), **how}


# What a container is like, and whether it is restarted.
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "well": ({}, False),
    "hung": (hung(), True),
    "the check itself was cut off by the engine": (hung(exits=(-1, -1)), True),
    "no HTTP within the time of timeout(1)": (hung(exits=(124, 124)), True),
    "loading": ({"health": "starting", "exits": (LOADS, LOADS)}, False),
    "hung while it starts": ({"health": "starting", "exits": (HANGS, HANGS)}, False),
    "loading for longer than its start period": (hung(exits=(LOADS, LOADS)), False),
    "the controller is silent": (hung(exits=(LOADS, LOADS)), False),
    "the controller was silent, and it is slow once": (hung(exits=(LOADS, HANGS)), False),
    "slow, and the controller is silent now": (hung(exits=(HANGS, LOADS)), False),
    "failed once, and not unhealthy yet": ({"exits": (0, HANGS)}, False),
    "paused": (hung(status="paused"), False),
    # The engine shows the health of what has ended as unhealthy.
    "stopped": (hung(status="exited"), False),
    "crashed, the restart policy is at work": (hung(status="restarting"), False),
    "made, and not started": ({"status": "created", "health": None}, False),
    "without a health check": ({"health": None}, False),
    "unhealthy without a word": (hung(exits=()), True),
}


@pytest.mark.parametrize("name", CASES)
def test_what_hangs_is_restarted_and_nothing_else(name: str) -> None:
    how, restarted = CASES[name]
    host = Host()
    host.set("api-server", **how)
    assert host.run(3600) == ([(WATCH.SURE, "api-server")] if restarted else [])


def test_what_answers_again_in_time_is_left_alone() -> None:
    """The third check comes within SURE seconds: a service that was slow twice has its chance."""
    host = Host()
    host.set("model-worker", **hung())
    host.run(WATCH.SURE - 0.1)
    host.set("model-worker")
    host.look()
    host.set("model-worker", **hung())
    assert host.run(WATCH.SURE - 0.1) == [], "the time begins anew"
    assert host.run(0.2) != []


def test_where_the_controller_hangs_no_worker_loads_its_model_again() -> None:
    host = Host()
    host.set("controller", **hung())
    for name in ("model-worker", "model-worker-2"):
        host.set(name, **hung(exits=(LOADS, LOADS)))
    assert host.run(600) == [(WATCH.SURE, "controller")]


def test_what_hangs_at_the_same_time_is_restarted_at_the_same_time() -> None:
    host = Host()
    for name in ("model-worker", "edge", "controller", "api-server"):
        host.set(name, **hung())
    assert host.run(600) == [(WATCH.SURE, name) for name in ("api-server", "controller", "edge", "model-worker")]


def test_a_fault_that_comes_back_costs_fewer_restarts() -> None:
    host = Host(incurable={"api-server"})
    host.set("api-server", **hung())
    times = [at for at, _name in host.run(3600)]
    gaps = [round(later - earlier) for earlier, later in zip(times, times[1:])]
    assert gaps == [30, 60, 120, 240, 480, 600, 600, 600, 600]


def test_a_crash_loop_is_left_to_the_restart_policy() -> None:
    """It dies at every start. Whatever moment of that the watcher sees, it adds no restart."""
    host = Host()
    for number in range(200):
        host.hear(event("die", exitCode="1"))
        host.set("api-server", **(hung(status="restarting") if number % 2 else {"health": "starting", "exits": (1, 1)}))
        host.run(5)
    assert host.restarts == []


def test_restarts_are_forgotten_after_a_time_in_health() -> None:
    host = Host()
    for _time in range(4):
        host.set("api-server", **hung())
        host.run(WATCH.SURE + WATCH.FORGOTTEN_AFTER + WATCH.LOOK)
    assert len(host.restarts) == 4
    assert host.watch.cares["id-of-api-server"].restarts == 0


def test_a_fault_soon_after_a_restart_waits() -> None:
    host = Host()
    host.set("api-server", **hung())
    host.run(WATCH.SURE)
    host.run(10)
    host.set("api-server", **hung())
    assert [at for at, _name in host.run(60)] == [6.0, 36.0]


# Signals that reach a container before it ends, and whether it is started again.
ENDS: dict[str, tuple[list[str], bool]] = {
    "docker kill": (["9"], True),
    "docker stop": (["15"], False),
    "docker stop of what does not hear it": (["15", "9"], False),
    "docker stop of the edge": (["10"], False),
    "docker compose stop -t 0 with SIGINT": (["2", "9"], False),
    "hung by docker kill -s STOP, then killed": (["19", "9"], True),
    "told to read its files again, then killed": (["1", "9"], True),
    "crash": ([], False),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_is_killed_is_started_again_and_what_is_stopped_is_not(name: str) -> None:
    signals, started = ENDS[name]
    host = Host()
    host.set("edge")
    host.look()
    host.hear(*(event("kill", "edge", signal=one) for one in signals), event("die", "edge"))
    host.set("edge", status="exited", health="unhealthy", exits=(0, 0))
    assert host.run(600) == ([(0.0, "edge")] if started else [])


def test_a_kill_is_answered_at_once_however_often_it_comes() -> None:
    host = Host()
    for _time in range(5):
        host.hear(event("kill", "edge", signal="9"), event("die", "edge"))
        host.set("edge", status="exited")
        host.run(2)
    assert [at for at, _name in host.restarts] == [0, 2, 4, 6, 8]


def test_what_was_killed_and_removed_is_gone() -> None:
    host = Host()
    host.hear(event("kill", "edge", signal="9"), event("die", "edge"))
    assert host.run(100) == []
    host.set("edge", status="exited")
    assert host.run(100) == []


def test_a_polite_stop_that_takes_its_time_is_respected() -> None:
    """`docker stop` waits for the last answers: what is unhealthy meanwhile is not started again."""
    host = Host(incurable={"edge"})
    host.set("edge", **hung())
    host.hear(event("kill", "edge", signal="15"))
    assert host.run(300) == []
    host.hear(event("kill", "edge", signal="9"), event("die", "edge"))
    host.set("edge", **hung(status="exited"))
    assert host.run(3600) == []


def test_a_wish_to_stop_that_nothing_heard_ends() -> None:
    """`docker kill -s TERM` of a process that hangs: it is there after ten minutes, and it hangs."""
    host = Host()
    host.set("edge", **hung())
    host.hear(event("kill", "edge", signal="15"))
    assert [name for _at, name in host.run(WATCH.WISH_LASTS + WATCH.LOOK)] == ["edge"]


def test_the_watchers_own_restart_is_no_wish_to_stop() -> None:
    host = Host()
    host.set("edge", **hung())
    host.run(10)
    host.hear(event("kill", "edge", signal="10"), event("kill", "edge", signal="9"), event("die", "edge"))
    host.set("edge", **hung())
    assert [at for at, _name in host.run(100)] == [6.0, 36.0]


def test_a_restart_that_failed_is_tried_again_until_it_runs() -> None:
    """The engine has ended it and could not start it: no policy does."""
    host = Host(incurable={"edge"})
    host.set("edge", **hung())
    host.run(10)
    host.watch.failed(WATCH.read(host.containers["edge"]))
    host.set("edge", status="exited")
    assert [at for at, _name in host.run(100)] == [6.0, 36.0, 96.0]
    host.set("edge")
    host.look()
    host.set("edge", status="exited")
    assert len(host.run(3600)) == 3, "it ran, and somebody stopped it"


def test_a_container_that_is_gone_is_forgotten() -> None:
    host = Host()
    host.set("api-server", **hung())
    host.run(10)
    del host.containers["api-server"]
    host.look()
    assert host.watch.cares == {}


def test_the_reason_is_the_last_word_of_the_check() -> None:
    found = inspected(**hung(exits=(124, 124)))
    assert WATCH.read(found).said == "the worker does not answer: TimeoutError: timed out"
    found["State"]["Health"]["Log"][-1]["Output"] = ""
    assert WATCH.read(found).said == "its health check ended with 124"


# --- the program with a fake engine ---------------------------------------------------------------------------------

FAKE_DOCKER = """#!{python}
import json, os, pathlib, sys, time
folder = pathlib.Path({folder!r})
arguments = sys.argv[1:]
with (folder / "calls").open("a") as log:
    log.write(json.dumps(arguments) + "\\n")
if arguments[0] == "events":
    for line in (folder / "events").read_text().splitlines():
        print(line, flush=True)
    while not (folder / "over").exists():
        time.sleep(0.01)
elif arguments[0] == "ps":
    if (folder / "deaf").exists():
        sys.exit("Cannot connect to the Docker daemon")
    print("id-of-edge")
elif arguments[0] == "inspect":
    print((folder / "inspected").read_text())
elif arguments[0] == "restart":
    (folder / "over").touch()
    if (folder / "broken").exists():
        sys.exit("driver failed programming external connectivity")
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    fake = tmp_path / "bin/docker"
    fake.parent.mkdir()
    fake.write_text(FAKE_DOCKER.format(python=sys.executable, folder=str(tmp_path)))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    (tmp_path / "events").write_text("")
    yield tmp_path
    (tmp_path / "over").touch()


def run() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FILE), "vicuna"], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_program_starts_a_killed_container_and_ends_with_the_reports(engine: Path) -> None:
    lines = [event("kill", "edge", signal="9"), event("die", "edge", exitCode="137")]
    (engine / "events").write_text("".join(json.dumps(each) + "\n" for each in lines))
    (engine / "inspected").write_text(json.dumps([inspected("edge", status="exited")]))
    done = run()
    calls = [json.loads(line) for line in (engine / "calls").read_text().splitlines()]
    assert calls[-1] == ["restart", "-t", "2", "id-of-edge"]
    events = next(call for call in calls if call[0] == "events")
    assert "--since" in events, "what happens before the engine listens is reported, too"
    assert "label=com.docker.compose.project=vicuna" in events
    assert "vicuna-edge-1 was killed, or could not be started: restart 1" in done.stdout
    assert (done.returncode, done.stderr.strip()) == (1, "docker events ended")


def test_the_program_says_why_it_restarts_and_why_it_could_not(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was hung before the watcher began is found by its first look."""
    (engine / "inspected").write_text(json.dumps([inspected("edge", **hung())]))
    (engine / "broken").touch()
    monkeypatch.setattr(WATCH, "SURE", 0.0)
    said: list[str] = []
    monkeypatch.setattr("builtins.print", lambda text, **_how: said.append(text))
    assert WATCH.main("vicuna") == "docker events ended"
    assert said == [
        "vicuna-edge-1 does not answer (the worker does not answer: TimeoutError: timed out): restart 1",
        "vicuna-edge-1 could not be restarted: driver failed programming external connectivity. "
        "The next try comes in 30 s",
    ]


def test_an_engine_that_tells_nothing_ends_the_program(engine: Path) -> None:
    (engine / "deaf").touch()
    done = run()
    assert (done.returncode, "Cannot connect to the Docker daemon" in done.stderr) == (1, True)


# --- the checks that it acts on -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checks() -> dict[str, dict[str, Any]]:
    """The health checks of a host with two workers, as the role writes them."""
    init_plugin_loader()
    loader = DataLoader()
    loader.set_basedir(str(ROLE / "templates"))
    variables: dict[str, Any] = {"ansible_managed": "Ansible managed", "role_path": str(ROLE)}
    for part in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True)
    variables |= {"fastchat_api_keys": ["k"], "fastchat_workers": 2}
    text = trust_as_template((ROLE / "templates/compose.yaml.j2").read_text(encoding="utf-8"))
    services = yaml.safe_load(str(Templar(loader=loader, variables=variables).template(text)))["services"]
    return {name: service["healthcheck"] for name, service in services.items()}


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_what_hangs_is_restarted_within_half_a_minute(checks: dict[str, dict[str, Any]]) -> None:
    assert set(checks) == {"controller", "model-worker", "model-worker-2", "api-server", "edge"}
    for name, check in checks.items():
        assert check["retries"] == WATCH.RETRIES
        # A check gives up by itself after 5 s; the engine's limit is longer.
        unhealthy = check["retries"] * (seconds(check["interval"]) + 5)
        assert unhealthy <= 25, name
        assert unhealthy + WATCH.SURE + WATCH.GRACE <= 30, name
        assert seconds(check["timeout"]) > 10, name
        # The check that is failed last ends before the container is restarted, if it answers within a second.
        assert seconds(check["interval"]) < WATCH.SURE <= seconds(check["interval"]) + 1
    # As the images of older versions of the collection want it, too, which may be pulled.
    assert checks["model-worker-2"]["test"][-2:] == ["model-worker", "http://model-worker-2:21002"]
    assert checks["model-worker"]["start_period"] == "30m"


class Answering(http.server.BaseHTTPRequestHandler):
    """Says 404, as FastChat does to a path that it does not have."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_args: Any) -> None:
        pass


def check_port(checks: dict[str, dict[str, Any]], port: int) -> int:
    """The api-server's check on another port, with a shorter patience."""
    command = [str(part).replace("/8000 ", f"/{port} ").replace("$$", "$") for part in checks["api-server"]["test"]]
    assert command[:3] == ["CMD", "timeout", "5"]
    return subprocess.run(["timeout", "0.5", *command[3:]], capture_output=True, timeout=30, check=False).returncode


def test_a_check_wants_an_answer_and_not_just_a_connection(checks: dict[str, dict[str, Any]]) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        assert check_port(checks, server.server_port) == 0
        server.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert check_port(checks, port) == 124, "a process that hangs takes connections still"
    assert check_port(checks, port) == 1, "nobody listens"
