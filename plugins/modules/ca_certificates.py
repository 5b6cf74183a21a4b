#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ca_certificates
short_description: Add CA certificates to the system's trust store
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Adds CA certificates to the trust store of Debian, Ubuntu and Red Hat's family, and rebuilds its bundle.
  - A certificate that the bundle already has is left alone, whatever file it came from.
  - A bundle of several certificates is split into one file for each. Anything but certificates in it is refused.
  - Where the tool that rebuilds the bundle is not installed yet, the files are put where its package will find them.
options:
  certificates:
    description:
      - PEM text by the path that it came from. The path only names the file.
      - With a list of paths on the control node, C(dict(paths | zip(query('ansible.builtin.file', *paths\))\)).
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return changed status prediction without modifying the host.
  diff_mode:
    support: full
    description: Lists the files that are added or replaced.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing.
"""

EXAMPLES = r"""
- name: Trust the company's CA
  vicuna.fleet.ca_certificates:
    certificates:
      company-ca.pem: "{{ lookup('ansible.builtin.file', 'company-ca.pem') }}"
"""

RETURN = r"""
files:
  description: Files that were written.
  returned: success
  type: list
  elements: str
  sample: [/usr/local/share/ca-certificates/vicuna-company-ca.crt]
rebuilt:
  description: Whether the bundle was rebuilt.
  returned: success
  type: bool
"""

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import AuthorityError
from ansible_collections.vicuna.fleet.plugins.module_utils._trust_store import STORES, Store, bundled, named


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def find_store(module: AnsibleModule) -> tuple[Store, str | None]:
    """The system's trust store, and the path of the tool that rebuilds its bundle."""
    for store in STORES:
        tool = module.get_bin_path(store.tool)
        if tool is not None:
            return store, tool
    if module.get_bin_path("dpkg"):
        return STORES[0], None
    module.fail_json(
        msg=(
            f"Found neither {' nor '.join(store.tool for store in STORES)}. "
            "Expected Debian, Ubuntu or Red Hat's family. "
            "Add the certificates to the host's trust store by its own means, and give none here."
        )
    )
    raise AssertionError


def write(module: AnsibleModule, path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, candidate = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    module.atomic_move(candidate, str(path))
    module.set_mode_if_different(str(path), "0644", False)


def main() -> None:
    module = AnsibleModule(
        argument_spec={"certificates": {"type": "dict", "required": True}},
        supports_check_mode=True,
    )
    try:
        origins = named(module.params["certificates"])
    except AuthorityError as error:
        module.fail_json(msg=f"{error.message('certificates')} Nothing was written.")
    wanted = {name: text for files in origins.values() for name, text in files.items()}
    store, tool = find_store(module)
    known = bundled(read(Path(store.bundle)))
    unknown = {name: text for name, text in wanted.items() if not bundled(text) <= known}
    texts = {Path(store.anchors) / name: text for name, text in unknown.items()}
    stale = {path: text for path, text in texts.items() if read(path) != text}
    rebuild = bool(unknown) and tool is not None

    if not module.check_mode:
        for path, text in stale.items():
            write(module, path, text)
        if rebuild:
            rc, out, err = module.run_command([str(tool)])
            if rc != 0:
                module.fail_json(msg=f"{tool} failed: {(err or out).strip()}", rc=rc)
            known = bundled(read(Path(store.bundle)))
            missing = [name for name, text in unknown.items() if not bundled(text) <= known]
            if missing:
                module.fail_json(
                    msg=(
                        f"{tool} ran, but {store.bundle} still lacks {', '.join(missing)}. "
                        "Expected CA certificates that it takes over. Look at its own messages on the host."
                    )
                )
    changed = bool(stale) or rebuild
    names = sorted(str(path) for path in stale)
    diff = {"before": "", "after": "".join(f"{name}\n" for name in names)}
    module.exit_json(changed=changed, files=names, rebuilt=rebuild and not module.check_mode, diff=diff)


if __name__ == "__main__":
    main()
