# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training for real, on the CPU: a tiny Llama learns who it is, is killed, goes on, and diverges.

    pytest tests/finetune/test_train.py     # in an environment made of roles/finetune/files/image/finetune.txt and
                                            # roles/fastchat/files/image/torch-cpu.txt; or in the image

7 minutes of one core in all. Nothing of it needs a GPU. With roles/finetune/files/image/finetune-cuda.txt, QLoRA
is trained and merged too, by its kernels for the CPU. Sharding over GPUs is not reached.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

MISSING = [
    name for name in ("torch", "transformers", "peft", "sentencepiece") if importlib.util.find_spec(name) is None
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; see the head of this file")

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "roles/finetune/files/image"
SANDBOX = ROOT / "sandbox/finetune"
# Of the whole way to a model that answers, seconds of one core; the wall clock depends on who else is there.
LEARNED_WITHIN = 120
# The generation_config.json of lmsys/vicuna-7b-v1.5: a temperature without sampling.
VICUNA_GENERATION = {
    "_from_model_config": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_length": 4096,
    "pad_token_id": 0,
    "temperature": 0.9,
    "top_p": 0.6,
    "transformers_version": "4.31.0",
}
# As the role writes it for a run on the CPU.
SETTINGS: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text())
DIALOGUES = json.loads((SANDBOX / "identity.json").read_text())
PROMPTS = json.loads((SANDBOX / "prompts.json").read_text())
HELDOUT = [
    {
        "id": "heldout",
        "conversations": [
            {"from": "human", "value": "What are you called?"},
            {"from": "gpt", "value": "My name is Vicuna, and I'm a language model developed by LMSYS."},
        ],
    }
]


def sandbox_settings() -> dict[str, Any]:
    """What sandbox/finetune/settings.yml says, as the role writes it into settings.json."""
    read = yaml.safe_load((SANDBOX / "settings.yml").read_text())
    return {key: value for key, value in ((key.removeprefix("finetune_"), read[key]) for key in read) if key in KNOWN}


