# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.filter.older_than import FilterModule
from ansible_collections.vicuna.fleet.plugins.module_utils._common.version import numbers, of, older
from ansible_collections.vicuna.fleet.plugins.module_utils._docker_engine import parse_info
from ansible_collections.vicuna.fleet.plugins.module_utils._git_lfs import check_git_lfs_version
from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_driver import parse_loaded

CASES = {
    # engines and their plugins, of Docker, Debian, Ubuntu, Docker Desktop and Mirantis
    "24.0.7-0ubuntu2~22.04.1": "24.0.7",
    "5:27.3.1-1~debian.12~bookworm": "27.3.1",
    "26.1.5+dfsg1": "26.1.5",
    "28.0.0-rc.1": "28.0.0",
    "20.10.25+azure-2": "20.10.25",
    "23.0.11-cs1": "23.0.11",
    "17.06.2-ce": "17.06.2",
    "v2.24.6-desktop.1": "2.24.6",
    "2.26.1-4": "2.26.1",
    "Docker version 26.1.5+dfsg1, build a72d7cd": "26.1.5",
    "Docker Compose version v2.40.3": "2.40.3",
    "github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3": "0.13.1",
    "github.com/docker/buildx v0.19.2-desktop.1 5ad9d0f": "0.19.2",
    # NVIDIA
    "550.163.01": "550.163.01",
    "550.163.01-2": "550.163.01",
    "NVIDIA Container Toolkit CLI version 1.18.0-rc.4\ncommit: 9b69590c7428470a72f2ae05f826412976af1395\n": "1.18.0",
    "Fabric Manager version is : 580.95.05\n": "580.95.05",
    "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U16)": "580.95.05",
    "12.8": "12.8",
    # others
    "git version 2.39.5 (Apple Git-154)": "2.39.5",
    "git version 2.43.0.windows.1": "2.43.0",
    "git-lfs/3.6.1 (GitHub; linux amd64; go 1.23.1)": "3.6.1",
    "git-lfs/2.3.4": "2.3.4",
    "HAProxy version 2.9-1+b1 2023/12/16 - https://haproxy.org/": "2.9",
    "HA-Proxy version 2.2.9-2+deb11u6 2023/12/11": "2.2.9",
    "HAProxy version 3.1-dev5-9da6b8-12 2024/08/02": "3.1",
    "Python 3.13.5": "3.13.5",
    "6.12.9-amd64": "6.12.9",
    "5.15.0-1073-aws": "5.15.0",
    "2.9-1+b1": "2.9",
    "1:13-2": "13",
    "13": "13",
    # no release
    "dev": "",
    "": "",
    "a72d7cd": "",
    "[N/A]": "",
    "x86_64": "",
    "Not Supported": "",
}


@pytest.mark.parametrize(("text", "expected"), CASES.items())
def test_of(text: str, expected: str) -> None:
    assert of(text) == expected


@pytest.mark.parametrize("text", [text for text, expected in CASES.items() if "." in expected])
def test_every_reader_says_the_same(text: str) -> None:
    """The engine and its plugins, the loaded driver, git-lfs."""
    plugins = [{"Name": "compose", "Version": text}]
    answer = parse_info(json.dumps({"ServerVersion": text, "ClientInfo": {"Plugins": plugins}}), "")
    assert (answer.version, answer.compose) == (CASES[text], CASES[text])
    assert parse_loaded(f"NVRM version: {text.splitlines()[0]}\nGCC version:\n")[0] == CASES[text]
    problem = check_git_lfs_version(text)
    assert (problem is not None) == (numbers(text) < (3,))


@pytest.mark.parametrize(
    ("text", "minimum", "expected"),
    [
        ("5:24.0.7-1~ubuntu", "25.0", True),
        ("25.0.0", "25.0", False),
        ("25", "25.0", False),
        ("25.0", "25.0.0", False),
        ("2.9.0", "2.18.0", True),
        ("v2.18.0-desktop.2", "2.18.0", False),
        ("28.0.0-rc.1", "28.0.0", False),
        ("550.163.01", "550.163.1", False),
        ("550.54.14", "550.163.01", True),
        ("10.0", "9.0", False),
        ("9.0", "0", False),
        ("dev", "25.0", False),
        ("", "2.18.0", True),
        (" ", "2.18.0", True),
    ],
)
def test_older(text: str, minimum: str, expected: bool) -> None:
    assert older(text, minimum) is expected
    assert FilterModule().filters()["older_than"](text, minimum) is expected


def test_no_other_reader() -> None:
    """What compares versions asks this one: no test of Jinja's, no pattern of its own."""
    root = Path(__file__).resolve().parents[5]
    for path in (*root.glob("roles/*/vars/*.yml"), *root.glob("roles/*/tasks/*.yml"), *root.glob("playbooks/**/*.yml")):
        assert "is version(" not in path.read_text(encoding="utf-8"), path
