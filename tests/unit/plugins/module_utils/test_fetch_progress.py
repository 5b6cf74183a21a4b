# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the progress, and what is read of its file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._fetch_progress import (
    Entry,
    Progress,
    block,
    done_line,
    duration,
    entry_line,
    left_lines,
    parse_entry,
    parse_progress,
    percent,
    size,
)

NOW = 1795337285.0
HALF = Progress(
    pid=4711,
    done_bytes=5_810_000_000,
    total_bytes=13_500_000_000,
    from_origin=1_684_900_000,
    from_peers=4_125_100_000,
    rate=112_000_000.0,
    eta=69.0,
    started=NOW - 52,
    updated=NOW,
)
WHOLE = replace(
    HALF,
    state="done",
    done_bytes=13_500_000_000,
    from_origin=3_915_000_000,
    from_peers=9_585_000_000,
    started=NOW - 121,
)


def entry(host="gpu-1", ended=False, heard=NOW, **changes):
    return Entry(host, replace(HALF, **changes), heard, ended=ended, pid=1)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (13_476_850_247, "13.5 GB"),
        (112_345_678, "112 MB"),
        (999_600_000_000, "1.00 TB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes_are_si_with_three_digits(count, words):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (69, "1 min 9 s"),
        (121, "2 min 1 s"),
        (3599.6, "1 h"),
        (3661, "1 h 1 min"),
        (86400 + 7200, "1 d 2 h"),
    ],
)
def test_durations_have_two_units(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("part", "whole", "number"), [(0, 10, 0), (999, 1000, 99), (10, 10, 100), (11, 10, 100), (0, 0, 100)]
)
def test_a_hundred_percent_are_all(part, whole, number):
    assert percent(part, whole) == number


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (entry(), "gpu-1: 43 % of 13.5 GB, 112 MB/s, 1 min 9 s left (71 % from peers)"),
        (entry(from_peers=0), "gpu-1: 43 % of 13.5 GB, 112 MB/s, 1 min 9 s left"),
        (entry(from_peers=1), "gpu-1: 43 % of 13.5 GB, 112 MB/s, 1 min 9 s left (1 % from peers)"),
        (entry(from_origin=0), "gpu-1: 43 % of 13.5 GB, 112 MB/s, 1 min 9 s left (100 % from peers)"),
        (entry(eta=None, from_peers=0), "gpu-1: 43 % of 13.5 GB, 112 MB/s"),
        (entry(rate=0.0, from_peers=0), "gpu-1: 43 % of 13.5 GB, nothing arrives at the moment"),
        (entry(state="verifying", rate=0.0, from_peers=0), "gpu-1: 43 % of 13.5 GB, verifying"),
        (entry(heard=NOW - 31), "gpu-1: 43 % of 13.5 GB, no news from the host for 31 s"),
        (entry(total_bytes=0), "gpu-1: starting"),
    ],
)
def test_a_hosts_line(shown, line):
    assert entry_line(shown, NOW) == line


def test_up_to_four_hosts_have_a_line_each():
    hosts = [entry(f"gpu-{number}") for number in (10, 2, 1, 3)] + [entry("gpu-4", ended=True)]
    assert [line.partition(":")[0] for line in block(hosts, NOW)] == ["gpu-1", "gpu-2", "gpu-3", "gpu-10"]
    assert block([entry(ended=True)], NOW) == []


def test_of_more_hosts_there_is_a_summary_and_the_slowest():
    hosts = [entry(f"gpu-{number}", eta=float(number), from_peers=0) for number in range(1, 6)]
    hosts += [Entry("gpu-6", WHOLE, NOW, ended=True)]
    assert block(hosts, NOW) == [
        "6 hosts, 1 done: 52 % of 81.0 GB, 560 MB/s, 5 s left for gpu-5 (44 % from peers)",
        "  gpu-5: 43 % of 13.5 GB, 112 MB/s, 5 s left",
        "  gpu-4: 43 % of 13.5 GB, 112 MB/s, 4 s left",
        "  gpu-3: 43 % of 13.5 GB, 112 MB/s, 3 s left",
    ]


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        (entry("slow", eta=None), ", slow stands still ("),
        (entry("slow", heard=NOW - 60), ", slow stands still ("),
        (entry("slow", eta=None, total_bytes=0), ", slow is starting ("),
    ],
)
def test_a_host_that_does_not_move_is_the_slowest(slow, words):
    hosts = [entry(f"gpu-{number}", eta=9000.0 + number) for number in range(5)]
    lines = block([*hosts, slow], NOW)
    assert words in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["slow", "gpu-4", "gpu-3"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "gpu-1: 13.5 GB in 2 min 1 s, 112 MB/s (29 % origin, 71 % peers), every object verified"),
        (
            {"from_peers": 0},
            "gpu-1: 3.92 GB in 2 min 1 s, 32.4 MB/s, 9.59 GB were there, every object verified",
        ),
        (
            {"from_peers": 0, "from_origin": 13_490_000_000},
            "gpu-1: 13.5 GB in 2 min 1 s, 111 MB/s, every object verified",
        ),
        ({"started": NOW}, "gpu-1: 13.5 GB in 0 s (29 % origin, 71 % peers), every object verified"),
        ({"from_origin": 0, "from_peers": 0}, "gpu-1: 0 B in 2 min 1 s, 13.5 GB were there, every object verified"),
    ],
)
def test_the_last_line(changes, line):
    assert done_line("gpu-1", replace(WHOLE, **changes)) == line


def test_what_a_run_leaves_behind():
    assert left_lines([entry(ended=True)]) == []
    assert left_lines([entry("gpu-10"), entry("gpu-2"), entry("gpu-3", ended=True)]) == [
        "The fetch goes on without this run; run again to watch it. "
        "To end it: 'kill 4711' on gpu-2, 'kill 4711' on gpu-10."
    ]


def test_a_progress_file_is_read():
    text = json.dumps({"pid": 7, "state": "fetching", "done_bytes": 5, "eta": None, "notes": ["a", 1], "new": True})
    assert parse_progress(text) == Progress(pid=7, done_bytes=5, notes=("a", "1"))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 7}', '{"state": 3}'])
def test_what_is_no_progress_file_is_none(text):
    assert parse_progress(text) is None


def test_wrong_types_in_a_progress_file_are_not_taken():
    text = '{"state": "fetching", "pid": "7", "rate": NaN, "eta": Infinity, "total_bytes": -5, "notes": 3, "cause": 4}'
    assert parse_progress(text) == Progress()


def test_an_entry_survives_its_file():
    shown = Entry("gpu-1", replace(HALF, notes=("x",)), NOW, ended=True, pid=9)
    assert parse_entry(shown.to_json()) == shown


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"host": "a", "progress": 3, "heard": 1, "ended": true, "pid": 1}'])
def test_what_is_no_entry_is_none(text):
    assert parse_entry(text) is None
