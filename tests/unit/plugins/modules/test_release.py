# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module on a directory of its own, with a fake docker that answers from files."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.module_utils import _release
from ansible_collections.vicuna.fleet.plugins.modules import release

KEY = "sk-thekeythatnobodysees"
IMAGES = {"api": "vicuna/api:1", "worker": "vicuna/worker:1"}

# images/NAME holds an id; hashes and ps are what compose and docker print. Every call is noted.
FAKE_DOCKER = """#!/bin/sh
echo "$*" >>"{0}/calls"
test -e "{0}/off" && {{ echo "Cannot connect to the Docker daemon" >&2; exit 1; }}
case "$1" in
  image)
    shift 4; rc=0
    for name; do cat "{0}/images/$(echo "$name" | tr / _)" 2>/dev/null || rc=1; done
    exit $rc ;;
  compose) cat "{0}/hashes" ;;
  ps) cat "{0}/ps" ;;
  inspect) shift 5; for id; do test -e "{0}/pids/$id" && echo "$id $(cat "{0}/pids/$id")"; done ;;
esac
"""


class Machine:
    """A host in tmp_path: project in opt, record in var, fake programs in bin."""

    def __init__(self, top: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.top, self.capsys = top, capsys
        self.processes: list[subprocess.Popen[bytes]] = []
        self.project, self.var, self.docker = top / "opt", top / "var", top / "docker"
        self.model = top / "model"
        for path in (top / "bin", self.docker / "images", self.docker / "pids", self.model):
            path.mkdir(parents=True)
        self.program("docker", FAKE_DOCKER.format(self.docker))
        self.calls_file = self.docker / "calls"
        for name in IMAGES.values():
            self.image(name, f"sha256:{name[-3:]}")
        (self.docker / "hashes").write_text("")
        (self.docker / "ps").write_text("")

    def program(self, name: str, text: str) -> None:
        path = self.top / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def image(self, name: str, identity: str | None) -> None:
        path = self.docker / "images" / name.replace("/", "_")
        if identity is None:
            path.unlink()
        else:
            path.write_text(identity + "\n")

    def runs(self, worker_state: str = "running") -> None:
        """Since now, and made of all that lies there by now."""
        (self.docker / "hashes").write_text("api 1\nworker 2\n")
        (self.docker / "ps").write_text(
            f"api\t1\tsha256:i:1\tFalse\trunning\tc1\nworker\t2\tsha256:r:1\tFalse\t{worker_state}\tc2\n"
        )
        for identity in ("c1", "c2"):
            self.started(identity)

    def started(self, identity: str, pid: int = 0) -> None:
        """A process of the container begins; without a pid it is one that begins in this moment."""
        # Process starts are told in hundredths of a second.
        time.sleep(0.02)
        (self.docker / "pids" / identity).write_text(f"{pid or self.process()}\n")

    def process(self) -> int:
        process = subprocess.Popen(["sleep", "300"])
        self.processes.append(process)
        return process.pid

    def files(self, compose: str = "one", key: str = KEY, more: list[dict[str, Any]] | None = None) -> list[Any]:
        own: dict[str, Any] = {"owner": str(os.getuid()), "group": str(os.getgid())}
        return [
            {"path": "compose.yaml", "content": compose, **own},
            {"path": ".env", "content": f"OF={compose}\n", "mode": "0600", **own},
            {"path": "edge/keys", "content": key, "mode": "0640", "secret": True, "read_by": ["api"], **own},
            {"path": str(self.top / "usr/chat"), "content": "chat", "mode": "0755", **own},
            *({**own, **file} for file in more or []),
        ]

    def run(self, state: str, **arguments: Any) -> dict[str, Any]:
        args = {
            "state": state,
            "directory": str(self.project),
            "state_dir": str(self.var),
            "_ansible_remote_tmp": str(self.top),
            **arguments,
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            release.main()
        out = self.capsys.readouterr().out
        assert KEY not in out
        answer: dict[str, Any] = json.loads(out)
        return answer

    def deploy(self, compose: str = "one", state: str = "deployed", **arguments: Any) -> dict[str, Any]:
        files = arguments.pop("files", None) or self.files(compose)
        model = {"path": str(self.model), "commit": "c1", "names": ["vicuna"], "read_by": ["worker"]}
        return self.run(state, **{"files": files, "images": IMAGES, "model": model, **arguments})

    def good(self, compose: str) -> str:
        name = str(self.deploy(compose)["id"])
        self.run("verified", tokens_per_second=12.5)
        return name

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.var / "release.json").read_text())
        return found

    def tree(self) -> dict[str, tuple[int, bytes]]:
        roots = (self.project, self.var, self.top / "usr")
        paths = [path for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
        return {str(path): (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) for path in paths}

    def compose(self) -> str:
        return (self.project / "compose.yaml").read_text()


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.get_bin_path",
        lambda _self, name, *_args, **_kwargs: str(path) if (path := tmp_path / "bin" / name).exists() else None,
    )
    monkeypatch.setattr(release, "SYSTEMD", tmp_path / "systemd")
    # No two releases are verified in one second.
    minutes = itertools.count()
    monkeypatch.setattr(release, "now", lambda: f"2026-11-22T{next(minutes):08}Z")
    host = Machine(tmp_path, capsys)
    yield host
    for process in host.processes:
        process.kill()
        process.wait()


