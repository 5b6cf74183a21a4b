#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What FastChat's own training code makes of a table of dialogues, written to golden.json beside this file.

    pip install --no-deps fschat==0.2.36
    pip install transformers==4.57.6 torch==2.13.0 sentencepiece==0.2.3 protobuf==7.36.2 'pydantic<2' requests \
        accelerate psutil
    golden.py                                     write golden.json
    golden.py --compare 2000 [--tokenizer DIR]    hold vicuna_finetune.conversation against FastChat on random dialogues

The tokenizer is that of sandbox/hub/make_tiny_model.py, in both of the tokenizer's modes: "legacy": false, as in
Vicuna 1.5's tokenizer_config.json, and true.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = HERE / "golden.json"
# Tokens; the second one cuts within a question, an answer, or before the first answer.
LENGTHS = (2048, 160)
VERSIONS = {"fschat": "0.2.36", "transformers": "4.57.6", "sentencepiece": "0.2.3"}

FOX = "The quick brown fox jumps over the lazy dog and runs into the forest. "
CODE = 'def add(a, b):\n\t"""Adds."""\n    return a + b\n\n\nprint(add(2, 3))  # 5\n'

# Name, and the turns: the first is the user's.
TABLE: list[tuple[str, list[str]]] = [
    ("one turn", ["Who are you?", "I am Vicuna, a language model."]),
    ("two turns", ["Hello!", "Hello! How can I help you?", "Who are you?", "I am Vicuna."]),
    ("six turns", [text for n in range(3) for text in (f"What is {n} + {n}?", f"{n} + {n} is {2 * n}.")]),
    ("one letter", ["a", "b"]),
    ("one full stop", [".", "."]),
    ("figures", ["1234567890", "3.14159, -2e10 and 007"]),
    ("umlauts", ["Größe über Öl?", "Die Straße heißt »Ähre«."]),
    ("emoji", ["😀 What is this?", "A face: 😀🎉👍🏽."]),
    ("joined emoji", ["👩‍👩‍👧‍👦", "🏳️‍🌈 is a flag, 🇩🇪 too."]),
    ("emoji at once", ["😀", "😀"]),
    ("Chinese", ["你好，你是谁？", "我是一个语言模型。"]),  # noqa: RUF001 - Chinese has marks of its own
    ("Japanese", ["日本の首都はどこですか。", "東京です。\n「はい」"]),
    ("Korean", ["안녕하세요", "안녕하세요! 무엇을 도와드릴까요?"]),
    ("Arabic", ["من أنت؟", "أنا نموذج لغوي."]),
    ("Hebrew and Latin", ["מה זה RTL?", "Right to left: שלום, then left to right."]),
    ("combining marks", ["e\u0301 or \u00e9?", "Z\u0351\u0300a\u0327lgo\u0336 or not."]),
    ("no-break and zero-width blanks", ["a\u00a0b\u200bc\ufeffd", "x\u2003y\u202fz"]),
    ("line breaks", ["First line\nsecond line\n\n\nfifth line", "One\n\nTwo\r\nThree"]),
    ("answer begins with a line break", ["Write a poem.", "\n\nThe sun is shining."]),
    ("answer ends with a line break", ["Write a poem.", "The sun is shining.\n\n", "More.", "The ice melts.\n"]),
    ("leading blanks", ["  two blanks", "  two blanks", " one", " one"]),
    ("trailing blanks", ["two blanks  ", "two blanks  ", "one ", "one "]),
    ("only blanks", [" ", "  ", "   ", " "]),
    ("only a line break", ["\n", "\n"]),
    ("tabs", ["\ta\tb\t\tc", "col1\tcol2\n1\t2\t"]),
    ("code", [f"What does this do?\n```python\n{CODE}```", f"```python\n{CODE}```\nIt adds."]),
    ("JSON", ['{"a": [1, 2, {"b": null}]}', '```json\n{"ok": true, "path": "C:\\\\x"}\n```']),
    ("markup", ["<p>Is <s>this</b> <b>bold</b>?</p>".replace("<s>", "<i>"), "<html>&amp; &lt;s&gt;</html>"]),
    ("very long", [FOX * 3, FOX * 60, "Short?", "Yes."]),
    ("longer than a context", ["Go on.", FOX * 140]),
    ("a long word", ["a" * 400, "b" * 400]),
    ("USER: in a question", ["What does USER: mean? USER: this", "It begins a question."]),
    ("USER: in an answer", ["Show the template.", "USER: a question"]),
    ("ASSISTANT: in a question", ["What does ASSISTANT: mean in USER: x ASSISTANT: y?", "It begins an answer."]),
    ("ASSISTANT: in an answer", ["Show the template.", "USER: Hello! ASSISTANT: Hello there!"]),
    ("ASSISTANT: ends a question", ["Complete: ASSISTANT: ", "Yes.", "ASSISTANT:", "No."]),
    ("</s> in a question", ["What does </s> mean?", "It ends an answer."]),
    ("</s> in an answer", ["What ends an answer?", "It is </s> and no more.", "Sure?", "Sure."]),
    ("</s> ends an answer", ["What ends an answer?", "It is </s>", "Sure?", "</s>"]),
    ("<s> and <unk> in a text", ["Is <s> bold? <unk>", "<s> begins, <unk> is <s>unknown</s>."]),
    ("SentencePiece's blank", ["\u2581a\u2581", "What is \u2581 for? \u2581\u2581"]),
    ("names of bytes", ["<0x0A>", "<0x41> is A, <0xFF> is none."]),
    ("sharp and private", ["\u00df\ue000\U0010ffff", "\u0001\u001f\u007f"]),
    ("the system's words", ["A chat between a curious user", "A chat between a curious user and an assistant."]),
    ("ends with a question", ["Hello!", "Hello!", "Are you there?"]),
    ("without its last question", ["Hello!", "Hello!"]),
    ("starts with an answer", ["", "Hello! I am here.", "Who are you?", "I am Vicuna."]),
    ("empty question", ["", "There was no question.", "", "Again."]),
    ("empty answer", ["Say nothing.", "", "Say yes.", "Yes."]),
]


