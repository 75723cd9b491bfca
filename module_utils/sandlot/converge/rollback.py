# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Undoes rebuilds that were not committed: those that failed, and those whose run was killed.

What is put back is what can't be made again: layer and pins. All else (interfaces, rules, limits,
launch file, the start) follows from the old record, by a run that wishes for that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Collection, Dict, Iterable, Mapping, Sequence

from .. import network
from ..host import payload
from ..kernel.trees import remove_tree
from ..launcher.client import Launcher
from ..plan import Change, Failures, Operation, apply_all, batch
from ..sandbox import layers, record
from ..sandbox.record import PRESENT, REBUILDING, Record, Records
from ..site import NEXT, OLD, Site
from . import rebuild
from .decide import Desired, Observed
from .observe import NamespaceRecord, Observation, namespace_record_at, pins_of
from .rebuild import each
from .resolve import Request


@dataclass(frozen=True)
class Unfinished:
    """Names of what a killed run left: rebuilds to undo, and committed ones to clean up after."""

    undo: Sequence[str] = ()
    clean: Sequence[str] = ()


def unfinished(seen: Observation, spared: Collection[str]) -> Unfinished:
    """``spared`` are removed anyway."""
    left = [name for name, entry in seen.seen.items() if entry.rebuild and name not in spared]
    known = {name: seen.records.good[name] for name in left if name in seen.records.good}
    undo = [name for name, entry in known.items() if entry.phase == REBUILDING]
    return Unfinished(undo, [name for name in known if name not in undo])


def steps(site: Site, found: Unfinished, records: Records) -> list[Operation]:
    lines = [
        Operation(n, "roll back an unfinished rebuild", change=Change.RESTART) for n in found.undo
    ]
    cleaned = [Operation(name, "clean up after a rebuild") for name in found.clean]
    return [
        *undo_steps(site, {name: records.good[name] for name in found.undo}, lines),
        *batch("clean up", found.clean, lambda n, f: rebuild.discard_all(site, n, f), cleaned),
    ]


def undo_steps(
    site: Site, old: Mapping[str, Record], lines: Iterable[Operation] = ()
) -> list[Operation]:
    def undo(names: Sequence[str], failures: Failures) -> None:
        switched = [name for name in names if layers.is_set_aside(site.sandbox(name))]
        if switched:
            failures.update(Launcher(site, python=payload.python()).stop(switched))
        stopped = [name for name in switched if name not in failures]
        if stopped:
            apply_all(network.unlink(site, stopped, network.observe(site)))
        each("put the old back", stopped, failures, lambda name: layers.restore(site.sandbox(name)))

    def end(name: str) -> None:
        # First, as it may be what has filled the disk.
        remove_tree(site.sandbox(name).in_slot(NEXT).layer)
        record.save(site, old[name].in_phase(PRESENT))

    def forget(names: Sequence[str], failures: Failures) -> None:
        each("end the rebuild", names, failures, end)
        rebuild.discard_all(site, [name for name in names if name not in failures], failures)

    return [*batch("roll back", list(old), undo, lines), *batch("end it", list(old), forget)]


# -- what runs around it


def joined(wanted: Request, undo: Iterable[str], records: Records) -> Request:
    """Also those that nobody asks for come up as they were."""
    asked = {wish.name for wish in wanted.wishes}
    more = (stored(records.good[n], records.good[n].wanted) for n in undo if n not in asked)
    return replace(wanted, sandboxes=(*wanted.wishes, *more))


def stored(old: Record, state: str) -> Desired:
    return Desired(old.name, state, old.spec, keep_image=True)


def instead(wanted: Request, old: Mapping[str, Record]) -> Request:
    """The same for all but these, which stay as they are."""
    wishes = (
        stored(old[wish.name], PRESENT) if wish.name in old else wish for wish in wanted.wishes
    )
    return replace(wanted, sandboxes=tuple(wishes))


def foreseen(site: Site, found: Unfinished, seen: Observation) -> Observation:
    """What a check looks at: the host as it will be when that has been rolled back."""
    changed: Dict[str, Observed] = {n: replace(seen.seen[n], rebuild=False) for n in found.clean}
    made, state = dict(seen.made), seen.network
    for name in found.undo:
        changed[name] = replace(seen.seen[name], rebuild=False)
        if layers.is_set_aside(site.sandbox(name)):
            state = state.without(name)
            changed[name] = _foreseen(site, changed[name], name, made)
    records = dict(seen.records.good)
    records.update((name, records[name].in_phase(PRESENT)) for name in found.undo)
    changed = {name: replace(entry, record=records[name]) for name, entry in changed.items()}
    return replace(
        seen,
        records=replace(seen.records, good=records),
        network=state,
        seen={**seen.seen, **changed},
        made=made,
    )


def _foreseen(site: Site, seen: Observed, name: str, made: Dict[str, NamespaceRecord]) -> Observed:
    """What puts back stops what runs, and leaves pins that nothing was set aside for."""
    old = site.sandbox(name).in_slot(OLD)
    stopped = replace(seen, running=None, detached=False)
    stopped = replace(stopped, layer=seen.layer or layers.exists(old.layer))
    if not layers.exists(old.pins):
        return stopped
    kept = namespace_record_at(old.namespaces, name)
    made.pop(name, None)
    if kept:
        made[name] = kept
    pins = pins_of(old, seen.record)
    return replace(stopped, pins=pins, namespaces=kept.digest if kept else None)
