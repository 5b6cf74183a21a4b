# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what was seen of a failed chat.completion to its cause and the variable or command that mends it.

Pure: what is seen is gathered elsewhere (see _evidence.py). Which answer means what was measured on FastChat 0.2.36.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.vicuna.fleet.plugins.module_utils._chat import is_loopback
from ansible_collections.vicuna.fleet.plugins.module_utils._worker_log import (
    earlier_runs,
    heartbeat_died,
    known_crash,
    last_error,
    log_lines,
    one_line,
    registered,
    this_run,
)

CONTROLLER, WORKER, API, EDGE = "controller", "model-worker", "api-server", "edge"

# A worker registers within seconds of having loaded, and again within a heartbeat (3 s, FastChat's default 45 s) of
# having been forgotten. One that runs this long and has registered before is not just starting.
REGISTERING_S = 60.0
# The edge asks every worker once a second, and each question leaves a line in its log.
QUIET_S = 15.0


@dataclass(frozen=True)
class Container:
    """One container of the compose project, as `docker inspect` shows it."""

    service: str
    state: str  # created, running, paused, restarting, exited, dead
    exit_code: int = 0
    oom_killed: bool = False
    restarts: int = 0
    health: str = ""  # starting, healthy, unhealthy; empty without a health check
    running_for: float = 0.0  # seconds since its last start, 0 while it does not run
    quiet_for: float = 0.0  # seconds since its last line of a log that carries times, 0 where there is none
    error: str = ""  # the engine's words where it could not start it
    memory_limit: int = 0  # bytes, 0 for none
    cut_from: str = ""  # the network that it was made for and is on no more
    unpublished: bool = False  # it runs, and the engine publishes none of the ports that it was made for
    published: tuple[int, ...] = ()  # ports of the host that the engine publishes for it

    @property
    def runs(self) -> bool:
        return self.state == "running"

    def __str__(self) -> str:
        words = [f"container {self.service}: {self.state}"]
        if self.runs:
            words.append(f"for {_duration(self.running_for)}")
        else:
            words.append(f"exit code {self.exit_code}")
        if self.oom_killed:
            words.append("killed for memory")
        if self.memory_limit:
            words.append(f"limited to {self.memory_limit / 2**20:.0f} MiB")
        if self.cut_from:
            words.append(f"not on the network {self.cut_from}")
        if self.unpublished:
            words.append("its port is not published")
        if self.restarts:
            words.append(f"{self.restarts} restart{'' if self.restarts == 1 else 's'}")
        if self.health:
            words.append(self.health)
        if self.error:
            words.append(one_line(self.error))
        return ", ".join(words)


@dataclass(frozen=True)
class Observation:
    """All that is known of a question which got no valid answer."""

    url: str
    model: str
    status: int | None = None  # None: no HTTP answer
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    violations: Sequence[str] = ()  # of an answer with status 200
    error_kind: str = ""  # see _evidence.error_kind
    error_text: str = ""
    waited: float = 0.0  # seconds that the last request took
    key_sent: bool = False
    containers: Sequence[Container] | None = None  # None: not looked at
    containers_error: str = ""  # why they could not be looked at
    logs: Mapping[str, str] = field(default_factory=dict)  # service: tail of its log
    proxies: Mapping[str, str] = field(default_factory=dict)  # variable: proxy that this URL goes through
    speaks_tls: bool | None = None  # whether a TLS handshake succeeds at a http:// URL's port
    edge_hangs: bool | None = None  # after a timeout: whether what the edge answers by itself did not come either
    project: str = "vicuna"
    project_dir: str = "/opt/vicuna"


@dataclass(frozen=True)
class Diagnosis:
    cause: str
    evidence: list[str]
    remedy: str
    transient: bool  # whether waiting may mend it
    code: str  # stable name of the cause, for programs
    # What can bring the answer back without a person, where the release in place is the right one:
    restart: list[str] = field(default_factory=list)  # these services, started again
    recreate: bool = False  # all containers, made anew from the compose file


def diagnose(seen: Observation) -> Diagnosis:
    """The most specific explanation of what was seen."""
    if seen.status is None:
        return _no_answer(seen)
    proxy = _proxy_answer(seen)
    if proxy:
        return proxy
    taken = _port_taken(seen)
    if taken:
        return taken
    if seen.status >= 500 or _fastchat_code(seen) in (40301, 50001):
        touched = _touched(seen)
        if touched:
            return touched
    if 200 <= seen.status < 300:
        return _invalid_answer(seen)
    if 300 <= seen.status < 400:
        return _redirect(seen)
    code = _fastchat_code(seen)
    if code in _BY_CODE:
        return _BY_CODE[code](seen)
    if seen.status in _BY_STATUS:
        return _BY_STATUS[seen.status](seen)
    return _report(
        seen,
        "unexpected_answer",
        f"the endpoint answered HTTP {seen.status}, which neither the edge nor FastChat is known to say here",
        f"Check that {_origin(seen.url)} is this deployment's edge; then {_logs(seen, EDGE, API)}.",
        services=(EDGE, API),
    )


# ---------------------------------------------------------------------------------------------- containers by hand

# The engine's words where a port cannot be published.
_PORT_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)


