# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of several modules stand on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..fake_hub import FakeHub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A model hub of its own for each test."""
    if not shutil.which("git-lfs"):
        pytest.fail("git-lfs is not installed: apt-get install git-lfs")
    fake = FakeHub(tmp_path / "hub")
    yield fake
    fake.close()
