# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _release
from ansible_collections.vicuna.fleet.plugins.module_utils._release import DamagedRecord, File, ReleaseError

A, B, C = "a" * 12, "b" * 12, "c" * 12


def record(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "model": {}, "images": {"api": "x"}, "image_ids": {}, "settings": "0", **more}


def brought(*names: str) -> dict[str, Any]:
    """A record in which these releases were verified, one after the other."""
    state = _release.empty()
    for number, name in enumerate(names):
        state = _release.pend(state, record(name), True, f"t{number}")
        state = _release.verify(state, 10.0 + number, f"v{number}")
    return state


# --- the name of a release


def test_only_what_is_served_names_a_release() -> None:
    files = [File("compose.yaml", b"a"), File("edge/keys", b"k", secret=True)]
    name = _release.release_id(files, {"api": "x"}, "c1")
    assert len(name) == 12
    assert name == _release.release_id(files[::-1], {"api": "x"}, "c1")
    assert name == _release.release_id([files[0], File("edge/keys", b"other", secret=True)], {"api": "x"}, "c1")
    for other in (
        ([File("compose.yaml", b"b")], {"api": "x"}, "c1"),
        ([File("compose.yaml", b"a", mode=0o600)], {"api": "x"}, "c1"),
        ([File("compose.yml", b"a")], {"api": "x"}, "c1"),
        (files, {"api": "y"}, "c1"),
        (files, {"api": "x"}, "c2"),
    ):
        assert _release.release_id(*other) != name


# --- the record


def test_a_release_is_pending_until_it_is_verified() -> None:
    state = _release.pend(_release.empty(), record(A), True, "now")
    assert (state["pending"], state["current"], state["good"]) == (A, None, [])
    assert (state["releases"][A]["created"], state["releases"][A]["verified"]) == ("now", None)
    # A run that was killed: the next one touches nothing, and it is still pending.
    assert _release.pend(state, record(A), False, "later") == state
    state = _release.verify(state, 39.9, "then")
    assert (state["pending"], state["current"], state["good"]) == (None, A, [A])
    assert (state["releases"][A]["verified"], state["releases"][A]["tokens_per_second"]) == ("then", 39.9)
    assert _release.pend(state, record(A), False, "later") == state
    assert _release.pend(state, record(A), True, "later")["pending"] == A, "what was mended has to be proven again"


def test_verifying_nothing_changes_nothing() -> None:
    state = brought(A)
    assert _release.verify(state, 99.0, "later") == state


def test_a_failed_one_stays_in_place_and_is_no_good_one() -> None:
    state = _release.pend(brought(A), record(B), True, "t")
    failed = _release.fail(state, "no answer", "f")
    assert (failed["pending"], failed["current"], failed["good"]) == (B, A, [A])
    assert (failed["releases"][B]["failed"], failed["releases"][B]["reason"]) == ("f", "no answer")
    assert _release.fail(failed, "no answer", "g") == failed
    again = _release.pend(failed, record(B), False, "t")
    assert (again["releases"][B]["failed"], again["releases"][B]["reason"]) == (None, "")
    assert state["releases"][B]["failed"] is None, "the state before is not altered"


@pytest.mark.parametrize(
    ("pending", "wanted", "expected"),
    [(None, "", B), (C, "", A), (C, B, B), (None, A, A), (A, "", B)],
)
def test_where_a_rollback_goes(pending: str | None, wanted: str, expected: str) -> None:
    state = brought(B, A)
    if pending:
        state = _release.pend(state, record(pending), True, "t")
    assert _release.target(state, wanted) == expected


@pytest.mark.parametrize(("state", "wanted"), [(_release.empty(), ""), (brought(A), ""), (brought(B, A), C)])
def test_a_rollback_to_nowhere_is_refused(state: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ReleaseError, match=r"no good release .* Expected: .* Nothing was changed\."):
        _release.target(state, wanted)


