# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: ca_file
author: The vicuna.fleet authors
version_added: 0.1.0
short_description: Read files of CA certificates on the control node, or tell what is wrong with them
description:
  - Reads PEM files as people have them (a byte-order mark, UTF-16, text around the certificates, several on one line)
    and gives their certificates in the form that every program reads.
  - A file with a mistake is told, and not raised, so that a role can refuse all that is wrong at once. A mistake is
    anything but certificates in it, a damaged certificate, or none that is valid today, may sign, and has a key of
    usual strength.
  - Files are found as P(ansible.builtin.file#lookup) finds them.
options:
  _terms:
    description: Paths of the files.
    type: list
    elements: str
    required: true
  setting:
    description: The variable that names the files, for the messages.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse CA files that cannot be used
  ansible.builtin.fail:
    msg: "{{ problems | join('\n') }}"
  when: problems | length > 0
  vars:
    problems: >-
      {{ query('vicuna.fleet.ca_file', *example_ca_certificates, setting='example_ca_certificates')
         | map(attribute='problem') | select }}
"""

RETURN = r"""
_list:
  description:
    - For each file C(path), C(problem) (what is wrong in three parts, empty where nothing is), C(text) (its
      certificates in PEM form, empty where something is wrong), and C(files), each of its certificates by a file name
      that a trust store takes.
  type: list
  elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

from ansible_collections.vicuna.fleet.plugins.module_utils._host.authorities import AuthorityError, authorities, bundle
from ansible_collections.vicuna.fleet.plugins.module_utils._trust_store import named


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(
        self, terms: list[str], variables: dict[str, Any] | None = None, *, setting: str, **_kwargs: Any
    ) -> list[dict[str, Any]]:
        found = []
        for term in terms:
            path = self.find_file_in_search_path(variables or {}, "files", term, ignore_missing=True) or term
            entry = {"path": term, "problem": "", "text": ""}
            try:
                entry["text"] = bundle(authorities(Path(path).read_bytes()))
            except AuthorityError as error:
                entry["problem"] = error.message(setting, term)
            except OSError as error:
                entry["problem"] = (
                    f"Found no readable file {term} on the control node ({error.strerror}). Expected certificates of "
                    f"authorities in PEM form. Correct {setting}."
                )
            found.append(entry)
        names = named({entry["path"]: entry["text"] for entry in found if not entry["problem"]})
        return [{**entry, "files": names.get(entry["path"], {})} for entry in found]
