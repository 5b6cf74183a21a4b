#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: apt_sources_info
short_description: Tell which package sources APT has on a host
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Reads C(sources.list) and the files of C(sources.list.d) as APT reads them, in both formats.
  - Sources that are switched off are left out.
options:
  repositories:
    description:
      - Tell only of sources that lead to one of these URLs, or beneath one. Scheme, user and password do not matter.
        C(*) stands for any part of a folder's name.
      - Empty is every source.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Changes nothing.
  diff_mode:
    support: N/A
    description: Changes nothing.
  idempotent:
    support: full
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Look for NVIDIA's repositories
  vicuna.fleet.apt_sources_info:
    repositories:
      - https://developer.download.nvidia.com/compute/cuda/repos
      - file:/var/nvidia-driver-local-repo-*
  register: found
"""

RETURN = r"""
sources:
  description: The sources, in APT's order.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
      sample: /etc/apt/sources.list.d/debian.sources
    number:
      description: The line, or the stanza, counted from 1.
      type: int
    types:
      description: C(deb), C(deb-src), or both.
      type: list
      elements: str
    uris:
      description: URLs of the repository, without passwords.
      type: list
      elements: str
    suites:
      description: Suites of the repository.
      type: list
      elements: str
    components:
      description: Components of the suites.
      type: list
      elements: str
    options:
      description: Other fields, by their names in lower case. Those of a line are named as in a stanza.
      type: dict
      sample: {signed-by: /usr/share/keyrings/debian-archive-keyring.gpg}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import mask
from ansible_collections.vicuna.fleet.plugins.module_utils._host import apt_sources, source_files
from ansible_collections.vicuna.fleet.plugins.module_utils._host.apt import Apt
from ansible_collections.vicuna.fleet.plugins.module_utils._host.source_urls import leads_to


def main() -> None:
    module = AnsibleModule(
        argument_spec={"repositories": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    apt = Apt(module)
    wanted = module.params["repositories"]
    found = [
        source
        for path in apt.files()
        for source in apt_sources.parse(str(path), source_files.read(path))
        if source.enabled and (not wanted or any(leads_to(uri, wanted) for uri in source.uris))
    ]
    module.exit_json(
        changed=False,
        sources=[
            {
                "path": source.path,
                "number": source.number,
                "types": list(source.types),
                "uris": [mask(uri) for uri in source.uris],
                "suites": list(source.suites),
                "components": list(source.components),
                "options": dict(source.options),
            }
            for source in found
        ],
    )


if __name__ == "__main__":
    main()
