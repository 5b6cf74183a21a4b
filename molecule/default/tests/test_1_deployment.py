"""What runs on a host, as whom, and what it keeps."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

# One directory for each revision; /model/vicuna-tiny is a link to the one that is deployed.
MODEL = "/model/vicuna-tiny@f39a3a1b9a18"
SERVICES = ["controller", "model-worker", "api-server", "edge"]


@pytest.fixture
def containers(host: Any) -> dict[str, dict[str, Any]]:
    ids = host.check_output("docker ps -q --filter label=com.docker.compose.project=vicuna").split()
    inspected = json.loads(host.check_output("docker inspect " + " ".join(ids)))
    return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in inspected}


def test_the_four_services_run(containers: dict[str, dict[str, Any]]) -> None:
    assert sorted(containers) == sorted(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_containers_are_confined(containers: dict[str, dict[str, Any]], service: str) -> None:
    container = containers[service]
    settings = container["HostConfig"]
    assert container["Config"]["User"] == "10001:10001"
    assert settings["ReadonlyRootfs"] is True
    assert settings["CapDrop"] == ["ALL"]
    assert settings["CapAdd"] in (None, [])
    assert settings["Privileged"] is False
    assert "no-new-privileges:true" in settings["SecurityOpt"]
    assert settings["RestartPolicy"]["Name"] == "unless-stopped"
    assert settings["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    assert not [mount for mount in container["Mounts"] if mount["RW"] and mount["Type"] != "tmpfs"]


def test_the_processes_are_not_root(host: Any, containers: dict[str, dict[str, Any]]) -> None:
    for container in containers.values():
        status = host.check_output(f"cat /proc/{container['State']['Pid']}/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(fields["Uid"].split()) == {"10001"}
        assert int(fields["CapEff"], 16) == 0
        assert fields["NoNewPrivs"] == "1"


def test_the_model_is_mounted_read_only(host: Any, containers: dict[str, dict[str, Any]]) -> None:
    mounts = {mount["Destination"]: mount for mount in containers["model-worker"]["Mounts"]}
    assert mounts[MODEL]["RW"] is False
    result = host.run("docker exec vicuna-model-worker-1 touch " + f"{MODEL}/x")
    assert result.rc != 0
    assert "Read-only file system" in result.stderr


def test_heartbeats_and_proxies(containers: dict[str, dict[str, Any]]) -> None:
    for service in ("controller", "model-worker", "api-server"):
        environment = containers[service]["Config"]["Env"]
        assert "FASTCHAT_WORKER_HEART_BEAT_INTERVAL=3" in environment
        assert "FASTCHAT_CONTROLLER_HEART_BEAT_EXPIRATION=8" in environment
        assert "NO_PROXY=controller,model-worker,api-server,localhost,127.0.0.1" in environment


def test_no_health_check_asks_v1_models(host: Any) -> None:
    # The edge answers /v1/models itself, so the API server never sees the path.
    log = host.run("docker logs vicuna-api-server-1").stdout + host.run("docker logs vicuna-api-server-1").stderr
    assert "/v1/models" not in log


def test_env_file(host: Any) -> None:
    file = host.file("/opt/vicuna/.env")
    assert (file.user, file.group, oct(file.mode)) == ("root", "root", "0o600")
    lines = file.content_string.splitlines()
    assert f"MODEL_PATH={MODEL}" in lines
    assert "MODEL_NAMES=vicuna" in lines


def test_no_key_is_stored_in_clear_outside_the_client_settings(host: Any, endpoint: Any) -> None:
    found = host.run(f"grep -rl {endpoint.key} /opt/vicuna /etc").stdout.split()
    assert found == ["/opt/vicuna/client.env"]
    assert oct(host.file("/opt/vicuna/client.env").mode) == "0o600"
    assert endpoint.key not in host.check_output("docker inspect $(docker ps -q)")


def test_the_release_is_on_record_and_only_root_reads_its_copy(
    host: Any, containers: dict[str, dict[str, Any]]
) -> None:
    file = host.file("/var/lib/vicuna/release.json")
    record = json.loads(file.content_string)
    release = record["releases"][record["current"]]
    assert (oct(file.mode), record["pending"], record["good"][0]) == ("0o600", None, record["current"])
    assert (release["model"]["path"], release["failed"]) == (MODEL, None)
    assert release["verified"]
    assert set(release["image_ids"].values()) == {container["Image"] for container in containers.values()}
    copy = host.file(f"/var/lib/vicuna/releases/{record['current']}")
    assert (copy.user, oct(copy.mode)) == ("root", "0o700")
    assert host.run(f"diff -r {copy.path}/project /opt/vicuna").rc == 0


def test_every_weight_is_what_its_pointer_says(host: Any) -> None:
    git = f"git -c safe.directory={MODEL} -C {MODEL}"
    files = host.check_output(f"{git} lfs ls-files --name-only").splitlines()
    assert "model.safetensors" in files
    assert "tokenizer.model" in files
    assert host.check_output(f"{git} status --porcelain") == ""
    assert host.file("/model/vicuna-tiny").linked_to == MODEL
    for name in files:
        pointer = dict(line.split(" ", 1) for line in host.check_output(f"{git} show HEAD:{name}").splitlines())
        content = host.file(f"{MODEL}/{name}").content
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == pointer["oid"]
        assert len(content) == int(pointer["size"])


def test_docker_starts_with_the_host(host: Any) -> None:
    service = host.service("docker")
    assert service.is_running
    assert service.is_enabled


def test_compose_and_buildx(host: Any) -> None:
    compose = host.check_output("docker compose version --short").lstrip("v")
    assert tuple(int(part) for part in compose.split("-")[0].split(".")[:2]) >= (2, 18)
    assert host.run("docker buildx version").rc == 0


def test_daemon_json_is_merged(host: Any) -> None:
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert "http://hub:5000" in [mirror.rstrip("/") for mirror in settings["registry-mirrors"]]
    assert "hub:5000" in settings["insecure-registries"]
