# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _finetune_progress as fp

RUN = "0123456789ab"
NAME = f"vicuna-finetune-{RUN}"
FULL = {
    "schema": 1,
    "phase": "training",
    "step": 120,
    "steps": 3000,
    "epoch": 0.12,
    "loss": 1.23456,
    "learning_rate": 1.9e-5,
    "tokens_per_second": 5120.4,
    "seconds_left": 3723.0,
    "updated": 200.0,
    "started": 100.0,
    "gpu_memory_mib": 30000,
    "message": "",
}


def progress(**changes: Any) -> fp.Progress:
    found = fp.parse_progress(json.dumps({**FULL, **changes}))
    assert found
    return found


# changes, seconds of silence, line
LINES: list[tuple[dict[str, Any], float, str]] = [
    ({}, 0, "h: step 120 of 3000 (4 %), loss 1.235, learning rate 1.9e-05, 5120 tokens/s, 1 h 2 min left"),
    ({"loss": None, "learning_rate": None, "tokens_per_second": None}, 0, "h: step 120 of 3000 (4 %), 1 h 2 min left"),
    ({"step": 0, "loss": None, "tokens_per_second": None, "learning_rate": None}, 0, "h: step 0 of 3000 (0 %)"),
    ({}, 90, "h: step 120 of 3000 (4 %), no news for 1 min 30 s"),
    ({"phase": "loading"}, 0, "h: loading the model"),
    ({"phase": "loading"}, 90, "h: loading the model, no news for 1 min 30 s"),
    ({"phase": "saving", "step": 3000}, 0, "h: saving, step 3000 of 3000 (100 %)"),
    ({"phase": "merging"}, 0, "h: merging the adapter"),
    ({"phase": "evaluating", "steps": 0}, 0, "h: evaluating"),
    ({"phase": "failed"}, 0, "h: failed"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "silent", "said"), LINES)
def test_lines(changes: dict[str, Any], silent: float, said: str) -> None:
    assert fp.line("h", progress(**changes), silent) == said


def test_the_last_lines() -> None:
    assert fp.line("h", None) == "h: starting"
    done = progress(phase="done", step=3000)
    assert fp.done_line("h", "train", done) == "h: trained 3000 steps in 1 min 40 s, loss 1.235, 5120 tokens/s"
    assert fp.done_line("h", "finish", done) == "h: merged and evaluated in 1 min 40 s"
    assert fp.done_line("h", "check", None) == "h: checked the data set"
    assert f"docker stop {NAME}" in fp.left_line("h", NAME)


RUBBISH = ["", "{", "[]", "1", '{"phase": "dreaming"}', '{"step": 1}', '{"phase": 3}']


@pytest.mark.parametrize("text", RUBBISH)
def test_what_is_no_progress(text: str) -> None:
    assert fp.parse_progress(text) is None


def test_odd_values_get_their_default() -> None:
    found = fp.parse_progress(
        '{"phase": "training", "step": "x", "steps": true, "loss": NaN, "message": 3, "epoch": 1}'
    )
    assert found == fp.Progress(phase="training", epoch=1.0)
    assert fp.parse_progress(progress().to_json()) == progress()


# ------------------------------------------------------------------------------------------------ what to do


def box(step: str = "train", **changes: Any) -> fp.Container:
    values = {"name": NAME, "run_id": RUN, "step": step, **changes}
    return fp.Container(**values)


