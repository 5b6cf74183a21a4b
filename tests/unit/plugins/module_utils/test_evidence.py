# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How evidence is gathered, and that gathering it can neither fail nor hang."""

from __future__ import annotations

import json
import socket
import ssl
import time
import urllib.error
import urllib.request

import pytest
import requests

from ansible_collections.vicuna.fleet.plugins.module_utils import _evidence
from ansible_collections.vicuna.fleet.plugins.module_utils._diagnosis import Observation

SEEN = Observation(url="http://10.0.0.7:8000", model="vicuna", status=500)


def with_urllib(url, timeout=0.3):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(url, data=b"{}"), timeout=timeout).read()


def with_requests(url, timeout=0.3):
    with requests.Session() as session:
        session.trust_env = False
        session.post(url, data="{}", timeout=timeout)


@pytest.mark.parametrize("send", [with_urllib, with_requests])
class TestErrorKind:
    """The same words for what both libraries wrap in their own ways."""

    def kind(self, send, url):
        with pytest.raises((OSError, urllib.error.URLError)) as caught:
            send(url)
        kind, text = _evidence.error_kind(caught.value)
        assert text
        assert "HTTPConnectionPool" not in text
        return kind

    def test_refused(self, send, closed_port):
        assert self.kind(send, f"http://127.0.0.1:{closed_port}") == "refused"

    def test_dns(self, send):
        assert self.kind(send, "http://nosuch.invalid") == "dns"

    def test_no_answer(self, send, serve):
        assert self.kind(send, serve("hang").url) == "timeout"

    def test_closed(self, send, serve):
        assert self.kind(send, serve("close").url) == "disconnected"

    def test_untrusted_certificate(self, send, serve, good, tls):
        assert self.kind(send, serve(good(), context=tls).url) == "tls_verify"

    def test_https_to_a_plain_port(self, send, serve, good):
        assert self.kind(send, serve(good()).url.replace("http:", "https:")) == "tls"


def test_connect_timeouts_are_told_from_slow_answers():
    assert _evidence.error_kind(urllib.error.URLError(TimeoutError("timed out")))[0] == "connect_timeout"
    assert _evidence.error_kind(requests.exceptions.ConnectTimeout("x"))[0] == "connect_timeout"
    assert _evidence.error_kind(TimeoutError("timed out"))[0] == "timeout"


def test_no_route():
    assert _evidence.error_kind(urllib.error.URLError(OSError(113, "No route to host")))[0] == "unreachable"


def test_a_tunnel_that_a_proxy_refuses():
    error = urllib.error.URLError(OSError("Tunnel connection failed: 407 Proxy Authentication Required"))
    assert _evidence.error_kind(error) == ("proxy", "Tunnel connection failed: 407 Proxy Authentication Required")


def test_anything_else_keeps_its_name():
    assert _evidence.error_kind(ValueError("odd")) == ("other", "ValueError: odd")


class TestProxiesOf:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch):
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("http_proxy", "http://user:secret@proxy.example:3128")
        monkeypatch.setenv("no_proxy", "10.0.0.8,.internal")

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://10.0.0.7:8000", {"http_proxy": "http://proxy.example:3128"}),
            ("https://10.0.0.7:8000", {}),
            ("http://10.0.0.8:8000", {}),
            ("http://gpu.internal:8000", {}),
            ("http://127.0.0.1:8000", {}),
            ("http://localhost:8000", {}),
        ],
    )
    def test_by_url(self, url, expected):
        assert _evidence.proxies_of(url) == expected

    def test_all_proxy(self, monkeypatch):
        monkeypatch.setenv("ALL_PROXY", "http://other.example:1")
        assert _evidence.proxies_of("https://10.0.0.7") == {"all_proxy": "http://other.example:1"}


def test_speaks_tls(serve, good, tls, closed_port):
    assert _evidence.speaks_tls(serve(good(), context=tls).url)
    assert not _evidence.speaks_tls(serve(good()).url)
    assert not _evidence.speaks_tls(f"http://127.0.0.1:{closed_port}")


def test_a_process_that_hangs_takes_connections_and_answers_nothing():
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        url = f"http://127.0.0.1:{stopped.getsockname()[1]}"
        assert _evidence.edge_hangs(url, timeout=0.3)
        assert _evidence.edge_hangs(url.replace("http", "https"), ssl.create_default_context(), timeout=0.3)


