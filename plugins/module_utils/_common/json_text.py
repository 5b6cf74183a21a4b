# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON that people wrote: read as it was meant or not at all, and where the mistake is. No input, no output."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, NoReturn

EMPTY = "it is empty"
# Deeper than any file of ours, and far from where Python's own parser gives up, which depends on its caller.
DEEPEST = 100

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_HALF = re.compile(
    r"(?<!\\)(?:\\\\)*(\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u)[dD][c-fC-F]..))"
)
_BINARY = (
    (b"\x1f\x8b", "compressed by gzip"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"\xfd7zXZ", "compressed by xz"),
    (b"BZh", "compressed by bzip2"),
)
# What stands where the parser stops, by how it begins there.
_STRANGE = (
    (r"//|/\*|#", "a comment, which JSON does not have"),
    (r"<{7}|={7}|>{7}", "the mark of a merge conflict"),
    (r"'", "a single quote, where JSON has double ones"),
    (r"[\u2018-\u201f\u00ab\u00bb]", "a typographic quote, where JSON has plain double ones"),
    (
        r"[\x0b\x0c\x85\u00a0\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]",
        "a character that looks like a space, or like none, and is not one of JSON's",
    ),
    (r"True|False|None|undefined|yes\b|no\b", "a word that JSON does not have: it knows true, false and null"),
    (r"\.\d|\+\d|0\d", "a number as JSON does not write it"),
    (r"[A-Za-z_][\w-]*\s*:", "a key without its double quotes"),
)
_SAID = {
    "Expecting ',' delimiter": "a comma or a closing bracket is missing before this",
    "Expecting ':' delimiter": "a colon is missing before this",
    "Unterminated string starting at": "a string that begins here and does not end",
    "Invalid \\escape": "a backslash that escapes nothing (a backslash itself is written as two)",
    "Invalid \\uXXXX escape": r"\u without four hexadecimal digits",
    "Extra data": "something after the end of the JSON text",
    "Expecting value": "no JSON value",
    "Expecting property name enclosed in double quotes": "no key in double quotes",
}


class JsonError(ValueError):
    """Not JSON, or not to be read in one way alone: "line 3, column 5: a comma before the closing }"."""

    def __init__(self, what: str, text: str = "", at: int | None = None) -> None:
        place = ""
        if at is not None:
            place = f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}: "
        super().__init__(place + what)


def read(data: bytes | str, *, marked: bool = True, constants: bool = False) -> Any:
    """The value of a JSON text.

    marked: whether it may begin with a byte-order mark, and be in the encoding that the mark tells; else it is UTF-8.
    constants: whether NaN and Infinity are numbers, as to Python and not to JSON.

    Raises JsonError where it is no JSON; where a key stands twice in one object with two values, of which readers take
    either; where a string holds half a character (a lone surrogate); and where it is nested deeper than DEEPEST.
    """
    text = _decode(data, marked) if isinstance(data, bytes) else data
    if text.startswith("\ufeff"):
        if not marked:
            raise JsonError('a byte-order mark before the text (an editor\'s encoding "UTF-8 with BOM")', text, 0)
        text = text[1:]
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth > DEEPEST:
            raise JsonError(f"nested deeper than {DEEPEST}", text, token.start())

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(found)
        for key, value in found if len(result) < len(found) else ():
            if result[key] != value:
                raise JsonError(f'the key "{key}" stands here for the second time', text, _second(text, key))
        return result

    def constant(name: str) -> float:
        if not constants:
            at = re.search(rf"(?<![\w\"]){re.escape(name)}(?![\w\"])", text)
            raise JsonError(f"{name}, which is no number of JSON", text, at.start() if at else None)
        return float(name)

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        _explain(text, error)
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"a number that is too long ({error})") from error
    half = _HALF.search(text) if "\\u" in text else None
    if half:
        raise JsonError(f"{half[1]}, half of a character", text, half.start(1))
    return value


def kind(value: Any) -> str:
    """JSON's word for a value's type."""
    if value is None:
        return "null"
    return {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}[type(value)]


def strange(text: str, at: int) -> str:
    """What stands where a parser stops, in words; empty where it is nothing that people are known to write."""
    return next((what for pattern, what in _STRANGE if re.compile(pattern).match(text, at)), "")


def _decode(data: bytes, marked: bool) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            if not marked and mark != codecs.BOM_UTF8:
                raise JsonError(f"it is in {encoding[:6].upper()}, where UTF-8 was expected")
            try:
                return "\ufeff" + data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise JsonError(f"byte {error.start + len(mark)} of it is no {encoding[:6].upper()}") from error
    for magic, what in _BINARY:
        if data.startswith(magic):
            raise JsonError(f"it is {what}")
    if b"\0" in data[:4]:
        raise JsonError("it is in UTF-16 or UTF-32 without a byte-order mark, or binary")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise JsonError(f"the byte 0x{data[error.start]:02x} is no UTF-8", before, len(before)) from error


def _second(text: str, name: str) -> int | None:
    """Where a key stands for the second time in one object of a valid JSON text."""
    seen: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        if token[0] in "[{":
            seen.append(set())
        elif token[0] in "]}":
            seen.pop()
        elif seen and re.compile(r"\s*:").match(text, token.end()) and (key := json.loads(token[0])) == name:
            if key in seen[-1]:
                return token.start()
            seen[-1].add(key)
    return None


def _explain(text: str, error: json.JSONDecodeError) -> NoReturn:
    if error.msg.startswith("Invalid control character"):
        raise JsonError("a line's end or a tab inside a string", text, error.pos) from error
    at = error.pos + len(text[error.pos :]) - len(text[error.pos :].lstrip(" \t\r\n"))
    before = text[:at].rstrip()
    if not text.strip():
        raise JsonError(EMPTY) from error
    if not before and text.lstrip().startswith("version https://"):
        raise JsonError("it is the pointer of a file in Git LFS, not the file") from error
    if not before and re.match(r"\s*<(?!<)", text):
        raise JsonError("it is a web page or XML") from error
    # Where Python 3.13 and later tell the comma itself, others tell what follows it.
    comma = re.compile(r",\s*(?=([\]}]))").match(text, at)
    if comma is None and before.endswith(",") and text[at : at + 1] in ("]", "}"):
        raise JsonError(f"a comma before the closing {text[at]}", text, len(before) - 1) from error
    if comma:
        raise JsonError(f"a comma before the closing {comma[1]}", text, at) from error
    if what := strange(text, at):
        raise JsonError(what, text, at) from error
    if at >= len(text):
        raise JsonError("it ends in the middle", text, len(before)) from error
    raise JsonError(_SAID.get(error.msg, error.msg), text, at) from error
