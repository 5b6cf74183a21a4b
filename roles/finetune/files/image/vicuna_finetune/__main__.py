# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program of the fine-tuning image.

python3 -m vicuna_finetune check|train|finish --run-dir DIR --base DIR

Exit status: 0 done, 1 failed, 2 the check found dialogues that would be cut or dropped, 3 diverged, 4 bad input,
130 and 143 stopped by a signal after a checkpoint. What failed stands in progress.json and on the standard error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from . import conversation, launch, settings
from .errors import BadInput, Problem
from .progress import Progress


def main(arguments: list[str] | None = None) -> int:
    """Run one step; return the exit status."""
    parser = argparse.ArgumentParser(prog="vicuna_finetune", description="Fine-tune a Vicuna.")
    parser.add_argument("step", choices=("check", "train", "finish"))
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    given = parser.parse_args(arguments)
    # What a run writes is read by the host's root and by another user's server.
    os.umask(0o022)
    # As a container's first process it would not be ended by the signal's default; training has its own way to stop.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    run = settings.RunDir(given.run_dir)
    progress = Progress(run.progress, writes=os.environ.get("RANK", "0") == "0")
    try:
        values = settings.load(run.settings)
        if given.step == "train" and values.gpus > 1 and "RANK" not in os.environ:
            own = ["train", "--run-dir", str(run.path), "--base", str(given.base)]
            return launch.launch([sys.executable, "-m", "vicuna_finetune", *own], values.gpus)
        if "RANK" not in os.environ:
            # Where more are in sight, the Trainer would spread a run of one process over all of them (DataParallel).
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        return run_step(given.step, run, given.base, values, progress)
    except Problem as problem:
        return fail(progress, str(problem), problem.exit_status)
    except conversation.ConversationError as error:
        return fail(progress, str(error), BadInput.exit_status)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            return fail(progress, out_of_memory(error), 1)
        fail(progress, f"{type(error).__name__}: {error}", 1)
        raise


def run_step(step: str, run: settings.RunDir, base: Path, values: settings.Settings, progress: Progress) -> int:
    """Import what the step needs, and run it."""
    progress.update("loading")
    if step == "check":
        from . import check

        return check.check(run, base, values, progress)
    if step == "train":
        from .train import train

        train(run, base, values, progress)
    else:
        from .finish import finish

        finish(run, base, values, progress)
    return 0


def fail(progress: Progress, message: str, status: int) -> int:
    """Say what failed, and return the status."""
    line = " ".join(message.split())[:1000]
    progress.writes = True  # also where it is not the first process that fails
    progress.update("failed", message=line)
    print(line, file=sys.stderr, flush=True)
    return status


def out_of_memory(error: Exception) -> str:
    """One line for torch's page."""
    found = str(error).split(". ", 1)[0]
    return (
        f"the GPU's memory is full ({found}); lower finetune_batch_size (and raise finetune_gradient_accumulation), "
        "lower finetune_max_length, or choose finetune_method lora or qlora"
    )


if __name__ == "__main__":
    sys.exit(main())
