#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: openpgp_key
short_description: Install a package repository's signing key only if it is the pinned one
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Downloads an OpenPGP public key and puts it in place only if every primary key in the file has a pinned fingerprint.
  - A key that is in place and has the pinned fingerprint is kept, and nothing is downloaded.
  - Fingerprints are computed by the module. The host needs no C(gpg).
options:
  url:
    description: Where the key is. Armoured and binary files are both understood.
    type: str
    required: true
  dest:
    description:
      - The file that the key is written to, as it was downloaded. Its directory is made if missing.
      - APT wants the name to end in C(.asc) for an armoured key and in C(.gpg) for a binary one.
    type: path
    required: true
  fingerprints:
    description: Full fingerprints of the keys that may be in the file. Blanks and case do not matter.
    type: list
    elements: str
    required: true
  mode:
    description: Permissions of the file.
    type: raw
    default: "0644"
  timeout:
    description: Seconds to wait for the server.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description:
      - Can run in check mode without modifying the host. The key is downloaded and compared;
        a server that does not answer is only a warning then.
  diff_mode:
    support: full
    description: Shows the fingerprints before and after.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing.
"""

EXAMPLES = r"""
- name: Trust Docker's package signing key
  vicuna.fleet.openpgp_key:
    url: https://download.docker.com/linux/debian/gpg
    dest: /etc/apt/keyrings/docker.asc
    fingerprints: [9DC858229FC7DD38854AE2D88D81803C0EBFCD88]
"""

RETURN = r"""
fingerprints:
  description: Fingerprints of the primary keys in the file.
  returned: when a key was found
  type: list
  elements: str
  sample: [9DC858229FC7DD38854AE2D88D81803C0EBFCD88]
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url

from ansible_collections.vicuna.fleet.plugins.module_utils._openpgp import KeyFormatError, fingerprints, normalise

MAX_BYTES = 1 << 20


def in_place(path: Path) -> list[str]:
    try:
        return fingerprints(path.read_bytes())
    except (OSError, KeyFormatError):
        return []


def download(module: AnsibleModule, url: str) -> bytes | None:
    """The file at the URL. None where it did not come in check mode: the run itself may make the way to it."""
    response, info = fetch_url(module, url, timeout=module.params["timeout"])
    if response is not None and info["status"] in (200, -1, None):
        data: bytes = response.read(MAX_BYTES)
        return data
    if module.check_mode:
        module.warn(f"The signing key at {url} could not be checked: {info['msg']}")
        return None
    module.fail_json(
        msg=(
            f"The signing key at {url} did not come: {info['msg']}. Expected an OpenPGP public key. "
            "Mend the URL, or the way to it: a proxy in the play's environment, a CA certificate in the trust store."
        ),
        url=url,
    )
    return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "fingerprints": {"type": "list", "elements": "str", "required": True, "no_log": False},
            "mode": {"type": "raw", "default": "0644"},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    url, dest = module.params["url"], Path(module.params["dest"])
    pinned = [normalise(fingerprint) for fingerprint in module.params["fingerprints"]]
    short = [fingerprint for fingerprint in pinned if len(fingerprint) not in (40, 64)]
    if short or not pinned:
        module.fail_json(
            msg=f"Found {short or 'no fingerprint'}. Expected full fingerprints of 40 or 64 hexadecimal digits."
        )

    before = in_place(dest)
    result: dict[str, Any] = {"changed": False, "fingerprints": before}
    if not before or not set(before) <= set(pinned):
        data = download(module, url)
        found: list[str] = []
        if data is not None:
            try:
                found = fingerprints(data)
            except KeyFormatError as error:
                module.fail_json(msg=f"The file at {url} is not a signing key: {error}. Mend the URL.", url=url)
            if not set(found) <= set(pinned):
                module.fail_json(
                    msg=(
                        f"The key at {url} has the fingerprint {', '.join(found)}. Expected {', '.join(pinned)}. "
                        "Nothing was installed. Either the server is not who it should be, "
                        "or the repository's owner has changed the key: compare with what the owner publishes, "
                        "then pin the new fingerprint."
                    ),
                    url=url,
                    fingerprints=found,
                )
        result.update(changed=True, fingerprints=found or pinned)
        if data is not None and not module.check_mode:
            dest.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle, candidate = tempfile.mkstemp(dir=module.tmpdir)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            module.atomic_move(candidate, str(dest))
        if module._diff:
            result["diff"] = {
                "before_header": str(dest),
                "after_header": str(dest),
                "before": "".join(f"{line}\n" for line in before),
                "after": "".join(f"{line}\n" for line in result["fingerprints"]),
            }
    if dest.exists():
        result["changed"] = module.set_mode_if_different(str(dest), module.params["mode"], result["changed"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
