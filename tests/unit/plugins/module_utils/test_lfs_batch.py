# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Git LFS Batch API: questions, answers, addresses."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _git_errors, _lfs_batch
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import Problem
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_batch import (
    Action,
    clean_url,
    endpoint_of,
    expiry,
    lfs_problem,
    parse_lfs_env,
    parse_response,
    repo_of,
    request_body,
    safe_url,
)

REPO = "https://hub.example/org/model"
ONE, TWO = "1" * 64, "2" * 64


@dataclass(frozen=True)
class Pointer:
    oid: str
    size: int


POINTERS = [Pointer(ONE, 10), Pointer(TWO, 20)]


def answer(*objects: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"transfer": "basic", "objects": list(objects), **more}).encode()


def download(oid: str = ONE, href: str = "https://cdn.example/1?sig=s3cret", **more: Any) -> dict[str, Any]:
    return {"oid": oid, "size": 10, "actions": {"download": {"href": href, **more}}}


def action_of(*objects: dict[str, Any], now: float = 1000.0) -> Action:
    found = parse_response(answer(*objects), POINTERS[:1], repo=REPO, now=now)[ONE]
    assert isinstance(found, Action)
    return found


def problem_of(body: bytes, **options: Any) -> Problem:
    found = parse_response(body, POINTERS[:1], repo=REPO, **options)[ONE]
    assert isinstance(found, Problem)
    return found


def test_a_request_asks_for_downloads_by_the_basic_transfer() -> None:
    assert json.loads(request_body(POINTERS)) == {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": ONE, "size": 10}, {"oid": TWO, "size": 20}],
    }


def test_an_action_has_address_headers_and_end() -> None:
    entry = download(header={"Authorization": "Bearer x", "X-Amz": "y"}, expires_in=3600)
    found = action_of({**entry, "authenticated": True})
    assert found.href == "https://cdn.example/1?sig=s3cret"
    assert found.headers == {"Authorization": "Bearer x", "X-Amz": "y"}
    assert found.expires_at == 4600.0
    assert found.authenticated


def test_an_action_shows_no_secret() -> None:
    text = repr(action_of(download(header={"Authorization": "Bearer s3cret"})))
    assert "s3cret" not in text


def test_an_address_with_credentials_becomes_a_header() -> None:
    found = action_of(download(href="https://us%40er:pass@cdn.example/1"))
    assert found.href == "https://cdn.example/1"
    assert base64.b64decode(found.headers["Authorization"][6:]) == b"us@er:pass"


def test_headers_of_the_connection_are_not_taken_from_an_action() -> None:
    found = action_of(download(header={"Range": "bytes=0-1", "hOST": "other.example", "Accept-Encoding": "gzip"}))
    assert found.headers == {}


@pytest.mark.parametrize(
    "header", [{"X": "a\r\nHost: evil"}, {"X\n": "a"}, {"X": 1}, ["a"], {"X": "\u2603"}, {"": "a"}]
)
def test_headers_that_would_break_the_request_are_refused(header: Any) -> None:
    assert problem_of(answer(download(header=header))).cause == "server"


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({}, None),
        ({"expires_in": 0}, None),
        ({"expires_in": 60}, 1060.0),
        ({"expires_in": -5}, 995.0),
        ({"expires_in": True}, None),
        ({"expires_in": 60, "expires_at": "2016-11-10T15:29:07Z"}, 1060.0),
        ({"expires_at": "2016-11-10T15:29:07Z"}, 1478791747.0),
        ({"expires_at": "2016-11-10T15:29:07.123456789Z"}, 1478791747.0),
        ({"expires_at": "2016-11-10T16:29:07+01:00"}, 1478791747.0),
        ({"expires_at": "0001-01-01T00:00:00Z"}, None),
        ({"expires_at": "2016-13-40T15:29:07Z"}, None),
        ({"expires_at": "soon"}, None),
        ({"expires_at": 5}, None),
        ({"expires_at": ""}, None),
    ],
)
def test_the_end_of_an_action(action: dict[str, Any], expected: float | None) -> None:
    assert expiry(action, 1000.0) == expected


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (404, "lfs_object_missing"),
        (410, "lfs_object_missing"),
        (422, "lfs_object_missing"),
        (401, "token_missing"),
        (403, "forbidden"),
        # As text, as some servers write it.
        ("403", "forbidden"),
        ("404", "lfs_object_missing"),
        (409, "transfer_unsupported"),
        (402, "quota"),
        (413, "too_large"),
        (429, "rate_limit"),
        (507, "quota"),
        (509, "quota"),
        (500, "server"),
        (None, "server"),
    ],
)
def test_the_error_of_an_object(code: int | str | None, cause: str) -> None:
    body = answer(
        {"oid": ONE, "size": 10, "error": {"code": code, "message": "Object\ndoes not exist."}}, download(TWO)
    )
    found = parse_response(body, POINTERS, repo=REPO)
    problem = found[ONE]
    assert isinstance(problem, Problem)
    assert problem.cause == cause
    assert ONE in problem.found
    assert "Object does not exist)" in problem.found
    assert isinstance(found[TWO], Action), "one object's error is not the other's"


