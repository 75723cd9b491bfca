# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Volumes on disk: each appears whole, and goes at once.

volumes/NAME/volume.json    its record
volumes/NAME/data           its files, with the ids that sandboxes see
volumes/.new-NAME           a volume that is being made
volumes/.gone-NAME          a volume that is being removed
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field
from typing import Dict, List

from .. import sizes, store
from ..errors import StateError
from ..kernel import files
from ..kernel.trees import remove_tree
from ..site import Site
from ..sizes import Place
from .model import Volume

_NEW, _GONE = ".new-", ".gone-"


@dataclass(frozen=True)
class Volumes:
    """All volumes of a host; a damaged record is kept as its error and affects no other volume."""

    good: Dict[str, Volume] = field(default_factory=dict)
    broken: Dict[str, StateError] = field(default_factory=dict)


def load(site: Site, name: str) -> Volume | None:
    """The record of one volume, None when there is none; StateError when it is unusable."""
    path = site.volume(name).record
    hint = f"restore it from a backup, or move {site.volume(name).state} elsewhere"
    data = store.read(path, hint=hint)
    if data is None:
        return None
    try:
        volume = Volume.from_json(data)
    except StateError as error:
        raise StateError(f"{path}: {error.message}", hint=hint) from error
    if volume.name != name:
        raise StateError(f"{path} describes {volume.name!r}", hint=hint)
    return volume


def names(site: Site) -> List[str]:
    """The volumes of a host, whatever their records say."""
    return [name for name in files.directories(site.volumes) if not name.startswith(".")]


def load_all(site: Site) -> Volumes:
    volumes = Volumes()
    for name in names(site):
        try:
            volume = load(site, name)
        except StateError as error:
            volumes.broken[name] = error
            continue
        if volume is not None:
            volumes.good[name] = volume
    return volumes


def save(site: Site, volume: Volume) -> None:
    store.write(site.volume(volume.name).record, volume.to_json())


def make(site: Site, volume: Volume) -> None:
    """Make an empty volume; nothing is there until all of it is."""
    fresh = f"{site.volumes}/{_NEW}{volume.name}"
    os.makedirs(site.volumes, mode=0o700, exist_ok=True)
    store.write(site.volumes_mark, {"schema": store.NEWEST})
    remove_tree(fresh)
    os.mkdir(fresh, 0o700)
    data = f"{fresh}/{os.path.basename(site.volume(volume.name).data)}"
    os.mkdir(data)
    os.chmod(data, 0o755)
    store.write(f"{fresh}/{os.path.basename(site.volume(volume.name).record)}", volume.to_json())
    os.rename(fresh, site.volume(volume.name).state)
    store.sync_directory(site.volumes)


def remove(site: Site, name: str) -> None:
    """Rename the volume, then remove it, so that a kill leaves no half of it in use."""
    gone = f"{site.volumes}/{_GONE}{name}"
    for each in (place(site, name), place(site, name).replacement):
        sizes.unmount(each)
    remove_tree(gone)
    os.rename(site.volume(name).state, gone)
    store.sync_directory(site.volumes)
    remove_tree(gone)
    sizes.sweep(site)
    remove_empty(site)


def place(site: Site, name: str) -> Place:
    return sizes.of_volume(site, name)


def remove_empty(site: Site) -> None:
    """Remove the directory of volumes unless it holds one, or is mounted on itself."""
    try:
        os.rmdir(site.volumes)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EBUSY, errno.ENOENT):
            raise
        if error.errno != errno.ENOENT:
            return
    store.remove(site.volumes_mark)


def leftovers(site: Site) -> List[str]:
    """Directories that a killed run left half made or half removed."""
    every = files.directories(site.volumes)
    return [f"{site.volumes}/{name}" for name in every if name.startswith((_NEW, _GONE))]


def now() -> float:
    return float(int(time.time()))
