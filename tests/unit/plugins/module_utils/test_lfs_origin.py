# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of LFS objects from a server that fails in every way."""

from __future__ import annotations

import concurrent.futures
import email.utils
import math
import random
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _lfs_origin
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_batch import Action
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_origin import (
    Origin,
    Site,
    life_of,
    proxies_of,
    proxy_for,
    range_lie,
    retry_after,
    same_party,
    site_of,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import SourceError

from ..fault_server import TOKEN, FakeProxy, FaultServer, oid_of

CONTENT = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(500_000)
OID, OTHER_OID = oid_of(CONTENT), oid_of(OTHER)
MIB = 1024 * 1024


@dataclass(frozen=True)
class Pointer:
    oid: str
    size: int


POINTERS = [Pointer(OID, len(CONTENT)), Pointer(OTHER_OID, len(OTHER))]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(CONTENT, OTHER) as fake:
        yield fake


@pytest.fixture
def make() -> Iterator[Callable[..., Origin]]:
    """Makes origins, and ends them with the test; they show neither token nor signature."""
    made: list[Origin] = []

    def origin(endpoint: str | FaultServer, pointers: list[Pointer] = POINTERS, **options: Any) -> Origin:
        address = endpoint.endpoint if isinstance(endpoint, FaultServer) else endpoint
        made.append(Origin(address, pointers, **{"timeout": 5, "environ": {}, **options}))
        return made[-1]

    yield origin
    for one in made:
        assert TOKEN not in repr(one)
        one.close()


def read(origin: Origin, oid: str = OID, start: int = 0, stop: int = len(CONTENT), step: int = MIB) -> bytes:
    buffer = memoryview(bytearray(step))
    found = bytearray()
    with origin.open(oid, start, stop) as stream:
        while count := stream.readinto(buffer):
            found += buffer[:count]
    return bytes(found)


def error_of(origin: Origin, oid: str = OID, start: int = 0, stop: int = len(CONTENT)) -> SourceError:
    """The error of a range; it shows no secret, and not the one below it either."""
    with pytest.raises(SourceError) as caught:
        read(origin, oid, start, stop)
    error = caught.value
    shown = "".join(traceback.format_exception(type(error), error, error.__traceback__)) + str(error)
    for secret in (TOKEN, "secret-signature", *origin._secrets):
        assert secret not in shown
    assert error.problem.found
    assert error.problem.remedy
    return error


# --- what works --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, len(CONTENT)), (0, 1), (0, MIB), (MIB, 2 * MIB), (12345, 1_234_567), (len(CONTENT) - 1, len(CONTENT))],
)
def test_any_range(make: Callable[..., Origin], server: FaultServer, start: int, stop: int) -> None:
    assert read(make(server), start=start, stop=stop) == CONTENT[start:stop]
    request = server.requests("GET")[0]
    assert request["headers"]["range"] == f"bytes={start}-{stop - 1}"
    assert request["headers"]["accept-encoding"] == "identity"


@pytest.mark.parametrize("step", [1000, 65536, 4 * MIB])
def test_any_buffer(make: Callable[..., Origin], server: FaultServer, step: int) -> None:
    assert read(make(server), start=5, stop=200_000, step=step) == CONTENT[5:200_000]


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (6, 5), (0, len(CONTENT) + 1)])
def test_a_range_that_is_none_is_a_mistake(
    make: Callable[..., Origin], server: FaultServer, start: int, stop: int
) -> None:
    with pytest.raises(ValueError, match="no such range"):
        make(server).open(OID, start, stop)
    assert not server.seen


def test_an_empty_object_takes_no_request(make: Callable[..., Origin], server: FaultServer) -> None:
    empty = oid_of(b"")
    assert read(make(server, [Pointer(empty, 0)]), empty, 0, 0) == b""
    assert not server.seen


def test_connections_are_kept_and_one_question_serves_all(make: Callable[..., Origin], server: FaultServer) -> None:
    origin = make(server)
    for number in range(20):
        assert read(origin, start=number, stop=number + 1000) == CONTENT[number : number + 1000]
    assert read(origin, OTHER_OID, 0, len(OTHER)) == OTHER
    assert server.connections == 1
    assert server.batches == [[OID, OTHER_OID]]


def test_a_chunked_answer_keeps_its_connection(make: Callable[..., Origin], server: FaultServer) -> None:
    server.fail("chunked", times=3)
    server.fail("chunked", place="batch")
    origin = make(server)
    for _ in range(3):
        assert read(origin, start=10, stop=20_000) == CONTENT[10:20_000]
    assert server.connections == 1


def test_a_stream_that_is_left_early_ends_its_connection(make: Callable[..., Origin], server: FaultServer) -> None:
    origin = make(server)
    with origin.open(OID, 0, len(CONTENT)) as stream:
        stream.readinto(memoryview(bytearray(10)))
    assert read(origin, start=7, stop=9) == CONTENT[7:9]
    assert server.connections == 2
    assert not origin._busy


