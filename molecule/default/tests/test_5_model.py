"""The model's clone against the hub: what goes wrong has a message of its own, and what was cut off goes on."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import INVENTORY, ROOT

HOST = "debian-13"
REVISION = "f39a3a1b9a180bec801710ca5d55f2d05597779c"
DEST = "/var/tmp/models/vicuna-tiny"
PUBLIC = "http://hub/lmsys/vicuna-tiny"
GATED = "http://hub/gated/vicuna-tiny"
TOKEN = "hub-sandbox-token"


def on_host(script: str) -> str:
    command = ["docker", "exec", f"vicuna-sandbox-{HOST}", "bash", "-ec", script]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


def clone(**parameters: Any) -> dict[str, Any]:
    """Run the module on the host; return what it returned."""
    arguments = {"repo": PUBLIC, "revision": REVISION, "dest": DEST} | parameters
    env = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    with tempfile.TemporaryDirectory() as tree:
        command = ["ansible", HOST, "-i", str(INVENTORY), "--become", "--tree", tree]
        command += ["-m", "vicuna.fleet.git_lfs", "-a", json.dumps(arguments)]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert TOKEN not in done.stdout + done.stderr
        result: dict[str, Any] = json.loads((Path(tree) / HOST).read_text())
        result["failed"] = done.returncode != 0
    return result


@pytest.fixture(autouse=True)
def empty_folder() -> Iterator[None]:
    on_host("rm -rf /var/tmp/models && mkdir -p /var/tmp/models")
    yield
    on_host("rm -rf /var/tmp/models")


@pytest.mark.parametrize(("parameters", "said"), [
    ({"repo": "http://hub/lmsys/nothing"}, "no git repository at http://hub/lmsys/nothing"),
    ({"repo": "http://nowhere.invalid/x/y"}, "cannot resolve nowhere.invalid"),
    ({"repo": "http://hub:9/x/y"}, "nothing answers at hub:9"),
    ({"revision": "0" * 40}, "has no revision"),
    ({"revision": "no-such-branch"}, "has no revision 'no-such-branch'"),
    ({"repo": GATED}, "asks for credentials and none were given"),
    ({"repo": GATED, "token": "wrong"}, "rejected the credentials"),
])  # fmt: skip
def test_each_mistake_has_its_own_message(parameters: dict[str, Any], said: str) -> None:
    result = clone(**parameters)
    assert result["failed"], result
    assert said in result["msg"]
    assert "Remedy: " in result["msg"]
    assert on_host("find /var/tmp/models -name '*.safetensors'") == ""


def test_a_gated_model_comes_with_its_token() -> None:
    assert clone(repo=GATED, token=TOKEN)["changed"] is True
    assert TOKEN not in on_host(f"grep -r . {DEST}/.git/config")


def test_a_full_disk_is_named_before_the_fetch() -> None:
    on_host("mount -t tmpfs -o size=4m tmpfs /var/tmp/models")
    try:
        result = clone()
        assert result["failed"], result
        assert "Remedy: " in result["msg"]
        assert "model_root" in result["msg"]
    finally:
        on_host("umount /var/tmp/models")


def test_a_half_finished_clone_goes_on() -> None:
    """What a killed run leaves: an initialised repository, a lock, a part of an object."""
    on_host(
        f"git init -q {DEST} && git -C {DEST} remote add origin {PUBLIC} && touch {DEST}/.git/index.lock"
        f" && mkdir -p {DEST}/.git/lfs/tmp && head -c 1000 /dev/urandom > {DEST}/.git/lfs/tmp/part"
    )
    assert clone()["changed"] is True
    assert clone()["changed"] is False
    assert on_host(f"ls -A {DEST}/.git/lfs/tmp 2>/dev/null || true") == ""


def test_a_damaged_weight_is_found_and_mended() -> None:
    clone()
    sound = on_host(f"sha256sum < {DEST}/model.safetensors")
    on_host(f"printf X | dd of={DEST}/model.safetensors bs=1 seek=5000 conv=notrunc status=none")
    altered = on_host(f"sha256sum < {DEST}/model.safetensors")
    assert altered != sound
    mended = clone()
    assert (mended["changed"], mended["repaired"]) == (True, ["model.safetensors"]), mended
    # It may be somebody's work.
    assert [on_host(f"sha256sum < {path}") for path in mended["kept"]] == [altered]
    assert on_host(f"sha256sum < {DEST}/model.safetensors") == sound
    # What a disk does leaves no other time.
    on_host(
        f"cd {DEST} && touch -r model.safetensors /var/tmp/models/time"
        " && printf X | dd of=model.safetensors bs=1 seek=5000 conv=notrunc status=none"
        " && touch -r /var/tmp/models/time model.safetensors"
    )
    assert clone()["changed"] is False
    assert clone(verify="full")["repaired"] == ["model.safetensors"]
    assert on_host(f"sha256sum < {DEST}/model.safetensors") == sound


def test_no_pointer_is_left() -> None:
    clone()
    assert on_host(f"grep -rlE '^version https://git-lfs' --exclude-dir=.git {DEST} || true") == ""


def test_the_hub_serves_ranges_as_a_model_hub_does() -> None:
    """The hub stands in for a real one: what the fetch relies on has to be there."""
    clone()
    pointer = dict(line.split(" ", 1) for line in on_host(
        f"git -c safe.directory='*' -C {DEST} show HEAD:model.safetensors"
    ).splitlines())  # fmt: skip
    wanted = {"oid": pointer["oid"].removeprefix("sha256:"), "size": int(pointer["size"])}
    batch = json.dumps({"operation": "download", "transfers": ["basic"], "objects": [wanted]})
    answer = json.loads(on_host(
        f"curl -s {PUBLIC}.git/info/lfs/objects/batch -H 'Content-Type: application/vnd.git-lfs+json'"
        f" -H 'Accept: application/vnd.git-lfs+json' -d '{batch}'"
    ))  # fmt: skip
    download = answer["objects"][0]["actions"]["download"]
    headers = " ".join(f"-H '{name}: {value}'" for name, value in download.get("header", {}).items())
    status = on_host(f"curl -s -o /var/tmp/models/part -w '%{{http_code}}' -r 0-99 {headers} '{download['href']}'")
    assert (status, on_host("stat -c %s /var/tmp/models/part")) == ("206", "100")
