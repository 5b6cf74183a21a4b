# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.modules import sharegpt_dataset

Run = Callable[..., dict[str, Any]]


def dialogue(number: int, answer: str = "Yes.") -> dict[str, Any]:
    turns = [{"from": "human", "value": f"Is it {number}?"}, {"from": "gpt", "value": answer}]
    return {"id": f"d{number}", "conversations": turns}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module on tmp_path/data.json, which is written where content is given; returns what it prints."""
    # ansible-core keeps warnings for the whole process: other tests may have used them up.
    warned: list[str] = []
    monkeypatch.setattr(sharegpt_dataset.AnsibleModule, "warn", lambda _self, text, **_: warned.append(text))

    def call(content: Any = None, **arguments: Any) -> dict[str, Any]:
        path = tmp_path / "data.json"
        if content is not None:
            path.write_text(json.dumps(content))
        args = {"path": str(path), "_ansible_remote_tmp": str(tmp_path), **arguments}
        with patch_module_args(args), pytest.raises(SystemExit):
            sharegpt_dataset.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        if warned:
            answer["warnings"] = list(warned)
        warned.clear()
        return answer

    return call


def read(path: Path) -> list[str]:
    return [entry["id"] for entry in json.loads(path.read_text())]


def stamps(folder: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())


def test_a_check_alone_writes_nothing(run: Run, tmp_path: Path) -> None:
    result = run([dialogue(n) for n in range(21)])
    assert not result["changed"]
    assert result["msg"] == "21 dialogues, 20 to train on and 1 held out"
    assert (result["dialogues"], result["train"], result["heldout"], result["dropped"]) == (21, 20, 1, 0)
    assert (result["turns"], result["counts"], result["findings"]) == (42, {}, [])
    assert len(result["sha256"]) == 64
    assert result["files"] == [str(tmp_path / "data.json")]
    assert list(tmp_path.iterdir()) == [tmp_path / "data.json"]


def test_both_sides_are_written_once(run: Run, tmp_path: Path) -> None:
    dest = tmp_path / "a" / "b"
    content = [dialogue(n) for n in range(10)]
    result = run(content, dest=str(dest), heldout=0.3)
    assert result["changed"]
    train, heldout = read(dest / "train.json"), read(dest / "heldout.json")
    assert (len(train), len(heldout)) == (7, 3) == (result["train"], result["heldout"])
    assert sorted(train + heldout) == [f"d{n}" for n in range(10)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in dest.iterdir()} == {0o600}

    before = stamps(dest)
    again = run(dest=str(dest), heldout=0.3)
    assert {**again, "changed": True} == {**result, "invocation": again["invocation"]}
    assert not again["changed"]
    # Other bytes, the same dialogues.
    assert not run([{**entry, "tag": 1} for entry in content], dest=str(dest), heldout=0.3)["changed"]
    assert stamps(dest) == before


@pytest.mark.parametrize(
    "change",
    [
        {"content": [dialogue(n, "No.") for n in range(10)]},
        {"heldout": 4},
        {"seed": 1},
        {"before": lambda dest: (dest / "train.json").write_text("[]\n")},
        {"before": lambda dest: (dest / "heldout.json").unlink()},
    ],
    ids=["content", "number", "seed", "damage", "loss"],
)
def test_what_differs_is_written_again(run: Run, tmp_path: Path, change: dict[str, Any]) -> None:
    dest = tmp_path / "out"
    wanted: dict[str, Any] = {"dest": str(dest), "heldout": 3}
    run([dialogue(n) for n in range(10)], **wanted)
    change.pop("before", lambda _dest: None)(dest)
    predicted = run(**{**wanted, **change}, _ansible_check_mode=True)
    before = stamps(dest)
    result = run(**{**wanted, **change})
    assert predicted["changed"] and result["changed"]
    assert predicted["sha256"] == result["sha256"]
    assert stamps(dest) != before
    assert sorted(read(dest / "train.json") + read(dest / "heldout.json")) == [f"d{n}" for n in range(10)]
    assert not run(**{**wanted, **change})["changed"]


def test_check_mode_writes_nothing(run: Run, tmp_path: Path) -> None:
    result = run([dialogue(n) for n in range(3)], dest=str(tmp_path / "out"), _ansible_check_mode=True)
    assert result["changed"]
    assert not (tmp_path / "out").exists()


def test_errors_fail(run: Run, tmp_path: Path) -> None:
    bad = [dialogue(n, "") for n in range(8)]
    result = run([*bad, dialogue(8), dialogue(9)], dest=str(tmp_path / "out"), show=2)
    assert result["failed"]
    assert not (tmp_path / "out").exists()
    assert result["counts"] == {"empty_turn": 8}
    assert (result["dialogues"], result["dropped"]) == (10, 8)
    assert [finding["where"] for finding in result["findings"]] == [
        {"file": "data.json", "index": n, "id": f"d{n}", "turn": 1, "line": 1} for n in range(2)
    ]
    first, _second, rest, way_out = result["msg"].splitlines()
    assert first.startswith('data.json[0].conversations[1] (id "d0"), line 1. Found: no text. Expected: ')
    assert "Remedy: " in first
    assert rest == "… and 6 more: empty_turn."
    assert way_out.startswith("Found: 8 of 10 dialogues with errors. Expected: none. ")
    assert "finetune_allow_dropped" in way_out
    # Where nothing would be left, it is no way out.
    assert "finetune_allow_dropped" not in run(bad)["msg"]
    assert "warnings" not in result


def test_errors_may_be_left_out(run: Run, tmp_path: Path) -> None:
    content = [dialogue(0, ""), dialogue(1), dialogue(2), 5]
    result = run(content, dest=str(tmp_path / "out"), allow_dropped=True)
    assert result["msg"] == "2 dialogues, 1 to train on and 1 held out; 2 with errors left out"
    assert result["dropped"] == 2
    said = json.dumps(result["warnings"])
    assert all(piece in said for piece in ("no text", "a number"))
    assert sorted(read(tmp_path / "out" / "train.json") + read(tmp_path / "out" / "heldout.json")) == ["d1", "d2"]


def test_warnings_warn(run: Run) -> None:
    result = run([dialogue(1), dialogue(1), dialogue(2, "a\ufffdb")])
    assert "failed" not in result
    assert result["counts"] == {"duplicate": 1, "duplicate_id": 1, "replacement": 1}
    said = json.dumps(result["warnings"])
    assert all(piece in said for piece in ("the same turns as", "the id of", "U+FFFD"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"content": []}, "no dialogue in data.json"),
        ({"content": [dialogue(1)]}, "finetune_heldout to 0"),
        ({"content": [dialogue(1), dialogue(2)], "heldout": 2}, "lower finetune_heldout"),
        ({"content": [dialogue(1), dialogue(2)], "heldout": 0.7}, "0.7 as finetune_heldout"),
        ({"content": [dialogue(1, "")], "allow_dropped": True}, "no text"),
        ({"path": "/nonexistent/data.json"}, "nothing at /nonexistent/data.json"),
        ({"content": [dialogue(1)], "heldout": 0, "show": 0}, "show is 0"),
        ({"content": [dialogue(1)], "heldout": 0, "dest": "/proc/none"}, "a directory that can be written"),
    ],
)
def test_what_fails(run: Run, arguments: dict[str, Any], said: str) -> None:
    result = run(**arguments)
    assert result["failed"]
    assert said in result["msg"]
    assert all(word in result["msg"] for word in ("Found: ", "Expected: ", "Remedy: "))
    assert not result.get("changed")


def test_nothing_held_out(run: Run, tmp_path: Path) -> None:
    result = run([dialogue(1)], heldout=0, dest=str(tmp_path / "out"))
    assert (result["train"], result["heldout"]) == (1, 0)
    assert (tmp_path / "out" / "heldout.json").read_text() == "[]\n"


def test_a_failure_leaves_what_is_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest = tmp_path / "out"
    run([dialogue(n) for n in range(5)], dest=str(dest))
    before = stamps(dest)

    def full(_found: object, train: Any, _heldout: object) -> None:
        train.write(b"[\n")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sharegpt_dataset, "write", full)
    monkeypatch.setattr(sharegpt_dataset, "differs", lambda *_arguments: True)
    assert "No space left" in run([dialogue(n) for n in range(6)], dest=str(dest))["msg"]
    assert stamps(dest) == before