def test_many_threads(make: Callable[..., Origin], server: FaultServer) -> None:
    origin = make(server)
    edges = [*range(0, len(CONTENT), 100_000), len(CONTENT)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda pair: read(origin, start=pair[0], stop=pair[1]), zip(edges, edges[1:]))
        assert b"".join(parts) == CONTENT
    assert len(server.batches) == 1
    assert server.connections <= 9
    assert not origin._busy


def test_questions_are_of_a_hundred_objects(make: Callable[..., Origin], server: FaultServer) -> None:
    contents = [b"object %d" % number for number in range(230)]
    server.objects = {oid_of(content): content for content in contents}
    origin = make(server, [Pointer(oid_of(content), len(content)) for content in contents])
    for content in reversed(contents):
        assert read(origin, oid_of(content), 0, len(content)) == content
    assert [len(batch) for batch in server.batches] == [100, 100, 30]
    assert len({name for batch in server.batches for name in batch}) == 230


def test_a_server_that_wants_shorter_questions(make: Callable[..., Origin], server: FaultServer) -> None:
    contents = [b"object %d" % number for number in range(90)]
    server.objects = {oid_of(content): content for content in contents}
    server.fail("status", status=413, place="batch", times=2)
    origin = make(server, [Pointer(oid_of(content), len(content)) for content in contents])
    for content in contents:
        assert read(origin, oid_of(content), 0, len(content)) == content
    assert [len(batch) for batch in server.batches] == [22, 22, 22, 22, 2]


def test_a_kept_connection_that_the_server_closed_is_replaced(make: Callable[..., Origin], server: FaultServer) -> None:
    origin = make(server)
    for _ in range(3):
        server.fail("close")
        assert read(origin, start=1, stop=3) == CONTENT[1:3]
        time.sleep(0.05)
    # And where the end of it is seen only after the next request was sent.
    assert read(origin, start=1, stop=3) == CONTENT[1:3]
    server.fail("hangup")
    assert read(origin, start=1, stop=3) == CONTENT[1:3]


def test_an_answer_to_no_request_is_not_taken_for_the_next(make: Callable[..., Origin], server: FaultServer) -> None:
    origin = make(server)
    server.fail("unasked")
    assert read(origin, start=1, stop=3) == CONTENT[1:3]
    time.sleep(0.3)
    assert read(origin, start=1, stop=3) == CONTENT[1:3]


def test_a_kept_connection_has_the_whole_patience(make: Callable[..., Origin], server: FaultServer) -> None:
    origin = make(server, timeout=60)
    for kind in ("close", "chunked"):
        server.fail(kind)
        read(origin, start=1, stop=3)
        assert [wire.sock.gettimeout() for wire in origin._idle] == [60]


def test_only_so_many_connections_are_kept(
    make: Callable[..., Origin], server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lfs_origin, "IDLE_LIMIT", 2)
    origin = make(server)
    streams = [origin.open(OID, 0, 5) for _ in range(4)]
    for stream in streams:
        assert stream.readinto(memoryview(bytearray(5))) == 5
    assert len(origin._idle) == 2
    assert not origin._busy


def test_two_hangups_are_told(make: Callable[..., Origin], server: FaultServer) -> None:
    origin = make(server)
    read(origin, start=1, stop=3)
    server.fail("hangup", times=2)
    error = error_of(origin, start=1, stop=3)
    assert (error.problem.cause, error.retry) == ("interrupted", True)


def test_close_ends_those_who_read(make: Callable[..., Origin], server: FaultServer) -> None:
    server.fail("stall", after=1000)
    origin = make(server, timeout=30)
    threading.Timer(0.3, origin.close).start()
    begun = time.monotonic()
    assert error_of(origin).problem.cause == "interrupted"
    assert time.monotonic() - begun < 5
    error = error_of(origin)
    assert (error.problem.cause, error.retry) == ("interrupted", False)


# --- faults of a download ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "cause", "retry"),
    [
        ({"kind": "drop", "after": 100_000}, "interrupted", True),
        ({"kind": "drop", "after": 0}, "interrupted", True),
        ({"kind": "truncate", "after": 100_000}, "interrupted", True),
        ({"kind": "truncate", "after": 0}, "interrupted", True),
        ({"kind": "hangup"}, "interrupted", True),
        ({"kind": "lie_range"}, "damaged_transfer", True),
        ({"kind": "lie_total"}, "damaged_transfer", True),
        ({"kind": "lie_length"}, "damaged_transfer", True),
        ({"kind": "no_range"}, "damaged_transfer", True),
        ({"kind": "encode"}, "damaged_transfer", False),
        ({"kind": "ignore_range"}, "range_unsupported", False),
        ({"kind": "status", "status": 404}, "lfs_object_missing", False),
        ({"kind": "status", "status": 410}, "lfs_object_missing", False),
        ({"kind": "status", "status": 416}, "damaged_transfer", True),
        ({"kind": "status", "status": 500}, "server", True),
        ({"kind": "status", "status": 503, "body": b"x" * 200_000}, "server", True),
        ({"kind": "status", "status": 429}, "rate_limit", True),
        ({"kind": "status", "status": 413}, "too_large", False),
        ({"kind": "status", "status": 507}, "quota", False),
        ({"kind": "status", "status": 509}, "quota", False),
        ({"kind": "status", "status": 405}, "server", False),
        ({"kind": "status", "status": 304}, "server", False),
        ({"kind": "status", "status": 407}, "proxy", False),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) and "body" not in value else None,
)
def test_a_fault_is_told_and_over_with_the_next_request(
    make: Callable[..., Origin], server: FaultServer, fault: dict[str, Any], cause: str, retry: bool
) -> None:
    origin = make(server)
    server.fail(times=2 if fault["kind"] == "hangup" else 1, **fault)
    error = error_of(origin, start=1000, stop=900_000)
    assert (error.problem.cause, error.retry) == (cause, retry)
    assert read(origin, start=1000, stop=900_000) == CONTENT[1000:900_000]
    assert not origin._busy


