#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure what a run costs that finds nothing to do: site.yml against a plain playbook, on 1, 2, 4 and 8 sandbox hosts.

Needs what `make demo` needs, and its virtual environment. Prints JSON; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
SANDBOX = ROOT / "inventories" / "sandbox"
SSH_PORT, API_PORT = 22300, 18100
# What one run may take; a first one builds the images.
FIRST_S, SECOND_S, REMOVE_S = 1800, 600, 300
RECAP = re.compile(r"^(?P<host>bench-\d+)\s*:\s*(?P<counts>(?:\w+=\d+\s*)+)$", re.MULTILINE)
FLEET = 4
PROJECTED = 100


def say(text: str) -> None:
    print(f"converge: {text}", file=sys.stderr, flush=True)


class Broken(Exception):
    """A run that should have gone well did not."""


@dataclass
class Run:
    """One run of a playbook."""

    hosts: int
    wall_s: float
    cpu_s: float
    tasks: int
    skipped: int
    changed: int


def recap(output: str) -> dict[str, dict[str, int]]:
    """The counts of each host, from the end of Ansible's output."""
    return {
        match["host"]: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", match["counts"])}
        for match in RECAP.finditer(output)
    }


def line(points: t.Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The a and b of y = a + b * x by least squares."""
    xs, ys = [x for x, _y in points], [y for _x, y in points]
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if spread == 0:
        raise ValueError("a line needs two numbers of hosts")
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return mean_y - slope * mean_x, slope


def projection(points: t.Sequence[tuple[float, float]], hosts: int) -> dict[str, t.Any]:
    """What so many hosts would cost, with the model and how far it is off where it was measured."""
    a, b = line(points)
    return {
        "model": "a + b * hosts, least squares",
        "a": round(a, 3),
        "b": round(b, 3),
        "residuals": {f"{x:g}": round(y - a - b * x, 3) for x, y in points},
        "hosts": hosts,
        "projected": round(a + b * hosts, 1),
    }


def parse_hosts(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no list like 1,2,4") from None
    if not 1 <= found[0] <= found[-1] <= 16:
        raise argparse.ArgumentTypeError("from 1 to 16 hosts")
    return found


def sandbox_engine() -> dict[str, str]:
    """The environment that reaches the sandbox's engine, which is started where there is none."""
    script = 'sandbox/engine.sh up >&2; settings=$(sandbox/engine.sh env); eval "$settings"; env -0'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, timeout=FIRST_S, check=True
    )
    return dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if "=" in entry)


def write_inventory(folder: Path, hosts: int) -> None:
    """The sandbox's own inventory, with other hosts."""
    shutil.copytree(SANDBOX / "group_vars", folder / "group_vars")
    entries = {
        f"bench-{number}": {"ansible_port": SSH_PORT + number, "sandbox_api_port": API_PORT + number}
        for number in range(1, hosts + 1)
    }
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": entries}}, indent=2), encoding="utf-8")


