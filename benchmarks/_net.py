# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the benchmarks stand on: an origin of their own, networks of their own, and meters.

The origin speaks git's smart HTTP (git http-backend), the LFS batch API and Range, and sends with sendfile, as nginx
does. ``python3 _net.py origin ROOT ADDRESS PORT`` runs it; orders and counts go over the socket ROOT/control, which is
a file and so reaches into another network namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

REPOSITORY = "bench/vicuna-bench"
PORT = 8080
GIT_PATH = re.compile(r"/([\w./-]+?)(?:\.git)?/(info/refs|git-upload-pack)")
BATCH_PATH = re.compile(r"/[\w./-]+\.git/info/lfs/objects/batch")
OBJECT_PATH = re.compile(r"/objects/([0-9a-f]{64})")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
SEND = 4 * 1024 * 1024
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


# --- content ----------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """A repository whose large files nobody can compress."""

    root: Path
    commit: str
    files: dict[str, str]  # name → oid
    sizes: dict[str, int]  # oid → bytes

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    def wrong(self, tree: Path) -> list[str]:
        """The files below a directory that are not there or not right; every byte is read."""
        return [name for name, oid in self.files.items() if sha256(tree / name) != oid]


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for chunk in iter(lambda: stream.read(SEND), b""):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def random_file(path: Path, size: int) -> str:
    """Write random bytes; return their sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        while size > 0:
            chunk = os.urandom(min(SEND, size))
            digest.update(chunk)
            stream.write(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def make_model(root: Path, count: int, size: int) -> Model:
    """A bare repository of one commit below ROOT/git, its large files below ROOT/objects."""
    repository = root / "git" / REPOSITORY
    repository.mkdir(parents=True)
    (root / "objects").mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": "benchmark", f"GIT_{role}_EMAIL": "benchmark@example.invalid"}

    def git(*arguments: str, content: bytes = b"") -> str:
        command = ["git", "-C", str(repository), *arguments]
        done = subprocess.run(command, input=content, env=env, check=True, stdout=subprocess.PIPE)
        return done.stdout.decode().strip()

    git("init", "--quiet", "--bare", "--initial-branch=main")
    for key in ("allowAnySHA1InWant", "allowFilter"):
        git("config", f"uploadpack.{key}", "true")
    contents = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", "config.json": b"{}\n"}
    files: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for number in range(1, count + 1):
        name = f"model-{number:05}-of-{count:05}.safetensors"
        temporary = root / "objects" / "new"
        oid = random_file(temporary, size)
        temporary.rename(root / "objects" / oid)
        contents[name] = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
        files[name], sizes[oid] = oid, size
    lines = []
    for name, content in sorted(contents.items()):
        blob = git("hash-object", "-w", "--stdin", content=content)
        lines.append(f"100644 blob {blob}\t{name}\n")
    commit = git("commit-tree", git("mktree", content="".join(lines).encode()), "-m", "Add the weights")
    git("update-ref", "refs/heads/main", commit)
    return Model(root, commit, files, sizes)


# --- the origin -------------------------------------------------------------------------------------------------------


class _State:
    """What the origin has sent, and the bytes that it is told to spoil."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.Lock()
        self.sent: dict[str, int] = {}
        self.requests = 0
        self.flips: list[dict[str, t.Any]] = []

    def order(self, order: dict[str, t.Any]) -> dict[str, t.Any]:
        with self.lock:
            if order["do"] == "flip":
                self.flips.append({"oid": order["oid"], "at": order["at"], "times": order["times"], "struck": 0})
            elif order["do"] == "clear":
                self.flips.clear()
            return {"sent": dict(self.sent), "requests": self.requests, "flips": [dict(flip) for flip in self.flips]}

    def flip(self, oid: str, first: int, stop: int) -> int:
        """The place of the byte to be spoilt in this answer, or -1."""
        with self.lock:
            for flip in self.flips:
                hit = flip["oid"] == oid and first <= flip["at"] < stop
                if hit and (not flip["times"] or flip["struck"] < flip["times"]):
                    flip["struck"] += 1
                    return int(flip["at"])
        return -1

    def count(self, oid: str, sent: int) -> None:
        with self.lock:
            self.sent[oid] = self.sent.get(oid, 0) + sent


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State
    # Headers go out with the first bytes of the body.
    wbufsize = 65536
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: t.Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        match = OBJECT_PATH.fullmatch(parts.path)
        if match:
            self._object(match[1])
        else:
            self._git(parts.path, parts.query, b"")

    def do_POST(self) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        if BATCH_PATH.fullmatch(parts.path):
            self._batch(json.loads(body))
        else:
            self._git(parts.path, parts.query, body)

    def _batch(self, asked: dict[str, t.Any]) -> None:
        objects: list[dict[str, t.Any]] = []
        for wanted in asked["objects"]:
            answer: dict[str, t.Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if (self.state.root / "objects" / wanted["oid"]).is_file():
                href = f"http://{self.headers['Host']}/objects/{wanted['oid']}"
                answer |= {"authenticated": True, "actions": {"download": {"href": href}}}
            else:
                answer["error"] = {"code": 404, "message": "Object does not exist"}
            objects.append(answer)
        body = json.dumps({"transfer": "basic", "objects": objects}).encode()
        self._answer(200, body, "application/vnd.git-lfs+json")

    def _object(self, oid: str) -> None:
        try:
            file = (self.state.root / "objects" / oid).open("rb")
        except OSError:
            self._answer(404)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            part = RANGE.fullmatch(self.headers.get("Range", ""))
            first = int(part[1]) if part else 0
            stop = min(int(part[2]) + 1, size) if part and part[2] else size
            if first >= max(stop, 1):
                self._answer(416)
                return
            with self.state.lock:
                self.state.requests += 1
            self.send_response(206 if part else 200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(stop - first))
            if part:
                self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{size}")
            self.end_headers()
            self.wfile.flush()
            spoilt = self.state.flip(oid, first, stop)
            while first < stop:
                try:
                    if spoilt == first:
                        self.connection.sendall(bytes([os.pread(file.fileno(), 1, first)[0] ^ 1]))
                        sent = 1
                    else:
                        until = spoilt if first < spoilt < stop else stop
                        sent = os.sendfile(self.connection.fileno(), file.fileno(), first, min(SEND, until - first))
                except OSError:
                    self.close_connection = True
                    return
                if not sent:
                    self.close_connection = True
                    return
                self.state.count(oid, sent)
                first += sent

    def _git(self, path: str, query: str, body: bytes) -> None:
        match = GIT_PATH.fullmatch(path)
        if not match or ".." in match[1] or not (self.state.root / "git" / match[1]).is_dir():
            self._answer(404)
            return
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.state.root / "git"),
            "GIT_HTTP_EXPORT_ALL": "1",
            # The repository may belong to whoever has run the benchmark before.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": f"/{match[1]}/{match[2]}",
            "REQUEST_METHOD": self.command,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, stdout=subprocess.PIPE, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0]) if done.returncode == 0 else 500
        self._answer(status, content, headers.get("Content-Type", "text/plain"))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """A client that was killed is no error of the origin."""


