# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: finetune_plan
short_description: Plan how a host fine-tunes a model, or tell why it cannot
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Holds the memory that a training needs (weights, gradients, optimizer, activations, logits, and what comes on top)
    against the free memory of the host's GPUs, or of the host itself; and checkpoints and result against its disks.
  - Chooses the GPUs, the batch and what else the settings leave open. A GPU on which anything runs is not used.
positional: _input, settings
options:
  _input:
    description:
      - C(gpu) as M(vicuna.fleet.gpu_info) returns it (needed for CUDA only), C(host) as M(vicuna.fleet.host_info) does,
        with C(file_systems) of V(run), V(models) and V(docker), and C(model) as M(vicuna.fleet.model_info) does.
      - C(training) is a list of ids of the containers that train already; what they hold counts as free.
    type: dict
    required: true
  settings:
    description:
      - Variables of the role P(vicuna.fleet.finetune#role) without their prefix. What is null is chosen.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.set_fact:
    finetune_plan: >-
      {{ {'gpu': gpu_look.gpu, 'host': host_look.host, 'model': model_look.model}
         | vicuna.fleet.finetune_plan({'device': 'cuda', 'method': 'qlora', 'model_name': 'vicuna-7b-v1.5'}) }}
"""

RETURN = r"""
_value:
  description:
    - C(fits), C(problems) (a list of C(check) and C(message)), C(warnings), and C(lines), all of it in words.
    - How to train - C(method), C(device), C(gpus) (CDI names), C(batch_size) of each GPU, C(gradient_accumulation),
      C(max_length), C(gradient_checkpointing).
    - C(model) (C(name), C(commit), C(parameters), C(trained_parameters), C(context_length)), C(memory) of one GPU in
      MiB (C(weights_mib), C(gradients_mib), C(optimizer_mib), C(activations_mib),
      C(context_mib), C(gaps_mib), C(needed_mib), C(free_mib)), C(host_memory), C(disk).
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def plan(facts: Mapping[str, Any], settings: Mapping[str, Any], host: str = "host") -> dict[str, Any]:
    if not isinstance(facts, Mapping) or not isinstance(settings, Mapping):
        raise AnsibleFilterError("finetune_plan takes a dictionary of facts and one of settings")
    # Not above: a template with any filter of this collection loads all of them, in each of Ansible's processes anew.
    from ansible_collections.vicuna.fleet.plugins.module_utils._finetune_plan import METHODS, finetune_plan, lines

    if settings.get("method") not in METHODS:
        raise AnsibleFilterError(
            f"finetune_plan: method is {settings.get('method')!r}, not one of {', '.join(METHODS)}"
        )
    found = finetune_plan(facts, settings)
    return {**found, "lines": lines(host, found)}


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"finetune_plan": plan}
