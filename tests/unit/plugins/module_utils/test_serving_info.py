# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _release as releases
from ansible_collections.vicuna.fleet.plugins.module_utils import _serving_info as info
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_pointer import stamp

COMMIT, OTHER = "3321f76e3f527bd14065daf69dad9344000a201d", "e7a9cc9a1b527bd14065daf69dad9344000a201d"
IDS = {target: f"sha256:{digit * 64}" for target, digit in (("edge", "e"), ("api", "a"), ("worker", "b"))}
ONE, TWO = "0" * 12, "1" * 12
EARLY, LATE = "2026-11-21T10:00:00Z", "2026-11-22T10:00:00Z"


def record(**releases_by_id: dict[str, Any]) -> dict[str, Any]:
    """A record with the releases ONE and TWO; ONE runs."""
    entries = {
        ONE: {
            "id": ONE,
            "created": EARLY,
            "verified": EARLY,
            "failed": None,
            "model": {"path": "/model/vicuna", "commit": COMMIT, "names": ["vicuna"]},
            "images": {"edge": "edge:1", "api": "api:1", "worker": "worker:1"},
            "image_ids": IDS,
            "tokens_per_second": 39.9,
        }
    }
    found = {"schema": 1, "current": ONE, "pending": None, "good": [ONE], "releases": entries}
    return {**found, **releases_by_id}


def container(service: str, **changes: Any) -> info.Container:
    usual: dict[str, Any] = {
        "id": "c0ffee",
        "state": "running",
        "health": "healthy",
        "image": "",
        "image_id": "",
        "started": "",
        "uptime_s": 5,
        "restarts": 0,
        "revision": "",
        "wants_gpu": False,
    }
    return info.Container(service=service, **{**usual, **changes})


ALL = [container(service) for service in info.SERVICES]


def test_the_release_that_runs() -> None:
    assert info.release_of(record()) == {
        "id": ONE,
        "pending": False,
        "created": EARLY,
        "verified": EARLY,
        "tokens_per_second": 39.9,
        "commit": COMMIT,
        "model_path": "/model/vicuna",
        "model_names": ["vicuna"],
        "images": {"edge": "edge:1", "api": "api:1", "worker": "worker:1"},
        "image_ids": IDS,
        "failed": None,
    }


def test_a_pending_release_is_the_one_in_place() -> None:
    found = record(pending=TWO)
    found["releases"][TWO] = {"id": TWO, "created": LATE}
    release = info.release_of(found)
    assert release is not None
    assert (release["id"], release["pending"], release["verified"], release["commit"]) == (TWO, True, None, "")


def test_an_empty_record() -> None:
    assert info.release_of(releases.empty()) is None


@pytest.mark.parametrize(
    ("verified", "failed", "pending", "settled"),
    [(EARLY, LATE, None, False), (LATE, EARLY, None, True), (LATE, EARLY, TWO, False), (LATE, LATE, None, True)],
)
def test_a_failure_is_settled_by_a_later_answer(verified: str, failed: str, pending: str | None, settled: bool) -> None:
    found = record(pending=pending)
    found["releases"][ONE]["verified"] = verified
    found["releases"][TWO] = {"id": TWO, "failed": failed, "reason": "slow"}
    assert info.last_failure(found) == {"id": TWO, "at": failed, "reason": "slow", "settled": settled}


INSPECTED: dict[str, Any] = {
    "Id": "9f" * 32,
    "Image": IDS["worker"],
    "RestartCount": 2,
    "State": {
        "Status": "running",
        "Pid": 4242,
        "StartedAt": "2026-11-22T10:00:00.123456789Z",
        "Health": {"Status": "healthy"},
    },
    "Config": {
        "Image": "worker:1",
        "Labels": {"com.docker.compose.service": "model-worker-2", "vicuna.model.revision": COMMIT},
    },
    "HostConfig": {"DeviceRequests": [{"Driver": "cdi"}]},
}


def test_containers() -> None:
    plain = {"Config": {"Labels": {"com.docker.compose.service": "controller"}}, "State": {"Status": "exited"}}
    first, second = info.containers([INSPECTED, plain, "rubbish"], 1795341610.0)
    assert (first.service, first.state, first.uptime_s, first.health, first.target) == (
        "controller",
        "exited",
        None,
        "",
        "api",
    )
    assert vars(second) == {
        "service": "model-worker-2",
        "id": "9f" * 6,
        "state": "running",
        "health": "healthy",
        "image": "worker:1",
        "image_id": IDS["worker"],
        "started": "2026-11-22T10:00:00Z",
        "uptime_s": 10,
        "restarts": 2,
        "revision": COMMIT,
        "wants_gpu": True,
        "pid": 4242,
    }
    assert (second.of_worker, second.target) == (True, "worker")


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (ALL, []),
        (ALL[:3], ["edge has no container"]),
        ([], [f"{service} has no container" for service in info.SERVICES]),
        ([*ALL[:3], container("edge", state="restarting")], ["edge is restarting"]),
        ([*ALL[:3], container("edge", health="unhealthy")], ["edge is unhealthy"]),
        ([*ALL[:3], container("edge", health="starting")], []),
        ([*ALL, container("model-worker-2", state="exited")], ["model-worker-2 is exited"]),
    ],
)
def test_unwell(found: list[info.Container], lines: list[str]) -> None:
    assert info.unwell(found) == lines


