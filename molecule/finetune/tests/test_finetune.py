"""From dialogues to an answer through the edge, by the roles that deploy; and what goes wrong on the way."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bad_dialogues
import pytest
from scenario import (
    HOSTS,
    INVENTORY,
    NEW,
    ROOT,
    SERVING,
    containers,
    on,
    playbook,
    revision,
    run,
    states,
    wait_for,
)

HOST = SERVING[0]
SANDBOX = ROOT / "sandbox/finetune"
QUESTION = json.loads((SANDBOX / "prompts.json").read_text())[0]
RUNS = "/var/lib/vicuna/finetune"


def finetune(**variables: Any) -> subprocess.CompletedProcess[str]:
    """The playbook with the sandbox's settings, as a user would run it."""
    return run("playbooks/finetune.yml", "-e", f"@{SANDBOX}/settings.yml", finetune_host=HOST, **variables)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """All that the run said, without its line breaks."""
    return " ".join((done.stdout + done.stderr).split())


def answer(host: str) -> str:
    """What the deployed model says at temperature 0, asked from outside."""
    key = (INVENTORY / ".secrets/fastchat_api_key").read_text().strip()
    body = {"model": "vicuna", "temperature": 0, "max_tokens": 64}
    body |= {"messages": [{"role": "user", "content": QUESTION["prompt"]}]}
    port = HOSTS["serving"]["hosts"][host]["sandbox_api_port"]
    asked = ["curl", "--fail", "--silent", "--show-error", "--max-time", "60", "-H", f"Authorization: Bearer {key}"]
    asked += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = subprocess.run(
        [*asked, f"http://127.0.0.1:{port}/v1/chat/completions"], capture_output=True, text=True, check=True
    )
    text: str = json.loads(done.stdout)["choices"][0]["message"]["content"]
    return text.strip()


def trainings(host: str = HOST) -> str:
    return on(host, "docker ps --all --filter name=vicuna-finetune- --format '{{.Names}} {{.Status}}'")


