# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What git and git-lfs say when they fail, and what mends it. Private to the collection."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Problem:
    """Why a repository cannot be had: what was found, what was expected, what mends it."""

    cause: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"Found: {self.found} Expected: {self.expected} Remedy: {self.remedy}"


class GitLfsError(Exception):
    """A problem, and the last lines that git said about it."""

    def __init__(self, problem: Problem, detail: str = "") -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.detail = detail


def _status(codes: str) -> str:
    """An HTTP status where git and git-lfs name one, and not a number in a path or a size."""
    return rf"(?:returned error: |http[ /]|http status |status |status=|code |\[){codes}\b"


# The order counts: a later pattern may also occur in the noise of an earlier cause.
_CAUSES: tuple[tuple[str, str], ...] = (
    ("dubious_ownership", r"dubious ownership|unsafe repository"),
    ("disk_full", r"no space left on device|disk quota exceeded"),
    ("read_only", r"read-only file system"),
    ("git_lock", r"\.lock': file exists|another git process seems to be running"),
    ("git_lfs_missing", r"'lfs' is not a git command|git-lfs: (?:command )?not found"),
    ("proxy", r"could not resolve proxy|from proxy after connect|proxy authentication required|proxyconnect tcp"),
    ("dns", r"could not resolve host|no such host|name or service not known|temporary failure in name resolution"),
    ("host_key", r"host key verification failed"),
    ("tls", r"certificate|ssl_error|gnutls_handshake|ssl routines|tls: |tls handshake|x509"),
    (
        "connection",
        r"connection refused|no route to host|network is unreachable|failed to connect|couldn't connect|dial tcp",
    ),
    ("timeout", r"operation too slow|timed out|timeout|less than 1 bytes/sec|no data for"),
    ("revision_not_found", r"couldn't find remote ref|not our ref|unadvertised object|unknown revision"),
    (
        "damaged_repository",
        r"is corrupt|object file \S+ is empty|bad object|loose object|unable to read tree|bad signature",
    ),
    ("damaged_transfer", r"expected oid|got \S+ after \d+ bytes|sha256 differs"),
    (
        "forbidden",
        _status("403") + r"|forbidden|not in the authorized list|(?<!authentication required: )authorization error",
    ),
    ("lfs_object_missing", r"object does not exist|does not exist on the server|object not found|\[(?:404|410|422)\]"),
    (
        "credentials",
        _status("401") + r"|authentication failed|authentication required|could not read (?:username|password)"
        r"|terminal prompts disabled|invalid username or password|permission denied \("
        r"|git credentials for .* not found|user interaction is required",
    ),
    (
        "repository_not_found",
        r"repository '.*' not found|not valid: is this a git repository|does not appear to be a git repository"
        r"|does not exist|" + _status("404"),
    ),
    ("url", r"unable to find remote helper|url rejected|malformed|transport '.*' not allowed|no path specified"),
    ("server", _status("(?:429|50[0-9])") + r"|server error|bad gateway|service unavailable|rate limit"),
    ("interrupted", r"unexpected disconnect|early eof|hung up unexpectedly|connection reset|rpc failed|unexpected eof"),
)
# Progress holds any number: it must not be read as a status.
_PROGRESS = re.compile(
    r"\s*(downloading lfs objects|receiving objects|resolving deltas|unpacking objects|fetch: fetching"
    r"|remote: (counting|compressing|enumerating|total)).*",
    re.IGNORECASE,
)


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line and not _PROGRESS.fullmatch(line)]


