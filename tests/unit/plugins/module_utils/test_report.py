# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vicuna.fleet.plugins.module_utils._report import (
    by_host,
    change_lines,
    changes,
    columns,
    last_report,
    write_report,
    write_text,
)

COMMIT = "3321f76e3f527bd14065daf69dad9344000a201d"
OTHER = "e7a9cc9a1b527bd14065daf69dad9344000a201d"
KEYS = ("release", "commit", "state")
A: dict[str, Any] = {"release": "one", "commit": COMMIT, "state": "ok"}


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({}, {}, []),
        ({"a": A}, {"a": A}, []),
        ({"a": A}, {"a": {**A, "release": "two"}}, ["a: release one -> two"]),
        ({"a": A}, {"a": {**A, "commit": OTHER}}, ["a: commit 3321f76e3f52 -> e7a9cc9a1b52"]),
        ({"a": A}, {"a": {**A, "other": 1}}, []),
        ({"a": A}, {"a": {**A, "release": None, "state": "down"}}, ["a: state ok -> down"]),
        ({"a": {**A, "release": ""}}, {"a": A}, []),
        ({}, {"a": A}, ["a is new"]),
        ({"a": A}, {}, ["a is gone"]),
        ({"b": A, "a": A}, {"c": A, "a": {**A, "release": "two", "state": "x"}},
         ["a: release one -> two", "a: state ok -> x", "b is gone", "c is new"]),
        ({"gpu-10": A, "gpu-2": A}, {}, ["gpu-2 is gone", "gpu-10 is gone"]),
        ({"a": {"state": ["no", "text"]}}, {"a": A}, ["a: state ['no', 'text'] -> ok"]),
        ({"a": {"release": "\x1b[2J"}}, {"a": A}, ["a: release \ufffd[2J -> one"]),
    ],
)  # fmt: skip
def test_changes(before: dict[str, Any], now: dict[str, Any], found: list[str]) -> None:
    assert change_lines(changes(before, now, KEYS)) == found


def test_a_host_outside_of_the_run_is_not_gone() -> None:
    assert changes({"a": A, "b": A}, {}, KEYS, still_there=("a",)) == [
        {"host": "b", "what": "gone", "from": None, "to": None}
    ]


VALUES = st.one_of(st.none(), st.text(max_size=3), st.integers(), st.lists(st.integers(), max_size=2))
HOSTS = st.dictionaries(st.text(max_size=4), st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=4)


def known(value: Any) -> bool:
    return value is not None and value != ""


@given(HOSTS, HOSTS)
def test_every_difference_is_told_once(before: dict[str, Any], now: dict[str, Any]) -> None:
    found = changes(before, now, KEYS)
    assert {one["host"] for one in found if one["what"] == "new"} == set(now) - set(before)
    assert {one["host"] for one in found if one["what"] == "gone"} == set(before) - set(now)
    for host in set(before) & set(now):
        told = {one["what"]: (one["from"], one["to"]) for one in found if one["host"] == host}
        pairs = {key: (before[host].get(key), now[host].get(key)) for key in KEYS}
        assert told == {
            key: (old, new) for key, (old, new) in pairs.items() if known(old) and known(new) and old != new
        }
    assert len(change_lines(found)) == len(found)
    assert not any(character in line for line in change_lines(found) for character in "\x1b\n\r")
    assert changes(now, now, KEYS) == []


def test_the_last_report(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    assert last_report(path) == (None, "")
    write_report(path, {"ok": True})
    assert last_report(path) == ({"ok": True}, "")
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"[]", "is none of this collection"),
        (b"7", "is none of this collection"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "is no JSON"),
    ],
)
def test_a_last_report_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    found, wrong = last_report(path)
    assert found is None
    assert words in wrong
    assert "\n" not in wrong


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    assert "cannot be read" in last_report(tmp_path)[1]


@pytest.mark.parametrize("entries", [None, {}, [1], [{}], [{"host": 1}], "x"])
def test_foreign_entries(entries: Any) -> None:
    assert by_host(entries) is None


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_report(path, {"a": 1})
    with pytest.raises(TypeError):
        write_report(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    write_text(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "?"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_columns() -> None:
    assert columns(("A", "N"), [("long", "1"), ("b", "100")], right=("N",)) == ["A       N", "long    1", "b     100"]
    assert columns(("A",), [], right=()) == ["A"]
