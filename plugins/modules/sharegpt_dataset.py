#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: sharegpt_dataset
short_description: Check a dataset of dialogues for fine-tuning, and split it
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - >-
    Reads dialogues in the ShareGPT format of FastChat's training code, and judges each of them. A dialogue is
    C({"id": "…", "conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}). A file is a JSON
    array of dialogues, or has one a line (JSON Lines).
  - An error is what training cannot use, or what FastChat would end at. A warning is what can be used, and is hardly
    meant so. RV(counts) lists the kinds.
  - With O(dest), the dialogues are written in two files, one to train on and one to measure on. Both hold what is
    trained on and nothing else. A turn of C(gpt) at the start and one of C(human) at the end are left out, as neither
    teaches anything, and so are keys other than C(id) and C(conversations).
  - Runs on the control node, where the dataset is. A file is read two or three times, a part at a time. It is not
    held in memory.
  - Lengths in tokens are not looked at, since they are the model's.
options:
  path:
    description: A C(.json) or C(.jsonl) file, or a directory of them, which are read in the order of their names.
    type: path
    required: true
  dest:
    description:
      - Directory for C(train.json) and C(heldout.json). Missing directories are made.
      - The files are put in place whole, with mode V(0600), as dialogues can be private. Files that are right stay as
        they are.
    type: path
  heldout:
    description:
      - Dialogues that are measured and never trained on. A number of V(0) to V(0.5) is a share of all, from V(1) on it
        is how many. V(0) holds none out.
      - Which ones depends on their content and on O(seed) alone. Dialogues that are there twice are on one side. There
        is at least one on each.
    type: float
    default: 0.05
  seed:
    description: Another number holds other dialogues out.
    type: int
    default: 0
  allow_dropped:
    description: Leave out dialogues with errors, and count them, rather than fail. A file that is no JSON still fails.
    type: bool
    default: false
  show:
    description: How many findings of each kind are told. The others are counted. V(1) or more.
    type: int
    default: 5
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return changed status prediction without modifying the host.
  diff_mode:
    support: none
    description: Will not return details on what has changed, which can be a gigabyte.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing.
"""

EXAMPLES = r"""
- name: Check a dataset
  vicuna.fleet.sharegpt_dataset:
    path: datasets/support.json
  delegate_to: localhost
  run_once: true

- name: Split it, with 100 dialogues held out
  vicuna.fleet.sharegpt_dataset:
    path: datasets/support
    dest: .cache/finetune/support
    heldout: 100
    allow_dropped: true
  delegate_to: localhost
  register: dataset
"""

RETURN = r"""
msg:
  description:
    - The figures in one line.
    - On failure the errors, each with what was found, what was expected, and what mends it.
  returned: always
  type: str
  sample: 21 dialogues, 20 to train on and 1 held out
dialogues:
  description: How many there are in all.
  returned: when the files could be read
  type: int
dropped:
  description: How many have an error.
  returned: when the files could be read
  type: int
train:
  description: How many are to be trained on.
  returned: success
  type: int
heldout:
  description: How many are held out.
  returned: success
  type: int
turns:
  description: Turns of the dialogues that are used.
  returned: when the files could be read
  type: int
characters:
  description: Characters of these turns.
  returned: when the files could be read
  type: int
sha256:
  description:
    - Names the content that a training starts from. It covers the turns of the dialogues that are used, in their order,
      and the side that each is on.
    - Ids, formatting, and how the dialogues are spread over files do not matter.
  returned: success
  type: str
counts:
  description:
    - How many findings there are of each kind.
    - Errors are C(json), C(format) for a file that is something else as a whole, C(utf8), C(not_object),
      C(no_conversations), C(duplicate_key), C(bad_turn), C(unknown_role), C(not_text), C(empty_turn), C(surrogate),
      C(nul), C(one_sided) and C(not_alternating).
    - Warnings are C(byte_order_mark), C(not_read), C(leading_gpt), C(trailing_human), C(no_id), C(duplicate),
      C(duplicate_id), C(replacement) and C(special_token).
  returned: when the files could be read
  type: dict
  sample: {duplicate: 2}
findings:
  description: The first O(show) findings of each kind.
  returned: when the files could be read
  type: list
  elements: dict
  contains:
    severity:
      description: V(error) or V(warning).
      type: str
    kind:
      description: One of the kinds of RV(counts).
      type: str
    where:
      description:
        - C(file), C(index) of the dialogue and C(turn), both counted from 0, C(id), C(line) and C(column), counted
          from 1. What does not apply is left out.
      type: dict
    message:
      description: Place, what was found, what was expected, and what mends it.
      type: str
files:
  description: The files that were read.
  returned: when the files could be read
  type: list
  elements: str
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._sharegpt import (
    CHUNK,
    WARNING,
    DatasetError,
    Survey,
    hold_out,
    problems,
    survey,
    way_out,
    write,
)

NAMES = ("train.json", "heldout.json")


class Digest:
    """A file that is not written, and hashed all the same."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.sha256.update(data)


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def differs(found: Survey, dest: Path) -> bool:
    """Whether the two files are not what they would be."""
    paths = [dest / name for name in NAMES]
    if not all(path.is_file() for path in paths):
        return True
    train, heldout = Digest(), Digest()
    write(found, train, heldout)
    wanted = (train.sha256.hexdigest(), heldout.sha256.hexdigest())
    return any(sha256_file(path) != digest for path, digest in zip(paths, wanted))


def put(found: Survey, dest: Path) -> None:
    """Replaces the two files when both are written."""
    dest.mkdir(parents=True, exist_ok=True)
    beside: list[str] = []
    try:
        handles = []
        for name in NAMES:
            handle, path = tempfile.mkstemp(dir=dest, prefix=f".{name}.")
            beside.append(path)
            handles.append(handle)
        with os.fdopen(handles[0], "wb") as train, os.fdopen(handles[1], "wb") as heldout:
            write(found, train, heldout)
        for path, name in zip(beside, NAMES):
            Path(path).replace(dest / name)
    finally:
        for path in beside:
            Path(path).unlink(missing_ok=True)


def line(found: Survey) -> str:
    """The figures for a person."""
    text = f"{found.used} dialogue{'' if found.used == 1 else 's'}, {found.used - found.heldout_dialogues} to train on"
    text += f" and {found.heldout_dialogues} held out"
    return text + (f"; {found.dropped} with errors left out" if found.dropped else "")


def answer(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the module returns, with "failed" where it fails, and "warnings". Raises DatasetError, and OSError."""
    found = survey(Path(params["path"]), params["show"])
    result: dict[str, Any] = {
        "changed": False,
        "dialogues": found.dialogues,
        "dropped": found.dropped,
        "turns": found.turns,
        "characters": found.characters,
        "counts": dict(found.findings.counts),
        "findings": [finding.as_dict() for finding in found.findings.kept],
        "files": [str(path) for path in found.files],
    }
    wrong = problems(found, params["allow_dropped"])
    if wrong:
        return {**result, "failed": True, "msg": "\n".join([*wrong, *way_out(found)])}
    try:
        hold_out(found, params["heldout"], params["seed"])
        if params["dest"] and differs(found, Path(params["dest"])):
            result["changed"] = True
            if not check_mode:
                put(found, Path(params["dest"]))
    except DatasetError as error:
        return {**result, "failed": True, "changed": False, "msg": str(error)}
    warnings = found.findings.lines(WARNING)
    if found.dropped:
        warnings = found.findings.lines("error") + warnings
    return {
        **result,
        "msg": line(found),
        "train": found.used - found.heldout_dialogues,
        "heldout": found.heldout_dialogues,
        "sha256": found.sha256,
        "warnings": warnings,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "dest": {"type": "path"},
            "heldout": {"type": "float", "default": 0.05},
            "seed": {"type": "int", "default": 0},
            "allow_dropped": {"type": "bool", "default": False},
            "show": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    if module.params["show"] < 1:
        module.fail_json(msg=f"Found: show is {module.params['show']}. Expected: 1 or more. Remedy: leave it out.")
    try:
        result = answer(module.params, module.check_mode)
    except DatasetError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"Found: {error}. Expected: files that can be read, and a directory that can be written. "
            "Remedy: mend their permissions, or choose others."
        )
    for warning in result.pop("warnings", []):
        module.warn(warning)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
