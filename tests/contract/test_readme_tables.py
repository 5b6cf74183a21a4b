# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each role's README holds the table that tools/readme_tables.py makes of its argument_specs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tree
import yaml

SCRIPT = tree.ROOT / "tools" / "readme_tables.py"
_spec = importlib.util.spec_from_file_location("readme_tables", SCRIPT)
assert _spec and _spec.loader
readme_tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(readme_tables)


def test_no_table_is_out_of_date(capsys: pytest.CaptureFixture[str]) -> None:
    code = readme_tables.main(["--check"])
    assert code == 0, capsys.readouterr().err


def test_written_once_then_left_alone(broken: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    role = broken() / "roles" / "lamp"
    readme = role / "README.md"
    assert readme_tables.main(["--check", str(role)]) == 1
    assert "lamp_room" not in readme.read_text()
    assert readme_tables.main([str(role)]) == 0
    written = readme.read_text()
    assert "| `lamp_count` | int | `2` | How often. |\n" in written
    assert "| `lamp_owner` | str | *required* | Whose it is. |\n" in written
    assert written.startswith("# lamp\n\n<!-- variables: start -->\n\n| Variable |")
    capsys.readouterr()
    assert readme_tables.main(["--check", str(role)]) == 0
    assert readme_tables.main([str(role)]) == 0
    assert capsys.readouterr().out == ""
    assert readme.read_text() == written


@pytest.mark.parametrize("text", ["# lamp\n", "<!-- variables: end -->\n<!-- variables: start -->\n"])
def test_missing_marks_are_said(broken: Callable[..., Path], capsys: pytest.CaptureFixture[str], text: str) -> None:
    role = broken("roles/lamp/README.md", "", text) / "roles" / "lamp"
    assert readme_tables.main([str(role)]) == 1
    assert "<!-- variables: start -->" in capsys.readouterr().err
    assert (role / "README.md").read_text() == text


SPECS = r"""
argument_specs:
  stop:
    options: {}
  main:
    options:
      lamp_mode:
        type: str
        choices: [on|off, dim]
        default: on|off
        description:
          - Either V(on|off) or B(dim), see O(lamp_list).
          - More in L(the manual, https://example.org/lamp) and U(https://example.org).
      lamp_list:
        type: list
        elements: dict
        default: [{a: 1}]
        description: |
          Two
          lines.
        options:
          name: {type: str, required: true, description: A name.}
          flag: {type: bool, default: false, description: A flag.}
      lamp_map:
        type: dict
        default: {}
        description: A map.
        options:
          inner: {type: float, default: 0.5, description: A part.}
      lamp_text: {default: "", description: No type is str.}
      lamp_template: {type: path, default: "{{ lamp_mode }}/x", description: A template.}
      lamp_tick: {type: str, default: "a`b", description: A tick.}
"""
TABLE = r"""
### Entry point `main`

| Variable | Type | Default | Description |
| --- | --- | --- | --- |
| `lamp_mode` | str: `on\|off`, `dim` | `on\|off` | Either `on\|off` or **dim**, see `lamp_list`. More in [the manual](https://example.org/lamp) and <https://example.org>. |
| `lamp_list` | list of dict | `[{"a": 1}]` | Two lines. |
| `lamp_list[].name` | str | *required* | A name. |
| `lamp_list[].flag` | bool | `false` | A flag. |
| `lamp_map` | dict | `{}` | A map. |
| `lamp_map.inner` | float | `0.5` | A part. |
| `lamp_text` | str | `""` | No type is str. |
| `lamp_template` | path | `{{ lamp_mode }}/x` | A template. |
| `lamp_tick` | str | `` a`b `` | A tick. |

### Entry point `stop`

No variables.
"""  # noqa: E501  a table's row is one line


def test_every_kind_of_option_has_its_row() -> None:
    assert "\n" + readme_tables.render(yaml.safe_load(SPECS)) == TABLE


def test_the_command_checks() -> None:
    assert SCRIPT.stat().st_mode & 0o111, f"{SCRIPT} is not executable"
    assert sys.version_info >= (3, 9)
