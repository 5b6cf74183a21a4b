# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What git, git-lfs, curl and ssh mean by what they say."""
# ruff: noqa: E501 - lines as the programs write them

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import (
    GitLfsError,
    Problem,
    classify_git_error,
    last_line,
    status_fault,
    text_fault,
    without_secrets,
)

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
U = "fatal: unable to access 'https://h/a/': "
POST = 'batch request: Post "https://h/a.git/info/lfs/objects/batch": '
FETCH = "\nerror: failed to fetch some objects from 'https://h/a.git/info/lfs'"
CUT = "\nfatal: the remote end hung up unexpectedly\nfatal: early EOF\nfatal: index-pack failed"

# Fault, what was said, and, where it is not the first line, what of it has to be told.
# git 2.7 to 2.50 with curl 7.47 to 8.15 (OpenSSL, GnuTLS, LibreSSL, schannel), git-lfs 1.5 to 3.7.
SAID = [
    ("dns", f"{U}Could not resolve host: x.invalid"),
    ("dns", f"{U}Could not resolve host: h (Timeout while contacting DNS servers)"),
    ("dns", f"{U}getaddrinfo() thread failed to start"),
    ("dns", "batch request: dial tcp: lookup x.invalid on 10.0.0.2:53: no such host"),
    ("dns", f"{POST}dial tcp: lookup h on 127.0.0.53:53: server misbehaving"),
    ("dns", f"{POST}dial tcp: lookup h: i/o timeout"),
    ("dns", "ssh: Could not resolve hostname h: Temporary failure in name resolution"),
    ("dns", "fatal: unable to look up h (port 9418) (Name or service not known)"),
    ("proxy", f"{U}Could not resolve proxy: proxy.example"),
    ("proxy", f"{U}Received HTTP code 407 from proxy after CONNECT"),
    ("proxy", f"{U}Received HTTP code 503 from proxy after CONNECT"),
    ("proxy", f"{U}CONNECT tunnel failed, response 403"),
    ("proxy", f"{U}Proxy CONNECT aborted"),
    ("proxy", f"{U}Proxy CONNECT aborted due to timeout"),
    ("proxy", f"{U}Unsupported proxy syntax in 'http://a b'"),
    ("proxy", f"{U}Unsupported proxy scheme for 'https://p', libcurl is built without the HTTPS-proxy support."),
    ("proxy", f"{U}Can't complete SOCKS5 connection to h. (1)"),
    ("proxy", f"{U}The requested URL returned error: 407"),
    ("proxy", f"{POST}proxyconnect tcp: dial tcp 10.0.0.1:3128: connect: connection refused"),
    ("proxy", f"{POST}proxyconnect tcp: tls: first record does not look like a TLS handshake"),
    *(("proxy", f"{POST}{status}") for status in ("Proxy Authentication Required", "Forbidden", "Service Unavailable")),
    (
        "connection",
        "fatal: unable to access 'http://127.0.0.1:1/a/': Failed to connect to 127.0.0.1 port 1 after 0 ms: "
        "Couldn't connect to server",
    ),
    ("connection", f"{U}Failed to connect to h port 443: Connection timed out"),
    ("connection", f"{U}Failed to connect to h port 443: No route to host"),
    ("connection", f"{U}Connection timed out after 300012 milliseconds"),
    ("connection", "LFS: dial tcp 127.0.0.1:9: connect: connection refused"),
    ("connection", f"{POST}dial tcp 10.0.0.1:443: i/o timeout"),
    ("connection", "ssh: connect to host h port 22: Connection refused\nfatal: Could not read from remote repository."),
    # A connection that was cut before there was an answer.
    ("cut", f"{U}OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to h:443 "),
    ("cut", f"{U}LibreSSL SSL_connect: SSL_ERROR_SYSCALL in connection to h:443"),
    ("cut", f"{U}OpenSSL SSL_connect: Connection reset by peer in connection to h:443 "),
    ("cut", f"{U}OpenSSL SSL_read: Connection was reset, errno 10054"),
    ("cut", f"{U}OpenSSL SSL_read: SSL_ERROR_SYSCALL, errno 104"),
    ("cut", f"{U}OpenSSL SSL_read: error:0A000126:SSL routines::unexpected eof while reading, errno 0"),
    ("cut", f"{U}TLS connect error: error:0A000126:SSL routines::unexpected eof while reading"),
    ("cut", f"{U}TLS connect error: error:00000000:lib(0)::reason(0)"),
    ("cut", f"{U}error:02FFF036:system library:func(4095):Connection reset by peer"),
    ("cut", f"{U}gnutls_handshake() failed: The TLS connection was non-properly terminated."),
    ("cut", f"{U}gnutls_handshake() failed: Error in the pull function."),
    ("cut", f"{U}gnutls_handshake() failed: Error in the push function."),
    ("cut", f"{U}gnutls_handshake() failed: A TLS packet with unexpected length was received."),
    ("cut", f"{U}GnuTLS recv error (-110): The TLS connection was non-properly terminated."),
    ("cut", f"{U}GnuTLS, handshake failed: The TLS connection was non-properly terminated."),
    ("cut", f"{U}schannel: failed to receive handshake, SSL/TLS connection failed"),
    ("cut", f"{U}Recv failure: Connection was reset"),
    ("cut", f"{U}Recv failure: Connection reset by peer"),
    ("cut", f"{U}Send failure: Broken pipe"),
    ("cut", f"{U}Empty reply from server"),
    ("cut", f"{U}HTTP/2 stream 1 was not closed cleanly before end of the underlying stream"),
    ("cut", f"{U}HTTP/2 stream 0 was not closed cleanly: PROTOCOL_ERROR (err 1)"),
    ("cut", f"{U}Error in the HTTP/2 framing layer"),
    ("cut", f"{POST}EOF{FETCH}"),
    ("cut", f"{POST}set tcp 127.0.0.1:39394: use of closed network connection"),
    ("cut", f"{POST}read tcp 10.0.0.1:5->10.0.0.2:443: read: connection reset by peer"),
    ("cut", f"{POST}http2: server sent GOAWAY and closed the connection; LastStreamID=1"),
    ("cut", f"{POST}stream error: stream ID 3; INTERNAL_ERROR; received from peer"),
    (
        "cut",
        "kex_exchange_identification: Connection closed by remote host\nfatal: Could not read from remote repository.",
    ),
    # One that broke while data came.
    ("interrupted", f"error: RPC failed; curl 56 GnuTLS recv error (-54): Error in the pull function.{CUT}"),
    (
        "interrupted",
        f"error: RPC failed; curl 56 GnuTLS recv error (-110): The TLS connection was non-properly terminated.{CUT}",
    ),
    ("interrupted", f"error: RPC failed; curl 56 GnuTLS recv error (-24): Decryption has failed.{CUT}"),
    ("interrupted", f"error: RPC failed; curl 56 GnuTLS recv error (-9): Error decoding the received TLS packet.{CUT}"),
    ("interrupted", f"error: RPC failed; curl 56 OpenSSL SSL_read: SSL_ERROR_SYSCALL, errno 10054{CUT}"),
    (
        "interrupted",
        f"error: RPC failed; curl 56 LibreSSL SSL_read: error:1404C3FC:SSL routines:ST_OK:sslv3 alert bad record mac, errno 0{CUT}",
    ),
    ("interrupted", f"error: RPC failed; curl 56 Recv failure: Connection timed out{CUT}"),
    ("interrupted", f"error: RPC failed; curl 18 transfer closed with outstanding read data remaining{CUT}"),
    ("interrupted", "error: RPC failed; curl 18 transfer closed\nfatal: early EOF"),
    (
        "interrupted",
        "error: RPC failed; curl 92 HTTP/2 stream 5 was not closed cleanly: CANCEL (err 8)\n"
        "error: 8069 bytes of body are still expected\nfetch-pack: unexpected disconnect while reading sideband packet",
    ),
    ("interrupted", "error: RPC failed; HTTP 499 curl 18 HTTP/2 stream 7 was reset"),
    ("interrupted", "fatal: the remote end hung up unexpectedly"),
    ("interrupted", f"{U}transfer closed with 4966 bytes remaining to read"),
    ("interrupted", "LFS: unexpected EOF"),
    (
        "timeout",
        "error: RPC failed; curl 28 Operation too slow. Less than 1 bytes/sec transferred the last 120 seconds",
    ),
    ("timeout", f"{U}Operation timed out after 300000 milliseconds with 0 bytes received"),
    ("timeout", f"{U}SSL connection timeout"),
    ("timeout", 'Get "https://h/x": net/http: request canceled (Client.Timeout exceeded while awaiting headers)'),
    ("timeout", f"{POST}net/http: TLS handshake timeout"),
    ("timeout", f"{POST}context deadline exceeded (Client.Timeout exceeded while awaiting headers)"),
    ("timeout", f"{POST}read tcp 10.0.0.1:5->10.0.0.2:443: i/o timeout"),
    # TLS itself.
    ("tls", f"{U}server certificate verification failed. CAfile: none CRLfile: none"),
    (
        "tls",
        f"{U}server verification failed: certificate signer not trusted. (CAfile: /etc/ssl/certs/x.crt CRLfile: none)",
    ),
    ("tls", f"{U}SSL certificate problem: unable to get local issuer certificate"),
    ("tls", f"{U}SSL certificate problem: self-signed certificate in certificate chain"),
    ("tls", f"{U}SSL certificate problem: self signed certificate"),
    ("tls", f"{U}Peer's Certificate issuer is not recognized."),
    ("tls", f"{POST}tls: failed to verify certificate: x509: certificate signed by unknown authority"),
    ("tls", f"{POST}x509: certificate signed by unknown authority"),
    ("tls_date", f"{U}SSL certificate problem: certificate has expired"),
    ("tls_date", f"{U}SSL certificate problem: certificate is not yet valid"),
    ("tls_date", f"{U}server certificate expiration date has passed."),
    (
        "tls_date",
        f"{POST}tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time",
    ),
    ("tls_name", f"{U}SSL: no alternative certificate subject name matches target host name 'h'"),
    ("tls_name", f"{U}SSL: no alternative certificate subject name matches target ipv4 address '10.0.0.1'"),
    ("tls_name", f"{U}SSL: certificate subject name (x) does not match target host name 'h'"),
    ("tls_name", f"{U}SSL: unable to obtain common name from peer certificate, no subject alternative name"),
    ("tls_name", f"{POST}tls: failed to verify certificate: x509: certificate is valid for x, not h"),
    ("tls_name", f"{POST}x509: cannot validate certificate for 10.0.0.1 because it doesn't contain any IP SANs"),
    ("tls_protocol", f"{U}error:1408F10B:SSL routines:ssl3_get_record:wrong version number"),
    ("tls_protocol", f"{U}OpenSSL/3.0.13: error:0A00010B:SSL routines::wrong version number"),
    ("tls_protocol", f"{U}TLS connect error: error:0A000438:SSL routines::tlsv1 alert internal error"),
    ("tls_protocol", f"{U}error:0A00042E:SSL routines::tlsv1 alert protocol version"),
    ("tls_protocol", f"{U}error:14094410:SSL routines:ssl3_read_bytes:sslv3 alert handshake failure"),
    ("tls_protocol", f"{U}gnutls_handshake() failed: Handshake failed"),
    ("tls_protocol", f"{U}gnutls_handshake() failed: An unexpected TLS packet was received."),
    ("tls_protocol", f"{U}gnutls_handshake() failed: A TLS fatal alert has been received."),
    ("tls_protocol", f"{U}Received HTTP/0.9 when not allowed"),
    ("tls_protocol", f"{POST}remote error: tls: handshake failure"),
    ("tls_protocol", f"{POST}http: server gave HTTP response to HTTPS client"),
    ("tls_protocol", f"{POST}tls: first record does not look like a TLS handshake"),
    ("tls_client", f"{U}OpenSSL SSL_read: error:0A00045C:SSL routines::tlsv13 alert certificate required, errno 0"),
    ("tls_client", f"{U}GnuTLS recv error (-12): A TLS fatal alert has been received."),
    ("tls_client", f"{POST}remote error: tls: bad certificate"),
    ("tls_bundle", f"{U}error setting certificate verify locations:  CAfile: /no/such.pem CApath: none"),
    ("tls_bundle", f"{U}error setting certificate file: /no/such.pem"),
    # Who asks.
    ("credentials", "fatal: could not read Username for 'https://huggingface.co': terminal prompts disabled"),
    ("credentials", "fatal: could not read Username for 'https://huggingface.co': No such device or address"),
    (
        "credentials",
        "remote: Invalid username or password.\nfatal: Authentication failed for 'https://huggingface.co/a/'",
    ),
    ("credentials", "remote: HTTP Basic: Access denied\nfatal: Authentication failed for 'https://gitlab.example/a/'"),
    (
        "credentials",
        "remote: Support for password authentication was removed on August 13, 2021.\nfatal: Authentication failed for 'x'",
    ),
    (
        "credentials",
        "batch response: Authentication required: Authorization error: http://h/a.git/info/lfs/objects/batch\n"
        "Check that you have proper access to the repository",
    ),
    ("credentials", "batch response: Git credentials for https://h/a.git not found."),
    ("ssh_key", "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository."),
    ("ssh_key", "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures"),
    (
        "host_key",
        "No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
    ),
    ("host_key", "Host key verification failed.\nfatal: Could not read from remote repository."),
    ("host_key_changed", "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed."),
    ("forbidden", f"{U}The requested URL returned error: 403"),
    ("forbidden", "remote: Permission to o/r.git denied to user.\n" + f"{U}The requested URL returned error: 403"),
    ("forbidden", f"batch response: Access forbidden. Check your access level.{FETCH}"),
    (
        "forbidden",
        "batch response: Authorization error: http://h/a.git/info/lfs/objects/batch\n"
        "Check that you have proper access to the repository",
    ),
    (
        "licence",
        "remote: Access to model a/b is restricted and you are not in the authorized list. Visit https://h to ask for access.\n"
        f"{U}The requested URL returned error: 403",
    ),
    (
        "licence",
        "remote: Access to model a/b is restricted. You must have access to it and be authenticated to access it. "
        "Please log in.\nfatal: Authentication failed for 'https://huggingface.co/a/b/'",
    ),
    (
        "licence",
        "remote: Your request to access model a/b is awaiting a review from the repo authors.\n" + f"{U}error: 403",
    ),
    # What it gives.
    (
        "quota",
        f"batch response: This repository is over its data quota. Purchase more data packs to restore access.{FETCH}",
    ),
    (
        "quota",
        "batch response: This repository is over its data quota. Account responsible for LFS bandwidth should purchase more "
        f"data packs to restore access.{FETCH}",
    ),
    (
        "quota",
        "Error downloading object: a.bin (e9ea38b): Smudge error: Error downloading a.bin: batch response: This repository "
        "exceeded its LFS budget. The account responsible for the budget should increase it to restore access.\n"
        "error: external filter 'git-lfs filter-process' failed\nfatal: a.bin: smudge filter lfs failed",
    ),
    ("quota", f"batch response: Bandwidth limit exceeded: https://h/a.git/info/lfs/objects/batch{FETCH}"),
    ("quota", f"LFS: Insufficient server storage: https://h/a{FETCH}"),
    ("quota", f"LFS: Client error: https://h/objects/{OID} from HTTP 402{FETCH}"),
    ("quota", f"[{OID}] Quota exceeded: [509] limit{FETCH}"),
    ("quota", "remote: Your action was rejected: the namespace storage limit has been reached.\n" + f"{U}error: 403"),
    ("rate_limit", f"batch response: Rate limit exceeded: https://h/a.git/info/lfs/objects/batch{FETCH}"),
    ("rate_limit", "batch response: API rate limit exceeded for 172.16.40.28. (But here's the good news: ...)"),
    (
        "rate_limit",
        "remote: This request was rate-limited due to too many requests. Reduce the frequency of your requests.\n"
        f"{U}The requested URL returned error: 429",
    ),
    ("rate_limit", f"{U}The requested URL returned error: 429"),
    ("rate_limit", "remote: We had to rate limit your IP (10.0.0.1). To continue, log in.\n" + f"{U}error: 403"),
    ("rate_limit", "error: RPC failed; HTTP 429 curl 22 The requested URL returned error: 429\nfatal: early EOF"),
    ("too_large", "error: RPC failed; HTTP 413 curl 22 The requested URL returned error: 413\nfatal: early EOF"),
    ("too_large", f"LFS: Client error: https://h/o/r/objects/{OID} from HTTP 413{FETCH}"),
    ("lfs_disabled", "batch response: Git LFS is disabled for this repository."),
    ("lfs_disabled", "batch response: Git LFS is not enabled on this GitLab server, contact your admin."),
    ("web_page", f'batch response: Expected json type, got: "text/html; charset=utf-8"{FETCH}'),
    ("web_page", f"batch response: invalid character '<' looking for beginning of value{FETCH}"),
    (
        "redirect",
        "fatal: unable to update url base from redirection:\n  asked for: https://h/a/info/refs?service=git-upload-pack\n"
        "   redirect: https://login.example/sso",
    ),
    ("redirect", f"{U}Maximum (20) redirects followed"),
    # The repository.
    ("repository_not_found", "fatal: repository 'http://h/a/' not found"),
    ("repository_not_found", "remote: Repository not found\nfatal: repository 'https://huggingface.co/a/b/' not found"),
    ("repository_not_found", "fatal: '/srv/a' does not appear to be a git repository"),
    ("repository_not_found", "fatal: https://h/a/info/refs not valid: is this a git repository?"),
    (
        "repository_not_found",
        "fatal: https://h/a/info/refs not valid: could not determine hash algorithm; is this a git repository?",
    ),
    (
        "repository_not_found",
        "remote: The project you were looking for could not be found or you don't have permission.",
    ),
    ("revision_not_found", "fatal: couldn't find remote ref nowhere"),
    ("revision_not_found", "fatal: remote error: upload-pack: not our ref 0000000000000000000000000000000000000000"),
    ("revision_not_found", "error: Server does not allow request for unadvertised object 1234"),
    ("lfs_object_missing", f"[{OID}] Object does not exist{FETCH}"),
    (
        "lfs_object_missing",
        f"[{OID}] Object does not exist on the server or you don't have permissions to access it: [404] Object does not "
        f"exist on the server{FETCH}",
    ),
    ("lfs_object_missing", f"Error downloading object: a.bin (e9ea38b): Smudge error: Error downloading a.bin ({OID})"),
    (
        "lfs_server_missing",
        "batch response: Repository or object not found: http://h/a.git/info/lfs/objects/batch\nCheck",
    ),
    ("damaged_transfer", f"LFS: expected OID {OID}, got 8e2c after 76800 bytes written"),
    ("server", f"{U}The requested URL returned error: 502"),
    ("server", f"{U}The requested URL returned error: 522"),
    ("server", "batch response: Fatal error: Server error: http://h/a.git/info/lfs/objects/batch"),
    ("server", "remote: GitLab is currently unable to handle this request due to load."),
    ("server", "remote: fatal: write error: No space left on device\nerror: RPC failed; HTTP 500 curl 22 x"),
    ("url", "git: 'remote-foo' is not a git command\nfatal: unable to find remote helper for 'foo'"),
    ("url", f"{U}URL using bad/illegal format or missing URL"),
    # This host.
    ("disk_full", "error: unable to write file model.bin: No space left on device"),
    ("disk_full", "write /model/x/.git/lfs/incomplete/4d.part: no space left on device"),
    ("disk_full", "fatal: write error: Disk quota exceeded"),
    ("read_only", "fatal: could not create work tree dir 'x': Read-only file system"),
    ("permission", "fatal: could not create work tree dir 'x': Permission denied"),
    ("permission", "error: cannot open '.git/FETCH_HEAD': Permission denied"),
    ("permission", "error: insufficient permission for adding an object to repository database .git/objects"),
    ("permission", "mkdir /model/.lfs/tmp: permission denied"),
    ("memory", "fatal: Out of memory, malloc failed (tried to allocate 524288000 bytes)"),
    ("memory", "error: index-pack died of signal 9\nfatal: index-pack failed"),
    ("git_lfs_missing", "git: 'lfs' is not a git command. See 'git --help'."),
    ("git_lfs_missing", "git-lfs filter-process: 1: git-lfs: not found\nfatal: the remote end hung up unexpectedly"),
    ("git_missing", 'Error: exec: "git": executable file not found in $PATH'),
    ("git_https_missing", "git: 'remote-https' is not a git command. See 'git --help'."),
    ("git_https_missing", "fatal: unable to find remote helper for 'https'"),
    ("ssh_missing", "error: cannot run ssh: No such file or directory\nfatal: unable to fork"),
    ("git_lock", "fatal: Unable to create '/model/x/.git/index.lock': File exists."),
    (
        "git_lock",
        "fatal: Unable to create '/model/x/.git/shallow.lock': File exists.\nAnother git process seems to be running",
    ),
    ("dubious_ownership", "fatal: detected dubious ownership in repository at '/model/x'"),
    ("dubious_ownership", "fatal: unsafe repository ('/model/x' is owned by someone else)"),
    ("damaged_repository", "error: object file .git/objects/ab/cd is empty\nfatal: loose object abcd is corrupt"),
    ("damaged_repository", "fatal: bad config line 1 in file .git/config"),
    # Words that other versions, libraries and hosters have for the same.
    ("cut", f"{U}Failure when receiving data from the peer"),
    ("cut", f"{U}Failed sending data to the peer"),
    ("cut", 'LFS: Get "https://cdn.example/x": http2: client connection lost'),
    (
        "cut",
        "LFS: read tcp 10.0.0.1:4->10.0.0.2:443: wsarecv: An existing connection was forcibly closed by the remote host.",
    ),
    (
        "cut",
        f"{POST}http2: Transport: cannot retry err [stream error] after Request.Body was written; define Request.GetBody",
    ),
    (
        "interrupted",
        "error: RPC failed; curl 16 Error in the HTTP2 framing layer\nfatal: expected flush after ref listing",
    ),
    ("interrupted", "fatal: expected flush after ref listing"),
    ("web_page", "fatal: protocol error: bad line length character: <!DO"),
    ("web_page", "fatal: protocol error: bad line length character: <htm"),
    ("proxy", f"{U}HTTP/1.1 proxy connection closed"),
    ("proxy", f"{U}CONNECT phase completed"),
    ("tls_protocol", f"{U}OpenSSL/3.0.11: error:0A0000C6:SSL routines::packet length too long"),
    ("tls_protocol", f"{U}SSL received a record that exceeded the maximum permissible length."),
    ("credentials", "batch response: This repository requires authentication"),
    (
        "licence",
        "remote: You need to agree to share your contact information to access this model.\n" + f"{U}error: 403",
    ),
    ("quota", "batch response: Repository or its parent has reached its LFS size quota"),
    ("quota", "batch response: Your account is over the Git LFS storage limit."),
    ("quota", "batch response: You've reached your data transfer limit"),
    ("quota", "batch response: LFS locked due to storage limits exceeded"),
    ("rate_limit", "batch response: Rate exceeded."),
    ("lfs_server_missing", "batch response: Not Implemented: https://h/a.git/info/lfs/objects/batch"),
    ("revision_not_found", f"fatal: remote error: want {OID[:40]} not valid"),
    ("revision_not_found", f"error: no such remote ref {OID[:40]}"),
    ("damaged_transfer", "fatal: pack has bad object at offset 1123: inflate returned 1\nfatal: index-pack failed"),
    ("dumb_http", "fatal: dumb http transport does not support shallow capabilities"),
    ("url", 'batch request: missing protocol: ""'),
    (
        "ssh_algorithm",
        "Unable to negotiate with 10.0.0.1 port 22: no matching host key type found. Their offer: ssh-rsa\n"
        "fatal: Could not read from remote repository.",
    ),
    ("disk_full", "fatal: sha1 file '.git/objects/pack/tmp_pack_x' write error. Out of diskspace"),
    ("bad_disk", "fatal: unable to write file model.bin: Input/output error"),
    ("bad_disk", "fatal: Unable to read current working directory: Stale file handle"),
    ("git_lfs_missing", "This repository is configured for Git LFS but 'git-lfs' was not found on your path."),
    ("unknown", "fatal: something new"),
    ("unknown", f"batch response: Something new{FETCH}"),
    ("unknown", ""),
]