def _port_taken(seen: Observation) -> Diagnosis | None:
    """Whatever answers on the port, where the edge could not get it."""
    edge = _find(seen, EDGE)
    if edge is None or edge.state not in ("created", "exited", "dead"):
        return None
    if _PORT_TAKEN.search(edge.error):
        why = one_line(edge.error, 240)
    elif is_loopback(seen.url) and (seen.status is not None or seen.error_kind == "not_http"):
        why = f"the container edge is {edge.state}, and something else answers there"
    else:
        return None
    port = urlsplit(seen.url).port or 8000
    return _report(
        seen,
        "port_taken",
        f"another service holds the port of the edge: {why}",
        f"Find it with ss -ltnp 'sport = :{port}' and stop it, or set fastchat_port to a free port; then run the "
        "playbook again.",
        services=(EDGE,),
        transient=False,
    )


def _touched(seen: Observation) -> Diagnosis | None:
    """A container that somebody has paused, or has taken off its network: it looks like a process that hangs."""
    for container in seen.containers or ():
        if container.state == "paused":
            return _report(
                seen,
                "paused",
                f"the container {container.service} is paused",
                f"Run on the host: {_compose(seen, 'unpause ' + container.service)}; or the playbook site.yml, which "
                "starts it again.",
                services=(container.service,),
                restart=(container.service,),
            )
        if container.runs and (container.cut_from or container.unpublished):
            which = f"the network {container.cut_from}" if container.cut_from else "the network that publishes its port"
            return _report(
                seen,
                "no_network",
                f"the container {container.service} is not on {which}: somebody has "
                "disconnected it, and a restart does not connect it again",
                f"Run the playbook site.yml, or on the host: {_up(seen)} --force-recreate.",
                services=(container.service,),
                recreate=True,
            )
    return None


# ---------------------------------------------------------------------------------------------- no HTTP answer


def _no_answer(seen: Observation) -> Diagnosis:
    kind = seen.error_kind
    found = _port_taken(seen) or _touched(seen)
    if found:
        return found
    if kind == "connect_timeout" and _has(seen.error_text, "handshake"):
        # The kernel takes connections for a process that hangs, and TLS waits for its first word.
        kind = "timeout"
    if kind.startswith("tls") or (seen.speaks_tls and seen.url.startswith("http:")):
        return _tls(seen)
    if seen.proxies and kind in ("proxy", "refused", "connect_timeout", "dns", "unreachable", "disconnected"):
        return _proxy_unreachable(seen)
    known = {
        "refused": _refused,
        "dns": _dns,
        "connect_timeout": _no_connection,
        "unreachable": _no_connection,
        "timeout": _hung,
        "disconnected": _disconnected,
        "not_http": _not_http,
    }
    if kind in known:
        return known[kind](seen)
    return _report(
        seen,
        "request_failed",
        f"the request to {_origin(seen.url)} failed: {one_line(seen.error_text) or 'no reason given'}",
        "Check url and ca_path of the endpoint; then run the same request by hand with curl -v.",
    )


def _refused(seen: Observation) -> Diagnosis:
    place = _origin(seen.url)
    if _has(seen.containers_error, "Cannot connect to the Docker daemon", "Is the docker daemon running"):
        return _report(
            seen,
            "engine_down",
            f"nothing listens on {place}: the Docker Engine of this host does not run",
            "Run the playbook site.yml, or on the host: systemctl start docker; if it stops again, see "
            "journalctl -u docker.",
            services=(EDGE,),
        )
    if seen.containers is not None:
        edge = _find(seen, EDGE)
        if not seen.containers:
            return _report(
                seen,
                "not_deployed",
                f"nothing listens on {place}: the compose project {seen.project!r} has no containers on this host",
                "Deploy it: run the playbook site.yml for this host (role fastchat).",
            )
        if edge is None or not edge.runs or _ends_at_once(edge):
            return _edge_down(seen, edge)
        asked = urlsplit(seen.url).port or (443 if seen.url.startswith("https:") else 80)
        elsewhere = bool(edge.published) and asked not in edge.published
        where = f"port {' and '.join(map(str, edge.published))}" if elsewhere else "another port or address"
        return _report(
            seen,
            "wrong_port",
            f"nothing listens on {place}, although the container edge is running: it publishes {where}",
            f"Compare the port of the endpoint's url with {_compose(seen, 'port edge 8000')}, and correct "
            "fastchat_port or the url (verify_url, fastchat_endpoint_url).",
            services=(EDGE,),
            # The url is wrong, and no container.
            restart=() if elsewhere else (EDGE,),
            transient=not elsewhere,
        )
    return _report(
        seen,
        "refused",
        f"nothing listens on {place}: the container edge is down, or the port is not published there",
        f"Run on the host: {_compose(seen, 'ps -a')}; {_up(seen)}. Asked from elsewhere, also check the host's "
        "firewall and the port of the endpoint's url.",
        services=(EDGE,),
    )


def _dns(seen: Observation) -> Diagnosis:
    host = urlsplit(seen.url).hostname
    return _report(
        seen,
        "dns",
        f"the name {host!r} cannot be resolved",
        f"Correct ansible_host (or fastchat_endpoint_url) of this host, or make the name known: getent hosts {host}.",
    )


def _no_connection(seen: Observation) -> Diagnosis:
    place = _origin(seen.url)
    how = "there is no route" if seen.error_kind == "unreachable" else f"no connection within {_duration(seen.waited)}"
    return _report(
        seen,
        "no_connection",
        f"{place} cannot be reached: {how}; the host is down or a firewall drops the packets",
        "Check that the host is up and that its firewall or security group lets the port through; "
        f"{_compose(seen, 'port edge 8000')} on the host shows the address that the edge listens on.",
        services=(EDGE,),
    )


