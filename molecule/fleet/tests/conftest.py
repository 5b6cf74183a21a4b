"""The fleet's load, and what a test begins with. The scenario `default` runs the fast tests over its own hosts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "tests/fleet"))

import scenario  # noqa: E402 - the path is set above

TIMED = ("test_3_faults", "test_5_abuse")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    own = [item for item in items if item.path.parent == HERE]
    # Beside another scenario's tests these come last: they take the hosts through other releases.
    items[:] = [item for item in items if item not in own] + own
    for item in own:
        # A rollout takes longer than a unit test may.
        item.add_marker(pytest.mark.timeout(900))
    if os.environ.get("VICUNA_TESTS") == "fast":
        # The quick check runs beside whatever else its machine does: seconds that were too many are measured once more.
        # The whole of the tests measures once.
        for item in own:
            if item.path.stem in TIMED:
                item.add_marker(pytest.mark.flaky(reruns=1))
        left_out = [item for item in own if not item.get_closest_marker("fast")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def figures() -> scenario.Figures:
    return scenario.Figures()


@pytest.fixture(scope="session")
def traffic(figures: scenario.Figures) -> Iterator[scenario.Traffic]:
    scenario.wait_all_up()
    running = scenario.Traffic(figures)
    yield running
    running.load.stop()


@pytest.fixture
def calm(traffic: scenario.Traffic) -> None:
    """The test begins with all hosts in their places."""
    scenario.wait_all_up()