@pytest.mark.parametrize(
    ("one", "ids", "lines"),
    [
        (container("edge", image_id=IDS["edge"]), IDS, []),
        (container("controller", image_id=IDS["api"]), IDS, []),
        (container("model-worker-2", image_id=IDS["worker"]), IDS, []),
        (container("edge", image_id=IDS["api"]), IDS, ["edge runs image aaaaaaaaaaaa, not eeeeeeeeeeee"]),
        (container("edge", image="edge:1", image_id=IDS["api"]), {}, []),
        (container("edge", image="edge:2"), {}, ["edge runs image edge:2, not edge:1"]),
    ],
)
def test_image_drift(one: info.Container, ids: dict[str, str], lines: list[str]) -> None:
    assert info.image_drift([one], {"image_ids": ids, "images": {"edge": "edge:1"}}) == lines


def test_image_drift_without_images() -> None:
    assert info.image_drift(ALL, {"image_ids": {}, "images": {}}) is None


@pytest.fixture
def deployed(tmp_path: Path) -> tuple[dict[str, Any], releases.Snapshots, Path]:
    """A release with two files of the project and one outside of it, in place and copied."""
    project, copies = tmp_path / "project", releases.Snapshots(tmp_path / "releases")
    outside = tmp_path / "outside"
    owner, group = str(os.geteuid()), str(os.getegid())
    files = [
        releases.File("compose.yaml", b"services: {}\n", 0o644, owner, group),
        releases.File("edge/keys", b"hash\n", 0o640, owner, group, secret=True),
        releases.File(str(outside), b"unit\n", 0o755, owner, group),
    ]
    copies.save(ONE, files)
    for file in files:
        path = releases.place(file.path, project)
        path.parent.mkdir(parents=True, exist_ok=True)
        releases.put(path, file.content, file.mode)
    return record(), copies, project


def test_no_file_drift(deployed: tuple[dict[str, Any], releases.Snapshots, Path]) -> None:
    found, copies, project = deployed
    assert info.file_drift(found, ONE, copies, project) == ([], "")


def test_file_drift(deployed: tuple[dict[str, Any], releases.Snapshots, Path], tmp_path: Path) -> None:
    found, copies, project = deployed
    (project / "compose.yaml").write_text("by hand\n")
    (project / "edge" / "keys").write_text("other\n")
    (project / "edge" / "keys").chmod(0o644)
    (tmp_path / "outside").unlink()
    assert info.file_drift(found, ONE, copies, project) == (
        ["compose.yaml: content", "edge/keys: content, mode", f"{tmp_path / 'outside'} is absent"],
        "",
    )


def test_a_credential_of_another_kept_release_is_no_drift(
    deployed: tuple[dict[str, Any], releases.Snapshots, Path],
) -> None:
    """A rollback leaves the keys as they are."""
    found, copies, project = deployed
    keys = releases.File("edge/keys", b"newer\n", 0o640, secret=True)
    copies.save(TWO, [keys])
    (project / "edge" / "keys").write_bytes(keys.content)
    assert info.file_drift(found, ONE, copies, project)[0] == ["edge/keys: content"]
    found["releases"][TWO] = {"id": TWO}
    assert info.file_drift(found, ONE, copies, project) == ([], "")


