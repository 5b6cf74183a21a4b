# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module against a scripted server on loopback."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.module_utils._diagnosis import Container, Observation
from ansible_collections.vicuna.fleet.plugins.modules import chat_completion

NO_MODEL = (400, '{"object":"error","message":"Only  allowed now, your model vicuna","code":40301}')
OTHER_MODEL = (400, '{"object":"error","message":"Only vicuna allowed now, your model gpt-4","code":40301}')
NO_KEY = (401, '{"error":{"message":"wrong","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}')
KEY = "sk-5up3rs3cr3t"  # gitleaks:allow


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No engine and no proxies, whatever this machine has."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def run(capsys):
    """Runs the module; its result, with `failed` as the runner would see it, and the seconds that it took."""

    def run_module(url, **args):
        started = time.monotonic()
        given = {"url": url, "model": "vicuna", "timeout": 5, "request_timeout": 2, "interval": 0.05, **args}
        with patch_module_args(given), pytest.raises(SystemExit):
            chat_completion.main()
        output = capsys.readouterr().out
        assert KEY not in output
        result = json.loads(output)
        result.setdefault("failed", False)
        assert result.get("changed", False) is False
        return result, time.monotonic() - started

    return run_module


def test_a_good_answer(serve, run, good):
    endpoint = serve(good(content="1, 5 and 8."))
    result, _ = run(endpoint.url + "/", api_key=KEY, prompt="Which numbers?", max_tokens=7)
    assert not result["failed"]
    assert result["completion"] == {
        "id": "chatcmpl-NvjsMxL9AF8boJD8VnXBoa",
        "model": "vicuna",
        "content": "1, 5 and 8.",
        "finish_reason": "length",
        "created": 1795337285,
        "usage": {"prompt_tokens": 72, "completion_tokens": 3, "total_tokens": 75},
    }
    assert (result["attempts"], result["latency"] >= 0, result["waited"] >= result["latency"]) == (1, True, True)
    sent = endpoint.requests[0]
    assert sent["path"] == "/v1/chat/completions"
    assert sent["headers"]["Authorization"] == f"Bearer {KEY}"
    body = json.loads(sent["body"])
    assert (body["model"], body["max_tokens"], body["messages"][0]["content"]) == ("vicuna", 7, "Which numbers?")


def test_it_asks_until_the_worker_is_there(serve, run, good):
    endpoint = serve("close", (503, "{}"), NO_MODEL, (500, "Internal Server Error"), NO_MODEL, good())
    result, _ = run(endpoint.url)
    assert not result["failed"]
    assert result["attempts"] == 6


def test_it_waits_for_a_port_that_opens_later(run, closed_port):
    result, took = run(f"http://127.0.0.1:{closed_port}", timeout=0.5)
    assert result["failed"]
    assert result["diagnosis"]["code"] == "refused"
    assert result["attempts"] > 3
    assert took < 2


def test_the_failure_is_one_readable_message(serve, run):
    result, _ = run(serve(NO_MODEL).url, timeout=0.3)
    lines = result["msg"].splitlines()
    assert lines[0].startswith("No valid chat.completion of model 'vicuna' from http://127.0.0.1:")
    assert lines[1] == "Cause: no worker is registered: it still loads the model, or it crashed"
    assert lines[2] == "Evidence:"
    assert lines[3] == "  - HTTP 400, code 40301: Only allowed now, your model vicuna"
    assert lines[-1].startswith("Remedy: ")
    assert result["diagnosis"]["transient"] is True
    assert result["violations"] == []


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (NO_KEY, "unauthorised"),
        ((404, '{"error":{"code":"not_found"}}'), "not_found"),
        ((302, "", {"Location": "http://127.0.0.1:1/"}), "redirected"),
        ((400, '{"object":"error","message":"too long","code":40303}'), "context_overflow"),
    ],
)
def test_what_waiting_cannot_mend_stops_at_once(serve, run, entry, code):
    endpoint = serve(entry)
    result, took = run(endpoint.url, api_key=KEY, timeout=30)
    assert result["failed"]
    assert result["diagnosis"]["code"] == code
    assert result["attempts"] == len(endpoint.requests) == 1
    assert took < 5


def test_an_invalid_answer_fails_with_its_violations(serve, run, good):
    result, _ = run(serve(good(model="gpt-4", content=" ")).url, timeout=30)
    assert result["violations"] == [
        "model is 'gpt-4', expected 'vicuna'",
        "choices[0].message.content is empty, expected an answer",
    ]
    assert result["diagnosis"]["code"] == "invalid_answer"
    assert "content is empty" in result["msg"]


