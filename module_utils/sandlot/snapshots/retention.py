# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Chooses the snapshots that have to go: by number, age and space. Pure, but for ``room``."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Sequence, Tuple

from ..kernel import files
from ..site import Site
from .model import Snapshot

# Of blocks and of inodes.
LEAST_FREE = 0.10


@dataclass(frozen=True)
class Limits:
    """The retention of one sandbox's automatic snapshots: options snapshot_keep, snapshot_max_age.

    The run makes ``coming`` more of them.
    """

    keep: int
    max_age: int = 0
    coming: int = 0


@dataclass(frozen=True)
class Room:
    """Bytes and inodes of a file system; 0 inodes where they are made on demand."""

    size: int
    free: int
    inodes: int = 0
    free_inodes: int = 0

    @property
    def is_low(self) -> bool:
        return self.free < self.size * LEAST_FREE or self.free_inodes < self.inodes * LEAST_FREE

    def without(self, snapshot: Snapshot) -> Room:
        """The file system after the removal of a snapshot."""
        free, inodes = self.free + snapshot.size, self.free_inodes + snapshot.files
        return replace(self, free=free, free_inodes=inodes)


@dataclass(frozen=True)
class Due:
    """A snapshot that has to go, and why; with ``for_space``, only while space is low."""

    snapshot: Snapshot
    why: str
    for_space: bool = False
    surplus: bool = False
    """Whether it goes for a newer one, which the run has to make first."""


def room(site: Site) -> Room:
    """The file system of the snapshots; root may use the blocks that are kept for it."""
    status = os.statvfs(files.existing(site.snapshots))
    unit = status.f_frsize
    return Room(status.f_blocks * unit, status.f_bavail * unit, status.f_files, status.f_favail)


def due(
    snapshots: Sequence[Snapshot], limits: Mapping[str, Limits], now: float, space: Room
) -> List[Due]:
    """``limits`` are those of the sandboxes that exist after the run; others keep what they had."""
    going: Dict[str, Due] = {}
    for owner, mine in _by_owner(snapshots).items():
        latest = mine[-1]
        allowed = limits.get(owner, Limits(latest.keep, latest.max_age))
        for entry in mine:
            if allowed.max_age and now - entry.created > allowed.max_age:
                going[entry.name] = Due(entry, "it is too old (snapshot_max_age)")
        left = [entry for entry in mine if entry.name not in going]
        surplus = left[: max(len(left) + allowed.coming - allowed.keep, 0)]
        why = f"snapshot_keep is {allowed.keep}"
        going.update((entry.name, Due(entry, why, surplus=True)) for entry in surplus)
    for gone in going.values():
        space = space.without(gone.snapshot)
    for entry in _for_space(snapshots, limits):
        if not space.is_low:
            break
        if entry.name not in going:
            going[entry.name] = Due(entry, "space is low", for_space=True)
            space = space.without(entry)
    return list(going.values())


def _by_owner(snapshots: Sequence[Snapshot]) -> Dict[str, List[Snapshot]]:
    """The automatic snapshots of each sandbox, oldest first."""
    owners: Dict[str, List[Snapshot]] = {}
    for entry in sorted(snapshots, key=_age):
        if entry.automatic:
            owners.setdefault(entry.sandbox, []).append(entry)
    return owners


def _for_space(snapshots: Sequence[Snapshot], limits: Mapping[str, Limits]) -> List[Snapshot]:
    """Snapshots that may go for space, oldest first: all but the newest of each sandbox."""
    spared = {
        mine[-1].name
        for owner, mine in _by_owner(snapshots).items()
        if not limits.get(owner, Limits(0)).coming
    }
    automatic = (entry for entry in snapshots if entry.automatic)
    return sorted((entry for entry in automatic if entry.name not in spared), key=_age)


def _age(snapshot: Snapshot) -> Tuple[float, str]:
    return snapshot.created, snapshot.name
