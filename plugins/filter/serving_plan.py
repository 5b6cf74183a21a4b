# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: serving_plan
short_description: Plan how a host serves a model with FastChat, or tell why it cannot
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Holds the memory that a model needs (weights, the KV cache of as many requests of full length as are answered at the
    same time, and what comes on top) against the free memory of the host's GPUs, or of the host itself; and disk, ports
    and clock against what is wanted.
  - Chooses what the settings leave open, preferring float16 on one GPU, then float16 on several, then 8 bits on one.
positional: _input, settings
options:
  _input:
    description:
      - C(gpu) as M(vicuna.fleet.gpu_info) returns it (needed for CUDA only), C(host) as M(vicuna.fleet.host_info) does,
        and C(model) as M(vicuna.fleet.model_info) does, or C(model_error), why there is none.
      - C(system_error) is why the operating system is not supported; empty where it is.
    type: dict
    required: true
  settings:
    description:
      - Variables of the role P(vicuna.fleet.preflight#role) without their prefix. What is null is chosen.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.set_fact:
    preflight_plan: >-
      {{ {'gpu': gpu_look.gpu, 'host': host_look.host, 'model': model_look.model}
         | vicuna.fleet.serving_plan({'device': 'cuda', 'model_name': 'vicuna-7b-v1.5', 'num_gpus': none}) }}
"""

RETURN = r"""
_value:
  description:
    - C(fits), C(judged) (false where GPU memory is unknown for want of a driver), C(problems) (a list of C(check) and
      C(message)), C(warnings).
    - How to serve - C(device), C(workers), C(num_gpus) of each worker, C(max_gpu_memory), C(load_8bit),
      C(limit_worker_concurrency), and C(gpus), for each worker the CDI names of its GPUs.
    - C(model) (C(name), C(commit), C(weights_bytes), C(download_bytes), C(context_length), C(kv_bytes_per_token),
      C(dtype), C(quantisation)), C(memory) of the tightest GPU (C(weights_mib), C(kv_mib), C(overhead_mib),
      C(needed_mib), C(free_mib)), C(disk), C(host_memory), C(ports), C(clock_skew_s).
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def plan(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(facts, Mapping) or not isinstance(settings, Mapping):
        raise AnsibleFilterError("serving_plan takes a dictionary of facts and one of settings")
    # Not above: a template with any filter of this collection loads all of them, in each of Ansible's processes anew.
    from ansible_collections.vicuna.fleet.plugins.module_utils._serving_plan import serving_plan

    return serving_plan(facts, settings)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"serving_plan": plan}
