#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure the fetch of a model against git-lfs and curl: time, CPU, memory, disk, resumption, a fleet, faults.

Needs Linux, root, git, git-lfs, curl, openssl, iproute2. Prints JSON; README.md says how to read it.
"""

from __future__ import annotations

import sys

if sys.argv[1:2] != ["drive"]:
    # The driver under measurement is this file too: it loads only what it needs.
    import argparse
    import contextlib
    import os
    import platform
    import shutil
    import signal
    import statistics
    import subprocess
    import tempfile
    import time
    import typing as t

    from _net import (
        PORT,
        PREFIX,
        REPOSITORY,
        DiskMeter,
        Job,
        Model,
        Network,
        Origin,
        RottingDisk,
        Usage,
        allocated,
        clean_environment,
        make_model,
        remove_directory,
        remove_leftovers,
    )

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEER_PORT = 15111
GROUPS = ("single", "resume", "fleet", "faults")
UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


# --- the driver: what the module does on a host, in a process of its own ----------------------------------------------


def drive(file: str) -> int:
    """Run Clone(Request(...)).converge(); options that Request does not know are named and left out."""
    import dataclasses

    sys.path.insert(0, str(ROOT))
    from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError
    from ansible_collections.vicuna.fleet.plugins.module_utils._git_lfs import Clone, Request

    options = json.loads(Path(file).read_text(encoding="utf-8"))
    known = {one.name for one in dataclasses.fields(Request)}
    answer: dict[str, object] = {"unknown_options": sorted(set(options) - known)}
    options = {name: value for name, value in options.items() if name in known}
    options["dest"] = Path(options["dest"])
    code = 0
    try:
        outcome = Clone(Request(**options)).converge()
    except GitLfsError as error:
        answer |= {"cause": error.problem.cause, "msg": str(error.problem), "detail": error.detail[-500:]}
        code = 1
    else:
        answer |= dataclasses.asdict(outcome)
    print("answer: " + json.dumps(answer, default=str), flush=True)
    return code


if sys.argv[1:2] == ["drive"] and __name__ == "__main__":
    sys.exit(drive(sys.argv[2]))


# --- methods ----------------------------------------------------------------------------------------------------------


class Settings(t.NamedTuple):
    """What the command line says."""

    size: tuple[int, int]
    fleet_size: tuple[int, int]
    hosts: list[int]
    mbit: int
    repetitions: int
    work: Path


def parse_size(text: str) -> tuple[int, int]:
    """Read "2x1GiB": how many files, and the bytes of each."""
    count, _, size = text.partition("x")
    unit = size.lstrip("0123456789.")
    try:
        found = int(count), int(float(size[: len(size) - len(unit)]) * UNITS[unit])
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text} is no size like 2x1GiB") from None
    if found[0] < 1 or found[1] < 2:
        raise argparse.ArgumentTypeError(f"{text} is too small")
    return found


def parse_hosts(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no list like 1,2,4") from None
    if not 1 <= found[0] <= found[-1] <= 64:
        raise argparse.ArgumentTypeError("from 1 to 64 hosts")
    return found


def home(work: Path) -> Path:
    """A home directory in which ``git lfs install`` has been run."""
    path = work / "home"
    path.mkdir(exist_ok=True)
    (path / ".gitconfig").write_text(
        '[filter "lfs"]\n\tclean = git-lfs clean -- %f\n\tsmudge = git-lfs smudge -- %f\n'
        "\tprocess = git-lfs filter-process\n\trequired = true\n[advice]\n\tdetachedHead = false\n",
        encoding="utf-8",
    )
    return path


def sh(script: str) -> list[str]:
    return ["bash", "-euo", "pipefail", "-c", script]


def lfs_clone(url: str, dest: Path) -> list[str]:
    return sh(f"git lfs clone {url} {dest}")


def lfs_fetch(url: str, dest: Path) -> list[str]:
    """Clone without smudge where there is no clone yet, then fetch."""
    return sh(f"[ -e {dest}/.git ] || GIT_LFS_SKIP_SMUDGE=1 git clone -q {url} {dest}; cd {dest} && git lfs fetch")


def curl_all(base: str, model: Model, dest: Path) -> list[str]:
    """All objects at once, each through tee and openssl: what the hardware gives."""
    one = "(curl -sSf {base}/objects/{oid} | tee {dest}/{oid} | openssl dgst -sha256 -r | grep -q {oid}) & jobs+=($!)"
    lines = ["jobs=()", f"mkdir -p {dest}"]
    lines += [one.format(base=base, oid=oid, dest=dest) for oid in model.sizes]
    return sh("\n".join([*lines, 'for job in "${jobs[@]}"; do wait "$job"; done']))


def ours(url: str, model: Model, dest: Path, **options: t.Any) -> list[str]:
    dest.parent.mkdir(parents=True, exist_ok=True)
    file = dest.with_name(f"{dest.name}.options.json")
    options = {"repo": url, "revision": model.commit, "dest": str(dest), "timeout": 60, **options}
    file.write_text(json.dumps(options), encoding="utf-8")
    return [sys.executable, str(Path(__file__).resolve()), "drive", str(file)]


def flip_byte(path: Path, at: int) -> None:
    """What a disk does that rots: another byte, and no time stamp says so."""
    status = path.stat()
    with path.open("r+b") as stream:
        stream.seek(at)
        value = stream.read(1)[0] ^ 1
        stream.seek(at)
        stream.write(bytes([value]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def names_object(usage: Usage, oid: str, model: Model) -> bool:
    """Whether a run says which object was damaged, by its id or by its file."""
    told = usage.answer
    said = json.dumps([told.get(key) for key in ("warnings", "notes", "repaired", "msg")]) if told else usage.said
    return any(name in said for name in (oid[:12], *(name for name, one in model.files.items() if one == oid)))


def ratio(value: float, other: float) -> float | None:
    return round(value / other, 4) if other else None


def summary(usages: list[Usage]) -> dict[str, t.Any]:
    """Medians; the single values stand beside them."""
    keys = ("wall_s", "cpu_s", "rss_mb")
    told: dict[str, t.Any] = {key: round(statistics.median(getattr(one, key) for one in usages), 3) for key in keys}
    told["all_wall_s"] = [one.wall_s for one in usages]
    failed = [one for one in usages if one.code]
    if failed:
        told["failed"] = {"runs": len(failed), "code": failed[0].code, "said": failed[0].said[-600:]}
    return told


# --- the benchmark ----------------------------------------------------------------------------------------------------


class Benchmark:
    """All measurements of one run, in a directory of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.work = settings.work
        self.env = clean_environment(HOME=str(home(self.work)))
        self.figures: list[dict[str, t.Any]] = []
        self.raw: dict[str, t.Any] = {}
        self.unknown: set[str] = set()
        self._models: dict[tuple[int, int], Model] = {}
        self._count = 0
        self._jobs: list[Job] = []

    def model(self, size: tuple[int, int]) -> Model:
        if size not in self._models:
            say(f"making {size[0]} x {size[1] / 1024**2:.0f} MiB of random content")
            root = self.work / f"origin-{len(self._models)}"
            root.mkdir()
            self._models[size] = make_model(root, *size)
        return self._models[size]

    @contextlib.contextmanager
    def fresh(self) -> t.Iterator[Path]:
        """An empty directory; what earlier ones held is written or gone, so that no run pays for another."""
        self._count += 1
        path = self.work / f"run-{self._count}"
        path.mkdir()
        os.sync()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def origin(self, model: Model, network: Network | None = None) -> t.Iterator[Origin]:
        origin = Origin(model.root, network.origin_address, PORT, network.origin) if network else Origin(model.root)
        try:
            yield origin
        finally:
            origin.close()

    @contextlib.contextmanager
    def network(self, hosts: int, model: Model) -> t.Iterator[tuple[Network, Origin]]:
        network = Network(hosts, self.settings.mbit)
        try:
            with self.origin(model, network) as origin:
                yield network, origin
        finally:
            network.close()

    def run(self, command: list[str], cwd: Path, *, space: str = "") -> Usage:
        return self.note(self.start(command, cwd, space=space).wait())

    def start(self, command: list[str], cwd: Path, *, space: str = "", linger: bool = False) -> Job:
        job = Job(command, cwd=cwd, env=self.env, space=space, linger=linger)
        self._jobs.append(job)
        return job

    def note(self, usage: Usage) -> Usage:
        self.unknown |= set(usage.answer.get("unknown_options", ()))
        return usage

    def end_jobs(self) -> None:
        for job in self._jobs:
            job.kill()

    def figure(
        self, name: str, value: float | None, baseline: float | None, to_reach: str, reached: bool | None
    ) -> None:
        self.figures.append(
            {"figure": name, "ours": value, "baseline": baseline, "to_reach": to_reach, "reached": reached}
        )

    def bound(self, name: str, value: float, baseline: float | None, limit: float, unit: str, *, sound: bool) -> None:
        """A figure that counts as reached where it is at most the limit, and the run itself went well."""
        self.figure(name, round(value, 4), baseline, f"<= {limit:g} {unit}".strip(), sound and value <= limit)

    # -- one host, loopback

    def single(self) -> None:
        settings = self.settings
        model = self.model(settings.size)
        done: dict[str, list[Usage]] = {"git lfs clone": [], "curl": [], "ours": []}
        with self.origin(model) as origin:
            for number in range(settings.repetitions):
                say(f"one host, repetition {number + 1} of {settings.repetitions}")
                for method, usages in done.items():
                    with self.fresh() as folder:
                        tree = folder / "model"
                        usage = self.run(self._command(method, origin, model, tree), folder)
                        usages.append(usage)
                        if number == 0 and method != "curl" and (wrong := model.wrong(tree)):
                            usage.code, usage.said = usage.code or -1, f"{usage.said}\nwrong: {wrong}"
            told = {method: summary(usages) for method, usages in done.items()}
            self.raw["single"] = told
            mine, clone, curl = told["ours"], told["git lfs clone"], told["curl"]
            sound = "failed" not in mine
            name = "wall time / git lfs clone"
            self.bound(name, mine["wall_s"] / clone["wall_s"], clone["wall_s"], 0.33, "", sound=sound)
            name = "wall time / curl, tee and openssl"
            self.bound(name, mine["wall_s"] / curl["wall_s"], curl["wall_s"], 1.2, "", sound=sound)
            name = "CPU seconds / git lfs clone"
            self.bound(name, mine["cpu_s"] / clone["cpu_s"], clone["cpu_s"], 0.45, "", sound=sound)
            self.bound("peak RSS", mine["rss_mb"], clone["rss_mb"], 100, "MB", sound=sound)
            self._disk_and_second_run(origin, model)

    @staticmethod
    def _command(method: str, origin: Origin, model: Model, tree: Path) -> list[str]:
        if method == "curl":
            return curl_all(origin.base, model, tree)
        return lfs_clone(origin.url, tree) if method == "git lfs clone" else ours(origin.url, model, tree)

    def _disk_and_second_run(self, origin: Origin, model: Model) -> None:
        """Runs of their own: the meter of the disk costs time."""
        say("disk and second run")
        told: dict[str, t.Any] = {}
        for method in ("git lfs clone", "ours"):
            with self.fresh() as folder:
                tree = folder / "model"
                with DiskMeter(folder) as meter:
                    first = self.run(self._command(method, origin, model, tree), folder)
                after = allocated(folder)
                sent = origin.sent()
                second = ours(origin.url, model, tree) if method == "ours" else sh(f"cd {tree} && git lfs pull")
                usage = self.run(second, folder)
                sent = origin.sent() - sent
                status = self.run(["git", "-c", "safe.directory=*", "-C", str(tree), "status", "--porcelain"], folder)
                told[method] = {
                    "disk_after": ratio(after, model.total),
                    "disk_peak": ratio(meter.peak, model.total),
                    "second_run_s": usage.wall_s,
                    "second_run_bytes": sent,
                    "git_status_s": status.wall_s,
                    "git_status_cpu_s": status.cpu_s,
                    "git_status": status.said[:200] or "clean",
                    "code": first.code or usage.code or status.code,
                    "said": first.said[-600:] if first.code else "",
                }
        self.raw["disk"] = told
        mine, clone = told["ours"], told["git lfs clone"]
        sound = mine["code"] == 0
        self.bound("disk after / weights", mine["disk_after"], clone["disk_after"], 1.02, "", sound=sound)
        self.bound("disk at most / weights", mine["disk_peak"], clone["disk_peak"], 1.05, "", sound=sound)
        self.bound("second run", mine["second_run_s"], clone["second_run_s"], 1, "s", sound=sound)
        name = "bytes of the second run"
        self.bound(name, mine["second_run_bytes"], clone["second_run_bytes"], 0, "bytes", sound=sound)
        clean = sound and mine["git_status"] == "clean"
        self.bound("git status, clean", mine["git_status_s"], clone["git_status_s"], 0.5, "s", sound=clean)

    # -- killed at half

    def resume(self) -> None:
        model = self.model(self.settings.fleet_size)
        told: dict[str, t.Any] = {}
        for method in ("git lfs fetch", "ours"):
            say(f"kill -9 at half: {method}")
            with self.network(1, model) as (network, origin), self.fresh() as folder:
                told[method] = self._killed(method, network, origin, model, folder / "model")
        self.raw["resume"] = told
        mine, fetch = told["ours"], told["git lfs fetch"]
        sound = mine["code"] == 0 and mine["killed"] and not mine["wrong"]
        name = "bytes sent again after kill -9 at half"
        self.bound(name, mine["sent_again"], fetch["sent_again"], 16 * 1024**2, "bytes", sound=sound)
        name = "disk at most / weights, with a killed run"
        self.bound(name, mine["disk_peak"], fetch["disk_peak"], 1.05, "", sound=sound)

    def _killed(self, method: str, network: Network, origin: Origin, model: Model, tree: Path) -> dict[str, t.Any]:
        space = network.space("host-1")
        command = ours(origin.url, model, tree) if method == "ours" else lfs_fetch(origin.url, tree)
        with DiskMeter(tree.parent) as meter:
            job = self.start(command, tree.parent, space=space)
            half = self._wait_until_sent(origin, model.total // 2, job)
            job.kill()
            first = job.wait()
            network.kill_all(space)  # what has detached itself
            time.sleep(0.3)
            before = origin.sent()
            usage = self.run(command, tree.parent, space=space)
        again = origin.sent() - model.total
        return {
            "killed": half and first.code == -9,
            "sent_before_the_kill": before,
            "sent_again": again,
            "sent_again_share": ratio(again, before),
            "line_bytes": network.counters(network.origin)[1],
            "disk_peak": ratio(meter.peak, model.total),
            "disk_after": ratio(allocated(tree.parent), model.total),
            "second_run_s": usage.wall_s,
            "wrong": model.wrong(tree) if method == "ours" else [],
            "code": usage.code,
            "said": usage.said[-600:] if usage.code else "",
        }

    @staticmethod
    def _wait_until_sent(origin: Origin, bytes_: int, job: Job) -> bool:
        """Whether the origin has sent so much while the job ran."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if origin.sent() >= bytes_:
                return True
            if os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(0.01)
        return False

    # -- a fleet

    @staticmethod
    def peers(network: Network, host: str, key: str, whole: str = "") -> dict[str, t.Any]:
        """The module's option of this name. whole: the host that has everything already."""
        hosts: list[dict[str, t.Any]] = [
            {
                "name": one,
                "address": network.address(one),
                "port": PEER_PORT,
                **({"whole": True} if one == whole else {}),
            }
            for one in network.hosts
        ]
        mine = {"name": host, "address": network.address(host), "port": PEER_PORT}
        return {**mine, "key": key, "linger": 30, "hosts": hosts}

    def _start_all(
        self, network: Network, origin: Origin, model: Model, folder: Path, *, method: str = "ours", whole: str = ""
    ) -> dict[str, Job]:
        """Start every host at once; one host alone has no peers."""
        key = os.urandom(32).hex()
        jobs = {}
        for host in network.hosts:
            tree = folder / host / "model"
            tree.parent.mkdir(exist_ok=True)
            if method == "ours":
                more = {"peers": self.peers(network, host, key, whole)} if len(network.hosts) > 1 else {}
                command = ours(origin.url, model, tree, **more)
            else:
                command = lfs_fetch(origin.url, tree)
            jobs[host] = self.start(command, tree.parent, space=network.space(host), linger=True)
        return jobs

    def fleet(self) -> None:
        model = self.model(self.settings.fleet_size)
        told: dict[str, dict[str, t.Any]] = {"git lfs fetch": {}, "ours": {}}
        for number in self.settings.hosts:
            for method, results in told.items():
                say(f"{number} hosts: {method}")
                results[str(number)] = self._fleet_run(method, number, model)
        self.raw["fleet"] = told
        mine, theirs = told["ours"], told["git lfs fetch"]
        one = mine[str(self.settings.hosts[0])]
        for count, here in mine.items():
            sound = not here["failed"] and not here["wrong"]
            name = f"origin bytes, {count} hosts / size"
            self.bound(name, here["origin_bytes"], theirs[count]["origin_bytes"], 1.05, "", sound=sound)
        last = str(self.settings.hosts[-1])
        if last != "1" and self.settings.hosts[0] == 1:
            sound = not mine[last]["failed"] and not mine[last]["wrong"] and not one["failed"]
            base = ratio(theirs[last]["last_host_s"], theirs["1"]["last_host_s"])
            name = f"wall time, {last} hosts / 1 host"
            self.bound(name, mine[last]["last_host_s"] / one["last_host_s"], base, 1.3, "", sound=sound)

    def _fleet_run(self, method: str, number: int, model: Model) -> dict[str, t.Any]:
        with self.network(number, model) as (network, origin), self.fresh() as folder:
            line = network.counters(network.origin)[1]
            started = time.monotonic()
            jobs = self._start_all(network, origin, model, folder, method=method)
            usages = {host: self.note(job.wait(300)) for host, job in jobs.items()}
            ends = {host: jobs[host].started - started + usage.wall_s for host, usage in usages.items()}
            line = network.counters(network.origin)[1] - line
            servers = [network.left_behind(network.space(host)) for host in network.hosts]
            cpu = sum(usage.cpu_s for usage in usages.values()) + sum(one[0] for one in servers)
            last = max(ends.values())
            wrong = {}
            if method == "ours":
                found = {host: model.wrong(folder / host / "model") for host in network.hosts}
                wrong = {host: names for host, names in found.items() if names}
            failed = {host: usage.said[-400:] for host, usage in usages.items() if usage.code}
            return {
                "last_host_s": round(last, 3),
                "first_host_s": round(min(ends.values()), 3),
                "origin_bytes": ratio(origin.sent(), model.total),
                "origin_line_bytes": ratio(line, model.total),
                "peer_line_bytes": ratio(
                    sum(network.counters(network.space(host))[1] for host in network.hosts), model.total
                ),
                "rss_mb": max(usage.rss_mb for usage in usages.values()),
                "peer_server_rss_mb": round(max(one[1] for one in servers), 1),
                "cpu_s": round(cpu, 2),
                # Near 1 the processors of this machine are the limit, and not the line.
                "cpu_share": ratio(cpu, last * (os.cpu_count() or 1)),
                "failed": failed,
                "wrong": wrong,
            }

    # -- faults

    def faults(self) -> None:
        model = self.model(self.settings.fleet_size)
        told: dict[str, t.Any] = {}
        for name, measure in (
            ("byte flipped once at the origin", self._flip_once),
            ("byte always flipped at the origin", self._flip_always),
            ("lying peer", self._lying_peer),
            ("dead peer", self._dead_peer),
            ("slow peer", self._slow_peer),
            ("byte rotten later on the host", self._rot),
        ):
            say(f"fault: {name}")
            told[name] = measure(model)
        self.raw["faults"] = told
        for name, found in told.items():
            mine = found["ours"]
            base = found.get("baseline", {}).get("seconds")
            shown = mine["right"] and mine.get("named", True) and mine.get("lied", True) and mine.get("saw", True)
            told_as = "right" + "".join(f", {word}" for word in ("named", "lied", "saw") if word in mine)
            self.figure(f"{name}: seconds", mine.get("seconds"), base, told_as, shown)

    def _flip_once(self, model: Model) -> dict[str, t.Any]:
        told = {}
        oid, size = next(iter(model.sizes.items()))
        for method in ("baseline", "ours"):
            with self.origin(model) as origin, self.fresh() as folder:
                origin.order("flip", oid=oid, at=size // 2, times=1)
                tree = folder / "model"
                usage = self.run(
                    ours(origin.url, model, tree) if method == "ours" else lfs_clone(origin.url, tree), folder
                )
                wrong = model.wrong(tree)
                told[method] = {
                    **self._told(usage),
                    "struck": origin.order("count")["flips"][0]["struck"],
                    "fetched": ratio(origin.sent(), model.total),
                    "right": usage.code == 0 and not wrong,
                    "named": names_object(usage, oid, model),
                    "wrong": wrong,
                }
        return told

    def _flip_always(self, model: Model) -> dict[str, t.Any]:
        """Nothing right can come; what counts is that nothing wrong is linked, and that it is said."""
        told = {}
        oid, size = next(iter(model.sizes.items()))
        spoilt = next(name for name, one in model.files.items() if one == oid)
        for method in ("baseline", "ours"):
            with self.origin(model) as origin, self.fresh() as folder:
                origin.order("flip", oid=oid, at=size // 2, times=0)
                tree = folder / "model"
                usage = self.run(
                    ours(origin.url, model, tree) if method == "ours" else lfs_clone(origin.url, tree), folder
                )
                file = tree / spoilt
                told[method] = {
                    **self._told(usage),
                    "fetched": ratio(origin.sent(), model.total),
                    "linked": file.exists() and file.stat().st_size == size,
                    "right": usage.code != 0 and not (file.exists() and file.stat().st_size == size),
                }
        return told

    @staticmethod
    def _told(usage: Usage) -> dict[str, t.Any]:
        told: dict[str, t.Any] = {"seconds": usage.wall_s, "code": usage.code}
        told |= {key: usage.answer[key] for key in ("cause", "msg", "warnings", "notes") if usage.answer.get(key)}
        if usage.code and not usage.answer:
            told["said"] = usage.said[-400:]
        return told

    def _lying_peer(self, model: Model) -> dict[str, t.Any]:
        """host-1 has everything; one byte of it has rotted since its own verification."""
        with self.network(3, model) as (network, origin), self.fresh() as folder:
            tree = folder / "host-1/model"
            first = self.run(ours(origin.url, model, tree), folder, space=network.space("host-1"))
            if first.code:
                return {"ours": {**self._told(first), "right": False}}
            name, oid = next(iter(model.files.items()))
            # The hard link: the object that the peer serves changes with it.
            flip_byte(tree / name, model.sizes[oid] // 2)
            before, given = origin.sent(), network.counters(network.space("host-1"))[1]
            jobs = self._start_all(network, origin, model, folder, whole="host-1")
            usages = {host: self.note(job.wait(300)) for host, job in jobs.items()}
            return {
                "ours": {
                    **self._hosts(usages, model, folder, ("host-2", "host-3")),
                    "from_origin": ratio(origin.sent() - before, model.total),
                    "from_the_liar": ratio(network.counters(network.space("host-1"))[1] - given, model.total),
                    # Without this, nobody asked the liar and nothing was shown.
                    "lied": network.counters(network.space("host-1"))[1] - given > 0.05 * model.total,
                }
            }

    def _dead_peer(self, model: Model) -> dict[str, t.Any]:
        with self.network(3, model) as (network, origin), self.fresh() as folder:
            jobs = self._start_all(network, origin, model, folder)
            half = self._wait_until_sent(origin, model.total // 2, jobs["host-3"])
            network.kill_all(network.space("host-2"))
            jobs["host-2"].kill()
            usages = {host: self.note(job.wait(300)) for host, job in jobs.items()}
            told = self._hosts(usages, model, folder, ("host-1", "host-3"))
            return {
                "ours": {
                    **told,
                    "killed_in_time": half and usages["host-2"].code != 0,
                    "from_origin": ratio(origin.sent(), model.total),
                }
            }

    def _slow_peer(self, model: Model) -> dict[str, t.Any]:
        """One host behind 10 Mbit/s: what the others need. Its own end is not waited for."""
        with self.network(3, model) as (network, origin), self.fresh() as folder:
            network.slow_down("host-2", 10)
            jobs = self._start_all(network, origin, model, folder)
            usages = {host: self.note(jobs[host].wait(300)) for host in ("host-1", "host-3")}
            network.kill_all(network.space("host-2"))
            jobs["host-2"].kill()
            jobs["host-2"].wait()
            told = self._hosts(usages, model, folder, ("host-1", "host-3"))
            return {"ours": {**told, "from_origin": ratio(origin.sent(), model.total)}}

    @staticmethod
    def _hosts(usages: dict[str, Usage], model: Model, folder: Path, names: tuple[str, ...]) -> dict[str, t.Any]:
        """What some hosts took, and whether every file of theirs is right."""
        wrong = {host: model.wrong(folder / host / "model") for host in names}
        failed = {host: usages[host].said[-400:] for host in names if usages[host].code}
        return {
            "seconds": max(usages[host].wall_s for host in names),
            "right": not failed and not any(wrong.values()),
            "wrong": {host: files for host, files in wrong.items() if files},
            "failed": failed,
            "notes": {host: said for host in names if (said := usages[host].answer.get("warnings"))},
        }

    def _rot(self, model: Model) -> dict[str, t.Any]:
        """Every run that could see it, on a clone of git-lfs's and on one of ours."""
        name, oid = next(iter(model.files.items()))
        told: dict[str, t.Any] = {}
        with self.origin(model) as origin, self.fresh() as folder:
            disk = RottingDisk(folder, int(model.total * 4.5) + 256 * 1024**2)
            try:
                trees = {method: disk.path / method for method in ("git-lfs", "ours")}
                self.run(lfs_clone(origin.url, trees["git-lfs"]), folder)
                self.run(ours(origin.url, model, trees["ours"]), folder)
                for tree in trees.values():
                    disk.rot(tree / name, model.sizes[oid] // 2)
                told["baseline"] = self._rot_of_git(origin, model, trees["git-lfs"], (name, oid))
                before = origin.sent()
                usage = self.run(ours(origin.url, model, trees["ours"], verify="full"), folder)
                told["ours"] = {
                    **self._told(usage),
                    "saw": any(name in str(one) for one in usage.answer.get("repaired", ())),
                    "right": usage.code == 0 and not model.wrong(trees["ours"]),
                    "bytes": origin.sent() - before,
                }
            finally:
                disk.close()
        return told

    def _rot_of_git(self, origin: Origin, model: Model, tree: Path, names: tuple[str, str]) -> dict[str, t.Any]:
        before = origin.sent()
        told: dict[str, t.Any] = {}
        for command in ("git lfs fsck", "git status --porcelain", "git lfs pull", "git reset --hard"):
            usage = self.run(sh(f"cd {tree} && {command}"), tree)
            told[command] = {
                "seconds": usage.wall_s,
                "code": usage.code,
                "saw": any(one in usage.said for one in names),
                "mended": not model.wrong(tree),
            }
        return {**told, "bytes": origin.sent() - before}


# --- command line -----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(f"model_fetch: {text}", file=sys.stderr, flush=True)


def version(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout.splitlines()[0] if done.stdout else ""


def machine(work: Path) -> dict[str, t.Any]:
    model = ""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpus": os.cpu_count(),
        "cpu": model,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "kernel": platform.release(),
        "file_system": version("stat", "-f", "-c", "%T", str(work)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "git": version("git", "--version"),
        "git_lfs": version("git", "lfs", "version"),
        "curl": version("curl", "--version")[:12],
        "openssl": version("openssl", "version"),
    }


def require(settings: Settings) -> None:
    """Say what is missing before anything is made."""
    missing = [
        name
        for name in ("git", "git-lfs", "curl", "openssl", "ip", "tc", "nsenter", "mkfs.ext4")
        if not shutil.which(name)
    ]
    if missing:
        sys.exit(
            f"Found: {', '.join(missing)} missing on this machine. Expected: git, git-lfs, curl, openssl, iproute2, "
            "util-linux and e2fsprogs. Remedy: apt-get install git git-lfs curl openssl iproute2 util-linux e2fsprogs."
        )
    if os.geteuid() != 0:
        sys.exit("Found: not root. Expected: root, for network namespaces. Remedy: run it with sudo.")
    one, all_hosts = settings.size, settings.fleet_size
    needed = one[0] * one[1] * 3 + all_hosts[0] * all_hosts[1] * (max(settings.hosts) + 3)
    free = shutil.disk_usage(settings.work).free
    if free < needed:
        sys.exit(
            f"Found: {free / 1e9:.1f} GB free at {settings.work}. Expected: {needed / 1e9:.1f} GB. "
            "Remedy: another --work, or smaller --size and --fleet-size."
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_size, default=None, help="files of one host, loopback (2x1GiB)")
    parser.add_argument("--fleet-size", type=parse_size, default=None, help="files of fleet and faults (2x128MiB)")
    parser.add_argument("--hosts", type=parse_hosts, default=None, help="sizes of the fleet (1,2,4,8)")
    parser.add_argument("--link", type=int, default=1000, help="Mbit/s of each link, each way (1000)")
    parser.add_argument("--repetitions", type=int, default=None, help="interleaved repetitions of one host (3)")
    parser.add_argument("--only", choices=GROUPS, action="append", help="this group alone; may be given again")
    parser.add_argument("--quick", action="store_true", help="small sizes, hosts 1,2, one repetition: under 90 s")
    default = Path("/var/tmp")  # noqa: S108 - the run makes a directory of its own in it
    parser.add_argument("--work", type=Path, default=default, help="directory for all files (/var/tmp)")
    parser.add_argument("--keep", action="store_true", help="leave the directory of the run")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    quick = given.quick
    work = Path(tempfile.gettempdir()) if not given.work.is_dir() else given.work
    settings = Settings(
        size=given.size or ((2, 64 * 1024**2) if quick else (2, 1024**3)),
        fleet_size=given.fleet_size or ((2, 64 * 1024**2) if quick else (2, 128 * 1024**2)),
        hosts=given.hosts or ([1, 2] if quick else [1, 2, 4, 8]),
        mbit=given.link,
        repetitions=given.repetitions or (1 if quick else 3),
        work=work,
    )
    require(settings)
    remove_leftovers(work)
    settings = settings._replace(work=work / f"{PREFIX}-{os.getpid()}")
    settings.work.mkdir()
    # A shell starts what runs in its background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    benchmark = Benchmark(settings)
    told: dict[str, t.Any] = {
        "benchmark": "model_fetch",
        "machine": machine(settings.work),
        "settings": {**settings._asdict(), "work": "", "repository": REPOSITORY},
    }
    code = 1
    try:
        for group in given.only or GROUPS:
            getattr(benchmark, group)()
        code = 0
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    finally:
        benchmark.end_jobs()
        if not given.keep:
            remove_directory(settings.work)
    told |= {
        "options_not_built_yet": sorted(benchmark.unknown),
        "figures": benchmark.figures,
        "reached": all(one["reached"] for one in benchmark.figures) and code == 0,
        "raw": benchmark.raw,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(told, indent=2))
    return code


if __name__ == "__main__":
    sys.exit(main())
