# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of the control node that Ansible Vault may have encrypted. Private to the collection."""

from __future__ import annotations

from pathlib import Path

from ansible.parsing.dataloader import DataLoader

HEAD = b"$ANSIBLE_VAULT;"


def plain(loader: DataLoader, path: str) -> str:
    """Where the content is: the file itself, or a decrypted copy, which the loader removes at the end.

    What cannot be read is left to the reader. Raises AnsibleError where no secret decrypts it.
    """
    try:
        with Path(path).open("rb") as file:
            encrypted = file.read(len(HEAD)) == HEAD
    except OSError:
        return path
    return str(loader.get_real_file(str(Path(path).absolute()))) if encrypted else path
