# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine with sources in memory: what each fault costs, and that it never costs correctness."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _lfs_engine
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import Problem
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_engine import Fetch, FetchError, Options
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_peers import Gone, NotYet, Unwilling, ranking
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import (
    BLOCK,
    SUM_STEP,
    BlockMap,
    SourceError,
    Store,
)

Pointer = namedtuple("Pointer", "oid size")
ONE = os.urandom(9 * BLOCK + 777)
TWO = os.urandom(BLOCK // 2)


def pointer(content: bytes) -> Pointer:
    return Pointer(hashlib.sha256(content).hexdigest(), len(content))


def error(cause: str, *, retry: bool, kind: type[SourceError] = SourceError, wait: float = 0.0) -> SourceError:
    return kind(Problem(cause, f"{cause}.", "bytes.", "none."), retry=retry, wait=wait)


class Bytes:
    """A stream of bytes. fault: called with the offset before each read."""

    def __init__(self, content: bytes, start: int, fault: Callable[[int], None] | None = None) -> None:
        self.content, self.start, self.position, self.fault = content, start, 0, fault

    def readinto(self, buffer: memoryview) -> int:
        if self.fault:
            self.fault(self.start + self.position)
        part = self.content[self.position : self.position + min(len(buffer), 300_000)]
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)


