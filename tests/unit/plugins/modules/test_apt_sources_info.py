# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources as people have them, read as the real apt reads them."""

from __future__ import annotations

import pytest

from ansible_collections.vicuna.fleet.plugins.module_utils._host.source_urls import address
from ansible_collections.vicuna.fleet.plugins.modules import apt_sources_info

from ..apt_host import AptHost

NVIDIA = [
    "https://developer.download.nvidia.com/compute/cuda/repos",
    "file:/var/cuda-repo-*",
    "file:/var/nvidia-driver-local-repo-*",
]
# By the name of the file, as found on hosts: images of Debian and Ubuntu, installers, vendors' instructions.
FILES: dict[str, tuple[str, str]] = {
    "Debian 12, container": (
        "debian.sources",
        "Types: deb\n# http://snapshot.debian.org/archive/debian/20250520T000000Z\nURIs: http://deb.debian.org/debian\n"
        "Suites: bookworm bookworm-updates\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb\n"
        "# http://snapshot.debian.org/archive/debian-security/20250520T000000Z\n"
        "URIs: http://deb.debian.org/debian-security\nSuites: bookworm-security\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
    ),
    "Debian 13, cloud": (
        "debian.sources",
        "Types: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n"
        "Suites: trixie trixie-updates trixie-backports\nComponents: main\n\n"
        "Types: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian-security.list\nSuites: trixie-security\n"
        "Components: main\n",
    ),
    "Debian 12, installer": (
        "sources.list",
        "#deb cdrom:[Debian GNU/Linux 12.5.0 _Bookworm_ - Official amd64 NETINST]/ bookworm contrib main\n\n"
        "deb cdrom:[Debian GNU/Linux 12.5.0 _Bookworm_ - Official amd64 DVD #1]/ bookworm contrib main\n"
        "deb http://deb.debian.org/debian/ bookworm main non-free-firmware\n"
        "deb-src http://deb.debian.org/debian/ bookworm main non-free-firmware\n\n"
        "# bookworm-updates, to get updates before a point release is made;\n"
        "deb http://deb.debian.org/debian/ bookworm-updates main non-free-firmware # added by hand\n",
    ),
    "Ubuntu 24.04": (
        "ubuntu.sources",
        "## Note, this file is written by cloud-init on first boot of an instance\n"
        "# See http://help.ubuntu.com/community/UpgradeNotes for how to upgrade to\n#\n"
        "Types: deb\nURIs: http://eu-central-1.ec2.archive.ubuntu.com/ubuntu/\n"
        "Suites: noble noble-updates noble-backports\nComponents: main universe restricted multiverse\n"
        "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n\n## Ubuntu security updates.\n\n"
        "Types: deb\nURIs: http://security.ubuntu.com/ubuntu\nSuites: noble-security\n"
        "Components: main universe restricted multiverse\nSigned-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n",
    ),
    "Ubuntu 22.04": (
        "sources.list",
        "deb http://archive.ubuntu.com/ubuntu/ jammy main restricted\n"
        "# deb-src http://archive.ubuntu.com/ubuntu/ jammy main restricted\n\n"
        "deb http://archive.ubuntu.com/ubuntu/ jammy universe\n"
        "\tdeb\thttp://security.ubuntu.com/ubuntu/   jammy-security\tmain restricted\r\n",
    ),
    "Docker's instructions, by key": (
        "docker.list",
        "deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc] https://download.docker.com/linux/ubuntu   noble "
        "stable\n",
    ),
    "Docker's instructions, by add-apt-repository": (
        "archive_uri-https_download_docker_com_linux_ubuntu-jammy.list",
        "deb [arch=amd64] https://download.docker.com/linux/ubuntu jammy stable\n"
        "# deb-src [arch=amd64] https://download.docker.com/linux/ubuntu jammy stable\n",
    ),
    "Docker's instructions, newest": (
        "docker.sources",
        "Types: deb\nURIs: https://download.docker.com/linux/debian\nSuites: trixie\nComponents: stable\n"
        "Signed-By: /etc/apt/keyrings/docker.asc\n",
    ),
    "NVIDIA's toolkit": (
        "nvidia-container-toolkit.list",
        "deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg] "
        "https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /\n"
        "#deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg] "
        "https://nvidia.github.io/libnvidia-container/experimental/deb/$(ARCH) /\n",
    ),
    "NVIDIA's predecessors": (
        "nvidia-docker.list",
        "deb https://nvidia.github.io/libnvidia-container/stable/ubuntu18.04/$(ARCH) /\n"
        "deb https://nvidia.github.io/nvidia-container-runtime/stable/ubuntu18.04/$(ARCH) /\n"
        "deb https://nvidia.github.io/nvidia-docker/ubuntu18.04/$(ARCH) /\n",
    ),
    "NVIDIA's CUDA": (
        "cuda-debian12-x86_64.list",
        "deb [signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg] "
        "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/ /\n",
    ),
    "NVIDIA's driver on the host": (
        "nvidia-driver-local-ubuntu2404-570.133.20.list",
        "deb [signed-by=/usr/share/keyrings/nvidia-driver-local-6F3C2F2A-keyring.gpg] "
        "file:///var/nvidia-driver-local-repo-ubuntu2404-570.133.20 /\n",
    ),
    "a stanza in every way": (
        "all.sources",
        "# first\r\n\r\nTYPES: deb\r\nuris: https://user:pw@one.example/debian\r\n#between\r\n\thttps://two.example/debian/\r\n"
        "Suites:\r\n bookworm\r\n bookworm-updates\r\nComponents :main\r\n  contrib\r\nArchitectures: amd64 arm64\r\n"
        "Enabled: YES\r\nX-Repolib-Name: All of it\r\n\r\n\r\n\r\n# alone\r\n\r\n"
        "Types: deb\nURIs: https://off.example/\nSuites: /\nEnabled: without\n\n"
        "Types: deb\nURIs: https://off.example/\nSuites: /\nEnabled: yes\nEnabled: 0x0\n\n"
        "Types: deb\nURIs: https://on.example/flat\nSuites: ./ $(ARCH)/\nEnabled: 2\n",
    ),
    "a line in every way": (
        "all.list",
        "deb [ arch=amd64,arm64 lang+=de signed-by=/a,/b ] tor+https://one.example/debian bookworm main contrib\n"
        "deb [check-valid-until=no] copy:/srv/mirror bookworm main\n"
        'deb "https://two.example/debian" book"worm" main#comment\n'
        "#deb https://off.example/ /\n  # deb https://off.example/ /\n\n   \t\n"
        "deb [trusted=yes] https://three.example/ubuntu noble/ \n"
        "deb mirror+https://four.example/mirrors.txt bookworm main\n",
    ),
}
SECRETS = "user:pw"


