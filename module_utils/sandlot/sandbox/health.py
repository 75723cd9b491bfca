# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Waiting for sandboxes to be healthy, woken by what their inits write into their status."""

from __future__ import annotations

import select
import time
from typing import Any, Dict, Mapping

from .. import store
from ..errors import LaunchError
from ..kernel.inotify import Watch
from ..site import SandboxPaths, Site
from . import runtime
from .last_words import last_log, last_output

# Beyond what the healthcheck itself may take: its processes have to be started and to end.
_MARGIN = 5.0
SHORTEST, LONGEST = 10.0, 3600.0
_SHOWN = 400


def patience(healthcheck: Mapping[str, Any] | None) -> float:
    """Seconds in which a healthcheck (of launch.json) comes to a verdict after a start."""
    if not healthcheck:
        return SHORTEST
    one = healthcheck["interval"] + healthcheck["timeout"]
    whole = healthcheck["start_period"] + healthcheck["retries"] * one + _MARGIN
    return float(min(LONGEST, max(SHORTEST, whole)))


def patience_of(site: Site, name: str) -> float:
    """The same for the sandbox as it was prepared last."""
    launch = store.read(site.sandbox(name).launch) or {}
    return patience(launch.get("healthcheck"))


def wait_each(site: Site, deadlines: Mapping[str, float]) -> Dict[str, LaunchError]:
    """Failures of those not healthy by their deadlines (of time.monotonic), or never to be.

    Without a healthcheck it is enough to run. The error has the last output of the healthcheck, or
    the last lines of the log.
    """
    failures: Dict[str, LaunchError] = {}
    pending: Dict[str, _Waiting] = {}
    with Watch() as watch:
        for name, deadline in deadlines.items():
            try:
                watch.add(site.sandbox(name).run)
            except FileNotFoundError:
                failures[name] = _failure(site, name, "does not run")
            else:
                pending[name] = _Waiting(site.sandbox(name), deadline)
        poller = select.poll()
        poller.register(watch.fd, select.POLLIN)
        while pending:
            watch.clear()
            _look(site, pending, failures)
            if pending:
                first = min(waiting.deadline for waiting in pending.values())
                poller.poll(max(0.0, first - time.monotonic()) * 1000 + 1)
    return failures


def _look(site: Site, pending: Dict[str, _Waiting], failures: Dict[str, LaunchError]) -> None:
    """Take out of ``pending`` who is healthy or has failed."""
    for name, waiting in list(pending.items()):
        done, problem = waiting.look()
        if problem:
            failures[name] = _failure(site, name, problem)
        if done or problem:
            del pending[name]


class _Waiting:
    """One sandbox; an unhealthy one gets the chance of one more check."""

    def __init__(self, sandbox: SandboxPaths, deadline: float) -> None:
        self._sandbox = sandbox
        self.deadline = deadline
        self._streak = -1
        first = runtime.status(sandbox)
        if first.get("health") == "unhealthy":
            self._streak = first["failing_streak"]

    def look(self) -> tuple[bool, str]:
        """Whether it is healthy, and why it never will be, "" while that is open."""
        # The status of an init that has just died is from before its death.
        alive = runtime.running(self._sandbox) is not None
        status = runtime.status(self._sandbox)
        state, health = status.get("state", "starting"), status.get("health")
        if not alive and not status:
            return False, "does not run"
        if status.get("final") or state == "crash-loop":
            return False, _ended(status)
        if alive and state == "running":
            if health in (None, "healthy"):
                return True, ""
            if health == "unhealthy" and status["failing_streak"] != self._streak:
                return False, f"is unhealthy after {status['failing_streak']} failed checks"
        if time.monotonic() < self.deadline:
            return False, ""
        return False, f"is not healthy in time: {_described(state, health, alive)}"


def _ended(status: Mapping[str, Any]) -> str:
    state, code = status.get("state"), status.get("exit_code")
    what = "keeps ending soon after its start" if state == "crash-loop" else "has ended"
    return what if code is None else f"{what} with exit code {code}"


def _described(state: str, health: str | None, alive: bool) -> str:
    if not alive:
        return "its init has crashed"
    return f"it is {state}" + (f", its health is {health}" if health else "")


def _failure(site: Site, name: str, problem: str) -> LaunchError:
    """Names what was said last: by the healthcheck while the workload runs, else by that."""
    sandbox = site.sandbox(name)
    output = last_output(sandbox) if "health" in runtime.status(sandbox) else ""
    said = output.replace("\n", " | ") if output else " | ".join(last_log(sandbox))
    source = "its healthcheck said" if output else "its log ends with"
    text = f"{name} {problem}" + (f"; {source}: {said[-_SHOWN:]}" if said else "")
    return LaunchError(text, hint=f"see sandlot logs {name} and sandlot inspect {name}")
