# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""dnf's repositories, read as dnf reads them and changed without touching what is beside them: no input, no output.

The format is that of dnf.conf(5): sections whose values may go on over indented lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

BOM = "\ufeff"
_URLS = ("baseurl", "mirrorlist", "metalink")
# libdnf, OptionBool.cpp
_OFF = ("0", "no", "false", "off")
_SECTION = re.compile(r"\[(?P<name>[^\]]+)\]\s*(?:[#;].*)?")


@dataclass
class Repository:
    """A section of a .repo file; header, end: the numbers of its first line and of the one after its last, from 0."""

    path: str
    name: str
    header: int
    end: int = 0
    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        """Where it leads to, with dnf's variables as they are written."""
        return [url for key in _URLS for url in re.split(r"[\s,]+", self.values.get(key, "")) if url]

    @property
    def enabled(self) -> bool:
        return self.values.get("enabled", "1").strip().lower() not in _OFF


def parse(path: str, text: str) -> list[Repository]:
    """The repositories in a file, also those that are switched off."""
    return list(_sections(path, text))


def switch_off(text: str, unwanted: Callable[[Repository], bool]) -> str:
    """The text with every repository for which `unwanted` holds switched off, and nothing else changed."""
    lines = _lines(text)
    for repository in parse("", text):
        if not repository.enabled or not unwanted(repository):
            continue
        end = "\r\n" if lines[repository.header].endswith("\r\n") else "\n"
        for number in repository.lines.get("enabled", []):
            lines[number] = ""
        lines[repository.header] = f"{lines[repository.header].lstrip(BOM)}enabled=0{end}"
    return "".join(lines)


def put(text: str, name: str, values: Mapping[str, str | bool]) -> str:
    """The text with a repository as it is wanted, in the place of one of its name or at the end.

    It is written as M(ansible.builtin.yum_repository) does.
    """
    options = {key: str(int(value)) if isinstance(value, bool) else value for key, value in values.items()}
    wanted = f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(options.items()))
    if options == next((each.values for each in parse("", text) if each.name == name), None):
        return text
    lines = _lines(text)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    there = [each for each in parse("", "".join(lines)) if each.name == name]
    for repository in there:
        lines[repository.header : repository.end] = [""] * (repository.end - repository.header)
    lines.insert(there[0].header if there else len(lines), f"{wanted}\n")
    return "".join(lines)


def drop(text: str, name: str) -> str:
    """The text with the repository of a name as comments: of two of one name dnf takes the one that it reads first."""
    lines = _lines(text)
    for repository in parse("", text):
        if repository.name == name:
            for number in range(repository.header, repository.end):
                lines[number] = f"# {lines[number]}" if lines[number].strip() else lines[number]
    return "".join(lines)


def failure(rc: int, said: str) -> str:
    """Why `dnf makecache` did not do: dnf's own words, or none."""
    if rc == 0:
        return ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(?i)error|failed|curl error|gpg", line)]
    return " ".join(errors or lines[-1:] or [f"rc {rc}"])


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _sections(path: str, text: str) -> Iterator[Repository]:
    current: Repository | None = None
    key = ""
    number = -1
    for number, line in enumerate(_lines(text)):
        bare = line.lstrip(BOM).rstrip()
        section = _SECTION.fullmatch(bare)
        if section is not None:
            if current is not None:
                current.end = number
                yield current
            current, key = Repository(path, section["name"], number), ""
        elif current is None or not bare or bare.startswith(("#", ";")):
            continue
        elif bare[0].isspace():
            if key:
                current.values[key] += f"\n{bare.strip()}"
                current.lines[key].append(number)
        else:
            key, _equals, value = (part.strip() for part in bare.partition("="))
            current.values[key] = value
            current.lines.setdefault(key, []).append(number)
    if current is not None:
        current.end = number + 1
        yield current
