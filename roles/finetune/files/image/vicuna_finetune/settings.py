# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The settings of a run, and the places in its directory. Needs no torch."""

from __future__ import annotations

import json
import math
import re
import typing as t
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from .errors import BadInput

SCHEMA = 1
METHODS = ("full", "lora", "qlora")
SCHEDULERS = ("cosine", "linear", "constant", "constant_with_warmup")
DEVICES = ("cuda", "cpu")
PATTERNS = {"run_id": r"[0-9a-f]{12}", "dataset_sha256": r"[0-9a-f]{64}"}
# Least and greatest value; the ends belong to the range.
RANGES: dict[str, tuple[float, float]] = {
    "epochs": (0.0, 10000.0),
    "learning_rate": (0.0, math.inf),
    "batch_size": (1, 4096),
    "gradient_accumulation": (1, 4096),
    "max_length": (16, 1 << 20),
    "lora_rank": (1, 4096),
    "lora_alpha": (1, 1 << 16),
    "lora_dropout": (0.0, 0.9),
    "warmup_ratio": (0.0, 1.0),
    "weight_decay": (0.0, 1.0),
    "seed": (0, (1 << 32) - 1),
    "save_steps": (1, 1 << 31),
    "keep_checkpoints": (1, 1000),
    "gpus": (0, 64),
}
# The attention's and the MLP's matrices of a Llama: with an adapter on all of them QLoRA reaches full fine-tuning
# (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 4).
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGET_CHOICES = (*TARGETS, "lm_head", "embed_tokens")
CHOICES = {"method": METHODS, "scheduler": SCHEDULERS, "device": DEVICES}


@dataclass(frozen=True)
class Settings:
    """settings.json; the role writes every key, and may leave out those with a default."""

    schema: int
    method: str
    epochs: float
    learning_rate: float
    batch_size: int  # dialogues in one GPU's forward pass
    gradient_accumulation: int
    max_length: int  # tokens of a dialogue
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    warmup_ratio: float
    weight_decay: float
    scheduler: str
    seed: int
    bf16: bool
    gradient_checkpointing: bool
    save_steps: int
    keep_checkpoints: int
    allow_cut: bool
    allow_dropped: bool
    device: str
    gpus: int
    max_steps: int  # -1: by epochs
    model_name: str
    base_repo: str
    base_commit: str
    dataset_sha256: str
    run_id: str
    lora_targets: tuple[str, ...] = TARGETS

    @property
    def adapter(self) -> bool:
        """Whether an adapter is trained, not the model's own weights."""
        return self.method != "full"


def parse(values: object) -> Settings:
    """Return the settings of a parsed settings.json; raises BadInput with everything that is wrong."""
    if not isinstance(values, dict):
        raise BadInput(f"settings.json holds a {type(values).__name__}: expected an object; run the role again")
    types = t.get_type_hints(Settings)
    names = {field.name for field in fields(Settings)}
    optional = {field.name for field in fields(Settings) if field.default is not MISSING}
    problems = [f"{name} is missing" for name in sorted(names - optional - values.keys())]
    problems += [f"{name} is not known" for name in sorted(values.keys() - names)]
    for name in sorted(names & values.keys()):
        value = values[name]
        problem = _type_problem(value, types[name]) or _value_problem(name, value)
        if problem:
            problems.append(f"{name} is {json.dumps(value)}: expected {problem}")
    if not problems:
        problems = _conflicts(values)
    if problems:
        raise BadInput(f"settings.json: {'; '.join(problems)}; the role's variables finetune_* set them")
    typed: dict[str, t.Any] = {name: float(value) if types[name] is float else value for name, value in values.items()}
    if "lora_targets" in typed:
        # Their order changes nothing.
        typed["lora_targets"] = tuple(target for target in TARGET_CHOICES if target in typed["lora_targets"])
    return Settings(**typed)


def _type_problem(value: object, expected: type) -> str:
    """Return what was expected instead, or an empty string."""
    if expected is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
        return "" if good else "a number"
    if expected is int:
        return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if expected is bool:
        return "" if isinstance(value, bool) else "true or false"
    if expected is str:
        return "" if isinstance(value, str) else "a string"
    names = isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
    return "" if names else "a list of names"


def _value_problem(name: str, value: t.Any) -> str:
    if name == "schema":
        return "" if value == SCHEMA else f"{SCHEMA}; role and image are of different versions"
    if name == "max_steps":
        return "" if value == -1 or value > 0 else "-1 or a number of steps"
    if name == "lora_targets":
        return "" if set(value) <= set(TARGET_CHOICES) else f"some of {', '.join(TARGET_CHOICES)}"
    if name in CHOICES:
        return "" if value in CHOICES[name] else f"one of {', '.join(CHOICES[name])}"
    if name in PATTERNS:
        return "" if re.fullmatch(PATTERNS[name], value) else f"the form {PATTERNS[name]}"
    if name in RANGES:
        least, greatest = RANGES[name]
        return "" if least <= value <= greatest and value != math.inf else f"{least} to {greatest}"
    return ""


def _conflicts(values: dict[str, t.Any]) -> list[str]:
    problems = []
    if values["device"] == "cpu" and values["method"] == "qlora":
        problems.append(
            "method is qlora on the cpu: expected a GPU, whose kernels read 4-bit weights; lora runs on both"
        )
    if values["device"] == "cpu" and values["bf16"]:
        problems.append("bf16 is true on the cpu: expected false, it trains in float32")
    if values["device"] == "cpu" and values["gpus"] > 1:
        problems.append(f"gpus is {values['gpus']} on the cpu: expected 0 or 1")
    if values["device"] == "cuda" and values["gpus"] < 1:
        problems.append("gpus is 0: expected 1 or more where device is cuda")
    return problems


def load(path: Path) -> Settings:
    """Read settings.json; raises BadInput."""
    return parse(read_json(path, "run the role, which writes it"))


def read_json(path: Path, remedy: str) -> t.Any:
    """Return a JSON file's value; raises BadInput that ends with the remedy."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path.name} cannot be read ({error}): expected a JSON file at {path}; {remedy}") from error


@dataclass(frozen=True)
class RunDir:
    """The files of a run."""

    path: Path

    def __getattr__(self, name: str) -> Path:
        try:
            return self.path / NAMES[name]
        except KeyError:
            raise AttributeError(name) from None


NAMES = {
    "settings": "settings.json",
    "prompts": "prompts.json",
    "train": "dataset/train.json",
    "heldout": "dataset/heldout.json",
    "checkpoints": "checkpoints",
    "progress": "progress.json",
    "log": "log.jsonl",
    "trained": "trained.json",
    "adapter": "adapter",
    "result": "result",
    "report": "report.json",
    "curve": "loss.svg",
}
