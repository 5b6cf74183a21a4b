#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gateway_config
short_description: Bring HAProxy to a configuration, without a lost request
version_added: 0.2.0
author: The vicuna.fleet authors
description:
  - Validates a configuration of HAProxy together with the files that it reads, puts them in place, saves the state of
    the servers, reloads, and waits until the new process answers on the socket.
  - What a file whose name ends in C(.map) has lost is taken out of the running processes as well, before the reload. A
    process that ends still serves the connections that clients keep.
  - A configuration that HAProxy refuses is not put in place; the one that runs goes on.
  - The configuration gets a global section of its own with the SHA-256 of all files as C(description), so that a run
    which was ended between writing and reloading is finished by the next one. It is reloaded, too, where its process
    began before one of the files was last changed, for it may have read what a person had put there.
  - HAProxy resolves the names of its servers when it starts or is reloaded. It is reloaded, too, where one of them
    leads to another address by now.
  - Where HAProxy is not installed, nothing is done. See RV(installed).
options:
  config:
    description: The configuration.
    type: str
    required: true
  config_path:
    description: Where HAProxy reads it.
    type: path
    default: /etc/haproxy/haproxy.cfg
  files:
    description: Files that the configuration reads, by their names in O(directory).
    type: dict
    default: {}
  directory:
    description: The folder of O(files), as the configuration names it. Only root can read it.
    type: path
    default: /etc/haproxy/vicuna
  drop_in:
    description: Settings of our own for HAProxy's systemd unit. Empty leaves them as they are.
    type: str
    default: ""
  drop_in_path:
    description: Where systemd reads O(drop_in).
    type: path
    default: /etc/systemd/system/haproxy.service.d/vicuna.conf
  secrets:
    description: Words in O(config) that are kept out of everything that is shown.
    type: list
    elements: str
    default: []
  self_signed:
    description:
      - Names and addresses for C(tls.pem) in O(directory), which is made once, signed by itself, and kept.
      - It is valid for ten years.
      - Not with a C(tls.pem) in O(files).
    type: list
    elements: str
    default: []
  minimum_version:
    description: The oldest HAProxy that the configuration is for.
    type: str
    default: "2.4"
  socket:
    description: HAProxy's socket, of level admin.
    type: path
    default: /run/haproxy/admin.sock
  master_socket:
    description: The socket of HAProxy's master process, which knows of earlier processes. It may be missing.
    type: path
    default: /run/haproxy-master.sock
  state_file:
    description: HAProxy's server state file.
    type: path
    default: /var/lib/haproxy/vicuna-server-state
  reload_command:
    description: What makes the running HAProxy take over its configuration.
    type: list
    elements: str
    default: [systemctl, reload, haproxy]
  timeout:
    description: Seconds until the new process has to answer.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return changed status prediction without modifying the host.
  diff_mode:
    support: full
    description: Returns details on what has changed in O(config) when in diff mode, and the names of other files.
  idempotent:
    support: full
    description: When run twice in a row, the second run changes nothing.
"""

EXAMPLES = r"""
- name: Bring the gateway to its configuration
  vicuna.fleet.gateway_config:
    config: "{{ lookup('ansible.builtin.template', 'haproxy.cfg.j2') }}"
    files:
      keys.map: "{{ lookup('ansible.builtin.template', 'keys.map.j2') }}"
    secrets: ["{{ gateway_server_key }}"]
    self_signed: [gateway.example.org]
"""

RETURN = r"""
installed:
  description: Whether HAProxy is there. When it is not, nothing else is returned.
  returned: always
  type: bool
version:
  description: HAProxy's version.
  returned: when installed
  type: str
  sample: 2.6.12
changed_files:
  description: The files that differ.
  returned: when installed
  type: list
  elements: str
running:
  description: Whether HAProxy answered on its socket.
  returned: when installed
  type: bool
unit_ready:
  description:
    - Whether systemd starts it at boot, and has read the unit's settings as they are on the disk.
    - V(false) where there is no systemd.
  returned: when installed
  type: bool
