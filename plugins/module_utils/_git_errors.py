# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What git, git-lfs and an LFS server say when they fail, and what mends it. Private to the collection.

``_SAID`` tells by words which fault a line names, ``_STATUS`` by an HTTP status, ``_FAULTS`` what to say of each. All
callers, git's stderr and the answers of the LFS server alike, judge by these tables.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t
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

    def renamed(self, variables: t.Mapping[str, str]) -> Problem:
        """The same in the words of a caller that calls the settings otherwise than the role ``model`` does.

        variables: what to say in the place of ``model_NAME``, by NAME; where there are some, any other is called an
        option.
        """

        def words(text: str) -> str:
            return re.sub(r"\bmodel_(\w+)", lambda match: variables.get(match[1], f"the option {match[1]}"), text)

        if not variables:
            return self
        return dataclasses.replace(self, expected=words(self.expected), remedy=words(self.remedy))


class GitLfsError(Exception):
    """A problem, and the last lines that git said about it."""

    def __init__(self, problem: Problem, detail: str = "") -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.detail = without_secrets(detail)


# --- what is shown -----------------------------------------------------------------------------------------------


def redact_url(text: str) -> str:
    """Addresses without the user name and password in front of their host."""
    return re.sub(r"(?<=://)[^/@\s]*@", "***@", text)


def without_secrets(text: str) -> str:
    """What a program said, without credentials and without the query of an address, which may be a signature."""
    text = re.sub(r"(\bhttps?://[^\s?'\"<>]*)\?(?!service=git-)[^\s'\"<>]+", r"\1?***", redact_url(text))
    text = re.sub(r"(?i)\b(authorization: *\w+|bearer|private-token:) +[^\s'\",]+", r"\1 ***", text)
    text = re.sub(r"&?\{?(?:%!+\w*\([^)]*\)[ }]*)+(?:s\(MISSING\))?", "an address", text)  # Go's idea of one
    return re.sub(r"\b(hf|gh[oprsu]|github_pat|glpat)[_-][A-Za-z0-9_-]{8,}", r"\1_***", text)


# Progress holds any number: it must not be read as a status.
_PROGRESS = re.compile(
    r"\s*(downloading lfs objects|receiving objects|resolving deltas|unpacking objects|fetch: fetching"
    r"|remote: (counting|compressing|enumerating|total)).*",
    re.IGNORECASE,
)


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line and not _PROGRESS.fullmatch(line)]


def _shown(line: str) -> str:
    return without_secrets(line).rstrip(". ")[:300]


def last_line(text: str) -> str:
    """The line that says most: the last one that names an error, else the last one."""
    lines = _lines(text)
    errors = [line for line in lines if re.match(r"(fatal|error|batch re|lfs: |remote: .*error)", line, re.IGNORECASE)]
    reasons = [line for line in errors if "failed to fetch some objects" not in line]
    return _shown((reasons or errors or lines or [""])[-1])


# --- which fault -------------------------------------------------------------------------------------------------

