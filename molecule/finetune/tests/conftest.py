"""The scenario `default` runs the fast tests over its own hosts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[2] / "tests/fleet"), str(HERE.parents[2] / "tests/finetune")]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    own = [item for item in items if item.path.parent == HERE]
    # Beside another scenario's tests these come after its own, and before the fleet's, which move themselves last.
    items[:] = [item for item in items if item not in own] + own
    for item in own:
        # A training and a rollout take longer than a unit test may.
        item.add_marker(pytest.mark.timeout(900))
    if os.environ.get("VICUNA_TESTS") == "fast":
        left_out = [item for item in own if not item.get_closest_marker("fast")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
