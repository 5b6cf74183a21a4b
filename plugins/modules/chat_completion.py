#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: chat_completion
short_description: Ask a chat endpoint until it gives a valid answer
version_added: 0.1.0
description:
  - Sends one question to C(/v1/chat/completions) of an OpenAI-compatible endpoint, again and again until a valid
    C(chat.completion) comes back or the time is over.
  - Every field of the answer is checked, the model's name against the asked one, and the content must not be empty.
  - On failure the module fails the host with a diagnosis, that is the cause, the evidence and the remedy. For it the
    state and the last log lines of the compose project's containers are read on the host, through the docker command,
    within 10 seconds.
author: The vicuna.fleet authors
options:
  url:
    description:
      - Base address of the endpoint, without a path, for example V(http://127.0.0.1:8000).
      - A loopback address is always asked directly. For others the proxies of the environment are used, and
        E(no_proxy) is respected.
    type: str
    required: true
  model:
    description: Name of the model to ask for. The answer must carry the same name.
    type: str
    required: true
  api_key:
    description: Key to send as a bearer token. Empty sends none.
    type: str
    default: ""
  prompt:
    description: The question. It is asked with temperature 0.
    type: str
    default: Name three numbers between 1 and 10.
  max_tokens:
    description: Most tokens to generate. Without this limit FastChat generates to the end of the context.
    type: int
    default: 16
  timeout:
    description:
      - Seconds within which a valid answer must have come. A large model takes minutes to load.
      - The module stops earlier on what waiting cannot mend, for example a refused key.
    type: float
    default: 300
  request_timeout:
    description: Seconds that one request may take.
    type: float
    default: 60
  rate_floor:
    description:
      - Tokens per second that the endpoint is expected to reach. While the best answer is slower, it is asked again, up
        to O(rate_tries) answers in all. RV(slow) tells the outcome; too slow an endpoint does not fail the module.
      - V(0) expects nothing.
    type: float
    default: 0
  rate_tries:
    description: How many valid answers may be asked for to reach O(rate_floor).
    type: int
    default: 3
  repair_after:
    description:
      - Seconds of asking in vain after which the module gives up where RV(diagnosis.restart) or
        RV(diagnosis.recreate) says that whoever asked can bring the answer back. Two looks at the containers in a row
        have to tell the same cause.
      - V(0) asks until O(timeout), for the host may bring itself back.
    type: float
    default: 0
  interval:
    description: Seconds between two requests.
    type: float
    default: 2
  ca_path:
    description: PEM file, on the host, with the authorities that may have signed the endpoint's certificate.
      Empty uses the host's trust store.
    type: path
    default: ""
  validate_certs:
    description: Whether the certificate of an C(https) endpoint must be valid.
    type: bool
    default: true
  compose_project:
    description: Compose project whose containers are looked at after a failure. Empty looks at none.
    type: str
    default: vicuna
attributes:
  check_mode:
    description: Asks in check mode too, since a question changes nothing.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: Never reports a change.
    support: full
seealso:
  - plugin: vicuna.fleet.chat_completion
    plugin_type: callback
    description: Asks every deployed endpoint once more at the end of the run, and decides on the exit code.
"""

EXAMPLES = r"""
- name: Prove that this host answers
  vicuna.fleet.chat_completion:
    url: http://127.0.0.1:8000
    model: vicuna
    api_key: "{{ fastchat_api_keys | first }}"

- name: Give a large model on a slow disk more time
  vicuna.fleet.chat_completion:
    url: https://chat.example.org
    model: vicuna
    ca_path: /etc/ssl/private-ca.pem
    timeout: 1800
"""

RETURN = r"""
completion:
  description: The valid answer.
  returned: success
  type: dict
  contains:
    id:
      description: Identifier of the answer.
      type: str
      sample: chatcmpl-UFWP9BqDg3s7DDfc5eXLS3
    model:
      description: Name of the model that answered.
      type: str
      sample: vicuna
    content:
      description: The answer's text.
      type: str
      sample: "Sure! Here are three numbers between 1 and 10:"
    finish_reason:
      description: Why the answer ends, V(stop) or V(length).
      type: str
      sample: length
    created:
      description: When it was made, in seconds since 1970.
      type: int
      sample: 1701329914
    usage:
      description: The C(prompt_tokens), C(completion_tokens) and C(total_tokens) of the answer.
      type: dict
      sample: {prompt_tokens: 51, completion_tokens: 30, total_tokens: 81}
latency:
  description: Seconds that the answered request took.
  returned: success
  type: float
  sample: 0.84
tokens_per_second:
  description:
    - The rate of the fastest answer, in tokens per second.
    - Null where every answer has less than half of the O(max_tokens) tokens, whose time tells little of the rate.
  returned: success
  type: float
  sample: 125.6
slow:
  description: Whether RV(tokens_per_second) is below O(rate_floor).
  returned: success
  type: bool
attempts:
  description: How many requests were sent.
  returned: always
  type: int
  sample: 9
waited:
  description: Seconds from the first request to the end of the last one.
  returned: always
  type: float
  sample: 18.31
violations:
  description: In what the last answer was not a valid C(chat.completion). Empty when there was no answer to check.
  returned: failure
  type: list
  elements: str
  sample: ["choices[0].message.content is empty, expected an answer"]
diagnosis:
  description: What went wrong.
  returned: failure
  type: dict
  contains:
    code:
      description: Stable name of the cause.
      type: str
      sample: name_mismatch
    cause:
      description: The cause in words.
      type: str
      sample: the worker serves 'vicuna', and 'gpt-4' was asked for
    evidence:
      description: What the cause was concluded from.
      type: list
      elements: str
      sample: ["HTTP 400, code 40301: Only vicuna allowed now, your model gpt-4"]
    remedy:
      description: The variable or the command that mends it.
      type: str
      sample: Set vicuna_model_name to the name that clients use and run the playbook again; or ask for 'vicuna'.
    transient:
      description: Whether waiting may mend it.
      type: bool
      sample: false
    restart:
      description: Services of the compose project whose restart can bring the answer back. Empty where none can, where
        a person has to decide, or where the containers could not be looked at.
      type: list
      elements: str
      sample: ["api-server"]
    recreate:
      description: Whether new containers, made from the compose file, can bring the answer back.
      type: bool
      sample: true
"""

import http.client
import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils import _chat
from ansible_collections.vicuna.fleet.plugins.module_utils._answer import rate
from ansible_collections.vicuna.fleet.plugins.module_utils._diagnosis import Diagnosis, Observation, diagnose
from ansible_collections.vicuna.fleet.plugins.module_utils._evidence import (
    edge_hangs,
    error_kind,
    proxies_of,
    speaks_tls,
    with_containers,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import AuthorityError, authorities, bundle

BODY_BYTES = 4 * 1024 * 1024

# A model name that does not fit cannot mend itself, with one exception: after a change of the name the controller still
# lists the replaced worker for up to 17 s (a heartbeat expires after 8 s and is looked at every 8 s).
STALE_WORKER_S = 20.0

# Docker doubles the pause between restarts from 0.1 s: five take more than 3 s, longer than a start in a wrong order.
CRASH_LOOP_RESTARTS = 5
# A container that runs for 10 s before it fails is started again at once, and is hardly ever seen between two starts.
CRASHES_WHILE_ASKED = 3
LOOK_EVERY_S = 10.0
# What the edge answers by itself takes it a millisecond.
EDGE_S = 3.0


@dataclass(frozen=True)
class Outcome:
    """How asking ended: with a valid payload, or with the last telling observation."""

    seen: Observation
    payload: dict[str, Any] | None
    latency: float
    attempts: int
    waited: float


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The endpoint itself must answer; a redirect is a finding."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def tls_context(ca_path: str, validate_certs: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=bundle(authorities(Path(ca_path).read_bytes())) if ca_path else None)
    if not validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def send(
    url: str, headers: dict[str, str], body: bytes, timeout: float, context: ssl.SSLContext
) -> tuple[int, Any, bytes]:
    """Status, headers and body of one POST, within about the timeout whatever the other side does."""
    handlers: list[Any] = [_NoRedirect(), urllib.request.HTTPSHandler(context=context)]
    if _chat.is_loopback(url):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - http or https, checked

    def exchange() -> tuple[int, Any, bytes]:
        try:
            response = opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return response.status, response.headers, response.read(BODY_BYTES)

    answer: tuple[int, Any, bytes] = bounded(exchange, timeout + 0.5)
    return answer


def bounded(call: Callable[[], Any], limit: float) -> Any:
    """The call's result. A socket's timeout bounds each read alone, and a look-up of a name not at all."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.extend((True, call()))
        except Exception as error:
            result.extend((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit)
    if len(result) != 2:
        raise TimeoutError("timed out")
    if not result[0]:
        raise result[1]
    return result[1]


def ask(
    base: Observation, api_key: str, body: bytes, timeout: float, context: ssl.SSLContext
) -> tuple[Observation, Any, float]:
    """One question: what was seen, the payload (None without any) and the seconds that it took."""
    headers = _chat.request_headers(api_key)
    started = time.monotonic()
    try:
        status, answer_headers, answer = send(_chat.completions_url(base.url), headers, body, timeout, context)
    except (OSError, http.client.HTTPException, ValueError) as error:
        waited = time.monotonic() - started
        kind, text = error_kind(error)
        tls = hangs = None
        if kind in ("disconnected", "not_http") and base.url.startswith("http:"):
            tls = speaks_tls(base.url, min(3.0, timeout))
        if kind in ("timeout", "connect_timeout"):
            hangs = edge_hangs(base.url, context)
        seen = replace(base, error_kind=kind, error_text=text, waited=waited, speaks_tls=tls, edge_hangs=hangs)
        return seen, None, waited
    waited = time.monotonic() - started
    payload = _chat.parse(answer)
    found = tuple(_chat.violations(payload, base.model)) if 200 <= status < 300 else ()
    seen = replace(
        base,
        status=status,
        headers={name.lower(): value for name, value in answer_headers.items()},
        body=_chat.redact(answer.decode("utf-8", "replace"), api_key),
        violations=found,
        waited=waited,
    )
    return seen, payload, waited


def hanging_edge(base: Observation, timeout: float, context: ssl.SSLContext) -> tuple[Observation, None, float] | None:
    """What was seen of an edge that hangs: it would hold a question for the whole of the question's time."""
    started = time.monotonic()
    if not edge_hangs(base.url, context, min(EDGE_S, timeout)):
        return None
    waited = time.monotonic() - started
    text = "the edge does not answer GET /health"
    return replace(base, error_kind="timeout", error_text=text, waited=waited, edge_hangs=True), None, waited


def is_final(diagnosis: Diagnosis, seen_for: float) -> bool:
    """Whether asking on is in vain.

    True only for what stays as it is until a person changes it: a refused key, a path that the edge blocks, a
    certificate or a scheme that does not fit, a request that FastChat refuses, an invalid answer to a question that is
    asked greedily. A worker that crashed may come back, and so is asked on for.
    """
    if diagnosis.code == "name_mismatch":
        return seen_for >= STALE_WORKER_S
    return not diagnosis.transient


def crash_looping(seen: Observation, before: Observation) -> bool:
    """Whether a container of the project fails again at every start, so that waiting longer changes nothing."""
    counted = {each.service: each.restarts for each in before.containers or ()}
    return any(
        (each.state == "restarting" and each.restarts >= CRASH_LOOP_RESTARTS)
        or each.restarts - counted.get(each.service, each.restarts) >= CRASHES_WHILE_ASKED
        for each in seen.containers or ()
    )


def ask_until(
    ask_once: Callable[[float], tuple[Observation, Any, float]],
    timeout: float,
    request_timeout: float,
    interval: float,
    *,
    repair_after: float = 0,
    look: Callable[[Observation], Observation] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Asks until a valid answer, a final diagnosis, a container that crashes at every start, or the deadline.

    With repair_after also until the containers have told twice of one cause that the caller can mend.
    """
    started = looked = clock()
    attempts = 0
    telling: Observation | None = None
    before: Observation | None = None
    code, code_since = "", started
    mendable = ""
    look_every = min(LOOK_EVERY_S, repair_after / 2) if repair_after > 0 else LOOK_EVERY_S
    while True:
        now = clock()
        left = timeout - (now - started)
        if telling is not None and left <= 0:  # a look at the containers may have taken long
            return Outcome(telling, None, 0.0, attempts, now - started)
        limit = min(request_timeout, left)
        attempts += 1
        seen, payload, latency = ask_once(limit)
        if seen.status is not None and 200 <= seen.status < 300 and not seen.violations:
            return Outcome(seen, payload, latency, attempts, clock() - started)
        # A last request that was cut short by the deadline says less than the one before it.
        if telling is None or not (limit < request_timeout and seen.error_kind in ("timeout", "connect_timeout")):
            telling = seen
        diagnosis = diagnose(seen)
        if diagnosis.code != code:
            code, code_since = diagnosis.code, now
        if is_final(diagnosis, clock() - code_since) or clock() - started + interval >= timeout:
            return Outcome(telling, None, 0.0, attempts, clock() - started)
        if look is not None and clock() - looked >= look_every:
            looked = clock()
            now_seen = look(seen)
            before = before or now_seen
            found = diagnose(now_seen)
            mendable, mendable_before = found.code if found.restart or found.recreate else "", mendable
            lasts = mendable and mendable == mendable_before and clock() - started >= repair_after > 0
            if lasts or crash_looping(now_seen, before):
                return Outcome(telling, None, 0.0, attempts, clock() - started)
        sleep(interval)


def failure_message(base: Observation, outcome: Outcome, diagnosis: Diagnosis) -> str:
    tries = "1 try" if outcome.attempts == 1 else f"{outcome.attempts} tries"
    lines = [
        f"No valid chat.completion of model {base.model!r} from {base.url} ({tries} in {outcome.waited:.0f} s).",
        f"Cause: {diagnosis.cause}",
        "Evidence:",
        *(f"  - {line}" for line in diagnosis.evidence),
        f"Remedy: {diagnosis.remedy}",
    ]
    return "\n".join(lines)


def check_arguments(params: dict[str, Any]) -> str | None:
    """What is wrong with the arguments, beyond what their types say."""
    try:
        parts = urlsplit(params["url"])
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        return f"url is {params['url']!r}, expected a base address like http://host:8000"
    for name in ("timeout", "request_timeout", "max_tokens", "rate_tries"):
        if not params[name] > 0:
            return f"{name} is {params[name]}, expected more than 0"
    for name in ("interval", "rate_floor"):
        if not params[name] >= 0:
            return f"{name} is {params[name]}, expected 0 or more"
    if any(ord(character) < 33 or ord(character) > 126 for character in params["api_key"]):
        return "api_key holds a space, a line break or a character outside of ASCII; expected the bare key"
    if params["ca_path"] and not Path(params["ca_path"]).is_file():
        return f"ca_path is {params['ca_path']!r}, expected a PEM file on the host; there is none"
    return None


ARGUMENT_SPEC = {
    "url": {"type": "str", "required": True},
    "model": {"type": "str", "required": True},
    "api_key": {"type": "str", "default": "", "no_log": True},
    "prompt": {"type": "str", "default": _chat.DEFAULT_PROMPT},
    "max_tokens": {"type": "int", "default": 16},
    "timeout": {"type": "float", "default": 300},
    "request_timeout": {"type": "float", "default": 60},
    "rate_floor": {"type": "float", "default": 0},
    "rate_tries": {"type": "int", "default": 3},
    "repair_after": {"type": "float", "default": 0},
    "interval": {"type": "float", "default": 2},
    "ca_path": {"type": "path", "default": ""},
    "validate_certs": {"type": "bool", "default": True},
    "compose_project": {"type": "str", "default": "vicuna"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    wrong = check_arguments(params)
    if wrong:
        module.fail_json(msg=wrong)
    try:
        context = tls_context(params["ca_path"], params["validate_certs"])
    except AuthorityError as error:
        module.fail_json(msg=error.message("ca_path", params["ca_path"]))
    except (OSError, ssl.SSLError) as error:
        module.fail_json(msg=f"ca_path is {params['ca_path']!r}, expected a PEM file with certificates: {error}")
    base = Observation(
        url=params["url"].rstrip("/"),
        model=params["model"],
        key_sent=bool(params["api_key"]),
        proxies=proxies_of(params["url"]),
        project=params["compose_project"],
    )
    body = json.dumps(_chat.request_body(params["model"], params["prompt"], params["max_tokens"])).encode()
    attempts, waited = 0, 0.0
    rates: list[float | None] = []
    while not rates or (rate.slow(rates, params["rate_floor"]) and len(rates) < params["rate_tries"]):
        outcome = ask_until(
            lambda limit: (
                (hanging_edge(base, limit, context) if params["repair_after"] > 0 else None)
                or ask(base, params["api_key"], body, limit, context)
            ),
            params["timeout"],
            params["request_timeout"],
            params["interval"],
            repair_after=params["repair_after"],
            look=with_containers if params["compose_project"] else None,
        )
        attempts, waited = attempts + outcome.attempts, waited + outcome.waited
        if outcome.payload is None:
            break
        tokens = outcome.payload["usage"]["completion_tokens"]
        rates.append(rate.tokens_per_second(tokens, outcome.latency, params["max_tokens"]))
    result = {"attempts": attempts, "waited": round(waited, 3)}
    if outcome.payload is not None:
        module.exit_json(
            changed=False,
            completion=_chat.completion(outcome.payload),
            latency=round(outcome.latency, 3),
            tokens_per_second=rate.best(rates),
            slow=rate.slow(rates, params["rate_floor"]),
            **result,
        )
    seen = with_containers(outcome.seen) if params["compose_project"] else outcome.seen
    diagnosis = diagnose(seen)
    module.fail_json(
        msg=failure_message(base, outcome, diagnosis),
        diagnosis=asdict(diagnosis),
        violations=list(seen.violations),
        **result,
    )


if __name__ == "__main__":
    main()
