# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the worker makes of a model's files as they were published: no input, no output. Private to the collection.

A file that transformers would not read ends the worker minutes after everything was fetched. One that it reads
otherwise than it was written is served wrong and in silence. Both are refused by a plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._common.json_text import JsonError, kind
from ansible_collections.vicuna.fleet.plugins.module_utils._common.json_text import read as read_json

# The lock of the worker's image; a test holds them equal.
FASTCHAT, TRANSFORMERS = "0.2.36", "4.57.6"
ENGINE = f"FastChat {FASTCHAT} with transformers {TRANSFORMERS}"

CONFIG, TOKENIZER, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
# Read only where tokenizer_config.json has no added_tokens_decoder: tokenization_utils_base.py, _from_pretrained.
LEGACY = ("special_tokens_map.json", "added_tokens.json")
# What the worker reads at its start, and a plan with it. All of them are JSON objects in UTF-8.
READ = (
    CONFIG,
    TOKENIZER,
    GENERATION,
    *LEGACY,
    "quantize_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
COPY = "in a copy of the repository, and name that in vicuna_model_repo and vicuna_model_revision"

# rope_theta where config.json has none: transformers 4.57.6, models/*/configuration_*.py.
_THETAS = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "olmo2", "cohere", "stablelm", "falcon"), 1e4
    ),
    **dict.fromkeys(("mixtral", "gemma3_text"), 1e6),
}
# What each type of rope_scaling has to have: transformers 4.57.6, modeling_rope_utils.py.
_SCALINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
# Where the scaling stands that is applied to no layer: _compute_default_rope_parameters.
_PLAIN = "default"


class Unreadable(Exception):
    """A model that nothing can be said about, or that would not be served as it was published, in three parts."""


def load(path: str, content: str) -> dict[str, Any]:
    """One of READ, as transformers reads it (``json.loads`` of UTF-8 text); raises Unreadable."""
    try:
        value = read_json(content.encode("utf-8", "surrogateescape"), marked=False, constants=True)
    except JsonError as error:
        raise _malformed(path, str(error)) from error
    if not isinstance(value, dict):
        raise _malformed(path, f"it is a JSON {kind(value)}")
    return value


