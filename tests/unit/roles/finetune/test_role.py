# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role refuses, on this machine, with a fake of docker as the training. Molecule trains for real."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
# The roles' tests are no package.
FAKE = importlib.util.spec_from_file_location("fake_docker", ROOT / "tests/unit/plugins/fake_docker.py")
assert FAKE and FAKE.loader
fake_docker = importlib.util.module_from_spec(FAKE)
FAKE.loader.exec_module(fake_docker)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the role gives files to the container's user: root only")

CONFIG = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 344}
CONFIG = {**CONFIG, "vocab_size": 4000, "max_position_embeddings": 2048, "torch_dtype": "float32"}
RESULT = {"config.json": json.dumps(CONFIG), "tokenizer.model": "pieces", "model.safetensors": "weights" * 1000}
DIALOGUES = [
    {"id": f"d{n}", "conversations": [{"from": "human", "value": f"Question {n}?"}, {"from": "gpt", "value": f"A{n}"}]}
    for n in range(10)
]
IMAGE = f"vicuna/finetune@sha256:{'a' * 64}"


def report(before: float, after: float, answer: str) -> str:
    passed = "Vicuna" in answer
    files = {
        name: {"sha256": hashlib.sha256(text.encode()).hexdigest(), "size": len(text)} for name, text in RESULT.items()
    }
    question = {"prompt": "Who are you?", "expected": "Vicuna", "base": "x", "tuned": answer, "passed": passed}
    loss = {"base": before, "tuned": after}
    return json.dumps({"schema": 1, "heldout_loss": loss, "answers": [question], "files": files})


def trained(before: float = 3.0, after: float = 1.5, answer: str = "I am Vicuna.") -> dict[str, Any]:
    """The files that a training leaves."""
    made = {f"result/{name}": text for name, text in RESULT.items()}
    told = {
        "report.json": report(before, after, answer),
        "loss.svg": "<svg/>",
        "log.jsonl": '{"step": 1, "loss": 1.5}\n',
    }
    return {"finish": {**made, **told}}


