#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Train for a few steps on real GPUs: speed, memory, and the plan held to what nvidia-smi shows.

    train.py --model DIR --method full lora qlora [--gpus 1] [--batch-size 2] [--steps 24] [--reference]

The fine-tuning image's program is run as the role runs it, on full dialogues of random words. Prints one JSON object
for each method: tokens/s (the median step after the first four), MFU (of a GPU's dense bfloat16 peak), memory in MiB.
``--reference`` trains all weights with FastChat's own train.py in the same way. Exit 1 where the plan is more than 15 %
off, or FastChat is faster. The repository is on PYTHONPATH (run.sh puts it there).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils import _finetune_plan as plan
from ansible_collections.vicuna.fleet.plugins.module_utils._serving_plan import MIB, Model, read_model

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 0.15
# Dense bfloat16 operations a second: NVIDIA's data sheet of the H100 and H200 (SXM).
PEAK = 989e12
WARM_UP = 4
SETTINGS = {
    "schema": 1,
    "epochs": 1.0,
    "gradient_accumulation": 1,
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "warmup_ratio": 0.03,
    "weight_decay": 0.0,
    "scheduler": "cosine",
    "seed": 0,
    "bf16": True,
    "gradient_checkpointing": True,
    "save_steps": 100_000,
    "keep_checkpoints": 1,
    "allow_cut": True,
    "allow_dropped": False,
    "device": "cuda",
    "model_name": "vicuna-random-tuned",
    "base_repo": "random",
    "base_commit": "0" * 40,
    "dataset_sha256": "0" * 64,
    "run_id": "0" * 12,
}
# FastChat's script ends in a save that works under its FSDP alone; its figures stand before that.
REFERENCE = """
import time
import transformers
from fastchat.train import train
class Timed(transformers.TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        print("STEP", time.monotonic(), flush=True)
class Trainer(train.Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(Timed())
train.Trainer = Trainer
train.trainer_save_model_safe = lambda trainer: None
train.train()
"""


def used() -> int:
    """The most that nvidia-smi shows on one GPU, in MiB."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return max(int(line) for line in subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())


def dialogues(number: int, words: int) -> list[dict[str, Any]]:
    """Dialogues that fill the context: answers of random words, so that nothing is learnt at once."""
    draw = random.Random(0)
    vocabulary = ("the", "of", "and", "to", "in", "that", "was", "his", "with", "for", "had", "from", "they", "which")
    said = [" ".join(draw.choices(vocabulary, k=words)) for _ in range(number)]
    return [
        {"id": str(n), "conversations": [{"from": "human", "value": "Tell me."}, {"from": "gpt", "value": text}]}
        for n, text in enumerate(said)
    ]


def watched(command: list[str], environment: dict[str, str]) -> tuple[int, str, int]:
    """Run a command; its status, its output, and the GPU's peak above what was in use before, in MiB."""
    before, peak, over = used(), 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not over.wait(0.1):
            peak = max(peak, used() - before)

    thread = threading.Thread(target=sample)
    thread.start()
    done = subprocess.run(
        command, check=False, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    over.set()
    thread.join()
    return done.returncode, done.stdout, peak


def shape(directory: Path) -> Model:
    config = json.loads((directory / "config.json").read_text())
    files = [{"path": p.name, "oid": "", "size": p.stat().st_size} for p in sorted(directory.glob("*.safetensors"))]
    size = sum(file["size"] for file in files)
    looked = {"commit": "", "config": config, "quantisation": "", "files": files}
    return read_model({**looked, "weights_bytes": size, "download_bytes": size}, directory.name)


def mfu(model: Model, method: str, length: int, tokens_per_second: float, gpus: int) -> float:
    """Of an adapter's run, the frozen weights' gradients are not computed: 4 operations instead of 6."""
    dense = (4 if method != "full" else 6) * model.parameters
    attention = 6 * model.layers * model.hidden * length  # causal: half of 12
    return tokens_per_second * (dense + attention) / (PEAK * gpus)


def ours(given: argparse.Namespace, model: Model, method: str) -> dict[str, Any]:
    length = min(given.length, plan.MAX_LENGTH[method])
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        run = Path(folder)
        (run / "dataset").mkdir()
        number = given.steps * given.batch_size * given.gpus
        (run / "dataset/train.json").write_text(json.dumps(dialogues(number, length * 2)))
        rate = 2e-5 if method == "full" else 2e-4
        settings = {**SETTINGS, "method": method, "learning_rate": rate, "batch_size": given.batch_size}
        settings |= {"max_length": length, "gpus": given.gpus, "max_steps": given.steps}
        (run / "settings.json").write_text(json.dumps(settings))
        command = [sys.executable, "-m", "vicuna_finetune", "train", "--run-dir", str(run), "--base", str(given.model)]
        path = f"{ROOT / 'roles/finetune/files/image'}:{os.environ.get('PYTHONPATH', '')}"
        status, output, peak = watched(command, {**os.environ, "PYTHONPATH": path})
        log = run / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    times = [line["time"] for line in lines if "loss" in line]
    if status or len(times) < given.steps:
        return {"method": method, "failed": output[-3000:]}
    tokens = given.batch_size * given.gpus * length
    job = plan.Job(method, "cuda", given.gpus, given.batch_size, length)
    return figures(given, model, method, length, given.gpus, times, tokens, peak) | {
        "planned_mib": plan.need(model, job).total // MIB
    }


def reference(given: argparse.Namespace, model: Model) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        run = Path(folder)
        (run / "train.json").write_text(json.dumps(dialogues(given.steps * given.batch_size, given.length * 2)))
        options = f"""--model_name_or_path {given.model} --data_path {run}/train.json --bf16 True --output_dir {run}/out
            --max_steps {given.steps} --per_device_train_batch_size {given.batch_size} --gradient_accumulation_steps 1
            --save_strategy no --learning_rate 2e-5 --lr_scheduler_type cosine --logging_steps 1 --report_to none
            --model_max_length {given.length} --gradient_checkpointing True --lazy_preprocess True"""
        status, output, peak = watched(
            [sys.executable, "-c", REFERENCE, *options.split()], {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
        )
    times = [float(found) for found in re.findall(r"STEP ([0-9.]+)$", output, re.MULTILINE)]
    if status or len(times) < given.steps:
        return {"method": "FastChat's train.py", "failed": output[-3000:]}
    return figures(given, model, "full", given.length, 1, times, given.batch_size * given.length, peak) | {
        "method": "FastChat's train.py"
    }


def figures(
    given: argparse.Namespace,
    model: Model,
    method: str,
    length: int,
    gpus: int,
    times: list[float],
    tokens: int,
    peak: int,
) -> dict[str, Any]:
    steps = [after - before for before, after in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False)]
    speed = tokens / statistics.median(steps)
    return {
        "method": method,
        "gpus": gpus,
        "batch": f"{given.batch_size} x {length}",
        "tokens_per_second": round(speed),
        "mfu": round(mfu(model, method, length, speed, gpus), 3),
        "peak_mib": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train for a few steps on real GPUs.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--method", nargs="+", choices=plan.METHODS, default=list(plan.METHODS))
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--reference", action="store_true")
    given = parser.parse_args()
    if not shutil.which("nvidia-smi"):
        parser.error("there is no nvidia-smi: expected an NVIDIA GPU with its driver")
    model, wrong, speeds = shape(given.model), False, {}
    for method in given.method:
        found = ours(given, model, method)
        if "planned_mib" in found:
            found["plan_off"] = round(found["planned_mib"] / found["peak_mib"] - 1, 3)
        wrong |= abs(found.get("plan_off", 1.0)) > TOLERANCE
        speeds[method] = found.get("tokens_per_second", 0)
        print(json.dumps(found), flush=True)
        time.sleep(2)
    if given.reference:
        found = reference(given, model)
        print(json.dumps(found), flush=True)
        wrong |= "failed" in found or speeds.get("full", 0) < found["tokens_per_second"]
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
