# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The base model's directory, and the directory of the model that comes out. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import typing as t
from pathlib import Path

from .errors import BadInput
from .progress import tree_to_disk
from .settings import Settings, read_json

# Training changes no byte of these: the result has the base's own, so that it is served as the base is.
KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)
# The licence of a base goes with what is made of it.
KEPT_PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
DTYPES = ("float16", "bfloat16", "float32")
POINTERS = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
    b"version http://git-media.io/v/",
)
FETCH = "fetch it again with playbooks/fetch.yml"


def check_base(base: Path) -> dict[str, t.Any]:
    """Return the model's config.json; raises BadInput where something that training needs is missing."""
    config = read_json(base / "config.json", f"mount a model's directory there, or {FETCH}")
    if not isinstance(config, dict) or "LlamaForCausalLM" not in (config.get("architectures") or []):
        found = config.get("architectures") if isinstance(config, dict) else type(config).__name__
        raise BadInput(f"the base model's architecture is {found}: expected LlamaForCausalLM; choose a Vicuna")
    if not (base / "tokenizer.model").is_file():
        raise BadInput(f"{base} has no tokenizer.model: expected it, Vicuna is served with the slow tokenizer; {FETCH}")
    names = weight_files(base)
    if not names:
        raise BadInput(f"{base} holds no weights: expected *.safetensors or pytorch_model*.bin; {FETCH}")
    for name in ["tokenizer.model", *names]:
        path = base / name
        if not path.is_file():
            raise BadInput(f"{base} lacks {name}, which its index names; {FETCH}")
        with path.open("rb") as stream:
            if stream.read(64).startswith(POINTERS):
                raise BadInput(f"{path} is a git-lfs pointer: expected the file itself; {FETCH}")
    return config


def weight_files(base: Path) -> list[str]:
    """Return the names of the weight files that transformers would load."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (base / index).is_file():
            shards = read_json(base / index, FETCH)
            return sorted(set(shards["weight_map"].values()))
        if (base / single).is_file():
            return [single]
    return []


def dtype_name(config: dict[str, t.Any]) -> str:
    """Return the dtype that the base is stored in, and the result will be."""
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if name not in DTYPES:
        raise BadInput(
            f"the base's config.json says dtype {name}: expected one of {', '.join(DTYPES)}; use another base"
        )
    return name


def publish(part: Path, base: Path, result: Path) -> None:
    """Make a directory with new weights a model: the base's other files, readable by all, under its name at once."""
    kept = [base / name for name in KEPT] + [path for pattern in KEPT_PATTERNS for path in sorted(base.glob(pattern))]
    for name in KEPT:
        (part / name).unlink(missing_ok=True)
    for source in kept:
        if source.is_file():
            shutil.copyfile(source, part / source.name)
    put(part, result)


def put(part: Path, target: Path) -> None:
    """Give a directory its name, when what is in it is on the disk."""
    set_modes(part)
    tree_to_disk(part)
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)


def name_base(adapter: Path, settings: Settings) -> None:
    """Name the base in an adapter's configuration: peft writes where the container had it mounted."""
    path = adapter / "adapter_config.json"
    config = read_json(path, "it is peft that writes it")
    config.update(base_model_name_or_path=settings.base_repo, revision=settings.base_commit)
    path.write_text(canonical(config), encoding="utf-8")


def set_modes(directory: Path) -> None:
    """Let every user read: safetensors writes 0600, and another user serves."""
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def digests(directory: Path) -> dict[str, dict[str, t.Any]]:
    """Return sha256 and size in bytes of every file, by name."""
    found: dict[str, dict[str, t.Any]] = {}
    for path in sorted(directory.iterdir()):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found[path.name] = {"sha256": digest, "size": path.stat().st_size}
    return found


def canonical(value: object) -> str:
    """JSON whose bytes depend on the value alone."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
