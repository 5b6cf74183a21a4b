# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The LFS server as a source of bytes: any range of any object, over connections that are kept.

Secrets are the token, the headers of an action and the query of its address. Each goes to the server it was given for
and nowhere else, also not into a message. Private to the collection.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import http.client
import ipaddress
import json
import re
import select
import socket
import ssl
import threading
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import Problem, status_fault, text_fault
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_batch import (
    BATCH_LIMIT,
    MEDIA_TYPE,
    Action,
    basic,
    basic_of,
    clean_url,
    lfs_problem,
    parse_response,
    repo_of,
    request_body,
    safe_url,
    show,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import SourceError

if t.TYPE_CHECKING:
    from types import TracebackType

    from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_store import Named

REDIRECTS = 5
MOST_WAIT = 60.0
# An answer of a hundred objects is below 1 MiB even with long signed addresses.
ANSWER_LIMIT = 8 * 1024 * 1024
# The rest of an answer that nobody wants is read when it is this short, so that its connection can be kept.
DRAIN_LIMIT = 64 * 1024
DRAIN_SECONDS = 2.0
IDLE_LIMIT = 32
IDLE_SECONDS = 30.0
# Refresh an address this long before it ends, or in the last tenth of a short life.
EXPIRY_MARGIN = 30.0
# An address that has ended when it arrives means that the clocks differ: it is used, and renewed this often.
SKEWED_LIFE = 60.0

_DEFAULT_PORTS = {"http": 80, "https": 443}
_USER_AGENT = "vicuna-fleet (git-lfs batch client)"
_CONTENT_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)", re.IGNORECASE)
_SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
# What a kept connection says when the server has closed it meanwhile.
_STALE = (ConnectionError, http.client.BadStatusLine, http.client.CannotSendRequest, ssl.SSLError)
# What a server may do better at once.
_PASSING = ("server", "rate_limit")
_UNREACHABLE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


# --- pure parts --------------------------------------------------------------------------------------------------


