#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a FAKE of Docker's APT repository out of Debian trixie's own packages.

It has the package names, the paths and the signed indexes of https://download.docker.com/linux/debian, so that
`docker_source: docker` runs for real where that server is out of reach. Nothing in it comes from Docker Inc. It is for
tests only: the key is made on the spot and guards nothing.

Files of the packages are taken over as they are; only names, versions and relations are rewritten.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

SUITES = ("bookworm", "trixie")
COMPONENT = "stable"
MARK = "vicuna.fake"
KEY_OWNER = "FAKE Docker release key for tests (nobody) <nobody@fake.invalid>"


@dataclass(frozen=True)
class Package:
    """How one of Debian's packages becomes one that is named like Docker's."""

    debian: str
    docker: str
    epoch: str
    # Relations that take the place of Debian's. runc stays the suite's own: trixie's wants a newer libc.
    relations: dict[str, str] = field(default_factory=dict)


PACKAGES = (
    Package(
        "docker.io",
        "docker-ce",
        "5:",
        {
            "Depends": "containerd.io, docker-ce-cli, libc6 (>= 2.34), libsystemd0, adduser, iptables, tini",
            "Conflicts": "docker.io",
            "Replaces": "docker.io",
        },
    ),
    Package(
        "docker-cli",
        "docker-ce-cli",
        "5:",
        {
            "Depends": "libc6 (>= 2.34)",
            "Recommends": "docker-buildx-plugin, docker-compose-plugin",
            "Conflicts": "docker-cli, docker.io (<< 26), podman-docker",
            "Replaces": "docker-cli, docker.io (<< 26)",
        },
    ),
    Package(
        "containerd",
        "containerd.io",
        "",
        {
            "Depends": "libc6 (>= 2.34), runc",
            "Conflicts": "containerd",
            "Replaces": "containerd",
            "Provides": "containerd",
        },
    ),
    Package(
        "docker-buildx",
        "docker-buildx-plugin",
        "",
        {"Depends": "libc6 (>= 2.34)", "Conflicts": "docker-buildx", "Replaces": "docker-buildx"},
    ),
    Package(
        "docker-compose",
        "docker-compose-plugin",
        "",
        {"Depends": "libc6 (>= 2.34)", "Conflicts": "docker-compose", "Replaces": "docker-compose"},
    ),
)
RELATIONS = {"Depends", "Pre-Depends", "Recommends", "Suggests", "Conflicts", "Breaks", "Replaces", "Provides"}
DROPPED = {"Source", "Built-Using", "Static-Built-Using", "Homepage", "Maintainer"}


def run(*command: str | Path, data: bytes | None = None) -> bytes:
    return subprocess.run([str(part) for part in command], input=data, check=True, stdout=subprocess.PIPE).stdout


