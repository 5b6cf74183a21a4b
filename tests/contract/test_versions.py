# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The places that name versions agree with each other, and with what is installed."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tree
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

SITE = Path(sysconfig.get_path("purelib")) / "ansible_collections"
PLACES = ("galaxy.yml", "requirements.yml", "requirements.txt", "meta/runtime.yml")


def requirements(root: Path) -> list[Requirement]:
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def pins(root: Path) -> dict[str, str]:
    """The collections of requirements.yml."""
    return {item["name"]: str(item.get("version", "")) for item in tree.load(root / "requirements.yml")["collections"]}


def version_problems(root: Path) -> Iterator[str]:
    galaxy, pinned = tree.load(root / "galaxy.yml"), pins(root)
    for name, version in pinned.items():
        if not re.fullmatch(r"\d+\.\d+\.\d+", version):
            yield f"requirements.yml: {name} is {version or 'any version'}, which is not exact"
    for name, accepted in galaxy["dependencies"].items():
        if name not in pinned:
            yield f"requirements.yml does not pin {name}, which galaxy.yml depends on"
        elif re.match(r"\d", pinned[name]) and pinned[name] not in SpecifierSet(accepted):
            yield f"galaxy.yml accepts {name} {accepted}, and requirements.yml pins {pinned[name]}"
        if not re.search(r"<\d", accepted):
            yield f"galaxy.yml accepts {name} {accepted}: it needs an upper bound"
    for requirement in requirements(root):
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            yield f"requirements.txt: {requirement} is not pinned with =="
    wanted = SpecifierSet(str(tree.load(root / "meta" / "runtime.yml")["requires_ansible"]))
    for requirement in requirements(root):
        if requirement.name == "ansible-core" and str(requirement.specifier).lstrip("=") not in wanted:
            yield f"meta/runtime.yml wants ansible-core {wanted}, and requirements.txt pins {requirement.specifier}"
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(galaxy["version"])):
        yield f"galaxy.yml: version {galaxy['version']} is not of the form 1.2.3"
    for role in tree.roles(root):
        path = role / "meta" / "main.yml"
        least = ((tree.load(path) if path.is_file() else {}).get("galaxy_info") or {}).get("min_ansible_version")
        if least is not None and f">={least}" not in str(wanted).replace(".0", ""):
            yield f"{tree.short(root, path)}: min_ansible_version is {least}, meta/runtime.yml has {wanted}"


def changelog_problems(root: Path) -> Iterator[str]:
    """A release that the changelog knows is no newer than galaxy.yml; what is not yet released has fragments."""
    version = str(tree.load(root / "galaxy.yml")["version"])
    history = root / "changelogs" / "changelog.yaml"
    released = list((tree.load(history) or {}).get("releases") or {}) if history.is_file() else []
    for release in released:
        if Version(release) > Version(version):
            yield f"changelogs/changelog.yaml has {release}, and galaxy.yml is at {version}"
    if version not in released and not list((root / "changelogs" / "fragments").glob("*.yml")):
        yield f"galaxy.yml is at {version}, which has neither a release nor a fragment in changelogs/"


@pytest.mark.parametrize("contract", [version_problems, changelog_problems])
def test_versions_agree(contract: Callable[[Path], Iterator[str]]) -> None:
    tree.check(contract(tree.ROOT))


def test_what_is_pinned_is_what_is_installed() -> None:
    for requirement in requirements(tree.ROOT):
        if requirement.marker is None or requirement.marker.evaluate():
            assert importlib.metadata.version(requirement.name) in requirement.specifier, str(requirement)


@pytest.mark.parametrize("name", sorted(pins(tree.ROOT)))
def test_the_installed_collection_fits(name: str) -> None:
    """Python 3.11 has exactly the pinned collections; the newer `ansible` of 3.12 has them in galaxy.yml's range."""
    manifest = SITE.joinpath(*name.split("."), "MANIFEST.json")
    if not manifest.is_file():
        pytest.skip(f"{name} is not installed beside ansible-core")
    installed = json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]["version"]
    if sys.version_info < (3, 12):
        assert installed == pins(tree.ROOT)[name]
    else:
        assert installed in SpecifierSet(tree.load(tree.ROOT / "galaxy.yml")["dependencies"].get(name, ""))


BREAKS = [
    ("", "", "", None),
    ("galaxy.yml", ">=4.0.0,<6.0.0", ">=4.0.0,<4.1.0", "requirements.yml pins 4.8.5"),
    ("galaxy.yml", ",<6.0.0", "", "needs an upper bound"),
    (
        "galaxy.yml",
        "dependencies:",
        "dependencies:\n  community.crypto: '>=2.0.0,<3.0.0'",
        "does not pin community.crypto",
    ),
    ("galaxy.yml", "\nversion: ", "\nversion: v", "is not of the form 1.2.3"),
    ("requirements.yml", "version: 4.8.5", "version: '>=4.8.5'", "which is not exact"),
    ("requirements.yml", "    version: 4.8.5\n", "", "community.docker is any version, which is not exact"),
    ("requirements.txt", "molecule==", "molecule>=", "is not pinned with =="),
    ("requirements.txt", "ansible-core==2.19", "ansible-core==2.18", "pins ==2.18"),
    ("requirements.txt", "requests==2.34.2", "requests", "requests is not pinned"),
]


@pytest.mark.parametrize(("path", "old", "new", "found"), BREAKS)
def test_a_disagreement_is_found(broken: Callable[..., Path], path: str, old: str, new: str, found: str | None) -> None:
    root = broken()
    for name in PLACES:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(tree.ROOT / name, root / name)
    root = broken(path, old, new)
    problems = list(version_problems(root))
    if found is None:
        assert problems == []
    else:
        assert any(found in problem for problem in problems), problems


def test_a_forgotten_fragment_is_found(tmp_path: Path) -> None:
    (tmp_path / "galaxy.yml").write_text("version: 1.2.0\n")
    assert "neither a release nor a fragment" in "".join(changelog_problems(tmp_path))
    history = tmp_path / "changelogs" / "changelog.yaml"
    history.parent.mkdir()
    history.write_text("releases:\n  1.2.0: {}\n")
    assert list(changelog_problems(tmp_path)) == []
    history.write_text("releases:\n  1.2.0: {}\n  1.10.0: {}\n")
    assert "has 1.10.0, and galaxy.yml is at 1.2.0" in "".join(changelog_problems(tmp_path))
