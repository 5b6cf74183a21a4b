# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The step "check": a dataset's lengths in this model's tokens, and what training would cut or leave out.

Needs the tokenizer, and no torch.
"""

from __future__ import annotations

import json
import sys
import typing as t
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import conversation
from .errors import BadInput
from .progress import Progress, write_atomically
from .settings import RunDir, Settings, read_json

SCHEMA = 1
# Names of dialogues in check.json and in a message; the rest is counted.
NAMED, SAID = 50, 3
QUANTILES = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}


@dataclass
class Part:
    """One file's figures; lengths in tokens, before any cut."""

    lengths: list[int] = field(default_factory=list)
    tokens: int = 0  # after the cut
    learned: int = 0
    cut: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add(self, name: str, encoded: conversation.Encoded) -> None:
        self.lengths.append(encoded.length)
        if not encoded.learned:
            self.dropped.append(name)
            return
        self.tokens += len(encoded.input_ids)
        self.learned += encoded.learned
        if encoded.cut:
            self.cut.append(name)

    def report(self) -> dict[str, t.Any]:
        return {
            "dialogues": len(self.lengths),
            "used": len(self.lengths) - len(self.dropped),
            "tokens": self.tokens,
            "learned_tokens": self.learned,
            "learned_share": round(self.learned / self.tokens, 4) if self.tokens else 0.0,
            "length": quantiles(self.lengths),
            "cut": {"count": len(self.cut), "ids": self.cut[:NAMED]},
            "dropped": {"count": len(self.dropped), "ids": self.dropped[:NAMED]},
        }


def quantiles(lengths: Iterable[int]) -> dict[str, int]:
    """Least, median, 95th percentile and greatest, each the length of some dialogue (nearest rank); 0 of nothing."""
    ordered = sorted(lengths)
    last = len(ordered) - 1
    return {name: ordered[round(share * last)] if ordered else 0 for name, share in QUANTILES.items()}


def measure(
    tokenizer: t.Any, dialogues: Iterable[Mapping[str, t.Any]], max_length: int, alive: Callable[[], None]
) -> Part:
    """Encode every dialogue; alive() is called for each. Raises ConversationError."""
    part = Part()
    for number, dialogue in enumerate(dialogues):
        alive()
        encoded = conversation.encode(tokenizer, dialogue, max_length)
        part.add(str(dialogue.get("id", number)), encoded)
    return part


def problems(parts: Mapping[str, Part], values: Settings) -> list[str]:
    """What the settings do not allow, each with what was found, what was expected, and what mends it."""
    found = []
    for name, part in parts.items():
        if part.cut and not values.allow_cut:
            found.append(
                f"Found: {some(part.cut)} of {name} longer than {values.max_length} tokens, the longest of "
                f"{max(part.lengths)}. Expected: none that is cut. Remedy: set finetune_max_length to "
                f"{max(part.lengths)}, shorten them, or set finetune_allow_cut."
            )
        if part.dropped and not values.allow_dropped:
            found.append(
                f"Found: {some(part.dropped)} of {name} without an answer in the first {values.max_length} tokens. "
                "Expected: something to learn in each. Remedy: raise finetune_max_length, take them out, or set "
                "finetune_allow_dropped."
            )
        if part.lengths and len(part.dropped) == len(part.lengths):
            found.append(
                f"Found: nothing to learn in {name}. Expected: an answer in the first {values.max_length} tokens of a "
                "dialogue. Remedy: raise finetune_max_length, or mend finetune_dataset."
            )
    if not parts["train.json"].lengths:
        found.append("Found: no dialogue in train.json. Expected: one or more. Remedy: mend finetune_dataset.")
    return found


def some(names: list[str]) -> str:
    """The first names, and how many there are in all."""
    said = ", ".join(names[:SAID]) + (", …" if len(names) > SAID else "")
    return f"{len(names)} dialogue{'' if len(names) == 1 else 's'} ({said})"


def table(parts: Mapping[str, Part]) -> list[str]:
    """The figures for a person."""
    rows = [["", "dialogues", "tokens", "learned", *QUANTILES, "cut", "dropped"]]
    for name, part in parts.items():
        made = part.report()
        share = f"{made['learned_share']:.0%}"
        figures = [made["dialogues"], made["tokens"], share, *made["length"].values(), len(part.cut), len(part.dropped)]
        rows.append([name, *map(str, figures)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]


def dialogues_of(path: Path) -> list[dict[str, t.Any]]:
    """The dialogues of a file that the role wrote; raises BadInput."""
    found = read_json(path, "run the role, which writes it")
    if not isinstance(found, list) or not all(isinstance(dialogue, dict) for dialogue in found):
        raise BadInput(f"{path.name} is no list of dialogues: expected ShareGPT's JSON; run the role, which writes it")
    return found


def check(run: RunDir, base: Path, values: Settings, progress: Progress | None = None) -> int:
    """Write check.json and print the table; return 0, or 2 where the settings do not allow what was found."""
    progress = progress or Progress(run.progress)
    try:
        tokenizer = conversation.load_tokenizer(base, values.max_length)
        parts = {
            path.name: measure(tokenizer, dialogues_of(path), values.max_length, progress.update)
            for path in (run.train, run.heldout)
            if path == run.train or path.is_file()
        }
    except conversation.ConversationError as error:
        raise BadInput(str(error)) from error
    found = problems(parts, values)
    write_atomically(
        run.path / "check.json",
        json.dumps(
            {
                "schema": SCHEMA,
                "ok": not found,
                "max_length": values.max_length,
                "files": {name: part.report() for name, part in parts.items()},
                "problems": found,
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n",
    )
    print("\n".join(table(parts)), flush=True)
    for problem in found:
        print(problem, file=sys.stderr, flush=True)
    return 2 if found else 0
