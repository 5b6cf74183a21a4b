# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that give each other objects: who brings what, who may have it, and what a bad neighbour costs."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vicuna.fleet.plugins.module_utils import _lfs_peers as peers
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_peers import (
    Bucket,
    Gone,
    Nonces,
    NotYet,
    Peer,
    PeerSource,
    ServerOptions,
    Unwilling,
    authorization,
    check,
    fingerprint,
    ranking,
    sign,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import BLOCK, BlockMap, Store, boot_id

ROOT = Path(__file__).resolve().parents[4]
KEY = "6b" * 32
CONTENT = random.Random(4).randbytes(3 * BLOCK + 1234)
OID = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)

oids = st.integers(0, 2**256 - 1).map("{:064x}".format)
hosts = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=9)


# --- who brings what


@given(oids, st.integers(0, 10**6), hosts, st.randoms())
def test_a_ranking_is_a_permutation_and_the_same_on_every_host(
    oid: str, piece: int, names: set[str], chance: random.Random
) -> None:
    order = ranking(oid, piece, names)
    assert sorted(order) == sorted(names)
    shuffled = sorted(names)
    chance.shuffle(shuffled)
    assert ranking(oid, piece, shuffled + shuffled[:1]) == order


@given(oids, st.integers(0, 10**6), st.integers(1, 300), hosts)
def test_the_homes_of_consecutive_pieces_are_balanced(oid: str, first: int, count: int, names: set[str]) -> None:
    homes = collections.Counter(ranking(oid, piece, names)[0] for piece in range(first, first + count))
    brought = [homes[name] for name in names]
    assert max(brought) - min(brought) <= 1


@settings(deadline=None)
@given(oids, st.integers(0, 10**6), st.integers(1, 300), hosts.filter(lambda names: len(names) > 1))
def test_the_pieces_of_a_dead_host_fall_to_all_others_evenly(oid: str, first: int, count: int, names: set[str]) -> None:
    orders = [ranking(oid, piece, names) for piece in range(first, first + count)]
    for dead in names:
        heirs = collections.Counter(order[1] for order in orders if order[0] == dead)
        taken = [heirs[name] for name in names if name != dead]
        assert max(taken) - min(taken) <= 1


def test_the_pieces_of_two_dead_hosts_fall_to_all_others_evenly() -> None:
    names = {f"gpu-{number}" for number in range(8)}
    orders = [ranking(OID, piece, names) for piece in range(8 * 7 * 6 * 2)]
    dead = {"gpu-3", "gpu-4"}
    heirs = collections.Counter(next(name for name in order if name not in dead) for order in orders)
    assert set(heirs.values()) == {8 * 7 * 6 * 2 // 6}


def test_objects_of_one_piece_each_have_different_homes() -> None:
    names = [f"gpu-{number}" for number in range(4)]
    several = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(400)]
    homes = collections.Counter(ranking(oid, 0, names)[0] for oid in several)
    assert min(homes.values()) > 60


# --- who may ask


def test_a_signed_request_is_accepted_and_any_change_of_it_is_not() -> None:
    header = authorization(KEY, "GET", "/v1/x", 1000.7, "ab" * 8)
    assert check(KEY, "GET", "/v1/x", header, 1000) == ""
    assert check(KEY[:-1] + "0", "GET", "/v1/x", header, 1000) == "signature"
    assert check(KEY, "POST", "/v1/x", header, 1000) == "signature"
    assert check(KEY, "GET", "/v1/x?wait=1", header, 1000) == "signature"
    assert check(KEY, "GET", "/v1/x", header.replace(" 1000:", " 1001:"), 1000) == "signature"
    assert check(KEY, "GET", "/v1/x", header.replace(" 1000:", " 01000:"), 1000) == "signature"
    assert check(KEY, "GET", "/v1/x", header.replace("abab:", "abac:"), 1000) == "signature"
    assert KEY not in header


@pytest.mark.parametrize("header", ["", "Basic eA==", "vicuna-fleet", "vicuna-fleet ::", "vicuna-fleet 1:2:3", "é"])
def test_what_is_no_signature(header: str) -> None:
    assert check(KEY, "GET", "/", header, 1000) == "signature"


def test_a_request_may_be_five_minutes_off_and_no_more() -> None:
    header = authorization(KEY, "GET", "/", 10_000, "ab" * 8)
    assert [check(KEY, "GET", "/", header, now) for now in (9_700, 10_300)] == ["", ""]
    assert [check(KEY, "GET", "/", header, now) for now in (9_699, 10_301)] == ["clock", "clock"]
    # Somebody without the key learns nothing of this host's clock.
    assert check("other", "GET", "/", header, 10_301) == "signature"


def test_a_fingerprint_is_not_the_key() -> None:
    assert fingerprint(KEY) != fingerprint(KEY + "0")
    assert fingerprint(KEY) not in KEY
    assert sign(KEY, "GET", "/", 1, "a") != sign(KEY, "GET", "/", 1, "b")


