# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._answer import rate


@pytest.mark.parametrize(
    ("tokens", "seconds", "asked_for", "found"),
    [
        (128, 2.0, 128, 64.0),
        (64, 2.0, 128, 32.0),
        (63, 2.0, 128, None),
        (0, 0.2, 128, None),
        (82, 0.653, 128, 125.6),
        (128, 0.0, 128, 128000.0),
        (1, 0.5, 1, 2.0),
    ],
)
def test_the_rate_of_an_answer(tokens: int, seconds: float, asked_for: int, found: float | None) -> None:
    assert rate.tokens_per_second(tokens, seconds, asked_for) == found


@pytest.mark.parametrize(
    ("rates", "floor", "best", "slow"),
    [
        # Seen on a busy machine: 46.8 tokens/s where 125.6 were usual.
        ([46.8], 62.8, 46.8, True),
        ([46.8, 110.0], 62.8, 110.0, False),
        ([46.8, None, 30.0], 62.8, 46.8, True),
        ([62.8], 62.8, 62.8, False),
        ([46.8], 0.0, 46.8, False),
        ([None, None], 62.8, None, False),
        ([], 62.8, None, False),
    ],
)
def test_the_best_of_several(rates: list[float | None], floor: float, best: float | None, slow: bool) -> None:
    assert rate.best(rates) == best
    assert rate.slow(rates, floor) is slow
