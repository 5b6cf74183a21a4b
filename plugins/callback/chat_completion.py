# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: chat_completion
type: aggregate
short_description: Ask every deployed chat endpoint once more, and decide on the exit code
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Notes each endpoint that the run deploys (a C(set_fact) of C(fastchat_endpoint) or C(gateway_endpoint), as the
    roles P(vicuna.fleet.fastchat#role) and P(vicuna.fleet.gateway#role) make them), and whether
    M(vicuna.fleet.chat_completion) asked it afterwards.
  - A gateway whose C(gateway_keys) are given by their hashes alone can be asked by nobody here. It is listed, and
    judged by no answer.
  - At the end of the playbook asks each of them once more, from the control node, and prints the fleet's table, a
    diagnosis of each host that failed, and the answers. Writes a JSON report.
  - Makes the run exit with V(3) when an answer is not a valid C(chat.completion), when there is none, when a deployed
    endpoint was never asked by the play, or when this plugin could not do its work. A run that failed already keeps its
    own exit code, V(2) for failed and V(4) for unreachable hosts.
  - A run that deploys nothing (another playbook, check mode, C(--list-tasks)) is left alone. There is no output, and a
    report of an earlier run stays as it is.
  - A run that was to deploy and came to no endpoint, as its hosts failed before or as the lookup
    P(vicuna.fleet.fleet_hosts#lookup) refused it, leaves a report whose V(ok) is false, with the V(error).
  - Compares the report with the one that it replaces, and tells below the table who changed, and which hosts are new or
    gone. A host that is in the inventory, and that this run did not deploy, keeps the entry of its last run.
  - Where M(vicuna.fleet.fleet_status) judged the fleet, the run exits with its C(exit_code), V(1) for degraded and V(2)
    for down, unless a deployed endpoint makes it exit with another one.
  - Each playbook of C(ansible-playbook a.yml b.yml) is a run of its own.
requirements:
  - enable in configuration, as the last of C(callbacks_enabled) since the plugins after it do not see the end of a run
    that it ends
  - requests (Python package on the control node)
options:
  report:
    description:
      - File to write the report to. Missing directories are made. Its mode is V(0644), it holds no secrets.
      - In an ini file a relative path starts from that file, otherwise from the working directory.
      - It holds V(ok), which is true when every deployed endpoint passed and no host failed, V(error) (why this plugin
        could not do its work), V(generated), V(prompt), V(failed_hosts), V(unreachable_hosts), V(endpoints), V(earlier)
        (entries of hosts that this run did not deploy), and V(changes) since the last report, each with V(host),
        V(what), V(from) and V(to).
      - Each of V(endpoints) has V(host), V(url), V(model), V(revision), V(release), V(image), V(asked_by_play),
        V(verdict) (V(ok), V(failed), V(never asked) or V(no key)), V(latency_s), V(usage), V(content), V(violations),
        V(code), V(cause), V(evidence) and V(remedy).
    type: path
    default: reports/chat_completion.json
    ini:
      - section: callback_chat_completion
        key: report
    env:
      - name: VICUNA_CHAT_COMPLETION_REPORT
  prompt:
    description: The question, asked with temperature 0.
    type: str
    default: Name three numbers between 1 and 10.
    ini:
      - section: callback_chat_completion
        key: prompt
    env:
      - name: VICUNA_CHAT_COMPLETION_PROMPT
  max_tokens:
    description: Most tokens of an answer.
    type: int
    default: 32
    ini:
      - section: callback_chat_completion
        key: max_tokens
    env:
      - name: VICUNA_CHAT_COMPLETION_MAX_TOKENS
  timeout:
    description: Seconds that one endpoint may take. Up to 32 endpoints are asked at the same time.
    type: float
    default: 60
    ini:
      - section: callback_chat_completion
        key: timeout
    env:
      - name: VICUNA_CHAT_COMPLETION_TIMEOUT
  show_answers:
    description: Whether to print the answers. The report holds them in any case.
    type: bool
    default: true
    ini:
      - section: callback_chat_completion
        key: show_answers
    env:
      - name: VICUNA_CHAT_COMPLETION_SHOW_ANSWERS
  stream:
    description:
      - Where to print. V(auto) means stdout, and stderr when the stdout callback writes JSON, which the table would
        spoil.
    type: str
    choices: [auto, stdout, stderr]
    default: auto
    ini:
      - section: callback_chat_completion
        key: stream
    env:
      - name: VICUNA_CHAT_COMPLETION_STREAM
seealso:
  - module: vicuna.fleet.chat_completion
"""

EXAMPLES = r"""
ansible.cfg: |
  [defaults]
  callbacks_enabled = vicuna.fleet.chat_completion

  [callback_chat_completion]
  report = reports/chat_completion.json
"""

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar

from ansible_collections.vicuna.fleet.plugins.module_utils import _chat
from ansible_collections.vicuna.fleet.plugins.module_utils._diagnosis import Diagnosis, Observation, diagnose
from ansible_collections.vicuna.fleet.plugins.module_utils._evidence import error_kind, proxies_of, speaks_tls
from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import AuthorityError, authorities, bundle
from ansible_collections.vicuna.fleet.plugins.module_utils._report import (
    by_host,
    change_lines,
    changes,
    columns,
    last_report,
    natural,
    write_report,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._worker_log import one_line
from ansible_collections.vicuna.fleet.plugins.plugin_utils import _refused_run

try:
    import requests
    import urllib3
except ImportError as error:
    REQUESTS_ERROR: str | None = str(error)
else:
    REQUESTS_ERROR = None

VIOLATED = 3
WELL = ("ok", "no key")
AT_ONCE = 32
CONNECT_S = 10.0
MODULE = "vicuna.fleet.chat_completion"
SET_FACT = ("set_fact", "ansible.builtin.set_fact", "ansible.legacy.set_fact")
# The facts that hold an endpoint, and the variables with the keys that it accepts.
KEYS = {"fastchat_endpoint": "fastchat_api_keys", "gateway_endpoint": "gateway_keys"}
STATUS_MODULE = "vicuna.fleet.fleet_status"
RELEASE_MODULE = "vicuna.fleet.release"
# A play that uses it deploys, or takes back.
DEPLOYING_ROLE = "vicuna.fleet.fastchat"
# What a change between two reports is a change of.
COMPARED = ("release", "revision", "image", "model", "url", "verdict")


NO_STATS = SimpleNamespace(failures={}, dark={})


@dataclass
class Endpoint:
    """A deployed endpoint, and what became of asking it."""

    inventory_host: Any
    play: Any
    fact: dict[str, Any] | None  # None: set, and hidden by no_log
    name: str  # of the fact
    asked_by_play: bool = False
    keyless: bool = False  # only hashes of its keys are known
    seen: Observation | None = None
    payload: dict[str, Any] | None = None  # of a valid answer only
    diagnosis: Diagnosis | None = None
    release: str = ""
    image: str = ""

    @property
    def host(self) -> str:
        return str(self.inventory_host.get_name())

    @property
    def id(self) -> tuple[str, str]:
        return self.host, self.name

    def text(self, key: str) -> str:
        return str((self.fact or {}).get(key) or "")

    @property
    def verdict(self) -> str:
        if self.keyless:
            return "no key"
        if self.payload is None:
            return "failed"
        return "ok" if self.asked_by_play else "never asked"

    def report(self) -> dict[str, Any]:
        answer = _chat.completion(self.payload) if self.payload else {}
        diagnosis = self.diagnosis
        return {
            "host": self.host,
            "url": self.text("url"),
            "model": self.text("model"),
            "revision": self.text("revision"),
            "release": self.release or None,
            "image": self.image or None,
            "asked_by_play": self.asked_by_play,
            "verdict": self.verdict,
            "latency_s": round(self.seen.waited, 3) if self.payload and self.seen else None,
            "usage": answer.get("usage"),
            "content": answer.get("content"),
            "violations": list(self.seen.violations) if self.seen else [],
            "code": diagnosis.code if diagnosis else None,
            "cause": diagnosis.cause if diagnosis else None,
            "evidence": diagnosis.evidence if diagnosis else [],
            "remedy": diagnosis.remedy if diagnosis else None,
        }


@dataclass
class Question:
    """What to send to an endpoint, and how."""

    prompt: str
    max_tokens: int
    timeout: float
    keys: dict[tuple[str, str], str] = field(default_factory=dict)  # host and fact: key


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = MODULE
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._endpoints: dict[tuple[str, str], Endpoint] = {}  # host and fact
        self._play: Any = None
        self._releases: dict[str, tuple[str, str]] = {}  # host: release, and the worker's image
        self._status: int | None = None  # the exit code of the fleet's status, where one was taken
        self._deploys = False  # whether a play with hosts was to deploy
        self._deploys_now = False  # the same of the running play
        # Core turns an exception of a callback into a warning and goes on to exit 0: each is kept for the end.
        self._option_error = ""
        self._result_error = ""

    # ------------------------------------------------------------------------------------------ what the play does

    def set_options(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().set_options(*args, **kwargs)
        except AnsibleError as error:
            self._option_error = f"an option of the callback is wrong: {error}"

    def v2_playbook_on_start(self, _playbook: Any) -> None:
        _refused_run.on_refused_deployment[:] = [self._refused]

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._play = play
        self._deploys |= self._deploys_now
        self._deploys_now = any(role.get_name() == DEPLOYING_ROLE for role in play.roles)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._deploys_now = False

    def v2_runner_on_ok(self, result: Any) -> None:
        self._guarded(self._note, result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._guarded(self._note_question, result)

    def _guarded(self, note: Callable[[Any], None], result: Any) -> None:
        try:
            note(result)
        except Exception as error:
            self._result_error = f"cannot read a task's result: {type(error).__name__}: {error}"

    def _note(self, result: Any) -> None:
        self._note_deployment(result)
        self._note_question(result)
        self._note_release(result)
        self._note_status(result)

    def _note_release(self, result: Any) -> None:
        name = result.result.get("id")
        if name and self._is(result.task, RELEASE_MODULE):
            entry = result.result.get("release") or {}
            image = (entry.get("image_ids") or {}).get("worker") or (entry.get("images") or {}).get("worker") or ""
            self._releases[result.host.get_name()] = str(name), str(image)

    def _note_status(self, result: Any) -> None:
        code = result.result.get("exit_code")
        if isinstance(code, int) and self._is(result.task, STATUS_MODULE):
            self._status = code

    def _note_deployment(self, result: Any) -> None:
        task = result.task
        if task.action not in SET_FACT or task.check_mode:
            return
        host = result.host.get_name()
        facts = result.result.get("ansible_facts") or {}
        for name in KEYS:
            # A later deployment wants a later question.
            if name in facts:
                self._endpoints[host, name] = Endpoint(result.host, self._play, facts[name], name)
            elif "censored" in result.result and name in task.args:
                self._endpoints[host, name] = Endpoint(result.host, self._play, None, name)

    def _note_question(self, result: Any) -> None:
        # A host that was unreachable, or whose question was skipped, has not been asked.
        if result.is_skipped() or not self._is(result.task, MODULE):
            return
        for name in KEYS:
            endpoint = self._endpoints.get((result.host.get_name(), name))
            if endpoint:
                endpoint.asked_by_play = True

    @staticmethod
    def _is(task: Any, module: str) -> bool:
        action = str(task.action)
        # By its short name it may be another collection's module.
        return action == module or (action == module.rpartition(".")[2] and task.resolved_action == module)

    # ------------------------------------------------------------------------------------------ the end of the run

    def v2_playbook_on_stats(self, stats: Any) -> None:
        endpoints = sorted(self._endpoints.values(), key=lambda endpoint: (endpoint.name, natural(endpoint.host)))
        self._endpoints = {}
        status, self._status = self._status, None
        deploys, self._deploys, self._deploys_now = self._deploys or self._deploys_now, False, False
        if not endpoints and not self._result_error:
            if deploys and (stats.failures or stats.dark) and not context.CLIARGS.get("check"):
                self._refused("no endpoint was deployed, as hosts failed before it or could not be reached", stats)
            if status:
                raise SystemExit(status)
            return
        try:
            ok = self._witness(endpoints, stats)
        except Exception as error:
            words = str(error) if isinstance(error, (AnsibleError, OSError)) else f"{type(error).__name__}: {error}"
            self._print(f"{MODULE}: {one_line(words, 500)}", C.COLOR_ERROR, stderr=True)
            # The report of an earlier run must not be taken for this one's.
            with contextlib.suppress(Exception):
                report = self._report([], stats, error=words)
                with contextlib.suppress(Exception):
                    self._compare(report)
                write_report(self._path, report)
            ok = False
        if not ok:
            # SystemExit is the one way in which a callback decides on the exit code. Where hosts failed, it is the code
            # that core ends with too; core itself would end with 0 after `meta: clear_host_errors`.
            raise SystemExit(4 if stats.dark else 2 if stats.failures else VIOLATED)
        if status:
            raise SystemExit(status)

    def _refused(self, problem: str, stats: Any = NO_STATS) -> None:
        """Writes the report of a run that has come to no endpoint, in place of an earlier run's."""
        with contextlib.suppress(AnsibleError, OSError):
            report = self._report([], stats, error=problem)
            last, _ = last_report(self._path)
            report["earlier"] = [
                *(
                    (by_host((last or {}).get("earlier") or []) or {}) | (by_host((last or {}).get("endpoints")) or {})
                ).values()
            ]
            write_report(self._path, report)

    def _witness(self, endpoints: list[Endpoint], stats: Any) -> bool:
        """Asks, prints and reports; whether every endpoint is fine."""
        if self._option_error or self._result_error:
            raise AnsibleError(self._option_error or self._result_error)
        if REQUESTS_ERROR:
            raise AnsibleError(
                f"the control node lacks the Python package requests ({REQUESTS_ERROR}): pip install requests"
            )
        question = Question(
            prompt=self.get_option("prompt"),
            max_tokens=self.get_option("max_tokens"),
            timeout=self.get_option("timeout"),
        )
        askable = [endpoint for endpoint in endpoints if self._prepare(endpoint, question)]
        ask_all(askable, question)
        for endpoint in endpoints:
            judge(endpoint)
            if endpoint.name == "fastchat_endpoint":
                endpoint.release, endpoint.image = self._releases.get(endpoint.host, ("", ""))
        ok = well(endpoints)
        report = self._report(endpoints, stats)
        self._print_table(endpoints)
        for line in self._compare(report):
            self._print(line)
        self._print_failures(endpoints)
        if self.get_option("show_answers"):
            self._print_answers(endpoints, question.prompt)
        write_report(self._path, report)
        self._print(f"Report: {self._path}")
        return ok

    @property
    def _path(self) -> Path:
        return Path(self.get_option("report"))

    def _report(self, endpoints: list[Endpoint], stats: Any, error: str = "") -> dict[str, Any]:
        good = not error and well(endpoints)
        return {
            "ok": good and not stats.failures and not stats.dark,
            "error": error or None,
            "generated": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "prompt": self.get_option("prompt"),
            "failed_hosts": sorted(stats.failures),
            "unreachable_hosts": sorted(stats.dark),
            "endpoints": [endpoint.report() for endpoint in endpoints],
            "earlier": [],
            "changes": [],
        }

    def _compare(self, report: dict[str, Any]) -> list[str]:
        """Puts into the report what differs from the last one, and returns it in words."""
        last, wrong = last_report(self._path)
        if last is None:
            return ["", wrong] if wrong else []
        before = by_host(last.get("endpoints"))
        kept = by_host(last.get("earlier") or [])
        if before is None or kept is None:
            return ["", f"the last report, {self._path}, is none of this plugin's, so nothing is compared with it"]
        before = {**kept, **before}
        now = by_host(report["endpoints"]) or {}
        # --limit, another group of hosts, or a host that failed before it was deployed: it runs what it ran.
        there = self._inventory()
        report["earlier"] = [entry for host, entry in before.items() if host not in now and host in there]
        # Where this plugin could not do its work, it knows of nobody who changed.
        if not report["error"]:
            report["changes"] = changes(before, now, COMPARED, there)
        lines = [f"since the last report: {line}" for line in change_lines(report["changes"])]
        return ["", *lines] if lines else []

    def _inventory(self) -> frozenset[str]:
        """Every host of the inventory, those outside of --limit too."""
        if self._play is None:
            return frozenset()
        groups = self._play.get_variable_manager().get_vars(play=self._play).get("groups") or {}
        return frozenset(map(str, groups.get("all") or []))

    # ------------------------------------------------------------------------------------------ before asking

    def _prepare(self, endpoint: Endpoint, question: Question) -> bool:
        """Finds the endpoint's key; False, with a diagnosis, where it cannot be asked at all."""
        try:
            if endpoint.fact is None:
                endpoint.fact = self._variable(endpoint, endpoint.name)
            fact = endpoint.fact
            if not isinstance(fact, dict) or not endpoint.text("url") or not endpoint.text("model"):
                endpoint.fact = fact if isinstance(fact, dict) else {}
                raise ValueError(f"{endpoint.name} holds no url and model; the role sets both")
            key = self._key(endpoint)
            if key is None:
                endpoint.keyless = True
                return False
            question.keys[endpoint.id] = key
        except (AnsibleError, OSError, ValueError) as error:
            endpoint.diagnosis = Diagnosis(
                cause=f"the endpoint could not be asked: {one_line(str(error), 300)}",
                evidence=[],
                remedy=f"Correct {endpoint.name} or {KEYS[endpoint.name]} of this host, and run the playbook again.",
                transient=False,
                code="cannot_ask",
            )
            return False
        return True

    def _key(self, endpoint: Endpoint) -> str | None:
        """The endpoint's API key: the file on the control node where it names one, else the inventory's first key.

        None where the inventory has only hashes of keys.
        """
        path = endpoint.text("api_key_file")
        if path:
            key = _chat.first_key(Path(path).expanduser().read_text(encoding="utf-8"))
            if not key:
                raise ValueError(f"the key file {path} is empty")
            return key
        keys = self._variable(endpoint, KEYS[endpoint.name]) or []
        if isinstance(keys, str) or not hasattr(keys, "__iter__"):
            raise ValueError(f"{KEYS[endpoint.name]} is no list")
        plain = [key.get("key") or "" if isinstance(key, dict) else key for key in keys]
        found = next((str(key).strip() for key in plain if str(key).strip()), "")
        return found if found or not any(isinstance(key, dict) for key in keys) else None

    @staticmethod
    def _variable(endpoint: Endpoint, name: str) -> Any:
        """A variable as the endpoint's host sees it, templates and vaulted values resolved."""
        variables = endpoint.play.get_variable_manager().get_vars(play=endpoint.play, host=endpoint.inventory_host)
        if name not in variables:
            return None
        return Templar(loader=endpoint.play.get_loader(), variables=variables).template(variables[name])

    # ------------------------------------------------------------------------------------------ printing

    def _print(self, text: str = "", color: str | None = None, stderr: bool = False) -> None:
        stream = self.get_option("stream") if not stderr else "stderr"
        if stream == "auto":
            stdout_callback = str(C.DEFAULT_STDOUT_CALLBACK).rpartition(".")[2]
            stream = "stderr" if "json" in stdout_callback else "stdout"
        self._display.display(text, color=color, stderr=stream == "stderr")

    def _print_table(self, endpoints: list[Endpoint]) -> None:
        rows = []
        for endpoint in endpoints:
            usage = _chat.completion(endpoint.payload)["usage"] if endpoint.payload else {}
            rows.append(
                (
                    endpoint.host,
                    endpoint.text("model") or "-",
                    endpoint.text("revision")[:12] or "-",
                    f"{endpoint.seen.waited:.2f} s" if endpoint.payload and endpoint.seen else "-",
                    str(usage.get("total_tokens", "-")),
                    endpoint.verdict,
                )
            )
        head = ("HOST", "MODEL", "REVISION", "LATENCY", "TOKENS", "VERDICT")
        first, *lines = columns(head, rows, right=("LATENCY", "TOKENS"))
        self._print()
        self._print(first)
        for row, line in zip(rows, lines):
            self._print(line, C.COLOR_OK if row[-1] in WELL else C.COLOR_ERROR)

    def _print_failures(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            if endpoint.diagnosis:
                self._print()
                self._print(f"{endpoint.host}: {endpoint.diagnosis.cause}", C.COLOR_ERROR)
                for evidence in endpoint.diagnosis.evidence:
                    self._print(f"  - {evidence}")
                self._print(f"  Remedy: {endpoint.diagnosis.remedy}")

    def _print_answers(self, endpoints: list[Endpoint], prompt: str) -> None:
        answered = [endpoint for endpoint in endpoints if endpoint.payload]
        if answered:
            self._print()
            self._print(f"Asked: {printable(prompt)}")
        for endpoint in answered:
            content = _chat.completion(endpoint.payload)["content"] if endpoint.payload else ""
            first, *rest = printable(content.strip()).splitlines() or [""]
            self._print(f"{endpoint.host}: {first}")
            for more in rest:
                self._print(f"  {more}".rstrip())
        self._print()


def well(endpoints: list[Endpoint]) -> bool:
    return all(endpoint.verdict in WELL for endpoint in endpoints)


# ---------------------------------------------------------------------------------------------- asking


def ask_all(endpoints: list[Endpoint], question: Question) -> None:
    """Asks the endpoints side by side, in a bounded time whatever they do."""
    for at in range(0, len(endpoints), AT_ONCE):
        batch = endpoints[at : at + AT_ONCE]
        results: dict[tuple[str, str], tuple[Observation, dict[str, Any] | None]] = {}
        # Daemons, since a thread that hangs must not keep the run from ending.
        threads = [
            threading.Thread(target=_ask_into, args=(results, endpoint, question), daemon=True) for endpoint in batch
        ]
        deadline = time.monotonic() + question.timeout + 1
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for endpoint in batch:
            # A copy: a thread that comes late must not change what has been judged.
            late = replace(_base(endpoint, question), error_kind="timeout", waited=question.timeout)
            endpoint.seen, endpoint.payload = results.get(endpoint.id, (late, None))


def _ask_into(results: dict[tuple[str, str], Any], endpoint: Endpoint, question: Question) -> None:
    base = _base(endpoint, question)
    try:
        results[endpoint.id] = ask(base, endpoint, question)
    except Exception as error:
        kind, text = error_kind(error)
        text = _chat.redact(text, question.keys[endpoint.id])
        results[endpoint.id] = replace(base, error_kind=kind, error_text=text), None


def _base(endpoint: Endpoint, question: Question) -> Observation:
    url = endpoint.text("url").rstrip("/")
    return Observation(
        url=url, model=endpoint.text("model"), key_sent=bool(question.keys[endpoint.id]), proxies=proxies_of(url)
    )


def ask(base: Observation, endpoint: Endpoint, question: Question) -> tuple[Observation, dict[str, Any] | None]:
    """One question: what was seen, and the payload of a valid answer."""
    key = question.keys[endpoint.id]
    fact = endpoint.fact or {}
    checked = fact.get("validate_certs") is not False
    if not checked:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    started = time.monotonic()
    with requests.Session() as session:
        # A request to this machine passes no proxy.
        session.trust_env = not _chat.is_loopback(base.url)
        try:
            with trusted(endpoint.text("ca_path") if checked else "") as bundle_path:
                response = session.post(
                    _chat.completions_url(base.url),
                    data=json.dumps(_chat.request_body(base.model, question.prompt, question.max_tokens)),
                    headers=_chat.request_headers(key),
                    auth=_keep_headers,
                    timeout=(min(CONNECT_S, question.timeout), question.timeout),
                    verify=bundle_path or checked,
                    allow_redirects=False,
                )
        except (requests.RequestException, OSError, ValueError) as error:
            waited = time.monotonic() - started
            kind, text = error_kind(error)
            tls = (
                speaks_tls(base.url) if kind in ("disconnected", "not_http") and base.url.startswith("http:") else None
            )
            return replace(base, error_kind=kind, error_text=text, waited=waited, speaks_tls=tls), None
    waited = time.monotonic() - started
    payload = _chat.parse(response.content)
    good = 200 <= response.status_code < 300
    found = tuple(_chat.violations(payload, base.model)) if good else ()
    seen = replace(
        base,
        status=response.status_code,
        headers={name.lower(): value for name, value in response.headers.items()},
        body=_chat.redact(response.content.decode("utf-8", "replace"), key),
        violations=found,
        waited=waited,
    )
    return seen, payload if good and not found else None


@contextlib.contextmanager
def trusted(ca_path: str) -> Iterator[str]:
    """The certificates of a CA file in the form that OpenSSL reads, as a file; empty for no CA file."""
    if not ca_path:
        yield ""
        return
    try:
        text = bundle(authorities(Path(ca_path).read_bytes()))
    except AuthorityError as error:
        raise ValueError(error.message("ca_path of the endpoint's fact", ca_path)) from error
    with tempfile.NamedTemporaryFile("w", encoding="ascii", suffix=".pem") as file:
        file.write(text)
        file.flush()
        yield file.name


def _keep_headers(request: Any) -> Any:
    """Stands in for the credentials that requests would take from ~/.netrc and put over the API key."""
    return request


def judge(endpoint: Endpoint) -> None:
    """Explains a verdict other than ok."""
    if endpoint.diagnosis is None and endpoint.payload is None and endpoint.seen:
        endpoint.diagnosis = diagnose(endpoint.seen)
    if endpoint.payload is not None and not endpoint.asked_by_play:
        endpoint.diagnosis = Diagnosis(
            cause="this endpoint was deployed, and the play never asked it: the host failed before its verification, "
            "or the verification was skipped",
            evidence=["it answers now, when asked from the control node"],
            remedy="Run the playbook again, with the role verify after the deployment, without skipping its tags.",
            transient=False,
            code="never_asked",
        )


def printable(text: str) -> str:
    """The text without control characters: a model's answer must not steer the terminal."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
