"""One mutation after the other: its cause by verify.yml, and the seconds to the answer, by itself or by site.yml."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from typing import Any

import pytest
import scenario
from endpoint import Endpoint
from host import HOST, look

ITSELF, SITE, REFUSED = "by itself", "by site.yml", "refused"
# A host that hangs answers again within so many seconds.
BOUND = 60
MODEL = "$(readlink -f /model/vicuna-tiny)"
PRELUDE = """
pid() { docker inspect --format '{{.State.Pid}}' vicuna-$1-1; }
# HAProxy's first process only looks after the one that serves.
hang() { kill -STOP $(pid $1) $(pgrep -P $(pid $1)); }
cd /opt/vicuna
"""
# Where a mutation takes no answer away: the host serves, and only site.yml sees that something differs.
SERVES = "serves"


@dataclass(frozen=True)
class Mutation:
    name: str
    script: str  # as root on the host
    cause: str  # verify.yml's code of it, or SERVES; one of several, parted by |
    end: str = SITE
    words: str = ""  # of the cause
    said: str = ""  # by site.yml
    first: str = ""  # a playbook that is run before site.yml
    undo: str = ""  # by a person, where site.yml refuses
    limit: int = 7  # seconds until the cause shows
    untouched: bool = True  # whether a refusal comes before anything is written
    watcher: bool = True  # false lets the host's own watcher hang, too, so that site.yml alone can bring it back


def hung(service: str, **more: Any) -> Mutation:
    return Mutation(f"{service} hangs", f"hang {service}", "hung", ITSELF, words=service, **more)


MUTATIONS = [
    # What the host's engine and watcher bring back.
    *[
        Mutation(f"{service} is killed", f"docker kill vicuna-{service}-1", "", ITSELF)
        for service in ("controller", "model-worker", "api-server", "edge")
    ],
    *[hung(service) for service in ("controller", "model-worker", "api-server", "edge")],
    Mutation("the engine is killed", "kill -9 $(pidof dockerd)", "", ITSELF),
    # What was stopped stays stopped: somebody may have wanted it.
    Mutation("controller is stopped", "docker stop -t 1 vicuna-controller-1", "controller_down"),
    Mutation("model-worker is stopped", "docker stop -t 1 vicuna-model-worker-1", "worker_stopped"),
    Mutation("api-server is stopped", "docker stop -t 1 vicuna-api-server-1", "api_down"),
    Mutation("edge is stopped", "docker stop -t 1 vicuna-edge-1", "edge_down"),
    # What hangs on a host whose watcher hangs as well.
    *[
        Mutation(
            f"{service} hangs, nobody watches",
            f"hang {service}",
            "hung",
            words=service,
            limit=12,  # the edge takes up to 7 s to see it
            watcher=False,
            said=f"{service} started again",
        )
        for service in ("controller", "model-worker", "api-server", "edge")
    ],
    Mutation("model-worker is paused", "docker pause vicuna-model-worker-1", "paused"),
    Mutation("a container is removed", "docker rm -f vicuna-model-worker-1", "worker_missing"),
    Mutation("the project is down", "docker compose down -t 1", "not_deployed"),
    Mutation(
        "a worker is cut from its network",
        "docker network disconnect vicuna_backend vicuna-model-worker-1",
        "no_network",
        words="model-worker",
        said="all containers made anew",
    ),
    Mutation(
        "the edge is cut from the published network",
        "docker network disconnect vicuna_frontend vicuna-edge-1",
        "no_network",
        words="publishes its port",
        said="all containers made anew",
    ),
    Mutation(
        "a memory limit kills the worker",
        "docker stop -t 1 vicuna-model-worker-1; docker update --memory 150m --memory-swap 150m vicuna-model-worker-1;"
        " docker start vicuna-model-worker-1",
        "host_memory",
        words="memory limit of its container",
        limit=20,
        said="all containers made anew",
    ),
    # Files of the edge.
    Mutation("keys are changed and read", "echo 0 >edge/keys; docker restart -t 1 vicuna-edge-1", "unauthorised"),
    Mutation("keys are changed and not read", "echo 0 >edge/keys", SERVES),
    Mutation(
        "haproxy.cfg is changed and read",
        "sed -i 's/^frontend/fronted/' edge/haproxy.cfg; docker restart -t 1 vicuna-edge-1",
        "edge_down",
    ),
    Mutation(
        "models.json is changed and read", "echo '{}' >edge/models.json; docker restart -t 1 vicuna-edge-1", SERVES
    ),
    Mutation(
        "keys lose their mode",
        "chown root:root edge/keys; chmod 600 edge/keys; docker restart -t 1 vicuna-edge-1",
        "edge_down",
    ),
    Mutation(
        "keys are changed and read, and the api-server hangs, nobody watches",
        "echo 0 >edge/keys; docker restart -t 1 vicuna-edge-1; hang api-server",
        "unauthorised",
        # The run starts the watcher again: which of the two restarts the api-server first is open.
        watcher=False,
    ),
    # Files of the project.
    Mutation(
        ".env is changed and read",
        "sed -i 's/^MODEL_NAMES=.*/MODEL_NAMES=other/' .env; docker compose up -d",
        "name_mismatch|no_worker|loading",
    ),
    Mutation(
        "compose.yaml is changed and read",
        "sed -i 's/--device=cpu/--device=cuda/' compose.yaml; docker compose up -d",
        "torch_without_cuda",
        limit=25,
    ),
    Mutation("the project's folder is removed", "cd /; rm -rf /opt/vicuna", SERVES),
    # The model.
    Mutation(
        "a weight file is cut short",
        f"truncate -s 1M {MODEL}/model.safetensors; docker restart -t 1 vicuna-model-worker-1",
        "damaged_model",
        limit=20,
    ),
    Mutation(
        "a weight file is altered",
        f"printf X | dd of={MODEL}/model.safetensors bs=1 seek=5000000 conv=notrunc status=none;"
        " docker restart -t 1 vicuna-model-worker-1",
        SERVES,
    ),
    Mutation(
        "a weight file is altered, its time put back",
        f"touch -r {MODEL}/model.safetensors /root/time;"
        f" printf X | dd of={MODEL}/model.safetensors bs=1 seek=5000000 conv=notrunc status=none;"
        f" touch -r /root/time {MODEL}/model.safetensors; docker restart -t 1 vicuna-model-worker-1",
        SERVES,
        # What a disk does shows to who reads every byte.
        first="playbooks/verify_model.yml",
    ),
    Mutation(
        "a text file of the model is edited",
        f"cp -p {MODEL}/config.json /root/; sed -i 's/{{/{{ /' {MODEL}/config.json",
        SERVES,
        REFUSED,
        said="were changed on this host: config.json",
        undo=f"cp -p /root/config.json {MODEL}/config.json",
    ),
    Mutation("the model is removed", f"rm -rf {MODEL} /model/vicuna-tiny", SERVES),
    # The record.
    Mutation("release.json is cut short", "truncate -s 100 /var/lib/vicuna/release.json", SERVES),
    Mutation("release.json is empty", "truncate -s 0 /var/lib/vicuna/release.json", SERVES),
    # The watcher.
    Mutation("the watcher is stopped and disabled", "systemctl disable --now vicuna-watch.service", SERVES),
    Mutation(
        "the watcher's script is changed",
        "sed -i '2i # mine' vicuna-watch; systemctl restart vicuna-watch.service",
        SERVES,
    ),
    # The engine.
    Mutation("the engine is stopped", "systemctl stop docker.service docker.socket", "engine_down"),
    Mutation(
        "daemon.json is broken",
        "cp -p /etc/docker/daemon.json /root/; echo '{' >/etc/docker/daemon.json;"
        " systemctl stop docker.socket docker.service",
        "engine_down",
        REFUSED,
        said="/etc/docker/daemon.json",
        undo="cp -p /root/daemon.json /etc/docker/daemon.json; systemctl start docker.service",
    ),
    Mutation(
        "an image is removed", "docker rmi -f $(docker inspect --format '{{.Config.Image}}' vicuna-edge-1)", SERVES
    ),
    Mutation(
        "an image is removed, and its container",
        "id=$(docker inspect --format '{{.Image}}' vicuna-edge-1); docker rm -f vicuna-edge-1; docker rmi -f $id",
        "edge_down",
    ),
    # What is another's.
    Mutation(
        "another service takes the port",
        "docker stop -t 1 vicuna-edge-1; systemd-run --unit=other python3 -m http.server 8000; sleep 1;"
        " docker start vicuna-edge-1 || true",
        "port_taken",
        REFUSED,
        said="port 8000",
        undo="systemctl stop other; docker start vicuna-edge-1",
    ),
    Mutation(
        "the project's disk is full",
        "mount -t tmpfs -o size=16k tmpfs /opt/vicuna",
        SERVES,
        REFUSED,
        said="No space left",
        untouched=False,
        undo="cd /; umount /opt/vicuna",
    ),
]


def unfolded(output: str) -> str:
    """Ansible folds long lines."""
    return " ".join(output.split())


def cause_of(output: str) -> tuple[str, str]:
    """The code and the words of the diagnosis that verify.yml prints."""
    code = re.search(r"^\s+code: (\S+)$", output, re.MULTILINE)
    words = re.search(r"Cause: (.*)", output)
    return (code[1] if code else ""), (words[1] if words else "")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[each.name for each in MUTATIONS])
def test_a_broken_host_comes_back(
    mutation: Mutation, endpoint: Endpoint, sound: dict[str, Any], figures: scenario.Figures
) -> None:
    whole(endpoint, sound)
    entry: dict[str, Any] = {"end": "not yet"}
    figures.keep(mutation.name, entry)
    if not mutation.watcher:
        scenario.on(HOST, "systemctl kill --signal=STOP vicuna-watch.service")
    began = time.monotonic()
    scenario.on(HOST, PRELUDE + mutation.script)
    try:
        if mutation.end == ITSELF:
            by_itself(mutation, endpoint, entry, began)
            assert look()["stale"] == []
            return
        asked(mutation, endpoint, entry)
        before = None if mutation.end == SITE else look()
        started = time.monotonic()
        if mutation.first:
            done = scenario.run(mutation.first)
            assert done.returncode == 0, done.stdout[-3000:]
        site = scenario.run("site.yml")
        seconds = round(time.monotonic() - started, 1)
        assert mutation.said in unfolded(site.stdout), site.stdout[-2500:]
        if mutation.end == REFUSED:
            assert site.returncode != 0
            assert look() == before or not mutation.untouched
            entry["end"] = REFUSED
        else:
            assert site.returncode == 0, site.stdout[-2500:]
            entry["by_site_s"] = seconds
            assert endpoint.answers() == ""
            found = look()
            assert found["stale"] == []
            assert found == sound
            entry["end"] = SITE
    finally:
        if not mutation.watcher:
            scenario.on(HOST, "systemctl kill --signal=CONT vicuna-watch.service")
        if mutation.undo:
            scenario.on(HOST, PRELUDE + mutation.undo)
        figures.write()


def by_itself(mutation: Mutation, endpoint: Endpoint, entry: dict[str, Any], began: float) -> None:
    """The cause is asked for while the host is on its way back."""
    command, env = scenario.playbook("playbooks/verify.yml", verify_timeout=14, verify_request_timeout=6)
    asking = (
        subprocess.Popen(command, cwd=scenario.ROOT, env=env, stdout=subprocess.PIPE, text=True)
        if mutation.cause
        else None
    )
    endpoint.wait_for_answer(BOUND)
    entry |= {"by_itself_s": round(time.monotonic() - began, 1), "end": ITSELF}
    if asking:
        judged(mutation, entry, asking.communicate(timeout=60)[0])


def asked(mutation: Mutation, endpoint: Endpoint, entry: dict[str, Any]) -> None:
    if mutation.cause == SERVES:
        entry["cause"] = SERVES
        endpoint.wait_for_answer(30)
        return
    done = scenario.run("playbooks/verify.yml", verify_timeout=mutation.limit, verify_request_timeout=6)
    judged(mutation, entry, done.stdout)


def judged(mutation: Mutation, entry: dict[str, Any], output: str) -> None:
    code, words = cause_of(output)
    entry |= {"cause": code, "said": words}
    assert code in mutation.cause.split("|"), output[-3000:]
    assert mutation.words in words, output[-3000:]


def whole(endpoint: Endpoint, sound: dict[str, Any]) -> None:
    """The host as it was deployed, also after a test that has failed."""
    if endpoint.answers() or look() != sound:
        scenario.run("site.yml")
        endpoint.wait_for_answer(60)


def test_check_mode_tells_a_repair_and_a_person_may_forbid_it(endpoint: Endpoint, sound: dict[str, Any]) -> None:
    whole(endpoint, sound)
    scenario.on(HOST, "docker pause vicuna-model-worker-1")
    before = look(), scenario.containers(HOST)
    told = scenario.run("site.yml", "--check", verify_request_timeout=5)
    assert "check mode: not done" in unfolded(told.stdout), told.stdout[-3000:]
    assert "model-worker started again" in unfolded(told.stdout)
    left = scenario.run("site.yml", fastchat_repair=False, verify_timeout=12, verify_request_timeout=5)
    assert left.returncode == 2, left.stdout[-3000:]
    assert "Cause: the container model-worker is paused" in left.stdout
    assert (look(), scenario.containers(HOST)) == before
    scenario.on(HOST, "docker unpause vicuna-model-worker-1")
    endpoint.wait_for_answer(30)


def test_a_converged_host_is_left_alone() -> None:
    """After all of it, nothing is left to do."""
    done = scenario.run("site.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    assert scenario.recap(done.stdout)[HOST]["changed"] == 0
