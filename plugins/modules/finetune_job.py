#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: finetune_job
short_description: Run one step of a fine-tuning in a container that outlives the run
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Starts a container for one step of a run, or finds the one that is at work, and waits for its end.
  - The container does not need the connection. A run of Ansible that is lost or interrupted leaves it at work, and the
    next one finds it by O(run_id), however it stands by then.
  - A step that has ended well is not done again. One that has ended badly is started again, and the program in the
    image goes on from its last checkpoint.
  - The container has a read-only root file system, no network and no capabilities, and runs as the user 10001, who owns
    O(run_dir).
requirements:
  - Docker 25 or later with CDI switched on, for O(gpus)
options:
  run_id:
    description: Name of the run. The same run has the same.
    type: str
    required: true
  step:
    description: What to do of it. V(check) measures the dialogues, V(train) trains, V(finish) merges and evaluates.
    type: str
    choices: [check, train, finish]
    default: train
  state:
    description:
      - V(finished) starts the step where need be, and waits for its end.
      - V(started) does not wait.
      - V(collected) tells how the container stands, and writes down an end; it starts nothing.
      - V(stopped) ends it, which lets it save a checkpoint.
      - V(query) tells what is left to do of the step, and changes nothing. It fails where another run is at work.
    type: str
    choices: [finished, started, collected, stopped, query]
    default: finished
  run_dir:
    description: Directory of the run on the host, mounted as C(/run-dir).
    type: path
    required: true
  base:
    description: Directory of the model that is trained, mounted read-only as C(/base). Needed to start.
    type: path
    default: ""
  image:
    description: The image. Needed to start; it is not pulled by itself.
    type: str
    default: ""
  gpus:
    description: CDI names of the GPUs. Several train in one process each. An empty list is the CPU.
    type: list
    elements: str
    default: []
  shm_size:
    description: Shared memory of the container; several GPUs need more.
    type: str
    default: 1g
  memory:
    description: The most host memory that the container may take, such as V(64g). Empty for no limit.
    type: str
    default: ""
  inputs:
    description: Names what the step depends on besides the run, such as a hash. With another one it is done anew.
    type: str
    default: ""
  stop_timeout:
    description: Seconds that the container has to save a checkpoint when it is stopped.
    type: int
    default: 300
  stall_timeout:
    description: Seconds without any progress after which the container is stopped, and the task fails.
    type: int
    default: 1800
attributes:
  action:
    support: full
    description: An action plugin of the same name tells the progress, at least every 10 seconds.
  check_mode:
    support: full
    description: Tells whether a container would be started or stopped, and does not wait.
  diff_mode:
    support: full
    description: Shows the step's state before and after.
  idempotent:
    support: full
    description: A step that has ended well is not done again, and one at work is not started a second time.
seealso:
  - module: vicuna.fleet.git_lfs
"""

EXAMPLES = r"""
- name: Train, or find the training, or go on with it
  vicuna.fleet.finetune_job:
    run_id: 0123456789ab
    step: train
    run_dir: /var/lib/vicuna/finetune/0123456789ab
    base: /model/vicuna-7b-v1.5
    image: vicuna-fleet/finetune:1-cuda-0123456789ab
    gpus: [nvidia.com/gpu=0]

- name: End it with a checkpoint
  vicuna.fleet.finetune_job:
    run_id: 0123456789ab
    run_dir: /var/lib/vicuna/finetune/0123456789ab
    state: stopped

- name: Ask whether anything is left to do
  vicuna.fleet.finetune_job:
    run_id: 0123456789ab
    run_dir: /var/lib/vicuna/finetune/0123456789ab
    state: query
"""

RETURN = r"""
msg:
  description: What was done, or why it failed, in words.
  returned: always
  type: str
  sample: step train done
action:
  description:
    - V(none), where the step had ended well before; V(attached), where it was at work; V(started); V(continued), where
      it had ended badly; V(collected); V(stopped).
    - With O(state=query) what V(started) would do, or V(waiting), where an earlier step of the run is at work.
  returned: success
  type: str
  sample: started
done:
  description: Whether the step has ended well.
  returned: success
  type: bool
running:
  description: Whether the container is at work.
  returned: success
  type: bool
job:
  description: The container (C(container)) and the file of its progress (C(progress)).
  returned: where it is at work
  type: dict
  sample: {container: vicuna-finetune-0123456789ab, progress: /var/lib/vicuna/finetune/0123456789ab/progress.json}
