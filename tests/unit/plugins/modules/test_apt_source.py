# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources of the real apt: what is written, what is switched off, and that apt takes it or nothing is changed."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._host import apt
from ansible_collections.vicuna.fleet.plugins.modules import apt_source

from ..apt_host import AptHost

DRIVER = {
    "name": "nvidia-driver",
    "components": ["contrib", "non-free"],
    "like": {"origin": "Debian", "codename": "bookworm"},
}


@pytest.fixture
def docker(apt_host: AptHost) -> dict[str, Any]:
    """Docker's repository as the role docker asks for it."""
    url = apt_host.archive("docker/linux/debian", "bookworm", origin="Docker")
    return {
        "name": "docker",
        "uris": [url],
        "suites": ["bookworm"],
        "components": ["stable"],
        "architectures": ["amd64"],
        "signed_by": str(apt_host.keys.archive),
        "replaces": [url.removesuffix("/debian")],
    }


def test_a_source_is_written_as_before_and_only_once(apt_host: AptHost, docker: dict[str, Any]) -> None:
    told = apt_host.run(apt_source, _ansible_check_mode=True, _ansible_diff=True, **docker)
    assert told["changed"] and apt_host.files() == {}
    result = apt_host.run(apt_source, _ansible_diff=True, **docker)
    assert (result["changed"], result["diff"]) == (True, told["diff"]), result
    assert (apt_host.parts / "docker.sources").read_text() == (
        "Architectures: amd64\nComponents: stable\nX-Repolib-Name: docker\n"
        f"Signed-By: {apt_host.keys.archive}\nSuites: bookworm\nTypes: deb\nURIs: {docker['uris'][0]}\n"
    )
    assert (apt_host.parts / "docker.sources").stat().st_mode & 0o777 == 0o644
    assert apt_host.get("update").returncode == 0
    again = apt_host.run(apt_source, **docker)
    assert (again["changed"], again["files"]) == (False, [])


# The file, what is in it, and what is in it afterwards. URL is that of Docker's repository.
OLDER = {
    "one line": ("docker.list", "deb [arch=amd64 signed-by={key}] {url} bookworm stable\n", "# {0}"),
    "a name of its own": ("zz-mine.list", "deb [signed-by={key}] {url}/ bookworm stable\n", "# {0}"),
    "among others": (
        "../sources.list",
        "# mine\r\n\tdeb\t{debian} bookworm main\r\ndeb [ signed-by={key} ] {url} bookworm stable # added\r\n",
        "# mine\r\n\tdeb\t{debian} bookworm main\r\n# deb [ signed-by={key} ] {url} bookworm stable # added\r\n",
    ),
    "enabled behind the URL": (
        "download_docker_com.sources",
        "Types: deb\nURIs: {url}\nSuites: bookworm\nComponents: stable\nEnabled: yes\nSigned-By: {key}\n",
        "Types: deb\nURIs: {url}\nSuites: bookworm\nComponents: stable\nEnabled: no\nSigned-By: {key}\n",
    ),
    "a folded field between comments": (
        "x.sources",
        "# here\ntypes: deb\nuris:\n# there\n {url}\nsuites: bookworm\ncomponents: stable\nsigned-by:\n {key}\n",
        "# here\nEnabled: no\ntypes: deb\nuris:\n# there\n {url}\nsuites: bookworm\ncomponents: stable\n"
        "signed-by:\n {key}\n",
    ),
    "the second stanza": (
        "x.sources",
        "Types: deb\nURIs: {debian}\nSuites: bookworm\nComponents: main\n\n\n"
        "Types: deb\nURIs: {url}\nSuites: bookworm\nComponents: stable\nSigned-By: {key}\n",
        "Types: deb\nURIs: {debian}\nSuites: bookworm\nComponents: main\n\n\n"
        "Enabled: no\nTypes: deb\nURIs: {url}\nSuites: bookworm\nComponents: stable\nSigned-By: {key}\n",
    ),
    "one URL of two": (
        "x.sources",
        "Types: deb\nURIs: {debian} {url}\nSuites: bookworm\nComponents: main\nSigned-By: {key}\n",
        "Types: deb\n# URIs: {url}\nURIs: {debian}\nSuites: bookworm\nComponents: main\nSigned-By: {key}\n",
    ),
    "a byte-order mark": ("docker.list", "\ufeffdeb [signed-by={key}] {url} bookworm stable\n", "# {bare}"),
    "no suite": ("docker.list", "deb [signed-by={key}] {url}  stable\n", "# {0}"),
    "a stanza without a type": (
        "docker.sources.sources",
        "URIs: {url}\nSuites: bookworm\n",
        "# URIs: {url}\n# Suites: bookworm\n",
    ),
    "another distribution": ("docker.list", "deb [signed-by={key}] {url}/../ubuntu jammy stable\n", "{0}"),
}