def test_a_key_that_the_server_echoes_stays_hidden(serve, run):
    result, _ = run(serve((400, f'{{"message":"bad key {KEY}","code":40302}}')).url, api_key=KEY)
    assert "bad key ****" in result["msg"]


@pytest.mark.parametrize("entry", ["hang", "drip"])
def test_a_hung_endpoint_does_not_outlast_the_deadline(serve, run, entry):
    result, took = run(serve(entry).url, timeout=1, request_timeout=60)
    assert result["failed"]
    assert result["diagnosis"]["code"] == "hung"
    assert took < 3


def test_an_edge_that_hangs_does_not_hold_the_question_of_who_can_mend_it(run):
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        url = f"http://127.0.0.1:{stopped.getsockname()[1]}"
        result, _ = run(url, timeout=1, request_timeout=60, repair_after=1)
    assert result["diagnosis"]["cause"] == "the edge runs and does not answer"
    assert "GET /health" in result["diagnosis"]["evidence"][0]


def test_a_request_cut_short_by_the_deadline_does_not_hide_the_one_before(serve, run):
    result, _ = run(serve(NO_MODEL, "hang").url, timeout=1, request_timeout=60)
    assert result["attempts"] == 2
    assert result["diagnosis"]["code"] == "no_worker"


def test_proxies_are_not_used_for_loopback(serve, run, good, monkeypatch, closed_port):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    result, _ = run(serve(good()).url)
    assert not result["failed"]


def test_a_proxy_in_the_way_is_named(serve, run, monkeypatch):
    proxy = serve((503, "<html>Access denied</html>", {"Content-Type": "text/html", "Via": "1.1 squid"}))
    monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://user:pass@"))
    result, _ = run("http://192.0.2.7:8000", timeout=0.3)
    assert result["diagnosis"]["code"] == "proxy_interference"
    assert f"http_proxy={proxy.url} in the environment" in result["diagnosis"]["evidence"]
    assert "192.0.2.7 to no_proxy" in result["msg"]
    assert "user:pass" not in result["msg"]
    assert proxy.requests[0]["path"] == "http://192.0.2.7:8000/v1/chat/completions"


class TestTls:
    def test_a_trusted_certificate(self, serve, run, good, tls, authority):
        result, _ = run(serve(good(), context=tls).url, ca_path=str(authority))
        assert not result["failed"]

    def test_an_unchecked_one(self, serve, run, good, tls):
        result, _ = run(serve(good(), context=tls).url, validate_certs=False)
        assert not result["failed"]

    def test_an_untrusted_one_stops_at_once(self, serve, run, good, tls):
        result, took = run(serve(good(), context=tls).url, timeout=30)
        assert result["diagnosis"]["code"] == "tls_verify"
        assert result["attempts"] == 1
        assert took < 5

    def test_another_host_name(self, serve, run, good, tls, authority):
        url = serve(good(), context=tls).url.replace("127.0.0.1", "localhost")
        result, _ = run(url, ca_path=str(authority))
        assert "was not issued for 'localhost'" in result["diagnosis"]["cause"]

    def test_https_to_a_plain_port(self, serve, run, good):
        result, _ = run(serve(good()).url.replace("http:", "https:"), timeout=30)
        assert result["diagnosis"]["code"] == "https_to_http_port"
        assert result["attempts"] == 1

    def test_http_to_a_tls_port(self, serve, run, good, tls):
        result, _ = run(serve(good(), context=tls).url.replace("https:", "http:"), timeout=30)
        assert result["diagnosis"]["code"] == "http_to_https_port"
        assert result["attempts"] == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"url": "127.0.0.1:8000"}, "expected a base address"),
        ({"url": "ftp://127.0.0.1"}, "expected a base address"),
        ({"url": "file:///etc/passwd"}, "expected a base address"),
        ({"url": "http://127.0.0.1:99999"}, "expected a base address"),
        ({"timeout": 0}, "timeout is 0"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"interval": -1}, "interval is -1"),
        ({"api_key": "two words"}, "api_key holds a space"),
        ({"ca_path": "/nosuch.pem"}, "ca_path is '/nosuch.pem'"),
    ],
)
def test_wrong_arguments_are_refused_before_asking(run, args, words):
    result, took = run(**{"url": "http://127.0.0.1:1", **args})
    assert result["failed"]
    assert words in result["msg"]
    assert took < 1


