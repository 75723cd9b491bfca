# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Snapshots that users ask for: make, remove, restore, clone, export and import."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Sequence

from .. import lock, sizes
from ..cgroups import freezing
from ..errors import SandlotError, SpecError
from ..plan import Operation, descriptions
from ..sandbox import layers, mounts, record, runtime
from ..sandbox.record import PRESENT, Record, Records
from ..site import Site
from ..snapshots import create, model, store
from ..snapshots.model import ASKED, Snapshot
from . import cloning, restoring, transport
from .api import run
from .kept_model import Kept, SnapshotRequest
from .report import Result
from .returned import return_values

Json = Dict[str, Any]
# In the diff of a check, for the id of a snapshot that the run would make.
COMING = "(of the layer that is set aside)"
_ID_RULE = "use up to 128 ASCII letters, digits, '_', '.' and '-', first a letter or digit"


def carry_out(site: Site, asked: SnapshotRequest) -> Kept:
    """Do what is asked; a check tells what that is, and touches nothing."""
    if not model.is_id(asked.name) and (asked.name or asked.state not in ("clone", "import")):
        raise SpecError("name", asked.name, "is no name of a snapshot", hint=_ID_RULE)
    if not model.is_id(asked.sandbox) and (asked.sandbox or asked.state != "import"):
        raise SpecError("sandbox", asked.sandbox, "is no name of a sandbox", hint="name one")
    _check_meaning(asked)
    if asked.state == "import":
        return transport.imported(site, asked)
    if asked.state == "export":
        return transport.exported(site, asked)
    with contextlib.nullcontext() if asked.check else lock.exclusive(site):
        if not asked.check:
            freezing.thaw_left(site)
        return _STATES[asked.state](site, asked, store.identifiers(site, asked.sandbox))


def _check_meaning(asked: SnapshotRequest) -> None:
    """Refuse what the state would ignore."""
    archives = ("export", "import")
    meanings = {"into": ("clone",), "options": ("clone",), "path": archives}
    for option, states in meanings.items():
        value = getattr(asked, option)
        if value and asked.state not in states:
            hint = f"leave it out, or set state: {' or '.join(states)}"
            raise SpecError(option, value, f"has no meaning for state {asked.state}", hint=hint)


def _create(site: Site, asked: SnapshotRequest, before: List[str]) -> Kept:
    """Make a snapshot, unless the sandbox has one of that name."""
    if asked.name in before:
        known = store.load(site, asked.sandbox, asked.name)
        return Kept([], known.facts(), before, before)
    records = record.load_all(site)
    entry = _record(records, asked.sandbox)
    if not layers.is_whole(site.sandbox(entry.name)):
        hint = "deploy it again first: the run makes its layer"
        raise SandlotError(f"sandbox {entry.name} has no layer to copy", hint=hint)
    snapshot = _snapshot(site, entry, asked.name, ASKED, volumes=asked.volumes)
    if not asked.check:
        snapshot = _copied(site, records, snapshot)
    summary = f"make snapshot {asked.name}"
    summary += f" with volumes {', '.join(snapshot.volumes)}" if snapshot.volumes else ""
    actions = descriptions([Operation(entry.name, summary)])
    return Kept(actions, snapshot.facts(), before, [*before, asked.name])


def _snapshot(
    site: Site, entry: Record, identifier: str, reason: str, *, volumes: bool = True
) -> Snapshot:
    used = mounts.volume_names(entry)
    names = [name for name in used if sizes.exists(sizes.of_volume(site, name))]
    return Snapshot(
        sandbox=entry.name,
        id=identifier,
        created=time.time(),
        reason=reason,
        ids=entry.ids,
        record=entry,
        volumes=tuple(names if volumes else ()),
    )


def _copied(site: Site, records: Records, snapshot: Snapshot) -> Snapshot:
    sandbox = site.sandbox(snapshot.sandbox)
    sizes.mount(layers.place(sandbox))
    sources = {create.LAYER: sandbox.upper}
    for name in snapshot.volumes:
        sources[create.volume(name)] = sizes.opened(sizes.of_volume(site, name))
    frozen = _writers(site, records, snapshot.sandbox, snapshot.volumes)
    return create.create(site, snapshot, sources, frozen)


