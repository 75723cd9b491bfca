# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The phases of a run that are about volumes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Dict, Iterator, List, Mapping, Tuple

from .. import sizes, volumes
from ..build import populating
from ..kernel import trees
from ..plan import Operation
from ..sandbox import launchfile, mounts, record
from ..sandbox.record import PRESENT, Record
from ..site import OLD, Site
from ..spec.mounts import VOLUME
from ..volumes import Volume, closing
from .context import Context

Json = Dict[str, Any]


def make(context: Context) -> List[Operation]:
    """Make and change volumes, and close their directory for the host while it is in use."""
    in_use = any(mounts.volumes(d.record) for d in context.decisions.values())
    steps: List[Operation] = []
    if in_use and not closing.is_closed(context.site):
        close = partial(closing.close, context.site)
        steps.append(Operation("volumes", "mount with nosuid and nodev", close))
    return [*steps, *context.volume_plan.steps]


def remove(context: Context) -> List[Operation]:
    return list(context.volume_plan.last)


def reopen(context: Context) -> List[Operation]:
    """Take the mount away when no sandbox uses a volume any more."""
    broken = set(context.observed.records.broken) - set(context.resolved.removed)
    if context.volume_users or broken or not closing.is_mounted(context.site):
        return []
    reopen = partial(closing.reopen, context.site)
    return [Operation("volumes", "unmount", reopen, silent=True)]


# -- first content


def populate(context: Context) -> List[Operation]:
    """Give volumes their first content, before the sandboxes that mount them start."""
    steps = [
        Operation(f"volume {name}", "take over a copy", partial(_settle, context.site, name))
        for name, volume in context.volume_plan.after.items()
        if volume.trial and _is_committed(volume, context.observed.records.good)
    ]
    steps = [replace(step, silent=True) for step in steps]
    for name, entry in _due(context):
        fill = partial(_fill, context, name, entry)
        steps.append(Operation(name, "fill volumes", fill, subject=name, silent=True))
    return steps


def settle(context: Context) -> List[Operation]:
    """Let copies of old layers count, now that the rebuilds are committed."""
    return [
        Operation(
            name,
            "keep what was copied",
            partial(_settle_of, context, name),
            silent=True,
            subject=name,
        )
        for name, entry in context.rebuilds.items()
        if set(entry.new.volumes) - set(entry.old.volumes)
    ]


def _due(context: Context) -> Iterator[Tuple[str, Json]]:
    """Yield (sandbox, mount) for each volume that may need a first content."""
    for name, decision in context.decisions.items():
        runs = decision.start or context.observed.sandboxes[name].running
        for entry in context.resolved.targets[name].launch.get(mounts.KEY, ()):
            if entry["type"] != VOLUME or not (runs or _is_moved(context, name, entry)):
                continue
            volume = context.volume_plan.after.get(entry["source"])
            known = context.observed.records.good
            if volume and not volume.populated and not _is_committed(volume, known):
                yield name, entry


def _is_moved(context: Context, name: str, entry: Mapping[str, Any]) -> bool:
    """Whether the old layer of a rebuild holds the files of a volume for the image's VOLUME."""
    rebuild = context.rebuilds.get(name)
    if rebuild is None:
        return False
    new = mounts.of_image(rebuild.new)
    fresh = {mount.target for mount in new} - set(rebuild.old.volumes)
    return entry["target"] in fresh


def _fill(context: Context, name: str, entry: Mapping[str, Any]) -> None:
    """Copy into a volume what the root has at the target; half a copy is made again."""
    site, volume = context.site, volumes.load(context.site, entry["source"])
    if volume is None or volume.populated:
        return
    sandbox, data = site.sandbox(name), sizes.opened(volumes.place(site, volume.name))
    half = volume.copying or bool(volume.trial)
    asked = not (entry.get("no_copy") or entry.get("subpath"))
    moved = _is_moved(context, name, entry)
    if half or (asked and not volumes.holds_data(site, volume.name)):
        volume = replace(volume, copying=True, trial="")
        volumes.save(site, volume)
        trees.empty(data)
        roots = [context.resolved.targets[name].launch]
        if moved:
            roots.insert(0, _old_root(site, context.rebuilds[name].old))
        if any(populating.copy(sandbox, root, entry["target"], data) for root in roots):
            trees.sync(data)
    trial = name if moved else ""
    volumes.save(site, replace(volume, copying=False, populated=not trial, trial=trial))


def _old_root(site: Site, old: Record) -> Json:
    """The root of the old version of a rebuild, whose layer is in its slot."""
    return {**launchfile.root(site, old), "upper": site.sandbox(old.name).in_slot(OLD).upper}


def _is_committed(volume: Volume, records: Mapping[str, Record]) -> bool:
    """Whether the rebuild that copied an old layer into the volume was committed."""
    owner = records.get(volume.trial)
    return owner is not None and owner.phase == PRESENT and volume.name in owner.volumes.values()


def _settle_of(context: Context, name: str) -> None:
    entry = record.load(context.site, name)
    for volume in entry.volumes.values() if entry and entry.phase == PRESENT else ():
        _settle(context.site, volume)


def _settle(site: Site, name: str) -> None:
    volume = volumes.load(site, name)
    if volume and volume.trial:
        volumes.save(site, replace(volume, populated=True, trial=""))
