# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module vicuna.fleet.git_lfs, and tells the progress of the transfer while it lasts.

The module plans and starts the transfer in a process of the host's own; this plugin reads that process's progress file
over the connection, and has the module finish what only it can: link the verified objects into the directory.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.module_utils.common.validation import check_type_dict
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.vars import merge_hash

from ansible_collections.vicuna.fleet.plugins.module_utils._fetch_progress import (
    Entry,
    Progress,
    done_line,
    parse_progress,
    repaired_line,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import Problem
from ansible_collections.vicuna.fleet.plugins.plugin_utils._fetch_board import Board, close_run, peer_key

MODULE = "vicuna.fleet.git_lfs"
MASK = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
# Seconds between two looks at the host: a small model has arrived at once, a large one takes minutes.
POLLS_S = (0.5, 1.0, 2.0, 2.0, 2.0, 2.0)
POLL_S = 5.0
POLL_LEAST_S = 0.5
# A connection that breaks is tried again for so long: the transfer does not need it.
PATIENCE_S = 120.0
# The process writes at least each second; a number that a dead one's successor has is not taken for it for ever.
STALE_S = 600.0
# Between the two, so that what the host's login prints is not taken for an answer.
MARK = "vicuna-fleet-progress"

T = TypeVar("T")


def tell_what_goes_on(run: int) -> None:
    """At the end of a run, also by Ctrl-C: say that the transfers it has left do not end with it."""
    if os.getpid() == run:
        for line in close_run(run):
            Display().display(line, stderr=True)


def tell_at_once() -> None:
    """Let each line go out when it is printed: Ansible never flushes, and a pipe, as in CI, would hold back 8 KiB."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


@contextlib.contextmanager
def unkilled() -> Iterator[None]:
    """Put off the end of this process: killed while it holds the lock of Ansible's queue, it leaves the run hanging."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Ansible's main process loads the plugin before it forks the one that runs it. A process for a host is ended without
# a word at Ctrl-C; the main one can still speak.
atexit.register(tell_what_goes_on, os.getpid())
tell_at_once()


@dataclass(frozen=True)
class Job:
    """The process that fetches, on the host."""

    pid: int
    progress: str


class _NoAnswer(Exception):
    """The connection stands, and what came over it is no answer."""


def job_of(result: Mapping[str, Any]) -> Job | None:
    """The job that the module has started; None where there was nothing to transfer."""
    job = result.get("job")
    if not isinstance(job, Mapping) or result.get("failed"):
        return None
    try:
        return Job(int(job["pid"]), str(job["progress"]))
    except (KeyError, TypeError, ValueError):
        return Job(0, "")


def scrubbed(value: Any, hidden: list[str]) -> Any:
    """A result without secrets, also where a failure of the module's own has spelt them out."""
    if isinstance(value, str):
        for secret in hidden:
            if secret in value:
                value = value.replace(secret, MASK)
        return value
    if isinstance(value, dict):
        return {key: scrubbed(item, hidden) for key, item in value.items()}
    if isinstance(value, list):
        return [scrubbed(item, hidden) for item in value]
    return value


def with_warnings(result: dict[str, Any], *others: list[Any]) -> dict[str, Any]:
    """The result with these warnings before its own, each once."""
    every: list[Any] = []
    for warning in [item for some in others for item in some] + list(result.get("warnings") or []):
        if warning not in every:
            every.append(warning)
    return {**result, "warnings": every} if every else result


def gone(job: Job) -> Problem:
    return Problem(
        "job_gone",
        f"the process {job.pid} that fetched on this host has ended without a word."
        if job.pid > 0
        else "the process that was to fetch on this host has not come up.",
        "a process that lives until every object is verified.",
        "run again, which goes on where it ended; if that ends too, look for lack of memory in the host's kernel log.",
    )


def incomplete(missing: int) -> Problem:
    return Problem(
        "incomplete",
        f"{missing} bytes of large files are missing although their transfer had ended well.",
        "every object of the revision in the store.",
        "run again; if a branch or tag moved meanwhile, pin its commit in model_revision.",
    )


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        self._host = str(self._vars.get("inventory_hostname") or "host")
        args, hidden = self._arguments()
        try:
            done = self._converge(args)
            if done.get("repaired") and not (done.get("failed") or done.get("job") or self._task.check_mode):
                self._say(repaired_line(self._host, done["repaired"], done.get("kept") or []))
        finally:
            if not self._task.async_val:
                self._remove_tmp_path(self._connection._shell.tmpdir)
        return dict(merge_hash(result, scrubbed(done, hidden)))

    # ------------------------------------------------------------------------------------------ arguments

    def _arguments(self) -> tuple[dict[str, Any], list[str]]:
        """The module's arguments, with the key of the peers, and what of them must not be seen."""
        args = dict(self._task.args)
        peers = args.get("peers")
        if isinstance(peers, str) and peers:
            # On the command line it comes as text; what is no dictionary the module refuses.
            with contextlib.suppress(TypeError):
                peers = check_type_dict(peers)
        if isinstance(peers, Mapping):
            peers = dict(peers)
            if peers.get("hosts") and not peers.get("key"):
                try:
                    peers["key"] = peer_key(str(args.get("repo")), str(args.get("revision")))
                except OSError as error:
                    raise AnsibleActionFail(
                        f"Found: no key for the peers can be made ({error}). Expected: a private directory in the "
                        "cache of the user that runs the play. Remedy: set XDG_CACHE_HOME to one, or set peers.key."
                    ) from error
            args["peers"] = peers
        key = peers.get("key") if isinstance(peers, Mapping) else ""
        return args, [str(secret) for secret in (args.get("token"), key) if secret]

    def _module(self, args: dict[str, Any], **changes: Any) -> dict[str, Any]:
        # Connections without a shell of their own take it upon themselves.
        wrap_async = self._task.async_val and not self._connection.has_native_async
        return dict(
            self._execute_module(
                module_name=MODULE, module_args={**args, **changes}, task_vars=self._vars, wrap_async=wrap_async
            )
        )

    # ------------------------------------------------------------------------------------------ the transfer

    def _converge(self, args: dict[str, Any]) -> dict[str, Any]:
        as_it_is = not all(boolean(args.get(name, True), strict=False) for name in ("fetch", "wait"))
        if as_it_is or self._task.check_mode or self._task.async_val:
            return self._module(args)
        first = self._module(args, wait=False)
        job = job_of(first)
        if job is None:
            return self._as_asked(first, args)
        board = Board.open(str(args.get("repo")), str(args.get("revision")))
        # To kill, 0 and less are groups of processes.
        progress = self._watch(job, board) if job.pid > 0 else self._vanished(job, Progress())
        board.tell(Entry(self._host, progress, time.time(), ended=True))
        if progress.state != "done":
            return self._as_asked(self._failure(first, progress), args)
        # What the first run has read need not be read again: the transfer has verified the rest.
        changes = {"fetch": False, **({"verify": "changed"} if "verify" in args else {})}
        last = self._patiently(lambda: self._module(args, **changes))
        return self._as_asked(self._finished(first, last, progress), args)

    def _failure(self, first: dict[str, Any], progress: Progress) -> dict[str, Any]:
        failed = {
            "failed": True,
            "changed": progress.fetched > 0,
            "msg": progress.msg or f"the transfer failed ({progress.cause or 'no cause is known'})",
            "cause": progress.cause,
            "detail": progress.detail,
            **({"invocation": first["invocation"]} if "invocation" in first else {}),
            **self._figures(progress),
        }
        return with_warnings(failed, first.get("warnings") or [], list(progress.notes))

    def _finished(self, first: dict[str, Any], last: dict[str, Any], progress: Progress) -> dict[str, Any]:
        merged = with_warnings({**last, **self._figures(progress)}, first.get("warnings") or [], list(progress.notes))
        if merged.get("failed"):
            return merged
        missing = merged.get("missing_bytes")
        if missing:
            problem = incomplete(int(missing))
            return {**merged, "failed": True, "msg": str(problem), "cause": problem.cause, "detail": ""}
        if "verified" in last:
            merged["verified"] = last["verified"] + int(first.get("verified") or 0)
        if "repaired" in last:
            merged["repaired"] = sorted({*last["repaired"], *(first.get("repaired") or [])})
        merged["changed"] = True
        self._say(done_line(self._host, progress))
        return merged

    @staticmethod
    def _figures(progress: Progress) -> dict[str, Any]:
        return {
            "downloaded_bytes": progress.fetched,
            "from_origin": progress.from_origin,
            "from_peers": progress.from_peers,
            "seconds": round(progress.seconds, 1),
            "notes": list(progress.notes),
        }

    @staticmethod
    def _as_asked(result: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        """The invocation as the user wrote it, instead of the plugin's own arguments."""
        invocation = result.get("invocation")
        if isinstance(invocation, dict) and isinstance(invocation.get("module_args"), dict):
            shown = {**invocation["module_args"], "fetch": True, "wait": True}
            if "verify" in args:
                shown["verify"] = args["verify"]
            return {**result, "invocation": {**invocation, "module_args": shown}}
        return result

    # ------------------------------------------------------------------------------------------ watching

    def _watch(self, job: Job, board: Board) -> Progress:
        """Follow the job to its end, whatever that is."""
        fresh = self._clock()
        latest = Progress(pid=job.pid)
        board.tell(Entry(self._host, latest, time.time(), pid=os.getpid()))
        for wait in itertools.chain(POLLS_S, itertools.repeat(POLL_S)):
            alive, progress = self._patiently(lambda: self._look(job), meanwhile=board)
            now = self._clock()
            if progress and progress.updated != latest.updated:
                fresh = now
            if progress:
                latest = progress
                board.tell(Entry(self._host, latest, time.time(), pid=os.getpid()))
                if latest.state in ("done", "failed"):
                    return latest
            if not alive or (latest.state == "fetching" and now - fresh > STALE_S):
                return self._vanished(job, latest)
            self._pause(wait if latest.eta is None else min(wait, max(POLL_LEAST_S, latest.eta)), board)
        raise AssertionError("an endless loop has ended")

    @staticmethod
    def _vanished(job: Job, latest: Progress) -> Progress:
        problem = gone(job)
        return replace(latest, state="gone", cause=problem.cause, msg=str(problem), detail="")

    def _look(self, job: Job) -> tuple[bool, Progress | None]:
        """Whether the process lives, and what it has written: in this order, as its last words come before its end."""
        # A process of another user, such as a job that root has started, cannot be asked by kill.
        alive = f"kill -0 {job.pid} 2>/dev/null || test -d /proc/{job.pid}"
        done = self._low_level_execute_command(
            f"if {alive}; then echo {MARK} alive; else echo {MARK} gone; fi; "
            f"cat {self._connection._shell.quote(job.progress)} 2>/dev/null; true"
        )
        _before, mark, answer = str(done.get("stdout") or "").partition(MARK)
        word, _, text = answer.strip().partition("\n")
        if not mark or word.strip() not in ("alive", "gone"):
            raise _NoAnswer(str(done.get("stderr") or "").strip()[-300:] or "nothing came back")
        progress = parse_progress(text)
        # The file of an earlier job says nothing about this one.
        return word.strip() == "alive", progress if progress and progress.pid == job.pid else None

    def _patiently(self, ask: Callable[[], T], meanwhile: Board | None = None) -> T:
        """An answer over a connection that may break: the transfer goes on without it."""
        deadline = None
        while True:
            try:
                return ask()
            except (AnsibleConnectionFailure, _NoAnswer) as error:
                deadline = deadline or self._clock() + PATIENCE_S
                if self._clock() >= deadline:
                    raise AnsibleConnectionFailure(
                        f"The connection to the host has been lost for {PATIENCE_S:.0f} s ({error}). The fetch goes on "
                        "there; run again to go on with it."
                    ) from error
                self._disconnect()
                self._pause(POLL_S, meanwhile)

    def _disconnect(self) -> None:
        """Have the next command connect anew: the shared connection of ssh may be a dead one."""
        if self._connection.transport == "ssh":
            with contextlib.suppress(Exception):
                self._connection.reset()

    def _pause(self, seconds: float, board: Board | None) -> None:
        """Wait, and print when it is this process's turn."""
        until = self._clock() + seconds
        while True:
            for line in board.due() if board else []:
                self._say(line)
            left = until - self._clock()
            if left <= 0:
                return
            self._sleep(min(1.0, left))

    # For tests, which do not wait.
    _clock = staticmethod(time.monotonic)
    _sleep = staticmethod(time.sleep)

    # ------------------------------------------------------------------------------------------ telling

    def _say(self, line: str) -> None:
        # JSON on stdout stays JSON.
        with unkilled():
            self._display.display(line, stderr="json" in str(C.DEFAULT_STDOUT_CALLBACK).rpartition(".")[2])
