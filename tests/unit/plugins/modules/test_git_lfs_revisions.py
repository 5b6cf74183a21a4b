# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Revisions side by side, a store that they share, and edits of a person, with the real git and git-lfs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _git_lfs, _model_revisions
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError
from ansible_collections.vicuna.fleet.plugins.module_utils._git_lfs import Clone, Outcome, Request

from ..fake_hub import IN_LFS, FakeHub, pointer
from .test_git_lfs import FILES, FIRST, NAME, SECOND, cause, flip, git_status, oid, run_module, tree

NEW = {**FILES, "model-1.safetensors": b"new" * 9000, "config.json": b'{"model_type": "llama", "new": 1}\n'}
Run = Callable[..., Outcome]


@pytest.fixture
def link(tmp_path: Path) -> Path:
    return tmp_path / "model" / "vicuna-test"


@pytest.fixture
def store(link: Path) -> Path:
    return link.parent / ".lfs"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker that knows no containers, before the one that may be on this machine."""
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


@pytest.fixture
def clone(hub: FakeHub, link: Path, docker: Path) -> Run:
    def run(
        revision: str = "main", *, check_mode: bool = False, env: dict[str, str] | None = None, **more: Any
    ) -> Outcome:
        settings = {"repo": f"{hub.url}/{NAME}", "dest": link, "timeout": 20, "side_by_side": True, **more}
        os.umask(0o022)
        return Clone(Request(revision=revision, **settings), check_mode=check_mode, base_env=env).converge()

    return run


@pytest.fixture
def by_hand(hub: FakeHub, tmp_path: Path) -> Callable[..., None]:
    """git clone as a person types it, with or without git-lfs."""

    def make(dest: Path, commit: str, *, lfs: bool = True) -> None:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
        if lfs:
            subprocess.run(["git", "lfs", "install", "--skip-repo"], env=env, check=True, capture_output=True)
        subprocess.run(["git", "clone", "--quiet", f"{hub.url}/{NAME}.git", str(dest)], env=env, check=True)
        subprocess.run(["git", "-C", str(dest), "checkout", "-q", commit], env=env, check=True)

    return make


def place(link: Path, commit: str) -> Path:
    return link.with_name(f"{link.name}@{commit[:12]}")


def beside(link: Path) -> list[str]:
    return sorted(path.name for path in link.parent.iterdir() if path.name != ".lfs")


# --- side by side


def test_two_revisions_share_their_objects(hub: FakeHub, link: Path, store: Path, clone: Run) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    outcome = clone(first)
    assert (outcome.changed, outcome.before, outcome.path) == (True, "", str(place(link, first)))
    assert str(link.readlink()) == place(link, first).name, "relative, so that it holds below another mount point too"
    outcome = clone(second)
    assert (outcome.before, outcome.revision, outcome.downloaded_bytes) == (first, second, 27000)
    assert (tree(place(link, first)), tree(place(link, second))) == (FILES, NEW)
    assert tree(link) == NEW
    assert (link / "model-2.safetensors").stat().st_nlink == 3
    assert not (link / ".git/lfs/objects").exists()
    for commit in (first, second):
        assert git_status(place(link, commit)) == ""
    used = sum(path.stat().st_size for path in (store / "objects").rglob("*") if path.is_file())
    assert used == sum(map(len, (FIRST, SECOND, FILES["tokenizer.model"]))) + 27000


def test_a_further_link_of_an_object_is_no_change(hub: FakeHub, link: Path, clone: Run) -> None:
    """The kernel's change time of an object is new with every link to it, in whichever directory."""
    first = hub.commit(NAME, FILES)
    clone(first)
    time.sleep(1.1)  # git compares seconds
    os.link(link / "model-1.safetensors", link.parent / "elsewhere")
    assert git_status(place(link, first)) == ""
    assert clone(first).verified == 0