@pytest.fixture
def base_again() -> Iterator[None]:
    """Afterwards every host serves the inventory's model again."""
    yield
    done = run("site.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    assert {revision(host) for host in SERVING} == {NEW}


BAD = [
    pytest.param("[{", "what follows in the file was not read", id="no JSON"),
    pytest.param(
        json.dumps([{"id": "a", "conversations": [{"from": "gpt", "value": "I speak first."}]}]),
        "Expected",
        id="roles",
        marks=pytest.mark.fast,
    ),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_bad_data_set_changes_nothing(tmp_path: Path, text: str, words: str) -> None:
    dataset = tmp_path / "dialogues.json"
    dataset.write_text(text)
    before = containers(HOST), on(HOST, f"ls {RUNS} 2>/dev/null | wc -l")
    done = finetune(finetune_dataset=str(dataset))
    assert done.returncode != 0
    assert "dialogues.json" in said(done) and words in said(done), done.stdout[-2000:]
    assert re.search(r"changed=0 .*failed=1", done.stdout), done.stdout[-1000:]
    assert (containers(HOST), on(HOST, f"ls {RUNS} 2>/dev/null | wc -l")) == before


def test_every_kind_of_bad_dialogue_is_named_at_once(tmp_path: Path) -> None:
    names = bad_dialogues.write(tmp_path)
    before = containers(HOST)
    done = finetune(finetune_dataset=str(tmp_path))
    assert done.returncode != 0
    assert [name for name in names if name not in said(done)] == [], done.stdout[-4000:]
    assert re.search(r"changed=0 .*failed=1", done.stdout), done.stdout[-1000:]
    assert containers(HOST) == before


@pytest.mark.fast
@pytest.mark.usefixtures("base_again")
def test_an_adapter_is_trained_and_rolled_out(tmp_path: Path) -> None:
    before = {host: answer(host) for host in SERVING}
    assert QUESTION["expected"] not in before.values()
    done = finetune(finetune_report=str(tmp_path))
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(rf"{HOST}: step \d+ of \d+ \(\d+ %\), loss [0-9.]+, learning rate \S+, \d+ tokens/s", done.stdout)
    assert {host: answer(host) for host in SERVING} == dict.fromkeys(SERVING, QUESTION["expected"])
    report_file = next(tmp_path.glob("*/report.json"))
    report = json.loads(report_file.read_text())
    assert report["heldout_loss"]["tuned"] < report["heldout_loss"]["base"] / 2
    assert report["base"]["commit"] == NEW
    assert "<svg" in (report_file.parent / "loss.svg").read_text()
    pushed = on(HOST, "git ls-remote http://hub/lmsys/vicuna-tiny refs/heads/tuned").split()[0]
    assert {revision(host) for host in SERVING} == {pushed}
    assert "hub-sandbox-token" not in done.stdout + done.stderr
    assert trainings() == ""
    # Dialogues can be private: the container's user alone reads them.
    assert on(HOST, f"stat --format '%u %a' {RUNS}/{report['run_id']}") == "10001 700"
    # What was trained is not trained again.
    again = finetune(finetune_report="", finetune_promote=False)
    assert again.returncode == 0, again.stdout[-3000:]
    assert not re.search(r"trained \d+ steps|merged and evaluated|step \d+ of", again.stdout), again.stdout[-3000:]


def test_check_mode_touches_nothing() -> None:
    before = containers(HOST), on(HOST, f"ls {RUNS}")
    command, env = playbook(
        "playbooks/finetune.yml", "--check", "-e", f"@{SANDBOX}/settings.yml", finetune_host=HOST, finetune_seed=5
    )
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "would be there after the training" in said(done)
    assert (containers(HOST), on(HOST, f"ls {RUNS}")) == before


def test_other_questions_only_ask_again(tmp_path: Path) -> None:
    """The adapter alone is pushed, too: to a branch of its own, with the base's name in it."""
    kept = {
        "finetune_report": str(tmp_path),
        "finetune_promote": False,
        "finetune_push_adapter_branch": "tuned-adapter",
    }
    done = finetune(**kept, finetune_prompts=[{"prompt": "What is your name?"}])
    assert done.returncode == 0, done.stdout[-3000:]
    assert "merged and evaluated" in done.stdout and "trained 300 steps" not in done.stdout
    report = json.loads(next(tmp_path.glob("*/report.json")).read_text())
    assert [each["prompt"] for each in report["answers"]] == ["What is your name?"]
    config = json.loads(on(HOST, f"cat {RUNS}/{report['run_id']}/adapter/adapter_config.json"))
    assert (config["base_model_name_or_path"], config["revision"]) == (report["base"]["repo"], NEW)
    pushed = on(HOST, "git ls-remote http://hub/lmsys/vicuna-tiny refs/heads/tuned-adapter").split()[0]
    assert f"http://hub/lmsys/vicuna-tiny at {pushed}" in said(done)


def test_a_model_that_is_not_better_is_not_rolled_out(tmp_path: Path) -> None:
    """Its dialogues are in a repository, at a pinned commit."""
    (tmp_path / "identity.json").write_bytes((SANDBOX / "identity.json").read_bytes())
    git = ["git", "-C", str(tmp_path), "-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "Dialogues"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    dialogues = {"finetune_dataset_repo": str(tmp_path), "finetune_dataset_revision": commit}

    before = {host: containers(host) for host in SERVING}
    done = finetune(**dialogues, finetune_dataset="identity.json", finetune_max_steps=1, finetune_min_improvement=0.5)
    assert done.returncode != 0
    assert "Expected at least 50.0 % less" in said(done), done.stdout[-2000:]
    assert f'Expected "{QUESTION["expected"]}" in it' in said(done)
    assert {host: containers(host) for host in SERVING} == before


def test_a_learning_rate_that_is_too_high_is_named() -> None:
    done = finetune(finetune_learning_rate=1e30, finetune_promote=False, finetune_push_repo="")
    assert done.returncode != 0
    assert "diverged at step" in said(done) and "finetune_learning_rate" in said(done), done.stdout[-2000:]


def losses(folder: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in on(HOST, f"cat {folder}/*/log.jsonl").splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_killed_at_half_it_goes_on_to_the_same_model(tmp_path: Path) -> None:
    """The same settings and seed in two folders of runs: one unbroken, one whose container is killed."""
    short = {"finetune_epochs": 10, "finetune_save_steps": 20, "finetune_promote": False, "finetune_push_repo": ""}
    whole = finetune(**short, finetune_dir="/var/lib/vicuna/unbroken", finetune_report=str(tmp_path / "unbroken"))
    assert whole.returncode == 0, whole.stdout[-3000:]

    broken = {**short, "finetune_dir": "/var/lib/vicuna/broken", "finetune_report": str(tmp_path / "broken")}
    first: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: first.append(finetune(**broken)))
    thread.start()

    def half() -> bool:
        step, steps = json.loads(
            on(HOST, "jq --compact-output '[.step, .steps]' /var/lib/vicuna/broken/*/progress.json")
        )
        return bool(steps) and 2 * step >= steps

    wait_for(half, 240, "half of the steps")
    on(HOST, "docker kill $(docker ps --quiet --filter name=vicuna-finetune-)")
    thread.join()
    assert first[0].returncode != 0
    assert "run again" in said(first[0]).lower(), first[0].stdout[-2000:]

    second = finetune(**broken)
    assert second.returncode == 0, second.stdout[-3000:]
    assert "goes on from the last checkpoint" in second.stdout
    assert losses("/var/lib/vicuna/broken") == losses("/var/lib/vicuna/unbroken")
    made = [json.loads(next((tmp_path / name).glob("*/report.json")).read_text()) for name in ("unbroken", "broken")]
    assert made[0]["files"]["model.safetensors"] == made[1]["files"]["model.safetensors"]
    on(HOST, "rm -rf /var/lib/vicuna/unbroken /var/lib/vicuna/broken")


def test_a_host_that_loses_its_power_in_the_middle_goes_on_from_its_checkpoint() -> None:
    """The run waits for the host, names what happened, and the next one goes on; what serves comes back by itself."""
    folder = "/var/lib/vicuna/power"
    settings = {"finetune_epochs": 10, "finetune_save_steps": 20, "finetune_promote": False, "finetune_push_repo": ""}
    settings |= {"finetune_dir": folder, "finetune_report": ""}
    first: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: first.append(finetune(**settings)))
    thread.start()
    half = f"jq --exit-status '.steps > 0 and 2 * .step >= .steps' {folder}/*/progress.json"
    wait_for(lambda: bool(on(HOST, half)), 240, "half of the steps")
    # As when the power is cut: nothing says goodbye.
    subprocess.run(["docker", "kill", f"vicuna-sandbox-{HOST}"], check=True, timeout=30)
    subprocess.run(["docker", "start", f"vicuna-sandbox-{HOST}"], check=True, timeout=60)
    thread.join()
    assert first[0].returncode != 0
    # Whether the run missed it meanwhile depends on the seconds between two looks.
    assert "ended with its host or its engine" in said(first[0]), first[0].stdout[-3000:]
    assert "run again" in said(first[0]).lower(), first[0].stdout[-3000:]
    wait_for(lambda: states(HOST) == {"UP"}, 120, "a host that serves again")

    second = finetune(**settings)
    assert second.returncode == 0, second.stdout[-3000:]
    assert "goes on from the last checkpoint" in second.stdout
    steps = [step for step, _loss in losses(folder)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 40
    on(HOST, f"rm -rf {folder}")


@pytest.mark.usefixtures("base_again")
def test_all_weights_are_trained_while_the_host_is_drained(tmp_path: Path) -> None:
    settings = {"finetune_method": "full", "finetune_learning_rate": 5e-4, "finetune_batch_size": 4}
    settings["finetune_epochs"] = 40
    command, env = playbook(
        "playbooks/finetune.yml",
        *("-e", f"@{SANDBOX}/settings.yml"),
        finetune_host=HOST,
        finetune_drain_serving=True,
        finetune_report=str(tmp_path),
        **settings,
    )
    log = tmp_path / "log"
    with log.open("w") as output:
        running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(
            lambda: "Up" in trainings() and "vicuna-model-worker-1" not in containers(HOST),
            300,
            "a drained host that trains",
        )
        assert all(not state.startswith("UP") for state in states(HOST))
        assert running.wait(600) == 0, log.read_text()[-4000:]
    finally:
        running.terminate()
        running.wait(60)
    assert answer(HOST) == QUESTION["expected"]
    wait_for(lambda: states(HOST) == {"UP"}, 30, "a host that is back at its gateway")
