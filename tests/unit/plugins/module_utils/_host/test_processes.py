# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._host import processes

NOW = 1000.0
# A line of a real host; the name of the program may hold anything.
STAT = (
    "{pid} ({name}) S 1 917 917 0 -1 4194560 2107 2031 20 0 21 17 4 4 20 0 1 0 {ticks} 97894400 3161 "
    "18446744073709551615 1 1 0 0 0 0 671173123 4096 1260 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)


@pytest.mark.parametrize(
    ("start", "changed", "found"),
    [
        (500.0, {}, []),
        (500.0, {"a": 499.99}, []),
        (500.0, {"a": 500.01}, ["a"]),
        (500.0, {"a": 500.0}, ["a"]),
        (500.0, {"b": 600.0, "c": 400.0, "a": 700.0}, ["a", "b"]),
        (500.0, {"a": NOW}, ["a"]),
        # No process: nothing goes by an earlier version.
        (None, {"a": 700.0}, []),
        # Changed while the clock was an hour ahead, and read since.
        (500.0, {"a": NOW + 3600}, []),
        # A process from before the clock was first set.
        (5.0, {"a": 500.0}, ["a"]),
    ],
)
def test_newer_than(start: float | None, changed: dict[str, float], found: list[str]) -> None:
    assert processes.newer_than(start, changed, NOW) == found


@pytest.mark.parametrize("name", ["haproxy", "a) S 1 2 (b", "two words"])
def test_the_start_of_a_process(tmp_path: Path, name: str) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text(STAT.format(pid=7, name=name, ticks=250 * os.sysconf("SC_CLK_TCK")))
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert processes.started(7, tmp_path) == pytest.approx(boot + 250, abs=0.5)


@pytest.mark.parametrize("text", [None, "", "7 (sh) S 1", "7 (sh) " + "x " * 40])
def test_no_such_process(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7/stat").write_text(text)
    assert processes.started(7, tmp_path) is None
    assert processes.started(0) is None


def test_a_file_and_a_process_of_this_machine(tmp_path: Path) -> None:
    """The two clocks agree: what is written just before its start is never newer, what comes later is."""
    old, new = tmp_path / "old", tmp_path / "new"
    for _attempt in range(5):
        old.write_text("x")
        with subprocess.Popen(["sleep", "0"]) as short:
            assert processes.newer_than(processes.started(short.pid), processes.changed_at([old]), time.time()) == []
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        time.sleep(0.05)
        new.write_text("x")
        os.utime(new, (1, 1))
        changed = processes.changed_at([old, new, tmp_path / "gone"])
        assert processes.newer_than(processes.started(process.pid), changed, time.time()) == [str(new)]
        process.communicate(b"\n")


def test_a_further_link_is_no_change_of_what_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("x")
    os.utime(path, (5, 5))
    os.link(path, tmp_path / "other")
    assert processes.changed_at([path], "st_mtime") == {str(path): 5.0}
    assert processes.changed_at([path])[str(path)] > 5
