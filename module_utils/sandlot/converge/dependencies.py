# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Dependencies of sandboxes: refusals before any change, and starts and stops in order."""

from __future__ import annotations

from typing import Collection, Dict, Iterable, Mapping, Sequence, Set, Tuple

from ..errors import LaunchError, SpecError
from ..launcher.client import Launcher
from ..plan import Failures
from ..sandbox import crash, health, jobs, runtime
from ..sandbox.record import Record
from ..site import Site
from ..spec.dependencies import COMPLETED, HEALTHY
from .decide import Decision, Desired, Observed

Known = Mapping[str, Record]
# Each name with the names that it needs.
Graph = Mapping[str, Iterable[str]]
_Stuck = Dict[str, Set[str]]


class NotStarted(LaunchError):
    """A start that was skipped because the dependency ``needed`` does not run or is not healthy."""

    needed = ""


def names(record: Record) -> list[str]:
    return [dependency.name for dependency in record.spec.depends_on]


def _conditions(record: Record) -> list[tuple[str, str]]:
    return [(dependency.name, dependency.condition) for dependency in record.spec.depends_on]


def graph(records: Iterable[Record]) -> dict[str, list[str]]:
    return {record.name: names(record) for record in records}


def stops(some: Iterable[str], known: Known) -> list[list[str]]:
    """Levels in the order of stopping: dependents before their dependencies."""
    needs = {name: names(known[name]) if name in known else [] for name in some}
    return levels(needs)[::-1]


def for_removal(some: Iterable[str], known: Known) -> tuple[str, ...]:
    """Dependents go before their dependencies, so that a killed run breaks no dependency."""
    needs = {name: [] if name not in known else ties(known[name]) for name in sorted(some)}
    return tuple(name for level in levels(needs)[::-1] for name in level)


def for_recording(records: Known) -> list[str]:
    """Dependencies go before their dependents, so that a boot after a kill finds every one."""
    needs = {name: ties(record) for name, record in records.items()}
    return [name for level in levels(needs) for name in level]


def ties(record: Record) -> list[str]:
    """The sandboxes that this one needs to run, "" among them."""
    return [*names(record), record.spec.network_partner]


def awaited(records: Iterable[Record]) -> set[str]:
    """The jobs: sandboxes for whose end others wait."""
    needed = (item for record in records for item in record.spec.depends_on)
    return {item.name for item in needed if item.condition == COMPLETED}


# -- refusals


def check(
    desired: Mapping[str, Desired],
    everyone: Known,
    removed: Collection[str],
    asked_removals: Collection[str],
    broken: Collection[str],
) -> None:
    """SpecError for an impossible dependency, before any change.

    A sandbox that starts from its record alone (after a boot), or that the run leaves alone, is
    checked for one thing only: the run must not remove its dependency.
    """
    asked = [name for name in everyone if name in desired and not desired[name].keep_image]
    for name, record in everyone.items():
        for needed in names(record):
            if needed in (removed if name in asked else asked_removals):
                hint = f"remove {name} as well, or take {needed} out of its depends_on"
                problem = f"can't be removed: sandbox {name} depends on it"
                raise SpecError("name", needed, problem, hint=hint)
    _check_ends(everyone, asked)
    for name in asked:
        for needed in names(everyone[name]):
            if needed not in everyone and needed not in broken:
                others = ", ".join(sorted(set(everyone) - {name})) or "none"
                problem = f"of sandbox {name} names no sandbox of this host"
                hint = f"deploy it too; there are: {others}"
                raise SpecError("depends_on", needed, problem, hint=hint)
    circle = cycle(reachable(graph(everyone.values()), asked))
    if circle:
        problem = f"of sandbox {circle[0]} closes a cycle: {' -> '.join(circle)}"
        hint = "take one of them out of another's depends_on"
        raise SpecError("depends_on", circle[1], problem, hint=hint)


def _check_ends(everyone: Known, asked: Collection[str]) -> None:
    """SpecError for a dependency that is to end and whose restart policy starts it again."""
    for name, record in everyone.items():
        for needed, condition in _conditions(record):
            concerned = condition == COMPLETED and needed in everyone and {name, needed} & {*asked}
            policy = everyone[needed].spec.restart_policy if concerned else "no"
            if policy not in ("no", "on-failure"):
                problem = f"of sandbox {needed} lets it never end, and {name} waits for that"
                hint = 'set restart_policy: "no", or on-failure'
                raise SpecError("restart_policy", policy, problem, hint=hint)


def check_running(
    starting: Known, decisions: Mapping[str, Decision], observed: Mapping[str, Observed]
) -> None:
    """SpecError when a sandbox is to start and its dependency stays stopped."""
    for name, record in starting.items():
        for needed, condition in _conditions(record):
            seen = observed.get(needed, Observed())
            runs = seen.running is not None
            decision = decisions.get(needed)
            if decision and (decision.start or decision.stop):
                runs = bool(decision.start)
            elif condition == COMPLETED and seen.succeeded is not None:
                runs = True
            if needed not in starting and not runs:
                hint = f"start it as well (state: started, or sandlot start {needed})"
                raise SpecError("depends_on", needed, f"of sandbox {name} is not to run", hint=hint)


# -- starts


