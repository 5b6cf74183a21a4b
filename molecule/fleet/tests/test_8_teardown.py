"""The last of all: the deployment goes, and what is not its own stays."""

from __future__ import annotations

from scenario import on, run

HOST = "fleet-3"
PLACES = (
    "/opt/vicuna /var/lib/vicuna /usr/local/bin/vicuna-chat /usr/local/bin/vicuna-call "
    "/etc/systemd/system/vicuna-watch.service"
)


def left() -> list[str]:
    return on(HOST, f"find {PLACES} /model -maxdepth 1 2>/dev/null | sort || true").split()


def test_nothing_goes_without_consent() -> None:
    before = left()
    done = run("playbooks/teardown.yml", "--limit", HOST)
    assert done.returncode != 0
    assert "teardown_confirm=true" in done.stdout
    assert left() == before


def test_the_deployment_goes_and_what_others_put_there_stays() -> None:
    on(HOST, "echo mine > /opt/vicuna/notes.txt; mkdir -p /model/another; docker volume create somebodys")
    images = on(HOST, "docker images -q | sort")
    done = run("playbooks/teardown.yml", "--limit", HOST, teardown_confirm=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert on(HOST, "docker ps --all --quiet") == ""
    assert on(HOST, "docker network ls --quiet --filter label=com.docker.compose.project=vicuna") == ""
    assert on(HOST, "docker images -q | sort") == images, "images are kept until teardown_images=true"
    assert on(HOST, "docker volume ls --quiet") == "somebodys"
    assert on(HOST, "systemctl is-active vicuna-watch.service || true") == "inactive"
    kept = left()
    assert [path for path in kept if not path.startswith("/model")] == ["/opt/vicuna", "/opt/vicuna/notes.txt"]
    assert "/model/vicuna-tiny" in kept, "the model is kept until teardown_model=true"
    assert "/opt/vicuna/notes.txt" in done.stdout, "what was kept is told"


def test_the_model_and_the_images_go_on_request() -> None:
    done = run(
        "playbooks/teardown.yml", "--limit", HOST, teardown_confirm=True, teardown_model=True, teardown_images=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
    # The store of large files stays, as another model may stand on it.
    assert left() == ["/model", "/model/.lfs", "/model/another", "/opt/vicuna", "/opt/vicuna/notes.txt"]
    assert on(HOST, "docker images --quiet --filter reference='*/vicuna-fleet/*'") == ""


def test_the_gateway_goes_on_request_and_a_third_run_changes_nothing() -> None:
    limit = ("--limit", f"{HOST},gateway-2")
    settings = {"teardown_confirm": True, "teardown_gateway": True}
    done = run("playbooks/teardown.yml", *limit, **settings)
    assert done.returncode == 0, done.stdout[-4000:]
    assert on("gateway-2", "systemctl is-active haproxy.service || true") == "inactive"
    assert on("gateway-2", "ls -d /etc/haproxy/vicuna /etc/haproxy/haproxy.cfg 2>/dev/null || true") == ""
    again = run("playbooks/teardown.yml", *limit, **settings)
    assert again.returncode == 0, again.stdout[-4000:]
    assert again.stdout.rsplit("PLAY RECAP", 1)[-1].count("changed=0") == 2, again.stdout[-1500:]