def _hung(seen: Observation) -> Diagnosis:
    for service, down in ((API, _api_down), (CONTROLLER, _controller_down)):
        found = _find(seen, service)
        if found is not None and not found.runs:
            return down(seen, found)
    if seen.edge_hangs:
        return _does_not_answer(seen, EDGE)
    gone = _worker_gone(seen)
    if gone:
        return gone
    unwell = [each.service for each in seen.containers or () if each.runs and each.health == "unhealthy"]
    if unwell:
        return _does_not_answer(seen, *unwell)
    return _report(
        seen,
        "hung",
        f"the endpoint took the question and gave no answer within {_duration(seen.waited)}: the worker hangs, is busy "
        "with other requests (they queue without limit), or is too slow for this time",
        f"Look at {_logs(seen, WORKER)} and at the GPU (nvidia-smi); raise verify_request_timeout for a slow or "
        "busy host; "
        f"a hung worker comes back with {_compose(seen, 'restart model-worker')}.",
        services=(EDGE, API, WORKER),
        log=WORKER,
        # What is busy only would lose its answers: a person has to look.
    )


def _does_not_answer(seen: Observation, *services: str) -> Diagnosis:
    names = " and ".join(services)
    return _report(
        seen,
        "hung",
        f"the {names} {'runs and does' if len(services) == 1 else 'run and do'} not answer",
        f"Run on the host: {_compose(seen, 'restart ' + ' '.join(services))}; then {_logs(seen, *services)}.",
        services=services,
        log=services[0],
        restart=services,
    )


def _ends_at_once(edge: Container) -> bool:
    """Whether it runs for now and has just ended: one that cannot start is seen between two starts as well."""
    return edge.runs and edge.restarts > 0 and edge.running_for < REGISTERING_S


# HAProxy's words for what keeps it from starting; not for a server that is down, nor for the sum of what it has said.
_EDGE_ALERT = (
    r"\[ALERT\](?!.*(?:has no server available|Fatal errors found|Error\(s\) found))|cannot bind|permission denied"
)


def _edge_down(seen: Observation, edge: Container | None) -> Diagnosis:
    alert = _last_match(seen.logs.get(EDGE, ""), _EDGE_ALERT)
    if edge is None:
        state = "does not exist"
    else:
        state = f"ends at every start, {edge.restarts} times so far" if edge.runs else f"is {edge.state}"
    return _report(
        seen,
        "edge_down",
        f"nothing listens on {_origin(seen.url)}: the container edge {state}" + (f" ({alert})" if alert else ""),
        f"Run on the host: {_up(seen, 'edge')}; if it stops again, {_logs(seen, EDGE)} names the line of its "
        "configuration or the port that is taken.",
        services=(EDGE,),
        log=EDGE,
        restart=(EDGE,),
    )


def _disconnected(seen: Observation) -> Diagnosis:
    edge = _find(seen, EDGE)
    if edge is not None and (not edge.runs or _ends_at_once(edge)):
        return _edge_down(seen, edge)
    return _report(
        seen,
        "disconnected",
        f"{_origin(seen.url)} closed the connection without an answer: the edge was just restarted, or something else "
        "than an HTTP server listens there (a TLS port, when the url begins with http)",
        f"Check the url's scheme and port; then {_logs(seen, EDGE)}.",
        services=(EDGE,),
        log=EDGE,
        restart=_settled(seen, EDGE),
    )


def _not_http(seen: Observation) -> Diagnosis:
    return _report(
        seen,
        "not_http",
        f"what listens on {_origin(seen.url)} does not speak HTTP",
        f"Check the port of the endpoint's url against {_compose(seen, 'port edge 8000')}, and its scheme: a port with "
        "TLS wants https.",
        transient=False,
    )


# ---------------------------------------------------------------------------------------------- TLS


def _tls(seen: Observation) -> Diagnosis:
    if seen.url.startswith("http:"):
        return _report(
            seen,
            "http_to_https_port",
            f"the url begins with http, and {_origin(seen.url)} speaks TLS",
            f"Write the endpoint's url as https://{urlsplit(seen.url).netloc}.",
            transient=False,
        )
    if seen.error_kind != "tls_verify":
        plain = _has(seen.error_text, "wrong_version_number", "wrong version number", "record layer failure")
        plain = plain or _has(seen.error_text, "http request", "packet length too long", "unknown protocol")
        if plain:
            return _report(
                seen,
                "https_to_http_port",
                f"the url begins with https, and {_origin(seen.url)} answers in plain HTTP",
                f"Write the endpoint's url as http://{urlsplit(seen.url).netloc}, or set fastchat_tls_certificate.",
                transient=False,
            )
        return _report(
            seen,
            "tls",
            f"no TLS session with {_origin(seen.url)}: {one_line(seen.error_text)}",
            f"Check the edge's certificate and key, and {_logs(seen, EDGE)}; openssl s_client -connect "
            f"{urlsplit(seen.url).netloc} shows the handshake.",
            services=(EDGE,),
        )
    return _certificate(seen)


def _certificate(seen: Observation) -> Diagnosis:
    netloc = urlsplit(seen.url).netloc
    text = seen.error_text
    transient = False
    if _has(text, "not yet valid"):
        # The one refusal that time alone lifts: a fresh machine's clock before its first synchronisation.
        why, remedy, transient = (
            "is not valid yet",
            "Set the clock of the asking machine (timedatectl) and ask again.",
            True,
        )
    elif _has(text, "expired"):
        why, remedy = "has expired", "Renew fastchat_tls_certificate, and run the playbook again."
    elif _has(text, "hostname mismatch", "ip address mismatch", "doesn't match", "is not valid for"):
        why = f"was not issued for {urlsplit(seen.url).hostname!r}"
        remedy = "Use a name of the certificate in fastchat_endpoint_url, or issue it for this one (subjectAltName)."
    else:
        why = "is signed by no authority that is trusted here"
        remedy = (
            "Set fastchat_tls_ca (the module's ca_path) to the authority's PEM file, or list it in "
            "vicuna_ca_certificates; a proxy that inspects TLS needs its own authority there."
        )
    return _report(
        seen,
        "tls_verify",
        f"the certificate of {netloc} {why}",
        f"{remedy} Leave validate_certs on.",
        transient=transient,
    )


