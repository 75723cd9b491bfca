# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Looks for the owners and the targets of files and secrets in a sandbox's root, while planning."""

from __future__ import annotations

import os
import posixpath
from dataclasses import replace
from typing import List, Mapping, Tuple

from ..errors import SpecError
from ..sandbox import mounts
from ..sandbox.owners import Users, needs_lookup
from ..sandbox.record import Record
from ..sandbox.root_view import KERNELS, RootView, Unknown
from ..site import Site
from ..spec.configuration import placed
from ..spec.values import Placed
from .decide import Desired, Observed, rebuild_reason

Owner = Tuple[int, int]
# Over these are file systems in memory, unless a mount is.
_MEMORY = ("/tmp", "/run", "/var/tmp")


def with_owners(
    site: Site, desired: Desired, record: Record, seen: Observed, *, may_be_made: bool
) -> Record:
    """The record with the ids of all owners; SpecError for what can't be there.

    A start from the record alone looks nothing up.
    """
    old, listed = seen.record, list(placed(record.spec))
    if not listed:
        return record
    if old and desired.keep_image:
        return replace(record, owners=old.owners)
    kept = old is not None and not rebuild_reason(desired, record, seen)
    layer = _layer(site, desired, record, kept=kept)
    trees = [] if may_be_made and not is_made(record) else _trees(record, layer)
    _check_volumes(record)
    for option, entry in listed:
        if old is None or not kept or entry.target not in old.owners:
            _check_place(option, entry, record, trees, old.owners if old and kept else {})
    needed = any(needs_lookup(entry) for dummy, entry in listed)
    users = _users(record, trees) if needed else None
    owners = {
        entry.target: _owner(option, entry, users, _known(entry, old), foreseen=not trees)
        for option, entry in listed
    }
    return replace(record, owners=owners)


def is_made(record: Record) -> bool:
    """Whether the image is there; a check may plan with one that an earlier task makes."""
    return bool(record.image.digest) and all(map(os.path.isdir, record.image.layers))


def warnings(record: Record) -> List[str]:
    """Warnings of a check about owners that nobody can look up yet."""
    listed = [entry for dummy, entry in placed(record.spec) if needs_lookup(entry)]
    if not listed or is_made(record):
        return []
    return [
        f"{record.name}: the image is not made yet, so nobody can tell yet whether it has "
        f"{entry.owner}{':' if entry.group else ''}{entry.group}, who is to own {entry.target}"
        for entry in listed
        if entry.group or not entry.owner.isdigit()
    ]


def _layer(site: Site, desired: Desired, record: Record, *, kept: bool) -> str:
    """The layer that the sandbox has or gets, "" for an empty one."""
    if desired.content:
        snapshot = desired.content.snapshot
        return site.snapshot(snapshot.sandbox, snapshot.id).upper
    return site.sandbox(record.name).upper if kept else ""


def _trees(record: Record, layer: str) -> List[str]:
    # A layer in memory, or in a file that is not mounted, is not there.
    own = [layer] if layer and os.path.isdir(layer) else []
    return [*own, *record.image.layers, *(["/"] if record.image.host else [])]


def _users(record: Record, trees: List[str]) -> Users | None:
    """The users of a root, None when they can't be told."""
    try:
        return Users.of(trees, record.ids)
    except Unknown:
        return None


def _known(entry: Placed, old: Record | None) -> Owner | None:
    """The ids that the same owner had before."""
    if old is None or entry.target not in old.owners:
        return None
    before = {each.target: (each.owner, each.group) for dummy, each in placed(old.spec)}
    same = before.get(entry.target) == (entry.owner, entry.group)
    return old.owners[entry.target] if same else None


def _owner(
    option: str, entry: Placed, users: Users | None, known: Owner | None, *, foreseen: bool
) -> Owner:
    """The ids of an owner; a tenant who edits its own files must not hold up runs."""
    try:
        return (users or Users()).owner(option, entry)
    except SpecError as error:
        if known or (users is None and foreseen):
            return known or (0, 0)
        if users is None:
            problem = f"(of {entry.target}) can't be looked up from the host"
            raise SpecError(option, error.value, problem, hint="give it as an id") from error
        raise


def _check_volumes(record: Record) -> None:
    for volume in mounts.of_image(record):
        for option, entry in placed(record.spec):
            if entry.target == volume.target or entry.target.startswith(f"{volume.target}/"):
                problem = f"lies in {volume.target}, which is a volume of the image"
                hint = "put it elsewhere, or mount something of your own there: volumes, tmpfs"
                raise SpecError(option, entry.target, problem, hint=hint)


def _mounted(record: Record) -> List[str]:
    spec = record.spec
    memory = [entry.path for entry in spec.tmpfs]
    return [*memory, *(mount.target for mount in (*spec.volumes, *spec.mounts))]


def _check_place(
    option: str, entry: Placed, record: Record, trees: List[str], before: Mapping[str, object]
) -> None:
    """Refuse a target that is a directory, or below a file; mounts hide what would be below.

    A file of the record ``before`` is gone by then, as its place goes with it.
    """
    covered = (*KERNELS, *_MEMORY, *_mounted(record))
    view, path = RootView(trees, record.ids, covered), entry.target
    try:
        present = view.entry(path)
        if present and present.is_directory:
            hint = "name a file in it"
            raise SpecError(option, path, "is a directory in the sandbox", hint=hint)
        while present is None and path != "/":
            path = posixpath.dirname(path)
            present = view.entry(path)
    except Unknown:
        return  # the start tells
    if path != entry.target and path not in before and present and not present.is_directory:
        problem = f"is below {path}, which is a file in the sandbox"
        raise SpecError(option, entry.target, problem, hint="put it elsewhere")