OTHER = box(name="vicuna-finetune-ffffffffffff", run_id="ffffffffffff", running=True)
# containers, steps that are done, action for the step train, cause of a refusal
DECISIONS: list[tuple[list[fp.Container], list[str], str, str]] = [
    ([], [], "start", ""),
    ([], ["check"], "start", ""),
    ([], ["train"], "none", ""),
    ([box(running=True)], [], "attached", ""),
    ([box(running=True), OTHER], [], "attached", ""),
    ([box("finish", running=True)], [], "none", ""),
    ([box("check", running=True)], [], "refuse", "step_running"),
    ([box()], [], "none", ""),
    ([box(exit_code=3)], [], "continue", ""),
    ([box(exit_code=137, oom_killed=True)], [], "continue", ""),
    ([box(created=True)], [], "continue", ""),
    # The host was rebooted: the check before it is known, the training is not.
    ([box(exit_code=255)], ["check"], "continue", ""),
    ([box("check")], [], "start", ""),
    ([box("check", exit_code=2)], [], "start", ""),
    ([OTHER], [], "refuse", "busy"),
    ([OTHER], ["train"], "none", ""),
    ([box(name="vicuna-finetune-ffffffffffff", run_id="ffffffffffff", exit_code=1)], [], "start", ""),
]


@pytest.mark.parametrize(("containers", "done", "action", "cause"), DECISIONS)
def test_what_to_do(containers: list[fp.Container], done: list[str], action: str, cause: str) -> None:
    found = fp.decide(RUN, "train", containers, {step: {} for step in done})
    assert found.action == action
    assert (found.problem.cause if found.problem else "") == cause


def test_an_end_that_nobody_saw_is_written_down() -> None:
    assert fp.decide(RUN, "train", [box()], {}).ended == box()
    assert fp.decide(RUN, "finish", [box()], {}).ended == box()


def test_a_killed_step_is_left_for_itself_to_see() -> None:
    """Asked before it, a step that was done long ago does not put the killed one's container away."""
    killed = box(exit_code=137)
    assert fp.decide(RUN, "check", [killed], {"check": {}}) == fp.Decision("none")
    assert fp.decide(RUN, "train", [killed], {"check": {}}) == fp.Decision("continue", ended=killed)


def test_a_step_with_other_inputs_is_done_anew() -> None:
    done = {"train": {}, "finish": {"inputs": "a"}}
    assert [fp.decide(RUN, "finish", [], done, inputs).action for inputs in ("a", "b")] == ["none", "start"]
    ended = box("finish", inputs="a")
    assert [fp.decide(RUN, "finish", [ended], {}, inputs).action for inputs in ("a", "b")] == ["none", "start"]


def test_of_inspect() -> None:
    found = fp.container_of(
        {
            "Name": f"/{NAME}",
            "Config": {"Labels": {"vicuna.finetune.run": RUN, "vicuna.finetune.step": "train"}},
            "State": {"Status": "exited", "Running": False, "OOMKilled": True, "ExitCode": 137, "Error": ""},
        }
    )
    assert found == box(exit_code=137, oom_killed=True)
    assert fp.container_of({}).name == ""


# ------------------------------------------------------------------------------------------------ the container


def test_the_container_is_shut_in() -> None:
    spec = fp.Spec(RUN, "train", "image:1", "/runs/1", "/model/v@1", ("nvidia.com/gpu=0",), memory="64g")
    found = fp.run_arguments(spec)
    text = " ".join(found)
    for part in (
        f"--name {NAME}",
        "--read-only",
        "--cap-drop ALL",
        "--security-opt no-new-privileges:true",
        "--network none",
        "--user 10001:10001",
        "--restart no",
        "--device nvidia.com/gpu=0",
        "--memory 64g --memory-swap 64g",
        "source=/runs/1,target=/run-dir",
        "source=/model/v@1,target=/base,readonly",
        "--entrypoint python3 image:1 -m vicuna_finetune train --run-dir /run-dir --base /base",
    ):
        assert part in text
    assert "--gpus" not in found and "--privileged" not in found


def test_several_gpus_speak_over_loopback() -> None:
    several = fp.Spec(RUN, "train", "i", "/r", "/b", ("nvidia.com/gpu=0", "nvidia.com/gpu=1"))
    text = " ".join(fp.run_arguments(several))
    assert "--device nvidia.com/gpu=0 --device nvidia.com/gpu=1" in text
    assert "NCCL_SOCKET_IFNAME=lo" in text
    assert "--device" not in fp.run_arguments(fp.Spec(RUN, "train", "i", "/r", "/b"))


