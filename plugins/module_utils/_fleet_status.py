# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what each host and gateway said to the state of a fleet, and its table. Pure functions only.

Private to the collection.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from ansible_collections.vicuna.fleet.plugins.module_utils._report import columns, natural
from ansible_collections.vicuna.fleet.plugins.module_utils._worker_log import one_line

HEALTHY, DEGRADED, DOWN = "healthy", "degraded", "down"
EXIT_CODES = {HEALTHY: 0, DEGRADED: 1, DOWN: 2}
OK = "ok"
# What a change between two reports is a change of.
COMPARED = ("release", "commit", "image", "driver", "gateway", "state")
SHORT = 12
LONGEST = 300

Result = Mapping[str, t.Any]


# --- one host ----------------------------------------------------------------------------------------------------


def host_entry(
    host: str, look: Result, answer: Result, gateways: Mapping[str, Result], now: datetime
) -> dict[str, t.Any]:
    """One host of the report.

    look: what serving_info returned, or the failure in its place. answer: the same of chat_completion; empty where it
    was not asked. gateways: entries of gateway_entry.
    """
    serving = look.get("serving")
    known = isinstance(serving, Mapping)
    serving = serving if isinstance(serving, Mapping) else {}
    release = serving.get("release") or {}
    gpu = serving.get("gpu") or {}
    asked = bool(answer) and not answer.get("skipped")
    completion = answer.get("completion") if asked else None
    reasons = [] if known else [_missing(look, "the host gave no account of itself")]
    if asked and not completion:
        reasons.append(_no_answer(answer))
    reasons += _troubles(serving)
    states = {name: _server_state(gateway, host) for name, gateway in gateways.items() if gateway["servers"]}
    reasons += [f"{name} has it as {state}" for name, state in states.items() if state != "up"]
    serves = bool(completion) if asked else known and serving.get("unwell") == []
    worker: Result = next((each for each in serving.get("containers") or [] if _of_worker(each)), {})
    return {
        "host": host,
        "state": DOWN if not serves else DEGRADED if reasons else OK,
        "reasons": reasons,
        "notes": _notes(release),
        "reachable": not look.get("unreachable"),
        "asked": asked,
        "release": release.get("id"),
        "pending": release.get("pending"),
        "commit": release.get("commit") or worker.get("revision") or None,
        "image": worker.get("image_id") or None,
        "driver": gpu.get("driver_version") or None,
        "gpus": [each.get("name") for each in gpu.get("gpus") or []],
        "gpu_memory_total_mib": gpu.get("memory_total_mib"),
        "gpu_memory_free_mib": gpu.get("memory_free_mib"),
        "queue": serving.get("queue"),
        "uptime_s": worker.get("uptime_s"),
        "answered": _answered(completion, answer, release, now),
        "gateway": ", ".join(sorted(set(states.values()))) or None,
        "gateways": states,
        "drift": drift(serving),
        "serving": dict(serving) if known else None,
    }


def drift(serving: Result) -> list[str] | None:
    """In what the host differs from its release; None where nothing is known to differ and a part could not be told."""
    parts = list((serving.get("drift") or {}).values())
    lines = [str(line) for part in parts for line in part or []]
    return lines if lines or (parts and all(part is not None for part in parts)) else None


def _of_worker(container: Result) -> bool:
    return str(container.get("service", "")).startswith("model-worker")


def _troubles(serving: Result) -> list[str]:
    release = serving.get("release") or {}
    lines = [str(line) for line in serving.get("unwell") or []]
    lines += [f"drift: {line}" for line in drift(serving) or []]
    trouble = (serving.get("gpu") or {}).get("trouble")
    if trouble:
        lines.append(f"GPU: {trouble}")
    failed = release.get("failed") or {}
    if failed and not failed.get("settled"):
        lines.append(f"release {failed.get('id')} failed{_at(failed)}{_why(failed)}")
    elif release.get("pending"):
        lines.append(
            f"release {release.get('id')} has not been verified by an answer: run site.yml or rollout.yml again"
        )
    return lines + [f"not known: {each.get('about')}: {each.get('message')}" for each in serving.get("problems") or []]


