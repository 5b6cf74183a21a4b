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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

SUFFIXES = (".json", ".jsonl")
SPEAKERS = ("human", "gpt")
# Bytes of a file that are read at once. A window grows to hold the longest dialogue.
CHUNK = 1024 * 1024
# Longer than any token of JSON but a text or a number: an error so near to the window's end may come of that end.
SLACK = 16
# Characters of a text in a message.
QUOTED = 40

# What other formats call the two speakers. FastChat's own cleaning of ShareGPT knows most of them.
HUMAN = ("user", "prompter", "question", "instruction", "input", "me")
GPT = ("assistant", "chatgpt", "gpt-4", "gpt4", "bing", "bard", "bot", "model", "ai", "answer", "output", "vicuna")
# What a Llama tokenizer reads as one token with a meaning of its own, wherever it stands.
_SPECIAL = re.compile(r"</?s>|<unk>")
_BAD_BYTES = re.compile("[\udc80-\udcff]+")
_SURROGATES = re.compile("[\ud800-\udfff]+")
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
            found += [finding.message for finding in mine]
            if mine and kind in self.hidden:
                found.append(f"… and {self.hidden[kind]} more: {kind}.")
        return found


def quote(text: str) -> str:
    """A text as JSON writes it, shortened."""
    return json.dumps(text if len(text) <= QUOTED else f"{text[: QUOTED - 1]}…", ensure_ascii=False)


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """One value of a file. ``bad_bytes`` holds what is not UTF-8 in it."""

    index: int
    line: int
    value: Any
    bad_bytes: bytes = b""


@dataclass(frozen=True)
class Broken:
    """A place that is no JSON. In an array the rest of the file is lost with it."""

    index: int
    begins: int
    line: int
    column: int
    message: str
    lost: bool


def files_of(path: Path) -> list[Path]:
    """The files of a dataset, sorted by name. Raises DatasetError."""
    if path.is_dir():
        found = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
        if not found:
            raise DatasetError(
                f"Found: no .json and no .jsonl file in {path}. Expected: the dataset's files. "
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


_DECODER = json.JSONDecoder()


def elements(stream: BinaryIO) -> Iterator[Element | Broken]:
    """The values of a JSON array, or of JSON Lines, one after the other."""
    window = _Window(stream)
    array = window.peek() == "["
    if array:
        window.at += 1

    def broken(at: int, message: str) -> Broken:
        return Broken(index, line, *window.place(at), message, lost=array)

    index, line = 0, 1
    while True:
        char = window.peek()
        line = window.mark()
        if not char and array:
            yield broken(window.at, "the file ends within its list")
        if not char:
            return
        if array and char == "]" and index == 0:
            break
        try:
            value = window.value()
        except json.JSONDecodeError as error:
            yield broken(error.pos, error.msg)
            if array:
                return
            window.skip_line()
            index += 1
            continue
        bad = b""
        if window.dirty:
            matches = _BAD_BYTES.findall(window.text, window.begun, window.at)
            bad = b"".join(match.encode("utf-8", "surrogateescape") for match in matches)
        yield Element(index, line, value, bad)
        index += 1
        if array:
            char = window.peek()
            if char == "]":
                break
            if char != ",":
                yield broken(
                    window.at, "a comma is missing between two dialogues" if char else "the file ends within its list"
                )
                return
            window.at += 1
    window.at += 1
    if window.peek():
        yield broken(window.at, "something follows the list")


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
    "utf16": (ERROR, "text in UTF-8"),
    "not_object": (ERROR, 'an object with "id" and "conversations"'),
    "no_conversations": (ERROR, 'an object with "id" and "conversations"'),
    "bad_turn": (ERROR, 'turns like {"from": "human", "value": "…"}'),
    "unknown_role": (ERROR, '"human" or "gpt"'),
    "not_text": (ERROR, 'text as "value"'),
    "empty_turn": (ERROR, "text in every turn"),
    "surrogate": (ERROR, "characters that UTF-8 has a form for"),
    "nul": (ERROR, "text without the character NUL"),
    "one_sided": (ERROR, "a turn from human, and one from gpt behind it"),
    "not_alternating": (ERROR, "human and gpt in turn; FastChat's training ends at such a dialogue"),
    "byte_order_mark": (WARNING, "UTF-8 without a byte order mark, as FastChat reads it"),
    "leading_gpt": (WARNING, "human to begin; FastChat drops such a turn without a word"),
    "trailing_human": (WARNING, "gpt to end; FastChat drops the whole dialogue"),
    "no_id": (WARNING, 'an "id" that is text, to name the dialogue by'),
    "duplicate": (WARNING, "each dialogue once; it counts twice in training"),
    "duplicate_id": (WARNING, "ids that tell dialogues apart"),
    "replacement": (WARNING, "text without U+FFFD, which stands where a character was lost"),
    "special_token": (WARNING, "text without it; the tokenizer reads it as a token with a meaning of its own"),
}
ROLES_REMEDY = """map them: jq 'map(.conversations |= map(.from |= ({"user": "human", "assistant": "gpt"}[.] // .)))'"""
MESSAGES_REMEDY = (
    "convert them: jq 'map({id: (.id // null), conversations: [.messages[] | "
    """{from: {"user": "human", "assistant": "gpt"}[.role], value: .content}]})'"""
)
ALPACA_REMEDY = (
    """convert them: jq 'map({conversations: [{from: "human", value: ([.instruction, .input // empty] | """
    """map(select(. != "")) | join("\\n"))}, {from: "gpt", value: .output}]})'"""
)


