#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: docker_engine_info
short_description: Tell which container engine a host has, and whether it answers
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Tells in one go whose engine is installed, which versions the engine, Compose and Buildx have,
    and whether the engine answers.
  - The local engine is asked, whatever E(DOCKER_HOST) and the current context of the user say.
  - Given what is wanted, it tells what of it the host does not have yet, by the judgement of the modules that would
    bring it about. So a host that has everything is asked once, and those modules need not run.
options:
  packages:
    description: Packages whose versions are wanted beside those that tell the engine's origin.
    type: list
    elements: str
    default: []
  group:
    description: The group whose members may talk to the engine.
    type: str
    default: docker
  socket:
    description: Where the engine listens.
    type: str
    default: unix:///var/run/docker.sock
  config:
    description: The engine's configuration file. It is only looked at.
    type: path
    default: /etc/docker/daemon.json
  options:
    description: Keys that the configuration file is to have, as M(vicuna.fleet.docker_daemon_config) takes them.
    type: dict
  defaults:
    description:
      - Keys that it is to have where it has none of its own.
      - C(live-restore) is left out on a member of a swarm, which refuses it.
    type: dict
  certificates:
    description: CA certificates that are to be trusted, as M(vicuna.fleet.ca_certificates) takes them.
    type: dict
  service:
    description: Name of the service that is to run now and at every boot. Empty asks for none.
    type: str
    default: ""
  wait:
    description: Seconds to wait until an engine answers. V(0) asks once.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    description: Can run in check mode, and returns the same.
  diff_mode:
    support: N/A
    description: Changes nothing.
  idempotent:
    support: N/A
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Wait until the engine answers
  vicuna.fleet.docker_engine_info:
    wait: 60
  register: probe

- name: Ask whether its configuration is as it should be
  vicuna.fleet.docker_engine_info:
    options: {registry-mirrors: ["https://mirror.example.org"]}
    service: docker
  register: probe
  failed_when: probe.engine.pending | length > 0

- name: Show its version
  ansible.builtin.debug:
    var: probe.engine.version
"""

RETURN = r"""
msg:
  description: Whether the engine answers, in words.
  returned: always
  type: str
  sample: Docker Engine 26.1.5 answers
engine:
  description: What was found.
  returned: always
  type: dict
  contains:
    flavour:
      description:
        - Whose engine it is. V(docker) and V(distribution) come from packages of Docker or of the distribution,
          V(other) is a C(dockerd) that no such package owns, V(podman) is a C(docker) command that is Podman's.
      type: str
      choices: [docker, distribution, snap, podman, other, none]
    cli:
      description: The C(docker) command, links followed; empty where there is none.
      type: str
      sample: /usr/bin/docker
    packages:
      description: Installed packages among those that were asked for, and their versions.
      type: dict
      sample: {docker.io: 26.1.5+dfsg1-9}
    reachable:
      description: Whether the engine answers.
      type: bool
    error:
      description: Why the engine does not answer, mostly in the words of the C(docker) command.
      type: str
    version:
      description: The engine's version; empty where it does not answer.
      type: str
      sample: 26.1.5
    compose:
      description: Version of the Compose plugin; empty where there is none.
      type: str
      sample: 2.26.1
    buildx:
      description: Version of the Buildx plugin; empty where there is none.
      type: str
      sample: 0.13.1
    swarm:
      description: Whether the engine belongs to a swarm.
      type: bool
    live_restore:
      description: Whether containers outlive the engine.
      type: bool
    cgroup_driver:
      description: The engine's cgroup driver.
      type: str
      sample: systemd
    root:
      description: Where the engine keeps its data.
      type: str
      sample: /var/lib/docker
    group_members:
      description: Users whose supplementary group O(group) is.
      type: list
      elements: str
    systemd:
      description: Whether systemd runs the host, as sd_booted(3) tells.
      type: bool
    init_script:
      description: Whether C(/etc/init.d/docker) exists, for a host without systemd.
      type: bool
    config:
      description:
        - The keys C(features) and C(runtimes) of O(config), where it has them; others may hold secrets.
      type: dict
      sample: {features: {cdi: true}}
    config_error:
      description: Why O(config) cannot be read, in three parts; empty where it can, or where there is no such file.
      type: str
      sample: >-
        Found a malformed /etc/docker/daemon.json: line 3, column 5: a comma before the closing }. Expected one JSON
        object, or no such file. Mend the file on the host …
    pending:
      description:
        - What the host does not have of what was asked for.
        - V(config) - the file would be changed, or C(dockerd) refuses it. V(certificates) - one is not trusted yet.
          V(service) - it does not run, or will not at the next boot, or systemd is not there to tell.
          V(restart) - O(service) was started or reloaded before O(config) was last changed, or started before one of
          O(certificates) was put into the trust store.
      type: list
      elements: str
      choices: [config, certificates, service, restart]
    waited:
      description: Seconds spent until the answer.
      type: float
