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
    return {
        name: now + (limit or patience(_healthcheck(site, name))) for name, limit in limits.items()
    }


def _healthcheck(site: Site, name: str) -> Mapping[str, Any] | None:
    launch = store.read(site.sandbox(name).launch) or {}
    check: Mapping[str, Any] | None = launch.get("healthcheck")
    return check


def wait_each(site: Site, deadlines: Mapping[str, float]) -> Dict[str, Unhealthy]:
    """Wait until sandboxes are healthy; failures of those that miss their deadlines.

    Deadlines are times of time.monotonic. A sandbox without a healthcheck has to run for
    STEADY_SECONDS. The error has the last output of the healthcheck, or the last lines of the log.
    """
    failures: Dict[str, Unhealthy] = {}
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
    """The wait for one sandbox; an unhealthy one may pass one more check.

    ``due`` is the time (of time.monotonic) of the next look when its status does not change.
    """

    def __init__(self, sandbox: SandboxPaths, deadline: float) -> None:
        self._sandbox = sandbox
        self._deadline = self.due = deadline
        self._streak = -1
        first = runtime.status(sandbox)
        if first.get("health") == "unhealthy":
            self._streak = first["failing_streak"]

    def look(self) -> tuple[bool, str]:
        """(whether the sandbox is healthy, why it can't become so: "" while it still can)."""
        # Look at init first: the status of a dead init is older than its death.
        running = runtime.running(self._sandbox)
        status = runtime.status(self._sandbox)
        state, health = status.get("state", "starting"), status.get("health")
        if running is None and not status:
            return False, "does not run"
        if status.get("final") or state == "crash-loop":
            return False, _ended(status)
        now = time.monotonic()
        self.due = self._deadline
        if running is not None and state == "running":
            if health == "healthy":
                return True, ""
            if health is None:
                steady = now + STEADY_SECONDS - runtime.uptime(running, status)
                self.due = min(self._deadline, steady)
                return now >= self.due, ""
            if health == "unhealthy" and status["failing_streak"] != self._streak:
                return False, f"is unhealthy after {status['failing_streak']} failed checks"
        if now < self._deadline:
            return False, ""
        return (
            False,
            f"is not healthy in time: {_described(state, health, alive=running is not None)}",
        )


def _ended(status: Mapping[str, Any]) -> str:
    state, code = status.get("state"), status.get("exit_code")
    what = "keeps ending soon after its start" if state == "crash-loop" else "has ended"
    return what if code is None else f"{what} with exit code {code}"


def _described(state: str, health: str | None, *, alive: bool) -> str:
    if not alive:
        return "its init has crashed"
    return f"it is {state}" + (f", its health is {health}" if health else "")


def _failure(site: Site, name: str, problem: str) -> Unhealthy:
    """The failure, with the last output of the healthcheck, or the last lines of the log."""
    sandbox = site.sandbox(name)
    output = last_output(sandbox) if "health" in runtime.status(sandbox) else ""
    problem = f"{name} {problem}"
    if output:
        shown = output.replace("\n", " | ")[-_SHOWN:]
        return Unhealthy(name, f"{problem}; its healthcheck said: {shown}")
    return Unhealthy(name, problem, " | ".join(last_log(sandbox))[-_SHOWN:])


# -- after a rebuild


def settle(site: Site, limits: Mapping[str, float | None]) -> Dict[str, str]:
    """Wait for sandboxes that were just started; problems by name.

    A sandbox with a healthcheck has to become healthy, any other must not fail at once. ``limits``
    are the most seconds for a healthcheck, None for as long as its verdict may take.
    """
    steady = time.monotonic() + STEADY_SECONDS
    others = [name for name in limits if not _healthcheck(site, name)]
    checked = {name: limit for name, limit in limits.items() if name not in others}
    waited = wait_each(site, deadlines(site, checked))
    # The caller knows which version of the sandbox wrote the log.
    problems = {name: failure.problem for name, failure in waited.items()}
    return {**problems, **_early_failures(site, others, steady)}


def _early_failures(site: Site, names: Iterable[str], deadline: float) -> Dict[str, str]:
    """Watch sandboxes until the deadline; problems of those that fail before it."""
    pending = set(names)
    problems: Dict[str, str] = {}
    with Watch(*(site.sandbox(name).run for name in pending)) as watch:
        poller = select.poll()
        poller.register(watch.fd, select.POLLIN)
        while pending:
            watch.clear()
            problems.update(
                (name, text) for name in pending if (text := _early_failure(site, name))
            )
            pending -= set(problems)
            remaining_seconds = deadline - time.monotonic()
            if remaining_seconds <= 0:
                break
            poller.poll(remaining_seconds * 1000 + 1)
    return problems


def _early_failure(site: Site, name: str) -> str:
    """The failure of a sandbox, "" for none: a workload may also have ended with success."""
    alive = runtime.running(site.sandbox(name)) is not None
    status = runtime.status(site.sandbox(name))
    if status.get("exit_code"):
        return f"{name} ended with exit code {status['exit_code']} at once"
    return "" if alive or status.get("final") else f"the init of {name} crashed"
