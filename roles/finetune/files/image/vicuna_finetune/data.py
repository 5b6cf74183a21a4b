# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Dialogues as batches."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from . import conversation
from .errors import BadInput
from .settings import Settings, read_json

MASKED = conversation.IGNORED


class Example(t.NamedTuple):
    """One dialogue. Four bytes a token: as lists of Python's integers a large dataset would take gigabytes."""

    input_ids: numpy.ndarray[t.Any, numpy.dtype[numpy.int32]]
    labels: numpy.ndarray[t.Any, numpy.dtype[numpy.int32]]


@dataclass(frozen=True)
class Examples:
    """The dialogues of one file that can be learned from."""

    items: list[Example]
    cut: int
    dropped: int

    @property
    def tokens(self) -> int:
        return sum(len(item.input_ids) for item in self.items)


def load(path: Path, tokenizer: t.Any, settings: Settings, alive: Callable[[], None]) -> Examples:
    """Encode a file's dialogues; alive() is called for each. Raises BadInput."""
    dialogues = read_json(path, "run the role, which writes it")
    if not isinstance(dialogues, list):
        raise BadInput(
            f"{path.name} holds a {type(dialogues).__name__}: expected a list of dialogues; run the role again"
        )
    items: list[Example] = []
    cut = dropped = 0
    for dialogue in dialogues:
        alive()
        try:
            encoded = conversation.encode(tokenizer, dialogue, settings.max_length)
        except conversation.ConversationError as error:
            raise BadInput(f"{path.name}: {error} Mend the dialogue in finetune_dataset") from error
        if not encoded.learned:
            dropped += 1
            continue
        cut += encoded.cut
        items.append(Example(numpy.array(encoded.input_ids, numpy.int32), numpy.array(encoded.labels, numpy.int32)))
    if cut and not settings.allow_cut:
        raise BadInput(
            f"{path.name}: {cut} dialogues are longer than {settings.max_length} tokens: expected none; "
            "raise finetune_max_length, shorten them, or set finetune_allow_cut"
        )
    if dropped and not settings.allow_dropped:
        raise BadInput(
            f"{path.name}: {dropped} dialogues have no answer within {settings.max_length} tokens: expected none; "
            "raise finetune_max_length, remove them, or set finetune_allow_dropped"
        )
    return Examples(items, cut, dropped)


@dataclass(frozen=True)
class Collator:
    """Pads to the longest dialogue of the batch."""

    pad_id: int

    def __call__(self, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
        longest = max(len(item.input_ids) for item in batch)
        shape = (len(batch), longest)
        tensors = {
            "input_ids": torch.full(shape, self.pad_id, dtype=torch.long),
            "labels": torch.full(shape, MASKED, dtype=torch.long),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
        }
        for row, item in enumerate(batch):
            length = len(item.input_ids)
            tensors["input_ids"][row, :length] = torch.from_numpy(item.input_ids)
            tensors["labels"][row, :length] = torch.from_numpy(item.labels)
            tensors["attention_mask"][row, :length] = 1
        return tensors


def mean_loss(
    model: t.Any,
    items: Sequence[Example],
    collator: Collator,
    batch_size: int,
    *,
    device: torch.device,
    alive: Callable[[], None] = lambda: None,
    rank: int = 0,
    world_size: int = 1,
) -> float | None:
    """Return the mean cross entropy in nats over all learned tokens; None without dialogues.

    With several processes each takes its part, in equally many batches: a sharded model's forward pass needs them all.
    """
    if not items:
        return None
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    rounds = -(-len(batches) // world_size)
    sums = torch.zeros(2, dtype=torch.float64, device="cpu")
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for number in range(rounds):
            alive()
            index = number * world_size + rank
            batch = {name: tensor.to(device) for name, tensor in collator(batches[index % len(batches)]).items()}
            loss = float(model(**batch, use_cache=False).loss)
            if index < len(batches):
                learned = int((batch["labels"][:, 1:] != MASKED).sum())
                sums += torch.tensor([loss * learned, learned], dtype=torch.float64)
    model.train(was_training)
    if world_size > 1:
        shared = sums.to(device)
        torch.distributed.all_reduce(shared)
        sums = shared.cpu()
    return float(sums[0] / sums[1])