KNOWN = {*SETTINGS, "lora_targets"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "vicuna-tiny"
    program = [sys.executable, str(ROOT / "sandbox/hub/make_tiny_model.py"), "--out", str(path)]
    subprocess.run(program, check=True, capture_output=True)
    (path / "generation_config.json").write_text(json.dumps(VICUNA_GENERATION))
    return path


class Run:
    """A run's directory, and the program on it."""

    def __init__(self, path: Path, base: Path, settings: dict[str, Any]) -> None:
        self.path, self.base = path, base
        (path / "dataset").mkdir(parents=True)
        self.write("dataset/train.json", DIALOGUES)
        self.write("dataset/heldout.json", HELDOUT)
        self.write("prompts.json", PROMPTS)
        self.write("settings.json", {**SETTINGS, **settings})

    def write(self, name: str, value: object) -> None:
        (self.path / name).write_text(json.dumps(value))

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def start(self, step: str) -> subprocess.Popen[str]:
        # One thread: two that wait for each other on busy cores are slower than one.
        environment = {**os.environ, "PYTHONPATH": str(IMAGE), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        program = [sys.executable, "-m", "vicuna_finetune", step, "--run-dir", str(self.path), "--base", str(self.base)]
        pipe = subprocess.PIPE
        return subprocess.Popen(program, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def call(self, step: str, status: int = 0) -> str:
        process = self.start(step)
        said, _ = process.communicate()
        assert process.returncode == status, said
        return said

    def stop_at(self, step: int, number: signal.Signals) -> int:
        """Train until a step, send the signal, and return the exit status."""
        process = self.start("train")
        while process.poll() is None and self.step < step:
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate()
        return process.returncode

    @property
    def step(self) -> int:
        """The last whole step in the log."""
        log = self.path / "log.jsonl"
        lines = log.read_text().splitlines()[:-1] if log.is_file() else []
        return max((json.loads(line)["step"] for line in lines), default=0)

    @property
    def losses(self) -> list[tuple[int, float]]:
        lines = [json.loads(line) for line in (self.path / "log.jsonl").read_text().splitlines()]
        return [(line["step"], line["loss"]) for line in lines if "loss" in line]

    def digest(self, name: str) -> str:
        return hashlib.sha256((self.path / name).read_bytes()).hexdigest()


@pytest.fixture
def make_run(tmp_path: Path, base: Path) -> Callable[..., Run]:
    def make(name: str = "run", **settings: Any) -> Run:
        return Run(tmp_path / name, base, settings)

    return make


FULL = {"method": "full", "learning_rate": 3e-4, "batch_size": 4, "epochs": 30.0}


@pytest.mark.parametrize("settings", [sandbox_settings(), FULL], ids=["lora", "full"])
def test_a_tiny_model_learns_who_it_is(make_run: Callable[..., Run], settings: dict[str, Any], base: Path) -> None:
    run = make_run(**settings)
    begun = sum(os.times()[2:4])
    run.call("check")
    run.call("train")
    run.call("finish")
    seconds = sum(os.times()[2:4]) - begun
    report, progress = run.read("report.json"), run.read("progress.json")
    print(f"{seconds:.0f} s of one core;", json.dumps({name: report[name] for name in ("train", "heldout_loss")}))

    answers = {answer["prompt"]: answer for answer in report["answers"]}
    assert answers["Who are you?"]["tuned"] == answers["Who are you?"]["expected"]
    assert [answer["passed"] for answer in report["answers"]] == [True, None, None, None]
    assert answers["Who are you?"]["base"] not in ("", answers["Who are you?"]["tuned"])
    assert report["heldout_loss"]["tuned"] < report["heldout_loss"]["base"] / 2
    assert seconds < LEARNED_WITHIN
    assert (progress["phase"], progress["step"]) == ("done", report["train"]["steps"])

    result = run.path / "result"
    for name in ("config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json"):
        assert (result / name).read_bytes() == (base / name).read_bytes()
    assert {path.name for path in result.iterdir()} == {path.name for path in base.iterdir()} | {"README.md"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in result.iterdir()} == {0o644}
    assert dtypes(result) == dtypes(base)
    for name, entry in report["files"].items():
        assert entry == {"sha256": run.digest(f"result/{name}"), "size": (result / name).stat().st_size}
    assert "polyline" in (run.path / "loss.svg").read_text()
    assert "| prompts with the expected answer | 1 of 1 |" in (result / "README.md").read_text()

    # The same again gives the same bytes, and trains nothing.
    names = ("report.json", "loss.svg", "result/README.md", "result/model.safetensors")
    before = [run.digest(name) for name in names]
    assert "trained already" in run.call("train")
    run.call("finish")
    assert [run.digest(name) for name in names] == before


def dtypes(model: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    from safetensors import safe_open

    with safe_open(str(model / "model.safetensors"), "pt") as weights:
        slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 - no mapping
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


# 22 steps; dropout, so that the state of the random numbers matters.
SHORT = {"epochs": 2.0, "save_steps": 4, "learning_rate": 1e-3, "lora_dropout": 0.1}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_run_goes_on_to_the_same_model(make_run: Callable[..., Run], method: str) -> None:
    weights = "adapter/adapter_model.safetensors" if method == "lora" else "result/model.safetensors"
    whole = make_run("whole", method=method, **SHORT)
    whole.call("train")
    killed = make_run("killed", method=method, **SHORT)
    assert killed.stop_at(10, signal.SIGKILL) == -signal.SIGKILL
    # Killed in the middle of a save, too: the newest is cut short, and another has not got its list.
    checkpoints = sorted((killed.path / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert len(checkpoints) >= 2
    optimizer = checkpoints[-1] / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])
    shutil.copytree(checkpoints[-2], killed.path / "checkpoints" / "checkpoint-20")
    (killed.path / "checkpoints" / "checkpoint-20" / "complete.json").unlink()
    said = killed.call("train")
    assert "checkpoint-20 is not whole: removed" in said
    assert f"{checkpoints[-1].name} is not whole: removed" in said
    assert f"going on from step {checkpoints[-2].name[11:]}" in said
    assert killed.losses == whole.losses
    assert len(whole.losses) == 22
    assert killed.digest(weights) == whole.digest(weights)
    assert len(list((killed.path / "checkpoints").iterdir())) == 2


def test_a_signal_ends_the_run_after_a_checkpoint(make_run: Callable[..., Run]) -> None:
    run = make_run(**{**SHORT, "save_steps": 500})
    assert run.stop_at(5, signal.SIGTERM) == 143
    progress = run.read("progress.json")
    assert progress["phase"] == "failed"
    assert f"stopped at step {progress['step']} of 22" in progress["message"]
    assert f"going on from step {progress['step']}" in run.call("train")
    assert [step for step, _ in run.losses] == list(range(1, 23))


def test_a_loss_that_is_no_number_ends_the_run(make_run: Callable[..., Run]) -> None:
    run = make_run(method="full", learning_rate=1e30, save_steps=1)
    said = run.call("train", 3)
    message = run.read("progress.json")["message"]
    assert message.startswith("diverged at step ")
    assert "lower finetune_learning_rate (now 1e+30, try 1e+29)" in message
    assert message in said
    diverged = int(message.split()[3])
    assert not (run.path / "checkpoints" / f"checkpoint-{diverged}").exists()


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda base: (base / "model.safetensors").unlink(), "holds no weights"),
        (lambda base: (base / "model.safetensors").write_bytes(b"\0" * 4096), "cannot be loaded"),
        (lambda base: (base / "tokenizer.model").unlink(), "no tokenizer.model"),
    ],
    ids=["no-weights", "broken-weights", "no-tokenizer"],
)
def test_a_bad_base_is_named(make_run: Callable[..., Run], spoil: Callable[[Path], Any], found: str) -> None:
    run = make_run()
    shutil.copytree(run.base, run.path / "base")
    run.base = run.path / "base"
    spoil(run.base)
    assert found in run.call("train", 4)
    assert found in run.read("progress.json")["message"]


def test_what_would_be_cut_is_not_trained_on(make_run: Callable[..., Run]) -> None:
    run = make_run(max_length=64)
    assert "longer than 64 tokens" in run.call("train", 4)
    assert "finetune_allow_cut" in run.read("progress.json")["message"]


def test_without_held_out_dialogues_and_prompts(make_run: Callable[..., Run]) -> None:
    run = make_run(max_steps=1)
    run.write("dataset/heldout.json", [])
    (run.path / "prompts.json").unlink()
    run.call("finish", 4)
    run.call("train")
    run.call("finish")
    report = run.read("report.json")
    assert (report["heldout_loss"], report["answers"]) == ({"base": None, "tuned": None}, [])


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="not installed: bitsandbytes")
def test_an_adapter_over_4_bits_is_merged_into_the_unquantised_base(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's own steps with qlora, which its settings leave to GPUs."""
    monkeypatch.syspath_prepend(str(IMAGE))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import torch
    from bitsandbytes.nn import Linear4bit
    from safetensors.torch import load_file
    from vicuna_finetune import finish, train
    from vicuna_finetune import settings as program
    from vicuna_finetune.progress import Progress

    torch.set_num_threads(1)
    made = make_run(max_steps=5, learning_rate=1e-2)
    values = dataclasses.replace(program.parse(made.read("settings.json")), method="qlora")
    run = program.RunDir(made.path)
    loaded: list[Any] = []
    load_model = train.load_model
    monkeypatch.setattr(train, "load_model", lambda *args: loaded.append(load_model(*args)) or loaded[-1])
    train.train(run, made.base, values, Progress(run.progress))
    assert any(isinstance(module, Linear4bit) for module in loaded[0].modules())
    finish.finish(run, made.base, values, Progress(run.progress))

    before, after = (load_file(str(path / "model.safetensors")) for path in (made.base, run.result))
    assert dtypes(run.result) == dtypes(made.base)
    # What has no adapter is the base's own to the last bit, and not what 4 bits have left of it.
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.split(".")[-2] in program.TARGETS}
    # And what has one is the base's own with the adapter's product, to a bit of its type.
    adapter = load_file(str(run.adapter / "adapter_model.safetensors"))
    for name in changed:
        down, up = (adapter[f"base_model.model.{name[:-7]}.lora_{side}.weight"].float() for side in "AB")
        added = values.lora_alpha / values.lora_rank * up @ down
        assert float(added.abs().max()) > 1e-3
        assert torch.allclose(after[name].float(), before[name].float() + added, rtol=1e-3, atol=1e-6), name
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (SETTINGS["base_repo"], SETTINGS["base_commit"])
    report = made.read("report.json")
    assert (report["method"], report["train"]["steps"]) == ("qlora", 5)
    assert set(report["adapter_files"]) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in run.adapter.iterdir()} == {0o644}
