# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removal works from the name: whatever its record says, all of a sandbox is found by its name."""

from __future__ import annotations

import contextlib
import os

from .. import cgroups, images, network, store
from ..images import Use
from ..kernel.trees import remove_tree
from ..plan import Operation, of_one
from ..sandbox import launchfile, layers, record
from ..sandbox.record import REMOVING, Record
from ..site import SandboxPaths, Site
from .context import Context


def announce(context: Context) -> list[Operation]:
    """The intent, before anything goes; without a usable record the name alone has to do."""
    return [_announce_one(context, name) for name in context.resolved.removed]


def _announce_one(context: Context, name: str) -> Operation:
    known = context.observed.records.good.get(name)

    def save() -> None:
        if known and known.phase != REMOVING:
            record.save(context.site, known.in_phase(REMOVING))

    return Operation(name, "remove", save, subject=name)


def clean(context: Context) -> list[Operation]:
    steps: list[Operation] = []
    for name in context.resolved.removed:
        operations = cgroups.remove_operations(context.site, name, context.observed.cgroups)
        steps += of_one(name, operations, silent=True)
        steps.append(_remove_files(context.site, name, context.observed.records.good.get(name)))
    return steps


def _remove_files(site: Site, name: str, known: Record | None) -> Operation:
    sandbox = site.sandbox(name)

    def remove() -> None:
        if known and launchfile.is_shifted(known.image):
            for copy in known.image.layers:
                remove_tree(copy)
        remove_tree(sandbox.run)
        _remove_state(sandbox)

    return Operation(name, "remove files", remove, subject=name, silent=True)


def _remove_state(sandbox: SandboxPaths) -> None:
    """The record goes last: until then a killed removal is known to be one."""
    layers.discard(sandbox)
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(sandbox.state):
            if entry != os.path.basename(sandbox.record):
                _remove_entry(f"{sandbox.state}/{entry}")
        _remove_entry(sandbox.record)
        os.rmdir(sandbox.state)


def _remove_entry(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
    else:
        store.unlink(path)


def remove_networks(context: Context) -> list[Operation]:
    """Once no sandbox needs them."""
    if context.request.networks is None:
        return []
    resolved, observed = context.resolved, context.observed
    return network.shrink_operations(
        context.site,
        observed.networks,
        resolved.desired_network(context.remaining),
        observed.network,
        [*resolved.targets, *resolved.removed],
    )


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
