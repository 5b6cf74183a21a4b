# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: finetune_prompts
short_description: Read the questions that a fine-tuned model is asked, or tell what is wrong with them
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Takes the questions as a list, or from a JSON file of the control node, and checks them. A training of days does not
    end with a question that cannot be asked.
options:
  _input:
    description:
      - A list of dictionaries with C(prompt) and, where the answer has to contain a text, C(expected).
      - Or the path of a JSON file that holds such a list. Nothing, or an empty text, is no question.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Read them
  ansible.builtin.debug:
    msg: "{{ 'prompts.json' | vicuna.fleet.finetune_prompts }}"
"""

RETURN = r"""
_value:
  description:
    - C(prompts), the questions; empty where there is none, or where something is wrong.
    - C(problem), what was found, what was expected and what mends it; empty where nothing is wrong.
  type: dict
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._common.json_text import read as read_json

EXPECTED = (
    "Expected a list of {prompt, expected}, both of them text, or a JSON file of the control node that holds one."
)
REMEDY = "Correct finetune_prompts."


def problem_of(entry: Any) -> str:
    """What is wrong with one question; empty where nothing is."""
    if not isinstance(entry, dict):
        return f"{type(entry).__name__} {json.dumps(entry, default=str)[:80]}"
    if not isinstance(entry.get("prompt"), str) or not entry["prompt"].strip():
        return f"an entry whose prompt is {json.dumps(entry.get('prompt'), default=str)[:80]}"
    if not isinstance(entry.get("expected", ""), (str, int, float, type(None))):
        return f"an entry whose expected is {json.dumps(entry['expected'], default=str)[:80]}"
    return ""


def prompts(given: Any) -> dict[str, Any]:
    """The questions, or what is wrong."""

    def wrong(found: str) -> dict[str, Any]:
        return {"prompts": [], "problem": f"Found {found}. {EXPECTED} {REMEDY}"}

    where = "finetune_prompts"
    if isinstance(given, str) and given:
        path = Path(given).expanduser()
        where = f"finetune_prompts '{given}'"
        try:
            given = read_json(path.read_bytes())
        except (OSError, ValueError) as error:
            return wrong(f"{where}, which cannot be read ({error})")
    if not given:
        return {"prompts": [], "problem": ""}
    if not isinstance(given, list):
        return wrong(f"{where} that is no list but {type(given).__name__}")
    for number, entry in enumerate(given):
        if problem := problem_of(entry):
            return wrong(f"{where} with {problem} at place {number + 1}")
    return {"prompts": given, "problem": ""}


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"finetune_prompts": prompts}