def test_a_nonce_counts_once_and_the_memory_is_bounded() -> None:
    nonces = Nonces(limit=3)
    assert nonces.new("a", 0)
    assert not nonces.new("a", 599)
    assert [nonces.new(name, 600) for name in "bcde"] == [True] * 4
    assert not nonces.new("e", 700)
    assert len(nonces._seen) == 3
    assert nonces.new("e", 1300)
    assert len(nonces._seen) == 1


def test_a_bucket_is_shared() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)

    bucket = Bucket(1000, lambda: now[0], sleep)
    for _ in range(3):
        bucket.take(500)
    assert slept == [0.5, 1.0]
    now[0] = 10
    bucket.take(500)
    assert slept == [0.5, 1.0]
    assert Bucket(10**9).chunk == 256 * 1024
    assert Bucket(1000).chunk == 4096


# --- a server on loopback


class Half:
    """A store with an object that is on its way."""

    def __init__(self, path: Path, content: bytes = CONTENT) -> None:
        self.store = Store(path)
        self.content = content
        self.oid = hashlib.sha256(content).hexdigest()
        self.store.part(self.oid).parent.mkdir(parents=True, exist_ok=True)
        with self.store.part(self.oid).open("wb") as file:
            file.truncate(len(content))
        made = BlockMap.open(self.store.map(self.oid), len(content), create=True)
        assert made
        self.map = made

    def put(self, first: int, stop: int | None = None) -> None:
        stop = first + 1 if stop is None else stop
        with self.store.part(self.oid).open("r+b") as file:
            file.seek(first * BLOCK)
            file.write(self.content[first * BLOCK : stop * BLOCK])
        self.map.mark(first, stop)

    def all(self) -> Half:
        self.put(0, self.map.blocks)
        return self


class Running:
    """A server in a thread of this process."""

    def __init__(self, options: ServerOptions) -> None:
        self.busy = True
        listener = peers.listen(options)
        self.port = int(listener.getsockname()[1])
        self.server = peers._Server(dataclasses.replace(options, busy=lambda: self.busy), listener)
        self.server.timeout = 0.05
        listener.settimeout(0.05)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.server.run()
        self.server.server_close()

    def ends(self, seconds: float) -> bool:
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def close(self) -> None:
        self.busy = False
        self.server.expected = frozenset()
        assert self.ends(5)


Serving = Callable[..., Running]


@pytest.fixture
def half(tmp_path: Path) -> Iterator[Half]:
    half = Half(tmp_path / "lfs")
    yield half
    half.map.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    started: list[Running] = []

    def start(**changes: Any) -> Running:
        given: dict[str, Any] = {"address": "127.0.0.1", "objects": {OID: SIZE}, "expected": ["gpu-2"], **changes}
        started.append(Running(ServerOptions(store=tmp_path / "lfs", port=0, key=KEY, **given)))
        return started[-1]

    yield start
    for running in started:
        running.close()


def client(running: Running, key: str = KEY, **settings_: Any) -> PeerSource:
    return PeerSource(Peer("gpu-1", "127.0.0.1", running.port), key, "gpu-2", **{"timeout": 5.0, **settings_})


def everything(source: PeerSource, start: int = 0, stop: int = SIZE, wait: float = 0.0, oid: str = OID) -> bytes:
    """What the source gives, read as the engine reads it."""
    got = bytearray()
    buffer = memoryview(bytearray(BLOCK))
    with source.open(oid, start, stop, wait=wait) as stream:
        while count := stream.readinto(buffer):
            got += buffer[:count]
    return bytes(got)


def raw(port: int, data: bytes, address: str = "127.0.0.1") -> bytes:
    """What the server says to these very bytes, until it closes or is silent."""
    with socket.create_connection((address, port), 5) as connection:
        connection.sendall(data)
        connection.settimeout(1)
        said = b""
        with contextlib.suppress(OSError):
            while chunk := connection.recv(65536):
                said += chunk
        return said


def request(
    path: str, *, method: str = "GET", key: str = KEY, age: float = 0, more: str = "Connection: close\r\n"
) -> bytes:
    proof = authorization(key, method, path, time.time() - age, os.urandom(8).hex())
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {proof}\r\n{more}\r\n".encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def test_a_part_that_is_there_is_read_whole_and_in_ranges(half: Half, serving: Serving) -> None:
    source = client(serving())
    half.all()
    assert everything(source) == CONTENT
    assert everything(source, BLOCK, 2 * BLOCK) == CONTENT[BLOCK : 2 * BLOCK]
    assert everything(source, 3 * BLOCK) == CONTENT[3 * BLOCK :]
    assert source.digest(OID, BLOCK, SIZE) == hashlib.sha256(CONTENT[BLOCK:]).hexdigest()


