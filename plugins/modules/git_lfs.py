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
  - Large files are hard links into a store of objects (O(store)), so that the disk holds them once. Where the file
    system has no hard links, they share their blocks (reflink) or are copied.
  - C(git status) in the directory is clean, and git reads no large file to find that out.
  - A run that was cut off is resumed. Objects that had arrived are not fetched again.
  - Files that were damaged on the host are restored. A large file that was cut short or written to is fetched again,
    and what it held is kept in C(bad/) of O(store). Small text files that a person has changed, and links in the place
    of files, are refused, and all named, before anything changes, unless O(force) is set. Files that did not come from
    the repository are never touched.
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
      - Directory of the files, or, with O(side_by_side), a link to it. Its parents are created.
      - A directory that holds anything else, or a clone of another repository, is refused and left as it is.
    type: path
    required: true
  store:
    description:
      - Directory of the large files' objects (C(lfs.storage) of git-lfs), which several clones can share. It should be
        on the file system of O(dest).
      - Empty means C(.git/lfs) in the directory, or, with O(side_by_side), C(.lfs) beside O(dest).
    type: path
    default: ""
  side_by_side:
    description:
      - Makes O(dest) a link to C(DEST@COMMIT), where C(COMMIT) are the first 12 digits of the commit, with a directory
        for each revision. The link is switched last, in one step. All revisions share the objects of O(store).
      - Going back to a revision that is still there transfers nothing, reads no large file, and with a commit id needs
        no network.
      - A clone of the same repository that is at O(dest) becomes the first of these directories. It is verified and
        renamed; a process that has it open or mounted keeps it.
    type: bool
    default: false
  keep:
    description:
      - How many revisions stay on the host, the one that is asked for included, so V(2) keeps the one before. The
        others are removed after success, the least recently used first, and with them the objects that no revision has.
      - With O(side_by_side), a revision stays anyway if a container has its directory as a mount (running or not, as
        far as docker tells; running, with any engine), or if it holds files that did not come from the repository. A
        warning names it.
      - Without O(side_by_side), it counts the revisions whose objects stay in O(store).
    type: int
    default: 2
  force:
    description: Restores files of the repository that a person has changed on the host.
    type: bool
    default: false
  fetch:
    description:
      - V(false) does everything but the transfer. If large files are missing, it changes nothing, and
        RV(missing_bytes) tells how much there is to fetch. (A clone at O(dest) is renamed all the same, see
        O(side_by_side).)
    type: bool
    default: true
  wait:
    description:
      - V(false) lets a process of its own do the transfer, and returns RV(job) at once. When that process has ended,
        the same task with O(fetch=false) puts the files into the directory.
      - It is as V(true) where nothing has to be fetched.
    type: bool
    default: true
  bandwidth_limit:
    description: Bytes a second that the transfer takes at most. V(0) means no limit.
    type: int
    default: 0
  mirror:
    description:
      - Address, such as V(https://mirror.example), that stands in for the scheme and host of O(repo), for git and for
        git-lfs. The clone keeps O(repo) as its origin.
      - O(token) is sent to it too.
    type: str
    default: ""
  peers:
    description:
      - Other hosts that fetch the same revision in the same run. Each part of a large file is fetched from O(repo) by
        one of them, and by the others from that one. Every object is compared with its sha256 all the same.
    type: dict
    default: {}
    suboptions:
      name:
        description: This host's name among O(peers.hosts).
        type: str
        default: ""
      address:
        description: Address of this host on which the others reach it.
        type: str
        default: ""
      port:
        description: TCP port on that address.
        type: int
        default: 0
      key:
        description: Secret of this run that requests among the hosts are signed with. It is never sent.
        type: str
        default: ""
      linger:
        description: Seconds that this host goes on serving after the last request of another.
        type: int
        default: 30
      hosts:
        description: All hosts, this one included.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: A name that no other has.
            type: str
            required: true
          address:
            description: Its address.
            type: str
            required: true
          port:
            description: Its port.
            type: int
            required: true
          whole:
            description: Whether it has every large file already.
            type: bool
            default: false
  connections:
    description: Connections to the server of the large files at the same time.
    type: int
    default: 8
  token:
    description:
      - Token or password for a private or gated repository at an http or https address.
      - It is given to git and git-lfs in the environment, and only for the hosts of O(repo) and O(mirror).
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
      - V(changed) reads a file when its size, modification time or inode differs from that of its last verification, so
        that a run with nothing to do reads no large file.
      - V(full) reads every file, which also finds what the disk has damaged silently (about 0.7 s for each GiB). What
        is damaged is fetched again.
    type: str
    choices: [changed, full]
    default: changed
  ca_path:
    description:
      - PEM file on the host with certificates of authorities that are trusted for O(repo) besides those of the host.
    type: path
    default: ""
  variables:
    description:
      - What to call settings in messages, by what comes after C(model_) in the names of the role
        M(vicuna.fleet.model#role), such as C(repo), C(revision), C(token), C(root). A caller other than that role gives
        the names of its own variables, so that a remedy names what its user can set. What it does not name is called an
        option.
    type: dict
    default: {}
  timeout:
    description:
      - Seconds of silence after which a connection counts as dead. The whole download may take as long as it needs.
      - Another run on the same store is waited for as long, and a transfer that is seen to be at work until it ends.
    type: int
    default: 120
attributes:
  action:
    support: full
    description: An action plugin of the same name tells the progress of the transfer, about every 10 seconds.
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
  - An object of the store whose sha256 is wrong is moved to C(bad/) in the store, named in a warning, and removed when
    a good one is in its place, unless it is one of RV(kept). Other revisions that share it get the good one too.
  - Where there is no room for the whole file, one that was cut short is removed first, and named in a warning.
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
    verify: full

- name: Keep three revisions, and switch between them without a transfer
  vicuna.fleet.git_lfs:
    repo: https://huggingface.co/lmsys/vicuna-7b-v1.5
    revision: 3321f76e3f527bd14065daf69dad9344000a201d
    dest: /model/vicuna-7b-v1.5
    side_by_side: true
    keep: 3
"""

RETURN = r"""
repo:
  description: Address of the repository, as it was asked for.
  returned: success
  type: str
  sample: https://huggingface.co/lmsys/vicuna-7b-v1.5
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
path:
  description: The directory of the files. It differs from O(dest) with O(side_by_side), and where O(dest) is a link.
  returned: success
  type: str
  sample: /model/vicuna-7b-v1.5@3321f76e3f52
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
missing_bytes:
  description:
    Size of the large files that are still to be fetched, in bytes (O(fetch=false), O(wait=false), check mode).
  returned: success
  type: int
  sample: 0
job:
  description: The process that does the transfer.
  returned: with O(wait=false), where something has to be fetched
  type: dict
  contains:
    pid:
      description: Its process id.
      type: int
    progress:
      description: A JSON file that it writes at least once a second, with its state, bytes, rate and time left.
      type: str
  sample: {pid: 4711, progress: /model/.lfs/vicuna-fleet/progress.json}
verified:
  description: Number of files that this run read and compared with their hash.
  returned: success
  type: int
  sample: 0
repaired:
  description:
    - Files that were damaged or changed on the host, and were restored (in check mode, would be).
    - Each has the time of its repair as its modification time, so that a process that is older than the file has the
      old content in its memory. That holds also where the run was killed before it could return anything.
  returned: success
  type: list
  elements: str
  sample: ["pytorch_model-00001-of-00002.bin"]
kept:
  description:
    - Where what such large files held is now, in C(bad/) of O(store), if somebody or something had written to them.
    - There is one for each file and content. It is removed with the last revision that has the file.
  returned: success
  type: list
  elements: str
  sample: ["/model/.lfs/bad/4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393.model.safetensors"]
removed:
  description: Directories of older revisions that were removed (O(keep)).
  returned: success
  type: list
  elements: str
  sample: []
cause:
  description:
    - The kind of failure in one word, such as V(token_missing), V(token_rejected), V(forbidden), V(licence), V(quota),
      V(rate_limit), V(too_large), V(revision_not_found), V(repository_not_found), V(dns), V(proxy), V(tls),
      V(connection), V(interrupted), V(timeout), V(redirect), V(web_page), V(lfs_disabled), V(disk_full),
      V(lfs_object_missing), V(git_missing), V(git_lfs_missing), V(git_lfs_old), V(git_lock), V(foreign_directory),
      V(other_repository), V(local_edits), V(read_only), V(permission), V(locked).
    - A connection that was cut, by a firewall or a proxy, is V(connection) or V(interrupted), also where a TLS library
      tells it. V(tls) is a certificate or a protocol that was not accepted.
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

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError, Problem
from ansible_collections.vicuna.fleet.plugins.module_utils._git_lfs import Clone, Outcome, Request

ARGUMENT_SPEC: dict[str, dict[str, t.Any]] = {
    "repo": {"type": "str", "required": True},
    "revision": {"type": "str", "required": True},
    "dest": {"type": "path", "required": True},
    "store": {"type": "path", "default": ""},
    "side_by_side": {"type": "bool", "default": False},
    "keep": {"type": "int", "default": 2},
    "force": {"type": "bool", "default": False},
    "fetch": {"type": "bool", "default": True},
    "wait": {"type": "bool", "default": True},
    "bandwidth_limit": {"type": "int", "default": 0},
    "mirror": {"type": "str", "default": ""},
    "peers": {
        "type": "dict",
        "default": {},
        "options": {
            "name": {"type": "str", "default": ""},
            "address": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 0},
            "key": {"type": "str", "default": "", "no_log": True},
            "linger": {"type": "int", "default": 30},
            "hosts": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "whole": {"type": "bool", "default": False},
                },
            },
        },
    },
    "connections": {"type": "int", "default": 8},
    "token": {"type": "str", "default": "", "no_log": True},
    "username": {"type": "str", "default": "token"},
    "include": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "verify": {"type": "str", "choices": ["changed", "full"], "default": "changed"},
    "ca_path": {"type": "path", "default": ""},
    "timeout": {"type": "int", "default": 120},
    "variables": {"type": "dict", "default": {}},
}