# A fault's name, and what a line says that names it; without a name, the HTTP status that the line names counts. The
# order counts too: the noise of an early fault may hold the words of a later one. A line that begins with "remote:"
# tells of the server's disk and rights, not of this host's.
_HERE = r"^(?!remote:).*"
_SAID: tuple[tuple[str, str], ...] = (
    ("dubious_ownership", r"dubious ownership|unsafe repository"),
    (
        "disk_full",
        _HERE + r"(?:no space left on device|out of disk ?space|disk quota exceeded|not enough space|disk full)",
    ),
    ("read_only", _HERE + r"read-only file system"),
    ("bad_disk", _HERE + r"(?:input/output error|stale (?:nfs )?file handle|structure needs cleaning)"),
    ("memory", _HERE + r"(?:out of memory|cannot allocate memory|died of signal 9|malloc failed)"),
    (
        "git_lock",
        r"\.lock': file exists|another git process seems to be running|shallow file has changed since"
        r"|cannot lock ref .* but expected",
    ),
    (
        "git_lfs_missing",
        r"'lfs' is not a git command|git-lfs['\"]?(?:: (?:command )?| was )(?:not found|no such file)"
        r"|cannot (?:run|exec|spawn) ['\"]?git-lfs|git-lfs\b.*executable file not found",
    ),
    ("git_missing", r"exec: \"git\": executable file not found|(?:^|sh: |\d: )git: (?:command )?not found"),
    ("git_https_missing", r"remote-https?' is not a git command|unable to find remote helper for 'https?'"),
    ("ssh_missing", r"cannot run ['\"]?ssh|(?:^|\d: )ssh: (?:command )?not found"),
    # What a proxy answers to CONNECT, as Go tells it; an answer of the server reads otherwise.
    (
        "proxy",
        r"^[\w ]+: (?:post|get|head) \"?https://\S+: (?:forbidden|unauthorized|not found|bad request|method not allowed"
        r"|too many requests|internal server error|bad gateway|service unavailable|gateway time-?out"
        r"|proxy authentication required)$",
    ),
    # -- the server's words, which say more than its status
    (
        "rate_limit",
        r"rate.?limit|rate exceeded|too many requests|abuse detection|retry later|slow ?down\b|throttl"
        r"|requests? .{0,30}temporarily (?:blocked|limited)",
    ),
    (
        "quota",
        r"over (?:its|the|your) .{0,20}quota|quota (?:has been |was |is )?(?:exceeded|reached)|exceed\w* .{0,40}quota"
        r"|data packs?\b|lfs budget|bandwidth (?:limit|quota)"
        r"|(?:storage|size|usage) (?:limit|quota)s? .{0,20}(?:reach|exceed)|storage is full"
        r"|(?:over|exceed\w*|reached) .{0,40}(?:storage|size|usage|bandwidth|transfer) (?:limit|quota)"
        r"|insufficient (?:server )?storage"
        r"|payment required|exceeded .{0,20}data plan|due to a billing",
    ),
    (
        "licence",
        r"access to (?:model|dataset|space|repo\w*) .* is restricted|gated ?repo|access (?:a |to )?.{0,20}\bgated\b"
        r"|not in the authorized list|awaiting a review from the repo|your request to access .* (?:rejected|pending)"
        r"|(?:accept|agree to) .{0,40}(?:licen[cs]e|terms|conditions)|share .{0,20}contact information",
    ),
    (
        "lfs_disabled",
        r"lfs is (?:disabled|not enabled)|lfs (?:has been|is) disabled|lfs is not (?:supported|available)",
    ),
    (
        "web_page",
        r"expected json type, got|looking for beginning of value|unexpected content.?type|<!doctype html|<html"
        r"|bad line length character: ?<",
    ),
    ("too_large", r"(?:request )?entity too large|payload too large|content too large|request body .{0,20}too large"),
    # -- the way there
    (
        "proxy",
        r"could not resolve proxy|from proxy after connect|proxy authentication required|proxyconnect tcp"
        r"|proxy connect(?:ion closed| (?:aborted|failed|timed))"
        r"|connect phase completed|connect tunnel failed|unsupported proxy|socks[45]h?\b|socks connect"
        r"|via proxy\b.*(?:refused|failed)|proxy (?:error|handshake|refused|denied|server refused|hung up)"
        r"|connection to proxy|error: 407\b|http (?:code )?=? ?407\b",
    ),
    (
        "dns",
        r"could not resolve host|no such host|name or service not known|temporary failure in name resolution"
        r"|unable to look up|no address associated|server misbehaving|resolving timed out|dial tcp: lookup"
        r"|getaddrinfo\(\) thread|nodename nor servname",
    ),
    ("host_key_changed", r"remote host identification has changed|offending \S+ key in"),
    ("host_key", r"host key verification failed|no \S+ host key is known|authenticity of host"),
    (
        "ssh_key",
        r"permission denied \(|too many authentication failures|no mutual signature|load key .*(?:denied|invalid)"
        r"|permission denied, please try again|permissions .* are too open",
    ),
    ("ssh_algorithm", r"no matching .* found\. their offer"),
    (
        "tls_client",
        r"certificate required|gnutls recv error \(-12\)|alert (?:bad certificate|unknown ca)"
        r"|tls: (?:bad certificate|unknown certificate)"
        r"|could not load (?:pem )?client certificate|unable to set private key",
    ),
    ("dumb_http", r"dumb http transport does not support"),
    ("", r"(?:rpc failed; http |requested url returned error: )([45]\d\d)"),
    # -- a connection that broke while data came, and one that was cut before. Neither is a fault of certificates,
    # whatever part of a TLS library had to tell it.
    (
        "interrupted",
        r"rpc failed; (?:http [1-3]\d\d )?(?:curl (?:18|56|92|95|55|16)\b|result=(?:18|56|55))"
        r"|unexpected disconnect|early eof|bytes of body are still expected"
        r"|transfer closed with|expected flush after ref listing",
    ),
    (
        "cut",
        r"ssl_error_syscall|non-properly terminated|error in the (?:pull|push) function|gnutls (?:recv|send) error"
        r"|ssl_(?:read|write):|tls packet with unexpected length|error decoding the received tls packet"
        r"|decryption has failed|bad record mac|unexpected eof while reading|tls connect error: error:00000000"
        r"|recv failure|send failure|empty reply from server|connection (?:was )?reset|connection (?:was )?aborted"
        r"|resource temporarily unavailable|failed to receive handshake|handshake.*\beof\b"
        r"|not closed cleanly|closed before end of"
        r"|connection closed by (?:remote|\S+ port)|closed by remote host|kex_exchange_identification"
        r"|use of closed network connection|client connection lost|forcibly closed|cannot retry err"
        r"|failure when receiving data|failed sending data"
        r"|server closed idle|sent goaway|broken pipe|http/2 framing|stream error: stream id"
        r"|(?:post|get|put) \"?https?://\S+: eof$",
    ),
    # -- TLS itself
    (
        "tls_bundle",
        r"error setting certificate (?:verify locations|file)|error adding trust anchors|error reading ca cert"
        r"|cafile: \S+ .*(?:no such|cannot)|problem with the ssl ca cert",
    ),
    (
        "tls_name",
        r"no alternative certificate subject name|does not match target|certificate is (?:not )?valid for"
        r"|(?:hostname|ip address) mismatch|doesn't contain any ip sans|legacy common name|no subject alternative"
        r"|certificate.* (?:owner|name) .*does not match",
    ),
    (
        "tls_date",
        r"certificate.* (?:has |is )?expired|not yet valid|certificate expiration date has passed|not activated"
        r"|certificate.* revoked",
    ),
    (
        "tls_protocol",
        r"wrong version number|unsupported protocol|protocol version|handshake failure|handshake failed"
        r"|unexpected tls packet|tls fatal alert|server name .*not recognized|unrecognized name|oversized record"
        r"|packet length too long|exceeded the maximum permissible length"
        r"|does not look like a tls handshake|http response to https client|no protocols available|key too small"
        r"|legacy renegotiation|no shared cipher|unknown protocol|plain http request was sent to https"
        r"|tls.* alert.* internal error|remote error: tls|http/0\.9|malformed http (?:response|version)"
        r"|http_returned_error_on_ssl|http request was sent to https|weird server reply",
    ),
    ("timeout", r"tls handshake timeout"),
    ("tls", r"certificate|server verification failed|ssl_error|gnutls_handshake|ssl routines|tls: |x509|ssl peer"),
    (
        "connection",
        r"connection refused|no route to host|network is (?:unreachable|down)|failed to connect|couldn't connect"
        r"|could not connect|unable to connect|dial tcp|connect to host|connection timed out",
    ),
    ("timeout", r"operation too slow|timed? ?out|timeout|less than 1 bytes/sec|no data for|deadline exceeded"),
    # -- the repository
    (
        "redirect",
        r"unable to update url base from redirection|redirects followed|too many redirects|stopped after \d+ redirect"
        r"|returned error: 30[12378]\b",
    ),
    ("damaged_transfer", r"pack has bad object"),
    (
        "damaged_repository",
        r"is corrupt|object file \S+ is empty|bad object|loose object|unable to read tree|bad signature"
        r"|bad config line|index file smaller than expected|packfile \S+ (?:cannot be accessed|is far too short)"
        r"|index file corrupt|unable to read sha1|^fatal: not a git repository",
    ),
    (
        "revision_not_found",
        r"couldn't find remote ref|not our ref|unadvertised object|unknown revision|remote branch .* not found"
        r"|bad revision|reference is not a tree|no such remote ref|remote error: want [0-9a-f]+ not valid",
    ),
    ("damaged_transfer", r"expected oid|got \S+ after \d+ bytes|sha256 differs|pack is corrupted"),
    ("lfs_server_missing", r"(?:repository or object not found|not implemented): \S+/objects/batch"),
    (
        "lfs_object_missing",
        r"object does not exist|does not exist on the server|object (?:\S+ )?not found|\[(?:404|410|422)\]"
        r"|missing object|unable to find source for object|unprocessable entity",
    ),
    (
        "credentials",
        r"authentication failed|authentication required|requires authentication"
        r"|could not read (?:username|password)|terminal prompts disabled"
        r"|invalid (?:username|user name|credentials|token|or expired)|bad credentials|http basic: access denied"
        r"|git credentials for .* not found|user interaction is required|unauthorized|logon failed"
        r"|password authentication .*(?:removed|no longer)",
    ),
    (
        "forbidden",
        r"forbidden|authorization error|access denied|permission to \S+ denied|^remote: .*permission denied"
        r"|not authorized|saml sso",
    ),
    ("permission", _HERE + r"(?:permission denied|insufficient permission|operation not permitted)"),
    (
        "repository_not_found",
        r"repository (?:'.*' )?not found|not valid: .*is this a git repository|does not appear to be a git repository"
        r"|does not exist|project you were looking for could not be found|could not find repository",
    ),
    (
        "",
        r"(?:returned error: |from http |http code ?=? ?|http[ /]|http status |status |status=|code |\[)([45]\d\d)\b",
    ),
    (
        "url",
        r"unable to find remote helper|missing protocol: "
        r"|url rejected|malformed|transport '.*' not allowed|no path specified"
        r"|illegal format|bad/illegal|protocol \S+ (?:not supported|disabled)|strange (?:host|path)name",
    ),
    (
        "server",
        r"server error|bad gateway|service unavailable|gateway time-?out|unable to handle this request|overloaded",
    ),
    (
        "interrupted",
        r"hung up unexpectedly|rpc failed|index-pack failed|unexpected eof|\beof$"
        r"|protocol error: bad|expected 'packfile'",
    ),
    ("lfs_object_missing", r"smudge (?:error|filter)"),
)
_PATTERNS = tuple((name, re.compile(pattern)) for name, pattern in _SAID)
_STATUS = {
    401: "credentials",
    402: "quota",
    403: "forbidden",
    404: "repository_not_found",
    407: "proxy",
    408: "timeout",
    410: "repository_not_found",
    413: "too_large",
    429: "rate_limit",
    451: "forbidden",
    499: "interrupted",
    507: "quota",
    509: "quota",
}
# What a server's own words may say otherwise than its status.
_SERVERS_WORDS = ("rate_limit", "quota", "licence", "lfs_disabled", "too_large", "web_page")


