# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removes sandboxes by name: everything of a sandbox is found without its record."""

from __future__ import annotations

import contextlib
import os
from functools import partial

from .. import cgroups, images, store
from ..images import Use
from ..kernel.trees import remove_entry, remove_tree
from ..plan import Operation, of_one
from ..sandbox import launchfile, layers, record
from ..sandbox.record import REMOVING
from .context import Context


def announce(context: Context) -> list[Operation]:
    """Record the intent to remove; a sandbox with a broken record is removed by name alone.

    A full disk is no obstacle, as a removal may be what empties it: ``clean`` then begins with the
    record, so no boot starts half a sandbox.
    """

    def save(name: str) -> None:
        known = context.observed.records.good.get(name)
        if known and known.phase != REMOVING:
            try:
                record.save(context.site, known.in_phase(REMOVING))
            except OSError as error:
                if error.errno not in store.NO_ROOM:
                    raise

    removed = context.resolved.removed
    return [Operation(name, "remove", partial(save, name), subject=name) for name in removed]


def clean(context: Context) -> list[Operation]:
    def remove(name: str) -> None:
        known, sandbox = context.observed.records.good.get(name), context.site.sandbox(name)
        if known and (record.load(context.site, name) or known).phase != REMOVING:
            remove_entry(sandbox.record)
        if known and launchfile.is_shifted(known.image):
            for copy in known.image.layers:
                remove_tree(copy)
        remove_tree(sandbox.run)
        layers.discard(sandbox)
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(sandbox.state):
                if entry != os.path.basename(sandbox.record):
                    remove_entry(f"{sandbox.state}/{entry}")
            # Last: its phase tells the next run that a removal was under way.
            remove_entry(sandbox.record)
            os.rmdir(sandbox.state)

    steps: list[Operation] = []
    for name in context.resolved.removed:
        operations = cgroups.remove_operations(context.site, name, context.observed.cgroups)
        steps += of_one(name, operations, silent=True)
        action = partial(remove, name)
        steps.append(Operation(name, "remove files", action, subject=name, silent=True))
    return steps


def remove_networks(context: Context) -> list[Operation]:
    """Remove networks that no sandbox needs any more."""
    return list(context.network_plan.last)


def remove_images(context: Context) -> list[Operation]:
    planned = context.request.image_plan
    if planned is None:
        return []
    resolved = context.resolved
    others = {*resolved.targets, *resolved.removed}
    used = [use for use in images.uses(context.site) if use.sandbox not in others]
    for name, target in resolved.targets.items():
        image, ids = target.record.image, target.record.ids
        used.append(Use(name, image.name, image.digest, ids.start, image.layers))
    return images.removals(context.site, planned, context.observed.before.images, used)
