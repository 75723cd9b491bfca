# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Describes a workload that ended by itself: how, its last words, and a likely remedy."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Mapping

from .. import cgroups
from ..errors import LaunchError, StateError
from ..init.child import NOT_EXECUTABLE, NOT_FOUND
from ..init.policy import SETTLED
from ..kernel.signals import signal
from ..site import SandboxPaths, Site
from ..spec.quantities import signal_name
from . import health, oom, record, remedies, runtime, waiting
from .crash_case import Facts
from .last_words import explained, last_log, quoted
from .record import PRESENT, STARTED, Record
from .root_view import RootView

# Exits with 0 that follow on each other more slowly are the restart policy at work.
_ALSO_WITH_ZERO = frozenset(("crashed", "backoff", "crash-loop"))
# How long a workload without a healthcheck is watched after its start.
WATCH = 2.0
# Last lines of the log: those to show, and those to look for a cause in.
_SHOWN, _EXAMINED = 8, 40


@dataclass(frozen=True)
class Crash:
    """``what`` is a clause about the workload; ``remedy`` is "" where no fact gives one.

    A workload that has ``recovered`` runs again, for as long as counts as a success.
    """

    what: str
    remedy: str
    state: str
    exit_code: int | None
    signal: int | None
    restarts: int
    oom_kills: int
    last_log: List[str]
    recovered: bool = False

    def to_json(self) -> Dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "recovered"}

    def __str__(self) -> str:
        """One line, for a warning."""
        lines = " | ".join(self.last_log)
        parts = [f"its workload {self.what}", f"its log ends with: {lines}" if lines else ""]
        return "; ".join(part for part in (*parts, self.remedy) if part)

    def brief(self) -> str:
        """One line without the log."""
        parts = (f"its workload {self.what}", f"remedy: {self.remedy}" if self.remedy else "")
        return "; ".join(part for part in parts if part)

    def text(self) -> str:
        """The message of a failure, the remedy in its last line."""
        lines = quoted("; its log ends with", self.last_log) if self.last_log else ""
        return explained(f"its workload {self.what}{lines}", self.remedy)


class Crashed(LaunchError):
    """A sandbox whose workload ended by itself within the time for which it was watched."""

    def __init__(self, crash: Crash, message: str = "") -> None:
        super().__init__(message or f"its workload {crash.what}", hint=crash.remedy)
        self.crash = crash

    def __str__(self) -> str:
        return explained(self.message, self.hint)


def look(
    site: Site,
    name: str,
    layout: Callable[[], cgroups.Layout] = cgroups.detect,
    *,
    fresh: bool = False,
    known: Record | None = None,
) -> Crash | None:
    """The crash of a sandbox that is to run; None when it runs well, or ended as it should.

    A workload that the run has just started (``fresh``) has ended if it was started again.
    ``known`` is the record of what runs, when the stored one is that of the version before.
    """
    sandbox = site.sandbox(name)
    try:
        running = runtime.running(sandbox)
    except StateError:
        return None  # the next run repairs the file that names init
    status = runtime.status(sandbox)
    state = runtime.state(PRESENT, STARTED, running, status)
    code = status.get("exit_code")
    again = fresh and state in ("running", "stopping") and health.has_ended(status)
    if not again and (state not in runtime.ENDED or not (code or state in _ALSO_WITH_ZERO)):
        return None
    stored = record.load(site, name)
    if state == "stopping" and stored is not None and stored.wanted != STARTED:
        return None  # another run stops it
    lines = _last_lines(sandbox)
    usage = cgroups.usage(site, name, layout())
    recent = oom.recent(sandbox, usage.oom_kills)
    runs = running is not None and status.get("state") == "running"
    recovered = running is not None and runs and runtime.uptime(running, status) >= SETTLED
    return Crash(
        what=_what(state, status, recent, recovered=recovered),
        remedy=_remedy(site, known or stored, state, status, usage, recent, lines),
        state=state,
        exit_code=code,
        signal=status.get("signal"),
        restarts=status.get("restarts", 0),
        oom_kills=oom.total(sandbox, usage.oom_kills),
        last_log=lines[-_SHOWN:],
        recovered=recovered,
    )


