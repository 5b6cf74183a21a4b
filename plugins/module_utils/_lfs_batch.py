# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Git LFS Batch API as pure functions: what is asked, what the answer means, where the server is.

https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md. Private to the collection.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import re
import time
import typing as t
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import (
    Problem,
    problem_of,
    status_fault,
    without_secrets,
)

if t.TYPE_CHECKING:
    from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import Named

# The most that git-lfs itself asks at once; servers may refuse more.
BATCH_LIMIT = 100
MEDIA_TYPE = "application/vnd.git-lfs+json"

# Characters that an address may hold as they are; "%" because it may be quoted already.
_SAFE = "%/:=&?~+!$,;'@()*[]"
_ENDPOINT = re.compile(r"Endpoint(?: \((?P<remote>.*)\))?=(?P<url>.*) \(auth=[^)]*\)")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.\d+)?(?:[Zz]|([+-]\d\d):?(\d\d))")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t\xa0-\xff]*")
# What the client decides for itself, whatever an action says.
_OWN_HEADERS = re.compile(
    r"accept-encoding|connection|content-length|host|keep-alive|proxy-authorization|range|te|trailer"
    r"|transfer-encoding|upgrade",
    re.IGNORECASE,
)


# --- problems ----------------------------------------------------------------------------------------------------

_OWN = {
    "insecure_redirect": (
        "an LFS server that stays with https.",
        "correct model_repo (or the mirror), or tell the server's administrator.",
    ),
    "range_unsupported": (
        "a server that sends parts of a file (Range requests).",
        "none is needed if the file is fetched whole; a proxy or cache on the way may be what drops the range.",
    ),
    "transfer_unsupported": (
        "an LFS server that is reached by http or https and offers the transfer 'basic'.",
        "none is needed if git-lfs fetches the files itself; else correct model_repo or the proxy variables.",
    ),
}


def lfs_problem(cause: str, found: str, *, repo: str, timeout: int = 0) -> Problem:
    """A problem of the LFS server: its finding, with the expectation and the remedy that git's own failure has."""
    found = without_secrets(found)
    if cause in _OWN:
        return Problem(cause, found, *_OWN[cause])
    return dataclasses.replace(problem_of(cause, repo=repo, timeout=timeout), found=found)


# --- addresses ---------------------------------------------------------------------------------------------------


def safe_url(url: str) -> str:
    """An address as it may be shown: without credentials, query and fragment, which may be a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def clean_url(url: str) -> tuple[str, str] | None:
    """An http(s) address that can be sent as it is, and the credentials that it carried; None for anything else."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError):
        return None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[0-9A-Za-z._:%-]+", host):
        return None
    netloc = f"[{host}]" if ":" in host else host
    if port is not None:
        netloc += f":{port}"
    userinfo = parts.netloc.rpartition("@")[0]
    path, query = quote(parts.path or "/", safe=_SAFE), quote(parts.query, safe=_SAFE)
    return urlunsplit((parts.scheme, netloc, path, query, "")), userinfo


def basic(userinfo: str) -> str:
    """The Authorization header of the ``user:password`` of an address."""
    user, _, password = userinfo.partition(":")
    return basic_of(unquote(user), unquote(password))


