# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Makes the snapshots that users ask for: copies of a layer and of volumes, as of one moment."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Mapping, Sequence

from .. import sizes
from ..cgroups import freezing
from ..kernel.attributes import Owner
from ..kernel.copying import Copied, copy_directory, same
from ..kernel.trees import remove_tree, sync
from ..sandbox import layers
from ..site import OLD, SandboxPaths, Site, SnapshotPaths
from . import exchange, store
from .model import FAILED, Snapshot

_COPY = "copy"
LAYER = f"{_COPY}/upper"


def create(
    site: Site, snapshot: Snapshot, sources: Mapping[str, str], running: Sequence[str]
) -> Snapshot:
    """Copy trees into a new snapshot; ``sources`` maps places in it (LAYER, volume) to paths.

    Meanwhile, the ``running`` sandboxes are frozen. The caller holds the lock.
    """
    store.abandon(site, snapshot.sandbox)
    staged = store.stage(site, snapshot)
    complete = False
    try:
        made = _copied(site, snapshot, staged, sources, running)
        complete = True
    finally:
        if not complete:
            remove_tree(staged.directory)
            store.abandon(site, snapshot.sandbox)
    store.finish(site, made)
    return made


def keep_backup(site: Site, sandbox: SandboxPaths) -> None:
    """Make a snapshot of the copies of volumes that a failed rebuild leaves, and of the layer.

    Of several failures in a row, the first one's stays: later copies have what the failed version
    wrote, and would push it out (snapshot_keep).
    """
    slot = sandbox.in_slot(OLD)
    known = [entry for entry in store.load_all(site, sandbox.name).good if entry.automatic]
    if not exchange.backed_up(slot) or (known and known[-1].reason == FAILED):
        return
    for snapshot in store.staged(site, sandbox.name):
        staged = site.snapshot(sandbox.name, snapshot.id).staged
        sizes.mount(layers.place(sandbox))
        remove_tree(f"{staged.directory}/{_COPY}")
        os.mkdir(f"{staged.directory}/{_COPY}", 0o700)
        copied(sandbox.upper, f"{staged.directory}/{LAYER}")
        kept = tuple(exchange.kept(slot, staged))
        store.stage(site, replace(snapshot, reason=FAILED, volumes=kept))
        exchange.give(slot, staged)
        sync(staged.directory)
        os.rename(f"{staged.directory}/{_COPY}", staged.layer)
        store.finish(site, snapshot)


def volume(name: str) -> str:
    """The place of a volume in a snapshot."""
    return f"volumes/{name}"


def _copied(
    site: Site,
    snapshot: Snapshot,
    staged: SnapshotPaths,
    sources: Mapping[str, str],
    running: Sequence[str],
) -> Snapshot:
    os.mkdir(f"{staged.directory}/{_COPY}", 0o700)
    for path in sources.values():
        # Dirty pages are written before all stand still, not meanwhile.
        sync(path)
    with freezing.frozen(site, running):
        copies = [copied(path, f"{staged.directory}/{place}") for place, path in sources.items()]
    sync(staged.directory)
    size, files = sum(copy.stored for copy in copies), sum(copy.files for copy in copies)
    made = replace(snapshot, size=size, files=files)
    # The layer comes last, as a snapshot that has it is complete.
    store.stage(site, made)
    os.rename(f"{staged.directory}/{_COPY}", staged.layer)
    return made


def copied(source: str, target: str, owner: Owner = same) -> Copied:
    """Copy a tree to a new directory."""
    os.makedirs(target, mode=0o700)
    return copy_directory(source, target, owner)
