# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vicuna.fleet.plugins.module_utils import _sharegpt
from ansible_collections.vicuna.fleet.plugins.module_utils._sharegpt import (
    ERROR,
    KINDS,
    WARNING,
    Broken,
    DatasetError,
    Element,
    Survey,
    elements,
    hold_out,
    problems,
    survey,
    write,
)

BAD = importlib.util.spec_from_file_location(
    "bad_dialogues", Path(__file__).resolve().parents[3] / "finetune/bad_dialogues.py"
)
assert BAD and BAD.loader
bad_dialogues = importlib.util.module_from_spec(BAD)
BAD.loader.exec_module(bad_dialogues)


def test_there_is_a_bad_file_for_each_kind_and_all_are_named_at_once(tmp_path: Path) -> None:
    assert set(bad_dialogues.FILES) == {kind for kind, (severity, _expected) in KINDS.items() if severity == ERROR}
    names = bad_dialogues.write(tmp_path)
    found = survey(tmp_path)
    assert sorted(found.findings.counts) == sorted(bad_dialogues.FILES)
    said = problems(found, allow_dropped=False)
    assert [[line for line in said if line.startswith(name)] for name in names] == [
        [line] for name in names for line in said if line.startswith(name)
    ]
    assert len(said) == len(names)


def dialogue(*texts: str, name: Any = "a", first: str = "human") -> dict[str, Any]:
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    turns = [{"from": speakers[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": name, "conversations": turns}


def many(count: int) -> list[dict[str, Any]]:
    return [dialogue(f"Question {n}?", f"Answer {n}.", name=f"d{n}") for n in range(count)]


def put(folder: Path, content: Any, name: str = "data.json") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def kinds(found: Survey) -> dict[str, int]:
    return dict(found.findings.counts)


def sides(found: Survey) -> tuple[list[Any], list[Any]]:
    train, heldout = io.BytesIO(), io.BytesIO()
    write(found, train, heldout)
    return json.loads(train.getvalue()), json.loads(heldout.getvalue())


GOOD = dialogue("Hello!", "Hello! How can I help you?", "Who are you?", "I am Vicuna.")


def test_a_good_dataset(tmp_path: Path) -> None:
    found = survey(put(tmp_path, [GOOD, dialogue("a", "b", name="b")]))
    assert kinds(found) == {}
    assert (found.dialogues, found.used, found.turns, found.characters) == (2, 2, 6, 58)
    assert problems(found, allow_dropped=False) == []
    assert sides(found)[0] == [GOOD, dialogue("a", "b", name="b")]


# --- one dialogue ------------------------------------------------------------------------------------------------

TURN = {"from": "human", "value": "x"}
ANSWER = {"from": "gpt", "value": "y"}
# A dialogue, the only kind that is found, and pieces of the message.
BAD: list[tuple[str, Any, str, list[str]]] = [
    ("a number", 5, "not_object", ["data.json[0], line 1", "Found: a number", '"conversations"']),
    ("text", "x", "not_object", ["Found: text"]),
    ("null", None, "not_object", ["Found: null"]),
    ("a list", [TURN, ANSWER], "not_object", ["Found: a list of turns", "jq -c '"]),
    ("nothing of it", {"a": 1, "b": 2}, "no_conversations", ['its keys: "a", "b"']),
    ("an empty object", {}, "no_conversations", ["its keys: none"]),
    ("null turns", {"conversations": None}, "no_conversations", ["null as conversations"]),
    (
        "OpenAI's format",
        {"messages": [{"role": "user", "content": "x"}]},
        "no_conversations",
        ['"messages"', "jq -c '"],
    ),
    (
        "Alpaca's format",
        {"instruction": "x", "input": "", "output": "y"},
        "no_conversations",
        ["instruction", "jq -c '"],
    ),
    ("no turn", {"conversations": []}, "one_sided", ["Found: no turn"]),
    ("one question", {"conversations": [TURN]}, "one_sided", ["only a turn from human"]),
    ("one answer", {"conversations": [ANSWER]}, "one_sided", ["only a turn from gpt"]),
    ("an answer, then a question", {"conversations": [ANSWER, TURN]}, "one_sided", []),
    ("a turn that is text", {"conversations": ["x", "y"]}, "bad_turn", [".conversations[0]", "Found: text"]),
    (
        "role and content",
        {"conversations": [{"role": "user", "content": "x"}]},
        "bad_turn",
        ['"role", "content"', '"from"'],
    ),
    ("no value", {"conversations": [TURN, {"from": "gpt"}]}, "bad_turn", [".conversations[1]"]),
    ("user", {"conversations": [{"from": "user", "value": "x"}]}, "unknown_role", ['"user"', "jq"]),
    (
        "assistant",
        {"conversations": [TURN, {"from": "assistant", "value": "x"}]},
        "unknown_role",
        ['"assistant"', "jq"],
    ),
    ("Human", {"conversations": [{"from": "Human", "value": "x"}]}, "unknown_role", ['"Human"', "jq"]),
    ("GPT", {"conversations": [TURN, {"from": "GPT ", "value": "x"}]}, "unknown_role", ['"GPT "', "jq"]),
    ("system", {"conversations": [{"from": "system", "value": "x"}, TURN, ANSWER]}, "unknown_role", ["system prompt"]),
    (
        "tool",
        {"conversations": [TURN, {"from": "tool", "value": "x"}]},
        "unknown_role",
        ["nothing automatic can"],
    ),
    ("a role that is a list", {"conversations": [{"from": ["human"], "value": "x"}]}, "unknown_role", ["a list"]),
    ("a null text", {"conversations": [TURN, {"from": "gpt", "value": None}]}, "not_text", ["Found: null"]),
    ("a text in parts", {"conversations": [TURN, {"from": "gpt", "value": ["x"]}]}, "not_text", ["Found: a list"]),
    ("a number as text", {"conversations": [{"from": "human", "value": 4}, ANSWER]}, "not_text", ["a number"]),
    ("an empty question", dialogue("", "x"), "empty_turn", [".conversations[0]", "no text"]),
    ("an empty answer", dialogue("x", "", "y", "z"), "empty_turn", [".conversations[1]"]),
    ("an answer of blanks", dialogue("x", " \n\t\u00a0"), "empty_turn", ["blanks alone"]),
    ("half a character", dialogue("x", "\ud83d"), "surrogate", ["\\ud83d"]),
    ("the other half", dialogue("\ude00", "x"), "surrogate", ["\\ude00"]),
    ("NUL", dialogue("x", "a\0b"), "nul", ["NUL"]),
    (
        "two questions",
        {"conversations": [TURN, TURN, ANSWER]},
        "not_alternating",
        ["[1]", "from human in a row", "join"],
    ),
    ("two answers", {"conversations": [TURN, ANSWER, ANSWER]}, "not_alternating", ["[2]", "from gpt in a row"]),
    ("two answers first", {"conversations": [ANSWER, ANSWER, TURN, ANSWER]}, "not_alternating", ["[1]"]),
    ("two questions last", {"conversations": [TURN, ANSWER, TURN, TURN]}, "not_alternating", ["[3]"]),
]


@pytest.mark.parametrize(("name", "value", "kind", "said"), BAD, ids=[case[0] for case in BAD])
def test_what_cannot_be_used(tmp_path: Path, name: str, value: Any, kind: str, said: list[str]) -> None:
    found = survey(put(tmp_path, [value, GOOD]))
    assert kinds(found) == {kind: 1}
    finding = found.findings.kept[0]
    assert finding.severity == ERROR == KINDS[kind][0]
    for piece in [*said, "Found: ", "Expected: ", "Remedy: "]:
        assert piece in finding.message
    assert (found.dialogues, found.dropped) == (2, 1)
    assert problems(found, allow_dropped=False) == [finding.message]
    assert problems(found, allow_dropped=True) == []
    assert sides(found)[0] == [GOOD]


ODD: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("an answer first", dialogue("0", "x", "y", first="gpt"), "leading_gpt", dialogue("x", "y")),
    ("a question last", dialogue("x", "y", "z"), "trailing_human", dialogue("x", "y")),
    ("a lost character", dialogue("x", "gr\ufffd\ufffdn"), "replacement", dialogue("x", "gr\ufffd\ufffdn")),
    ("an end of text", dialogue("</s>?", "y</s>"), "special_token", dialogue("</s>?", "y</s>")),
    ("an unknown token", dialogue("x", "<unk>"), "special_token", dialogue("x", "<unk>")),
    ("no id", {"conversations": [TURN, ANSWER]}, "no_id", dialogue("x", "y", name="data-0")),
    ("an empty id", dialogue("x", "y", name=""), "no_id", dialogue("x", "y", name="data-0")),
    ("a number as id", dialogue("x", "y", name=7), "no_id", dialogue("x", "y", name="data-0")),
    ("other keys", {**dialogue("x", "y"), "lang": "en"}, "", dialogue("x", "y")),
    ("markup alike", dialogue("<S> </ s> <sub>", "y"), "", dialogue("<S> </ s> <sub>", "y")),
    ("half a character as id", dialogue("x", "y", name="\ud83d"), "replacement", dialogue("x", "y", name="\ufffd")),
    ("half a character as a key", {**dialogue("x", "y"), "\ude00": 1}, "replacement", dialogue("x", "y")),
]


@pytest.mark.parametrize(("name", "value", "kind", "written"), ODD, ids=[case[0] for case in ODD])
def test_what_can_be_used(tmp_path: Path, name: str, value: Any, kind: str, written: dict[str, Any]) -> None:
    found = survey(put(tmp_path, [value]))
    assert kinds(found) == ({kind: 1} if kind else {})
    assert all(finding.severity == WARNING == KINDS[kind][0] for finding in found.findings.kept)
    assert problems(found, allow_dropped=False) == []
    assert sides(found)[0] == [written]


def test_duplicates_are_found_over_files(tmp_path: Path) -> None:
    put(tmp_path, [GOOD, dialogue("x", "y", name="b")], "a.json")
    put(tmp_path, [dialogue("x", "y", name="c"), {**dialogue("z", "y", name="b")}], "b.json")
    found = survey(tmp_path)
    assert kinds(found) == {"duplicate": 1, "duplicate_id": 1}
    first, second = (finding.message for finding in found.findings.kept)
    assert first.startswith('b.json[0] (id "c"), line 1. Found: the same turns as a.json[1].')
    assert second.startswith('b.json[1] (id "b"), line 1. Found: the id of a.json[1].')


def test_a_text_in_a_message_is_short(tmp_path: Path) -> None:
    found = survey(put(tmp_path, [dialogue("x", "", name="n" * 500)]))
    assert len(found.findings.kept[0].message) < 300


# --- a file ------------------------------------------------------------------------------------------------------

LINES = b"\n".join(json.dumps(dialogue("x", str(n), name=f"d{n}")).encode() for n in range(3))
ONE = json.dumps(GOOD).encode()
# Bytes of a file, the kinds that are found, dialogues that can be used, and pieces of the first message.
FILES: list[tuple[str, bytes, dict[str, int], int, list[str]]] = [
    ("an array", b"[" + ONE + b"]", {}, 1, []),
    ("an array with blanks", b" \r\n[\n\t" + ONE + b"\n ]\r\n\n", {}, 1, []),
    ("JSON Lines", LINES, {}, 3, []),
    ("JSON Lines with blank lines", b"\n\n" + LINES.replace(b"\n", b"\r\n\r\n") + b"\n\n", {}, 3, []),
    ("one object over lines", json.dumps(GOOD, indent=2).encode(), {}, 1, []),
    ("a byte order mark", b"\xef\xbb\xbf[" + ONE + b"]", {"byte_order_mark": 1}, 1, ["data.json. Found: a byte order"]),
    ("an empty array", b"[]", {}, 0, []),
    ("nothing", b"", {}, 0, []),
    ("blanks", b" \n\n", {}, 0, []),
    ("cut within a text", b"[" + ONE[:60], {"json": 1}, 0, ["line 1, column", "unterminated string"]),
    ("cut behind a dialogue", b"[\n" + ONE + b"\n", {"json": 1}, 1, ["data.json[1], line 3, column 1", "ends within"]),
    ("cut behind a comma", b"[" + ONE + b",", {"json": 1}, 1, ["ends within its list"]),
    ("a comma too many", b"[" + ONE + b",\n]", {"json": 1}, 1, ["data.json[1], line 2, column 1"]),
    ("a comma too few", b"[" + ONE + b"\n" + ONE + b"]", {"json": 1}, 1, ["line 2, column 1", "a comma is missing"]),
    ("more behind the array", b"[" + ONE + b"]\n[]", {"json": 1}, 1, ["line 2, column 1", "something follows"]),
    ("single quotes", b"[{'id': 1}]", {"json": 1}, 0, ["line 1, column 3", "not read"]),
    ("a line break in a text", b'[\n{"id": "a\nb"}]', {"json": 1}, 0, ["line 2, column 10", "invalid control"]),
    ("a bad line of JSON Lines", LINES + b"\n{oops\n" + ONE, {"json": 1}, 4, ["data.json[3], line 4, column 2"]),
    ("a cut line of JSON Lines", LINES[:40] + b"\n" + ONE, {"json": 1}, 1, ["begins in line 1"]),
    ("commas between lines", LINES.replace(b"\n", b",\n"), {"json": 2}, 3, ["line 1", "expecting value"]),
    ("words", b"Hello, world!", {"json": 1}, 0, ["data.json[0], line 1, column 1"]),
    ("deep", b"[" * 200_000, {"json": 1}, 0, []),
    ("a number of many digits", b"[" + b"9" * 5000 + b"]", {"json": 1}, 0, ["digits"]),
    ("Latin-1", b"[" + ONE.replace(b"Hello", b"H\xe9llo") + b"]", {"utf8": 1}, 0, ["id", "not UTF-8: e9 e9", "iconv"]),
    ("half a character", b"[" + ONE.replace(b"Hello", b"H\xe2\x82") + b"]", {"utf8": 1}, 0, ["e2 82"]),
    ("UTF-16", ("[" + ONE.decode() + "]").encode("utf-16"), {"format": 1}, 0, ["UTF-16", "iconv"]),
]


@pytest.mark.parametrize(("name", "content", "expected", "used", "said"), FILES, ids=[case[0] for case in FILES])
@pytest.mark.parametrize("chunk", [1, 7, 1024 * 1024])
def test_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    name: str,
    content: bytes,
    expected: dict[str, int],
    used: int,
    said: list[str],
) -> None:
    """The same is found wherever a window ends."""
    if chunk == 1 and len(content) > 10_000:
        pytest.skip("a window for each byte is slow")
    monkeypatch.setattr(_sharegpt, "CHUNK", chunk)
    found = survey(put(tmp_path, content))
    assert kinds(found) == expected
    assert found.used == used
    for piece in said:
        assert piece in found.findings.kept[0].message
    # A file of which a part could not be read is never used.
    broken = {"json", "format"} & expected.keys()
    assert bool(problems(found, allow_dropped=True)) == bool(broken or not used)


def test_the_messages_of_an_empty_dataset(tmp_path: Path) -> None:
    put(tmp_path, b"[]", "a.json")
    put(tmp_path, b"", "b.jsonl")
    (message,) = problems(survey(tmp_path), allow_dropped=True)
    assert message.startswith("Found: no dialogue in a.json (2 bytes), b.jsonl (0 bytes).")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: folder / "none.json", "Found: nothing at"),
        (lambda folder: folder, "no .json and no .jsonl file"),
        (lambda _folder: Path("/dev/null"), "no regular file"),
    ],
)
def test_what_is_no_dataset(tmp_path: Path, prepare: Any, said: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.json").write_text("[]")
    with pytest.raises(DatasetError, match=said):
        survey(prepare(tmp_path))


def test_a_directory_is_read_by_name(tmp_path: Path) -> None:
    put(tmp_path, [dialogue("x", "1", name="1")], "b.json")
    put(tmp_path, json.dumps(dialogue("x", "2", name="2")).encode(), "a.JSONL")
    (tmp_path / "c.json").mkdir()
    found = survey(tmp_path)
    assert [path.name for path in found.files] == ["a.JSONL", "b.json"]
    assert [entry["id"] for entry in sides(found)[0]] == ["2", "1"]


def test_as_many_findings_as_are_wanted(tmp_path: Path) -> None:
    found = survey(put(tmp_path, [dialogue("x", "", name=f"d{n}") for n in range(9)] + [GOOD, 1]), limit=3)
    assert kinds(found) == {"empty_turn": 9, "not_object": 1}
    lines = problems(found, allow_dropped=False)
    assert len(lines) == 5
    assert lines[3] == "… and 6 more: empty_turn."


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(values, max_size=6), st.booleans(), st.booleans(), st.integers(1, 40))
def test_reading_is_as_json_reads(content: list[Any], lines: bool, ascii_only: bool, chunk: int) -> None:
    if lines:
        # A list at the start makes an array of the file.
        content = [value for value in content if not isinstance(value, list)]
        text = "\n".join(json.dumps(value, ensure_ascii=ascii_only) for value in content)
    else:
        text = json.dumps(content, ensure_ascii=ascii_only, indent=chunk % 3 or None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sharegpt, "CHUNK", chunk)
        found = list(elements(io.BytesIO(text.encode("utf-8", "surrogatepass"))))
    assert all(isinstance(element, Element) and not element.bad_bytes for element in found)
    assert [element.value for element in found if isinstance(element, Element)] == content


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 10))
def test_no_bytes_upset_it(content: bytes, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sharegpt, "CHUNK", chunk)
        for prefix in (b"", b"[", b'[{"a": "'):
            found = list(elements(io.BytesIO(prefix + content)))
            assert all(isinstance(element, (Element, Broken)) for element in found)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["\n", "a", "é", " "]), max_size=30).map("".join))
