# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removal works from the name: whatever its record says, all of a sandbox is found by its name."""

from __future__ import annotations

import contextlib
import os
from typing import Sequence

from .. import cgroups, store
from ..kernel.trees import remove_tree
from ..sandbox import launchfile, layers, record
from ..sandbox.record import REMOVING, Record
from ..site import SandboxPaths, Site
from .observe import Observation
from .steps import Failures, Line, Step, single


def announce(site: Site, seen: Observation, names: Sequence[str]) -> list[Step]:
    """The intent, before anything goes; without a usable record the name alone has to do."""
    return [_announce_one(site, seen, name) for name in names]


def _announce_one(site: Site, seen: Observation, name: str) -> Step:
    known = seen.records.good.get(name)

    def save(failures: Failures) -> None:
        if known and known.phase != REMOVING:
            record.save(site, known.in_phase(REMOVING))

    return Step(f"{name}: mark for removal", save, (Line(name, "remove"),), name)


def clean(site: Site, seen: Observation, names: Sequence[str]) -> list[Step]:
    steps = []
    for name in names:
        operations = cgroups.remove_operations(site, name, seen.cgroups)
        steps += [single(operation, subject=name, silent=True) for operation in operations]
        steps.append(_files_step(site, name, seen.records.good.get(name)))
    return steps


def _files_step(site: Site, name: str, known: Record | None) -> Step:
    sandbox = site.sandbox(name)

    def remove(failures: Failures) -> None:
        if known and launchfile.is_shifted(known.image):
            for copy in known.image.layers:
                remove_tree(copy)
        remove_tree(sandbox.run)
        _remove_state(sandbox)

    return Step(f"{name}: remove files", remove, (), name)


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