def _notes(release: Result) -> list[str]:
    failed = release.get("failed") or {}
    settled = failed and failed.get("settled")
    return (
        [f"release {failed.get('id')} failed{_at(failed)}; {release.get('id')} was verified after it"]
        if settled
        else []
    )


def _at(failed: Result) -> str:
    return f" at {failed['at']}" if failed.get("at") else ""


def _why(failed: Result) -> str:
    return f": {one_line(str(failed['reason']), LONGEST)}" if failed.get("reason") else ""


def _missing(result: Result, otherwise: str) -> str:
    if result.get("unreachable"):
        return f"unreachable: {_said(result) or 'no answer over its connection'}"
    return f"{otherwise}: {_said(result)}" if _said(result) else otherwise


def _no_answer(answer: Result) -> str:
    diagnosis = answer.get("diagnosis")
    if isinstance(diagnosis, Mapping):
        return one_line(f"no valid answer: {diagnosis.get('cause')}. {diagnosis.get('remedy')}", LONGEST)
    return _missing(answer, "no valid answer")


def _said(result: Result) -> str:
    return one_line(str(result.get("msg") or ""), LONGEST)


def _answered(completion: t.Any, answer: Result, release: Result, now: datetime) -> dict[str, t.Any] | None:
    """The last verified answer: the one of this look, else the one that verified the release."""
    if isinstance(completion, Mapping):
        latency = float(answer.get("latency") or 0)
        tokens = (completion.get("usage") or {}).get("completion_tokens")
        rate = round(tokens / latency, 1) if isinstance(tokens, int) and latency > 0 else None
        return {
            "at": now.isoformat(timespec="seconds"),
            "tokens_per_second": rate,
            "latency_s": latency,
            "by": "status",
        }
    if release.get("verified"):
        rate = release.get("tokens_per_second")
        return {"at": release["verified"], "tokens_per_second": rate, "latency_s": None, "by": "release"}
    return None


# --- one gateway -------------------------------------------------------------------------------------------------


def gateway_entry(gateway: str, probe: Result, answer: Result) -> dict[str, t.Any]:
    """One gateway of the report, from what gateway_server said of all servers, and from a question through it."""
    listed = probe.get("servers")
    servers = {
        str(each["name"]): str(each.get("state") or "unknown")
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, Mapping) and each.get("name")
    }
    asked = bool(answer) and not answer.get("skipped")
    completion = answer.get("completion") if asked else None
    reasons = []
    if not isinstance(listed, list):
        reasons.append(_missing(probe, "the gateway gave no account of its servers"))
    elif not probe.get("running", True):
        reasons.append("HAProxy does not run")
    elif not servers:
        reasons.append("it has no servers: run site.yml")
    elif "up" not in servers.values():
        reasons.append("none of its servers is up")
    if asked and not completion:
        reasons.append(_no_answer(answer))
    answers = bool(completion) if asked else "up" in servers.values()
    return {
        "gateway": gateway,
        "state": DOWN if not answers else DEGRADED if reasons else OK,
        "reasons": reasons,
        "reachable": not probe.get("unreachable"),
        "asked": asked,
        "servers": servers,
    }


def _server_state(gateway: Result, host: str) -> str:
    return str(gateway["servers"].get(host, "absent"))


# --- the fleet ---------------------------------------------------------------------------------------------------


def judge(hosts: Sequence[Result], gateways: Sequence[Result]) -> str:
    """down: nobody serves, or no gateway does where there are gateways; healthy: nothing at all is amiss."""
    if all(host["state"] == DOWN for host in hosts):
        return DOWN
    if gateways and all(gateway["state"] == DOWN for gateway in gateways):
        return DOWN
    return HEALTHY if all(each["state"] == OK for each in (*hosts, *gateways)) else DEGRADED