class Origin:
    """Counts what it sends. spoil: changes an answer; fault: raises before a read; pace: seconds for each block."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {pointer(content).oid: content for content in contents}
        self.ranges: list[tuple[str, int, int]] = []
        self.sent: Counter[str] = Counter()
        self.spoil: Callable[[str, int, bytes], bytes] = lambda _oid, _start, content: content
        self.refuse: Callable[[], None] = lambda: None
        self.fault: Callable[[int], None] | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def open(self, oid: str, start: int, stop: int) -> Iterator[Bytes]:
        with self._lock:
            self.ranges.append((oid, start, stop))
            self.refuse()
            self.sent[oid] += stop - start
        yield Bytes(self.spoil(oid, start, self.contents[oid][start:stop]), start, self.fault)


class Host:
    """Another host, seen through its store as its peer server sees it."""

    def __init__(self, name: str, store: Store, contents: dict[str, bytes]) -> None:
        self.name, self.store, self.contents = name, store, contents
        self.spoil: Callable[[bytes], bytes] = lambda content: content
        self.gone = False
        self.unwilling = False
        self.frozen = False
        self.pace = 0.0
        self.finished: list[str] = []
        self.asked: list[tuple[str, int]] = []

    def _has(self, oid: str, first: int, stop: int) -> bool:
        if self.store.object(oid).exists():
            return True
        found = BlockMap.open(self.store.map(oid), len(self.contents[oid]), create=False)
        if found is None:
            return False
        with contextlib.closing(found):
            return not found.missing(first, stop)

    @contextlib.contextmanager
    def open(self, oid: str, start: int, stop: int, *, wait: float) -> Iterator[Bytes]:
        self.asked.append((oid, start))
        if self.gone:
            raise error("connection", retry=True, kind=Gone)
        if self.unwilling:
            raise error("forbidden", retry=False, kind=Unwilling)
        deadline = time.monotonic() + wait
        while self.frozen or not self._has(oid, start // BLOCK, start // BLOCK + 1):
            if time.monotonic() >= deadline:
                raise error("not_yet", retry=True, kind=NotYet)
            time.sleep(0.005)

        def ready(offset: int) -> None:
            limit = time.monotonic() + 5
            block = min(offset // BLOCK, (len(self.contents[oid]) - 1) // BLOCK)
            time.sleep(self.pace)
            while not self._has(oid, block, block + 1):
                if self.gone or time.monotonic() > limit:
                    raise error("interrupted", retry=True, kind=Gone)
                time.sleep(0.005)

        yield Bytes(self.spoil(self.contents[oid][start:stop]), start, ready)

    def digest(self, oid: str, start: int, stop: int) -> str | None:
        if self.gone or not self._has(oid, start // BLOCK, -(-stop // BLOCK)):
            return None
        return hashlib.sha256(self.contents[oid][start:stop]).hexdigest()

    def done(self) -> None:
        self.finished.append("done")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "lfs")


def fetch(store: Store, origin: Origin, *contents: bytes, **more: Any) -> Fetch:
    wanted = [(pointer(content), f"model-{number}.bin") for number, content in enumerate(contents, 1)]
    peers = more.pop("peers", ())
    return Fetch(store, wanted, origin, peers, Options(**{"me": "a", "timeout": 20, **more}))


def right(store: Store, *contents: bytes) -> bool:
    return all(
        store.object(pointer(content).oid).read_bytes() == content and store.verified(pointer(content))
        for content in contents
    )


def leftovers(store: Store) -> list[str]:
    return sorted(path.name for path in (store.own / "parts").iterdir())


# --- one host


@pytest.mark.parametrize("connections", [1, 3, 8])
def test_every_byte_is_asked_for_once(store: Store, connections: int) -> None:
    origin = Origin(ONE, TWO, b"")
    result = fetch(store, origin, ONE, TWO, b"", connections=connections).run()
    assert right(store, ONE, TWO, b"")
    assert sum(origin.sent.values()) == result.from_origin == len(ONE) + len(TWO)
    assert (result.from_peers, result.notes, leftovers(store)) == (0, [], [])


def test_the_digests_along_the_way_are_kept(store: Store) -> None:
    content = os.urandom(SUM_STEP + 5)
    fetch(store, Origin(content), content).run()
    assert store.sums(pointer(content).oid) == [hashlib.sha256(content[:SUM_STEP]).hexdigest()]


def test_a_resumed_fetch_asks_for_what_is_missing(store: Store) -> None:
    first = Origin(ONE)

    def cut(offset: int) -> None:
        if offset >= 5 * BLOCK:
            raise error("connection", retry=False)

    first.fault = cut
    with pytest.raises(FetchError):
        fetch(store, first, ONE, connections=1).run()
    second = Origin(ONE)
    result = fetch(store, second, ONE).run()
    assert right(store, ONE)
    assert result.from_origin == sum(second.sent.values()) == len(ONE) - 5 * BLOCK


def test_a_part_that_was_damaged_between_two_runs_is_not_believed(store: Store) -> None:
    origin = Origin(ONE)
    one = fetch(store, origin, ONE)
    one.items[0].map.mark(0, one.items[0].map.blocks)  # as if all had been written
    result = fetch(store, origin, ONE).run()
    assert right(store, ONE)
    assert "another sha256" in result.notes[0]


@pytest.mark.parametrize("times", [1, 2])
def test_a_flipped_byte_at_the_origin_is_fetched_again(store: Store, times: int) -> None:
    origin = Origin(ONE)
    served: Counter[int] = Counter()

    def spoil(_oid: str, start: int, content: bytes) -> bytes:
        served[start] += 1
        return b"X" + content[1:] if start == 0 and served[start] <= times else content

    origin.spoil = spoil
    result = fetch(store, origin, ONE).run()
    assert right(store, ONE)
    assert result.notes == ["what the origin sent for model-1.bin has another sha256 than its pointer: fetched again"]
    assert result.from_origin == len(ONE) * (times + 1)
    assert not store.bad(pointer(ONE).oid).exists(), "the quarantine ends when a good one is there"


def test_an_origin_that_always_damages_is_named_and_nothing_is_published(store: Store) -> None:
    origin = Origin(ONE, TWO)
    origin.spoil = lambda oid, _start, content: content[::-1] if oid == pointer(ONE).oid else content
    with pytest.raises(FetchError) as caught:
        fetch(store, origin, TWO, ONE).run()
    assert caught.value.problem.cause == "damaged_transfer"
    assert "model-2.bin" in caught.value.problem.found
    assert right(store, TWO)
    assert not store.object(pointer(ONE).oid).exists()


def test_a_short_outage_is_waited_for(store: Store) -> None:
    origin = Origin(ONE)
    until = time.monotonic() + 1.2

    def refuse() -> None:
        if time.monotonic() < until:
            raise error("connection", retry=True)

    origin.refuse = refuse
    result = fetch(store, origin, ONE).run()
    assert right(store, ONE)
    assert result.notes == ["the origin broke off model-1.bin, and was asked again (connection)"]
    assert sum(origin.sent.values()) == len(ONE)


def test_what_had_arrived_of_a_cut_answer_is_kept(store: Store) -> None:
    origin = Origin(ONE)
    cuts = iter([3 * BLOCK + 5, 6 * BLOCK + 5])
    at = [next(cuts)]

    def cut(offset: int) -> None:
        if at[0] is not None and offset >= at[0]:
            at[0] = next(cuts, None)  # type: ignore[call-overload]
            raise error("interrupted", retry=True)

    origin.fault = cut
    result = fetch(store, origin, ONE, connections=1).run()
    assert right(store, ONE)
    assert result.from_origin == len(ONE)
    starts = [start for _oid, start, _stop in origin.ranges]
    assert starts[:2] == [0, 3 * BLOCK]
    assert 6 * BLOCK in starts


@pytest.mark.parametrize("connections", [1, 4])
def test_a_server_that_gives_no_parts(store: Store, connections: int) -> None:
    origin = Origin(ONE)
    real = origin.open

    @contextlib.contextmanager
    def whole_only(oid: str, start: int, stop: int) -> Iterator[Bytes]:
        if start:
            raise error("range_unsupported", retry=False)
        with real(oid, start, stop) as stream:
            yield stream

    origin.open = whole_only  # type: ignore[method-assign]
    result = fetch(store, origin, ONE, connections=connections).run()
    assert right(store, ONE)
    assert result.notes == []
    assert sum(stop == len(ONE) for _oid, _start, stop in origin.ranges) == 1, "one worker does it, not each"


def test_an_origin_that_never_answers_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lfs_engine, "FAILURES", 2)
    origin = Origin(ONE)

    def refuse() -> None:
        raise error("connection", retry=True)

    origin.refuse = refuse
    with pytest.raises(FetchError) as caught:
        fetch(store, origin, ONE, connections=1).run()
    assert caught.value.problem.cause == "connection"
    assert len(origin.ranges) == 2


def test_a_refusal_ends_it_at_once(store: Store) -> None:
    origin = Origin(ONE)

    def refuse() -> None:
        raise error("token_rejected", retry=False)

    origin.refuse = refuse
    started = time.monotonic()
    with pytest.raises(FetchError) as caught:
        fetch(store, origin, ONE).run()
    assert caught.value.problem.cause == "token_rejected"
    assert time.monotonic() - started < 3


def test_silence_ends_it(store: Store) -> None:
    origin = Origin(ONE)
    origin.fault = lambda _offset: time.sleep(2.5)
    with pytest.raises(FetchError) as caught:
        fetch(store, origin, ONE, timeout=1).run()
    assert caught.value.problem.cause == "timeout"


def test_a_connection_that_falls_silent_is_made_anew(store: Store) -> None:
    """The last one at work, whose own limit of silence is the fetch's."""
    origin = Origin(ONE)
    silent = iter([True])

    def stall(offset: int) -> None:
        if offset >= 5 * BLOCK and next(silent, False):
            time.sleep(1)
            raise error("timeout", retry=True)

    origin.fault = stall
    result = fetch(store, origin, ONE, connections=1, timeout=1).run()
    assert right(store, ONE)
    assert "timeout" in result.notes[0]


