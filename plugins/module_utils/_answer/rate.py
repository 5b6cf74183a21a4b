# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast an endpoint answers, and whether one more answer could tell otherwise.

Private to the collection.
"""

from __future__ import annotations

import typing as t


def tokens_per_second(tokens: int, seconds: float, asked_for: int) -> float | None:
    """The rate of one answer. None for one of less than half the tokens: its time is that of the way there and back."""
    return round(tokens / max(seconds, 0.001), 1) if 2 * tokens >= asked_for else None


def best(rates: t.Iterable[float | None]) -> float | None:
    """Other load makes an answer slower and never faster, so that the fastest one tells what the endpoint can do."""
    return max((rate for rate in rates if rate is not None), default=None)


def slow(rates: t.Iterable[float | None], floor: float) -> bool:
    """Whether the best of them is below the floor. What could not be measured is not judged."""
    found = best(rates)
    return found is not None and found < floor