def test_file_drift_that_cannot_be_told(deployed: tuple[dict[str, Any], releases.Snapshots, Path]) -> None:
    found, copies, project = deployed
    lines, wrong = info.file_drift(found, TWO, copies, project)
    assert lines is None
    assert "damaged" in wrong
    (copies.directory(ONE) / "project" / "compose.yaml").write_text("rot")
    lines, wrong = info.file_drift(found, ONE, copies, project)
    assert lines is None
    assert "compose.yaml" in wrong


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder as the module git_lfs leaves it, as far as its stamps go."""
    path = tmp_path / "vicuna"
    (path / ".git").mkdir(parents=True)
    files = {}
    for name in ("config.json", "model.safetensors"):
        (path / name).write_text("content")
        files[name] = {"oid": "0" * 64, "stamp": stamp((path / name).lstat())}
    state = {"version": 2, "commit": COMMIT, "files": files}
    (path / ".git" / "vicuna-fleet.json").write_text(json.dumps(state))
    return path


def test_model_state(model: Path) -> None:
    assert info.model_state(model) == (
        {"path": str(model), "commit": COMMIT, "files": 2, "changed": []},
        "",
    )
    (model / "config.json").write_text("longer content")
    (model / "model.safetensors").unlink()
    found, _wrong = info.model_state(model)
    assert found is not None
    assert found["changed"] == ["config.json is not the file that was verified", "model.safetensors is gone"]


@pytest.mark.parametrize("content", ["", "[]", '{"files": 1}', "{}"])
def test_model_state_that_is_damaged(model: Path, content: str) -> None:
    (model / ".git" / "vicuna-fleet.json").write_text(content)
    found, wrong = info.model_state(model)
    assert found is None
    assert "is damaged" in wrong


def test_no_model(tmp_path: Path) -> None:
    found, wrong = info.model_state(tmp_path)
    assert found is None
    assert wrong.endswith("cannot be read: No such file or directory")


MODEL = {"path": "/model/vicuna", "commit": COMMIT, "changed": []}


@pytest.mark.parametrize(
    ("found", "on_disk", "lines"),
    [
        ([], None, None),
        ([], MODEL, []),
        ([container("model-worker", revision=COMMIT)], MODEL, []),
        ([], {**MODEL, "commit": OTHER}, ["/model/vicuna is at e7a9cc9a1b52, not 3321f76e3f52"]),
        ([], {**MODEL, "changed": ["a is gone"]}, ["a is gone"]),
        ([container("model-worker", revision=OTHER)], None,
         ["model-worker was started with the model at e7a9cc9a1b52, not 3321f76e3f52"]),
        ([container("edge", revision=OTHER)], MODEL, []),
    ],
)  # fmt: skip
def test_model_drift(found: list[info.Container], on_disk: Any, lines: Any) -> None:
    assert info.model_drift(found, on_disk, {"commit": COMMIT}) == lines


@pytest.mark.parametrize(
    ("out", "queues", "silent"),
    [
        ('{"model-worker": 3}', {"model-worker": 3}, []),
        ('{"a": 0, "b": "OSError: x"}', {"a": 0}, ["b: OSError: x"]),
        ('{"a": true}', {}, ["a: True"]),
        ("", {}, ["the api-server's container gave no answer that can be read"]),
        ("[1]", {}, ["the api-server's container gave no answer that can be read"]),
    ],
)
def test_queues(out: str, queues: dict[str, int], silent: list[str]) -> None:
    assert info.parse_queues(out) == (queues, silent)


def test_the_program_that_asks_the_workers(closed_port: int) -> None:
    """It runs as it is, against a name that nobody has."""
    program = info.QUEUE_PROGRAM.replace("21002", str(closed_port))
    done = info_run(program, "127.0.0.1")
    queues, silent = info.parse_queues(done)
    assert queues == {}
    assert "refused" in silent[0]


def test_the_program_reads_the_queue(serve: Any) -> None:
    endpoint = serve((200, '{"model_names": ["vicuna"], "speed": 1, "queue_length": 4}'))
    program = info.QUEUE_PROGRAM.replace("21002", str(endpoint.port))
    assert info.parse_queues(info_run(program, "127.0.0.1")) == ({"127.0.0.1": 4}, [])
    assert [request["path"] for request in endpoint.requests] == ["/worker_get_status"]


def info_run(program: str, *names: str) -> str:
    import subprocess

    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("on_bus", "gpus", "error", "wanted", "trouble"),
    [
        (0, 0, "the kernel module nvidia is not loaded", False, ""),
        (0, 0, "the kernel module nvidia is not loaded", None, ""),
        (2, 2, "", True, ""),
        (1, 0, "it hangs", False, ""),
        (1, 0, "it hangs", None, "1 GPU on the bus, and the driver does not answer: it hangs"),
        (2, 1, "", True, "2 GPUs on the bus, and the driver lists 1"),
        (0, 0, "no", True, "the worker wants a GPU, and the host has none"),
        (1, 1, "GPU 0 is lost", True, "GPU 0 is lost"),
    ],
)
def test_gpu_trouble(on_bus: int, gpus: int, error: str, wanted: bool | None, trouble: str) -> None:
    assert info.gpu_trouble(on_bus, [None] * gpus, error, wanted) == trouble


@pytest.mark.parametrize(("values", "sum_"), [([], None), ([1, None], None), ([1, 2], 3)])
def test_total(values: list[int | None], sum_: int | None) -> None:
    assert info.total(values) == sum_