def status_fault(status: int, said: str = "") -> str:
    """The fault that an HTTP answer means: by what it says, else by its status."""
    words = next((name for name, pattern in _PATTERNS if name in _SERVERS_WORDS and pattern.search(said.lower())), "")
    # A page is what many a proxy sends with an error: the status says more, unless there was to be no error.
    if words and not (words == "web_page" and status >= 400):
        return words
    return _STATUS.get(status, "server")


def _without_names(line: str) -> str:
    """A line without the addresses and paths in it, whose words are not the program's."""
    line = re.sub(r"(https?)://[^\s'\",>]*?(/objects/batch)?(?=[\s'\",>]|:?$|: )", r"\1://address\2", line)
    return re.sub(r"(?<![\w./:])/[^\s'\":]+?(\.lock)?(?=[\s'\":]|$)", r"/path\1", line)


def text_fault(said: str) -> tuple[str, str]:
    """The fault that a program's words name, and the line that names it."""
    lines = [(line, _without_names(line.lower())) for line in _lines(said)]
    for name, pattern in _PATTERNS:
        for line, lower in lines:
            match = pattern.search(lower)
            if match and not name:
                return status_fault(int(match[1])), _with_remote(line, lines)
            if match:
                return name, _with_remote(line, lines) if name == "forbidden" else line
    return "unknown", ""