class _Control(socketserver.StreamRequestHandler):
    state: _State

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(json.dumps(self.state.order(json.loads(line))).encode() + b"\n")


def run_origin(root: Path, address: str, port: int) -> None:
    """Serve until killed, or until the benchmark is; the port stands in ROOT/port once it listens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _Handler.state = _Control.state = _State(root)
    server = _Server((address, port), _Handler)
    (root / "control").unlink(missing_ok=True)
    control = socketserver.ThreadingUnixStreamServer(str(root / "control"), _Control)
    control.daemon_threads = True
    threading.Thread(target=control.serve_forever, daemon=True).start()
    temporary = root / "port.new"
    temporary.write_text(str(server.server_address[1]), encoding="ascii")
    temporary.rename(root / "port")
    server.serve_forever()


class Origin:
    """The origin in a process of its own, in a network namespace where one is named."""

    def __init__(self, root: Path, address: str = "127.0.0.1", port: int = 0, space: str = "") -> None:
        (root / "port").unlink(missing_ok=True)
        command = [sys.executable, str(Path(__file__).resolve()), "origin", str(root), address, str(port)]
        self.process = subprocess.Popen(inside(space, command), env=clean_environment(), start_new_session=True)
        self.root = root
        deadline = time.monotonic() + 15
        while not (root / "port").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"the origin does not listen at {address}:{port}")
            time.sleep(0.02)
        self.base = f"http://{address}:{(root / 'port').read_text(encoding='ascii')}"
        self.url = f"{self.base}/{REPOSITORY}"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(root / "control"))
        self._file = self._socket.makefile("rwb")

    def order(self, do: str, **more: t.Any) -> dict[str, t.Any]:
        self._file.write(json.dumps({"do": do, **more}).encode() + b"\n")
        self._file.flush()
        answer: dict[str, t.Any] = json.loads(self._file.readline())
        return answer

    def sent(self) -> int:
        """Bytes of content that the origin has handed to the network."""
        return int(sum(self.order("count")["sent"].values()))

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


# --- processes --------------------------------------------------------------------------------------------------------


def inside(space: str, command: list[str]) -> list[str]:
    """A command as it runs in a network namespace; "" is the one of the caller."""
    return ["nsenter", f"--net=/run/netns/{space}", *command] if space else command


def clean_environment(**more: str) -> dict[str, str]:
    """No proxies, no settings of git's user: all methods start from the same."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"(?i)(.*_proxy|GIT_.*|LFS_.*)$", name)}
    return {**kept, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **more}


