# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults that can be ordered of the sandbox's hub. Those of its app need the hub's libraries, else they skip."""

from __future__ import annotations

import hashlib
import http.client
import importlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HUB = Path(__file__).resolve().parents[3] / "sandbox/hub"
REPO = "lmsys/vicuna-tiny"
CONTENT = bytes(range(251)) * 1500  # 376,500 bytes: several chunks, and no two of them alike
OID = hashlib.sha256(CONTENT).hexdigest()
TOKEN = {"Authorization": "Bearer hub-sandbox-token"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module with the faults, which the hub's app imports as a neighbour."""
    monkeypatch.syspath_prepend(str(HUB))
    module = importlib.import_module("faults")
    monkeypatch.setattr(module, "STALL_SECONDS", 8.0)  # so that a stall that does not end fails its test soon
    return module


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "objects" / REPO / OID
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


class Download:
    """One answer of the faults, with what of its body arrived."""

    def __init__(self, faults: Any, file: Path, asked: str = "", ticket: str = "", **more: Any) -> None:
        answer = faults.answer(file, REPO, asked, ticket, **more)
        self.status = answer.status
        self.range = answer.headers.get("Content-Range", "")
        self.announced = int(answer.headers.get("Content-Length", 0))
        self.cut = False
        self.body = b""
        try:
            for chunk in answer.body or ():
                self.body += chunk
        except ConnectionAbortedError:
            self.cut = True


@pytest.fixture
def faults(hub: ModuleType) -> Any:
    return hub.Faults()


def order(hub: ModuleType, faults: Any, **fields: Any) -> None:
    faults.add(hub.parse_fault({"repo": REPO, **fields}))


def test_without_a_fault_the_answer_is_right(faults: Any, stored: Path) -> None:
    whole = Download(faults, stored)
    part = Download(faults, stored, "bytes=100-199")
    rest = Download(faults, stored, f"bytes={len(CONTENT) - 7}-")
    assert (whole.status, whole.body, whole.range) == (200, CONTENT, "")
    assert (part.status, part.body, part.range) == (206, CONTENT[100:200], f"bytes 100-199/{len(CONTENT)}")
    assert (rest.status, rest.body) == (206, CONTENT[-7:])
    assert Download(faults, stored.with_name("0" * 64)).status == 404


@pytest.mark.parametrize(("asked", "expected"), [
    ("bytes=0-0", (0, 1)),
    ("bytes=5-", (5, 10)),
    ("bytes=5-900", (5, 10)),
    ("bytes=10-11", None),
    ("bytes=7-5", None),
    ("bytes=-5", None),
    ("bytes=0-1,4-5", None),
    ("", None),
])  # fmt: skip
def test_ranges(hub: ModuleType, asked: str, expected: tuple[int, int] | None) -> None:
    assert hub.parse_range(asked, 10) == expected


def test_drop_cuts_the_answer_off(hub: ModuleType, faults: Any, stored: Path) -> None:
    order(hub, faults, kind="drop", times=2, after=100000)
    for _ in range(2):
        got = Download(faults, stored)
        assert (got.cut, got.body, got.announced) == (True, CONTENT[:100000], len(CONTENT))
    assert Download(faults, stored).body == CONTENT
    assert faults.list()[0]["struck"] == 2


@pytest.mark.parametrize("kind", ["drop", "stall", "truncate"])
def test_an_answer_that_ends_before_is_not_harmed(hub: ModuleType, faults: Any, stored: Path, kind: str) -> None:
    order(hub, faults, kind=kind, after=100)
    assert Download(faults, stored, "bytes=0-99").body == CONTENT[:100]
    assert faults.list()[0]["struck"] == 0


def test_truncate_is_short_and_its_headers_agree(hub: ModuleType, faults: Any, stored: Path) -> None:
    order(hub, faults, kind="truncate", after=10)
    got = Download(faults, stored, "bytes=100-199")
    assert (got.cut, got.body, got.announced) == (False, CONTENT[100:110], 10)
    assert got.range == f"bytes 100-109/{len(CONTENT)}"


def test_flip_harms_only_the_range_that_holds_the_byte(hub: ModuleType, faults: Any, stored: Path) -> None:
    order(hub, faults, kind="flip", after=70000)
    assert Download(faults, stored, "bytes=0-69999").body == CONTENT[:70000]
    got = Download(faults, stored, "bytes=70000-70009")
    assert [a ^ b for a, b in zip(got.body, CONTENT[70000:70010])] == [1] + [0] * 9
    assert Download(faults, stored, "bytes=70000-70009").body == CONTENT[70000:70010]


@pytest.mark.parametrize(("first", "stop"), [(0, 1000), (200000, 300000), (0, len(CONTENT))])
def test_lie_range_gives_another_range(hub: ModuleType, faults: Any, stored: Path, first: int, stop: int) -> None:
    order(hub, faults, kind="lie_range")
    assert Download(faults, stored).body == CONTENT  # a request for the whole is not harmed, nor counted
    got = Download(faults, stored, f"bytes={first}-{stop - 1}")
    assert got.status == 206
    assert got.range != f"bytes {first}-{stop - 1}/{len(CONTENT)}"
    assert got.body != CONTENT[first:stop]
    told = got.range.removeprefix("bytes ").partition("/")[0].partition("-")
    assert got.body == CONTENT[int(told[0]) : int(told[2]) + 1]


def test_ignore_range_gives_the_whole(hub: ModuleType, faults: Any, stored: Path) -> None:
    order(hub, faults, kind="ignore_range", times=0)
    for _ in range(3):
        got = Download(faults, stored, "bytes=5-9")
        assert (got.status, got.body, got.range) == (200, CONTENT, "")


def test_status_500(hub: ModuleType, faults: Any, stored: Path) -> None:
    order(hub, faults, kind="status_500")
    assert [Download(faults, stored).status for _ in range(2)] == [500, 200]


def test_a_token_expires_and_the_next_address_has_a_new_one(hub: ModuleType, faults: Any, stored: Path) -> None:
    order(hub, faults, kind="expire_token", times=2)
    for _ in range(2):
        ticket = faults.suffix(REPO, OID).partition("=")[2]
        statuses = [Download(faults, stored, "bytes=0-9", ticket).status for _ in range(3)]
        assert statuses == [206, 206, 403]
    assert Download(faults, stored, "", "made-up").status == 403
    faults.clear()
    assert Download(faults, stored, "", "made-up").status == 200


def test_a_stall_ends_when_the_fault_is_cleared(hub: ModuleType, faults: Any, stored: Path) -> None:
    order(hub, faults, kind="stall", after=1000)
    started = time.monotonic()
    threading.Timer(0.3, faults.clear).start()
    got = Download(faults, stored)
    assert (got.cut, got.body) == (True, CONTENT[:1000])
    assert 0.25 < time.monotonic() - started < 5
    assert faults.list() == []


def test_a_stall_ends_when_the_client_has_left(hub: ModuleType, faults: Any, stored: Path) -> None:
    order(hub, faults, kind="stall")
    started = time.monotonic()
    assert Download(faults, stored, gone=lambda: time.monotonic() - started > 0.2).cut
    assert time.monotonic() - started < 5


def test_only_what_is_named_is_harmed(hub: ModuleType, faults: Any) -> None:
    faults.add(hub.parse_fault({"oid": OID, "kind": "drop"}))
    assert faults.suffix("gated/vicuna-tiny", OID) == ""
    assert faults.suffix(REPO, "0" * 64) is None
    faults.clear()
    assert faults.suffix(REPO, OID) is None


@pytest.mark.parametrize("wrong", [
    None,
    [],
    {"kind": "drop"},
    {"repo": REPO, "kind": "explode"},
    {"repo": REPO, "kind": "drop", "times": -1},
    {"repo": REPO, "kind": "drop", "after": "many"},
    {"repo": REPO, "kind": "drop", "struck": 1},
    {"repo": REPO, "kind": "expire_token", "times": 0},
])  # fmt: skip
def test_a_wrong_order_is_refused(hub: ModuleType, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        hub.parse_fault(wrong)


def test_what_was_sent_is_added_up(hub: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "sent.log"
    sent = hub.Sent(log)
    assert sent.counts() == {}
    log.write_text(
        f"100 /lfs-objects/{REPO}/{OID}\n7 /lfs-objects/{REPO}/{OID}\n5 /_faulty/gated/vic", encoding="utf-8"
    )
    assert sent.counts() == {f"/lfs-objects/{REPO}": {"bytes": 107, "requests": 2}}
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"una-tiny/{OID}\n")
    assert sent.counts()["/_faulty/gated/vicuna-tiny"] == {"bytes": 5, "requests": 1}
    assert sent.counts()[f"/lfs-objects/{REPO}"]["bytes"] == 107  # a line counts once
    log.unlink()
    (tmp_path / "other").touch()  # so that the new log is another file
    log.write_text(f"1 /lfs-objects/{REPO}/{OID}\n", encoding="utf-8")
    assert sent.counts()[f"/lfs-objects/{REPO}"]["bytes"] == 108


# --- the app, behind the server that the hub runs it in ---------------------------------------------------------------


@pytest.fixture
def app(hub: ModuleType, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("giftless", reason="the hub's libraries are in its image: sandbox/hub/requirements.txt")
    monkeypatch.setenv("HUB_LFS_OBJECTS", str(stored.parents[2]))
    monkeypatch.setenv("HUB_SENT_LOG", str(tmp_path / "sent.log"))
    monkeypatch.delitem(sys.modules, "lfs_server", raising=False)
    made = importlib.import_module("lfs_server").create_app()
    yield made
    sys.modules.pop("lfs_server", None)


def href(client: Any) -> str:
    wanted = {"operation": "download", "transfers": ["basic"], "objects": [{"oid": OID, "size": len(CONTENT)}]}
    answer = client.post(
        f"/{REPO}.git/info/lfs/objects/batch", json=wanted, headers={"Accept": "application/vnd.git-lfs+json"}
    )
    return str(answer.get_json()["objects"][0]["actions"]["download"]["href"])


def test_downloads_lead_to_python_only_while_a_fault_is_set(app: Any) -> None:
    client = app.test_client()
    assert href(client).endswith(f"/lfs-objects/{REPO}/{OID}")
    assert client.put("/_faults", json={"repo": REPO, "kind": "flip", "after": 3}).status_code == 204
    faulty = href(client)
    assert faulty.endswith(f"/_faulty/{REPO}/{OID}")
    path = faulty.partition("//")[2].partition("/")[2]
    spoilt = client.get(f"/{path}", headers={"Range": "bytes=0-9"})
    assert (spoilt.status_code, spoilt.data[3]) == (206, CONTENT[3] ^ 1)
    assert client.get("/_faults").get_json()[0]["struck"] == 1
    assert client.delete("/_faults").status_code == 204
    assert href(client).endswith(f"/lfs-objects/{REPO}/{OID}")
    assert client.get(f"/{path}").data == CONTENT  # an address from before still works
    assert client.put("/_faults", json={"kind": "flip"}).status_code == 400
    assert client.get("/_sent").get_json() == {}


def test_who_may_set_faults(app: Any) -> None:
    server = importlib.import_module("lfs_server")
    token = TOKEN["Authorization"]
    assert not server.allowed("PUT", "/_faults", "")
    assert not server.allowed("DELETE", "/_faults", "Bearer wrong")
    assert server.allowed("PUT", "/_faults", token)
    assert server.allowed("GET", "/_faults", "")
    assert not server.allowed("GET", f"/_faulty/gated/vicuna-tiny/{OID}", "")
    assert server.allowed("GET", f"/_faulty/gated/vicuna-tiny/{OID}", token)
    assert server.allowed("GET", f"/_faulty/{REPO}/{OID}", "")


@pytest.fixture
def waitress(app: Any) -> Iterator[tuple[str, int]]:
    waitress = pytest.importorskip("waitress")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = waitress.create_server(app, host="127.0.0.1", port=port, threads=4, channel_request_lookahead=1)
    threading.Thread(target=server.run, daemon=True).start()
    yield "127.0.0.1", port
    server.close()


def test_a_dropped_answer_is_an_incomplete_one_on_the_wire(waitress: tuple[str, int]) -> None:
    connection = http.client.HTTPConnection(*waitress, timeout=10)
    connection.request(
        "PUT", "/_faults", b'{"repo": "%s", "kind": "drop", "after": 70000}' % REPO.encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    assert connection.getresponse().read() == b""
    connection.request("GET", f"/_faulty/{REPO}/{OID}")
    with pytest.raises(http.client.IncompleteRead) as caught:
        connection.getresponse().read()
    assert caught.value.partial == CONTENT[:70000]
    connection.close()
    connection.request("GET", f"/_faulty/{REPO}/{OID}")
    assert connection.getresponse().read() == CONTENT


def test_a_client_that_leaves_ends_its_stall(waitress: tuple[str, int], app: Any) -> None:
    server = importlib.import_module("lfs_server")
    server.FAULTS.add(server.parse_fault({"oid": OID, "kind": "stall", "after": 10, "times": 0}))
    before = threading.active_count()
    for _ in range(4):  # as many as the server has threads
        with socket.create_connection(waitress, timeout=5) as client:
            client.sendall(f"GET /_faulty/{REPO}/{OID} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
            heard = b""
            while not heard.endswith(CONTENT[:10]):
                heard += client.recv(65536)
    connection = http.client.HTTPConnection(*waitress, timeout=5)
    connection.request("GET", "/_faults")
    assert connection.getresponse().status == 200
    assert threading.active_count() <= before
