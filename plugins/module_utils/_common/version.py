# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Versions as programs, packages and people write them: one reader, so that the same text is the same version anywhere.

What counts is the release: the epoch of a package, its revision, the words of a distribution or a build and the
mark of a pre-release (28.0.0-rc.1, 3.0-dev5) say nothing about what a program can do.
"""

from __future__ import annotations

import re

# Not in the middle of a word (x86_64, cuda12.8) or of another number; `v` may stand before it.
_DOTTED = re.compile(r"(?<![A-Za-z0-9_.])v?(\d+(?:\.\d+)+)")
# A whole text that is one number, with an epoch, a revision or a mark: 13, 1:13-2, 3-dev.
_BARE = re.compile(r"(?:\d+:)?v?(\d+)(?=$|[-+~\s])")


def of(text: str) -> str:
    """The release in a text, such as 2.24.6 in "Docker Compose version v2.24.6-desktop.1"; empty for none."""
    match = _DOTTED.search(text) or _BARE.match(text.strip())
    return match.group(1) if match else ""


def numbers(text: str) -> tuple[int, ...]:
    """The release in a text to compare by: 2.18.0 and 2.18 are the same."""
    found = [int(number) for number in of(text).split(".") if number]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def older(text: str, minimum: str) -> bool:
    """Whether a version is older than another. One that names no release (a build from source says `dev`) is not.

    Nothing at all is older than anything.
    """
    return not text.strip() or (of(text) != "" and numbers(text) < numbers(minimum))
