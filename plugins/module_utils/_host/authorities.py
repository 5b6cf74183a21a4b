# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of CA certificates: what is in one, and whether it can be trusted in. No input, no output.

Wherever a CA file is given it is read here, so that the same file is taken or refused everywhere. What is handed on is
the certificates in a form that OpenSSL, GnuTLS and the trust stores all read.
"""

from __future__ import annotations

import re
import shlex
import time
from calendar import timegm
from dataclasses import dataclass

from ansible_collections.vicuna.fleet.plugins.module_utils._host import pem

# What OpenSSL's security level 2 (Debian, Ubuntu) and Red Hat's default policy ask of an RSA key.
LEAST_RSA_BITS = 2048

_SEQUENCE, _INTEGER, _OID, _UTC_TIME = 0x30, 0x02, 0x06, 0x17
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_BASIC_CONSTRAINTS = bytes.fromhex("551d13")
_COMMON_NAME, _ORGANIZATION = bytes.fromhex("550403"), bytes.fromhex("55040a")
_RSA = bytes.fromhex("2a864886f70d010101")

# What may stand in a PEM file besides certificates: what it is, and what makes certificates of it; without that, those
# beside it are picked, if there are any.
_AGAIN = "Copy it from its source again"
_ASK = "Ask the authority for its certificate"
_PICK = "Run `sed -n '/-BEGIN CERTIFICATE-/,/-END CERTIFICATE-/p' {file} > ca.pem`"
_OTHERS = (
    (r"TRUSTED CERTIFICATE", "a certificate in OpenSSL's own form", "Run `openssl x509 -in {file} -out ca.pem`"),
    (r"PKCS7", "a PKCS #7 bundle", "Run `openssl pkcs7 -print_certs -in {file} -out ca.pem`"),
    (r".*REQUEST", "a certificate request", _ASK),
    (r".*PRIVATE KEY", "a private key, which nobody else may read", ""),
    (r"(RSA )?PUBLIC KEY", "a bare public key", _ASK),
    (r"X509 CRL", "a revocation list", ""),
    (r"PGP .*", "an OpenPGP key", _ASK),
)


class AuthorityError(ValueError):
    """A file that is not one of CA certificates: what was found, and what mends it. path: whose it is, where known."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.remedy = remedy
        self.path = ""

    def command(self, path: str) -> str:
        """What mends the file, without a full stop."""
        return self.remedy.replace("{file}", shlex.quote(path))

    def message(self, setting: str, path: str = "") -> str:
        """The refusal in three parts. setting: where the path is given, such as a variable's name."""
        path = path or self.path
        return (
            f"Found {path}, which cannot be used as a CA file: {self}. Expected certificates of authorities in PEM "
            f"form, and nothing else. {self.command(path)}, and name that file in {setting}."
        )


@dataclass(frozen=True)
class Certificate:
    """What is read of an X.509 certificate (RFC 5280). Times: seconds since the epoch. rsa_bits: 0 for other keys."""

    subject: str
    issuer: str
    self_issued: bool
    authority: bool
    begins: int
    ends: int
    rsa_bits: int


def authorities(data: bytes | str, now: float | None = None) -> list[bytes]:
    """The certificates in a PEM file, as DER, without repeating. Raises AuthorityError where it has a mistake."""
    found: list[bytes] = []
    read: list[Certificate] = []
    blocks = pem.blocks(data)
    if not blocks:
        raise _no_pem(data)
    pick = _PICK if any(block.label == "CERTIFICATE" for block in blocks) else _ASK
    for block in blocks:
        if block.error:
            raise AuthorityError(f"its {block.label.lower()} is damaged, {block.error}", _AGAIN)
        for pattern, what, remedy in _OTHERS:
            if re.fullmatch(pattern, block.label):
                raise AuthorityError(f"it holds {what} (line {block.line})", remedy or pick)
        if block.label != "CERTIFICATE":
            raise AuthorityError(f"it holds {block.label} (line {block.line})", pick)
        try:
            certificate = parse(block.der)
        except (ValueError, IndexError) as error:
            what = f"the certificate of line {block.line} is cut off or altered ({error})"
            raise AuthorityError(what, _AGAIN) from error
        if block.der not in found:
            found.append(block.der)
            read.append(certificate)
    _judge(read, time.time() if now is None else now)
    return found


def bundle(ders: list[bytes]) -> str:
    """Certificates as a PEM text that every reader takes."""
    return "".join(pem.Block("CERTIFICATE", 0, der).pem for der in ders)


