# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._trust_store import (
    PemError,
    bundled,
    certificates,
    der_length,
    digest,
    files,
    pem,
    stem,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "certificates"
FIRST = (FIXTURES / "first.pem").read_text(encoding="utf-8")
SECOND = (FIXTURES / "second.pem").read_text(encoding="utf-8")
KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


def test_certificates() -> None:
    (first,) = certificates(FIRST)
    assert certificates("CN=First CA\n" + FIRST.replace("\n", "\r\n") + SECOND + FIRST) == [
        first,
        certificates(SECOND)[0],
    ]
    assert pem(first) == FIRST


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no PEM certificate"),
        ("hello", "no PEM certificate"),
        (FIRST + KEY, "holds a private key"),
        (FIRST.replace("BEGIN CERTIFICATE", "BEGIN TRUSTED CERTIFICATE"), "no PEM certificate"),
        (FIRST.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), "holds a trusted certificate"),
        (FIRST.replace("MIIB", "MII!"), "is broken"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "not one whole ASN.1 sequence"),
        (FIRST.replace(FIRST.splitlines()[3] + "\n", ""), "not one whole ASN.1 sequence"),
    ],
)
def test_not_certificates(text: str, message: str) -> None:
    with pytest.raises(PemError, match=message):
        certificates(text)


@pytest.mark.parametrize(
    ("origins", "names"),
    [
        ({"a/company.crt": FIRST}, ["vicuna-company.crt"]),
        ({"company ca.PEM": FIRST}, ["vicuna-company_ca.crt"]),
        ({"company": FIRST}, ["vicuna-company.crt"]),
        ({"both.pem": FIRST + SECOND}, ["vicuna-both.crt", "vicuna-both-2.crt"]),
        ({"a.pem": FIRST, "b.pem": FIRST}, ["vicuna-a.crt"]),
        ({"a/ca.pem": FIRST, "b/ca.crt": SECOND}, ["vicuna-ca-5bd1cd0e.crt", "vicuna-ca-7bff760f.crt"]),
        ({}, []),
    ],
)
def test_files(origins: dict[str, str], names: list[str]) -> None:
    assert list(files(origins)) == names


def test_files_names_the_origin_of_what_is_wrong() -> None:
    with pytest.raises(PemError, match=r"^files/key\.pem: it holds a private key$"):
        files({"files/key.pem": KEY})


@pytest.mark.parametrize(
    ("origin", "expected"),
    [("/x/y/ca.crt", "ca"), ("ca.cer", "ca"), ("größe.pem", "gr_e"), ("...", "ca"), ("../../etc/passwd", "passwd")],
)
def test_stem(origin: str, expected: str) -> None:
    assert stem(origin) == expected


def test_bundled_passes_over_what_it_cannot_read() -> None:
    bundle = "# Bundle\n" + FIRST + KEY + "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"
    assert bundled(bundle) == {digest(certificates(FIRST)[0])}


@pytest.mark.parametrize(
    ("der", "length"), [(b"", 0), (b"\x31\x01", 0), (b"\x30\x03abc", 5), (b"\x30\x82\x01\x00", 260)]
)
def test_der_length(der: bytes, length: int) -> None:
    assert der_length(der) == length