@pytest.mark.parametrize("code", [403, 404, 422, 429, 500, 509])
@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("This repository is over its data quota. Purchase more data packs to restore access.", "quota"),
        ("This repository exceeded its LFS budget. The account responsible should increase it.", "quota"),
        ("Access to model a/b is restricted and you are not in the authorized list.", "licence"),
        ("Rate limit exceeded", "rate_limit"),
        ("Git LFS is disabled for this repository.", "lfs_disabled"),
    ],
)
def test_what_the_server_says_of_an_object_counts_before_its_code(code: int, message: str, cause: str) -> None:
    problem = problem_of(answer({"oid": ONE, "error": {"code": code, "message": message}}))
    assert problem.cause == cause
    assert message.rstrip(".") in problem.found


def test_a_signature_in_the_servers_words_is_not_told() -> None:
    message = "no: https://cdn.example/x?X-Amz-Signature=s3cret, for https://me:s3cret@cdn.example/"
    for code in (403, 404, 500):
        assert "s3cret" not in str(problem_of(answer({"oid": ONE, "error": {"code": code, "message": message}})))


def test_an_error_401_with_a_token_is_a_rejected_token() -> None:
    body = answer({"oid": ONE, "error": {"code": 401, "message": "no"}})
    assert problem_of(body, has_token=True).cause == "token_rejected"


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"<html>log in</html>", "web_page"),
        (b"\n<!DOCTYPE html>\n<title>Log in</title>", "web_page"),
        (b"\xff\xfe", "server"),
        (b"[]", "server"),
        (b"[" * 100_000, "server"),
        (b"{}", "server"),
        (b'{"objects": null}', "server"),
        (b'{"objects": [{"oid": []}]}', "server"),
        (answer(), "lfs_object_missing"),
        (answer("text", None), "lfs_object_missing"),  # type: ignore[arg-type]  # what a broken server may say
        (answer({"oid": ONE, "size": 10}), "lfs_object_missing"),
        (answer({"oid": ONE, "size": 10, "actions": {"upload": {}}}), "lfs_object_missing"),
        (answer({"oid": ONE, "error": "broken"}), "server"),
        (answer({"oid": ONE, "error": "over its data quota"}), "quota"),
        (answer(download(), transfer="lfs-standalone-file"), "transfer_unsupported"),
        (answer(download(), transfer="xet"), "transfer_unsupported"),
        (answer(download(), hash_algo="sha512"), "transfer_unsupported"),
        (answer(download(href="file:///etc/passwd")), "transfer_unsupported"),
        (answer(download(href="ssh://hub.example/1")), "transfer_unsupported"),
        (answer(download(href=5)), "transfer_unsupported"),  # type: ignore[arg-type]  # what a broken server may say
        (answer(download(href="https://[::1/1")), "transfer_unsupported"),
        (answer(download(href="https://a b/1")), "transfer_unsupported"),
    ],
)
def test_an_answer_that_is_not_to_be_used(body: bytes, cause: str) -> None:
    assert problem_of(body).cause == cause


