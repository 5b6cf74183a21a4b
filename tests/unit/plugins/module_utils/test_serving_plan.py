# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _serving_plan as sp

GIB, MIB = sp.GIB, sp.MIB
LLAMA = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096, "torch_dtype": "float16"}
SEVEN = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32}
# config.json of lmsys/vicuna-7b-v1.5, -7b-v1.5-16k, -13b-v1.5 and meta-llama/Meta-Llama-3-8B; the sizes are those of
# their weight files.
VICUNA_7B = ({**LLAMA, **SEVEN}, 13_476_926_466)
VICUNA_7B_16K = ({**LLAMA, **SEVEN, "rope_scaling": {"factor": 4.0, "type": "linear"}}, 13_476_926_466)
VICUNA_13B = (
    {
        **LLAMA,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "num_hidden_layers": 40,
    },
    26_031_868_013,
)
LLAMA_3_8B = (
    {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
        "vocab_size": 128256,
    },
    16_060_556_376,
)
AWQ_7B = ({**LLAMA, **SEVEN, "quantization_config": {"quant_method": "awq", "bits": 4}}, 3_892_816_000)


def info(shape: tuple[dict[str, Any], int], **more: Any) -> dict[str, Any]:
    config, stored = shape
    return {
        "commit": "c0ffee",
        "config": config,
        "quantisation": "awq 4-bit" if "quantization_config" in config else "",
        "files": [
            {"path": "a.bin", "oid": "", "size": stored * 3 // 4},
            {"path": "b.bin", "oid": "", "size": stored // 4},
        ],
        "weights_bytes": stored,
        "download_bytes": stored + 499_723,
        **more,
    }


def model(shape: tuple[dict[str, Any], int]) -> sp.Model:
    return sp.read_model(info(shape), "vicuna")


def card(index: int, total: int, used: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "index": index,
        "name": "NVIDIA Test",
        "memory_total_mib": total * 1024,
        "memory_free_mib": (total - used) * 1024,
        "memory_used_mib": used * 1024,
        "memory_reserved_mib": 0,
        "compute_capability": "9.0",
        "mig": "disabled",
        "mig_devices": [],
        "processes": [],
        **more,
    }


def gpus(*cards: dict[str, Any], **driver: Any) -> dict[str, Any]:
    return {
        "present": True,
        "devices": [
            {"address": f"0000:0{n}:00.0", "kind": "gpu", "generation": "Hopper"} for n, _card in enumerate(cards)
        ],
        "driver": {"answers": True, "version": "580.159.04", "error": "", **driver},
        "gpus": list(cards),
        "unlisted": [],
    }


def host(**more: Any) -> dict[str, Any]:
    return {
        "memory": {"total_mib": 512 * 1024, "available_mib": 500 * 1024},
        "clock_skew_s": 0.4,
        "file_systems": {
            "docker": {"path": "/var/lib/docker", "free_bytes": 200 * GIB, "device": 1},
            "model": {"path": "/", "free_bytes": 200 * GIB, "device": 1},
        },
        "objects_bytes": 0,
        "reclaimable_bytes": 0,
        "ports": [{"port": 8000, "free": True, "own": False, "by": ""}],
        "containers": [],
        "images": {},
        **more,
    }


SETTINGS: dict[str, Any] = {
    "device": "cuda",
    "model_name": "vicuna",
    "gpus": None,
    "workers": None,
    "num_gpus": None,
    "max_gpu_memory": None,
    "load_8bit": None,
    "limit_worker_concurrency": None,
    "cuda": "12.8",
    "minimum_driver": "525.60.13",
    "minimum_compute_capability": "7.0",
    "max_clock_skew": 60,
}


def plan(
    shape: tuple[dict[str, Any], int] = VICUNA_7B,
    gpu: dict[str, Any] | None = None,
    on: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    facts = {"gpu": gpu or {}, "host": on or host(), "model": info(shape)}
    return sp.serving_plan(facts, {**SETTINGS, **settings})


def checks(found: dict[str, Any]) -> list[str]:
    for problem in found["problems"]:
        assert problem["message"].startswith("Found ") and " Expected " in problem["message"]
    return [problem["check"] for problem in found["problems"]]


@pytest.fixture(autouse=True)
def _pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured may be measured better; the choices below are those for these numbers."""
    monkeypatch.setattr(sp, "CUDA_CONTEXT", 707 * MIB)
    monkeypatch.setattr(sp, "MLP_INTERMEDIATES", 3)
    monkeypatch.setattr(sp, "MLP_HIDDENS", 4)
    monkeypatch.setattr(sp, "HEAD_HIDDENS", 2)
    monkeypatch.setattr(sp, "CACHE_GAPS", 0.2)
    monkeypatch.setattr(sp, "DECOMPRESSED_COPIES", 2)
    monkeypatch.setattr(sp, "HOST_PROCESS", {"cuda": 1536 * MIB, "cpu": 400 * MIB})
    monkeypatch.setattr(sp, "IMAGE_BYTES", {"cuda": 9_000_000_000, "cpu": 2_000_000_000})


# --- the figures


@pytest.mark.parametrize(
    ("shape", "weights", "kv_kib", "context", "sequence_gib"),
    [
        (VICUNA_7B, 12.55, 512, 4096, 2.0),
        (VICUNA_7B_16K, 12.55, 512, 16384, 8.0),
        (VICUNA_13B, 24.24, 800, 4096, 3.125),
        # A quarter of the heads keep a cache.
        (LLAMA_3_8B, 14.96, 128, 8192, 1.0),
        (AWQ_7B, 3.63, 512, 4096, 2.0),
    ],
)
def test_figures(
    shape: tuple[dict[str, Any], int], weights: float, kv_kib: int, context: int, sequence_gib: float
) -> None:
    read = model(shape)
    assert sp.weights(read, "cuda") / GIB == pytest.approx(weights, abs=0.006)
    assert sp.kv_per_token(read, "cuda") == kv_kib * 1024
    assert read.context == context
    assert read.context * sp.kv_per_token(read, "cuda") / GIB == sequence_gib


def test_weights_follow_the_loaded_type() -> None:
    half, single = model(VICUNA_7B), model(({**VICUNA_7B[0], "torch_dtype": "float32"}, 2 * VICUNA_7B[1]))
    assert sp.weights(single, "cuda") == sp.weights(half, "cuda")
    assert sp.weights(half, "cpu") == 2 * sp.weights(half, "cuda")
    assert sp.kv_per_token(half, "cpu") == 2 * sp.kv_per_token(half, "cuda")


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("name", ["float16", "torch.bfloat16"])
def test_both_names_of_the_stored_type(key: str, name: str) -> None:
    config = {k: v for k, v in VICUNA_7B[0].items() if k != "torch_dtype"}
    assert model(({**config, key: name}, VICUNA_7B[1])).parameters == VICUNA_7B[1] // 2


@pytest.mark.parametrize("factor", [1, 2])
def test_an_unnamed_type_is_counted_from_the_shapes(factor: int) -> None:
    config = {key: value for key, value in VICUNA_7B[0].items() if key != "torch_dtype"}
    read = model((config, factor * VICUNA_7B[1]))
    assert read.parameters == VICUNA_7B[1] // 2


def test_eight_bits() -> None:
    """One byte for each value of a linear layer and a float16 scale for 256 of them; embeddings and norms stay."""
    read = model(VICUNA_7B)
    kept = 32000 * 4096 + 65 * 4096
    linear = read.parameters - kept
    assert sp.weights(read, "cuda", load_8bit=True) == pytest.approx(linear * (1 + 2 / 256) + 2 * kept, abs=2)
    assert sp.weights(read, "cuda", load_8bit=True) / GIB == pytest.approx(6.57, abs=0.2)
    assert sp.stream_overhead(read, "cuda", load_8bit=True) > sp.stream_overhead(read, "cuda")


def test_overhead_grows_with_the_context() -> None:
    """Logits of every position of a prompt, and what its layers keep meanwhile."""
    short, long = (sp.stream_overhead(model(shape), "cuda") for shape in (VICUNA_7B, VICUNA_7B_16K))
    assert long == 4 * short
    assert short >= 4096 * 32000 * 2


# What nvidia-smi showed at the peak, in MiB: one H200, driver 580.159.04, PyTorch 2.11, tests/gpu/memory.py on random
# float16 weights of the shape, every prompt 4,087 or 16,375 tokens long.
MEASURED = [
    (VICUNA_7B, False, 1, 16051),
    (VICUNA_7B, False, 5, 28313),
    (VICUNA_7B_16K, False, 1, 23443),
    (VICUNA_7B_16K, False, 2, 34687),
    # Without expandable segments, which the role sets and this run had not.
    (VICUNA_7B, True, 1, 11143),
    (VICUNA_7B, True, 2, 14221),
]


@pytest.mark.parametrize(("shape", "load_8bit", "streams", "used"), MEASURED)
def test_the_plan_is_within_10_percent_of_what_a_gpu_showed(
    shape: Any, load_8bit: bool, streams: int, used: int
) -> None:
    gpu = sp.Gpu("nvidia.com/gpu=0", "NVIDIA H200", 143771 * MIB, 143156 * MIB, "9.0")
    (share,) = sp.shares(model(shape), [gpu], sp.Layout(1, load_8bit, None))
    assert share.needed(streams) / MIB == pytest.approx(used, rel=0.10)


@pytest.mark.parametrize("streams", range(1, 9))
def test_what_fits_is_what_is_needed(streams: int) -> None:
    """The highest number of streams and the memory that they need are the same statement."""
    read, layout = model(VICUNA_7B), sp.Layout(1, False, None)
    (share,) = sp.shares(read, [sp.Gpu("nvidia.com/gpu=0", "GPU", 80 * GIB, 80 * GIB, "9.0")], layout)
    for free, most in ((share.needed(streams) + MIB, streams), (share.needed(streams) - MIB, streams - 1)):
        (other,) = sp.shares(read, [sp.Gpu("nvidia.com/gpu=0", "GPU", free, free, "9.0")], layout)
        assert other.most() == most


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "dynamic", "factor": 1.5}}, 3072),
        ({"seq_length": 1024, "max_seq_len": 9}, 1024),
        ({}, 2048),
    ],
)
def test_context_length(config: dict[str, Any], expected: int) -> None:
    assert sp.context_length(config) == expected


def test_scaling_that_fastchat_cannot_read() -> None:
    with pytest.raises(sp.Unreadable, match="rope_scaling without a factor"):
        sp.context_length({"max_position_embeddings": 4096, "rope_scaling": {"type": "mrope", "mrope_section": [1]}})


def test_scaling_that_fastchat_applies_twice() -> None:
    """config.json of Llama 3.1: its 131072 positions have the factor in them already."""
    scaling = {
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    found = plan(
        ({**LLAMA_3_8B[0], "max_position_embeddings": 131072, "rope_scaling": scaling}, LLAMA_3_8B[1]),
        gpus(card(0, 80)),
    )
    assert found["model"]["context_length"] == 1048576
    assert any("multiplies by the factor once more" in warning for warning in found["warnings"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": {"model_type": "llama"}}, "num_hidden_layers, num_attention_heads, hidden_size"),
        ({"weights_bytes": 0, "files": []}, "no weights"),
        ({"config": {**VICUNA_7B[0], "max_position_embeddings": "x"}}, "Found max_position_embeddings 'x'"),
    ],
)
def test_what_is_no_model(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(sp.Unreadable, match=words):
        sp.read_model(info(VICUNA_7B, **changes))


# --- the choice


@pytest.mark.parametrize(
    ("shape", "cards", "expected"),
    [
        # workers, GPUs for each, 8 bits, requests at once
        (VICUNA_7B, [80], (1, 1, False, 5)),
        (VICUNA_7B, [80, 80, 80], (3, 1, False, 5)),
        (VICUNA_7B, [23], (1, 1, False, 3)),
        (VICUNA_7B_16K, [45], (1, 1, False, 3)),
        (VICUNA_7B_16K, [22, 22], (1, 2, False, 2)),
        (VICUNA_7B_16K, [22, 22, 22, 22], (2, 2, False, 2)),
        (VICUNA_7B, [12], (1, 1, True, 1)),
        (VICUNA_13B, [24, 24], (1, 2, False, 4)),
        (VICUNA_13B, [22], (1, 1, True, 1)),
        (LLAMA_3_8B, [23], (1, 1, False, 2)),
        # The small one is left out.
        (VICUNA_7B, [80, 8], (1, 1, False, 5)),
        (AWQ_7B, [8], (1, 1, False, 1)),
    ],
)
def test_what_is_left_open_is_chosen(
    shape: tuple[dict[str, Any], int], cards: list[int], expected: tuple[int, int, bool, int]
) -> None:
    found = plan(shape, gpus(*(card(index, size) for index, size in enumerate(cards))))
    assert found["fits"], found["problems"]
    assert (found["workers"], found["num_gpus"], found["load_8bit"], found["limit_worker_concurrency"]) == expected
    memory = found["memory"]
    assert memory["needed_mib"] <= memory["free_mib"]
    assert memory["needed_mib"] == pytest.approx(
        memory["weights_mib"] + memory["kv_mib"] + memory["overhead_mib"], abs=3
    )
    assert len(found["gpus"]) == found["workers"]
    assert all(len(names) == found["num_gpus"] for names in found["gpus"])
    assert len({name for names in found["gpus"] for name in names}) == found["workers"] * found["num_gpus"]


def test_names_are_those_of_cdi() -> None:
    found = plan(gpu=gpus(card(0, 8), card(1, 80), card(2, 80)))
    assert found["gpus"] == [["nvidia.com/gpu=1"], ["nvidia.com/gpu=2"]]
    assert any("1 of 3 GPUs stay unused" in warning for warning in found["warnings"])


def test_a_mig_device_is_a_gpu_of_its_own() -> None:
    devices = [
        {"index": n, "profile": "3g.40gb", "memory_total_mib": 40320, "memory_free_mib": 40300} for n in range(2)
    ]
    found = plan(gpu=gpus(card(0, 80, mig="enabled", mig_devices=devices), card(1, 80)))
    assert found["gpus"] == [["nvidia.com/gpu=0:0"], ["nvidia.com/gpu=0:1"], ["nvidia.com/gpu=1"]]
    assert checks(plan(gpu=gpus(card(0, 80, mig="enabled")))) == ["gpu"]
    small = [{"index": n, "profile": "1g.10gb", "memory_total_mib": 9728, "memory_free_mib": 9700} for n in range(7)]
    # A process sees one MIG device only: several of them are never one worker's.
    assert checks(plan(VICUNA_13B, gpus(card(0, 80, mig="enabled", mig_devices=small)))) == ["gpu_memory"]


def test_memory_of_the_own_worker_counts_as_free() -> None:
    own = [{"id": "ab" * 32, "own": True, "memory_mib": 0}]
    held = [{"pid": 7, "name": "python3", "container": "ab" * 32, "memory_mib": 30 * 1024}]
    busy = gpus(card(0, 40, 30, processes=held))
    assert checks(plan(gpu=busy)) == ["gpu_memory"]
    assert plan(gpu=busy, on=host(containers=own)) == plan(gpu=gpus(card(0, 40)), on=host(containers=own))


def test_memory_of_others_does_not() -> None:
    held = [{"pid": 7, "name": "/usr/bin/trainer", "container": "", "memory_mib": 30 * 1024}]
    found = plan(gpu=gpus(card(0, 40, 30, processes=held)))
    assert checks(found) == ["gpu_memory"]
    assert "trainer (pid 7, 30.0 GiB)" in found["problems"][0]["message"]


def test_host_memory_limits_the_workers() -> None:
    found = plan(
        gpu=gpus(*(card(n, 80) for n in range(8))), on=host(memory={"total_mib": 65536, "available_mib": 60000})
    )
    assert (found["fits"], found["workers"], len(found["gpus"])) == (True, 5, 5)
    explicit = plan(
        gpu=gpus(*(card(n, 80) for n in range(8))),
        on=host(memory={"total_mib": 65536, "available_mib": 60000}),
        workers=8,
    )
    assert checks(explicit) == ["host_memory"]
    assert "fastchat_workers: 5" in explicit["problems"][0]["message"]


# --- what is set is kept, and judged


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"workers": 1}, (1, 1, False, 5)),
        ({"num_gpus": 2}, (1, 2, False, 5)),
        ({"load_8bit": True}, (2, 1, True, 5)),
        ({"limit_worker_concurrency": 2}, (2, 1, False, 2)),
        ({"limit_worker_concurrency": 8}, (2, 1, False, 8)),
        ({"gpus": ["nvidia.com/gpu=1"]}, (1, 1, False, 5)),
        ({"gpus": ["nvidia.com/gpu=all"]}, (2, 1, False, 5)),
    ],
)
def test_settings_win(settings: dict[str, Any], expected: tuple[int, int, bool, int]) -> None:
    found = plan(gpu=gpus(card(0, 80), card(1, 80)), **settings)
    assert found["fits"], found["problems"]
    assert (found["workers"], found["num_gpus"], found["load_8bit"], found["limit_worker_concurrency"]) == expected
    if len(settings.get("gpus") or []) == 1 and found["workers"] == 1:
        assert found["gpus"] == [["nvidia.com/gpu=1"]]


@pytest.mark.parametrize(
    ("cards", "settings", "check", "remedy"),
    [
        ([14], {"load_8bit": False, "limit_worker_concurrency": 1}, "gpu_memory", "fastchat_load_8bit: true"),
        ([23], {"limit_worker_concurrency": 5, "load_8bit": False}, "gpu_memory", "limit_worker_concurrency: 3"),
        ([24, 8], {"workers": 2, "load_8bit": False}, "gpu_memory", "fastchat_workers: 1"),
        ([80], {"workers": 2}, "gpu", "Lower fastchat_workers"),
        ([80], {"num_gpus": 2}, "gpu", "fastchat_num_gpus"),
        ([80], {"gpus": ["nvidia.com/gpu=3"]}, "gpu", "Correct fastchat_gpus"),
        ([80, 80], {"num_gpus": 2, "max_gpu_memory": "4GiB"}, "gpu_memory", "Raise fastchat_max_gpu_memory"),
        ([6], {}, "gpu_memory", "In 8 bits it would be"),
    ],
)
def test_settings_that_do_not_fit(cards: list[int], settings: dict[str, Any], check: str, remedy: str) -> None:
    found = plan(gpu=gpus(*(card(index, size) for index, size in enumerate(cards))), **settings)
    assert checks(found) == [check]
    assert remedy in found["problems"][0]["message"]


def test_eight_bits_are_ignored_with_several_gpus() -> None:
    found = plan(gpu=gpus(card(0, 24), card(1, 24)), num_gpus=2, load_8bit=True)
    assert (found["load_8bit"], found["num_gpus"]) == (False, 2)
    assert any("without effect" in warning for warning in found["warnings"])


def test_several_gpus_get_a_limit_for_the_weights() -> None:
    found = plan(VICUNA_13B, gpus(card(0, 24), card(1, 24)), num_gpus=2)
    read = model(VICUNA_13B)
    # Half of the weights and a layer besides fit under it; KV cache and overhead fit beside it.
    size = sp.memory_size(found["max_gpu_memory"])
    assert size is not None
    assert sp.weights(read, "cuda") / 2 < size < 24 * GIB
    # A little less free memory is no other plan.
    again = plan(VICUNA_13B, gpus(card(0, 24, memory_free_mib=24 * 1024 - 100), card(1, 24)), num_gpus=2)
    assert again["max_gpu_memory"] == found["max_gpu_memory"]


def test_fastchats_own_way_fills_the_first_gpu() -> None:
    found = plan(VICUNA_13B, gpus(card(0, 80), card(1, 80)), num_gpus=2, max_gpu_memory="")
    assert found["max_gpu_memory"] == ""
    assert found["memory"]["weights_mib"] == pytest.approx(26_031_868_013 / MIB, rel=0.01)


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GiB", 20 * GIB), ("13Gib", 13 * GIB), ("20GB", 20 * 10**9), ("512 MiB", 512 * MIB), ("20", None), ("", None)],
)
def test_memory_size(text: str, size: int | None) -> None:
    assert sp.memory_size(text) == size


# --- before the driver


def test_without_a_driver_the_bus_tells_the_number() -> None:
    bare = gpus(card(0, 80), card(1, 80), answers=False, version="", error="no driver is loaded")
    found = plan(gpu={**bare, "gpus": []})
    assert (found["fits"], found["judged"], found["workers"], found["memory"]) == (True, False, 2, {})
    assert found["gpus"] == [["nvidia.com/gpu=0"], ["nvidia.com/gpu=1"]]
    assert "2 GPUs on the bus" in " ".join(found["warnings"])
    assert checks(plan(gpu={**bare, "gpus": []}, workers=3)) == ["gpu"]


@pytest.mark.parametrize(
    ("gpu", "settings", "expected"),
    [
        ({"present": False}, {}, ["gpu"]),
        ({**gpus(card(0, 80)), "gpus": []}, {}, ["gpu"]),
        (gpus(card(0, 80), version="470.256.02"), {}, ["driver"]),
        (gpus(card(0, 80), version="470.256.02"), {"replace_driver": True}, []),
        (gpus(card(0, 80), version="525.60.13"), {}, []),
        (gpus(card(0, 80, compute_capability="6.1")), {}, ["gpu"]),
        (gpus(card(0, 80, compute_capability="10.0")), {}, []),
        ({**gpus(answers=False), "devices": [{"kind": "gpu", "generation": "Pascal"}]}, {}, ["gpu"]),
        ({**gpus(answers=False), "devices": [{"kind": "gpu", "generation": ""}]}, {}, []),
    ],
)
def test_gpus_and_drivers(gpu: dict[str, Any], settings: dict[str, Any], expected: list[str]) -> None:
    assert checks(plan(gpu=gpu, **settings)) == expected


# --- without a GPU


def test_on_the_cpu() -> None:
    found = plan(on=host(), device="cpu")
    assert (found["fits"], found["workers"], found["num_gpus"], found["gpus"]) == (True, 1, 0, [])
    assert found["memory"]["weights_mib"] == pytest.approx(2 * 12.55 * 1024, rel=0.001)
    assert found["limit_worker_concurrency"] == 5


def test_on_a_cpu_that_is_too_small() -> None:
    small = host(memory={"total_mib": 32768, "available_mib": 30000})
    assert (
        plan(on=host(memory={"total_mib": 65536, "available_mib": 40000}), device="cpu")["limit_worker_concurrency"]
        == 2
    )
    found = plan(on=small, device="cpu")
    assert checks(found) == ["host_memory"]
    # What the own worker holds is given back.
    own = [{"id": "ab" * 32, "own": True, "memory_mib": 20000}]
    assert plan(on={**small, "memory": {"total_mib": 65536, "available_mib": 20000}, "containers": own}, device="cpu")[
        "fits"
    ]


# --- disk, ports, clock, and what could not be looked at


def disk(one: int, other: int, same: bool, **more: Any) -> dict[str, Any]:
    systems = {
        "docker": {"path": "/var/lib/docker", "free_bytes": one * GIB, "device": 1},
        "model": {"path": "/model", "free_bytes": other * GIB, "device": 1 if same else 2},
    }
    return host(file_systems=systems, **more)


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        (disk(10, 14, same=False), []),
        (disk(20, 20, same=True), ["disk"]),
        (disk(22, 22, same=True), []),
        (disk(10, 12, same=False), ["disk"]),
        (disk(8, 12, same=False), ["disk", "disk"]),
        # What is there already is not fetched again, and an older revision gives way.
        (disk(10, 2, same=False, objects_bytes=12 * 10**9), []),
        (disk(10, 2, same=False, reclaimable_bytes=13 * GIB), []),
        (disk(1, 14, same=False, images={"a": True, "b": True}), []),
        (disk(1, 14, same=False, images={"a": True, "b": False}), ["disk"]),
        (disk(1, 14, same=False, containers=[{"id": "x", "own": True}]), []),
        (disk(1, 14, same=False, containers=[{"id": "x", "own": False}]), ["disk"]),
    ],
)
def test_disk(on: dict[str, Any], expected: list[str]) -> None:
    assert checks(plan(gpu=gpus(card(0, 80)), on=on)) == expected


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"free": True, "own": False, "by": ""}, []),
        ({"free": False, "own": True, "by": "the container vicuna-edge-1"}, []),
        ({"free": False, "own": False, "by": "nginx (pid 7)"}, ["port"]),
    ],
)
def test_ports(port: dict[str, Any], expected: list[str]) -> None:
    found = plan(gpu=gpus(card(0, 80)), on=host(ports=[{"port": 8000, **port}]))
    assert checks(found) == expected
    assert not expected or "nginx (pid 7)" in found["problems"][0]["message"]


@pytest.mark.parametrize(
    ("skew", "most", "expected"), [(59.0, 60, []), (61.0, 60, ["clock"]), (-900.0, 60, ["clock"]), (900.0, 0, [])]
)
def test_clock(skew: float, most: int, expected: list[str]) -> None:
    assert checks(plan(gpu=gpus(card(0, 80)), on=host(clock_skew_s=skew), max_clock_skew=most)) == expected


def test_what_could_not_be_looked_at_is_a_problem_beside_the_others() -> None:
    facts = {
        "gpu": gpus(card(0, 80)),
        "host": host(clock_skew_s=900.0),
        "model_error": "Found no model. Expected one. Mend it.",
        "system_error": "Found Plan 9. Expected Debian 13. Choose it.",
    }
    found = sp.serving_plan(facts, SETTINGS)
    assert checks(found) == ["system", "model", "clock"]


# --- words


def test_table() -> None:
    plans = {
        "gpu-10": plan(gpu=gpus(card(0, 80))),
        "gpu-2": plan(gpu=gpus(card(0, 6))),
        "gpu-3": None,
    }
    head, second, third, tenth, *why = sp.table(plans)
    assert head.split()[:3] == ["HOST", "MODEL", "CONTEXT"]
    assert second.startswith("gpu-2 ") and second.endswith("does not fit: gpu_memory")
    assert "no plan" in third
    assert tenth.split()[:2] == ["gpu-10", "vicuna"] and tenth.endswith("fits")
    assert why[0].startswith("gpu-2: Found 6.0 GiB free")


def test_the_table_of_a_host_without_a_model() -> None:
    broken = sp.serving_plan({"gpu": {}, "host": host(), "model_error": "Found none. Expected one. Mend it."}, SETTINGS)
    bare = plan(gpu={**gpus(card(0, 80), answers=False), "gpus": []})
    lines = sp.table({"a": broken, "b": bare})
    assert "does not fit: model, gpu" in lines[1]
    assert "memory after the driver" in lines[2]


def test_an_engine_whose_configuration_cannot_be_read() -> None:
    """Where its data would be, nobody can tell: the plan says so, and judges no room there."""
    found = plan(
        on=host(
            engine={
                "answers": False,
                "error": "refused",
                "root": "",
                "config_error": "Found a malformed file. Expected …",
            },
            file_systems={"model": {"path": "/", "free_bytes": 200 * GIB, "device": 1}},
        ),
        gpu=gpus(card(0, 80)),
    )
    assert checks(found) == ["engine"]


UNTOLD = {"memory_total_mib": None, "memory_free_mib": None, "memory_used_mib": None, "memory_reserved_mib": None}
GB10 = card(0, 0, name="NVIDIA GB10", compute_capability="12.1", **UNTOLD)
OURS = {"pid": 7, "name": "python3", "container": "a" * 64, "memory_mib": 14000}
OTHER = {"pid": 8, "name": "Xorg", "container": "", "memory_mib": 1024}
MINE = {"containers": [{"id": "a" * 64, "own": True, "memory_mib": 0}]}


@pytest.mark.parametrize(
    ("entry", "own", "untold", "expected"),
    [
        # total, free in GiB, and whether they are known
        (card(0, 80, 10), False, None, (80, 70, True)),
        (GB10, False, None, (0, 0, False)),
        (card(0, 0), False, None, (0, 0, False)),
        (GB10, False, 64, (64, 64, True)),
        (card(0, 80, 10), False, 64, (80, 70, True)),
        ({**GB10, "processes": [OTHER]}, False, 64, (64, 63, True)),
        ({**GB10, "processes": [{**OTHER, "memory_mib": None}]}, False, 64, (64, 64, True)),
        ({**GB10, "processes": [OURS]}, True, None, (0, 0, False)),
        ({**GB10, "processes": [OURS]}, True, 64, (64, 64, True)),
        # A driver that tells the total alone.
        ({**card(0, 80), "memory_free_mib": None}, False, None, (80, 0, False)),
        ({**card(0, 80), "memory_free_mib": None}, False, 64, (80, 64, True)),
        ({**card(0, 80), "memory_free_mib": None, "processes": [OURS]}, True, None, (80, 80, True)),
        # What our worker holds is not told: all that the others do not.
        ({**card(0, 80, 30), "processes": [{**OURS, "memory_mib": None}, OTHER]}, True, None, (80, 79, True)),
        (
            {**card(0, 80, 30), "processes": [{**OURS, "memory_mib": None}, {**OTHER, "memory_mib": None}]},
            True,
            None,
            (80, 50, True),
        ),
    ],
)
def test_gpus_that_do_not_tell_their_memory(
    entry: dict[str, Any], own: bool, untold: int | None, expected: tuple[int, int, bool]
) -> None:
    (unit,) = sp.gpu_units({"gpus": [entry]}, ["a" * 64] if own else [], untold * GIB if untold else None)
    assert (unit.total / GIB, unit.free / GIB, unit.told) == expected


def test_a_mig_device_without_memory() -> None:
    parts = [{"index": 0, "profile": "3g.40gb", "memory_total_mib": None, "memory_free_mib": None}]
    entry = card(0, 0, mig="enabled", mig_devices=parts, **UNTOLD)
    (unit,) = sp.gpu_units({"gpus": [entry]}, [])
    assert (unit.told, unit.mig) == (False, True)
    (unit,) = sp.gpu_units({"gpus": [entry]}, [], 40 * GIB)
    assert (unit.told, unit.free) == (True, 40 * GIB)


def test_a_gpu_that_shares_the_hosts_memory_takes_a_word_of_the_inventory() -> None:
    refused = plan(gpu=gpus(GB10), workers=1, num_gpus=1, load_8bit=False)
    assert checks(refused) == ["gpu_memory"]
    (problem,) = refused["problems"]
    assert problem["message"].startswith("Found NVIDIA GB10 (nvidia.com/gpu=0), whose driver does not tell the memory.")
    remedy = "Set preflight_gpu_memory to what may be used of each such GPU, such as 375GiB."
    assert problem["message"].endswith(remedy)
    # What it says, done.
    found = plan(gpu=gpus(GB10), gpu_memory="375GiB")
    assert found["fits"] and found["gpus"] == [["nvidia.com/gpu=0"]]
    assert found["memory"]["free_mib"] == 375 * 1024
    # The inventory's word is judged as the driver's is.
    assert checks(plan(gpu=gpus(GB10), gpu_memory="4GiB")) == ["gpu_memory"]


def test_others_are_taken_where_one_does_not_tell() -> None:
    both = gpus(card(0, 80), {**GB10, "index": 1})
    found = plan(gpu=both)
    assert found["fits"] and found["gpus"] == [["nvidia.com/gpu=0"]]
    assert any("NVIDIA GB10 (nvidia.com/gpu=1) left out" in warning for warning in found["warnings"])
    assert checks(plan(gpu=both, gpus=["nvidia.com/gpu=1"])) == ["gpu_memory"]
    assert plan(gpu=both, gpus=["nvidia.com/gpu=1"], gpu_memory="64GiB")["gpus"] == [["nvidia.com/gpu=1"]]


def test_a_host_that_serves_already_on_such_a_gpu() -> None:
    again = plan(gpu=gpus({**GB10, "processes": [OURS]}), on=host(**MINE), gpu_memory="64GiB")
    assert again["fits"]


def test_memory_that_gpu_and_host_share_is_counted_once() -> None:
    small = host(memory={"total_mib": 32 * 1024, "available_mib": 24 * 1024})
    found = plan(gpu=gpus(GB10), on=small, gpu_memory="24GiB")
    assert found["fits"]
    assert any(warning.startswith("Where the GPU shares the host's memory, ") for warning in found["warnings"])
    assert not any("shares" in warning for warning in plan(gpu=gpus(card(0, 80)), on=small)["warnings"])
    assert not any("shares" in warning for warning in plan(gpu=gpus(GB10), gpu_memory="24GiB")["warnings"])
