# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block maps, stamps, and what counts after a kill and after a loss of power."""

from __future__ import annotations

import hashlib
import os
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vicuna.fleet.plugins.module_utils import _lfs_store
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import (
    BLOCK,
    SUM_STEP,
    BlockMap,
    Store,
    blocks_of,
    hash_file,
    piece_size,
)

Pointer = namedtuple("Pointer", "oid size")
SMALL = b"weights" * 1000


def opened(path: Path, size: int, *, create: bool = True) -> BlockMap:
    found = BlockMap.open(path, size, create=create)
    assert found is not None
    return found


def reboot(monkeypatch: pytest.MonkeyPatch, name: str = "another boot") -> None:
    monkeypatch.setattr(_lfs_store, "boot_id", lambda: name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "lfs")


def arrived(store: Store, content: bytes = SMALL) -> Pointer:
    """A part that is complete and right."""
    oid = hashlib.sha256(content).hexdigest()
    store.part(oid).parent.mkdir(parents=True, exist_ok=True)
    store.part(oid).write_bytes(content)
    opened(store.map(oid), len(content)).close()
    return Pointer(oid, len(content))


# --- the map


@pytest.mark.parametrize(("size", "blocks"), [(0, 0), (1, 1), (BLOCK, 1), (BLOCK + 1, 2), (10 * BLOCK, 10)])
def test_the_last_block_may_be_short(size: int, blocks: int) -> None:
    assert blocks_of(size) == blocks


@pytest.mark.parametrize("size", [1, 2 * 1024**3 - 1, 2 * 1024**3, 8 * 1024**3, 10**12])
def test_a_piece_is_whole_blocks_and_fits_the_digests(size: int) -> None:
    assert piece_size(size) % BLOCK == 0
    assert SUM_STEP % piece_size(size) == 0
    assert piece_size(size) <= 16 * BLOCK


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.integers(1, 40),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 39), st.integers(1, 8)), max_size=20),
    window=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_a_map_is_a_set_of_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    blocks: int,
    steps: list[tuple[bool, int, int]],
    window: tuple[int, int],
) -> None:
    path = tmp_path_factory.mktemp("map") / "map"
    size = blocks * BLOCK - 17
    model: set[int] = set()
    found = opened(path, size)
    for add, start, length in steps:
        begin = min(start, blocks - 1)
        end = min(begin + length, blocks)
        (found.mark if add else found.unmark)(begin, end)
        model = model | set(range(begin, end)) if add else model - set(range(begin, end))
    reader = opened(path, size, create=False)
    first, stop = min(window), min(max(window), blocks)
    for one in (found, reader):
        assert [block for block in range(blocks) if one.has(block)] == sorted(model)
        assert one.count() == len(model)
        missing = {block for a, b in one.missing(first, stop) for block in range(a, b)}
        assert missing == set(range(first, stop)) - model
        runs = one.missing()
        assert all(one[1] < other[0] for one, other in zip(runs, runs[1:])), "runs do not touch"
        gap = next((block for block in range(first, stop) if block not in model), stop)
        assert one.available(first, stop) == max(0, gap - first)
        one.close()


def test_what_a_killed_run_wrote_counts(tmp_path: Path) -> None:
    opened(tmp_path / "map", 5 * BLOCK).mark(1, 3)
    assert opened(tmp_path / "map", 5 * BLOCK).missing() == [(0, 1), (3, 5)]


def test_after_a_loss_of_power_only_synced_blocks_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(tmp_path / "map", 5 * BLOCK)
    first.mark(0, 2)
    first.mark_durable(first.written())
    first.mark(2, 4)
    reboot(monkeypatch)
    assert opened(tmp_path / "map", 5 * BLOCK, create=False).missing() == [(2, 5)]
    again = opened(tmp_path / "map", 5 * BLOCK)
    assert again.missing() == [(2, 5)]
    again.mark(2, 3)
    assert opened(tmp_path / "map", 5 * BLOCK, create=False).missing() == [(3, 5)]


def test_a_block_that_was_taken_back_is_not_made_durable(tmp_path: Path) -> None:
    found = opened(tmp_path / "map", 3 * BLOCK)
    found.mark(0, 3)
    written = found.written()
    found.unmark(1, 2)
    found.mark_durable(written)
    assert found.missing() == [(1, 2)]
    assert found.written() == []


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 300, b'{"version": 99}\n' + b"\2" * 500, b"[]", b"\xff" * (_lfs_store.MAP_HEADER + 4)]
)
def test_a_map_of_something_else_starts_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "map"
    path.write_bytes(content)
    assert BlockMap.open(path, 4 * BLOCK, create=False) is None
    assert opened(path, 4 * BLOCK).missing() == [(0, 4)]


