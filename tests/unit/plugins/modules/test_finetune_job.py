# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module, with a fake of docker whose containers are processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.modules import finetune_job

from .. import fake_docker

Run = Callable[..., dict[str, Any]]
RUN = "0123456789ab"
NAME = f"vicuna-finetune-{RUN}"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "engine"
    program = fake_docker.install(folder) / "docker"
    monkeypatch.setattr("ansible.module_utils.basic.AnsibleModule.get_bin_path", lambda *_args, **_kwargs: str(program))
    monkeypatch.setattr(finetune_job, "POLL_S", 0.1)
    (tmp_path / "run").mkdir()
    (tmp_path / "base@1").mkdir()
    (tmp_path / "base").symlink_to("base@1")
    yield folder
    fake_docker.end_all(folder)


@pytest.fixture
def run(engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(**arguments: Any) -> dict[str, Any]:
        args = {
            "run_id": RUN,
            "run_dir": str(tmp_path / "run"),
            "base": str(tmp_path / "base"),
            "image": "image:1",
            "_ansible_remote_tmp": str(tmp_path),
            **arguments,
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            finetune_job.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def until_ended(run: Run) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not run(state="started", _ansible_check_mode=True).get("running"):
            return
        time.sleep(0.1)
    raise AssertionError("the training of the fake has not ended")


def calls(engine: Path, command: str) -> list[str]:
    return [line for line in fake_docker.asked(engine) if line.startswith(command)]


def test_from_nothing_to_done_and_again(run: Run, engine: Path, tmp_path: Path) -> None:
    first = run()
    assert (first["changed"], first["action"], first["done"], first["exit_code"]) == (True, "started", True, 0)
    assert first["progress"]["step"] == 3
    assert calls(engine, "rm") == [f"rm --force {NAME}"]
    record = json.loads((tmp_path / "run" / "job.json").read_text())
    assert list(record["steps"]) == ["train"]
    again = run()
    assert (again["changed"], again["action"], again["done"], again["running"]) == (False, "none", True, False)
    assert len(calls(engine, "run")) == 1
    # The link of the model is followed: the container shows one commit.
    assert f"source={tmp_path}/base@1,target=/base,readonly" in calls(engine, "run")[0]


def test_a_step_with_other_inputs_is_done_anew(run: Run) -> None:
    assert [run(step="finish", inputs=inputs)["action"] for inputs in ("a", "a", "b")] == ["started", "none", "started"]


def test_a_running_one_is_found(run: Run, engine: Path) -> None:
    fake_docker.play(engine, steps=200, pause=0.1)
    first = run(state="started", _ansible_diff=True)
    assert first["running"] and first["job"]["container"] == NAME
    assert first["diff"] == {"before": "absent\n", "after": "step train at work\n"}
    second = run(state="started", _ansible_diff=True)
    assert (second["action"], second["changed"], second["running"]) == ("attached", False, True)
    assert second["diff"]["before"] == second["diff"]["after"]
    assert len(calls(engine, "run")) == 1
    assert run(state="collected")["running"]
    # Another run waits its turn, and touches nothing.
    other = run(state="started", run_id="ffffffffffff")
    assert other["failed"] and other["cause"] == "busy" and NAME in other["msg"]
    stopped = run(state="stopped")
    assert stopped["changed"] and not stopped["running"] and stopped["exit_code"] == 143
    assert not run(state="stopped")["changed"]
    collected = run(state="collected")
    assert collected["failed"] and collected["cause"] == "stopped"
    # And goes on from its checkpoint.
    fake_docker.play(engine)
    again = run()
    assert (again["action"], again["done"]) == ("continued", True)


def test_an_end_in_nobodys_presence_is_found(run: Run, engine: Path) -> None:
    run(state="started")
    until_ended(run)
    later = run(state="started")
    assert (later["action"], later["changed"], later["done"]) == ("none", False, True)
    assert run(step="finish")["done"]
    assert [line.split(" --label ")[2].split()[0] for line in calls(engine, "run")] == [
        "vicuna.finetune.step=train",
        "vicuna.finetune.step=finish",
    ]


FAILURES: list[tuple[dict[str, Any], str, str]] = [
    ({"exit": 3, "message": "Found no loss at step 3. Expected a number. Lower it."}, "diverged", "Found no loss"),
    ({"exit": 137, "oom": True}, "host_memory", "want of host memory at step 3 of 3"),
    ({"exit": 1, "log": ["x", "torch.OutOfMemoryError: CUDA out of memory."]}, "gpu_memory", "finetune_batch_size"),
    ({"run_fails": "docker: unresolvable CDI devices nvidia.com/gpu=7"}, "not_started", "nvidia.com/gpu=7"),
]


@pytest.mark.parametrize(("scenario", "cause", "words"), FAILURES)
def test_a_bad_end_is_told(run: Run, engine: Path, scenario: dict[str, Any], cause: str, words: str) -> None:
    fake_docker.play(engine, **scenario)
    found = run()
    assert found["failed"] and found["cause"] == cause
    assert words in found["msg"]
    if "exit" in scenario:
        assert found["exit_code"] == scenario["exit"]
        assert found["log"] == scenario.get("log", ["ends"])
        # The container stays with its log, until it is started again.
        assert calls(engine, "rm") == []
        fake_docker.play(engine)
        assert run()["action"] == "continued"


def test_an_exit_code_alone_is_no_good_end(run: Run, engine: Path, tmp_path: Path) -> None:
    """An engine that went down with its host may call the container's end a good one."""
    fake_docker.play(engine, forgets=True)
    found = run()
    assert found["failed"] and found["cause"] == "restarted"
    assert "run again, which goes on from the last checkpoint" in found["msg"]
    assert not (tmp_path / "run" / "job.json").exists()
    fake_docker.play(engine)
    again = run()
    assert (again["action"], again["done"]) == ("continued", True)


def test_what_an_earlier_attempt_left_is_no_outcome_of_this_one(run: Run, engine: Path, tmp_path: Path) -> None:
    assert run(step="finish", inputs="a")["done"]
    fake_docker.play(engine, forgets=True)
    assert run(step="finish", inputs="b")["cause"] == "restarted"
    assert not (tmp_path / "run" / "report.json").exists()
    # And the first questions are asked anew, as their report is gone.
    fake_docker.play(engine)
    assert run(step="finish", inputs="a", state="query")["done"] is False
    assert run(step="finish", inputs="a")["done"]


def test_a_stall_is_ended(run: Run, engine: Path) -> None:
    fake_docker.play(engine, steps=300, hang=3)
    found = run(stall_timeout=1, stop_timeout=5)
    assert found["failed"] and found["cause"] == "stalled"
    assert "step 2 of 300" in found["msg"]
    assert calls(engine, "stop") == [f"stop --time 5 {NAME}"]


def test_check_mode_starts_nothing(run: Run, engine: Path, tmp_path: Path) -> None:
    found = run(_ansible_check_mode=True, _ansible_diff=True)
    assert (found["changed"], found["action"], found["running"]) == (True, "started", False)
    assert found["diff"]["after"] == "step train at work\n"
    assert calls(engine, "run") == [] and list((tmp_path / "run").iterdir()) == []
    run()
    assert run(_ansible_check_mode=True)["changed"] is False


def test_a_container_that_is_gone(run: Run) -> None:
    found = run(state="collected")
    assert found["failed"] and found["cause"] == "job_gone"


def test_what_is_needed_to_start(run: Run) -> None:
    found = run(image="")
    assert found["failed"] and found["cause"] == "arguments"
    assert "no image" in found["msg"]


def test_an_engine_that_does_not_answer(run: Run, engine: Path) -> None:
    program = engine / "bin" / "docker"
    program.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    found = run()
    assert found["failed"] and found["cause"] == "docker"
    assert "Cannot connect" in found["msg"]


def test_asking_what_is_left_changes_nothing(run: Run, engine: Path, tmp_path: Path) -> None:
    def ask(**arguments: Any) -> tuple[bool, str, bool]:
        found = run(state="query", **arguments)
        assert not found.get("failed"), found["msg"]
        return found["changed"], found["action"], found["done"]

    assert ask() == (False, "started", False)
    assert list((tmp_path / "run").iterdir()) == [] and calls(engine, "run") == []
    fake_docker.play(engine, steps=200, pause=0.1)
    run(state="started")
    assert ask() == (False, "attached", False)
    # Merging waits for the training, which is no failure of the question.
    assert ask(step="finish") == (False, "waiting", False)
    run(state="stopped")
    assert ask() == (False, "continued", False)
    assert calls(engine, "rm") == []
    fake_docker.play(engine)
    run()
    assert ask() == (False, "none", True)
    assert ask(step="finish", inputs="a") == (False, "started", False)


def test_another_run_at_work_is_named_before_room_is_made_for_this_one(run: Run, engine: Path) -> None:
    fake_docker.play(engine, steps=200, pause=0.1)
    run(state="started", run_id="ffffffffffff")
    found = run(state="query")
    assert found["failed"] and found["cause"] == "busy" and "vicuna-finetune-ffffffffffff" in found["msg"]