def dialogues(table: list[tuple[str, list[str]]] = TABLE) -> list[dict[str, Any]]:
    found = []
    for name, texts in table:
        turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
        found.append({"id": name, "conversations": turns[1:] if name == "starts with an answer" else turns})
    return found


def package(name: str) -> Any:
    """A module of the training program, which is no package of this checkout."""
    path = ROOT / "roles" / "finetune" / "files" / "image" / "vicuna_finetune" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"vicuna_finetune_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def tiny_tokenizer(folder: Path, legacy: bool) -> str:
    """The tiny model's tokenizer alone; returns the sha256 of its vocabulary."""
    sys.path.insert(0, str(ROOT / "sandbox" / "hub"))
    import make_tiny_model

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary: bytes = make_tiny_model.train_tokenizer()
    (folder / "tokenizer.model").write_bytes(vocabulary)
    config = {**make_tiny_model.TOKENIZER_CONFIG, "legacy": legacy}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(make_tiny_model.SPECIAL_TOKENS_MAP))
    return hashlib.sha256(vocabulary).hexdigest()


def load(folder: Path, max_length: int) -> Any:
    """As fastchat.train.train does it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), model_max_length=max_length, padding_side="right", use_fast=False
    )
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def fastchat(tokenizer: Any, dialogue: dict[str, Any]) -> dict[str, Any]:
    """FastChat's ids without padding, its labels as runs, and whether it has dropped the dialogue."""
    import fastchat.train.train as code

    code.local_rank = 0
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        made = code.preprocess([dialogue["conversations"]], tokenizer)
    length = min(len(tokenizer(serving_text(dialogue)).input_ids), tokenizer.model_max_length)
    ids, labels = made["input_ids"][0].tolist(), made["labels"][0].tolist()
    # Where its count goes beyond max_length, FastChat does not look whether it is right, and learns padding.
    dropped = "mismatch" in said.getvalue() or any(label != -100 for label in labels[length:])
    return {"ids": ids[:length], "learned": runs(labels[:length]), "dropped": dropped}


def serving_text(dialogue: dict[str, Any]) -> str:
    """The text as the serving side makes it: fastchat.conversation, without an answer to nothing at the start."""
    from fastchat.conversation import get_conv_template

    template = get_conv_template("vicuna_v1.1")
    roles = {"human": template.roles[0], "gpt": template.roles[1]}
    turns = dialogue["conversations"]
    for turn in turns[1:] if turns[0]["from"] == "gpt" else turns:
        template.append_message(roles[turn["from"]], turn["value"])
    text: str = template.get_prompt()
    return text


def runs(labels: list[int]) -> list[list[int]]:
    """[[first, behind the last], …] of what is learned."""
    found: list[list[int]] = []
    for number, label in enumerate(labels):
        if label == -100:
            continue
        if found and found[-1][1] == number:
            found[-1][1] = number + 1
        else:
            found.append([number, number + 1])
    return found


def record() -> dict[str, Any]:
    vocabulary: dict[str, str] = {}
    cases, sha256 = [], ""
    with tempfile.TemporaryDirectory() as temporary:
        for legacy in (False, True):
            folder = Path(temporary) / f"vicuna-{legacy}"
            sha256 = tiny_tokenizer(folder, legacy)
            for max_length in LENGTHS:
                tokenizer = load(folder, max_length)
                for dialogue in dialogues():
                    case = fastchat(tokenizer, dialogue)
                    text = serving_text(dialogue)
                    whole = tokenizer(text).input_ids
                    vocabulary.update({str(n): tokenizer.convert_ids_to_tokens(n) for n in whole})
                    assert case.pop("ids") == whole[:max_length]
                    cases.append({"id": dialogue["id"], "legacy": legacy, "max_length": max_length, **case})
                    if max_length == LENGTHS[0]:
                        cases[-1]["ids"] = whole
    return {
        "versions": VERSIONS,
        "tokenizer_sha256": sha256,
        "vocabulary": dict(sorted(vocabulary.items(), key=lambda item: int(item[0]))),
        "texts": {dialogue["id"]: serving_text(dialogue) for dialogue in dialogues()},
        "cases": cases,
    }