def test_going_back_reads_nothing_and_asks_nobody(
    hub: FakeHub, link: Path, clone: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    clone(second)
    hub.requests.clear()
    monkeypatch.setattr(_git_lfs, "content_is", None)
    for commit, before in ((first, second), (second, first)):
        outcome = clone(commit, env={"PATH": "/nonexistent"}, check_mode=True)
        assert (outcome.changed, outcome.before, str(link.readlink())) == (True, before, place(link, before).name)
        outcome = clone(commit, env={"PATH": "/nonexistent"})
        assert (outcome.changed, outcome.before, outcome.revision) == (True, before, commit)
        assert (outcome.verified, outcome.downloaded_bytes, hub.requests) == (0, 0, [])
        assert str(link.readlink()) == place(link, commit).name
        assert not clone(commit, env={"PATH": "/nonexistent"}).changed


def test_a_branch_side_by_side(hub: FakeHub, link: Path, clone: Run) -> None:
    first = hub.commit(NAME, FILES)
    assert clone("main", check_mode=True).changed
    assert not link.parent.exists()
    assert clone("main").revision == first
    assert not clone("main").changed
    second = hub.commit(NAME, NEW)
    outcome = clone("main", check_mode=True)
    assert (outcome.changed, outcome.before, outcome.revision) == (True, first, second)
    assert clone("main").path == str(place(link, second))


def test_the_link_is_switched_last(hub: FakeHub, link: Path, clone: Run) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    hub.damaged.add(oid(NEW["model-1.safetensors"]))
    assert cause(clone, second) == "damaged_transfer"
    assert tree(link) == FILES
    hub.damaged.clear()
    outcome = clone(second, fetch=False)
    assert (outcome.changed, outcome.missing_bytes, outcome.before) == (False, 27000, first)
    assert tree(link) == FILES
    assert clone(second).changed
    assert tree(link) == NEW


def test_the_oldest_are_removed(hub: FakeHub, link: Path, store: Path, clone: Run) -> None:
    files = [{**FILES, "model-1.safetensors": name * 900} for name in (b"one", b"two", b"six", b"ten")]
    commits = [hub.commit(NAME, content) for content in files]
    for commit in commits[:3]:
        clone(commit, keep=3)
    clone(commits[0], keep=3)  # used last but one
    outcome = clone(commits[3], keep=2)
    assert outcome.removed == [str(place(link, commits[1])), str(place(link, commits[2]))][::-1]
    assert beside(link) == sorted([link.name, place(link, commits[0]).name, place(link, commits[3]).name])
    stored = {path.name for path in (store / "objects").rglob("*") if path.is_file()}
    shared = {oid(SECOND), oid(FILES["tokenizer.model"])}
    assert stored == shared | {oid(b"one" * 900), oid(b"ten" * 900)}
    assert {path.stem for path in (store / "vicuna-fleet/stamps").iterdir()} == stored
    assert clone(commits[3], keep=1).removed == [str(place(link, commits[0]))]
    assert not clone(commits[3], keep=1).changed


def test_a_store_with_another_models_objects(hub: FakeHub, link: Path, store: Path, clone: Run) -> None:
    other = hub.commit("org/other", {"a.bin": FIRST, "b.bin": b"b" * 999})
    elsewhere = link.with_name("other")
    clone(other, repo=f"{hub.url}/org/other", dest=elsewhere)
    (elsewhere / "b.bin").unlink()  # as if a run had fetched it and was killed before it linked it
    hub.served.clear()
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first, keep=1)
    assert oid(FIRST) not in hub.served, "it was there from the other model"
    clone(second, keep=1)
    assert beside(link) == sorted([link.name, place(link, second).name, "other", place(elsewhere, other).name])
    stored = {path.name for path in store.glob("objects/??/??/*")}
    assert {oid(FIRST), oid(b"b" * 999)} <= stored, "the one has a link, the other was never this model's"
    assert (elsewhere / "a.bin").read_bytes() == FIRST


def test_one_that_a_person_keeps_files_in_stays(hub: FakeHub, link: Path, clone: Run) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    (link / "notes.txt").write_text("mine")
    outcome = clone(second, keep=1)
    assert outcome.removed == []
    assert "notes.txt" in outcome.warnings[0]
    (place(link, first) / "notes.txt").unlink()
    (place(link, first) / "config.json").write_text("mine")
    assert clone(second, keep=1).removed == []
    (place(link, first) / "config.json").unlink()
    assert clone(second, keep=1).removed == [str(place(link, first))]


def test_one_that_a_container_mounts_stays(hub: FakeHub, link: Path, clone: Run) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    inside = link.parent.parent / "inside"
    inside.mkdir()
    script = f"mount --bind '{link}' '{inside}' && echo mounted && exec sleep 60"
    container = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert container.stdout and container.stderr
    try:
        if container.stdout.readline() != "mounted\n":
            pytest.skip(f"no mount namespaces here: {container.stderr.read()}")
        outcome = clone(second, keep=1)
        assert outcome.removed == []
        assert str(inside) in outcome.warnings[0]
        assert tree(place(link, first)) == FILES
    finally:
        container.kill()
        container.communicate()
    assert clone(second, keep=1).removed == [str(place(link, first))]