# ---------------------------------------------------------------------------------------------- proxies


def _proxy_answer(seen: Observation) -> Diagnosis | None:
    """A proxy's own answer in place of the edge's."""
    if seen.status == 407:
        return _report(
            seen,
            "proxy_credentials",
            f"the proxy{_proxy_names(seen)} wants credentials before it passes the request on",
            f"{_no_proxy(seen)}, so that the request goes straight to the host.",
            transient=False,
        )
    if isinstance(_json(seen), dict) and not _proxy_marks(seen):
        return None
    marks = _proxy_marks(seen)
    known = _fastchat_code(seen) or _openai_code(seen)
    if known or (not marks and not (seen.proxies and (_is_html(seen) or seen.status in (403, 502, 503, 504)))):
        return None
    if seen.status is not None and 200 <= seen.status < 300 and not _is_html(seen):
        return None
    return _report(
        seen,
        "proxy_interference",
        f"a proxy{_proxy_names(seen)} answered in place of the endpoint (HTTP {seen.status})",
        f"{_no_proxy(seen)}, and run the playbook again.",
        extra=marks,
    )


def _proxy_unreachable(seen: Observation) -> Diagnosis:
    denied = re.search(r"Tunnel connection failed: (\d{3})[^'\")]*", seen.error_text)
    credentials = denied is not None and denied.group(1) == "407"
    if credentials:
        what = "wants credentials before it passes the request on"
    elif denied:
        what = f"refuses to pass the request on ({one_line(denied.group(0))})"
    else:
        what = "does not pass the request on"
    return _report(
        seen,
        "proxy_credentials" if credentials else "proxy_unreachable",
        f"the request to {_origin(seen.url)} goes through the proxy{_proxy_names(seen)}, which {what}",
        f"{_no_proxy(seen)}, so that the request goes straight to the host.",
        transient=not credentials,
    )


def _proxy_marks(seen: Observation) -> list[str]:
    marks = []
    for name in ("via", "proxy-authenticate", "x-squid-error", "proxy-connection", "proxy-agent"):
        if name in seen.headers:
            marks.append(f"header {name}: {one_line(seen.headers[name])}")
    server = seen.headers.get("server", "")
    if re.match(r"(?i)squid|tinyproxy|mitmproxy|privoxy|zscaler|bluecoat|apache traffic", server):
        marks.append(f"header server: {one_line(server)}")
    return marks


def _proxy_names(seen: Observation) -> str:
    if not seen.proxies:
        return " on the way"
    return " " + " and ".join(f"{proxy} ({variable} in the environment)" for variable, proxy in seen.proxies.items())


def _no_proxy(seen: Observation) -> str:
    host = urlsplit(seen.url).hostname
    if seen.proxies:
        return f"Add {host} to no_proxy (and NO_PROXY) in the environment of the asking machine"
    return f"Let the network pass requests to {host} without a proxy"


# ---------------------------------------------------------------------------------------------- HTTP answers


def _invalid_answer(seen: Observation) -> Diagnosis:
    payload = _json(seen)
    if not isinstance(payload, dict) or "choices" not in payload:
        return _report(
            seen,
            "not_the_api",
            f"what answers on {_origin(seen.url)} is not a chat API",
            "Check the endpoint's url: another service may hold the port "
            f"({_compose(seen, 'port edge 8000')} shows the edge's).",
            extra=seen.violations,
        )
    return _report(
        seen,
        "invalid_answer",
        "the endpoint answered, and the answer is no valid chat.completion: " + "; ".join(seen.violations),
        "An empty answer or other text than expected points at the weights or the prompt template: run the role model "
        f"again to verify every file, and see {_logs(seen, WORKER)}. Missing fields point at another server than this "
        "deployment's FastChat behind the url.",
        extra=seen.violations,
        services=(WORKER,),
        # The question is asked greedily: the same worker gives the same answer again.
        transient=False,
    )


def _redirect(seen: Observation) -> Diagnosis:
    target = one_line(seen.headers.get("location", "")) or "somewhere else"
    return _report(
        seen,
        "redirected",
        f"{_origin(seen.url)} redirects to {target}",
        "Set the endpoint's url to the edge itself; a login page as target is a proxy's or a portal's: "
        f"{_no_proxy(seen)[0].lower()}{_no_proxy(seen)[1:]}.",
        transient=False,
    )


def _unauthorised(seen: Observation) -> Diagnosis:
    payload = _json(seen)
    inside = isinstance(payload, dict) and "detail" in payload
    if inside:
        return _report(
            seen,
            "unauthorised_inside",
            "FastChat itself refused the API key: its api-server was started with --api-keys, which the edge replaces",
            "Remove --api-keys from the api-server's command (the edge checks fastchat_api_keys in its place), and run "
            "the playbook again.",
            transient=False,
        )
    if seen.key_sent:
        cause = "the edge refused the API key: it is none of the keys that were deployed"
        remedy = (
            "Run the playbook site.yml, which puts the keys of fastchat_api_keys in place, or the one in "
            "fastchat_api_key_file where that is empty; before it, add the key there if the clients use another one."
        )
    else:
        cause = "the edge wants an API key, and none was sent"
        remedy = "Pass api_key to the module: one of fastchat_api_keys, or the generated one in fastchat_api_key_file."
    return _report(seen, "unauthorised", cause, remedy, transient=False)


