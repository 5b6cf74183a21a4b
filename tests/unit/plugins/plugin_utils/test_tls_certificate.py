# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused fails in HAProxy or at a client; what is accepted works in both. Commands of messages are run."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ansible_collections.vicuna.fleet.plugins.plugin_utils import _tls_certificate as tls

NOW = datetime.now(timezone.utc)
PASSPHRASE = b"secret"
FORMAT = serialization.PrivateFormat


@functools.cache
def key(name: str, kind: str = "rsa2048") -> Any:
    """Each name has a key of its own."""
    if kind.startswith("rsa"):
        bits = int(kind[3:])
        # cryptography makes no RSA key of less than 1024 bits.
        return rsa.generate_private_key(65537, bits)
    if kind == "dsa":
        return dsa.generate_private_key(2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(
        {"p192": ec.SECP192R1(), "p224": ec.SECP224R1(), "p256": ec.SECP256R1(), "k256": ec.SECP256K1()}[kind]
    )


@dataclass(frozen=True)
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def secret(self, form: FORMAT = FORMAT.PKCS8, passphrase: bytes = b"") -> bytes:
        encryption: Any = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase)
        written: bytes = self.key.private_bytes(serialization.Encoding.PEM, form, encryption)
        return written


@functools.cache
def made(
    name: str = "edge",
    by: str = "",
    *,
    kind: str = "rsa2048",
    ca: bool = False,
    names: tuple[str, ...] | None = ("localhost",),
    days: tuple[float, float] = (-1, 60),
    purpose: bool = True,
) -> Made:
    """A certificate that ``by`` signed; an authority by another's name is signed by it: "sub.root"."""
    secret = key(name, kind)
    signer = authority(by) if by else None
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
    )
    if names and not ca:
        found = [x509.IPAddress(ipaddress.ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
    if not purpose:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    signing = signer.key if signer else secret
    digest = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Made(builder.sign(signing, digest), secret)


def authority(name: str) -> Made:
    of: dict[str, Any] = {"weak": {"kind": "rsa1024"}, "late.root": {"days": (-9, -2)}}.get(name, {})
    return made(name, name.partition(".")[2], ca=True, **of)


def signed_by(digest: str, folder: Path) -> bytes:
    """By the openssl command: cryptography signs by nothing that weak."""
    (folder / "ca.pem").write_bytes(authority("root").pem)
    (folder / "ca.key").write_bytes(authority("root").secret())
    (folder / "leaf.key").write_bytes(made(by="root").secret())
    for line in (
        "openssl req -new -key leaf.key -subj /CN=edge -addext subjectAltName=DNS:localhost -out leaf.csr",
        f"openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -{digest} -copy_extensions copy -out leaf.pem",
    ):
        subprocess.run(line.split(), cwd=folder, check=True, capture_output=True)
    return (folder / "leaf.pem").read_bytes() + made(by="root").secret()


def dh(_folder: Path) -> bytes:
    line = ["openssl", "dhparam", "-dsaparam", "512"]
    return GOOD() + subprocess.run(line, capture_output=True, check=True).stdout


def pkcs7(folder: Path) -> bytes:
    (folder / "c.pem").write_bytes(made(by="root").pem)
    line = ["openssl", "crl2pkcs7", "-nocrl", "-certfile", "c.pem"]
    return subprocess.run(line, cwd=folder, capture_output=True, check=True).stdout + made(by="root").secret()


def old(_folder: Path) -> bytes:
    """PKCS #1 and PKCS #8 are both read; so is a key in front of its certificate."""
    return made(by="root").secret(FORMAT.TraditionalOpenSSL) + made(by="root").pem


def GOOD() -> bytes:
    return made(by="root").pem + authority("root").pem + made(by="root").secret()


def one(**of: Any) -> Callable[[Path], bytes]:
    of.setdefault("by", "root")
    return lambda _folder: made(**of).pem + made(**of).secret()


def cut(data: bytes) -> bytes:
    return data.replace(b"MII", b"M!I", 1)


@dataclass(frozen=True)
class Case:
    name: str
    # The only fault; "" where the file is accepted, and then its warning may be one.
    fault: str
    content: Callable[[Path], bytes]
    says: tuple[str, ...] = ()
    # What is left to mend after the message's command: "" where nothing is, "-" where the command only shows something.
    then: str = "-"
    ca: Callable[[], bytes] | None = lambda: authority("root").pem
    host: str = "localhost"


CASES = [
    Case("certificate, chain and key", "", lambda _f: GOOD()),
    Case("certificate and key", "", one()),
    Case("key first, PKCS #1", "", old),
    Case(
        "an intermediate",
        "",
        lambda _f: made(by="sub.root").pem + authority("sub.root").pem + made(by="sub.root").secret(),
    ),
    Case(
        "intermediates in the wrong order",
        "",
        lambda _f: (
            made(by="a.b.root").pem + authority("b.root").pem + authority("a.b.root").pem + made(by="a.b.root").secret()
        ),
    ),
    Case("a chain of another", "", lambda _f: made(by="root").pem + authority("other").pem + made(by="root").secret()),
    Case("EC", "", one(kind="p256", name="ec")),
    Case("P-224", "weak_key", one(kind="p224", name="p224"), ("secp224r1",)),
    Case("a curve that no client has", "client", one(kind="k256", name="k256")),
    Case("Ed25519", "", one(kind="ed25519", name="ed")),
    Case("RSA of 2047 bits", "", one(kind="rsa2047", name="r2047")),
    Case("CRLF", "", lambda _f: GOOD().replace(b"\n", b"\r\n")),
    Case("a byte order mark", "", lambda _f: b"\xef\xbb\xbf" + GOOD()),
    Case("text between", "", lambda _f: b"Bag Attributes\n  a: b\n" + GOOD()),
    Case("no newline at the end", "", lambda _f: GOOD().rstrip()),
    Case("DH parameters", "", dh),
    Case("its own key twice", "", lambda _f: GOOD() + made(by="root").secret()),
    Case("another key behind", "", lambda _f: GOOD() + authority("root").secret()),
    Case("an address", "", one(name="ip", names=("127.0.0.1",)), host="127.0.0.1"),
    Case("signed by itself, and trusted", "", one(name="self", by=""), ca=lambda: made(name="self", by="").pem),
    Case(
        "a damaged certificate that nobody needs",
        "",
        lambda _f: made(by="root").pem + cut(authority("root").pem) + made(by="root").secret(),
    ),
    Case(
        "a CA's certificate", "no_name", lambda _f: authority("root").pem + authority("root").secret(), ("'CN=root'",)
    ),
    # What HAProxy does not start with.
    Case("certificate alone", "no_key", lambda _f: made(by="root").pem, ("a certificate alone",), ""),
    Case(
        "certificate and chain alone",
        "no_key",
        lambda _f: made(by="root").pem + authority("root").pem,
        ("its chain alone",),
        "",
    ),
    Case(
        "certificate and public key",
        "no_key",
        lambda _f: (
            made(by="root").pem
            + made(by="root")
            .key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        ),
        (),
        "",
    ),
    Case("key alone", "no_certificate", lambda _f: made(by="root").secret(), ("no certificate, but PRIVATE KEY",), ""),
    Case(
        "encrypted PKCS #8",
        "encrypted",
        lambda _f: made(by="root").pem + made(by="root").secret(passphrase=PASSPHRASE),
        ("encrypted (line 19)",),
        "",
    ),
    Case(
        "encrypted PKCS #1",
        "encrypted",
        lambda _f: (
            made(by="root").pem + authority("root").pem + made(by="root").secret(FORMAT.TraditionalOpenSSL, PASSPHRASE)
        ),
        (),
        "",
    ),
    Case(
        "OpenSSH's form", "openssh_key", lambda _f: made(by="root").pem + made(by="root").secret(FORMAT.OpenSSH), (), ""
    ),
    Case("key of another", "other_key", lambda _f: made(by="root").pem + authority("root").secret(), ("'CN=edge'",)),
    Case(
        "another key in front",
        "second_key",
        lambda _f: made(by="root").pem + authority("root").secret() + made(by="root").secret(),
        ("2 private keys",),
        "",
    ),
    Case(
        "CA first",
        "order",
        lambda _f: authority("root").pem + made(by="root").pem + made(by="root").secret(),
        ("'CN=root' first", "'CN=edge', behind it"),
        "",
    ),
    Case(
        "no newline between certificate and chain",
        "layout",
        lambda _f: made(by="root").pem.rstrip() + authority("root").pem + made(by="root").secret(),
        ("line 1",),
        "",
    ),
    Case(
        "no newline before the key",
        "layout",
        lambda _f: made(by="root").pem.rstrip() + made(by="root").secret(),
        (),
        "",
    ),
    Case(
        "no newline within the chain",
        "layout",
        lambda _f: made(by="sub.root").pem + made(by="sub.root").secret().rstrip() + authority("sub.root").pem,
        (),
        "",
    ),
    Case("all in one line", "layout", lambda _f: GOOD().replace(b"\n", b""), (), ""),
    Case("all in one line with blanks", "layout", lambda _f: GOOD().replace(b"\n", b" "), (), ""),
    Case("indented", "layout", lambda _f: b"  " + GOOD().replace(b"\n", b"\n  "), (), ""),
    Case("old Mac line ends", "layout", lambda _f: GOOD().replace(b"\n", b"\r"), (), ""),
    Case("UTF-16", "layout", lambda _f: GOOD().decode().encode("utf-16"), (), ""),
    Case("escaped line ends", "layout", lambda _f: GOOD().replace(b"\n", b"\\n"), ("line 1",), then=""),
    Case("a damaged certificate", "damaged", lambda _f: cut(GOOD()), ("line 2", "'!'")),
    Case("a damaged key", "damaged", lambda _f: made(by="root").pem + cut(made(by="root").secret()), ("line 20",)),
    Case("cut short", "damaged", lambda _f: GOOD()[:-100], ("no END",)),
    Case(
        "a certificate that is none",
        "damaged",
        lambda _f: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + made(by="root").secret(),
    ),
    Case(
        "a key that is none",
        "key",
        lambda _f: made(by="root").pem + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ),
    Case("DER", "der_certificate", lambda _f: made(by="root").der, (), "no_key"),
    Case(
        "a key in DER",
        "der_key",
        lambda _f: made(by="root").key.private_bytes(
            serialization.Encoding.DER, FORMAT.PKCS8, serialization.NoEncryption()
        ),
        (),
        "no_certificate",
    ),
    Case(
        "PKCS #12",
        "pkcs12",
        lambda _f: pkcs12.serialize_key_and_certificates(
            b"x",
            made(by="root").key,
            made(by="root").certificate,
            [authority("root").certificate],
            serialization.BestAvailableEncryption(PASSPHRASE),
        ),
        (),
        "",
    ),
    Case("PKCS #7", "pkcs7", pkcs7, (), "no_key"),
    Case("empty", "not_pem", lambda _f: b"", ("Found: empty",)),
    Case("a page", "not_pem", lambda _f: b"<!DOCTYPE html><html>", ("web page",)),
    Case("RSA of 1024 bits", "weak_key", one(kind="rsa1024", name="r1024"), ("1024 bits",)),
    Case("RSA of 1952 bits", "weak_key", one(kind="rsa1952", name="r1952"), ("1952 bits",)),
    Case("P-192", "weak_key", one(kind="p192", name="p192"), ("secp192r1",)),
    Case("SHA-1", "weak_signature", functools.partial(signed_by, "sha1"), ("SHA1",)),
    Case("MD5", "weak_signature", functools.partial(signed_by, "md5"), ("MD5",)),
    Case(
        "a weak authority in the file",
        "weak_key",
        lambda _f: made("edge", "weak").pem + authority("weak").pem + made("edge", "weak").secret(),
    ),
    # What a client refuses.
    Case("expired", "expired", one(days=(-9, -2)), ("ended on",)),
    Case("not yet valid", "not_yet", one(days=(2, 9)), ("begins on",)),
    Case(
        "an expired intermediate",
        "expired",
        lambda _f: made(by="late.root").pem + authority("late.root").pem + made(by="late.root").secret(),
        ("in its chain",),
    ),
    Case(
        "another name",
        "name",
        one(name="other", names=("api.example.org", "10.0.0.1")),
        ("api.example.org, 10.0.0.1", "the host of fastchat_endpoint_url, localhost"),
    ),
    Case("a name for an address", "name", one(), ("localhost", "127.0.0.1"), host="127.0.0.1"),
    Case("no name", "no_name", one(name="localhost", names=None), ("'CN=localhost'",)),
    Case("a missing intermediate", "chain", one(by="sub.root"), ("'CN=edge'", "'CN=sub.root', is missing")),
    Case(
        "a damaged intermediate",
        "damaged",
        lambda _f: made(by="sub.root").pem + made(by="sub.root").secret() + cut(authority("sub.root").pem),
        ("of the chain",),
    ),
    Case(
        "another authority",
        "chain",
        lambda _f: GOOD(),
        ("'CN=root', which is not trusted",),
        ca=lambda: authority("other").pem,
    ),
    Case("signed by itself", "self_signed", one(name="self", by=""), ("signed itself",), "trusted", ca=None),
    Case("no authority given", "chain", lambda _f: GOOD(), ("those that the control node trusts",), ca=None),
    Case("for clients", "client", one(name="user", purpose=False), ("purpose",)),
    Case("DSA", "key_type", one(kind="dsa", name="dsa")),
]
# Their inputs are not a file's content; they have tests of their own below.
ELSEWHERE = {"missing", "unreadable", "load", "soon", "mode"}


def test_every_fault_has_an_input_that_provokes_it() -> None:
    assert {case.fault for case in CASES if case.fault} | ELSEWHERE == tls.REMEDIES.keys()


def prepare(case: Case, folder: Path) -> tuple[Path, str]:
    path = folder / "edge's tls.pem"
    path.write_bytes(case.content(folder))
    path.chmod(0o600)
    ca = folder / "authority.pem"
    if case.ca:
        ca.write_bytes(case.ca())
    return path, str(ca) if case.ca else ""


def found(path: Path, ca: str, host: str = "localhost") -> list[tls.Fault]:
    return tls.faults(str(path), ca, f"https://{host}:8000", "fastchat")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_told(tmp_path: Path, case: Case) -> None:
    path, ca = prepare(case, tmp_path)
    said = found(path, ca, case.host)
    assert [fault.key for fault in said] == ([case.fault] if case.fault else [])
    for piece in (*case.says, "Found: ", "Expected: ", "Remedy: ") if said else ():
        assert piece in said[0].message


def works(path: Path, ca: str, host: str) -> bool:
    """Whether HAProxy takes the file, bound as the edge binds it, and a client as the callback's gets an answer."""
    plain = path.with_name("tls.pem")
    plain.write_bytes(path.read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = path.with_name("haproxy.cfg")
    config.write_text(
        "defaults\n mode http\n timeout client 9s\n timeout server 9s\n timeout connect 9s\nfrontend edge\n"
        f" bind 127.0.0.1:{port} ssl crt {plain} alpn http/1.1 ssl-min-ver TLSv1.2\n http-request return status 200\n"
    )
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(config)], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    if checked.returncode:
        return False
    with subprocess.Popen(
        ["haproxy", "-f", str(config)], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as server:
        try:
            until = time.monotonic() + 30
            while time.monotonic() < until:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.02)
            asked = requests.get(f"https://{host}:{port}", verify=ca or True, timeout=10)
        except requests.exceptions.SSLError:
            return False
        except OSError as error:
            # requests does not load a CA file with nothing in it.
            assert "invalid path" in str(error) or "TLS CA" in str(error) or isinstance(error, ssl.SSLError), error
            return False
        finally:
            server.terminate()
    return asked.status_code == 200


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy on this machine: install the package haproxy")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_what_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    path, ca = prepare(case, tmp_path)
    assert works(path, ca, case.host) == (not case.fault)


def run(message: str, folder: Path) -> None:
    command = re.search(r"`(.*)`", message, re.DOTALL)
    assert command
    # Passphrases are asked of the terminal; without one, of the input.
    done = subprocess.run(
        ["sh", "-ec", command[1]],
        cwd=folder,
        input=PASSPHRASE + b"\n",
        capture_output=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.fault and tls.REMEDIES[case.fault].command], ids=lambda case: case.name
)
def test_what_a_message_says_mends(tmp_path: Path, case: Case) -> None:
    path, ca = prepare(case, tmp_path)
    before = path.read_bytes()
    (tmp_path / "KEY").write_bytes(made(by="root").secret())
    (tmp_path / "CERTIFICATE").write_bytes(made(by="root").pem.rstrip())
    (fault,) = found(path, ca, case.host)
    if "-f " in fault.message and shutil.which("ssh-keygen") is None and case.fault == "openssh_key":
        pytest.skip("no ssh-keygen on this machine")
    run(fault.message, tmp_path)
    if tls.REMEDIES[case.fault].command == tls._REQUEST:
        request = x509.load_pem_x509_csr((tmp_path / f"{case.host}.csr").read_bytes())
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(name.value) for name in names] == [case.host]
    if case.then == "-":
        assert path.read_bytes() == before
        return
    if case.then == "trusted":
        assert found(path, f"{path}.ca.pem") == []
        return
    assert [fault.key for fault in found(path, ca, case.host)] == ([case.then] if case.then else [])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name(f"{path.name}.~1~").read_bytes() == before, "what it was before is kept"


