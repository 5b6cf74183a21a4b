# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""apt's sources, read as apt reads them, and changed without touching what stands beside them: no input, no output.

The formats are those of sources.list(5). Where the page leaves something open, apt's own reader decides it:
apt-pkg/sourcelist.cc, apt-pkg/tagfile.cc and apt-pkg/contrib/strutl.cc.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from ansible_collections.vicuna.fleet.plugins.module_utils._host.source_urls import address

# For `apt-get indextargets --format`: what is told of each repository. No URL or name has such a separator in it.
SEPARATOR = "\x1f"
TARGET_FORMAT = SEPARATOR.join(
    f"$({name})" for name in ("ORIGIN", "CODENAME", "RELEASE", "COMPONENT", "REPO_URI", "SOURCESENTRY")
)

BOM = "\ufeff"
TYPES = {"deb", "deb-src"}
# Options of the one-line format that have another name in a stanza; the others are called alike.
_LONG_NAMES = {"arch": "architectures", "lang": "languages", "target": "targets"}
_LISTS = {name + end for name in _LONG_NAMES.values() for end in ("", "-add", "-remove")}
# What another source of the same repository has to say as the first one does: apt allows one value for each
# ("Conflicting values set for option"). The others say which packages' lists are fetched, and how.
_LIKE = {
    "architectures": "Architectures",
    "architectures-add": "Architectures-Add",
    "architectures-remove": "Architectures-Remove",
    "by-hash": "By-Hash",
    "check-date": "Check-Date",
    "check-valid-until": "Check-Valid-Until",
    "date-max-future": "Date-Max-Future",
    "pdiffs": "PDiffs",
    "signed-by": "Signed-By",
    "snapshot": "Snapshot",
    "trusted": "Trusted",
    "valid-until-max": "Valid-Until-Max",
    "valid-until-min": "Valid-Until-Min",
}
# APT::String::StringToBool
_OFF = ("no", "false", "without", "off", "disable")
_ZERO = re.compile(r"[+-]?0(?:0*|[xX]0+)")
_ONE_LINER = re.compile(r"\s*(?P<type>deb(?:-src)?)\s+(?:\[(?P<options>[^\]]*)\])?(?P<rest>.*)")
# GetListOfFilesInDir passes over every other name in sources.list.d.
_FILE_NAME = re.compile(r"(?!\.)[A-Za-z0-9_:.-]*\.(?:list|sources)")
# Warnings after which a list is missing, or is an old one.
_FAILED = re.compile(
    r"Failed to fetch|GPG error|signature verification|does not have a Release|is (?:not|no longer) signed"
)