def test_one_that_a_stopped_container_would_mount_stays(
    hub: FakeHub, link: Path, tmp_path: Path, docker: Path, clone: Run
) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)

    def answer(*sources: str) -> None:
        mounts = json.dumps({"Name": "/api", "Mounts": [{"Type": "bind", "Source": source} for source in sources]})
        docker.write_text(f"#!/bin/sh\ntest $1 = ps && echo abc && exit\ncat <<'X'\n{mounts}\nX\n")

    for source in (place(link, first), place(link, first) / "model-1.safetensors", link.parent):
        answer("/srv", str(source))
        outcome = clone(second, keep=1)
        assert outcome.removed == []
        assert "container api" in outcome.warnings[0]
    docker.write_text("#!/bin/sh\nexit 1\n")
    assert "docker did not say" in clone(second, keep=1).warnings[0]
    answer("/", str(tmp_path))
    assert clone(second, keep=1).removed == [str(place(link, first))], "the whole host is no model"


def test_an_unfinished_revision_takes_nobodys_place(hub: FakeHub, link: Path, clone: Run) -> None:
    commits = [hub.commit(NAME, {**FILES, "model-1.safetensors": name * 900}) for name in (b"one", b"two", b"six")]
    clone(commits[0])
    hub.damaged.add(oid(b"two" * 900))
    cause(clone, commits[1])
    assert place(link, commits[1]).is_dir()
    clone(commits[2])
    assert beside(link) == sorted([link.name, place(link, commits[0]).name, place(link, commits[2]).name])


def test_one_commit_from_another_address(hub: FakeHub, link: Path, tmp_path: Path, clone: Run) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first, repo=str(hub.root / NAME), include=("none",))
    for check_mode in (True, False):
        assert clone(first, check_mode=check_mode).changed
    assert tree(link) == FILES
    assert hub.url in (link / ".git/config").read_text()
    assert not clone(first).changed
    clone(second, keep=1)
    assert beside(link) == sorted([link.name, place(link, second).name])


def test_a_removal_that_was_cut_off_is_finished(hub: FakeHub, link: Path, clone: Run) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    gone = link.with_name(f".{place(link, 'f' * 40).name}.gone")
    gone.mkdir()
    (gone / "x").touch()
    clone(second)
    assert not gone.exists()


@pytest.mark.parametrize("adopted", [False, True])
def test_two_runs_at_once(hub: FakeHub, link: Path, tmp_path: Path, clone: Run, adopted: bool) -> None:
    commit = hub.commit(NAME, FILES)
    if adopted:
        clone(commit, side_by_side=False)
    arguments = {"repo": f"{hub.url}/{NAME}", "revision": commit, "dest": str(link), "side_by_side": True}
    runs = [run_module(arguments, tmp_path / str(number), wait=False) for number in (1, 2)]
    results = [json.loads(run.communicate(timeout=50)[0]) for run in runs]
    assert sorted(result["changed"] for result in results) == [False, True]
    assert {result["path"] for result in results} == {str(place(link, commit))}
    assert len(hub.served) == 3
    assert tree(link) == FILES


# --- what is at the link's place


def test_a_foreign_thing_is_refused(hub: FakeHub, link: Path, tmp_path: Path, clone: Run) -> None:
    commit = hub.commit(NAME, FILES)
    link.parent.mkdir()
    for make in (
        lambda: link.write_text("thesis"),
        lambda: link.symlink_to(tmp_path),
        lambda: (link.mkdir(), (link / "thesis.txt").write_text("years of work")),
    ):
        make()
        before = (link.lstat().st_ino, link.lstat().st_mtime_ns)
        for check_mode in (True, False):
            assert cause(clone, commit, check_mode=check_mode) == "foreign_directory"
        assert (link.lstat().st_ino, link.lstat().st_mtime_ns) == before
        assert beside(link) == [link.name]
        shutil.rmtree(link) if link.is_dir() and not link.is_symlink() else link.unlink()


def test_another_repositorys_clone_is_refused(hub: FakeHub, link: Path, clone: Run) -> None:
    commit = hub.commit(NAME, FILES)
    other = hub.commit("org/other", {"config.json": b"other"})
    clone(other, repo=f"{hub.url}/org/other", side_by_side=False)
    assert cause(clone, commit) == "other_repository"
    assert tree(link) == {"config.json": b"other"}


