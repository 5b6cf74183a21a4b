# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file for each kind of error that a data set can have, for unit tests and for Molecule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ASKED, ANSWERED = {"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "Vicuna."}


def dialogue(*turns: Any) -> bytes:
    return json.dumps([{"id": "a", "conversations": list(turns)}]).encode()


FILES: dict[str, bytes] = {
    "json": b"[{",
    "utf8": dialogue(ASKED, {"from": "gpt", "value": "caf_"}).replace(b"caf_", b"caf\xe9"),
    "format": dialogue(ASKED, ANSWERED).decode().encode("utf-16"),
    "not_object": b"[1]",
    "no_conversations": b'[{"id": "a", "messages": []}]',
    "bad_turn": dialogue(ASKED, {"role": "gpt"}),
    "duplicate_key": b'[{"id": "a", "id": "b", "conversations": []}]',
    "unknown_role": dialogue({"from": "user", "value": "Hi"}, ANSWERED),
    "not_text": dialogue(ASKED, {"from": "gpt", "value": None}),
    "empty_turn": dialogue(ASKED, {"from": "gpt", "value": " "}),
    "surrogate": dialogue(ASKED, {"from": "gpt", "value": "\ud83d"}),
    "nul": dialogue(ASKED, {"from": "gpt", "value": "a\0b"}),
    "one_sided": dialogue(ANSWERED),
    "not_alternating": dialogue(ASKED, ASKED, ANSWERED),
}


def write(folder: Path) -> list[str]:
    """Write them; returns the files' names, each that of its kind."""
    for kind, content in FILES.items():
        (folder / f"{kind}.json").write_bytes(content)
    return [f"{kind}.json" for kind in FILES]
