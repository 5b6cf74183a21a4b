# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as a valid chat.completion."""

from __future__ import annotations

import copy
import json

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _chat

# FastChat 0.2.36 on a CPU with a tiny Llama.
CAPTURED = (
    '{"id":"chatcmpl-NaLXh5fr5c8vCduShzmRoW","object":"chat.completion","created":1795337050,"model":"vicuna",'
    '"choices":[{"index":0,"message":{"role":"assistant","content":"the\\u0011| France\\ufffdBV\\ufffd"},'
    '"finish_reason":"length"}],"usage":{"prompt_tokens":75,"total_tokens":82,"completion_tokens":7}}'
)
# The hand procedure's own example.
DOCUMENTED = (
    '{"id":"chatcmpl-UFWP9BqDg3s7DDfc5eXLS3","object":"chat.completion","created":1701329914,"model":"vicuna",'
    '"choices":[{"index":0,"message":{"role":"assistant","content":"Sure! Here are three numbers between 1 and 10:\\n'
    '\\n1. 5\\n2. 8\\n3. 9"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":51,"total_tokens":81,"completion_tokens":30}}'
)


@pytest.mark.parametrize("answer", [CAPTURED, DOCUMENTED], ids=["captured", "documented"])
def test_real_answers_are_valid(answer):
    assert _chat.violations(_chat.parse(answer), "vicuna") == []


def test_an_answer_of_one_token_counts_zero_in_fastchat():
    payload = json.loads(CAPTURED)
    payload["usage"] = {"prompt_tokens": 75, "total_tokens": 75, "completion_tokens": 0}
    assert _chat.violations(payload, "vicuna") == []


CHANGES = [
    (("object",), "error", "object is 'error', expected 'chat.completion'"),
    (("object",), "chat.completion.chunk", "object is 'chat.completion.chunk', expected 'chat.completion'"),
    (("object",), None, "object is missing or null, expected 'chat.completion'"),
    (("id",), "cmpl-1", "id is 'cmpl-1', expected 'chatcmpl-' and an identifier"),
    (("id",), "chatcmpl-", "id is 'chatcmpl-', expected 'chatcmpl-' and an identifier"),
    (("id",), 7, "id is 7, expected 'chatcmpl-' and an identifier"),
    (("created",), "1795337050", "created is '1795337050', expected an integer (seconds since 1970)"),
    (("created",), 1795337050.5, "created is 1795337050.5, expected an integer (seconds since 1970)"),
    (("created",), True, "created is True, expected an integer (seconds since 1970)"),
    (("created",), 0, "created is 0, expected seconds since 1970 of this century"),
    (("created",), 1795337050000, "created is 1795337050000, expected seconds since 1970 of this century"),
    (("model",), "gpt-4", "model is 'gpt-4', expected 'vicuna'"),
    (("model",), "Vicuna", "model is 'Vicuna', expected 'vicuna'"),
    (("choices",), {}, "choices is an object, expected a list"),
    (("choices",), [], "choices holds 0 entries, expected 1"),
    (("choices",), [1, 2], "choices holds 2 entries, expected 1"),
    (("choices", 0), "text", "choices[0] is a string, expected an object"),
    (("choices", 0, "index"), 1, "choices[0].index is 1, expected 0"),
    (("choices", 0, "index"), False, "choices[0].index is False, expected 0"),
    (("choices", 0, "finish_reason"), None, "choices[0].finish_reason is missing or null, expected 'stop' or 'length'"),
    (("choices", 0, "finish_reason"), ["stop"], "choices[0].finish_reason is ['stop'], expected 'stop' or 'length'"),
    (("choices", 0, "message"), None, "choices[0].message is missing or null, expected an object"),
    (("choices", 0, "message", "role"), "user", "choices[0].message.role is 'user', expected 'assistant'"),
    (("choices", 0, "message", "content"), "", "choices[0].message.content is empty, expected an answer"),
    (("choices", 0, "message", "content"), " \n\t", "choices[0].message.content is empty, expected an answer"),
    (("choices", 0, "message", "content"), None, "choices[0].message.content is missing or null, expected a string"),
    (("choices", 0, "message", "content"), ["a"], "choices[0].message.content is a list, expected a string"),
    (("usage",), None, "usage is missing or null, expected an object"),
    (("usage", "prompt_tokens"), 0, "usage.prompt_tokens is 0, expected at least 1"),
    (("usage", "completion_tokens"), -1, "usage.completion_tokens is -1, expected at least 0"),
    (("usage", "completion_tokens"), "7", "usage.completion_tokens is '7', expected an integer"),
    (("usage", "total_tokens"), 83, "usage.total_tokens is 83, expected 75 + 7 = 82"),
    (("usage", "total_tokens"), True, "usage.total_tokens is True, expected an integer"),
]