@pytest.mark.parametrize("known", ["by hand", "by an earlier run"])
@pytest.mark.parametrize("wanted", ["the same", "another"])
def test_a_directory_is_adopted(
    hub: FakeHub, link: Path, store: Path, clone: Run, by_hand: Callable[..., None], known: str, wanted: str
) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    if known == "by hand":
        by_hand(link, first)
    else:
        clone(first, side_by_side=False)
    (link / "notes.txt").write_text("mine")
    inode = link.stat().st_ino
    held = os.open(link, os.O_RDONLY)  # as a container with a bind mount holds it
    hub.served.clear()
    commit = first if wanted == "the same" else second
    preview = clone(commit, check_mode=True)
    assert (preview.changed, preview.before) == (True, first)
    assert not link.is_symlink()
    outcome = clone(commit)
    assert (outcome.changed, outcome.before, outcome.revision) == (True, first, commit)
    # git clone has fetched the newest revision's objects too, before the older one was checked out.
    fetched = wanted == "another" and known == "by an earlier run"
    assert hub.served == ([oid(NEW["model-1.safetensors"])] if fetched else [])
    assert place(link, first).stat().st_ino == inode
    assert os.listdir(held)  # noqa: PTH208 - of the descriptor
    os.close(held)
    assert tree(place(link, first)) == {**FILES, "notes.txt": b"mine"}
    assert str(link.readlink()) == place(link, commit).name
    assert git_status(place(link, first)) == "?? notes.txt\n"
    assert not (place(link, first) / ".git/lfs/objects").exists()
    links = {path.name: path.stat().st_nlink for path in store.glob("objects/??/??/*")}
    assert all(links[oid(content)] >= 2 for content in (FIRST, SECOND))
    hub.requests.clear()
    assert clone(first).revision == first
    assert hub.requests == []


def test_a_clone_without_git_lfs_is_adopted(hub: FakeHub, link: Path, clone: Run, by_hand: Callable[..., None]) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    by_hand(link, first, lfs=False)
    (link / "config.json").write_bytes(b"")
    (link / "tokenizer.model").unlink()
    assert (link / "model-1.safetensors").read_bytes() == pointer(FIRST)
    clone(second)
    assert tree(link) == NEW
    clone(first)
    assert tree(link) == FILES
    assert git_status(place(link, first)) == ""


def test_an_edited_clone_is_not_adopted(hub: FakeHub, link: Path, clone: Run, by_hand: Callable[..., None]) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    by_hand(link, first)
    (link / "config.json").write_text("mine")
    (link / "model-1.safetensors").write_text("mine too")
    for commit in (first, second):
        for check_mode in (True, False):
            with pytest.raises(GitLfsError, match=r": config\.json\.") as caught:
                clone(commit, check_mode=check_mode)
            assert caught.value.problem.cause == "local_edits"
    assert beside(link) == [link.name]
    assert not link.is_symlink()
    outcome = clone(first, force=True)
    assert outcome.repaired == ["config.json", "model-1.safetensors"]
    assert [Path(path).read_text() for path in outcome.kept] == ["mine too"]
    assert tree(link) == FILES


def test_adoption_without_an_atomic_exchange(
    hub: FakeHub, link: Path, clone: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(_one: Path, _other: Path) -> None:
        raise OSError(errno.EINVAL, "no RENAME_EXCHANGE")

    monkeypatch.setattr(_model_revisions, "_rename_exchange", unsupported)
    commit = hub.commit(NAME, FILES)
    clone(commit, side_by_side=False)
    assert clone(commit).changed
    assert str(link.readlink()) == place(link, commit).name
    assert tree(link) == FILES


def test_adoption_after_a_killed_one(hub: FakeHub, link: Path, clone: Run) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit, side_by_side=False)
    place(link, commit).symlink_to(place(link, commit).name)  # killed before the exchange
    assert clone(commit).changed
    assert tree(link) == FILES


def test_a_link_is_not_converged_in_place(hub: FakeHub, link: Path, clone: Run) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    assert cause(clone, second, side_by_side=False) == "side_by_side"
    assert tree(link) == FILES


# --- the store


def test_a_store_elsewhere(hub: FakeHub, link: Path, tmp_path: Path, clone: Run) -> None:
    commit = hub.commit(NAME, FILES)
    place_ = tmp_path / "objects here"
    clone(commit, side_by_side=False, store=str(place_))
    assert (link / "model-1.safetensors").stat().st_nlink == 2
    assert not (link / ".git/lfs").exists()
    command = ["git", "-C", str(link), "lfs", "fsck", "--objects"]
    assert "OK" in subprocess.run(command, check=True, capture_output=True, text=True).stdout, "git-lfs knows the store"
    shutil.rmtree(link)
    hub.served.clear()
    assert clone(commit, side_by_side=False, store=str(place_)).downloaded_bytes == 0
    assert (tree(link), hub.served) == (FILES, [])