def test_a_ca_file_without_certificates_is_refused(run, tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    result, _ = run("https://127.0.0.1:1", ca_path=str(tmp_path / "ca.pem"))
    assert result["msg"].startswith(f"Found {tmp_path / 'ca.pem'}, which cannot be used as a CA file: it is text")


def test_check_mode_asks_too(serve, run, good):
    endpoint = serve(good())
    result, _ = run(endpoint.url, _ansible_check_mode=True)
    assert not result.get("skipped")
    assert len(endpoint.requests) == 1


def test_evidence_is_read_from_the_engine(serve, run, monkeypatch, tmp_path):
    """A docker command that plays a worker which crashes over and over."""
    inspected = [
        {
            "Id": "abc",
            "RestartCount": 4,
            "Config": {
                "Labels": {
                    "com.docker.compose.service": "model-worker",
                    "com.docker.compose.project.working_dir": "/opt/vicuna",
                }
            },
            "State": {"Status": "restarting", "ExitCode": 1, "OOMKilled": False, "StartedAt": "2026-11-22T08:48:03.1Z"},
        }
    ]
    docker = tmp_path / "docker"
    docker.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        'ps) [ "$4" = label=com.docker.compose.project=vicuna ] && echo abc ;;\n'
        f"inspect) echo '{json.dumps(inspected)}' ;;\n"
        "logs) echo \"2026-11-22 08:47:30 | ERROR | stderr | KeyError: 'factor'\" >&2 ;;\n"
        "esac\n"
    )
    docker.chmod(0o755)
    result, _ = run(serve(NO_MODEL).url, timeout=0.2)
    assert result["diagnosis"]["code"] == "transformers_5"
    assert "container model-worker: restarting, exit code 1, 4 restarts" in result["msg"]
    assert "log of model-worker: KeyError: 'factor'" in result["msg"]


def test_no_evidence_without_a_project(serve, run, monkeypatch, tmp_path):
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\necho called > {tmp_path}/called\n")
    docker.chmod(0o755)
    run(serve(NO_MODEL).url, timeout=0.2, compose_project="")
    assert not (tmp_path / "called").exists()


def test_the_documentation_matches_the_arguments():
    documented = yaml.safe_load(chat_completion.DOCUMENTATION)["options"]
    assert list(documented) == list(chat_completion.ARGUMENT_SPEC)
    for name, facts in chat_completion.ARGUMENT_SPEC.items():
        option = documented[name]
        assert (option["type"], option.get("default")) == (facts["type"], facts.get("default")), name
        assert option.get("required", False) == facts.get("required", False), name
    assert yaml.safe_load(chat_completion.EXAMPLES)
    assert set(yaml.safe_load(chat_completion.RETURN)) == {
        "completion",
        "latency",
        "tokens_per_second",
        "slow",
        "attempts",
        "waited",
        "violations",
        "diagnosis",
    }


