# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin: its own steps with the host played, and real runs with a fake of docker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible.errors import AnsibleConnectionFailure

from ansible_collections.vicuna.fleet.plugins.action import finetune_job

from .. import fake_docker

ROOT = Path(__file__).resolve().parents[4]
RUN = "0123456789ab"
NAME = f"vicuna-finetune-{RUN}"
JOB = {"container": NAME, "progress": "/run/progress.json"}
STARTED = {"changed": True, "action": "started", "running": True, "done": False, "job": JOB}
DONE = {"changed": True, "action": "collected", "running": False, "done": True, "exit_code": 0}


# ---------------------------------------------------------------------------------------------- the host, played


def look(step: int = 1, running: bool = True, before: str = "", **changes: Any) -> dict[str, Any]:
    """What the look at the host prints."""
    state = {"Status": "running" if running else "exited", "Running": running, "ExitCode": 0}
    progress = {"phase": "training", "step": step, "steps": 10, "loss": 2.0, "updated": float(step), **changes}
    text = f"{before}{finetune_job.MARK}\n{json.dumps(state)}\n{json.dumps(progress)}"
    return {"rc": 0, "stdout": text, "stderr": ""}


def said(text: str) -> dict[str, Any]:
    return {"rc": 0, "stdout": f"{finetune_job.MARK}\n{text}", "stderr": ""}


class Played:
    """The plugin with a clock that does not wait, a module and a host that play a script."""

    def __init__(self, tmp: Path, results: list[Any], answers: list[Any], check_mode: bool, **args: Any) -> None:
        self.now, self.calls, self.said = 0.0, [], []  # type: ignore[var-annotated]
        self.results, self.answers = list(results), list(answers)
        args = {"run_id": RUN, "run_dir": "/run", "base": "/b", "image": "i", **args}
        task = SimpleNamespace(args=args, async_val=0, check_mode=check_mode, diff=False, no_log=False, action="x")
        shell = SimpleNamespace(tmpdir=None, quote=lambda text: f"'{text}'")
        self.connection = mock.Mock(_shell=shell, has_native_async=False, transport="ssh")
        self.plugin = finetune_job.ActionModule(
            task, self.connection, mock.Mock(), mock.Mock(), mock.Mock(), mock.Mock()
        )
        self.plugin._execute_module = self._module
        self.plugin._low_level_execute_command = lambda command: self._next(self.answers)
        self.plugin._clock = lambda: self.now
        self.plugin._sleep = self._sleep
        self.plugin._display = mock.Mock(display=lambda line, **_how: self.said.append(line))

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    @staticmethod
    def _next(script: list[Any]) -> dict[str, Any]:
        entry = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(entry, Exception):
            raise entry
        return dict(entry)

    def _module(self, **call: Any) -> dict[str, Any]:
        self.calls.append(call["module_args"].get("state"))
        return self._next(self.results)

    def run(self) -> dict[str, Any]:
        return dict(self.plugin.run(task_vars={"inventory_hostname": "gpu-1"}))


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(finetune_job, "notes", lambda: tmp_path)
    return lambda results, answers=({},), check_mode=False, **args: Played(
        tmp_path, results, list(answers), check_mode, **args
    )


def test_from_the_start_to_the_end(play, tmp_path: Path) -> None:
    last = json.loads(look(10)["stdout"].rpartition("\n")[2])
    looks = [look(number, before="Welcome!\n") for number in range(1, 11)]
    played = play([STARTED, {**DONE, "progress": last}], [*looks, look(10, running=False, phase="done")])
    found = played.run()
    assert played.calls == ["started", "collected"]
    assert (found["changed"], found["action"], found["done"]) == (True, "started", True)
    assert "gpu-1: step 7 of 10 (70 %), loss 2" in played.said
    assert played.said[-1].startswith("gpu-1: trained 10 steps")
    assert list(tmp_path.iterdir()) == []


def test_a_line_comes_at_least_every_ten_seconds(play) -> None:
    played = play([STARTED, DONE], [*(look(n) for n in range(1, 61)), look(60, running=False)])
    times: list[float] = []
    played.plugin._display.display = lambda line, **_how: times.append(played.now)
    played.run()
    assert len(times) > 20
    assert max(later - earlier for earlier, later in zip(times, times[1:])) <= 10.0


@pytest.mark.parametrize(
    ("first", "how"),
    [
        ({"changed": False, "action": "none", "done": True, "running": False}, {}),
        ({"failed": True, "msg": "busy", "changed": False}, {}),
        (STARTED, {"check_mode": True}),
        (STARTED, {"state": "started"}),
        ({**DONE}, {"state": "collected"}),
    ],
)
def test_there_is_nothing_to_wait_for(play, first: dict[str, Any], how: dict[str, Any]) -> None:
    played = play([first], **how)
    found = played.run()
    assert found["changed"] == first["changed"]
    assert len(played.calls) == 1


def test_a_training_that_is_found_is_said_to_be(play) -> None:
    played = play([{**STARTED, "changed": False, "action": "attached"}, DONE], [look(10, running=False)])
    assert played.run()["action"] == "attached"
    assert "at work already" in played.said[0]


def test_one_that_ends_before_the_first_look(play) -> None:
    played = play([{**STARTED, "running": False, "job": None}, DONE])
    assert played.run()["done"]
    assert played.calls == ["started", "collected"]