class Benchmark:
    """All runs, over the hosts of one inventory."""

    def __init__(self, folder: Path, hosts: list[int], repetitions: int, environment: dict[str, str]) -> None:
        self.folder, self.hosts, self.repetitions = folder, hosts, repetitions
        programs = str(Path(sys.executable).parent)
        self.env = {
            **environment,
            "PATH": f"{programs}:{environment['PATH']}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            # Reports of the benchmark's hosts do not belong beside the user's own.
            "PWD": str(folder),
        }

    def docker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", *arguments], env=self.env, capture_output=True, text=True, timeout=SECOND_S, check=False
        )
        if done.returncode:
            raise Broken(f"docker {' '.join(arguments)}: {done.stderr.strip()[-600:]}")
        return done.stdout.strip()

    def play(self, playbook: Path, limit: int | None, seconds: float, *arguments: str) -> tuple[str, float, float]:
        """Run a playbook over the first hosts; its output, and the seconds by the clock and of the CPU."""
        command = ["ansible-playbook", str(playbook), "-i", str(self.folder), *arguments]
        if limit:
            command += ["--limit", ",".join(f"bench-{number}" for number in range(1, limit + 1))]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        # A session of its own: what it has started ends with it.
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _none = process.communicate(timeout=seconds)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            raise Broken(f"{playbook.name} ended with {process.returncode}:\n{output[-3000:]}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return output, wall, cpu

    def second(self, playbook: Path, hosts: int, *arguments: str) -> Run:
        """A run that finds nothing to do."""
        output, wall, cpu = self.play(playbook, hosts, SECOND_S, *arguments)
        counts = recap(output)
        if len(counts) != hosts:
            raise Broken(f"{playbook.name} ran over {len(counts)} of {hosts} hosts:\n{output[-3000:]}")
        changed = sum(each["changed"] for each in counts.values())
        if changed:
            raise Broken(f"{playbook.name} changed {changed} things at a further run:\n{output[-6000:]}")
        return Run(
            hosts,
            round(wall, 2),
            round(cpu, 2),
            max(each["ok"] for each in counts.values()),
            max(each["skipped"] for each in counts.values()),
            changed,
        )

    def measure(self, name: str, playbook: Path, *arguments: str) -> list[Run]:
        """Further runs over each number of hosts, the numbers taking turns."""
        runs = []
        for number in range(self.repetitions):
            for hosts in self.hosts:
                runs.append(self.second(playbook, hosts, *arguments))
                found = runs[-1]
                say(
                    f"{name}, {number + 1} of {self.repetitions}, {hosts} hosts: {found.wall_s} s, "
                    f"{found.cpu_s} CPU s, {found.tasks} tasks"
                )
        return runs

    def up(self) -> None:
        self.play(ROOT / "sandbox" / "up.yml", None, FIRST_S)

    def ours(self) -> list[Run]:
        say("site.yml for the first time")
        self.play(ROOT / "site.yml", None, FIRST_S)
        return self.measure("site.yml", ROOT / "site.yml")

    def plain(self) -> list[Run]:
        """The plain playbook in the place of what site.yml has deployed: its engine, its images, its port."""
        say("the plain playbook for the first time")
        images = {
            name: self.docker(
                "exec", "vicuna-sandbox-bench-1", "docker", "inspect", "--format={{.Config.Image}}", container
            )
            for name, container in (("api", "vicuna-api-server-1"), ("worker", "vicuna-model-worker-1"))
        }
        for number in range(1, self.hosts[-1] + 1):
            host = f"vicuna-sandbox-bench-{number}"
            self.docker("exec", host, "docker", "compose", "--project-name=vicuna", "down", "--timeout=5")
        arguments = ("--extra-vars", json.dumps({"plain_images": images, "plain_key": "sk-plain"}))
        playbook = HERE / "converge" / "plain.yml"
        self.play(playbook, None, FIRST_S, *arguments)
        return self.measure("plain playbook", playbook, *arguments)

    def down(self) -> None:
        self.play(ROOT / "sandbox" / "down.yml", None, REMOVE_S)


def median(runs: list[Run], hosts: int, name: str) -> float:
    return float(round(statistics.median(getattr(run, name) for run in runs if run.hosts == hosts), 2))


def summary(runs: list[Run], hosts: list[int]) -> dict[str, t.Any]:
    """Medians by number of hosts, and what they say of many more."""
    told: dict[str, t.Any] = {
        str(count): {name: median(runs, count, name) for name in ("wall_s", "cpu_s", "tasks", "skipped")}
        for count in hosts
    }
    if len(hosts) > 1:
        told["at_100_hosts"] = {
            name: projection([(count, median(runs, count, name)) for count in hosts], PROJECTED)
            for name in ("wall_s", "cpu_s")
        }
    return told


def figures(ours: list[Run], plain: list[Run], hosts: list[int]) -> list[dict[str, t.Any]]:
    """Issue 5's table. A fleet is four hosts, or the most that were measured."""
    fleet = FLEET if FLEET in hosts else hosts[-1]
    one = hosts[0]

    def cpu(runs: list[Run]) -> float:
        return round(median(runs, fleet, "cpu_s") / fleet, 2)

    def scaling(runs: list[Run]) -> float:
        return round(median(runs, fleet, "wall_s") / median(runs, one, "wall_s"), 2)

    walls = median(ours, fleet, "wall_s"), median(plain, fleet, "wall_s")
    rows = [
        ("tasks run, the host with the most", max(run.tasks for run in ours), max(run.tasks for run in plain), 14),
        (f"CPU seconds of the control node for each of {fleet} hosts", cpu(ours), cpu(plain), 2.5),
        (f"wall time, {fleet} hosts against {one}", scaling(ours), scaling(plain), 2),
        (f"wall time against the plain playbook, {fleet} hosts", round(walls[0] / walls[1], 2), walls[1], 0.6),
    ]
    return [
        {"figure": name, "ours": value, "baseline": baseline, "to_reach": f"<= {limit:g}", "reached": value <= limit}
        for name, value, baseline, limit in rows
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hosts", type=parse_hosts, help="how many hosts at a time (1,2,4,8)")
    parser.add_argument("--repetitions", type=int, help="of each run (3)")
    parser.add_argument("--quick", action="store_true", help="1 and 2 hosts, each run once")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="where the inventory goes")
    found = parser.parse_args()
    found.hosts = found.hosts or ([1, 2] if found.quick else [1, 2, 4, 8])
    found.repetitions = found.repetitions or (1 if found.quick else 3)
    if found.repetitions < 1:
        parser.error("--repetitions: 1 or more")
    return found


def interrupted(number: int, _frame: object) -> t.NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    settings = arguments()
    signal.signal(signal.SIGTERM, interrupted)
    own_socket = Path(os.environ.get("SANDBOX_RUN", "/run/vicuna-sandbox")) / "docker.sock"
    was_running = own_socket.exists()
    folder = Path(tempfile.mkdtemp(prefix="vicuna-converge-", dir=settings.work))
    try:
        write_inventory(folder, settings.hosts[-1])
        benchmark = Benchmark(folder, settings.hosts, settings.repetitions, sandbox_engine())
        try:
            say(f"making {settings.hosts[-1]} hosts")
            benchmark.up()
            ours = benchmark.ours()
            plain = benchmark.plain()
        finally:
            say("removing the hosts")
            benchmark.down()
    except Broken as error:
        say(str(error))
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not was_running and own_socket.exists():
            subprocess.run(["sandbox/engine.sh", "down"], cwd=ROOT, stdout=sys.stderr, timeout=REMOVE_S, check=False)
    json.dump(
        {
            "benchmark": "converge",
            "machine": {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version()},
            "figures": figures(ours, plain, settings.hosts),
            "site.yml": summary(ours, settings.hosts),
            "plain.yml": summary(plain, settings.hosts),
            "raw": {"site.yml": [asdict(run) for run in ours], "plain.yml": [asdict(run) for run in plain]},
        },
        sys.stdout,
        indent=2,
    )
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
