# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CA files as people have them, and the commands that mend those that cannot be used, run on what provokes them."""

from __future__ import annotations

import base64
import datetime
import re
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader

from ansible_collections.vicuna.fleet.plugins.lookup.ca_file import LookupModule
from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import (
    AuthorityError,
    authorities,
    bundle,
    parse,
)
from ansible_collections.vicuna.fleet.plugins.modules.chat_completion import tls_context

x509 = pytest.importorskip("cryptography.x509")

FIXTURES = Path(__file__).parents[2] / "fixtures" / "certificates"
FIRST = (FIXTURES / "first.pem").read_text(encoding="utf-8")
SECOND = (FIXTURES / "second.pem").read_text(encoding="utf-8")
DER, OTHER = ssl.PEM_cert_to_DER_cert(FIRST), ssl.PEM_cert_to_DER_cert(SECOND)
BODY = "".join(FIRST.splitlines()[1:-1])
NOW = datetime.datetime(2027, 1, 1, tzinfo=datetime.timezone.utc)
KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAA\n-----END PRIVATE KEY-----\n"


def made(
    subject: str = "Root", issuer: str = "", ca: bool | None = True, begins: int = -10, ends: int = 10, bits: int = 0
) -> str:
    """A certificate; begins and ends are days from NOW, bits those of an RSA key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    def name(text: str) -> Any:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    key = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer or subject))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW + datetime.timedelta(days=begins))
        .not_valid_after(NOW + datetime.timedelta(days=ends))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return str(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (FIRST, [DER]),
        (FIRST.encode("utf-8-sig"), [DER]),
        (FIRST.encode("utf-16"), [DER]),
        (FIRST.replace("\n", "\r\n") + SECOND.rstrip(), [DER, OTHER]),
        ("Certificate:\n    Data:\n" + FIRST + "\n# and the second\n" + SECOND + FIRST, [DER, OTHER]),
        (f"-----BEGIN CERTIFICATE-----{BODY}-----END CERTIFICATE-----" + SECOND, [DER, OTHER]),
        (f"-----BEGIN X509 CERTIFICATE-----\n{BODY}\n-----END X509 CERTIFICATE-----", [DER]),
        (FIRST.replace("\n", "\n    "), [DER]),
    ],
)
def test_what_can_be_used(tmp_path: Path, data: bytes | str, expected: list[bytes]) -> None:
    """In every place alike: the lookup of the roles, and the module that asks with it."""
    assert authorities(data) == expected
    path = tmp_path / "ca.pem"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    (found,) = LookupModule(DataLoader()).run([str(path)], setting="fastchat_tls_ca")
    assert (found["problem"], found["text"]) == ("", bundle(expected))
    assert list(found["files"].values()) == [bundle([der]) for der in expected]
    assert len(tls_context(str(path), True).get_ca_certs()) == len(expected)


def openssl(*arguments: str, data: bytes) -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it is empty"),
    "no certificate": (lambda: b"hello", "it is text without a PEM block"),
    "a path": (lambda: b"/etc/ssl/ca.pem\n", "it is the path of a file"),
    "a login page": (lambda: b"<!DOCTYPE html><html>", "it is a web page"),
    "a word missing": (
        lambda: FIRST.replace("MIIB", "MII!").encode(),
        "its certificate is damaged, line 2: '!' is no base64",
    ),
    "a line missing": (
        lambda: FIRST.replace(FIRST.splitlines()[3] + "\n", "").encode(),
        "the certificate of line 1 is cut off or altered (",
    ),
    "no certificate inside": (
        lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "the certificate of line 1 is cut off or altered (",
    ),
    "the second is cut off": (
        (FIRST + SECOND[:-40]).encode,
        f"its certificate is damaged, line {FIRST.count(chr(10)) + 1}: its BEGIN has no END after it",
    ),
    "a key": ((KEY + FIRST).encode, "it holds a private key, which nobody else may read (line 1)"),
    "a key alone": (KEY.encode, "it holds a private key, which nobody else may read (line 1)"),
    "a request": (
        lambda: b"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n",
        "it holds a certificate request (line 1)",
    ),
    "a trusted certificate": (
        lambda: openssl("x509", "-trustout", "-addtrust", "serverAuth", data=FIRST.encode()),
        "it holds a certificate in OpenSSL's own form (line 1)",
    ),
    "PKCS #7": (
        lambda: openssl("crl2pkcs7", "-nocrl", "-certfile", "/dev/stdin", data=FIRST.encode()),
        "it holds a PKCS #7 bundle (line 1)",
    ),
    "PKCS #7 in DER": (
        lambda: openssl("crl2pkcs7", "-nocrl", "-certfile", "/dev/stdin", "-outform", "DER", data=FIRST.encode()),
        "it is a PKCS #7 bundle",
    ),
    "PKCS #12": (
        lambda: openssl("pkcs12", "-export", "-nokeys", "-in", "/dev/stdin", "-passout", "pass:", data=FIRST.encode()),
        "it is a PKCS #12 store",
    ),
    "DER": (lambda: DER, "it is in DER, not in PEM"),
    "base64 alone": (lambda: base64.encodebytes(DER), "it is base64 without its BEGIN and END lines"),
    "a diverging end": (
        lambda: FIRST.replace("END CERT", "END TRUSTED CERT").encode(),
        f"its certificate is damaged, line {FIRST.count(chr(10))}: it ends as TRUSTED CERTIFICATE",
    ),
}


@pytest.mark.parametrize(("data", "found"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_and_the_command_that_mends_it(tmp_path: Path, data: Callable[[], bytes], found: str) -> None:
    path = tmp_path / "company's ca.pem"
    path.write_bytes(data())
    (told,) = LookupModule(DataLoader()).run([str(path)], setting="docker_ca_certificates")
    assert told["problem"].startswith(f"Found {path}, which cannot be used as a CA file: {found}")
    assert " Expected certificates of authorities in PEM form, and nothing else. " in told["problem"]
    assert told["problem"].endswith(", and name that file in docker_ca_certificates.")
    assert (told["text"], told["files"]) == ("", {})
    with pytest.raises(AuthorityError, match=re.escape(found)) as error:
        tls_context(str(path), True)
    command = re.search(r"`(.*)`", error.value.command(str(path)))
    if command:
        line = command[1].replace("pkcs12 ", "pkcs12 -passin pass: ")
        subprocess.run(line, shell=True, cwd=tmp_path, check=True, capture_output=True)
        assert authorities((tmp_path / "ca.pem").read_bytes()) == [DER]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (told,) = LookupModule(DataLoader()).run([str(tmp_path / "none.pem")], setting="fastchat_tls_ca")
    assert told["problem"] == (
        f"Found no readable file {tmp_path}/none.pem on the control node (No such file or directory). Expected "
        "certificates of authorities in PEM form. Correct fastchat_tls_ca."
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (made, ""),
        (lambda: made("Sub", issuer="Root"), ""),
        (lambda: made("host.example", ca=None), ""),
        (lambda: made("Old", ends=-1) + made("New"), ""),
        (lambda: made("Old", ends=-1), "the certificate of Old expired on 2026-12-31"),
        (lambda: made("New", begins=5), "the certificate of New is valid from 2027-01-06 on, and today is 2027-01-01"),
        (
            lambda: made("host.example", issuer="Root", ca=False),
            "host.example is no authority: its certificate was signed by Root and may sign nothing",
        ),
        (lambda: made("host.example", issuer="Root", ca=None), "host.example is no authority"),
        (lambda: made("host.example", issuer="Root", ca=False) + made("Root"), ""),
        (lambda: made("Weak", bits=1024), "Weak has an RSA key of 1024 bits, which TLS libraries refuse"),
        (lambda: made("Strong", bits=2048), ""),
    ],
)
def test_judged(text: Callable[[], str], found: str) -> None:
    try:
        assert authorities(text(), NOW.timestamp()) and not found
    except AuthorityError as error:
        assert found and str(error).startswith(found)


def test_parse() -> None:
    found = parse(ssl.PEM_cert_to_DER_cert(made("Größe GmbH", issuer="Root", ca=None, bits=2048)))
    assert (found.subject, found.issuer, found.self_issued, found.authority) == ("Größe GmbH", "Root", False, False)
    assert (found.begins, found.ends) == (int(NOW.timestamp()) - 864000, int(NOW.timestamp()) + 864000)
    assert found.rsa_bits == 2048
    later = parse(ssl.PEM_cert_to_DER_cert(made(ends=365 * 40)))
    assert later.ends == int(NOW.timestamp()) + 365 * 40 * 86400


def test_names_in_the_trust_store(tmp_path: Path) -> None:
    for name, text in (("a.pem", FIRST + SECOND), ("b.pem", SECOND)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = LookupModule(DataLoader()).run([str(tmp_path / "a.pem"), str(tmp_path / "b.pem")], setting="x")
    assert [list(entry["files"]) for entry in found] == [["vicuna-a.crt", "vicuna-a-2.crt"], []]


@pytest.mark.parametrize(
    ("data", "found", "remedy"),
    [
        (b"/etc/ssl/ca.pem\n", "it is the path of a file", "Take the file that this path leads to"),
        (
            b"$ANSIBLE_VAULT;1.1;AES256\n3330\n",
            "it is encrypted by Ansible Vault",
            "Run `ansible-vault view x > ca.pem`",
        ),
    ],
)
def test_who_has_the_certificate_is_not_sent_to_the_authority(data: bytes, found: str, remedy: str) -> None:
    with pytest.raises(AuthorityError, match=found) as error:
        authorities(data)
    assert error.value.command("x") == remedy
