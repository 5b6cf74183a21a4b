# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Brings LFS objects into a store, from their origin and from the other hosts of a run. Private to the collection.

Each object is cut into pieces, and the hosts of a run are ranked for each piece. The first reads it from the origin,
the others read it from the first while it arrives. The next goes to the origin when those before it are dead or have
not brought the piece in time. So the origin sends each byte once, and no host depends on another.

Nothing that a source says is believed. The sha256 is taken along the front of what has arrived: by the thread that
brings the next block, while it has it in hand, or by one that reads what came earlier than its turn. Only an object
whose sha256 is that of its pointer is put where work trees can link it.

BitTorrent does not fit: a torrent needs a hash of each piece before the first byte, and an LFS pointer has one of the
whole, so somebody would have to read all of it before anybody could share; and each peer reads web seeds for itself.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import Problem
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_peers import (
    Bucket,
    Gone,
    NotYet,
    Unwilling,
    ranking,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import (
    BLOCK,
    SUM_STEP,
    BlockMap,
    Named,
    SourceError,
    Store,
    Stream,
    piece_size,
)

# Connections to the origin that are opened at once. Another one follows each half second while less than this arrives,
# in bytes a second, and this process keeps less than so many processors busy: it is the line then that more would fill.
FIRST_CONNECTIONS = 2
ENOUGH = 300 * 10**6
BUSY = 0.9
# One request to the origin takes so many bytes at most where nobody else waits for pieces.
SPAN = 64 * BLOCK
# An object is asked of the origin again so often when what came has another sha256.
ATTEMPTS = 3
# A peer that never answered counts as dead after so many seconds; its host may start later than this one.
PEER_GRACE = 8.0
PEER_LOST = 3.0
# Seconds that a piece waits for its home before the next rank goes to the origin; for each rank as long again.
RANK_PATIENCE = 4.0
# A piece that a peer has been sending for so long may also be read from another source.
CLAIM_PATIENCE = 20.0
# A peer that may have what this host is about to read from the origin gets so long for it, in seconds.
AHEAD_PATIENCE = 1.0
# Requests of one connection to the origin that may fail one after the other, with nothing arriving in between.
FAILURES = 8
# Seconds between two looks at the time. By so much the limit of silence is longer than a connection's own.
TICK = 0.5
RATE_WINDOW = 10.0
# Unsynced bytes that start a sync of the parts.
SYNC_STEP = 16 * BLOCK


class Origin(t.Protocol):
    def open(self, oid: str, start: int, stop: int) -> t.ContextManager[Stream]: ...


class Neighbour(t.Protocol):
    """A host of the run that has, or will have, some of the bytes."""

    @property
    def name(self) -> str: ...

    def open(self, oid: str, start: int, stop: int, *, wait: float) -> t.ContextManager[Stream]: ...

    def digest(self, oid: str, start: int, stop: int) -> str | None: ...

    def done(self) -> None: ...


class FetchError(Exception):
    """The objects cannot be had."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class Options:
    me: str = ""
    connections: int = 8
    bandwidth_limit: int = 0
    timeout: int = 120
    hashers: int = 2
    # Peers that have every object already.
    whole: tuple[str, ...] = ()


@dataclass
class Result:
    """What was done. Bytes are those of objects, without the transport's own."""

    from_origin: int = 0
    from_peers: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class Item:
    """One object on its way."""

    def __init__(self, store: Store, pointer: Named, name: str) -> None:
        self.pointer = pointer
        self.oid, self.size = pointer.oid, pointer.size
        self.name = name
        self.piece = piece_size(self.size)
        self.pieces = -(-self.size // self.piece)
        self.attempts = 0
        self.givers: dict[int, set[str]] = {}
        self.distrusted: dict[int, tuple[str, set[str]]] = {}
        self.expected: list[str] = []
        self.mended: set[int] = set()
        self.sums: list[str] = []
        self.step = hashlib.sha256()
        self.rewind(0)
        self.writing: set[int] = set()
        self.whole = False
        self.published = False
        self.hashing = False
        self._store = store
        self._open()

    def _open(self) -> None:
        store = self._store
        part = store.part(self.oid)
        part.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if part.lstat().st_size != self.size:
                part.unlink()
        if not part.exists():
            store.map(self.oid).unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = os.open(part, flags, 0o644)
        os.ftruncate(self.descriptor, self.size)
        opened = BlockMap.open(store.map(self.oid), self.size, create=True)
        assert opened is not None  # noqa: S101 - create=True always gives one
        self.map = opened

    def restart(self) -> None:
        """Throw away what has arrived. The old descriptor stays open: another thread may be writing to it."""
        self._store.part(self.oid).unlink(missing_ok=True)
        self._store.map(self.oid).unlink(missing_ok=True)
        self.givers.clear()
        self.distrusted.clear()
        self.expected = []
        self.rewind(0)
        self._open()

    def rewind(self, number: int) -> None:
        """Take the sha256 again from a multiple of SUM_STEP on: the last one that was reached, or the beginning."""
        self.hashed = self.step.copy() if number else hashlib.sha256()
        self.step = self.hashed.copy()
        self.front = number * SUM_STEP
        self.sums = self.sums[:number]
        # Whether some thread is at the front now.
        self.busy = False

    def absorb(self, content: memoryview) -> bool:
        """Go on with the sha256; False where what was expected of a salvaged object is not there."""
        self.hashed.update(content)
        self.front += len(content)
        if self.front % SUM_STEP == 0:
            said = self.hashed.copy().hexdigest()
            if self.expected and said != self.expected[len(self.sums)]:
                return False
            self.sums.append(said)
            self.step = self.hashed.copy()
        return True

    def salvage(self) -> None:
        """Start from a quarantined object: its digests by the way tell which part of it is damaged."""
        bad, sums = self._store.bad(self.oid), self._store.sums(self.oid)
        if self.map.count() or len(sums) != self.size // SUM_STEP:
            return
        try:
            if bad.lstat().st_size != self.size:
                return
            with bad.open("rb") as source:
                copied = 0
                while copied < self.size:
                    count = os.copy_file_range(source.fileno(), self.descriptor, self.size - copied, copied, copied)
                    if not count:
                        return
                    copied += count
        except OSError:
            return
        self.expected = sums
        self.map.mark(0, self.map.blocks)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self.map.close()

    def bounds(self, piece: int) -> tuple[int, int]:
        """The blocks of a piece: the first, and the one after the last."""
        step = self.piece // BLOCK
        return piece * step, min((piece + 1) * step, self.map.blocks)

    def complete(self, piece: int) -> bool:
        return not self.map.missing(*self.bounds(piece))

    def read(self, start: int, buffer: memoryview) -> int:
        return os.preadv(self.descriptor, [buffer], start)

    def digest(self, start: int, stop: int) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(BLOCK))
        while start < stop and (count := self.read(start, buffer[: min(BLOCK, stop - start)])):
            digest.update(buffer[:count])
            start += count
        return digest.hexdigest()


Work = tuple["Item", int]


class Fetch:
    """One fetch of some objects. ``run`` returns when all are in the store, or raises FetchError."""

    def __init__(
        self,
        store: Store,
        wanted: t.Sequence[tuple[Named, str]],
        origin: Origin | None,
        peers: t.Sequence[Neighbour] = (),
        options: Options | None = None,
    ) -> None:
        self.store = store
        self.options = options or Options()
        self.origin = origin
        self.peers = {peer.name: peer for peer in peers}
        self.result = Result()
        self.items = [Item(store, pointer, name) for pointer, name in wanted]
        limit = self.options.bandwidth_limit
        self._bucket = Bucket(limit) if limit > 0 else None
        self._names = sorted({self.options.me, *self.peers})
        self._state = threading.Condition()
        self._queues: dict[str, collections.deque[Work]] = {name: collections.deque() for name in self._names}
        self._late: dict[tuple[str, int], float] = {}
        self._late_since: dict[tuple[str, int], float] = {}
        self._asked: dict[tuple[str, int, str], float] = {}
        self._claims: dict[tuple[str, int], tuple[float, str]] = {}
        self._reading: collections.Counter[str] = collections.Counter()
        self._dead: set[str] = set()
        self._banned: set[str] = set()
        self._slow: set[str] = set()
        self._trouble: dict[str, float] = {}
        self._seen: set[str] = set()
        self._problem: Problem | None = None
        self._origin_problem: Problem | None = None
        self._idle_since: float | None = None
        self._started = time.monotonic()
        self._heard = self._started
        self._broke_off = self._started
        self._arrived = 0
        self._unsynced = 0
        self._slowest = 0.0
        self._samples: collections.deque[tuple[float, int]] = collections.deque([(self._started, 0)])
        self._by_oid = {item.oid: item for item in self.items}
        self.total = sum(item.size for item in self.items)
        self._present = 0
        self._ending = threading.Event()

    # -- the run

    def run(self, report: t.Callable[[dict[str, t.Any]], None] = lambda _progress: None) -> Result:
        """Fetch everything. report: called about each second with the progress."""
        for item in self.items:
            item.salvage()
            self._present += min(item.size, item.map.count() * BLOCK)
            for piece in range(item.pieces):
                if not item.complete(piece):
                    self._enqueue(item, piece)
        workers = [threading.Thread(target=self._guard, args=(self._hash,)) for _ in range(self.options.hashers)]
        if self.origin is not None:
            lines = max(1, self.options.connections // len(self._names))
            workers += [threading.Thread(target=self._guard, args=(self._from_origin, n)) for n in range(lines)]
        workers += [threading.Thread(target=self._guard, args=(self._from_peer, name)) for name in self.peers]
        syncer = threading.Thread(target=self._sync, daemon=True)
        for thread in (*workers, syncer):
            thread.daemon = True
            thread.start()
        try:
            while True:
                with self._state:
                    self._state.wait_for(lambda: self._over, timeout=TICK)
                    self._tick()
                report(self.progress())
                if self._over:
                    break
        finally:
            self._ending.set()
            with self._state:
                self._problem = self._problem or (
                    None if all(item.published for item in self.items) else Problem("stopped", "", "", "")
                )
                self._state.notify_all()
            deadline = time.monotonic() + 2
            for thread in workers:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))
        self.result.seconds = time.monotonic() - self._started
        if self._problem is not None:
            raise FetchError(self._problem)
        for item in self.items:
            item.close()
        self._say_done()
        return self.result

    @property
    def _over(self) -> bool:
        return self._problem is not None or all(item.published for item in self.items)

    def _guard(self, target: t.Callable[..., None], *arguments: t.Any) -> None:
        """A thread that fails ends the run with a message, and not with a host that waits for ever."""
        try:
            target(*arguments)
        except OSError as error:
            self._fail(disk_problem(error, self.store))
        except BaseException as error:
            found = f"{type(error).__name__}: {error}."
            self._fail(Problem("internal", found, "no such error.", "report it, with this message."))

    def _fail(self, problem: Problem) -> None:
        with self._state:
            if not self._ending.is_set():
                self._problem = self._problem or problem
            self._state.notify_all()

    def _note(self, text: str) -> None:
        if text not in self.result.notes:
            self.result.notes.append(text)

    def progress(self) -> dict[str, t.Any]:
        now = time.monotonic()
        with self._state:
            done = min(self.total, self._present)
            self._samples.append((now, self._arrived))
            while len(self._samples) > 2 and self._samples[0][0] < now - RATE_WINDOW:
                self._samples.popleft()
            rate = self._rate()
            left = self.total - done
            return {
                "state": "verifying" if not left else "fetching",
                "done_bytes": done,
                "total_bytes": self.total,
                "from_origin": self.result.from_origin,
                "from_peers": self.result.from_peers,
                "rate": round(rate),
                "eta": round(left / rate) if rate > 0 else None,
                "objects_done": sum(item.published for item in self.items),
                "objects": len(self.items),
                "notes": list(self.result.notes),
            }

    def _rate(self) -> float:
        """Bytes a second, over the last seconds."""
        since, arrived = self._samples[0]
        seconds = time.monotonic() - since
        return (self._arrived - arrived) / seconds if seconds > 0.2 else 0.0

    def _say_done(self) -> None:
        def tell(peer: Neighbour) -> None:
            with contextlib.suppress(SourceError, OSError):
                peer.done()

        threads = [threading.Thread(target=tell, args=(peer,), daemon=True) for peer in self.peers.values()]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 2
        for thread in threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    # -- who brings what

    def _ranks(self, item: Item, piece: int) -> list[str]:
        """The hosts in the order in which they are to bring a piece, without those that are gone."""
        return [name for name in ranking(item.oid, piece, self._names) if name not in self._dead]

    def _enqueue(self, item: Item, piece: int, *, first: bool = False) -> None:
        self._late_since.pop((item.oid, piece), None)
        home = self.options.me if piece in item.distrusted else self._ranks(item, piece)[0]
        queue = self._queues[home]
        if first:
            queue.appendleft((item, piece))
        else:
            queue.append((item, piece))

    def _bury(self, name: str) -> None:
        """A peer is gone: what it was to bring falls to the next ranks."""
        if name in self._dead:
            return
        self._dead.add(name)
        orphans = self._queues[name]
        self._queues[name] = collections.deque()
        for item, piece in orphans:
            self._enqueue(item, piece)
        self._state.notify_all()

    @property
    def _patience(self) -> float:
        """On a slow line nobody is quick: whoever needs no longer than twice what this host needs is not late."""
        return max(RANK_PATIENCE, 2 * self._slowest)

    def _be_late(self, key: tuple[str, int], since: float) -> None:
        """A piece that was asked for in vain meanwhile is late since the first time: the next rank waits no longer."""
        self._late.setdefault(key, self._late_since.setdefault(key, since))

    def _tick(self) -> None:
        """What time alone brings about."""
        now = time.monotonic()
        if self._queues[self.options.me]:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        patience = self._patience
        idle = self._idle_since is not None and now - self._idle_since > patience
        if self.peers and idle:
            # This host has brought its own share: what the others have not brought by now is late.
            for name, queue in self._queues.items():
                while name != self.options.me and queue:
                    item, piece = queue.popleft()
                    self._be_late((item.oid, piece), now - patience)
        for key, (since, who) in self._claims.items():
            if who != self.options.me and now - since > (patience if idle else max(patience, CLAIM_PATIENCE)):
                self._be_late(key, since)
        # The first connection that breaks off after the last byte is made anew, and has time of its own.
        if now - max(self._heard, self._broke_off) > self.options.timeout + TICK:
            self._problem = (
                self._problem
                or self._origin_problem
                or Problem(
                    "timeout",
                    f"nothing has arrived for {self.options.timeout} s, from the origin or from another host.",
                    "bytes.",
                    "run again, which goes on where this ended; raise model_timeout on a very slow line.",
                )
            )
        if self._late:
            self._state.notify_all()

    def _claim(self, item: Item, piece: int, who: str) -> Work:
        self._claims[item.oid, piece] = (time.monotonic(), who)
        return item, piece

    def _next_for_origin(self) -> tuple[Item, int, int] | None:
        """A run of pieces that this host is to read from the origin: object, first piece, the one after the last."""
        queue = self._queues[self.options.me]
        if queue:
            # Each connection at the front of an object of its own: what comes in turn is hashed in passing.
            place = next((n for n, work in enumerate(queue) if not self._reading[work[0].oid]), 0)
            item, piece = queue[place]
            queue.rotate(-place)
            queue.popleft()
            self._claim(item, piece, self.options.me)
            stop = piece + 1
            if len(self._names) == 1:
                # Nobody waits for a piece of its own: fewer and longer requests, shorter ones towards the end.
                left = sum(one.size for one in self.items if not one.published) - self._present
                span = max(item.piece, min(SPAN, left // (2 * self.options.connections)))
                while queue and queue[0] == (item, stop) and (stop + 1 - piece) * item.piece <= span:
                    queue.popleft()
                    self._claim(item, stop, self.options.me)
                    stop += 1
            queue.rotate(place)
            return item, piece, stop
        now = time.monotonic()
        due = []
        for number, ((oid, piece), since) in enumerate(self._late.items()):
            rank = self._ranks(self._by_oid[oid], piece).index(self.options.me)
            if now - since >= self._patience * rank:
                # Each host begins with the pieces that are its own to bring next, and where the slow one is last.
                due.append((rank, -number, oid, piece))
        if not due:
            return None
        _rank, _number, oid, piece = min(due)
        del self._late[oid, piece]
        self._claim(self._by_oid[oid], piece, self.options.me)
        return self._by_oid[oid], piece, piece + 1

    def _next_for_peer(self, name: str) -> tuple[Item, int, float] | None:
        """A piece to ask of a peer, and the seconds that the peer may take until it has the first block of it."""
        if name in self._banned:
            return None
        queue = self._queues[name]
        if queue:
            item, piece = queue.popleft()
            self._claim(item, piece, name)
            return item, piece, 5.0
        now = time.monotonic()
        for oid, piece in list(self._late):
            item = self._by_oid[oid]
            if piece in item.distrusted or name not in self._ranks(item, piece)[:3]:
                continue
            if now - self._asked.get((oid, piece, name), 0.0) < 2.0:
                continue
            self._asked[oid, piece, name] = now
            del self._late[oid, piece]
            self._claim(item, piece, name)
            return item, piece, 0.0
        return None

    # -- the workers

    def _take(
        self,
        item: Item,
        run: tuple[int, int],
        giver: str,
        stream: Stream,
        buffer: memoryview,
        *,
        until: float = float("inf"),
    ) -> None:
        """Read a run of blocks from a stream into a part; until: when a peer is left that is too slow."""
        for block in range(*run):
            start = block * BLOCK
            want = min(BLOCK, item.size - start)
            filled = 0
            while filled < want:
                count = stream.readinto(buffer[filled:want])
                if not count:
                    raise SourceError(
                        Problem("interrupted", f"the bytes of {item.name} ended early.", "all of them.", "run again."),
                        retry=True,
                    )
                filled += count
                if self._bucket:
                    self._bucket.take(count)
            with self._state:
                if self._over:
                    return
                # One thread writes a block, and none once it is there: the hasher may have read it.
                skip = item.map.has(block) or block in item.writing
                if giver != self.options.me and (start // item.piece in item.distrusted or time.monotonic() > until):
                    return
                in_turn = not (skip or item.busy or item.expected) and item.front == start
                if not skip:
                    item.writing.add(block)
                if in_turn:
                    item.busy = True
            if skip:
                if not item.map.missing(block, run[1]):
                    return
                continue
            there = False
            try:
                os.pwrite(item.descriptor, buffer[:want], start)
                if in_turn:
                    item.absorb(buffer[:want])
                there = True
            finally:
                with self._state:
                    item.writing.discard(block)
                    if in_turn:
                        item.busy = False
                    if there:
                        self._arrive(item, block, want, giver)

    def _arrive(self, item: Item, block: int, count: int, giver: str) -> None:
        item.map.mark(block, block + 1)
        item.givers.setdefault(block * BLOCK // item.piece, set()).add(giver)
        self._present += count
        self._arrived += count
        self._unsynced += count
        if giver == self.options.me:
            self.result.from_origin += count
        else:
            self.result.from_peers += count
        self._heard = time.monotonic()
        self._state.notify_all()

    def _finish_claim(self, item: Item, piece: int, *, late: bool = False) -> None:
        """A worker is through with a piece: it is done, or somebody has to go on with it."""
        key = (item.oid, piece)
        self._claims.pop(key, None)
        if item.complete(piece):
            self._late.pop(key, None)
            self._late_since.pop(key, None)
            self._judge(item, piece)
        elif late:
            self._be_late(key, time.monotonic())
        elif key not in self._late and not item.whole:
            self._enqueue(item, piece, first=True)
        self._state.notify_all()

    def _runs(self, item: Item, first: int, stop: int) -> list[tuple[int, int]]:
        return item.map.missing(item.bounds(first)[0], item.bounds(stop - 1)[1])

    def _from_origin(self, number: int) -> None:
        assert self.origin is not None  # noqa: S101 - started only where there is one
        cpu, since = time.process_time(), time.monotonic()
        while number >= FIRST_CONNECTIONS and not self._over:
            if self._ending.wait(0.5):
                return
            now = time.monotonic()
            busy = (time.process_time() - cpu) / (now - since)
            cpu, since = time.process_time(), now
            number -= self._rate() < ENOUGH and busy < BUSY
        buffer = memoryview(bytearray(BLOCK))
        failures, heard = 0, 0.0
        while True:
            with self._state:
                work = None
                while not self._over and (work := self._next_for_origin()) is None:
                    self._state.wait(timeout=0.5)
                if work is None:
                    return
                item, piece, stop = work
                self._reading[item.oid] += 1
                ahead = self._ahead(item, piece)
            for name in ahead:
                self._try_peer(name, item, piece, buffer)
            with self._state:
                runs = self._runs(item, piece, stop)
            delay, began = 0.0, time.monotonic()
            try:
                for start, end in runs:
                    with self.origin.open(item.oid, start * BLOCK, min(end * BLOCK, item.size)) as stream:
                        self._take(item, (start, end), self.options.me, stream, buffer)
            except SourceError as error:
                failed: SourceError | None = error
                if error.problem.cause == "range_unsupported":
                    failed = self._whole(item, buffer)
                if failed is not None:
                    failures = failures + 1 if heard == self._heard else 1
                    heard = self._heard
                    delay = self._origin_failed(item, failed, failures)
            with self._state:
                self._reading[item.oid] -= 1
                self._slowest = max(self._slowest, (time.monotonic() - began) / (stop - piece))
                for number in reversed(range(piece, stop)):
                    self._finish_claim(item, number)
            if delay:
                self._ending.wait(delay)

    def _whole(self, item: Item, buffer: memoryview) -> SourceError | None:
        """Read an object from a server that gives no parts of one; this worker does all of it."""
        assert self.origin is not None  # noqa: S101 - called by a worker of the origin
        with self._state:
            if item.whole:
                return None
            item.whole = True
            for name, queue in self._queues.items():
                self._queues[name] = collections.deque(work for work in queue if work[0] is not item)
            for key in [key for key in self._late if key[0] == item.oid]:
                del self._late[key]
        try:
            with self.origin.open(item.oid, 0, item.size) as stream:
                self._take(item, (0, item.map.blocks), self.options.me, stream, buffer)
        except SourceError as error:
            return error
        finally:
            with self._state:
                item.whole = False
                for piece in range(item.pieces):
                    if not item.complete(piece):
                        self._enqueue(item, piece)
        return None

    def _ahead(self, item: Item, piece: int) -> list[str]:
        """The hosts that may have a piece already which this host is about to read from the origin.

        That is one that had all before; for a late piece, those that were to bring it; and for a piece of this host's
        own the next in rank: the others share out the pieces of a host that starts long after them.
        """
        if piece in item.distrusted:
            return []
        whole = [name for name in self.options.whole if name in self.peers and name not in self._dead]
        if whole:
            return [whole[piece % len(whole)]]
        ranks = self._ranks(item, piece)
        mine = ranks.index(self.options.me)
        return [name for name in (ranks[:mine] or ranks[1:2]) if name in self._seen - self._slow]

    def _try_peer(self, name: str, item: Item, piece: int, buffer: memoryview) -> None:
        """Take what a peer has of a piece now; whatever is missing then comes from the origin.

        A peer that takes twice as long as the origin ever did is not tried again: its line is slow, or its disk. One
        that had everything before is waited for all the same: it spares the origin the whole model.
        """
        patience = float("inf") if name in self.options.whole else max(AHEAD_PATIENCE, 2 * self._slowest)
        until = time.monotonic() + patience
        with contextlib.suppress(SourceError):
            for start, end in self._runs(item, piece, piece + 1):
                stop = min(end * BLOCK, item.size)
                with self.peers[name].open(item.oid, start * BLOCK, stop, wait=0.0) as stream:
                    self._take(item, (start, end), name, stream, buffer, until=until)
        if time.monotonic() > until:
            self._slow.add(name)

    def _origin_failed(self, item: Item, error: SourceError, failures: int) -> float:
        """Decide whether to try again; the answer is the seconds until then."""
        with self._state:
            self._origin_problem = error.problem
            lost = not error.retry or failures >= FAILURES
            if lost and not (set(self.peers) - self._dead):
                self._problem = self._problem or error.problem
                self._state.notify_all()
                return 0.0
            if error.retry:
                if failures == 1:
                    self._broke_off = time.monotonic()
                self._note(f"the origin broke off {item.name}, and was asked again ({error.problem.cause})")
            # Bytes may still come from other hosts; silence for model_timeout ends it.
            return float(max(error.wait, min(15.0, 0.25 * 2 ** min(failures, 7))))

    def _from_peer(self, name: str) -> None:
        peer = self.peers[name]
        buffer = memoryview(bytearray(BLOCK))
        while True:
            with self._state:
                work = None
                while not self._over and (work := self._next_for_peer(name)) is None:
                    self._state.wait(timeout=0.5)
                if work is None:
                    return
                item, piece, wait = work
                runs = self._runs(item, piece, piece + 1)
            delay, late = 0.0, False
            try:
                for start, end in runs:
                    with peer.open(item.oid, start * BLOCK, min(end * BLOCK, item.size), wait=wait) as stream:
                        with self._state:
                            self._seen.add(name)
                            self._trouble.pop(name, None)
                        self._take(item, (start, end), name, stream, buffer)
            except NotYet:
                with self._state:
                    self._seen.add(name)
                    self._trouble.pop(name, None)
                late = True
            except Unwilling:
                with self._state:
                    self._bury(name)
            except (Gone, SourceError):
                delay = 0.25
                with self._state:
                    now = time.monotonic()
                    since = self._trouble.setdefault(name, now)
                    if now - since > (PEER_LOST if name in self._seen else PEER_GRACE):
                        self._bury(name)
                        delay = 5.0
            with self._state:
                self._finish_claim(item, piece, late=late)
            if delay:
                self._ending.wait(delay)

    # -- what arrived

    def _hash(self) -> None:
        """Follow the front of one object after the other, and publish what is right."""
        while True:
            with self._state:
                item = next((one for one in self.items if not (one.hashing or one.published)), None)
                if item is None or self._over:
                    return
                item.hashing = True
            self._follow(item)

    def _follow(self, item: Item) -> None:
        buffer = memoryview(bytearray(BLOCK))
        while True:
            with self._state:
                ready = 0
                while not self._over and (item.busy or (item.front < item.size and not (ready := self._ready(item)))):
                    self._state.wait(timeout=0.5)
                if self._over:
                    return
                item.busy = True
            for _ in range(ready):
                count = item.read(item.front, buffer[: min(BLOCK, item.size - item.front)])
                if not item.absorb(buffer[:count]) and self._again(item, len(item.sums)):
                    break
            if item.front < item.size:
                with self._state:
                    item.busy = False
                    self._state.notify_all()
                continue
            if item.hashed.hexdigest() == item.oid:
                with self._state:
                    self.store.publish(item.oid, item.sums)
                    item.published = True
                    self._state.notify_all()
                return
            tail = item.size // SUM_STEP
            if item.expected and item.size % SUM_STEP and self._again(item, tail):
                continue
            if not self._mismatch(item):
                return

    @staticmethod
    def _ready(item: Item) -> int:
        """How many blocks can be read at the front."""
        block = item.front // BLOCK
        return item.map.available(block, block + 16)

    def _requeue(self, item: Item, pieces: t.Iterable[int]) -> None:
        for piece in pieces:
            first, stop = item.bounds(piece)
            item.map.unmark(first, stop)
            self._present -= min(item.size, stop * BLOCK) - first * BLOCK
            self._enqueue(item, piece)
        self._state.notify_all()

    def _again(self, item: Item, number: int) -> bool:
        """A salvaged object is damaged here: fetch this part of it alone. False where that was tried already."""
        with self._state:
            if number in item.mended:
                # The digests that were kept are wrong themselves: go on without.
                item.expected = []
                item.sums.append(item.hashed.copy().hexdigest())
                item.step = item.hashed.copy()
                return False
            item.mended.add(number)
            start, stop = number * SUM_STEP, min((number + 1) * SUM_STEP, item.size)
            self._note(f"{item.name} was damaged on this host between byte {start} and {stop}: fetched again")
            self._requeue(item, range(start // item.piece, -(-stop // item.piece)))
            item.rewind(number)
            return True

    def _mismatch(self, item: Item) -> bool:
        """All bytes are here, and their sha256 is wrong: find out whose fault that is, and fetch anew."""
        suspects = [piece for piece, givers in item.givers.items() if givers - {self.options.me}]
        suspects = [piece for piece in suspects if piece not in item.distrusted]
        if suspects:
            odd = [piece for piece in suspects if self._contradicted(item, piece)] or suspects
            with self._state:
                for piece in odd:
                    start, stop = piece * item.piece, min((piece + 1) * item.piece, item.size)
                    item.distrusted[piece] = (item.digest(start, stop), set(item.givers.pop(piece)))
                self._note(
                    f"{item.name} has another sha256 than its pointer: {len(odd)} pieces that came from other hosts "
                    "are fetched from the origin"
                )
                self._requeue(item, odd)
                item.rewind(0)
            return True
        with self._state:
            item.attempts += 1
            found = f"what the origin sent for {item.name} has another sha256 than its pointer"
            roomy = shutil.disk_usage(self.store.path).free > 2 * item.size
            if roomy:
                self.store.quarantine(self.store.part(item.oid), item.oid)
            self._present -= item.size
            item.restart()
            if item.attempts >= ATTEMPTS:
                self._problem = self._problem or Problem(
                    "damaged_transfer",
                    f"{found}, {ATTEMPTS} times.",
                    f"the object {item.oid}.",
                    "the server, or a proxy before it, damages the file: tell its operator, or set model_mirror.",
                )
                self._state.notify_all()
                return False
            self._note(f"{found}: fetched again")
            for piece in range(item.pieces):
                self._enqueue(item, piece)
            self._state.notify_all()
            return True

    def _contradicted(self, item: Item, piece: int) -> bool:
        """Whether a host that did not give a piece holds other bytes."""
        start, stop = piece * item.piece, min((piece + 1) * item.piece, item.size)
        mine = item.digest(start, stop)
        others = [name for name in self.peers if name not in item.givers.get(piece, set()) | self._dead | self._banned]
        for name in others[:3]:
            with contextlib.suppress(SourceError):
                theirs = self.peers[name].digest(item.oid, start, stop)
                if theirs is not None:
                    return theirs != mine
        return False

    def _judge(self, item: Item, piece: int) -> None:
        """A distrusted piece has come from the origin: name the host that had sent other bytes."""
        if piece not in item.distrusted:
            return
        before, givers = item.distrusted[piece]
        start, stop = piece * item.piece, min((piece + 1) * item.piece, item.size)
        if item.digest(start, stop) == before:
            return
        for name in sorted(givers - {self.options.me}):
            self._note(f"{name} sent wrong bytes of {item.name}: it was not asked again")
            self._banned.add(name)
            self._bury(name)

    def _sync(self) -> None:
        """Keep the disk close behind, so that a loss of power costs little."""
        while not self._ending.wait(0.2):
            with self._state:
                if self._unsynced < SYNC_STEP:
                    continue
                self._unsynced = 0
                open_items = [item for item in self.items if not item.published and item.descriptor >= 0]
                written = [(item, item.map.written()) for item in open_items]
            for item, blocks in written:
                if not blocks:
                    continue
                # The part may be published or thrown away meanwhile: a closed descriptor is no error then.
                with contextlib.suppress(OSError):
                    descriptor = os.dup(item.descriptor)
                    try:
                        os.fdatasync(descriptor)
                    finally:
                        os.close(descriptor)
                    with self._state:
                        if not item.published:
                            item.map.mark_durable(blocks)
                            item.map.sync()


def disk_problem(error: OSError, store: Store) -> Problem:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(
            "disk_full",
            f"the file system of {store.path} ran full while objects arrived.",
            "room for all of them.",
            "free space there and run again, which goes on where this ended; or choose another model_root.",
        )
    return Problem(
        "file_system", f"{error}.", f"a store that can be written at {store.path}.", "check its file system."
    )
