# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Waits for sandboxes to be healthy, woken by the status that their inits write."""

from __future__ import annotations

import select
import time
from typing import Any, Dict, Iterable, Mapping

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
# A workload without a healthcheck must not fail within this time.
STEADY_SECONDS = 1.0


def patience(healthcheck: Mapping[str, Any] | None) -> float:
    """Seconds in which a healthcheck (of launch.json) comes to a verdict after a start."""
    if not healthcheck:
        return SHORTEST
    one = healthcheck["interval"] + healthcheck["timeout"]
    whole = healthcheck["start_period"] + healthcheck["retries"] * one + _MARGIN
    return float(min(LONGEST, max(SHORTEST, whole)))


def patience_of(site: Site, name: str) -> float:
    """Seconds that the healthcheck of the prepared sandbox takes to a verdict."""
    launch = store.read(site.sandbox(name).launch) or {}
    return patience(launch.get("healthcheck"))


def wait_each(site: Site, deadlines: Mapping[str, float]) -> Dict[str, LaunchError]:
    """Failures of sandboxes that are not healthy by their deadlines (of time.monotonic).

    Without a healthcheck a sandbox only has to run for STEADY_SECONDS. The error has the last
    output of the healthcheck, or the last lines of the log.
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
            for name, waiting in list(pending.items()):
                done, problem = waiting.look()
                if problem:
                    failures[name] = _failure(site, name, problem)
                if done or problem:
                    del pending[name]
            if pending:
                first = min(waiting.due for waiting in pending.values())
                poller.poll(max(0.0, first - time.monotonic()) * 1000 + 1)
    return failures


class _Waiting:
    """One sandbox; an unhealthy one gets the chance of one more check.

    ``due`` is the time (of time.monotonic) of the next look, with or without news.
    """

    def __init__(self, sandbox: SandboxPaths, deadline: float) -> None:
        self._sandbox = sandbox
        self._deadline = self.due = deadline
        self._streak = -1
        first = runtime.status(sandbox)
        if first.get("health") == "unhealthy":
            self._streak = first["failing_streak"]

    def look(self) -> tuple[bool, str]:
        """Whether the sandbox is healthy, and why it never will be, "" while that is open."""
        # The status of an init that has just died is from before its death.
        running = runtime.running(self._sandbox)
        alive = running is not None
        status = runtime.status(self._sandbox)
        state, health = status.get("state", "starting"), status.get("health")
        if not alive and not status:
            return False, "does not run"
        if status.get("final") or state == "crash-loop":
            return False, _ended(status)
        now = time.monotonic()
        self.due = self._deadline
        if alive and state == "running":
            if health == "healthy":
                return True, ""
            if health is None:
                self.due = min(self._deadline, now + _unsteady(running, status))
                return now >= self.due, ""
            if health == "unhealthy" and status["failing_streak"] != self._streak:
                return False, f"is unhealthy after {status['failing_streak']} failed checks"
        if now < self._deadline:
            return False, ""
        return False, f"is not healthy in time: {_described(state, health, alive)}"


def _unsteady(running: runtime.Running | None, status: Mapping[str, Any]) -> float:
    """Seconds until a workload without a healthcheck has run for long enough."""
    return max(0.0, STEADY_SECONDS - (runtime.uptime(running, status) or 0.0))


def _ended(status: Mapping[str, Any]) -> str:
    state, code = status.get("state"), status.get("exit_code")
    what = "keeps ending soon after its start" if state == "crash-loop" else "has ended"
    return what if code is None else f"{what} with exit code {code}"


def _described(state: str, health: str | None, alive: bool) -> str:
    if not alive:
        return "its init has crashed"
    return f"it is {state}" + (f", its health is {health}" if health else "")


def _failure(site: Site, name: str, problem: str) -> LaunchError:
    """With the last words of the healthcheck while the workload runs, else of the workload."""
    sandbox = site.sandbox(name)
    output = last_output(sandbox) if "health" in runtime.status(sandbox) else ""
    text = output.replace("\n", " | ") if output else " | ".join(last_log(sandbox))
    source = "its healthcheck said" if output else "its log ends with"
    message = f"{name} {problem}" + (f"; {source}: {text[-_SHOWN:]}" if text else "")
    return LaunchError(message, hint=f"see sandlot logs {name} and sandlot inspect {name}")


# -- after a rebuild


def settle(site: Site, limits: Mapping[str, float | None]) -> Dict[str, str]:
    """Problems of sandboxes that were just started, by name; without a healthcheck, early ends.

    ``limits`` are most seconds for a healthcheck, None for as long as it needs for a verdict.
    """
    now = time.monotonic()
    checks = {n: (store.read(site.sandbox(n).launch) or {}).get("healthcheck") for n in limits}
    deadlines = {
        name: now + (limits[name] or patience(check)) for name, check in checks.items() if check
    }
    waited = wait_each(site, deadlines)
    # The caller knows which version of the sandbox wrote the log.
    problems = {name: error.message.partition("; its log")[0] for name, error in waited.items()}
    others = [name for name in checks if name not in deadlines]
    return {**problems, **_fallen(site, others, now + STEADY_SECONDS)}


def _fallen(site: Site, names: Iterable[str], deadline: float) -> Dict[str, str]:
    """Problems of sandboxes that fail before the deadline."""
    pending = set(names)
    problems: Dict[str, str] = {}
    with Watch(*(site.sandbox(name).run for name in pending)) as watch:
        poller = select.poll()
        poller.register(watch.fd, select.POLLIN)
        while pending:
            watch.clear()
            problems.update((name, text) for name in pending if (text := _fall(site, name)))
            pending -= set(problems)
            left = deadline - time.monotonic()
            if left <= 0:
                break
            poller.poll(left * 1000 + 1)
    return problems


def _fall(site: Site, name: str) -> str:
    """A workload may have done its work; an init that is gone without a last status crashed."""
    alive = runtime.running(site.sandbox(name)) is not None
    status = runtime.status(site.sandbox(name))
    if status.get("exit_code"):
        return f"{name} ended with exit code {status['exit_code']} at once"
    return "" if alive or status.get("final") else f"the init of {name} crashed"
