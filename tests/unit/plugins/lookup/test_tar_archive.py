# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files under other names, in one archive that tar unpacks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible.errors import AnsibleLookupError

from ansible_collections.vicuna.fleet.plugins.lookup import tar_archive


def test_what_is_packed_is_unpacked_under_its_name(tmp_path: Path) -> None:
    sources = {"Dockerfile": tmp_path / "one", "app/main.py": tmp_path / "two"}
    for name, path in sources.items():
        path.write_bytes(name.encode() + b"\x00\xff\n" * 5000)
    files = {name: str(path) for name, path in sources.items()}
    (packed,) = tar_archive.LookupModule().run([files])
    target = tmp_path / "context"
    target.mkdir()
    script = "umask 077; base64 --decode | tar --extract --gzip --no-same-owner --same-permissions --directory context"
    subprocess.run(["sh", "-c", script], input=packed, text=True, check=True, cwd=tmp_path)
    for name, path in sources.items():
        assert (target / name).read_bytes() == path.read_bytes()
        assert (target / name).stat().st_mode & 0o777 == 0o644

    for path in sources.values():
        os.utime(path, (1, 1))
    assert tar_archive.LookupModule().run([dict(reversed(files.items()))]) == [packed]


def test_what_cannot_be_packed_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnsibleLookupError, match=r"no readable .*/missing \(No such file or directory\)"):
        tar_archive.LookupModule().run([{"x": str(tmp_path / "missing")}])
    with pytest.raises(AnsibleLookupError, match="found str, expected a dictionary"):
        tar_archive.LookupModule().run(["x"])