def _forbidden(seen: Observation) -> Diagnosis:
    return _report(
        seen,
        "forbidden",
        "the request was refused (HTTP 403), by something other than the edge: it answers 401, 404, 413, 429 or 503",
        f"Check what stands between here and the host (a proxy, a firewall, a load balancer): {_origin(seen.url)}.",
        extra=_proxy_marks(seen),
    )


def _not_found(seen: Observation) -> Diagnosis:
    base = urlsplit(seen.url)
    odd = base.path.rstrip("/") not in ("", "/v1/chat/completions")
    if odd:
        cause = f"there is no {base.path} here: url must be the base address, without a path"
        remedy = f"Set url to {_origin(seen.url)}; the module appends /v1/chat/completions itself."
    elif _openai_code(seen) or seen.status == 405:
        cause = "the edge blocks this path: it passes /v1/* only"
        remedy = (
            f"Set the endpoint's url (fastchat_endpoint_url) to the edge's base address; {_logs(seen, EDGE)} on the "
        )
        remedy += "host shows the paths that were asked for."
    else:
        cause = f"what answers on {_origin(seen.url)} knows no /v1/chat/completions: it is not this deployment"
        remedy = f"Check host and port of the endpoint's url against {_compose(seen, 'port edge 8000')}."
    return _report(seen, "not_found", cause, remedy, transient=False)


def _too_large(seen: Observation) -> Diagnosis:
    return _report(
        seen,
        "too_large",
        "the edge refused the request: its body is larger than the edge's limit",
        "Shorten the prompt, or raise fastchat_max_body_bytes and run the playbook again.",
        transient=False,
    )


def _too_many(seen: Observation) -> Diagnosis:
    return _report(
        seen,
        "rate_limited",
        "the request was refused: more requests arrived than a rate limit lets through; the edge has none, so "
        "something before it has",
        f"Wait and ask again, or find what stands before {_origin(seen.url)} (a gateway, a load balancer).",
    )


def _unavailable(seen: Observation) -> Diagnosis:
    api = _find(seen, API)
    if api is None and seen.containers:
        return _report(
            seen,
            "api_missing",
            "the edge runs, and the compose project has no container api-server",
            f"Run on the host: {_up(seen)}.",
            services=(EDGE,),
            recreate=True,
        )
    if api is not None and not api.runs:
        return _api_down(seen, api)
    if api is not None and api.running_for > REGISTERING_S:
        return _report(
            seen,
            "api_unreachable",
            f"the api-server runs for {_duration(api.running_for)}, and the edge cannot reach it",
            f"Run on the host: {_compose(seen, 'restart api-server')}; then {_logs(seen, API)}.",
            services=(EDGE, API, CONTROLLER),
            log=API,
            restart=(API,),
        )
    return _report(
        seen,
        "api_starting",
        "the edge has no api-server to pass the request to: it is starting or down",
        f"Wait a few seconds; if it lasts, {_compose(seen, 'ps -a')} and {_logs(seen, API)}.",
        services=(EDGE, API, CONTROLLER),
        log=API,
    )


def _api_down(seen: Observation, api: Container) -> Diagnosis:
    error = last_error(seen.logs.get(API, ""))
    return _report(
        seen,
        "api_down",
        f"the edge runs, and the api-server behind it is {api.state}" + (f": {error}" if error else ""),
        f"Run on the host: {_up(seen, 'api-server')}; if it stops again, {_logs(seen, API)}.",
        services=(API, CONTROLLER),
        log=API,
        restart=(API,),
    )


def _controller_down(seen: Observation, controller: Container) -> Diagnosis:
    return _report(
        seen,
        "controller_down",
        f"the api-server cannot reach the controller: its container is {controller.state}",
        f"Run on the host: {_up(seen, 'controller')}; workers come back to it at their next heartbeat.",
        services=(CONTROLLER,),
        log=CONTROLLER,
        restart=(CONTROLLER,),
    )


def _gateway_error(seen: Observation) -> Diagnosis:
    if seen.status == 504:
        unwell = [each.service for each in seen.containers or () if each.runs and each.health == "unhealthy"]
        return _report(
            seen,
            "edge_timeout",
            "the edge gave up waiting for the answer: the worker hangs or is slower than the edge's server timeout",
            f"Look at {_logs(seen, WORKER)} on the host; {_compose(seen, 'restart model-worker')} ends a hang. For a "
            "slow model raise fastchat_response_timeout.",
            services=(EDGE, API, WORKER),
            log=WORKER,
            restart=unwell,
        )
    return _report(
        seen,
        "edge_bad_gateway",
        "the edge got no proper answer from the api-server: it died or was restarted in the middle",
        f"Ask again; if it lasts, {_compose(seen, 'ps -a')} and {_logs(seen, API)}.",
        services=(EDGE, API),
        log=API,
        restart=_settled(seen, API),
    )


# The edge's own words (roles/fastchat/templates/edge/haproxy.cfg.j2).
_HANGS = re.compile(r"^The (?P<service>[a-z0-9-]+) of this host hangs[.]$")


