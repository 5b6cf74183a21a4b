# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of revisions, the link among them, and who uses one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _model_revisions as revisions
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError

COMMIT = "3321f76e3f527bd14065daf69dad9344000a201d"

# A Debian host with Docker, and the inside of a container of it.
MOUNTINFO = """\
22 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
812 790 254:1 /model/x@3321f76e3f52 /model/x ro,relatime - ext4 /dev/vda1 rw,errors=remount-ro
813 790 254:1 /srv/a\\040b\\134c /mnt/a\\040b\\134c rw - ext4 /dev/vda1 rw
814 790 0:55 /@sub /data rw,relatime master:1 - btrfs /dev/vdb rw,space_cache=v2
broken line
"""


def test_mountinfo() -> None:
    assert revisions.parse_mountinfo(MOUNTINFO) == [
        ("0:21", "/proc", "proc"),
        ("254:1", "/", "ext4"),
        ("254:1", "/model/x", "ext4"),
        ("254:1", "/mnt/a b\\c", "ext4"),
        ("0:55", "/data", "btrfs"),
    ]


def test_names() -> None:
    link = Path("/model/vicuna.7b")
    directory = revisions.directory_of(link, COMMIT)
    assert directory == Path("/model/vicuna.7b@3321f76e3f52")
    assert revisions.is_revision(directory.name, link)
    for name in ("vicuna.7b", "vicunaX7b@3321f76e3f52", "vicuna.7b@3321f76e3f5", "vicuna.7b@3321f76e3f52.gone", "@1"):
        assert not revisions.is_revision(name, link), name


def test_the_link(tmp_path: Path) -> None:
    link = tmp_path / "x"
    directory = revisions.directory_of(link, COMMIT)
    assert revisions.what_is_at(link, "repo") == "absent"
    assert revisions.revisions(link) == []
    directory.mkdir()
    revisions.switch(link, directory)
    assert (revisions.what_is_at(link, "repo"), revisions.current(link)) == ("link", directory)
    other = revisions.directory_of(link, "f" * 40)
    other.mkdir()
    revisions.switch(link, other)
    assert revisions.current(link) == other
    assert revisions.revisions(link) == sorted([directory, other])
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere" / directory.name)
    assert revisions.current(link) is None
    with pytest.raises(GitLfsError):
        revisions.what_is_at(link, "repo")


def test_an_exchange_never_overwrites(tmp_path: Path) -> None:
    link = tmp_path / "x"
    directory = revisions.directory_of(link, COMMIT)
    for path in (link, directory):
        path.mkdir()
        (path / "file").write_text(path.name)
    with pytest.raises(GitLfsError) as caught:
        revisions.exchange(link, directory)
    assert caught.value.problem.cause == "in_the_way"
    assert (link / "file").read_text() == "x"
    (directory / "file").unlink()
    directory.rmdir()
    revisions.exchange(link, directory)
    assert (link / "file").read_text() == (directory / "file").read_text() == "x"
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("source", "used"),
    [
        ("x@3321f76e3f52", True),
        ("x@3321f76e3f52/", True),
        ("x@3321f76e3f52/sub", True),
        ("x", True),
        (".", True),
        ("..", False),
        ("x@3321f76e3f5", False),
        ("y", False),
    ],
)
def test_what_a_container_covers(tmp_path: Path, source: str, used: bool) -> None:
    link = tmp_path / "model" / "x"
    directory = revisions.directory_of(link, COMMIT)
    directory.mkdir(parents=True)
    revisions.switch(link, directory)
    found = revisions.covered([directory], {os.path.normpath(link.parent / source): "api"})
    assert (directory in found) is used


def test_no_directory_of_this_process_is_mounted(tmp_path: Path) -> None:
    assert revisions.mounted([tmp_path]) == {}


def test_a_process_that_has_it_mounted_is_found(tmp_path: Path) -> None:
    """A /proc with one process in a container, whose root is a directory here."""
    directory = tmp_path / "x"
    directory.mkdir()
    process = tmp_path / "proc" / "41"
    (process / "ns").mkdir(parents=True)
    (process / "ns/mnt").symlink_to("mnt:[4026532000]")
    (process / "root/data").mkdir(parents=True)
    (process / "root/model").symlink_to(directory)  # as the mount shows it
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = [f"1 1 {number} /a /model rw - ext4 d rw", f"2 1 {number} /b /data rw - ext4 d rw"]
    (process / "mountinfo").write_text("\n".join(lines) + "\n")
    (tmp_path / "proc" / "42").mkdir()  # gone while it was looked at
    assert list(revisions.mounted([directory], tmp_path / "proc")) == [directory]
    (process / "mountinfo").write_text(lines[1] + "\n")
    assert revisions.mounted([directory], tmp_path / "proc") == {}
    (process / "mountinfo").write_text(lines[0].replace(number, "0:9999") + "\n")
    assert revisions.mounted([directory], tmp_path / "proc") == {}, "another file system is not asked: it may hang"


def test_a_docker_that_fails(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    for script in ("exit 1", "echo abc; exit 0", "test $1 = ps && echo abc && exit; echo '[]'"):
        docker.write_text(f"#!/bin/sh\n{script}\n")
        docker.chmod(0o755)
        assert revisions.container_sources(str(docker), os.environ) is None
    docker.write_text("#!/bin/sh\nexec sleep 5\n")
    assert revisions.container_sources(str(docker), os.environ, timeout=1) is None


def test_the_models_that_releases_need(tmp_path: Path) -> None:
    link = tmp_path / "x"
    names = [digit * 12 for digit in "01234"]
    directories = [tmp_path / f"x@{name}" for name in names]
    for directory in directories:
        directory.mkdir()
    link.symlink_to(directories[2].name)
    record = tmp_path / "release.json"
    assert revisions.released(directories, record) == {}
    releases = {
        "current": {"model": {"path": str(directories[0])}},
        "broken": {"model": {"path": str(directories[1])}},
        "last": {"model": {"path": str(link)}},
        "older": {"model": {"path": str(directories[3])}},
    }
    state = {"current": "current", "pending": "broken", "good": ["last", "older"], "releases": releases}
    record.write_text(json.dumps(state))
    found = revisions.released(directories, record)
    assert list(found) == directories[:3], "what is in place, and where a broken release goes back to"
    assert found[directories[2]] == f"release last of {record} serves it"
    record.write_text(json.dumps({**state, "pending": None, "releases": {"current": {}, "last": {"model": None}}}))
    assert revisions.released(directories, record) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"current": "x", "pending": null, "good": [], "releases": {}}'])
def test_in_doubt_every_model_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    record = tmp_path / "release.json"
    record.write_text(text)
    monkeypatch.setattr(revisions, "RELEASES", record)
    found = revisions.in_use([tmp_path], {"PATH": "/nonexistent"})
    assert found == {tmp_path: f"{record} does not say which models the releases need"}
