# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmark reads off a run, and what it makes of the figures; and that the plain playbook is what it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
OUTPUT = """\
TASK [Ask] ***
ok: [bench-1]

PLAY RECAP *********************************************************************
bench-1                    : ok=14   changed=0    unreachable=0    failed=0    skipped=7    rescued=0    ignored=0
bench-12                   : ok=13   changed=1    unreachable=0    failed=0    skipped=8    rescued=0    ignored=0
"""


@pytest.fixture(scope="module")
def converge() -> ModuleType:
    spec = importlib.util.spec_from_file_location("converge", ROOT / "benchmarks" / "converge.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["converge"] = module
    spec.loader.exec_module(module)
    return module


def test_the_recap_is_read(converge: ModuleType) -> None:
    found = converge.recap(OUTPUT)
    assert {host: (counts["ok"], counts["changed"], counts["skipped"]) for host, counts in found.items()} == {
        "bench-1": (14, 0, 7),
        "bench-12": (13, 1, 8),
    }
    assert converge.recap("bench-1: nothing") == {}


def test_a_straight_line_is_found_and_carried_on(converge: ModuleType) -> None:
    told = converge.projection([(1, 3.5), (2, 5.0), (4, 8.0), (8, 14.0)], 100)
    assert (told["a"], told["b"], told["projected"]) == (2.0, 1.5, 152.0)
    assert set(told["residuals"].values()) == {0.0}
    bent = converge.projection([(1, 1), (2, 2), (4, 8)], 100)
    assert any(bent["residuals"].values())
    with pytest.raises(ValueError, match="two numbers of hosts"):
        converge.line([(2, 1.0), (2, 2.0)])


def runs(converge: ModuleType, tasks: int, wall: dict[int, float], cpu: dict[int, float]) -> list[object]:
    return [converge.Run(hosts, wall[hosts], cpu[hosts], tasks, 5, 0) for hosts in wall]


def test_figures(converge: ModuleType) -> None:
    ours = runs(converge, 14, {1: 5.0, 4: 9.0}, {1: 2.6, 4: 8.0})
    plain = runs(converge, 23, {1: 11.0, 4: 20.0}, {1: 5.0, 4: 17.6})
    rows = converge.figures(ours, plain, [1, 4])
    assert [(row["ours"], row["baseline"], row["reached"]) for row in rows] == [
        (14, 23, True),
        (2.0, 4.4, True),
        (1.8, 1.82, True),
        (0.45, 20.0, True),
    ]
    slow = runs(converge, 15, {1: 5.0, 4: 13.0}, {1: 2.6, 4: 11.0})
    assert [row["reached"] for row in converge.figures(slow, plain, [1, 4])] == [False, False, False, False]


@pytest.mark.parametrize(("text", "hosts"), [("1,2,4", [1, 2, 4]), ("8,1,1", [1, 8])])
def test_numbers_of_hosts(converge: ModuleType, text: str, hosts: list[int]) -> None:
    assert converge.parse_hosts(text) == hosts


@pytest.mark.parametrize("text", ["", "a", "0,1", "17"])
def test_numbers_of_hosts_that_are_none(converge: ModuleType, text: str) -> None:
    with pytest.raises(Exception, match=r"list like|hosts"):
        converge.parse_hosts(text)


def test_the_inventory_is_the_sandbox_with_other_hosts(converge: ModuleType, tmp_path: Path) -> None:
    converge.write_inventory(tmp_path, 2)
    hosts = yaml.safe_load((tmp_path / "hosts.yml").read_text(encoding="utf-8"))["all"]["hosts"]
    assert set(hosts) == {"bench-1", "bench-2"}
    assert len({port for host in hosts.values() for port in host.values()}) == 4
    assert (tmp_path / "group_vars" / "all" / "vicuna.yml").is_file()


def test_the_plain_playbook_has_no_module_of_the_collection() -> None:
    text = (ROOT / "benchmarks" / "converge" / "plain.yml").read_text(encoding="utf-8")
    assert "vicuna.fleet" not in text
    tasks = yaml.safe_load(text)[0]["tasks"]
    assert len(tasks) >= 20