class Site(t.NamedTuple):
    """Whom a secret belongs to: scheme, host and port."""

    scheme: str
    host: str
    port: int

    @property
    def shown(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def site_of(url: str) -> Site:
    parts = urlsplit(url)
    return Site(parts.scheme, (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS[parts.scheme])


def same_party(one: Site, other: Site) -> bool:
    """Whether a secret of the first may go to the second: the same server, or the same name's step up to https."""
    step_up = one.host == other.host and (one.scheme, one.port, other.scheme, other.port) == ("http", 80, "https", 443)
    return one == other or step_up


def proxies_of(environ: t.Mapping[str, str]) -> dict[str, str]:
    """Scheme → proxy, and "no" → exceptions: urllib's getproxies_environment, of a given environment."""
    found = {name.lower()[:-6]: value for name, value in environ.items() if name.lower().endswith("_proxy") and value}
    if "REQUEST_METHOD" in environ:  # a CGI script gets HTTP_PROXY from a client's header
        found.pop("http", None)
    for name, value in environ.items():
        if name.endswith("_proxy"):
            found.pop(name.lower()[:-6], None)
            if value:
                found[name.lower()[:-6]] = value
    return found


def proxy_for(site: Site, proxies: t.Mapping[str, str]) -> str:
    """The proxy on the way to a server; empty for none."""
    proxy = proxies.get(site.scheme) or proxies.get("all") or ""
    if not proxy or any(_excepts(entry.strip().lower(), site) for entry in proxies.get("no", "").split(",")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _excepts(entry: str, site: Site) -> bool:
    """Whether an entry of no_proxy means a server: as urllib reads it, and networks as curl and Go do."""
    if not entry:
        return False
    if "/" in entry:
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(site.host) in ipaddress.ip_network(entry, strict=False)
        return False
    name = entry.lstrip("*").lstrip(".")
    return entry == "*" or any(f".{host}".endswith(f".{name}") for host in (site.host, f"{site.host}:{site.port}"))


def retry_after(value: str | None, now: float) -> float:
    """Seconds that a server asks to be left alone, a minute at most; 0 where it says nothing."""
    if not value:
        return 0.0
    if re.fullmatch(r"\s*\d+\s*", value):
        return min(float(value), MOST_WAIT)
    try:
        seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0
    return max(0.0, min(seconds, MOST_WAIT))


def life_of(action: Action, now: float) -> float:
    """Seconds for which an action that has just arrived is used."""
    if action.expires_at is None:
        return float("inf")
    life = action.expires_at - now
    return life - min(EXPIRY_MARGIN, life / 10) if life > 0 else SKEWED_LIFE


def range_lie(headers: t.Mapping[str, str], start: int, stop: int, size: int) -> str:
    """What is wrong with the headers of a 206, in words; empty where they promise exactly what was asked."""
    value = headers.get("Content-Range") or ""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if not match:
        return f"'{show(value)}' as the range of its answer"
    if (int(match[1]), int(match[2]) + 1) != (start, stop):
        return f"the bytes {match[1]}-{match[2]}"
    if match[3] not in ("*", str(size)):
        return f"a part of {match[3]} bytes and not of {size}"
    length = headers.get("Content-Length")
    if length is not None and length.strip() != str(stop - start):
        return f"{show(length)} bytes of {stop - start}"
    return ""


def _message(response: http.client.HTTPResponse, body: bytes = b"") -> str:
    """What a server says of its error: in the JSON of the batch API, or as Hugging Face does."""
    plain = (response.headers.get("Content-Type") or "").startswith("text/plain")
    said = show(body.decode("utf-8", "replace")) if plain else ""
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(body.decode("utf-8"))
        said = show(answer.get("message") or answer.get("error") or "")
    return said or show(response.headers.get("X-Error-Message") or "")


def _reason(response: http.client.HTTPResponse, said: str) -> str:
    """An error as a message names it: the status, the server's words, and how long it asks to be left alone."""
    wait = (response.headers.get("Retry-After") or "").strip()
    parts = [f"{response.status}: {said}" if said else str(response.status)]
    return "; ".join([*parts, f"it asks to wait {wait} s"] if wait.isdigit() else parts)


# --- connections -------------------------------------------------------------------------------------------------


@dataclass
class _Wire:
    """A connection, and whom it leads to."""

    connection: http.client.HTTPConnection
    site: Site
    proxy: str
    sock: socket.socket
    idle_since: float = 0.0

    @property
    def readable(self) -> bool:
        """Whether the server has closed an idle connection, or said what nobody asked."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))


class _Refused(Exception):
    """A download address was refused; authorised: an Authorization header was sent to it."""

    def __init__(self, status: int, site: Site, *, authorised: bool, said: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.site = site
        self.authorised = authorised
        self.said = said


class Stream:
    """Bytes of one object; it has its connection to itself."""

    def __init__(
        self, origin: Origin, wire: _Wire | None, response: http.client.HTTPResponse | None, length: int
    ) -> None:
        self._origin = origin
        self._wire = wire
        self._response = response
        self.remaining = length

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as the range goes; 0 at its end."""
        if not self.remaining:
            return 0
        if self._wire is None or self._response is None:
            raise ValueError("the stream is closed")
        view = buffer[: self.remaining] if len(buffer) > self.remaining else buffer
        try:
            count = self._response.readinto(view)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = self._origin._failure(error, self._wire.site, "")
            self.close()
            raise failure from None
        if not count and len(view):
            shown = self._wire.site.shown
            self.close()
            found = f"{shown} ended its answer {self.remaining} bytes too early."
            raise SourceError(self._origin._problem("interrupted", found), retry=True)
        self.remaining -= count
        if not self.remaining:
            self.close()
        return count

    def close(self) -> None:
        """Give the connection back where the range was read to its end, else end it."""
        wire, response, self._wire, self._response = self._wire, self._response, None, None
        if wire is None or response is None:
            return
        if self.remaining:
            self._origin._drop(wire)
            response.close()
        else:
            self._origin._finish(wire, response)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Origin:
    """The LFS server of a repository. Safe for many threads.

    credentials_host: whom the token is for, as an address (``https://hub.example:8443/...``, best) or as ``host`` or
    ``host:port``, which then has the endpoint's scheme. rewrite: puts another address in the place of a download's.
    """

    def __init__(
        self,
        endpoint: str,
        pointers: t.Iterable[Named],
        *,
        username: str = "",
        token: str = "",
        credentials_host: str = "",
        ca_file: str = "",
        timeout: float = 120,
        environ: t.Mapping[str, str] | None = None,
        rewrite: t.Callable[[str], str] = lambda href: href,
    ) -> None:
        self.pointers = {pointer.oid: pointer for pointer in pointers}
        self.repo = repo_of(endpoint)
        self._timeout = timeout
        self._environ = dict(environ or {})
        self._proxies = proxies_of(self._environ)
        self._ca_file = ca_file
        self._rewrite = rewrite
        cleaned = clean_url(endpoint)
        if cleaned is None:
            found = f"the LFS server is at {safe_url(endpoint) or 'no address'}."
            raise SourceError(self._problem("transfer_unsupported", found), retry=False)
        self._endpoint, userinfo = cleaned
        self._endpoint = self._endpoint.rstrip("/")
        self._party: Site | None = None
        self._authorization = ""
        if token:
            home = credentials_host
            if home and "://" not in home:
                home = f"{urlsplit(self._endpoint).scheme}://{home}"
            clean_home = clean_url(home)
            self._party = site_of(clean_home[0]) if clean_home else None
            self._authorization = basic_of(username or "token", token)
        elif userinfo:  # of lfs.url: for that server alone
            self._party = site_of(self._endpoint)
            self._authorization = basic(userinfo)
        self._secrets = [secret for secret in (token, self._authorization.partition(" ")[2]) if secret]
        self._lock = threading.Lock()  # of the connections
        self._idle: list[_Wire] = []
        self._busy: set[socket.socket] = set()
        self._closed = False
        self._context: ssl.SSLContext | None = None
        self._context_lock = threading.Lock()
        self._batch_lock = threading.Lock()  # one question at a time; the others wait for its answer
        self._batch_limit = BATCH_LIMIT
        self._actions: dict[str, tuple[Action, float, float]] = {}  # with when it came and until when it is used
        self._problems: dict[str, Problem] = {}
        self._failures = 0
        self._last_failure: SourceError | None = None
        self._wants_token: set[Site] = set()

    def __repr__(self) -> str:
        return f"Origin({self.repo!r})"

    def __enter__(self) -> Origin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; whoever reads from one gets a SourceError."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for busy in self._busy:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(busy, socket.SHUT_RDWR)
        for wire in idle:
            wire.connection.close()

    def prepare(self) -> None:
        """Ask where all objects are, so that a missing one or a refused token is told before the first byte."""
        for oid, pointer in self.pointers.items():
            if pointer.size:
                self._action(oid)

    def open(self, oid: str, start: int, stop: int) -> Stream:
        """The bytes from start to before stop of an object."""
        size = self.pointers[oid].size
        if not 0 <= start <= stop <= size or (start == stop and size):
            raise ValueError(f"no such range of an object of {size} bytes: {start}-{stop}")
        if not size:
            return Stream(self, None, None, 0)
        action = self._action(oid)
        try:
            return self._download(oid, action, start, stop)
        except _Refused:
            # Tokens and signed addresses end half-way: ask once more where the object is.
            fresh = self._renewed(oid, action)
        try:
            return self._download(oid, fresh, start, stop)
        except _Refused as refused:
            raise self._refusal(refused) from None

    # -- problems

    def _problem(self, cause: str, found: str) -> Problem:
        return lfs_problem(cause, self._redacted(found), repo=self.repo, timeout=int(self._timeout))

    def _redacted(self, text: str) -> str:
        for secret in getattr(self, "_secrets", ()):
            text = text.replace(secret, "********")
        return text

    def _refusal(self, refused: _Refused) -> SourceError:
        shown, status = refused.site.shown, refused.status
        fault = status_fault(status, refused.said)
        if fault == "credentials":
            fault = "token_rejected" if refused.authorised else "token_missing"
        what = {
            "token_rejected": "rejected the credentials that were given for a large file",
            "token_missing": "asks for credentials for a large file",
            "forbidden": "refuses access to a large file, also at a fresh address",
        }.get(fault, "does not accept the request for a large file")
        reason = f"{status}: {refused.said}" if refused.said else str(status)
        return SourceError(self._problem(fault, f"{shown} {what} ({reason})."), retry=False)

    def _failure(self, error: Exception, site: Site, proxy: str, broken: str = "interrupted") -> SourceError:
        """What went wrong on the way to a server. proxy: set while a connection through one is made.

        broken: the fault of a connection that broke.
        """
        shown = site.shown
        if isinstance(error, socket.gaierror):
            retry = error.errno == socket.EAI_AGAIN
            if proxy:
                return self._proxy_failure(proxy, f"its name does not resolve: {error.strerror}", retry=retry)
            return SourceError(
                self._problem("dns", f"this host cannot resolve {shown} ({error.strerror})."), retry=retry
            )
        if isinstance(error, (socket.timeout, TimeoutError)):  # the same from Python 3.10 on
            if proxy:
                return self._proxy_failure(proxy, "it does not answer", retry=True)
            found = f"{shown} sent nothing for {self._timeout:g} s."
            return SourceError(self._problem("timeout", found), retry=True)
        if isinstance(error, ssl.SSLCertVerificationError):
            found = f"the TLS certificate of {shown} was not accepted ({show(error.verify_message)})."
            fault = text_fault(f"certificate: {error.verify_message}")[0]
            return SourceError(self._problem(fault, found), retry=False)
        if isinstance(error, OSError) and error.errno in _UNREACHABLE and not isinstance(error, ssl.SSLError):
            if proxy:
                return self._proxy_failure(proxy, f"nothing answers there: {error.strerror}", retry=True)
            found = f"nothing answers at {shown} ({error.strerror})."
            return SourceError(self._problem("connection", found), retry=True)
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        found = f"the connection to {shown} broke ({show(reason)})."
        return SourceError(self._problem(broken, found), retry=True)

    def _proxy_failure(self, proxy: str, reason: str, *, retry: bool) -> SourceError:
        found = f"the proxy {urlsplit(proxy).netloc.rpartition('@')[2]} cannot be used ({show(reason)})."
        return SourceError(self._problem("proxy", found), retry=retry)

    # -- connections

    def _tls(self) -> ssl.SSLContext:
        """The trust of git on this host, and the bundle of this repository besides."""
        with self._context_lock:
            if self._context is None:
                names = (self._environ.get("GIT_SSL_CAINFO"), self._environ.get("SSL_CERT_FILE"), *_SYSTEM_BUNDLES)
                base = next((name for name in names if name and Path(name).is_file()), None)
                loading = base or "the system's certificates"
                try:
                    context = ssl.create_default_context(cafile=base)
                    # Python 3.13 refuses authorities that git and every browser accept.
                    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
                    if self._ca_file:
                        loading = self._ca_file
                        context.load_verify_locations(cafile=self._ca_file)
                except (OSError, ValueError) as error:
                    reason = show(getattr(error, "strerror", None) or getattr(error, "reason", None) or error)
                    found = f"{loading} cannot be read as a PEM bundle of authorities ({reason})."
                    raise SourceError(self._problem("tls_bundle", found), retry=False) from None
                self._context = context
            return self._context

    def _connect(self, site: Site) -> _Wire:
        proxy = proxy_for(site, self._proxies)
        first, headers = site, {}
        if proxy:
            cleaned = clean_url(proxy)
            if cleaned is None or not cleaned[0].startswith("http://"):
                scheme = urlsplit(proxy).scheme
                found = f"the proxy variables name a proxy that is spoken to by '{show(scheme)}'."
                raise SourceError(self._problem("transfer_unsupported", found), retry=False)
            first = site_of(cleaned[0])
            headers = {"Proxy-Authorization": basic(cleaned[1])} if cleaned[1] else {}
        # A server that is there takes a connection soon; only then may it be silent for longer.
        patience = min(self._timeout, max(5.0, self._timeout / 3))
        connection: http.client.HTTPConnection
        if site.scheme == "https":
            connection = http.client.HTTPSConnection(first.host, first.port, timeout=patience, context=self._tls())
            if proxy:
                connection.set_tunnel(site.host, site.port, headers)
        else:
            connection = http.client.HTTPConnection(first.host, first.port, timeout=patience)
        try:
            connection.connect()
            connection.auto_open = 0  # a connection that broke is told, not made anew without our settings
            connection.sock.settimeout(self._timeout)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._connect_failure(error, site, proxy) from None
        wire = _Wire(connection, site, proxy, connection.sock)
        with self._lock:
            closed = self._closed
            if not closed:
                self._busy.add(wire.sock)
        if closed:
            connection.close()
            raise self._stopped()
        return wire

    def _connect_failure(self, error: Exception, site: Site, proxy: str) -> SourceError:
        tunnel = re.match(r"Tunnel connection failed: (\d+)", str(error)) if proxy else None
        if tunnel:
            refusal = f"it answers {tunnel[1]} on the way to {site.shown}"
            return self._proxy_failure(proxy, refusal, retry=tunnel[1] in ("408", "429", "500", "502", "503", "504"))
        if isinstance(error, ssl.SSLError) and not isinstance(
            error, (ssl.SSLCertVerificationError, ssl.SSLEOFError, ssl.SSLZeroReturnError, socket.timeout)
        ):
            found = f"{site.shown} does not speak TLS as this host does ({show(error.reason)})."
            fault = "tls_client" if "CERTIFICATE" in str(error.reason) else "tls_protocol"
            return SourceError(self._problem(fault, found), retry=False)
        return self._failure(error, site, proxy, broken="cut")

    def _stopped(self) -> SourceError:
        return SourceError(self._problem("interrupted", "the fetch was stopped."), retry=False)

    def _take(self, site: Site) -> _Wire | None:
        """A kept connection to a server, if there is a good one."""
        while True:
            with self._lock:
                if self._closed:
                    raise self._stopped()
                wire = next((wire for wire in reversed(self._idle) if wire.site == site), None)
                if wire is None:
                    return None
                self._idle.remove(wire)
                self._busy.add(wire.sock)
            if time.monotonic() - wire.idle_since < IDLE_SECONDS and not wire.readable:
                return wire
            self._drop(wire)

    def _drop(self, wire: _Wire) -> None:
        with self._lock:
            self._busy.discard(wire.sock)
        wire.connection.close()
        # After "Connection: close" the socket is the answer's, not the connection's.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(wire.sock, socket.SHUT_RDWR)

    def _finish(self, wire: _Wire, response: http.client.HTTPResponse) -> None:
        """Keep the connection of an answer that has been read, or that has only a little left."""
        try:
            reusable = not response.will_close
            if reusable and not response.isclosed() and (response.length or 0) <= DRAIN_LIMIT:
                wire.sock.settimeout(min(self._timeout, DRAIN_SECONDS))
                response.read(DRAIN_LIMIT)
                wire.sock.settimeout(self._timeout)
            reusable = reusable and response.isclosed()
        except (OSError, http.client.HTTPException, ValueError):
            reusable = False
        response.close()
        dropped: _Wire | None = wire
        if reusable:
            with self._lock:
                if not self._closed:
                    self._busy.discard(wire.sock)
                    wire.idle_since = time.monotonic()
                    self._idle.append(wire)
                    dropped = self._idle.pop(0) if len(self._idle) > IDLE_LIMIT else None
        if dropped:
            self._drop(dropped)

    # -- requests

    def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[_Wire, http.client.HTTPResponse]:
        """One request and the head of its answer. A kept connection that turns out to be closed is replaced once."""
        site = site_of(url)
        parts = urlsplit(url)
        kept = self._take(site)
        while True:
            wire = kept or self._connect(site)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            sent = dict(headers)
            if wire.proxy and site.scheme == "http":
                target = url
                userinfo = urlsplit(wire.proxy).netloc.rpartition("@")[0]
                if userinfo:
                    sent["Proxy-Authorization"] = basic(userinfo)
            try:
                wire.connection.request(method, target, body=body, headers=sent)
                response = wire.connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self._drop(wire)
                if self._closed:
                    raise self._stopped() from None
                if kept and isinstance(error, _STALE) and not isinstance(error, socket.timeout):
                    kept = None
                    continue
                raise self._failure(error, site, "") from None
            if response.status == 407:
                self._finish(wire, response)
                raise self._proxy_failure(wire.proxy or url, "it asks for credentials: 407", retry=False)
            return wire, response

    def _request(
        self, method: str, url: str, public: dict[str, str], private: t.Mapping[str, str], body: bytes | None = None
    ) -> tuple[_Wire, http.client.HTTPResponse, bool]:
        """Follow redirects to an answer. The private headers go to the first server alone.

        The last value is whether an Authorization header was sent to the server that answered.
        """
        home = site_of(url)
        trusted = True
        for _hop in range(REDIRECTS + 1):
            site = site_of(url)
            trusted = trusted and same_party(home, site)
            headers = {**public, **(private if trusted else {})}
            wire, response = self._exchange(method, url, headers, body)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return wire, response, any(name.lower() == "authorization" for name in headers)
            self._finish(wire, response)
            # http.client reads headers as latin-1; an address beyond ASCII was meant as UTF-8.
            text = location.encode("latin-1", "replace").decode("utf-8", "replace")
            try:
                cleaned = clean_url(urljoin(url, text))
            except ValueError:
                cleaned = None
            if cleaned is None:
                found = f"{site.shown} redirects to an address that is not http(s)."
                raise SourceError(self._problem("redirect", found), retry=False)
            if site.scheme == "https" and site_of(cleaned[0]).scheme == "http":
                found = f"{safe_url(url)} redirects from https to {safe_url(cleaned[0])}."
                raise SourceError(self._problem("insecure_redirect", found), retry=False)
            url = cleaned[0]
        found = f"{home.shown} redirects more than {REDIRECTS} times."
        raise SourceError(self._problem("redirect", found), retry=False)

    def _credentials(self, url: str) -> dict[str, str]:
        """The token, if it is meant for the server of this address."""
        if self._authorization and self._party and same_party(self._party, site_of(url)):
            return {"Authorization": self._authorization}
        return {}

    # -- where the objects are

    def _action(self, oid: str) -> Action:
        known = self._actions.get(oid)
        if known and time.monotonic() < known[2]:
            return known[0]
        return self._ask(oid, lambda: (known := self._actions.get(oid)) is not None and time.monotonic() < known[2])

    def _renewed(self, oid: str, refused: Action) -> Action:
        """An action that is newer than the refused one; those that came with it are renewed too."""
        before = self._actions.get(oid)
        came = before[1] if before and before[0] is refused else None

        def newer() -> bool:
            known = self._actions.get(oid)
            return known is not None and known[0] is not refused

        return self._ask(oid, newer, came)

    def _ask(self, oid: str, settled: t.Callable[[], bool], came: float | None = None) -> Action:
        failures = self._failures
        with self._batch_lock:
            # Somebody else may have asked while this thread waited; a failure of theirs is shared, not repeated.
            if self._failures != failures and self._last_failure:
                last = self._last_failure
                raise SourceError(last.problem, retry=last.retry, wait=last.wait)
            if not settled() and oid not in self._problems:
                try:
                    self._load(oid, came)
                except SourceError as error:
                    self._failures += 1
                    self._last_failure = error
                    raise
            if oid in self._problems:
                problem = self._problems[oid]
                if problem.cause in _PASSING:
                    del self._problems[oid]
                raise SourceError(problem, retry=problem.cause in _PASSING)
            return self._actions[oid][0]

    def _load(self, oid: str, came: float | None) -> None:
        """Ask for one object and for others whose turn is near."""

        def due(other: str) -> bool:
            known = self._actions.get(other)
            if known is None:
                return other not in self._problems
            return time.monotonic() >= known[2] or (came is not None and known[1] <= came)

        oids = list(self.pointers)
        place = oids.index(oid)
        following = [other for other in oids[place + 1 :] + oids[:place] if due(other)]
        while True:
            group = [self.pointers[name] for name in (oid, *following)][: self._batch_limit]
            answer = self._batch(group)
            if answer is not None:
                break
            self._batch_limit = max(1, len(group) // 2)
        now, moment = time.time(), time.monotonic()
        for name, found in answer.items():
            if isinstance(found, Problem):
                self._problems[name] = Problem(
                    found.cause, self._redacted(found.found), found.expected, self._redacted(found.remedy)
                )
                self._actions.pop(name, None)
            else:
                self._problems.pop(name, None)
                self._actions[name] = (found, moment, moment + life_of(found, now))

    def _batch(self, group: t.Sequence[Named]) -> dict[str, Action | Problem] | None:
        """Ask the server; None when it wants shorter questions."""
        url = f"{self._endpoint}/objects/batch"
        public = {
            "Accept": MEDIA_TYPE,
            "Accept-Encoding": "identity",
            "Content-Type": MEDIA_TYPE,
            "User-Agent": _USER_AGENT,
        }
        private = self._credentials(url)
        wire, response, authorised = self._request("POST", url, public, private, request_body(group))
        try:
            body = response.read(ANSWER_LIMIT)
        except (OSError, http.client.HTTPException) as error:
            self._drop(wire)
            raise self._failure(error, wire.site, "") from None
        self._finish(wire, response)
        status, shown = response.status, wire.site.shown
        if status == 200:
            return parse_response(body, group, repo=self.repo, has_token=authorised)
        if status == 413 and len(group) > 1:
            return None
        said = _message(response, body)
        fault = "transfer_unsupported" if status in (405, 501) else status_fault(status, said)
        if fault == "credentials":
            fault = "token_rejected" if authorised else "token_missing"
        if fault == "token_missing" and self._authorization:
            host = self._party.shown if self._party else "no host"
            found = f"{shown} asks for credentials, and the token is for {host} alone."
        else:
            what = {
                "token_rejected": f"rejected the credentials that were given for {self.repo}",
                "token_missing": f"asks for credentials for {self.repo}",
                "forbidden": f"refuses access to the large files of {self.repo}",
                "transfer_unsupported": "does not know the LFS batch request",
                "repository_not_found": f"has no LFS server at {safe_url(self._endpoint)}",
                "server": "failed",
            }.get(fault, f"does not give the large files of {self.repo}")
            found = f"{shown} {what} ({_reason(response, said)})."
        retry = fault in _PASSING and (status in (403, 408, 425, 429) or status >= 500)
        wait = retry_after(response.headers.get("Retry-After"), time.time()) if retry else 0.0
        raise SourceError(self._problem(fault, found), retry=retry, wait=wait)

    # -- content

    def _download(self, oid: str, action: Action, start: int, stop: int) -> Stream:
        cleaned = clean_url(self._rewrite(action.href))
        if cleaned is None:
            raise SourceError(
                self._problem("server", "the address of a download, as rewritten, is not http(s)."), retry=False
            )
        url = cleaned[0]
        site = site_of(url)
        private = dict(action.headers) if same_party(site_of(action.href), site) else {}
        unnamed = not action.authenticated and not any(name.lower() == "authorization" for name in private)
        if unnamed and site in self._wants_token:
            private.update(self._credentials(url))
        try:
            return self._range(oid, url, private, start, stop)
        except _Refused as refused:
            credentials = self._credentials(url)
            if refused.status != 401 or refused.authorised or refused.site != site or not (unnamed and credentials):
                raise
            # As git-lfs does for an action that says nothing of its own credentials.
            stream = self._range(oid, url, {**private, **credentials}, start, stop)
            self._wants_token.add(site)
            return stream

    def _range(self, oid: str, url: str, private: t.Mapping[str, str], start: int, stop: int) -> Stream:
        public = {
            "Accept-Encoding": "identity",
            "Range": f"bytes={start}-{stop - 1}",
            "User-Agent": _USER_AGENT,
        }
        wire, response, authorised = self._request("GET", url, public, private)
        try:
            self._check(oid, wire.site, response, start, stop, authorised=authorised)
        except BaseException:
            if response.status in (200, 206):
                self._drop(wire)
                response.close()
            else:
                self._finish(wire, response)
            raise
        return Stream(self, wire, response, stop - start)

    def _check(
        self, oid: str, site: Site, response: http.client.HTTPResponse, start: int, stop: int, *, authorised: bool
    ) -> None:
        """Raise where the answer does not begin with the range that was asked for."""
        size, shown, status = self.pointers[oid].size, site.shown, response.status
        if status in (400, 401, 403):  # 400: so do some stores call a signature that has ended
            raise _Refused(status, site, authorised=authorised, said=_message(response))
        if status in (404, 410):
            found = f"{self.repo} has the pointer, but not the content, of the object {oid} ({shown} says {status})."
            raise SourceError(self._problem("lfs_object_missing", found), retry=False)
        if status in (200, 206):
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding.lower() != "identity":
                found = f"{shown} sent the object {oid} in the encoding '{show(encoding)}', which was not asked for."
                raise SourceError(self._problem("damaged_transfer", found), retry=False)
        if status == 206:
            headers = {name: response.headers.get(name, "") for name in ("Content-Range", "Content-Length")}
            lie = range_lie({name: value for name, value in headers.items() if value}, start, stop, size)
            if lie:
                found = f"{shown} was asked for the bytes {start}-{stop - 1} of the object {oid} and answered {lie}."
                raise SourceError(self._problem("damaged_transfer", found), retry=True)
            return
        if status == 200:
            if start:
                found = f"{shown} sends the object {oid} only from its beginning."
                raise SourceError(self._problem("range_unsupported", found), retry=False)
            length = response.headers.get("Content-Length")
            if length is not None and length.strip() != str(size):
                found = f"{shown} has {show(length)} bytes of the object {oid}, whose pointer names {size}."
                raise SourceError(self._problem("damaged_transfer", found), retry=True)
            return
        if status == 416:
            found = f"{shown} says that the object {oid} ends before byte {stop}; its pointer names {size}."
            raise SourceError(self._problem("damaged_transfer", found), retry=True)
        said = _message(response)
        fault = status_fault(status, said)
        retry = fault in _PASSING and (status in (408, 425, 429) or status >= 500)
        wait = retry_after(response.headers.get("Retry-After"), time.time()) if retry else 0.0
        found = f"{shown} does not give the object {oid} ({_reason(response, said)})."
        raise SourceError(self._problem(fault, found), retry=retry, wait=wait)