def judge(element: Element, file: str, findings: Findings) -> Dialogue | None:
    """The dialogue as it is trained on, or none where it cannot be. Of each kind there is at most one finding."""
    value = element.value
    name = _name(value)

    def say(kind: str, found: str, remedy: str, turn: int | None = None) -> None:
        place = Place(file, element.index, name, turn, element.line)
        findings.add(Finding(KINDS[kind][0], kind, place, found, KINDS[kind][1], remedy))

    if element.bad_bytes:
        shown = element.bad_bytes[:8].hex(" ") + (" …" if len(element.bad_bytes) > 8 else "")
        say("utf8", f"bytes that are not UTF-8: {shown}", "convert the file, e.g. iconv -f WINDOWS-1252 -t UTF-8")
        return None
    if not isinstance(value, dict):
        say(
            "not_object",
            _type(value),
            "take it out" if not isinstance(value, list) else "write one list, not lists in it",
        )
        return None
    turns = value.get("conversations")
    if not isinstance(turns, list):
        say("no_conversations", *_no_conversations(value))
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
            speaker = texts[number][0]
            say(
                "not_alternating",
                f"two turns from {speaker} in a row",
                "join them, or put the lost turn between",
                number,
            )
            return None
    if not used:
        say("one_sided", f"only a turn from {texts[0][0]}", "add the other speaker's turn, or take the dialogue out")
        return None
    if first:
        say(
            "leading_gpt",
            "a turn from gpt at the start, which is left out",
            "take it out, or put a question before it",
            0,
        )
    if last:
        say(
            "trailing_human",
            "a question at the end, which is left out",
            "take it out, or add its answer",
            len(texts) - 1,
        )
    _suspicious(used, int(first), say)
    if not isinstance(value.get("id"), str) or not name:
        found = "no id" if "id" not in value else f"{_type(value['id'])} as id"
        say("no_id", found, "give each dialogue one; until then its place is its name")
        name = f"{Path(file).stem}-{element.index}"
    return Dialogue(name or "", used)


def _name(value: Any) -> str | None:
    """The id, if it is text that can be written down."""
    name = value.get("id") if isinstance(value, dict) else None
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        return None
    return _SURROGATES.sub("\ufffd", str(name)) or None


def _no_conversations(value: dict[str, Any]) -> tuple[str, str]:
    """What is found, and what mends it, where a dialogue has another format."""
    if isinstance(value.get("messages"), list):
        return '"messages" instead of "conversations"', MESSAGES_REMEDY
    if "instruction" in value and "output" in value:
        return '"instruction" and "output" instead of "conversations"', ALPACA_REMEDY
    if "conversations" in value:
        return f"{_type(value['conversations'])} as conversations", "make it a list of turns"
    keys = ", ".join(quote(key) for key in list(value)[:5]) or "none"
    return f"no conversations; its keys: {keys}", "convert the dataset to ShareGPT's format"


def _texts(turns: list[Any], say: Any) -> list[tuple[str, str]] | None:
    """The turns as (speaker, text); none where one of them cannot be used."""
    if not turns:
        say("one_sided", "no turn", "take the dialogue out")
        return None
    texts = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            found = f"keys {', '.join(map(quote, list(turn)[:5])) or 'none'}" if isinstance(turn, dict) else _type(turn)
            say("bad_turn", found, 'name the speaker "from" and the text "value"', number)
            return None
        speaker, text = turn["from"], turn["value"]
        if speaker not in SPEAKERS:
            say(
                "unknown_role",
                quote(speaker) if isinstance(speaker, str) else _type(speaker),
                _role_remedy(speaker),
                number,
            )
            return None
        if not isinstance(text, str):
            say("not_text", _type(text), "write the text alone, or take the dialogue out", number)
            return None
        if not text.strip():
            say(
                "empty_turn",
                "no text" if not text else "blanks alone",
                "write what was said, or take the dialogue out",
                number,
            )
            return None
        if lone := _lone_surrogate(text):
            say("surrogate", f"half of a character, \\u{ord(lone):04x}", "write the whole character", number)
            return None
        if "\0" in text:
            say("nul", "the character NUL", "take it out", number)
            return None
        texts.append((speaker, text))
    return texts


