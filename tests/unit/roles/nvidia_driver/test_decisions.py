# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role decides from what gpu_info finds, on every system: its own variables, evaluated by Ansible."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[4]
ROLE = ROOT / "roles" / "nvidia_driver"
KERNELS = {
    "Debian 12": "6.1.0-40-amd64",
    "Debian 13": "6.12.107+deb13-amd64",
    "Ubuntu 22.04": "5.15.0-160-generic",
    "Ubuntu 24.04": "6.8.0-90-generic",
    "Rocky 9": "5.14.0-611.5.1.el9_7.x86_64",
    "Fedora 42": "6.17.4-200.fc42.x86_64",
}
# A host with one H100 and no driver, as gpu_info tells it.
BARE: dict[str, Any] = {
    "present": True,
    "devices": [{"address": "0000:01:00.0", "kind": "gpu", "generation": "Hopper", "kernel_driver": ""}],
    "open_modules": "supported",
    "driver": {
        "loaded": False,
        "version": "",
        "flavour": "",
        "library_version": "",
        "module_version": "",
        "matches": None,
        "answers": False,
        "error": "no driver is loaded",
        "cuda_version": "",
        "origin": "none",
        "packages": {},
        "held": [],
    },
    "unlisted": [],
    "fabric_manager": {"required": False, "version": "", "state": "absent"},
    "persistence": {"daemon": "absent", "mode": False},
    "nouveau": {"loaded": False, "blacklisted": False},
    "secure_boot": "unsupported",
    "kernel": {"release": "", "headers": True},
}
LOADED = {
    "driver.loaded": True,
    "driver.version": "570.172.08",
    "driver.flavour": "open",
    "driver.library_version": "570.172.08",
    "driver.module_version": "570.172.08",
    "driver.matches": True,
    "driver.answers": True,
    "driver.error": "",
    "driver.origin": "distribution",
    "driver.packages": {"libcuda1": "570.172.08-1"},
}
SIGNED = [
    "linux-modules-nvidia-580-server-open-6.8.0-90-generic - modules",
    "nvidia-headless-no-dkms-580-server-open - metapackage",
]
DEBIAN = ["nvidia-smi", "libcuda1", "libnvidia-ml1", "libnvidia-cfg1", "libnvidia-nvvm4", "nvidia-persistenced"]
UBUNTU = ["nvidia-utils-580-server", "nvidia-compute-utils-580-server", "libnvidia-compute-580-server"]
EL = ["nvidia-driver-cuda", "nvidia-persistenced"]