reloaded:
  description: Whether it was reloaded, or would be.
  returned: when installed
  type: bool
certificate:
  description:
    - The certificate that was signed by itself, in PEM, without its key.
    - Empty where one was given, or is not made yet.
  returned: when installed
  type: str
"""

import hashlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._common import version as versions
from ansible_collections.vicuna.fleet.plugins.module_utils._haproxy import (
    HaproxyDown,
    HaproxyError,
    Runtime,
    carried_over,
    removed,
    replace,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._host import ports, processes
from ansible_collections.vicuna.fleet.plugins.module_utils._host.pem import blocks

SYSTEMD = "/run/systemd/system"


def marked(config: str, files: dict[str, str]) -> tuple[str, str]:
    """The configuration with the digest of all that it stands for, and that digest."""
    parts = [config, *(f"{name}\0{files[name]}" for name in sorted(files))]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return f"{config.rstrip()}\n\nglobal\n    description vicuna.fleet {digest}\n", digest


def sans(names: list[str]) -> str:
    """What OpenSSL takes for subjectAltName."""
    kinds = {name: "IP" if re.fullmatch(r"[0-9.]+|.*:.*", name) else "DNS" for name in names}
    return ",".join(f"{kind}:{name}" for name, kind in kinds.items())


def binds(config: str) -> list[tuple[str, int]]:
    """Address and port of each bind line."""
    found = re.findall(r"^\s*bind\s+(\S*):(\d+)(?:\s|$)", config, re.MULTILINE)
    every = "0.0.0.0"  # noqa: S104 - compared with, not bound
    return [(address if address not in ("", "*") else every, int(port)) for address, port in found]


def refuse_taken(module: AnsibleModule) -> None:
    """HAProxy itself only tells at its start, when the configuration that worked is gone."""
    wanted = binds(module.params["config"])
    there = ports.listeners(port for _address, port in wanted)
    holders = ports.owners({listener.inode for listener in there})
    foreign = [listener for listener in there if not holders.get(listener.inode, "").startswith("haproxy ")]
    for address, port in wanted:
        for listener in ports.in_the_way(port, address, foreign):
            by = holders.get(listener.inode, "") or "an unknown process"
            module.fail_json(
                msg=f"Found port {port} of the gateway taken by {by}, which listens at {listener.address}. Expected it "
                f"to be free at {address}. Stop that service, or change gateway_port, gateway_stats_port or "
                "gateway_bind_address. Nothing was written."
            )


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def sign(module: AnsibleModule, names: list[str]) -> str:
    """A key and a certificate that it signed itself."""
    openssl = module.get_bin_path("openssl")
    if openssl is None:
        module.fail_json(
            msg="Found no openssl on the gateway, and no certificate was given. Expected one of the two. "
            "Install openssl there, or set gateway_tls_certificate."
        )
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
        key, made = Path(folder) / "key.pem", Path(folder) / "made.pem"
        ours = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        # A common name has at most 64 characters (X.520, ub-common-name); what counts is the subjectAltName.
        ours += ["-days", "3650", "-subj", f"/CN={names[0][:64]}", "-addext", f"subjectAltName={sans(names)}"]
        module.run_command([*ours, "-keyout", str(key), "-out", str(made)], check_rc=True)
        return made.read_text(encoding="utf-8") + key.read_text(encoding="utf-8")


def validate(module: AnsibleModule, haproxy: str, config: str, files: dict[str, str]) -> None:
    """Has HAProxy judge everything in a folder of its own."""
    directory = module.params["directory"]
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
        for name, content in files.items():
            replace(Path(folder) / name, content, 0o600)
        candidate = Path(folder) / "haproxy.cfg"
        replace(candidate, config.replace(f"{directory}/", f"{folder}/"), 0o600)
        rc, out, err = module.run_command([haproxy, "-c", "-f", str(candidate)])
        if rc == 0:
            return
        said = (err or out).strip().replace(str(candidate), module.params["config_path"]).replace(folder, directory)
    module.fail_json(
        msg=(
            f"HAProxy refuses the configuration: {said}. Expected one that it takes; nothing was written, and what "
            "runs goes on. Mend the variable that the line is made from; for a certificate that is "
            "gateway_tls_certificate or gateway_server_ca."
        )
    )


def carry_over(module: AnsibleModule, runtime: Runtime, running: bool, config: str) -> None:
    """The state file for the next process, which reads it at its start."""
    path = Path(module.params["state_file"])
    if running and path.parent.is_dir():
        runtime.save_state(str(path), config)
    elif path.exists():
        replace(path, carried_over(read(path), config), 0o600)


def write(config: str, files: dict[str, str], config_path: Path, directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in files.items():
        if read(directory / name) != content:
            replace(directory / name, content, 0o600)
    # Last: its digest says that all is there.
    replace(config_path, config, 0o600)


def loaded(runtime: Runtime) -> tuple[str, int] | None:
    """The digest of what runs, and the process; None where nothing runs."""
    try:
        info = runtime.info()
    except HaproxyDown:
        return None
    return info.get("description", "").rpartition(" ")[2], int(info.get("Pid") or 0)


def revoke(runtime: Runtime, before: dict[Path, str], after: dict[Path, str]) -> None:
    """What a map lost is lost for the processes that end, too: they serve the connections that clients keep."""
    for path, content in after.items():
        if path.suffix == ".map":
            runtime.forget(str(path), removed(before[path], content))


def reload(module: AnsibleModule, runtime: Runtime, digest: str, before: int) -> None:
    rc, out, err = module.run_command(module.params["reload_command"])
    deadline = time.monotonic() + module.params["timeout"]
    while rc == 0 and time.monotonic() < deadline:
        now = loaded(runtime)
        if now and now[0] == digest and now[1] != before:
            return
        time.sleep(0.1)
    said = (err or out).strip() or "the old process still answers"
    module.fail_json(
        msg=(
            f"HAProxy did not take the new configuration over: {said}. "
            f"Expected it within {module.params['timeout']} s. "
            "A port that something else holds is the usual cause; `journalctl --unit haproxy` on the gateway names it."
        )
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "str", "required": True},
            "config_path": {"type": "path", "default": "/etc/haproxy/haproxy.cfg"},
            "files": {"type": "dict", "default": {}, "no_log": True},
            "directory": {"type": "path", "default": "/etc/haproxy/vicuna"},
            "drop_in": {"type": "str", "default": ""},
            "drop_in_path": {"type": "path", "default": "/etc/systemd/system/haproxy.service.d/vicuna.conf"},
            "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "self_signed": {"type": "list", "elements": "str", "default": []},
            "minimum_version": {"type": "str", "default": "2.4"},
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
            "master_socket": {"type": "path", "default": "/run/haproxy-master.sock"},
            "state_file": {"type": "path", "default": "/var/lib/haproxy/vicuna-server-state"},
            "reload_command": {"type": "list", "elements": "str", "default": ["systemctl", "reload", "haproxy"]},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    # It lies in sbin, which a login's PATH may lack.
    haproxy = module.get_bin_path("haproxy", opt_dirs=["/usr/sbin", "/usr/local/sbin"])
    if haproxy is None:
        refuse_taken(module)
        module.exit_json(changed=False, installed=False)
    try:
        module.exit_json(**work(module, haproxy))
    except (HaproxyError, OSError) as error:
        module.fail_json(
            msg=(
                f"The gateway could not be brought to its configuration: {error}. "
                "Expected to write it, and to talk to HAProxy. "
                "Look at the path, and at `journalctl --unit haproxy` on the gateway, then run again."
            )
        )


def work(module: AnsibleModule, haproxy: str) -> dict[str, Any]:
    params = module.params
    _rc, out, _err = module.run_command([haproxy, "-v"])
    version = versions.of(out)
    if versions.older(version, params["minimum_version"]):
        module.fail_json(
            msg=f"Found HAProxy {version or 'of an unknown version'} on the gateway. "
            f"Expected {params['minimum_version']} or later. "
            "Install a later package there, then run again."
        )
    config_path, directory = Path(params["config_path"]), Path(params["directory"])
    files: dict[str, str] = dict(params["files"])
    certificate = ""
    if params["self_signed"] and "tls.pem" not in files:
        kept = read(directory / "tls.pem")
        # One that was given before and is given no more is none of ours: ours is signed by its own subject.
        files["tls.pem"] = kept if kept and ours(module, kept) else sign(module, params["self_signed"])
        made = [block.pem for block in blocks(files["tls.pem"]) if block.label == "CERTIFICATE"]
        certificate = made[0] if made and not (module.check_mode and not kept) else ""

    config, digest = marked(params["config"], files)
    before = {config_path: read(config_path), **{directory / name: read(directory / name) for name in files}}
    after = {config_path: config, **{directory / name: content for name, content in files.items()}}
    differing = [str(path) for path, content in after.items() if before[path] != content]
    drop_in = Path(params["drop_in_path"])
    drop_in_differs = bool(params["drop_in"]) and read(drop_in) != params["drop_in"]
    # Copies of keys that are used no more do not stay behind.
    stale = [path for path in directory.iterdir() if path.name not in files] if directory.is_dir() else []
    runtime = Runtime(params["socket"], params["master_socket"])
    runs = loaded(runtime)
    if differing or runs is None:
        refuse_taken(module)
    if differing:
        validate(module, haproxy, config, files)

    # Its digest is that of the configuration; the other files it may have read while they were something else.
    must_reload = runs is not None and bool(
        runs[0] != digest
        or differing
        or processes.newer_than(processes.started(runs[1]), processes.changed_at(after), time.time())
        or runtime.moved()
    )
    if not module.check_mode:
        if drop_in_differs:
            drop_in.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace(drop_in, params["drop_in"], 0o644)
        if differing:
            write(config, files, config_path, directory)
        for path in stale:
            path.unlink() if not path.is_dir() else shutil.rmtree(path)
        if differing or must_reload:
            carry_over(module, runtime, runs is not None, config)
        if runs is not None:
            revoke(runtime, before, after)
        if runs is not None and must_reload:
            reload(module, runtime, digest, runs[1])
    result: dict[str, Any] = {
        "changed": bool(differing or stale or drop_in_differs) or must_reload,
        "installed": True,
        "version": version,
        "changed_files": differing + [str(path) for path in [*stale, *([drop_in] if drop_in_differs else [])]],
        "running": runs is not None,
        "unit_ready": unit_ready(module) and not (module.check_mode and drop_in_differs),
        "reloaded": must_reload,
        "certificate": certificate,
    }
    if module._diff:
        others = "".join(f"# {name} differs\n" for name in differing if name != str(config_path))
        header = {"before_header": str(config_path), "after_header": str(config_path)}
        result["diff"] = {**header, "before": before[config_path], "after": config + others}
    return result


def ours(module: AnsibleModule, pem: str) -> bool:
    """Whether the certificate was made here: it names itself as its issuer, and openssl can read it."""
    openssl = module.get_bin_path("openssl")
    if openssl is None:
        return True
    rc, out, _err = module.run_command([openssl, "x509", "-noout", "-subject_hash", "-issuer_hash"], data=pem)
    hashes = out.split()
    return rc == 0 and len(hashes) == 2 and hashes[0] == hashes[1]


def unit_ready(module: AnsibleModule) -> bool:
    systemctl = module.get_bin_path("systemctl")
    if systemctl is None or not os.path.isdir(SYSTEMD):  # noqa: PTH112  os.path says no where Path raises
        return False
    _rc, out, _err = module.run_command([systemctl, "show", "--property=UnitFileState,NeedDaemonReload", "haproxy"])
    return sorted(out.split()) == ["NeedDaemonReload=no", "UnitFileState=enabled"]


if __name__ == "__main__":
    main()
