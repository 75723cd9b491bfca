# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Describes a workload that ended by itself: how, its last words, and a likely remedy."""

from __future__ import annotations

import select
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping

from .. import cgroups
from ..errors import StateError
from ..kernel.inotify import Watch
from ..kernel.signals import signal
from ..site import SandboxPaths, Site
from ..spec.quantities import signal_name
from . import oom, record, remedies, runtime
from .last_words import last_log
from .record import PRESENT, STARTED, Record

# Exits with 0 that follow on each other more slowly are the restart policy at work.
_ALSO_WITH_ZERO = frozenset(("crashed", "backoff", "crash-loop"))
# Before this time, a run has not looked at a workload that it started.
GLANCE = 0.5


@dataclass(frozen=True)
class Crash:
    """``what`` is a clause about the workload; ``remedy`` is "" where no fact gives one."""

    what: str
    remedy: str
    state: str
    exit_code: int | None
    signal: int | None
    restarts: int
    oom_kills: int
    last_log: List[str]

    def to_json(self) -> Dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        # A workload that ends again and again says the same each time.
        lines = " | ".join(dict.fromkeys(self.last_log))
        parts = [f"its workload {self.what}", f"its log ends with: {lines}" if lines else ""]
        return "; ".join(part for part in (*parts, self.remedy) if part)


def look(site: Site, name: str, layout: cgroups.Layout | None = None) -> Crash | None:
    """The crash of a sandbox that is to run; None when it runs well, or ended as it should."""
    sandbox = site.sandbox(name)
    try:
        running = runtime.running(sandbox)
    except StateError:
        return None  # the next run repairs the file that names init
    status = runtime.status(sandbox)
    state = runtime.state(PRESENT, STARTED, running, status)
    code = status.get("exit_code")
    if state not in runtime.ENDED or not (code or state in _ALSO_WITH_ZERO):
        return None
    kills = oom.total(sandbox, cgroups.usage(site, name, layout or cgroups.detect()).oom_kills)
    lines = last_log(sandbox)
    known = record.load(site, name)
    return Crash(
        what=_what(state, status, kills),
        remedy=remedies.remedy(known, status, kills, lines, _roots(sandbox, known))
        if known
        else "",
        state=state,
        exit_code=code,
        signal=status.get("signal"),
        restarts=status.get("restarts", 0),
        oom_kills=kills,
        last_log=lines,
    )


def _roots(sandbox: SandboxPaths, known: Record) -> List[str]:
    return [sandbox.upper, *known.image.layers]


def _what(state: str, status: Mapping[str, Any], kills: int) -> str:
    if state == "crashed":
        return "is down, as its init was killed"
    number, code = status.get("signal"), status.get("exit_code", 0)
    cause = f"ended with exit code {code}"
    if number == signal.SIGKILL and kills:
        cause = f"was killed for its memory limit ({kills} time{'s' if kills > 1 else ''})"
    elif number:
        cause = f"was ended by {signal_name(number)}"
    count = status.get("restarts", 0)
    again = f"{count} restart{'' if count == 1 else 's'} so far"
    if state == "exited":
        return f"{cause}, and its restart_policy does not start it again"
    return (
        f"{cause} soon after each start, {again}" if state == "crash-loop" else f"{cause}, {again}"
    )


def watch(site: Site, limits: Mapping[str, float]) -> None:
    """Wait until each workload has run for its limit, in seconds, or has ended."""
    pending = dict(limits)
    with Watch() as events:
        for name in limits:
            try:
                events.add(site.sandbox(name).run)
            except FileNotFoundError:
                del pending[name]  # removed meanwhile
        poller = select.poll()
        poller.register(events.fd, select.POLLIN)
        while pending:
            events.clear()
            left = {name: _remaining(site, name, limit) for name, limit in pending.items()}
            pending = {name: limit for name, limit in pending.items() if left[name] > 0}
            if pending:
                poller.poll(min(left[name] for name in pending) * 1000 + 1)


def _remaining(site: Site, name: str, limit: float) -> float:
    """Seconds for which the workload has to be watched still."""
    running = runtime.running(site.sandbox(name))
    status = runtime.status(site.sandbox(name))
    decided = status.get("restarts") or status.get("state") in runtime.ENDED
    return 0.0 if running is None or decided else limit - runtime.uptime(running, status)
