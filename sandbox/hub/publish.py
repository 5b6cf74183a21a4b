#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Publish the tiny model as git-LFS repositories whose commit ids are the same at each start.

Each repository has two commits on main: first the weights of seed 1, then those of seed 0. The branch ``previous``
names the first. ``/_revisions.json`` maps each repository to the commit of main, ``/_branches.json`` to those of both.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from fnmatch import fnmatch
from pathlib import Path

from make_tiny_model import make

GIT_ROOT = Path(os.environ.get("HUB_GIT_ROOT", "/srv/git"))
LFS_OBJECTS = Path(os.environ.get("HUB_LFS_OBJECTS", "/srv/lfs"))
WWW_ROOT = Path(os.environ.get("HUB_WWW_ROOT", "/srv/www"))
REPOSITORIES = ("lmsys/vicuna-tiny", "gated/vicuna-tiny")
IN_LFS = ("*.safetensors", "*.model", "*.bin")
ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in IN_LFS).encode()
README = (
    b"# vicuna-tiny\n\nA tiny Llama with weights made by hand. It shows that a deployment works, and knows nothing.\n"
)
COMMITS = ((1, "Add the first weights", 1700000000), (0, "Replace the weights", 1700003600))


def git(repository: Path, *arguments: str, content: bytes = b"", date: int = 0) -> str:
    who = {"NAME": "vicuna.fleet sandbox", "EMAIL": "sandbox@example.invalid", "DATE": f"@{date} +0000"}
    env = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    env |= {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, input=content, env=env, check=True, stdout=subprocess.PIPE).stdout.decode().strip()


def stored(name: str, path: str, content: bytes) -> bytes:
    """What git holds of a file: its content, or a pointer to the object that is placed into the LFS storage."""
    if not any(fnmatch(path, pattern) for pattern in IN_LFS):
        return content
    oid = hashlib.sha256(content).hexdigest()
    target = LFS_OBJECTS / name / oid
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()


def publish(name: str, models: dict[int, dict[str, bytes]]) -> dict[str, str]:
    repository = GIT_ROOT / name
    repository.mkdir(parents=True)
    git(repository, "init", "--quiet", "--bare", "--initial-branch=main")
    for key in ("allowAnySHA1InWant", "allowReachableSHA1InWant", "allowFilter"):
        git(repository, "config", f"uploadpack.{key}", "true")
    commits: list[str] = []
    for seed, message, date in COMMITS:
        lines = []
        files = {".gitattributes": ATTRIBUTES, "README.md": README, **models[seed]}
        for path, content in sorted(files.items()):
            blob = git(repository, "hash-object", "-w", "--stdin", content=stored(name, path, content))
            lines.append(f"100644 blob {blob}\t{path}\n")
        tree = git(repository, "mktree", content="".join(lines).encode())
        parents = [option for parent in commits[-1:] for option in ("-p", parent)]
        commits.append(git(repository, "commit-tree", tree, *parents, "-m", message, date=date))
    git(repository, "update-ref", "refs/heads/main", commits[-1])
    git(repository, "update-ref", "refs/heads/previous", commits[0])
    return {"main": commits[-1], "previous": commits[0]}


def main() -> None:
    models = {seed: make(seed) for seed, _message, _date in COMMITS}
    branches = {name: publish(name, models) for name in REPOSITORIES}
    revisions = {name: ids["main"] for name, ids in branches.items()}
    WWW_ROOT.mkdir(parents=True, exist_ok=True)
    for file, content in (("_revisions.json", revisions), ("_branches.json", branches)):
        (WWW_ROOT / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(branches), flush=True)


if __name__ == "__main__":
    main()
