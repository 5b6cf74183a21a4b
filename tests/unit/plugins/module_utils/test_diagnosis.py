# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which observation leads to which cause. Bodies and logs are FastChat 0.2.36's own where not said otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._diagnosis import Container, Observation, diagnose

LOGS = Path(__file__).parents[1] / "fixtures" / "logs"

NO_MODEL = '{"object":"error","message":"Only  allowed now, your model vicuna","code":40301}'
OTHER_MODEL = '{"object":"error","message":"Only vicuna allowed now, your model gpt-4","code":40301}'
TOO_LONG = (
    '{"object":"error","message":"This model\'s maximum context length is 1024 tokens. However, your messages resulted '
    'in 8070 tokens. Please reduce the length of the messages.","code":40303}'
)
BAD_PARAMETER = '{"object":"error","message":"0 is less than the minimum of 1 - \'max_tokens\'","code":40302}'
MALFORMED = (
    "{\"object\":\"error\",\"message\":\"1 validation error:\\n  {'type': 'json_invalid', 'loc': ('body', 0), 'msg': "
    "'JSON decode error', 'input': {}, 'ctx': {'error': 'Expecting value'}}\\n\\n  File "
    '\\"/usr/local/lib/python3.11/site-packages/fastchat/serve/openai_api_server.py\\", line 412, in '
    'create_chat_completion\\n    POST /v1/chat/completions","code":40001}'
)
DIED = '{"object":"error","message":"Server disconnected","code":50001}'
# Composed as fastchat/serve/model_worker.py does it.
OUT_OF_MEMORY = (
    '{"object":"error","message":"**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**\\n\\n'
    "(CUDA out of memory. Tried to allocate 64.00 MiB. GPU 0 has a total capacity of 23.57 GiB, 2.44 MiB is free)"
    '","code":50002}'
)
RAISED = OUT_OF_MEMORY.replace("50002", "50001").replace(
    "CUDA out of memory. Tried", "CUDA error: device-side assert. Tried"
)
KEY_EDGE = (
    '{"error":{"message":"The API key is missing or wrong. Send it as: Authorization: Bearer KEY",'
    '"type":"invalid_request_error","param":null,"code":"invalid_api_key"}}'
)
KEY_FASTCHAT = (
    '{"detail":{"error":{"message":"","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}}'
)
EDGE_404 = (
    '{"error":{"message":"Only /v1/* is served here.","type":"invalid_request_error","param":null,"code":"not_found"}}'
)
EDGE_413 = (
    '{"error":{"message":"The body is larger than 1048576 bytes.","type":"invalid_request_error","param":null,'
    '"code":"request_too_large"}}'
)
EDGE_502 = (
    '{"error":{"message":"FastChat closed the connection before it answered.","type":"server_error","param":null,'
    '"code":"bad_gateway"}}'
)
EDGE_HUNG = (
    '{"object":"error","message":"The controller of this host hangs.","code":50006,'
    '"error":{"message":"The controller of this host hangs.","type":"server_error","param":null,"code":50006}}'
)
EDGE_503 = (
    '{"error":{"message":"FastChat\'s API server does not answer.","type":"server_error","param":null,'
    '"code":"service_unavailable"}}'
)
EDGE_504 = (
    '{"error":{"message":"FastChat did not answer within 600 seconds.","type":"server_error","param":null,'
    '"code":"gateway_timeout"}}'
)
SQUID = (
    '<!DOCTYPE html PUBLIC "-//W3C//DTD HTML 4.01//EN"><html><head><title>ERROR: The requested URL could not be '
    "retrieved</title></head><body>Access Denied.</body></html>"
)

PROXIES = {"http_proxy": "http://proxy.example:3128"}


def log(name):
    return (LOGS / f"{name}.log").read_text(encoding="utf-8")


def stack(*changed, without=()):
    """The compose project's four containers, running for an hour, but for what is changed."""
    services = {
        name: Container(name, "running", running_for=3600)
        for name in ("controller", "model-worker", "api-server", "edge")
    }
    services.update({container.service: container for container in changed})
    return tuple(container for name, container in services.items() if name not in without)


def worker(state="running", **facts):
    return Container("model-worker", state, **{"running_for": 5.0 if state == "running" else 0.0, **facts})


def seen(status=None, body="", *, containers=None, logs=None, **more):
    return Observation(
        url=more.pop("url", "http://10.0.0.7:8000"),
        model=more.pop("model", "vicuna"),
        status=status,
        body=body,
        containers=containers,
        logs=logs or {},
        **more,
    )


def crash(name, **facts):
    """40301 with a worker that has crashed and left this log."""
    facts = {"exit_code": 1, "restarts": 4, **facts}
    return seen(400, NO_MODEL, containers=stack(worker("restarting", **facts)), logs={"model-worker": log(name)})