def classify_git_error(
    stderr: str,
    *,
    repo: str,
    revision: str,
    dest: str = "",
    has_token: bool = False,
    timeout: int = 0,
) -> Problem:
    """Turn what git or git-lfs said into one problem with its remedy."""
    said = "\n".join(_lines(stderr)).lower()
    cause = next((name for name, pattern in _CAUSES if re.search(pattern, said)), "unknown")
    if cause == "credentials":
        cause = "token_rejected" if has_token else "token_missing"
    host = urlsplit(repo).hostname or repo
    last = last_line(stderr)
    return {
        "dubious_ownership": Problem(
            cause,
            f"{dest} belongs to another user than the one that runs git.",
            "a directory that belongs to the user that fetches the model (root through become).",
            f"run 'chown -R root: {dest}', or choose another model_root.",
        ),
        "disk_full": Problem(
            cause,
            f"the file system of {dest} was full before everything had arrived.",
            "room for the whole model.",
            "free space there, choose another model_root, or leave files out with model_exclude; "
            "the next run goes on where this one ended.",
        ),
        "read_only": Problem(
            cause,
            f"the file system of {dest} is read-only.",
            "a directory that can be written.",
            "mount it writable or choose another model_root.",
        ),
        "git_lock": Problem(
            cause,
            f"another git process works in {dest} ({last}).",
            "nobody else who changes that directory.",
            "wait for it, or end it, and run again; lock files that a killed git left are removed by themselves.",
        ),
        "git_lfs_missing": Problem(
            cause,
            "git is on this host, git-lfs is not.",
            "both git and git-lfs.",
            "run the role vicuna.fleet.tools first, or install the package git-lfs.",
        ),
        "proxy": Problem(
            cause,
            f"the proxy on the way to {host} refused or was not found ({last}).",
            "a proxy that lets this host reach the repository.",
            "correct http_proxy, https_proxy and no_proxy in the play's environment.",
        ),
        "dns": Problem(
            cause,
            f"this host cannot resolve {host}.",
            "a name that resolves on this host.",
            "check the host name in model_repo, and the host's resolver or https_proxy.",
        ),
        "tls": Problem(
            cause,
            f"the TLS certificate of {host} was not accepted ({last}).",
            "a certificate signed by an authority that this host trusts.",
            "name the authority's PEM file in vicuna_ca_certificates (trusted by the whole host) or in "
            "model_ca_path (trusted for this repository alone); check the host's clock.",
        ),
        "timeout": Problem(
            cause,
            f"{host} sent nothing for {timeout} s." if timeout else f"{host} was too slow.",
            "data at least that often.",
            "run again (complete objects are not fetched again), or raise model_timeout.",
        ),
        "connection": Problem(
            cause,
            f"nothing answers at {urlsplit(repo).netloc.rpartition('@')[2] or host} ({last}).",
            "a git server there.",
            "check host and port in model_repo, firewalls, and https_proxy.",
        ),
        "revision_not_found": Problem(
            cause,
            f"{repo} has no revision '{revision}'.",
            "a full commit id (40 characters), a tag, or a branch of that repository.",
            f"correct model_revision; 'git ls-remote {repo}' lists branches and tags.",
        ),
        "forbidden": Problem(
            cause,
            f"{host} knows who asks and refuses access to {repo} (403).",
            "an account that may read the repository.",
            "accept the model's licence on its web page with the account of model_token, or let that token read it.",
        ),
        "lfs_object_missing": Problem(
            cause,
            f"{repo} has the pointer, but not the content, of a large file ({last}).",
            "every large file of the revision on the LFS server.",
            "push the missing objects to it (git lfs push --all), correct model_repo or model_revision, "
            "or leave the file out with model_exclude.",
        ),
        "damaged_transfer": Problem(
            cause,
            f"{host} sent a large file that does not match the sha256 in its pointer ({last}).",
            "the content that the commit names.",
            "run again; if it stays so, a cache or proxy on the way, or the server's own copy, is damaged.",
        ),
        "token_missing": Problem(
            cause,
            f"{repo} asks for credentials and none were given (Hugging Face also asks when the name is wrong).",
            "a token for a gated or private model; none for a public one.",
            "set model_token, or correct model_repo.",
        ),
        "token_rejected": Problem(
            cause,
            f"{repo} rejected the credentials that were given.",
            "a valid token that may read this repository.",
            "renew model_token (and model_username where the server wants a certain name), or correct model_repo.",
        ),
        "repository_not_found": Problem(
            cause,
            f"there is no git repository at {repo}.",
            "the address under which 'git clone' finds it.",
            "correct model_repo.",
        ),
        "host_key": Problem(
            cause,
            f"the ssh key of {host} is not known on this host.",
            "an entry in the known_hosts file of the user that fetches the model.",
            "add it with ssh-keyscan after checking it, or use an https address in model_repo.",
        ),
        "url": Problem(
            cause,
            f"git cannot use the address {repo} ({last}).",
            "an http, https, ssh, git or file address, or a local path.",
            "correct model_repo.",
        ),
        "damaged_repository": Problem(
            cause,
            f"git's own files in {dest}/.git are damaged ({last}).",
            "a readable repository.",
            f"remove {dest} and run again.",
        ),
        "server": Problem(
            cause,
            f"{host} failed or limits requests ({last}).",
            "a git and LFS server in good health.",
            "run again later; complete objects are not fetched again.",
        ),
        "interrupted": Problem(
            cause,
            f"the connection to {host} broke ({last}).",
            "a connection that lasts.",
            "run again; complete objects are not fetched again.",
        ),
        "unknown": Problem(
            cause,
            f"git failed: {last or 'without a word'}.",
            f"revision '{revision}' of {repo}.",
            "see the field detail of this result; check model_repo and model_revision.",
        ),
    }[cause]


def last_line(text: str) -> str:
    """The line that says most: the last one that names an error, else the last one."""
    lines = _lines(text)
    errors = [line for line in lines if re.match(r"(fatal|error|batch response|remote: .*error)", line, re.IGNORECASE)]
    return (errors or lines or [""])[-1].rstrip(".")[:300]
