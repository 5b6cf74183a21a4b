#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: serving_plan_report
short_description: Write the plans of a fleet as JSON, and return them as a table
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Takes the plans that P(vicuna.fleet.serving_plan#filter) made, writes them to a file, and returns them as a table.
  - Runs on the control node, once for all hosts.
  - It never reports a change, and writes in check mode, too. A report says what was seen at that moment, and is no
    state of a host.
options:
  plans:
    description: Name of each host and its plan. An empty plan stands for a host without one.
    type: dict
    required: true
  path:
    description: File to write, mode V(0644). Missing directories are made. Empty writes none.
    type: path
    default: ""
  warn:
    description: Whether to warn of each host that does not fit, as nothing else of the run will fail it.
    type: bool
    default: false
  show:
    description:
      - Show the table in the run's output at any verbosity, as M(ansible.builtin.debug) would. It is then RV(msg), too.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Does the same in check mode.
  diff_mode:
    support: N/A
    description: Changes no host.
  idempotent:
    support: N/A
    description: Changes no host.
"""

EXAMPLES = r"""
- name: Write the report
  vicuna.fleet.serving_plan_report:
    plans: {gpu-1: "{{ preflight_plan }}"}
    path: reports/preflight.json
  delegate_to: localhost
  run_once: true
  register: report

- name: Show the table, and write nothing
  vicuna.fleet.serving_plan_report:
    plans: {gpu-1: "{{ preflight_plan }}"}
    show: true
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
msg:
  description: How many hosts fit, in words; with O(show=true) the table.
  returned: always
  type: str
  sample: 3 of 4 hosts fit
ok:
  description: Whether every host has a plan that fits.
  returned: always
  type: bool
table:
  description: The lines of the table, and below them what stands in the way.
  returned: with O(show=false)
  type: list
  elements: str
"""

import datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._report import write_report
from ansible_collections.vicuna.fleet.plugins.module_utils._serving_plan import table

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "plans": {"type": "dict", "required": True},
    "path": {"type": "path", "default": ""},
    "warn": {"type": "bool", "default": False},
    "show": {"type": "bool", "default": False},
}


def answer(plans: dict[str, Any], path: str, warn: bool, show: bool) -> dict[str, Any]:
    """Write the report, and return what the module does."""
    fitting = [host for host, plan in plans.items() if plan and plan["fits"]]
    ok = len(fitting) == len(plans)
    if path:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        try:
            write_report(Path(path), {"ok": ok, "generated": now, "hosts": plans})
        except OSError as error:
            return {
                "failed": True,
                "msg": f"Found: {error}. Expected: a folder that can be written. "
                "Remedy: choose another preflight_report.",
            }
    lines = table(plans)
    found: dict[str, Any] = {
        "changed": False,
        "msg": f"{len(fitting)} of {len(plans)} host{'' if len(plans) == 1 else 's'} fit",
        "ok": ok,
    }
    found.update({"msg": "\n".join(lines)} if show else {"table": lines})
    warnings = [
        f"{host} does not fit: {' '.join(problem['message'] for problem in plan['problems'])}"
        for host, plan in plans.items()
        if warn and plan and not plan["fits"]
    ]
    return {**found, "warnings": warnings} if warnings else found


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    found = answer(**module.params)
    for warning in found.pop("warnings", []):
        module.warn(warning)
    if found.get("failed"):
        module.fail_json(msg=found["msg"])
    module.exit_json(**found)


if __name__ == "__main__":
    main()
