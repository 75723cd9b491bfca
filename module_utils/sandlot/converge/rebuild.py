# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Rebuilds as transactions: the new is made beside the old, switched to, and kept if it does well.

Everything a rebuild makes or sets aside is below two directories of the sandbox's. The record is
the old one, in phase rebuilding, until the commit; what is not committed is undone by ``rollback``.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence

from .. import network, store
from ..errors import LaunchError
from ..host import payload
from ..launcher.client import Launcher
from ..network import NetworkState
from ..oserrors import explained
from ..sandbox import last_words, launchfile, layer, record, settle
from ..sandbox.record import PRESENT, REBUILDING, Record
from ..site import SandboxPaths, Site
from .decide import Decision, Observed, Target, preparation_line, record_lines, switch_line
from .observe import NamespaceRecord, write_namespace_record
from .steps import Failures, Step, batch

NEXT, OLD = "next", "old"


@dataclass(frozen=True)
class Words:
    """What the old one said last, and how long its log was then."""

    lines: List[str]
    log: Dict[str, int]


@dataclass(frozen=True)
class Rebuild:
    """One sandbox's; ``words`` is filled when the old one has been stopped."""

    decision: Decision
    old: Record
    launch: Mapping[str, Any]
    made: NamespaceRecord
    ran: bool
    words: List[Words] = field(default_factory=list, compare=False)

    @property
    def name(self) -> str:
        return self.decision.name

    @property
    def new(self) -> Record:
        return self.decision.record.in_phase(PRESENT)


def rebuilds(
    decisions: Mapping[str, Decision],
    targets: Mapping[str, Target],
    launches: Mapping[str, Mapping[str, Any]],
    seen: Mapping[str, Observed],
) -> Dict[str, Rebuild]:
    found = {}
    for name, decision in decisions.items():
        old = seen[name].record
        if decision.beside and old is not None:
            made = NamespaceRecord(targets[name].namespaces, decision.record.interfaces)
            ran = seen[name].running is not None
            found[name] = Rebuild(decision, old, launches[name], made, ran)
    return found


def each(
    what: str, names: Iterable[str], failures: Failures, action: Callable[[str], None]
) -> None:
    """For those that have not failed; who fails does so for itself."""
    for name in [name for name in names if name not in failures]:
        try:
            action(name)
        except OSError as error:
            failures[name] = explained(error, what)


# -- while the old one runs


def announce(site: Site, one: Rebuild) -> Step:
    """The directory first: together they tell a rebuild of this kind from any other phase."""

    def save(failures: Failures) -> None:
        os.makedirs(site.sandbox(one.name).rebuild, mode=0o700, exist_ok=True)
        record.save(site, one.old.in_phase(REBUILDING))

    lines = tuple(record_lines(one.decision))
    return Step(f"{one.name}: mark for a rebuild", save, lines, one.name)


def prepare(site: Site, found: Mapping[str, Rebuild]) -> list[Step]:
    return [
        *(_prepare_files(site, one) for one in found.values()),
        *batch("prepare namespaces", list(found), lambda n, f: _prepare_pins(site, n, f)),
    ]


def _prepare_files(site: Site, one: Rebuild) -> Step:
    beside = site.sandbox(one.name).beside(NEXT)

    def make(failures: Failures) -> None:
        layer.make(beside, one.new.ids)
        launchfile.write(site, beside.name, launchfile.encoded(one.launch))
        write_namespace_record(site, beside.name, one.made)

    lines = (preparation_line(one.decision),)
    return Step(f"{one.name}: prepare a rebuild", make, lines, one.name)


def _prepare_pins(site: Site, names: Sequence[str], failures: Failures) -> None:
    besides = {site.sandbox(name).beside(NEXT).name: name for name in names}
    launcher = Launcher(site, python=payload.python())
    for beside, failure in launcher.create(besides).items():
        failures[besides[beside]] = failure


# -- while neither runs


def switch(site: Site, found: Mapping[str, Rebuild], state: NetworkState) -> list[Step]:
    """The old one's interfaces go first, as the new ones have the same names and addresses."""
    lines = [switch_line(one.decision) for one in found.values()]

    def switch_all(names: list[str], failures: Failures) -> None:
        for name in names:
            found[name].words.append(_last_words(site.sandbox(name)))
        for operation in network.unlink_all(site, names, state):
            operation.apply()
        each("switch to the new", names, failures, lambda name: _switch(site.sandbox(name)))

    return batch("switch", list(found), switch_all, lines)


def _last_words(sandbox: SandboxPaths) -> Words:
    return Words(last_words.last_log(sandbox), last_words.log_sizes(sandbox))


def _switch(sandbox: SandboxPaths) -> None:
    """Renames only; pins move with their directory. That of the old says it has begun."""
    old, new = sandbox.beside(OLD), sandbox.beside(NEXT)
    os.makedirs(old.state, mode=0o700, exist_ok=True)
    os.makedirs(old.run, mode=0o700, exist_ok=True)
    os.rename(sandbox.layer, old.layer)
    os.rename(new.layer, sandbox.layer)
    with contextlib.suppress(FileNotFoundError):
        os.rename(sandbox.namespaces, old.namespaces)
    with contextlib.suppress(FileNotFoundError):
        os.rename(sandbox.pins, old.pins)
    os.rename(new.pins, sandbox.pins)
    os.rename(new.namespaces, sandbox.namespaces)
    os.rename(new.launch, sandbox.launch)


# -- while the new one runs


def await_all(site: Site, found: Mapping[str, Rebuild]) -> list[Step]:
    started = [name for name, one in found.items() if one.decision.start]

    def wait(names: list[str], failures: Failures) -> None:
        limits = {name: found[name].new.spec.healthy_wait_timeout for name in names}
        problems = settle.problems(site, limits)
        failures.update((name, LaunchError(problem)) for name, problem in problems.items())

    return batch("wait", started, wait)


def commit(site: Site, one: Rebuild) -> Step:
    """From here on the new one is the sandbox; what is left to do is to remove the old."""

    def save(failures: Failures) -> None:
        store.sync_directory(site.sandbox(one.name).beside(OLD).state)
        record.save(site, one.new)

    return Step(f"{one.name}: commit the rebuild", save, (), one.name)


def discard(site: Site, names: Sequence[str]) -> list[Step]:
    """Remove what was set aside; what marks it goes last."""
    return batch("discard what was set aside", names, lambda n, f: discard_all(site, n, f))


def discard_all(site: Site, names: Sequence[str], failures: Failures) -> None:
    failures.update(unpin(site, names))

    def remove(name: str) -> None:
        layer.remove_tree(f"{site.sandbox(name).run}/rebuild")
        layer.remove_tree(site.sandbox(name).rebuild)

    each("remove what was set aside", names, failures, remove)


def unpin(site: Site, names: Sequence[str]) -> Failures:
    besides = {
        site.sandbox(name).beside(which).name: name for name in names for which in (NEXT, OLD)
    }
    failed = Launcher(site, python=payload.python()).destroy(besides)
    return {besides[beside]: failure for beside, failure in failed.items()}
