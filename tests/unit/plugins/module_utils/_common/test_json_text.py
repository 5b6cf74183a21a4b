# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import sys
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._common.json_text import DEEPEST, JsonError, kind, read


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        ('{"a": 1}\r\n'.encode("utf-8-sig"), {"a": 1}),
        ("\ufeff[]", []),
        ('{"a": "é"}'.encode("utf-16"), {"a": "é"}),
        (b"\xfe\xff" + '{"a": 1}'.encode("utf-16-be"), {"a": 1}),
        ("[]".encode("utf-32"), []),
        ('{"a": 1, "a": 1}', {"a": 1}),
        (r'{"a": "\ud83d\ude00"}', {"a": "\U0001f600"}),
        (r'{"a": "\\ud83d // # "}', {"a": "\\ud83d // # "}),
        ("[" * DEEPEST + "]" * DEEPEST, "deep"),
    ],
)
def test_read(data: bytes | str, value: Any) -> None:
    found = read(data)
    assert found == value or (value == "deep" and isinstance(found, list))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("", "it is empty"),
        (b"\xef\xbb\xbf \n", "it is empty"),
        ('{"a": 1,\n}', "line 1, column 8: a comma before the closing }"),
        ('{"a": [1, 2,\n\n  ]}', "line 1, column 12: a comma before the closing ]"),
        ('{"a": 1, // one\n}', "line 1, column 10: a comment, which JSON does not have"),
        ('{\n  # one\n  "a": 1}', "line 2, column 3: a comment, which JSON does not have"),
        ('{"a": 1 /* one */}', "line 1, column 9: a comment, which JSON does not have"),
        ("{'a': 1}", "line 1, column 2: a single quote, where JSON has double ones"),
        ('{\u00a0"a": 1}', "line 1, column 2: a character that looks like a space"),
        ("{\u201ca\u201d: 1}", "line 1, column 2: a typographic quote, where JSON has plain double ones"),
        ('{"a": True}', "line 1, column 7: a word that JSON does not have: it knows true, false and null"),
        ('{"a": .5}', "line 1, column 7: a number as JSON does not write it"),
        ("{a: 1}", "line 1, column 2: a key without its double quotes"),
        ('{"a": 1\n "b": 2}', "line 2, column 2: a comma or a closing bracket is missing before this"),
        ('{"a" 1}', "line 1, column 6: a colon is missing before this"),
        ('{"a": 1}}', "line 1, column 9: something after the end of the JSON text"),
        ('{"a": 1}\n{"a": 2}', "line 2, column 1: something after the end of the JSON text"),
        ('{"a": 1\n\n', "line 1, column 8: it ends in the middle"),
        ('{"a": "b', "line 1, column 7: a string that begins here and does not end"),
        ('{"a": "x\ty"}', "line 1, column 9: a line's end or a tab inside a string"),
        (r'{"a": "C:\x"}', "line 1, column 10: a backslash that escapes nothing"),
        ("<<<<<<< HEAD\n{}\n", "line 1, column 1: the mark of a merge conflict"),
        ('{"a": 1}\n=======\n{}\n', "line 2, column 1: the mark of a merge conflict"),
        ("<!DOCTYPE html>", "it is a web page or XML"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is the pointer of a file in Git LFS"),
        ('{"a": NaN}', "line 1, column 7: NaN, which is no number of JSON"),
        ('{"NaN": -Infinity}', "line 1, column 9: -Infinity, which is no number of JSON"),
        ('{"a": 1,\n "b": {"a": 1},\n "a": 2}', 'line 3, column 2: the key "a" stands here for the second time'),
        (r'{"a": "\ud83d"}', r"line 1, column 8: \ud83d, half of a character"),
        (r'{"a": "x\ude00"}', r"line 1, column 9: \ude00, half of a character"),
        ("[" * 3000 + "]" * 3000, f"line 1, column {DEEPEST + 1}: nested deeper than {DEEPEST}"),
        ('{"a": ' * 100_000, f"line 1, column {6 * DEEPEST + 1}: nested deeper than {DEEPEST}"),
        (b'{"a": "\xe9"}', "line 1, column 8: the byte 0xe9 is no UTF-8"),
        (b"\xff\xfe{", "byte 2 of it is no UTF-16"),
        ("{}".encode("utf-16-le"), "it is in UTF-16 or UTF-32 without a byte-order mark, or binary"),
        (b"\x1f\x8b\x08", "it is compressed by gzip"),
        (b"PK\x03\x04", "it is a ZIP archive"),
    ],
)
def test_no_json_and_where(data: bytes | str, error: str) -> None:
    with pytest.raises(JsonError) as found:
        read(data)
    assert str(found.value)[: len(error)] == error


@pytest.mark.parametrize("limit", [400, 5000])
def test_depth_does_not_depend_on_the_caller(limit: int) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        with pytest.raises(JsonError, match="nested deeper"):
            read("[" * 450 + "]" * 450)
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\xef\xbb\xbf{}", "line 1, column 1: a byte-order mark before the text"),
        ("\ufeff{}", "line 1, column 1: a byte-order mark before the text"),
        ("{}".encode("utf-16"), "it is in UTF-16, where UTF-8 was expected"),
    ],
)
def test_without_a_mark(data: bytes | str, error: str) -> None:
    with pytest.raises(JsonError) as found:
        read(data, marked=False)
    assert str(found.value)[: len(error)] == error


def test_constants() -> None:
    assert read('{"a": [0.0, Infinity]}', constants=True) == {"a": [0.0, float("inf")]}


def test_kind() -> None:
    assert [kind(value) for value in (None, True, 1, 1.5, "", [], {})] == [
        "null",
        "boolean",
        "number",
        "number",
        "string",
        "array",
        "object",
    ]
