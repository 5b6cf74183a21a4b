# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._haproxy import (
    HaproxyDown,
    HaproxyError,
    Runtime,
    carried_over,
    merge,
    older_processes,
    removed,
    replace,
)

# Captured from HAProxy 2.6.12; the columns of the statistics that nothing here reads are left out.
COLUMNS = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)


def row(name: str, op: int = 2, admin: int = 0, port: int = 8000) -> str:
    return f"2 vicuna 1 {name} 10.0.0.1 {op} {admin} 1 1 5 1 0 2 0 0 0 0 - {port} - 0 0 - - 0"


def states(*rows: str) -> str:
    return "\n".join(["1", f"# {COLUMNS}", *rows, "", ""])


STATS = (
    "# pxname,svname,qcur,scur,status,lastchg,check_status,check_code,check_duration,last_chk,check_desc,\n"
    "vicuna,a,1,3,UP,5,L7OK,200,2,,Layer7 check passed,\n"
    "vicuna,b,0,0,DOWN,7,L4CON,,0,Connection refused,Layer4 connection problem,\n\n"
)
PROCESSES = """#<PID>          <type>          <reloads>       <uptime>        <version>
4225            master          2 [failed: 0]   0d00h00m05s     2.6.12-1+deb12u4
# workers
4380            worker          0               0d00h00m01s     2.6.12-1+deb12u4
# old workers
4378            worker          1               0d00h00m04s     2.6.12-1+deb12u4
4377            worker          2               0d00h00m05s     2.6.12-1+deb12u4
# programs

"""


@pytest.mark.parametrize(
    ("op", "admin", "state"),
    [
        (2, 0, "up"),
        (1, 0, "up"),
        (0, 0, "down"),
        (2, 8, "drain"),
        (0, 8, "drain"),
        (2, 16, "drain"),
        (0, 1, "maint"),
        (0, 9, "maint"),
        (0, 32, "maint"),
    ],
)
def test_states(op: int, admin: int, state: str) -> None:
    assert merge(states(row("a", op, admin)), STATS)[0].state == state


def test_figures_belong_to_their_server() -> None:
    a, b, c = merge(states(row("a"), row("b", 0, 8), row("c")), STATS)
    assert (a.sessions, a.queued, a.since, a.check) == (3, 1, 5, "Layer7 check passed, code 200")
    assert (b.sessions, b.check, b.running) == (0, "Layer4 connection problem, Connection refused", False)
    assert (c.sessions, c.check, c.address) == (0, "", "10.0.0.1:8000")


@pytest.mark.parametrize("text", ["", "\n", "1\n", "nonsense"])
def test_nothing_is_read_into_nothing(text: str) -> None:
    assert merge(text, text) == []
    assert older_processes(text) == []


def test_older_processes() -> None:
    assert older_processes(PROCESSES) == [4378, 4377]


def test_a_new_port_and_tls_are_not_overridden_by_the_state() -> None:
    config = (
        "backend vicuna\n    server a 10.0.0.1:9000 maxconn 5 ssl verify required\n    server b [::1]:8000 maxconn 5\n"
    )
    before = states(row("a", admin=8), row("b"), row("gone", port=1))
    after = carried_over(before, config).splitlines()
    assert after[2] == "2 vicuna 1 a 10.0.0.1 2 8 1 1 5 1 0 2 0 0 0 0 - 9000 - 1 0 - - 0"
    assert after[3:5] == [row("b"), row("gone", port=1)]
    assert carried_over(before, "").split() == before.split()


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        ("# a map\n\n0f alice\n0e bob\n", "# a map\n0e bob\n", ["0f"]),
        ("0f alice\n", "0f bob\n", []),  # a key with another name is a key still
        ("0f alice\n", "0f  alice\n0e bob\n", []),
        ("", "0f alice\n", []),
        ("0f;shutdown x\n", "", []),  # no key that the runtime API could be told of
    ],
)
def test_what_a_map_lost(before: str, after: str, gone: list[str]) -> None:
    assert removed(before, after) == gone


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "state"
    replace(path, "one", 0o600)
    replace(path, "two", 0o640)
    assert (path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777) == ("two", 0o640)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.fixture
def socket_that_says(tmp_path: Path) -> Iterator[Callable[[dict[str, str]], str]]:
    """A fake of HAProxy's socket with an answer to each command."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answers: dict[str, str]) -> str:
        path = str(tmp_path / f"{len(listeners)}.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listeners.append(listener)

        def answer(connection: socket.socket) -> None:
            with connection:
                command = b"".join(iter(lambda: connection.recv(100), b"")).decode().strip()
                connection.sendall(answers.get(command, f"Unknown command: {command}\n").encode())

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    answer(listener.accept()[0])

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return path

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)
    for listener in listeners:
        listener.close()


def test_what_an_older_process_carries_through_counts(socket_that_says: Callable[[dict[str, str]], str]) -> None:
    socket_path = socket_that_says({"show servers state vicuna": states(row("a")), "show stat vicuna 4 -1": STATS})
    older = STATS.replace("vicuna,a,1,3", "vicuna,a,0,4")
    master = socket_that_says(
        {"show proc": PROCESSES, "@!4378 show stat vicuna 4 -1": older, "@!4377 show stat vicuna 4 -1": ""}
    )
    assert Runtime(socket_path, master).servers("vicuna")[0].sessions == 7
    assert Runtime(socket_path).servers("vicuna")[0].sessions == 3


@pytest.mark.parametrize(
    ("name", "address", "moved"),
    [("-", "10.0.0.1", False), ("a.test", "10.0.0.1", False), ("a.test", "10.0.0.9", True), ("a.test", "-", True)],
)
def test_a_name_that_leads_elsewhere(
    socket_that_says: Callable[[dict[str, str]], str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    address: str,
    moved: bool,
) -> None:
    line = row("a").replace("10.0.0.1", address).replace("0 - 8000", f"0 {name} 8000")
    runtime = Runtime(socket_that_says({"show servers state": states(line)}))
    answers = [(2, 1, 6, "", (found, 0)) for found in ("10.0.0.1", "10.0.0.2")]
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: answers)
        assert runtime.moved() == (["a"] if moved else [])
    with monkeypatch.context() as patched:
        # A name server that is away moves nobody.
        patched.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: (_ for _ in ()).throw(OSError()))
        assert runtime.moved() == []


def test_a_refusal_is_an_error(socket_that_says: Callable[[dict[str, str]], str]) -> None:
    runtime = Runtime(socket_that_says({"set server vicuna/a state drain": "\n"}))
    runtime.tell("set server vicuna/a state drain")
    with pytest.raises(HaproxyError, match="Unknown command"):
        runtime.tell("set server vicuna/b state drain")


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(HaproxyDown, match="does not exist"):
        Runtime(str(tmp_path / "none.sock")).info()
    path = str(tmp_path / "left.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with pytest.raises(HaproxyDown, match="nobody listens"):
        Runtime(path, patience=0).info()
