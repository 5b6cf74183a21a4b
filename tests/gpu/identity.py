#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Teach the sandbox's tiny model who it is on a GPU, merge what it learnt, and ask the merged model.

    identity.py [--method lora qlora] [--epochs 60] [--gpus 1]

The fine-tuning image's program, from training to the report, with the sandbox's dialogues and settings. Prints one JSON
object for each method; exit 1 where the merged model does not give the expected answer at temperature 0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SANDBOX = ROOT / "sandbox/finetune"


def settings(method: str, epochs: float, gpus: int) -> dict[str, Any]:
    """What the role writes for the sandbox's training, here for GPUs, and with checkpoints on the way."""
    known: dict[str, Any] = json.loads((ROOT / "tests/finetune/settings.json").read_text())
    read = yaml.safe_load((SANDBOX / "settings.yml").read_text())
    told = {name.removeprefix("finetune_"): value for name, value in read.items()}
    told = {name: value for name, value in told.items() if name in {*known, "lora_targets"}}
    ours = {"method": method, "epochs": epochs, "device": "cuda", "gpus": gpus, "bf16": True, "save_steps": 50}
    # As sandbox/finetune/settings.yml says of it.
    return {**known, **told, **ours, **({"learning_rate": 5e-4, "batch_size": 4} if method == "full" else {})}


def learnt(method: str, epochs: float, gpus: int, base: Path, run: Path) -> dict[str, Any]:
    (run / "dataset").mkdir(parents=True)
    (run / "settings.json").write_text(json.dumps(settings(method, epochs, gpus)))
    (run / "dataset/train.json").write_text((SANDBOX / "identity.json").read_text())
    (run / "prompts.json").write_text((SANDBOX / "prompts.json").read_text())
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'roles/finetune/files/image'}:{os.environ.get('PYTHONPATH', '')}",
    }
    for step in ("train", "finish"):
        command = [sys.executable, "-m", "vicuna_finetune", step, "--run-dir", str(run), "--base", str(base)]
        done = subprocess.run(
            command, check=False, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            return {"method": method, "failed": step, "output": done.stdout[-3000:]}
    report = json.loads((run / "report.json").read_text())
    asked = [answer for answer in report["answers"] if answer["expected"] is not None]
    return {
        "method": method,
        "final_loss": report["train"]["final_loss"],
        "answers": [{name: answer[name] for name in ("prompt", "tuned", "passed")} for answer in asked],
        "versions": report["versions"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach the tiny model who it is on a GPU.")
    parser.add_argument("--method", nargs="+", choices=["full", "lora", "qlora"], default=["lora", "qlora"])
    parser.add_argument("--epochs", type=float, default=60)
    parser.add_argument("--gpus", type=int, default=1)
    given = parser.parse_args()
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "models/vicuna-tiny"
        subprocess.run([sys.executable, ROOT / "sandbox/hub/make_tiny_model.py", "--out", base], check=True)
        for method in given.method:
            found = learnt(method, given.epochs, given.gpus, base, Path(folder) / method)
            print(json.dumps(found), flush=True)
            wrong |= "failed" in found or not all(answer["passed"] for answer in found["answers"])
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