def ar_members(deb: bytes) -> dict[str, bytes]:
    """The members of a .deb, which is an ar archive of debian-binary, control.tar and data.tar."""
    if not deb.startswith(b"!<arch>\n"):
        raise SystemExit("not a .deb file")
    members, at = {}, 8
    while at + 60 <= len(deb):
        header = deb[at : at + 60]
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        members[name] = deb[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return members


def ar_archive(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO(b"")
    out.write(b"!<arch>\n")
    for name, content in members.items():
        out.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
        out.write(content + b"\n" * (len(content) % 2))
    return out.getvalue()


def fields(control: str) -> dict[str, str]:
    """The fields of one paragraph, continuation lines included."""
    found: dict[str, str] = {}
    name = ""
    for line in control.splitlines():
        if line[:1] in (" ", "\t"):
            found[name] += "\n" + line
        elif line:
            name, _colon, value = line.partition(":")
            found[name] = value.strip()
    return found


def paragraph(values: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in values.items())


def rename(control: dict[str, str], package: Package) -> dict[str, str]:
    """Debian's control fields as those of the fake."""
    upstream = re.split(r"[+~-]", control["Version"].split(":")[-1])[0]
    values = {
        "Package": package.docker,
        "Version": f"{package.epoch}{upstream}-0~{MARK}",
        "Maintainer": "nobody <nobody@fake.invalid>",
    }
    values.update({k: v for k, v in control.items() if k not in values and k not in RELATIONS and k not in DROPPED})
    values.update(package.relations)
    values["Description"] = f"FAKE of Docker's {package.docker}, for tests\n Made of Debian's {package.debian}."
    return values


def repack(deb: Path, package: Package, pool: Path) -> dict[str, str]:
    """Write the fake's .deb; return its entry for the index."""
    members = ar_members(deb.read_bytes())
    control_name = next(name for name in members if name.startswith("control.tar"))
    target_bytes = io.BytesIO()
    values: dict[str, str] = {}
    with (
        tarfile.open(fileobj=io.BytesIO(members[control_name])) as source,
        tarfile.open(fileobj=target_bytes, mode="w") as target,
    ):
        for member in source:
            file = source.extractfile(member)
            content = file.read() if file else b""
            if member.name in ("./control", "control"):
                values = rename(fields(content.decode()), package)
                content = paragraph(values).encode()
                member.size = len(content)
            target.addfile(member, io.BytesIO(content) if member.isfile() else None)
    rebuilt = {"debian-binary": members["debian-binary"], "control.tar": target_bytes.getvalue()}
    rebuilt.update({name: content for name, content in members.items() if name.startswith("data.tar")})
    data = ar_archive(rebuilt)
    version = values["Version"].split(":")[-1]
    path = pool / f"{package.docker}_{version}_{values['Architecture']}.deb"
    path.write_bytes(data)
    return {
        **values,
        "Filename": str(path.relative_to(pool.parents[1])),
        "Size": str(len(data)),
        "SHA256": hashlib.sha256(data).hexdigest(),
    }


def index(root: Path, suite: str, entries: list[dict[str, str]]) -> Path:
    """Packages and Release of one suite."""
    dist = root / "dists" / suite
    listed: list[tuple[str, bytes]] = []
    for architecture in sorted({entry["Architecture"] for entry in entries}):
        text = "\n".join(paragraph(entry) for entry in entries if entry["Architecture"] == architecture).encode()
        folder = f"{COMPONENT}/binary-{architecture}"
        (dist / folder).mkdir(parents=True, exist_ok=True)
        for name, data in (("Packages", text), ("Packages.gz", gzip.compress(text, mtime=0))):
            (dist / folder / name).write_bytes(data)
            listed.append((f"{folder}/{name}", data))
    release = paragraph(
        {
            "Origin": "FAKE Docker",
            "Label": "FAKE Docker CE, for tests",
            "Suite": suite,
            "Codename": suite,
            "Date": formatdate(usegmt=True).replace("GMT", "UTC"),
            "Architectures": " ".join(sorted({entry["Architecture"] for entry in entries})),
            "Components": COMPONENT,
            "SHA256": "".join(f"\n {hashlib.sha256(data).hexdigest()} {len(data):16d} {name}" for name, data in listed),
        }
    )
    path = dist / "Release"
    path.write_text(release, encoding="utf-8")
    return path


def sign(releases: list[Path], key: Path) -> str:
    """Sign with a key that is made for it and thrown away; return its fingerprint."""
    # gpg-agent's socket wants a short path, and nothing of this belongs beside the user's own keys.
    with tempfile.TemporaryDirectory(prefix="gpg", dir="/tmp") as home:
        gpg = ("gpg", "--homedir", home, "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback")
        try:
            run(*gpg, "--passphrase", "", "--quick-generate-key", KEY_OWNER, "rsa3072", "sign", "never")
            listing = run(*gpg, "--list-keys", "--with-colons").decode()
            fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
            for release in releases:
                run(*gpg, "--yes", "--clearsign", "--output", release.with_name("InRelease"), release)
                run(*gpg, "--yes", "--armor", "--detach-sign", "--output", release.with_name("Release.gpg"), release)
            key.write_bytes(run(*gpg, "--armor", "--export"))
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    return fingerprint


def build(debs: Path, out: Path) -> dict[str, object]:
    inputs: dict[str, Path] = {}
    for package in PACKAGES:
        found = sorted(debs.glob(f"{package.debian}_*.deb"))
        if not found:
            raise SystemExit(
                f"Found no {package.debian}_*.deb in {debs}. Expected Debian trixie's package: apt-get download it."
            )
        inputs[package.debian] = found[-1]
    # This file is an input, too: what it writes into the packages is part of the result.
    stamp = {path.name: path.stat().st_size for path in [*inputs.values(), Path(__file__)]}
    done = out / "fake.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8")).get("inputs") == stamp:
        result: dict[str, object] = json.loads(done.read_text(encoding="utf-8"))
        return result

    root = out / "linux" / "debian"
    shutil.rmtree(root, ignore_errors=True)
    pool = root / "pool" / COMPONENT
    pool.mkdir(parents=True)
    entries = [repack(inputs[package.debian], package, pool) for package in PACKAGES]
    fingerprint = sign([index(root, suite, entries) for suite in SUITES], root / "gpg")
    result = {
        "fingerprint": fingerprint,
        "packages": {entry["Package"]: entry["Version"] for entry in entries},
        "inputs": stamp,
    }
    done.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "debs", type=Path, help="folder with Debian trixie's .deb files: " + ", ".join(p.debian for p in PACKAGES)
    )
    parser.add_argument("out", type=Path, help="folder to serve over HTTP; the repository is OUT/linux/debian")
    arguments = parser.parse_args()
    json.dump(build(arguments.debs, arguments.out), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
