# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model from the host's own disks: a directory, an archive, a bundle, with the real git."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._git_lfs import Clone, Outcome, Request
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_archive import Archive
from ansible_collections.vicuna.fleet.plugins.module_utils._model_info import look

from ..fake_hub import FakeHub
from .test_git_lfs import FILES, FIRST, NAME, SECOND, cause, flip, git_status, oid, tree

Run = Callable[..., Outcome]
WEIGHTS = sum(len(content) for name, content in FILES.items() if name.endswith((".safetensors", ".model")))


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "model" / "vicuna-test"


@pytest.fixture
def clone(dest: Path) -> Run:
    def run(repo: Path | str, revision: str = "main", *, check_mode: bool = False, **more: Any) -> Outcome:
        os.umask(0o022)
        request = Request(repo=str(repo), revision=revision, **{"dest": dest, "timeout": 20, **more})
        return Clone(request, check_mode=check_mode).converge()

    return run


@pytest.fixture
def commit(hub: FakeHub) -> str:
    first = hub.commit(NAME, FILES)
    hub.commit(NAME, {**FILES, "config.json": b"{}"}, branch="next")
    return first


@pytest.fixture
def source(hub: FakeHub, commit: str, tmp_path: Path) -> Path:
    """A clone that somebody made with git and git-lfs."""
    path = tmp_path / "usb" / "vicuna source"
    path.parent.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(path.parent.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "lfs", "install", "--skip-repo"], env=env, check=True, capture_output=True)
    subprocess.run(["git", "clone", "--quiet", f"{hub.url}/{NAME}.git", str(path)], env=env, check=True)
    hub.close()
    return path


def pack(source: Path, *arguments: str, name: str = "model.tar") -> Path:
    target = source.parent / name
    subprocess.run(["tar", "-C", str(source.parent), *arguments, "-f", str(target), source.name], check=True)
    return target


def test_a_clone_in_a_directory(dest: Path, commit: str, source: Path, clone: Run) -> None:
    assert clone(source, check_mode=True).changed
    outcome = clone(source)
    assert (outcome.revision, outcome.downloaded_bytes, tree(dest)) == (commit, WEIGHTS, FILES)
    assert git_status(dest) == ""
    assert not clone(source).changed
    assert (source / "model-1.safetensors").stat().st_ino != (dest / "model-1.safetensors").stat().st_ino
    assert clone(source, verify="full").verified == len(FILES)


@pytest.mark.parametrize("kept", ["store", "work tree", "address"])
def test_where_a_directory_has_its_objects(dest: Path, commit: str, source: Path, clone: Run, kept: str) -> None:
    if kept == "work tree":
        shutil.rmtree(source / ".git/lfs")
    elif kept == "store":
        for name in ("model-1.safetensors", "model-2.safetensors", "tokenizer.model"):
            (source / name).unlink()
        (source / ".git/lfs").rename(source.parent / "objects here")
        command = ["git", "-C", str(source), "config", "lfs.storage", str(source.parent / "objects here")]
        subprocess.run(command, check=True)
    else:
        clone(Path(source.as_uri()) if False else source.as_uri(), commit)  # type: ignore[arg-type]
    clone(source.as_uri() if kept == "address" else source, commit)
    assert tree(dest) == FILES


def test_a_bare_directory(dest: Path, commit: str, source: Path, clone: Run) -> None:
    bare = source.parent / "bare.git"
    shutil.copytree(source / ".git", bare)
    subprocess.run(["git", "-C", str(bare), "config", "core.bare", "true"], check=True)
    clone(bare, commit)
    assert tree(dest) == FILES


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_an_archive(dest: Path, commit: str, source: Path, clone: Run, kind: str) -> None:
    if kind == "tar.zst" and not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    archive = pack(source, "-ac", name=f"model.{kind}")
    shutil.rmtree(source)
    assert clone(archive, check_mode=True).changed
    outcome = clone(archive)
    assert (outcome.revision, outcome.downloaded_bytes, tree(dest)) == (commit, WEIGHTS, FILES)
    assert git_status(dest) == ""
    assert not clone(archive).changed
    assert not list(dest.glob(".git/lfs/vicuna-fleet/parts/*"))
    assert clone(archive, "next").downloaded_bytes == 0
    assert (dest / "config.json").read_bytes() == b"{}"


