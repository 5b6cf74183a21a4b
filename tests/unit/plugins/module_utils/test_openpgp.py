# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._openpgp import (
    KeyFormatError,
    dearmour,
    fingerprints,
    normalise,
)

# Made with gpg 2.2.40, which also told the fingerprints. ed25519.asc has a subkey.
KEYS = Path(__file__).parents[1] / "fixtures" / "openpgp"
ED25519 = (KEYS / "ed25519.asc").read_bytes()
RSA2048 = (KEYS / "rsa2048.asc").read_bytes()
ED25519_FINGERPRINT = "A7C82E453EBD85809AA04B6A870E6192BFEFFB6A"
RSA2048_FINGERPRINT = "19B4FBA197F80FD6FFFCB1839B3A82B250D1E8DB"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(ED25519, [ED25519_FINGERPRINT], id="armoured, the subkey does not count"),
        pytest.param(RSA2048, [RSA2048_FINGERPRINT], id="a packet of two length bytes"),
        pytest.param(dearmour(RSA2048), [RSA2048_FINGERPRINT], id="binary"),
        pytest.param(ED25519.replace(b"\n", b"\r\n"), [ED25519_FINGERPRINT], id="line ends of Windows"),
        pytest.param(
            ED25519.replace(b"BLOCK-----\n", b"BLOCK-----\nComment: hello\nVersion: 1\n", 1),
            [ED25519_FINGERPRINT],
            id="armour headers",
        ),
        pytest.param(ED25519 + b"\n" + RSA2048, [ED25519_FINGERPRINT, RSA2048_FINGERPRINT], id="two armoured blocks"),
        pytest.param(
            dearmour(ED25519) + dearmour(RSA2048), [ED25519_FINGERPRINT, RSA2048_FINGERPRINT], id="a keyring of two"
        ),
    ],
)
def test_fingerprints(data: bytes, expected: list[str]) -> None:
    assert fingerprints(data) == expected


def test_version_6_uses_sha256() -> None:
    body = b"\x06" + b"\x00" * 40
    packet = bytes([0xC0 | 6, len(body)]) + body
    expected = hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
    assert fingerprints(packet) == [expected]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "no public key", id="empty"),
        pytest.param(b"<!DOCTYPE html><html></html>", "not an OpenPGP packet", id="a login page"),
        pytest.param(dearmour(RSA2048)[:100], "cut off", id="cut off"),
        pytest.param(ED25519[:-60], "broken armour", id="armour without an end"),
        pytest.param(ED25519.replace(b"mDMEawKw", b"mDME!wKw"), "broken armour", id="armour with a wrong letter"),
        pytest.param(bytes([0xC0 | 5, 1, 4]), "secret key", id="a secret key"),
        pytest.param(ED25519.replace(b"PUBLIC KEY", b"PRIVATE KEY"), "private key block", id="an armoured secret key"),
        pytest.param(bytes([0xC0 | 6, 1, 3]), "version 3", id="an old version"),
        pytest.param(base64.b64encode(dearmour(ED25519)), "not an OpenPGP packet", id="base64 without armour"),
    ],
)
def test_not_a_key(data: bytes, message: str) -> None:
    with pytest.raises(KeyFormatError, match=message):
        fingerprints(data)


@pytest.mark.parametrize(
    "text",
    [
        ED25519_FINGERPRINT.lower(),
        "A7C8 2E45 3EBD 8580 9AA0  4B6A 870E 6192 BFEF FB6A",
        "0x" + ED25519_FINGERPRINT,
        "A7:C8:2E:45:3E:BD:85:80:9A:A0:4B:6A:87:0E:61:92:BF:EF:FB:6A",
    ],
)
def test_normalise(text: str) -> None:
    assert normalise(text) == ED25519_FINGERPRINT
