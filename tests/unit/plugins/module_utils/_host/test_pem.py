# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import ssl
from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._host.pem import Block, blocks, name

FIXTURES = Path(__file__).parents[2] / "fixtures" / "certificates"
FIRST = (FIXTURES / "first.pem").read_text(encoding="utf-8")
SECOND = (FIXTURES / "second.pem").read_text(encoding="utf-8")
DER, OTHER = ssl.PEM_cert_to_DER_cert(FIRST), ssl.PEM_cert_to_DER_cert(SECOND)
BODY = "".join(FIRST.splitlines()[1:-1])
BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
KEY = (
    "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n"
    "-----END EC PRIVATE KEY-----\n"
)


@pytest.mark.parametrize(
    ("data", "lines", "plain"),
    [
        (FIRST, [1], True),
        (FIRST.rstrip(), [1], True),
        (FIRST.replace("\n", "\r\n"), [1], True),
        (FIRST.replace("\n", "  \n"), [1], True),
        ("Certificate:\n    Data:\n--- BEGIN NOTES ---\n" + FIRST, [4], True),
        (f"{BEGIN}\n{BODY}\n{END}\n", [1], True),
        (FIRST.replace("CERTIFICATE", "X509 CERTIFICATE"), [1], True),
        (FIRST.replace("\n", "\r"), [1], False),
        ("\ufeff" + FIRST, [1], False),
        (FIRST.encode("utf-16"), [1], False),
        (FIRST.replace("\n", "\n\n"), [1], False),
        (FIRST.replace("\n", "\n  "), [1], False),
        ("  " + FIRST, [1], False),
        (BEGIN + BODY + END, [1], False),
        (BEGIN + BODY + END + FIRST, [1, 1], False),
        (FIRST.rstrip() + FIRST, [1, FIRST.count("\n")], False),
        (b"\xe9\xff latin\n" + FIRST.encode(), [2], True),
    ],
)
def test_certificates_as_people_write_them(data: bytes | str, lines: list[int], plain: bool) -> None:
    found = blocks(data)
    assert [(block.label, block.line, block.der, block.error) for block in found] == [
        ("CERTIFICATE", line, DER, "") for line in lines
    ]
    assert all(block.plain for block in found) == plain
    assert all(block.pem == FIRST for block in found)


def test_plain_is_what_openssl_reads(tmp_path: Path) -> None:
    """By its own word."""
    for text in (
        FIRST,
        FIRST.rstrip(),
        FIRST.replace("\n", "\r\n"),
        FIRST.replace("\n", "  \n"),
        f"{BEGIN}\n{BODY}\n{END}\n",
    ):
        (tmp_path / "ca.pem").write_bytes(text.encode())
        ssl.create_default_context().load_verify_locations(tmp_path / "ca.pem")
        assert blocks(text)[0].plain
    for text in (
        FIRST.replace("\n", "\n\n"),
        "  " + FIRST,
        BEGIN + BODY + END,
        FIRST.rstrip() + FIRST,
        FIRST.replace("\n", "\r"),
    ):
        (tmp_path / "ca.pem").write_bytes(text.encode())
        with pytest.raises(ssl.SSLError):
            ssl.create_default_context().load_verify_locations(tmp_path / "ca.pem")
        assert not all(block.plain for block in blocks(text))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (FIRST.replace(END, ""), "line 1: its BEGIN has no END after it"),
        (FIRST.replace(BEGIN, ""), f"line {FIRST.count(chr(10))}: its END has no BEGIN before it"),
        (FIRST.replace(END, "") + SECOND, "line 1: its BEGIN has no END after it"),
        (FIRST.replace(END, "-----END PRIVATE KEY-----"), f"line {FIRST.count(chr(10))}: it ends as PRIVATE KEY"),
        (FIRST.replace("-----", "----"), "line 1: '----BEGIN CERTIFICATE----' has not five hyphens on either side"),
        (
            FIRST.replace("-----B", "\u2014B"),
            "line 1: '\u2014BEGIN CERTIFICATE-----' has not five hyphens on either side",
        ),
        (FIRST.replace("MIIB", "MII!"), "line 2: '!' is no base64"),
        (FIRST.replace("\n", r"\n"), r"line 1: the two characters \n where a line ends"),
        (f"{BEGIN}\nAAAAA\n{END}\n", "line 1: the base64 after it is not whole"),
        (f"{BEGIN}\n{END}\n", "line 1: nothing between its BEGIN and its END"),
    ],
)
def test_damaged(text: str, error: str) -> None:
    block = blocks(text)[0]
    assert (block.error[: len(error)], block.der, block.plain) == (error, b"", False)


def test_what_follows_a_damaged_block_is_read() -> None:
    assert [bool(block.error) for block in blocks(FIRST.replace(END, "") + SECOND)] == [True, False]
    assert blocks(FIRST.replace("MIIB", "MII!") + SECOND)[1].der == OTHER


def test_keys() -> None:
    locked, plain = blocks(KEY + "\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----")
    assert (locked.key, locked.encrypted, locked.plain, locked.pem) == (True, True, True, KEY)
    assert (plain.key, plain.encrypted, plain.line) == (True, False, 8)
    assert Block("ENCRYPTED PRIVATE KEY", 1).encrypted


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \n", "empty"),
        (DER, "binary (DER or PKCS #12)"),
        (b"\xfe\xed\xfe\xed\0\0", "a Java key store"),
        (base64.b64encode(DER), "base64 without its BEGIN and END lines"),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@here", "an OpenSSH public key"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"/etc/ssl/company.pem\n", "the path of a file"),
        (b"PK\x03\x04\0", "binary"),
        (b"hello", "text without a PEM block"),
    ],
)
def test_name(data: bytes, what: str) -> None:
    assert (blocks(data), name(data)) == ([], what)
