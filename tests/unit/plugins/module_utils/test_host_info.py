# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _host_info as hi

# GET /containers/json?all=1 of Docker Engine 26.1.5, shortened to what is read.
CONTAINERS = [
    {
        "Id": "e5" * 32,
        "Names": ["/vicuna-edge-1"],
        "Labels": {"com.docker.compose.project": "vicuna", "com.docker.compose.service": "edge"},
        "State": "running",
        "Ports": [
            {"IP": "0.0.0.0", "PrivatePort": 8000, "PublicPort": 8000, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 8000, "PublicPort": 8000, "Type": "tcp"},
        ],
    },
    {
        "Id": "0a" * 32,
        "Names": ["/web"],
        "Labels": None,
        "State": "running",
        "Ports": [
            {"PrivatePort": 80, "PublicPort": 8001},
            {"IP": "0.0.0.0", "PrivatePort": 53, "PublicPort": 8000, "Type": "udp"},
        ],
    },
    {"Id": "0b" * 32, "Names": ["/old"], "Labels": {}, "State": "exited", "Ports": []},
]


def test_containers() -> None:
    found = hi.parse_containers(CONTAINERS, "vicuna")
    assert found[0]["published"] == [("0.0.0.0", 8000), ("::", 8000)]
    assert [(entry["name"], entry["own"], entry["running"], entry["ports"]) for entry in found] == [
        ("vicuna-edge-1", True, True, [8000]),
        ("web", False, True, [8001]),
        ("old", False, False, []),
    ]
    assert hi.parse_containers(None, "vicuna") == []
    assert hi.parse_containers({"message": "no"}, "vicuna") == []


def test_meminfo() -> None:
    text = "MemTotal:       24684512 kB\nMemFree:        13530248 kB\nMemAvailable:   23922688 kB\nHugePages_Total: 0\n"
    assert hi.parse_meminfo(text) == {"total_mib": 24105, "available_mib": 23362}
    assert hi.parse_meminfo("") == {"total_mib": 0, "available_mib": 0}


def test_os_release() -> None:
    text = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\nID=debian\n'
    assert hi.parse_os_release(text) == {"id": "debian", "version": "13", "name": "Debian GNU/Linux 13 (trixie)"}


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        # systemd's driver on cgroup v2, cgroupfs on v2, cgroup v1
        (f"0::/system.slice/docker-{'e5' * 32}.scope\n", "e5" * 32),
        (f"0::/docker/{'e5' * 32}\n", "e5" * 32),
        (f"12:memory:/docker/{'e5' * 32}\n0::/system.slice/docker.service\n", "e5" * 32),
        ("0::/user.slice/user-1000.slice\n", ""),
    ],
)
def test_container_of(cgroup: str, expected: str) -> None:
    assert hi.container_of(cgroup, ["0a" * 32, "e5" * 32]) == expected


def test_rss_without_what_can_be_dropped() -> None:
    status = (
        "Name:\tpython3\nVmRSS:\t  900000 kB\nRssAnon:\t  500000 kB\nRssFile:\t  380000 kB\nRssShmem:\t   20000 kB\n"
    )
    assert hi.parse_rss(status) == 520000