def test_an_archive_of_a_directory_that_this_module_made(
    dest: Path, commit: str, source: Path, clone: Run, tmp_path: Path
) -> None:
    clone(source, commit)  # the work tree's files are hard links to the objects: one of both is a link in the archive
    for number, order in enumerate((["."], [".git", "."], ["model-1.safetensors", "."])):
        archive = tmp_path / f"{number}.tar"
        subprocess.run(["tar", "-C", str(dest), "-cf", str(archive), *order], check=True)
        other = tmp_path / f"other-{number}"
        clone(archive, commit, dest=other)
        assert tree(other) == FILES
    # The content stands where the archive meets the file first, under whatever name.
    (dest / "model-1.safetensors").rename(dest / "a-file-of-my-own")
    subprocess.run(["tar", "-C", str(dest), "-cf", str(archive), "a-file-of-my-own", "."], check=True)
    clone(archive, commit, dest=tmp_path / "last")
    assert tree(tmp_path / "last") == FILES


def test_a_bare_archive(dest: Path, commit: str, source: Path, clone: Run) -> None:
    (source / ".git").rename(source.parent / "bare.git")
    archive = pack(source.parent / "bare.git", "-c")
    clone(archive, commit, side_by_side=True)
    assert tree(dest) == FILES


def test_a_bundle_has_no_large_files(dest: Path, commit: str, source: Path, clone: Run) -> None:
    bundle = source.parent / "model.bundle"
    subprocess.run(["git", "-C", str(source), "bundle", "create", "-q", str(bundle), "--all"], check=True)
    assert cause(clone, bundle) == "lfs_object_missing"
    assert clone(bundle, exclude=("*.safetensors", "*.model")).changed
    assert (dest / "config.json").read_bytes() == FILES["config.json"]


def test_only_the_wanted_objects_are_taken(dest: Path, commit: str, source: Path, clone: Run) -> None:
    clone(pack(source, "-c"), commit, exclude=("model-1.*",))
    stored = {path.name for path in dest.glob(".git/lfs/objects/??/??/*")}
    assert stored == {oid(SECOND), oid(FILES["tokenizer.model"])}


def test_a_damaged_object_has_a_second_chance(dest: Path, commit: str, source: Path, clone: Run) -> None:
    flip(source / ".git/lfs/objects" / oid(FIRST)[:2] / oid(FIRST)[2:4] / oid(FIRST))
    for repo in (source, pack(source, "-c")):
        clone(repo, commit, dest=dest / repo.suffix.lstrip(".") if repo.suffix else dest.with_name("from-directory"))
    flip(source / "model-1.safetensors")
    for repo in (source, pack(source, "-c")):
        other = dest.with_name("damaged")
        assert cause(clone, repo, commit, dest=other) == "lfs_object_missing"
        assert tree(other) == {}
        assert not [path for path in other.rglob(f"*{oid(FIRST)}*") if path.is_file()]


def test_what_is_no_repository(tmp_path: Path, dest: Path, clone: Run) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "model.safetensors").write_bytes(FIRST)
    garbage = tmp_path / "garbage.tar.gz"
    garbage.write_bytes(b"\x1f\x8b\x08" + FIRST)
    for repo in (plain, pack(plain, "-c"), garbage, plain / "model.safetensors"):
        for check_mode in (True, False):
            assert cause(clone, repo, check_mode=check_mode) == "not_a_repository"
    assert not dest.exists()
    assert cause(clone, tmp_path / "nothing.tar") == "repository_not_found"


