"""A release that does not serve stops at the canary, which is put back by itself. The others are not touched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from scenario import SERVING, containers, on, release, revision, run

# How long the canary may take until its first answer: the tiny model takes 10 s.
VERIFY_TIMEOUT = 25
HUB = "vicuna-sandbox-hub"

pytestmark = pytest.mark.usefixtures("calm")

# Run in the hub, beside its own publisher: one more commit, whose weights are cut in the middle. Its pointer is true to
# them, so that the fetch is sound and only the model is broken.
TRUNCATED = """
import sys
sys.path.insert(0, "/opt/hub")
from pathlib import Path
import publish

repository = publish.GIT_ROOT / "lmsys/vicuna-tiny"
models = publish.make(0)
models["model.safetensors"] = models["model.safetensors"][: len(models["model.safetensors"]) // 2]
files = {".gitattributes": publish.ATTRIBUTES, "README.md": publish.README, **models}
lines = []
for path, content in sorted(files.items()):
    pointer = publish.stored("lmsys/vicuna-tiny", path, content)
    blob = publish.git(repository, "hash-object", "-w", "--stdin", content=pointer)
    lines.append(f"100644 blob {blob}{chr(9)}{path}{chr(10)}")
tree = publish.git(repository, "mktree", content="".join(lines).encode())
commit = publish.git(repository, "commit-tree", tree, "-m", "Cut the weights", date=1700007200)
publish.git(repository, "update-ref", "refs/heads/truncated", commit)
print(commit)
"""


def broken_image() -> dict[str, Any]:
    """The worker's image with a program that ends at once, in the hub's registry."""
    images = {
        target: on(
            SERVING[0],
            f"docker images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep fastchat-{target}: | head -n 1",
        )
        for target in ("edge", "api", "worker")
    }
    on(
        SERVING[0],
        f"echo 'FROM {images['worker']}\nENTRYPOINT [\"false\"]' | docker build -q -t hub:5000/test/broken:1 -",
        120,
    )
    on(SERVING[0], "docker push -q hub:5000/test/broken:1", 120)
    digests = {
        target: on(SERVING[0], f"docker inspect --format '{{{{index .RepoDigests 0}}}}' {image}")
        for target, image in (images | {"worker": "hub:5000/test/broken:1"}).items()
    }
    return {"fastchat_image_source": "pull", "fastchat_images": digests}


def wrong_name() -> dict[str, Any]:
    """The worker tells the controller another name than clients ask for; of an argument given twice the last counts."""
    return {"fastchat_worker_args": ["--model-names=llama"]}


def truncated_weights() -> dict[str, Any]:
    # As the user to whom the repositories belong.
    command = ["docker", "exec", "-i", "--user", "www-data", HUB, "python3", "-B", "-"]
    done = subprocess.run(command, input=TRUNCATED, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {"vicuna_model_revision": done.stdout.strip()}


FAST = pytest.param(wrong_name, marks=[pytest.mark.fast, pytest.mark.thorough])


@pytest.mark.parametrize("broken", [broken_image, FAST, truncated_weights])
def test_a_broken_release_stops_at_the_canary(traffic: Any, broken: Callable[[], dict[str, Any]]) -> None:
    served = revision(SERVING[0])
    variables = {"vicuna_model_revision": served} | broken()
    before = {host: (containers(host), release(host)) for host in SERVING}
    with traffic.watch(f"canary: {broken.__name__}") as watch:
        done = run("playbooks/rollout.yml", verify_timeout=VERIFY_TIMEOUT, **variables)
        watch.extra["rollout_s"] = round(watch.passed(), 1)
        watch.extra["exit_code"] = done.returncode
    assert done.returncode == 2, done.stdout[-4000:]
    after = {host: (containers(host), release(host)) for host in SERVING}
    touched = [host for host in SERVING if before[host][0] != after[host][0]]
    assert touched == SERVING[:1], "only the canary"
    record, earlier = after[SERVING[0]][1], before[SERVING[0]][1]
    assert record["current"] == earlier["current"], "put back to the last good release"
    assert record["pending"] is None
    assert any(each["failed"] for each in record["releases"].values()), "the record names the one that failed"
    assert {revision(host) for host in SERVING} == {served}
    assert watch.figures["failed"] == 0, watch.figures
