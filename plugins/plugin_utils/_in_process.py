# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An action that answers in Ansible's own process where it can, and has the module answer otherwise."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class InProcess(ActionBase):  # type: ignore[misc]
    """What the actions share. Their modules take the same options, and return the same."""

    MODULE: ClassVar[str]
    ARGUMENT_SPEC: ClassVar[dict[str, dict[str, Any]]]

    TRANSFERS_FILES = False
    _supports_async = True

    params: dict[str, Any]

    def answer(self, params: dict[str, Any]) -> dict[str, Any] | None:
        """The module's result; None to let the module find it."""
        raise NotImplementedError

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        self.params = self._params()
        found = self.answer(self.params) if self.params and self._is_here() else None
        if found is None:
            found = self._execute_module(
                module_name=self.MODULE,
                module_args=dict(self._task.args),
                task_vars=task_vars,
                wrap_async=self._task.async_val and not self._connection.has_native_async,
            )
        return {**result, **found}

    def _is_here(self) -> bool:
        """Whether the task runs on the control node as the user that Ansible runs as, and is waited for."""
        return self._connection.transport == "local" and self._connection.become is None and not self._task.async_val

    def _params(self) -> dict[str, Any]:
        """The options as the module would read them; none where they are wrong, so that the module says so."""
        try:
            _validated, params = self.validate_argument_spec(argument_spec=self.ARGUMENT_SPEC)
        except AnsibleActionFail:
            return {}
        return dict(params)