def test_a_new_host(machine: Machine) -> None:
    result = machine.deploy()
    assert (result["changed"], result["pending"], result["current"], result["previous"]) == (True, True, "", "")
    assert machine.compose() == "one"
    modes = {path: mode for path, (mode, _content) in machine.tree().items()}
    assert modes[str(machine.project / ".env")] == 0o600
    assert modes[str(machine.project / "edge/keys")] == 0o640
    assert modes[str(machine.top / "usr/chat")] == 0o755
    assert modes[str(machine.var / "release.json")] == 0o600
    assert stat.S_IMODE((machine.project / "edge").stat().st_mode) == 0o755
    record = machine.record["releases"][result["id"]]
    assert record["images"] == IMAGES
    assert record["image_ids"] == {"api": "sha256:i:1", "worker": "sha256:r:1"}
    assert (record["model"]["commit"], record["verified"], record["tokens_per_second"]) == ("c1", None, None)
    assert KEY not in (machine.var / "release.json").read_text()


def test_the_second_run_changes_nothing_and_is_still_to_be_proven(machine: Machine) -> None:
    name = machine.deploy()["id"]
    before = machine.tree()
    result = machine.deploy()
    assert (result["changed"], result["changed_files"], result["pending"]) == (False, [], True)
    result = machine.run("verified", tokens_per_second=12.5)
    assert (result["changed"], result["current"], result["pending"]) == (True, name, False)
    assert not machine.run("verified")["changed"]
    result = machine.deploy()
    assert (result["changed"], result["pending"], result["tokens_per_second"]) == (False, False, 12.5)
    assert set(machine.tree()) == set(before)


@pytest.mark.parametrize("diff", [False, True])
def test_check_mode_and_a_plan_tell_the_truth_and_write_nothing(machine: Machine, diff: bool) -> None:
    for step in ("new", "converged", "other"):
        compose = "two" if step == "other" else "one"
        before = machine.tree()
        checked = machine.deploy(compose, _ansible_check_mode=True, _ansible_diff=diff)
        planned = machine.deploy(compose, "planned")
        assert machine.tree() == before
        done = machine.deploy(compose, _ansible_diff=diff)
        for key in ("changed", "changed_files", "id", "pending", "previous"):
            assert checked[key] == done[key], (step, key)
            assert key == "changed" or planned[key] == done[key], (step, key)
        assert checked.get("diff") == done.get("diff")
        assert planned["changed"] is False
        assert done["changed"] is (step != "converged")
        machine.run("verified")


def test_one_difference_each(machine: Machine) -> None:
    machine.good("one")
    path = machine.project / "compose.yaml"
    path.chmod(0o666)
    result = machine.deploy()
    assert (result["changed_files"], result["pending"]) == ([str(path)], True), "what was mended is proven again"
    machine.run("verified")
    (machine.project / "edge/keys").write_text("tampered")
    assert machine.deploy()["changed_files"] == [str(machine.project / "edge/keys")]
    (machine.project / "edge").chmod(0o777)
    assert machine.deploy()["changed_files"] == [str(machine.project / "edge")]
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert machine.deploy()["changed_files"] == [str(path)]
    assert not path.is_symlink()
    assert not machine.deploy()["changed"]


def test_a_directory_in_the_way_is_refused(machine: Machine) -> None:
    (machine.project / "compose.yaml").mkdir(parents=True)
    result = machine.deploy()
    assert result["failed"]
    assert "compose.yaml is a directory. Expected: a file" in result["msg"]
    assert not machine.var.exists()


