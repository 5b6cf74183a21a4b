# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""git as a process: its address, its environment, its silence and its failures. Private to the collection."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
import subprocess
import threading
import time
import typing as t
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import GitLfsError, Problem, redact_url

# How often git-lfs tries again within one run; it goes on where the connection broke.
TRANSFER_RETRIES = 8

_SCHEMES = ("http", "https", "ssh", "git", "file")
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
)
# Variables of the caller's environment that still count: trust, proxies and ssh are properties of the machine.
_KEPT_GIT_VARIABLES = re.compile(r"GIT_(SSL_\w+|PROXY_\w+|HTTP_PROXY_\w+|SSH|SSH_COMMAND|SSH_VARIANT)")


def check_repo(repo: str) -> Problem | None:
    """Refuse an address that git would misread or that carries a secret."""
    expected = "an http, https, ssh, git or file address, or a local path, without a password in it."
    if not repo or repo.startswith("-") or "::" in repo or any(ord(char) < 32 for char in repo):
        return Problem(
            "url", f"the address '{redact_url(repo)}' is not one of a git repository.", expected, "correct model_repo."
        )
    parts = urlsplit(repo)
    if "://" in repo and parts.scheme not in _SCHEMES:
        return Problem(
            "url", f"the address {redact_url(repo)} has the scheme '{parts.scheme}'.", expected, "correct model_repo."
        )
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        return Problem(
            "url_with_credentials",
            f"the address {redact_url(repo)} carries credentials, which would end up in files and process lists.",
            expected,
            "take them out of model_repo; set model_token (and model_username).",
        )
    if parts.scheme in ("http", "https") and not parts.hostname:
        return Problem("url", f"the address {repo} names no host.", expected, "correct model_repo.")
    return None


def check_mirror(mirror: str, repo: str) -> Problem | None:
    """Refuse a mirror that git would misread, that carries a secret, or that has nothing to stand in for."""
    remedy = "correct model_mirror, or leave it empty."
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\x00-\x20?#]", mirror):
        found = f"the mirror '{redact_url(mirror)}' is not an http or https address."
    elif "@" in parts.netloc:
        found = f"the mirror {redact_url(mirror)} carries credentials."
    elif urlsplit(repo).scheme not in ("http", "https"):
        found = f"a mirror is set for {redact_url(repo)}, which has no host over http that it could stand in for."
    else:
        return None
    return Problem("mirror", found, "an address such as https://mirror.example for a repository over https.", remedy)


def same_repository(one: str, other: str) -> bool:
    """Whether two addresses name the same repository: a trailing slash, .git, or case of the host do not count."""

    def normal(url: str) -> tuple[str, str, str]:
        parts = urlsplit(redact_url(url).replace("***@", "", 1))
        return parts.scheme.lower(), parts.netloc.lower(), re.sub(r"(\.git)?/*$", "", parts.path.rstrip("/"))

    return normal(one) == normal(other)