@pytest.mark.parametrize("name", OLDER)
def test_an_older_source_is_off_and_nothing_else(name: str, apt_host: AptHost, docker: dict[str, Any]) -> None:
    file, text, expected = OLDER[name]
    debian = apt_host.archive("debian", "bookworm", key="")
    words = {"url": docker["uris"][0], "debian": debian, "key": apt_host.keys.archive}
    before = text.format(**words)
    if "ubuntu" in before:
        docker["replaces"] = [docker["uris"][0]]
        before = before.replace(f"{docker['uris'][0]}/../ubuntu", apt_host.archive("docker/linux/ubuntu", "jammy"))
    path = (apt_host.parts / file).resolve()
    path.write_bytes(before.encode())
    path.chmod(0o640)
    apt_host.list.touch()
    # A host without a signature on its own archive, so that apt's only complaint would be about the two keys.
    (apt_host.root / "etc/apt/apt.conf.d/insecure").write_text('Acquire::AllowInsecureRepositories "true";')

    result = apt_host.run(apt_source, **docker)

    assert "failed" not in result, result
    assert path.read_bytes().decode() == expected.format(before, bare=before.lstrip("\ufeff"), **words)
    assert path.stat().st_mode & 0o777 == 0o640
    updated = apt_host.get("update")
    assert (updated.returncode, "configured multiple times" in updated.stderr) == (0, False), updated.stderr
    assert not apt_host.run(apt_source, **docker)["changed"]


@pytest.mark.parametrize(
    "name", ["docker.list.save", "docker.list.disabled", "docker.sources~", ".docker.list", "do cker.list"]
)
def test_a_file_that_apt_does_not_read_is_left_alone(name: str, apt_host: AptHost, docker: dict[str, Any]) -> None:
    (apt_host.parts / name).write_text(f"deb {docker['uris'][0]} bookworm stable\n")
    result = apt_host.run(apt_source, **docker)
    assert result["files"] == [str(apt_host.parts / "docker.sources")]


def test_other_stanzas_of_its_own_file_stay(apt_host: AptHost, docker: dict[str, Any]) -> None:
    debian = apt_host.archive("debian", "bookworm")
    other = f"Types: deb\nURIs: {debian}\nSuites: bookworm\nComponents: main\nSigned-By: {apt_host.keys.archive}\n"
    own = apt_host.parts / "docker.sources"
    own.write_text(f"Types: deb\nURIs: {docker['uris'][0]}\nSuites: bookworm\nComponents: test\n\n{other}")
    assert apt_host.run(apt_source, **docker)["changed"]
    assert own.read_text().endswith(f"\n\n{other}")
    assert own.read_text().count("URIs: ") == 2
    assert not apt_host.run(apt_source, **docker)["changed"]


def test_a_link_stays_a_link(apt_host: AptHost, docker: dict[str, Any], tmp_path: Path) -> None:
    kept = tmp_path / "kept.list"
    kept.write_text(f"deb {docker['uris'][0]} bookworm stable\n")
    apt_host.list.symlink_to(kept)
    assert apt_host.run(apt_source, **docker)["changed"]
    assert apt_host.list.is_symlink() and kept.read_text().startswith("# deb ")