def test_one_that_failed_is_no_place_to_go_back_to() -> None:
    state = _release.fail(_release.pend(brought(A), record(B), True, "t"), "no answer", "f")
    with pytest.raises(ReleaseError, match=f"good release {B}"):
        _release.target(state, B)


def test_what_is_forgotten() -> None:
    state = brought(*(digit * 12 for digit in "0123"))
    for name in (B, C):
        state = _release.fail(_release.pend(state, record(name), True, "t"), "no answer", f"f{name}")
    pruned = _release.prune(state, 2)
    assert pruned["good"] == ["3" * 12, "2" * 12]
    assert sorted(pruned["releases"]) == ["2" * 12, "3" * 12, C], "the older failure goes, what is in place stays"
    assert sorted(_release.prune(state, 0)["releases"]) == ["3" * 12, C], "the last good one stays whatever is asked"


def test_the_last_rate() -> None:
    state = brought(A, B)
    assert _release.last_rate(state, B) == 11.0
    assert _release.last_rate(state, A) == 10.0
    assert _release.last_rate(state, C) == 11.0
    assert _release.last_rate(_release.empty(), C) is None


@pytest.mark.parametrize(
    ("pending", "name", "expected"),
    [
        # Another release than those that gave the recorded figures.
        (None, C, 11.0),
        (C, C, 11.0),
        # The current one is put in order, also after another one that failed.
        (None, B, None),
        (B, B, None),
        (C, B, None),
        # One that was well here before.
        (None, A, None),
    ],
)
def test_what_a_rate_is_held_against(pending: str | None, name: str, expected: float | None) -> None:
    state = brought(A, B)
    if pending:
        state = _release.pend(state, record(pending), True, "t")
    assert _release.rate_before(state, name) == expected


def test_nothing_to_hold_a_rate_against() -> None:
    assert _release.rate_before(_release.empty(), A) is None
    # An answer of a few words gave no figure: that of the release before is none of the current one's.
    state = _release.verify(_release.pend(brought(A), record(B), True, "t"), None, "v")
    assert _release.rate_before(state, B) is None
    assert _release.rate_before(state, C) == 10.0


def test_another_load_lowers_no_figure_of_the_same_release() -> None:
    state = brought(A)
    for rate in (4.0, None, 12.5, 7.0):
        state = _release.verify(_release.pend(state, record(A), True, "t"), rate, "v")
    assert state["releases"][A]["tokens_per_second"] == 12.5


def test_a_record_survives_its_file() -> None:
    state = _release.pend(brought(A, B), record(C), True, "t")
    for each in (state, _release.empty()):
        assert _release.load(_release.dump(each).encode(), "r") == each


GOOD = brought(A)
BROKEN: list[tuple[str, str]] = [
    ("", "is no JSON"),
    (_release.dump(GOOD)[:-20], "is no JSON"),
    ("[]", "is no record"),
    ("{}", "is no record"),
    (json.dumps({**GOOD, "schema": "1"}), "is no record"),
    (json.dumps({**GOOD, "releases": []}), "holds no releases"),
    (json.dumps({**GOOD, "releases": {A: None}}), "holds no releases"),
    (json.dumps({**GOOD, "good": [B]}), "good that it does not hold"),
    (json.dumps({**GOOD, "good": A}), "good that it does not hold"),
    (json.dumps({**GOOD, "good": [[]]}), "good that it does not hold"),
    (json.dumps({**GOOD, "current": B}), "current release that it does not hold"),
    (json.dumps({**GOOD, "pending": 7}), "pending release that it does not hold"),
    (json.dumps({key: value for key, value in GOOD.items() if key != "pending"}), "pending release"),
    (json.dumps({**_release.empty(), "releases": {"../../etc": {"id": "../../etc"}}}), "under another one's name"),
    (json.dumps({**_release.empty(), "releases": {A: {"id": B}}}), "under another one's name"),
    (json.dumps({**GOOD, "releases": {A: record(A, images=["x"])}}), f"a release that is none .{A}"),
    (json.dumps({**GOOD, "releases": {A: record(A, model="x")}}), f"a release that is none .{A}"),
    (json.dumps({**GOOD, "releases": {A: record(A, verified=7)}}), f"a release that is none .{A}"),
    (json.dumps({**GOOD, "releases": {A: record(A, tokens_per_second="fast")}}), f"a release that is none .{A}"),
    ("[" * 100000, "is no JSON"),
    ("\ufeff\ufeff{}", "is no JSON"),
]


