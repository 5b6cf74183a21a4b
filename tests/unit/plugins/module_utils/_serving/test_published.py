# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models as they are published: what transformers 4.57.6 reads otherwise than it was written, or not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _serving_plan as sp
from ansible_collections.vicuna.fleet.plugins.module_utils._model_info import File, Listing, describe
from ansible_collections.vicuna.fleet.plugins.module_utils._serving.published import (
    ENGINE,
    FASTCHAT,
    TRANSFORMERS,
    Unreadable,
    check,
    read,
)

ROLES = Path(__file__).resolve().parents[5] / "roles"
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
# As transformers 5.1 writes them.
PLAIN5 = {"rope_type": "default", "rope_theta": 10000.0}
LINEAR5 = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}
LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}
LONG = [1.0 + number / 7 for number in range(64)]
YARN = {"factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0}


def test_the_engine_is_the_one_of_the_locks() -> None:
    files = ROLES / "fastchat/files/image"
    assert f"\ntransformers=={TRANSFORMERS} " in (files / "worker.txt").read_text(encoding="utf-8")
    assert f"\ntransformers=={TRANSFORMERS} " in (ROLES / "finetune/files/image/finetune.txt").read_text(
        encoding="utf-8"
    )
    assert f"\nfschat=={FASTCHAT} " in (files / "api.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_scaling": None, "rope_theta": 10000.0},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 500000.0},
        {"rope_parameters": None},
        {"rope_parameters": PLAIN5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000}},
        {"rope_parameters": {"full_attention": PLAIN5, "sliding_attention": PLAIN5}},
        {"rope_parameters": {**PLAIN5, "rope_theta": 500000.0}, "rope_theta": 500000.0},
        {"rope_parameters": LINEAR5, "rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_parameters": {**PLAIN5, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.5},
        {"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0]}},
        {"model_type": "mixtral", "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {"dtype": "bfloat16", "head_dim": 128, "num_key_value_heads": None, "sliding_window": None},
    ],
)
def test_what_is_read_as_it_was_written(config: dict[str, Any]) -> None:
    assert check({**LLAMA, **config}, {}) == []


@pytest.mark.parametrize(
    ("config", "found", "mended"),
    [
        (
            {"rope_parameters": LINEAR5},
            "would compute with rope_theta 10000.0 and no rope_scaling",
            {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ),
        (
            {"rope_parameters": {**PLAIN5, "rope_theta": 500000.0}},
            "would compute with rope_theta 10000.0 and no rope_scaling",
            {"rope_theta": 500000.0},
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
            "no rope_scaling",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **YARN}},
            "no rope_scaling",
            {"rope_scaling": {"rope_type": "yarn", **YARN}},
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}, "rope_theta": 500000.0},
            "rope_theta 500000.0 and no rope_scaling",
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        ),
        (
            {"rope_parameters": {"rope_type": "longrope", "factor": 2.0, "short_factor": LONG, "long_factor": LONG}},
            "no rope_scaling",
            {"rope_scaling": {"rope_type": "longrope", "factor": 2.0, "short_factor": LONG, "long_factor": LONG}},
        ),
        (
            {
                "rope_parameters": {**LINEAR5, "factor": 8.0},
                "rope_theta": 5e5,
                "rope_scaling": {"type": "linear", "factor": 4.0},
            },
            'rope_scaling {"rope_type": "linear", "factor": 4.0}',
            {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        (
            {"rope_parameters": PLAIN5, "rope_scaling": {"type": "linear", "factor": 4.0}},
            'rope_scaling {"rope_type": "linear", "factor": 4.0}',
            {"rope_scaling": None},
        ),
        (
            {"rope_parameters": {**PLAIN5, "partial_rotary_factor": 0.5}},
            "no rope_scaling",
            {"partial_rotary_factor": 0.5},
        ),
        (
            {"rope_parameters": {"full_attention": LINEAR5, "sliding_attention": LINEAR5}},
            "no rope_scaling",
            {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ),
        (
            {"rope_scaling": LINEAR5},
            'rope_scaling {"rope_type": "linear", "factor": 4.0}',
            {"rope_theta": 500000.0},
        ),
        (
            {"model_type": "new", "rope_parameters": PLAIN5},
            "would compute with rope_theta of its own",
            {"rope_theta": 10000.0},
        ),
    ],
)
def test_what_would_be_computed_otherwise(config: dict[str, Any], found: str, mended: dict[str, Any]) -> None:
    """The message names the keys that mend it, and with them the model is taken."""
    with pytest.raises(Unreadable) as error:
        check({**LLAMA, **config}, {})
    message = str(error.value)
    assert re.match(
        r"Found rope_(parameters|scaling) in config\.json, as transformers 5 writes it \(.*Expected ", message
    )
    assert found in message and ENGINE in message
    said = re.search(r"Write (.*) beside it in a copy of the repository, and name that in vicuna_model_repo", message)
    assert said and json.loads("{" + said[1] + "}") == mended
    assert check({**LLAMA, **config, **mended}, {}) == []


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"rope_parameters": {"full_attention": LINEAR5, "sliding_attention": PLAIN5}}, "by layer as transformers 5"),
        ({"rope_parameters": {"full_attention": PLAIN5, "rope_theta": 1.0}}, "by layer as transformers 5"),
        ({"rope_parameters": [PLAIN5]}, "by layer as transformers 5"),
        ({"text_config": {"model_type": "llama", "rope_parameters": LINEAR5}}, "Found text_config.rope_parameters"),
        ({"rope_scaling": {"factor": 4.0}}, "Found rope_scaling with nothing as its type"),
        ({"rope_scaling": {"rope_type": "su", "factor": 4.0}}, "Found rope_scaling with su as its type"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}},
            "Found rope_scaling with llama3 as its type and no original_max_position_embeddings, low_freq_factor",
        ),
        (
            {"rope_scaling": {"rope_type": "longrope", "factor": 8.0}},
            "Found rope_scaling with longrope as its type and no short_factor, long_factor",
        ),
        ({"rope_scaling": {}}, "Found rope_scaling with nothing as its type"),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 4.0}},
            "Found rope_scaling with dynamic and linear as its type",
        ),
    ],
)
def test_what_else_is_refused(config: dict[str, Any], found: str) -> None:
    with pytest.raises(Unreadable, match=re.escape(found)) as error:
        check({**LLAMA, **config}, {})
    assert " Expected " in str(error.value) and "vicuna_model_repo" in str(error.value)


