# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: tar_archive
author: The vicuna.fleet authors
version_added: 0.1.0
short_description: Pack files of the control node for one task that unpacks them
description:
  - Makes a compressed tar archive of files that lie in different places of the control node, under the names that are
    asked for. One task that unpacks it takes the place of a copy for each file, which costs a second or more.
  - The archive depends on names and contents alone. Files belong to root, with mode V(0644).
options:
  _terms:
    description: Dictionaries of the path in the archive and the file on the control node.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Copy what an image is built from
  ansible.builtin.shell:
    cmd: base64 --decode | tar --extract --gzip --no-same-owner --directory /opt/example/context
    stdin: "{{ lookup('vicuna.fleet.tar_archive', {'Dockerfile': 'files/Dockerfile', 'main.py': 'files/main.py'}) }}"
"""

RETURN = r"""
_list:
  description: The archive of each dictionary, compressed by gzip, in base64.
  type: list
  elements: str
"""

import base64
import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

MODE = 0o644


def pack(files: Mapping[str, str]) -> bytes:
    """The compressed archive; raises OSError where a file cannot be read."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, source in sorted(files.items()):
            content = Path(source).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uname, entry.gname = len(content), MODE, "root", "root"
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **_kwargs: Any) -> list[str]:
        for term in terms:
            if not isinstance(term, Mapping):
                raise AnsibleLookupError(f"tar_archive: found {type(term).__name__}, expected a dictionary of files")
        try:
            return [base64.b64encode(pack(term)).decode() for term in terms]
        except OSError as error:
            raise AnsibleLookupError(
                f"tar_archive: found no readable {error.filename} ({error.strerror}), expected a file"
            ) from error
