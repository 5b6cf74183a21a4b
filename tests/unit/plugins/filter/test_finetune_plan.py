# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.vicuna.fleet.plugins.filter.finetune_plan import FilterModule

plan = FilterModule().filters()["finetune_plan"]


def test_it_plans() -> None:
    found = plan({"model": {"config": {}, "weights_bytes": 1}}, {"method": "lora"}, "gpu-1")
    assert found["fits"] is False
    assert found["problems"][0]["check"] == "model"
    assert found["lines"][0].startswith("gpu-1: lora")


@pytest.mark.parametrize(("facts", "settings"), [([], {}), ({}, None), ({}, {}), ({}, {"method": "magic"})])
def test_it_refuses_what_it_cannot_plan_with(facts: object, settings: object) -> None:
    with pytest.raises(AnsibleFilterError):
        plan(facts, settings)