def report(
    looks: Mapping[str, Result],
    answers: Mapping[str, Result],
    probes: Mapping[str, Result],
    gateway_answers: Mapping[str, Result],
    now: datetime,
) -> dict[str, t.Any]:
    """The whole report, but for the comparison with the last one."""
    gateways = [
        gateway_entry(name, probes[name] or {}, gateway_answers.get(name) or {}) for name in sorted(probes, key=natural)
    ]
    by_name = {gateway["gateway"]: gateway for gateway in gateways}
    hosts = [
        host_entry(name, looks[name] or {}, answers.get(name) or {}, by_name, now)
        for name in sorted(looks, key=natural)
    ]
    status = judge(hosts, gateways)
    return {
        "status": status,
        "exit_code": EXIT_CODES[status],
        "generated": now.isoformat(timespec="seconds"),
        "hosts": hosts,
        "gateways": gateways,
    }


def summary(found: Result) -> str:
    """One line."""
    hosts, gateways = found["hosts"], found["gateways"]
    serving = sum(host["state"] != DOWN for host in hosts)
    words = f"{found['status']}: {serving} of {counted(len(hosts), 'host')} serving"
    if gateways:
        answering = sum(gateway["state"] != DOWN for gateway in gateways)
        words += f", {answering} of {counted(len(gateways), 'gateway')} answering"
    return words


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- printed -----------------------------------------------------------------------------------------------------

HEAD = (
    "HOST",
    "RELEASE",
    "COMMIT",
    "IMAGE",
    "DRIVER",
    "GPU FREE",
    "QUEUE",
    "ANSWERED",
    "TOK/S",
    "GATEWAY",
    "DRIFT",
    "STATE",
)
RIGHT = ("GPU FREE", "QUEUE", "ANSWERED", "TOK/S")


def cells(host: Result, now: datetime) -> tuple[str, ...]:
    """A host's row, by HEAD."""
    answered = host["answered"] or {}
    rate = answered.get("tokens_per_second")
    drifted = host["drift"]
    return (
        host["host"],
        (host["release"] or "-") + ("?" if host["pending"] else ""),
        short(host["commit"]),
        short(host["image"]),
        host["driver"] or "-",
        gib(host["gpu_memory_free_mib"]),
        "-" if host["queue"] is None else str(host["queue"]),
        age(answered.get("at"), now),
        "-" if rate is None else f"{rate:.1f}",
        host["gateway"] or "-",
        "unknown" if drifted is None else str(len(drifted)) if drifted else "none",
        host["state"],
    )


def table(found: Result) -> list[str]:
    """One row for each host, then the gateways, then what is amiss and what is worth a note."""
    now = datetime.fromisoformat(found["generated"])
    lines = columns(HEAD, [cells(host, now) for host in found["hosts"]], RIGHT)
    for gateway in found["gateways"]:
        up = sum(state == "up" for state in gateway["servers"].values())
        lines.append(f"gateway {gateway['gateway']}: {gateway['state']}, {up} of {len(gateway['servers'])} servers up")
    for host in found["hosts"]:
        lines += [f"{host['host']}: {reason}" for reason in host["reasons"]]
        lines += [f"{host['host']}: note: {note}" for note in host["notes"]]
    for gateway in found["gateways"]:
        lines += [f"{gateway['gateway']}: {reason}" for reason in gateway["reasons"]]
    return lines


def short(digest: str | None) -> str:
    return (digest or "").rpartition(":")[2][:SHORT] or "-"


def gib(mib: t.Any) -> str:
    return f"{mib / 1024:.1f} GiB" if isinstance(mib, (int, float)) else "-"


def age(at: t.Any, now: datetime) -> str:
    """How long ago, in one unit."""
    try:
        then = datetime.fromisoformat(str(at).replace("Z", "+00:00"))
    except ValueError:
        return "-"
    seconds = int((now - (then if then.tzinfo else then.replace(tzinfo=timezone.utc))).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "now" if seconds <= 0 else f"{seconds} s ago"
