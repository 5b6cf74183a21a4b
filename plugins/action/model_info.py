# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module vicuna.fleet.model_info; on the control node what is kept of a commit is answered in this process.

A fleet asks once for each host, and mostly for the same commit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._model_info import remembered
from ansible_collections.vicuna.fleet.plugins.modules.model_info import ARGUMENT_SPEC, answer
from ansible_collections.vicuna.fleet.plugins.plugin_utils._in_process import InProcess


class ActionModule(InProcess):
    MODULE = "vicuna.fleet.model_info"
    ARGUMENT_SPEC = ARGUMENT_SPEC

    def answer(self, params: dict[str, Any]) -> dict[str, Any] | None:
        listing = remembered(
            params["repo"], params["revision"], Path(params["cache_dir"]) if params["cache_dir"] else None
        )
        if listing is None:
            return None
        result, warnings = answer(listing, True, params)
        return {**result, "warnings": warnings} if warnings else result
