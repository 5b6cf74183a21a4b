#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a Llama of a real model's shape with random float16 weights, and the tiny model's tokenizer and manners.

    make_model.py --out DIR/vicuna-7b-random --shape vicuna-7b-16k [--device cuda]

Every matrix has its full size, so that memory and speed are those of the real model. The transformer's layers are
random and quiet; embedding and head hold the tiny model's table of successors in their first rows and columns, so that
the answers read like language and never leave the tokenizer's vocabulary.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TINY = Path(__file__).resolve().parents[2] / "sandbox/hub/make_tiny_model.py"
# config.json of the published models: lmsys/vicuna-7b-v1.5, -7b-v1.5-16k, -13b-v1.5, meta-llama/Meta-Llama-3-8B.
LLAMA_2_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "vocab_size": 32000,
}
SHAPES: dict[str, dict[str, Any]] = {
    "vicuna-7b": LLAMA_2_7B,
    "vicuna-7b-16k": {**LLAMA_2_7B, "rope_scaling": {"factor": 4.0, "type": "linear"}},
    "vicuna-13b": {
        **LLAMA_2_7B,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    },
    "llama-3-8b": {
        **LLAMA_2_7B,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "vocab_size": 128256,
    },
}
SHARD_LAYERS = 8  # layers in one file


def tiny() -> Any:
    spec = importlib.util.spec_from_file_location("make_tiny_model", TINY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(out: Path, shape: dict[str, Any], device: str) -> None:
    """Write the model's files into ``out``."""
    small = tiny()
    files = small.make(0)
    weights = small.tensors(small.sentencepiece.SentencePieceProcessor(model_proto=files["tokenizer.model"]), 0)
    hidden, inner, vocabulary = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    generator = torch.Generator(device=device).manual_seed(0)

    def noise(rows: int, columns: int, deviation: float) -> torch.Tensor:
        drawn = torch.randn(rows, columns, generator=generator, device=device, dtype=torch.float16)
        return drawn.mul_(deviation).cpu()

    def table(name: str, scale: float) -> torch.Tensor:
        rows = torch.frombuffer(bytearray(weights[name][1]), dtype=torch.float16).view(*weights[name][0])
        whole = torch.zeros(vocabulary, hidden, dtype=torch.float16)
        whole[: rows.shape[0], : rows.shape[1]] = rows * scale
        return whole

    ones = torch.ones(hidden, dtype=torch.float16)
    out.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    shards = math.ceil(shape["num_hidden_layers"] / SHARD_LAYERS) + 1

    def save(number: int, tensors: dict[str, torch.Tensor]) -> None:
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file(tensors, str(out / name), metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    for first in range(0, shape["num_hidden_layers"], SHARD_LAYERS):
        tensors: dict[str, torch.Tensor] = {}
        for layer in range(first, min(first + SHARD_LAYERS, shape["num_hidden_layers"])):
            at = f"model.layers.{layer}."
            tensors[f"{at}self_attn.q_proj.weight"] = noise(hidden, hidden, 0.01)
            tensors[f"{at}self_attn.k_proj.weight"] = noise(kv, hidden, 0.01)
            tensors[f"{at}self_attn.v_proj.weight"] = noise(kv, hidden, 0.01)
            tensors[f"{at}self_attn.o_proj.weight"] = noise(hidden, hidden, 0.0001)
            tensors[f"{at}mlp.gate_proj.weight"] = noise(inner, hidden, 0.01)
            tensors[f"{at}mlp.up_proj.weight"] = noise(inner, hidden, 0.01)
            tensors[f"{at}mlp.down_proj.weight"] = noise(hidden, inner, 0.0001)
            tensors[f"{at}input_layernorm.weight"] = ones.clone()
            tensors[f"{at}post_attention_layernorm.weight"] = ones.clone()
        save(first // SHARD_LAYERS + 1, tensors)
    # RMSNorm turns a one-hot vector into sqrt(hidden) times itself.
    head = table("lm_head.weight", math.sqrt(small.HIDDEN / hidden))
    embedding = table("model.embed_tokens.weight", 1.0)
    save(shards, {"model.embed_tokens.weight": embedding, "model.norm.weight": ones, "lm_head.weight": head})
    total = sum((out / name).stat().st_size for name in set(index.values()))
    document = {"metadata": {"total_size": total}, "weight_map": index}
    (out / "model.safetensors.index.json").write_text(json.dumps(document, indent=1))
    config = {**small.CONFIG, **shape}
    del config["head_dim"]
    for name, content in {**files, "config.json": (json.dumps(config, indent=2) + "\n").encode()}.items():
        if name != "model.safetensors":
            (out / name).write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a Llama of a real model's shape with random weights.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="vicuna-7b-16k")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if "vicuna" not in arguments.out.name.lower():
        parser.error("the directory's name must contain 'vicuna', which makes FastChat choose Vicuna's adapter")
    make(arguments.out, SHAPES[arguments.shape], arguments.device)


if __name__ == "__main__":
    main()
