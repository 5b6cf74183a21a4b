"""The exit code is the verdict: 0 only when every endpoint that was deployed gave a valid answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import INVENTORY, ROOT

REPORT = "VICUNA_CHAT_COMPLETION_REPORT"


def changed(output: str) -> set[str]:
    return set(re.findall(r"changed=(\d+)", output.rsplit("PLAY RECAP", maxsplit=1)[-1]))


def test_a_second_run_is_good_and_changes_nothing(playbook: Any, tmp_path: Path) -> None:
    result = playbook(**{REPORT: str(tmp_path / "report.json")})
    assert result.returncode == 0, result.stdout[-3000:]
    assert changed(result.stdout) == {"0"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"] is True
    assert [each["host"] for each in report["endpoints"]] == ["debian-12", "debian-13", "debian-12-gateway"]
    key = (INVENTORY / ".secrets/fastchat_api_key").read_text().strip()
    assert key not in result.stdout + json.dumps(report)


def test_check_mode_on_a_converged_host_changes_nothing_and_is_silent(playbook: Any, tmp_path: Path) -> None:
    result = playbook("--check", "--diff", **{REPORT: str(tmp_path / "report.json")})
    assert result.returncode == 0, result.stdout[-3000:]
    assert changed(result.stdout) == {"0"}
    assert not (tmp_path / "report.json").exists()


def test_the_playbook_verify_asks_and_leaves_the_callback_silent(playbook: Any, tmp_path: Path) -> None:
    result = playbook(playbook="playbooks/verify.yml", **{REPORT: str(tmp_path / "report.json")})
    assert result.returncode == 0, result.stdout[-2000:]
    assert changed(result.stdout) == {"0"}
    assert not (tmp_path / "report.json").exists()


@pytest.mark.thorough
def test_another_name_is_refused(playbook: Any) -> None:
    result = playbook("-e", "verify_model=gpt-4", "-e", "verify_timeout=60", "--limit", "debian-13")
    assert result.returncode not in (0, 3), result.stdout[-2000:]
    assert "gpt-4" in result.stdout


def test_a_deployment_that_was_never_asked_fails(playbook: Any) -> None:
    result = playbook("--skip-tags", "verify", "--limit", "debian-13")
    assert result.returncode == 3
    assert "never asked" in result.stdout + result.stderr


def test_an_edge_that_stops_after_the_gate_fails(playbook: Any) -> None:
    result = playbook("--limit", "debian-13", playbook="molecule/default/tests/stop_edge.yml")
    assert "debian-13" in result.stdout
    assert result.returncode == 3, result.stdout[-2000:]


def test_a_dead_worker_fails_with_its_last_words_and_the_next_run_mends_all(playbook: Any, tmp_path: Path) -> None:
    result = playbook(
        "-e", '{"fastchat_worker_args": ["--no-such-argument"], "verify_timeout": 40}', "--limit", "debian-13",
        **{REPORT: str(tmp_path / "report.json")},
    )  # fmt: skip
    assert result.returncode != 0
    assert "unrecognized arguments: --no-such-argument" in result.stdout
    assert playbook("--limit", "debian-13").returncode == 0


def test_tags_that_deploy_nothing_leave_the_callback_silent(playbook: Any, tmp_path: Path) -> None:
    result = playbook("--tags", "tools", **{REPORT: str(tmp_path / "report.json")})
    assert result.returncode == 0, result.stdout[-2000:]
    assert not (tmp_path / "report.json").exists()


def test_bad_settings_are_named_before_anything_changes(playbook: Any) -> None:
    result = playbook("-e", "fastchat_image_source=pull", "--limit", "debian-13")
    assert result.returncode != 0
    assert "fastchat_images lacks edge, api, worker" in result.stdout
    assert changed(result.stdout) == {"0"}


@pytest.mark.thorough
def test_the_installed_collection_does_the_same(playbook: Any, tmp_path: Path) -> None:
    """Build, install and run by name, from another directory."""
    import os
    import subprocess

    env = os.environ | {"ANSIBLE_CONFIG": "", "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}
    env |= {"ANSIBLE_CALLBACKS_ENABLED": "vicuna.fleet.chat_completion", "ANSIBLE_INJECT_FACT_VARS": "false"}
    env.pop(REPORT, None)  # Molecule sets it; the default lies below the working directory
    subprocess.run(["ansible-galaxy", "collection", "build", "--output-path", str(tmp_path)], cwd=ROOT, check=True)
    archive = next(tmp_path.glob("vicuna-fleet-*.tar.gz"))
    subprocess.run(
        ["ansible-galaxy", "collection", "install", str(archive), "--no-deps", "-p", str(tmp_path / "collections")],
        cwd=tmp_path, env=env, check=True,
    )  # fmt: skip
    result = subprocess.run(
        ["ansible-playbook", "vicuna.fleet.site", "-i", str(INVENTORY), "-e", f"sandbox_dir={ROOT}/.sandbox"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert changed(result.stdout) == {"0"}
    assert (tmp_path / "reports/chat_completion.json").exists()