def _server_error(seen: Observation) -> Diagnosis:
    """500: FastChat's api-server could not talk to the controller or to the worker that the controller named."""
    gone = _worker_gone(seen)
    if gone:
        return gone
    controller = _find(seen, CONTROLLER)
    api_error = last_error(seen.logs.get(API, ""))
    if controller is not None and not controller.runs:
        return _controller_down(seen, controller)
    hung = _HANGS.search(_message(seen))
    named = _find(seen, hung["service"]) if hung else None
    if hung and (named is None or named.runs):
        return _does_not_answer(seen, hung["service"])
    if _has(api_error, "Cannot connect to host controller"):
        return _report(
            seen,
            "controller_down",
            f"the api-server cannot reach the controller: {api_error}",
            f"Run on the host: {_compose(seen, 'restart controller')}; then {_logs(seen, CONTROLLER)}.",
            services=(CONTROLLER,),
            log=CONTROLLER,
            restart=(CONTROLLER,),
        )
    worker = _find(seen, WORKER)
    if worker is not None and worker.runs:
        listening = "Uvicorn running on" in _this_run(seen, worker) or worker.running_for > REGISTERING_S
        if listening:
            return _report(
                seen,
                "api_error",
                "the api-server failed on this request"
                + (f": {api_error}" if api_error else "")
                + "; the controller may still name a worker that is gone (for up to 17 s)",
                f"Ask again; if it lasts, {_logs(seen, API)} holds the traceback.",
                services=(CONTROLLER, WORKER, API),
                log=API,
                restart=_settled(seen, _unreached(api_error) or API),
            )
        if not registered(_this_run(seen, worker)):
            return _loading(seen, worker)
        return _report(
            seen,
            "registering",
            "the worker has registered and does not listen yet: it registers a moment before it binds its port",
            "Wait: it answers within seconds.",
            services=(WORKER,),
            log=WORKER,
        )
    return _report(
        seen,
        "worker_unreachable",
        "the api-server cannot reach the worker: it registers (for a second), or it has just died (for up to 17 s)",
        f"Wait; if it lasts, {_compose(seen, 'ps -a')} and {_logs(seen, WORKER)} on the host.",
        services=(WORKER,),
    )


def _unreached(error: str) -> str:
    """The service that the api-server names as out of its reach (aiohttp's words)."""
    found = re.search(r"Cannot connect to host (model-worker[a-z0-9-]*):", error)
    return found[1] if found else ""


def _no_model(seen: Observation) -> Diagnosis:
    """40301: the controller knows no worker with this model name."""
    names = _registered_names(seen)
    if names:
        served = ", ".join(names)
        return _report(
            seen,
            "name_mismatch",
            f"the worker serves {served!r}, and {seen.model!r} was asked for",
            f"Set vicuna_model_name to the name that clients use and run the playbook again; or ask for {names[0]!r}.",
            transient=False,
        )
    gone = _worker_gone(seen)
    if gone:
        return gone
    worker = _find(seen, WORKER)
    if worker is None:
        return _report(
            seen,
            "no_worker",
            "no worker is registered: it still loads the model, or it crashed",
            "A large model loads for minutes: wait. If it lasts, run on the host: "
            f"{_compose(seen, 'ps -a')}; {_logs(seen, WORKER)}.",
            services=(WORKER,),
        )
    log = _this_run(seen, worker)
    if heartbeat_died(log):
        return _report(
            seen,
            "evicted",
            "the worker looks healthy and will never come back: its heartbeat thread died when it could not register "
            "again, and the controller has forgotten it",
            f"Run on the host: {_compose(seen, 'restart model-worker')}.",
            services=(CONTROLLER, WORKER),
            log=WORKER,
            transient=False,
            restart=(WORKER,),
        )
    if registered(log):
        if worker.quiet_for > QUIET_S or worker.health == "unhealthy":
            # The controller has forgotten it, and no other part of the host waits for it any more.
            return _does_not_answer(seen, WORKER)
        if worker.running_for > REGISTERING_S:
            return _report(
                seen,
                "evicted",
                "the worker runs and had registered, and the controller has forgotten it: it was restarted itself, "
                "the worker missed its heartbeats, or a request to /v1/models emptied the controller's table",
                f"Wait for the next heartbeat; if it lasts, {_compose(seen, 'restart model-worker')}.",
                services=(CONTROLLER, WORKER),
                log=WORKER,
                restart=(WORKER,),
            )
        return _report(
            seen,
            "registering",
            "the worker has loaded the model and is registering with the controller",
            "Wait: it answers within seconds.",
            services=(CONTROLLER, WORKER),
            log=WORKER,
        )
    return _loading(seen, worker)


def _loading(seen: Observation, worker: Container) -> Diagnosis:
    return _report(
        seen,
        "loading",
        f"the worker is still loading the model, for {_duration(worker.running_for)} now; it registers when it is done",
        "Wait, and raise timeout (verify_timeout) where a large model or a slow disk needs longer. "
        f"docker stats shows whether its memory still grows; {_logs(seen, WORKER)} what it does.",
        services=(WORKER,),
        log=WORKER,
    )


def _context_overflow(seen: Observation) -> Diagnosis:
    return _report(
        seen,
        "context_overflow",
        f"the question does not fit into the model's context: {_message(seen)}",
        "Shorten prompt, or serve a model with a longer context (vicuna_model_repo, for example a -16k one).",
        transient=False,
    )


def _bad_parameter(seen: Observation) -> Diagnosis:
    return _report(
        seen,
        "bad_parameter",
        f"FastChat refused a parameter of the request: {_message(seen)}",
        "Correct the parameter (max_tokens must be at least 1).",
        transient=False,
    )


