# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.modules import git_lfs, model_publish

Run = Callable[..., dict[str, Any]]
FILES = {
    "config.json": b'{"model_type": "llama"}\n',
    "tokenizer.model": b"pieces" * 100,
    "model.safetensors": bytes(range(256)) * 4000,
    "README.md": b"# A model\n",
}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "result"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, (1_800_000_000, 1_800_000_000))
    return folder


@pytest.fixture
def run(src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(module: Any = model_publish, **arguments: Any) -> dict[str, Any]:
        args = {"src": str(src)} if module is model_publish else {}
        with patch_module_args({**args, "_ansible_remote_tmp": str(tmp_path), **arguments}), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def git(repository: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(repository), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_directory_of_hard_links(run: Run, src: Path, tmp_path: Path) -> None:
    target = tmp_path / "model" / "vicuna@run-1"
    assert run(path=str(target), _ansible_check_mode=True)["changed"] and not target.exists()
    assert run(path=str(target))["changed"]
    assert {path.name: path.read_bytes() for path in target.iterdir()} == FILES
    assert target.stat().st_mode & 0o777 == 0o755
    weights = target / "model.safetensors"
    assert weights.stat().st_ino == (src / "model.safetensors").stat().st_ino
    assert not run(path=str(target))["changed"]
    assert not run(path=str(target), _ansible_check_mode=True)["changed"]
    (src / "README.md").write_bytes(b"# Another\n")
    assert run(path=str(target))["changed"]
    assert (target / "README.md").read_bytes() == b"# Another\n"
    assert sorted(path.name for path in target.parent.iterdir()) == ["vicuna@run-1"]


def test_a_directory_becomes_a_repository_that_a_host_can_fetch(run: Run, tmp_path: Path) -> None:
    repo = tmp_path / "repositories" / "vicuna-support"
    assert run(repo=str(repo), _ansible_check_mode=True)["changed"] and not repo.exists()
    first = run(repo=str(repo), message="Fine-tune: run 1")
    assert first["changed"]
    assert git(repo, "log", "-1", "--format=%H %s %at", "main") == f"{first['commit']} Fine-tune: run 1 1800000000"
    assert "oid sha256:" in git(repo, "show", "main:model.safetensors")
    for check_mode in (True, False):
        again = run(repo=str(repo), _ansible_check_mode=check_mode)
        assert (again["changed"], again["commit"]) == (False, first["commit"])
    # As the role model fetches it.
    fetched = run(
        git_lfs, repo=str(repo), revision=first["commit"], dest=str(tmp_path / "model" / "v"), side_by_side=True
    )
    assert not fetched.get("failed"), fetched
    place = Path(fetched["path"])
    assert place.name == f"v@{first['commit'][:12]}"
    assert {name: (place / name).read_bytes() for name in FILES} == FILES


def test_a_second_training_stands_on_the_first(run: Run, src: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repository"
    first = run(repo=str(repo))["commit"]
    (src / "model.safetensors").write_bytes(b"new weights")
    second = run(repo=str(repo))["commit"]
    assert git(repo, "rev-parse", f"{second}^") == first


def test_it_pushes(run: Run, tmp_path: Path) -> None:
    """A file:// address goes the way of every remote one: git-lfs has a transfer for it."""
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(remote)], check=True)
    assert run(repo=f"file://{remote}", _ansible_check_mode=True)["changed"]
    assert git(remote, "for-each-ref") == "" and not (tmp_path / "run" / "result.git").exists()
    first = run(repo=f"file://{remote}", branch="main")
    assert not first.get("failed"), first
    assert git(remote, "rev-parse", "main") == first["commit"]
    oid = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert (remote / "lfs" / "objects" / oid[:2] / oid[2:4] / oid).read_bytes() == FILES["model.safetensors"]
    for check_mode in (True, False):
        again = run(repo=f"file://{remote}", _ansible_check_mode=check_mode)
        assert (again["changed"], again["commit"]) == (False, first["commit"])
    assert not (tmp_path / "run" / "result.git" / "lfs").exists()


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"digests": {"config.json": "0" * 64}, "path": "/nowhere"}, "damaged"),
    ({"digests": {"gone.bin": "0" * 64}, "path": "/nowhere"}, "damaged"),
    ({"src": "/nowhere"}, "no_source"),
    ({"repo": "https://me:secret@hub.test/x/y"}, "url_with_credentials"),
    ({"repo": "file:///nowhere/at/all"}, "repository_not_found"),
]


@pytest.mark.parametrize(("arguments", "cause"), REFUSALS)
def test_refusals(run: Run, arguments: dict[str, Any], cause: str) -> None:
    found = run(**arguments)
    assert found["failed"] and found["cause"] == cause
    assert "secret" not in json.dumps(found.get("msg"))


def test_a_remedy_names_the_callers_variable(run: Run) -> None:
    found = run(repo="http://no-such-host.invalid/a/b", variables={"repo": "finetune_push_repo"})
    assert (found["failed"], found["cause"]) == (True, "dns")
    assert "check the host name in finetune_push_repo" in found["msg"]
    assert "model_" not in found["msg"]


def test_a_directory_of_somebody_else_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("x")
    assert run(repo=str(tmp_path / "mine"))["cause"] == "foreign_directory"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter"]


def test_the_right_digests_pass(run: Run, tmp_path: Path) -> None:
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    assert run(digests=digests, path=str(tmp_path / "there"))["changed"]