# ------------------------------------------------------------------------------------------------ why it ended

SAID = "Found no loss at step 7. Expected a number. Lower finetune_learning_rate."
OOM = ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."]
# the container, what the program said, the log; cause and words
ENDS: list[tuple[dict[str, Any], str, list[str], str, str]] = [
    ({"exit_code": 3}, SAID, [], "diverged", "at step 7"),
    ({"exit_code": 3}, "", [], "diverged", "finetune_learning_rate"),
    ({"exit_code": 4}, "Found no config.json.", [], "bad_input", "Found no config.json."),
    ({"exit_code": 4}, "", ["a", "KeyError: 'x'", ""], "bad_input", "KeyError: 'x'"),
    ({"exit_code": 2}, "Found 3 dialogues that would be cut.", [], "data", "would be cut"),
    ({"exit_code": 2}, "", ["a table", "Found: 1 dialogue longer.", "Found: 2."], "data", "longer. Found: 2."),
    ({"exit_code": 143}, "", [], "stopped", "run again, which goes on from there"),
    ({"exit_code": 143}, "stopped at step 5 of 9; run it again", [], "stopped", "at step 5 of 9"),
    ({"exit_code": 137, "oom_killed": True}, "", [], "host_memory", "finetune_memory"),
    ({"exit_code": 137}, "", [], "killed", "kernel log"),
    ({"exit_code": 255}, "", ["step 7"], "restarted", "run again, which goes on from the last checkpoint"),
    ({"exit_code": 1}, "", OOM, "gpu_memory", "finetune_batch_size"),
    ({"exit_code": 1}, "the GPU's memory is full (2 GiB); lower finetune_max_length", OOM, "gpu_memory", "is full (2"),
    ({"exit_code": 135}, "", ["Bus error (core dumped)"], "shared_memory", "finetune_shm_size"),
    ({"exit_code": 1}, "", ["OSError: [Errno 28] No space left on device"], "disk", "finetune_dir"),
    ({"exit_code": 1}, "", ["RuntimeError: CUDA error: unspecified launch failure"], "gpu", "Xid"),
    ({"exit_code": 1}, "", ["torch.distributed.DistBackendError: NCCL error in: x"], "gpu_link", "finetune_gpus: 1"),
    ({"exit_code": 1}, "", ["PermissionError: [Errno 13] Permission denied: '/base/x'"], "permission", "10001"),
    ({"exit_code": 1}, "", ["Traceback", "ValueError: odd", "-----"], "failed", "ValueError: odd"),
    ({"exit_code": 1}, "", [], "failed", "no word in its log"),
    ({"exit_code": 1}, "Found odd. Expected even. Mend it.", [], "failed", "Found odd."),
    ({"exit_code": 127, "error": "exec: no python3"}, "", [], "not_started", "no python3"),
    ({"created": True, "error": "could not select device"}, "", [], "not_started", "nvidia-ctk cdi list"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "said", "log", "cause", "words"), ENDS)
def test_why_it_ended(how: dict[str, Any], said: str, log: list[str], cause: str, words: str) -> None:
    latest = progress(phase="failed", message=said) if said else progress()
    problem = fp.explain("train", box(**how), latest, log)
    assert problem.cause == cause
    assert words in fp.told(problem)
    assert "  " not in fp.told(problem)
    assert said or fp.told(problem).startswith("Found")


def test_a_stall_names_where() -> None:
    text = fp.told(fp.stalled(NAME, 1800, progress()))
    assert "30 min" in text and "step 120 of 3000" in text and "finetune_stall_timeout" in text
    assert "has been stopped" in text
    text = fp.told(fp.stalled(NAME, 1800, progress(), ended=False))
    assert "cannot be stopped, and holds its GPUs" in text and "has been" not in text
