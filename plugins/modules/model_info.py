#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: model_info
short_description: Tell a model's shapes and sizes from its git-LFS repository, without its weights
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Reads the C(config.json) of one commit of a git-LFS repository, and the LFS pointers, which name the size and
    sha256 of every large file. Of what is in LFS, only a small file that a plan reads, such as C(config.json) itself,
    is fetched.
  - Needs no clone on the host, so it can run on the control node for all hosts of a play.
requirements:
  - git 2.31 or later
options:
  repo:
    description:
      - Address of the repository, as for C(git clone), as the machine that runs this module reaches it.
      - An address with a user name or password in it is refused; use O(token).
    type: str
    required: true
  revision:
    description: A full commit id, a tag, or a branch. What is kept of a commit id needs no network the next time.
    type: str
    required: true
  token:
    description:
      - Token or password for a private or gated repository at an http or https address.
      - It is given to git in the environment, and only for the host of O(repo).
    type: str
    default: ""
  username:
    description: User name that goes with O(token). Hugging Face takes any.
    type: str
    default: token
  include:
    description: Patterns, as in C(.gitignore), of the large files that will be fetched. An empty list means all.
    type: list
    elements: str
    default: []
  exclude:
    description: Patterns of large files that are going to be left out. They win over O(include).
    type: list
    elements: str
    default: []
  ca_path:
    description: PEM file with certificates of authorities that are trusted for O(repo) besides those of the machine.
    type: path
    default: ""
  cache_dir:
    description:
      - Folder in which what was read of a commit is kept. Processes that want the same commit at the same time fetch it
        once. Empty keeps nothing.
    type: path
    default: ""
  timeout:
    description: Seconds of silence after which a connection counts as dead.
    type: int
    default: 120
  variables:
    description: What to call settings in messages, as with O(vicuna.fleet.git_lfs#module:variables).
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Can run in check mode, and returns the same.
  diff_mode:
    support: N/A
    description: Changes nothing.
  idempotent:
    support: N/A
    description: Changes nothing but O(cache_dir).
seealso:
  - module: vicuna.fleet.git_lfs
"""

EXAMPLES = r"""
- name: Look at the model
  vicuna.fleet.model_info:
    repo: https://huggingface.co/lmsys/vicuna-7b-v1.5-16k
    revision: c8df3ca4436a3bce5c4b5877e0117032081852b4
    cache_dir: ~/.cache/vicuna.fleet
  delegate_to: localhost
  register: look

- name: Tell how much there is to download
  ansible.builtin.debug:
    msg: "{{ look.model.download_bytes }} bytes"
"""

RETURN = r"""
msg:
  description: What was found, in words.
  returned: always
  type: str
  sample: "commit c8df3ca4436a: 13476926466 bytes of weights (bin), 13477426341 bytes to download"
cached:
  description: Whether the answer was kept from an earlier look.
  returned: success
  type: bool
model:
  description: What the repository says.
  returned: success
  type: dict
  contains:
    commit:
      description: The commit that O(revision) names.
      type: str
      sample: c8df3ca4436a3bce5c4b5877e0117032081852b4
    config:
      description: The content of C(config.json).
      type: dict
    tokenizer:
      description: The keys C(tokenizer_class) and C(extra_special_tokens) of C(tokenizer_config.json).
      type: dict
    notes:
      description: What the worker passes over among the model's files.
      type: list
      elements: str
    quantisation:
      description: How the checkpoint is quantised; empty where it is not.
      type: str
      sample: gptq 4-bit
    weights_format:
      description: Format of the weights that transformers would load; empty where there are none.
      type: str
      choices: [safetensors, bin, ""]
    files:
      description: Those weights. Where a repository holds two formats, those that transformers prefers.
      type: list
      elements: dict
      contains:
        path:
          description: Path in the repository.
          type: str
        oid:
          description: The sha256 of the file; empty for one that is not in LFS.
          type: str
        size:
          description: Size in bytes.
          type: int
    weights_bytes:
      description: Size of RV(model.files) together, in bytes.
      type: int
      sample: 13476926466
    objects:
      description: Every different large file that O(include) and O(exclude) leave.
      type: list
      elements: dict
      contains:
        oid:
          description: The sha256 of the file.
          type: str
        size:
          description: Size in bytes.
          type: int
    download_bytes:
      description: Size of RV(model.objects) together, in bytes.
      type: int
      sample: 13477426341
cause:
  description: The kind of failure in one word, as M(vicuna.fleet.git_lfs) has them, V(no_config), or V(lfs_pointer).
  returned: failure
  type: str
  sample: token_missing
detail:
  description: The last of what git said.
  returned: failure
  type: str
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError, Problem
from ansible_collections.vicuna.fleet.plugins.module_utils._model_info import (
    Listing,
    describe,
    look,
    unknown_sizes,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._serving.published import Unreadable

ARGUMENT_SPEC: dict[str, dict[str, t.Any]] = {
    "repo": {"type": "str", "required": True},
    "revision": {"type": "str", "required": True},
    "token": {"type": "str", "default": "", "no_log": True},
    "username": {"type": "str", "default": "token"},
    "include": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "ca_path": {"type": "path", "default": ""},
    "cache_dir": {"type": "path", "default": ""},
    "timeout": {"type": "int", "default": 120},
    "variables": {"type": "dict", "default": {}},
}


def _refusal(problem: Problem, params: t.Mapping[str, t.Any], detail: str = "") -> dict[str, str]:
    """What the module fails with, in the words of its caller."""
    problem = problem.renamed(params.get("variables") or {})
    return {"msg": str(problem), "cause": problem.cause, "detail": detail}


def answer(listing: Listing, cached: bool, params: t.Mapping[str, t.Any]) -> tuple[dict[str, t.Any], list[str]]:
    """What the module returns for the files of a commit, and its warnings."""
    try:
        model = describe(listing, params["include"], params["exclude"])
    except Unreadable as error:
        return {"failed": True, "msg": str(error), "cause": "unreadable", "detail": ""}, []
    pointer = listing.unread.get("config.json")
    problem = None
    if pointer:
        problem = Problem(
            "lfs_pointer",
            f"config.json in {params['repo']} {pointer}.",
            "the model's configuration.",
            "have it committed to git itself (a line '*.json -filter' in .gitattributes), or correct model_revision.",
        )
    elif not model["config"]:
        found = f"no readable config.json in {params['repo']}."
        problem = Problem("no_config", found, "the model in the root of its repository.", "correct model_repo.")
    if problem:
        return {"failed": True, **_refusal(problem, params)}, []
    message = (
        f"commit {model['commit'][:12]}: {model['weights_bytes']} bytes of weights "
        f"({model['weights_format'] or 'none'}), {model['download_bytes']} bytes to download"
    )
    warnings = [
        f"{path} is in git itself and not in LFS: its size is unknown, and counts as nothing"
        for path in unknown_sizes(listing, model)
    ] + [f"{path} in {params['repo']} {reason}" for path, reason in sorted(listing.unread.items())]
    return {"changed": False, "msg": message, "cached": cached, "model": model}, warnings


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    if not params["revision"] or params["revision"].startswith("-"):
        expected = "a full commit id, a tag or a branch."
        problem = Problem("revision_not_found", "no usable revision.", expected, "set model_revision.")
        module.fail_json(**_refusal(problem, params))
    try:
        listing, cached = look(
            repo=params["repo"],
            revision=params["revision"],
            token=params["token"],
            username=params["username"],
            ca_path=params["ca_path"],
            timeout=max(1, params["timeout"]),
            cache_dir=Path(params["cache_dir"]) if params["cache_dir"] else None,
        )
    except GitLfsError as error:
        module.fail_json(**_refusal(error.problem, params, error.detail))
    except OSError as error:
        expected = f"a folder that can be written at {params['cache_dir']}."
        remedy = "choose another folder (preflight_cache_dir, finetune_cache_dir)."
        module.fail_json(**_refusal(Problem("file_system", f"{error}.", expected, remedy), params))
    result, warnings = answer(listing, cached, params)
    for warning in warnings:
        module.warn(warning)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