def _absent(site: Site, asked: SnapshotRequest, before: List[str]) -> Kept:
    """Remove a snapshot, also a broken one; there need not be one."""
    if asked.name not in before:
        return Kept([], None, before, before)
    if not asked.check:
        store.remove(site, asked.sandbox, asked.name)
    actions = descriptions([Operation(asked.sandbox, f"remove snapshot {asked.name}")])
    return Kept(actions, None, before, [name for name in before if name != asked.name])


def _restore(site: Site, asked: SnapshotRequest, before: List[str]) -> Kept:
    """Put the layer and volumes of a snapshot in the place of those of its sandbox."""
    snapshot = store.load(site, asked.sandbox, asked.name)
    records = record.load_all(site)
    request = restoring.request(
        site,
        records,
        _record(records, asked.sandbox),
        snapshot,
        volumes=asked.volumes,
        force=asked.force,
        check=asked.check,
    )
    done = run(site, request)
    after = (
        _foreseen(asked, before, done) if asked.check else store.identifiers(site, asked.sandbox)
    )
    return _of_run(done, snapshot, before, after)


def _foreseen(asked: SnapshotRequest, before: List[str], done: Result) -> List[str]:
    """The snapshots after a restore; the run gives the layer that it sets aside its time as id."""
    left = [name for name in before if f"{asked.sandbox}/{name}" not in done.snapshots_due]
    is_kept = "set_aside" in done.sandboxes[asked.sandbox]
    return [*left, *([COMING] if is_kept else [])]


def _clone(site: Site, asked: SnapshotRequest, before: List[str]) -> Kept:
    """Make a sandbox of a snapshot, or of a running sandbox; nothing when it is there."""
    if not asked.into:
        raise SpecError("into", asked.into, "is no name of a sandbox", hint="name the clone")
    records = record.load_all(site)
    known = records.good.get(asked.into)
    if known is not None and not cloning.is_begun(site, asked.into):
        return Kept([], None, before, before)
    if asked.name:
        return _cloned(site, asked, store.load(site, asked.sandbox, asked.name), before)
    original = _record(records, asked.sandbox)
    snapshot = _snapshot(site, original, store.new_id(site, original.name, time.time()), "clone")
    # A copy that a killed run leaves goes as other automatic snapshots do, unless none is kept.
    snapshot = replace(snapshot, automatic=original.spec.snapshot_keep > 0)
    # Everything that can be refused is, before the copy is made.
    foreseen = _cloned(site, replace(asked, check=True), snapshot, before)
    if asked.check:
        return foreseen
    snapshot = _copied(site, records, snapshot)
    done = _cloned(site, asked, snapshot, before)
    if not done.more["failed"]:
        store.remove(site, snapshot.sandbox, snapshot.id)
    return done


def _cloned(site: Site, asked: SnapshotRequest, snapshot: Snapshot, before: List[str]) -> Kept:
    request = cloning.request(
        site,
        snapshot,
        asked.into,
        asked.options,
        copied=asked.volumes,
        force=asked.force,
        check=asked.check,
    )
    if not asked.check:
        cloning.begin(site, request)
    return _of_run(run(site, request), snapshot, before, before)


def _of_run(done: Result, snapshot: Snapshot, before: List[str], after: List[str]) -> Kept:
    values = return_values(done)
    more: Json = {key: values[key] for key in ("warnings", "failed", "msg") if key in values}
    return Kept(done.actions, snapshot.facts(), before, after, more)


_STATES: Mapping[str, Callable[[Site, SnapshotRequest, List[str]], Kept]] = {
    "create": _create,
    "absent": _absent,
    "restore": _restore,
    "clone": _clone,
}


def _record(records: Records, name: str) -> Record:
    if name in records.broken:
        raise records.broken[name]
    if name not in records.good:
        known = ", ".join(sorted(records.good)) or "there is none"
        raise SpecError("sandbox", name, "is no sandbox of this host", hint=f"known: {known}")
    entry = records.good[name]
    if entry.phase != PRESENT:
        hint = "deploy it again first: the next run ends that"
        raise SandlotError(f"{name} is in phase {entry.phase}", hint=hint)
    return entry


def _writers(site: Site, records: Records, name: str, volumes: Sequence[str]) -> List[str]:
    """The running sandboxes that may write to what is copied."""
    sharing = {
        other
        for other, entry in records.good.items()
        if other == name or not set(volumes).isdisjoint(mounts.volume_names(entry))
    }
    return [other for other in sorted(sharing) if runtime.running(site.sandbox(other))]