def test_what_is_no_longer_wanted_goes_and_nothing_else(machine: Machine) -> None:
    (machine.project / "edge").mkdir(parents=True)
    (machine.project / "edge/mine").write_text("a user's own")
    more = [
        {"path": "edge/tls.pem", "content": "pem", "secret": True},
        {"path": f"{machine.top}/usr/x", "content": "x"},
    ]
    machine.deploy(files=machine.files(more=more))
    assert (machine.project / "edge/tls.pem").exists()
    machine.run("verified")
    result = machine.deploy(_ansible_diff=True)
    gone = [str(machine.project / "edge/tls.pem"), str(machine.top / "usr/x")]
    assert result["changed_files"] == gone
    assert "pem" not in [part["before"] for part in result["diff"]]
    assert not any(os.path.lexists(path) for path in gone)
    assert (machine.project / "edge/mine").exists()


def test_a_file_for_hosts_that_have_something(machine: Machine) -> None:
    more = [{"path": "unit", "content": "u", "only_with": str(machine.top / "systemd")}]
    machine.deploy(files=machine.files(more=more))
    assert not (machine.project / "unit").exists()
    (machine.top / "systemd").mkdir()
    assert machine.deploy(files=machine.files(more=more))["systemd"]
    assert (machine.project / "unit").exists()


def test_a_secret_is_in_no_output(machine: Machine) -> None:
    """`run` looks for the key in each answer; other files are shown."""
    result = machine.deploy(_ansible_diff=True, _ansible_verbosity=4)
    shown = {part["after_header"].split(" ")[0]: part["after"] for part in result["diff"]}
    assert shown[str(machine.project / "compose.yaml")] == "one"
    assert shown[str(machine.project / "edge/keys")] == "(secret)\n"
    assert {file["content"] for file in result["invocation"]["module_args"]["files"]} == {""}
    other = machine.deploy(files=machine.files(key="another"), _ansible_diff=True)
    assert [part["after"] for part in other["diff"]] == ["(secret)\n"]
    assert other["id"] == result["id"], "another key is no other release"


def test_another_image_under_the_same_name_is_to_be_proven(machine: Machine) -> None:
    machine.good("one")
    machine.image(IMAGES["api"], "sha256:rebuilt")
    result = machine.deploy()
    assert (result["changed"], result["changed_files"], result["pending"]) == (True, [], True)
    assert result["release"]["image_ids"]["api"] == "sha256:rebuilt"


# --- rollback


def test_there_and_back(machine: Machine) -> None:
    one, two = machine.good("one"), machine.good("two")
    planned = machine.run("planned")
    assert (planned["id"], planned["previous"], planned["would_change"]) == (one, one, True)
    assert machine.compose() == "two"
    machine.calls_file.unlink()
    result = machine.run("rolled_back")
    assert (result["changed"], result["id"], result["pending"], result["current"]) == (True, one, True, two)
    assert (machine.compose(), (machine.project / ".env").read_text()) == ("one", "OF=one\n")
    assert all(call.startswith("image inspect") for call in machine.calls_file.read_text().splitlines())
    machine.run("verified")
    assert (machine.record["current"], machine.record["good"]) == (one, [one, two])
    assert machine.record["releases"][two]["failed"] is None, "a good release that is left is still a good one"
    assert machine.run("rolled_back", id=two)["id"] == two


def test_a_disk_that_takes_nothing_is_named(machine: Machine) -> None:
    (machine.var / "releases").parent.mkdir(parents=True, exist_ok=True)
    (machine.var / "releases").write_text("no directory")
    result = machine.deploy("one")
    assert result["failed"]
    assert f"Expected: file systems of {machine.project} and {machine.var} that take it" in result["msg"]


def test_check_mode_of_a_rollback(machine: Machine) -> None:
    machine.good("one")
    machine.good("two")
    before = machine.tree()
    checked = machine.run("rolled_back", _ansible_check_mode=True, _ansible_diff=True)
    assert machine.tree() == before
    done = machine.run("rolled_back", _ansible_diff=True)
    assert [checked[key] for key in ("changed", "changed_files", "id", "diff")] == [
        done[key] for key in ("changed", "changed_files", "id", "diff")
    ]


