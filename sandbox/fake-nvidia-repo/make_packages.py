#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a FAKE of NVIDIA's APT repository for the Container Toolkit, out of nothing but the files beside this script.

It has the package names, the paths and the flat, signed index of https://nvidia.github.io/libnvidia-container. Nothing
in it comes from NVIDIA. It is for tests only: the key is made on the spot and guards nothing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

HERE = Path(__file__).resolve().parent
MARK = "vicuna.fake"
KEY_OWNER = "FAKE NVIDIA key for tests (nobody) <nobody@fake.invalid>"
# The libraries of the fake driver of sandbox/fake-gpu.
LIBRARIES = "/usr/local/nvidia/lib64/lib*.so.*.*"

# As NVIDIA's packages have it from 1.18 on: the unit writes a second specification, outside /etc/cdi.
UNIT = """\
# A FAKE of NVIDIA's unit, for tests.
[Unit]
Description=FAKE: Refresh NVIDIA CDI specification file
ConditionPathExists=/usr/bin/nvidia-ctk

[Service]
Type=oneshot
Environment=NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecCondition=/usr/bin/test -e /proc/driver/nvidia/version
ExecStart=/usr/bin/nvidia-ctk cdi generate
RemainAfterExit=yes

[Install]
WantedBy=multi-user.target
"""
UNIT_SETTINGS = "# Settings of `nvidia-ctk cdi generate` for nvidia-cdi-refresh.service.\n"
POSTINST = """\
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl enable --now nvidia-cdi-refresh.service || true
fi
"""
OLD_DAEMON_JSON = """\
{
    "runtimes": {
        "nvidia": {
            "path": "nvidia-container-runtime",
            "runtimeArgs": []
        }
    }
}
"""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    depends: str = ""
    files: dict[str, str] = field(default_factory=dict)
    conffiles: tuple[str, ...] = ()
    postinst: str = ""


def toolkit(version: str, cdi_version: str, unit: bool) -> list[Package]:
    """The four packages of one release."""
    full = f"{version}-0~{MARK}"
    ctk = (HERE / "nvidia-ctk").read_text(encoding="utf-8")
    for old, new in (("@VERSION@", version), ("@CDI_VERSION@", cdi_version), ("@LIBRARIES@", LIBRARIES)):
        ctk = ctk.replace(old, new)
    refresh, settings = (
        "etc/systemd/system/nvidia-cdi-refresh.service",
        ("etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"),
    )
    base = {"usr/bin/nvidia-ctk": ctk}
    if unit:
        base.update({refresh: UNIT, settings: UNIT_SETTINGS})
    return [
        Package("libnvidia-container1", full),
        Package("libnvidia-container-tools", full, f"libnvidia-container1 (= {full})"),
        Package(
            "nvidia-container-toolkit-base",
            full,
            files=base,
            conffiles=(f"/{refresh}", f"/{settings}") if unit else (),
            postinst=POSTINST if unit else "",
        ),
        Package(
            "nvidia-container-toolkit",
            full,
            f"libnvidia-container-tools (= {full}), nvidia-container-toolkit-base (= {full})",
            {"usr/bin/nvidia-container-runtime": '#!/bin/sh\n# FAKE, for tests.\nexec runc "$@"\n'},
        ),
    ]


PACKAGES = [
    *toolkit("1.12.1", "0.5.0", unit=False),
    *toolkit("1.17.8", "0.5.0", unit=False),
    *toolkit("1.20.1", "0.7.0", unit=True),
    # The predecessor, which brings an engine's configuration along.
    Package(
        "nvidia-docker2",
        f"2.13.0-0~{MARK}",
        "nvidia-container-toolkit",
        {"etc/docker/daemon.json": OLD_DAEMON_JSON},
        ("/etc/docker/daemon.json",),
    ),
]


def run(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def build_package(package: Package, architecture: str, out: Path) -> dict[str, str]:
    """Write the .deb; return its entry for the index."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # Owned by root and readable by all, whatever the builder's umask is.
        root.chmod(0o755)
        for name, text in package.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755 if text.startswith("#!") else 0o644)
        (root / "DEBIAN").mkdir()
        fields = {
            "Package": package.name,
            "Version": package.version,
            "Architecture": architecture,
            "Maintainer": "nobody <nobody@fake.invalid>",
            "Depends": package.depends,
            "Description": f"FAKE of NVIDIA's {package.name}, for tests\n Holds nothing of NVIDIA's.",
        }
        control = "".join(f"{key}: {value}\n" for key, value in fields.items() if value)
        (root / "DEBIAN" / "control").write_text(control, encoding="utf-8")
        if package.conffiles:
            (root / "DEBIAN" / "conffiles").write_text("\n".join(package.conffiles) + "\n", encoding="utf-8")
        if package.postinst:
            (root / "DEBIAN" / "postinst").write_text(package.postinst, encoding="utf-8")
            (root / "DEBIAN" / "postinst").chmod(0o755)
        deb = out / f"{package.name}_{package.version}_{architecture}.deb"
        run("dpkg-deb", "--root-owner-group", "--build", root, deb)
    data = deb.read_bytes()
    entry = {key: value for key, value in fields.items() if value}
    return {
        **entry,
        "Filename": f"./{deb.name}",
        "Size": str(len(data)),
        "SHA256": hashlib.sha256(data).hexdigest(),
    }


def index(out: Path, entries: list[dict[str, str]]) -> Path:
    """Packages and Release of a flat repository."""
    text = "\n".join("".join(f"{k}: {v}\n" for k, v in entry.items()) for entry in entries).encode()
    listed = {"Packages": text, "Packages.gz": gzip.compress(text, mtime=0)}
    for name, data in listed.items():
        (out / name).write_bytes(data)
    lines = "".join(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n" for name, data in listed.items())
    date = formatdate(usegmt=True).replace("GMT", "UTC")
    path = out / "Release"
    path.write_text(f"Origin: FAKE NVIDIA\nLabel: FAKE, for tests\nDate: {date}\nSHA256:\n{lines}", encoding="utf-8")
    return path


def sign(release: Path, key: Path) -> str:
    """Sign with a key that is made for it and thrown away; return its fingerprint."""
    # gpg-agent's socket wants a short path, and nothing of this belongs beside the user's own keys.
    with tempfile.TemporaryDirectory(prefix="gpg", dir="/tmp") as home:
        gpg = ("gpg", "--homedir", home, "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback")
        try:
            run(*gpg, "--passphrase", "", "--quick-generate-key", KEY_OWNER, "rsa3072", "sign", "never")
            listing = run(*gpg, "--list-keys", "--with-colons")
            fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
            run(*gpg, "--clearsign", "--output", release.with_name("InRelease"), release)
            key.write_text(run(*gpg, "--armor", "--export"), encoding="utf-8")
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    return fingerprint


def build(out: Path) -> dict[str, object]:
    architecture = run("dpkg", "--print-architecture").strip()
    flat = out / "stable" / "deb" / architecture
    flat.mkdir(parents=True)
    entries = [build_package(package, architecture, flat) for package in PACKAGES]
    fingerprint = sign(index(flat, entries), out / "gpgkey")
    result: dict[str, object] = {
        "fingerprint": fingerprint,
        "packages": [f"{entry['Package']}={entry['Version']}" for entry in entries],
    }
    (out / "fake.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="empty folder to serve over HTTP; the repository is OUT/stable/deb/ARCH")
    json.dump(build(parser.parse_args().out), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