def descendants(pid: int) -> list[int]:
    """The processes below one, those of sessions of their own included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        queue += (below := children.get(queue.pop(), []))
        found += below
    return found


def kill_tree(pid: int) -> None:
    """kill -9 of a process and of all below it; each stops first, so that none starts another one meanwhile."""
    for _ in range(2):
        for one in [pid, *descendants(pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGSTOP)
    for one in [*descendants(pid), pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


@dataclass
class Usage:
    """What a command took, all processes below it included."""

    code: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rss_mb: float = 0.0
    said: str = ""
    answer: dict[str, t.Any] = field(default_factory=dict)


class Job:
    """A command under measurement.

    A process of its own adopts what the command leaves behind and waits for it, so that a daemon's CPU time counts too.
    linger: whether processes that outlive the command are left running (a peer server); they are then not counted.
    """

    def __init__(
        self, command: list[str], *, cwd: Path, env: dict[str, str], space: str = "", linger: bool = False
    ) -> None:
        self._report, write = os.pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - read when the command has ended
        self.started = time.monotonic()
        self.ended = False
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._report)
                output = self._output.fileno()

                def start() -> int:
                    return subprocess.Popen(
                        inside(space, command), cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                    ).pid

                _meter(start, write, linger)
            finally:
                os._exit(127)
        os.close(write)

    def kill(self) -> None:
        """kill -9 of the command and of all below it; once it was waited for, its number may be another's."""
        if not self.ended:
            kill_tree(self.pid)

    def wait(self, limit: float = 900.0) -> Usage:
        """Wait for the command; kill it after the limit."""
        timer = threading.Timer(limit, self.kill)
        timer.daemon = True
        timer.start()
        try:
            with os.fdopen(self._report, "rb", closefd=False) as report:
                text = report.read()
        finally:
            timer.cancel()
        os.close(self._report)
        os.waitpid(self.pid, 0)
        self.ended = True
        self._output.seek(0)
        said = self._output.read().decode("utf-8", "replace")
        self._output.close()
        if not text:
            return Usage(code=-9, wall_s=time.monotonic() - self.started, said=said)
        usage = Usage(**json.loads(text), said=said)
        for line in said.splitlines():
            if line.startswith("answer: "):
                usage.answer = json.loads(line[8:])
        return usage