progress:
  description: The last that the program said of its progress; empty where it said nothing.
  returned: always
  type: dict
exit_code:
  description: How the container ended. V(null) where it has not, or is gone.
  returned: always
  type: int
oom_killed:
  description: Whether the kernel ended it for want of host memory.
  returned: always
  type: bool
log:
  description: The last lines of the container's log.
  returned: on failure
  type: list
  elements: str
cause:
  description: The kind of failure in one word.
  returned: on failure
  type: str
  sample: diverged
"""

import json
import os
import tempfile
import time
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._bounded import Done, bounded
from ansible_collections.vicuna.fleet.plugins.module_utils._finetune_progress import (
    LABEL_RUN,
    LOG_LINES,
    OUTCOMES,
    PREFIX,
    STEPS,
    Container,
    Decision,
    Progress,
    Spec,
    checked,
    container_of,
    decide,
    explain,
    gone,
    parse_progress,
    run_arguments,
    stalled,
    told,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import Problem

# Seconds that a question to the engine may take; starting a container may pull its layers from a slow disk.
ASK_S, START_S = 60, 300
POLL_S = 2.0
STATES = ("finished", "started", "collected", "stopped", "query")
ACTIONS = {"start": "started", "continue": "continued", "attached": "attached", "none": "none", "refuse": "waiting"}
ARGUMENT_SPEC: dict[str, dict[str, t.Any]] = {
    "run_id": {"type": "str", "required": True},
    "step": {"type": "str", "choices": list(STEPS), "default": "train"},
    "state": {"type": "str", "choices": list(STATES), "default": "finished"},
    "run_dir": {"type": "path", "required": True},
    "base": {"type": "path", "default": ""},
    "image": {"type": "str", "default": ""},
    "gpus": {"type": "list", "elements": "str", "default": []},
    "shm_size": {"type": "str", "default": "1g"},
    "memory": {"type": "str", "default": ""},
    "inputs": {"type": "str", "default": ""},
    "stop_timeout": {"type": "int", "default": 300},
    "stall_timeout": {"type": "int", "default": 1800},
}


class Failed(Exception):
    """A problem, and what the container said."""

    def __init__(self, problem: Problem, **more: t.Any) -> None:
        super().__init__(told(problem))
        self.problem, self.more = problem, more


class Docker:
    """The engine's command line; every call is bounded."""

    def __init__(self, program: str) -> None:
        self.program = program

    def call(self, arguments: list[str], seconds: float = ASK_S) -> Done:
        return bounded([self.program, *arguments], seconds)

    def ask(self, arguments: list[str], seconds: float = ASK_S) -> str:
        done = self.call(arguments, seconds)
        if done.rc != 0:
            raise Failed(
                Problem(
                    "docker",
                    f"`docker {' '.join(arguments[:2])}` failed: {done.said[-500:]}",
                    "an engine that answers.",
                    "look at `systemctl status docker` on the host.",
                )
            )
        return done.out

    def containers(self) -> list[Container]:
        """Every training's container, running or not."""
        ids = self.ask(["ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={LABEL_RUN}"]).split()
        if not ids:
            return []
        # One may have gone meanwhile: of the others the answer is there all the same.
        done = self.call(["inspect", "--type", "container", *ids])
        try:
            return [container_of(one) for one in json.loads(done.out or "[]")]
        except ValueError:
            return []

    def log(self, name: str) -> list[str]:
        done = self.call(["logs", "--tail", str(5 * LOG_LINES), name])
        return (done.out + done.err).splitlines()


