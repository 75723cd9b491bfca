# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Snapshots that users ask for: make, remove."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .. import lock
from ..cgroups import freezing
from ..errors import SandlotError, SpecError
from ..plan import Operation, apply_all, descriptions
from ..sandbox import layers, mounted, record, runtime
from ..sandbox.record import PRESENT, Record, Records
from ..site import Site
from ..snapshots import create, model, store
from ..snapshots.model import ASKED, Snapshot

Json = Dict[str, Any]
_ID_RULE = "use up to 128 ASCII letters, digits, '_', '.' and '-', first a letter or digit"


# Operations, and the facts of the snapshot after them.
Planned = Tuple[List[Operation], Callable[[], Optional[Json]]]


@dataclass(frozen=True)
class SnapshotRequest:
    """The options of the module, or the words of the command."""

    sandbox: str
    name: str
    state: str = "create"
    volumes: bool = True
    check: bool = False


@dataclass(frozen=True)
class Kept:
    """The outcome of a run: what it did or would do, and the snapshot that it is about."""

    actions: List[str]
    snapshot: Json | None = None
    before: Sequence[str] = ()
    after: Sequence[str] = ()

    def to_json(self) -> Json:
        diff = {"before": _text(self.before), "after": _text(self.after)}
        return {
            "changed": bool(self.actions),
            "actions": self.actions,
            "snapshot": self.snapshot,
            "diff": diff,
        }


def _text(identifiers: Sequence[str]) -> str:
    return json.dumps({"snapshots": sorted(identifiers)}, indent=4) + "\n"


def carry_out(site: Site, asked: SnapshotRequest) -> Kept:
    """Do what is asked; a check tells what that is, and touches nothing."""
    if not model.is_id(asked.name):
        raise SpecError("name", asked.name, "is no name of a snapshot", hint=_ID_RULE)
    with contextlib.nullcontext() if asked.check else lock.exclusive(site):
        if not asked.check:
            freezing.thaw_left(site)
        before = store.identifiers(site, asked.sandbox)
        operations, done = _STATES[asked.state](site, asked)
        if not asked.check:
            apply_all(operations)
        after = set(before)
        if operations:
            after = after ^ {asked.name}
        return Kept(descriptions(operations), done(), before, sorted(after))


def _create(site: Site, asked: SnapshotRequest) -> Planned:
    """Make a snapshot, unless the sandbox has one of that name."""
    if asked.name in store.identifiers(site, asked.sandbox):
        known = store.load(site, asked.sandbox, asked.name)
        return [], known.facts
    records = record.load_all(site)
    entry = _record(records, asked.sandbox)
    if not layers.is_whole(site.sandbox(entry.name)):
        hint = "deploy it again first: the run makes its layer"
        raise SandlotError(f"sandbox {entry.name} has no layer to copy", hint=hint)
    names = [name for name in mounted.volumes(entry) if os.path.isdir(site.volume(name).data)]
    names = names if asked.volumes else []
    made = [
        Snapshot(
            sandbox=entry.name,
            id=asked.name,
            created=time.time(),
            reason=ASKED,
            ids=entry.ids,
            record=entry,
            volumes=tuple(names),
        )
    ]
    frozen = _writers(site, records, entry.name, names)

    def act() -> None:
        sources = {create.LAYER: site.sandbox(entry.name).upper}
        sources.update((create.volume(name), site.volume(name).data) for name in names)
        made[0] = create.create(site, made[0], sources, frozen)

    summary = f"make snapshot {asked.name}"
    summary += f" with volumes {', '.join(names)}" if names else ""
    return [Operation(entry.name, summary, act)], lambda: made[0].facts()


def _absent(site: Site, asked: SnapshotRequest) -> Planned:
    """Remove a snapshot, also a broken one; there need not be one."""
    if asked.name not in store.identifiers(site, asked.sandbox):
        return [], _nothing
    remove = partial(store.remove, site, asked.sandbox, asked.name)
    return [Operation(asked.sandbox, f"remove snapshot {asked.name}", remove)], _nothing


def _nothing() -> None:
    return None


_STATES: Mapping[str, Callable[[Site, SnapshotRequest], Planned]] = {
    "create": _create,
    "absent": _absent,
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
        if other == name or not set(volumes).isdisjoint(mounted.volumes(entry))
    }
    return [other for other in sorted(sharing) if runtime.running(site.sandbox(other))]
