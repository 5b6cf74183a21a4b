# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the log of FastChat's worker: what state it is in, and why it crashed. Pure functions only."""

from __future__ import annotations

import re
from typing import NamedTuple

_LOG_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| [A-Z]+ \| [\w.]+ \| ")
_EXCEPTION = re.compile(
    r"^(?:\w+\.)*[A-Z_]\w*(?:Error|Exception|Exit)(?::|$)|error: (?:unrecognized arguments|argument )"
)
_START = "| args: Namespace("


def one_line(text: str, longest: int = 160) -> str:
    """One line of bounded length, without control characters."""
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def log_lines(log: str) -> list[str]:
    """The lines of a FastChat log without their time, level and logger."""
    return [_LOG_PREFIX.sub("", line.rstrip()) for line in log.splitlines()]


def last_error(log: str) -> str:
    """The last line of the last traceback; the beginning of a traceback is often cut off by the log's tail."""
    lines = log_lines(log)
    for at in range(len(lines) - 1, -1, -1):
        if not _EXCEPTION.search(lines[at]):
            continue
        text = lines[at]
        if text.endswith(":"):  # the message is on the lines below
            text = " ".join([text, *(line.strip() for line in lines[at + 1 : at + 3])])
        return one_line(text, 300)
    return ""


def registered(log: str) -> bool:
    """Whether the worker had registered; a long-running one's tail holds heartbeats only."""
    return "| Register to controller" in log or "| Send heart beat." in log


def heartbeat_died(log: str) -> bool:
    """Whether the thread that sends the heartbeats ended in an exception."""
    died = log.rfind("(heart_beat_worker)")
    return died >= 0 and "Exception in thread" in log and "| Send heart beat." not in log[died:]


def this_run(log: str) -> str:
    """What was logged since the worker's last start; all of it where the start is out of the tail."""
    at = log.rfind(_START)
    return log[at:] if at >= 0 else log


def earlier_runs(log: str) -> str:
    at = log.rfind(_START)
    return log[:at] if at >= 0 else log


class Crash(NamedTuple):
    """What the last line of a worker's traceback, or the engine's refusal to start it, means."""

    pattern: str
    code: str
    cause: str
    remedy: str
    transient: bool = False  # whether waiting may mend it