def test_a_failed_canary_goes_back_to_what_ran(machine: Machine) -> None:
    one = machine.good("one")
    two = machine.deploy("two")["id"]
    assert machine.run("failed", reason="no answer")["changed"]
    assert not machine.run("failed", reason="no answer")["changed"]
    assert machine.run("rolled_back")["id"] == one
    assert machine.compose() == "one"
    machine.run("verified")
    record = machine.record
    assert (record["current"], record["pending"], record["good"]) == (one, None, [one])
    assert record["releases"][two]["reason"] == "no answer"
    assert machine.run("rolled_back")["failed"], "the failed one is no place to go"


def test_one_that_was_never_proven_is_noted_as_given_up(machine: Machine) -> None:
    machine.good("one")
    two = machine.deploy("two")["id"]
    machine.run("rolled_back")
    assert machine.record["releases"][two]["reason"] == "It was rolled back before it was verified."


def test_going_back_to_what_is_in_place_changes_nothing(machine: Machine) -> None:
    """A rolling update that failed before it touched the host."""
    machine.good("one")
    two = machine.good("two")
    machine.deploy("three", "planned")
    before = machine.tree()
    result = machine.run("rolled_back", id=two)
    assert (result["changed"], result["pending"], result["id"]) == (False, False, two)
    assert machine.tree() == before


def test_a_revoked_key_does_not_come_back(machine: Machine) -> None:
    one = machine.good("one")
    machine.deploy(files=machine.files("two", key="new keys"))
    machine.run("verified")
    (machine.project / "edge/keys").read_text()
    machine.run("rolled_back")
    assert machine.compose() == "one"
    assert (machine.project / "edge/keys").read_text() == "new keys"
    assert machine.run("query")["drift"] == []
    # What is gone is restored, though: the edge would not start without it.
    machine.run("verified")
    (machine.project / "edge/keys").unlink()
    machine.run("rolled_back", id=one)
    assert (machine.project / "edge/keys").read_text() == "new keys"


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda machine: machine.image(IMAGES["worker"], None), "lacks the image vicuna/worker:1."),
        (lambda machine: (machine.docker / "off").touch(), "the image vicuna/api:1, the image vicuna/worker:1"),
        (lambda machine: machine.model.rmdir(), "the model's directory"),
        (
            lambda machine: next(machine.var.glob(f"releases/{machine.record['good'][1]}/project/.env")).unlink(),
            "is damaged (.env)",
        ),
    ],
)
@pytest.mark.parametrize("state", ["rolled_back", "planned"])
def test_a_rollback_that_cannot_start_is_refused(
    machine: Machine, harm: Callable[[Machine], Any], named: str, state: str
) -> None:
    machine.good("one")
    machine.good("two")
    harm(machine)
    before = machine.tree()
    result = machine.run(state)
    assert result["failed"]
    assert named in result["msg"]
    assert "Nothing was changed" in result["msg"]
    assert machine.tree() == before


def test_a_rollback_to_a_damaged_copy_names_those_that_are_whole(machine: Machine) -> None:
    one = machine.good("one")
    two = machine.good("two")
    machine.good("three")
    (machine.var / f"releases/{two}/project/compose.yaml").write_text("cut")
    result = machine.run("planned")
    assert f"The copy of release {two} in" in result["msg"]
    assert f"Set fastchat_rollback_to to a good release whose copy is whole ({one})" in result["msg"]
    assert machine.run("planned", id=one)["id"] == one, "the remedy works"


# --- the record


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """ansible-core keeps warnings for the whole process: other tests may have used them up."""
    told: list[str] = []
    monkeypatch.setattr("ansible.module_utils.basic.AnsibleModule.warn", lambda _self, text, **_k: told.append(text))
    return told


def damage(text: bytes) -> Callable[[Machine], Any]:
    return lambda host: (host.var / "release.json").write_bytes(text)


def a_directory(host: Machine) -> None:
    (host.var / "release.json").unlink()
    (host.var / "release.json").mkdir()
    (host.var / "release.json/mine").write_text("a user's own")


DAMAGES: dict[str, Callable[[Machine], Any]] = {
    "empty": damage(b""),
    "cut short": lambda host: os.truncate(host.var / "release.json", 100),
    "no text": damage(b"\xff\xfe"),
    "another file": damage(b"<html></html>"),
    "another shape": damage(b'{"schema": 1}'),
    "a release that is none": damage(
        b'{"schema":1,"current":null,"pending":null,"good":[],"releases":{"aaaaaaaaaaaa":3}}'
    ),
    "a directory": a_directory,
    "gone": lambda host: (host.var / "release.json").unlink(),
}