def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [fault.key for fault in found(tmp_path / "none.pem", "")] == ["missing"]
    assert [fault.key for fault in found(tmp_path, "")] == ["missing"]

    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    path = tmp_path / "tls.pem"
    path.touch(mode=0o000)
    (fault,) = found(path, "")
    assert fault.key == "unreadable"
    run(fault.message, tmp_path)
    assert path.stat().st_mode & 0o400


def test_what_openssl_alone_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    where = tls.Where(tmp_path / "tls.pem", "fastchat", "localhost")
    (fault,) = tls.refused(GOOD(), tls.Tried(load="EE_KEY_TOO_SMALL"), where)
    assert fault.key == "load"
    assert "EE_KEY_TOO_SMALL" in fault.message


@pytest.mark.parametrize(("left", "keys"), [(8, []), (6, ["soon"]), (0.1, ["soon"]), (-0.1, ["expired"])])
def test_the_end_is_told_a_week_before(tmp_path: Path, left: float, keys: list[str]) -> None:
    """By a clock of its own."""
    where = tls.Where(tmp_path / "tls.pem", "fastchat", "localhost", now=NOW + timedelta(days=60 - left))
    said = tls.structure(GOOD(), where)
    assert [fault.key for fault in said] == keys
    assert [fault.warning for fault in said] == [key == "soon" for key in keys]
    for fault in said:
        run(fault.message, tmp_path)