@pytest.mark.parametrize(("text", "found"), BROKEN)
def test_a_record_that_tells_nothing(text: str, found: str) -> None:
    with pytest.raises(DamagedRecord, match=found) as caught:
        _release.load(text.encode(), "/r.json")
    assert caught.value.found.startswith("/r.json ")
    assert "Run the playbook site" in str(caught.value)


@pytest.mark.parametrize("data", [b"\xff\xfe{\x00}\x00", b"\x7fELF\x02\x01\x00\xfe", b"\x00" * 512])
def test_a_record_that_is_no_text(data: bytes) -> None:
    with pytest.raises(DamagedRecord, match="is no JSON"):
        _release.load(data, "/r.json")


def test_a_newer_record_is_refused() -> None:
    with pytest.raises(ReleaseError, match=r"has schema 2\. .* Nothing was changed\. Update the collection") as caught:
        _release.load(json.dumps({**GOOD, "schema": 2}).encode(), "/r.json")
    assert not isinstance(caught.value, DamagedRecord)


def test_a_record_that_an_editor_has_marked() -> None:
    assert _release.load(b"\xef\xbb\xbf" + _release.dump(GOOD).encode(), "r") == GOOD


def test_what_the_copies_tell() -> None:
    """Which one was well last is the current one; what is in place is to be proven again."""
    state = _release.fail(_release.pend(brought(A, B), record(C), True, "t"), "no answer", "f")
    items = list(state["releases"].values())
    assert _release.rebuild(items, C) == state
    assert _release.rebuild(items, "") == {**state, "pending": None}
    assert _release.rebuild(items[:1], A) == {
        **_release.empty(), "current": A, "pending": A, "good": [A], "releases": {A: items[0]}
    }  # fmt: skip
    assert _release.rebuild([], "") == _release.empty()


# --- files


@pytest.mark.parametrize("path", ["", ".", "..", "../x", "a/../../x", "a//b", "a/", "/a/../b"])
def test_a_path_that_leaves_the_project_is_refused(path: str) -> None:
    with pytest.raises(ReleaseError, match="Correct the path"):
        _release.place(path, Path("/opt/x"))


def test_where_files_lie() -> None:
    assert _release.place("edge/keys", Path("/opt/x")) == Path("/opt/x/edge/keys")
    assert _release.place("/etc/y", Path("/opt/x")) == Path("/etc/y")


