# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module with the real git and git-lfs, against a fake hub that can be told to fail."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _lfs_engine
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError
from ansible_collections.vicuna.fleet.plugins.module_utils._git_lfs import Clone, Outcome, Request

from ..fake_hub import TOKEN, FakeHub, pointer

ROOT = Path(__file__).resolve().parents[4]
MODULE = ROOT / "plugins/modules/git_lfs.py"
NAME = "org/vicuna-test"
FIRST = bytes(range(256)) * 300
SECOND = b"second" * 20000
TOKENIZER = b"tokenizer" * 500
FILES = {
    ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs\n*.model filter=lfs diff=lfs merge=lfs\n",
    "config.json": b'{"model_type": "llama"}\n',
    "model-1.safetensors": FIRST,
    "model-2.safetensors": SECOND,
    "scripts/run me.sh": b"#!/bin/sh\n",
    "tokenizer.model": TOKENIZER,
}


def oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "model" / "vicuna-test"


@pytest.fixture
def clone(hub: FakeHub, dest: Path) -> Callable[..., Outcome]:
    """Converges the directory on a revision of the hub's repository."""

    def run(
        revision: str = "main", *, check_mode: bool = False, env: dict[str, str] | None = None, **more: Any
    ) -> Outcome:
        repo = more.pop("repo", f"{hub.url}/{NAME}")
        request = Request(repo=repo, revision=revision, **{"dest": dest, "timeout": 20, **more})
        return Clone(request, check_mode=check_mode, base_env=env).converge()

    return run


def cause(run: Callable[..., Outcome], *arguments: Any, **more: Any) -> str:
    with pytest.raises(GitLfsError) as caught:
        run(*arguments, **more)
    message = str(caught.value.problem)
    assert message.startswith("Found: ") and " Expected: " in message and " Remedy: " in message
    print(caught.value.detail or message)
    return caught.value.problem.cause


def tree(directory: Path) -> dict[str, bytes]:
    paths = (
        path for path in directory.rglob("*") if path.is_file() and ".git" not in path.relative_to(directory).parts
    )
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def flip(path: Path) -> None:
    """What a bad disk does: one byte differs, and size and mtime do not."""
    status = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def git_status(directory: Path) -> str:
    """What a person's git says, with a clean filter that leaves a mark where it runs: then git has read a file."""
    mark = directory.parent / f"{directory.name}.filtered"
    settings = [f"filter.lfs.{name}=touch '{mark}'; cat" for name in ("clean", "smudge")]
    command = [
        "git",
        "--no-optional-locks",
        "-C",
        str(directory),
        *(part for setting in settings for part in ("-c", setting)),
    ]
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run([*command, "status", "--porcelain"], env=env, check=True, capture_output=True, text=True)
    assert not mark.exists(), "git has read a file that is in LFS"
    return done.stdout


# --- the normal way


