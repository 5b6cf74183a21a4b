# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the fine-tuning program that need no torch."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

IMAGE = Path(__file__).resolve().parents[4] / "roles/finetune/files/image"
sys.path.insert(0, str(IMAGE))

from vicuna_finetune import base_model, card, checkpoints, curve, launch, settings  # noqa: E402 - the path is set above
from vicuna_finetune.__main__ import main, out_of_memory  # noqa: E402 - the path is set above
from vicuna_finetune.errors import BadInput, Problem, Stopped, measured  # noqa: E402 - the path is set above
from vicuna_finetune.progress import Log, Progress, read_log, write_atomically  # noqa: E402 - the path is set above

SETTINGS: dict[str, Any] = {
    **json.loads((IMAGE.parents[3] / "tests/finetune/settings.json").read_text()),
    "epochs": 3,
    "save_steps": 100,
    "model_name": "vicuna-tuned",
    "base_repo": "https://huggingface.co/lmsys/vicuna-7b-v1.5",
    "base_commit": "3321f76e3f527bd14065daf69dad9344000a201d",
    "dataset_sha256": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
    "run_id": "0123456789ab",
}


def test_settings_are_read() -> None:
    read = settings.parse(SETTINGS)
    assert (read.epochs, read.adapter) == (3.0, True)
    assert isinstance(read.epochs, float)
    assert not settings.parse({**SETTINGS, "method": "full"}).adapter
    assert read.lora_targets == settings.TARGETS
    assert settings.parse({**SETTINGS, "lora_targets": ["lm_head", "q_proj"]}).lora_targets == ("q_proj", "lm_head")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"method": "adapter"}, 'method is "adapter": expected one of full, lora, qlora'),
        ({"learning_rate": "2e-4"}, "expected a number"),
        ({"learning_rate": math.inf}, "learning_rate is Infinity"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"batch_size": 0}, "batch_size is 0: expected 1 to 4096"),
        ({"batch_size": True}, "batch_size is true: expected a whole number"),
        ({"seed": 1.5}, "seed is 1.5: expected a whole number"),
        ({"bf16": 1}, "bf16 is 1: expected true or false"),
        ({"schema": 2}, "role and image are of different versions"),
        ({"run_id": "../../etc"}, "run_id"),
        ({"max_steps": 0}, "max_steps is 0: expected -1"),
        ({"typo": 1}, "typo is not known"),
        ({"lora_targets": []}, "lora_targets is []: expected a list of names"),
        ({"lora_targets": ["lm_head", "mlp"]}, "expected some of q_proj, k_proj"),
        ({"method": "qlora"}, "qlora on the cpu"),
        ({"bf16": True}, "bf16 is true on the cpu"),
        ({"device": "cuda"}, "gpus is 0"),
        ({"gpus": 2}, "gpus is 2 on the cpu"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], found: str) -> None:
    with pytest.raises(BadInput, match="finetune_") as caught:
        settings.parse({**SETTINGS, **change})
    assert found in str(caught.value)


def test_missing_settings_are_all_named() -> None:
    with pytest.raises(BadInput) as caught:
        settings.parse({key: value for key, value in SETTINGS.items() if key not in ("seed", "epochs")})
    assert "epochs is missing; seed is missing" in str(caught.value)
    with pytest.raises(BadInput, match="expected an object"):
        settings.parse([])


def test_settings_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="run the role"):
        settings.load(tmp_path / "settings.json")


def test_progress_is_whole_and_not_written_at_every_step(tmp_path: Path) -> None:
    now = [100.0]
    progress = Progress(tmp_path / "progress.json", clock=lambda: now[0])
    read = lambda: json.loads((tmp_path / "progress.json").read_text())  # noqa: E731 - one line says it
    progress.update("loading")
    progress.update("training", step=1, steps=9, loss=math.nan)
    assert (read()["phase"], read()["step"], read()["loss"], read()["started"]) == ("training", 1, None, 100.0)
    now[0] += 0.5
    progress.update(step=2)
    assert read()["step"] == 1
    now[0] += 0.6
    progress.update("training", step=3)
    assert (read()["step"], read()["updated"]) == (3, 101.1)
    progress.update("failed", message="why")
    assert read()["message"] == "why"
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]
    assert stat.S_IMODE((tmp_path / "progress.json").stat().st_mode) == 0o644
    with pytest.raises(ValueError, match="no lost"):
        progress.update(lost=1)
    with pytest.raises(ValueError, match="resting"):
        progress.update("resting")


