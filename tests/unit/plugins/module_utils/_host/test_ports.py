# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._host.ports import (
    Listener,
    judge,
    listeners,
    overlap,
    owners,
    parse,
)

# /proc/net/tcp and tcp6 of a Debian 13 host: sshd listens, docker-proxy listens, one connection of sshd; and a socket
# of each kind of address.
ROW = " 00000000:00000000 00:00000000 00000000     0        0 {} 1 0000000000000000 100 0 0 10 0\n"
TCP = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    "   0: 00000000:0016 00000000:0000 0A"
    + ROW.format(13845)
    + "   1: 0100007F:1F40 00000000:0000 0A"
    + ROW.format(50121)
    + "   2: 0200C80A:0016 0100C80A:C350 01"
    + ROW.format(41122)
    + "   3: 010200C0:1F40 00000000:0000 0A"
    + ROW.format(50123)
)
TCP6 = (
    "  sl  local_address                         remote_address                        st tx_queue rx_queue "
    "tr tm->when retrnsmt   uid  timeout inode\n"
    f"   0: {'0' * 32}:1F41 {'0' * 32}:0000 0A"
    + ROW.format(50122)
    + f"   1: {'0' * 24}01000000:1F40 {'0' * 32}:0000 0A"
    + ROW.format(50124)
    + f"   2: {'0' * 16}FFFF00000100007F:1F42 {'0' * 32}:0000 0A"
    + ROW.format(50125)
    + f"   3: B80D0120{'0' * 16}01000000:1F43 {'0' * 32}:0000 0A"
    + ROW.format(50126)
)


def test_parse() -> None:
    assert parse(TCP) == [
        Listener("0.0.0.0", 22, "13845"),
        Listener("127.0.0.1", 8000, "50121"),
        Listener("192.0.2.1", 8000, "50123"),
    ]
    assert parse(TCP6) == [
        Listener("::", 8001, "50122"),
        Listener("::1", 8000, "50124"),
        Listener("127.0.0.1", 8002, "50125"),
        Listener("2001:db8::1", 8003, "50126"),
    ]
    assert parse("") == []


OVERLAPS = [
    ("0.0.0.0", "0.0.0.0", True),
    ("0.0.0.0", "127.0.0.1", True),
    ("127.0.0.1", "0.0.0.0", True),
    ("127.0.0.1", "127.0.0.1", True),
    ("192.0.2.1", "127.0.0.1", False),
    ("127.0.0.1", "127.0.0.2", False),
    ("::", "::", True),
    ("::", "::1", True),
    ("::1", "::", True),
    ("2001:db8::1", "::1", False),
    # One socket for both families.
    ("0.0.0.0", "::", True),
    ("192.0.2.1", "::", True),
    ("::", "0.0.0.0", True),
    ("::", "127.0.0.1", True),
    ("0.0.0.0", "::1", False),
    ("192.0.2.1", "::1", False),
    ("::1", "0.0.0.0", False),
    ("127.0.0.1", "::ffff:127.0.0.1", True),
    ("127.0.0.1", "::ffff:192.0.2.1", False),
    ("[::1]", "::1", True),
    ("fe80::1%eth0", "fe80::1", True),
    ("not an address", "127.0.0.1", True),
]


@pytest.mark.parametrize(("wanted", "there", "expected"), OVERLAPS)
def test_overlap(wanted: str, there: str, expected: bool) -> None:
    assert overlap(wanted, there) is expected


@pytest.mark.parametrize(
    ("wanted", "there", "alone", "expected"),
    [
        ("0.0.0.0", "::", (False, True), False),
        ("0.0.0.0", "::", (True, False), True),
        ("::", "127.0.0.1", (True, False), False),
        ("::", "::1", (True, True), True),
    ],
)
def test_sockets_for_ipv6_alone(wanted: str, there: str, alone: tuple[bool, bool], expected: bool) -> None:
    assert overlap(wanted, there, *alone) is expected


