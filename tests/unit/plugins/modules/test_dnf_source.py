# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories of dnf as people have them; dnf itself is a fake that tells what it would read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.module_utils._host import dnf_repos
from ansible_collections.vicuna.fleet.plugins.modules import dnf_source

FAKE_DNF = """\
#!/bin/sh
for word; do case $word in --setopt=reposdir=*) folder=${word#--setopt=reposdir=} ;; esac; done
{ echo "$@"; cat "$folder"/*.repo; } >"$(dirname "$0")/asked"
if grep -q 'no-such-host' "$folder"/*.repo; then
  echo "Errors during downloading metadata for repository 'docker-ce-stable':" >&2
  echo "Error: Failed to download metadata for repo 'docker-ce-stable': Cannot download repomd.xml" >&2
  exit 1
fi
"""
DOCKER = {
    "name": "docker-ce-stable",
    "description": "Docker CE Stable",
    "baseurl": "https://download.docker.com/linux/centos/9/$basearch/stable",
    "gpgkey": "file:///etc/pki/rpm-gpg/RPM-GPG-KEY-docker",
    "replaces": ["https://download.docker.com/linux"],
}
# As ansible.builtin.yum_repository wrote it.
WRITTEN = (
    "[docker-ce-stable]\nbaseurl = https://download.docker.com/linux/centos/9/$basearch/stable\ngpgcheck = 1\n"
    "gpgkey = file:///etc/pki/rpm-gpg/RPM-GPG-KEY-docker\nname = Docker CE Stable\n\n"
)
# Docker's own file, shortened to three of its repositories.
DOCKER_CE = (
    "[docker-ce-stable]\nname=Docker CE Stable - $basearch\n"
    "baseurl=https://download.docker.com/linux/centos/$releasever/$basearch/stable\nenabled=1\ngpgcheck=1\n"
    "gpgkey=https://download.docker.com/linux/centos/gpg\n\n"
    "[docker-ce-stable-debuginfo]\nname=Docker CE Stable - Debuginfo $basearch\n"
    "baseurl=https://download.docker.com/linux/centos/$releasever/debug-$basearch/stable\nenabled=0\ngpgcheck=1\n\n"
    "[docker-ce-test]\nname=Docker CE Test - $basearch\n"
    "baseurl=https://download.docker.com/linux/centos/$releasever/$basearch/test\nenabled=True\ngpgcheck=1\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the repositories, on a host with the fake."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "dnf").write_text(FAKE_DNF)
    (programs / "dnf").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    place = tmp_path / "yum.repos.d"
    place.mkdir()
    return place


def run(folder: Path, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    args = {**DOCKER, "reposdir": str(folder), "_ansible_remote_tmp": str(folder.parent), **arguments}
    with patch_module_args(args), pytest.raises(SystemExit):
        dnf_source.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_repository_is_written_as_before_and_only_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(folder, capsys, _ansible_check_mode=True, _ansible_diff=True)
    assert told["changed"] and files(folder) == {}
    result = run(folder, capsys, _ansible_diff=True)
    assert result["changed"] and result["diff"] == told["diff"]
    assert files(folder) == {"docker-ce-stable.repo": WRITTEN}
    asked = folder.parent / "bin" / "asked"
    assert (
        "--disablerepo=* --enablerepo=docker-ce-stable makecache" in asked.read_text() and WRITTEN in asked.read_text()
    )
    asked.unlink()
    assert not run(folder, capsys)["changed"] and not asked.exists()


def test_docker_s_own_file_gives_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "docker-ce.repo").write_text(DOCKER_CE)
    result = run(folder, capsys)
    assert result["files"] == [str(folder / name) for name in ("docker-ce-stable.repo", "docker-ce.repo")]
    text = (folder / "docker-ce.repo").read_text()
    first, rest = text.split("[docker-ce-stable-debuginfo]")
    # Of two of one name dnf takes the one that it reads first.
    assert all(not line or line.startswith("# ") for line in first.splitlines())
    assert "[docker-ce-test]\nenabled=0\nname=" in rest and "enabled=True" not in rest
    assert [repository.enabled for repository in dnf_repos.parse("", text)] == [False, False]
    assert not run(folder, capsys)["changed"]


