# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A training's container and its progress: what to run, what to do next, and why it ended. Pure.

Private to the collection; the module uses it on the host, the action plugin on the control node.
"""

from __future__ import annotations

import json
import math
import re
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from ansible_collections.vicuna.fleet.plugins.module_utils._fetch_progress import duration, percent
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import Problem

# In the order in which a run goes through them.
STEPS = ("check", "train", "finish")
# What each leaves in the run's directory at its very end.
OUTCOMES = {"check": "check.json", "train": "trained.json", "finish": "report.json"}
PREFIX = "vicuna-finetune-"
LABEL_RUN, LABEL_STEP, LABEL_INPUTS = "vicuna.finetune.run", "vicuna.finetune.step", "vicuna.finetune.inputs"
PHASES = ("loading", "training", "saving", "merging", "evaluating", "done", "failed")
# The user of the image; nothing on the host has it.
USER = "10001:10001"
# The one place in the container that can be written to besides the run's directory.
HOME = "/tmp"  # noqa: S108 - a file system of the container's own
TMPFS = f"{HOME}:mode=1777"
# Exit codes of the program in the image.
DROPS, DIVERGED, BAD_INPUT = 2, 3, 4
SIGNALS = (130, 143)
# What the engine notes of a container that was running when it, or the host, went down.
LOST = 255
# Lines of the log that a failure shows.
LOG_LINES = 20
# Without news for longer than this, numbers are not told as if they were new.
SILENT_S = 60.0


# --- the progress file -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """The progress file of a training. Times in seconds since the epoch, rates in a second."""

    phase: str = "loading"
    step: int = 0
    steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    updated: float = 0.0
    started: float = 0.0
    gpu_memory_mib: int | None = None
    message: str = ""

    @property
    def seconds(self) -> float:
        return max(0.0, self.updated - self.started)

    def to_json(self) -> str:
        return json.dumps({"schema": 1, **asdict(self)})


def parse_progress(text: str) -> Progress | None:
    """The file's content; None for anything else. What is missing or of another type gets its default."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    if not isinstance(data, dict) or data.get("phase") not in PHASES:
        return None
    values: dict[str, t.Any] = {}
    for field in fields(Progress):
        value = data.get(field.name)
        if isinstance(field.default, str):
            values[field.name] = value if isinstance(value, str) else field.default
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            values[field.name] = int(value) if field.name in ("step", "steps", "gpu_memory_mib") else float(value)
    return Progress(**values)


WORDS = {
    "loading": "loading the model",
    "saving": "saving",
    "merging": "merging the adapter",
    "evaluating": "evaluating",
}


def line(host: str, progress: Progress | None, silent_s: float = 0.0) -> str:
    """gpu-1: step 120 of 3000 (4 %), loss 1.234, learning rate 1.9e-05, 5120 tokens/s, 1 h 2 min left."""
    if progress is None:
        return f"{host}: starting"
    if progress.phase in ("done", "failed"):
        return f"{host}: {progress.phase}"
    counted = f"step {progress.step} of {progress.steps} ({percent(progress.step, progress.steps)} %)"
    said = [WORDS[progress.phase]] if progress.phase in WORDS else []
    if progress.steps and progress.phase in ("training", "saving", "evaluating"):
        said.append(counted)
    if silent_s > SILENT_S:
        return f"{host}: {', '.join(said) or progress.phase}, no news for {duration(silent_s)}"
    if progress.phase == "training":
        said += _figures(progress)
        if progress.seconds_left is not None and progress.step:
            said.append(f"{duration(progress.seconds_left)} left")
    return f"{host}: {', '.join(said) or progress.phase}"


def _figures(progress: Progress) -> list[str]:
    said = []
    if progress.loss is not None:
        said.append(f"loss {progress.loss:.4g}")
    if progress.learning_rate is not None:
        said.append(f"learning rate {progress.learning_rate:.2g}")
    if progress.tokens_per_second:
        said.append(f"{progress.tokens_per_second:.0f} tokens/s")
    return said


DID = {"check": "checked the data set", "train": "trained", "finish": "merged and evaluated"}