def test_a_stall_ends_after_the_timeout(make: Callable[..., Origin], server: FaultServer) -> None:
    server.fail("stall", after=100_000)
    origin = make(server, timeout=0.5)
    begun = time.monotonic()
    error = error_of(origin)
    assert 0.4 < time.monotonic() - begun < 3
    assert (error.problem.cause, error.retry) == ("timeout", True)
    assert "0.5 s" in error.problem.found
    assert "model_timeout" in error.problem.remedy


def test_a_flipped_byte_is_left_to_the_hasher(make: Callable[..., Origin], server: FaultServer) -> None:
    server.fail("flip", after=17)
    found = read(make(server))
    assert [place for place in range(1000) if found[place] != CONTENT[place]] == [17]


def test_200_serves_the_whole_object_and_its_beginning(make: Callable[..., Origin], server: FaultServer) -> None:
    server.fail("ignore_range", times=3)
    origin = make(server)
    assert read(origin) == CONTENT
    assert read(origin, start=0, stop=1000) == CONTENT[:1000]
    assert read(origin, start=0, stop=MIB) == CONTENT[:MIB]
    assert not origin._busy


def test_200_of_another_length_is_refused(make: Callable[..., Origin], server: FaultServer) -> None:
    server.fail("ignore_range", times=9)
    origin = make(server, [Pointer(OID, len(CONTENT) + 1)])
    assert error_of(origin, stop=len(CONTENT) + 1).problem.cause == "damaged_transfer"


@pytest.mark.parametrize(("status", "place"), [(503, "object"), (429, "object"), (503, "batch"), (429, "batch")])
@pytest.mark.parametrize(("value", "wait"), [("7", 7), ("100000", 60), ("", 0), ("soon", 0), ("-5", 0)])
def test_a_server_that_asks_to_wait(
    make: Callable[..., Origin], server: FaultServer, status: int, place: str, value: str, wait: float
) -> None:
    server.fail("status", status=status, headers={"Retry-After": value} if value else {}, place=place)
    error = error_of(make(server))
    cause = "rate_limit" if status == 429 else "server"
    assert (error.problem.cause, error.retry, error.wait) == (cause, True, wait)
    assert (f"wait {value} s" in error.problem.found) is (value.isdigit())


def test_a_date_to_wait_for() -> None:
    now = 1_700_000_000.0
    assert retry_after(email.utils.formatdate(now + 30, usegmt=True), now) == 30
    assert retry_after(email.utils.formatdate(now + 3000, usegmt=True), now) == 60
    assert retry_after(email.utils.formatdate(now - 30, usegmt=True), now) == 0
    assert retry_after(None, now) == 0


# --- the end of tokens and addresses -----------------------------------------------------------------------------


def test_a_signed_address_that_ends_half_way_is_renewed_once(make: Callable[..., Origin]) -> None:
    with FaultServer(CONTENT, OTHER, signed=True) as server:
        origin = make(server)
        assert read(origin, start=0, stop=1000) == CONTENT[:1000]
        server.expire()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            parts = pool.map(lambda start: read(origin, start=start, stop=start + 100), range(0, 3200, 100))
            assert b"".join(parts) == CONTENT[:3200]
        assert read(origin, OTHER_OID, 0, 10) == OTHER[:10]
        assert server.batches == [[OID, OTHER_OID]] * 2, "one question for all threads and all objects"


def test_a_signature_for_few_uses(make: Callable[..., Origin]) -> None:
    with FaultServer(CONTENT, signed=True) as server:
        server.uses = 3
        origin = make(server, POINTERS[:1])
        parts = [read(origin, start=start, stop=start + 10) for start in range(0, 100, 10)]
        assert b"".join(parts) == CONTENT[:100]
        assert len(server.batches) == 4