@pytest.mark.parametrize("harm", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_kept_and_made_anew(
    machine: Machine, harm: Callable[[Machine], Any], warnings: list[str]
) -> None:
    """Of the copies of the releases. What is in place is proven again, and a rollback is possible still."""
    one, two = machine.good("one"), machine.good("two")
    machine.runs()
    known = machine.record
    harm(machine)
    path = machine.var / "release.json"
    before = machine.tree()
    lies = path.read_bytes() if path.is_file() else None
    # A look, and check mode: told, and nothing is written.
    query = machine.run("query")
    assert query["record"] == {**known, "pending": two}
    planned = machine.deploy("two", "planned")
    assert (planned["would_change"], planned["pending"], planned["repair"]) == (True, True, True)
    assert planned["previous"] == one
    assert machine.deploy("two", _ansible_check_mode=True)["changed"]
    assert machine.tree() == before
    assert len(set(warnings)) == 1
    assert f"Good: {two}, {one}; in place, and to be proven again: {two}." in warnings[0]
    # The run.
    result = machine.deploy("two")
    assert (result["changed"], result["changed_files"], result["pending"]) == (True, [], True)
    assert machine.record == {**known, "pending": two}
    kept = list(machine.var.glob("release.json.bad-*"))
    if lies is None:
        assert [(each / "mine").read_text() for each in kept] == (["a user's own"] if kept else [])
    else:
        assert [each.read_bytes() for each in kept] == [lies]
        assert stat.S_IMODE(kept[0].stat().st_mode) == 0o600
    if kept:
        assert str(kept[0]) in warnings[0]
    machine.run("verified", tokens_per_second=12.5)
    assert machine.record["good"] == [two, one]
    warnings.clear()
    assert machine.run("rolled_back")["id"] == one
    assert (machine.compose(), warnings) == ("one", [])


@pytest.mark.parametrize("state", ["verified", "failed", "rolled_back"])
def test_a_damaged_record_alone(machine: Machine, state: str, warnings: list[str]) -> None:
    one, two = machine.good("one"), machine.good("two")
    damage(b"{")(machine)
    assert machine.run(state, reason="no answer")["changed"]
    assert warnings
    record = machine.record
    expected = {"verified": (two, None), "failed": (two, two), "rolled_back": (two, one)}
    assert (record["current"], record["pending"]) == expected[state]
    assert [each.read_bytes() for each in machine.var.glob("release.json.bad-*")] == [b"{"]


def test_each_damaged_record_is_kept(machine: Machine) -> None:
    machine.good("one")
    for text in (b"first", b"second", b"first"):
        damage(text)(machine)
        machine.good("one")
    assert sorted(each.read_bytes() for each in machine.var.glob("release.json.bad-*")) == [b"first", b"second"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda copy: (copy / "manifest.json").unlink(),
        lambda copy: (copy / "manifest.json").write_text("{"),
        lambda copy: (copy / "manifest.json").write_text('{"files": [{"path": "../x"}], "release": {}}'),
        lambda copy: (copy / "project/.env").write_text("edited"),
        lambda copy: (copy / "project/.env").unlink(),
    ],
)
def test_a_copy_that_is_damaged_as_well_tells_nothing(
    machine: Machine, harm: Callable[[Path], Any], warnings: list[str]
) -> None:
    one, two = machine.good("one"), machine.good("two")
    harm(machine.var / "releases" / two)
    damage(b"")(machine)
    result = machine.deploy("two")
    assert "in place, and to be proven again: none of them" in warnings[0]
    assert (result["pending"], result["current"], result["previous"]) == (True, one, one)
    machine.run("verified")
    assert machine.record["good"] == [two, one]


def test_nothing_is_left_to_tell(machine: Machine, warnings: list[str]) -> None:
    """The files and the containers are those of today: the run proves them."""
    name = machine.good("one")
    machine.runs()
    _release.shutil.rmtree(machine.var / "releases")
    damage(b"")(machine)
    result = machine.deploy("one")
    assert (result["changed_files"], result["pending"], result["current"]) == ([], True, "")
    assert "Good: none" in warnings[0]
    machine.run("verified")
    assert machine.record["good"] == [name]


@pytest.mark.parametrize("state", ["planned", "deployed", "verified", "failed", "rolled_back", "query"])
def test_a_newer_record_is_refused_and_stays(machine: Machine, state: str) -> None:
    machine.good("one")
    damage(b'{"schema": 9}')(machine)
    before = machine.tree()
    result = machine.deploy("two", state) if state in ("planned", "deployed") else machine.run(state)
    assert result["failed"]
    assert f"{machine.var / 'release.json'} has schema 9." in result["msg"]
    assert machine.tree() == before


