"""What the plan refuses, and what it lets pass: table, exit code, and a host that is as it was before.

The GPUs are a fake, and the model is a repository of pointers: neither is asked for more than its sizes.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

GIB = 1024**3
CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rope_scaling": {"factor": 4.0, "type": "linear"},
    "vocab_size": 32000,
    "torch_dtype": "float16",
}


def repository(folder: Path, size: int) -> dict[str, str]:
    """The variables of a git-LFS repository of Vicuna 7B-16k's shape: four pointers, to so many bytes together."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    for number in range(1, 5):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{f'a{number}' * 32}\nsize {size // 4}\n"
        (folder / f"pytorch_model-0000{number}-of-00004.bin").write_text(pointer)
    who = ["-c", "user.name=test", "-c", "user.email=test@invalid", "-c", "filter.lfs.required=false"]
    who += ["-c", "filter.lfs.clean=cat", "-c", "filter.lfs.process="]
    for words in (["init", "--quiet", "--initial-branch=main"], ["add", "."], ["commit", "--quiet", "--message=x"]):
        subprocess.run(["git", *who, *words], cwd=folder, check=True)
    return {"vicuna_model_repo": f"file://{folder}", "vicuna_model_revision": "main"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return repository(tmp_path_factory.mktemp("models") / "vicuna-7b-16k", 13476926466)


@dataclass
class Host:
    """The host with the fake driver: its fake, its state, and runs that plan for it."""

    fake: Callable[..., None]
    state: Callable[[], str]
    plan: Callable[..., Any]


@pytest.fixture
def host(nvidia_b: Any, fake_gpu: Callable[..., None], snapshot: Callable[[Any], str], plan: Any) -> Iterator[Host]:
    def fake(*arguments: str) -> None:
        fake_gpu(nvidia_b, "--stage", "driver", "--gpus", "2", *arguments)

    yield Host(fake, lambda: snapshot(nvidia_b), plan)
    fake()


def test_what_is_left_open_is_chosen(host: Host, model: dict[str, str], tmp_path: Path) -> None:
    host.fake("--memory", "40960")
    report = tmp_path / "preflight.json"
    done = host.plan(**model, preflight_report=report)
    assert (done.code, done.changed) == (0, 0), done.output
    assert "nvidia-b vicuna-7b-16k 16384 2 x 1 GPU, float16 2" in done.text
    found = json.loads(report.read_text())["hosts"]["nvidia-b"]
    assert (found["workers"], found["gpus"]) == (2, [["nvidia.com/gpu=0"], ["nvidia.com/gpu=1"]])


# The fake, the variables, the check, and what the message has to hold.
REFUSALS: dict[str, tuple[list[str], dict[str, str], str, list[str]]] = {
    "memory": (["--memory", "8192"], {}, "gpu_memory", ["weights", "KV cache", "vicuna_model_repo"]),
    "memory that others hold": (
        ["--memory", "40960", "--free", "8000"],
        {"fastchat_num_gpus": "1", "fastchat_load_8bit": "false"},
        "gpu_memory",
        ["7.8 GiB free of 40.0 GiB"],
    ),
    "a setting that is too high": (
        ["--memory", "40960"],
        {"fastchat_limit_worker_concurrency": "5", "fastchat_num_gpus": "1", "fastchat_load_8bit": "false"},
        "gpu_memory",
        ["Set fastchat_limit_worker_concurrency: 2"],
    ),
    "more workers than GPUs": (["--memory", "81920"], {"fastchat_workers": "3"}, "gpu", ["Lower fastchat_workers"]),
    "driver": (
        ["--memory", "81920", "--driver", "515.105.01"],
        {},
        "driver",
        ["NVIDIA's driver 515.105.01", "525.60.13 or newer"],
    ),
    "port": (["--memory", "81920"], {"fastchat_port": "22"}, "port", ["port 22 taken by sshd", "fastchat_port"]),
}
# Two of them are enough to show that site.yml begins with the plan.
CASES = [(name, "playbooks/preflight.yml") for name in REFUSALS] + [("memory", "site.yml"), ("port", "site.yml")]


@pytest.mark.parametrize(("name", "playbook"), CASES)
def test_a_host_is_refused_and_stays_as_it_is(name: str, playbook: str, host: Host, model: dict[str, str]) -> None:
    fake, variables, check, words = REFUSALS[name]
    host.fake(*fake)
    before = host.state()
    done = host.plan(playbook, **model, **variables)
    assert (done.code, done.changed) == (2, 0), done.output
    assert f"does not fit: {check}" in done.text
    for word in words:
        assert word in done.text
    assert host.state() == before


def test_disk(host: Host, tmp_path: Path) -> None:
    host.fake("--memory", "819200000", "--free", "819200000")
    before = host.state()
    done = host.plan(**repository(tmp_path / "vicuna-7b-16k", 500_000 * GIB))
    assert (done.code, done.changed) == (2, 0), done.output
    assert "500000.1 GiB for the model" in done.text and "model_root" in done.text
    assert host.state() == before


def test_a_warning_where_that_is_wanted(host: Host, model: dict[str, str]) -> None:
    host.fake("--memory", "8192")
    done = host.plan(**model, preflight_enforce="false")
    assert (done.code, done.changed) == (0, 0), done.output
    assert "does not fit: gpu_memory" in done.text


def test_memory_is_judged_after_the_driver(host: Host, nvidia_b: Any, fake_gpu: Any, model: dict[str, str]) -> None:
    fake_gpu(nvidia_b, "--stage", "pci", "--gpus", "2")
    done = host.plan(**model)
    assert done.code == 0, done.output
    assert "fits so far; memory after the driver" in done.text


def test_the_site_looks_once_at_gpus_and_engine(host: Host, nvidia_b: Any, model: dict[str, str]) -> None:
    """Its roles act on the same looks. On a host that has everything a container proves it, and that is all."""
    host.fake("--memory", "81920")
    tags = "preflight,docker,nvidia_driver,nvidia_container_toolkit"

    def prepare() -> Any:
        return host.plan("site.yml", "--tags", tags, **model)

    prepare()
    again = prepare()
    # Facts; model, host, the plan and its table; the engine; the file of the GPUs' tasks, and a container.
    assert (again.code, again.changed) == (0, 0) and "ok=8 " in again.output, again.output
    # Read by the engine, too: one that has not read its file is restarted by the role docker before.
    nvidia_b.check_output('sed -i \'s/"cdi": true/"cdi": false/\' /etc/docker/daemon.json && systemctl restart docker')
    mended = prepare()
    assert (mended.code, mended.changed) == (0, 2), mended.output
    assert '"cdi": true' in nvidia_b.file("/etc/docker/daemon.json").content_string
    host.fake("--memory", "81920", "--driver", "580.200.01")
    mended = prepare()
    assert (mended.code, mended.changed) == (0, 1) and "Write the CDI specification" in mended.text, mended.output