@pytest.mark.parametrize(("fault", "said"), SAID)
def test_what_git_means(fault: str, said: str) -> None:
    assert text_fault(said)[0] == fault
    problem = classify_git_error(said, repo="https://h/a", revision="main", dest="/model/x", timeout=120)
    assert all((problem.found, problem.expected, problem.remedy))
    assert "{" not in str(problem)


@pytest.mark.parametrize(
    "said", [said for fault, said in SAID if fault in ("cut", "interrupted", "proxy", "connection")]
)
def test_a_fault_of_the_network_is_not_one_of_certificates(said: str) -> None:
    problem = classify_git_error(said, repo="https://h/a", revision="main")
    assert problem.cause in ("connection", "interrupted", "proxy")
    assert "https_proxy" in problem.remedy
    assert "vicuna_ca_certificates" not in problem.remedy and "model_ca_path" not in problem.remedy


@pytest.mark.parametrize("said", [said for fault, said in SAID if fault.startswith("tls")])
def test_an_authority_is_named_where_one_can_help(said: str) -> None:
    problem = classify_git_error(said, repo="https://h/a", revision="main")
    assert problem.cause == "tls"
    assert ("vicuna_ca_certificates" in problem.remedy) is (text_fault(said)[0] == "tls")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (next(said for fault, said in SAID if fault == "quota"), "is over its data quota"),
        (
            f"remote: Organisation x enforces SSO.\n{U}The requested URL returned error: 403",
            "Organisation x enforces SSO",
        ),
        (f"batch response: Something new{FETCH}", "git failed: batch response: Something new."),
        (f"{U}Failed to connect to cdn.example port 8443 after 1 ms: Couldn't connect", "at cdn.example:8443"),
        (f"{U}Could not resolve host: cdn.example", "cannot resolve cdn.example"),
        (f"{POST}dial tcp 10.0.0.7:443: connect: connection refused", "at 10.0.0.7:443"),
    ],
)
def test_the_line_that_says_it_is_told(said: str, told: str) -> None:
    assert told in classify_git_error(said, repo="https://h/a", revision="main").found