# name: system, what gpu_info finds otherwise than on the bare host, variables, what is decided.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "Debian 12": ("Debian 12", {}, {}, {"install": True, "wanted": [*DEBIAN, "nvidia-kernel-dkms"]}),
    "Debian 13": ("Debian 13", {}, {}, {"install": True, "wanted": [*DEBIAN, "nvidia-kernel-dkms"]}),
    "Debian, open by name": (
        "Debian 13",
        {},
        {"nvidia_driver_kernel_modules": "open"},
        {"wanted": [*DEBIAN, "nvidia-open-kernel-dkms"]},
    ),
    "Debian, open by need": (
        "Debian 13",
        {"open_modules": "required"},
        {},
        {"wanted": [*DEBIAN, "nvidia-open-kernel-dkms"]},
    ),
    "Debian without headers": (
        "Debian 13",
        {"kernel.headers": False},
        {},
        {"wanted": [*DEBIAN, "nvidia-kernel-dkms", "linux-headers-6.12.107+deb13-amd64"]},
    ),
    "Ubuntu, signed": (
        "Ubuntu 24.04",
        {"kernel.headers": False},
        {"search": SIGNED},
        {
            "wanted": [
                *UBUNTU,
                "linux-modules-nvidia-580-server-open-6.8.0-90-generic",
                "nvidia-headless-no-dkms-580-server-open",
            ]
        },
    ),
    "Ubuntu, built": ("Ubuntu 24.04", {}, {}, {"wanted": [*UBUNTU, "nvidia-headless-580-server-open"]}),
    "Ubuntu, built, old GPU": (
        "Ubuntu 22.04",
        {"open_modules": "unsupported", "kernel.headers": False},
        {},
        {"wanted": [*UBUNTU, "nvidia-headless-580-server", "linux-headers-5.15.0-160-generic"]},
    ),
    "Ubuntu, another branch": (
        "Ubuntu 22.04",
        {},
        {"nvidia_driver_branch": 535, "nvidia_driver_kernel_modules": "proprietary"},
        {
            "wanted": [
                "nvidia-utils-535-server",
                "nvidia-compute-utils-535-server",
                "libnvidia-compute-535-server",
                "nvidia-headless-535-server",
            ]
        },
    ),
    "Ubuntu, Secure Boot": ("Ubuntu 24.04", {"secure_boot": "enabled"}, {"search": SIGNED}, {"refused": []}),
    "Ubuntu, Secure Boot, built": (
        "Ubuntu 24.04",
        {"secure_boot": "enabled"},
        {"search": ["dkms - modules"]},
        {"refused": ["a kernel that Ubuntu has signed modules for"]},
    ),
    "Debian, Secure Boot": (
        "Debian 13",
        {"secure_boot": "enabled"},
        {},
        {"refused": ["nvidia_driver_secure_boot_signed: true"]},
    ),
    "Debian, Secure Boot, own key": (
        "Debian 13",
        {"secure_boot": "enabled"},
        {"nvidia_driver_secure_boot_signed": True},
        {"refused": []},
    ),
    "Red Hat": (
        "Rocky 9",
        {},
        {},
        {"wanted": [*EL, "kmod-nvidia-open-dkms"], "stream": "nvidia-driver:580-open"},
    ),
    "Red Hat, old GPU": (
        "Rocky 9",
        {"open_modules": "unsupported", "kernel.headers": False},
        {},
        {
            "wanted": [*EL, "kmod-nvidia-latest-dkms", "kernel-devel-5.14.0-611.5.1.el9_7.x86_64"],
            "stream": "nvidia-driver:580-dkms",
        },
    ),
    "Red Hat, NVSwitch": ("Rocky 9", {"fabric_manager.required": True}, {}, {"install": True, "refused": []}),
    "Debian, NVSwitch": ("Debian 13", {"fabric_manager.required": True}, {}, {"refused": ["nvidia-fabricmanager"]}),
    "Blackwell on Ubuntu": (
        "Ubuntu 24.04",
        {"open_modules": "required", "devices": [{"address": "0000:01:00.0", "generation": "Blackwell"}]},
        {},
        {"install": True, "refused": []},
    ),
    "Blackwell on Debian": (
        "Debian 13",
        {"open_modules": "required", "devices": [{"address": "0000:01:00.0", "generation": "Blackwell"}]},
        {},
        {"refused": ["branch 570 or later (Blackwell)"]},
    ),
    "unknown system": ("Fedora 42", {}, {}, {"refused": ["Found Fedora 42"]}),
    "unknown system with a driver": (
        "Fedora 42",
        {**LOADED, "driver.origin": "nvidia"},
        {},
        {"refused": [], "install": False},
    ),
    "no GPU": ("Debian 13", {"present": False}, {}, {"install": False, "refused": [], "unproven": True}),
    "image without a GPU": (
        "Debian 13",
        {"present": False, "open_modules": ""},
        {"nvidia_driver_state": "present", "nvidia_driver_require_gpu": False},
        {"install": True, "refused": [], "unproven": False},
    ),
    "adopted from the distribution": ("Debian 13", LOADED, {}, {"install": False, "dormant": False, "refused": []}),
    "adopted from NVIDIA": ("Debian 13", {**LOADED, "driver.origin": "nvidia"}, {}, {"install": False, "refused": []}),
    "adopted from a .run file": (
        "Debian 13",
        {**LOADED, "driver.origin": "runfile", "driver.packages": {}},
        {},
        {"install": False, "refused": []},
    ),
    "a .run file's driver that does not answer": (
        "Debian 13",
        {
            **LOADED,
            "driver.answers": False,
            "driver.origin": "runfile",
            "driver.module_version": "",
            "driver.error": "gone",
        },
        {},
        {"refused": ["which does not answer: gone", "nvidia-uninstall"]},
    ),
    "too old": (
        "Debian 13",
        {**LOADED, "driver.version": "470.256.02", "driver.library_version": "470.256.02"},
        {},
        {"refused": ["Found driver 470.256.02 from the distribution's packages", "nvidia_driver_replace: true"]},
    ),
    "too old, replaced": (
        "Debian 13",
        {**LOADED, "driver.version": "470.256.02", "driver.library_version": "470.256.02"},
        {"nvidia_driver_replace": True},
        {"install": True, "replaced": ["libcuda1"], "refused": []},
    ),
    "newer than the branch that was asked for": (
        "Ubuntu 24.04",
        LOADED,
        {"nvidia_driver_branch": "535"},
        {"refused": ["525.60.13 or later of branch 535"], "replaced": []},
    ),
    "other modules than asked for": (
        "Ubuntu 24.04",
        LOADED,
        {"nvidia_driver_kernel_modules": "proprietary"},
        {"refused": ["with open kernel modules", "with proprietary kernel modules"]},
    ),
    "half installed": (
        "Debian 13",
        {**LOADED, "driver.loaded": False, "driver.version": "", "driver.answers": False, "driver.matches": None},
        {},
        {"install": True, "refused": []},
    ),
    "installed and not loaded": (
        "Debian 13",
        {
            **LOADED,
            "driver.loaded": False,
            "driver.version": "",
            "driver.answers": False,
            "driver.matches": None,
            "driver.packages": dict.fromkeys(DEBIAN, "1"),
        },
        {},
        {"install": False, "dormant": True, "loadable": True, "refused": []},
    ),
    "upgraded beneath the kernel": (
        "Debian 13",
        {
            **LOADED,
            "driver.version": "550.163.01",
            "driver.answers": False,
            "driver.matches": False,
            "driver.packages": dict.fromkeys(DEBIAN, "1"),
        },
        {},
        {"install": False, "dormant": True, "loadable": False, "refused": []},
    ),
    "nouveau, nobody asked": ("Debian 13", {"nouveau.loaded": True}, {}, {"refused": ["nvidia_driver_reboot: true"]}),
    "nouveau, reboot allowed": ("Debian 13", {"nouveau.loaded": True}, {"nvidia_driver_reboot": True}, {"refused": []}),
    "modules for another kernel": (
        "Debian 13",
        {**LOADED, "driver.module_version": ""},
        {"nvidia_driver_kernel": "6.12.108+deb13-amd64"},
        {"install": True, "wanted": [*DEBIAN, "nvidia-kernel-dkms"], "dormant": False},
    ),
    "Fabric Manager of another version": (
        "Ubuntu 24.04",
        {**LOADED, "fabric_manager.required": True, "fabric_manager.version": "570.148.08"},
        {},
        {"install": True, "fabric_missing": True, "refused": []},
    ),
}
REFUSED = (
    "{{ __nvidia_driver_refused + ("
    "__nvidia_driver_source_refusals | selectattr('refused') | map(attribute='message') | list if search else []) }}"
)


