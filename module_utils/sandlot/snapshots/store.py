# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Snapshots on disk: complete or not at all, and a broken one affects no other.

A snapshot is put together under a name that begins with ".new-", with snapshot.json on disk before
a layer is renamed to it: what is without either is left over, what has both only needs its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, field
from typing import Collection, Dict, List

from .. import store
from ..errors import SandlotError, StateError
from ..kernel import files
from ..kernel.trees import remove_tree
from ..site import Site, SnapshotPaths
from . import model
from .model import Snapshot

_NEW, _OLD = ".new-", ".old-"


@dataclass(frozen=True)
class Snapshots:
    """Snapshots of a host, oldest first; a broken one is its error, by the name SANDBOX/ID."""

    good: List[Snapshot] = field(default_factory=list)
    broken: Dict[str, StateError] = field(default_factory=dict)


def load(site: Site, sandbox: str, identifier: str) -> Snapshot:
    """One snapshot; StateError when it is unusable, SandlotError when there is none."""
    path = site.snapshot(sandbox, identifier).file
    data = store.read(path) if model.is_id(identifier) else None
    if data is None:
        known = ", ".join(identifiers(site, sandbox)) or "there is none"
        problem = f"{sandbox} has no snapshot {identifier!r}"
        raise SandlotError(problem, hint=f"its snapshots: {known}")
    return model.from_json(data, sandbox, identifier, path)


def load_all(site: Site, sandbox: str = "") -> Snapshots:
    """The snapshots of all sandboxes, or of one."""
    loaded = Snapshots()
    for owner in [sandbox] if sandbox else owners(site):
        for identifier in identifiers(site, owner):
            try:
                loaded.good.append(load(site, owner, identifier))
            except StateError as error:
                loaded.broken[f"{owner}/{identifier}"] = error
            except SandlotError as error:
                loaded.broken[f"{owner}/{identifier}"] = StateError(error.message, hint=error.hint)
    loaded.good.sort(key=lambda entry: (entry.created, entry.name))
    return loaded


def owners(site: Site) -> List[str]:
    """Names of sandboxes that have snapshots; such a sandbox need not exist any more."""
    return [name for name in files.directories(site.snapshots) if model.is_id(name)]


def identifiers(site: Site, sandbox: str) -> List[str]:
    entries = files.directories(f"{site.snapshots}/{sandbox}")
    return [entry for entry in entries if model.is_id(entry)]


def new_id(site: Site, sandbox: str, created: float) -> str:
    """A free identifier for an automatic snapshot."""
    entries = files.directories(f"{site.snapshots}/{sandbox}")
    taken = {entry[len(_NEW) :] if entry.startswith(_NEW) else entry for entry in entries}
    return model.id_at(created, taken)


def stage(site: Site, snapshot: Snapshot) -> SnapshotPaths:
    """Make the directory of a snapshot that is not complete, with its snapshot.json on disk."""
    staged = site.snapshot(snapshot.sandbox, snapshot.id).staged
    for directory in (site.snapshots, staged.all, staged.directory):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
    store.write(staged.file, snapshot.to_json())
    return staged


def finish(site: Site, snapshot: Snapshot) -> None:
    """Give a snapshot that has its layer its name."""
    paths = site.snapshot(snapshot.sandbox, snapshot.id)
    remove_tree(paths.staged.work)
    os.rename(paths.staged.directory, paths.directory)
    store.sync_directory(paths.all)


def staged(site: Site, sandbox: str) -> List[Snapshot]:
    """Snapshots of a sandbox that a run began to set aside and did not finish."""
    begun = []
    for entry in files.directories(f"{site.snapshots}/{sandbox}"):
        identifier = entry[len(_NEW) :]
        if entry.startswith(_NEW) and model.is_id(identifier):
            path = site.snapshot(sandbox, identifier).staged.file
            data = store.read(path)
            if data is not None:
                begun.append(model.from_json(data, sandbox, identifier, path))
    return begun


def abandon(site: Site, sandbox: str, *, automatic: bool = False) -> None:
    """Remove what was begun and has no layer, and what was being removed.

    Only with ``automatic`` also what a run began: its layer may be about to follow.
    """
    everything = f"{site.snapshots}/{sandbox}"
    going = [entry for entry in files.directories(everything) if entry.startswith((_NEW, _OLD))]
    kept = set() if automatic else {_NEW + e.id for e in staged(site, sandbox) if e.automatic}
    for entry in going:
        paths = SnapshotPaths(everything, entry)
        if entry.startswith(_OLD) or not (entry in kept or holds_layer(paths)):
            remove_tree(paths.directory)
    _forget_empty(site, sandbox)


def holds_layer(paths: SnapshotPaths) -> bool:
    return os.path.lexists(paths.layer) or os.path.lexists(paths.image)


def leftovers(site: Site) -> List[str]:
    """The paths of parts of snapshots, and of directories without any, that killed runs left."""
    left = []
    for path in [f"{site.snapshots}/{owner}" for owner in owners(site)]:
        entries = files.directories(path)
        left += [f"{path}/{entry}" for entry in entries if entry.startswith((_NEW, _OLD))]
        left += [] if entries else [path]
    return left


def sweep(site: Site, waiting: Collection[str]) -> None:
    """End what killed runs left: a layer that was moved gets its name, a removal goes on.

    Sandboxes that are ``waiting`` for a run to go on still need what was begun for them.
    """
    for owner in owners(site):
        for snapshot in staged(site, owner):
            if holds_layer(site.snapshot(owner, snapshot.id).staged):
                finish(site, snapshot)
        abandon(site, owner, automatic=owner not in waiting)


def remove(site: Site, sandbox: str, identifier: str) -> None:
    """Remove a snapshot; it loses its name first, so that half of one is never in use."""
    paths = site.snapshot(sandbox, identifier)
    remove_tree(paths.leaving.directory)
    try:
        os.rename(paths.directory, paths.leaving.directory)
    except FileNotFoundError:
        return
    remove_tree(paths.leaving.directory)
    _forget_empty(site, sandbox)


def _forget_empty(site: Site, sandbox: str) -> None:
    for directory in (f"{site.snapshots}/{sandbox}", site.snapshots):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return