@pytest.mark.parametrize(
    ("status", "header", "cause"),
    [
        (401, {}, "token_missing"),
        (401, {"Authorization": "Bearer secret-signature"}, "token_rejected"),
        (403, {}, "forbidden"),
        (400, {}, "server"),
    ],
)
def test_a_fresh_address_that_is_refused_too(
    make: Callable[..., Origin], server: FaultServer, status: int, header: dict[str, str], cause: str
) -> None:
    server.header = header
    server.fail("status", status=status, times=9, body=b"<Error>secret-signature</Error>")
    error = error_of(make(server))
    assert (error.problem.cause, error.retry) == (cause, False)
    assert len(server.batches) == 2
    assert len(server.requests("GET")) == 2


def test_a_token_that_ends_half_way(make: Callable[..., Origin]) -> None:
    with FaultServer(CONTENT, token=TOKEN, signed=True) as server:
        origin = make(server, token=TOKEN, credentials_host=server.url)
        read(origin, stop=10)
        server.token = "another"
        server.expire()
        error = error_of(origin)
        assert (error.problem.cause, error.retry) == ("token_rejected", False)


def test_an_address_is_renewed_before_it_ends(
    make: Callable[..., Origin], server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.expires = {"expires_in": 600}
    origin = make(server)
    clock = time.monotonic
    shift = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock() + shift)
    for shift, batches in ((0, 1), (560, 1), (575, 2), (1140, 2), (1160, 3)):  # the lambda reads shift
        read(origin, stop=10)
        assert len(server.batches) == batches, shift


def test_the_life_of_an_address() -> None:
    def life(expires_at: float | None) -> float:
        return life_of(Action("https://cdn.example/", {}, expires_at), 1000.0)

    assert life(None) == math.inf
    assert life(1000.0 + 3600) == 3570
    assert life(1010.0) == pytest.approx(9)
    # Clocks differ: neither a question for every range, nor the same address for ever.
    assert life(1000.0) == life(-50.0) == _lfs_origin.SKEWED_LIFE


# --- faults of the batch API -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "cause", "retry"),
    [
        (400, "server", False),
        (401, "token_missing", False),
        (403, "forbidden", False),
        (404, "repository_not_found", False),
        (405, "transfer_unsupported", False),
        (402, "quota", False),
        (422, "server", False),
        (429, "rate_limit", True),
        (500, "server", True),
        (501, "transfer_unsupported", False),
        (502, "server", True),
        (507, "quota", False),
        (509, "quota", False),
    ],
)
def test_a_question_that_fails(
    make: Callable[..., Origin], server: FaultServer, status: int, cause: str, retry: bool
) -> None:
    server.fail("status", status=status, place="batch", body=b'{"message": "it is so."}')
    origin = make(server)
    error = error_of(origin)
    assert (error.problem.cause, error.retry) == (cause, retry)
    assert f"({status}: it is so)" in error.problem.found
    assert read(origin, stop=10) == CONTENT[:10], "the next question may be answered"


@pytest.mark.parametrize("status", [401, 403, 422, 429, 503])
@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b'{"message": "This repository is over its data quota."}', "quota"),
        (b'{"error": "Access to model a/b is restricted. You must be authenticated to access it."}', "licence"),
        (b'{"error": "We had to rate limit your IP."}', "rate_limit"),
    ],
)
def test_what_the_server_says_counts_before_its_status(
    make: Callable[..., Origin], server: FaultServer, status: int, body: bytes, cause: str
) -> None:
    server.fail("status", status=status, place="batch", body=body)
    assert error_of(make(server)).problem.cause == cause


def test_a_question_that_is_too_large_even_for_one_object(make: Callable[..., Origin], server: FaultServer) -> None:
    server.fail("status", status=413, place="batch", times=9)
    error = error_of(make(server))
    assert (error.problem.cause, error.retry) == ("too_large", False)


def test_what_the_server_says_in_plain_text(make: Callable[..., Origin], server: FaultServer) -> None:
    body = b"Access to model a/b is restricted and you are not in the authorized list."
    server.fail("status", status=403, place="batch", body=body, headers={"Content-Type": "text/plain; charset=utf-8"})
    error = error_of(make(server))
    assert error.problem.cause == "licence"
    assert "not in the authorized list" in error.problem.found


def test_a_page_in_the_place_of_the_answer(make: Callable[..., Origin], server: FaultServer) -> None:
    server.fail("status", status=200, place="batch", body=b"<!DOCTYPE html><title>Log in</title>")
    error = error_of(make(server))
    assert (error.problem.cause, error.retry) == ("web_page", False)


@pytest.mark.parametrize(
    ("batch", "cause"), [({"transfer": "xet"}, "transfer_unsupported"), ({"objects": 5}, "server")]
)
def test_an_answer_that_cannot_be_used(
    make: Callable[..., Origin], server: FaultServer, batch: dict[str, Any], cause: str
) -> None:
    server.batch = batch
    assert error_of(make(server)).problem.cause == cause


def test_one_missing_object_does_not_hinder_the_others(make: Callable[..., Origin], server: FaultServer) -> None:
    missing = Pointer("f" * 64, 5)
    origin = make(server, [missing, *POINTERS])
    for _ in range(2):
        error = error_of(origin, missing.oid, 0, 5)
        assert (error.problem.cause, error.retry) == ("lfs_object_missing", False)
        assert missing.oid in error.problem.found
    assert read(origin, stop=10) == CONTENT[:10]
    assert len(server.batches) == 1