def test_places(text: str) -> None:
    """Line and column as an editor counts them."""
    window = _sharegpt._Window(io.BytesIO(text.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sharegpt, "CHUNK", 3)
        behind = 0
        while behind < len(text):
            if window.at == len(window.text) and not window.more():
                break
            before = text[:behind]
            assert window.place(window.at) == (before.count("\n") + 1, behind - before.rfind("\n"))
            window.at += 1
            behind += 1


# --- the split ---------------------------------------------------------------------------------------------------


def split(tmp_path: Path, content: list[Any], share: float, seed: int = 0) -> tuple[list[str], list[str], Survey]:
    found = survey(put(tmp_path, content))
    hold_out(found, share, seed)
    train, heldout = sides(found)
    assert len(heldout) == found.heldout_dialogues
    return [entry["id"] for entry in train], [entry["id"] for entry in heldout], found


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (100, 0.05, 5),
        (100, 0.5, 50),
        (21, 0.05, 1),
        (2, 0.05, 1),
        (2, 1, 1),
        (100, 7, 7),
        (3, 2, 2),
        (1, 0, 0),
        (9, 0, 0),
    ],
)
def test_how_many_are_held_out(tmp_path: Path, count: int, share: float, expected: int) -> None:
    train, heldout, _found = split(tmp_path, many(count), share)
    assert (len(train), len(heldout)) == (count - expected, expected)
    assert {*train, *heldout} == {f"d{n}" for n in range(count)}