def loops(site: Site, name: str) -> bool:
    """Whether a workload has ended and has not run for long since."""
    running, status = runtime.running(site.sandbox(name)), runtime.status(site.sandbox(name))
    if running is None or not status.get("restarts"):
        return False
    waits = status.get("state") in ("backoff", "crash-loop")
    return waits or runtime.uptime(running, status) < SETTLED


def of_start(site: Site, known: Record, failure: LaunchError) -> LaunchError:
    """The failure of a start; a Crashed when the command could not be executed."""
    sandbox = site.sandbox(known.name)
    status = runtime.status(sandbox)
    if status.get("exit_code") not in (NOT_FOUND, NOT_EXECUTABLE) or "pid" in status:
        return failure
    lines = _last_lines(sandbox)
    usage = cgroups.usage(site, known.name)
    crash = Crash(
        what="could not be started",
        remedy=_remedy(site, known, "exited", status, usage, 0, lines) or failure.hint,
        state="exited",
        exit_code=status["exit_code"],
        signal=None,
        restarts=0,
        oom_kills=oom.total(sandbox, usage.oom_kills),
        last_log=lines[-_SHOWN:],
    )
    return Crashed(crash, f"its workload could not be started: {failure.message}")


def _last_lines(sandbox: SandboxPaths) -> List[str]:
    """The last lines since the start; a workload that loops says the same each time."""
    init = runtime.last_started(sandbox)
    lines = last_log(sandbox, _EXAMINED, after=init.since if init else 0.0)
    return list(dict.fromkeys(lines))


def _remedy(
    site: Site,
    known: Record | None,
    state: str,
    status: Mapping[str, Any],
    usage: cgroups.Usage,
    recent: int,
    lines: List[str],
) -> str:
    if known is None:
        return ""
    sandbox = site.sandbox(known.name)
    with _trees(sandbox, known) as trees:
        facts = Facts(
            code=runtime.KILLED if state == "crashed" else int(status.get("exit_code", 0)),
            again=bool(status.get("restarts")),
            kills=recent,
            refused_processes=usage.refused_processes or 0,
            lost_log_bytes=int(status.get("lost_log_bytes", 0)),
            lines=lines,
            root=RootView(trees, known.ids),
        )
        return remedies.remedy(site, known, facts)


@contextlib.contextmanager
def _trees(sandbox: SandboxPaths, known: Record) -> Iterator[List[str]]:
    """The root of init, held open as init may be about to end, or without init the layers."""
    running = runtime.running(sandbox)
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        fd = os.open(f"/proc/{running.pid}/root", flags) if running else -1
    except OSError:
        fd = -1  # init has ended meanwhile
    try:
        layers = [sandbox.upper, *known.image.layers]
        yield layers if fd < 0 else [f"/proc/self/fd/{fd}"]
    finally:
        if fd >= 0:
            os.close(fd)


def _what(state: str, status: Mapping[str, Any], kills: int, *, recovered: bool) -> str:
    times = f"{kills} time{'' if kills == 1 else 's'}"
    if state == "crashed":
        why = f" for the memory limit ({times})" if kills else ""
        return f"is down, as its init was killed{why}"
    if state == "exited" and "pid" not in status:
        return "could not be started"
    number, code = status.get("signal"), status.get("exit_code", 0)
    cause = f"ended with exit code {code}"
    if number == signal.SIGKILL and kills:
        cause = f"was killed for its memory limit ({times})"
    elif number:
        cause = f"was ended by {signal_name(number)}"
    if state == "exited":
        return f"{cause}, and its restart_policy does not start it again"
    if state == "stopping":
        return f"{cause}, and init ends what it left behind"
    count = status.get("restarts", 0)
    again = f"{count} restart{'' if count == 1 else 's'} so far"
    soon = " soon after each start" if state == "crash-loop" else ""
    return f"{cause}{soon}, {again}" + (", and runs again now" if recovered else "")


def watch(site: Site, limits: Mapping[str, float]) -> None:
    """Wait until each workload has run for its limit, in seconds, or has ended."""

    def look(name: str) -> float | None:
        running = runtime.running(site.sandbox(name))
        status = runtime.status(site.sandbox(name))
        if running is None or health.has_ended(status):
            return None
        left = limits[name] - runtime.uptime(running, status)
        return time.monotonic() + left if left > 0 else None

    waiting.wait_each(site, {name: partial(look, name) for name in limits})