def test_old_releases_go(machine: Machine) -> None:
    names = [machine.good(str(number)) for number in range(5)]
    assert machine.record["good"] == names[:1:-1]
    assert sorted(path.name for path in (machine.var / "releases").iterdir()) == sorted(names[2:])
    machine.run("verified", keep=1)
    assert [path.name for path in (machine.var / "releases").iterdir()] == names[4:]


# --- what runs


def test_what_would_change(machine: Machine) -> None:
    machine.good("one")
    assert machine.deploy("one", "planned")["would_change"], "nothing runs yet"
    machine.runs()
    planned = machine.deploy("one", "planned")
    assert (planned["running"], planned["would_change"], planned["missing_images"]) == (True, False, [])
    machine.runs("exited")
    planned = machine.deploy("one", "planned")
    assert (planned["running"], planned["would_change"], planned["pending"]) == (False, True, False)
    machine.runs()
    machine.image(IMAGES["worker"], None)
    planned = machine.deploy("one", "planned")
    assert (planned["missing_images"], planned["would_change"]) == ([IMAGES["worker"]], True)


@pytest.mark.parametrize("absent", [True, False])
def test_a_host_without_an_engine(machine: Machine, absent: bool) -> None:
    if absent:
        (machine.top / "bin/docker").unlink()
    else:
        (machine.docker / "off").touch()
    planned = machine.deploy("one", "planned")
    assert (planned["missing_images"], planned["running"]) == (list(IMAGES.values()), False)
    assert planned["would_change"]


