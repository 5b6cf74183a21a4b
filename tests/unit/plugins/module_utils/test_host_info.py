# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _host_info as hi

# /proc/net/tcp6 and tcp of a Debian 13 host: sshd listens, docker-proxy listens, one connection of sshd.
ROW = " 00000000:00000000 00:00000000 00000000     0        0 {} 1 0000000000000000 100 0 0 10 0\n"
TCP = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    "   0: 00000000:0016 00000000:0000 0A"
    + ROW.format(13845)
    + "   1: 00000000:1F40 00000000:0000 0A"
    + ROW.format(50121)
    + "   2: 0200C80A:0016 0100C80A:C350 01"
    + ROW.format(41122)
)
TCP6 = (
    "  sl  local_address                         remote_address                        st tx_queue rx_queue "
    "tr tm->when retrnsmt   uid  timeout inode\n"
    f"   0: {'0' * 32}:1F41 {'0' * 32}:0000 0A" + ROW.format(50122)
)
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
        "Ports": [{"PrivatePort": 80, "PublicPort": 8001}],
    },
    {"Id": "0b" * 32, "Names": ["/old"], "Labels": {}, "State": "exited", "Ports": []},
]


def test_listeners() -> None:
    assert hi.parse_listeners(TCP) == [hi.Listener(22, "13845"), hi.Listener(8000, "50121")]
    assert hi.parse_listeners(TCP6) == [hi.Listener(8001, "50122")]
    assert hi.parse_listeners("") == []


def test_containers() -> None:
    found = hi.parse_containers(CONTAINERS, "vicuna")
    assert [(entry["name"], entry["own"], entry["running"], entry["ports"]) for entry in found] == [
        ("vicuna-edge-1", True, True, [8000]),
        ("web", False, True, [8001]),
        ("old", False, False, []),
    ]
    assert hi.parse_containers(None, "vicuna") == []
    assert hi.parse_containers({"message": "no"}, "vicuna") == []


@pytest.mark.parametrize(
    ("port", "processes", "containers", "expected"),
    [
        (9000, {}, CONTAINERS, (True, False, "")),
        (8000, {"50121": "docker-proxy (pid 9)"}, CONTAINERS, (False, True, "the container vicuna-edge-1")),
        (8001, {}, CONTAINERS, (False, False, "the container web")),
        (8000, {"50121": "nginx (pid 7)"}, [], (False, False, "nginx (pid 7)")),
        # An engine without a userland proxy publishes without a socket.
        (8000, {}, [], (False, False, "")),
        (22, {"13845": "sshd (pid 1)"}, [], (False, False, "sshd (pid 1)")),
    ],
)
def test_ports(
    port: int, processes: dict[str, str], containers: list[dict[str, Any]], expected: tuple[bool, bool, str]
) -> None:
    listeners = hi.parse_listeners(TCP) + hi.parse_listeners(TCP6)
    (found,) = hi.judge_ports([port], listeners, processes, hi.parse_containers(containers, "vicuna"))
    assert (found["free"], found["own"], found["by"]) == expected


def test_a_port_that_is_published_without_a_socket() -> None:
    (found,) = hi.judge_ports([8000], [], {}, hi.parse_containers(CONTAINERS, "vicuna"))
    assert (found["free"], found["own"]) == (False, True)


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
