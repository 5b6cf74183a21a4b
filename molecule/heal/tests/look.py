"""Runs on the host, from standard input: what lies there, what runs, and who has read another file than lies there now.

`disk`, `runs` and `pending` are the same before a mutation and after its repair; `stale` is empty then.
"""

import calendar
import hashlib
import json
import os
import stat
import subprocess
import time
from pathlib import Path

PROJECT = "/opt/vicuna"
UNIT = "vicuna-watch.service"
MODEL = os.path.realpath("/model/vicuna-tiny")
OWN = [PROJECT, f"/etc/systemd/system/{UNIT}", "/usr/local/bin/vicuna-chat", "/usr/local/bin/vicuna-call", MODEL]
# Which folder of the host a service reads, and where it sees it.
READS = {"edge": (f"{PROJECT}/edge", "/etc/vicuna"), "model-worker": (MODEL, MODEL)}


def told(*words):
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def walk(root):
    if Path(root).is_file():
        yield root
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in (".git", "build")]
        yield from (f"{folder}/{name}" for name in names)


def held(path):
    facts = Path(path).lstat()
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return f"{digest} {stat.S_IMODE(facts.st_mode):04o} {facts.st_uid}:{facts.st_gid}"


def seconds(moment):
    """The engine's time of a start, in seconds since 1970."""
    return calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S")) + float("0" + moment[19:-1])


def differing(service, pid, started):
    """By the process's own mounts, for a folder that was removed and made again is another one in there."""
    lies, seen = READS.get(service, ("", ""))
    inside = f"/proc/{pid}/root{seen}"
    for path in walk(lies) if lies else ():
        mounted = inside + path[len(lies) :]
        if Path(path).stat().st_mtime > started + 0.01:
            yield f"{service} is older than {path}"
        if not Path(mounted).exists() or held(mounted) != held(path):
            yield f"{service} has another {path}"


def main():
    label = "label=com.docker.compose.project=vicuna"
    ids = told("docker", "ps", "-aq", "--filter", label).split()
    compose = ("docker", "compose", "--project-directory", PROJECT, "--project-name", "vicuna")
    hashes = dict(line.split() for line in told(*compose, "config", "--hash", "*").splitlines())
    runs, stale = {}, []
    for one in json.loads(told("docker", "inspect", *ids)) if ids else []:
        labels, state = one["Config"]["Labels"], one["State"]
        name = labels["com.docker.compose.service"]
        runs[name] = {
            "state": state["Status"],
            "image": one["Image"],
            "limit": one["HostConfig"]["Memory"],
            "networks": sorted(one["NetworkSettings"]["Networks"]),
            "command": one["Config"]["Cmd"],
            "as_configured": labels["com.docker.compose.config-hash"] == hashes.get(name),
        }
        if state["Status"] == "running":
            stale += differing(name, state["Pid"], seconds(state["StartedAt"]))
    properties = "--property=ActiveState,UnitFileState,NeedDaemonReload,MainPID"
    watcher = dict(line.split("=", 1) for line in told("systemctl", "show", UNIT, properties).splitlines())
    pid = watcher.pop("MainPID")
    script, process = Path(PROJECT, "vicuna-watch"), Path("/proc", pid)
    if pid != "0" and script.exists() and script.stat().st_mtime > process.stat().st_mtime + 1:
        stale.append(f"the watcher is older than {script}")
    runs["watcher"] = watcher
    try:
        pending = json.loads(Path("/var/lib/vicuna/release.json").read_text())["pending"]
    except (OSError, ValueError):
        pending = "unreadable"
    disk = {path: held(path) for root in OWN for path in sorted(walk(root))}
    print(json.dumps({"disk": disk, "runs": runs, "pending": pending, "stale": stale}))


main()
