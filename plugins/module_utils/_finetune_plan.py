# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a host can fine-tune a model, and how: no input, no output. Private to the collection.

Memory of one GPU, in bytes, at the fullest moment of a step::

    needed = (weights + gradients + optimizer) / shards + activations + context, and gaps

weights, gradients, optimizer
    Mixed precision keeps a float32 master copy of what is trained, its gradient, and AdamW's two moments, all in
    float32: 16 bytes a parameter (ZeRO, https://arxiv.org/abs/1910.02054, section 3.1, counts as many). accelerate
    upcasts what FSDP trains to float32 even where the model was loaded in bfloat16. LoRA trains r * (inputs + outputs)
    parameters for each matrix (https://arxiv.org/abs/2106.09685, section 4.1); the frozen rest is there once, in
    bfloat16. QLoRA's frozen matrices are NF4 with double quantisation, 4 + 0.127 bits a parameter
    (https://arxiv.org/abs/2305.14314, section 3); peft's ``prepare_model_for_kbit_training`` turns what is not
    quantised (embeddings, head, norms) to float32.
shards
    FSDP with FULL_SHARD divides weights, gradients and optimizer by the number of GPUs.
activations
    What comes and goes within a step, besides gradients. At the loss: what each layer has kept, working copies, and
    the logits or one layer, whichever is larger. At the end of the backward pass: one layer, and what FSDP has
    gathered. Where all weights are trained, their gradients take the room that the first leaves to the second, so the
    larger sum counts.

    Working copies: FSDP gathers a decoder layer in bfloat16 while another one is gathered ahead, and their gradients
    before they are scattered; what is in no layer (embeddings, head) stays gathered. Without FSDP, autocast keeps
    bfloat16 copies of float32 weights until the backward pass; QLoRA unpacks one matrix at a time.

    Layers: in a Llama layer each token leaves about 17 vectors of the hidden size (inputs of both norms with their
    float32 copies, query, key, value, their rotated forms, output) and 4 of the intermediate size (gate, up,
    activation, product), of 2 bytes, or of 4 for QLoRA; an adapter keeps its input thrice. With checkpointing, a
    layer keeps its input alone, and one layer is computed again at a time (https://arxiv.org/abs/1604.06174). torch's
    scaled_dot_product_attention keeps no matrix of length * length.

    Logits: transformers computes them for every position, upcasts to float32 (``loss/loss_utils.py``,
    ForCausalLMLoss), and cross-entropy keeps its log-softmax and makes a gradient of the same size: 2 + 4 + 4 + 4
    bytes for each token and word of the vocabulary.

Against peaks that nvidia-smi showed on an H200 with the shape of Vicuna 7B, tests/gpu/README.md has the table.

It is held against free memory, not total. A GPU on which anything runs is not used; what a training of ours holds
counts as free, since it is that training which is found again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._common.version import older
from ansible_collections.vicuna.fleet.plugins.module_utils._report import natural
from ansible_collections.vicuna.fleet.plugins.module_utils._serving.published import Unreadable
from ansible_collections.vicuna.fleet.plugins.module_utils._serving_plan import (
    GIB,
    MIB,
    Gpu,
    Model,
    counted,
    gib,
    gpu_units,
    memory_size,
    read_model,
    tell_memory,
)

# --- constants, all in one place ----------------------------------------------------------------------------------

# The CUDA context with its kernels and cuBLAS's workspaces (measured for serving, see _serving_plan), and NCCL's
# buffers where there are several GPUs.
CUDA_CONTEXT = 707 * MIB
NCCL_BUFFERS = 1024 * MIB
# Vectors of the hidden and of the intermediate size that one layer keeps for each token, of 2 bytes.
LAYER_HIDDENS, LAYER_INTERMEDIATES = 17, 4
# Bytes that an adapter keeps for each number of its input: in float32, after the dropout, and the dropout's mask.
ADAPTER_INPUT = 4 + 4 + 1
# Bytes for each token and word of the vocabulary.
LOGIT_BYTES = 14
# What the allocator loses, as a share of all that is not context.
ALLOCATOR_GAPS = 0.05
# Layers that FSDP has gathered at the same time.
GATHERED_LAYERS = 2
# Bits a parameter of NF4 with double quantisation.
NF4_BITS = 4.127
# Host memory of one training process beside the model: Python, torch, CUDA's libraries.
HOST_PROCESS = {"cuda": 3 * GIB, "cpu": GIB}
# The base and the result are asked on one GPU afterwards: float16 weights, KV cache and logits of a batch.
EVALUATION_LOGIT_BYTES = 10
# The unpacked image, where nobody says otherwise.
IMAGE_BYTES = {"cuda": 9_000_000_000, "cpu": 2_000_000_000}
# Room for logs, the data set and what a crash leaves.
DISK_MARGIN = GIB

# --- how the program trains --------------------------------------------------------------------------------------

METHODS = ("full", "lora", "qlora")
# The matrices of a Llama layer, and its two that are in no layer.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_ENDS = ("embed_tokens", "lm_head")
MASTER, GRADIENT, MOMENTS = 4, 4, 8  # bytes a trained parameter
# Bytes a frozen parameter as loaded: by method, on a GPU; on the CPU all is float32.
FROZEN = 2
# Methods whose weights FSDP shards; an adapter's base is there once on every GPU.
SHARDED = ("full",)
MAX_LENGTH = {"full": 2048, "lora": 2048, "qlora": 1024}
BATCH_SIZE = 2
# What a checkpoint holds of a trained parameter: float32 weights and both moments.
CHECKPOINT = MASTER + MOMENTS
# bfloat16 needs Ampere: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#arithmetic-instructions
MINIMUM_CAPABILITY = "8.0"
# More GPUs than any host has; where to stop looking for how many would do.
MOST_GPUS = 16

VARIABLES = {
    "batch_size": "finetune_batch_size",
    "device": "finetune_device",
    "drain": "finetune_drain_serving",
    "gpus": "finetune_gpus",
    "gpu_memory": "finetune_gpu_memory",
    "max_length": "finetune_max_length",
    "method": "finetune_method",
    "model": "vicuna_model_repo",
    "dir": "finetune_dir",
    "root": "model_root",
}


@dataclass(frozen=True)
class Job:
    """What is to be trained, and how."""

    method: str
    device: str
    gpus: int
    batch_size: int
    max_length: int
    lora_rank: int = 8
    lora_targets: tuple[str, ...] = LORA_TARGETS
    checkpointing: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of one GPU's step at most."""
        return self.batch_size * self.max_length

    @property
    def shards(self) -> int:
        return max(1, self.gpus) if self.method in SHARDED else 1


@dataclass(frozen=True)
class Need:
    """Memory of one GPU, or of the process on the CPU, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    context: int

    @property
    def gaps(self) -> int:
        return int(ALLOCATOR_GAPS * (sum(vars(self).values()) - self.context))

    @property
    def total(self) -> int:
        return int(sum(vars(self).values())) + self.gaps

    def table(self, free: int) -> dict[str, int]:
        rows = {f"{name}_mib": -(-size // MIB) for name, size in vars(self).items()}
        return {**rows, "gaps_mib": -(-self.gaps // MIB), "needed_mib": -(-self.total // MIB), "free_mib": free // MIB}


def layer_parameters(model: Model) -> int:
    """Parameters of one decoder layer."""
    return max(0, model.parameters - _ends(model)) // model.layers


def _ends(model: Model) -> int:
    """Parameters outside of the layers: embeddings, head, the last norm."""
    return min(model.parameters, model.embeddings * (1 if model.tied else 2) + model.hidden)


def adapter_parameters(model: Model, rank: int, targets: Sequence[str] = LORA_TARGETS) -> int:
    """Parameters of LoRA on these matrices, in every layer that has them."""
    kv, hidden, wide = model.kv_heads * model.head_dim, model.hidden, model.hidden + model.intermediate
    sides = {"q_proj": 2 * hidden, "o_proj": 2 * hidden, "k_proj": hidden + kv, "v_proj": hidden + kv}
    layer = sum(sides.get(target, wide) for target in targets if target not in LORA_ENDS)
    ends = sum(hidden + model.vocabulary for target in targets if target in LORA_ENDS)
    return rank * (model.layers * layer + ends)


def trained_parameters(model: Model, job: Job) -> int:
    return model.parameters if job.method == "full" else adapter_parameters(model, job.lora_rank, job.lora_targets)


def frozen_bytes(model: Model, job: Job) -> int:
    """Bytes of the base that is not trained."""
    if job.method == "full":
        return 0
    if job.method == "qlora":
        kept = _ends(model) + model.norms
        return int(max(0, model.parameters - kept) * NF4_BITS / 8) + kept * MASTER
    return model.parameters * (FROZEN if job.device == "cuda" else MASTER)


def working_copies(model: Model, job: Job) -> int:
    """Bytes of what is gathered or unpacked for a while."""
    if job.device == "cpu":
        return 0
    if job.method == "qlora":
        return 2 * model.largest_linear
    if job.method != "full":
        return 0
    if job.gpus == 1:
        return 2 * model.parameters  # autocast's copies live as long as the forward pass
    gathered = GATHERED_LAYERS * layer_parameters(model) + _ends(model)
    gradients = layer_parameters(model) + _ends(model)
    return 2 * (gathered + gradients)


def vector_bytes(job: Job) -> int:
    """Bytes of a number that a layer hands on: QLoRA's norms, and so what runs through the layers, are float32."""
    return 2 if job.device == "cuda" and job.method != "qlora" else 4


def layer_activations(model: Model, job: Job) -> int:
    """Bytes of one layer's activations."""
    own = vector_bytes(job) * (LAYER_HIDDENS * model.hidden + LAYER_INTERMEDIATES * model.intermediate)
    if job.method != "full":
        targets = [target for target in job.lora_targets if target not in LORA_ENDS]
        own += ADAPTER_INPUT * sum(model.intermediate if name == "down_proj" else model.hidden for name in targets)
    return job.tokens * own


def kept_activations(model: Model, job: Job) -> int:
    """Bytes that all layers keep until the backward pass."""
    if not job.checkpointing:
        return model.layers * layer_activations(model, job)
    return job.tokens * model.layers * model.hidden * vector_bytes(job)


def activations(model: Model, job: Job) -> int:
    """Bytes of all that comes and goes within a step, besides gradients, when there is most of both."""
    layer, copies = layer_activations(model, job), working_copies(model, job)
    loss = copies + kept_activations(model, job) + max(layer, job.tokens * model.vocabulary * LOGIT_BYTES)
    if job.method != "full":
        return loss
    end = layer + (copies if job.shards > 1 else 0)
    return max(loss - trained_parameters(model, job) * GRADIENT // job.shards, end)


def need(model: Model, job: Job) -> Need:
    """What one GPU has to hold, or the process on the CPU."""
    trained, shards = trained_parameters(model, job), job.shards
    context = HOST_PROCESS["cpu"]
    if job.device == "cuda":
        context = CUDA_CONTEXT + (NCCL_BUFFERS if job.gpus > 1 else 0)
    return Need(
        weights=(trained * MASTER + frozen_bytes(model, job)) // shards,
        gradients=trained * GRADIENT // shards,
        optimizer=trained * MOMENTS // shards,
        activations=activations(model, job),
        context=context,
    )


def host_need(model: Model, job: Job) -> int:
    """Host memory: while weights are loaded or gathered, and for merging the adapter afterwards."""
    if job.device == "cpu":
        return need(model, job).total
    # FSDP has the first process read for all; of adapters' processes each reads, and 4-bit weights pass by in pieces.
    loads = {"full": MASTER, "lora": FROZEN * job.gpus, "qlora": 0}[job.method] * model.parameters
    # The first process gathers the float32 weights and turns them into the base's type; a merge saves a copy.
    saves = (MASTER + FROZEN if job.method == "full" else 2 * FROZEN) * model.parameters
    return max(loads, saves) + job.gpus * HOST_PROCESS["cuda"]


def evaluation_need(model: Model, job: Job) -> int:
    """Memory of the one GPU on which base and result are asked."""
    kv = 2 * model.layers * model.kv_heads * model.head_dim * 2 * min(model.context, job.max_length)
    logits = job.tokens * model.vocabulary * EVALUATION_LOGIT_BYTES
    return 2 * model.parameters + kv + logits + CUDA_CONTEXT


def disk_need(model: Model, job: Job, keep_checkpoints: int) -> dict[str, int]:
    """Bytes in the run's directory. A checkpoint is written before the oldest is removed."""
    trained = trained_parameters(model, job)
    return {
        "checkpoints": (keep_checkpoints + 1) * trained * CHECKPOINT,
        "adapter": 0 if job.method == "full" else trained * MASTER,
        "result": model.stored,
    }


# --- the plan ----------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What is filled in while a host is judged."""

    method: str
    device: str
    name: str
    problems: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    gpus: list[str] = field(default_factory=list)
    batch_size: int = 0
    accumulation: int = 0
    max_length: int = 0
    model: Model | None = None
    trained: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    host_memory: dict[str, int] = field(default_factory=dict)
    disk: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, check: str, found: str, expected: str, remedy: str) -> None:
        self.problems.append({"check": check, "message": f"Found {found} Expected {expected} {remedy}"})

    def result(self) -> dict[str, Any]:
        model = self.model
        return {
            "fits": not self.problems,
            "problems": self.problems,
            "warnings": self.warnings,
            "method": self.method,
            "device": self.device,
            "gpus": self.gpus,
            "batch_size": self.batch_size,
            "gradient_accumulation": self.accumulation,
            "max_length": self.max_length,
            "gradient_checkpointing": self.device == "cuda",
            "model": {
                "name": self.name,
                "commit": model.commit if model else "",
                "parameters": model.parameters if model else 0,
                "trained_parameters": self.trained,
                "context_length": model.context if model else 0,
            },
            "memory": self.memory,
            "host_memory": self.host_memory,
            "disk": self.disk,
        }


def finetune_plan(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of one host.

    facts: ``gpu`` and ``host`` as the modules gpu_info and host_info return them (with ``file_systems`` of ``run``,
    ``models`` and ``docker``), ``model`` as model_info does, and ``training``, the ids of containers that train.
    settings: the role's variables without their prefix; None leaves the choice to the plan.
    """
    device, method = str(settings.get("device") or "cuda"), str(settings.get("method") or "lora")
    plan = Plan(method=method, device=device, name=str(settings.get("model_name") or ""))
    host = facts.get("host") or {}
    try:
        plan.model = read_model(facts["model"], plan.name)
    except (Unreadable, KeyError) as error:
        told = str(error) if isinstance(error, Unreadable) else "Found no config.json of the model. Expected one."
        plan.problems.append({"check": "model", "message": told})
        return plan.result()
    plan.max_length = int(settings.get("max_length") or min(MAX_LENGTH[method], plan.model.context))
    if not _meant(plan, plan.model):
        return plan.result()
    if device == "cuda":
        units = _free_gpus(plan, facts, settings)
        if units:
            _place(plan, plan.model, units, host, settings)
    else:
        _place_on_cpu(plan, plan.model, host, settings)
    _judge_disk(plan, plan.model, host, settings)
    engine = host.get("engine") or {}
    if engine.get("config_error"):
        plan.problems.append({"check": "engine", "message": str(engine["config_error"])})
    elif not engine.get("answers", True):
        plan.refuse(
            "engine",
            f"no answer of the engine ({str(engine.get('error') or 'no reason is known').rstrip('.')}).",
            "a running Docker Engine: training is in a container.",
            "Run site.yml, which installs it.",
        )
    return plan.result()


def _meant(plan: Plan, model: Model) -> bool:
    """Refuses what no hardware mends."""
    if plan.max_length > model.context:
        plan.refuse(
            "length",
            f"{VARIABLES['max_length']} {plan.max_length}.",
            f"at most {model.context} tokens, the model's context.",
            f"Lower {VARIABLES['max_length']}; the data set is cut or refused at that length.",
        )
    if plan.method == "qlora" and plan.device == "cpu":
        plan.refuse(
            "method",
            f"{VARIABLES['method']} qlora on the CPU.",
            "a GPU: the 4-bit kernels are CUDA's.",
            f"Set {VARIABLES['method']}: lora.",
        )
    if model.quantisation:
        plan.refuse(
            "model",
            f"a checkpoint that is quantised ({model.quantisation}).",
            "one in float16, bfloat16 or float32: what is trained has to have a gradient.",
            f"Choose the unquantised model in {VARIABLES['model']}; {VARIABLES['method']}: qlora quantises by itself.",
        )
    return not plan.problems


def _job(plan: Plan, settings: Mapping[str, Any], gpus: int, batch_size: int, **changes: Any) -> Job:
    checkpointing = settings.get("gradient_checkpointing")
    values = {
        "method": plan.method,
        "device": plan.device,
        "gpus": gpus,
        "batch_size": batch_size,
        "max_length": plan.max_length,
        "lora_rank": int(settings.get("lora_rank") or 8),
        "lora_targets": tuple(settings.get("lora_targets") or LORA_TARGETS),
        "checkpointing": plan.device == "cuda" if checkpointing is None else bool(checkpointing),
        **changes,
    }
    return Job(**values)


def _free_gpus(plan: Plan, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Gpu]:
    """The GPUs on which nothing runs, those with the most room first; empty where there is none to place on."""
    gpu, host = facts.get("gpu") or {}, facts.get("host") or {}
    driver = gpu.get("driver") or {}
    if not gpu.get("present") or not driver.get("answers"):
        reason = str(driver.get("error") or "there is none").rstrip(".")
        plan.refuse(
            "gpu",
            f"no answer of NVIDIA's driver ({reason})." if gpu.get("present") else "no NVIDIA GPU on the PCI bus.",
            "at least one GPU whose driver answers.",
            f"Run site.yml, which installs the driver, or set {VARIABLES['device']}: cpu for a small model.",
        )
        return []
    own = [str(container) for container in facts.get("training") or []]
    serving = [str(container["id"]) for container in host.get("containers") or [] if container.get("own")]
    drained = bool(settings.get("drain_serving"))
    untold = memory_size(str(settings.get("gpu_memory") or ""))
    units = gpu_units(gpu, own + serving if drained else own, untold)
    able = [unit for unit in units if not unit.capability or not older(unit.capability, MINIMUM_CAPABILITY)]
    if not units:
        split = any(entry.get("mig") == "enabled" for entry in gpu.get("gpus") or [])
        plan.refuse(
            "gpu",
            "MIG switched on, and no MIG device." if split else "a driver that lists no GPU.",
            "at least one GPU, or one MIG device.",
            "Make one with nvidia-smi mig -cgi and -cci, or switch MIG off with nvidia-smi -mig 0."
            if split
            else "Look at nvidia-smi -L and for Xid in dmesg, or take another host.",
        )
        return []
    if not able:
        plan.refuse(
            "gpu",
            f"{units[0].label} with compute capability {units[0].capability}.",
            f"{MINIMUM_CAPABILITY} or newer: training is in bfloat16.",
            "Take another host.",
        )
        return []
    able = tell_memory(plan, able, host, VARIABLES["gpu_memory"])
    if not able:
        return []
    free = [unit for unit in able if not unit.holders]
    if not free:
        drain = "" if drained else f"set {VARIABLES['drain']}: true, which stops this host's serving meanwhile, or "
        plan.refuse(
            "gpu",
            f"{counted(len(able), 'GPU')}, and on each something runs ({_holders(able)}).",
            "a GPU on which nothing runs.",
            f"Wait, {drain}take another host.",
        )
        return []
    if len(free) > 1 and any(unit.mig for unit in free):
        plan.warnings.append("Of MIG devices one is used: NVIDIA's driver gives a process no more.")
        free = [max(free, key=lambda unit: unit.free)]
    if len(free) < len(able):
        busy = [unit for unit in able if unit.holders]
        plan.warnings.append(f"{', '.join(unit.name for unit in busy)} left alone: {_holders(busy)}.")
    return sorted(free, key=lambda unit: (-unit.free, unit.name))


def _holders(units: Sequence[Gpu]) -> str:
    return ", ".join(dict.fromkeys(holder for unit in units for holder in unit.holders)) or "nothing"


def _place(plan: Plan, model: Model, units: list[Gpu], host: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Chooses GPUs and what the settings leave open, and refuses what does not fit."""
    wanted = settings.get("gpus")
    number = len(units) if wanted is None else int(wanted)
    if number > len(units):
        # What a MIG device lacks, or another's process holds, draining does not give.
        drain = "" if units[0].mig or settings.get("drain_serving") else f"set {VARIABLES['drain']}: true, "
        plan.refuse(
            "gpu",
            "one MIG device, of which a training can use no more."
            if units[0].mig
            else f"{counted(len(units), 'GPU')} on which nothing runs.",
            f"{number}, as {VARIABLES['gpus']} says.",
            f"Lower {VARIABLES['gpus']}, {drain}or take another host.",
        )
        return
    chosen = units[:number]
    plan.gpus = sorted((unit.name for unit in chosen), key=natural)
    free = min(unit.free for unit in chosen)
    _size(plan, settings, lambda batch: need(model, _job(plan, settings, number, batch)).total <= free)
    job = _job(plan, settings, number, plan.batch_size)
    found = need(model, job)
    plan.trained = trained_parameters(model, job)
    plan.memory = found.table(free)
    if found.total > free:
        plan.refuse(
            "gpu_memory",
            f"{gib(free)} free on {chosen[0].label}{f', {number} times' if number > 1 else ''}.",
            f"{gib(found.total)} for {plan.method} of {plan.batch_size} x {plan.max_length} tokens: "
            f"{gib(found.weights + found.gradients + found.optimizer)} of weights, gradients and optimizer, "
            f"{gib(found.activations)} of activations, {gib(found.context + found.gaps)} besides.",
            _remedy(plan, model, settings, number, free),
        )
    else:
        # The one that the program asks base and result on is the first by name.
        _judge_evaluation(plan, model, job, next(unit for unit in chosen if unit.name == plan.gpus[0]))
    _judge_host_memory(plan, model, job, host)


def _judge_evaluation(plan: Plan, model: Model, job: Job, unit: Gpu) -> None:
    free, needed = unit.free, evaluation_need(model, job)
    if needed > free:
        plan.refuse(
            "gpu_memory",
            f"{gib(free)} free on {unit.label} ({unit.name}), enough for the training.",
            f"{gib(needed)} on one GPU afterwards, to ask the base and the merged result in float16.",
            "Take a host whose GPU holds the model in float16, as serving does, or a smaller model.",
        )


def _size(plan: Plan, settings: Mapping[str, Any], fits: Any) -> None:
    """Batch and accumulation: what is open is chosen so that a step sees as many dialogues as by default."""
    batch, accumulation = settings.get("batch_size"), settings.get("gradient_accumulation")
    plan.batch_size = int(batch) if batch else next((size for size in (BATCH_SIZE, 1) if fits(size)), 1)
    plan.accumulation = int(accumulation) if accumulation else max(1, BATCH_SIZE // plan.batch_size)


def _remedy(plan: Plan, model: Model, settings: Mapping[str, Any], number: int, free: int) -> str:
    """What would fit, by the same formulas, the least intrusion first."""
    ways = []
    if plan.batch_size > 1 and need(model, _job(plan, settings, number, 1)).total <= free:
        ways.append(f"{VARIABLES['batch_size']}: 1")
    for method in METHODS[METHODS.index(plan.method) + 1 :]:
        length = min(plan.max_length, MAX_LENGTH[method])
        job = _job(plan, settings, 1, 1, method=method, max_length=length)
        found = need(model, job)
        if max(found.total, evaluation_need(model, job)) <= free:
            shorter = f" with {VARIABLES['max_length']}: {length}" if length < plan.max_length else ""
            ways.append(f"{VARIABLES['method']}: {method}{shorter} (takes {gib(found.total)})")
            break
    if plan.method in SHARDED:
        enough = next(
            (n for n in range(number + 1, MOST_GPUS + 1) if need(model, _job(plan, settings, n, 1)).total <= free), None
        )
        if enough:
            ways.append(f"a host with {enough} such GPUs")
    if not ways:
        lengths = [length for length in (2048, 1024, 512, 256) if length < plan.max_length]
        less = next(
            (n for n in lengths if need(model, _job(plan, settings, number, 1, max_length=n)).total <= free), None
        )
        largest = "a GPU with more memory, or a smaller model"
        ways.append(f"{VARIABLES['max_length']}: {less}" if less else largest)
    return f"Take {', or '.join(ways)}."


def _judge_host_memory(plan: Plan, model: Model, job: Job, host: Mapping[str, Any]) -> None:
    available = int((host.get("memory") or {}).get("available_mib") or 0) * MIB
    needed = host_need(model, job)
    plan.host_memory = {"needed_mib": -(-needed // MIB), "available_mib": available // MIB}
    if available and needed > available:
        plan.refuse(
            "host_memory",
            f"{gib(available)} of host memory available.",
            f"{gib(needed)}: weights pass through host memory when they are loaded, saved and merged.",
            f"Free memory on the host, or take {VARIABLES['method']}: lora or a smaller model."
            if plan.method == "full"
            else "Free memory on the host, or take a smaller model.",
        )


def _place_on_cpu(plan: Plan, model: Model, host: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    available = int((host.get("memory") or {}).get("available_mib") or 0) * MIB
    _size(plan, settings, lambda batch: need(model, _job(plan, settings, 0, batch)).total <= available)
    job = _job(plan, settings, 0, plan.batch_size)
    found = need(model, job)
    plan.trained = trained_parameters(model, job)
    plan.memory = found.table(available)
    plan.host_memory = {"needed_mib": plan.memory["needed_mib"], "available_mib": available // MIB}
    if found.total > available:
        plan.refuse(
            "host_memory",
            f"{gib(available)} of host memory available.",
            f"{gib(found.total)} for {plan.method} in float32 of {plan.batch_size} x {plan.max_length} tokens.",
            f"Set {VARIABLES['device']}: cuda on a host with a GPU, or take a smaller model"
            + (f", or {VARIABLES['method']}: lora." if plan.method == "full" else "."),
        )


def _judge_disk(plan: Plan, model: Model, host: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Held against each file system once, whatever lies on it."""
    job = _job(plan, settings, len(plan.gpus), plan.batch_size or 1)
    needs = disk_need(model, job, int(settings.get("keep_checkpoints") or 2))
    systems = host.get("file_systems") or {}
    images = host.get("images") or {}
    image = 0 if images and all(images.values()) else int(settings.get("image_bytes") or IMAGE_BYTES[plan.device])
    one = (systems.get("run") or {}).get("device") == (systems.get("models") or {}).get("device")
    # In the models' directory the result is a hard link where it can be; what is pushed passes by once more as objects.
    pushed = needs["result"] if settings.get("push") else 0
    there = int(host.get("run_bytes") or 0)
    missing = max(0, model.download - int(host.get("objects_bytes") or 0)) if settings.get("fetch") else 0
    wanted = [
        ("run", max(0, sum(needs.values()) + pushed + DISK_MARGIN - there), "checkpoints and result"),
        ("models", missing + (0 if one else needs["result"]), "the base model" if missing else "the result"),
        ("docker", image, "the image"),
    ]
    found: dict[Any, dict[str, Any]] = {}
    for key, size, what in wanted:
        place = systems.get(key)
        if not place:
            continue
        entry = found.setdefault(
            place["device"], {"paths": [], "for": [], "needed_mib": 0, "free_mib": int(place["free_bytes"]) // MIB}
        )
        if place["path"] not in entry["paths"]:
            entry["paths"].append(place["path"])
        entry["needed_mib"] += -(-size // MIB)
        if size:
            entry["for"].append(what)
    for entry in found.values():
        plan.disk.append(entry)
        if entry["needed_mib"] > entry["free_mib"]:
            each = gib(needs["checkpoints"] / (int(settings.get("keep_checkpoints") or 2) + 1))
            runs = "checkpoints and result" in entry["for"]
            ways = [VARIABLES["dir"] if runs else VARIABLES["root"]]
            ways += [f"{VARIABLES['method']}: lora"] if runs and plan.method == "full" else []
            plan.refuse(
                "disk",
                f"{gib(entry['free_mib'] * MIB)} free on the file system of {' and '.join(entry['paths'])}.",
                f"{gib(entry['needed_mib'] * MIB)} for {' and '.join(entry['for'])}"
                + (f" (a checkpoint takes {each})." if runs else "."),
                f"Free space there, or choose another {', or '.join(ways)}.",
            )


# --- words -------------------------------------------------------------------------------------------------------

ROWS = (
    ("weights", "weights"),
    ("gradients", "gradients"),
    ("optimizer", "optimizer"),
    ("activations", "activations"),
    ("context", "context"),
    ("gaps", "gaps"),
)


def lines(host: str, plan: Mapping[str, Any]) -> list[str]:
    """The plan in words."""
    where = "CPU" if plan["device"] == "cpu" else f"{counted(len(plan['gpus']), 'GPU')} ({', '.join(plan['gpus'])})"
    memory = plan["memory"]
    said = [
        f"{host}: {plan['method']} of {plan['model']['name'] or 'the model'}"
        f" ({_count(plan['model']['trained_parameters'])} of {_count(plan['model']['parameters'])} parameters)"
        f" on {where}, {plan['batch_size']} x {plan['max_length']} tokens a step"
        + (f", {plan['gradient_accumulation']} steps an update" if plan["gradient_accumulation"] > 1 else "")
    ]
    if memory:
        parts = ", ".join(f"{text} {gib(memory[f'{key}_mib'] * MIB)}" for key, text in ROWS if memory[f"{key}_mib"])
        said.append(f"  memory: {gib(memory['needed_mib'] * MIB)} of {gib(memory['free_mib'] * MIB)} free ({parts})")
    for entry in plan["disk"]:
        what = " and ".join(entry["for"]) or "nothing"
        said.append(
            f"  disk: {gib(entry['needed_mib'] * MIB)} of {gib(entry['free_mib'] * MIB)} free at "
            f"{' and '.join(entry['paths'])} for {what}"
        )
    said += [f"  note: {warning}" for warning in plan["warnings"]]
    said += [f"  {problem['message']}" for problem in plan["problems"]]
    return said


def _count(number: int) -> str:
    """Parameters in a word: 6.7 B, 20 M."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.{1 if number < 10 * unit else 0}f} {name}"
    return str(math.floor(number))