def test_the_split_depends_on_content_and_seed_alone(tmp_path: Path) -> None:
    content = many(60)
    _train, heldout, found = split(tmp_path, content, 0.2)
    assert split(tmp_path, content, 0.2)[2].sha256 == found.sha256
    assert set(split(tmp_path, content[::-1], 0.2)[1]) == set(heldout)
    renamed = [{**entry, "id": f"x{entry['id']}"} for entry in content]
    assert [f"x{name}" for name in heldout] == split(tmp_path, renamed, 0.2)[1]
    assert set(split(tmp_path, content, 0.2, seed=1)[1]) != set(heldout)


def test_a_larger_dataset_holds_the_same_out(tmp_path: Path) -> None:
    """Else a model would be measured on what its predecessor was trained on."""
    before = set(split(tmp_path, many(200), 0.1)[1])
    after = set(split(tmp_path, many(220), 0.1)[1])
    assert len(before & after) >= 18


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_are_on_one_side(tmp_path: Path, seed: int) -> None:
    content = [dialogue(f"{n % 7}", "y", name=f"d{n}") for n in range(40)]
    train, heldout, found = split(tmp_path, content, 0.3, seed)
    assert {int(name[1:]) % 7 for name in train}.isdisjoint(int(name[1:]) % 7 for name in heldout)
    assert train and heldout
    assert kinds(found) == {"duplicate": 33}