def test_what_dnf_does_not_take_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "docker-ce.repo").write_text(DOCKER_CE)
    before = files(folder)
    result = run(folder, capsys, baseurl="https://me:secret@no-such-host/x")
    assert result["failed"] and "secret" not in result["msg"]
    for words in ("Found that `dnf makecache` fails", "Cannot download repomd.xml", f"{folder} are as they were"):
        assert words in result["msg"]
    assert files(folder) == before


def test_other_repositories_of_its_own_file_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = "# mine\n[mine]\nname=Mine\nbaseurl=https://mine.example/\n\n"
    (folder / "docker-ce-stable.repo").write_text(
        f"{others}[docker-ce-stable]\nname=x\nbaseurl=https://x/\n[last]\nname=y\n"
    )
    assert run(folder, capsys)["changed"]
    assert (folder / "docker-ce-stable.repo").read_text() == f"{others}{WRITTEN}[last]\nname=y\n"
    assert not run(folder, capsys)["changed"]


# What is there, and what is there afterwards where everything of NVIDIA's old addresses has to be off.
OLDER = {
    "without the key": (
        "[nvidia-container-runtime]\nname=x\nbaseurl=https://nvidia.github.io/nvidia-container-runtime/centos7/$basearch\n",
        "[nvidia-container-runtime]\nenabled=0\nname=x\n"
        "baseurl=https://nvidia.github.io/nvidia-container-runtime/centos7/$basearch\n",
    ),
    "folded, with spaces": (
        "[a]\r\nenabled = yes\r\nbaseurl =\r\n  https://other.example/x\r\n\r\n  # note\r\n  http://nvidia.github.io/nvidia-docker/x\r\n",
        "[a]\r\nenabled=0\r\nbaseurl =\r\n  https://other.example/x\r\n\r\n  # note\r\n  http://nvidia.github.io/nvidia-docker/x\r\n",
    ),
    "a list of mirrors": (
        "[a] # old\nmirrorlist=https://nvidia.github.io/nvidia-docker/list\nenabled=1\nenabled=On\n; end\n",
        "[a] # old\nenabled=0\nmirrorlist=https://nvidia.github.io/nvidia-docker/list\n; end\n",
    ),
    "a metalink": (
        "\ufeff[a]\nmetalink=https://nvidia.github.io/nvidia-docker/link\n",
        "[a]\nenabled=0\nmetalink=https://nvidia.github.io/nvidia-docker/link\n",
    ),
    "off already": (
        "[a]\nbaseurl=https://nvidia.github.io/nvidia-docker/x\nenabled = False\n",
        "[a]\nbaseurl=https://nvidia.github.io/nvidia-docker/x\nenabled = False\n",
    ),
    "somebody else's": (
        "[a]\nbaseurl=https://mirror.example/nvidia.github.io/nvidia-docker/x\n[b]\nname=https://nvidia.github.io/nvidia-docker\n",
        "[a]\nbaseurl=https://mirror.example/nvidia.github.io/nvidia-docker/x\n[b]\nname=https://nvidia.github.io/nvidia-docker\n",
    ),
}


@pytest.mark.parametrize("name", OLDER)
def test_an_older_repository_is_off_and_nothing_else(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = OLDER[name]
    path = folder / "any name.repo"
    path.write_bytes(before.encode())
    path.chmod(0o600)
    repositories = [f"https://nvidia.github.io/{name}" for name in ("nvidia-docker", "nvidia-container-runtime")]
    assert run(folder, capsys, replaces=repositories)["changed"]
    assert path.read_bytes().decode() == after
    assert path.stat().st_mode & 0o777 == 0o600
    assert not run(folder, capsys, replaces=repositories)["changed"]
