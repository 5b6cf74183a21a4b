# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways of an image to a host, with a fake of docker: one real run for all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
DIGEST = f"edge@sha256:{'a' * 64}"
# name of a play: what the role fastchat, which hands its settings on, is told
PLAYS: dict[str, dict[str, Any]] = {
    "archive": {},
    "pull": {"fastchat_image_source": "pull", "fastchat_images": {"edge": DIGEST}},
    "there": {"fastchat_release": {"missing_images": []}},
}
DOCKER = """#!/bin/sh
echo "$*" >> "{folder}/$(cat {folder}/play)"
case "$1 $2" in
"image inspect") echo present ;;
"image save") echo an archive ;;
esac
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What docker was asked in each play; the hosts a and b are both this machine, and a builds."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "bin").mkdir()
    docker = folder / "bin" / "docker"
    docker.write_text(DOCKER.format(folder=folder))
    docker.chmod(0o755)
    plays = []
    for name, settings in PLAYS.items():
        variables = {
            "fastchat_release": {"missing_images": ["x"]},
            "fastchat_device": "cpu",
            "fastchat_cache_dir": str(folder / "cache"),
            "fastchat_project_dir": str(folder / "project"),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            **settings,
        }
        note = {
            "name": "Note",
            "ansible.builtin.copy": {"dest": f"{folder}/play", "content": name},
            "run_once": True,
        }
        image = {"name": "vicuna.fleet.fastchat", "tasks_from": "image.yml", "rolespec_validate": False}
        task = {"name": "Image", "ansible.builtin.import_role": image, "tags": ["fastchat"]}
        plays.append({"name": name, "hosts": "all", "gather_facts": False, "vars": variables, "tasks": [note, task]})
        note["tags"] = ["always"]
    (folder / "play.yml").write_text(json.dumps(plays))
    done = subprocess.run(
        # With the tag of the role that includes it.
        [
            *(str(Path(sys.executable).with_name("ansible-playbook")), "-i", "a,b,", "--tags", "fastchat"),
            str(folder / "play.yml"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    paths = {name: folder / name for name in PLAYS}
    return {name: path.read_text().splitlines() if path.is_file() else [] for name, path in paths.items()}


def test_one_host_saves_and_the_other_loads(asked: dict[str, list[str]]) -> None:
    verbs = [line.split()[:2] for line in asked["archive"]]
    assert verbs[:3] == [["image", "inspect"], ["image", "save"], ["image", "load"]]
    assert verbs[3:] == [["image", "inspect"]] * 2  # each host proves that they are there
    names = asked["archive"][1].split()[2:]
    assert [name.split(":")[0] for name in names] == [
        f"vicuna-fleet/fastchat-{part}" for part in ("edge", "api", "worker")
    ]
    assert "/var/tmp/fastchat-edge-0.2.36-cpu-" in asked["archive"][2]


def test_both_pull(asked: dict[str, list[str]]) -> None:
    assert asked["pull"][:2] == [f"pull --quiet {DIGEST}"] * 2


def test_what_is_there_costs_no_question(asked: dict[str, list[str]]) -> None:
    assert asked["there"] == []
