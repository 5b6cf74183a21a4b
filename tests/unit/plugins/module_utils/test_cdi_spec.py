# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._cdi_spec import Gpu, Spec, problems, settings, with_output

PATH = "/etc/cdi/nvidia.yaml"
DRIVER = "580.159.04"
TWO = [Gpu(0, "GPU-a"), Gpu(1, "GPU-b")]
IN_MIG = [Gpu(0, "GPU-a", ((0, "MIG-x"), (1, "MIG-y"))), Gpu(1, "GPU-b")]


def spec(names: str, path: str = PATH, version: str = DRIVER) -> Spec:
    return Spec(path, version, tuple(f"nvidia.com/gpu={name}" for name in names.split()))


BOTH = spec("0 1 GPU-a GPU-b all")


@pytest.mark.parametrize("gpus_spec", [BOTH, spec("0 1 all"), spec("GPU-a GPU-b all"), spec("0 1 all", version="")])
def test_a_specification_that_fits(gpus_spec: Spec) -> None:
    assert problems([gpus_spec], PATH, DRIVER, TWO) == []


def test_other_devices_of_nvidia_are_no_second_specification() -> None:
    other = Spec("/etc/cdi/imex.yaml", "", ("nvidia.com/imex-channel=0",))
    assert problems([BOTH, other], PATH, DRIVER, TWO) == []


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        ([], "no CDI specification names a GPU"),
        ([Spec("/etc/cdi/imex.yaml", "", ("nvidia.com/imex-channel=0",))], "no CDI specification names a GPU"),
        ([spec("0 1 all", version="550.1")], f"{PATH} is of driver 550.1, and {DRIVER} is loaded"),
        ([spec("0 all")], f"{PATH} names 0, and the host has 0, 1"),
        ([spec("0 1 2 all")], f"{PATH} names 0, 1, 2, and the host has 0, 1"),
        ([spec("0 1 GPU-a GPU-c all")], f"{PATH} names GPU-a, GPU-c, and the host has GPU-a, GPU-b"),
        ([spec("0 1")], f"{PATH} does not name the device all"),
        ([BOTH, spec("0 1 all", "/etc/cdi/a.json")], "/etc/cdi/a.json is a second specification of the GPUs"),
        ([spec("0 1 all", "/var/run/cdi/nvidia.yaml")], f"{PATH} is missing"),
    ],
)
def test_a_specification_that_does_not_fit(specs: list[Spec], found: str) -> None:
    assert found in problems(specs, PATH, DRIVER, TWO)


def test_mig_devices_stand_for_their_gpu() -> None:
    names = "0:0 0:1 1 MIG-x MIG-y GPU-b all"
    assert problems([spec(names)], PATH, DRIVER, IN_MIG) == []
    assert problems([spec(names + " 0 GPU-a")], PATH, DRIVER, IN_MIG) == []
    assert problems([spec(names.replace("0:1", ""))], PATH, DRIVER, IN_MIG) != []
    assert problems([BOTH], PATH, DRIVER, IN_MIG) != []
    assert problems([spec(names)], PATH, DRIVER, TWO) != []


def test_a_uuid_that_the_driver_does_not_tell_is_not_compared() -> None:
    assert problems([BOTH], PATH, DRIVER, [Gpu(0, ""), Gpu(1, "GPU-b")]) == []


# The environment file as the Container Toolkit 1.20 installs it, shortened.
SHIPPED = """\
# This file can be used to override the configuration of the
#   nvidia-ctk cdi generate
# command invoked by the nvidia-cdi-refresh.service.
#
# ENVVAR=value
# NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
"""


def test_settings() -> None:
    text = SHIPPED + "NVIDIA_CTK_DEBUG=1\nNVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS='no-additional-gids-for-device-nodes'\n"
    assert settings(SHIPPED) == {}
    assert settings(text) == {
        "NVIDIA_CTK_DEBUG": "1",
        "NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS": "no-additional-gids-for-device-nodes",
    }


def test_with_output() -> None:
    once = with_output(SHIPPED, PATH)
    assert once == SHIPPED + f"NVIDIA_CTK_CDI_OUTPUT_FILE_PATH={PATH}\n"
    assert with_output(once, PATH) == once
    assert with_output(once, "/else") == SHIPPED + "NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/else\n"
