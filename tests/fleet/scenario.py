"""What the tests of fleets share: one load from the first to the last, and the gateways' own view of the hosts."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import load as generator
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
INVENTORY = SCENARIO / "inventory"
REPORT = ROOT / f"reports/load-{SCENARIO.name}.json"
HOSTS = yaml.safe_load((INVENTORY / "hosts.yml").read_text(encoding="utf-8"))["all"]["children"]
SERVING = list(HOSTS["serving"]["hosts"])
# Name and published port.
GATEWAYS = {
    name: variables["sandbox_gateway_port"] for name, variables in HOSTS.get("gateway", {"hosts": {}})["hosts"].items()
}
# The two commits that the hub holds.
NEW, OLD = "f39a3a1b9a180bec801710ca5d55f2d05597779c", "e7a9cc9a"
# Within so many seconds of a fault requests may fail, and none after.
GRACE = 10.0

SHOW_STAT = """
import socket
with socket.socket(socket.AF_UNIX) as admin:
    admin.settimeout(5)
    admin.connect("/run/haproxy/admin.sock")
    admin.sendall(b"show stat\\n")
    print(b"".join(iter(lambda: admin.recv(65536), b"")).decode())
"""


def playbook(path: str, *arguments: str, **variables: Any) -> tuple[list[str], dict[str, str]]:
    """The command that runs a playbook over the scenario's hosts, and its environment."""
    command = ["ansible-playbook", str(ROOT / path), "-i", str(INVENTORY), *arguments]
    if variables:
        command += ["-e", json.dumps(variables)]
    env = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    env.pop("ANSIBLE_FORCE_COLOR", None)
    return command, env


def run(path: str, *arguments: str, limit: float = 600, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook as a user would."""
    command, env = playbook(path, *arguments, **variables)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=limit, check=False)


def recap(output: str) -> dict[str, dict[str, int]]:
    """The counts of each host, as Ansible tells them at the end."""
    lines = re.findall(r"^(\S+)\s+: (ok=.*)$", output.rsplit("PLAY RECAP", maxsplit=1)[-1], re.MULTILINE)
    return {host: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in lines}


def on(host: str, script: str, limit: float = 60) -> str:
    """Run a script as root on a host; by its container, which costs a tenth of a run of Ansible."""
    command = ["docker", "exec", f"vicuna-sandbox-{host}", "bash", "-ec", script]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit).stdout.strip()


def servers(gateway: str) -> dict[str, dict[str, str]]:
    """HAProxy's statistics of each server of a gateway."""
    command = ["docker", "exec", "-i", f"vicuna-sandbox-{gateway}", "python3", "-"]
    done = subprocess.run(command, input=SHOW_STAT, check=True, capture_output=True, text=True, timeout=20)
    rows = csv.DictReader(io.StringIO(done.stdout.strip().removeprefix("# ")))
    return {row["svname"]: row for row in rows if row["pxname"] == "vicuna" and row["svname"] in SERVING}


def states(host: str) -> set[str]:
    """What the gateways that run think of a host: UP, DOWN, DRAIN and so on."""
    return {servers(gateway)[host]["status"] for gateway in GATEWAYS}


def wait_for(what: Callable[[], bool], limit: float, told: str, pause: float = 0.25) -> float:
    """Return the seconds until it holds; fail after the limit."""
    started = time.monotonic()
    while (waited := time.monotonic() - started) < limit:
        with contextlib.suppress(subprocess.SubprocessError):
            if what():
                return time.monotonic() - started
        time.sleep(pause)
    return pytest.fail(f"{told}: not within {waited:.0f} s")


def wait_all_up(limit: float = 90) -> float:
    """Until every gateway sends requests to every host."""
    return wait_for(lambda: all(states(host) == {"UP"} for host in SERVING), limit, "every host up at every gateway")


def release(host: str) -> dict[str, Any]:
    """What the host's own record says it runs."""
    record: dict[str, Any] = json.loads(on(host, "cat /var/lib/vicuna/release.json"))
    return record


def containers(host: str) -> str:
    """The running containers and since when: another value where one was touched."""
    return on(host, "docker inspect --format '{{.Name}} {{.Id}} {{.State.StartedAt}}' $(docker ps -q) | sort")


def revision(host: str) -> str:
    """The model's commit that the worker was started with."""
    return on(
        host, "docker inspect --format '{{index .Config.Labels \"vicuna.model.revision\"}}' vicuna-model-worker-1"
    )


class Figures:
    """The report, written after each test, so that a run that is cut off leaves what it had."""

    def __init__(self, path: Path = REPORT) -> None:
        self.path = path
        self.content: dict[str, Any] = {"tests": {}}

    def keep(self, name: str, figures: dict[str, Any]) -> None:
        self.content["tests"][name] = figures
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.content, indent=2) + "\n")
        temporary.replace(self.path)