def test_a_clone_has_every_file_and_no_pointer(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES, modes={"scripts/run me.sh": "100755"})
    os.umask(0o022)
    outcome = clone(commit)
    assert tree(dest) == FILES
    assert outcome.changed
    assert outcome.revision == commit
    assert outcome.paths == sorted(FILES)
    assert (outcome.lfs_objects, outcome.verified) == (3, 3)
    assert outcome.downloaded_bytes == len(FIRST) + len(SECOND) + len(TOKENIZER)
    assert outcome.bytes == sum(map(len, FILES.values()))
    assert {path.stat().st_mode & 0o777 for path in dest.glob("*.*") if path.is_file()} == {0o644}
    assert (dest / "scripts").stat().st_mode & 0o777 == 0o755
    assert (dest / "scripts/run me.sh").stat().st_mode & 0o777 == 0o755
    assert (dest / "model-1.safetensors").stat().st_nlink == 2, "the disk holds a large file once"
    said = subprocess.run(
        ["git", "-C", str(dest), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout
    assert said.strip() == commit


def test_a_second_run_needs_neither_network_nor_git(hub: FakeHub, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    hub.requests.clear()
    outcome = clone(commit, env={"PATH": "/nonexistent"})
    assert (outcome.changed, outcome.verified, outcome.downloaded_bytes, hub.requests) == (False, 0, 0, [])
    assert (outcome.before, outcome.revision, outcome.lfs_objects) == (commit, commit, 3)
    assert outcome.bytes == sum(map(len, FILES.values()))


def test_a_branch_is_followed(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    first = hub.commit(NAME, FILES)
    assert clone("main").revision == first
    hub.requests.clear()
    assert not clone("main").changed
    assert all(line.endswith(("info/refs?service=git-upload-pack", "git-upload-pack")) for line in hub.requests)
    second = hub.commit(NAME, {**FILES, "config.json": b"{}\n"})
    outcome = clone("main")
    assert (outcome.changed, outcome.before, outcome.revision) == (True, first, second)
    assert outcome.downloaded_bytes == 0
    assert (dest / "config.json").read_bytes() == b"{}\n"


def test_a_tag_names_its_commit(hub: FakeHub, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    hub.git(NAME, "tag", "-a", "v1", "-m", "first", commit)
    hub.commit(NAME, {"config.json": b"{}"})
    assert clone("v1").revision == commit


def test_a_server_that_hands_out_branches_alone(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    old = hub.commit(NAME, FILES)
    hub.commit(NAME, {"config.json": b"{}"})
    hub.git(NAME, "config", "uploadpack.allowAnySHA1InWant", "false")
    hub.git(NAME, "config", "protocol.version", "0")
    settings = {"GIT_PROTOCOL": "version=0"}
    assert clone(old, env={**os.environ, **settings}).revision == old
    assert tree(dest) == FILES


def test_going_to_another_revision_and_back(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    first = hub.commit(NAME, FILES)
    changed = {**FILES, "model-1.safetensors": b"new" * 9000, "NOTES": b"hello\n"}
    del changed["scripts/run me.sh"]
    second = hub.commit(NAME, changed)
    clone(first)
    (dest / "mine.txt").write_text("kept")
    outcome = clone(second)
    assert outcome.downloaded_bytes == 27000
    assert tree(dest) == {**changed, "mine.txt": b"kept"}
    assert not (dest / "scripts").exists()
    hub.served.clear()
    outcome = clone(first)
    assert (outcome.changed, outcome.downloaded_bytes, hub.served) == (True, 0, [])
    assert tree(dest) == {**FILES, "mine.txt": b"kept"}


def test_only_the_previous_revision_stays_in_store(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commits = [hub.commit(NAME, {"model.bin": name * 5000}) for name in (b"one", b"two", b"six")]
    for commit in commits:
        clone(commit)
    stored = {path.name for path in (dest / ".git/lfs/objects").rglob("*") if path.is_file()}
    assert stored == {oid(b"two" * 5000), oid(b"six" * 5000)}


def test_include_and_exclude(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    files = {**FILES, "odd, [name]*.bin": b"odd" * 100, "sub/model-1.safetensors": b"other" * 100}
    commit = hub.commit(NAME, files)
    outcome = clone(commit, exclude=("/model-*.safetensors",))
    assert sorted(tree(dest)) == sorted(set(files) - {"model-1.safetensors", "model-2.safetensors"})
    assert sorted(hub.served) == sorted([oid(TOKENIZER), oid(b"odd" * 100), oid(b"other" * 100)])
    assert outcome.lfs_objects == 3
    assert not clone(commit, exclude=("/model-*.safetensors",)).changed
    assert clone(commit, include=("*.model",)).changed
    assert sorted(tree(dest)) == [".gitattributes", "config.json", "scripts/run me.sh", "tokenizer.model"]
    clone(commit)
    assert tree(dest) == files


@pytest.mark.parametrize(
    "version", ["https://git-lfs.github.com/spec/v1", "https://hawser.github.com/spec/v1", "http://git-media.io/v/2"]
)
def test_pointers_of_older_programs(
    hub: FakeHub, dest: Path, clone: Callable[..., Outcome], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.pointer = lambda content: pointer(content).replace(b"https://git-lfs.github.com/spec/v1", version.encode())
    commit = hub.commit(NAME, {**FILES, "empty.bin": b""})
    outcome = clone(commit)
    assert (outcome.lfs_objects, tree(dest)) == (4, {**FILES, "empty.bin": b""})
    assert not clone(commit, verify="full").changed
    (dest / "tokenizer.model").write_bytes(hub.pointer(TOKENIZER))
    assert clone(commit).changed
    assert tree(dest)["tokenizer.model"] == TOKENIZER


def test_a_pointer_that_an_earlier_version_took_for_a_file(
    hub: FakeHub, dest: Path, clone: Callable[..., Outcome]
) -> None:
    hub.pointer = lambda content: pointer(content).replace(b"git-lfs.github", b"hawser.github")
    commit = hub.commit(NAME, FILES)
    clone(commit)
    path, state = dest / "tokenizer.model", dest / ".git/vicuna-fleet.json"
    path.unlink()
    path.write_bytes(hub.pointer(TOKENIZER))
    data = json.loads(state.read_text())
    blob = subprocess.run(["git", "hash-object", str(path)], check=True, capture_output=True, text=True).stdout.strip()
    status = path.stat()
    record = {"oid": blob, "size": status.st_size, "lfs": False, "mode": 0o644}
    data["files"]["tokenizer.model"] = {**record, "stamp": [status.st_size, status.st_mtime_ns, status.st_ino]}
    state.write_text(json.dumps({**data, "version": 2}))
    assert clone(commit).changed
    assert tree(dest) == FILES
    outcome = clone(commit, env={"PATH": "/nonexistent"})
    assert (outcome.changed, outcome.verified) == (False, 0)


def test_a_pointer_that_names_no_content(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    hub.pointer = lambda content: pointer(content).replace(b"sha256:", b"md5:")
    commit = hub.commit(NAME, FILES)
    assert cause(clone, commit) == "lfs_pointer"
    assert tree(dest) == {}
    assert clone(commit, exclude=("*.safetensors", "*.model")).changed
    assert sorted(tree(dest)) == [".gitattributes", "config.json", "scripts/run me.sh"]


def test_a_pointer_with_an_extension(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    hub.pointer = lambda content: pointer(content).replace(b"oid", b"ext-0-case sha256:" + b"0" * 64 + b"\noid")
    outcome = clone(hub.commit(NAME, FILES))
    assert tree(dest) == FILES
    assert "git-lfs extension case" in outcome.warnings[0]


def test_two_files_with_one_content(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, {"a.bin": FIRST, "b/c.bin": FIRST, "empty.txt": b""})
    assert clone(commit).lfs_objects == 1
    assert hub.served == [oid(FIRST)]
    assert (dest / "a.bin").stat().st_nlink == 3
    assert not clone(commit, verify="full").changed


# --- resume and repair


def test_a_cut_download_goes_on(
    hub: FakeHub, dest: Path, clone: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lfs_engine, "FAILURES", 1)
    commit = hub.commit(NAME, FILES)
    hub.cut.add(oid(SECOND))
    others = {oid(FIRST), oid(TOKENIZER)}
    hub.cut_when = lambda: others <= {path.name for path in (dest / ".git/lfs/objects").rglob("*")}
    with pytest.raises(GitLfsError):
        clone(commit)
    assert not (dest / "model-1.safetensors").exists(), "the tree changes only when everything has arrived"
    assert set(hub.served) == others
    hub.cut.clear()
    hub.served.clear()
    outcome = clone(commit)
    assert hub.served == [oid(SECOND)]
    assert outcome.downloaded_bytes == len(SECOND)
    assert tree(dest) == FILES
    assert not any((dest / ".git/lfs/incomplete").glob("*"))


def test_a_killed_run(hub: FakeHub, dest: Path, tmp_path: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    hub.held.add(oid(SECOND))
    process = run_module({"repo": f"{hub.url}/{NAME}", "revision": commit, "dest": str(dest)}, tmp_path, wait=False)
    assert hub.holding.wait(20)
    first = dest / ".git/lfs/objects" / oid(FIRST)[:2] / oid(FIRST)[2:4] / oid(FIRST)
    deadline = time.monotonic() + 20
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (dest / ".git/index.lock").touch()
    hub.released.set()
    outcome = clone(commit)
    assert outcome.changed
    assert tree(dest) == FILES
    assert hub.served.count(oid(FIRST)) == 1, "what had arrived is not fetched again"
    assert not (dest / ".git/index.lock").exists()


def test_two_runs_at_once(hub: FakeHub, dest: Path, tmp_path: Path) -> None:
    commit = hub.commit(NAME, FILES)
    arguments = {"repo": f"{hub.url}/{NAME}", "revision": commit, "dest": str(dest)}
    runs = [run_module(arguments, tmp_path / str(number), wait=False) for number in (1, 2)]
    results = [json.loads(run.communicate(timeout=50)[0]) for run in runs]
    assert sorted(result["changed"] for result in results) == [False, True]
    assert sorted(hub.served) == sorted([oid(FIRST), oid(SECOND), oid(TOKENIZER)])
    assert tree(dest) == FILES


def test_a_lock_of_a_living_git_is_respected(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    clone(hub.commit(NAME, FILES))
    commit = hub.commit(NAME, {**FILES, "config.json": b"{}"})
    (dest / ".git/index.lock").touch()
    with subprocess.Popen(["git", "cat-file", "--batch"], cwd=dest, stdin=subprocess.PIPE) as other:
        assert cause(clone, commit) == "git_lock"
        assert (dest / ".git/index.lock").exists()
        other.terminate()
    assert clone(commit).revision == commit


@pytest.mark.parametrize("name", ["model-1.safetensors", "config.json"])
def test_damage_is_found_and_repaired(hub: FakeHub, dest: Path, clone: Callable[..., Outcome], name: str) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    hub.served.clear()
    flip(dest / name)
    assert not clone(commit).changed, "what has kept size, time and inode is not read again"
    preview = clone(commit, check_mode=True, verify="full")
    assert (preview.changed, preview.repaired) == (True, [name])
    assert tree(dest)[name] != FILES[name]
    outcome = clone(commit, verify="full")
    assert (outcome.changed, outcome.repaired, outcome.verified) == (True, [name], len(FILES) + (name[0] == "m"))
    assert tree(dest) == FILES
    assert hub.served == ([oid(FIRST)] if name == "model-1.safetensors" else [])
    assert not clone(commit).changed
    assert git_status(dest) == ""


def test_a_file_that_only_looks_changed_is_read_once(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    os.utime(dest / "model-1.safetensors")
    outcome = clone(commit)
    assert (outcome.changed, outcome.verified, outcome.repaired) == (False, 1, [])
    assert clone(commit).verified == 0


def test_modes_are_restored(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    (dest / "model-1.safetensors").chmod(0o600)
    assert clone(commit).changed
    assert (dest / "model-1.safetensors").stat().st_mode & 0o777 == 0o644


def test_missing_and_truncated_files_come_back(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    hub.served.clear()
    (dest / "model-1.safetensors").unlink()
    (dest / "tokenizer.model").write_bytes(pointer(TOKENIZER))
    outcome = clone(commit)
    assert tree(dest) == FILES
    assert outcome.repaired == ["tokenizer.model"]
    assert hub.served == [oid(TOKENIZER)], "the deleted file is still in the object store"


def test_a_damaged_object_store_is_not_trusted(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    (dest / "model-1.safetensors").unlink()
    rot = next((dest / ".git/lfs/objects").rglob(oid(FIRST)))
    flip(rot)
    os.utime(rot)
    bad = dest / ".git/lfs/bad" / oid(FIRST)
    hub.cut.add(oid(FIRST))
    with pytest.raises(GitLfsError):
        clone(commit, timeout=2)
    assert bad.is_file(), "it is in quarantine until a good one is in place"
    hub.cut.clear()
    assert clone(commit).downloaded_bytes == len(FIRST)
    assert tree(dest) == FILES
    assert not bad.exists()


def test_a_clone_made_by_hand_is_adopted(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    home = dest.parent.parent / "home"
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_TERMINAL_PROMPT": "0"}
    home.mkdir()
    subprocess.run(["git", "lfs", "install", "--skip-repo"], env=env, check=True, capture_output=True)
    subprocess.run(["git", "clone", "--quiet", f"{hub.url}/{NAME}.git", str(dest)], env=env, check=True)
    assert tree(dest) == FILES
    hub.served.clear()
    outcome = clone(commit)
    assert (outcome.changed, outcome.verified, hub.served) == (False, len(FILES), [])
    assert (dest / "model-1.safetensors").stat().st_nlink == 2, "the second copy is gone"
    said = subprocess.run(["git", "-C", str(dest), "status", "--porcelain"], env=env, check=True, capture_output=True)
    assert said.stdout == b""


# --- what is not ours


def test_a_foreign_directory_is_refused(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    dest.mkdir(parents=True)
    (dest / "thesis.txt").write_text("years of work")
    for check_mode in (True, False):
        assert cause(clone, commit, check_mode=check_mode) == "foreign_directory"
    assert [path.name for path in dest.iterdir()] == ["thesis.txt"]


def test_another_repository_is_refused(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    other = hub.commit("org/other", {"config.json": b"other"})
    clone(commit)
    for check_mode in (True, False):
        assert cause(clone, other, repo=f"{hub.url}/org/other", check_mode=check_mode) == "other_repository"
    assert tree(dest) == FILES
    assert not clone(commit, repo=f"{hub.url}/{NAME}.git/").changed


def test_a_file_of_ones_own_is_not_overwritten(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    clone(hub.commit(NAME, FILES))
    (dest / "NOTES").write_text("mine")
    commit = hub.commit(NAME, {**FILES, "NOTES": b"theirs"})
    assert cause(clone, commit) == "in_the_way"
    assert (dest / "NOTES").read_text() == "mine"


def test_a_changed_file_that_the_revision_drops_stays(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    clone(hub.commit(NAME, {**FILES, "NOTES": b"theirs"}))
    (dest / "NOTES").write_text("theirs and mine")
    outcome = clone(hub.commit(NAME, FILES))
    assert (dest / "NOTES").read_text() == "theirs and mine"
    assert len(outcome.warnings) == 1 and "NOTES" in outcome.warnings[0]


def test_a_directory_replaced_by_a_link_is_refused(
    hub: FakeHub, dest: Path, tmp_path: Path, clone: Callable[..., Outcome]
) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    shutil.rmtree(dest / "scripts")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (dest / "scripts").symlink_to(elsewhere)
    assert cause(clone, commit) == "in_the_way"
    assert list(elsewhere.iterdir()) == []


def test_links_in_the_repository_are_refused(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, {**FILES, "passwd": b"/etc/passwd"}, modes={"passwd": "120000"})
    assert cause(clone, commit) == "unsafe_path"
    assert tree(dest) == {}


# --- failures, each with its own message


def test_revisions_that_do_not_exist(hub: FakeHub, clone: Callable[..., Outcome]) -> None:
    hub.commit(NAME, FILES)
    assert cause(clone, "0" * 40) == "revision_not_found"
    assert cause(clone, "no-such-branch") == "revision_not_found"
    assert cause(clone, "no-such-branch", check_mode=True) == "revision_not_found"


def test_addresses_that_do_not_work(hub: FakeHub, clone: Callable[..., Outcome], closed_port: int) -> None:
    assert cause(clone, repo=f"{hub.url}/org/no-such-repository") == "repository_not_found"
    assert cause(clone, repo=f"http://127.0.0.1:{closed_port}/a/b") == "connection"
    assert cause(clone, repo="http://no-such-host.invalid/a/b") == "dns"
    assert cause(clone, repo=str(hub.root / "nothing-here")) == "repository_not_found"
    assert cause(clone, repo=hub.url.replace("://", "://me:secret@") + "/a/b") == "url_with_credentials"
    assert cause(clone, repo="ext::sh -c 'touch /tmp/owned'") == "url"


@pytest.mark.parametrize("check_mode", [True, False])
def test_credentials(hub: FakeHub, dest: Path, clone: Callable[..., Outcome], check_mode: bool) -> None:
    commit = hub.commit("gated/vicuna-test", FILES)
    repo = f"{hub.url}/gated/vicuna-test"
    assert cause(clone, commit, repo=repo, check_mode=check_mode) == "token_missing"
    assert cause(clone, commit, repo=repo, token="wrong", check_mode=check_mode) == "token_rejected"
    assert clone(commit, repo=repo, token=TOKEN, check_mode=check_mode).changed
    hub.status = 403
    assert cause(clone, "main", repo=repo, token=TOKEN, check_mode=check_mode) == "forbidden"
    if not check_mode:
        assert tree(dest) == FILES


@pytest.mark.parametrize(
    ("status", "expected"), [(401, "token_missing"), (403, "forbidden"), (404, "repository_not_found"), (500, "server")]
)
def test_failures_of_the_lfs_server(hub: FakeHub, clone: Callable[..., Outcome], status: int, expected: str) -> None:
    commit = hub.commit(NAME, FILES)
    hub.batch_status = status
    assert cause(clone, commit) == expected


def test_an_object_that_the_server_lacks(hub: FakeHub, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    del hub.objects[oid(FIRST)]
    assert cause(clone, commit) == "lfs_object_missing"
    assert clone(commit, exclude=("model-1.safetensors",)).changed


def test_an_object_that_arrives_damaged(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    hub.damaged.add(oid(FIRST))
    assert cause(clone, commit) == "damaged_transfer"
    assert not (dest / "model-1.safetensors").exists()


def test_a_silent_server(hub: FakeHub, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    hub.silent = True
    started = time.monotonic()
    assert cause(clone, commit, timeout=1) == "timeout"
    assert time.monotonic() - started < 15


def test_too_little_space(hub: FakeHub, clone: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.commit(NAME, FILES)
    free = namedtuple("free", "f_bavail f_frsize")(1000, 1)
    monkeypatch.setattr(os, "statvfs", lambda _path: free)
    assert cause(clone, commit) == "disk_full"
    assert hub.served == [], "nothing is fetched that cannot be kept"


def test_tls(
    tmp_path: Path, clone: Callable[..., Outcome], tls: ssl.SSLContext, certificate: Path, authority: Path
) -> None:
    fake = FakeHub(tmp_path / "tls-hub", tls)
    try:
        commit = fake.commit(NAME, FILES)
        repo = f"{fake.url}/{NAME}"
        assert cause(clone, commit, repo=repo) == "tls"
        assert cause(clone, commit, repo=repo, ca_path="/no/such.pem") == "ca_missing"
        # It holds the key as well.
        assert cause(clone, commit, repo=repo, ca_path=str(certificate)) == "ca_unusable"
        windows = tmp_path / "ca.pem"
        windows.write_bytes(authority.read_text(encoding="utf-8").replace("\n", "\r\n").encode("utf-16"))
        assert clone(commit, repo=repo, ca_path=str(windows)).changed
    finally:
        fake.close()


def test_without_git_or_git_lfs(hub: FakeHub, tmp_path: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    empty = tmp_path / "bin"
    empty.mkdir()
    assert cause(clone, commit, env={"PATH": str(empty)}) == "git_missing"
    outcome = clone(commit, env={"PATH": str(empty)}, check_mode=True)
    assert outcome.changed and outcome.warnings
    wrapper = empty / "git"
    wrapper.write_text(
        '#!/bin/sh\ntest "$1" = lfs && { echo "git: \'lfs\' is not a git command." >&2; exit 1; }\nexit 0\n'
    )
    wrapper.chmod(0o755)
    assert cause(clone, commit, env={"PATH": f"{empty}:/usr/bin:/bin"}) == "git_lfs_missing"


# --- secrets and surroundings


def test_the_token_leaves_no_trace(hub: FakeHub, dest: Path, tmp_path: Path) -> None:
    commit = hub.commit("gated/vicuna-test", FILES)
    log = tmp_path / "argv.log"
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {shutil.which("git")} "$@"\n')
    wrapper.chmod(0o755)
    env = {**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}", "GIT_TRACE_CURL": "1", "GIT_TRACE": "1"}
    arguments = {"repo": f"{hub.url}/gated/vicuna-test", "revision": commit, "dest": str(dest), "token": TOKEN}
    output = run_module(arguments, tmp_path, env=env).communicate(timeout=50)[0]
    assert json.loads(output)["changed"]
    assert hub.tokens == {TOKEN}
    assert "fetch" in log.read_text()
    assert TOKEN not in output + log.read_text()
    assert not [path for path in dest.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_the_token_goes_to_its_own_host_alone(hub: FakeHub, tmp_path: Path, clone: Callable[..., Outcome]) -> None:
    thief = FakeHub(tmp_path / "thief")
    thief.batch_status = 401
    try:
        config = f'[lfs]\n\turl = "{thief.url}/a/b.git/info/lfs"\n'.encode()
        commit = hub.commit("gated/vicuna-test", {**FILES, ".lfsconfig": config})
        with pytest.raises(GitLfsError):
            clone(commit, repo=f"{hub.url}/gated/vicuna-test", token=TOKEN)
        assert hub.tokens == {TOKEN}
        assert thief.tokens == set()
    finally:
        thief.close()


def test_a_strange_git_configuration_does_not_matter(
    hub: FakeHub, dest: Path, tmp_path: Path, clone: Callable[..., Outcome]
) -> None:
    commit = hub.commit(NAME, FILES)
    home = tmp_path / "home"
    hooks = tmp_path / "hooks"
    for directory in (home, hooks):
        directory.mkdir()
    (hooks / "reference-transaction").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "reference-transaction").chmod(0o755)
    (home / ".gitconfig").write_text(
        '[url "http://127.0.0.1:1/"]\n\tinsteadOf = http://\n'
        f"[core]\n\thooksPath = {hooks}\n\tautocrlf = true\n"
        "[lfs]\n\tfetchexclude = *\n\tstorage = /nonexistent\n"
        "[credential]\n\thelper = /bin/false\n"
    )
    env = {**os.environ, "HOME": str(home), "GIT_DIR": "/nonexistent", "GIT_LFS_SKIP_DOWNLOAD_ERRORS": "1"}
    assert clone(commit, env=env).changed
    assert tree(dest) == FILES


# --- check mode and the module's own face


def test_check_mode_on_a_fresh_host(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    for revision in (commit, "main"):
        outcome = clone(revision, check_mode=True)
        assert (outcome.changed, outcome.revision, outcome.before, outcome.paths) == (True, commit, "", [])
    assert not dest.exists()
    assert hub.served == []


def test_check_mode_on_a_converged_host(hub: FakeHub, dest: Path, clone: Callable[..., Outcome]) -> None:
    commit = hub.commit(NAME, FILES)
    clone(commit)
    state = (dest / ".git/vicuna-fleet.json").read_bytes()
    for revision in (commit, "main"):
        outcome = clone(revision, check_mode=True)
        assert (outcome.changed, outcome.paths) == (False, sorted(FILES))
    assert clone(commit, check_mode=True, verify="full").verified == len(FILES)
    new = hub.commit(NAME, {"config.json": b"{}"})
    outcome = clone("main", check_mode=True)
    assert (outcome.changed, outcome.before, outcome.revision) == (True, commit, new)
    assert tree(dest) == FILES
    assert (dest / ".git/vicuna-fleet.json").read_bytes() == state


def run_module(
    arguments: dict[str, Any], scratch: Path, *, wait: bool = True, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """The module as Ansible runs it: a process of its own, its arguments as JSON."""
    scratch.mkdir(exist_ok=True)
    path = scratch / "arguments.json"
    path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": {"timeout": 20, **arguments}}))
    surroundings = {**(env or os.environ), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(MODULE), str(path)],
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if wait else subprocess.DEVNULL,
        text=True,
    )
    return process


def test_the_module_answers(hub: FakeHub, dest: Path, tmp_path: Path) -> None:
    commit = hub.commit(NAME, FILES)
    arguments = {"repo": f"{hub.url}/{NAME}", "revision": commit, "dest": str(dest)}
    first = json.loads(run_module(arguments, tmp_path).communicate(timeout=50)[0])
    assert first["changed"] is True
    assert first["diff"] == {"before": "", "after": f"{commit}\n"}
    assert (first["files"], first["lfs_objects"], first["revision"]) == (len(FILES), 3, commit)
    assert (first["repo"], first["path"], first["removed"]) == (arguments["repo"], str(dest), [])
    assert (first["missing_bytes"], "job" in first) == (0, False)
    flip(dest / "tokenizer.model")
    second = json.loads(run_module({**arguments, "verify": "full"}, tmp_path).communicate(timeout=50)[0])
    assert (second["changed"], second["repaired"], second["previous_revision"]) == (True, ["tokenizer.model"], commit)
    assert "tokenizer.model" in json.dumps(second["warnings"])
    failed = json.loads(run_module({**arguments, "revision": "nowhere"}, tmp_path).communicate(timeout=50)[0])
    assert (failed["failed"], failed["cause"]) == (True, "revision_not_found")
    assert "model_revision" in failed["msg"]
    own = {**arguments, "revision": "nowhere", "variables": {"revision": "finetune_dataset_revision"}}
    failed = json.loads(run_module(own, tmp_path).communicate(timeout=50)[0])
    assert "correct finetune_dataset_revision;" in failed["msg"]
    failed = json.loads(run_module({**arguments, "keep": 0}, tmp_path).communicate(timeout=50)[0])
    assert (failed["failed"], failed["cause"]) == (True, "settings")
    peers = {"name": "a", "key": "s3cret" * 4, "hosts": [{"name": "a", "address": "192.0.2.1", "port": 1}]}
    output = run_module({**arguments, "peers": peers}, tmp_path).communicate(timeout=50)[0]
    assert json.loads(output)["changed"] is False
    assert "s3cret" not in output
