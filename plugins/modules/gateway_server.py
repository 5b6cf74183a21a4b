#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gateway_server
short_description: Drain a serving host at a gateway, put it back, or look at it
version_added: 0.2.0
author: The vicuna.fleet authors
description:
  - Tells a running HAProxy, over its runtime API, to send no further request to one host, or to send requests again.
  - What runs on a drained host is let finish, also what an earlier process of HAProxy carries through after a reload.
  - The state is written to HAProxy's server state file as well, so that it survives a reload and a restart.
  - Runs on the gateway; delegate to it.
options:
  name:
    description:
      - The server, by its name in the backend, which is the inventory's name of the host.
      - Required with O(state=drained) and O(state=ready). With O(state=probe), all servers are told of when not given.
    type: str
  state:
    description:
      - V(drained) sends no further request there, and waits until none is running.
      - V(ready) sends requests there again, and waits until HAProxy has found the host well.
      - V(probe) only looks.
    type: str
    choices: [drained, ready, probe]
    default: probe
  timeout:
    description:
      - Seconds to wait. V(0) does not wait.
      - When it is over, V(drained) returns with RV(drained=false) and V(ready) fails.
    type: int
    default: 60
  backend:
    description: The backend.
    type: str
    default: vicuna
  socket:
    description: HAProxy's socket, of level admin.
    type: path
    default: /run/haproxy/admin.sock
  master_socket:
    description: The socket of HAProxy's master process, which knows of earlier processes. It may be missing.
    type: path
    default: /run/haproxy-master.sock
  state_file:
    description: HAProxy's server state file.
    type: path
    default: /var/lib/haproxy/vicuna-server-state
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return changed status prediction without modifying the host.
  diff_mode:
    support: full
    description: Returns details on what has changed when in diff mode.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing.
seealso:
  - name: HAProxy Management Guide
    description: The commands and the columns that this module reads.
    link: https://docs.haproxy.org/2.6/management.html
"""

EXAMPLES = r"""
- name: Take the host out of every gateway
  vicuna.fleet.gateway_server:
    name: "{{ inventory_hostname }}"
    state: drained
    timeout: 300
  loop: "{{ groups['gateway'] }}"
  loop_control:
    loop_var: gateway
  delegate_to: "{{ gateway }}"

- name: Look at all hosts
  vicuna.fleet.gateway_server:
  register: gateway_state
"""

RETURN = r"""
state:
  description:
    - V(up), V(down), V(drain) or V(maint), as HAProxy sees the server.
    - V(absent) where no HAProxy runs, or it has no such server; it sends nothing there.
  returned: when O(name) is given
  type: str
  sample: drain
check:
  description: The last check in HAProxy's words.
  returned: when O(name) is given
  type: str
  sample: Layer7 check passed, code 200
sessions:
  description: Requests that run there.
  returned: when O(name) is given
  type: int
queued:
  description: Requests that wait for this server alone.
  returned: when O(name) is given
  type: int
drained:
  description: Whether the gateway sends nothing there, and nothing is running.
  returned: when O(name) is given
  type: bool
waited:
  description: Seconds that were waited.
  returned: when O(name) is given
  type: float
servers:
  description: All servers of the backend.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The server.
      type: str
    address:
      description: Its address and port.
      type: str
    state:
      description: As RV(state).
      type: str
    check:
      description: As RV(check).
      type: str
    sessions:
      description: As RV(sessions).
      type: int
    queued:
      description: As RV(queued).
      type: int
    since:
      description: Seconds since it last went up or down.
      type: int
running:
  description: Whether HAProxy runs.
  returned: always
  type: bool
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._haproxy import HaproxyDown, HaproxyError, Runtime, Server

POLL = 0.2


def shown(server: Server) -> dict[str, Any]:
    keys = ("name", "address", "state", "check", "sessions", "queued", "since")
    return {key: getattr(server, key) for key in keys}


