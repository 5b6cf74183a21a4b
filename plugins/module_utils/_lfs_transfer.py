# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A transfer into a store, in this process or in one of its own. Private to the collection.

A process of its own outlives the connection that started it, keeps the token in its memory alone, and writes its
progress where ``cat`` can read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.vicuna.fleet.plugins.module_utils import _lfs_peers
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError, Problem
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_engine import (
    Fetch,
    FetchError,
    Options,
    Result,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_origin import Origin
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_peers import Peer, PeerSource, ServerOptions
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import Named, SourceError, Store, replace_text

# Serving hosts have better things to do: a fetch takes what they leave.
NICENESS = 10
# A server that fails may do better at once: it is asked so often where the objects are.
ASKED = 3
# A process that has written no progress for so long is not at work.
FRESH = 30.0


@dataclass(frozen=True)
class Peers:
    """This host among those of the run."""

    name: str
    address: str
    port: int
    key: str = field(repr=False)
    others: tuple[Peer, ...] = ()
    # Those of the others that have every object already.
    whole: tuple[str, ...] = ()
    linger: float = 30.0


def parse_peers(data: Mapping[str, t.Any]) -> Peers | None:
    """Read the module's option; None where this host takes no part. Raises GitLfsError for anything else."""
    if not data.get("hosts"):
        return None
    try:
        hosts = [dict(host) for host in data["hosts"]]
        name, address = str(data["name"]), str(data.get("address") or "")
        peers = [Peer(str(host["name"]), str(host["address"]), int(host["port"])) for host in hosts]
        port, linger, key = int(data["port"]), float(data.get("linger", 30)), str(data.get("key") or "")
    except (KeyError, TypeError, ValueError) as error:
        raise GitLfsError(
            Problem(
                "peer_address",
                f"the hosts that share their pieces are not described as they have to be ({error!r}).",
                "name, port, and hosts with a name, an address and a port each.",
                "correct model_peer_address and model_peer_port.",
            )
        ) from None
    if not address or not key or len(peers) < 2:
        return None
    whole = tuple(str(host["name"]) for host in hosts if host.get("whole") and host["name"] != name)
    others = tuple(peer for peer in peers if peer.name != name and peer.address)
    return Peers(name, address, port, key, others, whole, linger)


@dataclass(frozen=True)
class Transfer:
    """What is to come, and from where.

    label: what names it for a second run, which may join it. wanted: objects with the path that messages name. every:
    objects of the commit, which other hosts may have.
    """

    store: Store
    label: str
    wanted: Sequence[tuple[Named, str]]
    every: Sequence[Named]
    origin: Origin | None
    peers: Peers | None = None
    connections: int = 8
    bandwidth_limit: int = 0
    timeout: int = 120
    # What the caller calls the settings that messages name.
    variables: Mapping[str, str] = field(default_factory=dict)

    def serve(self) -> None:
        """Have the other hosts served from a process of its own. To be called before there are threads."""
        if self.peers is None:
            return
        _lfs_peers.start(
            ServerOptions(
                store=self.store.path,
                address=self.peers.address,
                port=self.peers.port,
                key=self.peers.key,
                objects={pointer.oid: pointer.size for pointer in self.every},
                expected=[peer.name for peer in self.peers.others],
                linger=self.peers.linger,
                busy=lambda: _lfs_peers.fetching(self.store),
                bandwidth_limit=self.bandwidth_limit,
            )
        )

    def run(self) -> Result:
        """Bring every object. Raises GitLfsError."""
        # Two descriptors for each object that is on its way, and a connection to each host.
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
        started = time.time()
        last: dict[str, t.Any] = {}
        with self._making_progress(started, last):
            self.serve()
            sources = []
            me = "this host"
            if self.peers is not None:
                me = self.peers.name
                sources = [PeerSource(peer, self.peers.key, me) for peer in self.peers.others]
            options = Options(
                me=me,
                connections=self.connections,
                bandwidth_limit=self.bandwidth_limit,
                timeout=self.timeout,
                whole=self.peers.whole if self.peers else (),
            )

            def report(progress: dict[str, t.Any]) -> None:
                if progress != last.get("progress") or time.time() - last["at"] > 1:
                    last.update(progress=progress, at=time.time())
                    self._write(progress, started)

            last["at"] = 0.0
            try:
                return Fetch(self.store, self.wanted, self.origin, sources, options).run(report)
            except FetchError as error:
                raise GitLfsError(error.problem) from None

    @contextlib.contextmanager
    def _making_progress(self, started: float, last: dict[str, t.Any]) -> t.Iterator[None]:
        total = sum(pointer.size for pointer, _path in self.wanted)
        self._write({"state": "fetching", "done_bytes": 0, "total_bytes": total, "objects": len(self.wanted)}, started)
        try:
            yield
        except GitLfsError as error:
            problem = error.problem.renamed(self.variables)
            said = {"cause": problem.cause, "msg": str(problem), "detail": error.detail}
            self._write({**last.get("progress", {}), "state": "failed", **said}, started)
            raise
        except OSError as error:
            problem = Problem(
                "file_system", f"{error}.", "a store that can be written.", "check the file system of model_root."
            )
            said = {"cause": problem.cause, "msg": str(problem.renamed(self.variables))}
            self._write({**last.get("progress", {}), "state": "failed", **said}, started)
            raise
        self._write({**last.get("progress", {}), "state": "done"}, started)

    def _write(self, progress: Mapping[str, t.Any], started: float) -> None:
        empty: dict[str, t.Any] = {
            "done_bytes": 0,
            "total_bytes": 0,
            "from_origin": 0,
            "from_peers": 0,
            "rate": 0,
            "eta": None,
            "objects_done": 0,
            "objects": 0,
            "cause": "",
            "msg": "",
            "detail": "",
            "notes": [],
        }
        now = {"pid": os.getpid(), "label": self.label, "started": started, "updated": time.time()}
        replace_text(self.store.progress, json.dumps({**empty, **progress, **now}) + "\n")

    def settle(self) -> None:
        """Wait for the disk, object by object."""
        for pointer, _path in self.wanted:
            self.store.settle(pointer.oid)

    def start(self, locks: Sequence[int]) -> dict[str, t.Any]:
        """Run in a process of its own; returns how to follow it.

        locks: descriptors of this run's locks, which the process keeps until every object is there.
        """
        # The caller reads this file at once: it must not find what an earlier transfer has left.
        self.store.progress.unlink(missing_ok=True)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            self._detach(reader, writer, locks)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as stream:
            pid = int(stream.read() or b"0")
        return {"pid": pid, "progress": str(self.store.progress)}

    def _detach(self, reader: int, writer: int, locks: Sequence[int]) -> t.NoReturn:
        """In the child: leave the session of the caller, who waits for its output to end."""
        try:
            os.close(reader)
            os.setsid()
            if os.fork():
                os._exit(0)
            os.chdir("/")
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.nice(NICENESS)
            self._write({"state": "fetching"}, time.time())
            os.write(writer, str(os.getpid()).encode())
            os.close(writer)
            with contextlib.suppress(GitLfsError, OSError):  # both are in the progress file
                self.run()
            for descriptor in locks:
                os.close(descriptor)
            self.settle()
        finally:
            os._exit(0)


def settle_in_background(transfer: Transfer) -> None:
    """Wait for the disk in a process of its own, so that the caller need not."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if not os.fork():
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            transfer.settle()
    finally:
        os._exit(0)


def running(store: Store) -> dict[str, t.Any]:
    """The progress of a transfer that is at work in this store now; empty where none is."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        data = json.loads(store.progress.read_text(encoding="utf-8"))
        if data["state"] in ("fetching", "verifying") and time.time() - float(data["updated"]) < FRESH:
            os.kill(int(data["pid"]), 0)
            return dict(data)
    return {}


def ask_ahead(origin: Origin) -> None:
    """Learn of missing objects and refused tokens before the first byte. Raises SourceError."""
    for attempt in range(1, ASKED + 1):
        try:
            origin.prepare()
        except SourceError as error:
            if not error.retry or attempt == ASKED:
                raise
            time.sleep(max(0.5 * attempt, min(10.0, error.wait)))
        else:
            return
