# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host's fetch writes of its progress, and how a run tells it. Pure, and private to the collection."""

from __future__ import annotations

import json
import math
import typing as t
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from ansible_collections.vicuna.fleet.plugins.module_utils._report import natural

# Up to so many hosts have a line each; of more there is a summary and the slowest.
LINES = 4
SLOWEST = 3
# Without news for longer than this, a host's numbers are not told as if they were new.
SILENT_S = 30.0
MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True)
class Progress:
    """The progress file of a fetch."""

    pid: int = 0
    state: str = "fetching"
    done_bytes: int = 0
    total_bytes: int = 0
    from_origin: int = 0
    from_peers: int = 0
    rate: float = 0.0
    eta: float | None = None
    started: float = 0.0
    updated: float = 0.0
    objects_done: int = 0
    objects: int = 0
    cause: str = ""
    msg: str = ""
    detail: str = ""
    notes: tuple[str, ...] = ()

    @property
    def fetched(self) -> int:
        """Bytes that came over a wire, without those that an earlier run had left."""
        return self.from_origin + self.from_peers

    @property
    def seconds(self) -> float:
        return max(0.0, self.updated - self.started)


def _number(value: t.Any) -> float | None:
    # JSON has neither, but Python's reader takes both.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return max(0.0, float(value))


def progress_of(data: t.Any) -> Progress | None:
    """A progress file's content; None for anything else. What is missing or of another type gets its default."""
    if not isinstance(data, Mapping) or not isinstance(data.get("state"), str):
        return None
    values: dict[str, t.Any] = {}
    for field in fields(Progress):
        value, default = data.get(field.name), field.default
        if field.name == "notes":
            values["notes"] = tuple(str(note) for note in value) if isinstance(value, (list, tuple)) else ()
        elif isinstance(default, str):
            values[field.name] = value if isinstance(value, str) else default
        else:
            number = _number(value)
            if number is not None:
                values[field.name] = int(number) if isinstance(default, int) else number
    return Progress(**values)


def parse_progress(text: str) -> Progress | None:
    """The same from the file's text."""
    try:
        return progress_of(json.loads(text))
    except ValueError:
        return None


@dataclass(frozen=True)
class Entry:
    """A host's fetch, as its process of the run saw it last."""

    host: str
    progress: Progress
    heard: float  # epoch seconds of the last news
    ended: bool = False
    pid: int = 0  # of the run's process that watches it

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def parse_entry(text: str) -> Entry | None:
    try:
        data = json.loads(text)
        progress = progress_of(data["progress"])
        if progress is None:
            return None
        return Entry(str(data["host"]), progress, float(data["heard"]), bool(data["ended"]), int(data["pid"]))
    except (ValueError, KeyError, TypeError):
        return None


# ---------------------------------------------------------------------------------------------- words


def size(count: float) -> str:
    """Bytes in SI units, three digits: 13.5 GB."""
    if count < 1000:
        return f"{int(count)} B"
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        count /= 1000
        # Where rounding would give 1000, the next unit has it.
        if count < 999.5 or unit == "PB":
            break
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """A time in its two largest units: 1 min 9 s."""
    whole = max(0, round(seconds))
    for unit, name, part, part_name in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min"), (MINUTE, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{whole} s"


