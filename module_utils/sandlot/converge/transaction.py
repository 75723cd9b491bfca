# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Carries out a plan; every rebuild and restart in it ends committed or undone, whatever fails.

A rebuild has its old version in a slot. A restart has one layer and one set of pins, so its way
back is a run with the old record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Collection, Dict, List, Mapping, Sequence

from .. import network
from ..errors import LaunchError, SandlotError
from ..plan import Failures, apply_each
from ..sandbox import last_words, layers, record, runtime
from ..sandbox.crash import Crashed
from ..sandbox.last_words import explained, quoted
from ..sandbox.record import PRESENT, REBUILDING, STARTED, Record
from ..site import Site
from . import dependencies, rebuild, rollback
from .context import Context
from .dependencies import NotStarted
from .planner import Plan, plan
from .report import Result
from .resolve import Request

Again = Callable[[Request], Result]


class RolledBack(LaunchError):
    """A rebuild or restart that was undone, in a message of several lines."""

    def __str__(self) -> str:
        return explained(self.message, self.hint)


@dataclass(frozen=True)
class _Undone:
    """Rebuilds and restarts that were rolled back, with the last lines of each new version's log.

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
    undone = _undo(site, planned, again, failures)
    for name in undone.resumed:
        # A dependent may have failed because the new version did; the second run started it.
        if name in failures and name not in undone.problems:
            del failures[name]
    failures.update((n, _failure(planned, n, failures, undone)) for n in undone.logged)
    return failures


def _apply(site: Site, planned: Plan) -> tuple[Failures, Plan]:
    """Apply the plan; a rebuild that can't be prepared is dropped, and the rest planned again."""
    context = planned.context
    failed = apply_each(planned.preparation)
    if failed:
        old = {name: context.rebuilds[name].old for name in failed if name in context.rebuilds}
        failed.update(apply_each(rollback.undo_steps(site, old)))
        old.update(_purged_too_early(context, failed))
        request = rollback.leaving_alone(context.request, old)
        planned = plan(site, request, planned.context.observed)
    removed = {*context.resolved.removed}
    texts = {
        name: "it could not be removed, and was left alone"
        if name in removed
        else "rebuild could not be prepared, the old one was left alone"
        for name in failed
    }
    untouched = {
        name: LaunchError(f"{texts[name]}: {error.message}", hint=error.hint)
        for name, error in failed.items()
    }
    return {**apply_each(planned.steps), **untouched}, planned


def _purged_too_early(context: Context, failed: Failures) -> Dict[str, Record]:
    """Sandboxes whose layer can't be set aside, and those that they need: all stay."""
    good, staying = context.observed.records.good, set()
    waiting = [name for name in context.resolved.removed if name in failed]
    while waiting:
        name = waiting.pop()
        if name in good and name not in staying:
            staying.add(name)
            waiting += set(dependencies.ties(good[name])) & {*context.resolved.removed}
    return {name: good[name] for name in staying}


def _undo(site: Site, planned: Plan, again: Again, failures: Failures | None) -> _Undone:
    """Put back every rebuild without a commit and every failed restart; start all that ran.

    Without ``failures``, the run failed as a whole: a sandbox that it stopped does not run.
    """
    context = planned.context
    left = [name for name in context.rebuilds if layers.exists(site.sandbox(name).rebuild)]
    phases = {name: _stored(site, name).phase for name in left}
    due = {name: context.rebuilds[name] for name in left if phases[name] == REBUILDING}
    stopped = _stopped(site, planned, failures)
    changed = context.changed_by_restart
    back = {name: changed[name] for name in stopped if name in changed}
    if failures is not None:
        freed = {*due, *stopped}
        back = {n: old for n, old in back.items() if _missed(n, failures) not in freed}
    logged = {name: _new_lines(site, planned, name) for name in (*due, *back)}
    stuck = apply_each(rollback.undo_steps(site, {name: entry.old for name, entry in due.items()}))
    stuck.update(apply_each(rebuild.discard(site, [name for name in left if name not in due])))
    problems = {name: str(error) for name, error in stuck.items()}
    ran = {name: entry.ran for name, entry in due.items() if name not in stuck}
    # Followers share the network of a rebuilt sandbox.
    resumed = set(context.restarts) if ran or back else set(() if failures else stopped)
    resumed -= set(back)
    ran.update(dict.fromkeys((*back, *resumed), True))
    for old in back.values():
        record.save(site, old)
    problems.update(_started_again(site, ran, again))
    lost = {name: changed[name] for name in resumed if name in problems and name in changed}
    if lost:
        # The new version does not start with the old dependency either.
        for name, old in lost.items():
            logged[name] = _new_lines(site, planned, name)
            problems.pop(name)
            record.save(site, old)
        problems.update(_started_again(site, dict.fromkeys(lost, True), again))
    return _Undone(logged, problems, resumed - set(lost))


def _stopped(site: Site, planned: Plan, failures: Failures | None) -> Sequence[str]:
    """Restarts that did not get to their end."""
    restarts = planned.context.restarts
    if failures is not None:
        return [name for name in restarts if name in failures]
    return [name for name in restarts if runtime.running(site.sandbox(name)) is None]


def _missed(name: str, failures: Failures) -> str:
    """The dependency that kept the sandbox from its start, "" for none."""
    failure = failures[name]
    return failure.needed if isinstance(failure, NotStarted) else ""


def _new_lines(site: Site, planned: Plan, name: str) -> List[str]:
    """The last lines of the new version: before a stop, the log is the old version's."""
    last_log = planned.context.last_logs.get(name)
    if last_log is None:
        return []
    return last_words.last_log(site.sandbox(name), since=last_log.sizes)


def _started_again(site: Site, ran: Mapping[str, bool], again: Again) -> Dict[str, str]:
    """Run with the stored records, and start what ran; problems by name."""
    if not ran:
        return {}
    known = {name: _stored(site, name) for name in ran}
    states = {n: STARTED if ran[n] and known[n].wanted == STARTED else PRESENT for n in ran}
    old = tuple(rollback.stored(known[name], state) for name, state in states.items())
    return dict(again(Request(old, resume=True)).failed)


def _undo_aside(site: Site, planned: Plan, again: Again) -> str:
    """Undo when the whole run fails; the text to add to its error."""
    try:
        undone = _undo(site, planned, again, None)
    except (SandlotError, OSError) as worse:
        return f"; what ran could not be put back: {worse}"
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


def _failure(planned: Plan, name: str, failures: Failures, undone: _Undone) -> LaunchError:
    cause = failures.get(name, LaunchError("it did not get to its end"))
    entry = planned.context.rebuilds.get(name)
    lines = undone.logged[name]
    what = "rebuild" if entry else "restart"
    text = f"{what} failed and was rolled back: {cause.message}"
    text += quoted("\n  the new one's log ends with", lines) if lines else "; it logged nothing"
    problem = undone.problems.get(name)
    if problem:
        text += f"\n  the old one is not as it was: {problem}"
    elif entry and not entry.ran:
        text += "\n  the old one is in its place again"
    else:
        text += "\n  the old one runs again"
    last_log = planned.context.last_logs.get(name)
    if last_log and last_log.lines:
        text += quoted("; its log ended with", last_log.lines)
    if isinstance(cause, Crashed):
        return Crashed(replace(cause.crash, last_log=lines), text)
    return RolledBack(text, hint=cause.hint)
