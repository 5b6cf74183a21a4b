"""The host that is broken: how it answers, what it holds on disk, and what its processes have read of it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "tests/fleet")]

import scenario  # noqa: E402 - the path is set above
from endpoint import Endpoint  # noqa: E402 - as above
from host import HOST, PORT, look  # noqa: E402 - as above

REPORT = scenario.ROOT / "reports/heal.json"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(300))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The figures are the scenario's result, whether or not a test has failed."""
    if REPORT.exists():
        terminalreporter.write_line(table(json.loads(REPORT.read_text())["tests"]))


@pytest.fixture(scope="session")
def figures() -> Iterator[scenario.Figures]:
    kept = scenario.Figures(REPORT)
    yield kept
    tests = list(kept.content["tests"].values())
    kept.content["total"] = {"mutations": len(tests), **Counter(str(entry["end"]) for entry in tests)}
    kept.write()


@pytest.fixture(scope="session")
def endpoint() -> Endpoint:
    key = (scenario.INVENTORY / ".secrets/fastchat_api_key").read_text().strip()
    # What hangs takes the question and keeps it: the next one may be answered.
    return Endpoint(HOST, f"http://127.0.0.1:{PORT}", key, patience=5)


@pytest.fixture(scope="session")
def sound(endpoint: Endpoint) -> dict[str, object]:
    """The host as it was deployed."""
    endpoint.wait_for_answer(60)
    return look()


def table(tests: dict[str, dict[str, object]]) -> str:
    """The figures of every mutation, one a line."""
    rows = [("MUTATION", "CAUSE", "BY ITSELF", "BY SITE.YML", "END")]
    for name, entry in tests.items():
        seconds = [f"{entry[key]} s" if entry.get(key) is not None else "-" for key in ("by_itself_s", "by_site_s")]
        rows.append((name, str(entry.get("cause") or "-"), *seconds, str(entry.get("end", "-"))))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