@pytest.mark.parametrize(
    "name", ["rate-limit", "quota-exceeded", "timeout", "certificate", "gated-repo", "connection-refused", "proxy"]
)
def test_words_in_addresses_and_paths_do_not_count(name: str) -> None:
    repo = f"https://{name}.example/{name}/{name}"
    said = f"fatal: unable to access '{repo}/': The requested URL returned error: 502"
    assert classify_git_error(said, repo=repo, revision="main").cause == "server"
    said = f"fatal: Unable to create '/model/{name}/{name}.git/index.lock': File exists."
    assert classify_git_error(said, repo=repo, revision="main").cause == "git_lock"


def test_a_rejected_token_is_not_a_missing_one() -> None:
    said = "fatal: Authentication failed for 'https://h/a/'"
    problem = classify_git_error(said, repo="https://h/a", revision="main", has_token=True)
    assert problem.cause == "token_rejected"
    assert "model_token" in problem.remedy
    assert classify_git_error(said, repo="https://h/a", revision="main").cause == "token_missing"


@pytest.mark.parametrize(
    ("status", "said", "fault"),
    [
        (401, "", "credentials"),
        (402, "", "quota"),
        (403, "", "forbidden"),
        (403, "Repository storage limit reached", "quota"),
        (403, "You have exceeded a secondary rate limit", "rate_limit"),
        (404, "", "repository_not_found"),
        (413, "", "too_large"),
        (429, "", "rate_limit"),
        (500, "<html>oops</html>", "server"),
        (503, "", "server"),
        (507, "", "quota"),
        (509, "", "quota"),
        (200, "<!DOCTYPE html>", "web_page"),
    ],
)
def test_what_a_status_means(status: int, said: str, fault: str) -> None:
    assert status_fault(status, said) == fault


