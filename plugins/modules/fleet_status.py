#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: fleet_status
short_description: Judge a fleet by what its hosts and gateways say, and write the report
version_added: 0.2.0
author: The vicuna.fleet authors
description:
  - Takes what M(vicuna.fleet.serving_info), M(vicuna.fleet.chat_completion) and M(vicuna.fleet.gateway_server) returned
    for each host and gateway, says whether the fleet is healthy, degraded or down, and compares with the last report.
  - Writes the report as JSON and as one HTML page. Runs on the control node, once for all hosts.
  - A host serves when a valid answer came from it or, where it was not asked, when all of its services are well.
  - The fleet is V(down) when no host serves, or when there are gateways and none of them answers. It is V(healthy) when
    every host serves and every gateway answers, nothing has drifted, no release failed or waits to be verified, the
    GPUs are well, every gateway has every host up, and all of this is known. It is V(degraded) otherwise.
  - Never fails for the state of the fleet. The callback P(vicuna.fleet.chat_completion#callback) makes RV(exit_code)
    the exit code of the run.
options:
  hosts:
    description:
      - What M(vicuna.fleet.serving_info) returned, or failed with, by host. An unreachable host belongs here too.
    type: dict
    required: true
  answers:
    description:
      - What M(vicuna.fleet.chat_completion) returned, or failed with, by host. A host that is not here was not asked.
    type: dict
    default: {}
  gateways:
    description: What M(vicuna.fleet.gateway_server) returned of all servers, or failed with, by gateway.
    type: dict
    default: {}
  gateway_answers:
    description: What M(vicuna.fleet.chat_completion) returned of a question through the gateway, by gateway.
    type: dict
    default: {}
  json:
    description: File to write the report to. The last one there is what is compared with. Empty writes none.
    type: path
    default: ""
  html:
    description: File to write the page to. Empty writes none.
    type: path
    default: ""
attributes:
  check_mode:
    support: full
    description: Can run in check mode, and writes the reports then too.
  diff_mode:
    support: N/A
    description: Changes nothing of the fleet.
  idempotent:
    support: N/A
    description: Changes nothing of the fleet.
seealso:
  - module: vicuna.fleet.serving_info
  - plugin: vicuna.fleet.chat_completion
    plugin_type: callback
    description: Ends the run with the exit code.
"""

EXAMPLES = r"""
- name: Judge the fleet
  vicuna.fleet.fleet_status:
    hosts: "{{ dict(ansible_play_hosts_all | zip(ansible_play_hosts_all | map('extract', hostvars, 'look'))) }}"
    json: reports/status.json
    html: reports/status.html
  delegate_to: localhost
  run_once: true
  register: fleet
"""

RETURN = r"""
msg:
  description: The state in one line.
  returned: always
  type: str
  sample: "degraded: 2 of 3 hosts serving, 1 of 1 gateway answering"
status:
  description: The state of the fleet.
  returned: success
  type: str
  choices: [healthy, degraded, down]
exit_code:
  description: V(0) healthy, V(1) degraded, V(2) down.
  returned: success
  type: int
table:
  description: The lines of the table and, below them, what is amiss.
  returned: success
  type: list
  elements: str
changes:
  description: Who changed since the last report. Each has V(host), V(what), V(from) and V(to).
  returned: success
  type: list
  elements: dict
  sample: [{host: gpu-2, what: release, from: 3f2a91c07b1e, to: 90ad11c2e7f4}]
reports:
  description: The files that were written.
  returned: success
  type: list
  elements: str
"""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils import _fleet_status as fleet
from ansible_collections.vicuna.fleet.plugins.module_utils._fleet_page import page
from ansible_collections.vicuna.fleet.plugins.module_utils._report import (
    by_host,
    change_lines,
    changes,
    last_report,
    write_report,
    write_text,
)


def compare(path: Path, hosts: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The changes since the report at the path, and why there are none to tell."""
    last, wrong = last_report(path)
    if last is None:
        return [], wrong
    # A run that was refused has looked at nobody, and keeps what the one before it has seen.
    before = by_host(last.get("earlier") or last.get("hosts"))
    if before is None:
        return [], f"the last report, {path}, is no fleet's status, so nothing is compared with it"
    return changes(before, {host["host"]: host for host in hosts}, fleet.COMPARED), ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "hosts": {"type": "dict", "required": True},
            "answers": {"type": "dict", "default": {}},
            "gateways": {"type": "dict", "default": {}},
            "gateway_answers": {"type": "dict", "default": {}},
            "json": {"type": "path", "default": ""},
            "html": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    now = datetime.now(timezone.utc)
    found = fleet.report(params["hosts"], params["answers"], params["gateways"], params["gateway_answers"], now)
    table = fleet.table(found)
    found["changes"] = []
    if params["json"]:
        found["changes"], note = compare(Path(params["json"]), found["hosts"])
        table += [f"since the last report: {line}" for line in change_lines(found["changes"])]
        if note:
            table.append(note)
    written = []
    try:
        if params["json"]:
            write_report(Path(params["json"]), found)
            written.append(params["json"])
        if params["html"]:
            write_text(Path(params["html"]), page(found))
            written.append(params["html"])
    except OSError as error:
        module.fail_json(
            msg=f"Found: {error}. Expected: a folder that can be written. Remedy: choose another status_report_dir."
        )
    module.exit_json(
        changed=False,
        msg=fleet.summary(found),
        status=found["status"],
        exit_code=found["exit_code"],
        table=table,
        changes=found["changes"],
        reports=written,
    )


if __name__ == "__main__":
    main()
