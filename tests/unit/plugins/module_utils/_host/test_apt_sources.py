# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judgement about apt's sources. What apt itself makes of them is tested by the modules, with the real apt."""

from __future__ import annotations

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._host.apt_sources import (
    SEPARATOR,
    Target,
    enabled,
    failure,
    like,
    missing,
    of_archive,
    parse,
    parse_targets,
    switch_off,
)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *((word, False) for word in ("no", "No", "FALSE", "off", "without", "disable", "0", "00", "0x0", "-0")),
        *(
            (word, True)
            for word in ("", "yes", "true", "on", "with", "enable", "1", "2", "never", "nope", "no no", "0.")
        ),
    ],
)
def test_enabled(word: str, expected: bool) -> None:
    assert enabled(word) is expected


UBUNTU = """\
Types: deb
URIs: http://archive.ubuntu.com/ubuntu/
Suites: noble noble-updates noble-backports
Components: main universe
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
URIs: http://security.ubuntu.com/ubuntu
Suites: noble-security
Components: main universe restricted
Signed-By: /usr/share/keyrings/other.gpg
"""
# Ubuntu's pockets have the codename of the release; Debian's do not.
NOBLE = [
    Target("Ubuntu", "noble", suite, component, f"http://{host}.ubuntu.com/ubuntu/", f"/u.sources:{number}")
    for host, suite, number in (
        ("security", "noble-security", 2),
        ("archive", "noble-updates", 1),
        ("archive", "noble", 1),
        ("archive", "noble-backports", 1),
    )
    for component in ("main", "universe", *(["restricted"] if host == "security" else []))
]


def test_ubuntus_release_is_no_pocket_of_it() -> None:
    main = of_archive(NOBLE, "Ubuntu", "noble")
    assert [(each.suite, each.component) for each in main] == [("noble", "main")]
    assert missing(NOBLE, main, ["restricted", "universe", "multiverse"]) == ["restricted", "multiverse"]
    assert of_archive(NOBLE, "Debian", "noble") == of_archive(NOBLE, "Ubuntu", "jammy") == []


def test_a_disc_is_no_source_to_add_to() -> None:
    disc = Target("Debian", "trixie", "trixie", "main", "cdrom:[Debian GNU/Linux 13]/", "/etc/apt/sources.list:1")
    mirror = Target("Debian", "trixie", "trixie", "main", "http://d.example/debian/", "/etc/apt/sources.list:3")
    assert of_archive([disc, mirror], "Debian", "trixie") == [mirror]


@pytest.mark.parametrize(
    ("mirror", "uri"),
    [("", "http://archive.ubuntu.com/ubuntu/"), ("http://mirror.example/u", "http://mirror.example/u")],
)
def test_a_source_like_the_hosts_own(mirror: str, uri: str) -> None:
    [main] = of_archive(NOBLE, "Ubuntu", "noble")
    assert like(parse("/u.sources", UBUNTU), NOBLE, main, uri=mirror, name="x", components=["restricted"]) == (
        "Components: restricted\nX-Repolib-Name: x\nSigned-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n"
        f"Suites: noble noble-updates\nTypes: deb\nURIs: {uri}\n"
    )


def test_a_suite_with_another_key_gets_a_stanza_of_its_own() -> None:
    text = (
        "deb [signed-by=/a] http://d.example/debian stable main\n"
        "deb [signed-by=/b] http://d.example/debian stable-updates main\n"
    )
    targets = [
        Target("Debian", "trixie", "stable", "main", "http://d.example/debian/", "/l.list:1"),
        Target("Debian", "trixie-updates", "stable-updates", "main", "http://d.example/debian/", "/l.list:2"),
    ]
    [main] = of_archive(targets, "Debian", "trixie")
    stanzas = like(parse("/l.list", text), targets, main, components=["contrib"]).split("\n\n")
    assert [(each.split("Signed-By: ")[1][:2], each.split("Suites: ")[1].split("\n")[0]) for each in stanzas] == [
        ("/a", "stable"),
        ("/b", "stable-updates"),
    ]


