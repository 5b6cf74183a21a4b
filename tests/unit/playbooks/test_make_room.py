# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host leaves its service for a training, and comes back: real runs on this machine, with a fake of docker."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
# These tests are no package.
FAKE = importlib.util.spec_from_file_location("fake_docker", ROOT / "tests/unit/plugins/fake_docker.py")
assert FAKE and FAKE.loader
fake_docker = importlib.util.module_from_spec(FAKE)
FAKE.loader.exec_module(fake_docker)
NAME = "vicuna-finetune-0123456789ab"


class Host:
    """This machine as the one host; nothing is deployed on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        fake_docker.install(folder / "engine", steps=300, pause=0.1)
        (folder / "run").mkdir()
        self.note = folder / "records" / "made-room"
        self.variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "fastchat_project_dir": str(folder / "project"),
            "__room_note": str(self.note),
        }

    def run(self, playbook: Path, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(str(Path(sys.executable).with_name("ansible-playbook")), "-i", "gpu-1,", str(playbook)),
                *("-e", json.dumps({**self.variables, **variables}), *arguments),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "PATH": f"{self.folder}/engine/bin:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def steps(self, *names: str) -> subprocess.CompletedProcess[str]:
        include = [
            {"name": name, "ansible.builtin.include_tasks": f"{ROOT}/playbooks/steps/{name}.yml"} for name in names
        ]
        play = self.folder / "play.yml"
        play.write_text(json.dumps([{"name": "Steps", "hosts": "gpu-1", "gather_facts": False, "tasks": include}]))
        done = self.run(play)
        assert done.returncode == 0, done.stdout
        return done

    def train(self) -> None:
        """A training at work on the host."""
        program = str(self.folder / "engine" / "bin" / "docker")
        labels = [f"--label=vicuna.finetune.{name}" for name in ("run=0123456789ab", "step=train")]
        labels = [part for label in labels for part in label.split("=", 1)]
        mount = ["--mount", f"type=bind,source={self.folder}/run,target=/run-dir"]
        subprocess.run([program, "run", "--name", NAME, *labels, *mount], check=True, capture_output=True)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    yield Host(tmp_path)
    fake_docker.end_all(tmp_path / "engine")


def said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def take_out(host: Host) -> None:
    """As make_room.yml leaves it."""
    host.note.parent.mkdir()
    host.note.touch()


def test_a_training_at_work_keeps_its_room(host: Host) -> None:
    """Whichever run it is of: services that start beside it would take its GPUs."""
    host.train()
    done = host.steps("make_room", "serve_again")
    assert f"gpu-1 stays out of the gateways: {NAME} is at work" in said(done)
    assert f"docker stop {NAME}" in said(done)
    assert host.note.is_file()
    subprocess.run([str(host.folder / "engine/bin/docker"), "stop", "--time", "20", NAME], check=True)
    host.steps("serve_again")
    assert not host.note.exists()


def test_a_refused_run_brings_back_what_a_lost_one_has_left_out(host: Host) -> None:
    """Also without finetune_drain_serving, which the user has left out this time."""
    take_out(host)
    done = host.run(ROOT / "playbooks/finetune.yml", finetune_dataset="/nowhere")
    assert done.returncode != 0
    assert "Found finetune_dataset '/nowhere'" in said(done)
    assert not host.note.exists()


def test_a_refused_run_leaves_a_host_that_no_training_has_taken_out(host: Host) -> None:
    done = host.run(ROOT / "playbooks/finetune.yml", finetune_dataset="/nowhere", finetune_drain_serving=True)
    assert done.returncode != 0
    assert "changed=0" in done.stdout and fake_docker.asked(host.folder / "engine") == []


def test_what_would_override_the_rollout_is_refused(host: Host) -> None:
    """-e goes before what an imported playbook is given: the base would be rolled out in place of the result."""
    done = host.run(
        ROOT / "playbooks/finetune.yml",
        finetune_promote=True,
        model_revision="main",
        fastchat_model_path="/model/base",
    )
    assert done.returncode != 0
    assert "Found model_revision among the extra variables (-e)" in said(done)
    assert "Found fastchat_model_path /model/base together with finetune_promote" in said(done)


def test_check_mode_leaves_the_host_out(host: Host) -> None:
    take_out(host)
    done = host.run(ROOT / "playbooks/finetune.yml", "--check", finetune_dataset="/nowhere")
    assert "changed=0" in done.stdout
    assert host.note.is_file()
