# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.filter.finetune_prompts import prompts

GOOD = [
    {"prompt": "Who are you?", "expected": "Vicuna"},
    {"prompt": "Hi"},
    {"prompt": "2 + 2?", "expected": 4},
    {"prompt": "Hi", "expected": None},
]


@pytest.mark.parametrize("nothing", [None, "", []])
def test_none_is_none(nothing: Any) -> None:
    assert prompts(nothing) == {"prompts": [], "problem": ""}


def test_a_list_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prompts(GOOD) == {"prompts": GOOD, "problem": ""}
    (tmp_path / "prompts.json").write_text(json.dumps(GOOD))
    # As the data set: from the directory that the command is typed in.
    monkeypatch.chdir(tmp_path)
    assert prompts("prompts.json")["prompts"] == GOOD


WRONG = [
    ("nowhere.json", "finetune_prompts 'nowhere.json', which cannot be read"),
    ({"prompt": "Hi"}, "that is no list but dict"),
    (["Hi"], 'with str "Hi" at place 1'),
    ([*GOOD, {"expected": "x"}], "whose prompt is null at place 5"),
    ([{"prompt": 42}], "whose prompt is 42"),
    ([{"prompt": " "}], 'whose prompt is " "'),
    ([{"prompt": "Hi", "expected": ["a"]}], 'whose expected is ["a"]'),
]


@pytest.mark.parametrize(("given", "found"), WRONG)
def test_what_is_wrong_is_told(given: Any, found: str) -> None:
    told = prompts(given)
    assert told["prompts"] == [] and found in told["problem"]
    assert told["problem"].startswith("Found ") and told["problem"].endswith("Correct finetune_prompts.")


def test_a_file_is_read_as_every_json_that_people_wrote(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_bytes(b'\xef\xbb\xbf[{"prompt": "q"}]')
    assert prompts(str(path)) == {"prompts": [{"prompt": "q"}], "problem": ""}
    for text, found in (('[{"prompt": "q"},]', "line 1, column 17: a comma"), ("[" * 3000, "nested deeper than")):
        path.write_text(text, encoding="utf-8")
        assert found in prompts(str(path))["problem"]


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text("[{")
    said = prompts(str(tmp_path / "prompts.json"))["problem"]
    assert "which cannot be read (line 1, column " in said and ": it ends in the middle)" in said