def test_a_bad_end_is_the_modules_to_tell(play) -> None:
    failed = {"failed": True, "msg": "Found: diverged", "cause": "diverged", "changed": True}
    found = play([STARTED, failed], [look(3), look(3, running=False, phase="failed")]).run()
    assert found["failed"] and found["cause"] == "diverged"


def test_a_container_that_is_gone(play) -> None:
    played = play(
        [STARTED, {"failed": True, "msg": "gone", "cause": "job_gone"}], [said("\nError: No such container: x")]
    )
    assert played.run()["cause"] == "job_gone"


def test_a_stall_is_ended_and_named(play) -> None:
    played = play(
        [STARTED, {"changed": True}, {"failed": True, "log": ["x"], "exit_code": 143}], [look(3)], stall_timeout=60
    )
    found = played.run()
    assert played.calls == ["started", "stopped", "collected"]
    assert found["failed"] and found["cause"] == "stalled" and found["log"] == ["x"]
    assert "step 3 of 10" in found["msg"]
    assert 60 < played.now < 80


def test_a_container_that_cannot_be_stopped_is_not_said_to_be(play) -> None:
    stuck = {"failed": True, "msg": "Found: it cannot be stopped", "cause": "not_stopped"}
    found = play([STARTED, stuck, {"running": True}], [look(3)], stall_timeout=60).run()
    assert found["failed"] and found["cause"] == "stalled"
    assert "cannot be stopped" in found["msg"] and "has been stopped" not in found["msg"]


def test_a_host_that_restarts_is_waited_for_with_a_line_every_ten_seconds(play) -> None:
    """Eight minutes of booting, an engine that is not up yet, and the container as the engine finds it."""
    lost = AnsibleConnectionFailure("ssh: no route")
    engine = said(
        "failed to connect to the docker API: dial unix /var/run/docker.sock: connect: no such file or directory"
    )
    failed = {"failed": True, "msg": "Found: the training ended with its host", "cause": "restarted"}
    played = play([STARTED, failed], [look(1), *[lost] * 94, engine, engine, look(1, running=False)])
    times: list[float] = []
    played.plugin._display.display = lambda line, **_how: (times.append(played.now), played.said.append(line))
    found = played.run()
    assert played.now > 480 and found["cause"] == "restarted"
    assert played.calls == ["started", "collected"]
    assert max(later - earlier for earlier, later in zip(times, times[1:])) <= 10.0
    assert any("no connection for 5 min" in line for line in played.said)


def test_a_lost_connection_is_waited_for(play) -> None:
    lost = AnsibleConnectionFailure("ssh: gone")
    engine = said("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
    played = play([STARTED, DONE], [look(1), lost, lost, engine, look(5), look(10, running=False)])
    assert played.run()["done"]
    assert any("no connection (ssh: gone)" in line for line in played.said)
    assert played.connection.reset.called


def test_a_connection_that_stays_away(play, tmp_path: Path) -> None:
    played = play([STARTED], [look(1), AnsibleConnectionFailure("ssh: gone")])
    with pytest.raises(AnsibleConnectionFailure, match="The training goes on there; run again to watch it"):
        played.run()
    assert played.now > finetune_job.PATIENCE_S
    # What the end of the run tells.
    note = json.loads((tmp_path / f"{finetune_job.NOTE}gpu-1").read_text())
    assert note == {"host": "gpu-1", "name": NAME}


# ---------------------------------------------------------------------------------------------- real runs


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    fake_docker.install(tmp_path / "engine", steps=400, pause=0.1)
    (tmp_path / "run").mkdir()
    task = {
        "name": "Train",
        "vicuna.fleet.finetune_job": {
            "run_id": RUN,
            "run_dir": str(tmp_path / "run"),
            "base": str(tmp_path),
            "image": "image:1",
            "stop_timeout": 20,
        },
    }
    stop = json.loads(json.dumps(task).replace('"stop_timeout"', '"state": "{{ state }}", "stop_timeout"'))
    play = {
        "name": "Train",
        "hosts": "gpu-1",
        "gather_facts": False,
        "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "state": "finished"},
        "environment": {"PATH": f"{tmp_path}/engine/bin:{os.environ['PATH']}"},
        "tasks": [stop],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    yield tmp_path
    fake_docker.end_all(tmp_path / "engine")


def start(host: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "gpu-1,", str(host / "play.yml"), *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            # The look at the host runs without the task's environment.
            "PATH": f"{host}/engine/bin:{os.environ['PATH']}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_leaves_the_training_and_the_next_run_finds_it(host: Path) -> None:
    first = start(host)
    deadline = time.monotonic() + 120
    while not (host / "run" / "steps").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(8)
    os.killpg(first.pid, signal.SIGINT)
    output, _ = first.communicate(timeout=120)
    assert "The training goes on without this run on gpu-1; run again to watch it." in output, output
    assert f"docker stop {NAME}" in output
    # The next one finds it: no second training.
    fake_docker.play(host / "engine", steps=2)
    second = start(host, "-e", "state=stopped")
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert (host / "run" / "steps").read_text() == "train\n"
    third = start(host)
    output, _ = third.communicate(timeout=180)
    assert third.returncode == 0, output
    assert "gpu-1: goes on from the last checkpoint" in output
    assert "gpu-1: trained 2 steps" in output
    assert (host / "run" / "steps").read_text() == "train\ntrain\n"
    fourth = start(host)
    output, _ = fourth.communicate(timeout=120)
    assert "changed=0" in output