@dataclass(frozen=True)
class Field:
    """A field of a stanza: the numbers of its lines in the file, and what it says."""

    name: str
    value: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """A line of a .list file or a stanza of a .sources file.

    number: the line or the stanza, counted from 1 as apt counts them in its messages. options: by their long names in
    lower case, as they are written there; an embedded key keeps its lines. lines: where it stands in the file, from 0.
    """

    path: str
    number: int
    types: tuple[str, ...]
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: Mapping[str, str]
    enabled: bool
    lines: tuple[int, ...]
    fields: tuple[Field, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Target:
    """A repository as apt knows it, by its own Release file and the source that leads to it."""

    origin: str
    codename: str
    suite: str
    component: str
    uri: str
    entry: str


def is_read(name: str) -> bool:
    """Whether apt reads a file of this name in sources.list.d."""
    return _FILE_NAME.fullmatch(name) is not None


def parse(path: str, text: str) -> list[Source]:
    """The sources in a file, also those that are switched off; its name tells the format.

    A source without a suite or a component is one, though apt stops at it: it can be switched off then.
    """
    stanzas = PurePosixPath(path).suffix == ".sources"
    return list(_stanzas(path, text) if stanzas else _one_liners(path, text))


def enabled(text: str) -> bool:
    """What apt takes a field `Enabled` for; a word that it does not know is a yes."""
    return text.lower() not in _OFF and _ZERO.fullmatch(text) is None


def switch_off(path: str, text: str, unwanted: Callable[[str], bool]) -> str:
    """The text with each URL for which `unwanted` holds switched off, and nothing else changed.

    A line becomes a comment. A stanza gets `Enabled: no`, or loses the URL where it has others too.
    """
    lines = _lines(text)
    for source in parse(path, text):
        if not source.enabled or not any(map(unwanted, source.uris)):
            continue
        first = source.lines[0]
        # apt does not know a byte-order mark, and stops at it.
        lines[0] = lines[0].lstrip(BOM)
        # What has no colon is no URL, and belongs to a comment behind one, at which apt stops.
        kept = [uri for uri in source.uris if ":" in uri and not unwanted(uri)]
        if not source.fields or not source.types or not TYPES.issuperset(source.types):
            # apt stops at a stanza without a type that it knows, even at one that is switched off.
            for number in source.lines:
                lines[number] = f"# {lines[number]}"
        elif kept:
            end = _line_end(lines[first])
            gone = " ".join(uri for uri in source.uris if unwanted(uri))
            _rewrite(lines, _field(source, "uris"), f"# URIs: {gone}{end}URIs: {' '.join(kept)}{end}")
        elif _field(source, "enabled").lines:
            _rewrite(lines, _field(source, "enabled"), f"Enabled: no{_line_end(lines[first])}")
        else:
            lines[first] = f"Enabled: no{_line_end(lines[first])}{lines[first]}"
    return "".join(lines)


def without(path: str, text: str, unwanted: Callable[[str], bool]) -> str:
    """What other sources than the unwanted ones say in a file, as a text of its own; empty where there is none."""
    lines = _lines(text)
    kept = [source for source in parse(path, text) if not all(map(unwanted, source.uris))]
    return "\n".join("".join(lines[number] for number in source.lines) for source in kept)


def stanza(**fields: str | Iterable[str]) -> str:
    """A stanza, in the order in which M(ansible.builtin.deb822_repository) writes one. Empty values are left out."""
    values = {key: value if isinstance(value, str) else " ".join(value) for key, value in fields.items()}
    values.setdefault("types", "deb")
    return "".join(f"{_title(key)}:{_folded(value)}\n" for key, value in sorted(values.items()) if value)


def parse_targets(out: str) -> list[Target]:
    """The repositories, from `apt-get indextargets --format TARGET_FORMAT`."""
    rows = (line.split(SEPARATOR) for line in out.splitlines())
    return list(dict.fromkeys(Target(*row) for row in rows if len(row) == 6))


def of_archive(targets: Iterable[Target], origin: str, codename: str) -> list[Target]:
    """The host's own sources of a release of a distribution's archive: its component main, without pockets.

    A disc that the system was installed from is none: it has no further components, and is in no drive.
    """
    return [
        target
        for target in targets
        if (target.origin, target.component, target.codename) == (origin, "main", codename)
        # Ubuntu's pockets, as noble-updates, have the codename of the release itself.
        and ("-" not in target.suite or target.suite == codename)
        and not target.uri.startswith("cdrom:")
    ]


def missing(targets: Iterable[Target], main: Iterable[Target], components: Iterable[str]) -> list[str]:
    """Those of the components that no source of the release has."""
    places = {(target.origin, target.suite) for target in main}
    there = {target.component for target in targets if (target.origin, target.suite) in places}
    return [component for component in components if component not in there]


def like(
    sources: Iterable[Source], targets: Iterable[Target], main: Target, *, uri: str = "", **fields: str | Iterable[str]
) -> str:
    """A source as the host's own source `main` is one: URL, suite and updates, key and other options.

    uri: a mirror of the archive in place of the host's own one. fields: what else the stanza says.
    """
    known = list(sources)
    model = next(source for source in known if f"{source.path}:{source.number}" == main.entry)
    own = next((each for each in model.uris if address(each) == address(main.uri)), main.uri)
    updates = {
        target.suite: None
        for target in targets
        if (target.origin, target.component, address(target.uri)) == (main.origin, "main", address(main.uri))
        and target.suite in (f"{main.suite}-updates", f"{main.codename}-updates")
    }
    stanzas: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for suite in [main.suite, *updates]:
        options = _agreed(known, model, uri or own, suite)
        stanzas.setdefault(tuple(options.items()), []).append(suite)
    return "\n".join(
        stanza(**fields, uris=uri or own, suites=suites, **{key.replace("-", "_"): value for key, value in options})
        for options, suites in stanzas.items()
    )


def failure(rc: int, said: str, uris: Sequence[str]) -> str:
    """Why `apt-get update` did not do: apt's own words, or none.

    apt ends well although it could not fetch a list. For the sources at hand, the URLs, that is a failure.
    """
    lines = [line.strip() for line in said.splitlines()]
    warnings = [line for line in lines if line.startswith("W: ") and _FAILED.search(line)]
    if rc != 0:
        errors = warnings + [line for line in lines if line.startswith("E: ")]
        return " ".join(errors or lines[-1:] or [f"exit status {rc}"])
    return next((line for line in warnings if _names(line, uris)), "")


def named_in(said: str, sources: Iterable[Source]) -> list[str]:
    """The files whose sources are named in what apt said, by a URL."""
    return sorted({source.path for source in sources if source.enabled and _names(said, source.uris)})


def _names(said: str, uris: Iterable[str]) -> bool:
    return any(place in said for place in map(address, uris) if place)


def _agreed(sources: list[Source], model: Source, uri: str, suite: str) -> dict[str, str]:
    """The options that a further source of a repository needs: of those that lead there, else of the model."""
    there = [
        source
        for source in sources
        if source.enabled and suite in source.suites and address(uri) in map(address, source.uris)
    ]
    first = model if model in there else next(iter(there), model)
    options = {key: value for key, value in first.options.items() if key in _LIKE and value}
    # One source that names the key is enough for apt.
    key = next((source.options["signed-by"] for source in there if source.options.get("signed-by")), "")
    return {**options, "signed-by": key} if key else options


def _lines(text: str) -> list[str]:
    """With their ends. Only a newline ends a line for apt."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _one_liners(path: str, text: str) -> Iterator[Source]:
    for index, line in enumerate(_lines(text)):
        match = _ONE_LINER.match(_without_comment(line.lstrip(BOM)))
        words = _words(match["rest"]) if match else []
        if match and words:
            options = dict(map(_option, _words(match["options"] or "")))
            suites, components = tuple(words[1:2]), tuple(words[2:])
            yield Source(path, index + 1, (match["type"],), (words[0],), suites, components, options, True, (index,))


def _without_comment(line: str) -> str:
    """The line up to a # that is not within brackets."""
    for match in re.finditer("#", line):
        if line.count("[", 0, match.start()) <= line.count("]", 0, match.start()):
            return line[: match.start()]
    return line


def _words(text: str) -> list[str]:
    """Words of a line; blanks within quotes and brackets are part of a word, as in `cdrom:[Debian 12]/`."""
    return [word.replace('"', "") for word in re.findall(r'(?:"[^"]*"|\[[^\]]*\]|[^\s"\[])+', text)]


def _option(word: str) -> tuple[str, str]:
    name, _equals, value = word.partition("=")
    bare = name.rstrip("+-")
    ending = {"+": "-add", "-": "-remove"}.get(name[len(bare) :], "")
    name = _LONG_NAMES.get(bare, bare) + ending
    return name, value.replace(",", " ") if name in _LISTS else value


def _stanzas(path: str, text: str) -> Iterator[Source]:
    number = 0
    fields: list[Field] = []
    # A line of its own ends the last stanza.
    for index, line in enumerate([*_lines(text), ""]):
        bare = line.lstrip(BOM).rstrip("\r\n")
        if bare.startswith("#"):
            continue
        if not bare:
            if fields:
                number += 1
                yield _stanza(path, number, fields)
            fields = []
        elif bare[0].isspace():
            if fields:
                last = fields[-1]
                fields[-1] = replace(last, value=f"{last.value}\n{bare}", lines=(*last.lines, index))
        else:
            name, _colon, value = bare.partition(":")
            fields.append(Field(name.rstrip().lower(), value, (index,)))


def _stanza(path: str, number: int, fields: list[Field]) -> Source:
    # The last one of a name counts.
    values = {each.name: each.value.strip() for each in fields}
    words = {name: tuple(values.pop(name, "").split()) for name in ("types", "uris", "suites", "components")}
    on = enabled(values.pop("enabled", ""))
    lines = tuple(sorted(index for each in fields for index in each.lines))
    return Source(path, number, **words, options=values, enabled=on, lines=lines, fields=tuple(fields))


def _field(source: Source, name: str) -> Field:
    return next((each for each in reversed(source.fields) if each.name == name), Field(name, "", ()))


def _rewrite(lines: list[str], old: Field, text: str) -> None:
    """Put a text in the place of a field; comments between its lines stay."""
    for number in old.lines:
        lines[number] = ""
    lines[old.lines[0]] = text


def _line_end(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n"


def _title(key: str) -> str:
    known = {
        "name": "X-Repolib-Name",
        "uris": "URIs",
        **{name.replace("-", "_"): title for name, title in _LIKE.items()},
    }
    return known.get(key, key.title())


def _folded(value: str) -> str:
    """A value behind its colon. An embedded key has its lines folded, and the empty one as a dot."""
    if "\n" not in value:
        return f" {value}"
    if "-----BEGIN PGP" not in value:
        return f" {' '.join(value.split())}"
    return "".join(f"\n {line.strip() or '.'}" for line in value.splitlines())
