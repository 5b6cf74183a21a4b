# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module vicuna.fleet.finetune_job, and tells the training's progress while it lasts.

The module starts the container, which needs neither this process nor the connection; this plugin reads the container's
state and its progress file over the connection, and has the module write down the end.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.vars import merge_hash

from ansible_collections.vicuna.fleet.plugins.action.git_lfs import tell_at_once, unkilled
from ansible_collections.vicuna.fleet.plugins.module_utils._finetune_progress import (
    Container,
    Progress,
    away_line,
    done_line,
    left_line,
    line,
    parse_progress,
    stalled,
    state_of,
    stopping_line,
    told,
)

MODULE = "vicuna.fleet.finetune_job"
# Seconds between two looks at the host: a small model has learnt at once, a large one takes hours.
POLLS_S = (0.5, 1.0, 2.0, 2.0, 2.0, 2.0)
POLL_S = 5.0
# Seconds between two lines.
SAY_S = 10.0
# A connection that breaks, or an engine that starts anew, is tried again for so long: the training needs neither.
# A server with many GPUs takes ten minutes to boot.
PATIENCE_S = 900.0
# Before the answer, so that what the host's login prints is not taken for one.
MARK = "vicuna-fleet-finetune"
NOTE = "vicuna-finetune-watch-"

T = TypeVar("T")


def notes() -> Path:
    """A directory of this run that all its processes share; Ansible removes it at the end."""
    return Path(str(C.DEFAULT_LOCAL_TMP))


def tell_what_goes_on(run: int) -> None:
    """At the end of a run, also by Ctrl-C: say that the trainings it has left do not end with it."""
    if os.getpid() != run:
        return
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for note in sorted(notes().glob(f"{NOTE}*")):
            left = json.loads(note.read_text(encoding="utf-8"))
            Display().display(left_line(left["host"], left["name"]), stderr=True)


# As in git_lfs: the main process loads the plugin before it forks the one that runs it, and can speak after Ctrl-C.
atexit.register(tell_what_goes_on, os.getpid())
tell_at_once()


