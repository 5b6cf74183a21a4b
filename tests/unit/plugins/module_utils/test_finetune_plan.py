# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils import _finetune_plan as fp
from ansible_collections.vicuna.fleet.plugins.module_utils._serving_plan import GIB, MIB, read_model

from .test_serving_plan import AWQ_7B, LLAMA, VICUNA_7B, VICUNA_7B_16K, VICUNA_13B, card, gpus, host, info

# What a sandbox host trains: about two million parameters in float32.
TINY = (
    {
        **LLAMA,
        "torch_dtype": "float32",
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 4000,
        "max_position_embeddings": 2048,
    },
    6_000_000,
)
# nvidia-smi's total in MiB.
A100_80, A100_40, A10, H200 = 81920, 40960, 23028, 143771
DISK = 2000 * GIB
SETTINGS: dict[str, Any] = {
    "device": "cuda",
    "method": "full",
    "model_name": "vicuna",
    "batch_size": None,
    "gradient_accumulation": None,
    "max_length": None,
    "gpus": None,
    "lora_rank": 8,
    "keep_checkpoints": 2,
    "drain_serving": False,
}
SERVES = {"pid": 9, "name": "python3", "memory_mib": 20000, "container": "serve"}


def cards(number: int, total_mib: int, used_mib: int = 600, **more: Any) -> dict[str, Any]:
    every = [card(n, 0, 0, **more) for n in range(number)]
    for one in every:
        one.update(memory_total_mib=total_mib, memory_free_mib=total_mib - used_mib)
    return gpus(*every)


def machine(free_disk: int = DISK, **more: Any) -> dict[str, Any]:
    place = {"path": "/", "free_bytes": free_disk, "device": 1}
    return {**host(**more), "file_systems": {"run": place, "models": place, "docker": place}}


def plan(
    shape: tuple[dict[str, Any], int] = VICUNA_7B,
    gpu: dict[str, Any] | None = None,
    on: dict[str, Any] | None = None,
    training: tuple[str, ...] = (),
    **settings: Any,
) -> dict[str, Any]:
    facts = {"gpu": gpu or {}, "host": on or machine(), "model": info(shape), "training": list(training)}
    return fp.finetune_plan(facts, {**SETTINGS, **settings})


def checks(found: dict[str, Any]) -> list[str]:
    for problem in found["problems"]:
        assert problem["message"].startswith("Found ") and " Expected " in problem["message"]
    return [problem["check"] for problem in found["problems"]]


