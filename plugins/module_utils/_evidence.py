# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathers what a diagnosis stands on. Everything here is bounded in time and raises nothing of its own."""

from __future__ import annotations

import calendar
import errno
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPSHandler, ProxyHandler, build_opener, getproxies, proxy_bypass

from ansible_collections.vicuna.fleet.plugins.module_utils._chat import is_loopback
from ansible_collections.vicuna.fleet.plugins.module_utils._diagnosis import Container, Observation

LOG_LINES = 40
LOG_BYTES = 64 * 1024
# The edge's checks, three a second at most, would leave 40 lines of some 13 seconds.
_CHECKS = re.compile(r'"(?:POST /(?:worker_get_status|list_models)|GET /(?:health)?) HTTP/1\.[01]" \d')
_CHECKS_PER_LINE = 10
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)


# ---------------------------------------------------------------------------------------------- failed requests


def error_kind(error: BaseException) -> tuple[str, str]:
    """Why a request of urllib or requests got no HTTP answer, in one word and in its own words.

    One of tls_verify, tls, proxy, refused, dns, unreachable, connect_timeout, timeout, disconnected, not_http, other.
    """
    chain = list(_chain(error))
    kinds: tuple[tuple[str, Callable[[BaseException], bool]], ...] = (
        ("tls_verify", lambda e: isinstance(e, ssl.SSLCertVerificationError)),
        ("proxy", lambda e: type(e).__name__ == "ProxyError" or "Tunnel connection failed" in str(e)),
        ("tls", lambda e: isinstance(e, ssl.SSLError) and "timed out" not in str(e)),
        ("refused", lambda e: isinstance(e, ConnectionRefusedError)),
        ("dns", lambda e: isinstance(e, socket.gaierror)),
        ("unreachable", lambda e: isinstance(e, OSError) and e.errno in _UNREACHABLE),
        ("connect_timeout", lambda e: type(e).__name__ in ("ConnectTimeout", "ConnectTimeoutError")),
        ("timeout", lambda e: isinstance(e, TimeoutError) or type(e).__name__ in ("ReadTimeout", "ReadTimeoutError")),
        ("disconnected", lambda e: isinstance(e, (http.client.RemoteDisconnected, http.client.IncompleteRead))),
        ("disconnected", lambda e: isinstance(e, (ConnectionError, EOFError))),
        ("not_http", lambda e: isinstance(e, http.client.HTTPException)),
    )
    for kind, matches in kinds:
        for link in chain:
            if matches(link):
                # urllib wraps what fails before the request is sent, and only that, in an URLError.
                early = kind == "timeout" and type(error).__name__ == "URLError"
                return ("connect_timeout" if early else kind), _words(link)
    return "other", f"{type(error).__name__}: {error}"


def _words(error: BaseException) -> str:
    """An error's own words, without what the libraries put around them."""
    words = str(error)
    for around in (r"<urlopen error (.*)>", r"\w+\(host='[^']*', port=\d+\): (.*)"):
        match = re.fullmatch(around, words, re.DOTALL)
        words = match.group(1) if match else words
    return words or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it wraps, in whichever of the four usual ways."""
    waiting: list[Any] = [error]
    met: set[int] = set()
    while waiting:
        link = waiting.pop(0)
        if isinstance(link, BaseException) and id(link) not in met:
            met.add(id(link))
            yield link
            waiting += [getattr(link, "reason", None), link.__cause__, link.__context__, *link.args]


def proxies_of(url: str) -> dict[str, str]:
    """The proxy that a request to this URL goes through, by the name of its variable and without its password."""
    parts = urlsplit(url)
    if is_loopback(url) or not parts.hostname or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return {}
    proxies = getproxies()
    for name in (parts.scheme, "all"):
        if proxies.get(name):
            proxy = urlsplit(proxies[name])
            return {f"{name}_proxy": urlunsplit(proxy._replace(netloc=proxy.netloc.rpartition("@")[2]))}
    return {}


def speaks_tls(url: str, timeout: float = 3.0) -> bool:
    """Whether a TLS server listens at the URL's host and port, whatever its certificate."""
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=timeout) as plain:
            plain.settimeout(timeout)
            with context.wrap_socket(plain, server_hostname=parts.hostname):
                return True
    except (OSError, ValueError):
        return False


def edge_hangs(url: str, context: ssl.SSLContext | None = None, timeout: float = 3.0) -> bool:
    """Whether no answer comes to what the edge answers by itself, whatever hangs behind it."""
    handlers: list[Any] = [ProxyHandler({})] if is_loopback(url) else []
    handlers += [HTTPSHandler(context=context)] if context else []
    parts = urlsplit(url)
    try:
        build_opener(*handlers).open(f"{parts.scheme}://{parts.netloc}/health", timeout=timeout).close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return error_kind(error)[0] in ("timeout", "connect_timeout")
    return False


