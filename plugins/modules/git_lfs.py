#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: git_lfs
short_description: Clone a git-LFS repository at an exact revision, every large file checked
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Makes a directory hold the files of one commit of a git-LFS repository, such as a model on Hugging Face.
  - Every large file is compared with the size and the sha256 of its pointer. No pointer file is left in the directory.
  - Large files are hard links into C(.git/lfs/objects), so that the disk holds them once.
  - A run that was cut off is resumed. Objects that had arrived are not fetched again; partial downloads, which git-lfs
    cannot resume, are removed.
  - Files that came from the repository and were changed or damaged on the host are restored. Files that did not come
    from it are never touched.
  - The files of the directory change only after every large file has arrived, and each of them in one step.
requirements:
  - git 2.31 or later (on the host)
  - git-lfs 3.0 or later (on the host)
options:
  repo:
    description:
      - Address of the repository, as for C(git clone).
      - An address with a user name or password in it is refused; use O(token).
    type: str
    required: true
  revision:
    description:
      - A full commit id, a tag, or a branch.
      - A commit id is recommended. It always gives the same files, and a run that finds them in place needs no network.
    type: str
    required: true
  dest:
    description:
      - Directory of the files. Its parents are created.
      - A directory that holds anything else, or a clone of another repository, is refused and left as it is.
    type: path
    required: true
  token:
    description:
      - Token or password for a private or gated repository at an http or https address.
      - It is given to git and git-lfs in the environment, and only for the host of O(repo).
    type: str
    default: ""
  username:
    description: User name that goes with O(token). Hugging Face takes any.
    type: str
    default: token
  include:
    description:
      - Patterns, as in C(.gitignore), of the large files to fetch. An empty list means all.
      - Files that are not in LFS are always there.
    type: list
    elements: str
    default: []
  exclude:
    description:
      - Patterns, as in C(.gitignore), of large files to leave out. They win over O(include).
      - A file that is left out is not in the directory at all, not even as a pointer.
    type: list
    elements: str
    default: []
  verify:
    description:
      - V(changed) reads a file when its size, times or inode differ from those of its last verification, so that a run
        with nothing to do reads no large file.
      - V(always) reads every file, which also finds what the disk has damaged silently (about 0.7 s for each GiB).
    type: str
    choices: [changed, always]
    default: changed
  ca_path:
    description:
      - PEM file on the host with certificates of authorities that are trusted for O(repo) besides those of the host.
    type: path
    default: ""
  timeout:
    description:
      - Seconds of silence after which a connection counts as dead. The whole download may take as long as it needs.
      - Another run on the same directory is waited for as long.
    type: int
    default: 120
attributes:
  check_mode:
    support: full
    description:
      Reads the directory and asks the server for its branches and tags, but writes nothing. Whether the server has a
      commit that is given by its id can only be seen by fetching it.
  diff_mode:
    support: full
    description: Shows the commit before and after.
  idempotent:
    support: full
    description: A branch that has moved on the server is a change.
seealso:
  - module: ansible.builtin.git
notes:
  - Objects of the revision before the current one stay in C(.git/lfs/objects), so that going back fetches nothing. They
    are removed when the space is needed.
  - Directories are created with mode V(0755), files with V(0644), or V(0755) where the repository says executable.
"""

EXAMPLES = r"""
- name: Fetch a model at a pinned commit
  vicuna.fleet.git_lfs:
    repo: https://huggingface.co/lmsys/vicuna-7b-v1.5
    revision: 3321f76e3f527bd14065daf69dad9344000a201d
    dest: /model/vicuna-7b-v1.5

- name: Fetch a gated model without its second set of weights
  vicuna.fleet.git_lfs:
    repo: https://huggingface.co/example/gated-vicuna
    revision: main
    dest: /model/gated-vicuna
    token: "{{ vault_model_token }}"
    exclude: ["*.bin"]
  no_log: true

- name: Read every file again and repair what the disk has damaged
  vicuna.fleet.git_lfs:
    repo: https://huggingface.co/lmsys/vicuna-7b-v1.5
    revision: 3321f76e3f527bd14065daf69dad9344000a201d
    dest: /model/vicuna-7b-v1.5
    verify: always
"""

RETURN = r"""
revision:
  description: Commit that the directory holds, or in check mode would hold. Empty where that could not be looked up.
  returned: success
  type: str
  sample: 3321f76e3f527bd14065daf69dad9344000a201d
previous_revision:
  description: Commit that the directory held before. Empty for a new directory.
  returned: success
  type: str
  sample: ""
