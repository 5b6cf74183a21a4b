#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Name the tests that failed, and why, from JUnit files: for the end of a long log.

tools/failed_tests.py reports/junit-*.xml
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

# The reason stands at the end of pytest's traceback.
LINES = 12


def main(names: list[str]) -> None:
    for path in map(Path, names):
        if not path.is_file():
            continue
        try:
            cases = list(ElementTree.parse(path).iter("testcase"))  # noqa: S314 - pytest wrote it
        except ElementTree.ParseError as error:
            print(f"\n{path}: cut off ({error})")
            continue
        for case in cases:
            for outcome in (*case.findall("failure"), *case.findall("error")):
                print(f"\n{path.stem}: {case.get('classname')}::{case.get('name')} after {case.get('time')} s")
                print("\n".join(f"  {line}" for line in (outcome.text or "").rstrip().splitlines()[-LINES:]))


if __name__ == "__main__":
    main(sys.argv[1:])