def test_a_block_is_sent_before_the_next_one_exists(half: Half, serving: Serving) -> None:
    source = client(serving())
    half.put(0)
    buffer = memoryview(bytearray(BLOCK))
    with source.open(OID, 0, SIZE) as stream:
        for block in range(4):
            stop = min(SIZE, (block + 1) * BLOCK)
            assert stream.readinto(buffer) == stop - block * BLOCK
            assert buffer[: stop - block * BLOCK] == CONTENT[block * BLOCK : stop]
            if block < 3:
                assert not half.map.has(block + 1)
                half.put(block + 1)
        assert stream.readinto(buffer) == 0


def test_the_first_block_is_waited_for(half: Half, serving: Serving) -> None:
    source = client(serving())
    threading.Timer(0.3, half.all).start()
    began = time.monotonic()
    assert everything(source, wait=5) == CONTENT
    assert 0.25 < time.monotonic() - began < 4


def test_an_object_whose_fetch_begins_while_somebody_waits(tmp_path: Path, serving: Serving) -> None:
    (tmp_path / "lfs").mkdir()
    source = client(serving())
    threading.Timer(0.2, lambda: Half(tmp_path / "lfs").all()).start()
    assert everything(source, wait=5) == CONTENT


def test_a_first_block_that_does_not_come_in_time(half: Half, serving: Serving) -> None:
    source = client(serving())
    began = time.monotonic()
    with pytest.raises(NotYet) as caught:
        everything(source, wait=0.3)
    assert 0.25 < time.monotonic() - began < 4
    assert caught.value.retry
    assert caught.value.wait == 1
    # The connection is good for the next request.
    half.all()
    assert everything(source) == CONTENT


def test_a_later_block_that_does_not_come(half: Half, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "STALL", 0.3)
    source = client(serving())
    half.put(0, 2)
    got = 0
    buffer = memoryview(bytearray(BLOCK))
    with source.open(OID, 0, SIZE) as stream, pytest.raises(Gone):
        while True:
            got += stream.readinto(buffer)
    assert got == 2 * BLOCK
    half.put(2, 4)
    assert everything(source, got) == CONTENT[got:]


def test_an_object_is_served_only_while_its_stamp_vouches_for_it(half: Half, serving: Serving) -> None:
    source = client(serving())
    half.all()
    half.store.publish(OID, [])
    assert everything(source) == CONTENT
    half.store.object(OID).write_bytes(b"x" * SIZE)
    with pytest.raises(NotYet):
        everything(source)
    half.store.object(OID).write_bytes(CONTENT)
    half.store.put_stamp(OID)
    assert everything(source) == CONTENT


def test_an_object_that_is_published_while_it_is_read(half: Half, serving: Serving) -> None:
    source = client(serving())
    half.put(0)
    buffer = memoryview(bytearray(BLOCK))
    with source.open(OID, 0, SIZE) as stream:
        assert stream.readinto(buffer) == BLOCK
        # The server holds a map that shall never say more.
        half.store.map(OID).rename(half.store.map(OID).with_suffix(".old"))
        half.store.part(OID).write_bytes(CONTENT)
        half.store.publish(OID, [])
        rest = b""
        while count := stream.readinto(buffer):
            rest += bytes(buffer[:count])
    assert rest == CONTENT[BLOCK:]


def test_a_part_that_was_begun_again_is_not_read_by_the_old_map(half: Half, serving: Serving) -> None:
    source = client(serving())
    half.all()
    assert everything(source) == CONTENT
    half.store.quarantine(half.store.part(OID), OID)
    half.store.map(OID).unlink()
    fresh = Half(half.store.path)
    with pytest.raises(NotYet):
        everything(source)
    fresh.all()
    assert everything(source) == CONTENT


def test_a_part_that_is_begun_again_at_this_moment(half: Half, monkeypatch: pytest.MonkeyPatch) -> None:
    half.all()
    right = BlockMap.open

    def open_late(*args: Any, **kwargs: Any) -> BlockMap | None:
        half.store.quarantine(half.store.part(OID), OID)
        half.store.part(OID).touch()
        return right(*args, **kwargs)

    root = os.open(half.store.path, os.O_RDONLY)
    monkeypatch.setattr(peers.BlockMap, "open", open_late)
    with peers._Holding(half.store, root, peers._Named(OID, SIZE)) as holding:
        assert holding.available(0, 4) == 0
    os.close(root)


def test_a_digest_of_what_is_not_all_there(half: Half, serving: Serving) -> None:
    source = client(serving())
    half.put(0)
    assert source.digest(OID, 0, 2 * BLOCK) is None
    assert source.digest(OID, 0, BLOCK) == hashlib.sha256(CONTENT[:BLOCK]).hexdigest()


# --- strangers


