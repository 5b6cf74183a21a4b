# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of a fleet as one HTML page that needs nothing else: no script, no font, no request. Pure functions only.

Private to the collection.
"""

from __future__ import annotations

import html
import typing as t
from collections.abc import Mapping, Sequence
from datetime import datetime

from ansible_collections.vicuna.fleet.plugins.module_utils._fleet_status import HEAD, RIGHT, cells, summary
from ansible_collections.vicuna.fleet.plugins.module_utils._report import change_lines

# A row of the table becomes a card where the screen is narrow. State is told by words, and by colour beside them.
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --card: #f6f7f9; --text: #16191d; --dim: #5a6470; --line: #d9dee4;
  --ok: #14692f; --ok-ground: #e2f4e7; --degraded: #7a4a00; --degraded-ground: #fdf0d5; --down: #a01622;
  --down-ground: #fde4e6; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1c2026; --text: #e6e9ed; --dim: #9aa5b1;
  --line: #323943; --ok: #7fd99a; --ok-ground: #173322; --degraded: #f2c46d; --degraded-ground: #3a2d12;
  --down: #ff9aa2; --down-ground: #431d22; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 92rem; padding: 1.25rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; } p { margin: .25rem 0; }
header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; }
.dim { color: var(--dim); }
.state { display: inline-block; padding: 0 .6em; border-radius: 1em; font-weight: 600; white-space: nowrap; }
.ok, .healthy { color: var(--ok); background: var(--ok-ground); }
.degraded { color: var(--degraded); background: var(--degraded-ground); }
.down { color: var(--down); background: var(--down-ground); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .45rem .6rem; text-align: left; vertical-align: top; white-space: nowrap; }
th { font-size: .75rem; letter-spacing: .03em; color: var(--dim); background: var(--card); }
td:first-child { white-space: normal; min-width: 9rem; font-weight: 600; }
tr + tr td { border-top: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.code { font-family: ui-monospace, monospace; font-size: .9em; }
ul { margin: 0; padding-left: 1.2rem; } li { margin: .2rem 0; }
@media (max-width: 80rem) {
  .wide { border: 0; overflow: visible; } thead { display: none; }
  table { display: block; }
  tbody { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: .75rem; }
  tr { display: flex; flex-direction: column; background: var(--card); border: 1px solid var(--line);
    border-radius: .5rem; padding: .4rem 0; }
  tr + tr td { border: 0; }
  td { display: flex; justify-content: space-between; gap: 1rem; padding: .15rem .8rem; white-space: normal;
    text-align: right; }
  td::before { content: attr(data-name); color: var(--dim); font-size: .8rem; font-weight: 400; flex: none;
    overflow-wrap: normal; }
  td:first-child { font-size: 1.05rem; order: -2; } td:last-child { order: -1; }
}
"""
CODE = ("RELEASE", "COMMIT", "IMAGE")


def page(report: Mapping[str, t.Any]) -> str:
    """The whole document."""
    now = datetime.fromisoformat(report["generated"])
    status = report["status"]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Should a value ever get past the escaping, it can still load and run nothing.
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
        f"<title>Fleet: {text(status)}</title><style>{STYLE}</style></head><body>",
        f"<header><h1>Fleet</h1>{pill(status)}<span>{text(summary(report).partition(': ')[2])}</span></header>",
        f'<p class="dim">as of <time datetime="{now.isoformat()}">{now:%Y-%m-%d %H:%M:%S %Z}</time></p>',
        _hosts(report["hosts"], now),
        _gateways(report["gateways"]),
        _section(
            "What is amiss",
            [
                *filter(None, [report.get("error")]),
                *_reasons(report["hosts"], "host"),
                *_reasons(report["gateways"], "gateway"),
            ],
        ),
        _section("Notes", [f"{host['host']}: {note}" for host in report["hosts"] for note in host["notes"]]),
        _section("Since the last report", change_lines(report.get("changes") or [])),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def text(value: t.Any) -> str:
    """A value as text of the page: nothing of it is markup, and control characters are shown as such."""
    shown = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in str(value))
    return html.escape(shown, quote=True)


def pill(state: str) -> str:
    kind = state if state in ("ok", "healthy", "degraded", "down") else "degraded"
    return f'<span class="state {kind}">{text(state)}</span>'


def _hosts(hosts: Sequence[Mapping[str, t.Any]], now: datetime) -> str:
    if not hosts:
        return "<h2>Hosts</h2>\n<p>No host was looked at.</p>"
    return "<h2>Hosts</h2>\n" + _table(HEAD, [cells(host, now) for host in hosts])


def _gateways(gateways: Sequence[Mapping[str, t.Any]]) -> str:
    if not gateways:
        return ""
    rows = [
        (
            gateway["gateway"],
            ", ".join(f"{server} {state}" for server, state in gateway["servers"].items()) or "-",
            gateway["state"],
        )
        for gateway in gateways
    ]
    return "<h2>Gateways</h2>\n" + _table(("GATEWAY", "SERVERS", "STATE"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f'<th scope="col"{_number(name)}>{text(name)}</th>' for name in head)
    lines = "\n".join("<tr>" + "".join(map(_cell, head, row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def _number(name: str) -> str:
    return ' class="number"' if name in RIGHT else ""


def _cell(name: str, value: str) -> str:
    code = ' class="code"' if name in CODE else ""
    shown = pill(value) if name == "STATE" else f"<span{code}>{text(value)}</span>"
    return f'<td data-name="{text(name)}"{_number(name)}>{shown}</td>'


def _reasons(entries: Sequence[Mapping[str, t.Any]], name: str) -> list[str]:
    return [f"{entry[name]}: {reason}" for entry in entries for reason in entry["reasons"]]


def _section(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<h2>{text(title)}</h2>\n<ul>\n{items}\n</ul>"