def test_a_full_disk_while_bytes_arrive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        if len(data) > 100_000 and offset > BLOCK:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(_lfs_engine.os, "pwrite", full)
    with pytest.raises(FetchError) as caught:
        fetch(store, Origin(ONE), ONE).run()
    assert caught.value.problem.cause == "disk_full"


def test_the_bandwidth_limit_holds(store: Store) -> None:
    started = time.monotonic()
    fetch(store, Origin(ONE), ONE, bandwidth_limit=6 * BLOCK).run()
    seconds = time.monotonic() - started
    assert 1.2 < seconds < 3.5, "9 MiB at 6 MiB/s"


def test_progress_is_told_and_ends_at_all(store: Store) -> None:
    seen: list[dict[str, Any]] = []
    origin = Origin(ONE)
    origin.fault = lambda _offset: time.sleep(0.03)
    fetch(store, origin, ONE, connections=2).run(seen.append)
    assert seen[0]["total_bytes"] == len(ONE)
    assert [one["done_bytes"] for one in seen] == sorted(one["done_bytes"] for one in seen)
    assert (seen[-1]["done_bytes"], seen[-1]["objects_done"], seen[-1]["state"]) == (len(ONE), 1, "verifying")
    assert any(one["rate"] > 0 and one["eta"] is not None for one in seen)


# --- damage on the host


def test_of_a_rotten_object_only_the_damaged_part_is_fetched(store: Store) -> None:
    content = os.urandom(3 * SUM_STEP + 100)
    origin = Origin(content)
    fetch(store, origin, content).run()
    origin.sent.clear()
    path = store.object(pointer(content).oid)
    rotten = bytearray(content)
    rotten[SUM_STEP + 5] ^= 1
    path.write_bytes(rotten)
    store.quarantine(path, pointer(content).oid)
    result = fetch(store, origin, content).run()
    assert right(store, content)
    assert sum(origin.sent.values()) == SUM_STEP
    assert "was damaged on this host between byte 16777216 and 33554432" in result.notes[0]