def test_moving_the_store(hub: FakeHub, link: Path, tmp_path: Path, clone: Run) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit, side_by_side=False)
    hub.served.clear()
    outcome = clone("main", side_by_side=False, store=str(tmp_path / "store"))
    assert (hub.served, outcome.verified) == ([], 0)
    assert not (link / ".git/lfs/objects").exists()
    assert (link / "model-1.safetensors").stat().st_nlink == 2
    assert not clone(commit, side_by_side=False, store=str(tmp_path / "store")).changed


def test_a_store_without_hard_links(hub: FakeHub, link: Path, clone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_more: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    assert tree(link) == FILES
    assert git_status(link) == ""
    outcome = clone(first)
    assert (outcome.changed, outcome.verified) == (False, 0)
    clone(second)
    assert (tree(link), clone(first).verified) == (NEW, 0)
    flip(link / "model-1.safetensors")
    assert clone(first, verify="full").repaired == ["model-1.safetensors"]
    assert tree(link) == FILES


def test_a_reboot(hub: FakeHub, link: Path, store: Path, clone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.commit(NAME, FILES)
    monkeypatch.setattr(_git_lfs, "settle_in_background", lambda _transfer: None)  # the power went before that
    clone(commit)
    for module in (_git_lfs, _git_lfs.Store.verified.__globals__):
        if isinstance(module, dict):
            monkeypatch.setitem(module, "boot_id", lambda: "another")
        else:
            monkeypatch.setattr(module, "boot_id", lambda: "another")
    outcome = clone(commit)
    assert (outcome.changed, outcome.verified) == (False, 3), "what was not synced is read again"
    for path in store.glob("vicuna-fleet/stamps/*"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "durable": True, "boot": "before"}))
    assert clone(commit).verified == 0


def test_rot_that_one_revision_has_found_is_not_served_by_another(
    hub: FakeHub, link: Path, store: Path, clone: Run
) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    clone(second)
    flip(link / "model-2.safetensors")
    outcome = clone(second, verify="full")
    assert outcome.repaired == ["model-2.safetensors"]
    assert any("quarantine" in text or "/bad/" in text for text in outcome.warnings)
    assert not list((store / "bad").iterdir()), "the good one is in place"
    assert tree(place(link, first)) == FILES, "it was put right there too, before anybody asks for it"
    outcome = clone(first)
    assert (outcome.repaired, outcome.downloaded_bytes, outcome.verified) == ([], 0, 0)
    assert git_status(place(link, first)) == git_status(place(link, second)) == ""


# --- edits, in one directory


@pytest.fixture
def single(clone: Run) -> Run:
    def run(*arguments: Any, **more: Any) -> Outcome:
        return clone(*arguments, side_by_side=False, **more)

    return run


