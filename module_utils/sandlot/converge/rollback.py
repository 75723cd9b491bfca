# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Undoes rebuilds without a commit: a rebuild that failed, or one whose run was killed.

The old layer and pins are put back, as they can't be made again. A run with the old record restores
the rest: interfaces, rules, limits, launch file and the start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Collection, Dict, Iterable, Mapping, Sequence

from .. import network, sizes
from ..launcher.client import Launcher
from ..plan import Change, Failures, Operation, apply_all, batch
from ..sandbox import layers, record
from ..sandbox.record import PRESENT, REBUILDING, Record, Records
from ..site import NEXT, OLD, Site
from ..snapshots import create, exchange
from ..snapshots import store as snapshots
from . import rebuild
from .decide import Desired, Observed
from .observe import NamespaceRecord, Observation, namespace_record_at, pins_of
from .rebuild import act_on_each
from .resolve import Request


@dataclass(frozen=True)
class Unfinished:
    """Rebuilds that a killed run left, by name: to undo, or committed and to clean up after."""

    undo: Sequence[str] = ()
    clean: Sequence[str] = ()


def unfinished(observed: Observation, leaving: Collection[str]) -> Unfinished:
    """Rebuilds that a killed run left; sandboxes that this run removes need no rollback."""
    left = [
        name for name, entry in observed.sandboxes.items() if entry.rebuild and name not in leaving
    ]
    known = {name: observed.records.good[name] for name in left if name in observed.records.good}
    undo = [name for name, entry in known.items() if entry.phase == REBUILDING]
    return Unfinished(undo, [name for name in known if name not in undo])


def steps(site: Site, left: Unfinished, records: Records) -> list[Operation]:
    summary = "roll back an unfinished rebuild"
    lines = [Operation(name, summary, change=Change.RESTART) for name in left.undo]
    cleaned = [Operation(name, "clean up after a rebuild") for name in left.clean]
    return [
        *undo_steps(site, {name: records.good[name] for name in left.undo}, lines),
        *batch("clean up", left.clean, lambda n, f: rebuild.discard_all(site, n, f), cleaned),
    ]


def undo_steps(
    site: Site, old: Mapping[str, Record], lines: Iterable[Operation] = ()
) -> list[Operation]:
    def put_back(name: str) -> None:
        exchange.take_back(site, site.sandbox(name))
        layers.restore(site.sandbox(name))

    def undo(names: Sequence[str], failures: Failures) -> None:
        switched = [name for name in names if layers.is_set_aside(site.sandbox(name))]
        if switched:
            failures.update(Launcher(site).stop(switched))
        stopped = [name for name in switched if name not in failures]
        if stopped:
            apply_all(network.unlink(site, stopped, network.observe(site)))
        act_on_each("put the old back", stopped, failures, put_back)

    def end(name: str) -> None:
        # First, as the new layer may have filled the disk.
        layers.discard(site.sandbox(name).in_slot(NEXT))
        create.keep_backup(site, site.sandbox(name))
        snapshots.abandon(site, name, automatic=True)
        record.save(site, old[name].in_phase(PRESENT))

    def forget(names: Sequence[str], failures: Failures) -> None:
        act_on_each("end the rebuild", names, failures, end)
        rebuild.discard_all(site, [name for name in names if name not in failures], failures)

    return [*batch("roll back", list(old), undo, lines), *batch("end it", list(old), forget)]


# -- the run around a rollback


def with_undone(request: Request, undo: Iterable[str], records: Records) -> Request:
    """The request plus every rebuild to undo: each old version goes back to its run state."""
    listed = {desired.name for desired in request.sandboxes or ()}
    more = (stored(records.good[n], records.good[n].wanted) for n in undo if n not in listed)
    return replace(request, sandboxes=(*(request.sandboxes or ()), *more))


def stored(old: Record, state: str) -> Desired:
    return Desired(old.name, state, old.spec, keep_image=True)


def leaving_alone(request: Request, old: Mapping[str, Record]) -> Request:
    """The request, with the sandboxes in ``old`` left as they are."""
    listed = [desired.name for desired in request.sandboxes or ()]
    sandboxes = (
        stored(old[desired.name], PRESENT) if desired.name in old else desired
        for desired in request.sandboxes or ()
    )
    unlisted = (stored(entry, PRESENT) for name, entry in old.items() if name not in listed)
    return replace(request, sandboxes=(*sandboxes, *unlisted))


def foreseen(site: Site, left: Unfinished, observed: Observation) -> Observation:
    """The host as the rollback will leave it; a check plans from it."""
    names = (*left.clean, *left.undo)
    changed = {name: replace(observed.sandboxes[name], rebuild=False) for name in names}
    namespaces, state = dict(observed.namespaces), observed.network
    for name in left.undo:
        if layers.is_set_aside(site.sandbox(name)):
            state = state.without(name)
            changed[name] = _put_back(site, changed[name], name, namespaces)
    records = dict(observed.records.good)
    records.update((name, records[name].in_phase(PRESENT)) for name in left.undo)
    changed = {name: replace(entry, record=records[name]) for name, entry in changed.items()}
    return replace(
        observed,
        records=replace(observed.records, good=records),
        network=state,
        sandboxes={**observed.sandboxes, **changed},
        namespaces=namespaces,
    )


def _put_back(
    site: Site, observed: Observed, name: str, namespaces: Dict[str, NamespaceRecord]
) -> Observed:
    """The rollback stops the sandbox; it keeps its pins unless a switch set others aside."""
    old = site.sandbox(name).in_slot(OLD)
    stopped = replace(observed, running=None, detached=False)
    stopped = replace(stopped, layer=observed.layer or sizes.exists(layers.place(old)))
    if not layers.exists(old.pins):
        return stopped
    kept = namespace_record_at(old.namespaces, name)
    namespaces.pop(name, None)
    if kept:
        namespaces[name] = kept
    pins = pins_of(old, observed.record)
    return replace(stopped, pins=pins, namespaces=kept.digest if kept else None)
