# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Carries out a plan; every rebuild in it ends committed or undone, whatever fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Collection, Dict, List, Mapping, Set

from .. import network
from ..errors import LaunchError, SandlotError
from ..plan import Failures, apply_each
from ..sandbox import last_words, layers, record
from ..sandbox.record import PRESENT, REBUILDING, STARTED, Record
from ..site import Site
from . import rebuild, rollback
from .planner import Plan, plan
from .rebuild import Rebuild
from .report import Result
from .resolve import Request

Again = Callable[[Request], Result]


@dataclass(frozen=True)
class _Undone:
    """Rebuilds that were rolled back, with the last lines that each new version logged.

    ``problems`` tells why an old version is not as it was. ``resumed`` are the dependents and
    followers that the run stopped, and that a second run started again.
    """

    logged: Mapping[str, List[str]]
    problems: Mapping[str, str]
    resumed: Collection[str] = ()


def carry_out(site: Site, planned: Plan, again: Again) -> Failures:
    """``again`` runs a request: it starts the sandboxes that are put back."""
    try:
        with network.session():
            failures, planned = _apply(site, planned)
    except (SandlotError, OSError) as error:
        text = _undo_aside(site, planned, again)
        if isinstance(error, SandlotError):
            error.message += text
        raise
    undone = _undo(site, planned, again)
    for name in undone.resumed:
        # A dependent may have failed because the new version did; the second run started it.
        if name in failures and name not in undone.problems:
            del failures[name]
    failures.update(
        (n, _failure(planned.context.rebuilds[n], failures, undone)) for n in undone.logged
    )
    return failures


def _apply(site: Site, planned: Plan) -> tuple[Failures, Plan]:
    """Apply the plan; a rebuild that can't be prepared is dropped, and the rest planned again."""
    failed = apply_each(planned.preparation)
    if failed:
        old = {name: planned.context.rebuilds[name].old for name in failed}
        failed.update(apply_each(rollback.undo_steps(site, old)))
        request = rollback.leaving_alone(planned.context.request, old)
        planned = plan(site, request, planned.context.observed)
    text = "rebuild could not be prepared, the old one was left alone"
    untouched = {
        name: LaunchError(f"{text}: {error.message}", hint=error.hint)
        for name, error in failed.items()
    }
    return {**apply_each(planned.steps), **untouched}, planned


def _undo(site: Site, planned: Plan, again: Again) -> _Undone:
    """Put back every rebuild without a commit; start it and its dependents if they ran."""
    left = [name for name in planned.context.rebuilds if layers.exists(site.sandbox(name).rebuild)]
    phases = {name: _stored(site, name).phase for name in left}
    due = {name: planned.context.rebuilds[name] for name in left if phases[name] == REBUILDING}
    # New versions only: before a switch, the log is the old version's.
    logged: Dict[str, List[str]] = {name: [] for name in due}
    for name, entry in due.items():
        if entry.last_log:
            since = entry.last_log[0].sizes
            logged[name] = last_words.last_log(site.sandbox(name), since=since)
    stuck = apply_each(rollback.undo_steps(site, {name: entry.old for name, entry in due.items()}))
    stuck.update(apply_each(rebuild.discard(site, [name for name in left if name not in due])))
    problems = {name: str(error) for name, error in stuck.items()}
    ran = {name: entry.ran for name, entry in due.items() if name not in stuck}
    resumed: Set[str] = set()
    if ran:
        decisions = planned.context.decisions.items()
        restarted = {name for name, decision in decisions if decision.stop and decision.start}
        # Followers share the network of a rebuilt sandbox.
        resumed = restarted.union(planned.context.followers) - set(planned.context.rebuilds)
        ran.update(dict.fromkeys(resumed, True))
        known = {name: _stored(site, name) for name in ran}
        states = {n: STARTED if ran[n] and known[n].wanted == STARTED else PRESENT for n in ran}
        old = tuple(rollback.stored(known[name], state) for name, state in states.items())
        problems.update(again(Request(old)).failed)
    return _Undone(logged, problems, resumed)


def _undo_aside(site: Site, planned: Plan, again: Again) -> str:
    """Undo when the whole run fails; the text to add to its error."""
    try:
        undone = _undo(site, planned, again)
    except (SandlotError, OSError) as worse:
        return f"; rebuilds could not be rolled back: {worse}"
    text = ""
    for name in undone.logged:
        problem = undone.problems.get(name)
        remark = f", but is not as it was: {problem}" if problem else ""
        text += f"; {name} was rolled back{remark}"
    return text


def _stored(site: Site, name: str) -> Record:
    known = record.load(site, name)
    if known is None:
        raise LaunchError(f"the record of {name} is gone", hint="deploy it again")
    return known


# -- messages


def _failure(entry: Rebuild, failures: Failures, undone: _Undone) -> LaunchError:
    cause = failures.get(entry.name, LaunchError("it did not get to its end"))
    lines = undone.logged[entry.name]
    parts = [f"rebuild failed and was rolled back: {cause.message}"]
    parts.append(f"the new one's log ends with: {_joined(lines)}" if lines else "it logged nothing")
    problem = undone.problems.get(entry.name)
    if problem:
        parts.append(f"the old one is not as it was: {problem}")
    else:
        parts.append("the old one runs again" if entry.ran else "the old one is in its place again")
    if entry.last_log and entry.last_log[0].lines:
        parts.append(f"its log ended with: {_joined(entry.last_log[0].lines)}")
    return LaunchError("; ".join(parts), hint=cause.hint)


def _joined(lines: List[str]) -> str:
    return " | ".join(lines)