def edit(path: Path) -> None:
    """What a person's editor does: a new file, of any size."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(b"#" + content[1:])


def test_edits_are_refused_and_named(hub: FakeHub, link: Path, single: Run) -> None:
    """Small text files; also one that is in LFS."""
    hub.in_lfs = (*IN_LFS, ".md")
    files = {**FILES, "NOTES.md": b"hello\n"}
    first, second = hub.commit(NAME, files), hub.commit(NAME, {**NEW, "NOTES.md": b"hello\n"})
    single(first)
    edit(link / "config.json")
    edit(link / "NOTES.md")
    mine = tree(link)
    hub.served.clear()
    for commit in (first, second):
        for more in ({}, {"verify": "full"}, {"check_mode": True}):
            with pytest.raises(GitLfsError, match=r": NOTES\.md, config\.json\.") as caught:
                single(commit, **more)
            assert caught.value.problem.cause == "local_edits"
            assert "model_force" in caught.value.problem.remedy
    assert (tree(link), hub.served) == (mine, [])
    outcome = single(first, force=True)
    assert (outcome.repaired, outcome.kept, tree(link)) == (["NOTES.md", "config.json"], [], files)
    assert not single(first).changed


def test_an_edit_in_place_spoils_the_object_too(hub: FakeHub, link: Path, single: Run) -> None:
    commit = hub.commit(NAME, FILES)
    single(commit)
    with (link / "model-1.safetensors").open("r+b") as file:
        file.write(b"mine")
    altered = (link / "model-1.safetensors").read_bytes()
    preview = single(commit, check_mode=True)
    assert (preview.changed, preview.repaired, preview.kept) == (True, ["model-1.safetensors"], [])
    hub.served.clear()
    outcome = single(commit)
    assert (outcome.repaired, hub.served, tree(link)) == (["model-1.safetensors"], [oid(FIRST)], FILES)
    assert [Path(path).read_bytes() for path in outcome.kept] == [altered]


# --- weights that were cut short or altered


def cut(path: Path) -> None:
    """In place, as a full disk or a careless program does it: every link of the file has it."""
    os.truncate(path, path.stat().st_size // 2)


def kept_in(store: Path) -> list[Path]:
    return sorted((store / "bad").iterdir()) if (store / "bad").exists() else []


@pytest.mark.parametrize("verify", ["changed", "full"])
def test_weights_that_were_cut_short(hub: FakeHub, link: Path, store: Path, clone: Run, verify: str) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    clone(second)
    name = "model-2.safetensors"
    shared = place(link, first) / name
    assert shared.stat().st_ino == (link / name).stat().st_ino
    month = time.time() - 30 * 86400
    os.utime(shared, (month, month))
    assert clone(second, verify=verify).repaired == []
    cut(link / name)
    hub.served.clear()
    before = time.time()
    outcome = clone(second, verify=verify)
    assert (outcome.changed, outcome.repaired, hub.served) == (True, [name], [oid(SECOND)])
    assert (tree(link), tree(place(link, first))) == (NEW, FILES), "no revision has the bad one now"
    (kept,) = kept_in(store)
    assert outcome.kept == [str(kept)]
    assert kept.name == f"{oid(SECOND)}.{name}"
    assert kept.read_bytes() == SECOND[: len(SECOND) // 2]
    assert kept.stat().st_nlink == 1, "no tree and no object shares it"
    assert any(str(kept) in text for text in outcome.warnings)
    assert (link / name).stat().st_mtime > before - 6, "what was started before is older than the file"
    assert not clone(second).changed
    assert clone(first).repaired == []
    assert git_status(place(link, first)) == git_status(place(link, second)) == ""


def test_weights_of_somebody_else_in_their_place(hub: FakeHub, link: Path, store: Path, clone: Run) -> None:
    """Another file, not another content: the object is good, and nothing has to be fetched."""
    commit = hub.commit(NAME, FILES)
    clone(commit)
    name = "model-1.safetensors"
    month = time.time() - 30 * 86400
    os.utime(link / name, (month, month))
    assert clone(commit).repaired == []
    for content in (b"first try", b"second try"):
        (link / name).unlink()
        (link / name).write_bytes(content)
        hub.served.clear()
        outcome = clone(commit)
        assert (outcome.repaired, hub.served, tree(link)) == ([name], [], FILES)
        assert [path.read_bytes() for path in kept_in(store)] == [content], "one for each file: the last"
        assert (link / name).stat().st_mtime > time.time() - 60
        assert clone(commit).verified == 0
        assert git_status(place(link, commit)) == ""


def test_weights_that_were_altered_where_there_are_no_hard_links(
    hub: FakeHub, link: Path, store: Path, clone: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any, **_more: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    commit = hub.commit(NAME, FILES)
    clone(commit)
    cut(link / "model-2.safetensors")
    hub.served.clear()
    outcome = clone(commit)
    assert (outcome.repaired, hub.served, tree(link)) == (["model-2.safetensors"], [], FILES)
    assert [path.read_bytes() for path in kept_in(store)] == [SECOND[: len(SECOND) // 2]]


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_what_is_no_file_in_the_place_of_weights(
    hub: FakeHub, link: Path, tmp_path: Path, clone: Run, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    path = link / "model-1.safetensors"
    path.unlink()
    if kind == "link":
        (tmp_path / "mine").write_bytes(FIRST)
        path.symlink_to(tmp_path / "mine")
    else:
        path.mkdir()
    assert cause(clone, commit) == {"link": "local_edits", "directory": "in_the_way"}[kind]
    assert ("model-1.safetensors is a directory. Expected: no file" in capsys.readouterr().out) is (kind == "directory")
    assert path.is_symlink() or path.is_dir()


def test_a_repair_that_fails_has_lost_nothing(hub: FakeHub, link: Path, store: Path, clone: Run) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    cut(link / "model-2.safetensors")
    hub.status = 503
    assert cause(clone, commit, timeout=2) == "server"
    assert (link / "model-2.safetensors").read_bytes() == SECOND[: len(SECOND) // 2]
    hub.status = 0
    outcome = clone(commit)
    assert (outcome.repaired, tree(link)) == (["model-2.safetensors"], FILES)
    assert [path.read_bytes() for path in kept_in(store)] == [SECOND[: len(SECOND) // 2]]


@pytest.mark.parametrize("step", ["_write_blobs", "_remove_stale", "_write_index"])
def test_a_killed_repair_is_told_by_the_time_of_the_file(
    hub: FakeHub, link: Path, store: Path, clone: Run, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    cut(link / "model-2.safetensors")
    before = time.time()

    def killed(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Clone, step, killed)
        with pytest.raises(KeyboardInterrupt):
            clone(commit)
    clone(commit)
    assert tree(link) == FILES
    assert (link / "model-2.safetensors").stat().st_mtime > before - 6
    assert [path.read_bytes() for path in kept_in(store)] == [SECOND[: len(SECOND) // 2]]
    assert not clone(commit).changed


def full_until(gone: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with no room until something is gone."""
    real = os.statvfs

    def statvfs(path: Any) -> Any:
        status = real(path)
        return status if gone() else type("Full", (), {"f_bavail": 1000, "f_frsize": 1, "f_flag": status.f_flag})

    monkeypatch.setattr(os, "statvfs", statvfs)


