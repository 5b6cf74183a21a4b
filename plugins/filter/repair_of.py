# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: repair_of
short_description: What a run may do by itself about a release in place that does not answer
version_added: 0.3.0
author: The vicuna.fleet authors
description:
  - Reads the result of a task that failed. This is a question of M(vicuna.fleet.chat_completion), whose diagnosis names
    the steps, or the start of the services by M(community.docker.docker_compose_v2), where new containers help against
    some of the engine's errors.
positional: _input
options:
  _input:
    description: The result of the task that failed, such as C(ansible_failed_result).
    type: dict
    required: true
  allowed:
    description: Whether the run may take any step.
    type: bool
    default: true
  restarted:
    description: Whether the run has started services again before this failure. Each step is taken once.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: See what can help
  ansible.builtin.set_fact:
    repair: "{{ ansible_failed_result | vicuna.fleet.repair_of(allowed=fastchat_repair | bool) }}"
"""

RETURN = r"""
_value:
  description:
    - C(restart) lists the services to start again, C(recreate) tells whether to make all containers anew where that is
      not enough.
    - C(say) is what is done and why, empty where nothing is; C(failure) is the message of the task that failed.
  type: dict
  sample:
    restart: [api-server]
    recreate: true
    say: "the api-server runs and does not answer. Repair: api-server started again, or else all containers made anew."
    failure: No valid chat.completion of model 'vicuna' from http://127.0.0.1:8000 (5 tries in 21 s).
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._answer.repair import repair_of


class FilterModule:
    """Filters of the collection for a host that does not answer."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"repair_of": repair_of}