@pytest.mark.parametrize("where", [[-1], [0, -1], [5, SUM_STEP + 5]])
def test_several_damaged_parts(store: Store, where: list[int]) -> None:
    content = os.urandom(2 * SUM_STEP + 100)
    origin = Origin(content)
    fetch(store, origin, content).run()
    path = store.object(pointer(content).oid)
    rotten = bytearray(content)
    for place in where:
        rotten[place] ^= 1
    path.write_bytes(rotten)
    store.quarantine(path, pointer(content).oid)
    assert len(fetch(store, origin, content).run().notes) == len(where)
    assert right(store, content)


def test_digests_that_are_wrong_themselves_do_no_harm(store: Store) -> None:
    content = os.urandom(2 * SUM_STEP)
    origin = Origin(content)
    fetch(store, origin, content).run()
    oid = pointer(content).oid
    store.put_stamp(oid, sums=["0" * 64, "1" * 64])
    store.quarantine(store.object(oid), oid)
    fetch(store, origin, content).run()
    assert right(store, content)


# --- several hosts


class Fleet:
    """Some hosts that fetch at the same time."""

    def __init__(self, tmp_path: Path, origin: Origin, names: str, *contents: bytes) -> None:
        self.contents = contents
        by_oid = {pointer(content).oid: content for content in contents}
        self.stores = {name: Store(tmp_path / name) for name in names}
        self.hosts = {name: Host(name, store, by_oid) for name, store in self.stores.items()}
        self.origin = origin
        self.results: dict[str, Any] = {}

    def start(self, name: str, **more: Any) -> threading.Thread:
        peers = [host for host in self.hosts.values() if host.name != name]
        one = fetch(self.stores[name], self.origin, *self.contents, me=name, peers=peers, connections=4, **more)

        def run() -> None:
            try:
                self.results[name] = one.run()
            except FetchError as failure:
                self.results[name] = failure

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def run(self, names: str) -> None:
        threads = [self.start(name) for name in names]
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()

    def right(self, names: str) -> bool:
        return all(right(self.stores[name], *self.contents) for name in names)


def big() -> bytes:
    return os.urandom(30 * BLOCK + 99)


def test_a_fleet_reads_the_origin_once(tmp_path: Path) -> None:
    content = big()
    origin = Origin(content, TWO)
    fleet = Fleet(tmp_path, origin, "abcd", content, TWO)
    fleet.run("abcd")
    assert fleet.right("abcd")
    assert sum(origin.sent.values()) == len(content) + len(TWO)
    assert all(fleet.hosts[name].finished == ["done"] * 3 for name in "abcd")
    assert sum(fleet.results[name].from_origin for name in "abcd") == len(content) + len(TWO)


@pytest.mark.parametrize("how", ["gone", "unwilling", "frozen"])
def test_a_host_that_brings_nothing_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(_lfs_engine, "PEER_GRACE", 0.5)
    monkeypatch.setattr(_lfs_engine, "RANK_PATIENCE", 0.5)
    content = big()
    origin = Origin(content)
    fleet = Fleet(tmp_path, origin, "abc", content)
    setattr(fleet.hosts["c"], how, True)
    fleet.run("ab")
    assert fleet.right("ab")
    assert sum(origin.sent.values()) <= 1.3 * len(content)


def test_a_host_that_dies_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lfs_engine, "PEER_LOST", 0.3)
    content = big()
    origin = Origin(content)
    origin.fault = lambda _offset: time.sleep(0.02)
    fleet = Fleet(tmp_path, origin, "abc", content)
    threads = [fleet.start(name) for name in "ab"]
    dying = fleet.start("c")
    time.sleep(0.4)
    fleet.hosts["c"].gone = True
    for thread in (*threads, dying):
        thread.join(timeout=60)
    assert fleet.right("ab")


def test_a_slow_home_is_overtaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lfs_engine, "RANK_PATIENCE", 0.4)
    content = big()
    fleet = Fleet(tmp_path, Origin(content), "abc", content)
    slow = Origin(content)
    slow.fault = lambda _offset: time.sleep(0.6)
    quick, fleet.origin = fleet.origin, slow
    fleet.start("c", timeout=60)
    fleet.origin = quick
    started = time.monotonic()
    threads = [fleet.start(name) for name in "ab"]
    for thread in threads:
        thread.join(timeout=60)
    assert fleet.right("ab")
    share = sum(name == "c" for name in (ranking(pointer(content).oid, piece, "abc")[0] for piece in range(8)))
    assert share >= 2
    assert time.monotonic() - started < 12, "alone, c takes 0.6 s for each 300 kB of its share, 8 s for a piece"
    assert sum(quick.sent.values()) <= 1.4 * len(content)