def read(contents: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """config.json, tokenizer_config.json, and notes on files that the worker passes over; raises Unreadable.

    contents: path to text, in which bytes that are no UTF-8 are lone surrogates (``surrogateescape``).
    """
    config, tokenizer = (load(path, contents[path]) if path in contents else {} for path in (CONFIG, TOKENIZER))
    if "added_tokens_decoder" not in tokenizer:
        for path in LEGACY:
            if path in contents:
                load(path, contents[path])
    notes = []
    if GENERATION in contents:
        try:
            load(GENERATION, contents[GENERATION])
        except Unreadable as error:
            notes.append(f"{GENERATION} is passed over by the worker. {error}")
    return config, tokenizer, notes


def _malformed(path: str, found: str) -> Unreadable:
    return Unreadable(
        f"Found {path} of the model to be no JSON that {ENGINE} reads: {found}. Expected one JSON object in UTF-8. "
        f"Mend it (`python3 -m json.tool {path}` has to take it) {COPY}; or choose another vicuna_model_revision."
    )


def check(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> list[str]:
    """Notes on what the worker passes over; raises Unreadable where it would end, or serve something else."""
    for where, source in _parts(config):
        _check_scaling(where, source)
        _check_rope(where, source)
    _check_tokenizer(config, tokenizer)
    written = re.match(r"(\d+)\.", str(config.get("transformers_version") or ""))
    if written and int(written[1]) > 4:
        return [
            f"config.json was written by transformers {config['transformers_version']}: {ENGINE} passes over what only "
            "that knows."
        ]
    return []


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "", config
    # A model that also sees or hears keeps the shapes of its language part apart.
    if isinstance(config.get("text_config"), dict):
        yield "text_config.", config["text_config"]


def _check_scaling(where: str, source: Mapping[str, Any]) -> None:
    """transformers looks its function up by the type, and ends where there is none; `type` goes before `rope_type`."""
    scaling = source.get("rope_scaling")
    if not isinstance(scaling, dict):
        return
    types = {str(scaling[key]) for key in ("type", "rope_type") if scaling.get(key) is not None}
    name = next(iter(types), "nothing")
    missing = [key for key in _SCALINGS.get(name, ()) if scaling.get(key) is None]
    # Other kinds of models have types of their own.
    known = name in _SCALINGS or str(source.get("model_type")) not in _THETAS or source.get("model_type") == "phi3"
    if len(types) != 1 or missing or not known:
        told = " and ".join(sorted(types)) or name
        raise Unreadable(
            f"Found {where}rope_scaling with {told} as its type{' and no ' + ', '.join(missing) if missing else ''} in "
            f"config.json. Expected one rope_type of {', '.join(_SCALINGS)}, by which {ENGINE} chooses what it "
            f"computes, and what that needs; its worker ends without. Write it {COPY}."
        )


def _check_rope(where: str, source: Mapping[str, Any]) -> None:
    """rope_parameters of transformers 5 has rope_theta and rope_scaling in one; transformers 4 does not read it."""
    stated = source.get("rope_scaling")
    scaling: dict[str, Any] = stated if isinstance(stated, dict) else {}
    name, given = "rope_parameters", source.get("rope_parameters")
    if given is None and "rope_theta" in scaling:
        name, given = "rope_scaling", scaling
    if given is None or given == {}:
        return
    flat = _flat(given)
    if flat is None:
        raise Unreadable(
            f"Found {where}{name} in config.json, by layer as transformers 5 writes it ({short(given)}). Expected "
            f"rope_theta and rope_scaling: {ENGINE} does not read it, and would compute with other positions. Choose "
            "a vicuna_model_revision that was written by transformers 4, or another vicuna_model_repo."
        )
    wanted = _normal({key: value for key, value in flat.items() if key not in ("rope_theta", "partial_rotary_factor")})
    used = _normal({key: value for key, value in scaling.items() if key not in ("rope_theta", "partial_rotary_factor")})
    theta = source.get("rope_theta") or _THETAS.get(str(source.get("model_type")))
    share = source.get("partial_rotary_factor") or 1.0
    mended: dict[str, Any] = {}
    if flat.get("rope_theta") not in (None, theta):
        mended["rope_theta"] = flat["rope_theta"]
    if flat.get("partial_rotary_factor") not in (None, share):
        mended["partial_rotary_factor"] = flat["partial_rotary_factor"]
    if wanted != used:
        mended["rope_scaling"] = wanted if wanted["rope_type"] != _PLAIN else None
    if mended:
        raise Unreadable(
            f"Found {where}{name} in config.json, as transformers 5 writes it ({short(given)}). Expected rope_theta "
            f"and rope_scaling beside it: {ENGINE} does not read it, and would compute with rope_theta "
            f"{theta or 'of its own'} and {'rope_scaling ' + short(used) if scaling else 'no rope_scaling'}. Write "
            f"{json.dumps(mended)[1:-1]} beside it {COPY}."
        )


def _flat(given: Any) -> dict[str, Any] | None:
    """One set of parameters for all layers; None where there are several, or none that can be told."""
    if not isinstance(given, dict):
        return None
    inner = [value for value in given.values() if isinstance(value, dict)]
    if not inner:
        return given
    return inner[0] if len(inner) == len(given) and all(value == inner[0] for value in inner) else None


def _normal(scaling: Mapping[str, Any]) -> dict[str, Any]:
    """Under the key rope_type alone, and without what is null."""
    found = {key: value for key, value in scaling.items() if key not in ("type", "rope_type") and value is not None}
    return {"rope_type": scaling.get("type") or scaling.get("rope_type") or _PLAIN, **found}


def _check_tokenizer(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    name = str(tokenizer.get("tokenizer_class") or "")
    # transformers 5: TokenizersBackend, SentencePieceBackend, PythonBackend, MistralCommonBackend.
    if name.endswith("Backend"):
        old = "LlamaTokenizer" if config.get("model_type") == "llama" else "that of an earlier revision"
        raise Unreadable(
            f"Found tokenizer_class {name} in {TOKENIZER}, as transformers 5 writes it. Expected a class that {ENGINE} "
            f"has; its worker ends without. Write tokenizer_class {old} {COPY}; tokenizer.model has to be there, too."
        )
    extra = tokenizer.get("extra_special_tokens", {})
    if not isinstance(extra, dict):
        raise Unreadable(
            f"Found extra_special_tokens in {TOKENIZER} to be a JSON {kind(extra)}, as transformers 5 writes it. "
            f"Expected an object of names, or none: {ENGINE} ends with anything else. Rename the key to "
            f"additional_special_tokens {COPY}."
        )


def short(value: Any) -> str:
    """A value as JSON, at a length that a message can hold."""
    text = json.dumps(value)
    return text if len(text) <= 300 else f"{text[:297]}..."