def test_an_answer_without_a_transfer_is_basic() -> None:
    body = json.dumps({"objects": [download()]}).encode()
    assert isinstance(parse_response(body, POINTERS[:1])[ONE], Action)


def test_no_answer_is_an_exception() -> None:
    """Random damage of a good answer gives an action or a problem for each object, never an exception."""
    good = answer(download(header={"A": "b"}, expires_at="2016-11-10T15:29:07Z"), download(TWO, expires_in=5))
    chance = random.Random(4)
    for _ in range(3000):
        body = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(body))
            body[place : place + chance.randrange(0, 3)] = bytes(chance.choices(b'{}[]":,0a\\\xff \n@', k=2))
        found = parse_response(bytes(body), POINTERS, repo=REPO)
        assert set(found) == {ONE, TWO}
        assert all(isinstance(value, (Action, Problem)) for value in found.values())


def test_every_cause_keeps_its_name_and_has_a_remedy() -> None:
    for cause in (*_git_errors._FAULTS, *_lfs_batch._OWN):
        problem = lfs_problem(cause, "it was so.", repo="https://timeout.example/certificate/forbidden", timeout=9)
        assert problem.cause == _git_errors._FAULTS.get(cause, (cause,))[0]
        assert problem.found == "it was so."
        assert problem.expected
        assert problem.remedy
    assert "model_ca_path" in lfs_problem("tls", "", repo=REPO).remedy
    assert "model_timeout" in lfs_problem("timeout", "", repo=REPO).remedy
    assert "https_proxy" in lfs_problem("proxy", "", repo=REPO).remedy
    assert "model_repo" in lfs_problem("dns", "", repo=REPO).remedy
    assert "model_token" in lfs_problem("token_missing", "", repo=REPO).remedy


@pytest.mark.parametrize(
    ("repo", "endpoint"),
    [
        ("https://hub.example/org/model", "https://hub.example/org/model.git/info/lfs"),
        ("https://hub.example/org/model/", "https://hub.example/org/model.git/info/lfs"),
        ("https://hub.example/org/model.git", "https://hub.example/org/model.git/info/lfs"),
        ("https://hub.example/org/model.git/", "https://hub.example/org/model.git/info/lfs"),
        ("http://hub.example:8080/vicuna-7b-v1.5", "http://hub.example:8080/vicuna-7b-v1.5.git/info/lfs"),
        ("ssh://git@hub.example/org/model.git", None),
        ("git@hub.example:org/model.git", None),
        ("file:///srv/model.git", None),
        ("/srv/model.git", None),
        ("git://hub.example/model.git", None),
        ("https:///model", None),
    ],
)
def test_the_server_of_a_repository(repo: str, endpoint: str | None) -> None:
    assert endpoint_of(repo) == endpoint


# What `git lfs env` of git-lfs 3.3.0 prints; the format of these lines is the same from 3.0 to 3.7.
ENV_HEAD = "git-lfs/3.3.0 (GitHub; linux amd64; go 1.19.8)\ngit version 2.39.5\n\n"
ENV_TAIL = """LocalWorkingDir=/srv/model
LocalGitDir=/srv/model/.git
LocalGitStorageDir=/srv/model/.git
LocalMediaDir=/srv/model/.git/lfs/objects
LocalReferenceDirs=
TempDir=/srv/model/.git/lfs/tmp
ConcurrentTransfers=8
TusTransfers=false
BasicTransfersOnly=false
SkipDownloadErrors=false
FetchRecentAlways=false
FetchRecentRefsDays=7
FetchRecentCommitsDays=0
FetchRecentRefsIncludeRemotes=true
PruneOffsetDays=3
PruneVerifyRemoteAlways=false
PruneRemoteName=origin
LfsStorageDir=/srv/model/.git/lfs
AccessDownload=none
AccessUpload=none
DownloadTransfers=basic,lfs-standalone-file,ssh
UploadTransfers=basic,lfs-standalone-file,ssh
GIT_EXEC_PATH=/usr/lib/git-core
git config filter.lfs.process = "git-lfs filter-process"
git config filter.lfs.smudge = "git-lfs smudge -- %f"
git config filter.lfs.clean = "git-lfs clean -- %f"
"""