def test_a_passing_error_of_one_object_is_asked_again(make: Callable[..., Origin], server: FaultServer) -> None:
    server.entry = {"error": {"code": 500, "message": "busy"}}
    origin = make(server)
    error = error_of(origin)
    assert (error.problem.cause, error.retry) == ("server", True)
    server.entry = {}
    assert read(origin, stop=10) == CONTENT[:10]


def test_threads_share_one_failure(make: Callable[..., Origin], server: FaultServer) -> None:
    """A dead server costs each thread one timeout, not one after the other."""
    origin = make(server)
    held = threading.Barrier(9)
    ask = origin._batch

    def slowly(group: Any) -> Any:
        time.sleep(0.5)
        return ask(group)

    origin._batch = slowly  # type: ignore[method-assign]  # slow enough that all threads wait for it
    server.fail("status", status=500, place="batch", times=99)

    def one(_number: int) -> str:
        held.wait()
        return error_of(origin).problem.cause

    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        assert list(pool.map(one, range(9))) == ["server"] * 9
    assert len(server.seen) < 4


# --- who is told what --------------------------------------------------------------------------------------------


def authorizations(server: FaultServer) -> set[str]:
    return {request["headers"].get("authorization", "") for request in server.seen}


@pytest.mark.parametrize("form", ["{url}", "{url}/org/model", "127.0.0.1:{port}"])
def test_the_token_goes_to_its_host(make: Callable[..., Origin], form: str) -> None:
    with FaultServer(CONTENT, token=TOKEN, signed=True) as server:
        home = form.format(url=server.url, port=server.port)
        origin = make(server, token=TOKEN, username="me", credentials_host=home)
        assert read(origin) == CONTENT
        batch, download = server.seen
        assert batch["headers"]["authorization"].startswith("Basic ")
        assert "authorization" not in download["headers"], "a signed address needs no token"


@pytest.mark.parametrize("home", ["", "hub.example", "https://127.0.0.1", "127.0.0.1", "127.0.0.1:1", "https://[::1"])
def test_the_token_goes_to_no_other_server(make: Callable[..., Origin], server: FaultServer, home: str) -> None:
    read(make(server, token=TOKEN, credentials_host=home))
    assert authorizations(server) == {""}


def test_a_server_that_is_not_the_tokens_host_asks_for_one(make: Callable[..., Origin]) -> None:
    with FaultServer(CONTENT, token=TOKEN) as server:
        error = error_of(make(server, token=TOKEN, credentials_host="https://hub.example"))
        assert (error.problem.cause, error.retry) == ("token_missing", False)
        assert "hub.example" in error.problem.found
        assert authorizations(server) == {""}


def test_no_token_and_a_wrong_one(make: Callable[..., Origin]) -> None:
    with FaultServer(CONTENT, token=TOKEN) as server:
        assert error_of(make(server)).problem.cause == "token_missing"
        assert error_of(make(server, token="wrong", credentials_host=server.url)).problem.cause == "token_rejected"


def test_a_server_that_repeats_the_token_in_its_message(make: Callable[..., Origin], server: FaultServer) -> None:
    body = b'{"message": "bad password made-up-token"}'
    server.fail("status", status=403, place="batch", body=body)
    error = error_of(make(server, token=TOKEN, credentials_host=server.url))
    assert "bad password ********" in error.problem.found


def test_credentials_of_the_endpoint_go_to_the_endpoint(make: Callable[..., Origin], server: FaultServer) -> None:
    with FaultServer(CONTENT, token=TOKEN) as other:
        server.token = TOKEN
        server.base = other.url
        origin = make(server.endpoint.replace("://", f"://me:{TOKEN}@"))
        assert TOKEN not in origin.repo
        assert error_of(origin).problem.cause == "token_missing"
        assert len(server.batches) == 2
        assert authorizations(other) == {""}


def test_an_action_without_credentials_gets_the_token_on_its_host_alone(make: Callable[..., Origin]) -> None:
    with FaultServer(CONTENT, token=TOKEN) as server:
        server.entry = {"authenticated": False}
        origin = make(server, token=TOKEN, credentials_host=server.url)
        assert read(origin, stop=10) == CONTENT[:10]
        assert read(origin, stop=10) == CONTENT[:10]
        assert len(server.requests("GET")) == 3, "only the first is sent without, as most need none"
        assert len(server.batches) == 1


