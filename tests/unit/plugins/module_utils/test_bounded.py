# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import time
from pathlib import Path

from ansible_collections.vicuna.fleet.plugins.module_utils._bounded import bounded


def test_what_a_command_says() -> None:
    done = bounded(["sh", "-c", "cat; echo oops >&2; exit 3"], 10, b"in")
    assert (done.rc, done.out, done.err, done.hung) == (3, "in", "oops\n", False)
    assert done.said == "oops"


def test_no_such_command() -> None:
    done = bounded(["/nowhere/at/all"], 10)
    assert done.rc == 127
    assert "/nowhere/at/all" in done.said


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    started = time.monotonic()
    done = bounded(["sh", "-c", f"sleep 60 & echo $! >{tmp_path}/pid; trap '' TERM; wait"], 1)
    assert done.hung and time.monotonic() - started < 10
    assert "gave no answer within 1 s" in done.said
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        raise AssertionError("the child of the command runs on")


def test_the_environment_is_the_given_one() -> None:
    done = bounded(["sh", "-c", "echo $ONE-$HOME-$LC_ALL"], 10, environment={"PATH": os.defpath, "ONE": "1"})
    assert done.out == "1--C.UTF-8\n"