def done_line(host: str, step: str, progress: Progress | None) -> str:
    """gpu-1: trained 3000 steps in 2 h 3 min, loss 0.61, 5120 tokens/s."""
    said = f"{host}: {DID[step]}"
    if progress is None:
        return said
    if step == "train" and progress.steps:
        said += f" {progress.step} steps"
    if progress.seconds:
        said += f" in {duration(progress.seconds)}"
    figures = [one for one in _figures(progress) if not one.startswith("learning")] if step == "train" else []
    return ", ".join([said, *figures])


def left_line(host: str, name: str) -> str:
    """What a run that was interrupted leaves behind, and how to end it."""
    return (
        f"The training goes on without this run on {host}; run again to watch it. "
        f"To end it with a checkpoint: 'docker stop {name}' there."
    )


def away_line(host: str, seconds: float) -> str:
    """gpu-1: no connection for 1 min 30 s; the training goes on without it."""
    return f"{host}: no connection for {duration(seconds)}; the training goes on without it, unless the host restarts"


def stopping_line(host: str, silent_s: float, wait_s: float) -> str:
    """gpu-1: no progress for 30 min; stopping it, which takes up to 5 min."""
    return f"{host}: no progress for {duration(silent_s)}; stopping it, which takes up to {duration(wait_s)}"


# --- the container -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """What a step of a run is started with."""

    run_id: str
    step: str
    image: str
    run_dir: str
    base: str
    gpus: tuple[str, ...] = ()
    shm_size: str = "1g"
    memory: str = ""
    stop_timeout: int = 300
    inputs: str = ""

    @property
    def name(self) -> str:
        return PREFIX + self.run_id


def program(spec: Spec) -> list[str]:
    """The arguments of python3. With several GPUs the program starts a process for each by itself."""
    return ["-m", "vicuna_finetune", spec.step, "--run-dir", "/run-dir", "--base", "/base"]