class _NoAnswer(Exception):
    """The connection stands, and what came over it is no answer."""


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        self._host = str(self._vars.get("inventory_hostname") or "host")
        try:
            done = self._converge(dict(self._task.args))
        finally:
            if not self._task.async_val:
                self._remove_tmp_path(self._connection._shell.tmpdir)
        return dict(merge_hash(result, done))

    def _module(self, args: dict[str, Any], **changes: Any) -> dict[str, Any]:
        wrap_async = self._task.async_val and not self._connection.has_native_async
        return dict(
            self._execute_module(
                module_name=MODULE, module_args={**args, **changes}, task_vars=self._vars, wrap_async=wrap_async
            )
        )

    def _converge(self, args: dict[str, Any]) -> dict[str, Any]:
        state = args.get("state") or "finished"
        if state != "finished" or self._task.check_mode or self._task.async_val:
            return self._module(args)
        first = self._module(args, state="started")
        # Not running and not failed: it was done before, or has ended at once.
        if first.get("failed") or (not first.get("running") and first.get("done")):
            return self._as_asked(first)
        if first.get("action") == "attached":
            self._say(f"{self._host}: the training was at work already")
        elif first.get("action") == "continued":
            self._say(f"{self._host}: goes on from the last checkpoint, if there is one")
        return self._as_asked(self._finish(args, first))

    def _finish(self, args: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
        job = first.get("job")
        if isinstance(job, Mapping):
            name, limit = str(job["container"]), float(args.get("stall_timeout") or 1800)
            note = notes() / f"{NOTE}{self._host}"
            with contextlib.suppress(OSError):
                note.write_text(json.dumps({"host": self._host, "name": name}), encoding="utf-8")
            silent, progress = self._watch(name, str(job["progress"]), limit)
            # Left where the connection is lost: the training goes on then, too.
            note.unlink(missing_ok=True)
            if silent is not None:
                wait = int(args.get("stop_timeout") or 300)
                self._say(stopping_line(self._host, silent, wait))
                ended = not self._patiently(lambda: self._module(args, state="stopped")).get("failed")
                return {**first, **self._stall(args, name, silent, progress, ended)}
        last = self._patiently(lambda: self._module(args, state="collected"))
        if not last.get("failed"):
            self._say(done_line(self._host, str(args.get("step") or "train"), self._last(last)))
        return {**last, "changed": True, "action": first.get("action", "none")}

    def _stall(
        self, args: dict[str, Any], name: str, silent: float, progress: Progress | None, ended: bool
    ) -> dict[str, Any]:
        """The failure; the log comes from the end that the module has seen."""
        seen = self._patiently(lambda: self._module(args, state="collected"))
        problem = stalled(name, silent, progress, ended)
        kept: dict[str, Any] = {key: seen[key] for key in ("log", "exit_code", "progress", "oom_killed") if key in seen}
        return {**kept, "failed": True, "changed": True, "msg": told(problem), "cause": problem.cause}

    @staticmethod
    def _last(result: Mapping[str, Any]) -> Progress | None:
        found = result.get("progress")
        return parse_progress(json.dumps(found)) if found else None

    @staticmethod
    def _as_asked(result: dict[str, Any]) -> dict[str, Any]:
        """The invocation as the user wrote it, instead of the plugin's own arguments."""
        invocation = result.get("invocation")
        if isinstance(invocation, dict) and isinstance(invocation.get("module_args"), dict):
            shown = {**invocation["module_args"], "state": "finished"}
            return {**result, "invocation": {**invocation, "module_args": shown}}
        return result

    # ------------------------------------------------------------------------------------------ watching

    def _watch(self, name: str, path: str, limit: float) -> tuple[float | None, Progress | None]:
        """Follow the container to its end; returns for how long it was silent, where that was too long."""
        fresh = said = self._clock()
        latest: Progress | None = None
        for wait in itertools.chain(POLLS_S, itertools.repeat(POLL_S)):
            container, progress = self._patiently(lambda: self._look(name, path))
            now = self._clock()
            if progress and (latest is None or progress.updated != latest.updated):
                fresh, latest = now, progress
            if container is None or not container.running:
                return None, latest
            if now - fresh > limit:
                return now - fresh, latest
            if now - said + wait > SAY_S:
                said = now
                self._say(line(self._host, latest, now - fresh))
            self._sleep(wait)
        raise AssertionError("an endless loop has ended")

    def _look(self, name: str, path: str) -> tuple[Container | None, Progress | None]:
        """The container (None: gone), then what it has written: its last words come before its end."""
        quote = self._connection._shell.quote
        done = self._low_level_execute_command(
            f"echo {MARK}; docker inspect --type container --format '{{{{json .State}}}}' {quote(name)} 2>&1; "
            f"cat {quote(path)} 2>/dev/null; true"
        )
        _before, mark, answer = str(done.get("stdout") or "").partition(MARK)
        first, _, rest = answer.strip().partition("\n")
        try:
            state = json.loads(first)
        except ValueError:
            state = None
        if not mark or not isinstance(state, dict):
            # Not "no such file": so newer clients tell of an engine that is not up yet.
            if mark and "no such container" in answer.lower():
                return None, None
            said = str(done.get("stderr") or "").strip() or first
            raise _NoAnswer(said[-300:] or "nothing came back")
        return state_of(state, name), parse_progress(rest)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """An answer over a connection that may break: the training goes on without it."""
        lost = said = None
        while True:
            try:
                return ask()
            except (AnsibleConnectionFailure, _NoAnswer) as error:
                now = self._clock()
                if lost is None or said is None:
                    lost = said = now
                    self._say(f"{self._host}: no connection ({error}); the training goes on without it")
                elif now - said + POLL_S > SAY_S:
                    said = now
                    self._say(away_line(self._host, now - lost))
                if now - lost >= PATIENCE_S:
                    raise AnsibleConnectionFailure(
                        f"The connection to the host has been lost for {PATIENCE_S:.0f} s ({error}). The training goes "
                        "on there; run again to watch it."
                    ) from error
                self._disconnect()
                self._sleep(POLL_S)

    def _disconnect(self) -> None:
        """Have the next command connect anew: the shared connection of ssh may be a dead one."""
        if self._connection.transport == "ssh":
            with contextlib.suppress(Exception):
                self._connection.reset()

    # For tests, which do not wait.
    _clock = staticmethod(time.monotonic)
    _sleep = staticmethod(time.sleep)

    def _say(self, text: str) -> None:
        # JSON on stdout stays JSON.
        with unkilled():
            self._display.display(text, stderr="json" in str(C.DEFAULT_STDOUT_CALLBACK).rpartition(".")[2])