def _meter(start: t.Callable[[], int], report: int, linger: bool) -> None:
    """The child of Job: run, wait for all that is below, tell what it took."""
    os.setsid()
    if not linger:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    main = start()
    code, wall, cpu, rss = -1, 0.0, 0.0, 0
    while True:
        try:
            pid, status, used = os.wait4(main if linger else -1, 0)
        except ChildProcessError:
            break
        cpu += used.ru_utime + used.ru_stime
        rss = max(rss, used.ru_maxrss)
        if pid == main:
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
            wall = time.monotonic() - started
    told = {"code": code, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "rss_mb": round(rss / 1024, 1)}
    os.write(report, json.dumps(told).encode())
    os._exit(0)


# --- disk -------------------------------------------------------------------------------------------------------------


def allocated(directory: Path) -> int:
    """Bytes that a directory takes on the disk; a file with several names counts once, holes do not count."""
    seen: dict[tuple[int, int], int] = {}

    def visit(path: str) -> None:
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        seen[status.st_dev, status.st_ino] = status.st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            visit(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            pass

    visit(str(directory))
    return sum(seen.values())


class DiskMeter:
    """The most that a directory took while it was watched, looked at each 50 ms."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, allocated(self.directory))
            if self._stop.wait(0.05):
                return

    def __enter__(self) -> DiskMeter:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, allocated(self.directory))


class RottingDisk:
    """A file system of its own in an image, so that a byte can change below it and not even ctime tells."""

    FIBMAP, FIGETBSZ = 1, 2

    def __init__(self, folder: Path, size: int) -> None:
        self.image = folder / "disk.img"
        self.path = folder / "disk"
        self.path.mkdir()
        with self.image.open("wb") as stream:
            stream.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(self.image)], check=True)
        self._mount()

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.path)], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=False)

    def rot(self, file: Path, at: int) -> None:
        """Turn one bit of a file over, on the disk."""
        os.sync()
        with file.open("rb") as stream:
            size = struct.unpack("i", fcntl.ioctl(stream, self.FIGETBSZ, struct.pack("i", 0)))[0]
            block = struct.unpack("i", fcntl.ioctl(stream, self.FIBMAP, struct.pack("i", at // size)))[0]
            stream.seek(at)
            before = stream.read(1)
        if not block:
            raise RuntimeError(f"{file} has no block at {at}")
        subprocess.run(["umount", str(self.path)], check=True)
        with self.image.open("r+b") as stream:
            place = block * size + at % size
            stream.seek(place)
            if stream.read(1) != before:
                raise RuntimeError("the image is not where the file system says")
            stream.seek(place)
            stream.write(bytes([before[0] ^ 1]))
        self._mount()


# --- networks ---------------------------------------------------------------------------------------------------------

PREFIX = "vfbench"
SUBNET = "10.231.77"


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


class Network:
    """An origin and N hosts on one bridge, each in a network namespace of its own, each link shaped both ways.

    The bridge has a namespace too: nothing shows in the machine's own network, and all is gone with the namespaces.
    """

    def __init__(self, hosts: int, mbit: int) -> None:
        self.mbit = mbit
        self._name = f"{PREFIX}-{os.getpid()}"
        self.switch = f"{self._name}-switch"
        self.origin = f"{self._name}-origin"
        self.hosts = [f"host-{number}" for number in range(1, hosts + 1)]
        remove_leftovers()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for space in (self.switch, self.origin, *(self.space(host) for host in self.hosts)):
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        ip("-n", self.switch, "link", "add", "name", "br0", "type", "bridge")
        ip("-n", self.switch, "link", "set", "br0", "up")
        self._plug(self.origin, "origin", self.origin_address)
        for host in self.hosts:
            self._plug(self.space(host), host, self.address(host))

    def _plug(self, space: str, port: str, address: str) -> None:
        ip("-n", space, "link", "add", "name", "eth0", "type", "veth", "peer", "name", port, "netns", self.switch)
        ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", self.switch, "link", "set", port, "master", "br0", "up")
        ip("-n", space, "link", "set", "eth0", "up")
        for where, device in ((space, "eth0"), (self.switch, port)):
            self._shape(where, device, self.mbit)

    @staticmethod
    def _shape(space: str, device: str, mbit: int) -> None:
        # A burst is what passes in 4 ms, the tick of a kernel without high-resolution timers.
        burst = max(32 * 1024, mbit * 1_000_000 // 8 // 250)
        command = ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", f"{mbit}mbit"]
        command += ["burst", str(burst), "latency", "50ms"]
        subprocess.run(inside(space, command), check=True)

    def slow_down(self, host: str, mbit: int) -> None:
        """Give one host another line, both ways."""
        self._shape(self.space(host), "eth0", mbit)
        self._shape(self.switch, host, mbit)

    @property
    def origin_address(self) -> str:
        return f"{SUBNET}.1"

    def address(self, host: str) -> str:
        return f"{SUBNET}.{10 + self.hosts.index(host)}"

    def space(self, host: str) -> str:
        return f"{self._name}-{host}"

    def counters(self, space: str) -> tuple[int, int]:
        """Bytes that a namespace has received and sent on its line, headers and repetitions included."""
        stats = json.loads(ip("-n", space, "-j", "-s", "link", "show", "eth0"))[0]["stats64"]
        return int(stats["rx"]["bytes"]), int(stats["tx"]["bytes"])

    def left_behind(self, space: str) -> tuple[float, float]:
        """CPU seconds, and most memory in MB, of the processes that still run in a namespace: the peer servers."""
        cpu, memory = 0.0, 0.0
        for pid in ip("netns", "pids", space).split():
            with contextlib.suppress(OSError, IndexError):
                process = Path(f"/proc/{pid}")
                times = process.joinpath("stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
                cpu += sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
                peak = re.search(r"VmHWM:\s+(\d+) kB", process.joinpath("status").read_text(encoding="utf-8"))
                memory = max(memory, int(peak[1]) / 1024 if peak else 0.0)
        return cpu, memory

    def kill_all(self, space: str) -> None:
        """kill -9 of every process in a namespace that this benchmark made."""
        for pid in ip("netns", "pids", space).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        _remove_spaces(self._name)


def _spaces() -> list[str]:
    names = [line.split()[0] for line in ip("netns", "list").splitlines() if line.strip()]
    return [name for name in names if name.startswith(f"{PREFIX}-")]


def _remove_spaces(name: str) -> None:
    for space in _spaces():
        if space.startswith(f"{name}-"):
            for pid in ip("netns", "pids", space).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", space], check=False)


def owner_lives(name: str) -> bool:
    """Whether the run that the number in a name belongs to is still there."""
    try:
        command = Path(f"/proc/{name.split('-')[1]}/cmdline").read_bytes()
    except (OSError, IndexError):
        return False
    return b"model_fetch" in command


def remove_leftovers(work: Path | None = None) -> None:
    """Remove the namespaces, and below ``work`` the directories, of runs that were killed."""
    for space in _spaces():
        if not owner_lives(space):
            _remove_spaces("-".join(space.split("-")[:2]))
    for directory in work.glob(f"{PREFIX}-*") if work else ():
        if not owner_lives(directory.name):
            remove_directory(directory)


def remove_directory(directory: Path) -> None:
    """Remove a directory of a run, with what is mounted below it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    for place in mounts:
        if place.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", place], check=False)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__" and sys.argv[1:2] == ["origin"]:
    run_origin(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