def run_arguments(spec: Spec) -> list[str]:
    """What `docker` is run with. Shut in as the serving containers are, and without any network."""
    environment = {"HOME": HOME, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if spec.gpus:
        # Batches of different lengths leave gaps in fixed segments.
        environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    if len(spec.gpus) > 1:
        # There is no other interface, and NCCL leaves loopback out unless it is told.
        environment.update(NCCL_SOCKET_IFNAME="lo", GLOO_SOCKET_IFNAME="lo")
    return [
        *("run", "--detach", "--init", "--restart", "no", "--name", spec.name),
        *("--label", f"{LABEL_RUN}={spec.run_id}", "--label", f"{LABEL_STEP}={spec.step}"),
        *("--label", f"{LABEL_INPUTS}={spec.inputs}"),
        *("--user", USER, "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"),
        *("--network", "none", "--tmpfs", TMPFS, "--shm-size", spec.shm_size),
        # Pinned memory, and NCCL's sockets. An engine inside a container, where there is no GPU, may raise no limit.
        *(("--ulimit", "nofile=65536:65536", "--ulimit", "memlock=-1:-1") if spec.gpus else ()),
        *(("--memory", spec.memory, "--memory-swap", spec.memory) if spec.memory else ()),
        *("--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=3"),
        *("--stop-timeout", str(spec.stop_timeout)),
        *(part for name, value in environment.items() for part in ("--env", f"{name}={value}")),
        *("--mount", f"type=bind,source={spec.run_dir},target=/run-dir"),
        *("--mount", f"type=bind,source={spec.base},target=/base,readonly"),
        *(part for gpu in spec.gpus for part in ("--device", gpu)),
        *("--entrypoint", "python3", spec.image, *program(spec)),
    ]


@dataclass(frozen=True)
class Container:
    """A training's container, as the engine has it."""

    name: str
    run_id: str
    step: str
    running: bool = False
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    created: bool = False  # and never started
    inputs: str = ""


def container_of(inspected: Mapping[str, t.Any]) -> Container:
    """Of `docker inspect`."""
    labels = (inspected.get("Config") or {}).get("Labels") or {}
    run_id, step = str(labels.get(LABEL_RUN, "")), str(labels.get(LABEL_STEP, ""))
    found = state_of(inspected.get("State") or {}, str(inspected.get("Name", "")).lstrip("/"), run_id, step)
    return replace(found, inputs=str(labels.get(LABEL_INPUTS, "")))


def state_of(state: Mapping[str, t.Any], name: str = "", run_id: str = "", step: str = "") -> Container:
    """Of the part State of it."""
    status = str(state.get("Status", ""))
    return Container(
        name=name,
        run_id=run_id,
        step=step,
        running=bool(state.get("Running")) or status in ("running", "paused", "restarting"),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        created=status == "created",
    )


def checked(container: Container, outcome: bool) -> Container:
    """A container that ended well, and left nothing, did not: an engine that was down may not know how one ended."""
    ended = not container.running and not container.created and container.exit_code == 0
    return replace(container, exit_code=LOST) if ended and not outcome else container


@dataclass(frozen=True)
class Decision:
    """What to do for a step of a run."""

    action: str  # none: it is done; attached: it runs; start, continue; refuse
    problem: Problem | None = None
    ended: Container | None = None  # a container that is to be written down, if it ended well, and removed


def decide(
    run_id: str, step: str, containers: Sequence[Container], done: Mapping[str, t.Any], inputs: str = ""
) -> Decision:
    """What to do, from the training containers of the host, and the steps that are known to have ended well.

    A step that ended well with other inputs is done anew.
    """
    order = STEPS.index(step)
    mine = next((one for one in containers if one.name == PREFIX + run_id), None)
    if mine and mine.running:
        if mine.step == step:
            return Decision("attached")
        if mine.step in STEPS and STEPS.index(mine.step) > order:
            return Decision("none")
        return Decision("refuse", still_running(mine, step))
    well = mine is not None and mine.exit_code == 0 and not mine.created
    known = step in done and str((done[step] or {}).get("inputs") or "") == inputs
    if known or (mine and well and mine.step == step and mine.inputs == inputs):
        # Another step's end is for that step to see.
        return Decision("none", ended=mine if mine and mine.step == step else None)
    other = next((one for one in containers if one.running and one.run_id != run_id), None)
    if other:
        return Decision("refuse", busy(other), mine)
    return Decision("continue" if mine and not well and mine.step == step else "start", ended=mine)


# --- why it ended ------------------------------------------------------------------------------------------------


def still_running(container: Container, step: str) -> Problem:
    return Problem(
        "step_running",
        f"the step {container.step} of this run still at work ({container.name}).",
        f"its end before the step {step}.",
        f"run the step {container.step} again, which waits for it, or end it: docker stop {container.name}.",
    )


def busy(container: Container) -> Problem:
    return Problem(
        "busy",
        f"another training at work on this host ({container.name}).",
        "one training at a time.",
        f"wait for its end, or end it with a checkpoint: docker stop {container.name}.",
    )


def stalled(name: str, seconds: float, progress: Progress | None, ended: bool = True) -> Problem:
    where = f" (last: {progress.phase}, step {progress.step} of {progress.steps})" if progress else ""
    end = "has been stopped" if ended else "cannot be stopped, and holds its GPUs"
    return Problem(
        "stalled",
        f"no progress for {duration(seconds)}{where}; the container {name} {end}.",
        "news at least at every step.",
        "look at its log and at nvidia-smi (a GPU that hangs shows in dmesg as Xid), and run again, which goes on from "
        "the last checkpoint; where a single step takes so long, raise finetune_stall_timeout.",
    )


def gone(name: str) -> Problem:
    return Problem(
        "job_gone",
        f"no container {name} any more, and no word of its end.",
        "a container that stays until its end is written down.",
        "run again, which goes on from the last checkpoint; something else removes containers on this host.",
    )


# Text of the log, what it means, and what mends it; the first that matches.
CAUSES: tuple[tuple[str, str, str, str], ...] = (
    (
        r"OutOfMemoryError|CUDA out of memory|GPU's memory is full",
        "gpu_memory",
        "a GPU without enough memory for a step",
        "lower finetune_batch_size (and raise finetune_gradient_accumulation), or finetune_max_length, or take "
        "finetune_method: qlora.",
    ),
    (
        r"insufficient shared memory|unable to (?:open|write to|mmap) .*shm|Bus error",
        "shared_memory",
        "too little shared memory",
        "raise finetune_shm_size.",
    ),
    (r"No space left on device", "disk", "a full disk", "free space in finetune_dir, and run again."),
    (
        r"CUDA error|CUDNN_STATUS|uncorrectable ECC|device-side assert",
        "gpu",
        "a GPU that failed",
        "look at nvidia-smi and for Xid in dmesg, and run again, which goes on from the last checkpoint.",
    ),
    (
        r"NCCL (?:error|WARN)|ncclSystemError|ncclUnhandledCudaError|ProcessGroupNCCL",
        "gpu_link",
        "GPUs that cannot reach each other",
        "look at nvidia-smi topo -m and at Fabric Manager on machines with NVSwitch, or set finetune_gpus: 1.",
    ),
    (
        r"Permission denied",
        "permission",
        "a file that the container's user (uid 10001) may not use",
        "look at the owners and modes in finetune_dir and of the base model's folder.",
    ),
)


def explain(step: str, container: Container, progress: Progress | None, log: Sequence[str]) -> Problem:
    """Why a container has not ended well."""
    code = container.exit_code
    said = progress.message.strip() if progress and progress.phase == "failed" else ""
    where = f" at step {progress.step} of {progress.steps}" if progress and progress.steps else ""
    if container.created or container.error:
        return Problem(
            "not_started",
            f"a container that could not be started: {container.error or 'the engine does not say why'}.",
            "one that starts.",
            "look at the GPUs' CDI names (nvidia-ctk cdi list) and at the image, and run again.",
        )
    if container.oom_killed:
        return Problem(
            "host_memory",
            f"the container killed for want of host memory{where}.",
            "enough memory for loading, saving and merging.",
            "free memory on the host, raise finetune_memory if it is set, or take finetune_method: lora.",
        )
    if code == DIVERGED:
        return Problem(
            "diverged",
            said or f"a loss or gradient that is no number{where}.",
            "" if said else "a loss that falls.",
            "" if said else "lower finetune_learning_rate, and look at the dialogues around that step.",
        )
    if code in (DROPS, BAD_INPUT):
        cause = "data" if code == DROPS else "bad_input"
        said = said or " ".join(text.strip() for text in log if text.startswith("Found"))
        if said:
            return Problem(cause, said, "", "")
        return Problem(
            cause,
            f"input that cannot be used: {_last(log, 'no word in its log')}",
            "data, settings and a base model that the program takes.",
            f"read its log: docker logs {container.name or 'of the container'}.",
        )
    if code in SIGNALS:
        return Problem(
            "stopped",
            said or f"the training ended by a signal{where}, with a checkpoint.",
            "" if said else "an end of its own.",
            "" if said else "run again, which goes on from there.",
        )
    if code == LOST:
        return Problem(
            "restarted",
            f"the training ended with its host or its engine{where}, which started anew or lost its power.",
            "both to stay up until the end.",
            "run again, which goes on from the last checkpoint.",
        )
    if code == 137:
        return Problem(
            "killed",
            f"the container killed{where}.",
            "an end of its own.",
            "look for lack of memory in the host's kernel log, and run again, which goes on from the last checkpoint.",
        )
    text = "\n".join([said, *log])
    for pattern, cause, found, remedy in CAUSES:
        if re.search(pattern, text):
            if said:
                return Problem(cause, said, "", "")
            return Problem(cause, f"{found}{where}.", "room and devices that hold for the whole run.", remedy)
    if said:
        return Problem("failed", said, "", "")
    return Problem(
        "failed",
        f"the step {step} ended with exit code {container.exit_code}{where}: {_last(log, 'no word in its log')}",
        "exit code 0.",
        f"read its log: docker logs {container.name or 'of the container'}.",
    )


def _last(log: Sequence[str], otherwise: str) -> str:
    """The last line that says something, such as an exception's."""
    texts = [text.strip() for text in log if text.strip() and not re.match(r"[=\-*~^\s]+$", text.strip())]
    return texts[-1][:300] if texts else otherwise


def told(problem: Problem) -> str:
    """A problem in words; what the program in the image says has all three parts in one line."""
    return str(problem) if problem.expected else problem.found
