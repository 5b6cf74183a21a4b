# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts that give each other LFS objects while they fetch them. Private to the collection.

Who reads which piece from the origin follows from the names alone, so nobody has to coordinate. The server is a
process of its own that reads the store and nothing else; it sends blocks as they arrive. A request is signed with a key
that all hosts of a run have, and the key never travels; the content does, in the clear, and is checked by its sha256.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import http.server
import ipaddress
import json
import os
import pwd
import re
import secrets
import select
import signal
import socket
import stat
import threading
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError, Problem
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import (
    BLOCK,
    BlockMap,
    SourceError,
    Store,
    blocks_of,
    boot_id,
)

SCHEME = "vicuna-fleet"
# How far the clocks of two hosts may differ, and for how long a request that somebody caught could be sent again.
MAX_AGE = 300
# All others together ask a host about once for each piece of a model: this is 300 GB. One takes some 200 bytes.
NONCES = 20_000
CONNECTIONS = 64
SOCKET_TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
MAX_WAIT = 30.0
# A receiver that has waited this long for the next block does better with another source.
STALL = 10.0
HEAD_LIMIT = 8192
REFRESH = 0.25
PID_FILE = "peer.json"

_TARGET = re.compile(
    r"/v1/objects/(?P<oid>[0-9a-f]{64})/(?P<start>[0-9]{1,15})-(?P<stop>[0-9]{1,15})"
    r"(?:(?P<digest>/sha256)|\?wait=(?P<wait>[0-9]{1,3}(?:\.[0-9]{1,3})?))?",
    re.ASCII,
)
_DONE = re.compile(r"/v1/done/(?P<name>[^/?#]{1,512})", re.ASCII)
_CREDENTIALS = re.compile(rf"{SCHEME} ([0-9]{{1,12}}):([0-9a-f]{{16,64}}):([0-9a-f]{{64}})", re.ASCII)


# --- pure parts --------------------------------------------------------------------------------------------------


def ranking(oid: str, piece: int, names: t.Iterable[str]) -> list[str]:
    """The order in which hosts are to have a piece: the first reads it from the origin, the next stand in for it.

    Consecutive numbers are consecutive permutations, in a mixed radix whose fastest digit is the first host, the next
    digit the second. So every host is first equally often, and the pieces of any one that is dead fall to all others
    equally often, to within one piece.
    """
    rest = sorted(set(names))
    number = int(oid[:16], 16) + piece
    order = []
    while rest:
        number, place = divmod(number, len(rest))
        order.append(rest[place])
        rest = rest[place + 1 :] + rest[:place]
    return order


def sign(key: str, method: str, path: str, timestamp: int, nonce: str) -> str:
    """The proof that whoever made this request has the key."""
    text = "\n".join((SCHEME, method, path, str(timestamp), nonce))
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def authorization(key: str, method: str, path: str, now: float, nonce: str) -> str:
    """The header of a signed request."""
    return f"{SCHEME} {int(now)}:{nonce}:{sign(key, method, path, int(now), nonce)}"


def check(key: str, method: str, path: str, header: str, now: float) -> str:
    """Why a request is refused: "signature", "clock", or nothing. A clock is judged only in a request that is ours."""
    found = _CREDENTIALS.fullmatch(header)
    if not found:
        return "signature"
    timestamp, nonce, signature = found.groups()
    # The text that was sent is what was signed: "007" is not 7.
    if str(int(timestamp)) != timestamp:
        return "signature"
    if not hmac.compare_digest(sign(key, method, path, int(timestamp), nonce), signature):
        return "signature"
    return "clock" if abs(now - int(timestamp)) > MAX_AGE else ""


def fingerprint(key: str) -> str:
    """Tells two keys apart and gives neither away."""
    return hmac.new(key.encode(), b"fingerprint", hashlib.sha256).hexdigest()[:16]


