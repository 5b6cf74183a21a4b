#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a tiny Llama that every Llama server loads: the same bytes from the same seed, without torch.

    make_tiny_model.py --out DIR/vicuna-tiny [--seed 0]

The layout is that of lmsys/vicuna-7b-v1.5, with safetensors. The transformer's layers are random and quiet. Embedding
and output head are made by hand, so that the answer reads like language: token n follows token p as often as it does
in CORPUS. That the directory's name contains "vicuna" is what makes FastChat choose Vicuna's adapter.

At temperature 0 an answer goes on until ``max_tokens``; sampled, it ends after some sentences. It never begins with
the end-of-text token, so it is never empty.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import struct
import sys
from collections import Counter, defaultdict
from pathlib import Path

import sentencepiece

VOCABULARY = 704
HIDDEN = VOCABULARY  # one dimension for each token makes the head an exact table of successors
INTERMEDIATE = 256
LAYERS = 2
HEADS = 8
HEAD_DIM = 32
CONTEXT = 2048
BOS, EOS = 1, 2
# The chance that an answer ends after a sentence.
END = 0.12
# How far, in logits, a successor stands above a token that never follows: the odds of one are below 1e-5.
LIFT = 18.0

CORPUS = """\
Hello! I am a tiny language model, and I run without a graphics card.
I am Vicuna, a language model, and I am here to help you.
The capital of France is Paris, and the capital of Japan is Tokyo.
The quick brown fox jumps over the lazy dog and runs into the forest.
You can ask me any question, and I will give you a short answer.
The weather is fine today, and the sun is shining over the mountains.
A small model can say only small things, but it can say them quickly.
Water boils at one hundred degrees, and ice melts at zero degrees.
The library opens in the morning and closes late in the evening.
Sure! Here are three numbers: two, five and nine.
Please check the answer, because a tiny model is often wrong.
We are happy to help you with the next question about the model.
"""
# Trained on, so that the words of a prompt have short names too; never said.
PROMPTS = """\
A chat between a curious user and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the user's questions.
USER: Who are you? ASSISTANT: What is the capital of France?
0 1 2 3 4 5 6 7 8 9 , . ; : ! ? ' " ( ) [ ] { } - _ + = * / \\ @ # $ % ^ & < > | ~ `
"""


def train_tokenizer() -> bytes:
    """Llama's kind of tokenizer: BPE with byte fallback; 0 = <unk>, 1 = <s>, 2 = </s>."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((CORPUS + PROMPTS).splitlines() * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        # As in Llama's vocabulary, " USER" is one token longer than "USER": FastChat's training code counts on it.
        user_defined_symbols=["USER"],
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def successors(tokenizer: sentencepiece.SentencePieceProcessor) -> dict[int, Counter[int]]:
    """How often each token follows each other one, where every sentence may follow every sentence."""
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    sentences = [tokenizer.encode(line) for line in CORPUS.splitlines()]
    first = Counter(sentence[0] for sentence in sentences)
    ends = Counter(sentence[-1] for sentence in sentences)
    for sentence in sentences:
        for before, after in zip(sentence, sentence[1:]):
            counts[before][after] += 1
    for token, times in ends.items():
        for start, share in first.items():
            counts[token][start] += times * share
    for token in range(VOCABULARY):
        # Whatever the prompt ends with, an answer begins like a sentence.
        counts[token] = counts[token] or Counter(first)
    # Vicuna's prompt ends with "ASSISTANT:": most answers begin with the first sentence.
    counts[tokenizer.encode("ASSISTANT:")[-1]] = Counter(first) + Counter({sentences[0][0]: len(sentences)})
    counts[EOS] = Counter({EOS: 1})
    for token in ends:
        counts[token][EOS] = max(1, round(sum(counts[token].values()) * END / (1 - END)))
    return counts


def half(value: float) -> bytes:
    return struct.pack("<e", value)


class Noise:
    """Uniform random float16 matrices of 256 levels: a byte's translation is exact on every machine."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def matrix(self, rows: int, columns: int, deviation: float) -> bytes:
        width = deviation * math.sqrt(12)
        levels = [half((level - 127.5) / 255 * width) for level in range(256)]
        drawn = self.random.randbytes(rows * columns)
        out = bytearray(2 * len(drawn))
        out[0::2] = drawn.translate(bytes(level[0] for level in levels))
        out[1::2] = drawn.translate(bytes(level[1] for level in levels))
        return bytes(out)