def test_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "x"
    user, group = str(os.getuid()), str(os.getgid())
    file = File("x", b"abc", 0o640, user, group)
    assert _release.difference(path, file) == ["absent"]
    _release.put(path, b"abc", 0o640)
    assert _release.difference(path, file) == []
    assert _release.difference(path, File("x", b"abd", 0o600, user, group)) == ["content", "mode"]
    assert _release.difference(path, File("x", b"abc", 0o640, "98765", "98765")) == ["owner", "group"]
    (tmp_path / "link").symlink_to(path)
    assert _release.difference(tmp_path / "link", file) == ["type"]


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "x"
    _release.put(path, b"old", 0o644)
    old = path.open("rb")
    left = tmp_path / ".x.vicuna-release"
    left.write_bytes(b"what a killed run left behind, longer than the new file")
    left.chmod(0o666)
    _release.put(path, b"new", 0o600)
    with old:
        assert old.read() == b"old", "who reads it sees one of the two, whole"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["x"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("x", ".y.vicuna-release"):
        (tmp_path / name).symlink_to(victim)
    _release.put(tmp_path / "x", b"new", 0o644)
    assert not (tmp_path / "x").is_symlink()
    with pytest.raises(OSError, match="symbolic links"):
        _release.put(tmp_path / "y", b"new", 0o644)
    assert victim.read_text() == "mine"


# --- copies

FILES = [File("compose.yaml", b"c"), File("edge/keys", b"k\xff", 0o640, "root", "10001", True), File("/usr/x", b"x")]


def test_a_copy_comes_back_as_it_was_and_only_root_reads_it(tmp_path: Path) -> None:
    copies = _release.Snapshots(tmp_path / "releases")
    assert not copies.holds(A, FILES)
    copies.save(A, FILES)
    assert copies.holds(A, FILES)
    assert copies.restore(A) == FILES
    assert copies.names() == [A]
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    copies.drop(A)
    assert copies.names() == []


def test_a_damaged_copy_is_no_copy(tmp_path: Path) -> None:
    copies = _release.Snapshots(tmp_path / "releases")
    with pytest.raises(ReleaseError, match="no list of its files"):
        copies.restore(A)
    copies.save(A, FILES)
    (tmp_path / "releases" / A / "host/usr/x").write_bytes(b"y")
    assert not copies.holds(A, FILES)
    with pytest.raises(ReleaseError, match=r"damaged \(/usr/x\)"):
        copies.restore(A)
    copies.save(A, FILES)
    assert copies.restore(A) == FILES
    (tmp_path / "releases" / A / "project/compose.yaml").unlink()
    with pytest.raises(ReleaseError, match=r"damaged \(compose\.yaml\)"):
        copies.restore(A)


def test_a_rollback_keeps_todays_credentials(tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge/keys").write_bytes(b"today")
    (tmp_path / "compose.yaml").write_bytes(b"today")
    kept = _release.keep_secrets([*FILES[:2], File("edge/tls.pem", b"gone", secret=True)], tmp_path)
    assert [file.content for file in kept] == [b"c", b"today", b"gone"]


# --- what runs: lines as Docker Engine 26.1 and compose 2.26 print them

HASHES = "api-server 6b1f\ncontroller 90aa\n"
RUNNING = "controller\t90aa\tsha256:1\tFalse\trunning\tc1\napi-server\t6b1f\tsha256:1\tFalse\trunning\tc2\n"


@pytest.mark.parametrize(
    ("hashes", "containers", "ids", "expected"),
    [
        (HASHES, RUNNING, ["sha256:1", "sha256:2"], True),
        (HASHES, RUNNING + "api-server\t6b1f\tsha256:1\tTrue\texited\tc3\n", ["sha256:1"], True),
        (HASHES, RUNNING, ["sha256:2"], False),
        (HASHES, RUNNING, [], False),
        (HASHES, RUNNING.replace("90aa", "90ab"), ["sha256:1"], False),
        (HASHES, RUNNING.replace("running", "exited", 1), ["sha256:1"], False),
        (HASHES, RUNNING.replace("running", "restarting", 1), ["sha256:1"], False),
        (HASHES, RUNNING.replace("running", "paused", 1), ["sha256:1"], True),
        (HASHES, RUNNING.splitlines()[0], ["sha256:1"], False),
        (HASHES, RUNNING + RUNNING.splitlines()[0], ["sha256:1"], False),
        (HASHES, RUNNING + "old\t1\tsha256:1\tFalse\trunning\tc3\n", ["sha256:1"], False),
        (HASHES, RUNNING.replace("sha256:1", ""), ["sha256:1"], False),
        ("", "", ["sha256:1"], False),
    ],
)
def test_whether_all_run_as_configured(hashes: str, containers: str, ids: list[str], expected: bool) -> None:
    found = _release.as_configured(_release.parse_hashes(hashes), _release.parse_containers(containers), ids)
    assert found is expected
