# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import html.parser
import re
from datetime import datetime, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vicuna.fleet.plugins.module_utils import _fleet_status as fleet
from ansible_collections.vicuna.fleet.plugins.module_utils._fleet_page import page, text

NOW = datetime(2026, 11, 22, 20, 0, 0, tzinfo=timezone.utc)
VOID = {"meta"}


class Reader(html.parser.HTMLParser):
    """Reads a page as a browser does: tags, attributes, and the text beside the style."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def report(value: str = "gpu-1") -> dict[str, Any]:
    """A report in which everything that another one wrote is this text."""
    release = {"id": value, "commit": value, "failed": {"id": value, "reason": value, "settled": False}}
    serving = {
        "release": release,
        "drift": {"files": [value]},
        "unwell": [value],
        "gpu": {"driver_version": value, "trouble": value},
        "containers": [{"service": "model-worker", "image_id": value}],
        "problems": [{"about": value, "message": value}],
    }
    probe = {"running": True, "servers": [{"name": value, "state": value}]}
    looks = {value: {"serving": serving}, "lost": {"unreachable": True, "msg": value}}
    found = fleet.report(looks, {}, {value: probe}, {}, NOW)
    return {**found, "changes": [{"host": value, "what": "release", "from": value, "to": value}]}


PLAIN = [tag for tag, _attributes in Reader(page(report("x"))).tags]


@given(
    st.one_of(
        st.text(min_size=1, max_size=20), st.sampled_from(["</style><script>", '" onclick="x', "<!--", "&lt;", "']"])
    )
)
def test_nothing_that_others_wrote_is_markup(value: str) -> None:
    document = page(report(value))
    reader = Reader(document)
    assert reader.open == []
    assert [tag for tag, _attributes in reader.tags] == PLAIN
    assert {name for _tag, attributes in reader.tags for name in attributes} <= {
        "lang", "charset", "name", "content", "http-equiv", "class", "scope", "data-name", "datetime",
    }  # fmt: skip
    assert "\x00" not in document
    assert "\x1b" not in document


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30))
def test_text_is_shown_as_it_is(value: str) -> None:
    assert "".join(Reader(f"<p>{text(value)}</p>").words) == value
    attributes = Reader(f'<p class="{text(value)}"></p>').tags[0][1]
    assert attributes["class"] == value


def test_the_page_needs_nothing_else() -> None:
    document = page(report())
    assert not re.search(r"(?i)<(?:script|link|img|iframe)|url\(|@import|https?:", document)
    assert "default-src 'none'" in document
    assert "prefers-color-scheme: dark" in document
    assert 'name="viewport"' in document


def test_what_it_tells() -> None:
    words = "".join(Reader(page(report())).words)
    for expected in ("down", "2026-11-22 20:00:00 UTC", "0 of 2 hosts serving", "gpu-1: drift: gpu-1", "GATEWAY",
                     "lost: unreachable: gpu-1", "gpu-1: release gpu-1 -> gpu-1"):  # fmt: skip
        assert expected in words


def test_a_fleet_without_gateways_and_without_trouble() -> None:
    serving = {"drift": {"files": []}, "unwell": [], "problems": []}
    document = page(fleet.report({"a": {"serving": serving}}, {}, {}, {}, NOW))
    words = "".join(Reader(document).words)
    assert "healthy" in words
    for absent in ("Gateways", "What is amiss", "Notes", "Since the last report"):
        assert absent not in words


def test_no_host() -> None:
    assert "No host was looked at." in page(fleet.report({}, {}, {}, {}, NOW))