@pytest.mark.parametrize("authenticated", [True, False])
def test_a_download_elsewhere_never_sees_the_token(make: Callable[..., Origin], authenticated: bool) -> None:
    with FaultServer(CONTENT, token=TOKEN) as hub, FaultServer(CONTENT, token="of the other") as other:
        hub.base = other.url
        hub.entry = {"authenticated": authenticated}
        assert error_of(make(hub, token=TOKEN, credentials_host=hub.url)).problem.cause == "token_missing"
        assert other.requests("GET")
        assert authorizations(other) == {""}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_takes_no_header_along(make: Callable[..., Origin], status: int) -> None:
    with FaultServer(CONTENT) as hub, FaultServer(CONTENT) as other:
        hub.header = {"Authorization": "Bearer for-hub", "X-For-Hub": "yes"}
        hub.fail("redirect", status=status, to=f"{other.url}/elsewhere/{OID}?sig=1", times=9)
        origin = make(hub, token=TOKEN, credentials_host=hub.url)
        assert read(origin, start=5, stop=500) == CONTENT[5:500]
        assert hub.requests("GET")[0]["headers"]["x-for-hub"] == "yes"
        (request,) = other.seen
        assert request["query"] == "sig=1"
        assert request["headers"]["range"] == "bytes=5-499"
        assert not {"authorization", "x-for-hub"} & set(request["headers"])


def test_a_redirect_back_home_takes_no_header_along_either(make: Callable[..., Origin]) -> None:
    with FaultServer(CONTENT) as hub, FaultServer(CONTENT) as other:
        hub.header = {"Authorization": "Bearer for-hub"}
        hub.fail("redirect", to=f"{other.url}/{OID}")
        other.fail("redirect", to=f"{hub.url}/{OID}")
        assert read(make(hub), stop=10) == CONTENT[:10]
        assert "authorization" not in hub.seen[-1]["headers"]


def test_a_redirect_on_the_same_server_keeps_the_headers(make: Callable[..., Origin], server: FaultServer) -> None:
    server.header = {"Authorization": "Bearer x"}
    server.fail("redirect", to=f"/moved/{OID}")
    assert read(make(server), stop=10) == CONTENT[:10]
    assert server.seen[-1]["path"] == f"/moved/{OID}"
    assert server.seen[-1]["headers"]["authorization"] == "Bearer x"


def test_a_question_that_is_redirected_is_asked_there_without_the_token(make: Callable[..., Origin]) -> None:
    with FaultServer(CONTENT, token=TOKEN) as hub, FaultServer(CONTENT) as other:
        hub.fail("redirect", place="batch", to=f"{other.url}/org/new.git/info/lfs/objects/batch")
        assert read(make(hub, token=TOKEN, credentials_host=hub.url), stop=10) == CONTENT[:10]
        assert authorizations(other) == {""}
        assert other.batches == [[OID, OTHER_OID]]


def test_a_redirect_beyond_ascii(make: Callable[..., Origin], server: FaultServer) -> None:
    server.fail("redirect", to=f"/\u00fc \u2603/{OID}".encode().decode("latin-1"))
    assert read(make(server), stop=10) == CONTENT[:10]
    assert server.seen[-1]["path"] == f"/%C3%BC%20%E2%98%83/{OID}"


@pytest.mark.parametrize(("hops", "works"), [(5, True), (6, False)])
def test_redirects_come_to_an_end(make: Callable[..., Origin], server: FaultServer, hops: int, works: bool) -> None:
    server.fail("redirect", to=f"/{OID}", times=hops)
    origin = make(server)
    if works:
        assert read(origin, stop=10) == CONTENT[:10]
    else:
        error = error_of(origin)
        assert (error.problem.cause, error.retry) == ("redirect", False)
        assert "5 times" in error.problem.found


@pytest.mark.parametrize("to", ["ftp://hub.example/x", "file:///etc/passwd", "http://[::1/", "http:///x"])
def test_a_redirect_to_nowhere(make: Callable[..., Origin], server: FaultServer, to: str) -> None:
    server.fail("redirect", to=to, times=9)
    assert error_of(make(server)).problem.cause == "redirect"


def test_a_rewritten_address_gets_no_header_of_the_action(make: Callable[..., Origin], server: FaultServer) -> None:
    with FaultServer(CONTENT) as mirror:
        server.header = {"Authorization": "Bearer for-hub"}
        origin = make(server, rewrite=lambda href: href.replace(server.url, mirror.url))
        assert read(origin, stop=10) == CONTENT[:10]
        assert authorizations(mirror) == {""}
        assert not server.requests("GET")


def test_whom_a_secret_belongs_to() -> None:
    hub = site_of("https://Hub.Example/a")
    assert hub == Site("https", "hub.example", 443)
    assert same_party(hub, site_of("https://hub.example:443/b"))
    assert same_party(site_of("http://hub.example/"), hub), "the step up to https"
    for other in ("http://hub.example", "https://hub.example:8443", "https://a.hub.example", "https://hub.example.org"):
        assert not same_party(hub, site_of(other))
    assert not same_party(site_of("http://hub.example:8080/"), hub)


# --- the way there -----------------------------------------------------------------------------------------------


def test_nobody_listens(make: Callable[..., Origin], closed_port: int) -> None:
    error = error_of(make(f"http://127.0.0.1:{closed_port}/org/model.git/info/lfs"))
    assert (error.problem.cause, error.retry) == ("connection", True)
    assert f"127.0.0.1:{closed_port}" in error.problem.found


