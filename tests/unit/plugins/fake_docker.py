# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fake of the program `docker`: its containers are processes that play a training.

``install(folder)`` puts it into ``folder/bin``. What a training does stands in ``folder/scenario.json``: ``steps``,
``pause`` (seconds a step), ``exit``, ``message``, ``log`` (lines), ``oom``, ``hang`` (no more news from that step on),
``run_fails``, ``files`` ({step: {path in the run's directory: content}}), ``forgets`` (it ends early with exit code 0).
What it was asked is kept in ``folder/asked``, a line for each call.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def install(folder: Path, **scenario: Any) -> Path:
    """The fake, with a scenario; returns the folder for PATH."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "boxes").mkdir(exist_ok=True)
    program = folder / "bin" / "docker"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {folder} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    play(folder, **scenario)
    return program.parent


def play(folder: Path, **scenario: Any) -> None:
    (folder / "scenario.json").write_text(json.dumps(scenario), encoding="utf-8")


def asked(folder: Path) -> list[str]:
    path = folder / "asked"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def end_all(folder: Path) -> None:
    """No process outlives its test."""
    for path in (folder / "boxes").glob("*.json"):
        pid = json.loads(path.read_text(encoding="utf-8")).get("pid")
        with contextlib.suppress(OSError, TypeError):
            os.killpg(pid, signal.SIGKILL)


# ------------------------------------------------------------------------------------------------ the training


def train(folder: Path, name: str, run_dir: Path, step: str) -> int:
    scenario = json.loads((folder / "scenario.json").read_text(encoding="utf-8"))
    steps, hang, started = int(scenario.get("steps", 3)), scenario.get("hang"), time.time()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))

    def tell(phase: str, number: int, message: str = "") -> None:
        progress = {"schema": 1, "phase": phase, "step": number, "steps": steps, "loss": 1.5, "learning_rate": 2e-4}
        progress.update(tokens_per_second=512.0, seconds_left=steps - number, message=message)
        progress.update(started=started, updated=time.time())
        beside = run_dir / ".progress.new"
        beside.write_text(json.dumps(progress), encoding="utf-8")
        beside.replace(run_dir / "progress.json")

    with (run_dir / "steps").open("a", encoding="utf-8") as trace:
        trace.write(f"{step}\n")
    for number in range(1, steps + 1):
        if hang is None or number < int(hang):
            tell("training", number)
        for _tenth in range(max(1, int(10 * float(scenario.get("pause", 0.1))))):
            time.sleep(0.1)
            if stopped:
                return 143
    (folder / "boxes" / f"{name}.log").write_text("\n".join(scenario.get("log", ["ends"])), encoding="utf-8")
    for name_of, content in (scenario.get("files") or {}).get(step, {}).items():
        (run_dir / name_of).parent.mkdir(exist_ok=True)
        (run_dir / name_of).write_text(content, encoding="utf-8")
    code = int(scenario.get("exit", 0))
    outcome = run_dir / {"check": "check.json", "train": "trained.json", "finish": "report.json"}[step]
    if not code and not scenario.get("forgets") and not outcome.exists():
        outcome.write_text("{}", encoding="utf-8")
    tell("failed" if code else "done", steps, str(scenario.get("message", "")))
    return code


# ------------------------------------------------------------------------------------------------ the engine


class Fake:
    def __init__(self, folder: Path) -> None:
        self.folder, self.boxes = folder, folder / "boxes"
        self.scenario = json.loads((folder / "scenario.json").read_text(encoding="utf-8"))

    def state(self, name: str) -> dict[str, Any]:
        end = self.boxes / f"{name}.exit"
        code = int(end.read_text()) if end.exists() else None
        oom = bool(self.scenario.get("oom")) and code == 137
        status = "running" if code is None else "exited"
        return {"Status": status, "Running": code is None, "ExitCode": code or 0, "OOMKilled": oom, "Error": ""}

    def inspected(self, name: str) -> dict[str, Any]:
        box = json.loads((self.boxes / f"{name}.json").read_text(encoding="utf-8"))
        return {"Name": f"/{name}", "Config": {"Labels": box["labels"]}, "State": self.state(name)}

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.boxes.glob("*.json"))

    def run(self, arguments: list[str]) -> int:
        if self.scenario.get("run_fails"):
            print(self.scenario["run_fails"], file=sys.stderr)
            return 125
        name = arguments[arguments.index("--name") + 1]
        labels = dict(arguments[at + 1].split("=", 1) for at, part in enumerate(arguments) if part == "--label")
        mounts = [dict(p.split("=", 1) for p in part.split(",") if "=" in p) for part in arguments if "target=" in part]
        run_dir = next(mount["source"] for mount in mounts if mount["target"] == "/run-dir")
        play_it = [sys.executable, __file__, str(self.folder), "train", name, run_dir, labels["vicuna.finetune.step"]]
        process = subprocess.Popen(
            play_it,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        box = {"labels": labels, "pid": process.pid}
        (self.boxes / f"{name}.json").write_text(json.dumps(box), encoding="utf-8")
        print("c0ffee")
        return 0

    def stop(self, name: str, seconds: float) -> int:
        box = json.loads((self.boxes / f"{name}.json").read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):
            os.killpg(box["pid"], signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while self.state(name)["Running"] and time.monotonic() < deadline:
            time.sleep(0.05)
        return 0

    def remove(self, name: str) -> int:
        for path in self.boxes.glob(f"{name}.*"):
            path.unlink()
        return 0

    def answer(self, arguments: list[str]) -> int:
        command, rest = arguments[0], arguments[1:]
        if command == "run":
            return self.run(rest)
        if command == "ps":
            every = "--all" in rest
            print("\n".join(name for name in self.names() if every or self.state(name)["Running"]))
        elif command == "inspect":
            names = [part for part in rest[2:] if part in self.names()]
            missing = [rest[-1]] if rest[-1] not in self.names() else []
            if "--format" in rest:
                print("\n".join(json.dumps(self.state(name)) for name in names))
            else:
                print(json.dumps([self.inspected(name) for name in names]))
            for name in missing:
                print(f"Error: No such container: {name}", file=sys.stderr)
            return len(missing)
        elif command == "logs":
            path = self.boxes / f"{rest[-1]}.log"
            print(path.read_text(encoding="utf-8") if path.exists() else "")
        elif command == "stop":
            return self.stop(rest[-1], float(rest[1]))
        elif command == "rm":
            return self.remove(rest[-1])
        return 0


def main() -> int:
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    if arguments[0] == "train":
        name, run_dir, step = arguments[1:]
        code = train(folder, name, Path(run_dir), step)
        end = folder / "boxes" / f".{name}.exit"
        end.write_text(str(code), encoding="utf-8")
        end.replace(folder / "boxes" / f"{name}.exit")
        return code
    with (folder / "asked").open("a", encoding="utf-8") as file:
        file.write(" ".join(arguments) + "\n")
    return Fake(folder).answer(arguments)


if __name__ == "__main__":
    sys.exit(main())
