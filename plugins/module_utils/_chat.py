# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The question that proves a deployment, and what a good answer to it looks like. Pure functions only."""

from __future__ import annotations

import ipaddress
import json
from typing import Any
from urllib.parse import urlsplit

PATH = "/v1/chat/completions"
DEFAULT_PROMPT = "Name three numbers between 1 and 10."

# What FastChat's protocol can say (fastchat.protocol.openai_api_protocol.ChatCompletionResponseChoice) and a chat
# without tools can get from any other OpenAI-compatible server.
FINISH_REASONS = ("stop", "length")

# `created` is in seconds: 2020-01-01 to 2100-01-01 leaves out 0, milliseconds and floats posing as times, and does
# not depend on whose clock is right.
CREATED_FROM, CREATED_BEFORE = 1_577_836_800, 4_102_444_800


def completions_url(base: str) -> str:
    """The address to ask, from an endpoint's base URL."""
    return base.rstrip("/") + PATH


def first_key(text: str) -> str:
    """The key in a key file's text: its first line that is neither empty nor a comment; empty where there is none."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


def request_headers(api_key: str = "") -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "vicuna.fleet"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def request_body(model: str, prompt: str = DEFAULT_PROMPT, max_tokens: int = 16) -> dict[str, Any]:
    """One question, one choice, greedy. FastChat fills the whole context when max_tokens is missing."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "n": 1,
        "stream": False,
    }


def parse(body: bytes | str) -> Any:
    """The decoded JSON, or None where the body is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def completion(payload: dict[str, Any]) -> dict[str, Any]:
    """The parts of a valid answer that are worth keeping."""
    choice = payload["choices"][0]
    return {
        "id": payload["id"],
        "model": payload["model"],
        "content": choice["message"]["content"],
        "finish_reason": choice["finish_reason"],
        "created": payload["created"],
        "usage": {key: payload["usage"][key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")},
    }


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine; such a request must never pass a proxy."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def redact(text: str, *secrets: str) -> str:
    """The text without the secrets, should a server or a library have echoed one."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "********")
    return text


def violations(payload: Any, model: str) -> list[str]:
    """Everything in which the payload is not a valid chat.completion of the model that was asked; empty when valid."""
    if not isinstance(payload, dict):
        return [f"the answer is {_kind(payload)}, expected a JSON object"]
    found: list[str] = []
    if payload.get("object") != "chat.completion":
        found.append(f"object is {_show(payload.get('object'))}, expected 'chat.completion'")
    answer_id = payload.get("id")
    if not isinstance(answer_id, str) or not answer_id.startswith("chatcmpl-") or answer_id == "chatcmpl-":
        found.append(f"id is {_show(answer_id)}, expected 'chatcmpl-' and an identifier")
    created: Any = payload.get("created")
    if not _is_int(created):
        found.append(f"created is {_show(created)}, expected an integer (seconds since 1970)")
    elif not CREATED_FROM <= created < CREATED_BEFORE:
        found.append(f"created is {created}, expected seconds since 1970 of this century")
    if payload.get("model") != model:
        found.append(f"model is {_show(payload.get('model'))}, expected {model!r}")
    found += _choices_violations(payload.get("choices"))
    found += _usage_violations(payload.get("usage"))
    return found


def _choices_violations(choices: Any) -> list[str]:
    if not isinstance(choices, list):
        return [f"choices is {_kind(choices)}, expected a list"]
    if len(choices) != 1:
        return [f"choices holds {len(choices)} entries, expected 1"]
    choice = choices[0]
    if not isinstance(choice, dict):
        return [f"choices[0] is {_kind(choice)}, expected an object"]
    found = []
    index = choice.get("index")
    if not _is_int(index) or index != 0:
        found.append(f"choices[0].index is {_show(index)}, expected 0")
    if choice.get("finish_reason") not in FINISH_REASONS:
        expected = " or ".join(map(repr, FINISH_REASONS))
        found.append(f"choices[0].finish_reason is {_show(choice.get('finish_reason'))}, expected {expected}")
    message = choice.get("message")
    if not isinstance(message, dict):
        return [*found, f"choices[0].message is {_kind(message)}, expected an object"]
    if message.get("role") != "assistant":
        found.append(f"choices[0].message.role is {_show(message.get('role'))}, expected 'assistant'")
    content = message.get("content")
    if not isinstance(content, str):
        found.append(f"choices[0].message.content is {_kind(content)}, expected a string")
    elif not content.strip():
        found.append("choices[0].message.content is empty, expected an answer")
    return found


def _usage_violations(usage: Any) -> list[str]:
    if not isinstance(usage, dict):
        return [f"usage is {_kind(usage)}, expected an object"]
    # FastChat's completion_tokens is the index of the last token: 0 for an answer of one token.
    least = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
    found = []
    for key, lowest in least.items():
        count: Any = usage.get(key)
        if not _is_int(count):
            found.append(f"usage.{key} is {_show(count)}, expected an integer")
        elif count < lowest:
            found.append(f"usage.{key} is {count}, expected at least {lowest}")
    if not found:
        prompt, answer, total = (usage[key] for key in least)
        if prompt + answer != total:
            found.append(f"usage.total_tokens is {total}, expected {prompt} + {answer} = {prompt + answer}")
    return found


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if value is None:
        return "missing or null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _show(value: Any) -> str:
    if value is None:
        return "missing or null"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
