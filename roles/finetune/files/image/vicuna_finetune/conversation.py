# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Vicuna's template: a dialogue as the token ids that a worker makes of it, and which of them are learned.

The text is that of FastChat 0.2.36's template vicuna_v1.1 (fastchat/conversation.py), and the ids are the tokenizer's
own of that text. FastChat's training code finds the answers by counting the tokens of pieces of the text, with
corrections that hold for one vocabulary; where the count fails, it drops the dialogue with a line in the log
(fastchat/train/train.py, preprocess). Here each token's place in the text is known, and an answer is what stands
between two places.

Pure but for load_tokenizer(): no import beside the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
ROLES = {"human": "USER", "gpt": "ASSISTANT"}
# What follows a message of the user, and one of the assistant.
END = {"human": " ", "gpt": "</s>"}
# What torch's cross entropy leaves out.
IGNORED = -100
# SentencePiece's sign for a blank.
BLANK = "\u2581"


class ConversationError(ValueError):
    """A dialogue or a tokenizer that this template cannot be applied to."""


@dataclass(frozen=True)
class Encoded:
    """A dialogue's tokens; ``labels`` holds -100 where a token is read and not learned."""

    input_ids: list[int]
    labels: list[int]
    # Length before the cut, in tokens.
    length: int

    @property
    def cut(self) -> bool:
        return self.length > len(self.input_ids)

    @property
    def learned(self) -> int:
        """How many tokens the loss is over. The first token of a sequence is never predicted."""
        return sum(label != IGNORED for label in self.labels[1:])


def load_tokenizer(base: Path, max_length: int) -> Any:
    """The slow tokenizer, which FastChat serves with, padded as FastChat trains."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(base), use_fast=False, model_max_length=max_length, padding_side="right", local_files_only=True
    )
    if tokenizer.is_fast or not hasattr(tokenizer, "legacy"):
        raise ConversationError(
            f"Found: a {type(tokenizer).__name__} in {base}. Expected: LlamaTokenizer, which needs tokenizer.model. "
            "Remedy: fetch the model with its tokenizer.model."
        )
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def prompt(question: str) -> str:
    """What a worker is given for one question."""
    return f"{SYSTEM} USER: {question} ASSISTANT:" if question else f"{SYSTEM} USER:ASSISTANT:"


def turns_of(dialogue: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The turns that are trained on: from the first of the user to the last of the assistant.

    FastChat, too, leaves out an answer to nothing at the start. What follows the last answer teaches nothing.
    """
    try:
        turns = [(turn["from"], turn["value"]) for turn in dialogue["conversations"]]
    except (KeyError, TypeError) as error:
        raise ConversationError(_bad(dialogue, f"a turn without {error}", "turns with 'from' and 'value'")) from error
    for speaker, text in turns:
        if speaker not in ROLES or not isinstance(text, str):
            raise ConversationError(_bad(dialogue, f"a turn from {speaker!r}", "text from 'human' or 'gpt'"))
    if turns and turns[0][0] == "gpt":
        turns = turns[1:]
    if turns and turns[-1][0] == "human":
        turns = turns[:-1]
    for number, (speaker, _text) in enumerate(turns):
        if speaker != ("human", "gpt")[number % 2]:
            raise ConversationError(_bad(dialogue, f"two turns from {speaker!r} in a row", "'human' and 'gpt' in turn"))
    return turns


def render(turns: Iterable[tuple[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    """The text of a dialogue, and the place of each answer in it with the </s> that ends it."""
    text, answers = f"{SYSTEM} ", []
    for speaker, message in turns:
        # FastChat's get_prompt() ends an empty message with nothing, not even with its separator.
        said = f": {message}{END[speaker]}" if message else ":"
        start = len(text) + len(ROLES[speaker]) + 1
        text += ROLES[speaker] + said
        if speaker == "gpt" and message:
            answers.append((start, len(text)))
    return text, answers


def encode(tokenizer: Any, dialogue: Mapping[str, Any], max_length: int) -> Encoded:
    """A dialogue's ids and labels, at most ``max_length`` of them."""
    text, answers = render(turns_of(dialogue))
    ids: list[int] = tokenizer(text, verbose=False).input_ids
    labels = [IGNORED] * len(ids)
    try:
        places = spans(tokenizer, ids, text)
    except ConversationError as error:
        raise ConversationError(
            _bad(dialogue, str(error), "Llama's slow tokenizer with its tokenizer.model")
        ) from error
    answer = iter(answers)
    start, end = next(answer, (len(text), len(text)))
    for number, (first, last) in enumerate(places):
        while first >= end and start < len(text):
            start, end = next(answer, (len(text), len(text)))
        # A </s> within a text is the end of an answer to a worker's tokenizer, too; it must not be learned as one.
        if first >= start and (ids[number] != tokenizer.eos_token_id or last == end):
            labels[number] = ids[number]
    return Encoded(ids[:max_length], labels[:max_length], len(ids))


def spans(tokenizer: Any, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """Where each token stands in the text: its first character, and the one after its last.

    Slow tokenizers do not tell. A text is what the pieces of its tokens spell one after the other, where a character
    that has no piece is spelled byte by byte. Each of those tokens has the whole character's place.
    """
    added = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    data = text.replace(BLANK, " ").encode()
    # The character that each byte belongs to.
    character: Sequence[int] = range(len(text) + 1)
    if len(data) != len(text):
        character = [number for number, char in enumerate(text) for _byte in _bytes(char)] + [len(text)]
    found, at, begins = [], 0, True
    for number, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if number == 0 and token == tokenizer.bos_token:
            found.append((0, 0))
            continue
        if token in added:
            spelled = token.encode()
        else:
            spelled = bytes([int(token[3:5], 16)]) if _is_byte(token) else token.replace(BLANK, " ").encode()
            if begins and spelled[:1] == b" ":
                # The tokenizer's own blank before the text; an older one puts it behind every special token, too.
                spelled = spelled[1:]
        if not data.startswith(spelled, at):
            raise ConversationError(f"token {number}, {token!r}, is not what the text goes on with at byte {at}")
        begins = token in added and bool(tokenizer.legacy)
        first, at = character[at], at + len(spelled)
        found.append((first, character[at - 1] + 1 if spelled else first))
    if at != len(data):
        raise ConversationError(f"tokens that end at byte {at} of {len(data)}")
    return found


def _is_byte(token: str) -> bool:
    """Whether a piece is SentencePiece's name of a byte, as <0x0A> is."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _bytes(char: str) -> bytes:
    return b" " if char == BLANK else char.encode()


def _bad(dialogue: Mapping[str, Any], found: str, expected: str) -> str:
    name = dialogue.get("id", "without an id") if isinstance(dialogue, Mapping) else "that is no object"
    return f"Dialogue {name}: found {found}; expected {expected}."
