# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether HAProxy can serve with a PEM file, and whether a client will trust it. Private to the collection.

What is refused is what HAProxy with OpenSSL 3 refuses when it starts (security level 2, as distributions have it), or
what the client that checks the endpoint refuses. The latter is tried by a handshake in memory, with the client's own
trust store. All of it is on the control node, which has the package cryptography by ansible-core.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import ssl
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

from ansible_collections.vicuna.fleet.plugins.module_utils._host import authorities, pem

# Told beforehand.
SOON = timedelta(days=7)
# The least that has 112 bits of security for OpenSSL 3, as it rounds (ossl_ifc_ffc_compute_security_bits).
RSA_BITS = 1962
# HAProxy loads a curve of 224 bits, too, but no client has one.
EC_BITS = 256
WEAK_HASHES = ("md5", "sha1")
CERTIFICATES = ("CERTIFICATE", "TRUSTED CERTIFICATE")


class Remedy(NamedTuple):
    """What was expected, what mends it, and a command for sh where one can.

    ``{file}`` is the file, ``{certificate}``, ``{ca}`` and ``{url}`` are the names of variables, and other names are
    given by who found the fault. The command's output is the new file, unless the command is ``complete``.
    """

    expected: str
    words: str
    command: str = ""
    complete: bool = False


_WHOLE = "a PEM file on the control node with certificate, chain and key, in this order"
_CERTIFICATES_OF = "sed -n '/-----BEGIN CERTIFICATE/,/-----END CERTIFICATE/p' {file}"
_REQUEST = (
    "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {host}.key -out {host}.csr "
    "-subj /CN={host} "
    "-addext subjectAltName={name}"
)
_RENEW = "let your authority sign a new one; a new key and a request for it"

