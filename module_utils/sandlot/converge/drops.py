# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Layers that a run drops: what becomes of each, and the snapshots that have to go for others."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Dict, List, Mapping, Sequence, Set

from .. import sizes
from ..images import setup
from ..kernel import mount_points
from ..plan import Operation
from ..sandbox import layers
from ..sandbox.record import PRESENT, REMOVING, Record
from ..site import OLD, SandboxPaths, Site
from ..snapshots import aside, model, retention, store
from ..snapshots.aside import Drop
from ..snapshots.contents import Contents
from ..snapshots.model import Snapshot
from ..snapshots.retention import Due, Limits
from ..spec.options import BY_NAME
from .decide import Decision, Observed
from .observe import Observation
from .resolve import Request, Resolved

_KEEP = "snapshot_keep"
_UNITS = ((1e6, "MB"), (1e9, "GB"))


def drops(
    site: Site,
    request: Request,
    resolved: Resolved,
    decisions: Mapping[str, Decision],
    observed: Observation,
) -> Dict[str, Drop]:
    """The layers that this run drops; those of throw-away sandboxes are no one's work."""
    reasons = {
        name: _reason(decision)
        for name, decision in decisions.items()
        if drops_layer(decision, observed.sandboxes[name])
    }
    for name in resolved.removed:
        reasons[name] = model.REMOVED if name in request.absent else model.PURGE
    with mount_points.kept():
        return _planned(site, request, resolved, observed, reasons)


def _planned(
    site: Site,
    request: Request,
    resolved: Resolved,
    observed: Observation,
    reasons: Mapping[str, str],
) -> Dict[str, Drop]:
    planned = {}
    for name, reason in reasons.items():
        old = observed.records.good.get(name)
        source = _source(site, name, old)
        if not setup.SANDBOX.fullmatch(name) and sizes.exists(layers.place(source)):
            target = resolved.targets.get(name)
            for_good = target is None and _goes_for_good(site, request, name, old)
            ruling = target.record if target else old
            planned[name] = _drop(site, source, old, ruling, "" if for_good else reason)
    return planned


def _source(site: Site, name: str, old: Record | None) -> SandboxPaths:
    """The place of the layer; a rebuild that was killed before its commit may have moved it."""
    slot = site.sandbox(name).in_slot(OLD)
    moved = old is not None and old.phase != PRESENT and sizes.exists(layers.place(slot))
    return slot if moved else site.sandbox(name)


def drops_layer(decision: Decision, observed: Observed) -> bool:
    """Whether the sandbox gets an empty layer; there may be one in its place."""
    return decision.next_slot or decision.announced or not observed.layer


def _reason(decision: Decision) -> str:
    if decision.content:
        return model.RESTORE
    if decision.rebuild == model.RECREATE:
        return model.RECREATE
    changed = {difference.option for difference in decision.differences}
    return model.IMAGE if "image" in changed else model.REBUILD


def _goes_for_good(site: Site, request: Request, name: str, old: Record | None) -> bool:
    """A named removal, also one that a killed run began: a purge begins with the snapshot."""
    if request.purge_snapshots or (name in request.absent and not request.set_aside):
        return True
    begun = old is not None and old.phase == REMOVING
    return begun and not store.staged(site, name)


def _drop(
    site: Site, source: SandboxPaths, old: Record | None, ruling: Record | None, reason: str
) -> Drop:
    name, held = source.name, aside.look(site, source)
    kept = ruling.spec.snapshot_keep if ruling else BY_NAME[_KEEP].default
    if not reason or not kept:
        return Drop(name, held)
    age = ruling.spec.snapshot_max_age if ruling else None
    now = time.time()
    snapshot = aside.planned(
        site, name, old, held, reason=reason, now=now, keep=kept, max_age=age or 0
    )
    return Drop(name, held, snapshot)


# -- operations


def lines(drop: Drop | None) -> List[Operation]:
    """The line that tells what becomes of a layer with something in it."""
    if drop is None or not (drop.is_kept or drop.is_lost):
        return []
    verb = "set its layer aside as a snapshot" if drop.is_kept else "remove its layer for good"
    return [Operation(drop.sandbox, f"{verb}, {amount(drop.contents)}")]


def amount(held: Contents | Snapshot) -> str:
    """The size of a layer in words, as 12.3 MB in 40 files."""
    least = "over " if held.more else ""
    files = f"{held.files} file{'' if held.files == 1 else 's'}"
    size = f"{held.size / 1e3:.0f} kB"
    for scale, unit in _UNITS:
        if held.size >= scale:
            size = f"{held.size / scale:.1f} {unit}"
    return f"{least}{size} in {least}{files}"


def begin(site: Site, drop: Drop | None) -> None:
    if drop is not None and drop.snapshot is not None:
        aside.begin(site, drop.snapshot)