def test_a_map_of_another_size_starts_anew(tmp_path: Path) -> None:
    opened(tmp_path / "map", 4 * BLOCK).mark(0, 4)
    assert BlockMap.open(tmp_path / "map", 5 * BLOCK, create=False) is None
    assert opened(tmp_path / "map", 5 * BLOCK).count() == 0


def test_a_map_is_never_read_through_a_link(tmp_path: Path) -> None:
    opened(tmp_path / "map", BLOCK)
    (tmp_path / "link").symlink_to(tmp_path / "map")
    with pytest.raises(OSError, match="link"):
        BlockMap.open(tmp_path / "link", BLOCK, create=False)


# --- stamps


def test_a_published_object_needs_no_second_reading(store: Store) -> None:
    pointer = arrived(store)
    assert not store.verified(pointer)
    store.publish(pointer.oid, ["one"])
    assert store.verified(pointer)
    assert store.sums(pointer.oid) == ["one"]
    assert store.object(pointer.oid).stat().st_mode & 0o777 == 0o644
    assert not store.part(pointer.oid).exists()
    assert not store.map(pointer.oid).exists()


def test_a_further_link_does_not_count_as_a_change(store: Store, tmp_path: Path) -> None:
    pointer = arrived(store)
    store.publish(pointer.oid, [])
    os.link(store.object(pointer.oid), tmp_path / "model.bin")
    assert store.verified(pointer)


@pytest.mark.parametrize("change", ["content", "mtime", "inode", "size", "gone", "link", "pointer"])
def test_whatever_has_changed_is_read_again(store: Store, change: str) -> None:
    pointer = arrived(store)
    store.publish(pointer.oid, [])
    path = store.object(pointer.oid)
    if change == "content":
        path.write_bytes(SMALL)
    elif change == "mtime":
        os.utime(path)
    elif change == "inode":
        copy = path.with_name("copy")
        copy.write_bytes(SMALL)
        status = path.stat()
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        copy.replace(path)
    elif change == "size":
        os.truncate(path, 3)
    elif change == "gone":
        path.unlink()
    elif change == "link":
        path.rename(path.with_name("away"))
        path.symlink_to(path.with_name("away"))
    else:
        pointer = Pointer(pointer.oid, pointer.size + 1)
    assert not store.verified(pointer)


def test_after_a_loss_of_power_only_a_settled_object_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    unsettled, settled = arrived(store), arrived(store, b"other")
    for pointer in (unsettled, settled):
        store.publish(pointer.oid, [])
    store.settle(settled.oid)
    reboot(monkeypatch)
    assert (store.verified(unsettled), store.verified(settled)) == (False, True)
    assert store.verify(unsettled), "reading it again is enough"
    assert store.verified(unsettled)


def test_settling_vouches_for_nothing_new(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer = arrived(store)
    store.publish(pointer.oid, [])
    store.object(pointer.oid).write_bytes(SMALL[::-1])
    store.settle(pointer.oid)
    assert not store.verified(pointer)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"size": 1}', "null"])
def test_a_damaged_stamp_vouches_for_nothing(store: Store, content: str) -> None:
    pointer = arrived(store)
    store.publish(pointer.oid, [])
    store.stamp_path(pointer.oid).write_text(content)
    assert not store.verified(pointer)
    assert store.sums(pointer.oid) == []


def test_without_a_boot_id_only_settled_objects_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reboot(monkeypatch, "")
    pointer = arrived(store)
    store.publish(pointer.oid, [])
    assert not store.verified(pointer)
    store.settle(pointer.oid)


# --- reading


def test_verify_finds_a_flipped_byte(store: Store) -> None:
    pointer = arrived(store)
    store.publish(pointer.oid, [])
    path = store.object(pointer.oid)
    status = path.stat()
    path.write_bytes(b"W" + SMALL[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.verified(pointer), "the stamp cannot see it"
    assert not store.verify(pointer)
    assert store.quarantine(path, pointer.oid) == store.path / "bad" / pointer.oid
    assert not store.verified(pointer)


def test_the_digests_along_the_way_are_those_of_the_prefixes(tmp_path: Path) -> None:
    content = os.urandom(2 * SUM_STEP + 12345)
    (tmp_path / "file").write_bytes(content)
    sums: list[str] = []
    assert hash_file(tmp_path / "file", sums) == hashlib.sha256(content).hexdigest()
    assert sums == [hashlib.sha256(content[: SUM_STEP * count]).hexdigest() for count in (1, 2)]


def test_an_object_that_is_not_there_is_not_right(store: Store) -> None:
    assert not store.verify(Pointer("0" * 64, 5))
    assert not store.verified(Pointer("0" * 64, 5))