def test_progress_of_another_process_writes_nothing(tmp_path: Path) -> None:
    Progress(tmp_path / "progress.json", writes=False).update("training", step=1)
    Log(tmp_path / "log.jsonl", writes=False).add(step=1, loss=1.0)
    assert not list(tmp_path.iterdir())


def test_a_log_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.cut_after(0)
    for step in range(1, 6):
        log.add(step=step, loss=float(step) if step != 2 else math.inf)
    with log.path.open("a") as stream:
        stream.write('{"step": 6, "lo')
    assert [line["step"] for line in read_log(log.path)] == [1, 2, 3, 4, 5]
    assert read_log(log.path)[1]["loss"] is None
    log.cut_after(3)
    log.add(step=4, loss=9.0)
    assert [line["loss"] for line in read_log(log.path)] == [1.0, None, 3.0, 9.0]


def make_checkpoint(directory: Path, step: int, *, whole: bool = True) -> Path:
    path = directory / f"checkpoint-{step}"
    (path / "shards").mkdir(parents=True)
    (path / "weights").write_bytes(b"x" * step)
    (path / "shards" / "0").write_bytes(b"y")
    if whole:
        checkpoints.complete(path, seconds=float(step))
    return path


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert checkpoints.newest_whole(tmp_path) is None
    for step in (90, 100, 1000):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 1100, whole=False)
    (tmp_path / "checkpoint-x").mkdir()
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-1000"
    assert checkpoints.figures(tmp_path / "checkpoint-1000")["seconds"] == 1000.0  # type: ignore[index]
    (tmp_path / "checkpoint-1000" / "weights").write_bytes(b"x" * 999)
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-100"
    (tmp_path / "checkpoint-100" / "shards" / "0").unlink()
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-90"
    (tmp_path / "checkpoint-90" / checkpoints.LIST).write_text("{}")
    assert checkpoints.newest_whole(tmp_path) is None
    assert len(checkpoints.remove_broken(tmp_path)) == 5
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that loses its power goes on from it; and the older ones go only then."""
    path = make_checkpoint(tmp_path, 10, whole=False)
    flushed: list[str] = []
    # What a file handle is of.
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    seen: list[int] = []
    checkpoints.complete(path, lambda: seen.append(len(flushed)), seconds=1.0)
    names = [Path(name).relative_to(tmp_path).as_posix() for name in flushed]
    listed = next(at for at, name in enumerate(names) if checkpoints.LIST in name)
    files = [file.relative_to(tmp_path).as_posix() for file in path.rglob("*") if checkpoints.LIST not in file.name]
    assert files and set(files) <= set(names[:listed])
    assert "." in names[:listed] and names[-1] == "checkpoint-10"
    assert len(seen) == listed


def test_old_checkpoints_go_and_the_one_being_written_stays(tmp_path: Path) -> None:
    for step in (8, 9, 10):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 11, whole=False)
    checkpoints.keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-11", "checkpoint-9"]
    checkpoints.keep_newest(tmp_path, 2)
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-10"


def make_base(path: Path, **config: Any) -> Path:
    path.mkdir()
    values = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float16", **config}
    (path / "config.json").write_text(json.dumps(values))
    for name in ("tokenizer.model", "model.safetensors", "LICENSE.txt", "generation_config.json"):
        (path / name).write_bytes(b"data of " + name.encode())
    return path


def test_a_base_is_checked(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    assert base_model.dtype_name(base_model.check_base(base)) == "float16"
    assert base_model.weight_files(base) == ["model.safetensors"]
    index = {"weight_map": {"a": "b-2.safetensors", "c": "b-1.safetensors", "d": "b-1.safetensors"}}
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match=r"lacks b-1\.safetensors"):
        base_model.check_base(base)
    for name in ("b-1.safetensors", "b-2.safetensors"):
        (base / name).write_bytes(b"weights")
    base_model.check_base(base)
    (base / "b-2.safetensors").write_bytes(base_model.POINTERS[0] + b"v1\n")
    with pytest.raises(BadInput, match="git-lfs pointer"):
        base_model.check_base(base)


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json cannot be read"):
        base_model.check_base(tmp_path)
    with pytest.raises(BadInput, match="MistralForCausalLM"):
        base_model.check_base(make_base(tmp_path / "a", architectures=["MistralForCausalLM"]))
    with pytest.raises(BadInput, match="says dtype int8"):
        base_model.dtype_name(base_model.check_base(make_base(tmp_path / "b", torch_dtype="int8")))
    base = make_base(tmp_path / "c")
    (base / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="holds no weights"):
        base_model.check_base(base)
    (base / "tokenizer.model").unlink()
    with pytest.raises(BadInput, match=r"no tokenizer\.model"):
        base_model.check_base(base)


def test_a_result_has_the_bases_files_and_can_be_read(tmp_path: Path) -> None:
    base, part, result = make_base(tmp_path / "base"), tmp_path / "part", tmp_path / "result"
    part.mkdir(mode=0o700)
    (part / "model.safetensors").write_bytes(b"new")
    (part / "model.safetensors").chmod(0o600)
    (part / "config.json").write_text("what transformers wrote")
    (part / "tokenizer.json").write_text("not the base's")
    result.mkdir()
    base_model.publish(part, base, result)
    assert {path.name for path in result.iterdir()} == {
        "config.json", "tokenizer.model", "model.safetensors", "LICENSE.txt", "generation_config.json",
    }  # fmt: skip
    assert (result / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert (result / "model.safetensors").read_bytes() == b"new"
    assert stat.S_IMODE(result.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in result.iterdir()} == {0o644}
    assert base_model.digests(result)["model.safetensors"]["size"] == 3


LOG = [{"step": step, "loss": 4.0 / step, "epoch": step / 10} for step in range(1, 101)]
LOG[49:49] = [{"step": 50, "heldout_loss": 1.25}]


def test_a_curve_is_one_whole_file() -> None:
    drawn = curve.svg(LOG, {"base": 3.0, "tuned": 1.0})
    assert drawn == curve.svg(LOG, {"base": 3.0, "tuned": 1.0})
    root = ElementTree.fromstring(drawn)
    names = [element.tag.split("}")[1] for element in root.iter()]
    assert names.count("polyline") == 3
    assert names.count("circle") == 3
    said = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"0", "100", "step", "held out"} <= set(said)
    assert "held out from 3.000 to 1.000" in drawn
    assert "prefers-color-scheme: dark" in drawn
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    for element in root.iter():
        for point in element.get("points", "").split():
            x, y = map(float, point.split(","))
            assert curve.LEFT <= x <= curve.WIDTH
            assert 0 <= y <= curve.HEIGHT - curve.BOTTOM


@pytest.mark.parametrize(
    "log", [[], [{"step": 1, "loss": None}], [{"step": 1, "loss": 0.0}], [{"step": 7, "heldout_loss": 2.0}]]
)
def test_a_short_curve_is_drawn_too(log: list[dict[str, Any]]) -> None:
    ElementTree.fromstring(curve.svg(log, {"base": None, "tuned": None}))


def test_a_long_curve_is_thinned() -> None:
    log = [{"step": step, "loss": 1.0} for step in range(1, 100001)]
    assert len(curve.svg(log, {})) < 40000
    line = curve.thinned(curve.points(log, "loss"))
    assert (line[0], line[-1]) == ((1.0, 1.0), (100000.0, 1.0))


@pytest.mark.parametrize(
    ("least", "greatest", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 0.003, [0, 0.001, 0.002, 0.003]), (0, 120, [0, 50, 100, 150])],
)
def test_ticks_are_round(least: float, greatest: float, expected: list[float]) -> None:
    assert curve.ticks(least, greatest, 5) == pytest.approx(expected)


REPORT: dict[str, Any] = {
    "schema": 1,
    "run_id": "0123456789ab",
    "method": "lora",
    "base": {"repo": "https://huggingface.co/lmsys/vicuna-7b-v1.5", "commit": "3321f76e"},
    "dataset": {"sha256": "d" * 64, "dialogues": 1900, "heldout": 100, "tokens": 1234567, "cut": 0, "dropped": 0},
    "settings": SETTINGS,
    "versions": {"torch": "2.10.0", "peft": "0.21.2"},
    "train": {
        "seconds": 1234.5, "steps": 2850, "tokens_per_second": 3000.0, "peak_gpu_memory_mib": 22222, "final_loss": 0.9
    },
    "heldout_loss": {"base": 1.5, "tuned": 1.2},
    "answers": [
        {"prompt": "Who | you?\n", "expected": "Vicuna", "base": "<b>", "tuned": "I am `Vicuna`.", "passed": True},
        {"prompt": "Hi", "expected": None, "base": "a", "tuned": "b" * 900, "passed": None},
    ],
}  # fmt: skip


def test_a_card_has_metadata_and_figures() -> None:
    text = card.card(REPORT)
    assert text == card.card(json.loads(json.dumps(REPORT)))
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["base_model"] == REPORT["base"]["repo"]
    assert metadata["heldout_loss"] == {"base": 1.5, "tuned": 1.2}
    assert metadata["dataset_sha256"] == "d" * 64
    assert "| held-out loss of this model | 1.2 (-20.0%) |" in body
    assert "| prompts with the expected answer | 1 of 1 |" in body
    assert "| Who \\| you? | \\<b\\> | I am \\`Vicuna\\`. | yes |" in body
    assert "| most GPU memory, MiB | 22,222 |" in body
    assert 'vicuna_model_name: "vicuna-tuned"' in body
    assert "`lora_rank`" in body
    assert max(map(len, body.splitlines())) < 700


def test_the_adapters_own_card() -> None:
    text = card.card(REPORT, adapter=True)
    _, head, body = text.split("---\n", 2)
    assert (yaml.safe_load(head)["base_model_relation"], yaml.safe_load(head)["library_name"]) == ("adapter", "peft")
    assert "# vicuna-tuned, the adapter alone" in body and "## Deploy" not in body
    assert "| held-out loss of this model | 1.2 (-20.0%) |" in body


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    """peft writes the path that the base had in the container."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/base", "r": 8, "revision": null}')
    base_model.name_base(tmp_path, settings.parse(SETTINGS))
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": SETTINGS["base_repo"],
        "r": 8,
        "revision": SETTINGS["base_commit"],
    }


