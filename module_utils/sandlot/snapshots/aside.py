# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sets layers aside as snapshots: begun before the first side effect, then one rename.

A snapshot that is begun tells the next run after a kill that the layer is to be kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Mapping, Optional

from .. import sizes
from ..errors import SandlotError
from ..idmap import IdRange
from ..kernel import mount_points
from ..kernel.files import NO_ROOM
from ..kernel.trees import refuse_mounts
from ..sandbox import launchfile, layers
from ..sandbox.record import Record
from ..site import SandboxPaths, Site
from . import contents, exchange, store
from .contents import Contents
from .model import Snapshot

_SECTOR = 512  # the unit of st_blocks (inode(7))


@dataclass(frozen=True)
class Drop:
    """A layer that a run drops, and the snapshot that it becomes; None when it goes for good."""

    sandbox: str
    contents: Contents
    snapshot: Optional[Snapshot] = None

    @property
    def is_kept(self) -> bool:
        return self.snapshot is not None and self.contents.own

    @property
    def is_lost(self) -> bool:
        return self.snapshot is None and self.contents.own


def look(site: Site, sandbox: SandboxPaths) -> Contents:
    """The contents of the layer of a sandbox or slot.

    They are unknown while its file system is not mounted, or while somebody has mounted another one
    in it, whose file server may hang.
    """
    place = layers.place(sandbox)
    if layers.exists(place.image) and not sizes.is_mounted(place):
        return Contents(os.stat(place.image).st_blocks * _SECTOR, 0, more=True, own=True)
    if mount_points.within(sandbox.upper):
        return Contents(more=True, own=True)
    return contents.look(sandbox.upper, _launch(site, sandbox.name))


def planned(
    site: Site,
    name: str,
    record: Optional[Record],
    held: Contents,
    *,
    reason: str,
    now: float,
    keep: int,
    max_age: int,
) -> Snapshot:
    """The snapshot of a layer that is about to be dropped."""
    return Snapshot(
        sandbox=name,
        id=store.new_id(site, name, now),
        created=now,
        reason=reason,
        ids=record.ids if record else IdRange(0),
        record=record,
        automatic=True,
        keep=keep,
        max_age=max_age,
        size=held.size,
        files=held.files,
        more=held.more,
    )


def _owner(sandbox: SandboxPaths) -> IdRange:
    """The ids of a layer whose record is lost: its root belongs to the first one."""
    sizes.mount(layers.place(sandbox))
    return IdRange(os.stat(sandbox.upper, follow_symlinks=False).st_uid)


def begin(site: Site, snapshot: Snapshot) -> None:
    """Write what tells of the snapshot; SandlotError when there is no room for that."""
    store.abandon(site, snapshot.sandbox, automatic=True)
    if snapshot.record is None:
        snapshot = replace(snapshot, ids=_owner(site.sandbox(snapshot.sandbox)))
    try:
        store.stage(site, snapshot)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise SandlotError(
            f"its layer can't be set aside as a snapshot: no space is left in {site.state}",
            hint="make room there (sandlot snapshots lists what is kept), or remove the sandbox "
            "for good: name it with state: absent",
        ) from error


def finish(site: Site, source: SandboxPaths) -> None:
    """Move the layer of a sandbox, or of its slot, to the snapshot that was begun, if one was."""
    for snapshot in store.staged(site, source.name):
        staged = site.snapshot(source.name, snapshot.id).staged
        if not store.holds_layer(staged):
            launch, place = _launch(site, source.name), layers.place(source)
            if not sizes.exists(place):
                continue
            sizes.mount(place)
            refuse_mounts(source.upper)
            volumes = exchange.kept(source, staged)
            if not volumes and not contents.has_own(source.upper, launch):
                continue
            if not snapshot.files:
                # Written between the look at the layer and the stop of its sandbox.
                held = contents.look(source.upper, launch)
                size, files = held.size, held.files
                snapshot = replace(snapshot, size=size, files=files, more=held.more)
                store.stage(site, snapshot)
            if volumes:
                store.stage(site, replace(snapshot, volumes=tuple(volumes)))
                exchange.give(source, staged)
            layers.give(source, staged)
        store.finish(site, snapshot)
    store.abandon(site, source.name, automatic=True)


def _launch(site: Site, name: str) -> Mapping[str, Any]:
    return launchfile.decoded(launchfile.current(site, name))