@dataclass
class Watch:
    """A span of the load."""

    name: str
    traffic: Traffic
    since: float
    until: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def strike(self) -> None:
        """The fault begins now."""
        self.since = self.traffic.load.now()
        self.traffic.graces.append((self.since, self.since + GRACE))

    def passed(self) -> float:
        return self.traffic.load.now() - self.since

    def rest(self, seconds: float) -> None:
        """Let the load go on until so many seconds after the beginning."""
        time.sleep(max(0.0, seconds - self.passed()))

    @property
    def figures(self) -> dict[str, Any]:
        return self.traffic.load.summary(self.since, self.until or self.traffic.load.now())

    def failures(self, after: float = 0.0) -> list[dict[str, Any]]:
        """Requests that failed later than so many seconds after the beginning."""
        until = self.until or self.traffic.load.now()
        late = [each for each in list(self.traffic.load.records) if self.since + after < each.end <= until]
        return [asdict(each) for each in late if not each.ok]


class Traffic:
    """Short answers at half of what the sandbox carries, through both gateways, from the first test to the last."""

    def __init__(self, figures: Figures) -> None:
        self.kept = figures
        self.graces: list[tuple[float, float]] = []
        self.spans: dict[str, float] = {}
        key = (INVENTORY / ".secrets/load").read_text().strip()
        self.targets = [
            generator.Target(f"https://127.0.0.1:{port}", key, context(name)) for name, port in GATEWAYS.items()
        ]
        # Hosts and control node share this machine's cores: what the fleet carries, it carries beside a playbook.
        command, env = playbook("site.yml", "--check")
        with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as beside:
            self.capacity = generator.capacity(self.targets, 15, clients=12)
            output = beside.communicate(timeout=300)[0]
        assert beside.returncode == 0, output[-3000:]
        assert self.capacity["failed"] == 0, self.capacity
        self.rate = self.capacity["per_second"] / 2
        self.kept.content |= {"capacity": self.capacity, "rate_per_second": round(self.rate, 3)}
        self.load = generator.Load(self.targets, rate=self.rate, failover=True, timeout=120).start()

    @contextlib.contextmanager
    def watch(self, name: str) -> Iterator[Watch]:
        watch = Watch(name, self, self.load.now())
        if name in self.spans:
            # The test is run once more. What came of its first run stands in the report; the total is not of it.
            self.kept.keep(f"{name}, the first time", self.kept.content["tests"][name])
            self.graces.append((self.spans[name], watch.since))
        self.spans[name] = watch.since
        try:
            yield watch
        finally:
            watch.until = self.load.now()
            self.kept.keep(name, watch.figures | watch.extra)

    def outside_of_faults(self) -> list[Any]:
        """All requests that failed when nothing was broken, or long after it was."""
        return [
            each
            for each in self.load.records
            if not each.ok and not any(since <= each.end <= until for since, until in self.graces)
        ]


def context(gateway: str) -> Any:
    """The certificate that the gateway signed itself, fetched by the run that made it."""
    return generator.trust(insecure=False, ca=str(INVENTORY / f".secrets/gateway_{gateway}.pem"))
