# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ends a step early, each with its exit status."""

from __future__ import annotations

import math


class Problem(Exception):
    """A step cannot go on; the text says what was found, what was expected and what mends it, in one line."""

    exit_status = 1


class BadInput(Problem):
    """Settings, dataset or base model are not usable."""

    exit_status = 4


class Diverged(Problem):
    """The loss or the gradient is no longer a number."""

    exit_status = 3


def measured(name: str, loss: float | None, learning_rate: float) -> float | None:
    """A held-out loss, if it is a number: of another nothing could say that it is better."""
    if loss is None or math.isfinite(loss):
        return loss
    if name == "base":
        raise BadInput(
            f"the base's held-out loss is {loss}: expected a number; fetch it again with playbooks/fetch.yml, or "
            "choose another base"
        )
    raise Diverged(
        f"the result's held-out loss is {loss}: expected a number in the type that it is served in; lower "
        f"finetune_learning_rate (now {learning_rate:g}, try {learning_rate / 10:g})"
    )


class Stopped(Problem):
    """A signal asked the step to stop; the exit status is the shell's for that signal (130, 143)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number
