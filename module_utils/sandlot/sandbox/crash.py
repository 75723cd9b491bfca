# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Describes a workload that ended by itself: how, its last words, and a likely remedy."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Dict, List, Mapping

from .. import cgroups
from ..errors import LaunchError, StateError
from ..init.policy import SETTLED
from ..kernel.signals import signal
from ..site import SandboxPaths, Site
from ..spec.quantities import signal_name
from . import health, oom, record, remedies, runtime, waiting
from .last_words import last_log
from .record import PRESENT, STARTED, Record

# Exits with 0 that follow on each other more slowly are the restart policy at work.
_ALSO_WITH_ZERO = frozenset(("crashed", "backoff", "crash-loop"))
# How long a workload without a healthcheck is watched after its start.
WATCH = 2.0


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
        # A workload that ends again and again says the same each time.
        lines = " | ".join(dict.fromkeys(self.last_log))
        parts = [f"its workload {self.what}", f"its log ends with: {lines}" if lines else ""]
        return "; ".join(part for part in (*parts, self.remedy) if part)


class Crashed(LaunchError):
    """A sandbox whose workload ended by itself within the time for which it was watched."""

    def __init__(self, crash: Crash, message: str = "") -> None:
        super().__init__(message or f"its workload {crash.what}", hint=crash.remedy)
        self.crash = crash


def look(
    site: Site, name: str, layout: cgroups.Layout | None = None, *, fresh: bool = False
) -> Crash | None:
    """The crash of a sandbox that is to run; None when it runs well, or ended as it should.

    A workload that the run has just started (``fresh``) has ended if it was started again.
    """
    sandbox = site.sandbox(name)
    try:
        running = runtime.running(sandbox)
    except StateError:
        return None  # the next run repairs the file that names init
    status = runtime.status(sandbox)
    state = runtime.state(PRESENT, STARTED, running, status)
    code, again = status.get("exit_code"), fresh and state == "running" and status.get("restarts")
    if not again and (state not in runtime.ENDED or not (code or state in _ALSO_WITH_ZERO)):
        return None
    kills = oom.total(sandbox, cgroups.usage(site, name, layout or cgroups.detect()).oom_kills)
    init = runtime.last_started(sandbox)
    lines = last_log(sandbox, after=init.since if init else 0.0)
    known = record.load(site, name)
    runs = running is not None and status.get("state") == "running"
    recovered = running is not None and runs and runtime.uptime(running, status) >= SETTLED
    return Crash(
        what=_what(state, status, kills, recovered=recovered),
        remedy=remedies.remedy(known, status, kills, lines, _roots(sandbox, known))
        if known
        else "",
        state=state,
        exit_code=code,
        signal=status.get("signal"),
        restarts=status.get("restarts", 0),
        oom_kills=kills,
        last_log=lines,
        recovered=recovered,
    )


def _roots(sandbox: SandboxPaths, known: Record) -> List[str]:
    return [sandbox.upper, *known.image.layers]


def _what(state: str, status: Mapping[str, Any], kills: int, *, recovered: bool) -> str:
    if state == "crashed":
        return "is down, as its init was killed"
    number, code = status.get("signal"), status.get("exit_code", 0)
    cause = f"ended with exit code {code}"
    if number == signal.SIGKILL and kills:
        cause = f"was killed for its memory limit ({kills} time{'s' if kills > 1 else ''})"
    elif number:
        cause = f"was ended by {signal_name(number)}"
    if state == "exited":
        return f"{cause}, and its restart_policy does not start it again"
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
