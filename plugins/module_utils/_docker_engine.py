# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the package manager and the docker command say about a host's engine: no input, no output."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ansible_collections.vicuna.fleet.plugins.module_utils._common import version as versions

# Packages that hold an engine, or pretend to.
DOCKER_PACKAGES = ("docker-ce",)
DISTRIBUTION_PACKAGES = ("docker.io", "moby-engine")
PODMAN_PACKAGES = ("podman-docker",)

DPKG_FORMAT = r"${db:Status-Abbrev}\t${Package}\t${Version}\n"
RPM_FORMAT = r"%{NAME}\t%{VERSION}-%{RELEASE}\n"


@dataclass(frozen=True)
class Answer:
    """What one `docker info` says."""

    reachable: bool
    error: str
    version: str
    compose: str
    buildx: str
    swarm: bool
    live_restore: bool
    cgroup_driver: str
    root: str


NO_ANSWER = Answer(False, "", "", "", "", False, False, "", "")


def parse_dpkg(out: str) -> dict[str, str]:
    """Installed packages and their versions, from `dpkg-query --show --showformat DPKG_FORMAT`."""
    packages = {}
    for line in out.splitlines():
        status, _tab, rest = line.partition("\t")
        name, _tab, version = rest.partition("\t")
        if status[:2] in ("ii", "hi") and name:
            packages[name] = version
    return packages


def parse_rpm(out: str) -> dict[str, str]:
    """Installed packages and their versions, from `rpm --query --queryformat RPM_FORMAT`."""
    return dict(line.split("\t", 1) for line in out.splitlines() if "\t" in line)


def parse_info(out: str, err: str) -> Answer:
    """The answer of `docker info --format '{{json .}}'`, which knows the plugins even where no engine answers."""
    start = out.find("{")
    try:
        info = json.loads(out[start:]) if start >= 0 else {}
    except ValueError:
        info = {}
    plugins = {
        plugin.get("Name", ""): versions.of(plugin.get("Version", "")) or plugin.get("Version", "")
        for plugin in (info.get("ClientInfo") or {}).get("Plugins") or []
    }
    errors = "; ".join(info.get("ServerErrors") or []) or err.strip()
    said = str(info.get("ServerVersion") or "")
    # A build from source says `dev` or a commit.
    version = versions.of(said) or said
    return Answer(
        reachable=bool(version),
        error="" if version else errors or "docker info gave no answer",
        version=version,
        compose=plugins.get("compose", ""),
        buildx=plugins.get("buildx", ""),
        swarm=(info.get("Swarm") or {}).get("LocalNodeState", "") not in ("", "inactive"),
        live_restore=bool(info.get("LiveRestoreEnabled")),
        cgroup_driver=info.get("CgroupDriver") or "",
        root=info.get("DockerRootDir") or "",
    )


def parse_unit(out: str) -> dict[str, str]:
    """The properties of a unit, from `systemctl show`."""
    return dict(line.partition("=")[::2] for line in out.splitlines())


def flavour(packages: dict[str, str], cli: str, dockerd: str, snap: bool, podman: bool) -> str:
    """Whose engine it is. Snap and Podman come first: beside any other engine they would still answer to `docker`."""
    if snap or cli.startswith(("/snap/", "/var/lib/snapd/")):
        return "snap"
    if podman or packages.keys() & set(PODMAN_PACKAGES):
        return "podman"
    if packages.keys() & set(DOCKER_PACKAGES):
        return "docker"
    if packages.keys() & set(DISTRIBUTION_PACKAGES):
        return "distribution"
    return "other" if dockerd else "none"


def is_podman(resolved: str, head: bytes) -> bool:
    """Whether a `docker` command is Podman's: a link to it, or a script that calls it."""
    name = resolved.rsplit("/", 1)[-1]
    return name == "podman" or (head.startswith(b"#!") and b"podman" in head)


def as_dict(answer: Answer) -> dict[str, Any]:
    return dict(vars(answer))