def test_a_key_that_all_can_read_is_told(tmp_path: Path) -> None:
    path, ca = prepare(CASES[0], tmp_path)
    path.chmod(0o644)
    (fault,) = found(path, ca)
    assert (fault.key, fault.warning) == ("mode", True)
    run(fault.message, tmp_path)
    assert found(path, ca) == []


def test_of_a_url_without_tls_no_name_is_asked(tmp_path: Path) -> None:
    path, _ca = prepare(CASES[0], tmp_path)
    assert tls.faults(str(path), "", "http://elsewhere:8000", "gateway") == []


def test_the_variables_are_the_roles(tmp_path: Path) -> None:
    (fault,) = tls.faults(str(tmp_path / "none.pem"), "", "https://localhost", "gateway")
    assert fault.message.startswith(f"gateway_tls_certificate is {tmp_path}/none.pem. Found: no such file")
    assert fault.message.endswith("Remedy: correct gateway_tls_certificate.")


def test_the_store_is_the_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    assert tls.trust_store() == requests.certs.where()  # type: ignore[attr-defined]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.devnull)
    assert tls.trust_store() == os.devnull


def test_a_bad_ca_file_is_not_told_here(tmp_path: Path) -> None:
    """Its own reader tells, and what else is wrong with the certificate stays to be told."""
    path, ca = prepare(CASES[0], tmp_path)
    Path(ca).write_bytes(b"")
    assert found(path, ca) == []
    path.write_bytes(made(by="root").pem)
    assert [fault.key for fault in found(path, ca)] == ["no_key"]