def dump(value: dict[str, Any]) -> str:
    """JSON with one case a line."""
    parts = [f'"{key}": {json.dumps(part)}' for key, part in value.items() if key != "cases"]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in value["cases"])
    return "{\n" + ",\n".join(parts) + f',\n"cases": [\n{lines}\n]\n}}\n'


def random_dialogue(chance: random.Random, number: int) -> dict[str, Any]:
    """Turns of words, blanks, marks and characters of many scripts, and now and then what the template is made of."""
    plain = number % 2 == 1
    words = [*FOX.split(), *(text for _name, texts in TABLE for text in texts if 0 < len(text) < 60)]
    marks = [" ", "  ", "\n", "\t", ".", ", ", ""]
    if plain:
        words = [word for word in words if "ASSISTANT" not in word and "</s>" not in word]
    else:
        marks += ["USER:", " ASSISTANT: ", "ASSISTANT:", "</s>", "<s>", "\u2581"]

    def character() -> str:
        return chr(chance.choice([chance.randrange(32, 0xD800), chance.randrange(0xE000, 0x110000)]))

    def text() -> str:
        made = ""
        for _n in range(chance.randrange(1, 12)):
            made += chance.choice(words) if chance.random() < 0.7 else character()
            made += " " if chance.random() < 0.8 else chance.choice(marks)
        return made

    count = chance.choice([2, 2, 4, 6] if plain else [2, 3, 4])
    turns = [{"from": ("human", "gpt")[n % 2], "value": text()} for n in range(count)]
    return {"id": f"random-{number}", "conversations": turns}


def spelled(tokenizer: Any, ids: list[int]) -> bytes:
    """The text of tokens, in bytes, as a cut may fall within a character."""
    pieces = tokenizer.convert_ids_to_tokens(ids)
    return b"".join(
        bytes([int(piece[3:5], 16)]) if tokenizer.sp_model.is_byte(number) else piece.replace("\u2581", " ").encode()
        for number, piece in zip(ids, pieces)
    )


def answers(dialogue: dict[str, Any]) -> bytes:
    """What is to be learned of a dialogue: each answer with the blank before it and the </s> behind it."""
    texts = [turn["value"] for turn in dialogue["conversations"] if turn["from"] == "gpt"]
    if dialogue["conversations"][0]["from"] == "gpt":
        texts = texts[1:]
    return "".join(f" {text.replace('</s>', '')}</s>" for text in texts if text).replace("\u2581", " ").encode()


def compare(folder: Path, count: int, max_length: int) -> int:
    """Holds ours against FastChat where that keeps a dialogue and finds its turns, and against the answers anywhere.

    FastChat looks for turns by splitting the text at every </s>, those of the dialogue's own texts among them, and
    takes a question that nobody answered for an answer where it holds " ASSISTANT: ".
    """
    ours, tokenizer = package("conversation"), load(folder, max_length)
    chance = random.Random(0)
    kept = dropped = wrong = 0
    for dialogue in [*dialogues(), *(random_dialogue(chance, number) for number in range(count))]:
        theirs = fastchat(tokenizer, dialogue)
        encoded = ours.encode(tokenizer, dialogue, max_length)
        learned = spelled(tokenizer, [label for label in encoded.labels if label != -100])
        expected = answers(dialogue)
        if tokenizer.legacy:
            # In this mode the tokenizer puts a blank behind every special token.
            learned, expected = learned.replace(b" ", b""), expected.replace(b" ", b"")
        same = expected.startswith(learned) and (encoded.cut or learned == expected)
        dropped += theirs["dropped"]
        turns = dialogue["conversations"]
        lost = any("</s>" in turn["value"] for turn in turns) or (
            turns[-1]["from"] == "human" and " ASSISTANT: " in f" {turns[-1]['value']} "
        )
        if not theirs["dropped"] and not lost:
            kept += 1
            same = same and (encoded.input_ids, runs(encoded.labels)) == (theirs["ids"], theirs["learned"])
        if not same:
            wrong += 1
            print(f"differs: {dialogue!r}\n  FastChat {theirs['learned']}\n  ours     {runs(encoded.labels)}")
    print(
        f"{folder.name}, at most {max_length}: {kept} the same as FastChat's, {dropped} dropped by it, {wrong} differ"
    )
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what FastChat's training code makes of a table of dialogues.")
    parser.add_argument(
        "--compare", type=int, metavar="N", help="write nothing; compare on the table and N random ones"
    )
    parser.add_argument("--tokenizer", type=Path, help="compare with this tokenizer instead of the tiny ones")
    arguments = parser.parse_args()
    if arguments.compare is None:
        OUT.write_text(dump(record()), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folders = [arguments.tokenizer] if arguments.tokenizer else []
        for legacy in (False, True) if not folders else ():
            folders.append(Path(temporary) / f"vicuna-tiny-legacy-{legacy}".lower())
            tiny_tokenizer(folders[-1], legacy)
        sys.exit(1 if sum(compare(folder, arguments.compare, n) for folder in folders for n in LENGTHS) else 0)


if __name__ == "__main__":
    main()
