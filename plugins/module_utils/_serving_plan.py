# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a host can serve a model with FastChat, and how: no input, no output. Private to the collection.

Memory of one worker, in bytes::

    needed = weights + concurrency * context * KV per token + overhead

weights
    What is loaded, not what is stored: FastChat loads float16 on CUDA and float32 on the CPU (fastchat 0.2.36,
    ``model/model_adapter.py``, ``load_model``), so a float32 checkpoint halves on a GPU. A checkpoint that is quantised
    already (``quantization_config``) is taken as it is stored.
    ``--load-8bit`` is FastChat's own compression (``model/compression.py``): every ``nn.Linear`` becomes int8 with one
    scale in the loaded type for each group of 256 inputs; embeddings and norms stay. It exists for one GPU only; with
    more, FastChat warns and loads float16.
KV per token
    ``2 * layers * KV heads * head size * bytes of a value``: a key and a value for each layer and KV head.
    Grouped-query models have fewer KV heads than heads (https://arxiv.org/abs/2305.13245, section 2.2).
context
    ``max_position_embeddings * rope_scaling.factor``, as FastChat's ``utils.get_context_length`` has it. A request may
    fill all of it, and as many requests as ``--limit-worker-concurrency`` at the same time.
overhead
    The CUDA context; for each request the activations of its prompt, since the prompts of several requests may be
    computed at the same time; and gaps between the caches of several requests, which grow by a token at a time. Of a
    prompt, either the MLP's intermediates live at once or, at its end, the logits: transformers computes those of every
    position (context * vocabulary). The constants are measured, see there.

It is held against free memory, not total. What processes in containers of the same project hold counts as free: that
worker is replaced.

Several GPUs for one worker: FastChat hands accelerate ``--max-gpu-memory`` and a balanced device map, which deals out
whole layers evenly; without it, a sequential one that fills 85 % of each GPU's total memory before it goes on to the
next. Each GPU keeps the KV cache of its own layers. A MIG device is a GPU of its own, and a process sees only one.

Host memory: transformers maps the weight files into memory, so that what was read can be dropped again: the worker's
process and the largest file have to find room at the same time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.vicuna.fleet.plugins.module_utils._common.version import older
from ansible_collections.vicuna.fleet.plugins.module_utils._report import natural
from ansible_collections.vicuna.fleet.plugins.module_utils._serving.published import Unreadable, check, short

MIB = 1024**2
GIB = 1024**3

# --- constants that are measured, all in one place ---------------------------------------------------------------

# On an H200 with driver 580 and PyTorch 2.11, by tests/gpu/memory.py and nvidia-smi: FastChat's worker with expandable
# segments, prompts that fill the context. tests/unit holds the formula to the figures.
# The CUDA context with its kernels (621 MiB), and cuBLAS's workspaces, of one process on one GPU.
CUDA_CONTEXT = 707 * MIB
# Vectors that live at the same time for each token of a prompt. In the MLP: gate, up and their product of the
# intermediate size; residual, its norm and two copies of the hidden size. At the end: logits, hidden state, its norm.
MLP_INTERMEDIATES, MLP_HIDDENS, HEAD_HIDDENS = 3, 4, 2
# What the allocator loses between the caches of several requests, as a share of each further cache.
CACHE_GAPS = 0.2
# Copies of the largest linear layer in the loaded type while 8-bit weights are decompressed (compression.py).
DECOMPRESSED_COPIES = 2
# The worker's process beside the weights: Python, torch and, on a GPU, CUDA's libraries.
HOST_PROCESS = {"cuda": 1536 * MIB, "cpu": 400 * MIB}
# Controller, API server and edge together.
HOST_SERVICES = 256 * MIB
# The unpacked images of one host, where nobody says otherwise.
IMAGE_BYTES = {"cuda": 9_000_000_000, "cpu": 2_000_000_000}
# Room that the role model keeps on the model's file system.
DISK_MARGIN = 64 * MIB

# --- FastChat's own numbers --------------------------------------------------------------------------------------

# fastchat/constants.py and model_worker.py: the default of --limit-worker-concurrency. More is rarely wanted.
MOST_AT_ONCE = 5
# fastchat/model/compression.py: default_compression_config.
GROUP = 256
# fastchat/model/model_adapter.py: what is filled of each GPU without --max-gpu-memory.
SEQUENTIAL_SHARE = 0.85
# fastchat/utils.py: SEQUENCE_LENGTH_KEYS, in its order, and the value where none is there.
LENGTH_KEYS = ("max_position_embeddings", "max_sequence_length", "seq_length", "max_seq_len", "model_max_length")
LENGTH_DEFAULT = 2048

# Bytes of a stored value.
DTYPES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
LOADED = {"cuda": ("float16", 2), "cpu": ("float32", 4)}
# The newest compute capability of each generation: https://developer.nvidia.com/cuda-gpus
CAPABILITIES = {
    "Fermi": "2.1",
    "Kepler": "3.7",
    "Maxwell": "5.3",
    "Pascal": "6.2",
    "Volta": "7.2",
    "Turing": "7.5",
}

# The variables that the messages name.
VARIABLES = {
    "device": "fastchat_device",
    "gpus": "fastchat_gpus",
    "workers": "fastchat_workers",
    "num_gpus": "fastchat_num_gpus",
    "load_8bit": "fastchat_load_8bit",
    "max_gpu_memory": "fastchat_max_gpu_memory",
    "gpu_memory": "preflight_gpu_memory",
    "limit_worker_concurrency": "fastchat_limit_worker_concurrency",
    "ports": "fastchat_port",
    "address": "fastchat_bind_address",
    "model": "vicuna_model_repo",
    "root": "model_root",
    "exclude": "model_exclude",
}


# --- the model ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """The shapes of a model that memory depends on. A shape of zero is unknown."""

    name: str
    commit: str
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context: int
    parameters: int
    stored: int  # bytes of the weight files
    largest_file: int
    download: int
    quantisation: str
    tied: bool
    notes: tuple[str, ...] = ()

    @property
    def embeddings(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def norms(self) -> int:
        return (2 * self.layers + 1) * self.hidden

    @property
    def largest_linear(self) -> int:
        return self.hidden * max(self.vocabulary, self.intermediate)


def read_model(info: Mapping[str, Any], name: str = "") -> Model:
    """The model of what M(vicuna.fleet.model_info) returned."""
    config = info["config"]
    # A model that also sees or hears keeps the shapes of its language part apart.
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}

    def number(*keys: str) -> int:
        for source in (config, text):
            for key in keys:
                value: Any = source.get(key)
                if _is_count(value):
                    return int(value)
        return 0

    notes = [*(info.get("notes") or []), *check(config, info.get("tokenizer") or {})]
    heads, hidden = number("num_attention_heads", "n_head"), number("hidden_size", "n_embd")
    layers = number("num_hidden_layers", "n_layer")
    missing = [
        key
        for key, value in (("num_hidden_layers", layers), ("num_attention_heads", heads), ("hidden_size", hidden))
        if not value
    ]
    if missing:
        raise Unreadable(
            f"Found a config.json without {', '.join(missing)}. Expected the shapes of a causal language model. "
            f"Correct {VARIABLES['model']}."
        )
    stored = int(info["weights_bytes"])
    if not stored:
        raise Unreadable(
            "Found no weights in the model's repository. Expected model*.safetensors or pytorch_model*.bin. "
            f"Correct {VARIABLES['model']}, or mend {VARIABLES['exclude']}."
        )
    quantisation = str(info.get("quantisation") or "")
    model = Model(
        name=name,
        commit=str(info.get("commit") or ""),
        layers=layers,
        hidden=hidden,
        kv_heads=number("num_key_value_heads") or heads,
        head_dim=number("head_dim") or hidden // heads,
        intermediate=number("intermediate_size", "n_inner") or 4 * hidden,
        vocabulary=number("vocab_size"),
        context=context_length(config),
        parameters=0,
        stored=stored,
        largest_file=max((int(file["size"]) for file in info.get("files") or []), default=stored),
        download=int(info.get("download_bytes") or 0),
        quantisation=quantisation,
        tied=bool(config.get("tie_word_embeddings")),
        notes=(*notes, *_notes(config, quantisation)),
    )
    bytes_each = _stored_bytes(config, text, model, heads)
    return Model(**{**vars(model), "parameters": stored // bytes_each})


def _is_count(value: Any) -> bool:
    """Whether a value of a model's JSON is a whole number above zero; NaN and Infinity are numbers to transformers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2**63 and value % 1 == 0


def context_length(config: Mapping[str, Any]) -> int:
    """FastChat's get_context_length."""
    scaling = config.get("rope_scaling")
    factor: float = 1
    if scaling:
        found = scaling.get("factor") if isinstance(scaling, dict) else None
        if not isinstance(found, (int, float)) or isinstance(found, bool) or not 0 < found < 2**31:
            raise Unreadable(
                f"Found rope_scaling without a factor in config.json ({short(scaling)}). Expected a factor: FastChat "
                f"reads it when the worker starts, and ends without it. Choose another model in {VARIABLES['model']}."
            )
        factor = found
    for key in LENGTH_KEYS:
        if config.get(key) is not None:
            if not _is_count(config[key]):
                raise Unreadable(
                    f"Found {key} '{config[key]}' in config.json. Expected a number of tokens. "
                    f"Correct {VARIABLES['model']}."
                )
            return int(factor * config[key])
    return LENGTH_DEFAULT


def _notes(config: Mapping[str, Any], quantisation: str) -> Iterable[str]:
    scaling = config.get("rope_scaling") or {}
    original = scaling.get("original_max_position_embeddings")
    stated = config.get("max_position_embeddings")
    if original and stated and stated > original:
        yield (
            f"config.json scales {original} positions to {stated}, and FastChat multiplies by the factor once more: it "
            f"takes requests of {context_length(config)} tokens, more than the model was made for."
        )
    if quantisation:
        yield (
            f"The checkpoint is quantised ({quantisation}). transformers needs a package for that, which the worker's "
            "image does not hold by itself."
        )


def _stored_bytes(config: Mapping[str, Any], text: Mapping[str, Any], model: Model, heads: int) -> int:
    """Bytes of one stored value: by config.json, or by the number of parameters that its shapes amount to."""
    for source in (config, text):
        dtype = str(source.get("dtype") or source.get("torch_dtype") or "").rpartition(".")[2]
        if dtype in DTYPES:
            return DTYPES[dtype]
    attention = 2 * model.hidden * model.head_dim * (heads + model.kv_heads)
    mlp = 3 * model.hidden * model.intermediate
    counted = model.layers * (attention + mlp) + model.norms + model.embeddings * (1 if model.tied else 2)
    return min((1, 2, 4, 8), key=lambda size: abs(math.log(model.stored / counted / size)))


def kv_per_token(model: Model, device: str) -> int:
    return 2 * model.layers * model.kv_heads * model.head_dim * LOADED[device][1]


def weights(model: Model, device: str, load_8bit: bool = False) -> int:
    """Bytes of the loaded weights."""
    size = LOADED[device][1]
    if model.quantisation:
        return model.stored
    if not load_8bit:
        return model.parameters * size
    kept = model.embeddings + model.norms
    linear = max(0, model.parameters - kept)
    return linear + math.ceil(linear / GROUP) * size + kept * size


def stream_overhead(model: Model, device: str, load_8bit: bool = False) -> int:
    """Bytes that one request of full length takes beside its KV cache."""
    size = LOADED[device][1]
    mlp = MLP_INTERMEDIATES * model.intermediate + MLP_HIDDENS * model.hidden
    head = model.vocabulary + HEAD_HIDDENS * model.hidden
    extra = DECOMPRESSED_COPIES * model.largest_linear * size if load_8bit else 0
    return model.context * max(mlp, head) * size + extra


# --- the GPUs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG device, that a worker can have for itself. Memory in bytes."""

    name: str  # as CDI has it
    label: str
    total: int
    free: int
    capability: str
    holders: tuple[str, ...] = ()
    mig: bool = False
    told: bool = True  # whether its memory is known, by the driver or by the inventory


@dataclass(frozen=True)
class Layout:
    """How a worker is loaded."""

    num_gpus: int
    load_8bit: bool
    max_gpu_memory: str | None  # None: left open; "": FastChat's own, sequential

    @property
    def compressed(self) -> bool:
        """FastChat ignores --load-8bit with several GPUs."""
        return self.load_8bit and self.num_gpus == 1

    def words(self) -> str:
        gpus = "one GPU" if self.num_gpus == 1 else f"{self.num_gpus} GPUs"
        return f"{gpus}, {'8-bit' if self.compressed else 'float16'}"


@dataclass(frozen=True)
class Share:
    """What one GPU of a worker has to hold. Memory in bytes."""

    gpu: Gpu
    weights: int
    kv: int  # of one sequence
    stream: int  # beside that, of one sequence
    fixed: int = CUDA_CONTEXT

    def overhead(self, sequences: int) -> int:
        """What is neither weights nor KV cache."""
        return self.fixed + sequences * self.stream + int(max(0, sequences - 1) * CACHE_GAPS * self.kv)

    def most(self) -> int:
        """How many sequences of full length it holds."""
        room = self.gpu.free - self.weights - self.fixed
        if room < 0:
            return -1
        gaps = CACHE_GAPS * self.kv
        return max(0, int((room + gaps) / max(1, self.kv + self.stream + gaps)))

    def needed(self, sequences: int) -> int:
        return self.weights + sequences * self.kv + self.overhead(sequences)


def gpu_units(gpu: Mapping[str, Any], own: Sequence[str], untold: int | None = None) -> list[Gpu]:
    """The GPUs and MIG devices of what M(vicuna.fleet.gpu_info) returned; own are the project's containers.

    untold: bytes of each one whose driver does not tell its memory, by the inventory.
    """
    units = []
    for entry in gpu.get("gpus") or []:
        processes = entry.get("processes") or []
        ours = [process for process in processes if _is_own(process.get("container") or "", own)]
        others = [process for process in processes if process not in ours]
        capability = str(entry.get("compute_capability") or "")
        index = entry["index"]
        if entry.get("mig") == "enabled":
            for device in entry.get("mig_devices") or []:
                # nvidia-smi does not tell here which of the GPU's MIG devices a process uses.
                total, free, told = _room(device, [] if others else ours, others, untold)
                name = f"nvidia.com/gpu={index}:{device['index']}"
                label = f"{entry.get('name', 'GPU')} MIG {device.get('profile', '')}".strip()
                holders = tuple(map(_holder, others))
                units.append(Gpu(name, label, total, free, capability, holders, mig=True, told=told))
            continue
        total, free, told = _room(entry, ours, others, untold)
        name, label = f"nvidia.com/gpu={index}", str(entry.get("name") or "GPU")
        units.append(Gpu(name, label, total, free, capability, tuple(map(_holder, others)), told=told))
    return units


def _room(
    entry: Mapping[str, Any],
    ours: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    untold: int | None,
) -> tuple[int, int, bool]:
    """Total and free memory of a GPU or a MIG device, and whether they are known.

    One that shares the host's memory (GB10, Jetson) has none of its own to tell, and a user without permission, or a
    guest with a vGPU, is told none: nvidia-smi says N/A. That is not a full one.
    """
    total, free = _mib(entry, "memory_total_mib"), entry.get("memory_free_mib")
    taken = sum(_mib(process, "memory_mib") for process in others)
    if not total or free is None:
        if untold is None and not (total and ours and not others):
            return total, 0, False
        total = total or untold or 0
        return total, max(0, min(total, untold or total) - taken), True
    if ours and not others:
        return total, max(_mib(entry, "memory_free_mib"), total - _mib(entry, "memory_reserved_mib")), True
    if _all_told(ours):
        return total, min(total, free * MIB + sum(_mib(process, "memory_mib") for process in ours)), True
    # What ours hold is not told: it is what the others do not.
    return total, max(free * MIB, total - _mib(entry, "memory_reserved_mib") - taken if _all_told(others) else 0), True


def _all_told(processes: Sequence[Mapping[str, Any]]) -> bool:
    return all(process.get("memory_mib") is not None for process in processes)


def _mib(entry: Mapping[str, Any], key: str) -> int:
    return int(entry.get(key) or 0) * MIB


def _is_own(container: str, own: Sequence[str]) -> bool:
    return bool(container) and any(known.startswith(container) or container.startswith(known) for known in own if known)


def _holder(process: Mapping[str, Any]) -> str:
    name = str(process.get("name") or process.get("command") or "a process").rpartition("/")[2]
    size = f", {gib(_mib(process, 'memory_mib'))}" if process.get("memory_mib") else ""
    return f"{name} (pid {process.get('pid', '?')}{size})"


def shares(model: Model, gpus: Sequence[Gpu], layout: Layout) -> list[Share]:
    """What each GPU of one worker has to hold."""
    total = weights(model, "cuda", layout.compressed)
    kv = kv_per_token(model, "cuda") * model.context
    stream = stream_overhead(model, "cuda", layout.compressed)
    if len(gpus) == 1:
        return [Share(gpus[0], total, kv, stream)]
    ends = min(total, 2 * model.embeddings * LOADED["cuda"][1])
    layer = (total - ends) / model.layers
    if layout.max_gpu_memory == "":
        return _sequential(gpus, total, kv, stream, layer)
    # Whole layers, evenly; the first GPU has the embeddings besides, the last one the head.
    layers = [len(range(number, model.layers, len(gpus))) for number in range(len(gpus))]
    found = []
    for number, gpu in enumerate(gpus):
        end = ends / 2 if number in (0, len(gpus) - 1) else 0
        found.append(Share(gpu, int(layers[number] * layer + end), kv * layers[number] // model.layers, stream))
    return found


def _sequential(gpus: Sequence[Gpu], total: int, kv: int, stream: int, layer: float) -> list[Share]:
    left, found = total, []
    for number, gpu in enumerate(gpus):
        # accelerate keeps room for the largest layer on the first GPU.
        limit = int(gpu.total / GIB * SEQUENTIAL_SHARE) * GIB - (int(layer) if number == 0 else 0)
        part = left if number == len(gpus) - 1 else min(left, max(0, limit))
        left -= part
        found.append(Share(gpu, part, kv * part // max(1, total), stream))
    return found


def memory_size(text: str) -> int | None:
    """Bytes of a size as accelerate reads it, such as 20GiB or 20000MB; None for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GIB|MIB|KIB|GB|MB|KB)\s*", text.upper())
    if not match:
        return None
    unit = {"GIB": GIB, "MIB": MIB, "KIB": 1024, "GB": 10**9, "MB": 10**6, "KB": 10**3}[match[2]]
    return int(float(match[1]) * unit)


def _layer(model: Model, found: Sequence[Share]) -> int:
    """Bytes of one layer's weights."""
    ends = 2 * model.embeddings * LOADED["cuda"][1]
    return max(0, sum(share.weights for share in found) - ends) // model.layers


def least_max_gpu_memory(model: Model, found: Sequence[Share]) -> int:
    """The least limit under which accelerate places the weights: it keeps room for a layer on the first GPU."""
    if len(found) == 1:
        return 0
    layer = _layer(model, found)
    return max(share.weights + (layer if number == 0 else 0) for number, share in enumerate(found))


def choose_max_gpu_memory(model: Model, found: Sequence[Share], sequences: int) -> str:
    """A limit for the weights on each GPU of a worker that leaves KV cache and overhead their room; empty for one GPU.

    Where there is room, it depends on the model alone: free memory differs a little at every look, and another limit
    would start the worker anew.
    """
    if len(found) == 1:
        return ""
    room = min(share.gpu.free - sequences * share.kv - share.overhead(sequences) for share in found)
    ample = -(-(least_max_gpu_memory(model, found) + 2 * _layer(model, found)) // GIB)
    return f"{ample}GiB" if ample * GIB <= room else f"{max(0, room) // MIB}MiB"


# --- the plan ----------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What is filled in while a host is judged."""

    device: str
    name: str
    problems: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    judged: bool = True
    workers: int = 0
    num_gpus: int = 1
    max_gpu_memory: str = ""
    load_8bit: bool = False
    limit: int = 1
    gpus: list[list[str]] = field(default_factory=list)
    model: Model | None = None
    memory: dict[str, int] = field(default_factory=dict)
    disk: list[dict[str, Any]] = field(default_factory=list)
    host_memory: dict[str, int] = field(default_factory=dict)
    ports: list[dict[str, Any]] = field(default_factory=list)
    skew: float = 0.0

    def refuse(self, check: str, found: str, expected: str, remedy: str) -> None:
        self.problems.append({"check": check, "message": f"Found {found} Expected {expected} {remedy}"})

    def result(self) -> dict[str, Any]:
        model = self.model
        dtype = LOADED[self.device][0]
        if self.load_8bit:
            dtype = "int8"
        if model and model.quantisation:
            dtype = model.quantisation
        return {
            "fits": not self.problems,
            "judged": self.judged,
            "problems": self.problems,
            "warnings": self.warnings,
            "device": self.device,
            "workers": self.workers,
            "num_gpus": self.num_gpus,
            "max_gpu_memory": self.max_gpu_memory,
            "load_8bit": self.load_8bit,
            "limit_worker_concurrency": self.limit,
            "gpus": self.gpus,
            "model": {
                "name": self.name,
                "commit": model.commit if model else "",
                "weights_bytes": model.stored if model else 0,
                "download_bytes": model.download if model else 0,
                "context_length": model.context if model else 0,
                "kv_bytes_per_token": kv_per_token(model, self.device) if model else 0,
                "dtype": dtype,
                "quantisation": model.quantisation if model else "",
            },
            "memory": self.memory,
            "disk": self.disk,
            "host_memory": self.host_memory,
            "ports": self.ports,
            "clock_skew_s": self.skew,
        }


def serving_plan(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of one host.

    facts: ``gpu`` and ``host`` as the modules gpu_info and host_info return them, ``model`` as model_info does, or
    ``model_error``, which says why there is none, and ``system_error``. settings: the role's variables without their
    prefix; None leaves the choice to the plan.
    """
    device = str(settings.get("device") or "cuda")
    name = str(settings.get("model_name") or "")
    plan = Plan(device=device, name=name)
    host, gpu = facts.get("host") or {}, facts.get("gpu") or {}
    own = [str(container["id"]) for container in host.get("containers") or [] if container.get("own")]

    if facts.get("system_error"):
        plan.problems.append({"check": "system", "message": str(facts["system_error"])})
    if facts.get("model_error"):
        plan.problems.append({"check": "model", "message": str(facts["model_error"])})
    else:
        try:
            plan.model = read_model(facts["model"], name)
            plan.warnings += plan.model.notes
        except Unreadable as error:
            plan.problems.append({"check": "model", "message": str(error)})

    if device == "cuda":
        units = _judge_gpus(plan, gpu, own, settings)
        units = tell_memory(plan, units, host, VARIABLES["gpu_memory"], settings.get("gpus"))
        if units and plan.model:
            _place(plan, plan.model, units, settings)
    elif plan.model:
        _place_on_cpu(plan, plan.model, host, settings)
    if device == "cuda" and plan.model:
        _judge_host_memory(plan, plan.model, host, settings)
        _warn_of_shared_memory(plan, gpu)
    _judge_engine(plan, host)
    _judge_disk(plan, host, settings)
    _judge_ports(plan, host)
    _judge_clock(plan, host, settings)
    return plan.result()


def _judge_gpus(plan: Plan, gpu: Mapping[str, Any], own: Sequence[str], settings: Mapping[str, Any]) -> list[Gpu]:
    """The GPUs that may be used; empty where nothing can be placed yet."""
    if not gpu.get("present"):
        plan.refuse(
            "gpu",
            "no NVIDIA GPU on the PCI bus.",
            "at least one.",
            f"Check that it is seated and passed through to this machine, or set {VARIABLES['device']}: cpu.",
        )
        return []
    minimum = str(settings.get("minimum_compute_capability") or "0")
    devices = [device for device in gpu.get("devices") or [] if device.get("kind", "gpu") == "gpu"]
    for device in devices:
        newest = CAPABILITIES.get(str(device.get("generation") or ""), "")
        if newest and older(newest, minimum):
            plan.refuse(
                "gpu",
                f"a GPU of the generation {device['generation']} at {device.get('address', 'an unknown address')}.",
                f"compute capability {minimum} or newer, for which the torch of the worker's image is built.",
                f"Take that host out of the play, or name other GPUs of it in {VARIABLES['gpus']}.",
            )
    driver = gpu.get("driver") or {}
    if not driver.get("answers"):
        plan.judged = False
        reason = str(driver.get("error") or "there is no driver").rstrip(".")
        plan.warnings.append(
            f"GPU memory is not judged yet ({reason}): it is once NVIDIA's driver answers. "
            f"{counted(len(devices), 'GPU')} on the bus."
        )
        _provisional(plan, len(devices), settings)
        return []
    wanted, found = str(settings.get("minimum_driver") or ""), str(driver.get("version") or "")
    if wanted and found and older(found, wanted):
        text = f"CUDA {settings.get('cuda')} of the worker's image needs {wanted} or newer"
        if settings.get("replace_driver"):
            plan.warnings.append(f"NVIDIA's driver {found} is to be replaced: {text}.")
        else:
            plan.refuse(
                "driver",
                f"NVIDIA's driver {found}.",
                f"{wanted} or newer: {text}.",
                "Upgrade it, or let the run replace it.",
            )
    if gpu.get("unlisted"):
        plan.warnings.append(f"The driver does not list the GPUs at {', '.join(map(str, gpu['unlisted']))}.")
    units = gpu_units(gpu, own, memory_size(str(settings.get("gpu_memory") or "")))
    if not units:
        enabled = [str(entry["index"]) for entry in gpu.get("gpus") or [] if entry.get("mig") == "enabled"]
        plan.refuse(
            "gpu",
            f"MIG enabled on GPU {', '.join(enabled)}, and no MIG device."
            if enabled
            else "no GPU that the driver lists.",
            "a GPU or MIG device for the worker.",
            "Create MIG devices (nvidia-smi mig), or disable MIG." if enabled else "Look at `dmesg` and `nvidia-smi`.",
        )
        return []
    return _named(plan, units, minimum, settings.get("gpus"))


class Judged(Protocol):
    """A plan while it is made."""

    warnings: list[str]

    def refuse(self, check: str, found: str, expected: str, remedy: str) -> None: ...


def tell_memory(
    plan: Judged, units: list[Gpu], host: Mapping[str, Any], variable: str, names: Sequence[str] | None = None
) -> list[Gpu]:
    """Those whose memory is known. Others are left out where nobody names them and there are better ones."""
    untold = [unit for unit in units if not unit.told]
    if not untold:
        return units
    which = ", ".join(f"{unit.label} ({unit.name})" for unit in untold)
    told = [unit for unit in units if unit.told]
    if told and not set(names or []) & {unit.name for unit in untold}:
        plan.warnings.append(f"{which} left out: the driver does not tell its memory. {variable} would.")
        return told
    available = int((host.get("memory") or {}).get("available_mib") or 0) * MIB
    plan.refuse(
        "gpu_memory",
        f"{which}, whose driver does not tell the memory.",
        f"figures of the driver, or the inventory's. A GPU that shares the host's memory has none of its own: here "
        f"{gib(available)} of that are available.",
        f"Set {variable} to what may be used of each such GPU, such as {max(1, available * 3 // 4 // GIB)}GiB.",
    )
    return []


def _named(plan: Plan, units: list[Gpu], minimum: str, names: Sequence[str] | None) -> list[Gpu]:
    """Those that the settings name, without the ones that are too old."""
    if names and "nvidia.com/gpu=all" not in names:
        known = {unit.name for unit in units}
        unknown = [name for name in names if name not in known]
        if unknown:
            plan.refuse(
                "gpu",
                f"no {', '.join(unknown)}.",
                f"some of {', '.join(sorted(known))}.",
                f"Correct {VARIABLES['gpus']}.",
            )
        units = [unit for unit in units if unit.name in names]
    fit = [unit for unit in units if not unit.capability or not older(unit.capability, minimum)]
    if units and not fit:
        plan.refuse(
            "gpu",
            f"{units[0].label} with compute capability {units[0].capability}.",
            f"{minimum} or newer, for which the torch of the worker's image is built.",
            f"Take that host out of the play, or set {VARIABLES['device']}: cpu.",
        )
    return fit


def _provisional(plan: Plan, count: int, settings: Mapping[str, Any]) -> None:
    """What can be said of a host by its PCI bus alone; memory decides the rest later."""
    plan.num_gpus = int(settings.get("num_gpus") or 1)
    names = [name for name in settings.get("gpus") or [] if name != "nvidia.com/gpu=all"]
    names = names or [f"nvidia.com/gpu={index}" for index in range(count)]
    plan.workers = int(settings.get("workers") or max(1, len(names) // plan.num_gpus))
    plan.load_8bit = bool(settings.get("load_8bit"))
    plan.max_gpu_memory = str(settings.get("max_gpu_memory") or "")
    plan.limit = int(settings.get("limit_worker_concurrency") or 1)
    needed = plan.workers * plan.num_gpus
    if len(names) < needed:
        _refuse_number(plan, len(names))
    plan.gpus = [names[at : at + plan.num_gpus] for at in range(0, needed, plan.num_gpus)]


def layouts(model: Model, units: Sequence[Gpu], settings: Mapping[str, Any]) -> list[Layout]:
    """The ways to load a worker that the settings leave, the best first."""
    limit = settings.get("max_gpu_memory")
    most = 1 if any(unit.mig for unit in units) else len(units)
    found = [Layout(1, False, limit)]
    found += [Layout(number, False, limit) for number in range(2, most + 1)]
    if not model.quantisation:
        found.append(Layout(1, True, limit))
    num_gpus, load_8bit = settings.get("num_gpus"), settings.get("load_8bit")
    if num_gpus is not None:
        found = [layout for layout in found if layout.num_gpus == num_gpus] or [Layout(int(num_gpus), False, limit)]
    if load_8bit is not None:
        if load_8bit and not any(layout.load_8bit for layout in found):
            # FastChat's own answer to both at once is a warning; judged is what it then does.
            return [Layout(layout.num_gpus, True, limit) for layout in found]
        found = [layout for layout in found if layout.load_8bit == load_8bit]
    return found


def _grouped(model: Model, units: Sequence[Gpu], layout: Layout) -> list[list[Share]]:
    """As many workers as there are GPUs for, those with the most room first."""
    ordered = sorted(units, key=lambda unit: -unit.free)
    size = layout.num_gpus
    groups = [ordered[at : at + size] for at in range(0, len(ordered) - size + 1, size)]
    return [shares(model, sorted(group, key=_natural), layout) for group in groups]


def _natural(unit: Gpu) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", unit.name)]


def _sequences(model: Model, found: Sequence[Share], layout: Layout, wanted: int | None) -> int:
    """How many requests of full length one worker takes at the same time; 0 where it does not fit."""
    most = min(*(share.most() for share in found), MOST_AT_ONCE if wanted is None else wanted)
    if wanted is not None and most < wanted:
        return 0
    if layout.max_gpu_memory == "":
        return max(0, most)
    least = least_max_gpu_memory(model, found)
    if layout.max_gpu_memory is not None:
        return max(0, most) if (memory_size(layout.max_gpu_memory) or 0) >= least else 0
    # More sequences leave less for the weights.
    for count in range(most, (wanted or 1) - 1, -1):
        if len(found) == 1 or (memory_size(choose_max_gpu_memory(model, found, count)) or 0) >= least:
            return count
    return 0


def _choose(
    model: Model, units: Sequence[Gpu], settings: Mapping[str, Any]
) -> tuple[Layout, int, list[list[Share]]] | None:
    """The first way to load that fits, how many requests each worker takes at once, and the workers."""
    wanted, workers = settings.get("limit_worker_concurrency"), settings.get("workers")
    for layout in layouts(model, units, settings):
        groups = [(_sequences(model, group, layout, wanted), group) for group in _grouped(model, units, layout)]
        fitting = [(count, group) for count, group in groups if count > 0]
        if fitting and len(fitting) >= (workers or 1):
            taken = fitting[: workers or len(fitting)]
            return layout, min(count for count, _group in taken), [group for _count, group in taken]
    return None


def _place(plan: Plan, model: Model, units: list[Gpu], settings: Mapping[str, Any]) -> None:
    """Chooses what the settings leave open, and refuses what does not fit."""
    chosen = _choose(model, units, settings)
    if chosen is None:
        _refuse_memory(plan, model, units, layouts(model, units, settings)[0], settings)
        return
    layout, limit, groups = chosen
    _adopt(plan, model, layout, limit, groups)
    if settings.get("load_8bit") and layout.num_gpus > 1:
        plan.warnings.append(
            f"{VARIABLES['load_8bit']} is without effect: FastChat compresses for one GPU only, and "
            f"{VARIABLES['num_gpus']} is {layout.num_gpus}."
        )
    if settings.get("max_gpu_memory") and layout.num_gpus == 1:
        plan.warnings.append(f"{VARIABLES['max_gpu_memory']} is without effect with one GPU for each worker.")
    left = len(units) - len(groups) * layout.num_gpus
    if left and settings.get("workers") is None:
        plan.warnings.append(f"{left} of {len(units)} GPUs stay unused: no further worker fits on them.")


def _adopt(plan: Plan, model: Model, layout: Layout, limit: int, groups: list[list[Share]]) -> None:
    plan.num_gpus, plan.load_8bit, plan.workers, plan.limit = layout.num_gpus, layout.compressed, len(groups), limit
    groups = sorted(groups, key=lambda group: _natural(group[0].gpu))
    plan.gpus = [[share.gpu.name for share in group] for group in groups]
    if layout.num_gpus > 1:
        limits = [choose_max_gpu_memory(model, group, limit) for group in groups]
        least = min(limits, key=lambda text: memory_size(text) or 0)
        plan.max_gpu_memory = least if layout.max_gpu_memory is None else layout.max_gpu_memory
    tightest = min(
        (share for group in groups for share in group), key=lambda share: share.gpu.free - share.needed(limit)
    )
    plan.memory = _memory(tightest.weights, limit * tightest.kv, tightest.overhead(limit), tightest.gpu.free)


def _memory(weights_bytes: int, kv: int, extra: int, free: int) -> dict[str, int]:
    def up(size: int) -> int:
        return -(-size // MIB)

    return {
        "weights_mib": up(weights_bytes),
        "kv_mib": up(kv),
        "overhead_mib": up(extra),
        "needed_mib": up(weights_bytes + kv + extra),
        "free_mib": free // MIB,
    }


def _refuse_memory(plan: Plan, model: Model, units: list[Gpu], layout: Layout, settings: Mapping[str, Any]) -> None:
    wanted, workers = settings.get("limit_worker_concurrency"), int(settings.get("workers") or 1)
    sequences = int(wanted or 1)
    plan.workers, plan.limit = workers, sequences
    plan.num_gpus, plan.load_8bit = layout.num_gpus, layout.compressed
    if workers * layout.num_gpus > len(units):
        _refuse_number(plan, len(units))
        return
    # With a number of workers given, the first that does not fit is told; else the one with the most room.
    group = _grouped(model, units, layout)[workers - 1]
    tightest = min(group, key=lambda share: share.gpu.free - share.needed(sequences))
    plan.memory = _memory(tightest.weights, sequences * tightest.kv, tightest.overhead(sequences), tightest.gpu.free)
    needed = tightest.needed(sequences)
    if layout.max_gpu_memory is None and layout.num_gpus > 1:
        needed += max(0, least_max_gpu_memory(model, group) - tightest.weights)
    if layout.max_gpu_memory and needed <= tightest.gpu.free:
        plan.refuse(
            "gpu_memory",
            f"{VARIABLES['max_gpu_memory']}: {layout.max_gpu_memory}.",
            f"{gib(least_max_gpu_memory(model, group))} or more for the weights on each of {layout.num_gpus} GPUs.",
            f"Raise {VARIABLES['max_gpu_memory']} or {VARIABLES['num_gpus']}, or leave them open.",
        )
        return
    held = f"; {', '.join(tightest.gpu.holders)} hold the rest" if tightest.gpu.holders else ""
    plan.refuse(
        "gpu_memory",
        f"{gib(tightest.gpu.free)} free of {gib(tightest.gpu.total)} on {tightest.gpu.name} "
        f"({tightest.gpu.label}{held}).",
        f"{gib(needed)} there ({layout.words()}): weights {gib(tightest.weights)}, KV cache "
        f"{gib(sequences * tightest.kv)} for {counted(sequences, 'request')} of {model.context} tokens, overhead "
        f"{gib(tightest.overhead(sequences))}.",
        _remedy(model, units, settings),
    )


def _refuse_number(plan: Plan, count: int) -> None:
    plan.refuse(
        "gpu",
        f"{counted(count, 'GPU')} to use.",
        f"{plan.workers * plan.num_gpus}, for {counted(plan.workers, 'worker')} of {counted(plan.num_gpus, 'GPU')}.",
        f"Lower {VARIABLES['workers']} or {VARIABLES['num_gpus']}, or leave them open.",
    )


def _remedy(model: Model, units: list[Gpu], settings: Mapping[str, Any]) -> str:
    """Which variable would change the verdict, tried out one after the other."""
    for key in ("limit_worker_concurrency", "load_8bit", "num_gpus", "max_gpu_memory", "workers"):
        if settings.get(key) is None:
            continue
        chosen = _choose(model, units, {**settings, key: None})
        if chosen:
            trial = Plan(device="cuda", name="")
            _adopt(trial, model, *chosen)
            value = {
                "limit_worker_concurrency": trial.limit,
                "load_8bit": str(trial.load_8bit).lower(),
                "num_gpus": trial.num_gpus,
                "max_gpu_memory": trial.max_gpu_memory or "null",
                "workers": trial.workers,
            }[key]
            return f"Set {VARIABLES[key]}: {value}, or leave it open."
    held = [name for unit in units for name in unit.holders]
    free_up = f"End {', '.join(held[:3])}, or take" if held else "Take"
    if not model.quantisation and settings.get("load_8bit") is None and settings.get("num_gpus") is None:
        (least,) = shares(model, [max(units, key=lambda unit: unit.free)], Layout(1, True, ""))
        free_up = (
            f"In 8 bits it would be {gib(least.needed(int(settings.get('limit_worker_concurrency') or 1)))}. {free_up}"
        )
    return f"{free_up} a smaller model or one with a shorter context ({VARIABLES['model']}), or a GPU with more memory."


def _available(host: Mapping[str, Any]) -> int:
    """Host memory that new workers may take: what the old ones hold is given back."""
    own = sum(
        int(container.get("memory_mib") or 0) for container in host.get("containers") or [] if container.get("own")
    )
    total = int((host.get("memory") or {}).get("total_mib") or 0)
    return min(total, int((host.get("memory") or {}).get("available_mib") or 0) + own) * MIB


def _place_on_cpu(plan: Plan, model: Model, host: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """One or more workers in host memory."""
    plan.load_8bit = bool(settings.get("load_8bit")) and not model.quantisation
    plan.workers = int(settings.get("workers") or 1)
    plan.num_gpus = 0
    wanted = settings.get("limit_worker_concurrency")
    loaded = weights(model, "cpu", plan.load_8bit)
    kv = kv_per_token(model, "cpu") * model.context
    stream = stream_overhead(model, "cpu", plan.load_8bit)
    available = _available(host)
    each = (available - HOST_SERVICES) // plan.workers
    room = each - loaded - HOST_PROCESS["cpu"]
    most = -1 if room < 0 else room // max(1, kv + stream)
    plan.limit = int(wanted or max(1, min(MOST_AT_ONCE, most)))
    extra = HOST_PROCESS["cpu"] + plan.limit * stream
    plan.memory = _memory(loaded, plan.limit * kv, extra, max(0, each))
    needed = plan.workers * (loaded + plan.limit * kv + extra) + HOST_SERVICES
    plan.host_memory = {"needed_mib": -(-needed // MIB), "available_mib": available // MIB}
    if most < plan.limit:
        remedies = []
        if wanted and most >= 1:
            remedies.append(f"Set {VARIABLES['limit_worker_concurrency']}: {most}.")
        elif plan.workers > 1:
            remedies.append(f"Lower {VARIABLES['workers']}.")
        plan.refuse(
            "host_memory",
            f"{gib(available)} of host memory available.",
            f"{gib(needed)}: {counted(plan.workers, 'worker')} with {gib(loaded)} of weights (float32 on the CPU), "
            f"{gib(plan.limit * kv)} of KV cache for {counted(plan.limit, 'request')} of {model.context} tokens, "
            f"{gib(extra)} besides.",
            " ".join(remedies) or f"Free memory, or take a smaller model ({VARIABLES['model']}).",
        )


def host_need(model: Model) -> int:
    """Host memory of one worker while it loads onto its GPUs."""
    return model.largest_file + HOST_PROCESS["cuda"]


def _judge_host_memory(plan: Plan, model: Model, host: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    each, available = host_need(model), _available(host)
    most = max(0, available - HOST_SERVICES) // each
    if plan.workers > most >= 1 and settings.get("workers") is None and not plan.problems:
        plan.warnings.append(
            f"{most} of {plan.workers} workers are planned: each takes {gib(each)} of host memory while it loads, and "
            f"{gib(available)} are available."
        )
        plan.workers, plan.gpus = most, plan.gpus[:most]
    workers = max(1, plan.workers)
    needed = workers * each + HOST_SERVICES
    plan.host_memory = {"needed_mib": -(-needed // MIB), "available_mib": available // MIB}
    if workers > most:
        plan.refuse(
            "host_memory",
            f"{gib(available)} of host memory available.",
            f"{gib(needed)} for {counted(workers, 'worker')}: weights pass through host memory on their way to a GPU, "
            "file by file.",
            f"Set {VARIABLES['workers']}: {most}."
            if most >= 1
            else "Free memory on the host, or take a model that is cut into smaller files.",
        )


def _warn_of_shared_memory(plan: Plan, gpu: Mapping[str, Any]) -> None:
    """Where the inventory told a GPU's memory, that may be the host's: both needs then come out of one."""
    silent = any(not entry.get("memory_total_mib") and entry.get("mig") != "enabled" for entry in gpu.get("gpus") or [])
    needed = plan.workers * plan.memory.get("needed_mib", 0) + plan.host_memory["needed_mib"]
    if silent and plan.memory and not plan.problems and needed > plan.host_memory["available_mib"]:
        plan.warnings.append(
            f"Where the GPU shares the host's memory, {gib(needed * MIB)} are needed of "
            f"{gib(plan.host_memory['available_mib'] * MIB)}: {VARIABLES['gpu_memory']} counts what is the GPU's alone."
        )


def _judge_engine(plan: Plan, host: Mapping[str, Any]) -> None:
    error = (host.get("engine") or {}).get("config_error")
    if error:
        plan.problems.append({"check": "engine", "message": str(error)})


def _judge_disk(plan: Plan, host: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Held against each file system once, whatever lies on it."""
    wanted: list[tuple[str, int, str]] = []
    if plan.model:
        missing = max(0, plan.model.download - int(host.get("objects_bytes") or 0))
        wanted.append(("model", missing + DISK_MARGIN if missing else 0, "the model"))
    images = host.get("images") or {}
    ours = any(container.get("own") for container in host.get("containers") or [])
    there = all(images.values()) if images else ours
    size = int(settings.get("image_bytes") or IMAGE_BYTES[plan.device])
    wanted.append(("docker", 0 if there else size, "FastChat's images"))
    systems: dict[Any, dict[str, Any]] = {}
    for key, needed, what in wanted:
        place = (host.get("file_systems") or {}).get(key)
        if not place:
            continue
        entry = systems.setdefault(
            place["device"],
            {"paths": [], "for": [], "needed_mib": 0, "free_mib": int(place["free_bytes"]) // MIB},
        )
        entry["paths"].append(place["path"])
        entry["needed_mib"] += -(-needed // MIB)
        entry["free_mib"] += int(host.get("reclaimable_bytes") or 0) // MIB if key == "model" else 0
        if needed:
            entry["for"].append(what)
    remedies = {
        "the model": f"Choose another {VARIABLES['root']}, or leave files out with {VARIABLES['exclude']}.",
        "FastChat's images": "Move the engine's data-root (docker_daemon_options) to a larger one.",
    }
    for entry in systems.values():
        plan.disk.append(entry)
        if entry["needed_mib"] > entry["free_mib"]:
            plan.refuse(
                "disk",
                f"{gib(entry['free_mib'] * MIB)} free on the file system of {' and '.join(entry['paths'])}.",
                f"{gib(entry['needed_mib'] * MIB)} for {' and '.join(entry['for'])}.",
                " ".join(["Free space there.", *(remedies[what] for what in entry["for"])]),
            )


def _judge_ports(plan: Plan, host: Mapping[str, Any]) -> None:
    plan.ports = [dict(port) for port in host.get("ports") or []]
    for port in plan.ports:
        if not port["free"] and not port["own"]:
            plan.refuse(
                "port",
                f"port {port['port']} taken by {port['by'] or 'an unknown process'}.",
                "a free port for the edge.",
                f"Stop that service, or choose another port ({VARIABLES['ports']}) or address "
                f"({VARIABLES['address']}).",
            )


def _judge_clock(plan: Plan, host: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    plan.skew = round(float(host.get("clock_skew_s") or 0), 1)
    most = float(settings.get("max_clock_skew") or 0)
    if most and abs(plan.skew) > most:
        plan.refuse(
            "clock",
            f"the clock {abs(plan.skew):.0f} s {'ahead of' if plan.skew > 0 else 'behind'} the control node's.",
            f"{most:.0f} s at most: certificates and package lists are refused otherwise.",
            "Set the clock (timedatectl set-ntp true, or chrony) on the one that is wrong.",
        )


# --- words -------------------------------------------------------------------------------------------------------


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def gib(size: float) -> str:
    return f"{size / MIB:.0f} MiB" if abs(size) < 0.1 * GIB else f"{size / GIB:.1f} GiB"


HEAD = ("HOST", "MODEL", "CONTEXT", "WORKERS", "AT ONCE", "NEEDED", "FREE", "VERDICT")
RIGHT = ("CONTEXT", "AT ONCE", "NEEDED", "FREE")


def table(plans: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """One row for each host, and below them why one does not fit, and what mends it. Some hosts have no plan."""
    rows = [_row(host, plans[host]) for host in sorted(plans, key=natural)]
    widths = [max(len(row[column]) for row in (HEAD, *rows)) for column in range(len(HEAD))]
    lines = []
    for row in (HEAD, *rows):
        cells = [
            cell.rjust(width) if name in RIGHT else cell.ljust(width) for name, cell, width in zip(HEAD, row, widths)
        ]
        lines.append("  ".join(cells).rstrip())
    for host in sorted(plans, key=natural):
        plan = plans[host] or {}
        lines += [f"{host}: {problem['message']}" for problem in plan.get("problems") or []]
        lines += [f"{host}: note: {warning}" for warning in plan.get("warnings") or []]
    return lines


def _row(host: str, plan: Mapping[str, Any] | None) -> tuple[str, ...]:
    if not plan:
        return (host, "-", "-", "-", "-", "-", "-", "no plan: unreachable, failed, or not its turn yet")
    memory = plan["memory"]
    how = "8-bit" if plan["load_8bit"] else plan["model"]["dtype"]
    where = "CPU" if plan["device"] == "cpu" else counted(plan["num_gpus"], "GPU")
    verdict = "fits" if plan["judged"] else "fits so far; memory after the driver"
    if not plan["fits"]:
        verdict = "does not fit: " + ", ".join(dict.fromkeys(problem["check"] for problem in plan["problems"]))
    return (
        host,
        plan["model"]["name"] or "-",
        str(plan["model"]["context_length"] or "-"),
        f"{plan['workers']} x {where}, {how}" if plan["workers"] else "-",
        str(plan["limit_worker_concurrency"]) if plan["workers"] else "-",
        gib(memory["needed_mib"] * MIB) if memory else "-",
        gib(memory["free_mib"] * MIB) if memory else "-",
        verdict,
    )