@pytest.mark.parametrize(
    ("tokenizer", "found"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, ""),
        ({"tokenizer_class": None, "extra_special_tokens": {}}, ""),
        ({"extra_special_tokens": {"image_token": "<image>"}}, ""),
        ({"tokenizer_class": "TokenizersBackend"}, "Write tokenizer_class LlamaTokenizer in a copy"),
        (
            {"tokenizer_class": "SentencePieceBackend"},
            "Found tokenizer_class SentencePieceBackend in tokenizer_config.json",
        ),
        ({"extra_special_tokens": ["<image>"]}, "to be a JSON array, as transformers 5 writes it"),
        ({"extra_special_tokens": []}, "Rename the key to additional_special_tokens"),
        ({"extra_special_tokens": None}, "to be a JSON null"),
    ],
)
def test_tokenizers(tokenizer: dict[str, Any], found: str) -> None:
    try:
        assert check(LLAMA, tokenizer) == [] and not found
    except Unreadable as error:
        assert found and found in str(error) and ENGINE in str(error)


def test_what_a_newer_transformers_wrote_is_told() -> None:
    config = {**LLAMA, "transformers_version": "5.1.0", "dtype": "bfloat16", "rope_parameters": PLAIN5}
    (note,) = check(config, {})
    assert note.startswith("config.json was written by transformers 5.1.0: FastChat 0.2.36 with transformers 4.57.6")
    for older in ("4.57.6", "4.31.0.dev0", "", None, "main"):
        assert check({**LLAMA, "transformers_version": older}, {}) == []


BROKEN: dict[str, tuple[bytes, str]] = {
    "a byte-order mark": (b'\xef\xbb\xbf{"a": 1}', "line 1, column 1: a byte-order mark before the text"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "it is in UTF-16, where UTF-8 was expected"),
    "a comma too many": (b'{"a": 1,\n}', "line 1, column 8: a comma before the closing }"),
    "a comment": (b'{\n  // a\n  "a": 1}', "line 2, column 3: a comment"),
    "latin-1": (b'{"a": "\xe9"}', "line 1, column 8: the byte 0xe9 is no UTF-8"),
    "a key twice": (b'{"a": 1,\n "a": 2}', 'line 2, column 2: the key "a" stands here for the second time'),
    "deep": (b"[" * 3000, "line 1, column 101: nested deeper than 100"),
    "a list": (b"[]", "it is a JSON array"),
    "binary": (b"\x1f\x8b\x08\x00", "it is compressed by gzip"),
    "cut off": (b'{"a": 1', "line 1, column 8: it ends in the middle"),
    "empty": (b"", "it is empty"),
}