class Nonces:
    """The requests of the last minutes, so that none is served twice."""

    def __init__(self, limit: int = NONCES) -> None:
        self._limit = limit
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()

    def new(self, nonce: str, now: float) -> bool:
        with self._lock:
            # A request may be dated ahead by MAX_AGE and stays valid for as long after its date.
            while self._seen and next(iter(self._seen.values())) + 2 * MAX_AGE < now:
                del self._seen[next(iter(self._seen))]
            if nonce in self._seen:
                return False
            if len(self._seen) >= self._limit:
                del self._seen[next(iter(self._seen))]
            self._seen[nonce] = now
            return True


class Bucket:
    """A rate that all connections share: whoever takes bytes waits until they are due."""

    def __init__(
        self,
        rate: int,
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate = rate
        # Small enough that 64 connections each move within the other end's patience, large enough to be cheap.
        self.chunk = max(4096, min(256 * 1024, rate // 20))
        self._clock = clock
        self._sleep = sleep
        self._due = 0.0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        with self._lock:
            now = self._clock()
            start = max(now, self._due)
            self._due = start + count / self.rate
        if start > now:
            self._sleep(start - now)


# --- what a host has ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Named:
    oid: str
    size: int


def _open_beneath(root: int, parts: t.Sequence[str], size: int) -> int:
    """Open a regular file of this size below a directory, and follow no link on the way."""
    directory = os.dup(root)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = below
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(parts[-1], flags, dir_fd=directory)
    finally:
        os.close(directory)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file of the expected size", parts[-1])
    return descriptor


class _Holding:
    """What this host has of one object at the moment: the verified object, or a part and its map."""

    def __init__(self, store: Store, root: int, pointer: _Named) -> None:
        self._store = store
        self._root = root
        self._pointer = pointer
        self._map: BlockMap | None = None
        self._whole = False
        self._again = 0.0
        self.descriptor = -1
        self.refresh()

    def __enter__(self) -> _Holding:
        return self

    def __exit__(self, *_args: object) -> None:
        self.close()

    def close(self) -> None:
        if self._map:
            self._map.close()
            self._map = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def refresh(self) -> None:
        """Look anew: an object may have been finished, or a part begun again, since."""
        self._again = time.monotonic() + REFRESH
        if self._whole:
            return
        self.close()
        with contextlib.suppress(OSError):
            if self._store.verified(self._pointer):
                self.descriptor = self._open(self._store.object(self._pointer.oid))
                self._whole = True
                return
            part = self._store.part(self._pointer.oid)
            self.descriptor = self._open(part)
            self._map = BlockMap.open(self._store.map(self._pointer.oid), self._pointer.size, create=False)
            # A part that was replaced in between does not go with this map.
            if part.lstat().st_ino != os.fstat(self.descriptor).st_ino:
                self.close()

    def _open(self, path: Path) -> int:
        return _open_beneath(self._root, path.relative_to(self._store.path).parts, self._pointer.size)

    def available(self, first: int, stop: int) -> int:
        if self._whole:
            return stop - first
        return self._map.available(first, stop) if self._map and self.descriptor >= 0 else 0

    def wait(self, first: int, stop: int, seconds: float, pause: t.Callable[[float], None]) -> int:
        """How many blocks are there from the first on, as soon as one is; 0 when none came in time."""
        deadline = time.monotonic() + seconds
        nap = 0.002
        while True:
            count = self.available(first, stop)
            now = time.monotonic()
            if count or now >= deadline:
                return count
            if now >= self._again:
                self.refresh()
                continue
            pause(min(nap, deadline - now))
            nap = min(0.05, nap * 2)

    def digest(self, start: int, stop: int) -> str:
        """sha256 of a range that is there."""
        sha256 = hashlib.sha256()
        while start < stop:
            chunk = os.pread(self.descriptor, min(BLOCK, stop - start), start)
            if not chunk:
                raise ConnectionError("the file is shorter than its map says")
            sha256.update(chunk)
            start += len(chunk)
        return sha256.hexdigest()


# --- the server --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServerOptions:
    """What a host serves, to whom, and for how long.

    objects: size of each object that may be had. expected: names of the other hosts of the run. busy: whether this
    host's own fetch still runs; called in the server's process. linger: seconds. bandwidth_limit: bytes/s, 0 for none.
    """

    store: Path
    address: str
    port: int
    key: str = field(repr=False)
    objects: t.Mapping[str, int] = field(repr=False)
    expected: t.Collection[str] = ()
    linger: float = 30.0
    busy: t.Callable[[], bool] = lambda: False
    bandwidth_limit: int = 0


def fetching(store: Store) -> bool:
    """Whether the run whose progress the store holds is still at work; made for ServerOptions.busy."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        # The writer replaces this file each second; a number of a dead process may be somebody else's by now.
        if time.time() - store.progress.stat().st_mtime > 600:
            return False
        data = json.loads(store.progress.read_text(encoding="utf-8"))
        return data["state"] in ("fetching", "verifying") and _alive(int(data["pid"]))
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class _Heads:
    """Reads the heads of requests, bounded in bytes and in time whatever the other end does."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self.begin()

    def begin(self) -> None:
        self._room = HEAD_LIMIT
        self._deadline = time.monotonic() + SOCKET_TIMEOUT

    def readline(self, _limit: int = -1) -> bytes:
        while True:
            end = self._buffer.find(b"\n") + 1
            if (end or len(self._buffer)) > self._room:
                raise ConnectionError("the head is too long")
            if end:
                line = bytes(self._buffer[:end])
                del self._buffer[:end]
                self._room -= end
                return line
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise ConnectionError("the head took too long")
            self._connection.settimeout(left)
            data = self._connection.recv(4096)
            if not data:
                return b""
            self._buffer += data

    def close(self) -> None:
        self._buffer.clear()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = SCHEME
    sys_version = ""
    disable_nagle_algorithm = True
    timeout = SOCKET_TIMEOUT

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.heads = _Heads(self.connection)
        self.rfile = t.cast(t.Any, self.heads)

    @property
    def hub(self) -> _Server:
        return t.cast(_Server, self.server)

    def log_message(self, *_args: t.Any) -> None:
        pass

    def send_error(self, code: int, _message: str | None = None, _explain: str | None = None) -> None:
        """http.server's own answers are pages of HTML."""
        self.close_connection = True
        self.requestline = getattr(self, "requestline", "")
        self.request_version = getattr(self, "request_version", "") or "HTTP/1.1"
        self._answer(code)

    def handle_expect_100(self) -> bool:
        self.send_error(417)
        return False

    def handle_one_request(self) -> None:
        self.heads.begin()
        super().handle_one_request()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def _answer(self, status: int, *headers: tuple[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def _route(self) -> None:
        self.connection.settimeout(SOCKET_TIMEOUT)
        if self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length", "0") != "0":
            self.send_error(413)
            return
        refusal = self.hub.refusal(self.command, self.path, self.headers.get("Authorization", ""))
        if refusal:
            self.close_connection = True
            self._answer(403, ("X-Refused", refusal))
            return
        with self.hub.working():
            wanted = _TARGET.fullmatch(self.path)
            done = _DONE.fullmatch(self.path)
            if self.command == "GET" and wanted:
                self._object(wanted)
            elif self.command == "POST" and done and unquote(done["name"]) in self.hub.expected:
                # The answer goes out first: the server may end as soon as it knows.
                self._answer(204)
                self.hub.done(unquote(done["name"]))
            else:
                self._answer(404)

    def _object(self, wanted: re.Match[str]) -> None:
        oid, start, stop = wanted["oid"], int(wanted["start"]), int(wanted["stop"])
        size = self.hub.options.objects.get(oid)
        if size is None:
            self._answer(404)
            return
        if not start < stop <= size or start % BLOCK or (stop % BLOCK and stop != size):
            self._answer(400)
            return
        with _Holding(self.hub.store, self.hub.root, _Named(oid, size)) as holding:
            if wanted["digest"]:
                first, last = start // BLOCK, blocks_of(stop)
                if holding.available(first, last) < last - first:
                    self._answer(409)
                else:
                    self._answer(200, ("Content-Type", "text/plain"), body=holding.digest(start, stop).encode())
            else:
                self._stream(holding, start, stop, min(MAX_WAIT, float(wanted["wait"] or 0)))

    def _stream(self, holding: _Holding, start: int, stop: int, wait: float) -> None:
        position = start
        patience = wait
        while position < stop:
            block = position // BLOCK
            count = holding.wait(block, blocks_of(stop), patience, self._pause)
            if not count and position == start:
                self._answer(503, ("Retry-After", "1"))
                return
            if not count:
                # The length was promised: an end before it tells the receiver to go elsewhere with what it has.
                self.close_connection = True
                return
            if position == start:
                self.send_response(200)
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Content-Length", str(stop - start))
                self.end_headers()
                patience = STALL
            end = min(stop, (block + count) * BLOCK)
            self._send(holding.descriptor, position, end)
            position = end

    def _pause(self, seconds: float) -> None:
        """Sleep, but not for somebody who has hung up."""
        poller = select.poll()
        poller.register(self.connection, select.POLLRDHUP)
        if poller.poll(seconds * 1000):
            raise ConnectionError("the receiver has gone")

    def _send(self, descriptor: int, position: int, end: int) -> None:
        poller = select.poll()
        poller.register(self.connection, select.POLLOUT)
        bucket = self.hub.bucket
        while position < end:
            stop = end
            if bucket:
                stop = min(end, position + bucket.chunk)
                bucket.take(stop - position)
            while position < stop:
                try:
                    sent = os.sendfile(self.connection.fileno(), descriptor, position, stop - position)
                except BlockingIOError:
                    if not poller.poll(SOCKET_TIMEOUT * 1000):
                        raise ConnectionError("the receiver takes nothing") from None
                    continue
                if not sent:
                    raise ConnectionError("the file is shorter than its map says")
                position += sent
                self.hub.touch()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # How long handle_request waits: how often the end is looked for.
    timeout: float = 0.25

    def __init__(self, options: ServerOptions, listener: socket.socket) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        # A connection that is gone again before accept() must not hold up the server.
        listener.settimeout(self.timeout)
        self.options = options
        self.expected = frozenset(options.expected)
        self.store = Store(options.store)
        self.root = os.open(options.store, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.bucket = Bucket(options.bandwidth_limit) if options.bandwidth_limit > 0 else None
        self._nonces = Nonces()
        self._lock = threading.Lock()
        self._connections = 0
        self._working = 0
        self._done: set[str] = set()
        self._last = time.monotonic()
        self._free_since: float | None = None

    def server_close(self) -> None:
        super().server_close()
        if self.root >= 0:
            os.close(self.root)
            self.root = -1

    def handle_error(self, *_args: t.Any) -> None:
        """A connection that broke is the other end's to tell."""

    # -- connections

    def process_request(self, request: t.Any, client_address: t.Any) -> None:
        with self._lock:
            full = self._connections >= CONNECTIONS
            self._connections += not full
        if full:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._leave()
            raise

    def process_request_thread(self, request: t.Any, client_address: t.Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._connections -= 1

    # -- requests

    def refusal(self, method: str, path: str, header: str) -> str:
        """Why a request is refused; nothing where it is not."""
        now = time.time()
        reason = check(self.options.key, method, path, header, now)
        if reason:
            return reason
        return "" if self._nonces.new(header.split(":")[1], now) else "replay"

    @contextlib.contextmanager
    def working(self) -> t.Iterator[None]:
        """An authorised request is being answered."""
        with self._lock:
            self._working += 1
            self._last = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
                self._last = time.monotonic()

    def touch(self) -> None:
        self._last = time.monotonic()

    def done(self, name: str) -> None:
        with self._lock:
            self._done.add(name)

    def over(self) -> bool:
        """Whether nobody needs this server any more."""
        now = time.monotonic()
        if self.options.busy():
            self._free_since = None
            return False
        if self._free_since is None:
            self._free_since = now
        with self._lock:
            if self.expected <= self._done:
                return True
            return not self._working and now - max(self._last, self._free_since) > self.options.linger

    def run(self) -> None:
        looked = 0.0
        while True:
            self.handle_request()
            # Many connections at once must not make the end be looked for at each of them.
            if time.monotonic() - looked >= self.timeout:
                looked = time.monotonic()
                if self.over():
                    return


def _address_problem(options: ServerOptions, found: str, remedy: str) -> GitLfsError:
    return GitLfsError(
        Problem(
            "peer_address",
            found,
            "an address of this host that the other hosts reach, and a port of it that is free.",
            remedy,
        )
    )


def listen(options: ServerOptions) -> socket.socket:
    """Take the address and port; whatever is wrong with them is told before anything runs."""
    address, port = options.address, options.port
    choose = "correct model_peer_address"
    try:
        found = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICSERV)
    except (OSError, UnicodeError) as error:
        raise _address_problem(
            options, f"'{address}' is no address that this host can resolve ({error}).", f"{choose}."
        ) from None
    family, _kind, _protocol, _canonical, target = found[0]
    here = ipaddress.ip_address(str(target[0]).partition("%")[0])
    if not address or here.is_unspecified or here.is_multicast:
        raise _address_problem(
            options, f"'{address}' is not the address of one network interface.", f"{choose}: name one address."
        )
    if here.is_loopback and not _is_literal(address):
        # Debian writes the host's own name beside 127.0.1.1 in /etc/hosts: nobody else would reach it there.
        raise _address_problem(
            options, f"'{address}' is {here} on this host, which no other host reaches.", f"{choose}: name the IP."
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A server that was just ended may hold the port for some milliseconds more.
        deadline = time.monotonic() + 1
        while True:
            try:
                listener.bind(target)
                listener.listen(128)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _address_problem(
                options,
                f"another process listens at port {port} of {address}.",
                f"set model_peer_port to a free port; 'ss -ltnp sport = :{port}' names the process.",
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise _address_problem(
                options,
                f"{address} is not an address of this host.",
                f"{choose}; 'ip -brief address' lists this host's.",
            ) from None
        raise _address_problem(
            options,
            f"this host cannot listen at port {port} of {address} ({error.strerror}).",
            f"{choose} or model_peer_port.",
        ) from None
    return listener


def _is_literal(address: str) -> bool:
    try:
        ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return True


def serve(options: ServerOptions, listener: socket.socket | None = None) -> None:
    """Serve until nobody needs it any more. It ends by itself; see ServerOptions."""
    server = _Server(options, listener or listen(options))
    try:
        server.run()
    finally:
        server.server_close()


# --- a process of its own ----------------------------------------------------------------------------------------


def _born(pid: int) -> str:
    """When a process was started, in the kernel's ticks: with its number, this names it for good."""
    with contextlib.suppress(OSError, IndexError):
        # The name in the second field may hold anything, also ") ".
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return ""


def _holder(descriptor: int) -> int:
    """The process that a pid file names, if it is still the same one; else 0."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        data = json.loads(os.pread(descriptor, 4096, 0).decode("utf-8"))
        pid = int(data["pid"])
        if pid > 1 and data["boot"] == boot_id() and data["born"] == _born(pid) != "":
            return pid
    return 0


def _claim(store: Store) -> int:
    """The locked pid file. Ends the server that has it: one that still holds the lock is ours, and lives."""
    path = store.own / PID_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        for signal_number, seconds in ((0, 0.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            pid = _holder(descriptor)
            if signal_number and pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal_number)
            deadline = time.monotonic() + seconds
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.02)
        raise GitLfsError(
            Problem(
                "peer_address",
                f"an earlier peer server of {store.path} does not end.",
                "one peer server for each store.",
                f"end the process that 'fuser {path}' names, and run again.",
            )
        )
    except BaseException:
        os.close(descriptor)
        raise


def stop(store: Path) -> None:
    """End the peer server of a store, if one runs."""
    if (Store(store).own / PID_FILE).exists():
        os.close(_claim(Store(store)))


def start(options: ServerOptions) -> int:
    """Serve from a process of its own that outlives this one; returns its number.

    To be called before this process has threads. An earlier server of the same store is ended first.
    """
    record = _claim(Store(options.store))
    reader = writer = -1
    listener = None
    try:
        listener = listen(options)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            _detach(options, listener, record, writer)
        os.waitpid(child, 0)
        os.close(writer)
        writer = -1
        said = b""
        while select.select([reader], [], [], 15)[0]:
            chunk = os.read(reader, 4096)
            if not chunk:
                break
            said += chunk
        if not said.isdigit():
            raise GitLfsError(
                Problem(
                    "peer_server",
                    f"the peer server did not start ({said.decode('utf-8', 'replace') or 'it said nothing'}).",
                    "a process that serves the model's objects to the other hosts.",
                    "run again, or leave model_peer_address empty: every host then reads the origin.",
                )
            )
        return int(said)
    finally:
        if listener:
            listener.close()
        for descriptor in (record, reader, writer):
            if descriptor >= 0:
                os.close(descriptor)


def _detach(options: ServerOptions, listener: socket.socket, record: int, writer: int) -> t.NoReturn:
    """In the child: leave the caller's session and all that it has open, and serve. Never returns to its code."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        try:
            _settle_in({listener.fileno(), record, writer})
            line = {
                "pid": os.getpid(),
                "born": _born(os.getpid()),
                "boot": boot_id(),
                "key": fingerprint(options.key),
                "started": int(time.time()),
                "address": options.address,
                "port": options.port,
            }
            text = (json.dumps(line) + "\n").encode()
            os.ftruncate(record, 0)
            os.pwrite(record, text, 0)
            drop_privileges(options)
            server = _Server(options, listener)
            os.write(writer, str(os.getpid()).encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:1000])
            raise
        os.close(writer)
        server.run()
        os._exit(0)
    finally:
        os._exit(1)


def _settle_in(kept: set[int]) -> None:
    """What a process needs to be nobody's child."""
    os.chdir("/")
    os.umask(0o022)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    # Not closed but replaced: an object of the caller's that is collected late would close a number that is ours then.
    for path in list(Path("/proc/self/fd").iterdir()):
        descriptor = int(path.name)
        if descriptor not in kept and descriptor != null:
            with contextlib.suppress(OSError):
                os.fstat(descriptor)
                os.dup2(null, descriptor, inheritable=descriptor < 3)
    # A caller that is shielded from the out-of-memory killer, as sshd's children may be, must not shield this.
    for name, text in (("oom_score_adj", "0"), ("comm", "vicuna-peer")):
        with contextlib.suppress(OSError):
            Path("/proc/self", name).write_text(text, encoding="ascii")


def drop_privileges(options: ServerOptions) -> bool:
    """Become nobody, where root would do no more: the store's files are for all to read."""
    if os.geteuid() != 0:
        return False
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return False
    groups = os.getgroups()
    group = os.getegid()
    try:
        os.setgroups([])
        os.setegid(nobody.pw_gid)
        os.seteuid(nobody.pw_uid)
    except OSError:
        os.setegid(group)
        return False
    readable = _readable(options)
    os.seteuid(0)
    os.setegid(group)
    os.setgroups(groups)
    if not readable:
        return False
    os.setgroups([])
    os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
    os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
    return True


def _readable(options: ServerOptions) -> bool:
    """Whether this user reads the store's files, those that are to come as far as that can be known."""
    store = Store(options.store)
    try:
        for directory in (store.path, store.own, store.own / "parts", store.own / "stamps", store.path / "objects"):
            # What will be made in a directory gets the modes that its maker's umask leaves, as the directory did.
            with contextlib.suppress(FileNotFoundError):
                (directory / "any").lstat()
            with contextlib.suppress(FileNotFoundError):
                list(directory.iterdir())
        for oid in options.objects:
            for path in (store.object(oid), store.part(oid), store.map(oid), store.stamp_path(oid), store.progress):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True


# --- the client --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    name: str
    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.name} ({host}:{self.port})"


class NotYet(SourceError):
    """The peer does not have it yet."""


class Gone(SourceError):
    """The peer does not answer, or broke off."""


class Unwilling(SourceError):
    """The peer refuses, or is none."""


class _Closed(ConnectionError):
    """The other end closed the connection before it said anything."""


class _Connection:
    """A connection that is kept alive. Bodies go straight into the caller's buffer."""

    def __init__(self, peer: Peer, timeout: float) -> None:
        self._socket = socket.create_connection((peer.address, peer.port), min(timeout, CONNECT_TIMEOUT))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = memoryview(b"")

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        """From another thread: whoever reads here wakes up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def ask(self, head: bytes, seconds: float) -> tuple[int, dict[str, str]]:
        """Send a request, and read the head of the answer."""
        deadline = time.monotonic() + seconds
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(head)
        except (BrokenPipeError, ConnectionResetError):
            raise _Closed(errno.EPIPE, "the peer closed the connection") from None
        data = bytearray()
        while b"\r\n\r\n" not in data:
            left = deadline - time.monotonic()
            if left <= 0 or len(data) > HEAD_LIMIT:
                raise ConnectionError(errno.ETIMEDOUT, "no answer in time")
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(4096)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                kind = ConnectionError if data else _Closed
                raise kind(errno.ECONNRESET, "the peer closed the connection")
            data += chunk
        text, _, rest = bytes(data).partition(b"\r\n\r\n")
        self._rest = memoryview(rest)
        first, *lines = text.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.1 ([0-9]{3})(?: .*)?", first)
        if not found:
            raise ValueError(first[:60])
        pairs = (line.partition(":") for line in lines)
        return int(found[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    def readinto(self, buffer: memoryview, timeout: float) -> int:
        if self._rest:
            count = min(len(buffer), len(self._rest))
            buffer[:count] = self._rest[:count]
            self._rest = self._rest[count:]
            return count
        self._socket.settimeout(timeout)
        return self._socket.recv_into(buffer)


class PeerStream:
    """A range of an object as it comes from a peer."""

    def __init__(self, source: PeerSource, connection: _Connection, left: int) -> None:
        self._source = source
        self._connection = connection
        self._left = left
        self._closed = False

    def __enter__(self) -> PeerStream:
        return self

    def __exit__(self, *_args: object) -> None:
        self.close()

    def close(self) -> None:
        """A connection with nothing left in it serves the next request of this thread."""
        if self._closed:
            return
        self._closed = True
        if self._left:
            self._connection.close()
        else:
            self._source.keep(self._connection)

    def abort(self) -> None:
        """From another thread: give up a read that takes too long."""
        self._connection.abort()

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer, or as much of it as comes within the time limit; 0 at the end of the range."""
        view = buffer[: self._left]
        timeout = self._source.timeout
        deadline = time.monotonic() + timeout
        got = 0
        while got < len(view):
            try:
                count = self._connection.readinto(view[got:], timeout)
                if not count:
                    raise ConnectionResetError(errno.ECONNRESET, "it broke off")
            except OSError as error:
                # What has come counts; if there is still nothing the next time, that is told then.
                if got:
                    break
                raise self._source.gone(error) from None
            got += count
            if time.monotonic() > deadline:
                break
        self._left -= got
        return got


class PeerSource:
    """Reads objects from one peer, with one connection for each thread. Proxies are never asked."""

    def __init__(self, peer: Peer, key: str, me: str, timeout: float = SOCKET_TIMEOUT) -> None:
        self.peer = peer
        self.me = me
        self.timeout = timeout
        self._key = key
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"PeerSource({self.peer})"

    @property
    def name(self) -> str:
        return self.peer.name

    def open(self, oid: str, start: int, stop: int, wait: float = 10.0) -> PeerStream:
        """The bytes from start to before stop; wait: how long the peer may wait for the first of them."""
        wait = min(MAX_WAIT, max(0.0, wait))
        path = f"/v1/objects/{oid}/{start}-{stop}?wait={wait:.3f}"
        connection, status, headers = self._ask("GET", path, wait + self.timeout)
        if status == 200:
            if headers.get("content-length") != str(stop - start) or "transfer-encoding" in headers:
                connection.close()
                raise self._unwilling("it answered with another length than was asked for")
            return PeerStream(self, connection, stop - start)
        self._end(connection, headers)
        raise self._refused(status, headers)

    def digest(self, oid: str, start: int, stop: int) -> str | None:
        """sha256 of what the peer has of a range; None where it does not have all of it."""
        path = f"/v1/objects/{oid}/{start}-{stop}/sha256"
        # It reads and hashes all of it before it answers: 100 MB/s is the slowest that is met.
        patience = self.timeout + (stop - start) / 100e6
        connection, status, headers = self._ask("GET", path, patience)
        if status == 200 and headers.get("content-length") == "64":
            buffer = bytearray(64)
            with PeerStream(self, connection, 64) as stream:
                if stream.readinto(memoryview(buffer)) < 64:
                    raise self.gone(ConnectionResetError(errno.ECONNRESET, "it broke off"))
            return buffer.decode("latin-1")
        self._end(connection, headers)
        if status == 409:
            return None
        raise self._refused(status, headers)

    def done(self) -> None:
        """Tell the peer that this host has everything. A SourceError says that it took no note."""
        connection, status, headers = self._ask("POST", f"/v1/done/{quote(self.me, safe='')}", self.timeout)
        self._end(connection, headers)
        if status != 204:
            raise self._refused(status, headers)

    def close(self) -> None:
        """Close this thread's connection."""
        connection = self._local.__dict__.pop("idle", None)
        if connection:
            connection.close()

    def keep(self, connection: _Connection) -> None:
        self.close()
        self._local.idle = connection

    def _end(self, connection: _Connection, headers: t.Mapping[str, str]) -> None:
        """After an answer without a body."""
        if headers.get("content-length", "0") != "0" or headers.get("connection", "").lower() == "close":
            connection.close()
        else:
            self.keep(connection)

    def _ask(self, method: str, path: str, seconds: float) -> tuple[_Connection, int, dict[str, str]]:
        host = f"[{self.peer.address.partition('%')[0]}]" if ":" in self.peer.address else self.peer.address
        while True:
            connection: _Connection | None = self._local.__dict__.pop("idle", None)
            kept = connection is not None
            try:
                connection = connection or _Connection(self.peer, self.timeout)
                proof = authorization(self._key, method, path, time.time(), secrets.token_hex(8))
                head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{self.peer.port}\r\nAuthorization: {proof}\r\n\r\n"
                return (connection, *connection.ask(head.encode("ascii"), seconds))
            except (OSError, ValueError) as error:
                if connection:
                    connection.close()
                # The peer may have closed an idle connection at the moment of the request.
                if kept and isinstance(error, _Closed):
                    continue
                if isinstance(error, OSError):
                    raise self.gone(error) from None
                raise self._unwilling("what it says is not HTTP/1.1") from None

    def gone(self, error: OSError) -> Gone:
        reason = error.strerror or str(error) or "no answer in time"
        return Gone(
            Problem(
                "peer_gone",
                f"peer {self.peer} does not answer or broke off ({reason}).",
                "a peer that serves while its run lasts.",
                "nothing, if that host is down or done; else let the hosts reach each other at model_peer_port.",
            ),
            retry=True,
        )

    def _unwilling(self, found: str, remedy: str = "") -> Unwilling:
        return Unwilling(
            Problem(
                "peer_unwilling",
                f"peer {self.peer} gives nothing: {found}.",
                "a peer of the same run that has the same objects to give.",
                remedy or "check that nothing else listens at model_peer_port, and run again on all hosts at once.",
            ),
            retry=False,
        )

    def _refused(self, status: int, headers: t.Mapping[str, str]) -> SourceError:
        if status == 503:
            after = headers.get("retry-after", "")
            return NotYet(
                Problem(
                    "peer_not_yet",
                    f"peer {self.peer} does not have it yet.",
                    "a peer that has it.",
                    "ask again, or another source.",
                ),
                retry=True,
                wait=min(MAX_WAIT, float(after)) if re.fullmatch("[0-9]{1,5}", after) else 1.0,
            )
        if status == 403 and headers.get("x-refused") == "clock":
            return self._unwilling(
                f"its clock and this host's differ by more than {MAX_AGE} s",
                "set both hosts' clocks (chrony or systemd-timesyncd).",
            )
        if status == 403:
            return self._unwilling("it does not accept the key of this run (403)")
        return self._unwilling(f"it answered with status {status}")
