# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs a job to its end; whatever ends this process, init ends the job."""

from __future__ import annotations

import time
from typing import Any, Dict, Mapping, Optional

from ..kernel.signals import signal
from ..reach import command
from ..reach.errors import ReachError, TimedOut, Vanished
from ..site import Site
from .job import Job, Prepare, Running

# Signals that end the caller of a job, and the job with it.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(ReachError):
    """A signal to this process has ended the job."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number} has ended the job")
        self.status = 128 + number


class Outcome:
    """The end of a job; ``problem`` tells why sandlot has ended it."""

    def __init__(
        self, code: int, seconds: float, problem: Optional[ReachError], *, oom_killed: bool
    ) -> None:
        self.code = code
        self.seconds = seconds
        self.problem = problem
        self.oom_killed = oom_killed

    @property
    def timed_out(self) -> bool:
        return isinstance(self.problem, TimedOut)


def run(site: Site, job: Job, prepare: Prepare, **options: Any) -> Outcome:
    """Run a job by ``options`` of reach.command.execute; all of it is gone on return."""
    with _Signals() as signals:
        running = _networked(site, job) if job.is_networked else Running(site, job, prepare)
        try:
            running.start()
            return _to_its_end(site, running, options)
        finally:
            signals.is_removing = True
            running.await_end()
            running.remove()


def _networked(site: Site, job: Job) -> Running:
    from .networked import Networked

    return Networked(site, job)


def _to_its_end(site: Site, running: Running, options: Mapping[str, Any]) -> Outcome:
    begun, problem = time.monotonic(), None
    name, argv = running.paths.name, running.argv
    try:
        code = command.execute(site, name, argv, job=running.init, **options)
    except ReachError as error:
        problem, code = error, error.status
    seconds = time.monotonic() - begun
    running.await_end()
    killed = running.oom_kills > 0
    if isinstance(problem, Vanished):
        problem = _vanished(killed=killed)
    return Outcome(code, seconds, problem, oom_killed=killed)


def _vanished(*, killed: bool) -> Vanished:
    if killed:
        problem = "the job used up its memory, and its init was killed with it"
        return Vanished(problem, hint="give it more: memory")
    return Vanished("the init of the job was killed", hint="run it again")


class _Signals:
    """Signals that end the process: each ends the job, and none its removal."""

    def __init__(self) -> None:
        self._before: Dict[int, Any] = {}
        self.is_removing = False

    def __enter__(self) -> _Signals:
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *dummy: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: object) -> None:
        if not self.is_removing:
            raise Interrupted(number)