def found(changes: dict[str, Any]) -> dict[str, Any]:
    """The bare host with some of its values changed, by their dotted names."""
    gpu = copy.deepcopy(BARE)
    for name, value in changes.items():
        place, _dot, key = name.rpartition(".")
        (gpu[place] if place else gpu)[key] = value
    return gpu


def decide(system: str, changes: dict[str, Any], variables: dict[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    loader = DataLoader()
    files = [
        loader.load_from_file(str(ROLE / f"{name}/main.yml"), trusted_as_template=True) for name in ("defaults", "vars")
    ]
    distribution, _space, version = system.partition(" ")
    facts = {
        "distribution": distribution,
        "distribution_version": version,
        "distribution_major_version": version.partition(".")[0],
        "distribution_release": "noble",
        "kernel": KERNELS[system],
        "architecture": "x86_64",
    }
    known = {
        "ansible_facts": facts,
        "ansible_check_mode": False,
        "search": [],
        # As apt-cache search would answer.
        "__nvidia_driver_search": {"stdout_lines": variables.get("search", [])},
        "nvidia_driver_gpu_info": {"gpu": found(changes)},
    }
    templar = Templar(loader=loader, variables={**files[0], **known, **variables, **files[1]})
    sources = {key: REFUSED if key == "refused" else "{{ __nvidia_driver_" + key + " }}" for key in wanted}
    return {key: templar.template(trust_as_template(source)) for key, source in sources.items()}


HELD = {"driver.held": ["libcuda1"], "nouveau.blacklisted": True}
CONVERGED: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "as it should be": ({}, {}, True),
    "adopted": ({"nouveau.blacklisted": False, "driver.held": []}, {"nvidia_driver_state": "adopt"}, True),
    "no GPU": ({"present": False, "driver": BARE["driver"], "devices": []}, {}, True),
    "not held": ({"driver.held": []}, {}, False),
    "not held, and not to be": ({"driver.held": []}, {"nvidia_driver_hold": False}, True),
    "nouveau may come": ({"nouveau.blacklisted": False}, {}, False),
    "out of range": ({}, {"nvidia_driver_minimum_version": "999"}, False),
    "not answering": ({"driver.answers": False}, {}, False),
    "another module in the kernel": ({"driver.version": "570.100", "driver.matches": False}, {}, False),
    "a GPU that the driver does not list": ({"unlisted": ["0000:01:00.0"]}, {}, False),
    "a service that does not run": ({"persistence.daemon": "inactive"}, {}, False),
    "Fabric Manager of another version": (
        {"fabric_manager.required": True, "fabric_manager.state": "active"},
        {},
        False,
    ),
    "to be removed": ({}, {"nvidia_driver_state": "absent"}, False),
}


@pytest.mark.parametrize("name", CONVERGED)
def test_the_look_is_the_only_task_where_all_is_well(name: str) -> None:
    changes, variables, converged = CONVERGED[name]
    found = decide("Ubuntu 24.04", {**LOADED, **HELD, **changes}, variables, ["converged"])
    assert found["converged"] is converged


def test_unattended_upgrades_are_kept_off_the_driver_alone() -> None:
    template = (ROLE / "templates/52nvidia-driver.j2").read_text(encoding="utf-8")
    packages = dict.fromkeys(["nvidia-kernel-dkms", "libcuda1", "nvidia-firmware-580-server-580.95.05"], "1")
    variables = {"__nvidia_driver_driver": {"packages": packages}, "ansible_managed": "managed"}
    text = Templar(loader=DataLoader(), variables=variables).template(trust_as_template(template))
    patterns = re.findall(r'^ {4}"(.*)";$', text, re.MULTILINE)
    # unattended-upgrades takes them as regular expressions that match from the start of a name.
    assert [name for name in packages if not any(re.match(pattern, name) for pattern in patterns)] == []
    others = ["nvidia-crashdump", "nvidia-container-toolkit", "libcuda1-dev", "nvidia-kernel-dkms-extra"]
    assert [name for name in others if any(re.match(pattern, name) for pattern in patterns)] == []


@pytest.fixture(scope="module")
def decided() -> dict[str, dict[str, Any]]:
    return {name: decide(*case) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_what_is_decided(name: str, decided: dict[str, dict[str, Any]]) -> None:
    expected = dict(CASES[name][3])
    refused = expected.pop("refused", None)
    if refused == []:
        assert decided[name]["refused"] == []
    elif refused:
        assert len(decided[name]["refused"]) == 1
        assert [part for part in refused if part not in decided[name]["refused"][0]] == []
    assert {key: decided[name][key] for key in expected} == expected


def test_every_refusal_says_what_was_found_and_what_was_expected(decided: dict[str, dict[str, Any]]) -> None:
    messages = [message for each in decided.values() for message in each.get("refused", [])]
    assert len(messages) >= 10
    assert [m for m in messages if not (m.startswith("Found ") and "Expected " in m and m == " ".join(m.split()))] == []
