#!/usr/bin/env python3
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the table of variables of each role's README from its meta/argument_specs.yml."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

START = "<!-- variables: start -->"
END = "<!-- variables: end -->"
HEADER = "| Variable | Type | Default | Description |\n| --- | --- | --- | --- |\n"


def cell(text: str) -> str:
    """Text that stays inside one cell of a Markdown table; a pipe needs its backslash inside of code, too."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def code(text: str) -> str:
    """A Markdown code span; text with backticks takes a longer fence."""
    fence = "`"
    while fence in text:
        fence += "`"
    padding = " " if "`" in text else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def prose(description: str | list[str]) -> str:
    """A description in Markdown: Ansible's markup such as V(true) and O(name) becomes code, L(text, url) a link."""
    text = " ".join([description] if isinstance(description, str) else description)
    text = re.sub(r"\b(?:C|V|O|E|RV|M)\(((?:[^()\\]|\\.)*)\)", lambda found: code(found[1]), text)
    text = re.sub(r"\bB\(([^()]*)\)", r"**\1**", text)
    text = re.sub(r"\bI\(([^()]*)\)", r"*\1*", text)
    text = re.sub(r"\bL\(([^(),]*),\s*([^()\s]*)\)", r"[\1](\2)", text)
    return re.sub(r"\bU\(([^()\s]*)\)", r"<\1>", text)


def type_of(option: dict[str, Any]) -> str:
    name = str(option.get("type", "str"))
    if "elements" in option:
        name += f" of {option['elements']}"
    if "choices" in option:
        name += ": " + ", ".join(code(literal(choice, bare=True)) for choice in option["choices"])
    return name


def literal(value: Any, bare: bool = False) -> str:
    """A value as YAML would take it; a plain word needs no quotes where it stands alone."""
    if isinstance(value, str) and (bare or re.fullmatch(r"[A-Za-z0-9_/.{][^\"\\\n]*", value)):
        return value
    return json.dumps(value, ensure_ascii=False)


def default_of(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "*required*"
    return code(literal(option["default"])) if "default" in option else ""


def rows(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, option in options.items():
        columns = [
            code(prefix + name),
            type_of(option),
            default_of(option),
            prose(option.get("description", "")),
        ]
        yield "| " + " | ".join(cell(column) for column in columns) + " |\n"
        if option.get("options"):
            inner = "[]." if option.get("type") == "list" else "."
            yield from rows(option["options"], prefix + name + inner)


def render(specs: dict[str, Any]) -> str:
    """The Markdown of every entry point, main first; a heading names each where there are several."""
    points = specs["argument_specs"]
    parts = []
    for point in sorted(points, key=lambda name: (name != "main", name)):
        options = points[point].get("options") or {}
        table = HEADER + "".join(rows(options)) if options else "No variables.\n"
        heading = f"### Entry point `{point}`\n\n" if len(points) > 1 else ""
        parts.append(heading + table)
    return "\n".join(parts)


def updated(readme: str, table: str) -> str:
    """The README with the table between its two marks. Raises ValueError where they are not there once each."""
    if readme.count(START) != 1 or readme.count(END) != 1 or readme.index(START) > readme.index(END):
        raise ValueError(f"needs the lines {START} and {END}, once each and in this order")
    before, rest = readme.split(START)
    return f"{before}{START}\n\n{table}\n{END}{rest.split(END)[1]}"


def outdated(role: Path) -> tuple[Path, str] | None:
    """The role's README and what it should hold, or nothing where it holds that."""
    readme = role / "README.md"
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    text = readme.read_text(encoding="utf-8")
    wanted = updated(text, render(specs))
    return None if wanted == text else (readme, wanted)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a README is out of date")
    parser.add_argument("roles", nargs="*", type=Path, help="role directories (default: all of this repository)")
    options = parser.parse_args(arguments)
    roles = options.roles or sorted((Path(__file__).resolve().parent.parent / "roles").iterdir())
    failed = False
    for role in roles:
        try:
            found = outdated(role)
        except (OSError, ValueError, KeyError, yaml.YAMLError) as problem:
            print(f"{role}: {problem}", file=sys.stderr)
            failed = True
            continue
        if found and options.check:
            print(f"{found[0]} is out of date: run tools/readme_tables.py", file=sys.stderr)
            failed = True
        elif found:
            found[0].write_text(found[1], encoding="utf-8")
            print(f"wrote {found[0]}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
