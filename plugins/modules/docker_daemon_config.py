#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: docker_daemon_config
short_description: Merge keys into the Docker Engine's configuration file
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Merges keys into C(daemon.json) and leaves every other key of the file as it is.
  - Objects are merged key by key. Lists are joined without repeating, what is there stays first.
    A V(null) removes its key. Anything else replaces.
  - A file that is not a JSON object is refused, and nothing is written.
  - Where C(dockerd) is installed and knows C(--validate) (Docker Engine 23.0 and later), the result is validated
    before it is put in place, and also when nothing changes.
  - User names and passwords in URLs, such as those of proxies, are masked in everything that the module returns.
  - The engine is neither reloaded nor restarted. See RV(restart_required).
options:
  options:
    description: Keys that the file must have.
    type: dict
    default: {}
  defaults:
    description:
      - Keys that the file gets only where it has none of its own, after O(options).
      - The key C(log-opts) is left out where the file names another C(log-driver) than O(defaults) does.
    type: dict
    default: {}
  path:
    description: The configuration file. A link is followed.
    type: path
    default: /etc/docker/daemon.json
  validate:
    description: Let C(dockerd) judge the result before it is put in place, where it is installed.
    type: bool
    default: true
  backup:
    description: Keep a copy of the file, with a time stamp in its name, before it is changed.
    type: bool
    default: true
  mode:
    description:
      - Permissions of the file.
      - When not given, an existing file keeps its own and a new one gets V(0644);
        both get V(0600) where a URL in the file holds a password.
    type: raw
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return changed status prediction without modifying the host.
  diff_mode:
    support: full
    description: Returns details on what has changed when in diff mode, with the passwords in URLs masked.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing.
"""

EXAMPLES = r"""
- name: Pull through a mirror, and rotate logs where nobody has decided about them
  vicuna.fleet.docker_daemon_config:
    options:
      registry-mirrors: ["https://mirror.example.org"]
    defaults:
      log-driver: json-file
      log-opts: {max-size: 10m, max-file: "3"}
  notify: Restart docker

- name: Forget the proxy
  vicuna.fleet.docker_daemon_config:
    options:
      proxies: null
  notify: Restart docker
"""

RETURN = r"""
path:
  description: The file that was judged, links followed.
  returned: always
  type: str
  sample: /etc/docker/daemon.json
changed_keys:
  description: The top-level keys that differ, sorted.
  returned: success
  type: list
  elements: str
  sample: [log-opts, registry-mirrors]
restart_required:
  description: Whether a changed key is one that the engine takes over at a start only. Otherwise a reload is enough.
  returned: success
  type: bool
validated:
  description: Whether C(dockerd) has found the result valid. V(false) where it could not be asked.
  returned: success
  type: bool
backup_file:
  description: The copy of the file as it was.
  returned: when the file existed and was changed, with O(backup=true)
  type: str
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import (
    ConfigError,
    changed_keys,
    credentials,
    dump,
    fill,
    mask,
    merge,
    read,
    restart_required,
)


def dockerd_accepts(module: AnsibleModule, text: str, path: Path) -> bool:
    """Whether dockerd was asked and found the text valid; fails the module where it found it invalid."""
    dockerd = module.get_bin_path("dockerd")
    if not module.params["validate"] or dockerd is None:
        return False
    handle, candidate = tempfile.mkstemp(dir=module.tmpdir, prefix="daemon", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    rc, out, err = module.run_command([dockerd, "--validate", "--config-file", candidate])
    answer = (err or out).strip().replace(candidate, str(path))
    if rc != 0 and "unknown flag" in answer:
        return False
    if rc != 0:
        module.fail_json(
            msg=(
                f"dockerd refuses the configuration that {path} would have: {mask(answer)}. "
                "Nothing was written. Mend the options given here, or the keys that the file already has."
            ),
            path=str(path),
        )
    return True


def write(module: AnsibleModule, text: str, path: Path, secret: bool) -> str:
    """Puts the text in place at once; returns the name of the backup, if one was made."""
    backup = ""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if secret:
        # What replaces a file takes its permissions over: there is no moment in which others may read the password.
        path.touch(mode=0o600)
        path.chmod(0o600)
    if module.params["backup"] and path.exists() and path.stat().st_size:
        backup = str(module.backup_local(str(path)))
    handle, candidate = tempfile.mkstemp(dir=module.tmpdir, prefix="daemon", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    module.atomic_move(candidate, str(path))
    return backup


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "options": {"type": "dict", "default": {}},
            "defaults": {"type": "dict", "default": {}},
            "path": {"type": "path", "default": "/etc/docker/daemon.json"},
            "validate": {"type": "bool", "default": True},
            "backup": {"type": "bool", "default": True},
            "mode": {"type": "raw"},
        },
        supports_check_mode=True,
    )
    path = Path(os.path.realpath(module.params["path"]))
    module.no_log_values.update(credentials([module.params["options"], module.params["defaults"]]))

    try:
        before = read(path)
    except ConfigError as error:
        module.fail_json(msg=f"{error} Nothing was written.", path=str(path))
    existed = path.exists()
    module.no_log_values.update(credentials(before))
    after = fill(merge(before, module.params["options"]), module.params["defaults"])
    keys = changed_keys(before, after)
    validated = dockerd_accepts(module, dump(after), path)

    result: dict[str, Any] = {
        "changed": bool(keys),
        "path": str(path),
        "changed_keys": keys,
        "restart_required": restart_required(keys),
        "validated": validated,
    }
    if module._diff:
        result["diff"] = {
            "before_header": str(path),
            "after_header": str(path),
            "before": mask(dump(before) if existed else ""),
            "after": mask(dump(after) if existed or keys else ""),
        }
    if keys and not module.check_mode:
        backup = write(module, dump(after), path, bool(credentials([before, after])))
        if backup:
            result["backup_file"] = backup

    mode = module.params["mode"]
    if mode is None and credentials([before, after]):
        mode = "0600"
    elif mode is None and not existed:
        mode = "0644"
    if mode is not None and path.exists():
        result["changed"] = module.set_mode_if_different(str(path), mode, result["changed"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