def told_by_apt(host: AptHost) -> set[tuple[str, ...]]:
    """What apt makes of the sources, without their lists: type, address, suite, component and place of each."""
    # What a flat repository has not is not filled in.
    form = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SOURCESENTRY)"
    done = host.get("indextargets", "--no-release-info", "--format", form)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {
        ("deb" if kind == "Packages" else "deb-src", address(uri), suite, component, entry)
        for kind, uri, suite, component, entry in ([word.replace("$(COMPONENT)", "") for word in row] for row in rows)
        if kind in ("Packages", "Sources")
    }


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_the_same_to_apt(name: str, apt_host: AptHost) -> None:
    file, text = FILES[name]
    (apt_host.list if file == "sources.list" else apt_host.parts / file).write_bytes(text.encode())
    sources = apt_host.run(apt_sources_info)["sources"]
    told = {
        (kind, address(uri.replace("$(ARCH)", "amd64")), suite.replace("$(ARCH)", "amd64"), component, place)
        for source in sources
        for place in [f"{source['path']}:{source['number']}"]
        for kind in source["types"]
        for uri in source["uris"]
        for suite in source["suites"]
        for component in source["components"] or [""]
    }
    # apt names the suite of a flat repository by its folder, and / not at all.
    assert {(*row[:2], "" if row[2] == "/" else row[2], *row[3:]) for row in told} == told_by_apt(apt_host)
    assert told and SECRETS not in str(sources)


def test_options_of_both_formats_have_the_same_names(apt_host: AptHost) -> None:
    (apt_host.parts / "a.list").write_text(
        "deb [ arch=amd64,arm64 lang+=de arch-=arm64 signed-by=/a.gpg,/b.gpg trusted=no ] http://a.example/ /\n"
    )
    (apt_host.parts / "b.sources").write_text(
        "Types: deb\nURIs: http://b.example/\nSuites: /\nArchitectures: amd64 arm64\nLanguages-Add: de\n"
        "Architectures-Remove: arm64\nSigned-By: /a.gpg,/b.gpg\nTrusted: no\n"
    )
    one, other = apt_host.run(apt_sources_info)["sources"]
    assert one["options"] == other["options"] and one["options"]["signed-by"] == "/a.gpg,/b.gpg"


def test_an_embedded_key_is_whole(apt_host: AptHost) -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY865UxYJ\n =abcd\n -----END PGP PUBLIC KEY BLOCK-----"
    (apt_host.parts / "a.sources").write_text(
        f"Types: deb\nURIs: http://a.example/\nSuites: /\nSigned-By:\n {key}\nEnabled: yes\n"
    )
    [source] = apt_host.run(apt_sources_info)["sources"]
    assert source["options"] == {"signed-by": key}


@pytest.mark.parametrize(
    "name", ["a.list.save", "a.sources.disabled", "a.list~", ".a.list", "a list.list", "a.lists", "alist"]
)
def test_apt_reads_no_other_file(name: str, apt_host: AptHost) -> None:
    (apt_host.parts / name).write_text("deb http://a.example/ /\n")
    assert apt_host.run(apt_sources_info)["sources"] == []
    assert told_by_apt(apt_host) == set()


def test_repositories_are_told_by_where_they_lead(apt_host: AptHost) -> None:
    for file, text in FILES.values():
        path = apt_host.list if file == "sources.list" else apt_host.parts / file
        path.write_bytes(text.encode())
    (apt_host.parts / "off.sources").write_text(
        f"Types: deb\nURIs: {NVIDIA[0]}/debian12/x86_64\nSuites: /\nEnabled: no\n"
    )
    (apt_host.parts / "local.list").write_text("deb [trusted=yes] file:/var/cuda-repo-debian12-12-9-local /\n")
    (apt_host.parts / "not.list").write_text("deb https://mirror.example/developer.download.nvidia.com/x /\n")
    found = apt_host.run(apt_sources_info, repositories=NVIDIA)["sources"]
    assert [source["path"].rsplit("/", 1)[-1] for source in found] == [
        "cuda-debian12-x86_64.list",
        "local.list",
        "nvidia-driver-local-ubuntu2404-570.133.20.list",
    ]
