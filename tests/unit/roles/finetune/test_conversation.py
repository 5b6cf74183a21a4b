# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The template, the tokens that are learned, and the step "check".

What FastChat's own code makes of a table of dialogues is recorded in tests/finetune/golden.json by golden.py beside it,
together with every token, so that these tests need neither FastChat nor transformers. The last ones need transformers
and sentencepiece, and skip where they are missing.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[4]
for folder in (ROOT / "roles" / "finetune" / "files" / "image", ROOT / "tests" / "finetune"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import golden  # noqa: E402 - the path is set above
from vicuna_finetune import check, conversation  # noqa: E402 - the path is set above
from vicuna_finetune.conversation import BLANK, ConversationError, encode, prompt, render, spans, turns_of  # noqa: E402 - the path is set above
from vicuna_finetune.errors import BadInput  # noqa: E402 - the path is set above
from vicuna_finetune.settings import RunDir, parse  # noqa: E402 - the path is set above

RECORD = json.loads(golden.OUT.read_text(encoding="utf-8"))
DIALOGUES = {dialogue["id"]: dialogue for dialogue in golden.dialogues()}
SPECIAL = ["<unk>", "<s>", "</s>"]


class Tokenizer:
    """What conversation.py asks of a tokenizer. Tokens get their ids as they come."""

    bos_token, eos_token_id = "<s>", 2
    all_special_tokens = SPECIAL

    def __init__(self, legacy: bool) -> None:
        self.legacy = legacy
        self.vocabulary = list(SPECIAL)

    def __call__(self, text: str, verbose: bool = True) -> Any:
        return SimpleNamespace(input_ids=[self.id_of(token) for token in ["<s>", *self.tokens(text)]])

    def id_of(self, token: str) -> int:
        if token not in self.vocabulary:
            self.vocabulary.append(token)
        return self.vocabulary.index(token)

    def tokens(self, text: str) -> list[str]:
        raise NotImplementedError

    def get_added_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(SPECIAL)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.vocabulary[number] for number in ids]


class Recorded(Tokenizer):
    """The tiny model's tokenizer, for the recorded texts."""

    def __init__(self, legacy: bool) -> None:
        super().__init__(legacy)
        self.names = {int(number): token for number, token in RECORD["vocabulary"].items()}
        self.known = {
            RECORD["texts"][case["id"]]: case["ids"]
            for case in RECORD["cases"]
            if case["legacy"] == legacy and "ids" in case
        }

    def __call__(self, text: str, verbose: bool = True) -> Any:
        return SimpleNamespace(input_ids=self.known[text])

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.names[number] for number in ids]


class Toy(Tokenizer):
    """Splits as Llama's slow tokenizer does: at special tokens, into pieces with blanks at their start, into bytes."""

    def tokens(self, text: str) -> list[str]:
        found = []
        for number, part in enumerate(re.split("(</s>|<s>|<unk>)", text)):
            if number % 2:
                found.append(part)
            elif part and (self.legacy or number == 0):
                found += self.pieces(BLANK + part.replace(" ", BLANK))
            else:
                found += self.pieces(part.replace(" ", BLANK))
        return found

    def pieces(self, text: str) -> list[str]:
        found: list[str] = []
        for piece in re.findall(f"{BLANK}+(?={BLANK}|$)|{BLANK}?[a-z]{{1,4}}|{BLANK}?USER|.", text, re.DOTALL):
            # Every other character beyond Latin-1 has a piece of its own.
            if (
                (piece.isascii() and piece.isprintable())
                or BLANK in piece
                or (ord(piece[0]) > 255 and ord(piece[0]) % 2)
            ):
                found.append(piece)
            else:
                found += [f"<0x{byte:02X}>" for byte in piece.encode()]
        return found