@pytest.mark.parametrize(
    ("number", "retry"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)], ids=["unknown", "resolver down"]
)
def test_a_name_that_does_not_resolve(
    make: Callable[..., Origin], monkeypatch: pytest.MonkeyPatch, number: int, retry: bool
) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise socket.gaierror(number, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = error_of(make("https://hub.example/org/model.git/info/lfs"))
    assert (error.problem.cause, error.retry) == ("dns", retry)
    assert "hub.example" in error.problem.found
    error = error_of(
        make("https://hub.example/x", environ={"https_proxy": "http://u:secret-signature@proxy.example:1"})
    )
    assert (error.problem.cause, error.retry) == ("proxy", retry)
    assert "proxy.example:1" in error.problem.found


@pytest.mark.parametrize("endpoint", ["", "ssh://git@hub.example/x", "/srv/model.git"])
def test_an_endpoint_of_another_kind(endpoint: str) -> None:
    with pytest.raises(SourceError) as caught:
        Origin(endpoint, POINTERS)
    assert caught.value.problem.cause == "transfer_unsupported"


def test_tls_with_the_bundle_of_the_repository(
    make: Callable[..., Origin], certificate: Path, tls: ssl.SSLContext
) -> None:
    with FaultServer(CONTENT, OTHER, context=tls) as server:
        origin = make(server, ca_file=str(certificate))
        assert read(origin) == CONTENT
        assert read(origin, start=9, stop=99) == CONTENT[9:99]
        assert server.connections == 1


@pytest.mark.parametrize("variable", ["GIT_SSL_CAINFO", "SSL_CERT_FILE"])
def test_tls_with_the_bundle_of_the_environment(
    make: Callable[..., Origin], certificate: Path, tls: ssl.SSLContext, variable: str
) -> None:
    with FaultServer(CONTENT, context=tls) as server:
        assert read(make(server, environ={variable: str(certificate)}), stop=99) == CONTENT[:99]


def test_tls_that_is_not_trusted(make: Callable[..., Origin], tls: ssl.SSLContext) -> None:
    with FaultServer(CONTENT, context=tls) as server:
        error = error_of(make(server))
        assert (error.problem.cause, error.retry) == ("tls", False)
        assert "model_ca_path" in error.problem.remedy
        assert not server.seen


def test_tls_to_a_server_that_speaks_none(make: Callable[..., Origin], server: FaultServer) -> None:
    error = error_of(make(server.endpoint.replace("http:", "https:")))
    assert error.problem.cause == "tls"
    assert "scheme and port in model_repo" in error.problem.remedy
    assert "vicuna_ca_certificates" not in error.problem.remedy


@pytest.mark.parametrize("content", [None, "not a bundle"])
def test_a_bundle_that_cannot_be_read(make: Callable[..., Origin], tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content:
        bundle.write_text(content)
    error = error_of(make("https://127.0.0.1:1/x", ca_file=str(bundle)))
    assert (error.problem.cause, error.retry) == ("tls", False)
    assert str(bundle) in error.problem.found


def test_a_redirect_from_https_to_http_is_refused(
    make: Callable[..., Origin], certificate: Path, tls: ssl.SSLContext, server: FaultServer
) -> None:
    with FaultServer(CONTENT, context=tls) as hub:
        hub.fail("redirect", to=f"{server.url}/{OID}?sig=secret-signature")
        error = error_of(make(hub, ca_file=str(certificate)))
        assert (error.problem.cause, error.retry) == ("insecure_redirect", False)
        assert not server.seen


# --- proxies -----------------------------------------------------------------------------------------------------


def test_a_proxy_for_http(make: Callable[..., Origin], server: FaultServer) -> None:
    with FakeProxy("us:er%") as proxy:
        environ = {"HTTP_PROXY": f"http://us:er%25@{proxy.address}/"}
        assert read(make(server, environ=environ), stop=99) == CONTENT[:99]
        assert [request["path"] for request in proxy.seen] == [
            f"{server.endpoint}/objects/batch",
            f"{server.url}/org/model/objects/{OID}",
        ]
        assert not any("proxy-authorization" in request["headers"] for request in server.seen)


def test_a_tunnel_for_https(make: Callable[..., Origin], certificate: Path, tls: ssl.SSLContext) -> None:
    with FaultServer(CONTENT, token=TOKEN, signed=True, context=tls) as server, FakeProxy("user:word") as proxy:
        environ = {"https_proxy": f"user:word@{proxy.address}"}
        options = {"token": TOKEN, "credentials_host": server.url, "ca_file": str(certificate)}
        assert read(make(server, environ=environ, **options)) == CONTENT
        assert [request["method"] for request in proxy.seen] == ["CONNECT"], "one tunnel, kept"
        assert "authorization" not in proxy.seen[0]["headers"]
        assert not any("proxy-authorization" in request["headers"] for request in server.seen)


@pytest.mark.parametrize(("scheme", "method"), [("http", "POST"), ("https", "CONNECT")])
def test_a_proxy_that_wants_credentials(make: Callable[..., Origin], scheme: str, method: str) -> None:
    with FakeProxy("user:word") as proxy:
        error = error_of(make(f"{scheme}://127.0.0.1:1/x", environ={"all_proxy": f"http://{proxy.address}"}))
        assert (error.problem.cause, error.retry) == ("proxy", False)
        assert "407" in error.problem.found
        assert proxy.address in error.problem.found
        assert "https_proxy" in error.problem.remedy
        assert [request["method"] for request in proxy.seen] == [method]


@pytest.mark.parametrize(("status", "retry"), [(403, False), (502, True), (503, True)])
def test_a_proxy_that_refuses_the_tunnel(make: Callable[..., Origin], status: int, retry: bool) -> None:
    with FakeProxy(status=status) as proxy:
        error = error_of(make("https://127.0.0.1:1/x", environ={"https_proxy": f"http://{proxy.address}"}))
        assert (error.problem.cause, error.retry) == ("proxy", retry)
        assert str(status) in error.problem.found


def test_a_proxy_that_is_not_there(make: Callable[..., Origin], closed_port: int) -> None:
    environ = {"http_proxy": f"http://me:secret-signature@127.0.0.1:{closed_port}"}
    error = error_of(make("http://hub.example/x", environ=environ))
    assert (error.problem.cause, error.retry) == ("proxy", True)
    assert f"127.0.0.1:{closed_port}" in error.problem.found


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "https://proxy.example:1"])
def test_a_proxy_of_another_kind_is_left_to_git_lfs(make: Callable[..., Origin], proxy: str) -> None:
    error = error_of(make("http://hub.example/x", environ={"all_proxy": proxy}))
    assert (error.problem.cause, error.retry) == ("transfer_unsupported", False)


