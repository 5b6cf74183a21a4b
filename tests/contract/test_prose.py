# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing of the machine that a file was written on stands in it: no home directory, no private mirror."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tree

# A developer's directories; built from parts, so that this file does not hold them itself.
PLACES = re.compile(r"(?<![\w.$}~-])/(?:work|root/\.(?:pyenv|cache|local)|home/[a-z][\w-]*|Users/\w+)/(?=\w)")
# Homes inside the containers and virtual machines that the collection makes or speaks of.
KNOWN_HOMES = re.compile(r"/home/(?:app|fastchat|vicuna|runner|ansible|ubuntu|debian)/")
PUBLIC = ("pypi.org", "pythonhosted.org", "localhost")
PIP_FILES = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")


def private_hosts() -> set[str]:
    """The mirrors and proxies that this machine is set to, by environment or by pip's files."""
    urls = [value for name, value in os.environ.items() if re.search(r"(?:INDEX_URL|_proxy|_PROXY|GOPROXY)$", name)]
    for name in PIP_FILES:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(Path(name).expanduser())
        except (configparser.Error, OSError):
            continue
        urls += [value for section in parser.values() for key, value in section.items() if "index" in key]
    hosts = {urlsplit(url).hostname or "" for value in urls for url in re.split(r"[,\s]+", value)}
    return {host for host in hosts if "." in host and not host.endswith(PUBLIC) and not host.startswith("127.")}


def prose_problems(root: Path, paths: list[Path], hosts: set[str]) -> Iterator[str]:
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            where = f"{tree.short(root, path)}:{number}"
            if PLACES.search(KNOWN_HOMES.sub("", line)):
                yield f"{where}: a path of one machine: {line.strip()[:100]}"
            for host in hosts:
                if host in line:
                    yield f"{where}: a host that only this machine is set to use"


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    tree.check(prose_problems(tree.ROOT, tree.own_files(tree.ROOT), private_hosts()))


LINES = [
    ("curl http://mirror.corp.example/simple", "a host that only"),
    ("cd " + "/work" + "/main", "a path of one machine"),
    ("see " + "/home" + "/alice/src", "a path of one machine"),
    ("python=" + "/root" + "/.pyenv/shims/python", "a path of one machine"),
    ("cd /home/fastchat/model", None),
    ("cd ~/work/main and ./work/x, https://example.org/work/x", None),
    ("WORKDIR /work", None),
]


@pytest.mark.parametrize(("line", "found"), LINES)
def test_a_machines_own_names_are_found(tmp_path: Path, line: str, found: str | None) -> None:
    path = tmp_path / "a.md"
    path.write_text(f"first\n{line}\n")
    problems = list(prose_problems(tmp_path, [path], {"mirror.corp.example"}))
    assert len(problems) == (found is not None)
    assert found is None or found in problems[0]


def test_the_machines_mirrors_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@mirror.corp.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://pypi.org/simple")
    assert "mirror.corp.example" in private_hosts()
    assert "pypi.org" not in private_hosts()
