# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the reports about a fleet share. Private to the collection."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Writes a report as JSON."""
    write_text(path, json.dumps(report, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces the file at once, so that a reader never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # A lone surrogate, which a foreign name can hold, has no form in UTF-8.
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def natural(text: str) -> list[tuple[str, int]]:
    """Sorts gpu-2 before gpu-10."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", text)]


# --- what differs from the last report ---------------------------------------------------------------------------


def last_report(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The report that is about to be replaced, and why there is none to compare with; "" where there never was one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None, ""
    except (OSError, UnicodeDecodeError) as error:
        return None, f"the last report cannot be read, so nothing is compared with it: {error}"
    try:
        report = json.loads(text)
    except (ValueError, RecursionError):
        return None, f"the last report, {path}, is no JSON, so nothing is compared with it"
    if not isinstance(report, dict):
        return None, f"the last report, {path}, is none of this collection, so nothing is compared with it"
    return report, ""


def by_host(entries: Any) -> dict[str, dict[str, Any]] | None:
    """A report's list of hosts by their name; None for what is no such list."""
    if not isinstance(entries, list):
        return None
    found = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("host"), str):
            return None
        found[entry["host"]] = entry
    return found


def changes(
    before: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Mapping[str, Any]],
    keys: Sequence[str],
    still_there: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Who changed, from what to what, in the order of hosts and keys.

    A value that is not known now, or was not then, is no change. A host of still_there is not gone: it was not part of
    this run.
    """
    found: list[dict[str, Any]] = []
    for host in sorted({*before, *now}, key=natural):
        if host not in now:
            if host not in still_there:
                found.append({"host": host, "what": "gone", "from": None, "to": None})
        elif host not in before:
            found.append({"host": host, "what": "new", "from": None, "to": None})
        else:
            for key in keys:
                old, new = before[host].get(key), now[host].get(key)
                if old not in (None, "") and new not in (None, "") and old != new:
                    found.append({"host": host, "what": key, "from": old, "to": new})
    return found


def change_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Changes in words."""
    words = {"new": "is new", "gone": "is gone"}
    return [
        f"{_value(one['host'])} {words[one['what']]}"
        if one["what"] in words
        else f"{_value(one['host'])}: {one['what']} {_value(one['from'])} -> {_value(one['to'])}"
        for one in found
    ]


def _value(value: Any) -> str:
    """A value on one line; of a commit or a digest its beginning. Anybody may have written the file that it is from."""
    text = "".join(character if character.isprintable() else "\ufffd" for character in str(value))
    digest = re.fullmatch(r"(?:sha256:)?([0-9a-f]{12})[0-9a-f]{28}(?:[0-9a-f]{24})?", text)
    return digest.group(1) if digest else text if len(text) <= 100 else f"{text[:99]}…"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str]) -> list[str]:
    """A table as lines, the head first; right names the columns that end flush."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width) for name, cell, width in zip(head, row, widths)
        ).rstrip()
        for row in (head, *rows)
    ]