def test_a_truncated_archive(dest: Path, commit: str, source: Path, clone: Run) -> None:
    for kind in ("tar", "tar.gz", "tar.xz"):
        archive = pack(source, "-ac", name=f"model.{kind}")
        os.truncate(archive, archive.stat().st_size // 2)
        assert cause(clone, archive, commit) in ("not_a_repository", "lfs_object_missing", "damaged_repository")
        assert tree(dest) == {}


def test_zstd_is_named_where_it_is_missing(
    tmp_path: Path, source: Path, clone: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "model.tar.zst"
    archive.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(99))
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("git", "git-lfs"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(tools))
    assert cause(clone, archive) == "zstd_missing"


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "x/../../evil", "x/.git/../../evil"])
def test_members_that_reach_outside(tmp_path: Path, dest: Path, clone: Run, name: str) -> None:
    for link in ("", name):
        with tarfile.open(tmp_path / "evil.tar", "w") as archive:
            member = tarfile.TarInfo("fine" if link else name)
            if link:
                member.type, member.linkname = tarfile.LNKTYPE, link
            archive.addfile(member, io.BytesIO(b""))
        assert cause(clone, tmp_path / "evil.tar") == "unsafe_path"
    assert not dest.exists()


def test_an_archives_config_and_hooks_have_no_say(
    tmp_path: Path, dest: Path, commit: str, source: Path, clone: Run
) -> None:
    mark = tmp_path / "owned"
    (source / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-update", "pre-receive", "reference-transaction"):
        (source / ".git/hooks" / hook).write_text(f"#!/bin/sh\ntouch '{mark}'\n")
        (source / ".git/hooks" / hook).chmod(0o755)
    with (source / ".git/config").open("a") as file:
        file.write(f"[uploadpack]\n\tpackObjectsHook = touch '{mark}'\n[core]\n\tfsmonitor = touch '{mark}'\n")
    alternates = source / ".git/objects/info/alternates"
    alternates.parent.mkdir(exist_ok=True)
    alternates.write_text(f"{tmp_path}\n")
    archive = pack(source, "-c")
    unpacked = Archive(archive, tmp_path / "scratch", os.environ, zstd=False)
    files = {path.name for path in Path(unpacked.address).rglob("*")}
    assert not files & {"alternates", "hooks", "lfs", "index", "logs"}
    clone(archive, commit)
    assert tree(dest) == FILES
    assert not mark.exists()


def test_the_plan_reads_an_archive_too(commit: str, source: Path) -> None:
    found, _cached = look(repo=str(pack(source, "-c")), revision="main")
    assert found.commit == commit
    assert {file.path: file.size for file in found.files} == {name: len(content) for name, content in FILES.items()}


def test_an_archive_of_a_sha256_repository(tmp_path: Path, dest: Path, clone: Run) -> None:
    source = tmp_path / "new format"
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    for command in (
        ["git", "init", "--quiet", "--object-format=sha256", "-b", "main", str(source)],
        ["git", "-C", str(source), "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(
            [*command[:1], "-c", "user.name=T", "-c", "user.email=t@example.invalid", *command[1:]], env=env, check=True
        )
    (source / "config.json").write_text("{}")
    subprocess.run(["git", "-C", str(source), "add", "."], env=env, check=True)
    subprocess.run(
        ["git", "-C", str(source), "-c", "user.name=T", "-c", "user.email=t@example.invalid", "commit", "-qm", "x"],
        env=env,
        check=True,
    )
    for repo in (source, pack(source, "-c")):
        target = dest.with_name(repo.name.replace(" ", "-"))
        outcome = clone(repo, dest=target)
        assert len(outcome.revision) == 64
        assert tree(target) == {"config.json": b"{}"}
        assert git_status(target) == ""
        assert not clone(repo, outcome.revision, dest=target).changed