def test_no_proxy_is_honoured(make: Callable[..., Origin], server: FaultServer, closed_port: int) -> None:
    environ = {"http_proxy": f"http://127.0.0.1:{closed_port}", "NO_PROXY": "hub.example,127.0.0.0/8"}
    assert read(make(server, environ=environ), stop=99) == CONTENT[:99]


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, "https://h.example", ""),
        ({"https_proxy": "http://p:1"}, "https://h.example", "http://p:1"),
        ({"https_proxy": "p:1"}, "https://h.example", "http://p:1"),
        ({"https_proxy": "http://p:1"}, "http://h.example", ""),
        ({"HTTPS_PROXY": "http://big:1", "https_proxy": "http://small:1"}, "https://h.example", "http://small:1"),
        ({"HTTPS_PROXY": "http://big:1", "https_proxy": ""}, "https://h.example", ""),
        ({"ALL_PROXY": "http://p:1"}, "https://h.example", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "http_proxy": "http://q:1"}, "http://h.example", "http://q:1"),
        ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http://h.example", ""),
    ],
)
def test_which_proxy(environ: dict[str, str], url: str, proxy: str) -> None:
    assert proxy_for(site_of(url), proxies_of(environ)) == proxy


@pytest.mark.parametrize(
    ("exceptions", "url", "direct"),
    [
        ("*", "https://h.example", True),
        ("h.example", "https://h.example", True),
        ("h.example", "https://a.h.example", True),
        (".h.example", "https://a.h.example", True),
        ("*.h.example", "https://a.h.example", True),
        ("h.example", "https://notH.example", False),
        ("a.h.example", "https://h.example", False),
        ("x, H.Example ", "https://h.example", True),
        ("h.example:443", "https://h.example", True),
        ("h.example:8443", "https://h.example", False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("fd00::/8", "https://[fd00::1]:8443", True),
        ("10.0.0.0/8", "https://h.example", False),
        ("10.0.0.0/99", "https://10.1.2.3", False),
        (".", "https://h.example", False),
        ("", "https://h.example", False),
    ],
)
def test_exceptions_from_the_proxy(exceptions: str, url: str, direct: bool) -> None:
    found = proxy_for(site_of(url), proxies_of({"https_proxy": "http://p:1", "no_proxy": exceptions}))
    assert found == ("" if direct else "http://p:1")


# --- pure parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "true"),
    [
        ({"Content-Range": "bytes 10-19/100"}, True),
        ({"Content-Range": "bytes 10-19/*"}, True),
        ({"Content-Range": " Bytes 10-19/100 ", "Content-Length": "10"}, True),
        ({"Content-Range": "bytes 10-18/100"}, False),
        ({"Content-Range": "bytes 0-19/100"}, False),
        ({"Content-Range": "bytes 10-19/101"}, False),
        ({"Content-Range": "bytes */100"}, False),
        ({"Content-Range": "items 10-19/100"}, False),
        ({"Content-Range": "bytes 10-19/100", "Content-Length": "11"}, False),
        ({"Content-Range": "bytes 10-19/100", "Content-Length": "ten"}, False),
        ({}, False),
    ],
)
def test_a_lie_in_the_range(headers: dict[str, str], true: bool) -> None:
    assert (range_lie(headers, 10, 20, 100) == "") is true