@pytest.mark.parametrize(
    ("name", "loss", "status", "words"),
    [
        ("tuned", math.nan, 3, "the result's held-out loss is nan: expected a number"),
        ("tuned", math.inf, 3, "lower finetune_learning_rate (now 0.0002, try 2e-05)"),
        ("base", math.nan, 4, "the base's held-out loss is nan"),
    ],
)
def test_a_result_that_cannot_be_measured_is_none(name: str, loss: float, status: int, words: str) -> None:
    assert [measured(name, good, 2e-4) for good in (1.5, None)] == [1.5, None]
    with pytest.raises(Problem) as raised:
        measured(name, loss, 2e-4)
    assert raised.value.exit_status == status and words in str(raised.value)


def test_a_card_without_held_out_dialogues_and_prompts() -> None:
    bare = {**REPORT, "method": "full", "heldout_loss": {"base": None, "tuned": None}, "answers": []}
    text = card.card(bare)
    assert "| held-out loss of this model | - |" in text
    assert "lora_rank" not in text
    assert "## Answers" not in text


def run_main(tmp_path: Path, step: str) -> tuple[int, dict[str, Any]]:
    status = main([step, "--run-dir", str(tmp_path), "--base", str(tmp_path / "base")])
    return status, json.loads((tmp_path / "progress.json").read_text())


