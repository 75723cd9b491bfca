# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The volumes of a run: those that users declare, and those that sandboxes name."""

from __future__ import annotations

from dataclasses import replace
from typing import Collection, Dict, List, Mapping

from .. import volumes
from ..sandbox import mounts
from ..sandbox.record import Record
from ..site import Site
from ..snapshots.arrival import IMPORTED
from ..volumes import Volume, Volumes
from .observe import Observation
from .resolve import Request, Resolved


def plan(
    site: Site,
    request: Request,
    observed: Observation,
    resolved: Resolved,
    busy: Collection[str],
) -> volumes.Plan:
    """SpecError for a volume that can't be made, changed or removed; a repair touches none.

    ``busy`` sandboxes run all the time.
    """
    if request.repair:
        return volumes.Plan(observed.volumes.good)
    leaving = {*resolved.removed, *resolved.targets}
    desired = volumes.Desired(
        listed=request.volumes,
        needed=_needed(resolved, observed.volumes),
        users=users(resolved),
        unreadable=frozenset(set(observed.records.broken) - leaving),
        purge=request.purge_volumes,
        busy=frozenset(busy),
    )
    return volumes.plan(site, desired, observed.volumes)


def users(resolved: Resolved) -> Dict[str, List[str]]:
    """The sandboxes that use each volume after the run."""
    by_volume: Dict[str, List[str]] = {}
    for name, entry in sorted(_everyone(resolved).items()):
        for volume in mounts.volume_names(entry):
            by_volume.setdefault(volume, []).append(name)
    return by_volume


def _everyone(resolved: Resolved) -> Mapping[str, Record]:
    targets = {name: target.record for name, target in resolved.targets.items()}
    return {**resolved.bystanders, **targets}


def _needed(resolved: Resolved, known: Volumes) -> Dict[str, Volume]:
    """The volumes that sandboxes of the run use, as they are made when they do not exist."""
    needed: Dict[str, Volume] = {}
    sizes = _sizes(resolved, known)
    for name, target in resolved.targets.items():
        images = {volume: place for place, volume in target.record.volumes.items()}
        for volume in mounts.volumes(target.record).values():
            fresh = Volume(volume, volumes.now())
            if volume in images:
                fresh = Volume(volume, volumes.now(), sandbox=name, target=images[volume])
            needed.setdefault(volume, replace(fresh, size=sizes.get(volume)))
    return needed


def _sizes(resolved: Resolved, known: Volumes) -> Dict[str, int | None]:
    """The sizes of volumes that are copies: a clone has the limits of the original on this host."""
    contents = [target.desired.content for target in resolved.targets.values()]
    return {
        new: known.good[old].size
        for content in contents
        if content and content.clone and content.snapshot.reason != IMPORTED
        for old, new in content.volumes.items()
        if old in known.good
    }