def _judge(read: list[Certificate], now: float) -> None:
    """A file may hold the old certificate beside the new one: what is refused is true of all in it."""
    first = read[0]
    if all(each.ends < now for each in read):
        raise AuthorityError(
            f"the certificate of {first.subject} expired on {_day(first.ends)}", "Ask the authority for its current one"
        )
    if all(each.begins > now for each in read):
        raise AuthorityError(
            f"the certificate of {first.subject} is valid from {_day(first.begins)} on, and today is {_day(now)}",
            "Set the clock, or ask the authority for a valid one",
        )
    if not any(each.authority or each.self_issued for each in read):
        raise AuthorityError(
            f"{first.subject} is no authority: its certificate was signed by {first.issuer} and may sign nothing",
            "Get the certificate of the one that signed it",
        )
    if all(0 < each.rsa_bits < LEAST_RSA_BITS for each in read):
        raise AuthorityError(
            f"{first.subject} has an RSA key of {first.rsa_bits} bits, which TLS libraries refuse",
            f"Ask for an authority with {LEAST_RSA_BITS} bits or more",
        )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _no_pem(data: bytes | str) -> AuthorityError:
    what = pem.name(data)
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
    try:
        inner = _items(_items(raw)[0][1])
    except (ValueError, IndexError):
        inner = []
    if inner and inner[0][0] == _SEQUENCE:
        return AuthorityError("it is in DER, not in PEM", "Run `openssl x509 -inform DER -in {file} -out ca.pem`")
    if inner and inner[0][0] == _OID:
        remedy = "Run `openssl pkcs7 -inform DER -print_certs -in {file} -out ca.pem`"
        return AuthorityError("it is a PKCS #7 bundle", remedy)
    if inner and inner[0] == (_INTEGER, b"\x03"):
        return AuthorityError("it is a PKCS #12 store", "Run `openssl pkcs12 -nokeys -in {file} -out ca.pem`")
    remedies = {
        "a Java key store": "Run `keytool -exportcert -rfc -alias NAME -keystore {file} -file ca.pem`",
        # A certificate is no secret, and not all that read it on the control node can decrypt it.
        "encrypted by Ansible Vault": "Run `ansible-vault view {file} > ca.pem`",
        "the path of a file": "Take the file that this path leads to",
        "base64 without its BEGIN and END lines": "Run `base64 -d {file} | openssl x509 -inform DER -out ca.pem`",
    }
    return AuthorityError(f"it is {what}", remedies.get(what, _ASK))


def parse(der: bytes) -> Certificate:
    """Raises ValueError or IndexError where it is no X.509 certificate."""
    ((tag, content),) = _items(der)
    if tag != _SEQUENCE:
        raise ValueError("not one whole ASN.1 sequence")
    fields = _items(_items(content)[0][1])
    fields = fields[1:] if fields[0][0] == _VERSION else fields
    issuer, validity, subject, key = (field[1] for field in fields[2:6])
    begins, ends = (_time(*moment) for moment in _items(validity))
    algorithm, value = _items(key)
    rsa = _items(algorithm[1])[0][1] == _RSA
    bits = int.from_bytes(_items(_items(value[1][1:])[0][1])[0][1], "big").bit_length() if rsa else 0
    authority = False
    for extension in (_items(_items(field[1])[0][1]) for field in fields[6:] if field[0] == _EXTENSIONS):
        for _tag, each in extension:
            parts = _items(each)
            if parts[0][1] == _BASIC_CONSTRAINTS:
                constraints = _items(_items(parts[-1][1])[0][1])
                authority = bool(constraints) and constraints[0] == (0x01, b"\xff")
    return Certificate(_name(subject), _name(issuer), subject == issuer, authority, begins, ends, bits)


def _items(der: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element in a row."""
    found, at = [], 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        if at + length > len(der):
            raise ValueError(f"{at + length} bytes announced, {len(der)} there")
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _time(tag: int, content: bytes) -> int:
    text = content.decode("ascii").rstrip("Z")
    if tag == _UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return timegm(time.strptime(text, "%Y%m%d%H%M%S"))


def _name(content: bytes) -> str:
    """The common name, or else the organization."""
    names = {}
    for _tag, each in _items(content):
        (oid, value) = _items(_items(each)[0][1])
        names[oid[1]] = value[1].decode("utf-16-be" if value[0] == 0x1E else "utf-8", "replace")
    return names.get(_COMMON_NAME) or names.get(_ORGANIZATION) or "a nameless one"
