#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: apt_source
short_description: Keep one source of an APT repository, in place of older ones
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Writes a source in deb822 style and switches older sources of the same repository off.
  - C(apt-get update) is run with copies of the files before. Only if APT takes them are the files themselves changed.
    If it does not, all of them are as they were, and the module fails with APT's own words.
  - Older sources are found by where they lead to, in C(sources.list) and in every file of C(sources.list.d) that APT
    reads, whatever the file is called. A line becomes a comment; a stanza has C(Enabled) set to C(no), or loses the URL
    where it has others. All else in the file stays as it is.
  - Where the host's APT is configured to look for its sources elsewhere, they are looked for and written there.
options:
  name:
    description: Name of the source. It is written to C(/etc/apt/sources.list.d/NAME.sources).
    type: str
    required: true
  uris:
    description: URLs of the repository. With O(like), a mirror in place of the host's own one.
    type: list
    elements: str
  suites:
    description: Suites of the repository; C(/) for a flat one.
    type: list
    elements: str
  components:
    description: Components of the suites. With O(like), those that the host has to have.
    type: list
    elements: str
    default: []
  architectures:
    description: Architectures whose packages are of interest. Empty is those of the host.
    type: list
    elements: str
    default: []
  signed_by:
    description: File of the key that the repository is signed with.
    type: path
    default: ""
  replaces:
    description:
      - Repositories, as URLs, whose older sources are switched off. A source is one of them if it leads there or
        beneath.
      - Scheme, user and password do not matter. C(*) stands for any part of a folder's name.
    type: list
    elements: str
    default: []
  like:
    description:
      - Take the URL, the suites, the key and the other options from the host's own source of its distribution's
        archive, and add only those of O(components) that no source of the host has yet. Nothing is written where it has
        them all.
      - The lists of the host's own source have to be fetched before.
    type: dict
    suboptions:
      origin:
        description: The field C(Origin) of the archive's Release file.
        type: str
        required: true
      codename:
        description: The release.
        type: str
        required: true
  lock_timeout:
    description: Seconds to wait for another process that fetches the package lists.
    type: int
    default: 300
attributes:
  check_mode:
    support: full
    description: Can run in check mode without modifying the host. Whether APT takes the sources is not asked then.
  diff_mode:
    support: full
    description: Shows every file that is changed, without passwords.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing, and fetches nothing.