# ---------------------------------------------------------------------------------------------- containers


def with_containers(seen: Observation, limit: float = 10.0) -> Observation:
    """The observation with the state and the last log lines of the compose project's containers on this machine."""
    deadline = time.monotonic() + limit
    docker = shutil.which("docker")
    if docker is None:
        return replace(seen, containers_error="there is no docker command on this machine")

    def run(*words: str) -> str:
        left = deadline - time.monotonic()
        if left <= 0:
            raise subprocess.TimeoutExpired(["docker", *words], limit)
        # `docker logs` writes each of the container's two streams to its own: the order holds only when they are one.
        done = subprocess.run(
            [docker, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=left,
            check=False,
        )
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            raise OSError(f"docker {words[0]}: {text.strip()[-300:]}")
        return text

    label = "label=com.docker.compose."
    try:
        ids = run("ps", "-aq", "--filter", f"{label}project={seen.project}", "--filter", f"{label}oneoff=False").split()
        inspected = json.loads(run("inspect", *ids)) if ids else []
        containers = [container(one, time.time()) for one in inspected]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, subprocess.SubprocessError) as error:
        return replace(seen, containers_error=str(error))
    logs: dict[str, str] = {}
    quiet: dict[str, float] = {}
    directory = seen.project_dir
    # The services that stopped come last: of several containers of a service theirs is the log that tells.
    for one, state in sorted(zip(inspected, containers), key=lambda pair: not pair[1].runs):
        directory = (one["Config"]["Labels"] or {}).get("com.docker.compose.project.working_dir") or directory
        try:
            log = run("logs", "--tail", str(LOG_LINES * _CHECKS_PER_LINE), one["Id"])
        except (OSError, subprocess.SubprocessError):
            continue
        logs[state.service] = telling(log)
        quiet[state.service] = quiet_for(log, time.time())
    containers = [replace(one, quiet_for=quiet.get(one.service, 0.0)) for one in containers]
    return replace(seen, containers=tuple(containers), logs=logs, project_dir=directory)


def quiet_for(log: str, now: float) -> float:
    """Seconds since the last line of a log whose lines begin with their time, in UTC as in the image; else 0."""
    times = re.findall(r"^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) \|", log, re.MULTILINE)
    return max(0.0, now - _epoch("T".join(times[-1]))) if times else 0.0


def telling(log: str) -> str:
    """The end of a log without what the edge's checks leave there."""
    lines = [line for line in log.splitlines(keepends=True) if not _CHECKS.search(line)]
    return "".join(lines[-LOG_LINES:])[-LOG_BYTES:]


def container(inspected: dict[str, Any], now: float) -> Container:
    """One container from its entry in the answer of `docker inspect`."""
    state = inspected["State"]
    running = state["Status"] == "running"
    host = inspected.get("HostConfig") or {}
    # The engine keeps the name of the first network that the container was made for.
    network = str(host.get("NetworkMode") or "default")
    named = network not in ("default", "bridge", "host", "none") and ":" not in network
    settings = inspected.get("NetworkSettings") or {}
    joined, published = settings.get("Networks"), settings.get("Ports")
    return Container(
        service=(inspected["Config"]["Labels"] or {}).get("com.docker.compose.service", ""),
        state=state["Status"],
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        restarts=int(inspected.get("RestartCount") or 0),
        health=str((state.get("Health") or {}).get("Status") or ""),
        running_for=max(0.0, now - _epoch(state.get("StartedAt") or "")) if running else 0.0,
        error=str(state.get("Error") or ""),
        memory_limit=int(host.get("Memory") or 0),
        cut_from=network if named and joined is not None and network not in joined else "",
        unpublished=running
        and bool(host.get("PortBindings"))
        and published is not None
        and not any(published.values()),
        published=_host_ports(published or {}),
    )


def _host_ports(published: dict[str, Any]) -> tuple[int, ...]:
    """The ports of the host, from the engine's list of a container's."""
    found = [each.get("HostPort") for bound in published.values() for each in bound or []]
    return tuple(sorted({int(port) for port in found if port}))


def _epoch(timestamp: str) -> float:
    """Seconds since 1970 of the engine's times, which are in UTC and of nanosecond precision."""
    return float(calendar.timegm(time.strptime(timestamp[:19], "%Y-%m-%dT%H:%M:%S")))
