# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._docker_engine import (
    flavour,
    is_podman,
    parse_dpkg,
    parse_info,
    parse_rpm,
)

CAPTURED = Path(__file__).parents[1] / "fixtures" / "docker"


def captured(name: str, **changes: Any) -> str:
    return json.dumps({**json.loads((CAPTURED / f"{name}.json").read_text(encoding="utf-8")), **changes})


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("", {}),
        # dpkg-query of Debian 13 and of Ubuntu, with a package that dpkg only knows by name
        ("un \tdocker-ce\t\nii \tdocker.io\t26.1.5+dfsg1-9+deb13u1\n", {"docker.io": "26.1.5+dfsg1-9+deb13u1"}),
        ("hi \tdocker-ce\t5:28.5.2-1~ubuntu.24.04~noble\n", {"docker-ce": "5:28.5.2-1~ubuntu.24.04~noble"}),
        ("rc \tdocker.io\t20.10.24+dfsg1-1\n", {}),
        ("iU \tdocker-ce\t5:28.5.2-1\n", {}),
    ],
)
def test_parse_dpkg(out: str, expected: dict[str, str]) -> None:
    assert parse_dpkg(out) == expected


def test_parse_rpm() -> None:
    out = "docker-ce\t28.5.2-1.el9\npackage docker.io is not installed\npackage moby-engine is not installed\n"
    assert parse_rpm(out) == {"docker-ce": "28.5.2-1.el9"}


@pytest.mark.parametrize("name", ["info_debian12", "info_debian13"])
def test_an_engine_that_answers(name: str) -> None:
    answer = parse_info(captured(name), "")
    assert answer.reachable
    assert answer.error == ""
    assert (answer.version, answer.compose, answer.buildx) == ("26.1.5", "2.26.1", "0.13.1")
    assert (answer.swarm, answer.live_restore, answer.root) == (False, True, "/var/lib/docker")


@pytest.mark.parametrize(
    ("name", "err"),
    [
        ("info_unreachable_26", ""),
        (
            "info_unreachable_28",
            "Cannot connect to the Docker daemon at unix:///nonexistent. Is the docker daemon running?\n",
        ),
    ],
)
def test_an_engine_that_does_not(name: str, err: str) -> None:
    answer = parse_info(captured(name), err)
    assert not answer.reachable
    assert answer.version == ""
    assert answer.error == "Cannot connect to the Docker daemon at unix:///nonexistent. Is the docker daemon running?"


def test_plugins_are_known_without_an_engine() -> None:
    answer = parse_info(captured("info_unreachable_26"), "")
    assert (answer.compose, answer.buildx) == ("2.26.1", "0.13.1")


@pytest.mark.parametrize(("state", "swarm"), [("inactive", False), ("", False), ("active", True), ("locked", True)])
def test_swarm(state: str, swarm: bool) -> None:
    assert parse_info(captured("info_debian13", Swarm={"LocalNodeState": state}), "").swarm is swarm


def test_words_before_the_answer() -> None:
    assert parse_info("WARNING: something\n" + captured("info_debian13"), "").reachable


@pytest.mark.parametrize(
    ("out", "err", "error"),
    [
        ("", "permission denied\n", "permission denied"),
        ("", "", "docker info gave no answer"),
        ("{not json", "", "docker info gave no answer"),
    ],
)
def test_no_answer(out: str, err: str, error: str) -> None:
    answer = parse_info(out, err)
    assert (answer.reachable, answer.error) == (False, error)


def test_a_build_from_source_answers() -> None:
    """It says no release: it is an engine all the same."""
    answer = parse_info(captured("info_debian13", ServerVersion="dev"), "")
    assert (answer.reachable, answer.version, answer.error) == (True, "dev", "")


@pytest.mark.parametrize(
    ("packages", "cli", "dockerd", "snap", "podman", "expected"),
    [
        ({}, "", "", False, False, "none"),
        ({}, "/usr/local/bin/docker", "", False, False, "none"),
        ({}, "/usr/local/bin/docker", "/usr/local/bin/dockerd", False, False, "other"),
        ({"docker-ce": "5:28"}, "/usr/bin/docker", "/usr/bin/dockerd", False, False, "docker"),
        ({"docker.io": "26"}, "/usr/bin/docker", "/usr/sbin/dockerd", False, False, "distribution"),
        ({"moby-engine": "24"}, "/usr/bin/docker", "/usr/bin/dockerd", False, False, "distribution"),
        ({"docker-buildx": "0.13"}, "", "", False, False, "none"),
        ({}, "/snap/bin/docker", "", False, False, "snap"),
        ({"docker-ce": "5:28"}, "/usr/bin/docker", "/usr/bin/dockerd", True, False, "snap"),
        ({"podman-docker": "4.9"}, "/usr/bin/docker", "", False, False, "podman"),
        ({}, "/usr/bin/podman", "", False, True, "podman"),
    ],
)
def test_flavour(packages: dict[str, str], cli: str, dockerd: str, snap: bool, podman: bool, expected: str) -> None:
    assert flavour(packages, cli, dockerd, snap, podman) == expected


@pytest.mark.parametrize(
    ("resolved", "head", "expected"),
    [
        ("/usr/bin/podman", b"\x7fELF", True),
        # podman-docker 4.3.1 of Debian 12
        (
            "/usr/bin/docker",
            b"#!/bin/sh\n[ -e /etc/containers/nodocker ] || \\\n"
            b'echo "Emulate Docker CLI using podman. Create /etc/containers/nodocker to quiet msg." >&2\n'
            b'exec /usr/bin/podman "$@"\n',
            True,
        ),
        ("/usr/bin/docker", b"\x7fELF podman", False),
        ("/usr/local/bin/docker", b'#!/bin/sh\nexec /opt/docker/docker "$@"\n', False),
        ("", b"", False),
    ],
)
def test_is_podman(resolved: str, head: bytes, expected: bool) -> None:
    assert is_podman(resolved, head) is expected