def _with_remote(line: str, lines: t.Sequence[tuple[str, str]]) -> str:
    """A line that names a mere status, behind what the server said of it."""
    remote = next((other for other, lower in lines if lower.startswith("remote: ") and len(lower) > 10), "")
    return line if not remote or remote == line else f"{remote.rstrip('.')}; {line}"


# --- what to say of it -------------------------------------------------------------------------------------------

_AGAIN = "complete objects are not fetched again"
_WAY = (
    "look at what is between this host and {host} (firewall, proxy, VPN, a line that is overloaded), and at "
    "http_proxy, https_proxy and no_proxy in the play's environment; then run again ({again}). Certificates play no "
    "part."
)
_TOOLS = "run the role vicuna.fleet.tools first, or install the package {package}."
# Fault → cause, found, expected, remedy. {said} is the line that named it.
_FAULTS: dict[str, tuple[str, str, str, str]] = {
    "dubious_ownership": (
        "dubious_ownership",
        "{dest} belongs to another user than the one that runs git.",
        "a directory that belongs to the user that fetches the model (root through become).",
        "run 'chown -R root: {dest}', or choose another model_root.",
    ),
    "disk_full": (
        "disk_full",
        "the file system of {dest} was full before everything had arrived ({said}).",
        "room for the whole model.",
        "free space there, choose another model_root, or leave files out with model_exclude; "
        "the next run goes on where this one ended.",
    ),
    "read_only": (
        "read_only",
        "the file system of {dest} is read-only ({said}).",
        "a directory that can be written.",
        "mount it writable or choose another model_root.",
    ),
    "bad_disk": (
        "bad_disk",
        "the file system of {dest} fails ({said}).",
        "a disk or a network share that can be read and written.",
        "see what 'dmesg' says of it; check the disk, or mount the share again; or choose another model_root.",
    ),
    "memory": (
        "memory",
        "git ran out of memory on this host ({said}).",
        "some hundred MB of free memory.",
        "free memory on the host ('dmesg' names a process that the kernel has killed), and run again.",
    ),
    "permission": (
        "permission",
        "git may not write where it has to ({said}).",
        "a directory that the user that fetches the model (root through become) may write.",
        "correct owner and mode of what is named there, or choose another model_root.",
    ),
    "git_lock": (
        "git_lock",
        "another git process works in {dest} ({said}).",
        "nobody else who changes that directory.",
        "wait for it, or end it, and run again; lock files that a killed git left are removed by themselves.",
    ),
    "git_missing": ("git_missing", "git is not on this host.", "git and git-lfs.", _TOOLS.replace("{package}", "git")),
    "git_lfs_missing": (
        "git_lfs_missing",
        "git is on this host, git-lfs is not.",
        "both git and git-lfs.",
        _TOOLS.replace("{package}", "git-lfs"),
    ),
    "git_https_missing": (
        "git_https_missing",
        "git on this host has no part for http and https ({said}).",
        "the whole git.",
        "install the distribution's package git (on some systems git-core lacks git-remote-https).",
    ),
    "ssh_missing": (
        "ssh_missing",
        "model_repo is an ssh address, and this host has no ssh ({said}).",
        "an ssh client, or an https address.",
        "install the package openssh-client (openssh-clients on Red Hat), or use an https address in model_repo.",
    ),
    "proxy": (
        "proxy",
        "the proxy on the way to {host} refused or was not found ({said}).",
        "a proxy that lets this host reach the repository.",
        "correct http_proxy, https_proxy and no_proxy in the play's environment.",
    ),
    "dns": (
        "dns",
        "this host cannot resolve {named} ({said}).",
        "a name that resolves on this host.",
        "check the host name in model_repo, and the host's resolver or https_proxy.",
    ),
    "connection": (
        "connection",
        "nothing answers at {named} ({said}).",
        "a git server there.",
        "check host and port in model_repo, firewalls, and https_proxy.",
    ),
    "cut": (
        "connection",
        "the connection to {host} was cut before there was an answer ({said}).",
        "a connection that lasts.",
        _WAY,
    ),
    "interrupted": ("interrupted", "the connection to {host} broke ({said}).", "a connection that lasts.", _WAY),
    "timeout": (
        "timeout",
        "{host} {silence} ({said}).",
        "{patience}",
        f"run again ({_AGAIN}), or raise model_timeout.",
    ),
    "tls": (
        "tls",
        "the TLS certificate of {host} was not accepted ({said}).",
        "a certificate signed by an authority that this host trusts.",
        "name the authority's PEM file in vicuna_ca_certificates (trusted by the whole host) or in "
        "model_ca_path (trusted for this repository alone); check the host's clock.",
    ),
    "tls_name": (
        "tls",
        "the TLS certificate of {host} is for another name ({said}).",
        "a certificate for the name in the address.",
        "use the name that the certificate has in model_repo (or model_mirror); a proxy or DNS entry that leads to "
        "another server looks like this too. No authority mends it.",
    ),
    "tls_date": (
        "tls",
        "the TLS certificate of {host} is not valid today ({said}).",
        "a certificate within its dates, and a clock that is right.",
        "check the host's clock ('timedatectl'); if it is right, the server's administrator has to renew the "
        "certificate. No authority mends it.",
    ),
    "tls_protocol": (
        "tls",
        "{host} does not speak TLS as this host does ({said}).",
        "https at the port that the address names, with TLS 1.2 or later.",
        "check scheme and port in model_repo (http where the port speaks no TLS) and in https_proxy (a proxy is mostly "
        "http://). No authority mends it.",
    ),
    "tls_client": (
        "tls",
        "{host} wants a certificate of this host, or refuses the one it got ({said}).",
        "a client certificate that the server knows.",
        "set GIT_SSL_CERT and GIT_SSL_KEY in the play's environment to PEM files on the host, or use an address "
        "without client certificates in model_repo.",
    ),
    "tls_bundle": (
        "tls",
        "the file of trusted authorities cannot be read ({said}).",
        "a PEM bundle.",
        "correct model_ca_path, or GIT_SSL_CAINFO in the play's environment; reinstall the package ca-certificates "
        "if it is the system's own.",
    ),
    "revision_not_found": (
        "revision_not_found",
        "{repo} has no revision '{revision}'.",
        "a full commit id (40 characters), a tag, or a branch of that repository.",
        "correct model_revision; 'git ls-remote {repo}' lists branches and tags.",
    ),
    "forbidden": (
        "forbidden",
        "{host} refuses access to {repo} ({said}).",
        "an account that may read the repository.",
        "let the account of model_token read it (its scopes, the organisation's single sign-on, the model's licence "
        "on its web page); without a token, set model_token.",
    ),
    "licence": (
        "licence",
        "{repo} is gated: {host} wants its licence accepted ({said}).",
        "an account that was given access to the model.",
        "ask for access on the model's web page, and set model_token to a token of that account that may read gated "
        "repositories.",
    ),
    "quota": (
        "quota",
        "{host} gives no more of {repo}: a quota of storage or traffic is used up ({said}).",
        "a repository within its quota.",
        "wait until the quota begins anew or have its owner raise it; until then set model_mirror, or model_repo to "
        "another copy of the repository. Running again does not help.",
    ),
    "rate_limit": (
        "rate_limit",
        "{host} limits how often it is asked ({said}).",
        "fewer requests at a time.",
        "wait some minutes and run again ({again}); set model_token, as accounts may ask more often; lower "
        "model_connections; give hosts a model_peer_address, so that they fetch from each other.",
    ),
    "too_large": (
        "too_large",
        "{host} refuses a request for its size ({said}).",
        "a server that takes it.",
        "raise the limit of the reverse proxy before that server (nginx: client_max_body_size), or set model_mirror to "
        "an address without one.",
    ),
    "lfs_disabled": (
        "lfs_disabled",
        "{host} has Git LFS switched off for {repo} ({said}).",
        "a repository with its large files.",
        "have its owner switch it on (GitHub also does so after a quota was used up), or set model_repo to "
        "another copy.",
    ),
    "web_page": (
        "web_page",
        "{host} answered with a web page in the place of data ({said}).",
        "the answer of a git-LFS server.",
        "correct model_repo (the address for 'git clone', not one of a web page); a page to log in comes from a proxy "
        "or a portal on the way: check https_proxy and no_proxy, or set model_token.",
    ),
    "dumb_http": (
        "url",
        "{host} hands out the files of {repo}, and does not speak git's protocol ({said}).",
        "a git server at that address.",
        "let the web server there run 'git http-backend', or use an ssh address in model_repo.",
    ),
    "redirect": (
        "redirect",
        "{host} leads on to an address that is not followed ({said}).",
        "the repository at its own address.",
        "write the address to which it leads in model_repo; a page to log in means that model_token is missing.",
    ),
    "lfs_object_missing": (
        "lfs_object_missing",
        "{repo} has the pointer, but not the content, of a large file ({said}).",
        "every large file of the revision on the LFS server.",
        "push the missing objects to it (git lfs push --all), correct model_repo or model_revision, "
        "or leave the file out with model_exclude.",
    ),
    "lfs_server_missing": (
        "repository_not_found",
        "there is no LFS server for {repo}, or none for this account ({said}).",
        "the address under which 'git lfs fetch' finds the large files.",
        "correct model_repo; set model_token for a private repository.",
    ),
    "damaged_transfer": (
        "damaged_transfer",
        "what {host} sent is damaged: it is not what its sha256 or its checksum says ({said}).",
        "the content that the commit names.",
        "run again; if it stays so, a cache or proxy on the way, or the server's own copy, is damaged.",
    ),
    "token_missing": (
        "token_missing",
        "{repo} asks for credentials and none were given ({said}; Hugging Face also asks when the name is wrong).",
        "a token for a gated or private model; none for a public one.",
        "set model_token, or correct model_repo.",
    ),
    "token_rejected": (
        "token_rejected",
        "{repo} rejected the credentials that were given ({said}).",
        "a valid token that may read this repository.",
        "renew model_token (and model_username where the server wants a certain name), or correct model_repo.",
    ),
    "repository_not_found": (
        "repository_not_found",
        "there is no git repository at {repo} ({said}).",
        "the address under which 'git clone' finds it.",
        "correct model_repo; a private repository looks like this too where model_token is missing.",
    ),
    "host_key": (
        "host_key",
        "the ssh key of {host} is not known on this host.",
        "an entry in the known_hosts file of the user that fetches the model.",
        "add it with ssh-keyscan after checking it, or use an https address in model_repo.",
    ),
    "host_key_changed": (
        "host_key",
        "the ssh key of {host} is another one than this host knows ({said}).",
        "the key in the known_hosts file of the user that fetches the model.",
        "ask the server's administrator whether it was changed; if so, remove the old one with "
        "'ssh-keygen -R {host}' and add the new one with ssh-keyscan.",
    ),
    "ssh_key": (
        "ssh_key",
        "{host} accepts no ssh key of the user that fetches the model ({said}).",
        "a key of that user (root through become) which the server knows.",
        "register one there, or use an https address in model_repo, with model_token.",
    ),
    "ssh_algorithm": (
        "ssh_algorithm",
        "the ssh of {host} and that of this host have no algorithm in common ({said}).",
        "an ssh server that is up to date.",
        "update that server, allow its algorithm in the ssh configuration of the user that fetches the model, or use "
        "an https address in model_repo, with model_token.",
    ),
    "url": (
        "url",
        "git cannot use the address {repo} ({said}).",
        "an http, https, ssh, git or file address, or a local path.",
        "correct model_repo.",
    ),
    "damaged_repository": (
        "damaged_repository",
        "git's own files in {dest}/.git are damaged ({said}).",
        "a readable repository.",
        "remove {dest} and run again.",
    ),
    "server": (
        "server",
        "{host} failed ({said}).",
        "a git and LFS server in good health.",
        f"run again later; {_AGAIN}.",
    ),
    "unknown": (
        "unknown",
        "git failed: {said}.",
        "revision '{revision}' of {repo}.",
        "see the field detail of this result; check model_repo and model_revision.",
    ),
}
_NAMED_HOST = re.compile(
    r"(?:resolve host(?:name)?:? |dial tcp: lookup |look up )(?P<name>[^\s:;,()']+)"
    r"|(?:failed to connect to |connect to host )(?P<host>[^\s:;,()']+) port (?P<port>\d+)"
    r"|dial tcp (?P<address>\S+:\d+)",
    re.IGNORECASE,
)