@pytest.mark.parametrize(
    "noise",
    [
        "Downloading LFS objects:  50% (1/2), 403 MB | 401 MB/s\r",
        "remote: Enumerating objects: 404, done.\n",
        "Receiving objects: 100% (500/500), 403.00 KiB | 1.00 MiB/s, done.\r\n",
        "fetch: Fetching reference refs/heads/404\n",
    ],
)
def test_progress_is_not_an_error(noise: str) -> None:
    said = noise + "LFS: unexpected EOF\n"
    assert classify_git_error(said, repo="https://h/a", revision="main").cause == "interrupted"
    assert last_line(noise + "fatal: early EOF\nhint: try again\n") == "fatal: early EOF"


@pytest.mark.parametrize(
    "said",
    [
        'LFS: Get "https://cdn.example/x?X-Amz-Signature=s3cret0123&X-Amz-Date=1": EOF',
        "fatal: unable to access 'https://user:s3cret0123@h/a/': Could not resolve host: h",
        "fatal: unable to access 'https://s3cret0123@h/a/': Empty reply from server",
        "trace: Authorization: Basic s3cret0123",
        "trace: authorization: Bearer s3cret0123",
        "batch response: the token hf_s3cret0123 is not valid",
        "remote: ghp_s3cret0123 has expired",
        # git-lfs 3.3 where it means to name an address.
        "LFS: Client error: &{%!!(string=https) %!!(*url.Userinfo=<nil>) %!!(string=X-Sig=s3cret0123)}s(MISSING) from HTTP 402",
    ],
)
def test_no_secret_is_told(said: str) -> None:
    problem = classify_git_error(said, repo="https://me:s3cret0123@h/a", revision="main")
    assert "s3cret0123" not in f"{problem} {GitLfsError(problem, said).detail} {last_line(said)}"


