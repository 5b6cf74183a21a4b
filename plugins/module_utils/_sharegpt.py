# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Datasets of dialogues in FastChat's ShareGPT JSON: read, judge, split. Private to the collection.

A dataset is a list of {"id": str, "conversations": [{"from": "human" | "gpt", "value": str}, …]}, as a JSON array or as
JSON Lines, in one file or in a directory of them. A file is read a window at a time and never held whole; what is kept
of a dialogue between two readings is a digest.

No import beside the standard library.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Callable, Protocol

from ansible_collections.vicuna.fleet.plugins.module_utils._common.json_text import strange
from ansible_collections.vicuna.fleet.plugins.module_utils._finetune.formats import (
    HEAD,
    Known,
    dialogue_format,
    file_format,
    is_parts,
    is_speaker,
    turns_convert,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._finetune.formats import SUFFIXES as OTHERS
from ansible_collections.vicuna.fleet.plugins.module_utils._finetune.remedies import (
    SYSTEM,
    conversion,
    remedy,
)

SUFFIXES = (".json", ".jsonl")
SPEAKERS = ("human", "gpt")
# Bytes of a file that are read at once. A window grows to hold the longest dialogue.
CHUNK = 1024 * 1024
# Longer than any token of JSON but a text or a number: an error so near to the window's end may come of that end.
SLACK = 16
# Characters of a text in a message.
QUOTED = 40

# What a Llama tokenizer reads as one token with a meaning of its own, wherever it stands.
_SPECIAL = re.compile(r"</?s>|<unk>")
_BAD_BYTES = re.compile("[\udc80-\udcff]+")
_SURROGATES = re.compile("[\ud800-\udfff]+")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Both halves of characters, each as three bytes.
_CESU = re.compile(rb"(\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf])+")
_BLANK = re.compile(r"[ \t\r\n]*")

ERROR, WARNING = "error", "warning"


class DatasetError(Exception):
    """The dataset cannot be used at all; the text has the three parts of a message."""


@dataclass(frozen=True)
class Place:
    """Where something stands; index and turn are counted from 0, line and column from 1."""

    file: str
    index: int | None = None
    id: str | None = None
    turn: int | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        text = self.file
        if self.index is not None:
            text += f"[{self.index}]"
        if self.turn is not None:
            text += f".conversations[{self.turn}]"
        if self.id is not None:
            text += f" (id {quote(self.id)})"
        if self.line is not None:
            text += f", line {self.line}" + (f", column {self.column}" if self.column is not None else "")
        return text


@dataclass(frozen=True)
class Finding:
    severity: str
    kind: str
    place: Place
    found: str
    expected: str
    remedy: str

    @property
    def message(self) -> str:
        return f"{self.place}. Found: {self.found}. Expected: {self.expected}. Remedy: {self.remedy}."

    def as_dict(self) -> dict[str, Any]:
        place = {name: value for name, value in vars(self.place).items() if value is not None}
        return {"severity": self.severity, "kind": self.kind, "where": place, "message": self.message}


@dataclass
class Findings:
    """All are counted; of each kind the first ``limit`` are kept."""

    limit: int = 5
    counts: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    kept: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        self.errors += finding.severity == ERROR
        if self.counts[finding.kind] <= self.limit:
            self.kept.append(finding)

    @property
    def hidden(self) -> dict[str, int]:
        """How many of each kind are not kept."""
        return {kind: count - self.limit for kind, count in self.counts.items() if count > self.limit}

    def lines(self, severity: str) -> list[str]:
        """What a person reads: the messages, and behind those of a kind how many more there are."""
        found = []
        for kind in self.counts:
            mine = [finding for finding in self.kept if finding.kind == kind and finding.severity == severity]
            told = ""
            for finding in mine:
                # A command of several lines is told once.
                found.append(finding.message if finding.remedy != told else replace(finding, remedy="as above").message)
                told = finding.remedy
            if mine and kind in self.hidden:
                found.append(f"… and {self.hidden[kind]} more: {kind}.")
        return found


def quote(text: str) -> str:
    """A text as JSON writes it, shortened; half of a character as its escape, since a message is UTF-8."""
    written = json.dumps(text if len(text) <= QUOTED else f"{text[: QUOTED - 1]}…", ensure_ascii=False)
    return _SURROGATES.sub(lambda match: "".join(f"\\u{ord(half):04x}" for half in match[0]), written)


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """One value of a file. ``bad_bytes`` holds what is not UTF-8 in it, ``half`` a half of a character."""

    index: int
    line: int
    value: Any
    bad_bytes: bytes = b""
    half: str = ""


@dataclass(frozen=True)
class Broken:
    """A place that is no JSON. In an array the rest of the file is lost with it."""

    index: int
    begins: int
    line: int
    column: int
    message: str
    lost: bool
    remedy: str


def _inside(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(suffixes) and not file.name.startswith(".") and file.is_file()
    )


def files_of(path: Path) -> list[Path]:
    """The files of a dataset, sorted by name; without JSON, those of other formats. Raises DatasetError."""
    if path.is_dir():
        found = _inside(path, SUFFIXES) or _inside(path, OTHERS)
        if not found:
            there = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
            raise DatasetError(
                f"Found: no .json and no .jsonl file in {path}; it holds {there}. Expected: the dataset's files. "
                "Remedy: point finetune_dataset at them."
            )
        return found
    if not path.is_file():
        raise DatasetError(
            f"Found: {'no regular file' if path.exists() else 'nothing'} at {path}. "
            "Expected: a .json or .jsonl file, or a directory of them, on the control node. "
            "Remedy: set finetune_dataset to it."
        )
    return [path]


class _Window:
    """A file's text, a part at a time. ``at`` is where the reader stands."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.text = ""
        self.at = 0
        self.ended = False
        self.begun = 0
        self.dirty = False
        self._started = False
        # Line and column of the character at self._marked.
        self._line, self._column, self._marked = 1, 1, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._lenient = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def more(self) -> bool:
        """Forgets what lies behind, and reads as much again as is left; false at the end of the file."""
        if self.ended:
            return False
        self.mark()
        rest = self.text[self.at :]
        self.at = self._marked = 0
        data = self.stream.read(max(CHUNK, len(rest), len(codecs.BOM_UTF8)))
        self.ended = not data
        self.text = rest + self._decode(data)
        return True

    def _decode(self, data: bytes) -> str:
        """What is not UTF-8 becomes surrogates, as os.fsdecode() has it, so that the dialogue can be named."""
        if not self._started:
            self._started = True
            data = data[len(codecs.BOM_UTF8) :] if data.startswith(codecs.BOM_UTF8) else data
        state = self._decoder.getstate()
        try:
            return self._decoder.decode(data, self.ended)
        except UnicodeDecodeError:
            self.dirty = True
            self._lenient.setstate(state)
            text = self._lenient.decode(data, self.ended)
            self._decoder.setstate(self._lenient.getstate())
            return text

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of a character that does not lie behind the mark."""
        lines = self.text.count("\n", self._marked, at)
        if lines:
            return self._line + lines, at - self.text.rfind("\n", self._marked, at)
        return self._line, self._column + at - self._marked

    def mark(self) -> int:
        """Counts lines from here on; returns the line."""
        self._line, self._column = self.place(self.at)
        self._marked = self.at
        return self._line

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            match = _BLANK.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The JSON value that begins here. Raises JSONDecodeError, with its position in the window."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                near = error.pos + SLACK >= len(self.text) or error.msg.startswith("Unterminated string")
                if near and self.more():
                    continue
                raise
            except RecursionError as error:
                raise json.JSONDecodeError("Too many levels", self.text, self.at) from error
            except ValueError as error:
                raise json.JSONDecodeError("A number of too many digits", self.text, self.at) from error
            # A number may go on behind the window.
            if not isinstance(value, (dict, list, str)) and end + SLACK >= len(self.text) and self.more():
                continue
            self.begun, self.at = self.at, end
            return value

    def skip_line(self) -> None:
        while True:
            end = self.text.find("\n", self.at)
            if end >= 0:
                self.at = end + 1
                return
            self.at = len(self.text)
            if not self.more():
                return


class Twice(dict[str, Any]):
    """An object in which a key stands twice: the last one counts, as everywhere."""

    keys_twice: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    twice = Twice(value)
    twice.keys_twice = tuple(key for key, count in Counter(key for key, _value in pairs).items() if count > 1)
    return twice


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _explained(window: _Window, at: int, message: str, array: bool) -> tuple[str, str]:
    """What is wrong at a place that is no JSON, and the key of its remedy."""
    text = window.text
    rest, before = text[at : at + SLACK], text[:at].rstrip()[-1:]
    if rest[:1] in ("]", "}") and (before == "," or (array and rest[0] == "]" and at == window.at)):
        return f"a comma before {rest[0]}", "relaxed"
    if rest.startswith(("//", "/*", "#")):
        return "a comment, which JSON does not have", "relaxed"
    if rest.startswith(("'", "None", "True", "False")):
        return "a value as Python writes it, not JSON", "python"
    if rest.startswith("\ufeff"):
        return "a byte order mark within the file", "inner_byte_order_mark"
    if rest.startswith(",") and not array and at == window.at:
        return "expecting value: a comma between two dialogues of JSON Lines", "line_commas"
    if message.startswith("Invalid control character"):
        return f"{message[:1].lower()}{message[1:]} a line break or tab within a text", "control" if array else "line"
    if not rest.strip() or message.startswith("Unterminated string"):
        return message[:1].lower() + message[1:], "cut" if array else "line"
    if what := strange(text, at):
        return what, "broken" if array else "line"
    if message == FOLLOWS and rest.startswith("["):
        return message, "lists"
    return message[:1].lower() + message[1:], "broken" if array else "line"


FOLLOWS = "something follows the list"


def elements(stream: BinaryIO) -> Iterator[Element | Broken]:
    """The values of a JSON array, or of JSON Lines, one after the other."""
    window = _Window(stream)
    array = window.peek() == "["
    if array:
        window.at += 1

    def broken(message: str, at: int | None = None) -> Broken:
        if at is None:
            if window.at + SLACK >= len(window.text):
                window.more()
            at = window.at
        message, key = _explained(window, at, message, array)
        here, column = window.place(at)
        # Lines can be left out where each holds a dialogue, and this one is meant to.
        if key == "line" and (here != line or spread or window.text[window.at : window.at + 1] != "{"):
            key = "broken"
        return Broken(index, line, here, column, message, array, key)

    index, line, spread = 0, 1, False
    while True:
        char = window.peek()
        line = window.mark()
        if not char and array:
            yield broken("the file ends within its list")
        if not char:
            return
        if array and char == "]" and index == 0:
            break
        try:
            value = window.value()
        except json.JSONDecodeError as error:
            yield broken(error.msg, error.pos)
            if array:
                return
            window.skip_line()
            index += 1
            continue
        spread = spread or window.text.find("\n", window.begun, window.at) >= 0
        bad = b""
        if window.dirty:
            matches = _BAD_BYTES.findall(window.text, window.begun, window.at)
            bad = b"".join(match.encode("utf-8", "surrogateescape") for match in matches)
        half = ""
        if _ESCAPED_SURROGATE.search(window.text, window.begun, window.at):
            half = _lone_surrogate(json.dumps(value, ensure_ascii=False))
        yield Element(index, line, value, bad, half)
        index += 1
        if array:
            char = window.peek()
            if char == "]":
                break
            if char != ",":
                yield broken("a comma is missing between two dialogues" if char else "the file ends within its list")
                return
            window.at += 1
    window.at += 1
    if window.peek():
        yield broken(FOLLOWS)


# --- judging -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dialogue:
    """What is trained on: turns from the first of the user to the last answer, each as (speaker, text)."""

    id: str
    turns: list[tuple[str, str]]

    @property
    def digest(self) -> bytes:
        """sha256 over the turns alone, whatever the dialogue's name."""
        text = json.dumps(self.turns, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).digest()

    @property
    def line(self) -> bytes:
        turns = [{"from": speaker, "value": text} for speaker, text in self.turns]
        return json.dumps({"id": self.id, "conversations": turns}, ensure_ascii=False).encode("utf-8")


# Severity, and what is expected.
KINDS: dict[str, tuple[str, str]] = {
    "json": (ERROR, "a JSON array of dialogues, or one dialogue a line"),
    "utf8": (ERROR, "text in UTF-8"),
    "format": (ERROR, "text in UTF-8: a JSON array of dialogues, or one dialogue a line"),
    "not_object": (ERROR, 'an object with "id" and "conversations"'),
    "no_conversations": (ERROR, 'an object with "id" and "conversations"'),
    "duplicate_key": (ERROR, "each key once in an object; a reader takes one of them without a word"),
    "bad_turn": (ERROR, 'turns like {"from": "human", "value": "…"}'),
    "unknown_role": (ERROR, '"human" or "gpt"'),
    "not_text": (ERROR, 'text as "value"'),
    "empty_turn": (ERROR, "text in every turn"),
    "surrogate": (ERROR, "characters that UTF-8 has a form for"),
    "nul": (ERROR, "text without the character NUL"),
    "one_sided": (ERROR, "a turn from human, and one from gpt behind it"),
    "not_alternating": (ERROR, "human and gpt in turn; FastChat's training ends at such a dialogue"),
    "byte_order_mark": (WARNING, "UTF-8 without a byte order mark, as FastChat reads it"),
    "not_read": (WARNING, ".json and .jsonl files; what is beside them is not read"),
    "leading_gpt": (WARNING, "human to begin; FastChat drops such a turn without a word"),
    "trailing_human": (WARNING, "gpt to end; FastChat drops the whole dialogue"),
    "no_id": (WARNING, 'an "id" that is text, to name the dialogue by'),
    "duplicate": (WARNING, "each dialogue once; it counts twice in training"),
    "duplicate_id": (WARNING, "ids that tell dialogues apart"),
    "replacement": (WARNING, "text without U+FFFD, which stands where a character was lost"),
    "special_token": (WARNING, "text without it; the tokenizer reads it as a token with a meaning of its own"),
}
# What sees a fault: (kind, what was found, the remedy's key, turn, what the remedy's command needs).
Say = Callable[..., None]


def judge(element: Element, path: Path, findings: Findings, alone: bool = True) -> Dialogue | None:
    """The dialogue as it is trained on, or none where it cannot be. Of each kind there is at most one finding.

    ``alone``: whether finetune_dataset names the file, not its folder.
    """
    value = element.value
    name = _name(value)

    def say(kind: str, found: str, key: str, turn: int | None = None, **parts: str) -> None:
        place = Place(path.name, element.index, name, turn, element.line)
        mended = remedy(key, path, alone=alone, **parts)
        findings.add(Finding(KINDS[kind][0], kind, place, found, KINDS[kind][1], mended))

    if element.bad_bytes:
        shown = element.bad_bytes[:8].hex(" ") + (" …" if len(element.bad_bytes) > 8 else "")
        key = "cesu" if _CESU.fullmatch(element.bad_bytes) else "utf8"
        say("utf8", f"bytes that are not UTF-8: {shown}", key)
        return None
    turns = value.get("conversations") if isinstance(value, dict) else None
    if element.half:
        found = f"half of a character, \\u{ord(element.half):04x}"
        turn = (
            next((number for number, each in enumerate(turns) if _half_of(each)), None)
            if isinstance(turns, list)
            else None
        )
        if turn is not None or not isinstance(turns, list):
            say("surrogate", found, "surrogate", turn)
            return None
        say("replacement", f"{found}, in what is not trained on", "surrogate")
    if isinstance(value, Twice):
        twice = [key for key in value.keys_twice if not isinstance(turns, list) or key in ("id", "conversations")]
        if twice:
            say("duplicate_key", f"{quote(twice[0])} twice", "duplicate_key")
            return None
    if not isinstance(turns, list):
        _say_format(value, say)
        return None
    texts = _texts(turns, say)
    if texts is None:
        return None
    first = texts[0][0] == "gpt"
    last = texts[-1][0] == "human"
    used = texts[first : len(texts) - last]
    # Where two follow each other from one speaker is judged first: it says more than what is then left.
    for number in range(1, len(texts)):
        if texts[number][0] == texts[number - 1][0]:
            say("not_alternating", f"two turns from {texts[number][0]} in a row", "not_alternating", number)
            return None
    if not used:
        say("one_sided", f"only a turn from {texts[0][0]}", "one_sided")
        return None
    if first:
        say("leading_gpt", "a turn from gpt at the start, which is left out", "leading_gpt", 0)
    if last:
        say("trailing_human", "a question at the end, which is left out", "trailing_human", len(texts) - 1)
    _suspicious(used, int(first), say)
    if not isinstance(value.get("id"), str) or not name:
        say("no_id", "no id" if "id" not in value else f"{_type(value['id'])} as id", "no_id")
        name = f"{path.stem}-{element.index}"
    return Dialogue(name or "", used)


def _name(value: Any) -> str | None:
    """The id, if it is text that can be written down."""
    name = value.get("id") if isinstance(value, dict) else None
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        return None
    return _SURROGATES.sub("\ufffd", str(name)) or None


def _say_format(value: Any, say: Say) -> None:
    """What an element is that has no list of turns as its conversations."""
    kind = "no_conversations" if isinstance(value, dict) else "not_object"
    known = dialogue_format(value)
    if known is None and kind == "not_object":
        known = Known(_type(value), "not_object")
    if known is None and "conversations" in value:
        known = Known(f"{_type(value['conversations'])} as conversations", "no_conversations")
    if known is None:
        keys = ", ".join(quote(key) for key in list(value)[:5]) or "none"
        known = Known(f"no conversations; its keys: {keys}", "no_conversations")
    say(kind, known.found, known.remedy, **known.parts)


def _texts(turns: list[Any], say: Say) -> list[tuple[str, str]] | None:
    """The turns as (speaker, text); none where one of them cannot be used."""
    if not turns:
        say("one_sided", "no turn", "one_sided")
        return None
    program = {"program": conversion(".conversations")}
    texts = []
    for number, turn in enumerate(turns):
        if isinstance(turn, Twice):
            say("duplicate_key", f"{quote(turn.keys_twice[0])} twice", "duplicate_key", number)
            return None
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            found = f"keys {', '.join(map(quote, list(turn)[:5])) or 'none'}" if isinstance(turn, dict) else _type(turn)
            if turns_convert(turns):
                say("bad_turn", found, "convert", number, **program)
            else:
                say("bad_turn", found, "bad_turn", number)
            return None
        speaker, text = turn["from"], turn["value"]
        written = isinstance(text, str) or is_parts(text)
        if speaker not in SPEAKERS and not (is_speaker(speaker) and not written):
            found = quote(speaker) if isinstance(speaker, str) else _type(speaker)
            if is_speaker(speaker):
                system = speaker.strip().lower() in SYSTEM
                found += ", where Vicuna's template has its own system prompt" if system else ""
                say("unknown_role", found, "convert", number, **program)
            else:
                say("unknown_role", found, "unknown_role", number)
            return None
        if not isinstance(text, str):
            if written:
                say("not_text", f"{_type(text)} of texts", "convert", number, **program)
            else:
                say("not_text", _type(text), "not_text", number)
            return None
        if not text.strip():
            say("empty_turn", "no text" if not text else "blanks alone", "empty_turn", number)
            return None
        if "\0" in text:
            say("nul", "the character NUL", "nul", number)
            return None
        texts.append((speaker, text))
    return texts


def _half_of(turn: Any) -> str:
    """Half of a character in what is trained on of a turn."""
    read = [turn.get("from"), turn.get("value")] if isinstance(turn, dict) else turn
    return _lone_surrogate(json.dumps(read, ensure_ascii=False))


def _lone_surrogate(text: str) -> str:
    """Half of a character that stands alone; "" where there is none. To encode is much faster than to search."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


def _suspicious(used: list[tuple[str, str]], before: int, say: Say) -> None:
    """What is trained on as it stands and hardly meant so."""
    seen = set()
    for number, (_speaker, text) in enumerate(used, before):
        if "\ufffd" in text and "replacement" not in seen:
            seen.add("replacement")
            say("replacement", "U+FFFD", "replacement", number)
        if "<" in text and "special_token" not in seen and (match := _SPECIAL.search(text)):
            seen.add("special_token")
            say("special_token", match[0], "special_token", number)


def _type(value: Any) -> str:
    if value is None:
        return "null"
    return {dict: "an object", list: "a list", str: "text", bool: "true or false"}.get(type(value), "a number")


# --- the whole ---------------------------------------------------------------------------------------------------


class Sink(Protocol):
    """A file that is written, or a digest."""

    def write(self, data: bytes, /) -> object: ...


@dataclass
class Survey:
    """What one reading of a dataset has found."""

    files: list[Path]
    findings: Findings
    # Whether finetune_dataset names the file, not its folder.
    alone: bool = True
    dialogues: int = 0
    turns: int = 0
    characters: int = 0
    dropped: int = 0
    # Each different dialogue's digest, and where it stands first: file's number and index.
    first: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    repeated: Counter[bytes] = field(default_factory=Counter)
    content: bytes = b""
    heldout: frozenset[bytes] = frozenset()
    heldout_dialogues: int = 0

    @property
    def used(self) -> int:
        return self.dialogues - self.dropped

    @property
    def sha256(self) -> str:
        """Of the dialogues that are used, in their order, and of the side that each is on."""
        digest = hashlib.sha256(self.content)
        for member in sorted(self.heldout):
            digest.update(member)
        return digest.hexdigest()


def survey(path: Path, limit: int = 5) -> Survey:
    """Reads and judges a dataset. Raises DatasetError, and OSError."""
    alone = not path.is_dir()
    found = Survey(files_of(path), Findings(limit), alone)
    if not alone and found.files[0].name.lower().endswith(SUFFIXES):
        for other in _inside(path, OTHERS):
            found.findings.add(_finding("not_read", Place(other.name), "a file of another format", other))
    digest = hashlib.sha256()
    names: dict[str, tuple[int, int]] = {}
    for number, element, dialogue in _read(found.files, found.findings, found.alone):
        found.dialogues += 1
        if dialogue is None:
            found.dropped += 1
            continue
        here = (number, element.index)
        found.turns += len(dialogue.turns)
        found.characters += sum(len(text) for _speaker, text in dialogue.turns)
        member = dialogue.digest
        digest.update(member)
        if (there := found.first.setdefault(member, here)) is not here:
            found.repeated[member] += 1
            place = Place(found.files[number].name, element.index, dialogue.id, None, element.line)
            found.findings.add(_same("duplicate", place, found.files, there))
        if (there := names.setdefault(dialogue.id, here)) is not here:
            place = Place(found.files[number].name, element.index, dialogue.id, None, element.line)
            found.findings.add(_same("duplicate_id", place, found.files, there))
    found.content = digest.digest()
    return found


def _finding(
    kind: str, place: Place, found: str, path: Path, key: str = "", *, alone: bool = True, **parts: str
) -> Finding:
    return Finding(KINDS[kind][0], kind, place, found, KINDS[kind][1], remedy(key or kind, path, alone=alone, **parts))


def _same(kind: str, place: Place, files: list[Path], there: tuple[int, int]) -> Finding:
    """That a dialogue, or its id, was there before."""
    first = files[there[0]]
    what = {"duplicate": "the same turns as", "duplicate_id": "the id of"}[kind]
    return _finding(kind, place, f"{what} {Place(first.name, there[1])}", first)


def _read(files: list[Path], findings: Findings, alone: bool) -> Iterator[tuple[int, Element, Dialogue | None]]:
    """Every dialogue of every file; what is no JSON is a finding alone."""
    for number, path in enumerate(files):
        with path.open("rb") as stream:
            if not _readable(stream, path, findings, alone):
                continue
            for element in elements(stream):
                if isinstance(element, Element):
                    yield number, element, judge(element, path, findings, alone)
                    continue
                place = Place(path.name, element.index, None, None, element.line, element.column)
                said = element.message
                if element.begins < element.line:
                    said += f", in what begins in line {element.begins}"
                if element.lost:
                    said += "; what follows in the file was not read"
                findings.add(_finding("json", place, said, path, element.remedy, alone=alone))


def _readable(stream: BinaryIO, path: Path, findings: Findings, alone: bool) -> bool:
    """Whether a file's first bytes can be those of JSON in UTF-8; the stream stands at its start again."""
    head = stream.read(HEAD)
    stream.seek(0)
    if known := file_format(head, path):
        findings.add(_finding("format", Place(path.name), known.found, path, known.remedy, alone=alone, **known.parts))
        return False
    if head.startswith(codecs.BOM_UTF8):
        findings.add(_finding("byte_order_mark", Place(path.name), "a byte order mark", path))
    return True


def hold_out(found: Survey, share: float, seed: int) -> None:
    """Chooses the dialogues that are measured and never trained on. Raises DatasetError.

    A share of 0 to 0.5 of all, or from 1 on a number of them. Which ones depends on their content and the seed alone:
    with more dialogues in the dataset, nearly all that were held out stay so. What is there twice is on one side.
    """
    found.heldout, found.heldout_dialogues = frozenset(), 0
    if not (0 <= share <= 0.5 or (share >= 1 and share == int(share))):
        raise DatasetError(
            f"Found: {share:g} as finetune_heldout. Expected: a share of 0 to 0.5, or a number of dialogues. "
            "Remedy: set finetune_heldout."
        )
    if share == 0:
        return
    if len(found.first) < 2:
        raise DatasetError(
            f"Found: {len(found.first)} different dialogue{'' if len(found.first) == 1 else 's'}. "
            "Expected: two or more, to hold one out. Remedy: add dialogues, or set finetune_heldout to 0."
        )
    if share >= found.used:
        raise DatasetError(
            f"Found: {share:g} dialogues to hold out of {found.used}. Expected: one that is left to train on. "
            "Remedy: lower finetune_heldout."
        )
    target = int(share) if share >= 1 else max(1, round(share * found.used))
    salt = f"{seed}:".encode()
    ranked = sorted(found.first, key=lambda member: hashlib.sha256(salt + member).digest())
    chosen: set[bytes] = set()
    # The last one stays to be trained on.
    for member in ranked[:-1]:
        if found.heldout_dialogues >= target:
            break
        chosen.add(member)
        found.heldout_dialogues += 1 + found.repeated[member]
    found.heldout = frozenset(chosen)


def write(found: Survey, train: Sink, heldout: Sink) -> None:
    """Writes both sides as JSON, a dialogue a line, in the dataset's order. Raises DatasetError."""
    digest, written = hashlib.sha256(), {train: 0, heldout: 0}
    for _number, _element, dialogue in _read(found.files, Findings(0), found.alone):
        if dialogue is None:
            continue
        member = dialogue.digest
        digest.update(member)
        sink = heldout if member in found.heldout else train
        sink.write((b",\n" if written[sink] else b"[\n") + dialogue.line)
        written[sink] += 1
    for sink, count in written.items():
        sink.write(b"\n]\n" if count else b"[]\n")
    if digest.digest() != found.content:
        raise DatasetError(
            "Found: the dataset changed while it was read. Expected: files that stay as they are. "
            "Remedy: run again when nothing writes to finetune_dataset."
        )


def problems(found: Survey, allow_dropped: bool) -> list[str]:
    """Why the dataset is not used as it is; empty where it is."""
    unread = found.findings.counts["json"] + found.findings.counts["format"]
    if not found.dialogues and not unread:
        names = ", ".join(f"{path.name} ({path.stat().st_size} bytes)" for path in found.files[:5])
        return [
            f"Found: no dialogue in {names}. Expected: one or more. "
            "Remedy: point finetune_dataset at a dataset in ShareGPT's format."
        ]
    if allow_dropped and not unread and found.used:
        return []
    return found.findings.lines(ERROR)


def way_out(found: Survey) -> list[str]:
    """How many have errors, and that they can be left out; empty where nothing would be left, or read, without them."""
    if not found.dropped or not found.used or found.findings.counts["json"] + found.findings.counts["format"]:
        return []
    return [
        f"Found: {found.dropped} of {found.dialogues} dialogues with errors. Expected: none. Remedy: mend them, or set "
        "finetune_allow_dropped: true, which leaves them out and counts them."
    ]
