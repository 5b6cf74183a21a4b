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

- name: Show the table
  ansible.builtin.debug:
    msg: "{{ report.table }}"
  run_once: true
"""

RETURN = r"""
msg:
  description: How many hosts fit, in words.
  returned: always
  type: str
  sample: 3 of 4 hosts fit
ok:
  description: Whether every host has a plan that fits.
  returned: always
  type: bool
table:
  description: The lines of the table, and below them what stands in the way.
  returned: always
  type: list
  elements: str
"""

import datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._report import write_report
from ansible_collections.vicuna.fleet.plugins.module_utils._serving_plan import table


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "plans": {"type": "dict", "required": True},
            "path": {"type": "path", "default": ""},
            "warn": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    plans = module.params["plans"]
    fitting = [host for host, plan in plans.items() if plan and plan["fits"]]
    ok = len(fitting) == len(plans)
    if module.params["path"]:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        try:
            write_report(Path(module.params["path"]), {"ok": ok, "generated": now, "hosts": plans})
        except OSError as error:
            module.fail_json(
                msg=f"Found: {error}. Expected: a folder that can be written. Remedy: choose another preflight_report."
            )
    for host, plan in plans.items():
        if module.params["warn"] and plan and not plan["fits"]:
            module.warn(f"{host} does not fit: {' '.join(problem['message'] for problem in plan['problems'])}")
    module.exit_json(
        changed=False,
        msg=f"{len(fitting)} of {len(plans)} host{'' if len(plans) == 1 else 's'} fit",
        ok=ok,
        table=table(plans),
    )


if __name__ == "__main__":
    main()