def test_another_key_is_refused(half: Half, serving: Serving) -> None:
    half.all()
    running = serving()
    with pytest.raises(Unwilling) as caught:
        everything(client(running, key="other"))
    assert "key of this run" in str(caught.value)
    assert not caught.value.retry
    with pytest.raises(Unwilling):
        client(running, key="other").digest(OID, 0, BLOCK)
    with pytest.raises(Unwilling):
        client(running, key="other").done()


def test_requests_that_are_unsigned_old_or_repeated(half: Half, serving: Serving) -> None:
    half.all()
    port = serving().port
    path = f"/v1/objects/{OID}/0-{BLOCK}/sha256"
    assert status(raw(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())) == 403
    assert status(raw(port, request(path, age=301))) == 403
    assert status(raw(port, request(path, age=-302))) == 403
    once = request(path)
    assert status(raw(port, once)) == 200
    answer = raw(port, once)
    assert status(answer) == 403
    assert b"X-Refused: replay" in answer


def test_a_clock_that_is_off_is_named(half: Half, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    source = client(serving())
    right = peers.authorization
    monkeypatch.setattr(
        peers, "authorization", lambda key, method, path, now, nonce: right(key, method, path, 9, nonce)
    )
    with pytest.raises(Unwilling) as caught:
        everything(source)
    assert "clock" in caught.value.problem.found
    assert "chrony" in caught.value.problem.remedy


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/v1/objects/{OID}/0-{SIZE}?wait=0", 200),
        (f"/v1/objects/{OID}/0-{SIZE}", 200),
        (f"/v1/objects/{OID}/0-{SIZE}?wait=0&x=1", 404),
        (f"/v1/objects/{OID}/0-{SIZE}?wait=-1", 404),
        (f"/v1/objects/{OID}/0-{SIZE}?wait=nan", 404),
        (f"/v1/objects/{OID.upper()}/0-{SIZE}", 404),
        (f"/v1/objects/{'0' * 64}/0-{SIZE}", 404),
        (f"/v1/objects/../objects/{OID}/0-{SIZE}", 404),
        (f"/v1/objects/%2e%2e/{OID}/0-{SIZE}", 404),
        ("/v1/objects/../../../../etc/passwd", 404),
        ("/etc/passwd", 404),
        ("http://elsewhere/", 404),
        ("/", 404),
        (f"/v1/objects/{OID}/{BLOCK}-{BLOCK}", 400),
        (f"/v1/objects/{OID}/{2 * BLOCK}-{BLOCK}", 400),
        (f"/v1/objects/{OID}/1-{BLOCK}", 400),
        (f"/v1/objects/{OID}/0-{BLOCK + 1}", 400),
        (f"/v1/objects/{OID}/0-{SIZE + 1}", 400),
        (f"/v1/objects/{OID}/0-{4 * BLOCK}", 400),
        (f"/v1/objects/{OID}/0-{'9' * 15}", 400),
        (f"/v1/objects/{OID}/0-{'9' * 5000}", 404),
        ("/v1/done/gpu-2", 404),
    ],
)
def test_paths(half: Half, serving: Serving, path: str, expected: int) -> None:
    half.all()
    assert status(raw(serving().port, request(path))) == expected


def test_two_slashes(half: Half, serving: Serving) -> None:
    # http.server makes one of them since Python 3.11, and then the signature is of another path.
    assert status(raw(serving().port, request("//etc/passwd"))) in (403, 404)


def test_an_object_of_the_store_that_is_not_of_the_run(half: Half, tmp_path: Path, serving: Serving) -> None:
    half.all()
    other = Half(tmp_path / "lfs", b"private").all()
    with pytest.raises(Unwilling, match="404"):
        everything(client(serving()), 0, 7, oid=other.oid)
    assert everything(client(serving(objects={other.oid: 7})), 0, 7, oid=other.oid) == b"private"


def test_links_are_not_followed(half: Half, tmp_path: Path, serving: Serving) -> None:
    half.all()
    source = client(serving())
    part = half.store.part(OID)
    elsewhere = tmp_path / "elsewhere"
    part.rename(elsewhere)
    part.symlink_to(elsewhere)
    with pytest.raises(NotYet):
        everything(source)
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(NotYet):
        everything(source)
    part.unlink()
    elsewhere.rename(part)
    assert everything(source) == CONTENT
    parts = part.parent
    parts.rename(tmp_path / "parts")
    parts.symlink_to(tmp_path / "parts")
    with pytest.raises(NotYet):
        everything(source)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(2000)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\r\n" * 5000,
    ],
    ids=["path", "headers", "tls", "empty"],
)
def test_heads_that_are_too_long_or_none(half: Half, serving: Serving, data: bytes) -> None:
    half.all()
    running = serving()
    with contextlib.suppress(ConnectionError):
        assert b" 200 " not in raw(running.port, data)
    assert everything(client(running)) == CONTENT


