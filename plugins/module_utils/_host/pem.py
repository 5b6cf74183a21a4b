# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PEM text (RFC 7468, RFC 1421) as typed blocks with line numbers: no input, no output, the standard library alone.

It reads more than OpenSSL does (several blocks on one line, indented blocks, blank lines, UTF-16), as what people meant
is plain there. Write a block's `pem`, which any reader takes, and not the file as it came.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

# OpenSSL takes the older words for the same thing.
SYNONYMS = {
    "X509 CERTIFICATE": "CERTIFICATE",
    "PKCS #7 SIGNED DATA": "PKCS7",
    "CMS": "PKCS7",
    "NEW CERTIFICATE REQUEST": "CERTIFICATE REQUEST",
}

# Also what an editor or a chat makes of five hyphens, so that it is named and not passed over. Text around blocks is
# free: "--- BEGIN NOTES ---" is none.
_MARKER = re.compile(
    r"-----(?P<edge>BEGIN|END) (?P<label>[A-Z0-9#][A-Z0-9# ]*)-----"
    r"|[-\u2010-\u2015]+ ?(?P<bad_edge>BEGIN|END) (?P<bad_label>[A-Z0-9 ]*(?:CERTIFICATE|KEY|BLOCK|PKCS7|REQUEST)) ?"
    r"[-\u2010-\u2015]+"
)
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*: ?.*")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=\s]")


@dataclass(frozen=True)
class Block:
    """What stands between a BEGIN and its END.

    label: the word in the markers, as of today ("CERTIFICATE", "RSA PRIVATE KEY", …). line: of the BEGIN, from 1.
    der: its bytes, empty where `error` says why they cannot be read. headers: RFC 1421's lines (Proc-Type, DEK-Info).
    plain: whether OpenSSL and HAProxy read the block as it stands in the text.
    """

    label: str
    line: int
    der: bytes = b""
    error: str = ""
    headers: tuple[str, ...] = ()
    plain: bool = True

    @property
    def key(self) -> bool:
        return self.label.endswith("PRIVATE KEY")

    @property
    def encrypted(self) -> bool:
        """Whether it is a private key that wants a passphrase."""
        return self.label == "ENCRYPTED PRIVATE KEY" or any("ENCRYPTED" in header for header in self.headers)

    @property
    def pem(self) -> str:
        """The block in the form that every reader takes, with a final newline."""
        headers = "".join(f"{header}\n" for header in self.headers) + ("\n" if self.headers else "")
        body = base64.b64encode(self.der).decode()
        lines = "".join(f"{body[at : at + 64]}\n" for at in range(0, len(body), 64))
        return f"-----BEGIN {self.label}-----\n{headers}{lines}-----END {self.label}-----\n"


def blocks(data: bytes | str) -> list[Block]:
    """All blocks of a file, in its order. One that is damaged has `error`, and its place in the order."""
    text = decode(data) if isinstance(data, bytes) else data
    wide = isinstance(data, bytes) and data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    odd = wide or bool(re.search(r"\r(?!\n)", text))
    marked = text.startswith("\ufeff")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    markers = [_Marker.of(match, text) for match in _MARKER.finditer(text)]
    return [
        replace(block, plain=block.plain and not odd and not (marked and block.line == 1))
        for block in _pairs(text, markers)
    ]


@dataclass(frozen=True)
class _Marker:
    text: str
    edge: str
    label: str
    start: int
    end: int
    line: int
    whole: bool

    @classmethod
    def of(cls, match: re.Match[str], text: str) -> _Marker:
        label = match["label"] or match["bad_label"]
        line = text.count("\n", 0, match.start()) + 1
        return cls(match[0], match["edge"] or match["bad_edge"], label, *match.span(), line, bool(match["label"]))