"""

import grp
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import (
    ConfigError,
    changed_keys,
    credentials,
    fill,
    merge,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import read as read_config
from ansible_collections.vicuna.fleet.plugins.module_utils._docker_engine import (
    DISTRIBUTION_PACKAGES,
    DOCKER_PACKAGES,
    DPKG_FORMAT,
    NO_ANSWER,
    PODMAN_PACKAGES,
    RPM_FORMAT,
    Answer,
    as_dict,
    flavour,
    is_podman,
    parse_dpkg,
    parse_info,
    parse_rpm,
    parse_unit,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._host import processes
from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import AuthorityError
from ansible_collections.vicuna.fleet.plugins.module_utils._trust_store import STORES, bundled, named

SNAPS = ("/snap/docker/current", "/var/lib/snapd/snap/docker/current")
SYSTEMD = "/run/systemd/system"
UNIT = "--property=ActiveState,UnitFileState,MainPID,StateChangeTimestampMonotonic"
ASK_SECONDS = 30
# Written by the init script, for a host without systemd.
INIT_PID_FILE = Path("/var/run/docker-ssd.pid")


def installed(module: AnsibleModule, names: list[str]) -> dict[str, str]:
    dpkg = module.get_bin_path("dpkg-query")
    if dpkg is not None:
        return parse_dpkg(module.run_command([dpkg, "--show", "--showformat", DPKG_FORMAT, *names])[1])
    rpm = module.get_bin_path("rpm")
    if rpm is not None:
        return parse_rpm(module.run_command([rpm, "--query", "--queryformat", RPM_FORMAT, *names])[1])
    return {}


def ask(cli: str, socket: str) -> Answer:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    environment["LC_ALL"] = "C.UTF-8"
    command = [cli, "--host", socket, "info", "--format", "{{json .}}"]
    try:
        # A hung engine never answers: AnsibleModule.run_command has no time limit.
        done = subprocess.run(command, env=environment, capture_output=True, timeout=ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return parse_info("", f"no answer within {ASK_SECONDS} s")
    except OSError as error:
        return parse_info("", str(error))
    return parse_info(done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def group_members(name: str) -> list[str]:
    try:
        return list(grp.getgrnam(name).gr_mem)
    except KeyError:
        return []


def config_file(path: Path) -> tuple[dict[str, Any], str]:
    """What the file holds, and what is wrong with it."""
    try:
        return read_config(path), ""
    except ConfigError as error:
        return {}, str(error)


def unreaped() -> str:
    """Why an init script takes an ended engine for a running one; empty where it does not."""
    try:
        pid = int(INIT_PID_FILE.read_text(encoding="ascii"))
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        first = Path("/proc/1/comm").read_text(encoding="utf-8").strip()
    except (OSError, ValueError, IndexError):
        return ""
    if state != "Z":
        return ""
    return (
        f"its process {pid} has ended, but process 1 ({first}) does not reap it, so that the init script takes it for "
        "running: give the container an init (docker run --init)"
    )


def head(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def config_pending(module: AnsibleModule, swarm: bool) -> bool:
    """Whether docker_daemon_config would change the file, or refuse it."""
    path = Path(module.params["config"])
    defaults = dict(module.params["defaults"] or {})
    if swarm:
        defaults.pop("live-restore", None)
    before, error = config_file(path)
    if error:
        return True
    after = fill(merge(before, module.params["options"] or {}), defaults)
    if changed_keys(before, after):
        return True
    if credentials(before) and stat.S_IMODE(path.stat().st_mode) != 0o600:
        return True
    dockerd = module.get_bin_path("dockerd")
    if dockerd is None or not path.exists():
        return False
    rc, out, err = module.run_command([dockerd, "--validate", "--config-file", str(path)])
    return rc != 0 and "unknown flag" not in (err or out)


def certificates_pending(wanted: dict[str, str]) -> bool:
    """Whether ca_certificates would add one, or refuse one."""
    known: set[str] = set()
    for store in STORES:
        known |= bundled(read(Path(store.bundle)))
    try:
        return any(not bundled(text) <= known for files in named(wanted).values() for text in files.values())
    except AuthorityError:
        return True


def pending(module: AnsibleModule, swarm: bool) -> list[str]:
    """What the host does not have of what was asked for."""
    params = module.params
    found = []
    if (params["options"] is not None or params["defaults"] is not None) and config_pending(module, swarm):
        found.append("config")
    if params["certificates"] and certificates_pending(params["certificates"]):
        found.append("certificates")
    if params["service"]:
        systemctl = module.get_bin_path("systemctl") if Path(SYSTEMD).is_dir() else None
        unit = parse_unit(module.run_command([systemctl, "show", UNIT, params["service"]])[1]) if systemctl else {}
        if (unit.get("ActiveState"), unit.get("UnitFileState")) != ("active", "enabled"):
            found.append("service")
        if outdated(unit, Path(params["config"]), params["certificates"] or {}):
            found.append("restart")
    return found


def outdated(unit: dict[str, str], config: Path, certificates: dict[str, str]) -> bool:
    """Whether the engine goes by an earlier version of a file that it reads."""
    now, start = time.time(), processes.started(int(unit.get("MainPID") or 0))
    if start is None:
        return False
    # A unit's last change of state is the end of its start, or of a reload, which reads the file again.
    changed_state = int(unit.get("StateChangeTimestampMonotonic") or 0) / 1e6
    loaded = max(start, processes.since_boot(changed_state, time.CLOCK_MONOTONIC))
    # The trust store is read at the start only. Of its files ours count: the system updates its own now and then.
    try:
        names = [name for files in named(certificates).values() for name in files]
    except AuthorityError:
        names = []
    ours = [Path(store.anchors) / name for store in STORES for name in names]
    return bool(
        processes.newer_than(loaded, processes.changed_at([config]), now)
        or processes.newer_than(start, processes.changed_at(ours), now)
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "group": {"type": "str", "default": "docker"},
            "socket": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "config": {"type": "path", "default": "/etc/docker/daemon.json"},
            "wait": {"type": "int", "default": 0},
            "options": {"type": "dict"},
            "defaults": {"type": "dict"},
            "certificates": {"type": "dict"},
            "service": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    config, config_error = config_file(Path(module.params["config"]))
    module.no_log_values.update(credentials([module.params["options"], module.params["defaults"]]))
    cli = module.get_bin_path("docker")
    # A snap's command is a link to /usr/bin/snap, which tells nothing: its own path does.
    resolved = os.path.realpath(cli) if cli and not cli.startswith("/snap/") else cli or ""
    snap = any(Path(path).exists() for path in SNAPS)
    podman = is_podman(resolved, head(resolved)) if resolved else False
    names = sorted({*DOCKER_PACKAGES, *DISTRIBUTION_PACKAGES, *PODMAN_PACKAGES, *module.params["packages"]})
    packages = installed(module, names)
    whose = flavour(packages, resolved, module.get_bin_path("dockerd") or "", snap, podman)

    started = time.monotonic()
    answer = NO_ANSWER
    if cli and whose not in ("podman", "snap"):
        answer = ask(cli, module.params["socket"])
        while not answer.reachable and time.monotonic() - started < module.params["wait"]:
            time.sleep(0.5)
            answer = ask(cli, module.params["socket"])

    reason = (unreaped() if answer.error else "") or answer.error
    engine: dict[str, Any] = {
        "flavour": whose,
        "cli": resolved,
        "packages": packages,
        **as_dict(answer),
        "error": reason,
        "group_members": group_members(module.params["group"]),
        "systemd": Path(SYSTEMD).is_dir(),
        "init_script": os.access("/etc/init.d/docker", os.X_OK),
        "config": {key: config[key] for key in ("features", "runtimes") if key in config},
        "config_error": config_error,
        "pending": pending(module, answer.swarm),
        "waited": round(time.monotonic() - started, 1),
    }
    message = f"Docker Engine {answer.version} answers" if answer.reachable else f"No engine answers: {reason or whose}"
    module.exit_json(changed=False, msg=message, engine=engine)


if __name__ == "__main__":
    main()
