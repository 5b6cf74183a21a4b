# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After the training: the model that is served, what it says, and how much better it is."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import platform
import shutil
import typing as t
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GenerationConfig

from . import card, conversation, curve, data
from .base_model import canonical, check_base, digests, dtype_name, publish, set_modes
from .errors import BadInput, measured
from .progress import Progress, read_log, write_atomically
from .settings import RunDir, Settings, read_json

# Of an answer to a prompt, tokens.
ANSWER_TOKENS = 256
PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "sentencepiece", "bitsandbytes")


def finish(run: RunDir, base: Path, settings: Settings, progress: Progress) -> None:
    """Merge, compare with the base, and write report, curve and model card."""
    config = check_base(base)
    trained = read_json(run.trained, "run the step train first: it writes the file when it has ended")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("the container sees no GPU: expected one; run vicuna.fleet's role nvidia_container_toolkit")
    if settings.adapter and not run.result.is_dir():
        progress.update("merging", step=trained["train"]["steps"], steps=trained["train"]["steps"])
        merge(run, base, dtype_name(config))
    progress.update("evaluating", step=trained["train"]["steps"], steps=trained["train"]["steps"])
    prompts = read_prompts(run.prompts)
    tokenizer = conversation.load_tokenizer(base, settings.max_length)
    heldout = data.load(run.heldout, tokenizer, settings, progress.update).items if run.heldout.is_file() else []
    dtype = serving_dtype(config, settings.device)
    losses: dict[str, float | None] = {}
    answers: dict[str, list[str]] = {}
    for name, path in (("base", base), ("tuned", run.result)):
        print(f"asking the {name} model {len(prompts)} prompts", flush=True)
        model = load(path, dtype, settings.device)
        collator = data.Collator(tokenizer.pad_token_id)
        loss = data.mean_loss(model, heldout, collator, settings.batch_size, device=model.device, alive=progress.update)
        losses[name] = measured(name, loss, settings.learning_rate)
        answers[name] = [answer(model, tokenizer, item["prompt"], progress) for item in prompts]
        del model
        gc.collect()
        torch.cuda.empty_cache()

    report = {
        "schema": 1,
        "run_id": settings.run_id,
        "method": settings.method,
        "base": {"repo": settings.base_repo, "commit": settings.base_commit},
        "dataset": {
            "sha256": settings.dataset_sha256,
            **{name: trained[name] for name in ("dialogues", "heldout", "tokens", "cut", "dropped")},
        },
        "settings": vars(settings),
        "versions": versions(),
        "train": trained["train"],
        "heldout_loss": {name: None if loss is None else round(loss, 6) for name, loss in losses.items()},
        "answers": compare(prompts, answers["base"], answers["tuned"]),
    }
    write_atomically(run.curve, curve.svg(read_log(run.log), report["heldout_loss"]))
    write_atomically(run.result / "README.md", card.card(report))
    set_modes(run.result)
    report["files"] = digests(run.result)
    if settings.adapter:
        write_atomically(run.adapter / "README.md", card.card(report, adapter=True))
        set_modes(run.adapter)
        report["adapter_files"] = digests(run.adapter)
    write_atomically(run.report, canonical(report), durable=True)
    # Nothing goes on from them any more, and those of a full 7B run take 160 GB.
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    progress.update("done", seconds_left=0.0)


def merge(run: RunDir, base: Path, dtype: str) -> None:
    """Add the adapter to the base's own weights, which for QLoRA are those that were never quantised."""
    part = run.path / "result.part"
    shutil.rmtree(part, ignore_errors=True)
    # In the base's own dtype, for half the memory; peft multiplies the adapter's matrices in float32.
    model = load(base, getattr(torch, dtype), "cpu")
    merged = PeftModel.from_pretrained(model, str(run.adapter)).merge_and_unload()
    merged.to(getattr(torch, dtype)).save_pretrained(str(part))
    publish(part, base, run.result)


def load(path: Path, dtype: torch.dtype, device: str) -> t.Any:
    """Return a model to ask."""
    try:
        model = AutoModelForCausalLM.from_pretrained(str(path), local_files_only=True, dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"the model in {path} cannot be loaded ({error}); fetch it or train it again") from error
    # Vicuna's own has a temperature without sampling, which transformers refuses to save.
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=model.config.eos_token_id
    )
    return model.to(device).eval()


def serving_dtype(config: dict[str, t.Any], device: str) -> torch.dtype:
    """FastChat serves float32 on the CPU and float16 on a GPU (fastchat/model/model_adapter.py, load_model)."""
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if dtype_name(config) == "bfloat16" else torch.float16


def answer(model: t.Any, tokenizer: t.Any, question: str, progress: Progress) -> str:
    """What the model says at temperature 0 to what a worker would give it."""
    progress.update()
    ids = torch.tensor([tokenizer(conversation.prompt(question)).input_ids], device=model.device)
    room = int(model.config.max_position_embeddings) - ids.shape[1]
    if room < 1:
        return ""
    said = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=min(ANSWER_TOKENS, room),
        pad_token_id=tokenizer.pad_token_id,
    )
    text: str = tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True, spaces_between_special_tokens=False)
    return text.strip()


def read_prompts(path: Path) -> list[dict[str, str]]:
    """Return prompts.json; raises BadInput. A run may have none."""
    prompts = read_json(path, "run the role, which writes it") if path.is_file() else []
    if not isinstance(prompts, list):
        raise BadInput(f"prompts.json holds a {type(prompts).__name__}: expected a list; set finetune_prompts to one")
    for item in prompts:
        if not isinstance(item, dict) or not isinstance(item.get("prompt"), str):
            raise BadInput(
                f"prompts.json holds {json.dumps(item)[:80]}: expected objects with prompt; set finetune_prompts"
            )
    return prompts


def compare(prompts: list[dict[str, str]], base: list[str], tuned: list[str]) -> list[dict[str, t.Any]]:
    """Return the report's answers; one without an expected text neither passes nor fails."""
    return [
        {
            "prompt": item["prompt"],
            "expected": item.get("expected"),
            "base": before,
            "tuned": after,
            "passed": None if item.get("expected") is None else str(item["expected"]) in after,
        }
        for item, before, after in zip(prompts, base, tuned, strict=True)
    ]


def versions() -> dict[str, str]:
    """Return the versions of what trained."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
