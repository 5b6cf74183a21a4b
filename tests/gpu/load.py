#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask the deployed model with full contexts at its concurrency limit, and hold the plan to what nvidia-smi shows.

    load.py --url http://127.0.0.1:8000 --key KEY --streams 5 --context 16384 --planned-mib 60000

Prints one JSON object; memory in MiB. Exit 1 where an answer is no completion, or the plan is more than 10 % off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

TOLERANCE = 0.10


def used() -> int:
    """Used memory of the first GPU, in MiB."""
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def ask(url: str, key: str, model: str, words: int, tokens: int) -> dict[str, Any]:
    """The answer to a prompt of so many words, as FastChat's usage counts them."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello " * words}],
        "max_tokens": tokens,
        "temperature": 0,
    }
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), method="POST")
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=300) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold the plan to what nvidia-smi shows under load.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", default="vicuna")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--planned-mib", type=int, required=True)
    arguments = parser.parse_args()
    url, key, model = arguments.url, arguments.key, arguments.model

    few, more = (ask(url, key, model, words, 1)["usage"]["prompt_tokens"] for words in (100, 200))
    per_word = (more - few) / 100
    words = int((arguments.context - arguments.tokens - few - 8) / per_word) + 100
    idle = used()
    answers: list[dict[str, Any]] = []
    failures: list[str] = []

    def one() -> None:
        try:
            answers.append(ask(url, key, model, words, arguments.tokens))
        except (OSError, ValueError) as error:
            failures.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(arguments.streams)]
    started, peak = time.monotonic(), idle
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, used())
        time.sleep(0.05)
    seconds = time.monotonic() - started
    total = [answer.get("usage", {}).get("total_tokens", 0) for answer in answers]
    off = arguments.planned_mib / peak - 1
    good = not failures and len(total) == arguments.streams and min(total) > 0.95 * arguments.context
    result = {
        "streams": arguments.streams,
        "context": arguments.context,
        "total_tokens": total,
        "failures": failures,
        "seconds": round(seconds, 1),
        "idle_used_mib": idle,
        "peak_used_mib": peak,
        "planned_mib": arguments.planned_mib,
        "plan_off_percent": round(100 * off, 1),
        "ok": good and abs(off) <= TOLERANCE,
    }
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