def test_what_is_no_secret_stays() -> None:
    said = "asked for: https://h/a/info/refs?service=git-upload-pack\nis this a question?"
    assert without_secrets(said) == said


def test_a_caller_names_its_own_variables() -> None:
    problem = Problem("x", "model_repo is bad.", "model_repo", "correct model_repo or model_revision; a model_x.")
    found = problem.renamed({"repo": "finetune_dataset_repo", "revision": "the task's revision"})
    assert found.remedy == "correct finetune_dataset_repo or the task's revision; a the option x."
    assert (found.found, found.expected) == ("model_repo is bad.", "finetune_dataset_repo")
    assert problem.renamed({}) == problem


ROOT = Path(__file__).resolve().parents[4]
SOURCES = [
    *ROOT.glob("plugins/module_utils/_git*.py"),
    *ROOT.glob("plugins/module_utils/_lfs*.py"),
    *ROOT.glob("plugins/module_utils/_model_*.py"),
    *(ROOT / f"plugins/{kind}/{name}.py" for kind in ("modules", "action") for name in ("git_lfs", "model_info")),
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_each_variable_that_a_message_names_is_one_of_the_role(source: Path) -> None:
    defaults = yaml.safe_load((ROOT / "roles/model/defaults/main.yml").read_text(encoding="utf-8"))
    words = r"(?:set|correct|raise|lower|choose another|with|in|renew|or|leave|give hosts a) (model_[a-z_]+)"
    text = re.sub(r"[\"\n]+\s*f?\"?", " ", source.read_text(encoding="utf-8"))
    named = set(re.findall(words, re.sub(r" +", " ", text)))
    assert named <= set(defaults)


def test_the_finetune_role_names_its_own_variables() -> None:
    role = ROOT / "roles/finetune"
    known = yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8"))
    named = yaml.safe_load((role / "vars/main.yml").read_text(encoding="utf-8"))
    mappings = {name: value for name, value in named.items() if name.endswith("_variables")}
    assert len(mappings) == 3
    for mapping in mappings.values():
        assert {"repo", "revision", "token"} <= mapping.keys()
        assert {word for word in mapping.values() if " " not in word} <= set(known)