def result(outcome: Outcome, repo: str) -> dict[str, t.Any]:
    """The module's answer."""
    return {
        "changed": outcome.changed,
        "repo": repo,
        "revision": outcome.revision,
        "previous_revision": outcome.before,
        "path": outcome.path,
        "files": len(outcome.paths),
        "paths": outcome.paths,
        "lfs_objects": outcome.lfs_objects,
        "bytes": outcome.bytes,
        "downloaded_bytes": outcome.downloaded_bytes,
        "missing_bytes": outcome.missing_bytes,
        "verified": outcome.verified,
        "repaired": outcome.repaired,
        "kept": outcome.kept,
        "removed": outcome.removed,
        **({"job": outcome.job} if outcome.job else {}),
        "diff": {
            "before": f"{outcome.before}\n" if outcome.before else "",
            "after": f"{outcome.revision}\n" if outcome.revision else "",
        },
    }


def _told(outcome: Outcome, request: Request, verb: str) -> list[str]:
    """What is said of damaged files, if there are any."""
    names = ", ".join(outcome.repaired)
    return [f"files in {request.dest} were damaged or changed on this host and {verb}: {names}"] if names else []


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params

    def refusal(problem: Problem, detail: str = "") -> dict[str, str]:
        problem = problem.renamed(params["variables"])
        return {"msg": str(problem), "cause": problem.cause, "detail": detail}

    for name, least, setting in (
        ("timeout", 1, "timeout"),
        ("keep", 1, "keep_revisions"),
        ("bandwidth_limit", 0, "bandwidth_limit"),
        ("connections", 1, "connections"),
    ):
        if params[name] < least:
            problem = Problem(
                "settings", f"{name} is {params[name]}.", f"{least} or more.", f"correct model_{setting}."
            )
            module.fail_json(**refusal(problem))
    if not params["revision"] or params["revision"].startswith("-"):
        expected = "a full commit id, a tag or a branch."
        problem = Problem("revision_not_found", "no usable revision.", expected, "set model_revision.")
        module.fail_json(**refusal(problem))
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
        store=params["store"],
        side_by_side=params["side_by_side"],
        keep=params["keep"],
        force=params["force"],
        fetch=params["fetch"],
        wait=params["wait"],
        bandwidth_limit=params["bandwidth_limit"],
        mirror=params["mirror"],
        peers=params["peers"],
        connections=params["connections"],
        variables={name: str(value) for name, value in params["variables"].items()},
    )
    if request.token and request.repo.startswith("http://"):
        module.warn(f"the token travels unencrypted to {request.repo}; use an https address in model_repo")
    clone = Clone(request, check_mode=module.check_mode)
    outcome = clone.outcome
    try:
        clone.converge()
    except GitLfsError as error:
        for warning in [*outcome.warnings, *_told(outcome, request, "could not be restored")]:
            module.warn(warning)
        module.fail_json(**refusal(error.problem, error.detail))
    except OSError as error:
        expected = f"a directory that can be written at {request.dest}."
        problem = Problem("file_system", f"{error}.", expected, "check the file system of model_root.")
        module.fail_json(**refusal(problem))
    verb = "would be restored" if module.check_mode else "are fetched again" if outcome.job else "were restored"
    for warning in [*outcome.warnings, *_told(outcome, request, verb)]:
        module.warn(warning)
    module.exit_json(**result(outcome, request.repo))


if __name__ == "__main__":
    main()