_REBUILD = "Build the image again from the collection's hash-locked requirements, and run the playbook again."
_REFETCH = "Run the role model again (site.yml): it fetches what is missing and verifies every file by its sha256."
_CRASHES = (
    Crash(
        r"KeyError: 'factor'",
        "transformers_5",
        "the image holds transformers 5, with which FastChat cannot read a model's context length",
        _REBUILD,
    ),
    Crash(
        r"CUDA out of memory|CUDA error: out of memory",
        "gpu_too_small",
        "the model does not fit into the GPU's free memory",
        "Free the GPU (nvidia-smi shows who holds it), raise fastchat_num_gpus, set fastchat_load_8bit, or serve a "
        "smaller model (vicuna_model_repo).",
        transient=True,
    ),
    Crash(
        r"protobuf library|No module named 'google\.protobuf'",
        "no_protobuf",
        "the image lacks the Python package protobuf, which the tokenizer needs",
        _REBUILD,
    ),
    Crash(
        r"expected str, bytes or os\.PathLike object, not NoneType|TypeError: not a string",
        "no_tokenizer",
        "tokenizer.model is missing from the model's directory (Vicuna uses the slow tokenizer)",
        _REFETCH + " A model of one's own must be saved with its tokenizer.model.",
    ),
    Crash(
        r"header too large|invalid load key, 'v'|without having git-lfs installed|'bool' object has no attribute|"
        r"InvalidHeaderDeserialization|HeaderTooLarge",
        "lfs_pointers",
        "the model's directory holds Git LFS pointers in place of files",
        _REFETCH,
    ),
    Crash(
        # safetensors, torch, transformers and sentencepiece, in this order.
        r"file not fully covered|MetadataIncompleteBuffer|PytorchStreamReader failed|invalid header or archive is "
        r"corrupted|is not a valid JSON file|could not parse ModelProto",
        "damaged_model",
        "a file of the model is damaged: it was cut short, or is not what was published",
        _REFETCH,
    ),
    Crash(
        # safetensors 0.8 words a missing permission as FileNotFoundError.
        r"(PermissionError|FileNotFoundError|Permission denied).*\.(safetensors|bin|json|model)\b",
        "unreadable_weights",
        "the worker cannot read a file of the model: it is missing, or not readable for the worker's user "
        "(transformers saves model.safetensors with mode 0600)",
        "Run the role model again, which sets owner and modes; by hand: chmod -R a+rX on the model's directory.",
    ),
    Crash(
        r"no file named pytorch_model\.bin|no file named model\.safetensors",
        "no_weights",
        "the model's directory holds no weights",
        _REFETCH,
    ),
    Crash(
        r"Repo id must be in the form|is not a local folder and is not a valid model identifier|"
        r"(?:couldn't|can't|We couldn't) connect to .*huggingface",
        "no_model_path",
        "the model's path does not exist in the worker's container",
        "Check fastchat_model_path (MODEL_PATH in the compose project's .env) against the directories under /model, "
        "and run the roles model and fastchat again.",
    ),
    Crash(
        r"upgrade torch to at least v2\.6|torch\.load.*vulnerability",
        "torch_too_old",
        "the weights are .bin files, which transformers loads with torch 2.6 or newer only",
        _REBUILD,
    ),
    Crash(
        r"Torch not compiled with CUDA enabled",
        "torch_without_cuda",
        "the worker should use the GPU, and the image holds a torch that was built for the CPU",
        "Build the worker's image for fastchat_device: cuda, or set fastchat_device: cpu.",
    ),
    Crash(
        r"Found no NVIDIA driver|No CUDA GPUs are available|CUDA driver initialization failed|"
        r"could not select device driver|unresolvable CDI devices|nvidia-container-cli|CUDA_ERROR_NO_DEVICE",
        "no_gpu",
        "the worker's container sees no GPU",
        "Check nvidia-smi on the host, then run the roles nvidia_driver and nvidia_container_toolkit; without a GPU "
        "set fastchat_device: cpu.",
    ),
    Crash(
        r"system not yet initialized|error 802",
        "fabric_manager",
        "the GPUs of this NVSwitch machine are not initialised: Fabric Manager does not run",
        "Start nvidia-fabricmanager in exactly the driver's version (role nvidia_driver).",
        transient=True,
    ),
    Crash(
        r"driver on your system is too old|CUDA driver version is insufficient|no kernel image is available",
        "driver_mismatch",
        "the host's NVIDIA driver or GPU does not fit the CUDA version of the image's torch",
        "Update the driver (role nvidia_driver), or build the image with a torch for it.",
    ),
    Crash(
        r"ProxyError|Unable to connect to proxy",
        "worker_behind_proxy",
        "the worker asks a proxy for the controller: http_proxy is set in its container, and no_proxy does not name "
        "the controller",
        "Add controller and model-worker to NO_PROXY in the containers' environment, and run the role fastchat again.",
    ),
    Crash(
        r"(Max retries exceeded|Connection refused|NameResolutionError).*/?register_worker|/register_worker.*"
        r"(Connection refused|NameResolutionError|Max retries)",
        "no_controller",
        "the worker could not register: the controller was not up when it had loaded the model",
        "Bring the controller up (docker compose up -d controller); the worker is started again by itself.",
        transient=True,
    ),
    Crash(
        r"can't allocate memory|MemoryError|Cannot allocate memory",
        "host_memory",
        "the host has too little memory to load the model",
        "Free memory on the host, or serve a smaller model (vicuna_model_repo).",
        transient=True,
    ),
    Crash(
        r"No space left on device",
        "disk_full",
        "the host's disk is full",
        "Free space on the host (docker system df, df -h).",
        transient=True,
    ),
    Crash(
        r"unrecognized arguments|error: argument ",
        "bad_arguments",
        "the worker does not know one of its command's arguments",
        "Correct fastchat_worker_args, and run the role fastchat again.",
    ),
    Crash(
        r"ImportError|ModuleNotFoundError",
        "broken_image",
        "the image lacks a Python package, or holds one in a version that FastChat does not work with",
        _REBUILD,
    ),
)


def known_crash(text: str) -> Crash | None:
    return next((crash for crash in _CRASHES if re.search(crash.pattern, text)), None)
