# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that the control node answers in its own process: in real runs, told apart by who answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._model_info import Cache, File, Listing
from ansible_collections.vicuna.fleet.plugins.module_utils._serving_plan import serving_plan

ROOT = Path(__file__).resolve().parents[4]
COMMIT = "1234567890abcdef1234567890abcdef12345678"
REPO = "http://127.0.0.1:1/lmsys/vicuna"
PLAN = serving_plan({"model_error": "Found none. Expected one. Mend it."}, {"device": "cpu"})
Run = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs one task on the control node; returns what it registered, and what the run said.

    A module runs by an interpreter that leaves a mark: who answers in Ansible's own process leaves none.
    """
    mark = tmp_path / "module-ran"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ntouch {mark}\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)

    def call(module: str, **arguments: Any) -> tuple[dict[str, Any], str]:
        mark.unlink(missing_ok=True)
        task = {module: arguments, "register": "done", "failed_when": False, "delegate_to": "localhost"}
        # copy is a module, too: the mark is looked at by the task between the two.
        look = {"ansible.builtin.set_fact": {"ran": f"{{{{ '{mark}' is file }}}}"}}
        content = "{{ {'done': done, 'ran': ran} | to_json }}"
        keep = {"ansible.builtin.copy": {"content": content, "dest": str(tmp_path / "done.json")}}
        play = {"hosts": "localhost", "gather_facts": False, "tasks": [task, look, keep]}
        (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
        variables = {"ansible_connection": "local", "ansible_python_interpreter": str(python)}
        (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"localhost": variables}}}), encoding="utf-8")
        playbook = Path(sys.executable).with_name("ansible-playbook")
        done = subprocess.run(
            [str(playbook), "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml")],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads((tmp_path / "done.json").read_text(encoding="utf-8"))
        return {**found["done"], "ran": found["ran"]}, done.stdout + done.stderr

    return call


def keep(folder: Path) -> None:
    cache = Cache(folder, 1)
    path = cache.path(REPO, COMMIT)
    assert path is not None
    path.parent.mkdir(parents=True)
    files = [File("config.json", "", 20), File("model.safetensors", "ab" * 32, 4096)]
    cache.write(path, Listing(COMMIT, files, {"config.json": '{"model_type": "llama"}'}))


def test_what_is_kept_of_a_commit_is_answered_here(run: Run, tmp_path: Path) -> None:
    keep(tmp_path / "cache")
    done, _said = run("vicuna.fleet.model_info", repo=REPO, revision=COMMIT, cache_dir=str(tmp_path / "cache"))
    assert (done["ran"], done["cached"], done["failed"]) == (False, True, False)
    assert (done["model"]["commit"], done["model"]["weights_bytes"]) == (COMMIT, 4096)


def test_a_commit_that_is_new_is_looked_up_by_the_module(run: Run, tmp_path: Path) -> None:
    done, _said = run("vicuna.fleet.model_info", repo=REPO, revision=COMMIT, cache_dir=str(tmp_path / "cache"))
    assert (done["ran"], done["cause"]) == (True, "connection")


def test_a_wrong_option_is_named_by_the_module(run: Run) -> None:
    done, _said = run("vicuna.fleet.model_info", repo=REPO, revision=COMMIT, nonsense=1)
    assert done["ran"] is True
    assert "nonsense" in done["msg"]


def test_the_report_is_written_and_shown_here(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done, said = run("vicuna.fleet.serving_plan_report", plans={"gpu-1": PLAN}, path=str(path), warn=True, show=True)
    assert (done["ran"], done["ok"]) == (False, False)
    assert done["msg"].splitlines()[0].startswith("HOST")
    assert "VERDICT" in said
    assert "[WARNING]: gpu-1 does not fit: Found none." in said
    assert json.loads(path.read_text(encoding="utf-8"))["hosts"]["gpu-1"] == PLAN


def test_a_report_is_quiet_where_nobody_asked(run: Run) -> None:
    done, said = run("vicuna.fleet.serving_plan_report", plans={"gpu-1": PLAN})
    assert "VERDICT" not in said
    assert done["table"][0].startswith("HOST")


def test_a_report_that_cannot_be_written_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done, _said = run("vicuna.fleet.serving_plan_report", plans={}, path=str(tmp_path / "file" / "x.json"))
    assert "preflight_report" in done["msg"]
