# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Waits for sandboxes to be healthy, woken by the status that their inits write."""

from __future__ import annotations

import time
from typing import Any, Collection, Dict, Mapping

from .. import store
from ..errors import LaunchError
from ..site import Site
from . import runtime, waiting
from .last_words import last_log, last_output

# Beyond the healthcheck's own times: its processes need time to start and to end.
_MARGIN = 5.0
SHORTEST, LONGEST = 10.0, 3600.0
_SHOWN = 400
# A workload without a healthcheck must not fail within this time.
STEADY_SECONDS = 1.0


class Unhealthy(LaunchError):
    """A sandbox that does not become healthy; ``problem`` leaves out the end of its log."""

    def __init__(self, name: str, problem: str, log: str = "") -> None:
        message = f"{problem}; its log ends with: {log}" if log else problem
        super().__init__(message, hint=f"see sandlot logs {name} and sandlot inspect {name}")
        self.problem = problem


def patience(healthcheck: Mapping[str, Any] | None) -> float:
    """The most seconds from a start to the verdict of a healthcheck (of launch.json)."""
    if not healthcheck:
        return SHORTEST
    check_seconds = healthcheck["interval"] + healthcheck["timeout"]
    seconds = healthcheck["start_period"] + healthcheck["retries"] * check_seconds + _MARGIN
    return float(min(LONGEST, max(SHORTEST, seconds)))


def deadlines(site: Site, limits: Mapping[str, float | None]) -> Dict[str, float]:
    """Deadlines (of time.monotonic) for ``wait_each``.

    ``limits`` are the most seconds, None for as long as the verdict of the healthcheck in the
    launch file may take.
    """
    now = time.monotonic()
    return {name: now + (limit or patience(launched(site, name))) for name, limit in limits.items()}


def launched(site: Site, name: str) -> Mapping[str, Any] | None:
    """The healthcheck of the launch file: that of the spec, else that of the image."""
    launch = store.read(site.sandbox(name).launch) or {}
    check: Mapping[str, Any] | None = launch.get("healthcheck")
    return check


def wait_each(
    site: Site, deadlines: Mapping[str, float], once: Collection[str] = ()
) -> Dict[str, Unhealthy]:
    """Wait until sandboxes are healthy; failures of those that miss their deadlines.

    Deadlines are times of time.monotonic. A sandbox without a healthcheck has to run for
    STEADY_SECONDS. Those in ``once`` were just started, and fail when their workloads end. The
    error has the last output of the healthcheck, or the last lines of the log.
    """
    waits = {
        name: _Waiting(site, name, deadline, once=name in once)
        for name, deadline in deadlines.items()
    }
    waiting.wait_each(site, {name: wait.look for name, wait in waits.items()})
    return {n: failure(site, n, wait.problem) for n, wait in waits.items() if wait.problem}


class _Waiting:
    """The wait for one sandbox; an unhealthy one may pass one more check.

    ``problem`` tells why the sandbox can't become healthy, "" while it still can.
    """

    def __init__(self, site: Site, name: str, deadline: float, *, once: bool) -> None:
        self.problem = ""
        self._sandbox = site.sandbox(name)
        self._deadline = deadline
        self._once = once
        # Init ends such a workload when it is unhealthy: that end is waited for.
        check = launched(site, name) if once else None
        self._ends = check is not None and check.get("action", "none") != "none"
        self._streak = -1
        first = runtime.status(self._sandbox)
        if first.get("health") == "unhealthy" and not once:
            self._streak = first["failing_streak"]

    def look(self) -> float | None:
        # Look at init first: the status of a dead init is older than its death.
        running = runtime.running(self._sandbox)
        status = runtime.status(self._sandbox)
        state, health = status.get("state", "starting"), status.get("health")
        now, due = time.monotonic(), self._deadline
        if running is None and not status:
            self.problem = "does not run"
        elif status.get("final") or state == "crash-loop" or self._ended_once(running, status):
            self.problem = described_end(status)
        elif running is not None and state == "running":
            if health is None:
                due = min(due, now + STEADY_SECONDS - runtime.uptime(running, status))
            if health == "healthy" or (health is None and now >= due):
                return None
            failed = health == "unhealthy" and status["failing_streak"] != self._streak
            if failed and not self._ends:
                self.problem = f"is unhealthy after {status['failing_streak']} failed checks"
        if not self.problem and now >= self._deadline:
            described = _described(state, health, alive=running is not None)
            self.problem = f"is not healthy in time: {described}"
        return None if self.problem else due

    def _ended_once(self, running: runtime.Running | None, status: Mapping[str, Any]) -> bool:
        return self._once and (running is None or has_ended(status))


def has_ended(status: Mapping[str, Any]) -> bool:
    """Whether a workload has ended since its sandbox was started.

    It may have left processes that init is still ending.
    """
    leaves = status.get("state") == "stopping" and bool(status.get("exit_code"))
    return leaves or bool(status.get("restarts")) or status.get("state") in runtime.ENDED


def described_end(status: Mapping[str, Any]) -> str:
    state, code = status.get("state"), status.get("exit_code")
    what = "keeps ending soon after its start" if state == "crash-loop" else "has ended"
    return what if code is None else f"{what} with exit code {code}"


def _described(state: str, health: str | None, *, alive: bool) -> str:
    if not alive:
        return "its init has crashed"
    return f"it is {state}" + (f", its health is {health}" if health else "")


def failure(site: Site, name: str, problem: str) -> Unhealthy:
    """The failure, with the last output of the healthcheck, or the last lines of the log."""
    sandbox = site.sandbox(name)
    output = last_output(sandbox) if "health" in runtime.status(sandbox) else ""
    problem = f"{name} {problem}"
    if output:
        shown = output.replace("\n", " | ")[-_SHOWN:]
        return Unhealthy(name, f"{problem}; its healthcheck said: {shown}")
    return Unhealthy(name, problem, " | ".join(last_log(sandbox))[-_SHOWN:])


def complaint(site: Site, name: str) -> str:
    """The problem of a running sandbox that is unhealthy, "" for any other."""
    status = runtime.status(site.sandbox(name))
    if status.get("health") != "unhealthy" or runtime.running(site.sandbox(name)) is None:
        return ""
    return failure(
        site, name, f"is unhealthy after {status['failing_streak']} failed checks"
    ).problem