def begin_purges(
    site: Site, planned: Mapping[str, Drop], removed: Sequence[str], known: Mapping[str, Record]
) -> list[Operation]:
    """Begin the snapshots of purged sandboxes while nothing has changed.

    A sandbox without a usable record can't be left alone: its snapshot begins with the removal.
    """

    def begin_one(drop: Drop) -> None:
        _end_rebuild(site, known[drop.sandbox])
        begin(site, drop)

    return [
        Operation(name, "begin a snapshot", partial(begin_one, drop), subject=name, silent=True)
        for name, drop in planned.items()
        if name in removed and name in known and drop.snapshot is not None
    ]


def _end_rebuild(site: Site, known: Record | None) -> None:
    """Set aside the old layer of a rebuild that was killed after its commit."""
    if known is not None and known.phase == PRESENT:
        aside.finish(site, site.sandbox(known.name).in_slot(OLD))


def give_up(site: Site, drop: Drop | None, sandbox: SandboxPaths) -> None:
    """Take the layer away: to its snapshot, or for good."""
    if drop is None or drop.snapshot is None:
        store.abandon(site, sandbox.name, automatic=True)
    else:
        if not store.staged(site, sandbox.name):
            aside.begin(site, drop.snapshot)
        # A rebuild that was killed may have moved it.
        layers.put_back(sandbox)
        aside.finish(site, sandbox)
    layers.discard(sandbox)


# -- retention


def going(
    site: Site,
    request: Request,
    resolved: Resolved,
    observed: Observation,
    planned: Mapping[str, Drop],
) -> list[Due]:
    """Snapshots that have to go, without those that a purge of snapshots removes."""
    loaded = store.load_all(site).good
    if not loaded:
        return []
    left = _existing(resolved, observed)
    if request.purge_snapshots:
        loaded = [entry for entry in loaded if entry.sandbox in left]
    records = {**resolved.bystanders, **{n: t.record for n, t in resolved.targets.items()}}
    limits = {
        name: Limits(record.spec.snapshot_keep, record.spec.snapshot_max_age or 0)
        for name, record in records.items()
    }
    for name, drop in planned.items():
        if drop.is_kept and drop.snapshot is not None:
            limits[name] = Limits(drop.snapshot.keep, drop.snapshot.max_age, coming=1)
    return retention.due(loaded, limits, time.time(), retention.room(site))


def _existing(resolved: Resolved, observed: Observation) -> Set[str]:
    """The sandboxes that are there after the run."""
    return ({*observed.known, *resolved.targets}) - {*resolved.removed}


def removals(
    site: Site, due: Sequence[Due], planned: Mapping[str, Drop] | None = None
) -> list[Operation]:
    """``planned`` are the drops of the run: an older snapshot goes once the newer one is there."""

    def remove(entry: Due) -> None:
        if entry.for_space and not retention.room(site).is_low:
            return
        drop = (planned or {}).get(entry.snapshot.sandbox)
        if not entry.surplus or drop is None or _is_made(site, drop):
            store.remove(site, entry.snapshot.sandbox, entry.snapshot.id)

    return [
        _removal(entry.snapshot.name, entry.snapshot, entry.why, partial(remove, entry))
        for entry in due
    ]


def _is_made(site: Site, drop: Drop) -> bool:
    made = drop.snapshot
    return made is None or layers.exists(site.snapshot(made.sandbox, made.id).file)


def tidy(site: Site, observed: Observation) -> list[Operation]:
    """End what killed runs left of snapshots, not for sandboxes that wait for a run to go on."""
    if not store.leftovers(site):
        return []
    good = observed.records.good
    waiting = {
        *observed.records.broken,
        *(name for name, record in good.items() if record.phase != PRESENT),
        *(name for name, entry in observed.sandboxes.items() if entry.rebuild),
    }
    sweep, what = partial(store.sweep, site, waiting), "snapshots"
    return [Operation(what, "end what a killed run began", sweep, subject=what, silent=True)]


def _removal(name: str, snapshot: Snapshot | None, why: str, action: Any) -> Operation:
    title = f"snapshot {name}"
    held = f" {amount(snapshot)}:" if snapshot else ""
    return Operation(title, f"remove{held} {why}", action, subject=title)


def purged(
    site: Site, request: Request, resolved: Resolved, observed: Observation
) -> Dict[str, Snapshot | None]:
    """Snapshots of sandboxes that are not there after the run; None for one that is unusable."""
    if not request.purge_snapshots:
        return {}
    left, loaded = _existing(resolved, observed), store.load_all(site)
    everyone: Dict[str, Snapshot | None] = {entry.name: entry for entry in loaded.good}
    everyone.update(dict.fromkeys(loaded.broken))
    return {name: entry for name, entry in everyone.items() if name.split("/")[0] not in left}


def purge_operations(site: Site, gone: Mapping[str, Snapshot | None]) -> list[Operation]:
    def remove(name: str) -> None:
        sandbox, dummy, identifier = name.partition("/")
        store.remove(site, sandbox, identifier)

    return [
        _removal(name, entry, "its sandbox is gone", partial(remove, name))
        for name, entry in gone.items()
    ]