def _role_remedy(speaker: Any) -> str:
    name = speaker.strip().lower() if isinstance(speaker, str) else ""
    if name == "system":
        return (
            "put its text in front of the first question, or take it out: Vicuna's template has its own system prompt"
        )
    if name in HUMAN or name in GPT or name in SPEAKERS:
        other = "gpt" if name in GPT or name == "gpt" else "human"
        return f'write "{other}" for {quote(speaker)}; ' + ROLES_REMEDY
    return "write human for who asks and gpt for who answers; " + ROLES_REMEDY


def _lone_surrogate(text: str) -> str:
    """Half of a character that stands alone; "" where there is none. To encode is much faster than to search."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


def _suspicious(used: list[tuple[str, str]], before: int, say: Any) -> None:
    """What is trained on as it stands and hardly meant so."""
    seen = set()
    for number, (_speaker, text) in enumerate(used, before):
        if "\ufffd" in text and "replacement" not in seen:
            seen.add("replacement")
            say("replacement", "U+FFFD", "restore the text from its source", number)
        if "<" in text and "special_token" not in seen and (match := _SPECIAL.search(text)):
            seen.add("special_token")
            say("special_token", match[0], "write it in another way, or take it out", number)


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
    found = Survey(files_of(path), Findings(limit))
    digest = hashlib.sha256()
    names: dict[str, tuple[int, int]] = {}
    for number, element, dialogue in _read(found.files, found.findings):
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


def _same(kind: str, place: Place, files: list[Path], there: tuple[int, int]) -> Finding:
    """That a dialogue, or its id, was there before."""
    what, remedy = {
        "duplicate": ("the same turns as", "take one of them out"),
        "duplicate_id": ("the id of", "give them different ids"),
    }[kind]
    first = Place(files[there[0]].name, there[1])
    return Finding(KINDS[kind][0], kind, place, f"{what} {first}", KINDS[kind][1], remedy)


def _read(files: list[Path], findings: Findings) -> Iterator[tuple[int, Element, Dialogue | None]]:
    """Every dialogue of every file; what is no JSON is a finding alone."""
    for number, path in enumerate(files):
        with path.open("rb") as stream:
            if not _readable(stream, path.name, findings):
                continue
            for element in elements(stream):
                if isinstance(element, Element):
                    yield number, element, judge(element, path.name, findings)
                    continue
                place = Place(path.name, element.index, None, None, element.line, element.column)
                said = element.message[:1].lower() + element.message[1:]
                if element.begins < element.line:
                    said += f", in what begins in line {element.begins}"
                if element.lost:
                    said += "; what follows in the file was not read"
                remedy = "mend the JSON at this place" + ("; jq . FILE shows it, too" if element.lost else "")
                findings.add(Finding(ERROR, "json", place, said, KINDS["json"][1], remedy))


def _readable(stream: BinaryIO, name: str, findings: Findings) -> bool:
    """Whether a file's first bytes are those of UTF-8; the stream stands at its start again."""
    head = stream.read(4)
    stream.seek(0)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        remedy = "convert the file: iconv -f UTF-16 -t UTF-8"
        findings.add(Finding(ERROR, "utf16", Place(name), "UTF-16", KINDS["utf16"][1], remedy))
        return False
    if head.startswith(codecs.BOM_UTF8):
        remedy = "nothing is needed here; sed '1s/^\\xef\\xbb\\xbf//' takes it out for other programs"
        kind = "byte_order_mark"
        findings.add(Finding(WARNING, kind, Place(name), "a byte order mark", KINDS[kind][1], remedy))
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
    for _number, _element, dialogue in _read(found.files, Findings(0)):
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
    unread = found.findings.counts["json"] + found.findings.counts["utf16"]
    if not found.dialogues and not unread:
        names = ", ".join(path.name for path in found.files[:5])
        return [
            f"Found: no dialogue in {names}. Expected: one or more. "
            "Remedy: point finetune_dataset at a dataset in ShareGPT's format."
        ]
    if allow_dropped and not unread and found.used:
        return []
    return found.findings.lines(ERROR)


def way_out(found: Survey) -> list[str]:
    """How many have errors, and that they can be left out; empty where nothing would be left, or read, without them."""
    if not found.dropped or not found.used or found.findings.counts["json"] + found.findings.counts["utf16"]:
        return []
    return [
        f"Found: {found.dropped} of {found.dialogues} dialogues with errors. Expected: none. Remedy: mend them, or set "
        "finetune_allow_dropped: true, which leaves them out and counts them."
    ]