def problem_of(
    fault: str,
    *,
    repo: str,
    said: str = "",
    revision: str = "",
    dest: str = "",
    has_token: bool = False,
    timeout: float = 0,
) -> Problem:
    """What to say of a fault. said: the line that named it, which may hold secrets."""
    if fault == "credentials":
        fault = "token_rejected" if has_token else "token_missing"
    cause, *texts = _FAULTS[fault]
    repo = redact_url(repo)
    parts = urlsplit(repo)
    named = _NAMED_HOST.search(said)
    host = parts.hostname or repo
    values = {
        "repo": repo,
        "revision": revision,
        "dest": dest,
        "host": host,
        "named": (
            (named["name"] or named["address"] or f"{named['host']}:{named['port']}")
            if named
            else (parts.netloc.rpartition("@")[2] or host)
        ),
        "said": _shown(said) or "without a word",
        "again": _AGAIN,
        "silence": f"sent nothing for {timeout:g} s" if timeout else "was too slow",
        "patience": "data at least that often." if timeout else "data without such pauses.",
    }
    found, expected, remedy = (text.format(**values) for text in texts)
    return Problem(cause, found, expected, remedy)


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
    fault, line = text_fault(stderr)
    return problem_of(
        fault,
        repo=repo,
        said=line or last_line(stderr),
        revision=revision,
        dest=dest,
        has_token=has_token,
        timeout=timeout,
    )
