# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.vicuna.fleet.plugins.filter.serving_plan import FilterModule


def test_a_plan() -> None:
    found = FilterModule().filters()["serving_plan"]({"model_error": "Found none."}, {"device": "cpu"})
    assert found["fits"] is False


@pytest.mark.parametrize(("facts", "settings"), [([], {}), ({}, None), ("x", {})])
def test_what_is_no_dictionary(facts: Any, settings: Any) -> None:
    with pytest.raises(AnsibleFilterError):
        FilterModule().filters()["serving_plan"](facts, settings)
