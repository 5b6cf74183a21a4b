# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import AuthorityError
from ansible_collections.vicuna.fleet.plugins.module_utils._trust_store import bundled, digest, named, stem

FIXTURES = Path(__file__).parents[1] / "fixtures" / "certificates"
FIRST = (FIXTURES / "first.pem").read_text(encoding="utf-8")
SECOND = (FIXTURES / "second.pem").read_text(encoding="utf-8")
KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


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
def test_named(origins: dict[str, str], names: list[str]) -> None:
    assert [name for files in named(origins).values() for name in files] == names


def test_the_origin_of_what_is_wrong_is_named() -> None:
    with pytest.raises(AuthorityError, match="it holds a private key") as error:
        named({"a.pem": FIRST, "files/key.pem": KEY})
    assert error.value.message("certificates").startswith("Found files/key.pem, which cannot be used as a CA file")


@pytest.mark.parametrize(
    ("origin", "expected"),
    [("/x/y/ca.crt", "ca"), ("ca.cer", "ca"), ("größe.pem", "gr_e"), ("...", "ca"), ("../../etc/passwd", "passwd")],
)
def test_stem(origin: str, expected: str) -> None:
    assert stem(origin) == expected


def test_bundled_passes_over_what_it_cannot_read() -> None:
    bundle = "# Bundle\n" + FIRST + KEY + "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"
    assert bundled(bundle) == {digest(ssl.PEM_cert_to_DER_cert(FIRST))}