def test_bad_settings_end_with_4_and_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, progress = run_main(tmp_path, "train")
    assert (status, progress["phase"]) == (4, "failed")
    assert "settings.json cannot be read" in progress["message"]
    assert progress["message"] in capsys.readouterr().err


def test_a_full_gpu_is_told_in_one_line() -> None:
    error = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …")
    assert "the GPU's memory is full (CUDA out of memory); lower finetune_batch_size" in out_of_memory(error)


def test_stopping_has_the_shells_status() -> None:
    assert [Stopped("", number).exit_status for number in (signal.SIGINT, signal.SIGTERM)] == [130, 143]


CHILD = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
assert os.environ["WORLD_SIZE"] == "2" and os.environ["LOCAL_RANK"] == str(rank)
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("sys.exit(4 if rank else 0)", 4),
        ("os.kill(os.getpid(), 9) if rank else time.sleep(60)", 137),
    ],
)
def test_the_launcher_tells_the_first_failure(code: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE", 0.5)
    assert launch.launch([sys.executable, "-c", CHILD + code], 2) == expected


def test_the_launcher_hands_a_signal_on() -> None:
    code = CHILD + "signal.signal(15, lambda *_: (time.sleep(0.3), sys.exit(143))); time.sleep(60)"
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    begun = time.monotonic()
    assert launch.launch([sys.executable, "-c", code], 2) == 143
    assert time.monotonic() - begun < 30


def test_the_program_needs_no_torch_to_refuse(tmp_path: Path) -> None:
    """The container says what is wrong within a second, not after loading gigabytes of libraries."""
    code = "import sys; sys.modules['torch'] = None\nfrom vicuna_finetune import __main__ as m; sys.exit(m.main())"
    command = [sys.executable, "-c", code, "train", "--run-dir", str(tmp_path), "--base", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(IMAGE)}, capture_output=True, check=False)
    assert done.returncode == 4


def test_a_file_is_written_at_once(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "one")
    write_atomically(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "two"
    assert len(list(tmp_path.iterdir())) == 1