"""

EXAMPLES = r"""
- name: Add Docker's repository
  vicuna.fleet.apt_source:
    name: docker
    uris: https://download.docker.com/linux/debian
    suites: trixie
    components: stable
    signed_by: /etc/apt/keyrings/docker.asc
    replaces: [https://download.docker.com/linux]

- name: Add the components that NVIDIA's driver is in, from the host's own mirror
  vicuna.fleet.apt_source:
    name: nvidia-driver
    components: [contrib, non-free, non-free-firmware]
    like: {origin: Debian, codename: trixie}
"""

RETURN = r"""
path:
  description: The file of the source.
  returned: success
  type: str
  sample: /etc/apt/sources.list.d/docker.sources
files:
  description: Files that were changed, that of the source itself among them.
  returned: success
  type: list
  elements: str
  sample: [/etc/apt/sources.list.d/docker.list, /etc/apt/sources.list.d/docker.sources]
"""

import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import mask
from ansible_collections.vicuna.fleet.plugins.module_utils._host import apt_sources, source_files
from ansible_collections.vicuna.fleet.plugins.module_utils._host.apt import Apt
from ansible_collections.vicuna.fleet.plugins.module_utils._host.source_urls import leads_to


def added(module: AnsibleModule, apt: Apt, own: Path, texts: dict[Path, str]) -> str:
    """The source of the components that the host lacks; empty where it has them all."""
    params = module.params
    origin, codename = params["like"]["origin"], params["like"]["codename"]
    targets = [target for target in apt.targets() if not target.entry.startswith(f"{own}:")]
    main = apt_sources.of_archive(targets, origin, codename)
    if not main:
        module.fail_json(
            msg=(
                f"Found no source of {origin}'s archive for {codename} in {apt.list} or {apt.parts}. Expected one, "
                "with its lists fetched, to add components to. Nothing was written. Add it, run `apt-get update`, then "
                "run again."
            )
        )
    components = apt_sources.missing(targets, main, params["components"])
    if not components:
        return ""
    sources = [source for path, text in texts.items() for source in apt_sources.parse(str(path), text)]
    mirror = next(iter(params["uris"] or []), "")
    return apt_sources.like(sources, targets, main[0], uri=mirror, name=params["name"], components=components)


def wanted(module: AnsibleModule, apt: Apt, own: Path, texts: dict[Path, str]) -> dict[Path, str]:
    """What the files of sources are to hold."""
    params = module.params

    def replaced(uri: str) -> bool:
        return leads_to(uri.replace("$(ARCH)", apt.architecture), params["replaces"])

    others = {path: text for path, text in texts.items() if path != own}
    after = {path: apt_sources.switch_off(str(path), text, replaced) for path, text in others.items()}
    if params["like"]:
        new = added(module, apt, own, others) or texts.get(own, "")
    else:
        fields = ("name", "architectures", "components", "signed_by", "suites", "uris")
        new = apt_sources.stanza(**{field: params[field] for field in fields})
        beside = apt_sources.without(
            str(own), texts.get(own, ""), lambda uri: replaced(uri) or leads_to(uri, params["uris"])
        )
        new += f"\n{beside}" if beside else ""
    # The new one comes last: a run that is killed between two files leaves no two sources of one repository.
    return {**after, own: new} if new else after


def prove(module: AnsibleModule, apt: Apt, own: Path, after: dict[Path, str]) -> None:
    """Fail where apt does not take the files as they would be."""
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
        rc, said = apt.update(after, Path(folder), module.params["lock_timeout"])
    sources = [source for path, text in after.items() for source in apt_sources.parse(str(path), text)]
    reason = apt_sources.failure(rc, said, [uri for each in sources if each.path == str(own) for uri in each.uris])
    if reason:
        named = [path for path in apt_sources.named_in(reason, sources) if path != str(own)]
        remedy = f"what {' and '.join(named)} says" if named else "what apt names"
        module.fail_json(
            msg=(
                f"Found that `apt-get update` fails with {own} as it would be: {mask(reason).rstrip('.')}. Expected it "
                f"to work. The sources are as they were. Mend {remedy}, or the way to that server, then run again."
            ),
            rc=rc,
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "uris": {"type": "list", "elements": "str"},
            "suites": {"type": "list", "elements": "str"},
            "components": {"type": "list", "elements": "str", "default": []},
            "architectures": {"type": "list", "elements": "str", "default": []},
            "signed_by": {"type": "path", "default": ""},
            "replaces": {"type": "list", "elements": "str", "default": []},
            "like": {
                "type": "dict",
                "options": {
                    "origin": {"type": "str", "required": True},
                    "codename": {"type": "str", "required": True},
                },
            },
            "lock_timeout": {"type": "int", "default": 300},
        },
        required_one_of=[["suites", "like"]],
        mutually_exclusive=[["suites", "like"]],
        required_by={"suites": ["uris"]},
        supports_check_mode=True,
    )
    apt = Apt(module)
    own = apt.parts / f"{module.params['name']}.sources"
    texts = {path: source_files.read(path) for path in apt.files()}
    after = wanted(module, apt, own, texts)
    changes = {path: text for path, text in after.items() if text != texts.get(path)}
    if changes and not module.check_mode:
        prove(module, apt, own, after)
        for path, text in changes.items():
            source_files.write(module, path, text)
    result = {"changed": bool(changes), "path": str(own), "files": sorted(map(str, changes))}
    if module._diff:
        result["diff"] = source_files.diff(texts, changes)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