files:
  description: Number of files from the repository. Zero in check mode for a commit that is not on the host.
  returned: success
  type: int
  sample: 11
paths:
  description: Their names, relative to O(dest).
  returned: success
  type: list
  elements: str
  sample: [config.json, pytorch_model-00001-of-00002.bin, tokenizer.model]
lfs_objects:
  description: Number of different large files among them.
  returned: success
  type: int
  sample: 3
bytes:
  description: Size of all these files, in bytes.
  returned: success
  type: int
  sample: 13477439232
downloaded_bytes:
  description: Size of the large files that this run fetched, in bytes.
  returned: success
  type: int
  sample: 0
verified:
  description: Number of files that this run read and compared with their hash.
  returned: success
  type: int
  sample: 0
repaired:
  description: Files that were damaged or changed on the host, and were restored (in check mode, would be).
  returned: success
  type: list
  elements: str
  sample: ["pytorch_model-00001-of-00002.bin"]
cause:
  description:
    - The kind of failure in one word, such as V(token_missing), V(token_rejected), V(forbidden), V(revision_not_found),
      V(repository_not_found), V(dns), V(tls), V(connection), V(timeout), V(disk_full), V(lfs_object_missing),
      V(git_missing), V(git_lfs_missing), V(git_lock), V(foreign_directory), V(other_repository), V(locked).
  returned: failure
  type: str
  sample: token_missing
detail:
  description: The last of what git or git-lfs said.
  returned: failure
  type: str
  sample: "fatal: could not read Username for 'https://huggingface.co': terminal prompts disabled"
"""

import os
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError
from ansible_collections.vicuna.fleet.plugins.module_utils._git_lfs import Clone, Outcome, Request

ARGUMENT_SPEC: dict[str, dict[str, t.Any]] = {
    "repo": {"type": "str", "required": True},
    "revision": {"type": "str", "required": True},
    "dest": {"type": "path", "required": True},
    "token": {"type": "str", "default": "", "no_log": True},
    "username": {"type": "str", "default": "token"},
    "include": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "verify": {"type": "str", "choices": ["changed", "always"], "default": "changed"},
    "ca_path": {"type": "path", "default": ""},
    "timeout": {"type": "int", "default": 120},
}


def result(outcome: Outcome) -> dict[str, t.Any]:
    """The module's answer."""
    return {
        "changed": outcome.changed,
        "revision": outcome.revision,
        "previous_revision": outcome.before,
        "files": len(outcome.paths),
        "paths": outcome.paths,
        "lfs_objects": outcome.lfs_objects,
        "bytes": outcome.bytes,
        "downloaded_bytes": outcome.downloaded_bytes,
        "verified": outcome.verified,
        "repaired": outcome.repaired,
        "diff": {
            "before": f"{outcome.before}\n" if outcome.before else "",
            "after": f"{outcome.revision}\n" if outcome.revision else "",
        },
    }


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    if params["timeout"] < 1:
        module.fail_json(
            msg="Found: timeout is below 1. Expected: seconds. Remedy: correct model_timeout.", cause="timeout"
        )
    if not params["revision"] or params["revision"].startswith("-"):
        module.fail_json(
            msg="Found: no usable revision. Expected: a full commit id, a tag or a branch. Remedy: set model_revision.",
            cause="revision_not_found",
        )
    os.umask(0o022)
    request = Request(
        repo=params["repo"],
        revision=params["revision"],
        dest=Path(params["dest"]),
        token=params["token"],
        username=params["username"],
        include=tuple(params["include"]),
        exclude=tuple(params["exclude"]),
        verify=params["verify"],
        ca_path=params["ca_path"],
        timeout=params["timeout"],
    )
    if request.token and request.repo.startswith("http://"):
        module.warn(f"the token travels unencrypted to {request.repo}; use an https address in model_repo")
    try:
        outcome = Clone(request, check_mode=module.check_mode).converge()
    except GitLfsError as error:
        module.fail_json(msg=str(error.problem), cause=error.problem.cause, detail=error.detail)
    except OSError as error:
        module.fail_json(
            msg=f"Found: {error}. Expected: a directory that can be written at {request.dest}. "
            "Remedy: check the file system of model_root.",
            cause="file_system",
            detail="",
        )
    for warning in outcome.warnings:
        module.warn(warning)
    if outcome.repaired:
        verb = "would be restored" if module.check_mode else "were restored"
        module.warn(
            f"files in {request.dest} were damaged or changed on this host and {verb}: {', '.join(outcome.repaired)}"
        )
    module.exit_json(**result(outcome))


if __name__ == "__main__":
    main()