# What is on the host, how the source asked for differs, and apt's own words.
REFUSED: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a key that is not the repository's": ("", {"signed_by": "FOREIGN"}, ["is not signed"]),
    "a suite that is not there": ("", {"suites": ["trixie"]}, ["does not have a Release file"]),
    "a key file that is not there": ("", {"signed_by": "/nowhere/key.asc"}, ["is not signed"]),
    # Not Docker's source by what it says, so it stays; but apt reads it.
    "somebody else's broken source": (
        "deb http://\n",
        {},
        ["Malformed entry 1 in list file {root}/etc/apt/sources.list.d/other.list", "Mend what apt names"],
    ),
    "somebody else's unsigned source": (
        "deb file:{root}/archives/unsigned bookworm main\n",
        {},
        ["unsigned bookworm Release' is not signed", "Mend what {root}/etc/apt/sources.list.d/other.list says"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_apt_does_not_take_changes_nothing(name: str, apt_host: AptHost, docker: dict[str, Any]) -> None:
    other, changes, words = REFUSED[name]
    apt_host.archive("unsigned", "bookworm", key="")
    (apt_host.parts / "docker.list").write_text(
        f"deb [signed-by={apt_host.keys.archive}] {docker['uris'][0]} bookworm stable\n"
    )
    if other:
        (apt_host.parts / "other.list").write_text(other.format(root=apt_host.root))
    if changes.get("signed_by") == "FOREIGN":
        changes = {"signed_by": str(apt_host.keys.foreign)}
    before = apt_host.files()

    result = apt_host.run(apt_source, **{**docker, **changes})

    assert result["failed"]
    for word in (*words, "Found that `apt-get update` fails", "Expected it to work", "The sources are as they were"):
        assert word.format(root=apt_host.root) in result["msg"]
    assert apt_host.files() == before


def test_a_run_that_is_killed_leaves_sources_that_work(
    apt_host: AptHost, docker: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = apt_host.parts / "docker.list"
    older.write_text(f"deb [signed-by={apt_host.keys.foreign}] {docker['uris'][0]} bookworm stable\n")
    write = apt_source.source_files.write

    def once(module: Any, path: Path, text: str) -> None:
        write(module, path, text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(apt_source.source_files, "write", once)
        with pytest.raises(KeyboardInterrupt):
            apt_host.run(apt_source, **docker)
    assert older.read_text().startswith("# deb ")
    assert apt_host.get("update").returncode == 0
    assert apt_host.run(apt_source, **docker)["files"] == [str(apt_host.parts / "docker.sources")]


def test_another_process_that_fetches_lists_is_waited_for(
    apt_host: AptHost, docker: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (apt_host.root / "var/lib/apt/lists/lock").open("w") as lock:
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 2:
                lock.close()

        fcntl.lockf(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(apt.time, "monotonic", lambda: sum(waited))
        monkeypatch.setattr(apt.time, "sleep", sleep)
        late = apt_host.run(apt_source, lock_timeout=0, **docker)
        assert "Could not get lock" in late["msg"] and not waited
        assert apt_host.run(apt_source, **docker)["changed"]
        assert waited == [apt.PAUSE] * 2


def test_a_password_is_not_shown(apt_host: AptHost, docker: dict[str, Any]) -> None:
    line = b"deb https://me:secret@example.invalid/linux/debian bookworm stable # \xfc\n"
    (apt_host.parts / "mine.list").write_bytes(line)
    docker["replaces"] = ["https://example.invalid/linux"]
    result = apt_host.run(apt_source, _ansible_check_mode=True, _ansible_diff=True, **docker)
    assert "example.invalid" in str(result["diff"]) and "secret" not in str(result)


# The host's sources, and those that are written for the driver. KEY is the archive's key, as a file and as a text.
HOSTS = {
    "no key": ("sources.list", "deb [trusted=yes] {url} bookworm main\n", "Trusted: yes\n"),
    "a key": ("sources.list", "deb [ arch=amd64 signed-by={key} ] {url}/ bookworm main\n", "Signed-By: {key}\n"),
    "a foreign key behind it": (
        "sources.list",
        "deb [trusted=yes] {url} bookworm main\ndeb [signed-by={foreign}] {docker} bookworm stable\n",
        "Trusted: yes\n",
    ),
    "the second stanza": (
        "sources.list.d/debian.sources",
        "Types: deb\nURIs: {security}\nSuites: bookworm-security\nComponents: main\nSigned-By: {foreign}\n\n"
        "Types: deb\nURIs: {url}\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: {key}\n",
        "Signed-By: {key}\n",
    ),
    "behind a stanza that is off": (
        "sources.list.d/debian.sources",
        "# Debian\n\nTypes: deb\nURIs: {url}\nSuites: bookworm\nComponents: main\nSigned-By: {foreign}\nEnabled: 0\n\n"
        "# more\n\nTypes: deb\nURIs: {url}\nSuites: bookworm\nComponents: main\nsigned-by:\n# the key\n {key}\n",
        "Signed-By: {key}\n",
    ),
    "an embedded key": (
        "sources.list.d/debian.sources",
        "Types: deb\nURIs: {url}\nSuites: bookworm\nComponents: main\nSigned-By:\n{text}\n",
        "Signed-By:\n{text}\n",
    ),
    "a key that only another line names": (
        "sources.list",
        "deb {url} bookworm main\ndeb [signed-by={key}] {url} bookworm stable\n",
        "Signed-By: {key}\n",
    ),
    "a list of mirrors": (
        "sources.list.d/debian.sources",
        "Types: deb deb-src\nURIs: mirror+file://{mirrors}\nSuites: bookworm\nComponents: main\nSigned-By: {key}\n",
        "Signed-By: {key}\nSuites: bookworm\nTypes: deb\nURIs: mirror+file://{mirrors}\n",
    ),
    "other options": (
        "sources.list",
        "deb [check-valid-until=no signed-by={key} by-hash=no] {url} bookworm main\n",
        "By-Hash: no\nCheck-Valid-Until: no\nComponents: contrib non-free\n",
    ),
}


@pytest.mark.parametrize("name", HOSTS)
def test_further_components_are_added_as_the_hosts_own_source_says(name: str, apt_host: AptHost) -> None:
    file, text, expected = HOSTS[name]
    embedded = "\n".join(f" {line or '.'}" for line in apt_host.keys.archive.read_text().splitlines())
    words = {
        "url": apt_host.archive(
            "debian", "bookworm", "bookworm-updates", key="" if "trusted=yes" in text else "archive"
        ),
        "security": apt_host.archive("security", "bookworm-security", key="foreign"),
        "docker": apt_host.archive("docker", "bookworm", origin="Docker", key="foreign"),
        "key": apt_host.keys.archive,
        "foreign": apt_host.keys.foreign,
        "text": embedded,
    }
    words["mirrors"] = apt_host.root / "mirrors.list"
    (apt_host.root / "mirrors.list").write_text(f"{words['url']}\n")
    (apt_host.root / "etc/apt" / file).write_text(text.format(**words))
    fetched = apt_host.get("update")
    assert fetched.returncode == 0, fetched.stderr

    result = apt_host.run(apt_source, **DRIVER)

    assert result.get("changed"), result
    assert apt_host.get("update").returncode == 0
    assert not apt_host.run(apt_source, **DRIVER)["changed"]
    written = (apt_host.parts / "nvidia-driver.sources").read_text()
    wanted = expected.format(**words)
    suites = "bookworm bookworm-updates" if "updates" in text else "bookworm"
    for line in (f"Suites: {suites}\n", "URIs: ", "Components: contrib non-free\n", wanted):
        assert line in written
    assert words["url"] in written or "mirror" in text
    assert ("Signed-By" in written) == ("igned-by" in text.lower() and "trusted" not in text)