def test_a_cut_file_gives_way_where_there_is_no_room(
    hub: FakeHub, link: Path, store: Path, clone: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    clone(first)
    clone(second)
    path = link / "model-2.safetensors"
    cut(path)
    number = path.stat().st_ino

    def gone() -> bool:
        return not any(file.lstat().st_ino == number for file in link.parent.rglob("*") if file.is_file())

    full_until(gone, monkeypatch)
    outcome = clone(second)
    assert (outcome.repaired, outcome.kept, tree(link)) == (["model-2.safetensors"], [], NEW)
    assert any("removed to make room" in text for text in outcome.warnings)
    assert clone(first).changed
    assert tree(link) == FILES


def test_an_altered_file_does_not_give_way(
    hub: FakeHub, link: Path, store: Path, clone: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    path = link / "model-2.safetensors"
    with path.open("r+b") as file:
        file.write(b"mine")
    full_until(lambda: False, monkeypatch)
    with pytest.raises(GitLfsError, match="remove or move away what was changed") as caught:
        clone(commit)
    assert (caught.value.problem.cause, str(path.resolve()) in caught.value.problem.remedy) == ("disk_full", True)
    assert path.read_bytes()[:4] == b"mine"


def test_what_is_kept_goes_with_the_last_revision_that_has_the_file(
    hub: FakeHub, link: Path, store: Path, clone: Run
) -> None:
    commits = [hub.commit(NAME, {**FILES, "model-1.safetensors": name * 999}) for name in (b"one", b"two", b"six")]
    clone(commits[0])
    cut(link / "model-1.safetensors")
    clone(commits[0])
    clone(commits[1])
    assert len(kept_in(store)) == 1
    clone(commits[2])
    assert kept_in(store) == []


def test_a_killed_change_of_revision_leaves_no_edits(
    hub: FakeHub, link: Path, single: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two revisions each file is of one or the other: neither is anybody's work."""
    commits = [hub.commit(NAME, FILES), hub.commit(NAME, {**NEW, "more.json": b"{}"})]
    commits.append(hub.commit(NAME, {**FILES, "config.json": b"third", "more.json": b"[]"}))
    single(commits[0])

    def killed(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    for steps in (
        ("_link", "_write_blobs"),
        ("_remove_stale", "_link"),
        ("_write_index", "_write_blobs"),
        ("_write_blobs", "_remove_stale"),
    ):
        for commit, step in zip(commits[1:], steps):
            with monkeypatch.context() as patch:
                patch.setattr(Clone, step, killed)
                with pytest.raises(KeyboardInterrupt):
                    single(commit)
        os.utime(link / "config.json")
        for commit, files in ((commits[0], FILES), (commits[1], {**NEW, "more.json": b"{}"}), (commits[0], FILES)):
            assert single(commit).repaired == []
            assert tree(link) == files
            assert git_status(link) == ""


def test_a_touched_file_of_another_revision_is_no_edit(hub: FakeHub, link: Path, single: Run) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    single(first)
    for name in ("config.json", "model-1.safetensors"):
        os.utime(link / name)
    assert single(second).repaired == []
    assert tree(link) == NEW


def test_a_link_in_the_place_of_a_file_is_an_edit(hub: FakeHub, link: Path, tmp_path: Path, single: Run) -> None:
    commit = hub.commit(NAME, FILES)
    single(commit)
    (tmp_path / "mine.json").write_text("mine")
    (link / "config.json").unlink()
    (link / "config.json").symlink_to(tmp_path / "mine.json")
    assert cause(single, commit) == "local_edits"
    assert single(commit, force=True).repaired == ["config.json"]
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_a_state_of_the_first_version(hub: FakeHub, link: Path, single: Run) -> None:
    commit = hub.commit(NAME, FILES)
    single(commit)
    path = link / ".git/vicuna-fleet.json"
    data = json.loads(path.read_text())
    files = {name: {"oid": row["oid"], "stamp": [*row["stamp"], 1]} for name, row in data["files"].items()}
    keys = ("repo", "commit", "include", "exclude")
    path.write_text(json.dumps({"version": 1, "files": files, **{key: data[key] for key in keys}}))
    shutil.rmtree(link / ".git/lfs/vicuna-fleet")
    (link / "config.json").write_text("mine")
    assert cause(single, commit) == "local_edits"
    (link / "config.json").unlink()
    outcome = single(commit)
    assert (outcome.verified, outcome.before, outcome.downloaded_bytes) == (5, commit, 0)
    assert single(commit).verified == 0


def test_status_is_clean_in_every_shape(hub: FakeHub, link: Path, single: Run) -> None:
    attributes = FILES[".gitattributes"] + b"*.bin filter=lfs diff=lfs merge=lfs -text\n"
    files = {**FILES, ".gitattributes": attributes, "pytorch_model.bin": b"bin" * 999, "empty.json": b""}
    modes = {"scripts/run me.sh": "100755", "model-1.safetensors": "100755"}
    commit = hub.commit(NAME, files, modes=modes)
    single(commit, exclude=("*.bin",))
    assert git_status(link) == ""
    single(commit)
    assert git_status(link) == ""
    single(commit, include=("*.model",))
    assert git_status(link) == ""
    before = (link / ".git/index").stat().st_mtime_ns
    assert not single("main", include=("*.model",)).changed
    assert (link / ".git/index").stat().st_mtime_ns == before, "nothing to write, nothing written"


# --- before anything


def test_a_read_only_place(hub: FakeHub, link: Path, clone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    real = os.access

    def refuse(path: Any, mode: int, **more: Any) -> bool:
        return real(path, mode, **more) and not (mode & os.W_OK and str(path).startswith(str(link.parent)))

    monkeypatch.setattr(os, "access", refuse)
    monkeypatch.setattr(os, "supports_effective_ids", {refuse})
    hub.requests.clear()
    second = hub.commit(NAME, NEW)
    for side_by_side in (True, False):
        for check_mode in (True, False):
            more = {} if side_by_side else {"dest": link.with_name("other"), "side_by_side": False}
            assert cause(clone, second, check_mode=check_mode, **more) == "read_only"
    assert hub.requests == []
    assert not clone(commit).changed, "with nothing to do, nothing is written"


def test_an_old_git_lfs(hub: FakeHub, tmp_path: Path, clone: Run) -> None:
    commit = hub.commit(NAME, FILES)
    wrapper = tmp_path / "bin/git"
    wrapper.write_text(
        '#!/bin/sh\ntest "$1" = lfs && { echo "git-lfs/2.13.2 (Debian; linux amd64; go 1.15)"; exit 0; }\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    wrapper.chmod(0o755)
    with pytest.raises(GitLfsError, match=r"git-lfs 2\.13\.2 is on this host") as caught:
        clone(commit)
    assert caught.value.problem.cause == "git_lfs_old"


def test_a_mirror(hub: FakeHub, link: Path, clone: Run) -> None:
    commit = hub.commit(NAME, FILES)
    repo = f"https://models.example.invalid/{NAME}"
    assert clone(commit, repo=repo, mirror=hub.url).changed
    assert tree(link) == FILES
    config = (link / ".git/config").read_text()
    assert repo in config
    assert hub.url not in config
    assert cause(clone, commit, repo=repo, mirror="ftp://x") == "mirror"
    assert cause(clone, commit, repo=repo, mirror="https://me:secret@x") == "mirror"
    assert cause(clone, commit, repo="/srv/x", mirror=hub.url) == "mirror"


def test_without_fetch_nothing_changes(hub: FakeHub, link: Path, single: Run) -> None:
    first, second = hub.commit(NAME, FILES), hub.commit(NAME, NEW)
    outcome = single(first, fetch=False)
    assert (outcome.changed, outcome.revision) == (False, first)
    assert outcome.missing_bytes == sum(len(FILES[n]) for n in FILES if n.endswith((".safetensors", ".model")))
    assert (tree(link), hub.served) == ({}, [])
    single(first)
    outcome = single(second, fetch=False)
    assert (outcome.changed, outcome.missing_bytes, outcome.before) == (False, 27000, first)
    assert (tree(link), git_status(link)) == (FILES, "")
    assert single(first, fetch=False).missing_bytes == 0


def test_time_is_not_wasted(hub: FakeHub, clone: Run) -> None:
    """No second is waited for the index where objects and files are dated back."""
    commit = hub.commit(NAME, FILES)
    started = time.monotonic()
    clone(commit)
    assert time.monotonic() - started < 3