def percent(part: float, whole: float) -> int:
    """Rounded down, so that 100 means all of it."""
    if whole <= 0:
        return 100
    return max(0, min(100, int(100 * part // whole)))


def _shares(origin: int, peers: int) -> tuple[int, int]:
    """Both in percent, which add up to 100."""
    share = min(99, max(1, round(100 * peers / (origin + peers)))) if origin and peers else 100 if peers else 0
    return 100 - share, share


def _from_peers(origin: int, peers: int) -> str:
    return f" ({_shares(origin, peers)[1]} % from peers)" if peers else ""


def entry_line(entry: Entry, now: float) -> str:
    """One host: gpu-1: 43 % of 13.5 GB, 112 MB/s, 1 min 9 s left (71 % from peers)."""
    progress = entry.progress
    if not progress.total_bytes:
        return f"{entry.host}: starting"
    said = [f"{entry.host}: {percent(progress.done_bytes, progress.total_bytes)} % of {size(progress.total_bytes)}"]
    silent = now - entry.heard
    if silent > SILENT_S:
        return f"{said[0]}, no news from the host for {duration(silent)}"
    if progress.state == "verifying":
        said.append("verifying")
    elif progress.rate > 0:
        said.append(f"{size(progress.rate)}/s")
    else:
        said.append("nothing arrives at the moment")
    if progress.rate > 0 and progress.eta is not None:
        said.append(f"{duration(progress.eta)} left")
    return ", ".join(said) + _from_peers(progress.from_origin, progress.from_peers)


def _slowness(entry: Entry, now: float) -> float:
    """Seconds left; without end where nothing arrives."""
    eta = entry.progress.eta
    return math.inf if eta is None or now - entry.heard > SILENT_S else eta


def _summary(entries: Sequence[Entry], slowest: Entry, now: float) -> str:
    ended = sum(entry.ended for entry in entries)
    progresses = [entry.progress for entry in entries]
    done, total = sum(p.done_bytes for p in progresses), sum(p.total_bytes for p in progresses)
    rate = sum(entry.progress.rate for entry in entries if not entry.ended)
    said = f"{len(entries)} hosts{f', {ended} done' if ended else ''}: {percent(done, total)} % of {size(total)}"
    said += f", {size(rate)}/s"
    left = _slowness(slowest, now)
    if left < math.inf:
        said += f", {duration(left)} left for {slowest.host}"
    else:
        said += f", {slowest.host} {'stands still' if slowest.progress.total_bytes else 'is starting'}"
    return said + _from_peers(sum(p.from_origin for p in progresses), sum(p.from_peers for p in progresses))


def block(entries: Iterable[Entry], now: float) -> list[str]:
    """All hosts of a run: a line each, or a summary and the slowest."""
    every = sorted(entries, key=lambda entry: natural(entry.host))
    active = [entry for entry in every if not entry.ended]
    if len(active) <= LINES:
        return [entry_line(entry, now) for entry in active]
    slowest = sorted(active, key=lambda entry: -_slowness(entry, now))[:SLOWEST]
    return [_summary(every, slowest[0], now), *(f"  {entry_line(entry, now)}" for entry in slowest)]


def done_line(host: str, progress: Progress) -> str:
    """gpu-1: 13.5 GB in 2 min 1 s, 111 MB/s (29 % origin, 71 % peers), every object verified."""
    said = f"{host}: {size(progress.fetched)} in {duration(progress.seconds)}"
    if progress.seconds > 0 and progress.fetched:
        said += f", {size(progress.fetched / progress.seconds)}/s"
    if progress.from_peers:
        origin, peers = _shares(progress.from_origin, progress.from_peers)
        said += f" ({origin} % origin, {peers} % peers)"
    earlier = progress.total_bytes - progress.fetched
    # A few blocks may be asked for twice, or may have been there: not worth a word.
    if earlier > progress.total_bytes / 100:
        said += f", {size(earlier)} were there"
    return f"{said}, every object verified"


def repaired_line(host: str, names: Sequence[str], kept: Sequence[str]) -> str:
    """gpu-1: restored model.safetensors, damaged or changed on this host; what it held is in /model/.lfs/bad/…"""
    said = f"{host}: restored {', '.join(names)}, damaged or changed on this host"
    return f"{said}; what was changed is in {', '.join(kept)}" if kept else said


def left_lines(entries: Iterable[Entry]) -> list[str]:
    """What a run that was interrupted leaves behind: the fetches that go on, and how to end them."""
    left = sorted((entry for entry in entries if not entry.ended), key=lambda entry: natural(entry.host))
    if not left:
        return []
    kills = ", ".join(f"'kill {entry.progress.pid}' on {entry.host}" for entry in left)
    return [f"The fetch goes on without this run; run again to watch it. To end it: {kills}."]