def environment(
    base: t.Mapping[str, str],
    *,
    repo: str,
    token: str,
    username: str,
    home: str,
    timeout: int,
    ca_bundle: str = "",
    storage: str = "lfs",
    mirror: str = "",
    stand_in: str = "",
) -> dict[str, str]:
    """The environment of every git process.

    The token reaches git through a credential helper that reads it from this environment: it stands in no argument,
    no address, no file and no log, and git asks the helper for this host alone (and for the mirror that stands in
    for it). The mirror is git's own url.*.insteadOf, which git-lfs honours too; so is a stand-in, the path of a
    repository that was unpacked for this run.
    """
    env = {
        key: value
        for key, value in base.items()
        if not (key.startswith("GIT_") and not _KEPT_GIT_VARIABLES.fullmatch(key))
        and key not in ("SSH_ASKPASS", "XDG_CONFIG_HOME", "LANGUAGE", "LFS_SKIP_SMUDGE")
    }
    env.update(
        LC_ALL="C",
        HOME=home,
        GIT_CONFIG_GLOBAL=os.devnull,
        GIT_TERMINAL_PROMPT="0",
        GIT_LFS_SKIP_SMUDGE="1",
        GIT_LFS_FORCE_PROGRESS="1",
        GIT_ALLOW_PROTOCOL=":".join(_SCHEMES),
    )
    env.setdefault("GIT_SSH_COMMAND", f"ssh -o BatchMode=yes -o ConnectTimeout={timeout}")
    if ca_bundle:
        env["GIT_SSL_CAINFO"] = ca_bundle
    settings = [
        ("core.hooksPath", os.devnull),
        ("core.fsmonitor", "false"),
        ("core.askPass", ""),
        ("gc.auto", "0"),
        ("fetch.unpackLimit", "1"),  # git syncs a pack before it counts on it; loose objects, of old, it does not
        ("maintenance.auto", "false"),
        ("init.defaultBranch", "main"),
        ("http.lowSpeedLimit", "1"),
        ("http.lowSpeedTime", str(timeout)),
        ("lfs.activitytimeout", str(max(5, timeout // 3))),
        ("lfs.dialtimeout", str(max(5, timeout // 3))),
        ("lfs.tlstimeout", str(max(5, timeout // 3))),
        ("lfs.transfer.maxretries", str(TRANSFER_RETRIES)),
        ("lfs.fetchinclude", ""),
        ("lfs.fetchexclude", ""),
        ("lfs.fetchrecentalways", "false"),
        ("lfs.storage", storage),
        ("credential.helper", ""),
    ]
    parts = urlsplit(repo)
    origin = f"{parts.scheme}://{parts.netloc}"
    servers = [origin] if parts.scheme in ("http", "https") else []
    if mirror and servers:
        settings.append((f"url.{mirror.rstrip('/')}/.insteadOf", f"{origin}/"))
        servers.append("{0.scheme}://{0.netloc}".format(urlsplit(mirror)))
    if stand_in and stand_in != repo:
        settings.append((f"url.{stand_in}.insteadOf", repo))
    if token and servers:
        env.update(VICUNA_FLEET_GIT_USERNAME=username, VICUNA_FLEET_GIT_TOKEN=token)
        helper = (
            '!f() { test "$1" = get || exit 0; '
            'printf "username=%s\\npassword=%s\\n" "$VICUNA_FLEET_GIT_USERNAME" "$VICUNA_FLEET_GIT_TOKEN"; }; f'
        )
        settings += [(f"credential.{server}.helper", helper) for server in servers]
    env["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings):
        env[f"GIT_CONFIG_KEY_{number}"] = key
        env[f"GIT_CONFIG_VALUE_{number}"] = value
    return env


def system_ca_bundle(env: t.Mapping[str, str]) -> str:
    paths = [env.get("GIT_SSL_CAINFO", ""), env.get("SSL_CERT_FILE", ""), *_SYSTEM_BUNDLES]
    paths.append(ssl.get_default_verify_paths().cafile or "")
    return next((path for path in paths if path and Path(path).is_file()), "")


class Git:
    """Runs git in one directory, kills it when it has been silent for too long, and explains its failures."""

    def __init__(
        self,
        executable: str,
        directory: Path,
        env: dict[str, str],
        explain: t.Callable[[str], Problem],
        *,
        timeout: int,
        secret: str = "",
    ) -> None:
        self.executable = executable
        self.directory = directory
        self.env = env
        self.explain = explain
        self.timeout = timeout
        self.secret = secret
        self.inherited: tuple[int, ...] = ()

    def __call__(self, *arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> bytes:
        """Run one git command; the answer is its standard output."""
        code, output, said = self.run(*arguments, stdin=stdin, cwd=cwd)
        if code != 0:
            text = self.redact(said.decode("utf-8", "replace") or output.decode("utf-8", "replace"))
            raise GitLfsError(self.explain(text), text[-4000:])
        return output

    def run(self, *arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> tuple[int, bytes, bytes]:
        process = subprocess.Popen(
            [self.executable, *arguments],
            cwd=cwd or self.directory,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=self.inherited,
        )
        heard = [time.monotonic()]
        buffers: tuple[list[bytes], list[bytes]] = ([], [])

        def read(stream: t.IO[bytes], buffer: list[bytes]) -> None:
            while True:
                chunk = os.read(stream.fileno(), 65536)
                if not chunk:
                    return
                buffer.append(chunk)
                heard[0] = time.monotonic()

        def write(stream: t.IO[bytes]) -> None:
            with contextlib.suppress(BrokenPipeError), stream:
                stream.write(stdin)

        streams = zip((process.stdout, process.stderr), buffers)
        threads = [threading.Thread(target=read, args=pair, daemon=True) for pair in streams]
        threads.append(threading.Thread(target=write, args=(process.stdin,), daemon=True))
        for thread in threads:
            thread.start()
        silent = False
        try:
            while True:
                try:
                    process.wait(timeout=1.0)
                    break
                except subprocess.TimeoutExpired:
                    silent = time.monotonic() - heard[0] > self.timeout
                    if silent:
                        break
        finally:
            if process.poll() is None:
                self._stop(process)
        for thread in threads:
            thread.join(timeout=5)
        said = b"".join(buffers[1])
        if silent:
            return 124, b"", said + f"\nfatal: no data for {self.timeout} s".encode()
        return process.returncode, b"".join(buffers[0]), said

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
                return

    def redact(self, text: str) -> str:
        return text.replace(self.secret, "********") if self.secret else text


def git_is_working_in(directory: Path) -> bool:
    """Whether some git process, ours or a person's, has this directory as its working directory."""
    root = str(directory)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text().strip()
            if name.startswith("git") and (str((process / "cwd").readlink()) + "/").startswith(root + "/"):
                return True
        except OSError:
            continue
    return False
