# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which hosts a run is for, and what holds for the whole of it. Private to the collection.

Ansible evaluates the keywords of a play (hosts, serial) without any host, and so without the inventory's variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager, split_host_pattern
from ansible.parsing.dataloader import DataLoader

# The variables that name the hosts, the first that is set goes before the next.
NAMED = {"serving": ("vicuna_hosts",), "gateway": ("vicuna_gateways",), "training": ("finetune_host", "vicuna_hosts")}
WORDS = {"serving": "host that serves", "gateway": "gateway", "training": "host to train on"}
SHOWN = 5
MISSING = object()


def setting(name: str, variables: Mapping[str, Any], template: Callable[[Any], Any], default: Any = MISSING) -> Any:
    """A variable that holds for the whole run: from -e or the play, else from the inventory, where all hosts agree.

    The inventory is known from a run's second play on. Raises AnsibleError where hosts have different values.
    """
    if name in variables:
        return template(variables[name])
    hostvars = variables.get("hostvars") or {}
    found: list[tuple[str, Any]] = []
    for host in variables.get("groups", {}).get("all", []):
        value = hostvars[host].get(name, MISSING) if hostvars else MISSING
        if value is not MISSING:
            found.append((host, value))
    for host, value in found:
        if value != found[0][1]:
            raise AnsibleError(
                f"Found {name} {found[0][1]} for {found[0][0]}, and {value} for {host}. "
                "Expected one value, as it holds for the whole run. Set it for the group all."
            )
    return found[0][1] if found else default


class Hosts:
    """The inventory, and what a run takes of it."""

    def __init__(self, variables: Mapping[str, Any], template: Callable[[Any], Any], loader: DataLoader) -> None:
        self.variables, self.template = variables, template
        self.groups: Mapping[str, Sequence[str]] = variables["groups"]
        self.loader = loader

    def of(self, kinds: Sequence[str]) -> list[str]:
        """The names of the hosts of these kinds, in the inventory's order."""
        names = [name for kind in kinds for name in self._of(kind)]
        return list(dict.fromkeys(names))

    def _of(self, kind: str) -> list[str]:
        _, patterns = self._named(kind)
        if patterns is not None:
            return self._matching(patterns)
        gateways = list(self.groups.get("gateway", []))
        return gateways if kind == "gateway" else [name for name in self.groups["all"] if name not in gateways]

    def _named(self, kind: str) -> tuple[str, list[str] | None]:
        """The variable that names the hosts, and its patterns; None where the inventory alone tells."""
        for name in NAMED[kind]:
            value = setting(name, self.variables, self.template, None)
            if value is not None:
                return name, [str(each) for each in ([value] if isinstance(value, str) else value)]
        return "", None

    def _matching(self, patterns: Sequence[str], limit: str | None = None) -> list[str]:
        manager = InventoryManager(self.loader, parse=False)
        for group, hosts in self.groups.items():
            manager.add_group(group)
            for host in hosts:
                manager.add_host(host, group=group)
        if limit is not None:
            manager.subset(limit)
        return [str(host.name) for host in manager.get_hosts(pattern=list(patterns))] if patterns else []

    def problem(self, kinds: Sequence[str]) -> str:
        """Why a run that needs a host of one of these kinds cannot do what was asked for; empty where it can."""
        everything = list(self.groups["all"])
        sources = ", ".join(map(str, self.variables.get("ansible_inventory_sources") or [])) or "none was given"
        serving, named = NAMED[kinds[0]][-1], [self._named(kind) for kind in ("gateway", *kinds)]
        if not everything and all(patterns is None for _, patterns in named):
            return (
                f"Found no host in the inventory ({sources}). Expected at least one host that serves. "
                "Correct the path after -i, or add hosts to the inventory."
            )
        for source in self.variables.get("ansible_inventory_sources") or [] if everything else []:
            # What has a comma is a list of hosts. Ansible passes over a path that is not there with a warning.
            if "," not in source and not self.loader.path_exists(source):
                return (
                    f"Found no inventory at {source}, beside {_few(everything)} of another one. "
                    "Expected a file or a folder. Correct the path after -i."
                )
        for name, patterns in named:
            for pattern in self._unmatched(patterns):
                return (
                    f"Found no host that matches {name} '{pattern}' in the inventory ({sources}). "
                    f"Expected one of {_few(everything)}, or a group. Correct {name}."
                )
        if not self._of("serving" if "serving" in kinds else kinds[0]):
            return (
                f"Found gateways alone in the inventory ({sources}): {_few(everything)}. "
                "Expected at least one host that serves. Add one outside of the group gateway, "
                f"or name it in {serving}."
            )
        limit = self.variables.get("ansible_limit")
        wanted = self.of(kinds)
        if limit is None:
            return ""
        for pattern in self._unmatched(_patterns(limit)):
            return (
                f"Found no host that matches --limit '{pattern}' in the inventory ({sources}). "
                f"Expected one of {_few(wanted)}, or a group. Correct --limit."
            )
        if not self._matching(wanted, limit):
            words = " or ".join(WORDS[kind] for kind in kinds)
            return f"Found no {words} within --limit {limit}. Expected at least one of {_few(wanted)}. Correct --limit."
        return ""

    def _unmatched(self, patterns: Sequence[str] | None) -> list[str]:
        """Names, groups and patterns that stand for nobody. What takes hosts away may find none of them."""
        if patterns is None:
            return []
        parts = [part for pattern in patterns for part in _patterns(pattern)] or [""]
        adding = [part for part in parts if not part.startswith(("!", "&", "@"))]
        return [part for part in adding if not part or not self._matching([part])]


def _patterns(text: str) -> list[str]:
    return [str(part) for part in split_host_pattern(text)] if text.strip() else [""]


def _few(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "") or "none"


def is_run() -> bool:
    """Whether something is to be done, other than to list it or to check its syntax."""
    asked = context.CLIARGS
    return not any(asked.get(name) for name in ("syntax", "listhosts", "listtasks", "listtags"))
