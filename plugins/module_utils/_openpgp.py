# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fingerprints of OpenPGP public keys (RFC 4880, RFC 9580) with the standard library alone: a host may lack gpg."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from ansible_collections.vicuna.fleet.plugins.module_utils._host import pem

PUBLIC_KEY = 6
SECRET_KEYS = (5, 7)


class KeyFormatError(ValueError):
    """Not a file of OpenPGP public keys."""


def dearmour(data: bytes) -> bytes:
    """The binary packets of an armoured or a binary key file."""
    blocks = pem.blocks(data)
    for block in blocks:
        if block.label != "PGP PUBLIC KEY BLOCK":
            raise KeyFormatError(f"a {block.label.lower()} where a PGP public key block was expected")
        if block.error:
            raise KeyFormatError(f"broken armour: {block.error}")
    return b"".join(block.der for block in blocks) if blocks else data


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet."""
    at = 0
    while at < len(data):
        header = data[at]
        if not header & 0x80:
            raise KeyFormatError("not an OpenPGP packet")
        try:
            if header & 0x40:
                tag, (length, at) = header & 0x3F, _new_length(data, at + 1)
            else:
                size = (1, 2, 4, 0)[header & 0x03]
                tag = (header >> 2) & 0x0F
                length = int.from_bytes(data[at + 1 : at + 1 + size], "big") if size else len(data) - at - 1
                at += 1 + size
        except IndexError as error:
            raise KeyFormatError("the last packet is cut off") from error
        if at + length > len(data):
            raise KeyFormatError("the last packet is cut off")
        yield tag, data[at : at + length]
        at += length


def fingerprints(data: bytes) -> list[str]:
    """Fingerprints of all primary keys in a key file, in upper-case hexadecimal."""
    found = []
    for tag, body in packets(dearmour(data)):
        if tag in SECRET_KEYS:
            raise KeyFormatError("it holds a secret key")
        if tag == PUBLIC_KEY:
            found.append(_fingerprint(body))
    if not found:
        raise KeyFormatError("no public key in it")
    return found


def normalise(fingerprint: str) -> str:
    """A fingerprint as people write it, without blanks, colons and 0x, in upper case."""
    return re.sub(r"[\s:]", "", fingerprint).upper().removeprefix("0X")


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 192:
        return first, at + 1
    if first < 224:
        return ((first - 192) << 8) + data[at + 1] + 192, at + 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise KeyFormatError("a packet of partial lengths, which keys do not have")


def _fingerprint(body: bytes) -> str:
    version = body[0] if body else 0
    if version == 4:
        material = b"\x99" + len(body).to_bytes(2, "big") + body
        # SHA-1 is what the format defines a version 4 fingerprint to be.
        return hashlib.sha1(material, usedforsecurity=False).hexdigest().upper()
    if version == 6:
        return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
    raise KeyFormatError(f"a key of version {version}; versions 4 and 6 are known")
