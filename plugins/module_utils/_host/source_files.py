# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of package sources: tried out as copies, then put in place. What is no UTF-8 in them comes back as it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._daemon_config import mask


def read(path: Path) -> str:
    """Raises OSError where the file cannot be read."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def copy(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def write(module: AnsibleModule, path: Path, text: str) -> None:
    """Put a text in the place of a file at once. One that is there keeps its mode and owner, and a link stays one."""
    place = Path(os.path.realpath(path))
    new = not place.exists()
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, candidate = tempfile.mkstemp(dir=module.tmpdir)
    os.close(handle)
    copy(Path(candidate), text)
    module.atomic_move(candidate, str(place))
    if new:
        module.set_mode_if_different(str(place), "0644", False)


def diff(before: Mapping[Path, str], after: Mapping[Path, str]) -> list[dict[str, Any]]:
    """For Ansible's diff mode, without passwords."""
    return [
        {
            "before_header": str(path),
            "after_header": str(path),
            "before": _shown(before.get(path, "")),
            "after": _shown(text),
        }
        for path, text in after.items()
    ]


def _shown(text: str) -> str:
    return mask(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