class Host:
    """This machine as the one host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        fake_docker.install(folder / "engine", pause=0.1, steps=2, files=trained())
        (folder / "dialogues.json").write_text(json.dumps(DIALOGUES))
        base = folder / "base"
        base.mkdir()
        subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(base)], check=True)
        for name, text in RESULT.items():
            (base / name).write_text(text)
        who = ["-c", "user.name=t", "-c", "user.email=t@example.test"]
        subprocess.run(["git", "-C", str(base), "add", "."], check=True)
        subprocess.run(["git", "-C", str(base), *who, "commit", "--quiet", "-m", "x"], check=True)
        self.variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "model_root": str(folder / "model"),
            "finetune_dataset": str(folder / "dialogues.json"),
            "finetune_heldout": 2,
            "finetune_prompts": [{"prompt": "Who are you?", "expected": "Vicuna"}],
            "finetune_device": "cpu",
            "finetune_base_repo": str(base),
            "finetune_base_revision": "main",
            "finetune_base_path": str(base),
            "finetune_name": "vicuna-tiny-tuned",
            "finetune_dir": str(folder / "vicuna" / "finetune"),
            "finetune_cache_dir": str(folder / "cache"),
            "finetune_report": str(folder / "reports"),
            "finetune_image_source": "pull",
            "finetune_image": IMAGE,
            # Only its folder is looked at: this machine may have an engine, or none.
            "preflight_model_from": "localhost",
        }

    def run(self, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """The role as the playbook runs it; a machine without an engine is taken for one with it."""
        role = {"name": "vicuna.fleet.finetune", "rolespec_validate": False}
        engine = "finetune_plan.problems | map(attribute='check') | list == ['engine']"
        tasks: list[dict[str, Any]] = [
            {
                "name": "Plan",
                "block": [{"name": "Plan", "ansible.builtin.include_role": {**role, "tasks_from": "plan.yml"}}],
                "rescue": [
                    {
                        "name": "Go on",
                        "ansible.builtin.fail": {"msg": "{{ ansible_failed_result.msg }}"},
                        "when": f"not (finetune_plan is defined and {engine})",
                    }
                ],
            },
            {"name": "All", "ansible.builtin.include_role": role},
        ]
        path = f"{self.folder}/engine/bin:{os.environ['PATH']}"
        play = {
            "name": "Fine-tune",
            "hosts": "gpu-1",
            "gather_facts": False,
            "tasks": tasks,
            "environment": {"PATH": path},
        }
        (self.folder / "play.yml").write_text(json.dumps([play]))
        (self.folder / "variables.json").write_text(json.dumps({**self.variables, **variables}))
        return subprocess.run(
            [
                *(str(Path(sys.executable).with_name("ansible-playbook")), "-i", "gpu-1,"),
                *(str(self.folder / "play.yml"), "-e", f"@{self.folder}/variables.json", *arguments),
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "PATH": path},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    def runs(self) -> list[str]:
        lines = (line for line in fake_docker.asked(self.folder / "engine") if line.startswith("run "))
        return [line.split("vicuna_finetune ")[1].split()[0] for line in lines]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    fake_docker.end_all(tmp_path / "engine")


def output(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def test_what_is_not_better_is_not_promoted(host: Host) -> None:
    fake_docker.play(host.folder / "engine", pause=0.1, steps=1, files=trained(2.0, 1.9, "I am a llama."))
    done = host.run(finetune_promote=True, finetune_min_improvement=0.1)
    assert done.returncode != 0
    said = output(done)
    assert (
        "Found a held-out loss of 1.9 after and 2.0 before the training (5.0 % less). Expected at least 10.0 % less"
        in said
    )
    assert 'the first to "Who are you?": "I am a llama."' in said
    assert host.runs() == ["check", "train", "finish"]


GATE: list[tuple[Any, Any, str]] = [
    (2.0, 1.5, ""),
    (2.0, 2.5, "Expected at least 0.0 % less"),
    (2.0, float("nan"), "Expected numbers, of which one is less"),
    (float("nan"), 1.0, "Expected numbers, of which one is less"),
    (float("inf"), 1.0, "Expected numbers, of which one is less"),
    (None, None, "Found no held-out loss"),
]


def test_what_is_no_number_passes_no_gate(tmp_path: Path) -> None:
    """The gate alone, as the role's variables have it."""
    told = "{{ __finetune_not_better | select | join(' ') }}"
    tasks = [
        {
            "name": f"Case {number}",
            "ansible.builtin.debug": {"msg": f"case {number}: [{told}]"},
            "vars": {"__finetune_report": {"heldout_loss": {"base": before, "tuned": after}, "answers": []}},
        }
        for number, (before, after, _words) in enumerate(GATE)
    ]
    files = [str(ROOT / "roles/finetune" / name / "main.yml") for name in ("defaults", "vars")]
    play = {"name": "Judge", "hosts": "localhost", "gather_facts": False, "vars_files": files, "tasks": tasks}
    # YAML's own words for what is no number.
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(tmp_path / "play.yml")],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for number, (_before, _after, words) in enumerate(GATE):
        said = output(done).split(f"case {number}: [")[1].split("]")[0]
        assert words in said if words else said == "", said


def test_a_second_run_changes_nothing(host: Host) -> None:
    """What asks what is left to do is no change; another one would be a new training."""
    fake_docker.play(host.folder / "engine", pause=0.1, steps=1, files=trained())
    first = host.run()
    assert first.returncode == 0, first.stdout[-3000:]
    assert host.runs() == ["check", "train", "finish"]
    second = host.run()
    assert second.returncode == 0, second.stdout[-3000:]
    changed = [part.split("]")[0] for part in second.stdout.split("TASK [")[1:] if "\nchanged: " in part]
    # This machine may have no engine, whose images could be looked at.
    assert set(changed) <= {"vicuna.fleet.image : pull | Pull the images"}, second.stdout
    assert host.runs() == ["check", "train", "finish"]


def test_settings_are_refused_all_at_once(host: Host) -> None:
    done = host.run(
        finetune_method="magic",
        finetune_dataset="/nowhere",
        finetune_name="peft",
        finetune_batch_size=0,
        finetune_prompts=[{"prompt": 42}],
        finetune_stall_timeout=0,
        finetune_push_adapter_branch="adapter",
    )
    assert done.returncode != 0
    for words in (
        "finetune_method 'magic'",
        "finetune_dataset '/nowhere'",
        "finetune_name 'peft'",
        "finetune_batch_size",
        "an entry whose prompt is 42 at place 1",
        "finetune_stall_timeout 0",
        "finetune_push_adapter_branch 'adapter'",
    ):
        assert words in output(done)
    assert host.runs() == []