@pytest.mark.parametrize(
    ("said", "ready"),
    [
        ("ActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no", True),
        ("ActiveState=inactive\nUnitFileState=enabled\nNeedDaemonReload=no", False),
        ("ActiveState=active\nUnitFileState=disabled\nNeedDaemonReload=no", False),
        ("ActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=yes", False),
        ("ActiveState=inactive\nUnitFileState=\nNeedDaemonReload=no", False),
        ("", False),
    ],
)
def test_the_unit(machine: Machine, said: str, ready: bool) -> None:
    machine.good("one")
    machine.runs()
    assert machine.deploy("one", "planned", unit="watch.service")["unit_ready"], "without systemd there is no unit"
    (machine.top / "systemd").mkdir()
    machine.program("systemctl", f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    planned = machine.deploy("one", "planned", unit="watch.service")
    assert (planned["unit_ready"], planned["would_change"]) == (ready, not ready)


def test_a_unit_that_began_before_the_last_change_of_its_script(machine: Machine) -> None:
    files = machine.files(more=[{"path": "watch", "content": "w", "mode": "0755", "read_by": ["watch.service"]}])
    machine.deploy(files=files)
    machine.runs()
    (machine.top / "systemd").mkdir()

    def unit_ready(pid: int) -> bool:
        said = f"MainPID={pid}\\nActiveState=active\\nUnitFileState=enabled\\nNeedDaemonReload=no\\n"
        machine.program("systemctl", f"#!/bin/sh\nprintf '{said}'\n")
        return bool(machine.deploy(files=files, state="planned", unit="watch.service")["unit_ready"])

    before = machine.process()
    assert unit_ready(before)
    time.sleep(0.02)
    (machine.project / "watch").touch()
    assert not unit_ready(before)
    time.sleep(0.02)
    assert unit_ready(machine.process())


def test_a_process_that_began_before_the_last_change_of_its_file(machine: Machine) -> None:
    """A person edits a file, its reader starts again, the file is put back: the reader goes by the edited one."""
    machine.good("one")
    machine.runs()
    assert machine.deploy("one", "planned")["stale"] == []
    keys = machine.project / "edge/keys"
    keys.write_text("edited")
    machine.started("c1")
    assert machine.run("query")["stale"] == [], "it has read what lies there"
    planned = machine.deploy("one", "planned")
    assert (planned["stale"], planned["running"], planned["would_change"]) == (["api"], False, True)
    assert (planned["pending"], planned["repair"]) == (True, True)
    machine.deploy("one")
    # A run that was killed here: the next one sees nothing to write, and still what runs.
    assert machine.run("query")["stale"] == ["api"]
    planned = machine.deploy("one", "planned")
    assert (planned["changed_files"], planned["stale"], planned["would_change"]) == ([], ["api"], True)
    machine.started("c1")
    planned = machine.deploy("one", "planned")
    assert (planned["stale"], planned["running"], planned["would_change"]) == ([], True, False)


@pytest.mark.parametrize(
    ("harm", "stale"),
    [
        (lambda host: None, []),
        # Times that were set back, and a copy of the same content.
        (lambda host: os.utime(host.project / "edge/keys", (1, 1)), ["api"]),
        (lambda host: (host.project / "edge/keys").unlink(), ["api"]),
        (lambda host: (host.project / "edge/keys").chmod(0o600), ["api"]),
        # Compose compares its own files itself.
        (lambda host: (host.project / "compose.yaml").write_text("eno"), []),
        (lambda host: (host.project / "edge/mine").write_text("a user's own"), []),
        (lambda host: (host.model / "model.safetensors").write_text("fetched again"), ["worker"]),
        (lambda host: os.link(host.model / "model.safetensors", host.top / "another revision"), []),
        (lambda host: (host.model / "README.md").write_text("notes"), []),
        (lambda host: host.runs("exited"), []),
        (lambda host: (host.docker / "off").touch(), []),
        (lambda host: (host.docker / "pids/c1").unlink(), []),
        (lambda host: host.started("c1", 1), ["api"]),
    ],
)
def test_what_has_read_an_earlier_version(machine: Machine, harm: Callable[[Machine], Any], stale: list[str]) -> None:
    (machine.model / "model.safetensors").write_text("weights")
    machine.good("one")
    machine.runs()
    time.sleep(0.02)
    harm(machine)
    planned = machine.deploy("one", "planned")
    assert planned["stale"] == stale
    assert planned["would_change"] is (planned["changed_files"] != [] or not planned["running"])


@pytest.mark.parametrize(
    ("harm", "differs"),
    [
        (lambda host: None, []),
        (
            lambda host: (host.project / "edge/keys").write_text("x"),
            ["{}/edge/keys differs", "api is older than a file"],
        ),
        (lambda host: os.utime(host.project / "edge/keys"), ["api is older than a file that it reads"]),
        (lambda host: host.runs("exited"), ["not every service runs as compose.yaml says"]),
        (lambda host: host.program("systemctl", "#!/bin/sh\n"), ["watch.service is not enabled, or does not run as"]),
    ],
)
def test_what_is_put_in_order_is_named(machine: Machine, harm: Callable[[Machine], Any], differs: list[str]) -> None:
    (machine.top / "systemd").mkdir()
    said = "ActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no"
    machine.program("systemctl", f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    machine.good("one")
    machine.runs()
    time.sleep(0.02)
    harm(machine)
    found = machine.deploy("one", "planned", unit="watch.service")["differs"]
    assert len(found) == len(differs)
    assert all(line.startswith(start.format(machine.project)) for line, start in zip(found, differs))
    assert machine.deploy("two", "planned", unit="watch.service")["differs"] == [], "that is another release"


def test_a_rollback_names_what_reads_its_files(machine: Machine) -> None:
    more = {"path": "edge/cfg", "read_by": ["api"]}
    machine.deploy(files=machine.files(more=[{**more, "content": "one"}]))
    machine.run("verified")
    machine.deploy(files=machine.files(more=[{**more, "content": "two"}]))
    machine.run("verified")
    machine.runs()
    assert machine.run("planned")["stale"] == ["api"]
    machine.run("rolled_back")
    assert machine.run("query")["stale"] == ["api"]
    machine.started("c1")
    assert machine.run("query")["stale"] == []


def test_a_repair_is_held_against_no_rate(machine: Machine) -> None:
    machine.good("one")
    (machine.project / ".env").write_text("edited")
    planned = machine.deploy("one", "planned")
    assert (planned["repair"], planned["rate_before"], planned["tokens_per_second"]) == (True, None, 12.5)
    planned = machine.deploy("two", "planned")
    assert (planned["repair"], planned["rate_before"]) == (False, 12.5)


def test_what_is_no_repair(machine: Machine) -> None:
    assert machine.deploy("one", "planned")["repair"] is False
    machine.good("one")
    assert machine.deploy("one", "planned")["repair"] is True
    assert machine.deploy("two", "planned")["repair"] is False
    machine.deploy("two")
    assert machine.deploy("two", "planned")["repair"] is False, "it was never proven"


def test_a_look_at_what_runs_takes_four_questions(machine: Machine) -> None:
    """Each is a process on every host at every run."""
    machine.good("one")
    machine.runs()
    machine.calls_file.unlink()
    machine.deploy("one", "planned")
    assert [call.split()[0] for call in machine.calls_file.read_text().splitlines()] == [
        "image",
        "ps",
        "inspect",
        "compose",
    ]


def test_a_query_names_what_somebody_changed(machine: Machine, warnings: list[str]) -> None:
    assert machine.run("query")["drift"] == []
    name = machine.good("one")
    machine.runs()
    result = machine.run("query")
    assert (result["drift"], result["running"], result["record"]["current"]) == ([], True, name)
    (machine.project / "compose.yaml").write_text("ENO")
    (machine.top / "usr/chat").unlink()
    assert machine.run("query")["drift"] == [
        {"path": str(machine.top / "usr/chat"), "differs": ["absent"]},
        {"path": "compose.yaml", "differs": ["content"]},
    ]
    (machine.var / "releases" / name / "manifest.json").unlink()
    result = machine.run("query")
    assert result["drift"] is None
    assert len(warnings) == 1
    assert "is damaged (no list of its files)" in warnings[0]


# --- killed


class Killed(BaseException):
    """The end of the process, as far as its code can tell."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ends the module before the given renaming or removal; what is to be renamed lies there by then."""
    left = [number]

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed(name)
            return original(*arguments, **keywords)

        return call

    for owner, name in ((Path, "replace"), (Path, "unlink"), (_release.shutil, "rmtree")):
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))


