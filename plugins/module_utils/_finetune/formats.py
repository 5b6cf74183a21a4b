# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file or a dialogue is that has another format than the one that is trained on. Private to the collection.

No import beside the standard library.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ansible_collections.vicuna.fleet.plugins.module_utils._finetune.remedies import (
    GPT,
    HUMAN,
    SPEAKER_KEYS,
    SYSTEM,
    TEXT_KEYS,
    conversion,
    pairs,
)

# Bytes that are looked at. A tar archive has its name at byte 257.
HEAD = 4096


class Known(NamedTuple):
    """What was found, the key of its remedy, and what the remedy's command needs."""

    found: str
    remedy: str
    parts: Mapping[str, str] = MappingProxyType({})


# --- files ---------------------------------------------------------------------------------------------------------

# https://en.wikipedia.org/wiki/List_of_file_signatures, and each format's own specification.
SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a file compressed by gzip", "gzip"),
    (b"\x1f\x9d", "a file compressed by compress", "gzip"),
    (b"\x28\xb5\x2f\xfd", "a file compressed by zstd", "zstd"),
    (b"BZh", "a file compressed by bzip2", "bzip2"),
    (b"\xfd7zXZ\x00", "a file compressed by xz", "xz"),
    (b"\x04\x22\x4d\x18", "a file compressed by lz4", "lz4"),
    (b"PK\x03\x04", "a zip archive", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "archive"),
    (b"Rar!\x1a\x07", "a RAR archive", "archive"),
    (b"LZIP", "a file compressed by lzip", "archive"),
    (b"PAR1", "an Apache Parquet file", "parquet"),
    (b"PARE", "an encrypted Apache Parquet file", "binary"),
    (b"ORC", "an Apache ORC file", "orc"),
    (b"ARROW1", "an Apache Arrow (Feather) file", "arrow"),
    (b"FEA1", "a Feather file of version 1", "arrow"),
    (b"\xff\xff\xff\xff", "an Apache Arrow stream", "arrow_stream"),
    (b"Obj\x01", "an Apache Avro file", "binary"),
    (b"SQLite format 3\x00", "an SQLite database", "sqlite"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "binary"),
    (b"\x93NUMPY", "a NumPy array", "binary"),
    (b"%PDF-", "a PDF file", "binary"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an older Excel or Word file", "office"),
)
TARS = (".tgz", ".tbz2", ".txz", ".tzst", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
# Suffixes of what a folder of dialogues can hold beside JSON, and what would be read if it were JSON.
SUFFIXES = (
    *TARS,
    *(".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip", ".tar", ".7z", ".rar", ".z"),
    *(".parquet", ".arrow", ".feather", ".orc", ".avro", ".csv", ".tsv", ".xlsx", ".sqlite", ".sqlite3", ".db"),
)
_POINTER = re.compile(rb"version (https?://[^\n]*/spec/v1|https?://hawser[^\n]*|https?://git-media[^\n]*)\n")
_PAGE = re.compile(r"\s*<(!doctype|html|head|body|\?xml|error|!--)", re.IGNORECASE)
_TITLE = re.compile(r"<(title|code|message)>\s*([^<]+?)\s*<", re.IGNORECASE)


def file_format(head: bytes, path: Path) -> Known | None:
    """What a file is by its first bytes, where it is no text with JSON in it."""
    name = path.name.lower()
    if encoding := _encoding(head):
        return Known(f"text in {encoding.removesuffix('LE').removesuffix('BE')}", "encoding", {"encoding": encoding})
    if _POINTER.match(head):
        return Known("a pointer of git-lfs instead of the file that it stands for", "pointer")
    for signature, found, key in SIGNATURES:
        if head.startswith(signature):
            if key == "zip" and (b"[Content_Types].xml" in head or b"mimetypeapplication/vnd" in head):
                return Known("an Excel or Word file", "office")
            if name.endswith(TARS):
                return Known(f"a tar archive, {found.removeprefix('a file ')}", "tar")
            return Known(found, key)
    if head[257:262] == b"ustar":
        return Known("a tar archive", "tar")
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    if "\0" in text:
        return Known("a binary file", "binary")
    if _PAGE.match(text):
        title = _TITLE.search(text)
        return Known("an HTML or XML page" + (f', "{title[2][:60]}"' if title else ""), "page")
    if name.endswith((".csv", ".tsv")) and text.lstrip()[:1] not in ("{", "["):
        return _table(text, name)
    return None


def _encoding(head: bytes) -> str:
    """UTF-16 or UTF-32 as iconv calls it; "" where it is neither. JSON begins with an ASCII character."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and head[:4] != b"\xff\xff\xff\xff":
        return "UTF-16"
    first = head[:4]
    if len(first) == 4 and re.fullmatch(rb"[\s\[{\"]", first.strip(b"\0")[:1] or b"x"):
        zeros = "".join("x" if byte else "0" for byte in first)
        return {"x000": "UTF-32LE", "000x": "UTF-32BE", "x0x0": "UTF-16LE", "0x0x": "UTF-16BE"}.get(zeros, "")
    return ""


def _table(text: str, name: str) -> Known:
    kind = "TSV" if name.endswith(".tsv") else "CSV"
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = "\t" if kind == "TSV" else max(",;|\t", key=first.count)
    header = next(csv.reader([first], delimiter=delimiter), [])
    columns = ", ".join(header[:8]) or "none"
    known = _pair(dict.fromkeys(header, ""))
    if known is None:
        return Known(f"a {kind} table with the columns {columns}", "csv_columns")
    ask, answer = known
    return Known(
        f"a {kind} table with the columns {columns}",
        "csv",
        {
            "ask": " and ".join(ask),
            "answer": answer,
            "delimiter": "\\t" if delimiter == "\t" else delimiter,
            "program": conversion(pairs(ask, answer)),
        },
    )


# --- dialogues -----------------------------------------------------------------------------------------------------

_ASK = ("instruction", "prompt", "question", "query", "problem", "input", "human", "user")
_MORE = ("input", "context")
_ANSWER = ("output", "completion", "response", "answer", "solution", "assistant", "gpt")
_LISTS = ("messages", "conversation", "dialogue", "dialog", "turns", "chat", "items")
_ERRORS = ("error", "errors", "detail", "message")


def is_turn(value: Any) -> bool:
    return isinstance(value, dict) and ("from" in value or "role" in value) and "conversations" not in value


def is_turns(value: Any) -> bool:
    """Whether a list holds turns, not dialogues."""
    return isinstance(value, list) and any(map(is_turn, value))


def dialogue_format(value: Any) -> Known | None:
    """What an element of a dataset is that is no dialogue as it is wanted; none where nothing is known about it."""
    if is_turn(value):
        # In a file that has a turn in each line, nothing tells where a dialogue ends.
        found = "a turn without a dialogue around it (the command takes all in one list, or in a file without, as one)"
        return _convert(found, ".conversations", '[.,inputs]|if any(.[];type=="array") then .[] else . end|rows')
    if is_turns(value):
        return _convert("a list of turns without an object around it", ".conversations")
    if isinstance(value, list):
        source = next((dialogue_source(each) for each in value if isinstance(each, (dict, list))), "")
        return _convert("a list of dialogues within the list", source) if source else None
    if isinstance(value, str):
        return _convert("a dialogue as JSON in a text", ".conversations") if value.lstrip()[:1] in ("{", "[") else None
    if not isinstance(value, dict):
        return None
    if source := dialogue_source(value):
        return _convert(_described(value), source)
    for key, inner in value.items():
        if isinstance(inner, list) and inner and isinstance(inner[0], (dict, list)) and not is_turns(inner):
            source = dialogue_source(inner[0])
            if source:
                return _convert(f'an object with the dialogues in "{key}"', source, f'.["{key}"]|rows')
    named = next(iter(value.values()), None)
    if isinstance(named, dict) and (source := dialogue_source(named)):
        rows = 'if has("conversations") then . else to_entries[]|({id:.key}+.value) end'
        return _convert("an object with the dialogues by name", source, f"rows|{rows}")
    if any(key in value for key in _ERRORS) and len(value) <= 4:
        said = next(value[key] for key in _ERRORS if key in value)
        return Known(f"a server's answer, {str(said)[:80]!r}", "error_answer")
    return None


def _convert(found: str, source: str, inner: str = "rows") -> Known:
    return Known(found, "convert", {"program": conversion(source, inner)})


def dialogue_source(value: Any) -> str:
    """The jq expression of what holds a dialogue's turns; "" where it is not known."""
    if is_turns(value):
        return ".conversations"
    if isinstance(value, list):
        return next((source for each in value if (source := dialogue_source(each))), "")
    if not isinstance(value, dict):
        return ""
    if _listed(value.get("conversations")):
        return ".conversations"
    if key := next((key for key in _LISTS if _listed(value.get(key))), ""):
        return f".{key}"
    if _both(value):
        return "(.prompt+.completion)"
    if known := _pair(value):
        return pairs(*known)
    return ""


def _listed(value: Any) -> bool:
    """Turns, or JSON of them in a text, as exports of tables have them."""
    if isinstance(value, str):
        return value.lstrip().startswith("[")
    return isinstance(value, list) and any(isinstance(each, dict) for each in value)


def _both(value: dict[str, Any]) -> bool:
    return is_turns(value.get("prompt")) and is_turns(value.get("completion"))


def _pair(value: dict[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """The keys of a question, and that of its answer."""
    texts = [key for key, text in value.items() if isinstance(text, str)]
    ask = next((key for key in _ASK if key in texts), "")
    answer = next((key for key in _ANSWER if key in texts), "")
    if not ask or not answer:
        return None
    more = tuple(key for key in _MORE if key in texts and key != ask)
    return (ask, *more), answer


def _described(value: dict[str, Any]) -> str:
    if isinstance(value.get("conversations"), str):
        return "conversations as JSON in a text"
    if key := next((key for key in _LISTS if _listed(value.get(key))), ""):
        return f'"{key}" instead of "conversations"'
    if known := _pair(value):
        return " and ".join(f'"{key}"' for key in (*known[0], known[1])) + ' instead of "conversations"'
    return '"prompt" and "completion" instead of "conversations"'


def turns_convert(turns: list[Any]) -> bool:
    """Whether every turn is an object that the conversion knows: a speaker and a text, or a text by its speaker."""
    return all(map(_convertible, turns))


def _convertible(turn: Any) -> bool:
    if not isinstance(turn, dict) or not turn:
        return False
    if any(key in turn for key in SPEAKER_KEYS):
        return any(key in turn for key in TEXT_KEYS)
    return all(is_speaker(key) for key in turn)


def is_speaker(name: Any) -> bool:
    """Whether the conversion knows a speaker's name."""
    return isinstance(name, str) and name.strip().lower() in (*HUMAN, *GPT, *SYSTEM)


def is_parts(text: Any) -> bool:
    """Whether a text is a list of texts, as OpenAI's API has it."""
    return isinstance(text, list) and all(
        isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str)) for part in text
    )