def idle(server: Server) -> bool:
    return server.state in ("drain", "maint") and server.sessions == 0 and server.queued == 0


def wait(
    look: Callable[[], Server | None], done: Callable[[Server], bool], timeout: float
) -> tuple[Server | None, float]:
    """Looks until it is done or the time is over."""
    begun = time.monotonic()
    while True:
        server = look()
        waited = time.monotonic() - begun
        if server is None or done(server) or waited >= timeout:
            return server, round(waited, 1)
        time.sleep(POLL)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "state": {"type": "str", "choices": ["drained", "ready", "probe"], "default": "probe"},
            "timeout": {"type": "int", "default": 60},
            "backend": {"type": "str", "default": "vicuna"},
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
            "master_socket": {"type": "path", "default": "/run/haproxy-master.sock"},
            "state_file": {"type": "path", "default": "/var/lib/haproxy/vicuna-server-state"},
        },
        required_if=[("state", "drained", ["name"]), ("state", "ready", ["name"])],
        supports_check_mode=True,
    )
    runtime = Runtime(module.params["socket"], module.params["master_socket"])
    try:
        result = work(module, runtime)
    except HaproxyDown:
        # It sends nothing anywhere. The state that it starts with is in its file.
        nothing = {"state": "absent", "check": "", "sessions": 0, "queued": 0, "drained": True, "waited": 0.0}
        result = {"changed": False, "running": False, "servers": [], **(nothing if module.params["name"] else {})}
    except HaproxyError as error:
        module.fail_json(
            msg=(
                f"HAProxy did not do what it was told: {error}. "
                f"Expected backend {module.params['backend']!r} behind a socket of level admin. "
                "Run the role gateway again on this gateway; `journalctl --unit haproxy` says more."
            )
        )
    module.exit_json(**result)


def work(module: AnsibleModule, runtime: Runtime) -> dict[str, Any]:
    name, state, backend = (module.params[key] for key in ("name", "state", "backend"))
    servers = runtime.servers(backend)
    result: dict[str, Any] = {"changed": False, "running": True, "servers": [shown(server) for server in servers]}
    if not name:
        return result

    def look() -> Server | None:
        return next((server for server in runtime.servers(backend) if server.name == name), None)

    server = next((server for server in servers if server.name == name), None)
    waited = 0.0
    before = server
    if server is not None and state != "probe":
        wanted = {"drained": "drain", "ready": "ready"}[state]
        changed = not server.draining if wanted == "drain" else server.state in ("drain", "maint")
        result["changed"] = changed
        if not module.check_mode:
            if changed:
                runtime.tell(f"set server {backend}/{name} state {wanted}")
                if Path(module.params["state_file"]).parent.is_dir():
                    runtime.save_state(module.params["state_file"])
            done = idle if wanted == "drain" else (lambda seen: seen.state == "up")
            server, waited = wait(look, done, module.params["timeout"])
            if wanted == "ready" and module.params["timeout"] and server is not None and server.state != "up":
                module.fail_json(
                    msg=(
                        f"Found {name} {server.state} at this gateway after {waited} s: "
                        f"{server.check or 'no check yet'}. "
                        f"Expected it up. Ask http(s)://{server.address}/health from the gateway, and look at "
                        "`docker compose -p vicuna ps` on the host."
                    ),
                    **{**result, **shown(server), "drained": False, "waited": waited},
                )
    if server is None:
        return {**result, "state": "absent", "check": "", "sessions": 0, "queued": 0, "drained": True, "waited": waited}
    if module._diff and result["changed"] and before is not None:
        after = {"drained": "drain", "ready": "up"}[state] if module.check_mode else server.state
        result["diff"] = {"before": f"{name}: {before.state}\n", "after": f"{name}: {after}\n"}
    details = {key: value for key, value in shown(server).items() if key not in ("name", "address", "since")}
    return {**result, **details, "drained": idle(server), "waited": waited}


if __name__ == "__main__":
    main()