def basic_of(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def endpoint_of(repo: str) -> str | None:
    """The LFS server of an http(s) repository, by git-lfs's rule; None where another transport answers.

    https://github.com/git-lfs/git-lfs/blob/main/docs/api/server-discovery.md
    """
    parts = urlsplit(repo)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return None
    address = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    address = address[:-1] if address.endswith("/") else address
    return address + ("/info/lfs" if address.endswith(".git") else ".git/info/lfs")


def parse_lfs_env(output: str, remote: str = "origin") -> str | None:
    """The LFS server of a remote in what ``git lfs env`` prints; None where that is not http(s).

    An endpoint with a line ``SSH=`` takes its address from git-lfs-authenticate, which is git-lfs's business.
    """
    lines = output.splitlines()
    found = ""
    for number, line in enumerate(lines):
        match = _ENDPOINT.fullmatch(line)
        # git-lfs names every remote but origin.
        if not match or (match["remote"] or "origin") != remote:
            continue
        follows = lines[number + 1] if number + 1 < len(lines) else ""
        found = "" if follows.lstrip().startswith("SSH=") else match["url"]
    return found if clean_url(found) else None


def repo_of(endpoint: str) -> str:
    """The repository of an LFS server, as it may be shown."""
    return re.sub(r"/info/lfs/?$", "", safe_url(endpoint))


# --- request and answer ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Action:
    """Where the content of one object is, and what to send along. Both may be secrets."""

    href: str = field(repr=False)
    headers: t.Mapping[str, str] = field(default_factory=dict, repr=False)
    expires_at: float | None = None
    # Whether the server says that the address needs no further credentials.
    authenticated: bool = False


def request_body(pointers: t.Iterable[Named]) -> bytes:
    """Ask where these objects can be had."""
    objects = [{"oid": pointer.oid, "size": pointer.size} for pointer in pointers]
    return json.dumps({"operation": "download", "transfers": ["basic"], "objects": objects}).encode()


def parse_response(
    body: bytes,
    pointers: t.Sequence[Named],
    *,
    repo: str = "",
    has_token: bool = False,
    now: float | None = None,
) -> dict[str, Action | Problem]:
    """What the server says about each object that was asked for: where it is, or why it cannot be had."""
    now = time.time() if now is None else now
    host = urlsplit(repo).netloc.rpartition("@")[2] or "the LFS server"

    def all_of(problem: Problem) -> dict[str, Action | Problem]:
        return {pointer.oid: problem for pointer in pointers}

    try:
        answer = json.loads(body.decode("utf-8"))
        objects = answer["objects"]
        named = {entry["oid"]: entry for entry in objects if isinstance(entry, dict) and "oid" in entry}
    except (ValueError, KeyError, TypeError, RecursionError):
        page = status_fault(200, body[:1024].decode("utf-8", "replace")) == "web_page"
        what = "a web page" if page else "something else than a list of objects"
        found = f"{host} answered the LFS request with {what}."
        return all_of(lfs_problem("web_page" if page else "server", found, repo=repo))
    transfer, algorithm = answer.get("transfer") or "basic", answer.get("hash_algo") or "sha256"
    if transfer != "basic" or algorithm != "sha256":
        found = f"{host} wants the LFS transfer '{show(transfer)}' with {show(algorithm)}."
        return all_of(lfs_problem("transfer_unsupported", found, repo=repo))
    return {
        pointer.oid: _outcome(named.get(pointer.oid), pointer.oid, host=host, repo=repo, has_token=has_token, now=now)
        for pointer in pointers
    }


def _outcome(
    entry: dict[str, t.Any] | None, oid: str, *, host: str, repo: str, has_token: bool, now: float
) -> Action | Problem:
    def problem(cause: str, found: str) -> Problem:
        return lfs_problem(cause, found, repo=repo)

    if entry is None:
        return problem("lfs_object_missing", f"the LFS answer of {host} leaves out the object {oid}.")
    error = entry.get("error")
    if error:
        return _object_problem(error, oid, host=host, repo=repo, has_token=has_token)
    actions = entry.get("actions") or entry.get("_links")  # the second is what servers of the first API say
    download = actions.get("download") if isinstance(actions, dict) else None
    if not isinstance(download, dict):
        return problem("lfs_object_missing", f"{host} names no place where the object {oid} can be had.")
    cleaned = clean_url(download["href"]) if isinstance(download.get("href"), str) else None
    if cleaned is None:
        return problem("transfer_unsupported", f"{host} offers the object {oid} at an address that is not http(s).")
    href, userinfo = cleaned
    headers = _headers(download.get("header"))
    if headers is None:
        return problem("server", f"{host} wants headers that cannot be sent for the object {oid}.")
    if userinfo and not any(name.lower() == "authorization" for name in headers):
        headers["Authorization"] = basic(userinfo)
    return Action(href, headers, expiry(download, now), entry.get("authenticated") is True)


def _object_problem(error: t.Any, oid: str, *, host: str, repo: str, has_token: bool) -> Problem:
    """Why the server does not give one object."""
    known = error if isinstance(error, dict) else {"message": error}
    number, text = show(known.get("code") or ""), show(known.get("message", ""))
    reason = ": ".join(part for part in (number, text) if part)
    # Some servers write the number as text.
    code = int(number) if re.fullmatch(r"[1-5]\d\d", number) else 0
    fault = "lfs_object_missing" if code in (404, 410, 422) else "transfer_unsupported" if code == 409 else ""
    judged = status_fault(code, text)
    if not fault or judged not in ("server", "repository_not_found"):
        fault = judged
    if fault == "credentials":
        fault = "token_rejected" if has_token else "token_missing"
    what = {
        "lfs_object_missing": f"{repo or host} has the pointer, but not the content, of the object {oid}",
        "transfer_unsupported": f"{host} does not know the object {oid} by sha256",
        "forbidden": f"{host} refuses access to the object {oid}",
        "token_missing": f"{host} asks for credentials for the object {oid}",
        "token_rejected": f"{host} asks for credentials for the object {oid}",
        "server": f"{host} failed for the object {oid}",
    }.get(fault, f"{host} does not give the object {oid}")
    return lfs_problem(fault, f"{what} ({reason}).", repo=repo)


def _headers(found: t.Any) -> dict[str, str] | None:
    """The headers of an action; None where one of them would break the request."""
    if not found:
        return {}
    if not isinstance(found, dict):
        return None
    headers = {}
    for name, value in found.items():
        if not isinstance(value, str) or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            return None
        if not _OWN_HEADERS.fullmatch(name):
            headers[name] = value
    return headers


def expiry(action: t.Mapping[str, t.Any], now: float) -> float | None:
    """When an action ends, in seconds since the epoch; expires_in counts before expires_at."""
    seconds = action.get("expires_in")
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds != 0:
        return now + seconds
    match = _TIME.fullmatch(action.get("expires_at") or "") if isinstance(action.get("expires_at"), str) else None
    if not match:
        return None
    day, clock, hours, minutes = match.groups()
    try:
        moment = datetime.datetime.fromisoformat(f"{day}T{clock}{hours or '+00'}:{minutes or '00'}")
    except ValueError:
        return None
    # Go writes the year 1 where a time was not set.
    return moment.timestamp() if moment.year > 1 else None


def show(text: t.Any) -> str:
    """Foreign text as it may stand in a message: short, on one line."""
    return re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]+", " ", str(text)).strip().rstrip(".")[:200]