def spelled(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return b"".join(
        bytes([int(token[3:5], 16)]) if re.fullmatch("<0x[0-9A-F]{2}>", token) else token.replace(BLANK, " ").encode()
        for token in tokens
    )


def same_text(tokenizer: Tokenizer, learned: bytes, expected: bytes) -> bool:
    # The older tokenizers put a blank behind every special token.
    return learned.replace(b" ", b"") == expected.replace(b" ", b"") if tokenizer.legacy else learned == expected


# --- against FastChat's own output -------------------------------------------------------------------------------


def name_of(case: dict[str, Any]) -> str:
    return f"{case['id']}, {case['max_length']}{', legacy' if case['legacy'] else ''}"


def test_the_table_is_recorded() -> None:
    assert RECORD["texts"].keys() == DIALOGUES.keys()
    assert len(DIALOGUES) >= 30
    kept = {case["id"] for case in RECORD["cases"] if not case["dropped"]}
    assert len(kept) >= 30
    # What FastChat drops, and this program does not.
    assert {"ASSISTANT: in an answer", "</s> in an answer", "ends with a question"} <= DIALOGUES.keys() - kept


@pytest.mark.parametrize("name", DIALOGUES)
def test_the_text_is_the_serving_sides(name: str) -> None:
    text, _answers = render(turns_of(DIALOGUES[name]))
    recorded = RECORD["texts"]["without its last question" if name == "ends with a question" else name]
    assert text == recorded


@pytest.mark.parametrize("case", RECORD["cases"], ids=name_of)
def test_tokens_and_labels(case: dict[str, Any]) -> None:
    tokenizer, dialogue = Recorded(case["legacy"]), DIALOGUES[case["id"]]
    found = encode(tokenizer, dialogue, case["max_length"])
    assert found.input_ids == tokenizer(render(turns_of(dialogue))[0]).input_ids[: case["max_length"]]
    assert all(label in (-100, number) for label, number in zip(found.labels, found.input_ids))
    # FastChat takes a </s> within a text for the end of a turn, and may not notice.
    if not case["dropped"] and not any("</s>" in turn["value"] for turn in dialogue["conversations"]):
        assert golden.runs(found.labels) == case["learned"]
    learned, expected = spelled(tokenizer, [n for n in found.labels if n != -100]), golden.answers(dialogue)
    if found.cut:
        assert len(found.input_ids) == case["max_length"]
        assert same_text(tokenizer, learned, expected[: len(learned)]) or tokenizer.legacy
    else:
        assert same_text(tokenizer, learned, expected)


def test_a_cut_is_named() -> None:
    tokenizer, dialogue = Recorded(False), DIALOGUES["very long"]
    whole = encode(tokenizer, dialogue, 2048)
    assert (whole.cut, whole.length) == (False, len(whole.input_ids))
    exact = encode(tokenizer, dialogue, whole.length)
    assert not exact.cut
    cut = encode(tokenizer, dialogue, whole.length - 1)
    assert (cut.cut, cut.length) == (True, whole.length)
    assert cut.learned == whole.learned - 1
    assert encode(tokenizer, dialogue, 10).learned == 0


# --- any text ----------------------------------------------------------------------------------------------------

texts = st.lists(
    st.sampled_from(
        ["</s>", "<s>", "<unk>", "USER:", " ASSISTANT: ", "<0x0A>", " ", "  ", "\n", BLANK, "word", "\U0001f600"]
    )
    | st.text(min_size=1, max_size=5),
    min_size=1,
    max_size=6,
).map("".join)


def encodable(values: list[str]) -> bool:
    return all(not re.search("[\ud800-\udfff]", value) for value in values)


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=2, max_size=6).filter(encodable), st.booleans())
@example(["</s>", "</s>"], False)
@example(["x", "</s>y", " ", " "], True)
def test_what_is_learned_is_the_answers(values: list[str], legacy: bool) -> None:
    turns = [
        {"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values[: len(values) // 2 * 2])
    ]
    dialogue, tokenizer = {"id": "x", "conversations": turns}, Toy(legacy)
    found = encode(tokenizer, dialogue, 10_000)
    learned = spelled(tokenizer, [label for label in found.labels if label != -100])
    # The text of a dialogue may spell the name of a byte, which the toy's spelling cannot tell from the byte.
    if "<0x" not in "".join(values):
        assert same_text(tokenizer, learned, golden.answers(dialogue))
    assert found.labels[0] == -100
    for length in (1, found.length // 2, found.length):
        part = encode(tokenizer, dialogue, length)
        assert (part.input_ids, part.labels) == (found.input_ids[:length], found.labels[:length])
        assert part.cut == (length < found.length)


@settings(max_examples=100, deadline=None)
@given(texts.filter(lambda value: encodable([value])), st.booleans())
def test_places_cover_the_text(text: str, legacy: bool) -> None:
    tokenizer = Toy(legacy)
    whole = f"begin {text}"
    places = spans(tokenizer, tokenizer(whole).input_ids, whole)
    assert places[0] == (0, 0)
    assert places[-1][1] == len(whole)
    for (first, last), (following, _end) in zip(places, places[1:]):
        assert first <= following <= last or first == last


def test_another_tokenizer_is_refused() -> None:
    class Upper(Toy):
        def tokens(self, text: str) -> list[str]:
            return super().tokens(text.upper())

    class Short(Toy):
        def tokens(self, text: str) -> list[str]:
            return super().tokens(text)[:-1]

    for tokenizer in (Upper(False), Short(False)):
        with pytest.raises(ConversationError, match=r"Dialogue two turns: found token.*Llama's slow tokenizer"):
            encode(tokenizer, DIALOGUES["two turns"], 2048)


@pytest.mark.parametrize(
    ("dialogue", "said"),
    [
        ({"id": "a"}, "Dialogue a: found a turn without 'conversations'"),
        ({"id": "a", "conversations": [{"from": "human"}]}, "a turn without 'value'"),
        ({"id": "a", "conversations": ["x"]}, "a turn without"),
        ({"id": "a", "conversations": [{"from": "user", "value": "x"}]}, "a turn from 'user'"),
        ({"conversations": [{"from": "human", "value": 1}]}, "Dialogue without an id: found a turn from 'human'"),
        ({"id": "a", "conversations": [{"from": "human", "value": "x"}] * 3}, "two turns from 'human' in a row"),
        ({"id": "a", "conversations": [{"from": "gpt", "value": "x"}] * 3}, "two turns from 'gpt' in a row"),
    ],
)
def test_bad_dialogues(dialogue: dict[str, Any], said: str) -> None:
    with pytest.raises(ConversationError, match=said):
        turns_of(dialogue)


def test_what_is_asked_is_what_is_trained() -> None:
    text, answers = render([("human", "Who are you?"), ("gpt", "I am Vicuna.")])
    assert text == f"{prompt('Who are you?')} I am Vicuna.</s>"
    assert [text[first:last] for first, last in answers] == [" I am Vicuna.</s>"]
    assert prompt("") == f"{conversation.SYSTEM} USER:ASSISTANT:"


# --- the step "check" --------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    **json.loads((ROOT / "tests/finetune/settings.json").read_text()),
    "max_length": 120,
    "save_steps": 10,
    "model_name": "vicuna",
    "base_repo": "https://hub.example.org/vicuna",
}


def dialogue(name: str, question: str, answer: str) -> dict[str, Any]:
    return {"id": name, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(conversation, "load_tokenizer", lambda _base, _length: Toy(False))

    def call(train: Any, heldout: Any = None, **changes: Any) -> tuple[int, dict[str, Any]]:
        (tmp_path / "dataset").mkdir(exist_ok=True)
        (tmp_path / "dataset" / "train.json").write_text(json.dumps(train))
        if heldout is not None:
            (tmp_path / "dataset" / "heldout.json").write_text(json.dumps(heldout))
        status = check.check(RunDir(tmp_path), tmp_path / "base", parse({**SETTINGS, **changes}))
        return status, json.loads((tmp_path / "check.json").read_text())

    return call


SHORT = dialogue("short", "x", "y")
LONG = dialogue("long", "x", "word " * 100)
LATE = dialogue("late", "word " * 100, "y")


def test_a_dataset_that_fits(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run([SHORT, {**SHORT, "id": "b"}], [SHORT])
    assert (status, report["ok"], report["problems"]) == (0, True, [])
    train = report["files"]["train.json"]
    length = train["length"]["max"]
    assert train["length"] == {"min": length, "median": length, "p95": length, "max": length}
    assert (train["dialogues"], train["used"], train["tokens"], train["learned_tokens"]) == (2, 2, 2 * length, 4)
    assert train["learned_share"] == round(2 / length, 4)
    assert report["files"]["heldout.json"]["dialogues"] == 1
    said = capsys.readouterr().out
    assert "train.json" in said and "p95" in said


def test_a_cut_is_refused_and_may_be_allowed(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run([SHORT, LONG], [LONG])
    longest = report["files"]["train.json"]["length"]["max"]
    assert (status, report["ok"]) == (2, False)
    assert report["files"]["train.json"]["cut"] == {"count": 1, "ids": ["long"]}
    assert (
        f"Found: 1 dialogue (long) of train.json longer than 120 tokens, the longest of {longest}."
        in report["problems"][0]
    )
    assert f"set finetune_max_length to {longest}" in capsys.readouterr().err
    assert len(report["problems"]) == 2
    status, report = run([SHORT, LONG], [LONG], allow_cut=True)
    assert (status, report["problems"]) == (0, [])
    assert report["files"]["train.json"]["tokens"] == report["files"]["train.json"]["length"]["min"] + 120
    assert run([SHORT, LONG], [LONG], max_length=longest)[0] == 0
    assert run([SHORT, LONG], [LONG], max_length=longest - 1)[0] == 2


def test_without_an_answer_it_is_dropped(run: Any) -> None:
    status, report = run([SHORT, LATE])
    assert status == 2
    assert report["files"]["train.json"]["dropped"] == {"count": 1, "ids": ["late"]}
    assert report["files"]["train.json"]["used"] == 1
    assert "finetune_allow_dropped" in report["problems"][0]
    assert run([SHORT, LATE], allow_dropped=True)[0] == 0
    status, report = run([LATE], allow_dropped=True)
    assert status == 2
    assert "nothing to learn in train.json" in report["problems"][0]


def test_many_are_counted(run: Any) -> None:
    _status, report = run([{**LONG, "id": f"d{n}"} for n in range(60)])
    assert report["files"]["train.json"]["cut"]["count"] == 60
    assert len(report["files"]["train.json"]["cut"]["ids"]) == 50
    assert "60 dialogues (d0, d1, d2, …)" in report["problems"][0]


def test_the_quantiles() -> None:
    assert check.quantiles(range(101, 0, -1)) == {"min": 1, "median": 51, "p95": 96, "max": 101}
    assert check.quantiles([7]) == {"min": 7, "median": 7, "p95": 7, "max": 7}
    assert check.quantiles([]) == {"min": 0, "median": 0, "p95": 0, "max": 0}


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({}, "no list of dialogues"),
        ([1], "no list of dialogues"),
        ([{"id": "a", "conversations": [{"from": "user", "value": "x"}]}], "Dialogue a: found a turn from 'user'"),
    ],
)
def test_bad_files(run: Any, train: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        run(train)


def test_an_empty_dataset(run: Any) -> None:
    status, report = run([])
    assert status == 2
    assert "no dialogue in train.json" in report["problems"][0]


# --- with transformers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["new", "legacy"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    for name in ("transformers", "sentencepiece"):
        try:
            importlib.import_module(name)
        except ImportError:
            pytest.skip(f"no {name} on this machine: pip install transformers==4.57.6 sentencepiece protobuf")
    folder = tmp_path_factory.mktemp("vicuna")
    assert golden.tiny_tokenizer(folder, request.param) == RECORD["tokenizer_sha256"]
    return conversation.load_tokenizer(folder, 2048)


def test_the_real_tokenizer_is_the_recorded_one(real: Any) -> None:
    assert (real.pad_token, real.padding_side) == ("<unk>", "right")
    recorded = Recorded(real.legacy)
    for text, ids in recorded.known.items():
        assert real(text, verbose=False).input_ids == ids
    for case in RECORD["cases"]:
        if case["legacy"] == real.legacy:
            entry = DIALOGUES[case["id"]]
            assert encode(real, entry, case["max_length"]) == encode(recorded, entry, case["max_length"])


@settings(max_examples=100, deadline=None)
@given(values=st.lists(texts, min_size=2, max_size=4).filter(encodable))
def test_the_real_tokenizer_on_any_text(real: Any, values: list[str]) -> None:
    turns = [
        {"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values[: len(values) // 2 * 2])
    ]
    entry = {"id": "x", "conversations": turns}
    learned = golden.spelled(real, [label for label in encode(real, entry, 10_000).labels if label != -100])
    assert same_text(real, learned, golden.answers(entry))
