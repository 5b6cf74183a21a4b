# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of several modules stand on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ..apt_host import CONFIGURATION, AptHost, Keys, gpg
from ..fake_hub import FakeHub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A model hub of its own for each test."""
    if not shutil.which("git-lfs"):
        pytest.fail("git-lfs is not installed: apt-get install git-lfs")
    fake = FakeHub(tmp_path / "hub")
    yield fake
    fake.close()


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    if not shutil.which("gpg") or not shutil.which("apt-get"):
        pytest.fail("apt or gpg is not installed: these tests need Debian or Ubuntu with the package gnupg")
    # gpg's agent has its socket there: the path has to be short.
    home = Path(f"/tmp/vicuna-gpg-{os.getpid()}")
    home.mkdir(mode=0o700)
    folder = tmp_path_factory.mktemp("keys")
    for name in ("archive", "foreign"):
        gpg(home, "--quick-gen-key", name, "ed25519", "sign", "never")
        gpg(home, "--armor", "--output", str(folder / f"{name}.asc"), "--export", name)
    yield Keys(home, folder / "archive.asc", folder / "foreign.asc")
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def apt_host(
    tmp_path: Path, keys: Keys, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AptHost:
    root = tmp_path / "root"
    for folder in (
        "etc/apt/sources.list.d",
        "etc/apt/apt.conf.d",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
    ):
        (root / folder).mkdir(parents=True)
    (root / "status").touch()
    configuration = tmp_path / "apt.conf"
    configuration.write_text(CONFIGURATION.format(root=root), encoding="ascii")
    monkeypatch.setenv("APT_CONFIG", str(configuration))

    def run(module: ModuleType, **arguments: Any) -> dict[str, Any]:
        with patch_module_args({"_ansible_remote_tmp": str(tmp_path), **arguments}), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return AptHost(root, keys, run)
