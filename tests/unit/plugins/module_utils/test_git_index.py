# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index that is written without git, asked of git: clean, and not one large file read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _git_index
from ansible_collections.vicuna.fleet.plugins.module_utils._git_index import IndexEntry, index_bytes, write_index

from ..fake_hub import pointer

BIG = 3 * 1024**3
ATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n"


class Repository:
    """A repository with a commit, and a work tree that is filled by hand."""

    def __init__(self, path: Path, object_format: str = "sha1") -> None:
        self.path = path
        self.mark = path.parent / "filtered"
        self.blobs: dict[str, tuple[str, str]] = {}
        path.mkdir()
        self.git("init", "--quiet", f"--object-format={object_format}")

    def git(self, *arguments: str, content: bytes = b"") -> str:
        settings = [f"filter.lfs.{name}=touch '{self.mark}'; cat" for name in ("clean", "smudge")]
        settings += ["user.name=Test", "user.email=test@example.invalid"]
        command = ["git", "-C", str(self.path), *(part for setting in settings for part in ("-c", setting))]
        env = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
        }
        done = subprocess.run([*command, *arguments], input=content, env=env, check=True, capture_output=True)
        return done.stdout.decode()

    def commit(self, files: dict[str, tuple[str, bytes]]) -> None:
        """Commit blobs, without a work tree and without an index that stays."""
        rows = []
        for path, (mode, content) in files.items():
            blob = self.git("hash-object", "-w", "--stdin", content=content).strip()
            self.blobs[path] = (mode, blob)
            rows.append(f"{mode} {blob}\t{path}\n")
        self.git("update-index", "--index-info", content="".join(rows).encode())
        self.git("commit", "--quiet", "-m", "commit")
        (self.path / ".git/index").unlink()

    def put(self, path: str, content: bytes, *, age: float = 10, mode: int = 0o644, size: int = 0) -> None:
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if size:
            os.truncate(target, size)
        target.chmod(mode)
        os.utime(target, (time.time() - age,) * 2)

    def entries(self, left_out: Iterable[str] = ()) -> list[IndexEntry]:
        return [
            IndexEntry(path, mode, blob, None if path in left_out else (self.path / path).lstat())
            for path, (mode, blob) in self.blobs.items()
        ]

    def status(self) -> str:
        return self.git("status", "--porcelain")

    def untouched(self) -> bool:
        """Whether git did not run the clean filter, that is, read no file that is in LFS."""
        return not self.mark.exists()


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_git_sees_a_clean_tree_without_reading_it(tmp_path: Path, object_format: str) -> None:
    repository = Repository(tmp_path / "r", object_format)
    weights = pointer(b"not what is in the file")
    repository.commit(
        {
            ".gitattributes": ("100644", ATTRIBUTES),
            "a.bin": ("100644", weights),
            "big.bin": ("100644", weights),
            "config.json": ("100644", b"{}\n"),
            "out/left.bin": ("100644", weights),
            "run.sh": ("100755", b"#!/bin/sh\n"),
            "sub/" + "n" * 200 + ".bin": ("100644", weights),
            "sub/é\t.json": ("100644", b"[]\n"),
        }
    )
    repository.put(".gitattributes", ATTRIBUTES)
    repository.put("a.bin", b"weights")
    repository.put("big.bin", b"weights", size=BIG)
    repository.put("config.json", b"{}\n")
    repository.put("run.sh", b"#!/bin/sh\n", mode=0o755)
    repository.put("sub/" + "n" * 200 + ".bin", b"weights" * 3)
    repository.put("sub/é\t.json", b"[]\n")
    write_index(repository.path / ".git", repository.entries(left_out=["out/left.bin"]))
    assert repository.status() == ""
    assert repository.untouched()
    assert repository.git("fsck", "--no-dangling") == ""
    assert repository.git("ls-files", "-v", "out").startswith("S "), "skip-worktree"
    assert not (repository.path / ".git/index.lock").exists()
    # And it is no blind index: git sees each kind of change.
    repository.put("config.json", b"{1}", age=3)
    (repository.path / "run.sh").chmod(0o644)
    (repository.path / "a.bin").unlink()
    assert [line[:2] for line in repository.status().splitlines()] == [" D", " M", " M"]
    assert repository.untouched()
    os.utime(repository.path / "sub" / ("n" * 200 + ".bin"))
    repository.status()
    assert not repository.untouched(), "the filter does leave its mark"


def test_a_name_longer_than_the_flags_can_say(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    path = "/".join(["d" * 200] * 21) + "/x.bin"
    assert len(path) > 0xFFF
    content = index_bytes([IndexEntry(path, "100644", "1" * 40, None), IndexEntry("a", "100644", "2" * 40, None)])
    (repository.path / ".git/index").write_bytes(content)
    assert repository.git("ls-files", "-s").splitlines() == [
        f"100644 {'2' * 40} 0\ta",
        f"100644 {'1' * 40} 0\t{path}",
    ]


def test_a_submodule_that_is_not_there(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    repository.commit({"a.txt": ("100644", b"a")})
    repository.put("a.txt", b"a")
    module = "3" * 40
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{module},vendor")
    repository.git("read-tree", repository.git("write-tree").strip())
    repository.git("add", "a.txt")
    repository.git("commit", "--quiet", "-m", "submodule")
    write_index(repository.path / ".git", [*repository.entries(), IndexEntry("vendor", "160000", module, None)])
    assert repository.status() == ""


def test_a_young_file_is_waited_for(tmp_path: Path) -> None:
    """A file as young as the index would be read by git: the index is written in a later second."""
    repository = Repository(tmp_path / "r")
    repository.commit({".gitattributes": ("100644", ATTRIBUTES), "a.bin": ("100644", pointer(b"x"))})
    repository.put(".gitattributes", ATTRIBUTES)
    repository.put("a.bin", b"weights", age=0)
    write_index(repository.path / ".git", repository.entries())
    assert repository.status() == ""
    assert repository.untouched()


def test_a_file_from_the_future_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.utime(tmp_path / "file", (time.time() + 3600,) * 2)
    started = time.monotonic()
    write_index(tmp_path, [IndexEntry("file", "100644", "1" * 40, (tmp_path / "file").lstat())])
    assert time.monotonic() - started < 1


def test_a_multiple_of_4_gib_is_not_written_as_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 4 * 1024**3)
    assert _git_index.stat_words((tmp_path / "file").lstat(), 0o100644)[-1] == 0x80000000
    os.truncate(tmp_path / "file", 4 * 1024**3 + 5)
    assert _git_index.stat_words((tmp_path / "file").lstat(), 0o100644)[-1] == 5


def test_somebody_elses_lock_is_respected(tmp_path: Path) -> None:
    (tmp_path / "index.lock").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        write_index(tmp_path, [])
    assert (tmp_path / "index.lock").read_bytes() == b"theirs"
    assert not (tmp_path / "index").exists()


def test_the_checksum() -> None:
    content = index_bytes([])
    assert content[-20:] == hashlib.sha1(content[:-20]).digest()
    content = index_bytes([], sha256=True)
    assert content[-32:] == hashlib.sha256(content[:-32]).digest()
