"""All tests together: enough requests, and none that failed while nothing was broken."""

from __future__ import annotations

import os
from typing import Any

import pytest
from scenario import Figures, wait_for

pytestmark = pytest.mark.usefixtures("calm")
# The fast half is one.
WANTED = 150 if os.environ.get("VICUNA_TESTS") == "fast" else 1000


@pytest.mark.fast
def test_no_request_failed_but_in_the_seconds_after_a_fault(traffic: Any, figures: Figures) -> None:
    wait_for(lambda: len(traffic.load.records) >= WANTED, 300, f"{WANTED} requests")
    traffic.load.stop()
    total = traffic.load.summary()
    figures.content["total"] = total | {"failed_outside_of_faults": len(traffic.outside_of_faults())}
    figures.write()
    assert total["streams"] >= WANTED / 5
    assert [each.error for each in traffic.outside_of_faults()] == []
