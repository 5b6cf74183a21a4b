#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure what FastChat's worker takes of a GPU: the constants of the plan come from this.

    memory.py --model DIR --streams 1 2 5 [--load-8bit] [--tokens 128]

The model is loaded and asked by FastChat's own functions, in one process, as its worker does. Each stream gets a prompt
that fills the context but for ``--tokens``. Prints one JSON object for each number of streams; memory in MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import threading
import time
from pathlib import Path

MIB = 1024 * 1024


def used() -> int:
    """The GPU's used memory as nvidia-smi tells it, in MiB; the first GPU that this process may use."""
    index = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", f"--id={index}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what FastChat's worker takes of a GPU.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--load-8bit", action="store_true")
    arguments = parser.parse_args()

    before = used()
    import torch
    from fastchat.model.model_adapter import load_model
    from fastchat.serve.inference import generate_stream
    from fastchat.utils import get_context_length

    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    context = used() - before
    started = time.monotonic()
    model, tokenizer = load_model(arguments.model, device="cuda", num_gpus=1, load_8bit=arguments.load_8bit)
    loading = time.monotonic() - started
    length = get_context_length(model.config)
    base = {
        "model": Path(arguments.model).name,
        "load_8bit": arguments.load_8bit,
        "context_length": length,
        "load_s": round(loading, 1),
        "host_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "cuda_context_mib": context,
        "loaded_allocated_mib": round(torch.cuda.memory_allocated() / MIB),
        "loaded_used_mib": used() - before,
        "alloc_conf": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }
    words = "hello " * (length * 2)
    ids = tokenizer(words).input_ids[: length - arguments.tokens - 8]
    prompt = tokenizer.decode(ids, skip_special_tokens=True)

    def ask(found: list[int]) -> None:
        params = {"prompt": prompt, "temperature": 0.0, "max_new_tokens": arguments.tokens, "echo": False}
        for piece in generate_stream(model, tokenizer, params, "cuda", length):
            usage = piece["usage"]
        found.append(usage["total_tokens"])

    for streams in arguments.streams:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        found: list[int] = []
        threads = [threading.Thread(target=ask, args=(found,)) for _ in range(streams)]
        started, peak = time.monotonic(), 0
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, used() - before)
            time.sleep(0.1)
        result = {
            **base,
            "streams": streams,
            "tokens": found,
            "seconds": round(time.monotonic() - started, 1),
            "peak_allocated_mib": round(torch.cuda.max_memory_allocated() / MIB),
            "peak_reserved_mib": round(torch.cuda.max_memory_reserved() / MIB),
            "peak_used_mib": peak,
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