def test_an_edge_that_says_anything_or_is_gone_does_not_hang(serve, good, tls, closed_port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    assert not _evidence.edge_hangs(serve(good()).url)
    assert not _evidence.edge_hangs(serve(good(), context=tls).url, context)
    assert not _evidence.edge_hangs(f"http://127.0.0.1:{closed_port}")


class TestContainers:
    @pytest.fixture
    def docker(self, tmp_path, monkeypatch):
        def script(text):
            (tmp_path / "docker").write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / "docker").chmod(0o755)

        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return script

    def test_no_docker(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        seen = _evidence.with_containers(SEEN)
        assert seen.containers is None
        assert seen.containers_error == "there is no docker command on this machine"

    def test_no_containers(self, docker):
        docker("exit 0")
        assert _evidence.with_containers(SEEN).containers == ()

    def test_no_daemon(self, docker):
        docker("echo 'Cannot connect to the Docker daemon' >&2; exit 1")
        seen = _evidence.with_containers(SEEN)
        assert seen.containers is None
        assert "Cannot connect to the Docker daemon" in seen.containers_error

    def test_garbage(self, docker):
        docker('[ "$1" = ps ] && echo abc || echo "[{}]"')
        assert _evidence.with_containers(SEEN).containers is None

    def test_checks_do_not_push_out_what_tells(self):
        """Uvicorn's line for a check, as it is and as FastChat's worker passes it on."""
        checks = [
            'INFO:     172.18.0.5:40000 - "GET /health HTTP/1.1" 404 Not Found',
            '2026-01-01 00:00:00 | INFO | stdout | INFO:     172.18.0.5:4 - "POST /worker_get_status HTTP/1.1" 200 OK',
            'INFO:     172.18.0.5:40002 - "POST /list_models HTTP/1.1" 200 OK',
        ]
        question = 'INFO:     172.18.0.6:1 - "POST /v1/chat/completions HTTP/1.1" 200 OK'
        log = "\n".join(["RuntimeError: CUDA error", question, *checks * 100, "the end"]) + "\n"
        assert _evidence.telling(log) == f"RuntimeError: CUDA error\n{question}\nthe end\n"
        assert _evidence.telling("x\n" * 100) == "x\n" * _evidence.LOG_LINES

    def test_the_last_line_of_a_container_is_from_when(self, docker, monkeypatch):
        state = {"Status": "running", "StartedAt": "2026-12-01T14:00:20.1Z"}
        one = {"Id": "a", "Config": {"Labels": {"com.docker.compose.service": "model-worker"}}, "State": state}
        docker(
            f"""case $1 in
            ps) echo a ;;
            inspect) echo '{json.dumps([one])}' ;;
            logs) echo '2026-12-01 14:00:03 | INFO | stdout | b' ;;
            esac"""
        )
        monkeypatch.setattr(_evidence.time, "time", lambda: 1796133624.0)  # 14:00:24
        found = _evidence.with_containers(SEEN)
        assert [(each.quiet_for, each.running_for) for each in found.containers or ()] == [(21, 4)]

    def test_how_long_a_log_is_quiet(self):
        log = "2026-12-01 14:00:00 | INFO | stdout | a\n2026-12-01 14:00:03 | INFO | stdout | b\n  more of b\n"
        at = 1796133603.0  # 14:00:03
        assert _evidence.quiet_for(log, at + 21) == 21
        assert _evidence.quiet_for(log, at - 5) == 0
        assert _evidence.quiet_for("INFO:     Started server process [1]\n", at) == 0
        assert _evidence.quiet_for("", at) == 0

    def test_a_hung_engine_does_not_hang_us(self, docker):
        docker("exec sleep 30")
        started = time.monotonic()
        seen = _evidence.with_containers(SEEN, limit=0.5)
        assert time.monotonic() - started < 3
        assert "timed out" in seen.containers_error

    def test_one_container(self):
        inspected = {
            "RestartCount": 2,
            "Config": {"Labels": {"com.docker.compose.service": "edge"}},
            "State": {
                "Status": "running",
                "ExitCode": 0,
                "OOMKilled": False,
                "Error": "",
                "StartedAt": "2026-11-22T08:48:03.123456789Z",
                "Health": {"Status": "unhealthy"},
            },
        }
        found = _evidence.container(inspected, now=1795337283.0 + 90)
        assert (found.service, found.state, found.restarts, found.health) == ("edge", "running", 2, "unhealthy")
        assert found.running_for == 90
        assert str(found) == "container edge: running, for 90 s, 2 restarts, unhealthy"

    @pytest.mark.parametrize(
        ("state", "bindings", "ports", "unpublished"),
        [
            ("running", {"8000/tcp": [{"HostPort": "8000"}]}, {"8000/tcp": [{"HostPort": "8000"}]}, False),
            ("running", {"8000/tcp": [{"HostPort": "8000"}]}, {}, True),
            ("running", {"8000/tcp": [{"HostPort": "8000"}]}, {"8000/tcp": None}, True),
            ("running", {"8000/tcp": [{"HostPort": "8000"}]}, None, False),
            ("exited", {"8000/tcp": [{"HostPort": "8000"}]}, {}, False),
            ("running", {}, {}, False),
            ("running", None, {"21002/tcp": None}, False),
        ],
    )
    def test_a_port_that_no_network_publishes(self, state, bindings, ports, unpublished):
        inspected = {
            "Config": {"Labels": {"com.docker.compose.service": "edge"}},
            "State": {"Status": state, "StartedAt": "2026-11-22T08:48:03.123456789Z"},
            "HostConfig": {"PortBindings": bindings},
            "NetworkSettings": {"Ports": ports},
        }
        found = _evidence.container(inspected, now=0.0)
        assert found.unpublished is unpublished
        assert found.published == ((8000,) if ports and ports.get("8000/tcp") else ())
        assert ("its port is not published" in str(found)) is unpublished

    @pytest.mark.parametrize(
        ("mode", "networks", "cut"),
        [
            ("vicuna_backend", {"vicuna_backend": {}, "vicuna_frontend": {}}, ""),
            ("vicuna_backend", {}, "vicuna_backend"),
            ("vicuna_backend", {"vicuna_frontend": {}}, "vicuna_backend"),
            ("bridge", {"bridge": {}}, ""),
            ("default", {"bridge": {}}, ""),
            ("host", {"host": {}}, ""),
            ("none", {}, ""),
            ("container:4f2a", {}, ""),
            (None, {}, ""),
            ("vicuna_backend", None, ""),
        ],
    )
    def test_a_container_off_its_network(self, mode, networks, cut):
        inspected = {
            "Config": {"Labels": {"com.docker.compose.service": "edge"}},
            "State": {"Status": "running", "StartedAt": "2026-11-22T08:48:03.123456789Z"},
            "HostConfig": {"NetworkMode": mode, "Memory": 104857600},
            "NetworkSettings": {"Networks": networks},
        }
        found = _evidence.container(inspected, now=0.0)
        assert found.cut_from == cut
        assert found.memory_limit == 104857600
        assert ", limited to 100 MiB" in str(found)
        assert (", not on the network vicuna_backend" in str(found)) is bool(cut)
