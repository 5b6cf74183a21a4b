# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which repository the URL of a package source leads to: no input, no output."""

from __future__ import annotations

import re
from collections.abc import Iterable


def address(url: str) -> str:
    """Host and path of a URL, by which repositories are told apart.

    As apt does when it names its lists: without the way to it (`http:`, `https:`, `mirror+file:`), without user and
    password, and without a slash at the end. apt lets two sources of one address have one key only.
    """
    rest = re.sub(r"^[A-Za-z0-9+.-]+:", "", url, count=1)
    host, slash, path = (rest[2:] if rest.startswith("//") else rest).partition("/")
    return (host.rpartition("@")[2].lower() + slash + path).rstrip("/")


def leads_to(url: str, repositories: Iterable[str]) -> bool:
    """Whether a URL is one of the repositories, or beneath one. A `*` stands for any part of one folder's name."""
    place = _plain(url)
    return any(
        re.match(re.escape(_plain(repository)).replace(r"\*", "[^/]*") + "(?:/|$)", place)
        for repository in repositories
    )


def _plain(url: str) -> str:
    """The address without what servers do not tell apart: the port that the scheme has anyway, and doubled slashes."""
    host, slash, path = address(url).partition("/")
    port = {"http": ":80", "https": ":443"}.get(re.split(r"[:+]", url.lower().partition("://")[0])[-1], ":")
    return host.removesuffix(port) + re.sub("/+", "/", slash + path)