REMEDIES: dict[str, Remedy] = {
    "missing": Remedy(_WHOLE, "correct {certificate}"),
    "unreadable": Remedy(_WHOLE, "let the user who runs Ansible read it", "chmod u+r {file}", complete=True),
    "not_pem": Remedy(_WHOLE, "correct {certificate}"),
    "der_certificate": Remedy(_WHOLE, "convert it, and then append its key", "openssl x509 -inform DER -in {file}"),
    "der_key": Remedy(
        _WHOLE, "convert it, and then put its certificate in front", "openssl pkey -inform DER -in {file}"
    ),
    "pkcs12": Remedy(_WHOLE, "convert it, which asks for its password", "openssl pkcs12 -in {file} -nodes"),
    "pkcs7": Remedy(_WHOLE, "convert it, and then append the key", "openssl pkcs7 -in {file} -print_certs"),
    "layout": Remedy(
        "each block's BEGIN and END in a line of its own, in UTF-8",
        "write it so",
        # UTF-16 has NULs between its characters, and a mark before them.
        r"tr -d '\000' < {file} | tr '\r' '\n' | sed 's/\\n/\n/g' | "
        r"sed -E 's/-----(BEGIN|END) [A-Z0-9 ]+-----/\n&\n/g' | "
        r"sed -E '/-----/!s/[[:space:]]+/\n/g; s/^[[:space:]]+//' | grep -aE '^(-----(BEGIN|END) .*|[A-Za-z0-9+/=]+)$'",
    ),
    "damaged": Remedy("blocks that are whole", "copy it again from where it was issued"),
    "no_certificate": Remedy(
        _WHOLE, "put its certificate in front; CERTIFICATE is its file", "{{ cat CERTIFICATE; echo; cat {file}; }}"
    ),
    "no_key": Remedy(_WHOLE, "append its key; KEY is its file", "{{ cat {file}; echo; cat KEY; }}"),
    "encrypted": Remedy(
        "a key without a passphrase, as HAProxy starts without a person",
        "decrypt it, which asks for the passphrase",
        "{{ " + _CERTIFICATES_OF + " && openssl pkey -in {file}; }}",
    ),
    "openssh_key": Remedy(
        "a key as PKCS #8",
        "convert it",
        "{{ sed -n '/BEGIN OPENSSH/,/END OPENSSH/p' {file} > {file}.key "
        "&& ssh-keygen -q -p -P '' -N '' -m PKCS8 -f {file}.key && " + _CERTIFICATES_OF + " "
        "&& cat {file}.key && rm {file}.key; }}",
    ),
    "key": Remedy("a private key that OpenSSL can read", "correct {certificate}"),
    "other_key": Remedy(
        "the key of the first certificate",
        "put in the key whose public key (openssl pkey -in KEY -pubout) is that of the certificate",
        "openssl x509 -in {file} -noout -pubkey",
        complete=True,
    ),
    "second_key": Remedy(
        "one key, that of the first certificate; HAProxy takes the first key",
        "take the other keys out",
        "awk '/-----BEGIN .*PRIVATE KEY/{{n++; skip=(n!={number})}} !skip; /-----END .*PRIVATE KEY/{{skip=0}}' {file}",
    ),
    "order": Remedy(
        "the key's own certificate first",
        "put it first",
        '{{ awk \'/-----BEGIN CERTIFICATE/{{n++; c=1}} c{{b[n]=b[n] $0 "\\n"}} /-----END CERTIFICATE/{{c=0}} '
        'END{{printf "%s", b[{number}]; for (i=1; i<=n; i++) if (i!={number}) printf "%s", b[i]}}\' {file} '
        "&& openssl pkey -in {file}; }}",
    ),
    "weak_key": Remedy("RSA of 2048 bits or more, or a curve of 256", _RENEW, _REQUEST, complete=True),
    "key_type": Remedy("an RSA, EC or Ed25519 key", _RENEW, _REQUEST, complete=True),
    "weak_signature": Remedy("a signature by SHA-256 or better", _RENEW, _REQUEST, complete=True),
    "expired": Remedy("a certificate that is valid now", _RENEW, _REQUEST, complete=True),
    "not_yet": Remedy(
        "a certificate that is valid now",
        "wait, or set the control node's clock, which is at {now}; it shows by",
        "date -u",
        complete=True,
    ),
    "no_name": Remedy(
        "a subjectAltName with the name that clients use; they no longer read the subject",
        _RENEW,
        _REQUEST,
        complete=True,
    ),
    "name": Remedy("the host of {url}, {host}", "set {url} to one of its names, or " + _RENEW, _REQUEST, complete=True),
    "self_signed": Remedy(
        "a certificate that the client trusts",
        "let it be trusted, and set {ca} to the new file",
        "openssl x509 -in {file} -out {file}.ca.pem",
        complete=True,
    ),
    "chain": Remedy(
        "a chain from the certificate to one of {store}",
        "put the missing certificates behind the first one, or set {ca} to the authority's; who signed it, and where "
        "that certificate is published, is shown by",
        "openssl x509 -in {file} -noout -issuer -ext authorityInfoAccess",
        complete=True,
    ),
    "client": Remedy(
        "a certificate that the client trusts",
        "let your authority sign one for a TLS server; what this one is for is shown by",
        "openssl x509 -in {file} -noout -text",
        complete=True,
    ),
    "load": Remedy(_WHOLE, "correct the file, or {certificate}"),
    # Told, and not refused.
    "soon": Remedy("more than a week", _RENEW, _REQUEST, complete=True),
    "mode": Remedy("a private key that its owner alone can read", "close it", "chmod 600 {file}", complete=True),
}
WARNINGS = ("soon", "mode")


@dataclass(frozen=True)
class Fault:
    """``key`` names the remedy."""

    key: str
    message: str

    @property
    def warning(self) -> bool:
        return self.key in WARNINGS


@dataclass(frozen=True)
class Where:
    """What a message needs: the file, the names of the variables, and the host that clients ask for."""

    path: Path
    prefix: str
    host: str = ""
    ca: str = ""
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def fault(self, key: str, found: str, **more: object) -> Fault:
        remedy = REMEDIES[key]
        file = shlex.quote(str(self.path))
        variable = f"{self.prefix}_tls_certificate"
        ca = f"{self.prefix}_tls_ca"
        names = {
            "certificate": variable,
            "ca": ca,
            "url": f"{self.prefix}_endpoint_url",
            "store": f"{ca}, {self.ca}" if self.ca else "those that the control node trusts",
            "host": self.host or "localhost",
            "name": _alternative(self.host or "localhost"),
            "now": f"{self.now:%Y-%m-%d %H:%M} UTC",
            **more,
        }
        mended = remedy.words.format(**names)
        if remedy.command:
            command = remedy.command.format(file=file, **names)
            if not remedy.complete:
                command = f"(umask 077; {command} > {file}.new && mv --backup=numbered {file}.new {file})"
            mended += f": `{command}`"
        expected = remedy.expected.format(**names)
        return Fault(key, f"{variable} is {self.path}. Found: {found}. Expected: {expected}. Remedy: {mended}.")