class Record:
    """What is known of a run's steps that have ended well: a file in its directory."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "job.json"

    def read(self) -> dict[str, t.Any]:
        try:
            steps = json.loads(self.path.read_text(encoding="utf-8"))["steps"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return dict(steps) if isinstance(steps, dict) else {}

    def add(self, container: Container, progress: Progress | None) -> None:
        seconds = progress.seconds if progress else None
        entry = {"ended": time.time(), "seconds": seconds, "inputs": container.inputs}
        steps = {**self.read(), container.step: entry}
        replace(self.path, json.dumps({"schema": 1, "steps": steps}) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file in one step; the run's directory is the container user's, so a link there is not followed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
    Path(name).replace(path)


class Job:
    """One step of a run on this host."""

    def __init__(self, params: dict[str, t.Any], docker: Docker, check_mode: bool) -> None:
        self.params, self.docker, self.check_mode = params, docker, check_mode
        self.run_dir = Path(params["run_dir"])
        self.step: str = params["step"]
        self.name: str = PREFIX + params["run_id"]
        self.record = Record(self.run_dir)
        self.before, self.after = "absent", "absent"

    # ------------------------------------------------------------------------------------------ looking

    def progress(self) -> Progress | None:
        try:
            return parse_progress((self.run_dir / "progress.json").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return None

    def containers(self) -> list[Container]:
        """Every training's container, and of this run's how it ended in truth."""
        return [
            checked(one, self.outcome(one.step).is_file()) if one.name == self.name and one.step in OUTCOMES else one
            for one in self.docker.containers()
        ]

    def container(self) -> Container | None:
        return next((one for one in self.containers() if one.name == self.name), None)

    def done(self) -> dict[str, t.Any]:
        """The steps that have ended well, and whose outcome is still there."""
        return {step: one for step, one in self.record.read().items() if step in STEPS and self.outcome(step).is_file()}

    def outcome(self, step: str) -> Path:
        return self.run_dir / OUTCOMES[step]

    def answer(self, action: str, changed: bool, container: Container | None = None, **more: t.Any) -> dict[str, t.Any]:
        progress = self.progress()
        running = bool(container and container.running)
        return {
            "changed": changed,
            "action": action,
            "done": False,
            "running": running,
            "progress": vars(progress) if progress else {},
            "exit_code": container.exit_code if container and not running else None,
            "oom_killed": bool(container and container.oom_killed),
            **({"job": {"container": self.name, "progress": str(self.run_dir / "progress.json")}} if running else {}),
            **more,
        }

    # ------------------------------------------------------------------------------------------ starting

    def decide(self) -> tuple[Decision, Container | None]:
        """What starting the step comes to, and the run's container."""
        containers = self.containers()
        done = self.done()
        mine = next((one for one in containers if one.name == self.name), None)
        self.before = self.after = words(mine, self.step, done)
        return decide(self.params["run_id"], self.step, containers, done, self.params["inputs"]), mine

    def query(self) -> dict[str, t.Any]:
        """What is left to do of the step."""
        decision, mine = self.decide()
        if decision.problem and decision.problem.cause != "step_running":
            raise Failed(decision.problem)
        done = decision.action == "none"
        left = "is done" if done else "is left to do"
        return self.answer(ACTIONS[decision.action], False, mine, done=done, msg=f"step {self.step} {left}")

    def start(self) -> dict[str, t.Any]:
        """Start the step, or find it at work, or done."""
        decision, mine = self.decide()
        if decision.problem:
            raise Failed(decision.problem)
        if decision.action == "attached":
            return self.answer("attached", False, mine, msg=f"step {self.step} is at work")
        if not self.check_mode and decision.ended:
            self.put_away(decision.ended)
        if decision.action == "none":
            return self.answer("none", False, done=True, exit_code=0, msg=f"step {self.step} was done before")
        action = ACTIONS[decision.action]
        self.after = f"step {self.step} at work"
        if self.check_mode:
            return self.answer(action, True, msg=f"step {self.step} would be {action}")
        self.launch()
        return self.answer(action, True, self.container(), msg=f"step {self.step} {action}")

    def put_away(self, container: Container) -> None:
        """Write down an end that nobody has seen, and make room for the next container of that name."""
        if container.exit_code == 0 and not container.created and container.step in STEPS:
            self.record.add(container, self.progress())
        self.docker.call(["rm", "--force", container.name])

    def launch(self) -> None:
        params = self.params
        missing = [name for name in ("base", "image") if not params[name]]
        if missing:
            raise Failed(
                Problem("arguments", f"no {' and no '.join(missing)}.", "both, to start.", "set what is missing.")
            )
        spec = Spec(
            run_id=params["run_id"],
            step=self.step,
            image=params["image"],
            run_dir=str(self.run_dir),
            # A link would show another commit to the container than to whoever looked at it before.
            base=str(Path(params["base"]).resolve()),
            gpus=tuple(params["gpus"]),
            shm_size=params["shm_size"],
            memory=params["memory"],
            stop_timeout=params["stop_timeout"],
            inputs=params["inputs"],
        )
        # What an earlier attempt said and left is not taken for this one's. What was trained stays trained.
        if self.step != "train":
            self.outcome(self.step).unlink(missing_ok=True)
        now = time.time()
        replace(self.run_dir / "progress.json", Progress(updated=now, started=now).to_json() + "\n")
        done = self.docker.call(run_arguments(spec), START_S)
        if done.rc != 0:
            raise Failed(
                Problem(
                    "not_started",
                    f"a container that could not be started: {done.said[-500:]}",
                    "one that starts.",
                    "look at the message: an unknown device is a GPU that `nvidia-ctk cdi list` does not list, an "
                    "unknown image one that the role image has not put there.",
                )
            )

    # ------------------------------------------------------------------------------------------ ending

    def collect(self) -> dict[str, t.Any]:
        """How it stands, and an end written down."""
        container = self.container()
        done = self.done()
        self.before = self.after = words(container, self.step, done)
        if container and container.running:
            return self.answer("collected", False, container, msg=f"step {container.step} is at work")
        if container and container.step == self.step:
            if container.exit_code or container.created:
                raise self.failure(container)
            self.after = f"step {self.step} done"
            if not self.check_mode:
                self.put_away(container)
            return self.answer("collected", True, container, done=True, msg=f"step {self.step} done")
        if self.step in done:
            return self.answer("collected", False, done=True, exit_code=0, msg=f"step {self.step} was done before")
        raise Failed(gone(self.name), **self.answer("collected", False))

    def failure(self, container: Container) -> Failed:
        log = self.docker.log(container.name)
        more = self.answer("collected", True, container, log=log[-LOG_LINES:])
        return Failed(explain(container.step, container, self.progress(), log), **more)

    def stop(self) -> dict[str, t.Any]:
        container = self.container()
        self.before = self.after = words(container, self.step, self.done())
        if not container or not container.running:
            return self.answer("stopped", False, container, msg="nothing is at work")
        self.after = "stopped"
        if self.check_mode:
            return self.answer("stopped", True, container, msg=f"{self.name} would be stopped")
        seconds = self.params["stop_timeout"]
        done = self.docker.call(["stop", "--time", str(seconds), self.name], seconds + ASK_S)
        if done.rc != 0:
            raise Failed(
                Problem(
                    "not_stopped",
                    f"{self.name} cannot be stopped: {done.said[-500:]}",
                    "an end within finetune's stop timeout.",
                    "a process that hangs in the driver ends only with the machine: look at dmesg for Xid.",
                )
            )
        return self.answer("stopped", True, self.container(), msg=f"{self.name} is stopped")

    def wait(self) -> dict[str, t.Any]:
        """Without the action plugin: wait here, and say nothing meanwhile."""
        first = self.start()
        if not first["running"] and not first["changed"]:
            return first
        seen, fresh = 0.0, time.monotonic()
        while True:
            container, progress = self.container(), self.progress()
            if not container or not container.running:
                return {**self.collect(), "action": first["action"], "changed": True}
            if progress and progress.updated != seen:
                seen, fresh = progress.updated, time.monotonic()
            silent = time.monotonic() - fresh
            if silent > self.params["stall_timeout"]:
                self.stop()
                log = self.docker.log(self.name)
                raise Failed(stalled(self.name, silent, progress), **self.answer("stopped", True, log=log[-LOG_LINES:]))
            time.sleep(POLL_S)


def words(container: Container | None, step: str, done: t.Mapping[str, t.Any]) -> str:
    """A step's state, for the diff."""
    if container and container.running:
        return f"step {container.step} at work"
    if step in done:
        return f"step {step} done"
    if container:
        return f"step {container.step} ended with exit code {container.exit_code}"
    return "absent"


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    state = module.params["state"]
    job = Job(module.params, Docker(module.get_bin_path("docker", required=True)), module.check_mode)
    try:
        if state == "collected":
            result = job.collect()
        elif state == "stopped":
            result = job.stop()
        elif state == "query":
            result = job.query()
        elif state == "started" or module.check_mode:
            result = job.start()
        else:
            result = job.wait()
    except Failed as failed:
        more = {**job.answer("none", False), **failed.more}
        module.fail_json(msg=str(failed), cause=failed.problem.cause, **more)
    except OSError as error:
        module.fail_json(
            msg=f"Found: {error}. Expected: a run's directory that root can write. Remedy: look at {job.run_dir}."
        )
    if module._diff:
        result["diff"] = {"before": job.before + "\n", "after": job.after + "\n"}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
