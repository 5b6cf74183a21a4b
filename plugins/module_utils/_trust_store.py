# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CA certificates as files of a system's trust store: no input, no output."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.vicuna.fleet.plugins.module_utils._host import pem
from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import AuthorityError, authorities, bundle

PREFIX = "vicuna-"


@dataclass(frozen=True)
class Store:
    """Where a system keeps additional CA certificates, what takes them over, and the bundle that comes of it."""

    tool: str
    anchors: str
    bundle: str


# Debian and Ubuntu: update-ca-certificates(8), which reads *.crt only. Red Hat's family: update-ca-trust(8).
STORES = (
    Store("update-ca-certificates", "/usr/local/share/ca-certificates", "/etc/ssl/certs/ca-certificates.crt"),
    Store("update-ca-trust", "/etc/pki/ca-trust/source/anchors", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
)


def bundled(text: str) -> set[str]:
    """Digests of the certificates in a bundle; what cannot be read in it is passed over."""
    return {digest(block.der) for block in pem.blocks(text) if block.label == "CERTIFICATE" and not block.error}


def named(origins: Mapping[str, bytes | str]) -> dict[str, dict[str, str]]:
    """For each origin, given as path to PEM content, the files that a trust store takes: name to PEM text.

    One certificate for each file, as update-ca-certificates wants it. The name comes from the origin's name, so that a
    renewed certificate takes the place of the old one; two origins of one name are told apart by a digest. What two
    origins have is in the first alone. Raises AuthorityError, with the origin's path, where one cannot be used.
    """
    stems: dict[str, set[str]] = {}
    for origin in origins:
        stems.setdefault(stem(origin), set()).add(origin)
    seen: set[bytes] = set()
    found: dict[str, dict[str, str]] = {}
    for origin, content in origins.items():
        name = stem(origin)
        if len(stems[name]) > 1:
            name = f"{name}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
        found[origin] = {}
        try:
            ders = authorities(content)
        except AuthorityError as error:
            error.path = origin
            raise
        for number, der in enumerate(ders, start=1):
            if der not in seen:
                found[origin][f"{PREFIX}{name}{f'-{number}' if number > 1 else ''}.crt"] = bundle([der])
                seen.add(der)
    return found


def stem(origin: str) -> str:
    """A file name's part without directory and ending, of letters that any trust store takes."""
    name = re.sub(r"\.(crt|cer|pem)$", "", origin.rsplit("/", 1)[-1], flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "ca"


def digest(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()