def _alternative(host: str) -> str:
    try:
        return f"IP:{ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"


# --- the file ------------------------------------------------------------------------------------------------------


def structure(data: bytes, where: Where) -> list[Fault]:
    """What is wrong with a file's blocks, the certificate's dates, and its strength. No input, no output."""
    blocks = pem.blocks(data)
    if not blocks:
        return [_no_blocks(data, where)]
    certificates = [block for block in blocks if block.label in CERTIFICATES]
    keys = [block for block in blocks if block.key]
    wrapped = next((block for block in blocks if block.label == "PKCS7"), None)
    if not certificates and wrapped:
        return [where.fault("pkcs7", f"certificates in PKCS #7 (line {wrapped.line})")]
    if not certificates:
        labels = ", ".join(sorted({block.label for block in blocks}))
        return [where.fault("no_certificate", f"no certificate, but {labels}")]
    if not keys:
        labels = "alone" if len(certificates) == 1 else "and its chain alone"
        return [where.fault("no_key", f"a certificate {labels}, without a private key")]
    for block in (certificates[0], keys[0]):
        if block.error and not block.encrypted:
            # What a variable or a JSON text holds.
            key = "layout" if r"\n" in block.error else "damaged"
            return [where.fault(key, f"{block.label.lower()} that cannot be read: {block.error}")]
    if keys[0].encrypted:
        return [where.fault("encrypted", f"a private key that is encrypted (line {keys[0].line})")]
    if keys[0].label == "OPENSSH PRIVATE KEY":
        return [where.fault("openssh_key", f"a private key in the form of OpenSSH (line {keys[0].line})")]
    read = [_certificate(block) for block in certificates]
    leaf = read[0]
    if leaf is None:
        return [where.fault("damaged", f"a certificate that is none (line {certificates[0].line})")]
    public = [_public(block) for block in keys]
    wanted = _spki(leaf)
    if wanted != public[0]:
        return [_mismatch(leaf, read, public, where)]
    weak = [fault for certificate in read if certificate for fault in _strength(certificate, where)]
    return [*weak[:1], *_dates(leaf, where)]