def test_one_of_two_with_many_duplicates(tmp_path: Path) -> None:
    content = [dialogue("same", "y", name=f"d{n}") for n in range(9)] + [dialogue("other", "y", name="o")]
    train, heldout, _found = split(tmp_path, content, 0.5)
    assert train and heldout


@pytest.mark.parametrize(
    ("content", "share", "said"),
    [
        (many(1), 0.05, "1 different dialogue"),
        ([GOOD, GOOD], 1, "1 different dialogue"),
        (many(5), 5, "Found: 5 dialogues to hold out of 5"),
        (many(5), 0.6, "Found: 0.6 as finetune_heldout"),
        (many(5), 1.5, "share of 0 to 0.5, or a number"),
        (many(5), -1, "finetune_heldout"),
        (many(5), float("nan"), "finetune_heldout"),
    ],
)
def test_what_cannot_be_held_out(tmp_path: Path, content: list[Any], share: float, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        split(tmp_path, content, share)


def test_the_digest_names_the_content(tmp_path: Path) -> None:
    def sha256(content: Any, share: float = 0.2, name: str = "data.json") -> str:
        found = survey(put(tmp_path, content, name))
        hold_out(found, share, 0)
        return found.sha256

    content = many(10)
    digest = sha256(content)
    assert sha256(content) == digest
    assert sha256(json.dumps(content, indent=3, sort_keys=True).encode(), name="other.json") == digest
    assert sha256("\n".join(json.dumps(entry) for entry in content).encode()) == digest
    assert sha256([{**entry, "id": f"n{n}", "note": 1} for n, entry in enumerate(content)]) == digest
    assert sha256(content, share=0.3) != digest
    assert sha256(content[::-1]) != digest
    assert sha256([*content[:-1], dialogue("Question 9?", "Answer 9!")]) != digest


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    content = [dialogue('größe \u2028 \U0001f600 \\ " \n', "\x7f\x1f", name=f"é{n}") for n in range(1)] + many(3)
    found = survey(put(tmp_path, content))
    train, heldout = io.BytesIO(), io.BytesIO()
    write(found, train, heldout)
    assert train.getvalue().count(b"\n") == len(content) + 2
    again = survey(put(tmp_path, train.getvalue(), "again.json"))
    assert kinds(again) == {}
    assert again.content == found.content == hashlib.sha256(b"".join(again.first)).digest()


def test_a_dataset_that_changes_is_not_written(tmp_path: Path) -> None:
    path = put(tmp_path, many(5))
    found = survey(path)
    put(tmp_path, many(6))
    with pytest.raises(DatasetError, match="changed while it was read"):
        write(found, io.BytesIO(), io.BytesIO())