def test_a_signed_head_that_is_too_long(half: Half, serving: Serving) -> None:
    half.all()
    port = serving().port
    path = f"/v1/objects/{OID}/0-{BLOCK}/sha256"
    headers = "".join(f"X-{number}: {'y' * 90}\r\n" for number in range(90))
    assert status(raw(port, request(path, more=headers[:4000] + "\r\nConnection: close\r\n"))) == 200
    with contextlib.suppress(ConnectionError):
        assert raw(port, request(path, more=headers)) == b""


def test_a_head_that_drips(half: Half, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SOCKET_TIMEOUT", 0.5)
    with socket.create_connection(("127.0.0.1", serving().port), 5) as connection:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 5:
                connection.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("more", ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"])
def test_no_body_is_taken(half: Half, serving: Serving, more: str) -> None:
    running = serving()
    answer = raw(running.port, request("/v1/done/gpu-2", method="POST", more=more))
    assert status(answer) == 413
    assert b"Connection: close" in answer
    assert not running.server._done


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods(half: Half, serving: Serving, method: str) -> None:
    answer = raw(serving().port, request("/v1/done/gpu-2", method=method))
    assert status(answer) == 501
    assert b"<" not in answer


def test_more_connections_than_are_served(half: Half, serving: Serving) -> None:
    half.all()
    running = serving()
    source = client(running)
    with contextlib.ExitStack() as open_ones:
        for _ in range(peers.CONNECTIONS):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", running.port), 5))
        with pytest.raises(Gone):
            everything(source)
    deadline = time.monotonic() + 5
    while running.server._connections and time.monotonic() < deadline:
        time.sleep(0.02)
    assert everything(source) == CONTENT


def test_a_receiver_that_hangs_up_leaves_its_place(half: Half, serving: Serving) -> None:
    running = serving()
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", running.port), 5) as connection:
            connection.sendall(request(f"/v1/objects/{OID}/0-{SIZE}?wait=30"))
            time.sleep(0.1)
            assert running.server._working == 1
        deadline = time.monotonic() + 3
        while running.server._connections and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running.server._connections == 0


def test_nothing_is_written_to_the_terminal(half: Half, serving: Serving, capfd: pytest.CaptureFixture[str]) -> None:
    port = serving().port
    raw(port, b"nonsense\r\n\r\n")
    raw(port, request("/v1/nothing"))
    raw(port, request("/", key="other"))
    assert capfd.readouterr() == ("", "")


def test_a_bandwidth_limit_is_shared(half: Half, serving: Serving) -> None:
    half.all()
    running = serving(bandwidth_limit=4 * BLOCK)
    began = time.monotonic()
    threads = [threading.Thread(target=everything, args=(client(running), 0, 2 * BLOCK)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.8 < time.monotonic() - began < 15


# --- the end


def test_it_ends_when_all_are_done_and_the_own_fetch_is_over(half: Half, serving: Serving) -> None:
    running = serving(expected=["gpu-2", "gpu 3/ä?"], linger=60)
    client(running).done()
    assert not running.ends(0.6)
    PeerSource(Peer("gpu-1", "127.0.0.1", running.port), KEY, "gpu 3/ä?").done()
    assert not running.ends(0.6)
    running.busy = False
    assert running.ends(2)


def test_done_of_somebody_else_counts_for_nothing(half: Half, serving: Serving) -> None:
    running = serving(expected=["gpu-2"], linger=60)
    running.busy = False
    with pytest.raises(Unwilling):
        PeerSource(Peer("gpu-1", "127.0.0.1", running.port), KEY, "gpu-9").done()
    assert not running.ends(0.6)


def test_it_lingers_after_the_last_authorised_request(half: Half, serving: Serving) -> None:
    half.all()
    running = serving(linger=1.5)
    time.sleep(1.7)
    running.busy = False
    for _ in range(4):
        assert not running.ends(0.4)
        assert everything(client(running)) == CONTENT
    began = time.monotonic()
    while running.thread.is_alive() and time.monotonic() - began < 8:
        with contextlib.suppress(OSError):
            raw(running.port, request("/", key="other"))
        time.sleep(0.1)
    assert 1.4 < time.monotonic() - began < 7


def test_it_lingers_after_the_end_of_a_request(half: Half, serving: Serving) -> None:
    running = serving(linger=1.0)
    running.busy = False
    with pytest.raises(NotYet):
        everything(client(running), wait=1.5)
    assert not running.ends(0.5)


def test_it_does_not_end_while_it_sends(half: Half, serving: Serving) -> None:
    running = serving(linger=0.1)
    half.put(0)
    source = client(running)
    buffer = memoryview(bytearray(BLOCK))
    with source.open(OID, 0, SIZE) as stream:
        stream.readinto(buffer)
        running.busy = False
        assert not running.ends(0.8)
        half.put(1, 4)
        while stream.readinto(buffer):
            pass
    assert running.ends(2)


def test_whether_the_own_fetch_still_runs_is_read_from_its_progress(half: Half) -> None:
    store = half.store
    assert not peers.fetching(store)
    for state, pid, expected in (
        ("fetching", os.getpid(), True),
        ("verifying", 1, True),
        ("done", os.getpid(), False),
        ("failed", os.getpid(), False),
        ("fetching", 2**22 + 1, False),
        ("fetching", "x", False),
    ):
        store.progress.write_text(json.dumps({"state": state, "pid": pid}))
        assert peers.fetching(store) is expected
    store.progress.write_text(json.dumps({"state": "fetching", "pid": os.getpid()}))
    os.utime(store.progress, (time.time() - 700,) * 2)
    assert not peers.fetching(store)


# --- addresses


def test_ipv6(half: Half, serving: Serving) -> None:
    half.all()
    try:
        running = serving(address="::1")
    except GitLfsError:
        pytest.skip("no IPv6 on this machine")
    assert everything(PeerSource(Peer("gpu-1", "::1", running.port), KEY, "gpu-2")) == CONTENT
    with pytest.raises(OSError, match="refused"):
        raw(running.port, b"x")
    assert str(Peer("gpu-1", "::1", 7)) == "gpu-1 ([::1]:7)"


@pytest.mark.parametrize(
    "address", ["192.0.2.77", "2001:db8::7", "0.0.0.0", "::", "224.0.0.1", "", "localhost", "no such"]
)
def test_addresses_that_are_refused(tmp_path: Path, address: str) -> None:
    options = ServerOptions(tmp_path, address, 0, KEY, {})
    with pytest.raises(GitLfsError) as caught:
        peers.listen(options).close()
    assert caught.value.problem.cause == "peer_address"
    assert "model_peer_address" in caught.value.problem.remedy


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(GitLfsError) as caught:
            peers.listen(ServerOptions(tmp_path, "127.0.0.1", port, KEY, {}))
    assert caught.value.problem.cause == "peer_address"
    assert str(port) in caught.value.problem.found
    assert "model_peer_port" in caught.value.problem.remedy


def test_options_do_not_show_the_key(tmp_path: Path) -> None:
    assert KEY not in repr(ServerOptions(tmp_path, "127.0.0.1", 0, KEY, {}))
    assert KEY not in repr(PeerSource(Peer("gpu-1", "127.0.0.1", 1), KEY, "gpu-2"))


# --- the client, and neighbours that are no good


class Neighbour:
    """Accepts connections and says what it was told to say to each, byte for byte."""

    def __init__(self, *script: bytes, close: bool = True) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.heard: list[bytes] = []
        self.held: list[socket.socket] = []
        self.script = list(script)
        self.close_after = close
        self.accepting = threading.Thread(target=self._run, daemon=True)
        self.accepting.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while self.script:
                connection, _ = self.listener.accept()
                self.heard.append(connection.recv(65536))
                connection.sendall(self.script.pop(0))
                if self.close_after:
                    connection.close()
                else:
                    self.held.append(connection)

    def __enter__(self) -> Neighbour:
        return self

    def __exit__(self, *_args: object) -> None:
        # In this order: a thread that is about to accept would accept for whatever gets the descriptor's number next.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join(10)
        self.listener.close()
        for connection in self.held:
            connection.close()

    @property
    def source(self) -> PeerSource:
        return PeerSource(Peer("gpu-1", "127.0.0.1", self.port), KEY, "gpu-2", timeout=0.5)


def ok(length: int = SIZE) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length


def test_nobody_listens(closed_port: int) -> None:
    with pytest.raises(Gone) as caught:
        everything(PeerSource(Peer("gpu-1", "127.0.0.1", closed_port), KEY, "gpu-2"))
    assert caught.value.retry
    assert caught.value.problem.cause == "peer_gone"
    assert f"gpu-1 (127.0.0.1:{closed_port})" in str(caught.value)


def test_a_peer_that_says_nothing() -> None:
    with Neighbour(b"", close=False) as neighbour:
        began = time.monotonic()
        with pytest.raises(Gone):
            everything(neighbour.source, wait=0.3)
        # Its own waiting is not held against it.
        assert 0.75 < time.monotonic() - began < 2


def test_a_peer_that_stalls_in_the_middle() -> None:
    with Neighbour(ok() + CONTENT[: BLOCK + 5], close=False) as neighbour:
        buffer = memoryview(bytearray(BLOCK))
        with neighbour.source.open(OID, 0, SIZE) as stream:
            assert stream.readinto(buffer) == BLOCK
            assert stream.readinto(buffer) == 5
            with pytest.raises(Gone):
                stream.readinto(buffer)


def test_a_peer_that_breaks_off() -> None:
    with Neighbour(ok() + CONTENT[: BLOCK + 5]) as neighbour:
        buffer = memoryview(bytearray(BLOCK))
        with neighbour.source.open(OID, 0, SIZE) as stream:
            assert [stream.readinto(buffer), stream.readinto(buffer)] == [BLOCK, 5]
            with pytest.raises(Gone):
                stream.readinto(buffer)


def test_a_peer_that_drips_does_not_hold_the_reader() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection:
                connection.sendall(ok())
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        source = PeerSource(Peer("gpu-1", "127.0.0.1", listener.getsockname()[1]), KEY, "gpu-2", timeout=0.5)
        with source.open(OID, 0, SIZE) as stream:
            began = time.monotonic()
            assert 0 < stream.readinto(memoryview(bytearray(BLOCK))) < 50
            assert time.monotonic() - began < 1.5


def test_a_read_that_another_thread_gives_up() -> None:
    with Neighbour(ok(), close=False) as neighbour:
        source = neighbour.source
        source.timeout = 30
        with source.open(OID, 0, SIZE) as stream:
            threading.Timer(0.2, stream.abort).start()
            began = time.monotonic()
            with pytest.raises(Gone):
                stream.readinto(memoryview(bytearray(BLOCK)))
            assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "answer",
    [
        ok(SIZE - 1),
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % SIZE,
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
    ids=["length", "no length", "chunked", "404", "redirect", "ssh"],
)
def test_a_neighbour_that_is_no_peer(answer: bytes) -> None:
    with Neighbour(answer) as neighbour, pytest.raises(Unwilling) as caught:
        everything(neighbour.source)
    assert caught.value.problem.cause == "peer_unwilling"
    assert len(neighbour.heard) == 1


@pytest.mark.parametrize(("after", "wait"), [("7", 7.0), ("99999", 30.0), ("soon", 1.0), ("²", 1.0), ("-1", 1.0)])
def test_how_long_a_peer_wants_to_be_left_alone(after: str, wait: float) -> None:
    answer = f"HTTP/1.1 503 No\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    with Neighbour(answer) as neighbour, pytest.raises(NotYet) as caught:
        everything(neighbour.source)
    assert caught.value.wait == wait


def test_a_head_without_end() -> None:
    with Neighbour(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000, close=False) as neighbour, pytest.raises(Gone):
        everything(neighbour.source)


def test_a_kept_connection_that_the_peer_closed_is_made_anew() -> None:
    not_yet = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    with Neighbour(not_yet, ok() + CONTENT) as neighbour:
        source = neighbour.source
        with pytest.raises(NotYet):
            everything(source)
        time.sleep(0.1)
        assert everything(source) == CONTENT
        proofs = [line for heard in neighbour.heard for line in heard.split(b"\r\n") if line.startswith(b"Auth")]
        assert len(set(proofs)) == 2
        assert KEY.encode() not in b"".join(neighbour.heard)


def test_one_connection_for_each_thread(half: Half, serving: Serving) -> None:
    half.all()
    running = serving()
    accepted = []
    right = running.server.get_request

    def get_request() -> Any:
        accepted.append(1)
        return right()

    running.server.get_request = get_request  # type: ignore[method-assign]
    source = client(running)
    for _ in range(3):
        assert everything(source) == CONTENT
    assert source.digest(OID, 0, BLOCK)
    assert len(accepted) == 1
    thread = threading.Thread(target=everything, args=(source,))
    thread.start()
    thread.join()
    assert len(accepted) == 2
    # A stream that was left before its end takes its connection with it.
    with source.open(OID, 0, SIZE):
        pass
    assert everything(source) == CONTENT
    assert len(accepted) == 3
    source.close()
    source.close()


def test_no_proxy_is_asked(half: Half, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    half.all()
    assert everything(client(serving())) == CONTENT


# --- a process of its own

SCRIPT = """
import os, sys, json
sys.path.insert(0, {root!r})
from pathlib import Path
from ansible_collections.vicuna.fleet.plugins.module_utils import _lfs_peers as peers
lock = open({store!r} + "/held", "w")
given = json.loads(sys.argv[1])
given["store"] = Path(given["store"])
try:
    print(peers.start(peers.ServerOptions(**given)))
except peers.GitLfsError as error:
    print(error.problem.cause, error)
"""


class Daemons:
    """Starts servers from processes that end at once."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.pids: list[int] = []

    def start(self, port: int, **changes: Any) -> str:
        given = {
            "store": str(self.store),
            "address": "127.0.0.1",
            "port": port,
            "key": KEY,
            "objects": {OID: SIZE},
            "expected": ["gpu-2"],
            "linger": 60,
            **changes,
        }
        script = SCRIPT.format(root=str(ROOT), store=str(self.store))
        # A daemon that kept the pipes would let this wait.
        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps(given)],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            umask=0o022,
        )
        assert done.stderr == ""
        said = done.stdout.strip()
        if said.isdigit():
            self.pids.append(int(said))
        return said

    def close(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    daemons = Daemons(tmp_path / "lfs")
    yield daemons
    daemons.close()


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def fields(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_server_outlives_its_caller_and_has_nothing_of_it(half: Half, daemons: Daemons, closed_port: int) -> None:
    half.all()
    pid = int(daemons.start(closed_port))
    assert alive(pid)
    assert os.getsid(pid) != os.getsid(0)
    files = {entry.name: str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    assert [files[name] for name in "012"] == ["/dev/null"] * 3
    others = sorted({target.split(":")[0] for target in files.values() if target != "/dev/null"})
    assert others == sorted(["socket", str(half.store.own / "peer.json"), str(half.store.path)])
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "0"
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    source = PeerSource(Peer("gpu-1", "127.0.0.1", closed_port), KEY, "gpu-2")
    assert everything(source) == CONTENT
    record = (half.store.own / "peer.json").read_text()
    assert json.loads(record)["pid"] == pid
    assert KEY not in record
    source.done()
    assert gone_within(pid, 3)


def test_an_earlier_server_of_the_store_is_ended(half: Half, daemons: Daemons, closed_port: int) -> None:
    half.all()
    first = int(daemons.start(closed_port))
    second = int(daemons.start(closed_port, key="another"))
    assert gone_within(first, 1)
    with pytest.raises(Unwilling):
        everything(PeerSource(Peer("gpu-1", "127.0.0.1", closed_port), KEY, "gpu-2"))
    assert everything(PeerSource(Peer("gpu-1", "127.0.0.1", closed_port), "another", "gpu-2")) == CONTENT
    peers.stop(half.store.path)
    assert gone_within(second, 1)
    peers.stop(half.store.path)


def test_a_process_that_only_has_the_number_of_an_earlier_server_lives(
    half: Half, daemons: Daemons, closed_port: int
) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            record = {"pid": sleeper.pid, "boot": boot_id(), "born": peers._born(sleeper.pid)}
            # Not locked: whoever wrote it is dead, whatever it says.
            (half.store.own / "peer.json").write_text(json.dumps(record))
            assert daemons.start(closed_port).isdigit()
            assert sleeper.poll() is None
            # Locked by somebody, and naming a process that was born at another time.
            (half.store.own / "peer.json").write_text(json.dumps({**record, "born": "1"}))
            descriptor = os.open(half.store.own / "peer.json", os.O_RDONLY)
            assert peers._holder(descriptor) == 0
            os.close(descriptor)
            assert sleeper.poll() is None
        finally:
            sleeper.kill()


def test_what_is_wrong_with_the_address_reaches_the_caller(half: Half, daemons: Daemons) -> None:
    assert daemons.start(0, address="192.0.2.77").startswith("peer_address ")
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert daemons.start(other.getsockname()[1]).startswith("peer_address ")


def readable_for_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.parents)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_root_becomes_nobody_where_the_store_can_be_read(
    half: Half, daemons: Daemons, closed_port: int, tmp_path: Path
) -> None:
    # pytest's directories are for their owner alone.
    opened = [parent for parent in half.store.path.parents if not parent.stat().st_mode & 0o001]
    modes = {parent: parent.stat().st_mode & 0o777 for parent in opened}
    half.all()
    first = int(daemons.start(closed_port))
    assert fields(first)["Uid"].split()[0] == "0"
    try:
        for parent in opened:
            parent.chmod(0o755)
        second = int(daemons.start(closed_port))
        found = fields(second)
        assert set(found["Uid"].split()) == set(found["Gid"].split()) == {"65534"}
        assert found["Groups"] == ""
        source = PeerSource(Peer("gpu-1", "127.0.0.1", closed_port), KEY, "gpu-2")
        assert everything(source) == CONTENT
        half.store.publish(OID, [])
        assert everything(source) == CONTENT
        half.store.stamp_path(OID).chmod(0o600)
        with pytest.raises(NotYet):
            everything(source)
        third = int(daemons.start(closed_port))
        assert fields(third)["Uid"].split()[0] == "0"
        source.close()
        assert everything(source) == CONTENT
    finally:
        for parent, mode in modes.items():
            parent.chmod(mode)


def test_the_memory_of_the_server_does_not_grow_with_what_it_sends(
    tmp_path: Path, daemons: Daemons, closed_port: int
) -> None:
    size = 64 * BLOCK
    big = Half(tmp_path / "lfs", bytes(size)).all()
    pid = int(daemons.start(closed_port, objects={big.oid: size}))
    source = PeerSource(Peer("gpu-1", "127.0.0.1", closed_port), KEY, "gpu-2")
    everything(source, 0, BLOCK, oid=big.oid)
    before = int(fields(pid)["VmRSS"].split()[0])
    threads = [threading.Thread(target=everything, args=(source, 0, size, 0.0, big.oid)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    source.digest(big.oid, 0, size)
    after = int(fields(pid)["VmHWM"].split()[0])
    assert after < 60_000
    assert after - before < 8_000
