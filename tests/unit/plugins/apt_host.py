# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian host's apt, with sources of its own and archives of files: the real apt, away from this machine's."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGURATION = """\
Dir "{root}"; Dir::State::status "{root}/status"; Dir::Etc::trusted "{root}/no.gpg";
Dir::Etc::trustedparts "{root}/no/";
APT::Architecture "amd64"; APT::Architectures "amd64"; APT::Sandbox::User "root"; Acquire::Languages "none";
Acquire::Retries "0"; APT::Update::Post-Invoke-Success ""; APT::Update::Post-Invoke "";
"""


@dataclass
class Keys:
    """Two signing keys, as files: that of the archive, and one of somebody else."""

    home: Path
    archive: Path
    foreign: Path


@dataclass
class AptHost:
    """The folder that is the root of apt's world."""

    root: Path
    keys: Keys
    run: Callable[..., dict[str, Any]]

    @property
    def list(self) -> Path:
        return self.root / "etc/apt/sources.list"

    @property
    def parts(self) -> Path:
        return self.root / "etc/apt/sources.list.d"

    def archive(self, name: str, *suites: str, origin: str = "Debian", key: str = "archive") -> str:
        """A repository of files, each suite with one package; returns its URL. key: who signs it, or nobody."""
        for suite in suites:
            folder = self.root / "archives" / name / "dists" / suite
            components = ("main", "contrib", "non-free", "stable")
            index = f"Package: {origin.lower()}\nVersion: 1\nArchitecture: amd64\nFilename: x.deb\nSize: 1\n".encode()
            sums = ""
            for component in components:
                path = folder / component / "binary-amd64" / "Packages"
                path.parent.mkdir(parents=True)
                path.write_bytes(index)
                sums += f" {hashlib.sha256(index).hexdigest()} {len(index)} {component}/binary-amd64/Packages\n"
            (folder / "Release").write_text(
                f"Origin: {origin}\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\n"
                f"Date: Sat, 01 Jun 2024 00:00:00 UTC\nComponents: {' '.join(components)}\nSHA256:\n{sums}",
                encoding="ascii",
            )
            if key:
                gpg(self.keys.home, "--local-user", key, "--clearsign", "--output", "InRelease", "Release", at=folder)
        return f"file:{self.root}/archives/{name}"

    def get(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["apt-get", "-q", *arguments], capture_output=True, text=True, check=False)

    def files(self) -> dict[str, bytes]:
        """Every file of apt's configuration, by its path beneath the root."""
        folder = self.root / "etc/apt"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def gpg(home: Path, *arguments: str, at: Path | None = None) -> None:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes", "--passphrase", "", *arguments]
    subprocess.run(command, cwd=at, check=True, capture_output=True)