def test_a_mirror_that_the_host_already_has_keeps_its_key() -> None:
    text = (
        "deb [signed-by=/a] http://d.example/debian trixie main\n"
        "deb [signed-by=/b] http://m.example/debian trixie main\n"
    )
    target = Target("Debian", "trixie", "trixie", "main", "http://d.example/debian/", "/l.list:1")
    assert "Signed-By: /b\n" in like(parse("/l.list", text), [target], target, uri="https://m.example/debian")


def test_targets() -> None:
    line = SEPARATOR.join(("Debian", "trixie", "stable", "main", "http://d.example/", "/etc/apt/sources.list:1"))
    assert parse_targets(f"{line}\n{line}\nsomething else\n") == [
        Target("Debian", "trixie", "stable", "main", "http://d.example/", "/etc/apt/sources.list:1")
    ]


def test_what_is_off_stays_as_it_is() -> None:
    text = "# deb http://a.example/ /\ndeb http://b.example/ /\n"
    once = switch_off("x.list", text, lambda uri: True)
    assert (
        once == "# deb http://a.example/ /\n# deb http://b.example/ /\n" == switch_off("x.list", once, lambda uri: True)
    )
    stanza = "Types: deb\nURIs: http://a.example/\nSuites: /\nenabled: Off\n"
    assert switch_off("x.sources", stanza, lambda uri: True) == stanza


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Types: deb\nURIs: http://a.example/ # Docker\nSuites: /\n",
            "Enabled: no\nTypes: deb\nURIs: http://a.example/ # Docker\nSuites: /\n",
        ),
        (
            "Types: deb\n  # Docker\nURIs: http://a.example/\nSuites: /\n",
            "# Types: deb\n#   # Docker\n# URIs: http://a.example/\n# Suites: /\n",
        ),
    ],
)
def test_after_it_apt_does_not_stop_at_what_it_stopped_at(text: str, expected: str) -> None:
    """A comment behind a value or between the lines of one is a part of the value to apt."""
    assert switch_off("x.sources", text, lambda uri: uri == "http://a.example/") == expected


def test_what_is_no_text_stays_as_it_is() -> None:
    text = b"# \xff\x0c\x1d\xe2\x80\xa8 deb http://a.example/ /\r\ndeb http://a.example/ /".decode(
        "utf-8", "surrogateescape"
    )
    assert switch_off("x.list", text, lambda uri: True) == text.replace("\ndeb", "\n# deb")


# Captured, apt 2.6.1
FETCH = "W: Failed to fetch http://no-such.invalid/linux/debian/dists/bookworm/InRelease  Could not resolve 'no-such'"
SOME = "W: Some index files failed to download. They have been ignored, or old ones used instead."
LEGACY = "W: http://no-such.invalid/linux/debian/dists/bookworm/InRelease: Key is stored in legacy trusted.gpg keyring"
TWICE = "W: Target Packages (main/binary-amd64/Packages) is configured multiple times in /etc/apt/sources.list:1 and :2"
GPG = (
    "W: GPG error: http://d.example/debian bookworm InRelease: The following signatures ... NO_PUBKEY 1234567890ABCDEF"
)
# apt 3.0, which verifies by sqv
SQV = (
    "W: OpenPGP signature verification failed: http://no-such.invalid/linux/debian bookworm InRelease: Missing key 1234"
)
UNSIGNED = "E: The repository 'http://d.example/debian bookworm InRelease' is not signed."
CONFLICT = "E: Conflicting values set for option Signed-By regarding source http://x.example/d/ bookworm: /a != /b"
LIST = "E: The list of sources could not be read."


@pytest.mark.parametrize(
    ("rc", "lines", "expected"),
    [
        (0, [], ""),
        (0, ["Hit:1 http://no-such.invalid/linux/debian bookworm InRelease", LEGACY, TWICE], ""),
        (0, [FETCH, SOME], FETCH),
        (0, [SQV], SQV),
        (0, [FETCH.replace("no-such", "other"), SOME], ""),
        (100, [CONFLICT, LIST], f"{CONFLICT} {LIST}"),
        (100, [TWICE, GPG, UNSIGNED], f"{GPG} {UNSIGNED}"),
        (100, ["Reading package lists...", "something"], "something"),
        (-9, [], "exit status -9"),
    ],
)
def test_failure(rc: int, lines: list[str], expected: str) -> None:
    assert failure(rc, "\n".join(lines), ["https://no-such.invalid/linux/debian/"]) == expected
