# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reports of a run that is refused before its first task. Private to the collection.

No task can write them, as no host is there to run one, and Ansible tells callbacks nothing of such an end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible import context

from ansible_collections.vicuna.fleet.plugins.module_utils import _fleet_status
from ansible_collections.vicuna.fleet.plugins.module_utils._fleet_page import page
from ansible_collections.vicuna.fleet.plugins.module_utils._report import last_report, write_report, write_text
from ansible_collections.vicuna.fleet.plugins.plugin_utils._run import setting

# The callback, where it is enabled, writes the report of a deployment.
on_refused_deployment: list[Callable[[str], None]] = []


def tell(problem: str, reports: Sequence[str], variables: Mapping[str, Any], template: Callable[[Any], Any]) -> None:
    """Writes into each report why there was no run. A report that cannot be written leaves the message as it is."""
    here = f"{os.environ.get('PWD', '.')}/reports"
    now = datetime.now(timezone.utc)
    with contextlib.suppress(OSError):
        if "preflight" in reports:
            path = setting("preflight_report", variables, template, f"{here}/preflight.json")
            if path:
                generated = now.isoformat(timespec="seconds")
                write_report(Path(path), {"ok": False, "error": problem, "generated": generated, "hosts": {}})
        if "status" in reports:
            _tell_status(problem, Path(setting("status_report_dir", variables, template, here)), now)
        if "deployment" in reports and not context.CLIARGS.get("check"):
            for write in on_refused_deployment:
                write(problem)


def _tell_status(problem: str, folder: Path, now: datetime) -> None:
    last, _ = last_report(folder / "status.json")
    found = _fleet_status.report({}, {}, {}, {}, now)
    found["error"] = problem
    found["changes"] = []
    # What the next report is compared with.
    found["earlier"] = (last or {}).get("earlier") or (last or {}).get("hosts") or []
    write_report(folder / "status.json", found)
    write_text(folder / "status.html", page(found))
