#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dnf_source
short_description: Keep one repository of dnf, in place of older ones
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Writes a repository to a file of its name and switches older ones that lead to the same place off.
  - C(dnf makecache) is run for it with copies of the files before. Only if dnf takes it are the files themselves
    changed. If it does not, all of them are as they were, and the module fails with dnf's own words.
  - Older repositories are found by where they lead to, in every file of O(reposdir), whatever it is called. They get
    C(enabled=0), and all else in the file stays as it is. One of the same name in another file becomes a comment, since
    dnf takes the first one of a name.
options:
  name:
    description: Name of the repository, and of its file.
    type: str
    required: true
  description:
    description: What the repository is, in words.
    type: str
    required: true
  baseurl:
    description: URL of the repository. dnf's variables may be in it.
    type: str
    required: true
  gpgcheck:
    description: Whether packages have to be signed.
    type: bool
    default: true
  repo_gpgcheck:
    description: Whether the repository's index has to be signed.
    type: bool
  gpgkey:
    description: URL of the key.
    type: str
    required: true
  replaces:
    description:
      - Repositories, as URLs, whose older sources are switched off. A source is one of them if it leads there or
        beneath.
      - Scheme, user and password do not matter. C(*) stands for any part of a folder's name.
    type: list
    elements: str
    default: []
  reposdir:
    description: The directory of the files.
    type: path
    default: /etc/yum.repos.d
attributes:
  check_mode:
    support: full
    description: Can run in check mode without modifying the host. Whether dnf takes the repository is not asked then.
  diff_mode:
    support: full
    description: Shows every file that is changed, without passwords.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing, and fetches nothing.
"""

EXAMPLES = r"""
- name: Add Docker's repository
  vicuna.fleet.dnf_source:
    name: docker-ce-stable
    description: Docker CE Stable
    baseurl: https://download.docker.com/linux/rhel/$releasever/$basearch/stable
    gpgkey: file:///etc/pki/rpm-gpg/RPM-GPG-KEY-docker
    replaces: [https://download.docker.com/linux]
"""

RETURN = r"""
path:
  description: The file of the repository.
  returned: success
  type: str
  sample: /etc/yum.repos.d/docker-ce-stable.repo
files:
  description: Files that were changed, that of the repository itself among them.
  returned: success
  type: list
  elements: str
  sample: [/etc/yum.repos.d/docker-ce-stable.repo, /etc/yum.repos.d/docker-ce.repo]
"""

import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import mask
from ansible_collections.vicuna.fleet.plugins.module_utils._host import dnf_repos, source_files
from ansible_collections.vicuna.fleet.plugins.module_utils._host.source_urls import leads_to


def wanted(params: dict[str, Any], own: Path, texts: dict[Path, str]) -> dict[Path, str]:
    """What the files of repositories are to hold."""
    name = params["name"]

    def older(repository: dnf_repos.Repository) -> bool:
        return repository.name != name and any(leads_to(url, params["replaces"]) for url in repository.urls)

    after = {
        path: dnf_repos.switch_off(text if path == own else dnf_repos.drop(text, name), older)
        for path, text in texts.items()
    }
    options = {
        key: params[key] for key in ("baseurl", "gpgcheck", "gpgkey", "repo_gpgcheck") if params[key] is not None
    }
    new = dnf_repos.put(after.pop(own, ""), name, {**options, "name": params["description"]})
    # The new one comes last: a run that is killed between two files leaves no two of one repository.
    return {**after, own: new}


def prove(module: AnsibleModule, own: Path, after: dict[Path, str]) -> None:
    """Fail where dnf does not take the repository as it would be."""
    dnf = module.get_bin_path("dnf", required=True)
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
        for path, text in after.items():
            source_files.copy(Path(folder) / path.name, text)
        rc, out, err = module.run_command(
            [
                *(dnf, "--quiet", "--assumeyes", f"--setopt=reposdir={folder}"),
                *("--disablerepo=*", f"--enablerepo={own.stem}", "makecache"),
            ],
            environ_update={"LC_ALL": "C"},
        )
        reason = dnf_repos.failure(rc, (out + err).replace(folder, str(own.parent)))
    if reason:
        module.fail_json(
            msg=(
                f"Found that `dnf makecache` fails with {own} as it would be: {mask(reason).rstrip('.')}. Expected it "
                f"to work. The files of {own.parent} are as they were. Mend what dnf names, or the way to that server, "
                "then run again."
            ),
            rc=rc,
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "description": {"type": "str", "required": True},
            "baseurl": {"type": "str", "required": True},
            "gpgcheck": {"type": "bool", "default": True},
            "repo_gpgcheck": {"type": "bool"},
            "gpgkey": {"type": "str", "required": True},
            "replaces": {"type": "list", "elements": "str", "default": []},
            "reposdir": {"type": "path", "default": "/etc/yum.repos.d"},
        },
        supports_check_mode=True,
    )
    folder = Path(module.params["reposdir"])
    own = folder / f"{module.params['name']}.repo"
    texts = {path: source_files.read(path) for path in sorted(folder.glob("*.repo"))}
    after = wanted(module.params, own, texts)
    changes = {path: text for path, text in after.items() if text != texts.get(path)}
    if changes and not module.check_mode:
        prove(module, own, after)
        for path, text in changes.items():
            source_files.write(module, path, text)
    result = {"changed": bool(changes), "path": str(own), "files": sorted(map(str, changes))}
    if module._diff:
        result["diff"] = source_files.diff(texts, changes)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