def _malformed(seen: Observation) -> Diagnosis:
    # The message ends in the path of a source file on the server: only what comes before it is of use.
    detail = one_line(_message(seen).split("\n\n")[0])
    return _report(
        seen,
        "malformed",
        f"FastChat could not read the request: {detail}",
        "If the module sent it, something on the way changed the body: compare with a request sent on the host itself.",
        transient=False,
    )


def _out_of_memory(seen: Observation) -> Diagnosis:
    detail = re.search(r"\((.+)\)\s*$", _message(seen), re.DOTALL)
    text = f" ({one_line(detail.group(1))})" if detail else ""
    return _report(
        seen,
        "out_of_memory",
        f"the GPU ran out of memory{text}; FastChat words this as high traffic",
        "Free the GPU (nvidia-smi shows who holds it), lower fastchat_limit_worker_concurrency, set "
        "fastchat_load_8bit, or serve a smaller model (vicuna_model_repo).",
        services=(WORKER,),
    )


def _worker_failed(seen: Observation) -> Diagnosis:
    """50001: the worker died in the middle of the answer, or raised while it generated."""
    message = _message(seen)
    gone = _worker_gone(seen)
    if gone:
        return gone
    raised = re.search(r"HIGH TRAFFIC.*?\((.+)\)\s*$", message, re.DOTALL)
    if raised:
        error = one_line(raised.group(1))
        known = known_crash(error)
        if known:
            return _report(
                seen, known.code, known.cause, known.remedy, services=(WORKER,), log=WORKER, transient=known.transient
            )
        return _report(
            seen,
            "worker_raised",
            f"the worker failed while it generated, not for traffic, as FastChat words it: {error}",
            f"Look at {_logs(seen, WORKER)} on the host; a CUDA error stays until "
            f"{_compose(seen, 'restart model-worker')}.",
            services=(WORKER,),
            log=WORKER,
            restart=(WORKER,) if "CUDA error" in error else (),
        )
    return _report(
        seen,
        "worker_died",
        f"the worker died in the middle of its answer ({one_line(message)})",
        f"It is started again by itself: ask again. If it repeats, {_logs(seen, WORKER)}; exit code 137 means that the "
        "host's memory ran out.",
        services=(WORKER,),
        log=WORKER,
    )


_BY_CODE = {
    40001: _malformed,
    40301: _no_model,
    40302: _bad_parameter,
    40303: _context_overflow,
    50001: _worker_failed,
    50002: _out_of_memory,
    50006: _server_error,
}
_BY_STATUS = {
    401: _unauthorised,
    403: _forbidden,
    404: _not_found,
    405: _not_found,
    413: _too_large,
    429: _too_many,
    500: _server_error,
    502: _gateway_error,
    503: _unavailable,
    504: _gateway_error,
}


# ---------------------------------------------------------------------------------------------- a crashed worker


def _worker_gone(seen: Observation) -> Diagnosis | None:
    """A diagnosis where the containers show that the worker does not run, or runs and crashes over and over."""
    if seen.containers is None:
        return None
    workers = [container for container in seen.containers if container.service == WORKER]
    if not workers:
        if not seen.containers:
            return None
        return _report(
            seen,
            "worker_missing",
            "the compose project has no container model-worker",
            f"Run the playbook site.yml, or on the host: {_up(seen)}.",
            services=(CONTROLLER, API, EDGE),
            recreate=True,
        )
    log = seen.logs.get(WORKER, "")
    for worker in workers:
        if worker.runs:
            loops = worker.restarts > 0 and not registered(_this_run(seen, worker))
            error = last_error(log if _has_logged_nothing(worker) else earlier_runs(log)) if loops else ""
            if error or (loops and worker.restarts >= 3):
                return _crashed(seen, worker, error)
        elif worker.state in ("exited", "dead", "restarting", "created"):
            return _crashed(seen, worker, last_error(log))
    return None


def _has_logged_nothing(worker: Container) -> bool:
    """Whether all of its log is of the runs before this one."""
    return 0 < worker.running_for <= worker.quiet_for


def _this_run(seen: Observation, worker: Container) -> str:
    return "" if _has_logged_nothing(worker) else this_run(seen.logs.get(worker.service, ""))


def _crashed(seen: Observation, worker: Container, error: str) -> Diagnosis:
    # The restart policy would have started it again after anything else.
    by_hand = worker.state == "exited" and not worker.oom_killed and not worker.error
    # While it runs again, the engine does not tell how it ended.
    killed = worker.exit_code == 137 or (worker.runs and worker.memory_limit > 0)
    if worker.oom_killed or (killed and not error and not by_hand):
        if worker.memory_limit:
            cause = f"the worker was killed at the memory limit of its container, {worker.memory_limit / 2**20:.0f} MiB"
            remedy = (
                "The deployment sets no such limit: run the playbook site.yml, or on the host "
                f"{_up(seen)} --force-recreate, which makes the container without it."
            )
        else:
            sure = "was killed" if worker.oom_killed else "was killed from outside (exit code 137), most often"
            cause = f"the worker {sure} because the host's memory, or its container's limit, ran out"
            remedy = (
                "Free memory on the host, raise the container's limit, or serve a smaller model (vicuna_model_repo)."
            )
        return _report(
            seen,
            "host_memory",
            cause,
            remedy,
            services=(WORKER,),
            log=WORKER,
            recreate=bool(worker.memory_limit),
        )
    known = known_crash(worker.error) or known_crash(error)
    detail = one_line(worker.error) or error
    if known:
        return _report(
            seen,
            known.code,
            f"the worker crashed: {known.cause} ({one_line(detail, 240)})",
            known.remedy,
            services=(WORKER,),
            log=WORKER,
            transient=known.transient,
        )
    if worker.state == "created" and not worker.error:
        return _report(
            seen,
            "worker_not_started",
            "the worker was never started: a service that it depends on is not healthy",
            f"Run on the host: {_compose(seen, 'ps -a')} shows which; then {_up(seen)}.",
            services=(CONTROLLER, WORKER),
            restart=(WORKER,),
        )
    if not detail and by_hand and worker.exit_code in (0, 137, 143):
        return _report(
            seen,
            "worker_stopped",
            f"the worker was stopped or killed by hand (exit code {worker.exit_code}) and not started again",
            f"Run on the host: {_up(seen, 'model-worker')}.",
            services=(WORKER,),
            log=WORKER,
            transient=False,
            restart=(WORKER,),
        )
    how = f"{worker.restarts} restarts" if worker.runs else f"exit code {worker.exit_code}"
    unexplained = f"{how}, and its log does not say why"
    return _report(
        seen,
        "crashed",
        f"the worker crashed: {detail or unexplained}",
        f"Run on the host: {_logs(seen, WORKER)}; it holds the whole traceback.",
        services=(WORKER,),
        log=WORKER,
        transient=False,
        recreate=True,
    )