# name: observation, code, words of the cause, words of the remedy, whether waiting may mend it
CASES = {
    # 40301
    "no worker, nothing known": (
        seen(400, NO_MODEL),
        "no_worker",
        ["loads", "crashed"],
        ["logs --tail 50 model-worker"],
        True,
    ),
    "loading": (
        seen(400, NO_MODEL, containers=stack(worker(running_for=42)), logs={"model-worker": log("worker_loading")}),
        "loading",
        ["still loading", "42 s"],
        ["timeout"],
        True,
    ),
    "loading, with nothing in the log yet": (
        seen(400, NO_MODEL, containers=stack(worker()), logs={}),
        "loading",
        ["still loading"],
        [],
        True,
    ),
    "registering": (
        seen(400, NO_MODEL, containers=stack(worker()), logs={"model-worker": log("worker_registered_not_listening")}),
        "registering",
        ["registering"],
        ["Wait"],
        True,
    ),
    "evicted, heartbeats go on": (
        seen(400, NO_MODEL, containers=stack(), logs={"model-worker": log("worker_serving")}),
        "evicted",
        ["forgotten"],
        ["restart model-worker"],
        True,
    ),
    "evicted, only heartbeats in the tail": (
        seen(400, NO_MODEL, containers=stack(), logs={"model-worker": log("worker_serving").splitlines()[-1] * 40}),
        "evicted",
        ["forgotten"],
        ["restart model-worker"],
        True,
    ),
    "forgotten, for it hangs": (
        seen(
            503,
            NO_MODEL,
            containers=stack(Container("model-worker", "running", running_for=3600, quiet_for=21)),
            logs={"model-worker": log("worker_serving")},
        ),
        "hung",
        ["model-worker runs and does not answer"],
        ["restart model-worker"],
        True,
    ),
    "forgotten, and unwell": (
        seen(
            503,
            NO_MODEL,
            containers=stack(Container("model-worker", "running", running_for=20, health="unhealthy")),
            logs={"model-worker": log("worker_serving")},
        ),
        "hung",
        ["model-worker runs and does not answer"],
        ["restart model-worker"],
        True,
    ),
    "started again after a hang, and has logged nothing": (
        seen(
            503,
            NO_MODEL,
            containers=stack(Container("model-worker", "running", running_for=2.4, quiet_for=31)),
            logs={"model-worker": log("worker_serving")},
        ),
        "loading",
        ["still loading", "2.4 s"],
        ["Wait"],
        True,
    ),
    "killed at its limit at every start, running for now": (
        seen(
            503,
            NO_MODEL,
            containers=stack(worker(running_for=3, quiet_for=90, restarts=11, memory_limit=157286400)),
            logs={"model-worker": log("worker_serving")},
        ),
        "host_memory",
        ["memory limit of its container, 150 MiB"],
        ["site.yml"],
        True,
    ),
    "crash loop, and this run has logged nothing": (
        seen(
            503,
            NO_MODEL,
            containers=stack(worker(running_for=1, quiet_for=4, restarts=7)),
            logs={"model-worker": log("worker_serving") + log("worker_transformers5")},
        ),
        "transformers_5",
        ["KeyError: 'factor'"],
        ["image"],
        False,
    ),
    "quiet while it loads": (
        seen(
            503,
            NO_MODEL,
            containers=stack(Container("model-worker", "running", running_for=3600, quiet_for=3590)),
            logs={"model-worker": log("worker_loading")},
        ),
        "loading",
        ["still loading"],
        ["Wait"],
        True,
    ),
    "evicted, the heartbeat thread is dead": (
        seen(400, NO_MODEL, containers=stack(), logs={"model-worker": log("worker_heartbeat_thread_died")}),
        "evicted",
        ["heartbeat thread died"],
        ["restart model-worker"],
        False,
    ),
    "another name": (
        seen(400, OTHER_MODEL, model="gpt-4"),
        "name_mismatch",
        ["serves 'vicuna'", "'gpt-4' was asked"],
        ["vicuna_model_name"],
        False,
    ),
    "another name, several served": (
        seen(400, OTHER_MODEL.replace("Only vicuna", "Only vicuna&&llama"), model="gpt-4"),
        "name_mismatch",
        ["vicuna, llama"],
        ["'vicuna'"],
        False,
    ),
    "no worker container": (
        seen(400, NO_MODEL, containers=stack(without=("model-worker",))),
        "worker_missing",
        ["no container model-worker"],
        ["docker compose up -d"],
        True,
    ),
    "worker stopped by hand": (
        seen(
            400,
            NO_MODEL,
            containers=stack(worker("exited", exit_code=143)),
            logs={"model-worker": log("worker_serving")},
        ),
        "worker_stopped",
        ["was stopped or killed by hand"],
        ["docker compose up -d model-worker"],
        False,
    ),
    "worker waits for the controller": (
        seen(400, NO_MODEL, containers=stack(worker("created"))),
        "worker_not_started",
        ["never started"],
        ["ps -a"],
        True,
    ),
    # crashes, each from its own captured log
    "transformers 5": (
        crash("worker_transformers5"),
        "transformers_5",
        ["transformers 5", "KeyError: 'factor'"],
        ["image"],
        False,
    ),
    "crash loop, running again for now": (
        seen(400, NO_MODEL, containers=stack(worker(restarts=7)), logs={"model-worker": log("worker_crash_loop")}),
        "transformers_5",
        ["KeyError: 'factor'"],
        ["image"],
        False,
    ),
    "protobuf missing": (crash("worker_no_protobuf"), "no_protobuf", ["protobuf"], ["image"], False),
    "tokenizer.model missing": (
        crash("worker_no_tokenizer_model"),
        "no_tokenizer",
        ["tokenizer.model"],
        ["role model"],
        False,
    ),
    "weights unreadable (0600)": (
        crash("worker_unreadable_weights"),
        "unreadable_weights",
        ["not readable", "0600", "model.safetensors"],
        ["chmod"],
        False,
    ),
    "pointer for safetensors": (
        crash("worker_pointer_safetensors"),
        "lfs_pointers",
        ["pointers"],
        ["role model"],
        False,
    ),
    "pointer for .bin": (crash("worker_pointer_bin"), "lfs_pointers", ["pointers"], ["role model"], False),
    "pointer for tokenizer.model": (
        crash("worker_pointer_tokenizer"),
        "lfs_pointers",
        ["pointers"],
        ["role model"],
        False,
    ),
    "weights cut short": (
        seen(
            400,
            NO_MODEL,
            containers=stack(worker("restarting", exit_code=1, restarts=2)),
            logs={
                "model-worker": "2026-12-01 14:32:46 | ERROR | stderr | safetensors._safetensors_rust.SafetensorError: "
                "Error while deserializing header: incomplete metadata, file not fully covered"
            },
        ),
        "damaged_model",
        ["a file of the model is damaged", "not fully covered"],
        ["role model", "site.yml"],
        False,
    ),
    "weights cut short, .bin": (
        seen(
            400,
            NO_MODEL,
            containers=stack(worker("restarting", exit_code=1, restarts=2)),
            logs={
                "model-worker": "2026-12-01 14:32:46 | ERROR | stderr | RuntimeError: PytorchStreamReader failed "
                "reading zip archive: failed finding central directory"
            },
        ),
        "damaged_model",
        ["central directory"],
        ["role model"],
        False,
    ),
    "config.json damaged": (
        seen(
            400,
            NO_MODEL,
            containers=stack(worker("restarting", exit_code=1, restarts=2)),
            logs={
                "model-worker": "2026-12-01 14:32:46 | ERROR | stderr | OSError: It looks like the config file at "
                "'/model/vicuna-tiny@f39a3a1b9a18/config.json' is not a valid JSON file."
            },
        ),
        "damaged_model",
        ["config.json"],
        ["role model"],
        False,
    ),
    "no weights": (crash("worker_no_weights"), "no_weights", ["no weights"], ["role model"], False),
    "no such path": (crash("worker_no_model_path"), "no_model_path", ["path"], ["fastchat_model_path"], False),
    "torch without CUDA": (
        crash("worker_torch_without_cuda"),
        "torch_without_cuda",
        ["CPU"],
        ["fastchat_device"],
        False,
    ),
    "controller not up": (crash("worker_no_controller"), "no_controller", ["could not register"], ["controller"], True),
    "proxy in the container": (crash("worker_proxy"), "worker_behind_proxy", ["http_proxy"], ["NO_PROXY"], False),
    # torch's words [published]
    "GPU too small": (
        seen(
            400,
            NO_MODEL,
            containers=stack(worker("exited", exit_code=1)),
            logs={
                "model-worker": "2026-11-22 08:47:30 | ERROR | stderr | torch.OutOfMemoryError: CUDA out of memory. "
                "Tried to allocate 86.00 MiB. GPU 0 has a total capacity of 7.78 GiB of which 40.00 MiB is free."
            },
        ),
        "gpu_too_small",
        ["does not fit", "86.00 MiB"],
        ["vicuna_model_repo"],
        True,
    ),
    "no GPU in the container": (
        seen(
            400,
            NO_MODEL,
            containers=stack(
                worker(
                    "created", error='could not select device driver "nvidia" with capabilities: [[gpu]]', exit_code=128
                )
            ),
        ),
        "no_gpu",
        ["sees no GPU", "could not select device driver"],
        ["nvidia_container_toolkit", "fastchat_device: cpu"],
        False,
    ),
    "killed for memory": (
        seen(400, NO_MODEL, containers=stack(worker("exited", exit_code=137, oom_killed=True))),
        "host_memory",
        ["memory"],
        ["smaller model"],
        True,
    ),
    "killed at a limit that somebody has set": (
        seen(
            400,
            NO_MODEL,
            containers=stack(worker("restarting", exit_code=137, oom_killed=True, memory_limit=104857600)),
        ),
        "host_memory",
        ["memory limit of its container, 100 MiB"],
        ["site.yml", "--force-recreate"],
        True,
    ),
    "killed from outside": (
        seen(400, NO_MODEL, containers=stack(worker("restarting", exit_code=137))),
        "host_memory",
        ["exit code 137"],
        ["memory"],
        True,
    ),
    "killed by hand": (
        seen(400, NO_MODEL, containers=stack(worker("exited", exit_code=137))),
        "worker_stopped",
        ["killed by hand", "exit code 137"],
        ["docker compose up -d model-worker"],
        False,
    ),
    "hung, for the api-server is down": (
        seen(
            error_kind="timeout",
            waited=5,
            edge_hangs=False,
            containers=stack(Container("api-server", "exited", exit_code=137)),
        ),
        "api_down",
        ["api-server", "exited"],
        ["docker compose up -d api-server"],
        True,
    ),
    "hung, for the api-server is down and the edge is slow": (
        seen(
            error_kind="timeout",
            waited=5,
            edge_hangs=True,
            containers=stack(Container("api-server", "exited", exit_code=137)),
        ),
        "api_down",
        ["api-server", "exited"],
        ["docker compose up -d api-server"],
        True,
    ),
    "hung, for the controller is down": (
        seen(
            error_kind="timeout",
            waited=5,
            edge_hangs=False,
            containers=stack(Container("controller", "exited", exit_code=137)),
        ),
        "controller_down",
        ["controller", "exited"],
        ["docker compose up -d controller"],
        True,
    ),
    "hung, for the worker crashes": (
        seen(
            error_kind="timeout",
            waited=5,
            edge_hangs=False,
            containers=stack(worker("restarting", exit_code=1)),
            logs={"model-worker": log("worker_transformers5")},
        ),
        "transformers_5",
        ["KeyError: 'factor'"],
        ["image"],
        False,
    ),
    "unknown crash": (
        seen(
            400,
            NO_MODEL,
            containers=stack(worker("exited", exit_code=1)),
            logs={"model-worker": "2026-11-22 08:47:30 | ERROR | stderr | pkg.OddError: it broke"},
        ),
        "crashed",
        ["pkg.OddError: it broke"],
        ["logs --tail 50 model-worker"],
        False,
    ),
    "crash without a word": (
        seen(400, NO_MODEL, containers=stack(worker("exited", exit_code=139))),
        "crashed",
        ["exit code 139"],
        ["logs --tail 50 model-worker"],
        False,
    ),
    # 500
    "500, nothing known": (
        seen(500, "Internal Server Error"),
        "worker_unreachable",
        ["registers", "died"],
        ["Wait"],
        True,
    ),
    "500 while registering": (
        seen(
            500,
            "Internal Server Error",
            containers=stack(worker()),
            logs={"model-worker": log("worker_registered_not_listening"), "api-server": log("api_worker_unreachable")},
        ),
        "registering",
        ["does not listen yet"],
        ["Wait"],
        True,
    ),
    "500, another worker is named still": (
        seen(
            500,
            "Internal Server Error",
            containers=stack(worker(running_for=6)),
            logs={"model-worker": log("worker_loading"), "api-server": log("api_worker_unreachable")},
        ),
        "loading",
        ["still loading", "6.0 s"],
        ["Wait"],
        True,
    ),
    "500, worker dead": (
        seen(
            500,
            "Internal Server Error",
            containers=stack(worker("exited", exit_code=137)),
            logs={"model-worker": log("worker_serving"), "api-server": log("api_worker_unreachable")},
        ),
        "worker_stopped",
        ["exit code 137"],
        [],
        False,
    ),
    "500, controller down": (
        seen(500, "Internal Server Error", containers=stack(Container("controller", "exited", exit_code=1))),
        "controller_down",
        ["controller", "exited"],
        ["docker compose up -d controller"],
        True,
    ),
    "500, controller out of reach": (
        seen(500, "Internal Server Error", containers=stack(), logs={"api-server": log("api_controller_unreachable")}),
        "controller_down",
        ["Cannot connect to host controller:21001"],
        ["restart controller"],
        True,
    ),
    "500, all running": (
        seen(
            500,
            "Internal Server Error",
            containers=stack(),
            logs={"model-worker": log("worker_serving"), "api-server": log("api_worker_unreachable")},
        ),
        "api_error",
        ["Cannot connect to host model-worker:21002"],
        ["logs --tail 50 api-server"],
        True,
    ),
    # FastChat's other refusals
    "context": (seen(400, TOO_LONG), "context_overflow", ["1024 tokens"], ["prompt", "vicuna_model_repo"], False),
    "parameter": (seen(400, BAD_PARAMETER), "bad_parameter", ["max_tokens"], ["max_tokens"], False),
    "malformed": (seen(400, MALFORMED), "malformed", ["JSON decode error"], ["changed the body"], False),
    "died in the middle": (seen(400, DIED), "worker_died", ["middle", "Server disconnected"], ["ask again"], True),
    "died in the middle, killed for memory": (
        seen(400, DIED, containers=stack(worker("exited", exit_code=137, oom_killed=True))),
        "host_memory",
        ["memory"],
        [],
        True,
    ),
    "out of memory as traffic": (
        seen(400, OUT_OF_MEMORY),
        "out_of_memory",
        ["ran out of memory", "64.00 MiB", "traffic"],
        ["nvidia-smi", "vicuna_model_repo"],
        True,
    ),
    "raised, worded as traffic": (
        seen(400, RAISED),
        "worker_raised",
        ["device-side assert"],
        ["restart model-worker"],
        True,
    ),
    # the edge
    "no key": (seen(401, KEY_EDGE), "unauthorised", ["none was sent"], ["api_key", "fastchat_api_keys"], False),
    "wrong key": (
        seen(401, KEY_EDGE, key_sent=True),
        "unauthorised",
        ["refused"],
        ["site.yml", "fastchat_api_keys"],
        False,
    ),
    "FastChat's key": (
        seen(401, KEY_FASTCHAT, key_sent=True),
        "unauthorised_inside",
        ["FastChat itself"],
        ["--api-keys"],
        False,
    ),
    "blocked path": (seen(404, EDGE_404), "not_found", ["/v1/*"], ["url"], False),
    "path in the url": (
        seen(404, EDGE_404, url="http://10.0.0.7:8000/v1"),
        "not_found",
        ["base address"],
        ["Set url to http://10.0.0.7:8000;"],
        False,
    ),
    "another service": (
        seen(404, "404 page not found"),
        "not_found",
        ["not this deployment"],
        ["port edge 8000"],
        False,
    ),
    "too large": (seen(413, EDGE_413), "too_large", ["larger"], ["fastchat_max_body_bytes"], False),
    "rate limit": (
        seen(429, '{"error":{"code":"rate_limited"}}'),
        "rate_limited",
        ["rate limit"],
        ["gateway"],
        True,
    ),
    "a part hangs": (
        seen(503, EDGE_HUNG, containers=stack()),
        "hung",
        ["controller", "does not answer"],
        ["-p vicuna restart controller", "logs --tail 50 controller"],
        True,
    ),
    "api-server down": (
        seen(503, EDGE_503, containers=stack(Container("api-server", "exited", exit_code=1))),
        "api_down",
        ["api-server", "exited"],
        ["docker compose up -d api-server"],
        True,
    ),
    "a part that hangs is paused": (
        seen(503, EDGE_HUNG, containers=stack(Container("controller", "paused"))),
        "paused",
        ["container controller is paused"],
        ["unpause controller", "site.yml"],
        True,
    ),
    "a part that hangs is off its network": (
        seen(
            503,
            EDGE_HUNG,
            containers=stack(Container("controller", "running", running_for=3600, cut_from="vicuna_backend")),
        ),
        "no_network",
        ["controller", "not on the network vicuna_backend", "restart does not connect it"],
        ["site.yml", "--force-recreate"],
        True,
    ),
    "the edge is off the network that publishes its port": (
        seen(
            error_kind="refused",
            containers=stack(Container("edge", "running", running_for=3600, health="healthy", unpublished=True)),
        ),
        "no_network",
        ["edge", "not on the network that publishes its port"],
        ["site.yml", "--force-recreate"],
        True,
    ),
    "no worker, it is off its network": (
        seen(
            503,
            NO_MODEL,
            containers=stack(worker(running_for=3, restarts=4, cut_from="vicuna_backend")),
            logs={"model-worker": log("worker_no_controller")},
        ),
        "no_network",
        ["model-worker", "not on the network"],
        ["--force-recreate"],
        True,
    ),
    "a second worker hangs": (
        seen(
            503,
            EDGE_HUNG.replace("controller", "model-worker-2"),
            containers=stack(Container("model-worker-2", "running", running_for=3600)),
        ),
        "hung",
        ["model-worker-2 runs and does not answer"],
        ["restart model-worker-2"],
        True,
    ),
    "another service has the port": (
        seen(
            404,
            "404 page not found",
            containers=stack(
                Container(
                    "edge",
                    "created",
                    exit_code=128,
                    error="driver failed programming external connectivity on endpoint vicuna-edge-1 (c5b): failed to "
                    "bind port 0.0.0.0:8000/tcp: Error starting userland proxy: listen tcp4 0.0.0.0:8000: bind: "
                    "address already in use",
                )
            ),
        ),
        "port_taken",
        ["another service holds the port", "address already in use"],
        ["sport = :8000", "fastchat_port"],
        False,
    ),
    "another service took the port of an edge that was stopped": (
        seen(501, "Unsupported method", url="http://127.0.0.1:8000", containers=stack(Container("edge", "exited"))),
        "port_taken",
        ["another service holds the port", "the container edge is exited, and something else answers there"],
        ["sport = :8000", "fastchat_port"],
        False,
    ),
    "no HTTP at the port of an edge that was stopped": (
        seen(error_kind="not_http", url="http://127.0.0.1:8000", containers=stack(Container("edge", "exited"))),
        "port_taken",
        ["something else answers there"],
        ["sport = :8000"],
        False,
    ),
    "an answer from elsewhere says nothing of the edge's port": (
        seen(501, "Unsupported method", containers=stack(Container("edge", "exited"))),
        "unexpected_answer",
        ["HTTP 501"],
        ["this deployment's edge"],
        True,
    ),
    "another container has the port": (
        seen(
            error_kind="disconnected",
            containers=stack(
                Container(
                    "edge",
                    "exited",
                    exit_code=128,
                    error="driver failed programming external connectivity on endpoint vicuna-edge-1 (c5b): Bind for "
                    "0.0.0.0:8000 failed: port is already allocated",
                )
            ),
        ),
        "port_taken",
        ["port is already allocated"],
        ["sport = :8000"],
        False,
    ),
    "api-server out of the edge's reach": (
        seen(503, EDGE_503, containers=stack()),
        "api_unreachable",
        ["api-server runs for 60 min", "cannot reach it"],
        ["restart api-server"],
        True,
    ),
    "no api-server": (
        seen(503, EDGE_503, containers=stack(without=("api-server",))),
        "api_missing",
        ["no container api-server"],
        ["docker compose up -d"],
        True,
    ),
    "api-server just started": (
        seen(503, EDGE_503, containers=stack(Container("api-server", "running", running_for=2))),
        "api_starting",
        ["starting"],
        ["Wait"],
        True,
    ),
    "edge gives up on a worker that is unwell": (
        seen(
            504,
            EDGE_504,
            containers=stack(Container("model-worker", "running", health="unhealthy", running_for=3600)),
        ),
        "edge_timeout",
        ["gave up"],
        ["restart model-worker"],
        True,
    ),
    "api-server starting": (
        seen(503, EDGE_503),
        "api_starting",
        ["starting or down"],
        ["logs --tail 50 api-server"],
        True,
    ),
    "edge gives up": (seen(504, EDGE_504), "edge_timeout", ["gave up"], ["restart model-worker"], True),
    "edge without an answer": (seen(502, EDGE_502), "edge_bad_gateway", ["api-server"], ["Ask again"], True),
    "redirect": (
        seen(302, "", headers={"location": "https://login.example/"}),
        "redirected",
        ["https://login.example/"],
        ["url"],
        False,
    ),
    "strange status": (seen(418, "teapot"), "unexpected_answer", ["418"], ["edge"], True),
    # answers that are no good
    "invalid": (
        seen(200, '{"choices":[]}', violations=("choices holds 0 entries, expected 1",)),
        "invalid_answer",
        ["choices holds 0 entries"],
        ["role model"],
        False,
    ),
    "no chat API": (
        seen(200, "<html>It works!</html>", violations=("the answer is missing or null, expected a JSON object",)),
        "not_the_api",
        ["not a chat API"],
        ["port edge 8000"],
        True,
    ),
    # no answer at all
    "refused, nothing known": (
        seen(error_kind="refused", error_text="x"),
        "refused",
        ["10.0.0.7:8000"],
        ["ps -a"],
        True,
    ),
    "refused, edge down": (
        seen(
            error_kind="refused",
            containers=stack(Container("edge", "exited", exit_code=1)),
            logs={
                "edge": "[ALERT]    (1) : config : [/etc/haproxy.cfg:12] : 'bind' : unable to stat SSL certificate\n"
            },
        ),
        "edge_down",
        ["exited", "unable to stat SSL certificate"],
        ["docker compose up -d edge"],
        True,
    ),
    "refused, the edge ends at every start": (
        seen(
            error_kind="refused",
            containers=stack(Container("edge", "running", running_for=0.4, restarts=6)),
            logs={
                "edge": "[ALERT]    (1) : config : parsing [/etc/vicuna/haproxy.cfg:37] : unknown keyword 'fronted' "
                "out of section.\n[ALERT]    (1) : config : Error(s) found in configuration file : haproxy.cfg\n"
                "[ALERT]    (1) : config : Fatal errors found in configuration.\n"
            },
        ),
        "edge_down",
        ["ends at every start, 6 times", "unknown keyword 'fronted'"],
        ["docker compose up -d edge"],
        True,
    ),
    "disconnected, the edge ends at every start": (
        seen(error_kind="disconnected", containers=stack(Container("edge", "restarting", exit_code=1, restarts=6))),
        "edge_down",
        ["edge is restarting"],
        ["docker compose up -d edge"],
        True,
    ),
    "refused, the edge was stopped": (
        seen(
            error_kind="refused",
            containers=stack(Container("edge", "exited", exit_code=0)),
            logs={"edge": "[ALERT]    (8) : backend 'api_check' has no server available!\n"},
        ),
        "edge_down",
        ["edge is exited"],
        ["docker compose up -d edge"],
        True,
    ),
    "refused, no edge": (
        seen(error_kind="refused", containers=stack(without=("edge",))),
        "edge_down",
        ["not exist"],
        [],
        True,
    ),
    "refused, nothing deployed": (
        seen(error_kind="refused", containers=()),
        "not_deployed",
        ["no containers"],
        ["site.yml"],
        True,
    ),
    "refused, no engine": (
        seen(
            error_kind="refused",
            containers_error="docker ps: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the "
            "docker daemon running?",
        ),
        "engine_down",
        ["Docker Engine of this host does not run"],
        ["site.yml", "systemctl start docker"],
        True,
    ),
    "refused, edge runs": (
        seen(error_kind="refused", containers=stack()),
        "wrong_port",
        ["another port"],
        ["port edge"],
        True,
    ),
    "refused, another port than the edge's": (
        seen(
            error_kind="refused",
            url="http://127.0.0.1:9999",
            containers=stack(Container("edge", "running", running_for=3600, published=(8000,))),
        ),
        "wrong_port",
        ["127.0.0.1:9999", "it publishes port 8000"],
        ["verify_url", "fastchat_port"],
        False,
    ),
    "refused, the edge's own port": (
        seen(
            error_kind="refused",
            containers=stack(Container("edge", "running", running_for=3600, published=(8000,))),
        ),
        "wrong_port",
        ["nothing listens"],
        ["port edge"],
        True,
    ),
    "name unknown": (
        seen(error_kind="dns", error_text="[Errno -2] Name or service not known", url="http://nosuch:8000"),
        "dns",
        ["'nosuch'"],
        ["ansible_host"],
        True,
    ),
    "packets dropped": (
        seen(error_kind="connect_timeout", waited=10),
        "no_connection",
        ["10 s", "firewall"],
        ["firewall"],
        True,
    ),
    "no route": (seen(error_kind="unreachable"), "no_connection", ["no route"], ["host is up"], True),
    "hung": (seen(error_kind="timeout", waited=60), "hung", ["60 s", "hangs"], ["restart model-worker"], True),
    "hung, containers known": (
        seen(error_kind="timeout", waited=60, edge_hangs=False, containers=stack()),
        "hung",
        ["60 s", "busy"],
        ["nvidia-smi"],
        True,
    ),
    "hung, the edge": (
        seen(error_kind="timeout", waited=60, edge_hangs=True, containers=stack()),
        "hung",
        ["edge runs and does not answer"],
        ["restart edge"],
        True,
    ),
    "hung, the edge behind TLS": (
        seen(
            error_kind="connect_timeout",
            error_text="_ssl.c:989: The handshake operation timed out",
            waited=60,
            edge_hangs=True,
            containers=stack(),
            url="https://10.0.0.7:8000",
        ),
        "hung",
        ["edge runs and does not answer"],
        ["restart edge"],
        True,
    ),
    "hung, some are unwell": (
        seen(
            error_kind="timeout",
            waited=60,
            edge_hangs=False,
            containers=stack(
                Container("model-worker", "running", health="unhealthy", running_for=3600),
                Container("api-server", "running", health="unhealthy", running_for=3600),
            ),
        ),
        "hung",
        ["model-worker and api-server run and do not answer"],
        ["restart model-worker api-server"],
        True,
    ),
    "paused": (
        seen(error_kind="timeout", waited=60, containers=stack(worker("paused"))),
        "paused",
        ["paused"],
        ["unpause model-worker"],
        True,
    ),
    "connection closed": (seen(error_kind="disconnected"), "disconnected", ["closed"], ["scheme"], True),
    "not HTTP": (seen(error_kind="not_http"), "not_http", ["does not speak HTTP"], ["port"], False),
    "unknown error": (
        seen(error_kind="other", error_text="OddError: odd"),
        "request_failed",
        ["OddError: odd"],
        ["curl"],
        True,
    ),
    # TLS; the texts are Python's
    "http to a TLS port": (
        seen(error_kind="disconnected", speaks_tls=True),
        "http_to_https_port",
        ["speaks TLS"],
        ["https://10.0.0.7:8000"],
        False,
    ),
    "https to a plain port": (
        seen(
            error_kind="tls",
            error_text="[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:992)",
            url="https://10.0.0.7:8000",
        ),
        "https_to_http_port",
        ["plain HTTP"],
        ["http://10.0.0.7:8000"],
        False,
    ),
    "self-signed": (
        seen(
            error_kind="tls_verify",
            error_text="[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate",
            url="https://10.0.0.7:8000",
        ),
        "tls_verify",
        ["no authority that is trusted"],
        ["ca_path", "vicuna_ca_certificates"],
        False,
    ),
    "other name": (
        seen(
            error_kind="tls_verify",
            error_text="[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: IP address mismatch, certificate "
            "is not valid for '10.0.0.7'. (_ssl.c:992)",
            url="https://10.0.0.7:8000",
        ),
        "tls_verify",
        ["not issued for '10.0.0.7'"],
        ["subjectAltName"],
        False,
    ),
    "expired": (
        seen(error_kind="tls_verify", error_text="certificate verify failed: certificate has expired", url="https://h"),
        "tls_verify",
        ["expired"],
        ["Renew"],
        False,
    ),
    "not yet valid": (
        seen(
            error_kind="tls_verify",
            error_text="certificate verify failed: certificate is not yet valid",
            url="https://h",
        ),
        "tls_verify",
        ["not valid yet"],
        ["clock"],
        True,
    ),
    "handshake": (
        seen(error_kind="tls", error_text="[SSL: TLSV1_ALERT_INTERNAL_ERROR] internal error", url="https://h"),
        "tls",
        ["TLSV1_ALERT_INTERNAL_ERROR"],
        ["certificate"],
        True,
    ),
    # proxies
    "407": (seen(407, SQUID, proxies=PROXIES), "proxy_credentials", ["http://proxy.example:3128"], ["no_proxy"], False),
    "403 from the proxy": (
        seen(403, SQUID, proxies=PROXIES, headers={"content-type": "text/html", "server": "squid/5.7"}),
        "proxy_interference",
        ["http_proxy"],
        ["Add 10.0.0.7 to no_proxy"],
        True,
    ),
    "503 from the proxy": (
        seen(503, SQUID, proxies=PROXIES, headers={"x-squid-error": "ERR_CONNECT_FAIL 111"}),
        "proxy_interference",
        ["http_proxy"],
        ["no_proxy"],
        True,
    ),
    "200 page of the proxy": (
        seen(200, SQUID, proxies=PROXIES, headers={"content-type": "text/html"}, violations=("no",)),
        "proxy_interference",
        ["http_proxy"],
        ["no_proxy"],
        True,
    ),
    "proxy nobody set": (
        seen(502, SQUID, headers={"via": "1.1 gateway (squid)"}),
        "proxy_interference",
        ["on the way"],
        ["without a proxy"],
        True,
    ),
    "403 without any proxy": (seen(403, "Forbidden"), "forbidden", ["403"], ["firewall"], True),
    "FastChat's answer through a proxy": (
        seen(400, NO_MODEL, proxies=PROXIES, headers={"via": "1.1 proxy"}),
        "no_worker",
        ["no worker"],
        [],
        True,
    ),
    "proxy down": (
        seen(error_kind="refused", error_text="[Errno 111] Connection refused", proxies=PROXIES),
        "proxy_unreachable",
        ["goes through the proxy"],
        ["no_proxy"],
        True,
    ),
    "tunnel wants credentials": (
        seen(
            error_kind="proxy",
            error_text="Tunnel connection failed: 407 Proxy Authentication Required",
            proxies={"https_proxy": "http://proxy.example:3128"},
            url="https://10.0.0.7",
        ),
        "proxy_credentials",
        ["credentials"],
        ["no_proxy"],
        False,
    ),
    "tunnel forbidden": (
        seen(
            error_kind="proxy",
            error_text="Tunnel connection failed: 403 Forbidden",
            proxies={"https_proxy": "http://proxy.example:3128"},
            url="https://10.0.0.7",
        ),
        "proxy_unreachable",
        ["403 Forbidden"],
        ["no_proxy"],
        True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_cause_and_remedy(name):
    observation, code, cause, remedy, transient = CASES[name]
    found = diagnose(observation)
    assert found.code == code, found
    for words in cause:
        assert words in found.cause
    for words in remedy:
        assert words in found.remedy
    assert found.transient is transient, found


# What a run may do by itself: services to start again, and whether to make all containers anew. The rest is a person's.
REPAIRS = {
    "evicted, heartbeats go on": (["model-worker"], True),
    "evicted, only heartbeats in the tail": (["model-worker"], True),
    "evicted, the heartbeat thread is dead": (["model-worker"], True),
    "forgotten, for it hangs": (["model-worker"], True),
    "forgotten, and unwell": (["model-worker"], True),
    "killed at its limit at every start, running for now": ([], True),
    "no worker container": ([], True),
    "worker stopped by hand": (["model-worker"], True),
    "worker waits for the controller": (["model-worker"], True),
    "killed at a limit that somebody has set": ([], True),
    "killed by hand": (["model-worker"], True),
    "hung, for the api-server is down": (["api-server"], True),
    "hung, for the api-server is down and the edge is slow": (["api-server"], True),
    "hung, for the controller is down": (["controller"], True),
    "unknown crash": ([], True),
    "crash without a word": ([], True),
    "500, worker dead": (["model-worker"], True),
    "500, controller down": (["controller"], True),
    "500, controller out of reach": (["controller"], True),
    "500, all running": (["model-worker"], True),
    "a part hangs": (["controller"], True),
    "a part that hangs is paused": (["controller"], True),
    "a part that hangs is off its network": ([], True),
    "no worker, it is off its network": ([], True),
    "the edge is off the network that publishes its port": ([], True),
    "a second worker hangs": (["model-worker-2"], True),
    "api-server out of the edge's reach": (["api-server"], True),
    "no api-server": ([], True),
    "edge gives up on a worker that is unwell": (["model-worker"], True),
    "api-server down": (["api-server"], True),
    "refused, edge down": (["edge"], True),
    "refused, the edge ends at every start": (["edge"], True),
    "disconnected, the edge ends at every start": (["edge"], True),
    "refused, the edge was stopped": (["edge"], True),
    "refused, no edge": ([], True),
    "refused, edge runs": (["edge"], True),
    "refused, the edge's own port": (["edge"], True),
    "hung, the edge": (["edge"], True),
    "hung, the edge behind TLS": (["edge"], True),
    "hung, some are unwell": (["model-worker", "api-server"], True),
    "paused": (["model-worker"], True),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_run_may_do_by_itself(name):
    found = diagnose(CASES[name][0])
    assert (found.restart, found.recreate) == REPAIRS.get(name, ([], False))


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_done_where_the_containers_are_unknown(name):
    found = diagnose(replace(CASES[name][0], containers=None))
    assert (found.restart, found.recreate) == ([], False)


@pytest.mark.parametrize(
    ("service", "observation"),
    [
        ("api-server", seen(502, EDGE_502, containers=stack())),
        ("edge", seen(error_kind="disconnected", containers=stack())),
        ("api-server", seen(500, "Internal Server Error", containers=stack(), logs={"api-server": "ValueError: odd"})),
    ],
)
def test_what_has_just_started_is_not_started_again(service, observation):
    assert diagnose(observation).restart == [service]
    young = replace(observation, containers=stack(Container(service, "running", running_for=20)))
    assert diagnose(young).restart == []


def test_a_cuda_error_stays_until_the_worker_is_started_again():
    found = diagnose(seen(400, RAISED, containers=stack()))
    assert (found.code, found.restart) == ("worker_raised", ["model-worker"])
    assert diagnose(seen(400, RAISED.replace("CUDA error", "odd"), containers=stack())).restart == []


@pytest.mark.parametrize("name", CASES)
def test_wording_fits_a_terminal(name):
    found = diagnose(CASES[name][0])
    for text in (found.cause, found.remedy, *found.evidence):
        assert text
        assert text.isprintable()
        assert "  " not in text
        assert len(text) < 500
    assert found.remedy[0].isupper()
    assert found.remedy.endswith((".", "up -d"))
    assert 1 <= len(found.evidence) <= 9


@pytest.mark.parametrize("name", CASES)
def test_containers_and_logs_of_anything_do_not_break_it(name):
    """Whatever else is known, there is a diagnosis."""
    observation = CASES[name][0]
    for containers in (None, (), stack(), stack(worker("dead")), stack(without=("edge", "controller"))):
        for text in ("", "\x1b[31mgarbage\x00\n" * 3, log("worker_transformers5")):
            changed = replace(observation, containers=containers, logs={"model-worker": text, "edge": text})
            assert diagnose(changed).cause


def test_without_containers_only_the_answer_is_evidence():
    assert diagnose(seen(400, NO_MODEL)).evidence == ["HTTP 400, code 40301: Only allowed now, your model vicuna"]


def test_evidence_names_containers_and_log():
    evidence = diagnose(crash("worker_transformers5")).evidence
    assert "container model-worker: restarting, exit code 1, 4 restarts" in evidence
    assert "log of model-worker: KeyError: 'factor'" in evidence


def test_why_containers_were_not_looked_at_is_said():
    evidence = diagnose(seen(400, NO_MODEL, containers_error="there is no docker command on this machine")).evidence
    assert evidence[-1] == "containers not looked at: there is no docker command on this machine"


def test_a_source_path_of_the_server_is_not_repeated():
    found = diagnose(seen(400, MALFORMED))
    assert "site-packages" not in found.cause


def test_commands_name_the_project():
    found = diagnose(
        seen(error_kind="refused", containers=stack(without=("edge",)), project="other", project_dir="/srv/other")
    )
    assert "cd /srv/other && docker compose up -d edge" in found.remedy
    assert "docker compose -p other logs" in found.remedy


def test_a_server_that_is_down_is_no_reason_why_the_edge_is():
    assert "no server available" not in diagnose(CASES["refused, the edge was stopped"][0]).cause
