#!/usr/bin/env python3
"""Write the hash-locked requirements of the FastChat image.

    tools/lock.py          # needs uv: pip install uv

Three layers come out of one resolution, so that they can never disagree:
``api.txt`` (FastChat without torch), ``worker.txt`` (what the worker adds) and ``torch-cuda.txt`` (torch with NVIDIA's
libraries, as PyPI has them). ``torch-cpu.txt`` is kept by hand: PyPI does not carry that build. It may be newer than
the CUDA build, whose CUDA runtime decides which drivers will do (see torch-cuda.in).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

IMAGE = Path(__file__).resolve().parent.parent / "roles/fastchat/files/image"
PYTHON = "3.11"  # the base image's: Debian 12
# Only FastChat's web page imports these; wavedrom has no wheel.
UNUSED = {"latex2mathml", "markdown2", "nh3", "svgwrite", "wavedrom"}
CUDA = re.compile(r"^(torch|triton|nvidia-.*|cuda-.*)$")
HEADER = "# Written by tools/lock.py from {source}; do not edit.\n"


def resolve(*sources: str) -> dict[str, str]:
    """Return requirement blocks (name to text with hashes) for the .in files."""
    command = ["uv", "pip", "compile", "--no-config", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"]
    command += ["--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_31", *sources]
    text = subprocess.run(command, cwd=IMAGE, check=True, capture_output=True, text=True).stdout
    blocks = re.findall(r"^(?:[a-z0-9].*\n)(?:    --hash.*\n)+", text, re.MULTILINE)
    return {block.split("==")[0].split("[")[0]: block for block in blocks}


def main() -> int:
    """Write the three files; return 0."""
    worker = resolve("worker.in", "torch-cuda.in")
    api = resolve("api.in", "--constraint", "worker.in")
    layers = {"api.txt": {}, "worker.txt": {}, "torch-cuda.txt": {}}  # type: dict[str, dict[str, str]]
    for name, block in worker.items():
        layer = "api.txt" if name in api else "torch-cuda.txt" if CUDA.match(name) else "worker.txt"
        if name not in UNUSED:
            layers[layer][name] = block
    for file, blocks in layers.items():
        source = "api.in, versions of worker.in" if file == "api.txt" else "worker.in and torch-cuda.in"
        (IMAGE / file).write_text(HEADER.format(source=source) + "".join(blocks[name] for name in sorted(blocks)))
        print(f"{file}: {len(blocks)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