# ---------------------------------------------------------------------------------------------- the report


def _report(
    seen: Observation,
    code: str,
    cause: str,
    remedy: str,
    *,
    services: Sequence[str] = (),
    log: str = "",
    extra: Sequence[str] = (),
    transient: bool = True,
    restart: Sequence[str] = (),
    recreate: bool = False,
) -> Diagnosis:
    evidence = [_seen_line(seen), *extra]
    if services and seen.containers:
        evidence += [
            str(container) for service in services for container in seen.containers if container.service == service
        ]
    elif services and seen.containers is not None:
        evidence.append(f"no containers of the compose project {seen.project!r} on this host")
    elif services and seen.containers_error:
        evidence.append(f"containers not looked at: {one_line(seen.containers_error)}")
    if log:
        lines = [line for line in log_lines(seen.logs.get(log, "")) if line.strip(" ^~")]
        evidence += [f"log of {log}: {one_line(line, 240)}" for line in lines[-3:]]
    for variable, proxy in seen.proxies.items():
        evidence.append(f"{variable}={proxy} in the environment")
    return Diagnosis(
        cause=cause,
        evidence=evidence,
        remedy=remedy,
        transient=transient,
        code=code,
        # What has no container can only be made anew; and without a look at the containers, nobody knows.
        restart=[service for service in restart if _find(seen, service)],
        recreate=bool(seen.containers) and (recreate or bool(restart)),
    )


def _seen_line(seen: Observation) -> str:
    if seen.status is None:
        return f"no HTTP answer: {one_line(seen.error_text) or seen.error_kind or 'no reason given'}"
    code = _fastchat_code(seen) or _openai_code(seen)
    text = one_line(_message(seen) or re.sub(r"<[^>]*>", " ", seen.body))
    return f"HTTP {seen.status}" + (f", code {code}" if code else "") + (f": {text}" if text else ", empty body")


def _last_match(log: str, pattern: str) -> str:
    for line in reversed(log.splitlines()):
        if re.search(pattern, line, re.IGNORECASE):
            return one_line(line)
    return ""


def _json(seen: Observation) -> Any:
    try:
        return json.loads(seen.body)
    except (ValueError, RecursionError):
        return None


def _fastchat_code(seen: Observation) -> int:
    payload = _json(seen)
    code = payload.get("code") if isinstance(payload, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else 0


def _openai_error(seen: Observation) -> dict[str, Any]:
    payload = _json(seen)
    if isinstance(payload, dict) and isinstance(payload.get("detail"), dict):
        payload = payload["detail"]
    error = payload.get("error") if isinstance(payload, dict) else None
    return error if isinstance(error, dict) else {}


def _openai_code(seen: Observation) -> str:
    return str(_openai_error(seen).get("code") or "")


def _message(seen: Observation) -> str:
    payload = _json(seen)
    if isinstance(payload, dict) and isinstance(payload.get("message"), str):
        return str(payload["message"])
    return str(_openai_error(seen).get("message") or "")


def _registered_names(seen: Observation) -> list[str]:
    match = re.match(r"Only (.*) allowed now, your model ", _message(seen), re.DOTALL)
    return [name for name in match.group(1).split("&&") if name.strip()] if match else []


def _is_html(seen: Observation) -> bool:
    start = seen.body.lstrip()[:200].lower()
    return "text/html" in seen.headers.get("content-type", "") or start.startswith(("<!doctype", "<html"))


def _find(seen: Observation, service: str) -> Container | None:
    found = [container for container in seen.containers or () if container.service == service]
    # With several of a kind, the one that does not run tells more.
    return min(found, key=lambda container: container.runs) if found else None


def _settled(seen: Observation, service: str) -> tuple[str, ...]:
    """The service, where its last start is no explanation of what was seen: that passes by itself."""
    found = _find(seen, service)
    return (service,) if found and found.running_for > REGISTERING_S else ()


def _has(text: str, *parts: str) -> bool:
    low = text.lower()
    return any(part.lower() in low for part in parts)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"
    return f"{seconds / 86400:.0f} days"


def _compose(seen: Observation, words: str) -> str:
    return f"docker compose -p {seen.project} {words}"


def _up(seen: Observation, service: str = "") -> str:
    # Unlike the rest, `up` needs the compose file.
    return f"cd {seen.project_dir} && docker compose up -d {service}".rstrip()


def _logs(seen: Observation, *services: str) -> str:
    return _compose(seen, f"logs --tail 50 {' '.join(services)}")
