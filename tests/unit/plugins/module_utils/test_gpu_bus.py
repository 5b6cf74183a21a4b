# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_bus import CHIPS, Device, address, chip, open_modules


def device(device_id: str, device_class: str = "030200") -> Device:
    return Device("0000:06:00.0", device_id, device_class, "", -1)


@pytest.mark.parametrize(
    ("device_id", "generation", "capability"),
    [
        # pci.ids, 2025-06-09
        ("102d", "Kepler or older", ""),  # Tesla K80
        ("13bd", "Maxwell", "5.0"),  # Tesla M10
        ("13c0", "Maxwell", "5.2"),  # GeForce GTX 980
        ("17c2", "Maxwell", "5.2"),  # GeForce GTX TITAN X
        ("15f8", "Pascal", "6.0"),  # Tesla P100 PCIe 16GB
        ("1b38", "Pascal", "6.1"),  # Tesla P40
        ("1db4", "Volta", "7.0"),  # Tesla V100 PCIe 16GB
        ("1eb8", "Turing", "7.5"),  # Tesla T4
        ("2184", "Turing", "7.5"),  # GeForce GTX 1660
        ("20b0", "Ampere", "8.0"),  # A100 SXM4 40GB
        ("2236", "Ampere", "8.6"),  # A10
        ("2487", "Ampere", "8.6"),  # GeForce RTX 3060
        ("25b6", "Ampere", "8.6"),  # A2 and A16
        ("26b9", "Ada Lovelace", "8.9"),  # L40S
        ("27b8", "Ada Lovelace", "8.9"),  # L4
        ("2330", "Hopper", "9.0"),  # H100 SXM5 80GB
        ("2335", "Hopper", "9.0"),  # H200 SXM 141GB
        ("2342", "Grace Hopper", "9.0"),  # GH200 480GB
        ("2901", "Blackwell", "10.0"),  # B200
        ("2bb5", "Blackwell", "12.0"),  # RTX PRO 6000 Blackwell Server Edition
        ("2f04", "Blackwell", "12.0"),  # GeForce RTX 5070
        ("ffff", "", ""),
    ],
)
def test_chip(device_id: str, generation: str, capability: str) -> None:
    assert chip(device_id) == (generation, capability)


def test_the_table_is_in_order_and_nothing_stands_in_it_twice() -> None:
    ends = [end for first, last, *_names in CHIPS for end in (first, last)]
    assert ends == sorted(set(ends))


@pytest.mark.parametrize(
    ("device_class", "kind"),
    [("030000", "gpu"), ("030200", "gpu"), ("068000", "nvswitch"), ("040300", "other"), ("0c0330", "other")],
)
def test_kind(device_class: str, kind: str) -> None:
    found = device("2335", device_class)
    assert found.kind == kind
    assert (found.generation == "") == (kind != "gpu")


@pytest.mark.parametrize(
    ("device_ids", "expected"),
    [
        ([], ""),
        (["2335", "2335"], "supported"),
        (["1eb8"], "supported"),
        (["2342"], "required"),
        (["2901"], "required"),
        (["2901", "2335"], "required"),
        # Newer than the table
        (["3fff"], "required"),
        (["1db4"], "unsupported"),
        (["102d"], "unsupported"),
        # One kind of module drives all of them
        (["1eb8", "1b38"], "unsupported"),
    ],
)
def test_open_modules(device_ids: list[str], expected: str) -> None:
    assert open_modules(device(device_id) for device_id in device_ids) == expected


def test_only_gpus_decide_about_open_modules() -> None:
    assert open_modules([device("10f0", "040300"), device("1af1", "068000")]) == ""
    assert open_modules([device("2335"), device("10f0", "040300")]) == "supported"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00000000:00:06.0", "0000:00:06.0"),
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("0000:3b:00.0", "0000:3b:00.0"),
        ("ERR!", ""),
        ("GPU is lost: reboot", ""),
        ("", ""),
    ],
)
def test_address(text: str, expected: str) -> None:
    assert address(text) == expected
