# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module vicuna.fleet.serving_plan_report: on the control node in this process, elsewhere as a module.

A process of its own, for a file of some kilobytes, costs as much as all the rest of the task. The plugin can show the
table, too.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.vicuna.fleet.plugins.modules.serving_plan_report import ARGUMENT_SPEC, answer
from ansible_collections.vicuna.fleet.plugins.plugin_utils._in_process import InProcess


class ActionModule(InProcess):
    MODULE = "vicuna.fleet.serving_plan_report"
    ARGUMENT_SPEC = ARGUMENT_SPEC

    def answer(self, params: dict[str, Any]) -> dict[str, Any] | None:
        return answer(**params)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        if self.params.get("show") and not result.get("failed"):
            # As ansible.builtin.debug does it.
            result["_ansible_verbose_always"] = True
        return result
