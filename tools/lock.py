#!/usr/bin/env python3
"""Write the hash-locked requirements of the images.

    tools/lock.py [fastchat] [finetune]          # both unless one is named; needs uv: pip install uv

fastchat: three layers come out of one resolution, so that they can never disagree:
``api.txt`` (FastChat without torch), ``worker.txt`` (what the worker adds) and ``torch-cuda.txt`` (torch with NVIDIA's
libraries, as PyPI has them). ``torch-cpu.txt`` is kept by hand: PyPI does not carry that build. It may be newer than
the CUDA build, whose CUDA runtime decides which drivers will do (see torch-cuda.in).

finetune: ``finetune.txt`` and ``finetune-cuda.txt``, which stand on the same two torch locks. Whatever FastChat's image
has too is taken from its locks in the same version: a model is loaded by the libraries that saved it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROLES = Path(__file__).resolve().parent.parent / "roles"
FASTCHAT = ROLES / "fastchat/files/image"
FINETUNE = ROLES / "finetune/files/image"
PYTHON = "3.11"  # the base image's: Debian 12
# Only FastChat's web page imports these; wavedrom has no wheel.
UNUSED = {"latex2mathml", "markdown2", "nh3", "svgwrite", "wavedrom"}
CUDA = re.compile(r"^(torch|triton|nvidia-.*|cuda-.*)$")
HEADER = "# Written by tools/lock.py from {source}; do not edit.\n"


def resolve(directory: Path, *sources: str) -> dict[str, str]:
    """Return requirement blocks (name to text with hashes) for the .in files of a directory."""
    command = ["uv", "pip", "compile", "--no-config", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"]
    command += ["--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_31", *sources]
    return blocks_of(subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout)


def blocks_of(text: str) -> dict[str, str]:
    """Return the requirement blocks of a lock by name."""
    blocks = re.findall(r"^(?:[a-z0-9].*\n)(?:    --hash.*\n)+", text, re.MULTILINE)
    return {block.split("==")[0].split("[")[0]: block for block in blocks}


def write(directory: Path, file: str, source: str, blocks: dict[str, str]) -> None:
    """Write one lock."""
    (directory / file).write_text(HEADER.format(source=source) + "".join(blocks[name] for name in sorted(blocks)))
    print(f"{file}: {len(blocks)} packages")


def lock_fastchat() -> None:
    """Write the three files of FastChat's image."""
    worker = resolve(FASTCHAT, "worker.in", "torch-cuda.in")
    api = resolve(FASTCHAT, "api.in", "--constraint", "worker.in")
    layers = {"api.txt": {}, "worker.txt": {}, "torch-cuda.txt": {}}  # type: dict[str, dict[str, str]]
    for name, block in worker.items():
        layer = "api.txt" if name in api else "torch-cuda.txt" if CUDA.match(name) else "worker.txt"
        if name not in UNUSED:
            layers[layer][name] = block
    for file, blocks in layers.items():
        source = "api.in, versions of worker.in" if file == "api.txt" else "worker.in and torch-cuda.in"
        write(FASTCHAT, file, source, blocks)


def lock_finetune() -> None:
    """Write the two files of the image that trains; they lack torch, which FastChat's two torch locks bring."""
    locks = [FASTCHAT / name for name in ("api.txt", "worker.txt", "torch-cuda.txt")]
    torch = blocks_of(locks[-1].read_text())
    known = [argument for lock in locks for argument in ("--constraint", str(lock))]
    common = resolve(FINETUNE, "finetune.in", *known)
    cuda = resolve(FINETUNE, "finetune.in", "finetune-cuda.in", *known)
    # What the CPU build of torch needs besides itself comes with peft and accelerate, which need torch as well.
    common = {name: block for name, block in common.items() if name not in torch}
    cuda = {name: block for name, block in cuda.items() if name not in torch and name not in common}
    write(FINETUNE, "finetune.txt", "finetune.in, versions of FastChat's locks", common)
    write(FINETUNE, "finetune-cuda.txt", "finetune-cuda.in, versions of FastChat's locks", cuda)


def main(arguments: list[str]) -> int:
    """Write the locks that are named; return 0."""
    for name, lock in (("fastchat", lock_fastchat), ("finetune", lock_finetune)):
        if name in arguments or not arguments:
            lock()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
