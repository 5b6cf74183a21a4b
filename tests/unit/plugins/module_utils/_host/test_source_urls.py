# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._host.source_urls import address, leads_to

DOCKER = "https://download.docker.com/linux"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://download.docker.com/linux/debian/", "download.docker.com/linux/debian"),
        ("HTTP://me:p@ss@Download.Docker.com/linux/debian", "download.docker.com/linux/debian"),
        ("tor+https://mirror.example:8080/Debian", "mirror.example:8080/Debian"),
        ("file:///var/cuda-repo-debian12-12-9-local", "/var/cuda-repo-debian12-12-9-local"),
        ("file:/srv/mirror", "/srv/mirror"),
        ("mirror+file:///etc/apt/mirrors/debian.list", "/etc/apt/mirrors/debian.list"),
        ("http://[2001:db8::1]:3142/debian", "[2001:db8::1]:3142/debian"),
        ("cdrom:[Debian GNU/Linux 12]/", "[debian gnu/Linux 12]"),
    ],
)
def test_address(url: str, expected: str) -> None:
    assert address(url) == expected


@pytest.mark.parametrize(
    ("url", "repositories", "expected"),
    [
        ("http://download.docker.com/linux/ubuntu", [DOCKER], True),
        ("https://download.docker.com/linux", [DOCKER + "/"], True),
        ("https://download.docker.com/linuxes", [DOCKER], False),
        ("https://download.docker.com.evil.example/linux/debian", [DOCKER], False),
        ("https://mirror.example/download.docker.com/linux/debian", [DOCKER], False),
        ("https://download.docker.com:443/linux/debian", [DOCKER], True),
        ("mirror+http://download.docker.com:80//linux/debian", [DOCKER], True),
        ("http://download.docker.com:443/linux/debian", [DOCKER], False),
        ("https://download.docker.com:8443/linux/debian", [DOCKER], False),
        ("https://download-docker.com/linux/debian", ["https://download.docker.com/linux"], False),
        ("file:/var/nvidia-driver-local-repo-x/sub", ["file:///var/nvidia-driver-local-repo-*"], True),
        ("file:/var/nvidia-driver/local-repo-x", ["file:/var/nvidia*repo-*"], False),
        ("http://[2001:db8::1]/debian/x", ["http://[2001:db8::1]/debian"], True),
        ("https://download.docker.com/linux", [], False),
    ],
)
def test_leads_to(url: str, repositories: list[str], expected: bool) -> None:
    assert leads_to(url, repositories) is expected