@pytest.mark.parametrize(
    ("lines", "endpoint"),
    [
        pytest.param(
            "Endpoint=https://hub.example/org/model.git/info/lfs (auth=none)\n",
            "https://hub.example/org/model.git/info/lfs",
            id="plain",
        ),
        pytest.param(
            "Endpoint=https://lfs.other.example/x (auth=none)\n",
            "https://lfs.other.example/x",
            id="lfs.url of .lfsconfig",
        ),
        pytest.param(
            "Endpoint=https://mirror.example/org/model.git/info/lfs (auth=none)\n"
            "Endpoint (up)=https://h.example/a.git/info/lfs (auth=none)\n  SSH=git@h.example:/a\n",
            "https://mirror.example/org/model.git/info/lfs",
            id="insteadOf, and a second remote by ssh",
        ),
        pytest.param("Endpoint=https://l.example/o (auth=basic)\n", "https://l.example/o", id="remote.origin.lfsurl"),
        pytest.param(
            "Endpoint=https://hub.example/org/model.git/info/lfs (auth=none)\n  SSH=git@hub.example:org/model.git\n",
            None,
            id="ssh",
        ),
        pytest.param("Endpoint=/srv/y.git/info/lfs (auth=none)\n", None, id="path in git-lfs 3.3"),
        pytest.param("Endpoint=file:///srv/y.git (auth=none)\n", None, id="file"),
        pytest.param("Endpoint=<unknown> (auth=none)\n", None, id="unknown"),
        pytest.param("Endpoint (up)=https://h.example/a.git/info/lfs (auth=none)\n", None, id="another remote alone"),
        pytest.param(
            "Endpoint=https://up.example/a.git/info/lfs (auth=none)\n"
            "Endpoint (origin)=https://h.example/a.git/info/lfs (auth=none)\n",
            "https://h.example/a.git/info/lfs",
            id="origin by name",
        ),
        pytest.param("", None, id="no remote"),
    ],
)
def test_the_server_that_git_lfs_names(lines: str, endpoint: str | None) -> None:
    assert parse_lfs_env(ENV_HEAD + lines + ENV_TAIL) == endpoint


def test_an_address_is_shown_without_its_secrets() -> None:
    assert safe_url("https://user:pw@cdn.example:8443/a/b?X-Signature=s3cret#part") == "https://cdn.example:8443/a/b"
    assert safe_url("https://[::1/") == "an address that cannot be read"
    assert repo_of("https://u:p@hub.example/org/model.git/info/lfs") == "https://hub.example/org/model.git"


@pytest.mark.parametrize(
    ("url", "cleaned"),
    [
        ("https://h.example/a b?x=1 2#f", ("https://h.example/a%20b?x=1%202", "")),
        ("https://h.example/a%20b?x=%2F", ("https://h.example/a%20b?x=%2F", "")),
        ("https://h.example", ("https://h.example/", "")),
        ("https://b\u00fccher.example/\u00fc", ("https://xn--bcher-kva.example/%C3%BC", "")),
        ("http://u:p@[::1]:80/x", ("http://[::1]:80/x", "u:p")),
        ("https://h.example/a\r\nHost: evil", ("https://h.example/aHost:%20evil", "")),
        ("https://h.example:99999/", None),
        ("ftp://h.example/", None),
        ("//h.example/", None),
        ("", None),
    ],
)
def test_an_address_is_made_fit_to_be_sent(url: str, cleaned: tuple[str, str] | None) -> None:
    assert clean_url(url) == cleaned