class Starts:
    """Starts sandboxes level by level and remembers which ones started.

    With ``resume``, it starts what ran a moment ago: in order, whatever the dependencies do.
    """

    def __init__(
        self,
        site: Site,
        launcher: Launcher,
        starting: Iterable[str],
        everyone: Known,
        *,
        resume: bool = False,
    ) -> None:
        self._paths = site
        self._resume = resume
        self._launcher = launcher
        self._everyone = everyone
        self._starting = {name: everyone[name] for name in starting}
        self._started: set[str] = set()

    def levels(self) -> list[list[str]]:
        return levels(graph(self._starting.values()))

    def start(self, level: Sequence[str], failures: Failures) -> None:
        """Start a level; a sandbox whose dependency does not run or is not healthy fails."""
        blocked: Failures = {}
        for name in () if self._resume else level:
            for needed, condition in _conditions(self._starting[name]):
                problem = self._problem(needed, condition, failures)
                if problem:
                    blocked[name] = _not_started(name, needed, problem)
                    break
        able = [name for name in level if name not in blocked]
        unmet = self._await_dependencies(able)
        blocked.update({} if self._resume else unmet)
        ready = [name for name in able if name not in blocked]
        failed = self._launcher.start(ready) if ready else {}
        self._started.update(name for name in ready if name not in failed)
        for name, failure in failed.items():
            failures[name] = crash.of_start(self._paths, self._starting[name], failure)
        failures.update(blocked)

    def _problem(self, needed: str, condition: str, failures: Failures) -> str:
        failure = failures.get(needed)
        if isinstance(failure, NotStarted):
            return "which is not started either"
        if failure:
            return f"which failed: {failure.message}"
        sandbox = self._paths.sandbox(needed)
        if needed in self._started or runtime.running(sandbox):
            return ""
        done = condition == COMPLETED and runtime.succeeded(sandbox) is not None
        return "" if done else "which does not run"

    def _await_dependencies(self, able: Sequence[str]) -> Failures:
        """Wait until dependencies are healthy or completed; dependents of those that fail fail."""
        failures: Failures = {}
        healthy, completed = (self._dependents(able, word) for word in (HEALTHY, COMPLETED))
        if healthy:
            deadlines = health.deadlines(self._paths, self._limits(healthy))
            unhealthy = health.wait_each(self._paths, deadlines)
            failures.update(_unmet(unhealthy, healthy, "which is not healthy"))
        if completed:
            undone = jobs.wait_each(self._paths, self._limits(completed))
            failures.update(_unmet(undone, completed, "which has not done its job"))
        return failures

    def _dependents(self, able: Sequence[str], condition: str) -> Dict[str, list[str]]:
        """The dependencies that have to meet this condition, each with its dependents."""
        dependents: Dict[str, list[str]] = {}
        for name in able:
            for dependency in self._starting[name].spec.depends_on:
                due = dependency.name in self._started or not self._resume
                if dependency.condition == condition and due:
                    dependents.setdefault(dependency.name, []).append(name)
        return dependents

    def _limits(self, needed: Iterable[str]) -> Dict[str, float | None]:
        records = {name: self._everyone.get(name) for name in needed}
        return {n: r.spec.healthy_wait_timeout if r else None for n, r in records.items()}


def _unmet(
    problems: Mapping[str, LaunchError], dependents: Mapping[str, Sequence[str]], what: str
) -> Failures:
    return {
        name: _not_started(name, needed, f"{what}: {failure.message}")
        for needed, failure in problems.items()
        for name in dependents[needed]
    }


def _not_started(name: str, needed: str, problem: str) -> NotStarted:
    text = f"{name}: not started, as it depends on {needed}, {problem}"
    hint = f"put {needed} right, then run again, or: sandlot start {name}"
    failure = NotStarted(text, hint=hint)
    failure.needed = needed
    return failure


# -- order


def levels(graph: Graph) -> list[list[str]]:
    """Names level by level: each name needs only names of earlier levels.

    Needs outside the graph count as met. A cycle, and all that needs it, forms the last level.
    """
    peeled, stuck = _peel(graph)
    return [*peeled, list(stuck)] if stuck else peeled


def cycle(graph: Graph) -> list[str]:
    """A cycle, its first name repeated at the end; [] without a cycle."""
    dummy, stuck = _peel(graph)
    path = sorted(stuck)[:1]
    while path:
        following = min(name for name in stuck[path[-1]] if name in stuck)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)
    return []


def reachable(graph: Graph, names: Iterable[str]) -> dict[str, Sequence[str]]:
    """The part of the graph that the names lead to, the names included."""
    reached: Dict[str, Sequence[str]] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in graph and name not in reached:
            reached[name] = tuple(graph[name])
            waiting += reached[name]
    return reached


def _peel(graph: Graph) -> Tuple[list[list[str]], _Stuck]:
    waiting: _Stuck = {name: {n for n in needs if n in graph} for name, needs in graph.items()}
    order = {name: index for index, name in enumerate(waiting)}
    left = {name: len(needs) for name, needs in waiting.items()}
    dependents: Dict[str, list[str]] = {}
    for name, needs in waiting.items():
        for needed in needs:
            dependents.setdefault(needed, []).append(name)
    levels: list[list[str]] = []
    ready = [name for name, number in left.items() if not number]
    while ready:
        levels.append(ready)
        freed = []
        for name in ready:
            del waiting[name]
            for dependent in dependents.get(name, ()):
                left[dependent] -= 1
                if not left[dependent]:
                    freed.append(dependent)
        ready = sorted(freed, key=order.__getitem__)
    return levels, waiting