def can_bind(wanted: str, there: str, alone: bool) -> bool:
    """By the kernel's own word: both listen at one port, the second one for IPv6 alone or not."""
    first, second = (socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET) for at in (there, wanted))
    with first, second:
        for one in (first, second):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in there:
            first.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, alone)
        if ":" in wanted:
            second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
        first.bind((there, 0))
        first.listen()
        with contextlib.suppress(OSError):
            second.bind((wanted, first.getsockname()[1]))
            second.listen()
            return True
        return False


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("wanted", "there"),
    [(a, b) for a, b, _expected in OVERLAPS if {a, b} <= {"0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1"}],
)
def test_the_kernel_says_the_same(wanted: str, there: str, alone: bool) -> None:
    if not socket.has_ipv6 and ":" in wanted + there:
        pytest.skip("this machine has no IPv6")
    try:
        possible = can_bind(wanted, there, alone)
    except OSError:
        pytest.skip("this machine has no such address")
    assert possible is not overlap(wanted, there, there_alone=alone)


def container(name: str, *published: tuple[str, int], own: bool = False, running: bool = True) -> dict[str, Any]:
    return {"name": name, "own": own, "running": running, "published": list(published)}


EDGE = container("vicuna-edge-1", ("0.0.0.0", 8000), ("::", 8000), own=True)
WEB = container("web", ("127.0.0.1", 8000))
PROXY, PROXY6 = Listener("0.0.0.0", 8000, "1"), Listener("::", 8000, "2")
LOCAL, OTHER, WIDE = (Listener(at, 8000, "3") for at in ("127.0.0.1", "192.0.2.1", "::"))
FREE, OURS, NGINX = (True, False, ""), (False, True, "the container vicuna-edge-1"), (False, False, "nginx (pid 7)")


@pytest.mark.parametrize(
    ("address", "here", "containers", "expected"),
    [
        ("0.0.0.0", [], [], FREE),
        ("0.0.0.0", [LOCAL], [], NGINX),
        ("192.0.2.1", [LOCAL], [], FREE),
        ("127.0.0.1", [LOCAL], [], NGINX),
        ("127.0.0.1", [OTHER], [], FREE),
        ("0.0.0.0", [WIDE], [], NGINX),
        ("127.0.0.1", [WIDE], [], NGINX),
        # Both are there: the one at :: takes IPv6 alone.
        ("127.0.0.1", [WIDE, OTHER], [], FREE),
        ("::", [LOCAL], [], FREE),
        ("::", [WIDE], [], NGINX),
        # Our own edge, with docker-proxy's sockets and without.
        ("0.0.0.0", [PROXY, PROXY6], [EDGE], OURS),
        ("192.0.2.1", [PROXY, PROXY6], [EDGE], OURS),
        ("0.0.0.0", [], [EDGE], OURS),
        # It moves to another address, where somebody else listens.
        ("0.0.0.0", [Listener("192.0.2.1", 8000, "1"), LOCAL], [container("e", ("192.0.2.1", 8000), own=True)], NGINX),
        # Somebody else's container, where it is in the way and where it is not.
        ("0.0.0.0", [Listener("127.0.0.1", 8000, "1")], [WEB], (False, False, "the container web")),
        ("192.0.2.1", [Listener("127.0.0.1", 8000, "1")], [WEB], FREE),
        ("0.0.0.0", [], [container("web", ("", 8000))], (False, False, "the container web")),
        ("0.0.0.0", [], [container("web", ("0.0.0.0", 8000), running=False)], FREE),
        ("0.0.0.0", [], [container("web", ("0.0.0.0", 8001))], FREE),
        # An engine that does not answer cannot tell whose docker-proxy it is.
        ("0.0.0.0", [PROXY], [], (False, False, "docker-proxy (pid 9)")),
        ("0.0.0.0", [Listener("0.0.0.0", 8000, "nobody's")], [], (False, False, "")),
    ],
)
def test_judge(
    address: str, here: list[Listener], containers: list[dict[str, Any]], expected: tuple[bool, bool, str]
) -> None:
    processes = {"1": "docker-proxy (pid 9)", "2": "docker-proxy (pid 10)", "3": "nginx (pid 7)"}
    (found,) = judge([8000], address, here, processes, containers)
    assert (found["port"], found["free"], found["own"], found["by"]) == (8000, *expected)


def test_this_machine() -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        port = mine.getsockname()[1]
        (found,) = listeners([port])
        assert (found.address, found.port) == ("127.0.0.1", port)
        assert list(owners({found.inode})) == [found.inode]
    assert owners(set()) == {}