# shape, GPUs, MiB each, settings; what is refused; the range in which the need of one GPU lies, in GiB; batch.
TABLE = [
    ("7B full, 4 x A100-80", VICUNA_7B, 4, A100_80, {"batch_size": 2, "max_length": 2048}, [], (27, 40), 2),
    ("7B full, 4 x A100-40", VICUNA_7B, 4, A100_40, {}, [], (27, 40), 2),
    ("7B full, one A100-80", VICUNA_7B, 1, A100_80, {}, ["gpu_memory"], (103, 110), 1),
    ("7B full, one H200", VICUNA_7B, 1, H200, {}, [], (104, 112), 2),
    ("7B full, one A10", VICUNA_7B, 1, A10, {}, ["gpu_memory"], (103, 110), 1),
    ("7B lora, one A10", VICUNA_7B, 1, A10, {"method": "lora"}, [], (14, 21), 2),
    ("7B qlora, one A10, 1024", VICUNA_7B, 1, A10, {"method": "qlora", "max_length": 1024}, [], (5, 9), 2),
    ("7B 16k qlora, as by default", VICUNA_7B_16K, 1, A10, {"method": "qlora"}, [], (5, 9), 2),
    ("13B full, 4 x A100-80", VICUNA_13B, 4, A100_80, {}, [], (52, 70), 2),
    ("13B full, 4 x A100-40", VICUNA_13B, 4, A100_40, {}, ["gpu_memory"], (50, 70), 1),
    ("13B full, 8 x A100-40", VICUNA_13B, 8, A100_40, {}, [], (27, 38), 2),
    ("13B lora, one A10", VICUNA_13B, 1, A10, {"method": "lora"}, ["gpu_memory"], (26, 34), 1),
    ("13B qlora, one A10", VICUNA_13B, 1, A10, {"method": "qlora"}, ["gpu_memory"], (8, 14), 2),
    ("7B lora, 16384", VICUNA_7B_16K, 1, A10, {"method": "lora", "max_length": 16384}, ["gpu_memory"], (20, 40), 1),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_what_fits(row: tuple[Any, ...]) -> None:
    _name, shape, number, mib, settings, refused, between, batch = row
    found = plan(shape, cards(number, mib), **settings)
    assert checks(found) == refused, found["problems"]
    assert found["fits"] is not bool(refused)
    assert between[0] <= found["memory"]["needed_mib"] / 1024 <= between[1], found["memory"]
    assert found["gpus"] == [f"nvidia.com/gpu={n}" for n in range(number)]
    assert found["batch_size"] == batch
    assert found["batch_size"] * found["gradient_accumulation"] == 2


def test_what_is_to_be_fetched_takes_room() -> None:
    assert plan(gpu=cards(1, A10), method="qlora", fetch=True)["disk"][0]["needed_mib"] > 33 * 1024


def test_the_known_sizes() -> None:
    """16 bytes a trained parameter; LoRA's own count of Llama 7B at rank 8 (peft: 19,988,480 on all seven matrices)."""
    model = read_model(info(VICUNA_7B))
    assert fp.adapter_parameters(model, 8) == 19_988_480
    assert fp.adapter_parameters(model, 8, [*fp.LORA_TARGETS, "lm_head"]) == 19_988_480 + 8 * (4096 + 32000)
    need = fp.need(model, fp.Job("full", "cuda", 1, 1, 2048))
    assert need.weights + need.gradients + need.optimizer == pytest.approx(16 * 6.738e9, rel=0.001)
    # QLoRA's 7B: 3.3 GB of NF4, and 1.05 GB of float32 for embeddings and head.
    qlora = fp.need(model, fp.Job("qlora", "cuda", 1, 1, 1024))
    assert 4.2e9 < qlora.weights < 5.0e9


def test_what_would_do_is_said() -> None:
    message = plan(gpu=cards(1, A10))["problems"][0]["message"]
    assert "finetune_method: lora" in message
    assert "a host with" not in message or "such GPUs" in message
    message = plan(gpu=cards(1, A100_80))["problems"][0]["message"]
    assert "a host with 2 such GPUs" in message
    message = plan(VICUNA_7B_16K, cards(1, A10), method="lora", max_length=16384)["problems"][0]["message"]
    assert "finetune_method: qlora with finetune_max_length: 1024" in message
    # Its 4-bit weights would fit, and its result could not be asked.
    message = plan(VICUNA_13B, cards(1, A10), method="lora")["problems"][0]["message"]
    assert "a GPU with more memory" in message
    message = plan(gpu=cards(1, A10), method="qlora", batch_size=32, max_length=4096)["problems"][0]["message"]
    assert "finetune_batch_size: 1" in message


def test_activations_and_checkpointing() -> None:
    model = read_model(info(VICUNA_7B))
    job = fp.Job("lora", "cuda", 1, 2, 2048)
    kept, again = (fp.kept_activations(model, fp.Job(**{**vars(job), "checkpointing": on})) for on in (False, True))
    assert kept > 10 * again
    assert fp.activations(model, job) == again + fp.layer_activations(model, job)
    other = fp.Job(**{**vars(job), "lora_targets": ("q_proj",)})
    assert fp.activations(model, other) == again + 2 * 2048 * 32000 * fp.LOGIT_BYTES
    # The gradients of all weights take the room of what the loss needed.
    full = fp.Job("full", "cuda", 1, 2, 2048)
    assert fp.activations(model, full) == fp.layer_activations(model, full)


# What nvidia-smi showed at its peak on an H200, in MiB: tests/gpu/README.md.
PEAKS = [
    (fp.Job("full", "cuda", 1, 2, 2048), 107_121),
    (fp.Job("full", "cuda", 2, 2, 2048), 60_163),
    (fp.Job("lora", "cuda", 1, 2, 2048), 17_843),
    (fp.Job("lora", "cuda", 1, 8, 2048), 26_259),
    (fp.Job("qlora", "cuda", 1, 2, 1024), 8_241),
    (fp.Job("qlora", "cuda", 1, 8, 1024), 16_339),
]


@pytest.mark.parametrize(("job", "seen"), PEAKS, ids=[f"{job.method}-{job.gpus}x{job.batch_size}" for job, _ in PEAKS])
def test_the_peaks_of_an_h200(job: fp.Job, seen: int) -> None:
    assert fp.need(read_model(info(VICUNA_7B)), job).total / MIB == pytest.approx(seen, rel=0.08)


SERVING = machine(containers=[{"id": "serve", "name": "vicuna-model-worker-1", "own": True, "running": True}])


def test_a_serving_gpu_is_left_alone() -> None:
    busy = cards(2, A100_80)
    busy["gpus"][0].update(memory_free_mib=A100_80 - 20000, processes=[SERVES])
    found = plan(gpu=busy, on=SERVING, method="lora")
    assert found["gpus"] == ["nvidia.com/gpu=1"] and found["fits"]
    assert "nvidia.com/gpu=0 left alone: python3 (pid 9" in found["warnings"][0]
    drained = plan(gpu=busy, on=SERVING, method="lora", drain_serving=True)
    assert drained["gpus"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]


def test_only_serving_gpus() -> None:
    busy = cards(1, A100_80, processes=[SERVES])
    found = plan(gpu=busy, on=SERVING, method="qlora")
    assert checks(found) == ["gpu"]
    assert "finetune_drain_serving: true" in found["problems"][0]["message"]
    # Somebody else's process is never stopped.
    other = cards(1, A100_80, processes=[{**SERVES, "container": "other"}])
    found = plan(gpu=other, on=SERVING, method="qlora", drain_serving=True)
    assert checks(found) == ["gpu"] and "drain_serving" not in found["problems"][0]["message"]


def test_a_training_that_is_found_again_counts_as_free() -> None:
    busy = cards(1, A10, 20000, processes=[{**SERVES, "container": "train"}], memory_reserved_mib=500)
    assert plan(gpu=busy, training=("train0123",), method="qlora")["fits"]
    assert checks(plan(gpu=busy, method="qlora")) == ["gpu"]


REFUSALS = [
    ({"gpu": cards(1, A10), "shape": VICUNA_13B, "method": "qlora"}, "gpu_memory", "to ask the base and the merged"),
    ({"gpu": cards(4, A100_80), "on": machine(engine={"answers": False, "error": "none."})}, "engine", "(none)"),
    ({"gpu": {}}, "gpu", "no NVIDIA GPU on the PCI bus"),
    ({"gpu": gpus(answers=False, error="NVRM: mismatch.")}, "gpu", "(NVRM: mismatch)"),
    ({"gpu": cards(1, A10, compute_capability="7.5")}, "gpu", "compute capability 7.5"),
    ({"gpu": cards(2, A100_80), "gpus": 4}, "gpu", "4, as finetune_gpus says"),
    ({"gpu": cards(1, A10, mig="enabled")}, "gpu", "MIG switched on, and no MIG device"),
    ({"gpu": gpus()}, "gpu", "a driver that lists no GPU"),
    ({"gpu": cards(1, A10), "shape": AWQ_7B, "method": "lora"}, "model", "quantised (awq 4-bit)"),
    ({"gpu": cards(1, A10), "method": "lora", "max_length": 8192}, "length", "at most 4096 tokens"),
    ({"device": "cpu", "method": "qlora"}, "method", "CUDA's"),
    ({"gpu": cards(4, A100_80), "on": machine(100 * GIB)}, "disk", "checkpoints and result"),
    ({"gpu": cards(4, A100_80), "on": machine(memory={"available_mib": 8 * 1024})}, "host_memory", "8.0 GiB of host"),
]


@pytest.mark.parametrize(("how", "check", "words"), REFUSALS)
def test_refusals(how: dict[str, Any], check: str, words: str) -> None:
    found = plan(**how)
    assert checks(found) == [check]
    assert words in found["problems"][0]["message"]


def test_disk() -> None:
    """Full checkpoints are 12 bytes a parameter, three at once; LoRA's are small. The same file system is held once."""
    full = plan(gpu=cards(4, A100_80))["disk"]
    assert len(full) == 1 and full[0]["paths"] == ["/"]
    assert full[0]["needed_mib"] * MIB == pytest.approx(3 * 12 * 6.738e9 + 13.5e9 + fp.DISK_MARGIN + 9e9, rel=0.01)
    lora = plan(gpu=cards(1, A100_80), method="lora")["disk"]
    assert lora[0]["needed_mib"] < 30 * 1024
    apart = machine()
    apart["file_systems"]["models"] = {"path": "/model", "free_bytes": GIB, "device": 2}
    found = plan(gpu=cards(1, A100_80), on=apart, method="lora")
    assert (
        checks(found) == ["disk"] and "of /model. Expected 12.6 GiB for the result" in found["problems"][0]["message"]
    )
    # What an earlier run has left is there already.
    again = plan(gpu=cards(1, A100_80), on=machine(40 * GIB, run_bytes=10 * GIB, images={"x": True}), method="lora")
    assert again["fits"]


def test_the_cpu() -> None:
    found = plan(TINY, device="cpu", method="lora")
    assert found["fits"] and found["gpus"] == [] and found["gradient_checkpointing"] is False
    assert found["memory"]["needed_mib"] < 6 * 1024
    assert plan(TINY, device="cpu", method="full")["fits"]
    found = plan(VICUNA_7B, on=machine(memory={"available_mib": 60 * 1024}), device="cpu")
    assert checks(found) == ["host_memory"]
    assert "finetune_method: lora" in found["problems"][0]["message"]


def test_mig() -> None:
    mig = cards(1, A100_80, mig="enabled", mig_devices=[
        {"index": 0, "memory_total_mib": 9856, "memory_free_mib": 9800, "profile": "1g.10gb"},
        {"index": 1, "memory_total_mib": 40192, "memory_free_mib": 40000, "profile": "4g.40gb"},
    ])  # fmt: skip
    found = plan(gpu=mig, method="qlora")
    assert found["gpus"] == ["nvidia.com/gpu=0:1"] and found["fits"]
    assert "MIG" in found["warnings"][0]
    # Found again while it trains there, it gets the same device.
    trains = {**SERVES, "container": "train0123"}
    again = {**mig, "gpus": [{**mig["gpus"][0], "processes": [trains]}]}
    assert plan(gpu=again, training=("train0123",), method="qlora")["gpus"] == found["gpus"]
    # More than one is no use to it, and no drain gives it more.
    message = plan(gpu=mig, method="qlora", gpus=2)["problems"][0]["message"]
    assert message.startswith("Found one MIG device") and "drain" not in message


def test_base_and_result_are_asked_on_the_first_gpu_by_name() -> None:
    """Not on the one with the most room: QLoRA's 4-bit weights fit on both here, float16 on the second alone."""
    uneven = cards(2, A10)
    uneven["gpus"][0].update(memory_total_mib=12 * 1024, memory_free_mib=12 * 1024)
    found = plan(gpu=uneven, method="qlora")
    assert found["gpus"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert checks(found) == ["gpu_memory"]
    assert "(nvidia.com/gpu=0), enough for the training" in found["problems"][0]["message"]
    # One of the two is enough: the one with the most room.
    found = plan(gpu=uneven, method="qlora", gpus=1)
    assert found["gpus"] == ["nvidia.com/gpu=1"] and found["fits"]


def test_it_is_told_in_words() -> None:
    said = fp.lines("gpu-1", plan(gpu=cards(4, A100_80)))
    assert said[0].startswith("gpu-1: full of vicuna (6.7 B of 6.7 B parameters) on 4 GPUs (nvidia.com/gpu=0, ")
    assert "2 x 2048 tokens a step" in said[0]
    assert said[1].startswith("  memory: ") and "optimizer 12.6 GiB" in said[1]
    said = fp.lines("gpu-1", plan(gpu=cards(1, A10)))
    assert said[-1].startswith("  Found ")
    # Nothing could be placed.
    assert fp.lines("gpu-1", plan())[-1].startswith("  Found no NVIDIA GPU")


def test_gpus_that_do_not_tell_their_memory() -> None:
    silent = gpus({**card(0, 0), "memory_total_mib": None, "memory_free_mib": None})
    refused = plan(gpu=silent, method="lora")
    assert checks(refused) == ["gpu_memory"]
    assert "Set finetune_gpu_memory to what may be used of each such GPU" in refused["problems"][0]["message"]
    found = plan(gpu=silent, method="lora", gpu_memory="64GiB")
    assert found["fits"] and found["memory"]["free_mib"] == 64 * 1024


def test_an_engine_whose_configuration_cannot_be_read() -> None:
    engine = {"answers": False, "error": "refused", "config_error": "Found a malformed file. Expected one that is not."}
    assert checks(plan(gpu=cards(1, H200), on=machine(engine=engine), method="lora")) == ["engine"]