def test_a_host_behind_a_slow_line_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lfs_engine, "RANK_PATIENCE", 0.8)
    content = big()
    origin = Origin(content)
    fleet = Fleet(tmp_path, origin, "abc", content)
    fetch(fleet.stores["c"], Origin(content), content).run()
    fleet.hosts["c"].pace = 0.5
    started = time.monotonic()
    fleet.run("ab")
    assert fleet.right("ab")
    assert time.monotonic() - started < 12, "c needs 7 s for each of its three pieces"
    assert sum(origin.sent.values()) <= 1.2 * len(content)


def test_a_piece_that_is_asked_for_in_vain_stays_as_late_as_it_is(tmp_path: Path) -> None:
    content = big()
    others = Fleet(tmp_path, Origin(content), "bc", content).hosts
    one = fetch(Store(tmp_path / "a"), Origin(content), content, peers=list(others.values()))
    (item,) = one.items
    piece = next(piece for piece in range(item.pieces) if ranking(item.oid, piece, "abc")[1] == "a")
    one._be_late((item.oid, piece), time.monotonic() - _lfs_engine.RANK_PATIENCE)
    assert one._next_for_peer("b") == (item, piece, 0.0)
    with one._state:
        one._finish_claim(item, piece, late=True)
    assert one._next_for_origin() == (item, piece, piece + 1)


@pytest.mark.parametrize("liars", ["c", "bc"])
def test_a_lying_host_is_named_and_never_believed(tmp_path: Path, liars: str) -> None:
    content = big()
    origin = Origin(content)
    fleet = Fleet(tmp_path, origin, "abc", content)
    for name in liars:
        fleet.stores[name].object(pointer(content).oid).parent.mkdir(parents=True)
        fleet.stores[name].object(pointer(content).oid).write_bytes(content)
        fleet.hosts[name].spoil = lambda data: data[:-5] + b"liars"
    fleet.run("a")
    assert fleet.right("a")
    notes = " ".join(fleet.results["a"].notes)
    assert all(f"{name} sent wrong bytes of model-1.bin" in notes for name in liars)


def test_one_liar_among_honest_hosts_costs_its_own_pieces_alone(tmp_path: Path) -> None:
    content = big()
    origin = Origin(content)
    fleet = Fleet(tmp_path, origin, "abcd", content)
    for name in "bcd":
        fleet.stores[name].object(pointer(content).oid).parent.mkdir(parents=True)
        fleet.stores[name].object(pointer(content).oid).write_bytes(content)
    fleet.hosts["d"].spoil = lambda data: data[:-5] + b"liars"
    fleet.run("a")
    assert fleet.right("a")
    own = sum(ranking(pointer(content).oid, piece, "abcd")[0] in "ad" for piece in range(8))
    assert sum(origin.sent.values()) <= own * 4 * BLOCK


def test_hosts_that_have_all_spare_the_origin(tmp_path: Path) -> None:
    content = big()
    origin = Origin(content)
    fleet = Fleet(tmp_path, origin, "abc", content)
    fetch(fleet.stores["c"], Origin(content), content).run()
    threads = [fleet.start(name, whole=("c",)) for name in "ab"]
    for thread in threads:
        thread.join(timeout=60)
    assert fleet.right("ab")
    assert sum(origin.sent.values()) == 0


def test_a_host_that_starts_late_asks_the_others_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lfs_engine, "PEER_GRACE", 0.3)
    content = big()
    origin = Origin(content)
    fleet = Fleet(tmp_path, origin, "abc", content)
    fleet.hosts["c"].gone = True
    fleet.run("ab")
    before = sum(origin.sent.values())
    fleet.hosts["c"].gone = False
    fleet.run("c")
    assert fleet.right("abc")
    assert sum(origin.sent.values()) - before <= 8 * BLOCK


def test_an_origin_that_refuses_this_host_is_no_harm_while_others_have_all(tmp_path: Path) -> None:
    content = big()
    origin = Origin(content)
    fleet = Fleet(tmp_path, origin, "ab", content)
    fetch(fleet.stores["b"], Origin(content), content).run()

    def refuse() -> None:
        raise error("forbidden", retry=False)

    origin.refuse = refuse
    fleet.run("a")
    assert fleet.right("a")
