# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removes sandboxes by name: everything of a sandbox is found without its record."""

from __future__ import annotations

import contextlib
import os
from functools import cache, partial
from typing import Dict, Sequence

from .. import cgroups, configuration, images, sizes
from ..images import Use
from ..kernel import files, mount_points
from ..kernel.trees import remove_entry, remove_tree
from ..plan import Failures, Operation, batch, of_one
from ..sandbox import launchfile, layers, record
from ..sandbox.record import REMOVING, Record
from ..snapshots.model import Snapshot
from . import drops
from .context import Context
from .rebuild import act_on_each


def begin_snapshots(context: Context) -> list[Operation]:
    """Begin the snapshots of purged sandboxes, while they can be left alone."""
    known, removed = context.observed.records.good, context.resolved.removed
    return drops.begin_purges(context.site, context.drops, removed, known)


def announce(context: Context) -> list[Operation]:
    """Record the intent to remove; a sandbox with a broken record is removed by name alone.

    A full disk is no obstacle, as a removal may be what empties it: ``clean`` then takes the record
    away while it removes the layer, so no boot starts half a sandbox.
    """

    def save(name: str) -> None:
        known = context.observed.records.good.get(name)
        if known and known.phase != REMOVING:
            record.save(context.site, known.in_phase(REMOVING), needed=False)

    return [
        operation
        for name in context.resolved.removed
        for operation in (
            *drops.lines(context.drops.get(name)),
            Operation(name, "remove", partial(save, name), subject=name),
        )
    ]


def clean(context: Context) -> list[Operation]:
    """Remove cgroups and files, all but the record."""
    users = cache(lambda: images.uses(context.site))

    def remove(name: str) -> None:
        known, sandbox = context.observed.records.good.get(name), context.site.sandbox(name)
        announced = known and (record.load(context.site, name) or known).phase == REMOVING
        if known and not announced:
            remove_entry(sandbox.record)
        drops.give_up(context.site, context.drops.get(name), sandbox)
        if known and launchfile.is_shifted(known.image) and not _is_shared(context, known, users()):
            for copy in known.image.layers:
                remove_tree(copy)
        configuration.remove(context.site, name)
        remove_tree(sandbox.run)
        layers.remove_slots(sandbox)
        for entry in files.names(sandbox.state):
            if entry != os.path.basename(sandbox.record):
                remove_entry(f"{sandbox.state}/{entry}")
        if known and not announced:
            record.save(context.site, known.in_phase(REMOVING), needed=False)

    def sweep(_name: str) -> None:
        sizes.sweep(context.site)

    def remove_all(names: Sequence[str], failures: Failures) -> None:
        with mount_points.kept():
            act_on_each("remove files", names, failures, remove)
        # Once for all; a failure leaves a record, so the next run does it again.
        removed = [name for name in names if name not in failures]
        act_on_each("give numbers back", removed[-1:], failures, sweep)

    steps: list[Operation] = []
    for name in context.resolved.removed:
        operations = cgroups.remove_operations(context.site, name, context.observed.cgroups)
        steps += of_one(name, operations, silent=True)
    return [*steps, *batch("remove files", context.resolved.removed, remove_all)]


def _is_shared(context: Context, known: Record, users: Sequence[Use]) -> bool:
    """Whether a snapshot needs the copy of the image, too; its own one may be new."""
    others = [use for use in users if use.sandbox.partition("/")[0] != known.name]
    own = images.snapshot_uses(context.site, known.name)
    return any(
        (use.digest, use.start) == (known.image.digest, known.ids.start) for use in (*others, *own)
    )


def forget(context: Context) -> list[Operation]:
    """Remove the record last: its phase tells the next run that a removal was under way."""

    def remove(name: str) -> None:
        sandbox = context.site.sandbox(name)
        remove_entry(sandbox.spare)
        remove_entry(sandbox.record)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(sandbox.state)

    return [
        Operation(name, "forget", partial(remove, name), subject=name, silent=True)
        for name in context.resolved.removed
    ]


def remove_networks(context: Context) -> list[Operation]:
    """Remove networks that no sandbox needs any more."""
    return list(context.network_plan.last)


def remove_snapshots(context: Context) -> list[Operation]:
    """Remove the snapshots of sandboxes that are gone, when the request asks for that."""
    return drops.purge_operations(context.site, _purged(context))


def _purged(context: Context) -> Dict[str, Snapshot | None]:
    return drops.purged(context.site, context.request, context.resolved, context.observed)


def remove_images(context: Context) -> list[Operation]:
    planned = context.request.image_plan
    if planned is None:
        return []
    before, used = context.observed.before.images, partial(_images_in_use, context)
    return images.removals(context.site, planned, before, used)


def _images_in_use(context: Context) -> list[Use]:
    """The images that sandboxes and snapshots use after the run."""
    resolved = context.resolved
    others = {*resolved.targets, *resolved.removed, *_purged(context)}
    others.update(entry.snapshot.name for entry in context.due)
    used = [use for use in images.uses(context.site) if use.sandbox not in others]
    for name, target in resolved.targets.items():
        image, ids = target.record.image, target.record.ids
        used.append(Use(name, image.name, image.digest, ids.start, image.layers))
    kept = [drop.snapshot for drop in context.drops.values() if drop.is_kept]
    for snapshot in kept:
        if snapshot and snapshot.record:
            image = snapshot.record.image
            used.append(Use(snapshot.name, "", image.digest, snapshot.ids.start, image.layers))
    return used