def listing(contents: dict[str, bytes], *names: str) -> Listing:
    files = [File(name, "", 10) for name in (*contents, *names)]
    return Listing("c", files, {path: data.decode("utf-8", "surrogateescape") for path, data in contents.items()})


@pytest.mark.parametrize("path", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("name", BROKEN)
def test_no_json_and_where(path: str, name: str) -> None:
    data, found = BROKEN[name]
    contents = {"config.json": json.dumps(LLAMA).encode(), path: data}
    with pytest.raises(Unreadable) as error:
        describe(listing(contents), [], [])
    assert str(error.value).startswith(f"Found {path} of the model to be no JSON that {ENGINE} reads: {found}")
    assert "Expected one JSON object in UTF-8. Mend it (`python3 -m json.tool" in str(error.value)


def test_what_the_worker_does_not_read_does_not_matter() -> None:
    """An index beside the weights in one file; old tokenizer files beside the list that stands for them."""
    good, bad = json.dumps(LLAMA), "{,}"
    found = describe(
        listing({"config.json": good.encode(), "model.safetensors.index.json": b"{,}"}, "model.safetensors"), [], []
    )
    assert [file["path"] for file in found["files"]] == ["model.safetensors"]
    tokenizer = json.dumps({"added_tokens_decoder": {}})
    assert read({"config.json": good, "tokenizer_config.json": tokenizer, "added_tokens.json": bad})[2] == []
    with pytest.raises(Unreadable, match=r"Found added_tokens\.json"):
        read({"config.json": good, "tokenizer_config.json": "{}", "added_tokens.json": bad})
    # The worker takes its own defaults in silence then.
    (note,) = read({"config.json": good, "generation_config.json": bad})[2]
    assert note.startswith("generation_config.json is passed over by the worker. Found generation_config.json")


def test_numbers_that_python_alone_reads() -> None:
    assert read({"config.json": '{"time_step_limit": [0.0, Infinity]}'})[0] == {"time_step_limit": [0.0, float("inf")]}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"num_hidden_layers": float("inf")}, "without num_hidden_layers"),
        ({"hidden_size": float("nan")}, "without hidden_size"),
        ({"num_attention_heads": 32.5}, "without num_attention_heads"),
        ({"max_position_embeddings": float("nan")}, "Found max_position_embeddings 'nan'"),
        ({"max_position_embeddings": True}, "Found max_position_embeddings 'True'"),
        ({"max_position_embeddings": -1}, "Found max_position_embeddings '-1'"),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, "rope_scaling without a factor"),
        ({"rope_scaling": {"type": "linear", "factor": True}}, "rope_scaling without a factor"),
        # Phi-3 with 128k positions: numbers by the hundred, of which a message has some.
        (
            {"model_type": "phi3", "rope_scaling": {"type": "longrope", "long_factor": LONG, "short_factor": LONG}},
            "...). Expected a factor: FastChat reads it when the worker starts",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling without a factor"),
        ({"rope_parameters": LINEAR5}, "Found rope_parameters"),
    ],
)
def test_plans_refuse(change: dict[str, Any], found: str) -> None:
    info = {"config": {**LLAMA, **change}, "weights_bytes": 1}
    with pytest.raises(Unreadable, match=re.escape(found)):
        sp.read_model(info)


def test_the_plan_of_what_transformers_5_wrote_harmlessly() -> None:
    config = {
        **LLAMA,
        "dtype": "bfloat16",
        "torch_dtype": "float32",
        "head_dim": 128,
        "num_key_value_heads": None,
        "rope_parameters": PLAIN5,
        "transformers_version": "5.1.0",
    }
    model = sp.read_model({"config": config, "weights_bytes": 13_476_926_466, "notes": ["seen"]})
    assert (model.context, model.kv_heads, model.head_dim, model.parameters) == (4096, 32, 128, 6_738_463_233)
    assert model.notes[0] == "seen" and "transformers 5.1.0" in model.notes[1]
