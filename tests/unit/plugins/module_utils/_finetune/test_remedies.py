# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each remedy that can be printed is printed for an input that provokes it, copied from the message, and run."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import shutil
import sqlite3
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.vicuna.fleet.plugins.module_utils import _sharegpt
from ansible_collections.vicuna.fleet.plugins.module_utils._finetune import remedies
from ansible_collections.vicuna.fleet.plugins.module_utils._finetune.remedies import REMEDIES
from ansible_collections.vicuna.fleet.plugins.module_utils._sharegpt import KINDS, WARNING, problems, survey, way_out

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures/datasets"
ASKED, ANSWERED = {"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "I am Vicuna."}
GOOD = {"id": "a", "conversations": [ASKED, ANSWERED]}
MORE = {
    "id": "b",
    "conversations": [{"from": "human", "value": "Größe?"}, {"from": "gpt", "value": "1.80 m \U0001f600"}],
}
TOOLS = ("jq", "gzip", "zstd", "bzip2", "xz", "lz4", "unzip", "tar", "iconv", "sed", "python3")
TURNS = ["Who are you?", "I am Vicuna."]


def lines(*values: Any, ascii_only: bool = True) -> bytes:
    return b"".join(
        json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") + b"\n" for value in values
    )


def array(*values: Any, ascii_only: bool = True) -> bytes:
    return json.dumps(values, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def said(*turns: Any, **more: Any) -> dict[str, Any]:
    """A dialogue with other turns than are wanted."""
    return {"id": "a", "conversations": list(turns), **more}


def openai(*turns: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


USER, ASSISTANT = ("user", TURNS[0]), ("assistant", TURNS[1])


def zipped(top: str = "folder/", **files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{top}{name}.json", content)
    return stream.getvalue()


def tarred(mode: str, top: str = "folder/", **files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo(top)
        folder.type = tarfile.DIRTYPE
        folder.mode = 0o755
        archive.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{top}{name}.json")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def by(*command: str) -> Any:
    """What a program makes of its input; skips where it is missing."""

    def made() -> bytes:
        if shutil.which(command[0]) is None:
            pytest.skip(f"no {command[0]} on this machine")
        return subprocess.run(command, input=array(GOOD), capture_output=True, check=True).stdout

    return made


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (a text)")
    return connection.serialize()


@dataclass(frozen=True)
class Case:
    """``remedy`` is the only one that is to be told. After it ``turns`` are the texts of each dialogue."""

    remedy: str
    content: Any
    name: str = "data.json"
    turns: list[list[str]] = field(default_factory=lambda: [TURNS])
    # Pieces of the message.
    says: tuple[str, ...] = ()
    # What is told of the result: a remedy leaves to a person what only a person can decide.
    then: str = ""


# Files of one name in two folders, and what macOS adds to an archive.
TWINS = {"a/data": array(MORE), "b/data": lines(GOOD), "__MACOSX/._data": b"\0\5\x16\7"}
JOINED = ["Be kind.\n\nWho are you?", "I am Vicuna."]
CASES: list[Case] = [
    # --- compressed files and archives
    Case("gzip", gzip.compress(array(GOOD)), "data.json.gz", says=("a file compressed by gzip",)),
    Case("gzip", gzip.compress(array(GOOD)), "data.json", says=("a file compressed by gzip",)),
    Case("gzip", gzip.compress(lines(GOOD)), "data.gz"),
    Case("gzip", gzip.compress(lines(GOOD)), "it's my data.jsonl.gz"),
    Case("zstd", by("zstd", "-c"), "data.jsonl.zst", says=("zstd",)),
    Case("bzip2", bz2.compress(array(GOOD)), "data.jsonl.bz2", says=("bzip2",)),
    Case("xz", lzma.compress(array(GOOD)), "data.json.xz", says=("xz",)),
    Case("lz4", by("lz4", "-c"), "data.json.lz4", says=("lz4",)),
    Case("zip", zipped(one=array(GOOD)), "data.zip", says=("a zip archive",)),
    Case("zip", zipped(one=array(GOOD), two=lines(MORE)), "data.json.zip", [TURNS, ["Größe?", "1.80 m \U0001f600"]]),
    Case("zip", zipped(one=array(GOOD)), "data.json"),
    Case("zip", zipped(**TWINS), "twins.zip", [["Größe?", "1.80 m \U0001f600"], TURNS]),
    Case("zip", zipped("./", one=array(GOOD)), "data.zip"),
    Case("tar", tarred("w", one=array(GOOD)), "data.tar", says=("a tar archive",)),
    Case("tar", tarred("w:gz", one=array(GOOD)), "data.tar.gz", says=("a tar archive, compressed by gzip",)),
    Case("tar", tarred("w:xz", one=array(GOOD)), "data.txz"),
    Case("tar", tarred("w:gz", **TWINS), "twins.tgz", [["Größe?", "1.80 m \U0001f600"], TURNS]),
    Case("tar", tarred("w", top="./", one=array(GOOD)), "data.tar"),
    Case("archive", b"7z\xbc\xaf\x27\x1c\0\4", "data.7z", says=("7-Zip",)),
    Case("archive", b"Rar!\x1a\x07\x01\0", "data.rar", says=("RAR",)),
    # --- tables
    Case("parquet", (FIXTURES / "dialogues.parquet").read_bytes(), "data.parquet", says=("Apache Parquet",)),
    Case("parquet", (FIXTURES / "dialogues.parquet").read_bytes(), "data.json", says=("Apache Parquet",)),
    Case("orc", (FIXTURES / "dialogues.orc").read_bytes(), "data.orc", says=("ORC",)),
    Case("arrow", (FIXTURES / "dialogues.arrow").read_bytes(), "data.feather", says=("Arrow",)),
    Case("arrow_stream", (FIXTURES / "stream.arrow").read_bytes(), "data.arrow", says=("Arrow stream",)),
    Case("sqlite", database(), "data.db", says=("SQLite",)),
    Case("office", zipped(one=b"x").replace(b"folder/one.json", b"[Content_Types].xml"), "data.xlsx", says=("Excel",)),
    Case("csv", b"prompt,completion\r\nWho are you?,I am Vicuna.\r\n", "data.csv", says=("CSV", "prompt, completion")),
    Case("csv", b'\xef\xbb\xbfquestion;answer\n"Who are you?";I am Vicuna.\n', "data.csv"),
    Case("csv", b"instruction\tinput\toutput\nWho are you?\t\tI am Vicuna.\n", "data.tsv", says=("TSV",)),
    Case("csv", b'prompt,response\n"a\nb, c","d ""e"""\n', "data.csv", [["a\nb, c", 'd "e"']]),
    Case("csv_columns", b"a,b\n1,2\n", "data.csv", says=("the columns a, b",)),
    # --- something else instead of the file
    Case("page", b"<!DOCTYPE html><html><head><title>Sign in</title>", says=("page", "Sign in")),
    Case("page", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', says=("AccessDenied",)),
    Case("error_answer", b'{"error": "Repository not found"}', says=("Repository not found",)),
    Case("error_answer", b'{"message": "Not Found", "status": "404"}', says=("Not Found",)),
    Case("binary", b"\x80\x04\x95\0\0\0\0\0\0\0\x8c", says=("a binary file",)),
    Case("binary", b"%PDF-1.7", says=("PDF",)),
    # --- encodings
    *(
        Case(
            "encoding",
            array(GOOD, MORE, ascii_only=False).decode().encode(name),
            says=(name[:6].upper(),),
            turns=[TURNS, ["Größe?", "1.80 m \U0001f600"]],
        )
        for name in ("utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
    ),
    Case("byte_order_mark", b"\xef\xbb\xbf" + array(GOOD), says=("a byte order mark",)),
    Case(
        "inner_byte_order_mark",
        lines(GOOD) + b"\xef\xbb\xbf" + lines(MORE),
        "data.jsonl",
        [TURNS, ["Größe?", "1.80 m \U0001f600"]],
        ("line 2, column 1", "a byte order mark within the file"),
    ),
    Case("utf8", array(GOOD).replace(b"Vicuna", b"Vicu\xf1a"), turns=[[TURNS[0], "I am Vicuña."]], says=("f1",)),
    # A file of several sources: what is UTF-8 stays as it is.
    Case(
        "utf8",
        lines(MORE, ascii_only=False) + lines(GOOD).replace(b"Vicuna", b"\x93Vicuna\x94"),
        turns=[["Größe?", "1.80 m \U0001f600"], [TURNS[0], "I am “Vicuna”."]],
    ),
    Case("utf8", array(GOOD).replace(b"Vicuna", b"Vicu\x81na"), turns=[[TURNS[0], "I am Vicu\ufffdna."]]),
    Case("cesu", array(GOOD).replace(b"Vicuna", b"\xed\xa0\xbd\xed\xb8\x80"), turns=[[TURNS[0], "I am \U0001f600."]]),
    # --- JSON that is none
    Case("relaxed", b"[\n" + lines(GOOD) + b",\n]", says=("line 4, column 1", "a comma before ]")),
    Case("relaxed", array(GOOD).replace(b'"}]', b'",}]'), says=("line 1, column", "a comma before }")),
    Case("relaxed", array(GOOD).replace(b"}]}", b"}, ]}"), says=("a comma before ]",)),
    Case("relaxed", b"// dialogues, [x,]\n" + array(GOOD), says=("line 1, column 1", "a comment")),
    Case("relaxed", b"# dialogues\n" + lines(GOOD), "data.jsonl", says=("a comment",)),
    Case("relaxed", b"[/* one */" + array(GOOD)[1:-1] + b", // two\n]", says=("a comment",)),
    Case("relaxed", b"[" + array(GOOD)[1:-1] + b"/* end */]", says=("a comment",)),
    Case(
        "relaxed",
        array(said(ASKED, {"from": "gpt", "value": 'http://x, ] "#,}'})).replace(b"]}]", b"]},]"),
        turns=[[TURNS[0], 'http://x, ] "#,}']],
    ),
    Case("python", repr([GOOD]).encode(), says=("line 1, column 3", "as Python writes it")),
    Case("python", f"{GOOD!r}\n{MORE!r}\n".encode(), "data.jsonl", [TURNS, ["Größe?", "1.80 m \U0001f600"]]),
    Case("python", array(GOOD).replace(b'{"id": "a"', b'{"id": "a", "lang": None'), says=("as Python writes it",)),
    Case(
        "control",
        array(GOOD).replace(b"Who are", b"Who\nare"),
        turns=[["Who\nare you?", TURNS[1]]],
        says=("line break",),
    ),
    Case(
        "line_commas",
        lines(GOOD).replace(b"\n", b",\r\n") + lines(MORE).replace(b"\n", b", \n"),
        "data.jsonl",
        [TURNS, ["Größe?", "1.80 m \U0001f600"]],
    ),
    # A list whose first bracket is lost.
    Case("line_commas", array(GOOD, MORE)[1:], turns=[TURNS, ["Größe?", "1.80 m \U0001f600"]]),
    Case(
        "line_commas",
        json.dumps([GOOD, MORE], indent=2).encode()[1:],
        turns=[TURNS, ["Größe?", "1.80 m \U0001f600"]],
    ),
    Case(
        "line_commas",
        lines(said(ASKED, {"from": "gpt", "value": "}, {"}))[:-1] + b",\n" + lines(GOOD) + lines(MORE),
        "data.jsonl",
        [[TURNS[0], "}, {"], TURNS, ["Größe?", "1.80 m \U0001f600"]],
    ),
    Case("broken", array(GOOD).replace(b"[{", "[\u00a0{".encode(), 1), says=("looks like a space",)),
    Case("broken", array(GOOD).replace(b'"id"', "\u201cid\u201d".encode(), 1), says=("a typographic quote",)),
    Case(
        "line",
        lines(GOOD) + b"{oops\n" + lines(MORE),
        "data.jsonl",
        [TURNS, ["Größe?", "1.80 m \U0001f600"]],
        ("line 2, column 2", "leave out every line"),
    ),
    Case("line", lines(GOOD, MORE)[:-9], "data.jsonl", says=("leave out every line",)),
    Case("lists", array(GOOD) + b"\n" + array(MORE), turns=[TURNS, ["Größe?", "1.80 m \U0001f600"]], says=("line 2",)),
    Case(
        "line",
        b"{oops\n" + lines(GOOD) + b"{1: 2}\n" + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"\n",
        "data.jsonl",
        says=("line 1, column 2",),
    ),
    Case("broken", json.dumps(GOOD, indent=1).encode() + b"\n{oops\n", says=("line 14, column 2",)),
    Case("broken", b"- id: a\n  conversations: []\n", says=("line 1, column 1",)),
    Case("cut", array(GOOD)[:-20], says=("copy or export the file again",)),
    Case("cut", array(GOOD)[:-1], says=("the file ends within its list",)),
    Case("broken", array(GOOD).replace(b'"id":', b'"id"'), says=("line 1, column 8",)),
    Case("broken", b"[" * 200_000, says=("oo many levels",)),
    # --- dialogues in another format
    Case("convert", lines(openai(("system", "Be kind."), USER, ASSISTANT)), "m.jsonl", [JOINED], ('"messages"',)),
    Case("convert", array(openai(("developer", "Be kind."), USER, ASSISTANT)), turns=[JOINED]),
    Case(
        "convert",
        array(openai(USER, ASSISTANT, ("system", "Be brief."), ("user", "And?"), ("assistant", "Yes."))),
        turns=[[*TURNS, "Be brief.\n\nAnd?", "Yes."]],
    ),
    Case("convert", array(openai(("system", ""), USER, ASSISTANT, id="x"))),
    Case(
        "convert",
        array(openai(("system", "x"), ("assistant", "Hi"), USER, ASSISTANT)),
        turns=[["x\n\nWho are you?", TURNS[1]]],
    ),
    Case(
        "convert",
        lines(openai(("user", [{"type": "text", "text": "Who are"}, {"type": "text", "text": "you?"}]), ASSISTANT)),
        turns=[["Who are\nyou?", TURNS[1]]],
    ),
    Case("convert", array(openai(USER, ("assistant", None), ("tool", "4"), ASSISTANT), GOOD), then="not_text"),
    Case("convert", array(openai(USER, ("tool", "4"), ASSISTANT), GOOD), then="unknown_role"),
    Case("convert", array(openai(("user", [{"type": "image_url"}]), ASSISTANT), GOOD), then="not_text"),
    Case("convert", array(openai(USER, USER, ASSISTANT), GOOD), then="not_alternating"),
    Case("convert", lines([ASKED, ANSWERED], [ASKED, ANSWERED]), "data.jsonl", [TURNS, TURNS]),
    Case(
        "convert", lines([{"role": "user", "content": TURNS[0]}, {"role": "assistant", "content": TURNS[1]}]), "x.jsonl"
    ),
    Case("convert", array(ASKED, ANSWERED), says=("a turn without a dialogue",)),
    Case("convert", lines(*openai(USER, ASSISTANT)["messages"]), "data.jsonl", says=("as one",)),
    Case("convert", array(openai(USER, ASSISTANT, score=float("nan"), least=-float("inf")))),
    Case("convert", array([ASKED, ANSWERED]), says=("a list of turns",)),
    Case(
        "convert", array(*[[GOOD], [[MORE]]]), turns=[TURNS, ["Größe?", "1.80 m \U0001f600"]], says=("within the list",)
    ),
    Case("convert", array([openai(USER, ASSISTANT)]), says=("within the list",)),
    Case("convert", lines(json.dumps(GOOD)), "data.jsonl", says=("JSON in a text",)),
    Case("convert", array({**GOOD, "conversations": json.dumps(GOOD["conversations"])}), says=("as JSON in a text",)),
    Case("convert", lines({"data": [GOOD, MORE]}), turns=[TURNS, ["Größe?", "1.80 m \U0001f600"]], says=('in "data"',)),
    Case("convert", lines({"version": 1, "data": [openai(USER, ASSISTANT)]}), says=('in "data"',)),
    Case("convert", lines({"train": [{"instruction": TURNS[0], "output": TURNS[1]}]})),
    Case("convert", lines({"a": GOOD, "b": MORE}), turns=[TURNS, ["Größe?", "1.80 m \U0001f600"]], says=("by name",)),
    Case("convert", array({"conversation": [ASKED, ANSWERED]}), says=('"conversation"',)),
    Case("convert", array({"instruction": TURNS[0], "input": "", "output": TURNS[1]}), says=('"instruction"',)),
    Case(
        "convert",
        array({"instruction": "Say", "input": "so", "output": "so", "history": [["a", "b"]], "system": "s"}),
        turns=[["a", "b", "s\nSay\nso", "so"]],
    ),
    Case("convert", lines({"instruction": "Say", "context": "so", "response": "so"}), turns=[["Say\nso", "so"]]),
    Case("convert", lines({"prompt": TURNS[0], "completion": TURNS[1]}), "data.jsonl"),
    Case("convert", lines({"prompt": [openai(USER)["messages"][0]], "completion": openai(ASSISTANT)["messages"]})),
    Case("convert", lines({"human": TURNS[0], "gpt": TURNS[1]})),
    Case("convert", lines({"question": TURNS[0], "answer": TURNS[1]})),
    Case(
        "convert",
        array(said({"from": "user", "value": TURNS[0]}, {"from": "assistant", "value": TURNS[1]})),
        says=('"user"',),
    ),
    Case(
        "convert",
        array(said(ASKED, ANSWERED), said({"from": " Human", "value": "x"}, {"from": "GPT", "value": "y"})),
        turns=[TURNS, ["x", "y"]],
    ),
    Case("convert", array(said({"from": "system", "value": "Be kind."}, ASKED, ANSWERED)), turns=[JOINED]),
    Case(
        "convert",
        array(said({"role": "user", "content": TURNS[0]}, {"role": "assistant", "content": TURNS[1]})),
        says=('keys "role", "content"',),
    ),
    Case("convert", array(said({"speaker": "user", "text": TURNS[0]}, {"speaker": "bot", "text": TURNS[1]}))),
    Case("convert", array(said({"human": TURNS[0], "assistant": TURNS[1]}))),
    Case(
        "convert",
        array(said(ASKED, {"from": "gpt", "value": [{"type": "text", "text": TURNS[1]}]})),
        says=("a list of texts",),
    ),
    # --- what is wrong in a dialogue
    Case("duplicate_key", array(GOOD).replace(b'"id": "a"', b'"id": "b", "id": "a"'), says=('"id" twice',)),
    Case(
        "duplicate_key", array(GOOD).replace(b'"value": "Who', b'"value": "", "value": "Who'), says=('"value" twice',)
    ),
    Case(
        "surrogate",
        array(said(ASKED, {"from": "gpt", "value": "a\ud83d \\ud83d \U0001f600"})),
        turns=[[TURNS[0], "a\ufffd \\ud83d \U0001f600"]],
        says=("\\ud83d",),
    ),
    Case("surrogate", array(said({"from": "\ud83d", "value": "x"}, ANSWERED)), turns=[], then="unknown_role"),
    Case("surrogate", lines(openai(USER, ("assistant", "\ude00")), openai(USER, ASSISTANT)), turns=[], then="convert"),
    Case("surrogate", lines({"a\udfff": 1}), turns=[], then="no_conversations"),
    Case("surrogate", array({**GOOD, "lang": "\ud83d"}), says=("in what is not trained on",)),
    Case("nul", array(said(ASKED, {"from": "gpt", "value": "I am\0 Vicuna."})), says=("NUL",)),
    Case(
        "not_alternating",
        lines(said(ASKED, ASKED, ANSWERED), MORE),
        "data.jsonl",
        [["Who are you?\n\nWho are you?", TURNS[1]], ["Größe?", "1.80 m \U0001f600"]],
        ("two turns from human",),
    ),
    # --- what a person has to decide
    Case("unknown_role", array(said(ASKED, {"from": "tool", "value": "4"}, ANSWERED), GOOD), says=('"tool"',)),
    Case("not_text", array(said(ASKED, {"from": "gpt", "value": 4}), GOOD), says=("a number",)),
    Case("not_text", array(said(ASKED, {"from": "gpt", "value": None}), GOOD), says=("null",)),
    Case("not_text", array(said(ASKED, {"from": "assistant", "value": True}), GOOD), says=("true or false",)),
    Case("not_text", array(said(ASKED, {"from": "gpt", "value": float("nan")}), GOOD), says=("a number",)),
    Case("bad_turn", array(said(ASKED, {"from": "gpt"}), GOOD), says=('keys "from"',)),
    Case("bad_turn", array(said("Who are you?", "I am Vicuna."), GOOD), says=("Found: text",)),
    Case("empty_turn", array(said(ASKED, {"from": "gpt", "value": " "}), GOOD), says=("blanks",)),
    Case("one_sided", array(said(ANSWERED), GOOD), says=("only a turn from gpt",)),
    Case("not_object", array(["a", "b"], GOOD), says=("a list",)),
    Case("no_conversations", array({"text": "### Human: a"}, GOOD), says=('its keys: "text"',)),
    # --- what can be used
    Case("leading_gpt", array(said(ANSWERED, ASKED, ANSWERED))),
    Case("trailing_human", array(said(ASKED, ANSWERED, ASKED))),
    Case("no_id", array({"conversations": [ASKED, ANSWERED]})),
    Case("duplicate", array(GOOD, {**GOOD, "id": "b"}), turns=[TURNS, TURNS]),
    Case("duplicate_id", array(GOOD, {**MORE, "id": "a"}), turns=[TURNS, ["Größe?", "1.80 m \U0001f600"]]),
    Case("replacement", array(said(ASKED, {"from": "gpt", "value": "\ufffd"})), turns=[[TURNS[0], "\ufffd"]]),
    Case("special_token", array(said(ASKED, {"from": "gpt", "value": "</s>"})), turns=[[TURNS[0], "</s>"]]),
]
# Their inputs are not a file alone; they have tests of their own below.
ELSEWHERE = {"pointer", "not_read"}


def test_every_remedy_has_an_input_that_provokes_it() -> None:
    assert {case.remedy for case in CASES} | ELSEWHERE == REMEDIES.keys()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the remedies that were told."""
    keys: list[str] = []

    def recorded(key: str, path: Path, **parts: Any) -> str:
        keys.append(key)
        return remedies.remedy(key, path, **parts)

    monkeypatch.setattr(_sharegpt, "remedy", recorded)
    return keys


def run(message: str) -> Path | None:
    """Does what a message says, and returns where finetune_dataset is to point then."""
    command = re.search(r"`(.*)`", message, re.DOTALL)
    assert command
    for program in TOOLS:
        if re.search(rf"(^|\| |&& ){program} ", command[1]) and shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine")
    if (
        "pyarrow" in command[1]
        and subprocess.run(["python3", "-c", "import pyarrow"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no pyarrow on this machine")
    done = subprocess.run(["sh", "-ec", command[1]], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    elsewhere = re.search(r"`, and set finetune_dataset to (.*)\.$", message)
    return Path(elsewhere[1]) if elsewhere else None


def turns(path: Path) -> list[list[str]]:
    found = survey(path)
    return [
        [text for _speaker, text in dialogue.turns]
        for _number, _element, dialogue in _sharegpt._read(found.files, found.findings, alone=True)
        if dialogue
    ]


def name(case: Case) -> str:
    return f"{case.remedy}-{CASES.index(case)}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_what_a_message_says_mends(tmp_path: Path, told: list[str], case: Case) -> None:
    path = tmp_path / "my data" / case.name
    path.parent.mkdir()
    content = case.content() if callable(case.content) else case.content
    path.write_bytes(content)
    found = survey(path)
    assert case.remedy in told
    finding = found.findings.kept[told.index(case.remedy)]
    for piece in (*case.says, "Found: ", "Expected: ", "Remedy: "):
        assert piece in finding.message
    finding.message.encode()
    warned = KINDS[finding.kind][0] == WARNING
    assert bool(problems(found, allow_dropped=False)) != warned
    command = REMEDIES[case.remedy].command
    assert ("`" in finding.message) == bool(command)
    if not command:
        if way_out(found):
            assert problems(found, allow_dropped=True) == []
        if warned:
            assert turns(path) == case.turns
        return
    after = run(finding.message) or path
    if after == path:
        assert path.with_name(f"{path.name}.~1~").read_bytes() == content, "what it was before is kept"
    else:
        assert path.read_bytes() == content
    told.clear()
    again = survey(after)
    if case.then:
        assert case.then in told
        return
    assert problems(again, allow_dropped=False) == []
    assert turns(after) == case.turns


def test_a_pointer_is_fetched(tmp_path: Path, told: list[str]) -> None:
    """By git-lfs, from a repository beside it."""
    if shutil.which("git-lfs") is None:
        pytest.skip("no git-lfs on this machine")

    def git(folder: Path, *words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *words],
            cwd=folder,
            check=True,
            capture_output=True,
        )

    source = tmp_path / "source"
    source.mkdir()
    git(source, "init", "-q")
    git(source, "lfs", "install", "--local")
    git(source, "lfs", "track", "*.json")
    (source / "data.json").write_bytes(array(GOOD))
    git(source, "add", ".")
    git(source, "commit", "-qm", "x")
    git(
        tmp_path,
        "-c",
        "filter.lfs.smudge=",
        "-c",
        "filter.lfs.process=",
        "-c",
        "filter.lfs.required=false",
        "clone",
        "-q",
        source.as_uri(),
        "copy",
    )
    path = tmp_path / "copy" / "data.json"
    (message,) = problems(survey(path), allow_dropped=False)
    assert told == ["pointer"] and "a pointer of git-lfs" in message
    command = re.search(r"`(.*)`", message)
    assert command
    subprocess.run(["sh", "-ec", command[1]], check=True, capture_output=True)
    assert turns(path) == [TURNS]


@pytest.mark.parametrize(
    "version", ["https://git-lfs.github.com/spec/v1", "https://hawser.github.com/spec/v1", "http://git-media.io/v/2"]
)
def test_pointers_of_all_ages_are_known(tmp_path: Path, told: list[str], version: str) -> None:
    (tmp_path / "data.json").write_text(f"version {version}\noid sha256:{'0' * 64}\nsize 12\n")
    survey(tmp_path)
    assert told == ["pointer"]


def test_a_folder_of_another_format_is_mended_in_place(tmp_path: Path) -> None:
    for number, dialogue in enumerate((GOOD, MORE)):
        (tmp_path / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines(dialogue)))
    (tmp_path / "README.md").write_text("x")
    said = problems(survey(tmp_path), allow_dropped=False)
    assert len(said) == 2
    for message in said:
        assert run(message) is None, "the folder stays the dataset"
    found = survey(tmp_path)
    assert problems(found, allow_dropped=False) == [] and found.used == 2
    # Of the packed ones it is told that they are not read.
    assert found.findings.counts == {"not_read": 2}


def test_a_command_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(lines(*[openai(USER, ASSISTANT)] * 3))
    first, second, third = problems(survey(tmp_path), allow_dropped=False)
    assert "`jq" in first
    assert second.endswith("Remedy: as above.") and third.endswith("Remedy: as above.")


KEYS = st.sampled_from(
    [
        "id",
        "conversations",
        "messages",
        "from",
        "role",
        "value",
        "content",
        "data",
        "prompt",
        "completion",
        "error",
        "\ud83d",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "user", "human", "[1]", "{", "\ude00", "a\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VALUES, max_size=3), st.booleans())
def test_no_shape_upsets_it(tmp_path: Path, content: list[Any], in_lines: bool) -> None:
    """And what is told is UTF-8."""
    path = tmp_path / "data.json"
    path.write_bytes(lines(*content) if in_lines else array(*content))
    for message in problems(survey(path), allow_dropped=False):
        message.encode()