def _pairs(text: str, markers: list[_Marker]) -> Iterator[Block]:
    at = 0
    while at < len(markers):
        begin, at = markers[at], at + 1
        label = SYNONYMS.get(begin.label, begin.label)
        if begin.edge == "END":
            yield Block(label, begin.line, error=f"line {begin.line}: its END has no BEGIN before it", plain=False)
            continue
        end = markers[at] if at < len(markers) else None
        if end is None or end.edge == "BEGIN":
            yield Block(label, begin.line, error=f"line {begin.line}: its BEGIN has no END after it", plain=False)
            continue
        at += 1
        bad = next((marker for marker in (begin, end) if not marker.whole), None)
        if bad:
            error = f"line {bad.line}: {bad.text!r} has not five hyphens on either side"
            yield Block(label, begin.line, error=error, plain=False)
        elif end.label != begin.label:
            yield Block(label, begin.line, error=f"line {end.line}: it ends as {end.label}", plain=False)
        else:
            yield _block(text, begin, end, label)


def _block(text: str, begin: _Marker, end: _Marker, label: str) -> Block:
    body = text[begin.end : end.start]
    lines = [each.strip() for each in body.split("\n")]
    # Headers end with a blank line (RFC 1421), which some leave out.
    size = 1
    while size < len(lines) and _HEADER.fullmatch(lines[size]):
        size += 1
    headers, lines[1:size] = tuple(lines[1:size]), [""] * (size - 1)
    if label.startswith("PGP "):
        # Its last line is a checksum (RFC 9580, 6.2), not data.
        lines = ["" if each.startswith("=") else each for each in lines]

    def damaged(number: int, what: str) -> Block:
        return Block(label, begin.line, error=f"line {number}: {what}", headers=headers, plain=False)

    for number, each in enumerate(lines, start=begin.line):
        wrong = _NOT_BASE64.search(each)
        if wrong and each.startswith(r"\n", wrong.start()):
            return damaged(number, r"the two characters \n where a line ends")
        if wrong:
            return damaged(number, f"{wrong[0]!r} is no base64")
    try:
        der = base64.b64decode("".join("".join(lines).split()), validate=True)
    except binascii.Error as error:
        return damaged(begin.line, f"the base64 after it is not whole ({error})")
    if not der:
        return damaged(begin.line, "nothing between its BEGIN and its END")
    alone = text[begin.start - 1 : begin.start] in ("", "\n") and not text[end.end :].split("\n", 1)[0].strip()
    plain = alone and not lines[0] and body.endswith("\n") and "" not in lines[size + bool(headers) : -1]
    return Block(label, begin.line, der, headers=headers, plain=plain)


def decode(data: bytes) -> str:
    """Text of bytes in any encoding whose ASCII part can be told; a byte-order mark stays, as U+FEFF."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    return data.decode("utf-8", "replace")


def name(data: bytes | str) -> str:
    """What a file without a single block is, in words: "empty", "DER, which is binary", …"""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    text = decode(raw).removeprefix("\ufeff").strip()
    for what, seen in (
        ("empty", not text),
        ("encrypted by Ansible Vault", text.startswith("$ANSIBLE_VAULT;")),
        ("a Java key store", raw.startswith(b"\xfe\xed\xfe\xed")),
        ("binary (DER or PKCS #12)", raw[:1] == b"\x30" and (raw[1:2] >= b"\x80" or b"\0" in raw)),
        ("an OpenSSH public key", re.match(r"(ssh-|ecdsa-|sk-)\S+ AAAA", text)),
        ("a web page", re.match(r"<(!doctype|html|\?xml)", text, re.IGNORECASE)),
        ("base64 without its BEGIN and END lines", re.fullmatch(r"MII[A-Za-z0-9+/=\s]+", text)),
        ("the path of a file", len(text) < 256 and re.fullmatch(r"[~./\w-]+\.(pem|crt|cer|key)", text)),
        ("binary", b"\0" in raw),
    ):
        if seen:
            return what
    return "text without a PEM block"