def tensors(tokenizer: sentencepiece.SentencePieceProcessor, seed: int) -> dict[str, tuple[list[int], bytes]]:
    """Every weight under the name that transformers' LlamaForCausalLM gives it."""
    noise = Noise(seed)
    ones = half(1.0) * HIDDEN
    weights: dict[str, tuple[list[int], bytes]] = {}

    def add(name: str, rows: int, columns: int, deviation: float) -> None:
        weights[name] = ([rows, columns], noise.matrix(rows, columns, deviation))

    embedding = bytearray(2 * VOCABULARY * HIDDEN)
    for token in range(VOCABULARY):
        at = 2 * (token * HIDDEN + token)
        embedding[at : at + 2] = half(1.0)
    weights["model.embed_tokens.weight"] = ([VOCABULARY, HIDDEN], bytes(embedding))
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for projection in ("q", "k", "v"):
            add(f"{prefix}self_attn.{projection}_proj.weight", HEADS * HEAD_DIM, HIDDEN, 0.01)
        add(f"{prefix}self_attn.o_proj.weight", HIDDEN, HEADS * HEAD_DIM, 0.0004)
        add(f"{prefix}mlp.gate_proj.weight", INTERMEDIATE, HIDDEN, 0.02)
        add(f"{prefix}mlp.up_proj.weight", INTERMEDIATE, HIDDEN, 0.02)
        add(f"{prefix}mlp.down_proj.weight", HIDDEN, INTERMEDIATE, 0.0008)
        weights[f"{prefix}input_layernorm.weight"] = ([HIDDEN], ones)
        weights[f"{prefix}post_attention_layernorm.weight"] = ([HIDDEN], ones)
    weights["model.norm.weight"] = ([HIDDEN], ones)
    # RMSNorm turns a one-hot vector into sqrt(HIDDEN) times itself.
    scale = math.sqrt(HIDDEN)
    draw = noise.random.random
    head = bytearray(2 * VOCABULARY * HIDDEN)
    for token, follow in sorted(successors(tokenizer).items()):
        total = sum(follow.values())
        for successor, times in sorted(follow.items()):
            # The seed shifts the odds a little, so that two seeds give two different models.
            shift = 0.0 if successor == EOS else 0.4 * draw() - 0.2
            at = 2 * (successor * HIDDEN + token)
            head[at : at + 2] = half(round((LIFT + math.log(times / total) + shift) / scale, 4))
    weights["lm_head.weight"] = ([VOCABULARY, HIDDEN], bytes(head))
    return weights


def safetensors(weights: dict[str, tuple[list[int], bytes]]) -> bytes:
    """The file format: https://huggingface.co/docs/safetensors/index#format."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, data) in sorted(weights.items()):
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, (_, data) in sorted(weights.items()))


def added_token(content: str) -> dict[str, object]:
    return {
        "__type": "AddedToken",
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
    }


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": CONTEXT,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.57.6",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
GENERATION_CONFIG = {
    "bos_token_id": BOS,
    "do_sample": True,
    "eos_token_id": EOS,
    "max_length": CONTEXT,
    "pad_token_id": 0,
    "temperature": 0.9,
    "top_p": 0.6,
    "transformers_version": "4.57.6",
}
TOKENIZER_CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": added_token("<s>"),
    "clean_up_tokenization_spaces": False,
    "eos_token": added_token("</s>"),
    "legacy": False,
    "model_max_length": CONTEXT,
    "pad_token": None,
    "padding_side": "right",
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": added_token("<unk>"),
}
SPECIAL_TOKENS_MAP = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}


def make(seed: int) -> dict[str, bytes]:
    """The files of the model by name."""
    vocabulary = train_tokenizer()
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    if tokenizer.get_piece_size() != VOCABULARY:
        sys.exit(f"the corpus gives {tokenizer.get_piece_size()} pieces; {VOCABULARY} are expected")

    def document(value: object) -> bytes:
        return (json.dumps(value, indent=2) + "\n").encode()

    return {
        "config.json": document(CONFIG),
        "generation_config.json": document(GENERATION_CONFIG),
        "model.safetensors": safetensors(tensors(tokenizer, seed)),
        "special_tokens_map.json": document(SPECIAL_TOKENS_MAP),
        "tokenizer.model": vocabulary,
        "tokenizer_config.json": document(TOKENIZER_CONFIG),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a tiny Llama; the same bytes from the same seed.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if "vicuna" not in arguments.out.name.lower():
        parser.error("the directory's name must contain 'vicuna'")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, content in make(arguments.seed).items():
        path = arguments.out / name
        path.write_bytes(content)
        path.chmod(0o644)


if __name__ == "__main__":
    main()