@pytest.mark.parametrize(
    "first", ["nothing", "one good", "two good", "one good, another pending", "two good, a damaged record"]
)
@pytest.mark.parametrize("action", ["deployed", "rolled_back", "verified"])
def test_a_kill_at_any_moment_leaves_something_to_go_on_from(
    tmp_path_factory: pytest.TempPathFactory, machine: Machine, first: str, action: str
) -> None:
    if action == "rolled_back" and first in ("nothing", "one good"):
        pytest.skip("there is nothing to go back to")
    more = [{"path": "edge/extra", "content": "of one release only"}]

    def prepare(host: Machine) -> None:
        if first != "nothing":
            host.good("zero")
        if first.startswith("two good"):
            host.good("one")
        if first.endswith("pending"):
            host.deploy(files=host.files("one", more=more))
        if action == "verified":
            host.deploy("two")
        if first.endswith("damaged record"):
            damage(b"cut sho")(host)

    def act(host: Machine) -> dict[str, Any]:
        return host.deploy("two", keep=1) if action == "deployed" else host.run(action, keep=2)

    number = -1
    finished = False
    while not finished:
        number += 1
        host = Machine(tmp_path_factory.mktemp("host"), machine.capsys)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "ansible.module_utils.basic.AnsibleModule.get_bin_path",
                lambda _self, name, *_a, _top=host.top, **_k: str(_top / "bin" / name),
            )
            prepare(host)
            good_before = host.run("query")["record"]["good"]
            with pytest.MonkeyPatch.context() as killer, contextlib.suppress(Killed):
                kill_at(killer, number)
                act(host)
                finished = True
            # Readable, and none of the good releases is lost but those that are no longer kept.
            found = host.run("query")
            assert not found.get("failed"), (number, found)
            record = found["record"]
            assert not good_before or record["good"], number
            for name in {record["current"], record["pending"], *record["good"]} - {None}:
                _release.Snapshots(host.var / "releases").restore(name)
            if action == "verified" and not finished:
                assert record["pending"] or record["current"] == found["id"]
                act(host)
                assert host.record["current"] == found["id"]
                continue
            if first.endswith("damaged record"):
                lies = [host.var / "release.json", *host.var.glob("release.json.bad-*")]
                assert b"cut sho" in [path.read_bytes() for path in lies], number
            # The next run finishes the job: a deployment first, as after a failed rollback, too.
            result = host.deploy("two")
            assert (host.compose(), result["pending"] or result["current"] == result["id"]) == ("two", True)
            assert not (host.project / "edge/extra").exists(), number
            host.run("verified")
            assert host.record["current"] == result["id"]
            assert not host.deploy("two")["changed"]
            left = [path for path in host.project.rglob("*") if path.name.endswith(_release.TEMPORARY)]
            assert all(path.stat().st_mode & 0o077 == 0 for path in left)
    assert number >= (1 if action == "verified" else 3), "it was killed at that many places"
