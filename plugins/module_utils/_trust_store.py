# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CA certificates as files of a system's trust store: no input, no output."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import ssl
from dataclasses import dataclass

PREFIX = "vicuna-"

_BLOCK = re.compile(r"-----BEGIN (?P<kind>[A-Z0-9 ]+)-----(?P<body>.*?)-----END (?P=kind)-----", re.DOTALL)


class PemError(ValueError):
    """Not a file of PEM certificates."""


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


def certificates(text: str) -> list[bytes]:
    """The certificates in a PEM text, as DER, without repeating.

    Raises PemError where there is none, where one is broken, or where the file holds anything else: a private key would
    otherwise be copied into a directory that everyone may read.
    """
    found: list[bytes] = []
    for match in _BLOCK.finditer(text):
        if match["kind"] != "CERTIFICATE":
            raise PemError(f"it holds a {match['kind'].lower()}")
        try:
            der = base64.b64decode("".join(match["body"].split()), validate=True)
        except binascii.Error as error:
            raise PemError(f"certificate {len(found) + 1} is broken: {error}") from error
        if der_length(der) != len(der):
            raise PemError(f"certificate {len(found) + 1} is broken: not one whole ASN.1 sequence")
        if der not in found:
            found.append(der)
    if not found:
        raise PemError("no PEM certificate in it")
    return found


def bundled(text: str) -> set[str]:
    """Digests of the certificates in a bundle; what cannot be read in it is passed over."""
    digests = set()
    for match in _BLOCK.finditer(text):
        if match["kind"] != "CERTIFICATE":
            continue
        try:
            digests.add(digest(base64.b64decode("".join(match["body"].split()))))
        except binascii.Error:
            continue
    return digests


def files(origins: dict[str, str]) -> dict[str, bytes]:
    """File name to certificate, for origins given as path to PEM text.

    One certificate for each file, as update-ca-certificates wants it. The name comes from the origin's name, so that a
    renewed certificate takes the place of the old one; two origins of one name are told apart by a digest.
    """
    stems: dict[str, set[str]] = {}
    for origin in origins:
        stems.setdefault(stem(origin), set()).add(origin)
    wanted: dict[str, bytes] = {}
    for origin, text in origins.items():
        try:
            ders = certificates(text)
        except PemError as error:
            raise PemError(f"{origin}: {error}") from error
        name = stem(origin)
        if len(stems[name]) > 1:
            name = f"{name}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
        for number, der in enumerate(ders, start=1):
            if der not in wanted.values():
                wanted[f"{PREFIX}{name}{f'-{number}' if number > 1 else ''}.crt"] = der
    return wanted


def stem(origin: str) -> str:
    """A file name's part without directory and ending, of letters that any trust store takes."""
    name = re.sub(r"\.(crt|cer|pem)$", "", origin.rsplit("/", 1)[-1], flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "ca"


def digest(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def pem(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der)


def der_length(der: bytes) -> int:
    """How long the ASN.1 sequence that starts here says it is, its header included; 0 where it is none."""
    if len(der) < 2 or der[0] != 0x30:
        return 0
    if der[1] < 0x80:
        return 2 + der[1]
    size = der[1] & 0x7F
    return 2 + size + int.from_bytes(der[2 : 2 + size], "big")