@pytest.mark.parametrize(("path", "value", "expected"), CHANGES, ids=[change[2][:50] for change in CHANGES])
def test_each_field_is_checked(path, value, expected):
    payload = json.loads(CAPTURED)
    place = payload
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert _chat.violations(payload, "vicuna") == [expected]


@pytest.mark.parametrize("key", ["id", "object", "created", "model", "choices", "usage"])
def test_no_field_may_be_missing(key):
    payload = json.loads(CAPTURED)
    del payload[key]
    assert len(_chat.violations(payload, "vicuna")) == 1


def test_all_violations_are_named_at_once():
    assert len(_chat.violations({}, "vicuna")) == 6


@pytest.mark.parametrize("payload", [None, [], "text", 1, True])
def test_what_is_no_object_is_one_violation(payload):
    found = _chat.violations(payload, "vicuna")
    assert len(found) == 1
    assert "expected a JSON object" in found[0]


def test_checking_changes_nothing():
    payload = json.loads(CAPTURED)
    before = copy.deepcopy(payload)
    _chat.violations(payload, "vicuna")
    assert payload == before


def test_long_values_are_shortened():
    payload = {**json.loads(CAPTURED), "model": "x" * 1000}
    assert max(map(len, _chat.violations(payload, "vicuna"))) < 120


def test_completion_keeps_the_useful_parts():
    assert _chat.completion(json.loads(DOCUMENTED)) == {
        "id": "chatcmpl-UFWP9BqDg3s7DDfc5eXLS3",
        "model": "vicuna",
        "content": "Sure! Here are three numbers between 1 and 10:\n\n1. 5\n2. 8\n3. 9",
        "finish_reason": "stop",
        "created": 1701329914,
        "usage": {"prompt_tokens": 51, "completion_tokens": 30, "total_tokens": 81},
    }


def test_request():
    body = _chat.request_body("m", "q", 5)
    assert body["messages"] == [{"role": "user", "content": "q"}]
    assert (body["model"], body["max_tokens"], body["stream"], body["temperature"], body["n"]) == ("m", 5, False, 0, 1)
    assert _chat.completions_url("http://h:8000/") == "http://h:8000/v1/chat/completions"
    assert _chat.request_headers("k")["Authorization"] == "Bearer k"
    assert "Authorization" not in _chat.request_headers("")


@pytest.mark.parametrize("body", ["", "Internal Server Error", "<html>", b"\xff\xfe", "[" * 100_000])
def test_what_is_no_json_parses_to_none(body):
    assert _chat.parse(body) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.8.9.1", True),
        ("http://localhost:8000", True),
        ("http://[::1]:8000", True),
        ("http://10.0.0.1:8000", False),
        ("http://127.0.0.1.example.org", False),
        ("http://localhost.example.org", False),
        ("http://[::1", False),
        ("nonsense", False),
    ],
)
def test_is_loopback(url, expected):
    assert _chat.is_loopback(url) is expected


def test_redact():
    assert _chat.redact("key sk-1 and sk-1", "sk-1", "") == "key ******** and ********"
