# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's apt: where its sources are, what it knows of them, and whether it takes them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._host import apt_sources, source_files

# Seconds between two looks at whether another process still fetches lists.
PAUSE = 5


class Apt:
    """apt as it is configured on the host; a configuration in APT_CONFIG counts."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._config = module.get_bin_path("apt-config", required=True)
        self._get = module.get_bin_path("apt-get", required=True)
        names = {"LIST": "Dir::Etc::sourcelist/f", "PARTS": "Dir::Etc::sourceparts/d", "ARCH": "APT::Architecture"}
        arguments = [word for pair in names.items() for word in pair]
        _rc, out, _err = module.run_command([self._config, "shell", *arguments], check_rc=True)
        values = dict(word.partition("=")[::2] for word in shlex.split(out))
        self.list = Path(values["LIST"])
        self.parts = Path(values["PARTS"])
        self.architecture = values["ARCH"]

    def files(self) -> list[Path]:
        """The files of sources that apt reads, in its order."""
        parts = sorted(self.parts.iterdir()) if self.parts.is_dir() else []
        return [
            path for path in [self.list, *(path for path in parts if apt_sources.is_read(path.name))] if path.is_file()
        ]

    def targets(self) -> list[apt_sources.Target]:
        """The repositories whose lists have been fetched."""
        command = [self._get, "indextargets", "--format", apt_sources.TARGET_FORMAT, "Created-By: Packages"]
        _rc, out, _err = self._module.run_command(command, check_rc=True)
        return apt_sources.parse_targets(out)

    def update(self, texts: Mapping[Path, str], folder: Path, lock_timeout: int) -> tuple[int, str]:
        """Fetch the lists of sources as they would be: the exit status, and all that apt said.

        texts: what the files of sources would hold. folder: where they are copied to; in what apt says, the copies are
        named as the files. lock_timeout: seconds to wait for another process that fetches lists.
        """
        copies = {self.list: folder / self.list.name, self.parts: folder / self.parts.name}
        copies[self.parts].mkdir()
        for path, text in texts.items():
            source_files.copy(copies.get(path, copies[self.parts] / path.name), text)
        command = [
            *(self._get, "-q", "update"),
            f"--option=Dir::Etc::sourcelist={copies[self.list]}",
            f"--option=Dir::Etc::sourceparts={copies[self.parts]}",
        ]
        deadline = time.monotonic() + lock_timeout
        while True:
            rc, out, err = self._module.run_command(command, environ_update={"LC_ALL": "C"})
            if rc == 0 or "Could not get lock" not in err or time.monotonic() >= deadline:
                said = out + err
                for path, place in copies.items():
                    said = said.replace(str(place), str(path))
                return rc, said
            time.sleep(PAUSE)