class TestAskUntil:
    """The loop alone, on a clock of its own."""

    def play(self, *entries, timeout=300, interval=2, costs=0.1, look=None, repair_after=0):
        now = [0.0]
        entries = list(entries)
        asked = []

        def ask_once(limit):
            asked.append(limit)
            now[0] += costs
            status, body = entries.pop(0) if len(entries) > 1 else entries[0]
            seen = Observation(url="http://h", model="gpt-4", status=status, body=body)
            return seen, {} if status == 200 else None, costs

        def sleep(seconds):
            now[0] += seconds

        outcome = chat_completion.ask_until(
            ask_once,
            timeout,
            60,
            interval,
            repair_after=repair_after,
            look=look,
            clock=lambda: now[0],
            sleep=sleep,
        )
        return outcome, asked

    def test_a_name_mismatch_is_believed_when_a_replaced_worker_must_be_gone(self):
        outcome, _ = self.play(OTHER_MODEL)
        assert outcome.payload is None
        assert 20 <= outcome.waited < 25

    def test_a_name_mismatch_may_be_a_replaced_worker(self):
        outcome, _ = self.play(*[OTHER_MODEL] * 5, *[NO_MODEL] * 20, (200, "{}"))
        assert outcome.payload is not None
        assert outcome.attempts == 26

    def test_the_deadline_holds(self):
        outcome, asked = self.play(NO_MODEL, timeout=10, interval=2, costs=1)
        assert outcome.waited <= 10
        assert max(asked) <= 10

    @pytest.mark.parametrize(
        ("state", "restarts", "in_vain"),
        [("restarting", 5, True), ("restarting", 4, False), ("running", 9, False), ("exited", 0, False)],
    )
    def test_a_container_that_crashes_at_every_start_ends_the_wait(self, state, restarts, in_vain):
        def look(seen):
            return replace(seen, containers=(Container("model-worker", state, restarts=restarts),))

        outcome, _ = self.play(NO_MODEL, look=look)
        assert outcome.payload is None
        assert (outcome.waited < 15) is in_vain

    @pytest.mark.parametrize(("pause", "in_vain"), [(1, True), (2, True), (1000, False)])
    def test_a_container_that_crashes_after_some_seconds_of_running_ends_the_wait(self, pause, in_vain):
        """Seen on a GPU host: 37 restarts in seven minutes, and never once in the state restarting."""
        looks = []

        def look(seen):
            looks.append(seen)
            return replace(seen, containers=(Container("model-worker", "running", restarts=20 + len(looks) // pause),))

        outcome, _ = self.play(NO_MODEL, look=look)
        assert outcome.payload is None
        assert (outcome.waited < 90) is in_vain

    @pytest.mark.parametrize(
        ("repair_after", "states", "waited"),
        [
            (10, ["paused"], 12),
            (10, ["running", "paused"], 18),  # told twice
            (45, ["paused"], 52),
            (10, ["running"], 300),  # the worker loads: nothing that a restart could mend
            (10, ["paused", "running"], 300),  # it came back by itself, and loads
            (0, ["paused"], 300),
        ],
    )
    def test_what_the_caller_can_mend_ends_the_wait(self, repair_after, states, waited):
        states = list(states)

        def look(seen):
            state = states.pop(0) if len(states) > 1 else states[0]
            return replace(seen, containers=(Container("model-worker", state, running_for=5),))

        outcome, _ = self.play(NO_MODEL, look=look, repair_after=repair_after)
        assert outcome.payload is None
        assert waited - 3 <= outcome.waited <= waited + 3

    def test_a_slow_look_leaves_no_time_for_a_request(self):
        now = [0.0]
        asked = []

        def ask_once(limit):
            asked.append(limit)
            now[0] += 1
            return Observation(url="http://h", model="gpt-4", status=503, body=NO_MODEL[1]), None, 1.0

        def look(seen):
            now[0] += 20
            return replace(seen, containers=())

        def sleep(seconds):
            now[0] += seconds

        outcome = chat_completion.ask_until(ask_once, 30, 60, 2, look=look, clock=lambda: now[0], sleep=sleep)
        assert outcome.payload is None
        assert min(asked) > 0

    def test_no_request_gets_more_than_what_is_left(self):
        _, asked = self.play(NO_MODEL, timeout=70, interval=0, costs=30)
        assert asked == [60, 40, 10]


@pytest.mark.parametrize(
    ("seconds", "args", "asked", "rate", "slow"),
    [
        ([2.0], {}, 1, 1.5, False),
        ([2.0], {"rate_floor": 1.5}, 1, 1.5, False),
        # Other load came in between: the best answer counts, and nothing is asked after it.
        ([2.0, 0.5], {"rate_floor": 3}, 2, 6.0, False),
        ([2.0, 3.0, 2.5], {"rate_floor": 3}, 3, 1.5, True),
        ([2.0], {"rate_floor": 3, "rate_tries": 1}, 1, 1.5, True),
        # Of an answer of a few words nothing is told.
        ([2.0], {"rate_floor": 3, "max_tokens": 128}, 1, None, False),
    ],
)
def test_the_rate(monkeypatch, serve, run, good, seconds, args, asked, rate, slow):
    endpoint = serve(good())
    real, left = chat_completion.ask, list(seconds)

    def ask(*arguments):
        seen, payload, _waited = real(*arguments)
        return seen, payload, left.pop(0)

    monkeypatch.setattr(chat_completion, "ask", ask)
    result, _ = run(endpoint.url, **{"max_tokens": 3, **args})
    assert not result["failed"]
    assert (len(endpoint.requests), result["tokens_per_second"], result["slow"]) == (asked, rate, slow)
    assert result["attempts"] == asked


def test_an_answer_that_fails_while_the_rate_is_measured(serve, run, good):
    result, _ = run(serve(good(), NO_KEY).url, max_tokens=3, rate_floor=1e9)
    assert result["failed"]
    assert result["diagnosis"]["code"] == "unauthorised"
    assert result["attempts"] == 2