def _no_blocks(data: bytes, where: Where) -> Fault:
    if data[:1] == b"\x30":
        # PFX ::= SEQUENCE { version INTEGER (3), … } (RFC 7292)
        if re.match(rb"\x30(\x80|[\x01-\x7f]|\x81.|\x82..|\x83...)\x02\x01\x03", data, re.DOTALL):
            return where.fault("pkcs12", "PKCS #12, which is binary")
        try:
            x509.load_der_x509_certificate(data)
        except ValueError:
            pass
        else:
            return where.fault("der_certificate", "a certificate in DER, which is binary")
        try:
            load_der_private_key(data, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            pass
        else:
            return where.fault("der_key", "a private key in DER, which is binary")
    return where.fault("not_pem", f"{pem.name(data)}")


def _certificate(block: pem.Block) -> x509.Certificate | None:
    der = block.der
    if block.label.startswith("TRUSTED"):
        # OpenSSL's own form has what it is trusted for behind the certificate: SEQUENCE with a length of two bytes.
        der = der[: 4 + int.from_bytes(der[2:4], "big")]
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        return None


def _spki(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""


def _public(block: pem.Block) -> bytes | None:
    try:
        return (
            load_der_private_key(block.der, None)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _mismatch(
    leaf: x509.Certificate, read: Sequence[x509.Certificate | None], public: Sequence[bytes | None], where: Where
) -> Fault:
    """The first key is not the first certificate's."""
    if public[0] is None:
        return where.fault("key", "a private key that cannot be read")
    wanted = _spki(leaf)
    if wanted in public:
        return where.fault("second_key", f"{len(public)} private keys", number=public.index(wanted) + 1)
    for number, other in enumerate(read, start=1):
        if other is not None and _spki(other) == public[0]:
            found = f"the certificate of {_subject(leaf)} first, and the key's own, of {_subject(other)}, behind it"
            return where.fault("order", found, number=number)
    return where.fault("other_key", f"a private key that is not the one of the certificate of {_subject(leaf)}")


def _subject(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string() or ", ".join(_names(certificate)) or "no name")


def _strength(certificate: x509.Certificate, where: Where) -> list[Fault]:
    key: Any
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return []
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_BITS:
        return [
            where.fault("weak_key", f"an RSA key of {key.key_size} bits in the certificate of {_subject(certificate)}")
        ]
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size < EC_BITS:
        return [
            where.fault(
                "weak_key", f"a key on the curve {key.curve.name} in the certificate of {_subject(certificate)}"
            )
        ]
    if isinstance(key, dsa.DSAPublicKey):
        return [where.fault("key_type", "a DSA key, with which TLS is no longer spoken")]
    # The signature of one that signed itself proves nothing, and OpenSSL does not look at it.
    if certificate.issuer != certificate.subject:
        try:
            signed = certificate.signature_hash_algorithm
        except UnsupportedAlgorithm:
            signed = None
        if signed is not None and signed.name in WEAK_HASHES:
            return [
                where.fault(
                    "weak_signature", f"the certificate of {_subject(certificate)} signed by {signed.name.upper()}"
                )
            ]
    return []


def valid(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """From when to when, in UTC."""
    try:
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except AttributeError:  # before cryptography 42
        begins, ends = certificate.not_valid_before, certificate.not_valid_after
        return begins.replace(tzinfo=timezone.utc), ends.replace(tzinfo=timezone.utc)


def _dates(leaf: x509.Certificate, where: Where) -> list[Fault]:
    begins, ends = valid(leaf)
    if ends < where.now:
        return [where.fault("expired", f"a certificate that ended on {ends:%Y-%m-%d %H:%M} UTC")]
    if begins > where.now:
        return [where.fault("not_yet", f"a certificate that begins on {begins:%Y-%m-%d %H:%M} UTC")]
    if ends < where.now + SOON:
        return [where.fault("soon", f"a certificate that ends on {ends:%Y-%m-%d %H:%M} UTC")]
    return []


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]


# --- the client ----------------------------------------------------------------------------------------------------

# X509_V_ERR_…, openssl/x509_vfy.h
_SELF_SIGNED, _CHAIN = (18,), (2, 19, 20, 21)
_EXPIRED, _NOT_YET = (10,), (9,)
_NAMES = (62, 64)


@dataclass(frozen=True)
class Tried:
    """What OpenSSL said: when it loaded the file, and what a client's check of it ended with."""

    load: str = ""
    code: int = 0
    refusal: str = ""


def trust_store() -> str | None:
    """Where the callback's client finds whom to trust when it is given no CA; none for OpenSSL's own."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        from certifi import where
    except ImportError:
        return None
    return where()


@contextlib.contextmanager
def _as_haproxy_reads(path: Path, data: bytes) -> Iterator[Path]:
    """The file; where a certificate of its chain is damaged, a copy up to that one, as HAProxy reads no further."""
    blocks = pem.blocks(data)
    certificates = [block for block in blocks if block.label in CERTIFICATES]
    damaged = next((number for number, block in enumerate(certificates) if block.error), 0)
    if not damaged:
        yield path
        return
    key = next(block for block in blocks if block.key)
    # For its owner alone, and gone at the end.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as copy:
        copy.write("".join(block.pem for block in (*certificates[:damaged], key)))
        copy.flush()
        yield Path(copy.name)


def _trusted(ca: str) -> str | None:
    """The authorities as the clients are given them; none where the file is no good, which its own reader tells."""
    try:
        return authorities.bundle(authorities.authorities(Path(ca).read_bytes()))
    except (OSError, authorities.AuthorityError):
        return None


def try_out(path: Path, trusted: str, host: str) -> Tried:
    """Load the file as a server does, and shake hands with a client that checks it; nothing leaves the process."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty passphrase, so that nobody is asked for one.
        server.load_cert_chain(path, password=b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        return Tried(load=getattr(error, "reason", None) or str(error))
    if not host:
        return Tried()
    client = ssl.create_default_context(cadata=trusted) if trusted else ssl.create_default_context(cafile=trust_store())
    client.hostname_checks_common_name = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=host)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    # A handshake takes two round trips at most.
    for _trip in range(4):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return Tried(code=error.verify_code, refusal=error.verify_message)
            except ssl.SSLError as error:
                return Tried(code=-1, refusal=error.reason or str(error))
    return Tried()


def refused(data: bytes, tried: Tried, where: Where) -> list[Fault]:
    """What stands against a file whose structure is sound. No input, no output."""
    blocks = pem.blocks(data)
    odd = next((block for block in blocks if not block.plain and (block.key or block.label in CERTIFICATES)), None)
    broken = next((block.error for block in blocks if block.error and block.label in CERTIFICATES), "")
    if tried.load and odd:
        return [where.fault("layout", f"a block that OpenSSL does not read as it stands (line {odd.line})")]
    if tried.load:
        return [where.fault("load", f"a file that OpenSSL cannot load: {tried.load}")]
    if not tried.refusal:
        return []
    read = [found for block in blocks if block.label in CERTIFICATES and (found := _certificate(block))]
    leaf = read[0]
    if tried.code in _NAMES:
        names = _names(leaf)
        if not names:
            return [where.fault("no_name", f"a certificate of {_subject(leaf)} without a name of a host")]
        return [where.fault("name", f"a certificate for {', '.join(names[:8])}")]
    if tried.code in _SELF_SIGNED:
        return [where.fault("self_signed", f"a certificate that {_subject(leaf)} signed itself, and no client trusts")]
    if tried.code in _CHAIN and broken:
        return [where.fault("damaged", f"a certificate of the chain that cannot be read: {broken}")]
    if tried.code in _CHAIN and odd:
        return [where.fault("layout", f"a block that OpenSSL does not read as it stands (line {odd.line})")]
    if tried.code in _CHAIN:
        return [where.fault("chain", _gap(read))]
    for codes, key in ((_EXPIRED, "expired"), (_NOT_YET, "not_yet")):
        if tried.code in codes:
            return [where.fault(key, "in its chain a certificate that is not valid now")]
    return [where.fault("client", f"a certificate that clients refuse: {tried.refusal}")]


def _gap(read: Sequence[x509.Certificate]) -> str:
    """Where the chain of the file ends."""
    at = read[0]
    for _each in read:
        above = next((other for other in read if other.subject == at.issuer and other != at), None)
        if above is None:
            break
        at = above
    issuer = repr(at.issuer.rfc4514_string())
    if at.issuer == at.subject:
        return f"a chain to {issuer}, which is not trusted"
    return f"a chain that ends with {_subject(at)}; who signed that, {issuer}, is missing or is another"


# --- the whole -----------------------------------------------------------------------------------------------------


def faults(certificate: str, ca: str, url: str, prefix: str, content: str = "") -> list[Fault]:
    """What stands against a role's certificate; empty where all is well. A fault of ``ca`` itself is told elsewhere.

    content: where its content is, if the file itself is encrypted by Ansible Vault.
    """
    parts = urlsplit(url)
    host = parts.hostname or "" if parts.scheme == "https" else ""
    where = Where(Path(certificate), prefix, host, ca)
    path = Path(content or certificate)
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode
    except IsADirectoryError:
        return [where.fault("missing", "a folder")]
    except PermissionError:
        return [where.fault("unreadable", "a file that cannot be read")]
    except OSError as error:
        return [where.fault("missing", (error.strerror or str(error)).lower())]
    found = structure(data, where)
    trusted = _trusted(ca) if ca else ""
    if all(fault.warning for fault in found):
        with _as_haproxy_reads(path, data) as read:
            found += refused(data, try_out(read, trusted or "", host if trusted is not None else ""), where)
    if stat.S_IMODE(mode) & 0o004 and any(block.key for block in pem.blocks(data)):
        found.append(where.fault("mode", f"a private key that everybody can read (mode {stat.S_IMODE(mode):04o})"))
    return found
