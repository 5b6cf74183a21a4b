# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run may do by itself about a release that is in place and does not answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._worker_log import one_line

# What compose and the engine say of containers that new ones take the place of. Their other errors (a port that is
# taken, an image or a GPU that is not there, a full disk) would be the same for new containers.
_NEW_CONTAINERS_HELP = re.compile(
    r"cannot start a paused container"
    r"|dependency failed to start"
    r"|container \S+ (?:is unhealthy|exited \(\d+\))"
    r"|network \S+ not found"
    r"|is marked for removal|marked to be removed|is being removed"
    r"|did not receive an exit event",
    re.IGNORECASE,
)
# Compose's names of containers: project, service, number. Others wait for one that is unhealthy, and are not started.
_UNHEALTHY = re.compile(r"container [a-z0-9_]+-(?P<service>\S+)-\d+ is unhealthy")


def repair_of(failed: Mapping[str, Any], allowed: bool = True, restarted: bool = False) -> dict[str, Any]:
    """The steps that can help after a task that failed: the module chat_completion, or compose at the start.

    allowed: whether the run may take any step. restarted: whether it has started services again before this failure;
    each step is taken once. Returns ``restart``, the services to start again, ``recreate``, whether to make all
    containers anew, ``say``, what is done and why (empty where nothing is), and ``failure``, the task's own message.
    """
    message = str(failed.get("msg") or "A task failed; its output says why.")
    diagnosis = failed.get("diagnosis")
    if isinstance(diagnosis, Mapping):
        restart = [str(service) for service in diagnosis.get("restart") or []]
        recreate = bool(diagnosis.get("recreate"))
        cause = str(diagnosis.get("cause") or "")
    else:
        words = next((each for each in (message, str(failed.get("stderr"))) if _NEW_CONTAINERS_HELP.search(each)), "")
        unhealthy = _UNHEALTHY.search(words)
        restart, recreate = [unhealthy["service"]] if unhealthy else [], bool(words)
        cause = (
            f"the {restart[0]} runs and does not answer, and others wait for it" if restart else one_line(words, 300)
        )
    restart = restart if allowed and not restarted else []
    recreate = recreate and allowed
    steps = [f"{' and '.join(restart)} started again"] if restart else []
    steps += ["all containers made anew"] if recreate else []
    say = f"{cause}{', also after the restart' if restarted else ''}. Repair: {', or else '.join(steps)}."
    return {"restart": restart, "recreate": recreate, "say": say if steps else "", "failure": message}
