"""All tests together: enough requests, and none that failed while nothing was broken."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Figures

pytestmark = pytest.mark.usefixtures("calm")


def test_no_request_failed_but_in_the_seconds_after_a_fault(traffic: Any, figures: Figures) -> None:
    records = traffic.load.stop()
    total = traffic.load.summary()
    figures.content["total"] = total | {"failed_outside_of_faults": len(traffic.outside_of_faults())}
    figures.write()
    assert len(records) >= 1000
    assert total["streams"] >= 200
    assert [each.error for each in traffic.outside_of_faults()] == []
