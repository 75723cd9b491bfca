# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Exports snapshots to files and pipes, and imports them."""

from __future__ import annotations

import os
from typing import List

from .. import lock
from ..errors import SandlotError, SpecError
from ..plan import Operation, descriptions
from ..site import Site
from ..snapshots import archive, arrival, store
from ..snapshots.model import Snapshot
from .kept_model import Kept, SnapshotRequest

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def exported(site: Site, asked: SnapshotRequest) -> Kept:
    """Write a snapshot to a file, unless there is one."""
    path = _path(asked)
    snapshot = store.load(site, asked.sandbox, asked.name)
    before = store.identifiers(site, asked.sandbox)
    if os.path.lexists(path) and not asked.force:
        return Kept([], snapshot.facts(), before, before)
    if not asked.check:
        _write(site, snapshot, path)
    actions = descriptions([Operation(asked.sandbox, f"export snapshot {asked.name} to {path}")])
    return Kept(actions, snapshot.facts(), before, before)


def _path(asked: SnapshotRequest) -> str:
    if not os.path.isabs(asked.path):
        hint = f"give the archive's path to {asked.state}, from / on"
        raise SpecError("path", asked.path, "is no absolute path", hint=hint)
    return asked.path


def _write(site: Site, snapshot: Snapshot, path: str) -> None:
    """Write a file that appears whole, for root only."""
    part = f"{path}.part"
    if os.path.lexists(part):
        os.unlink(part)
    try:
        fd = os.open(part, _NEW, 0o600)
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "make its directory first, or choose another path"
        raise SpecError("path", path, f"can't be written: {error.strerror}", hint=hint) from error
    complete = False
    try:
        archive.export(site, snapshot, fd)
        os.fsync(fd)
        complete = True
    finally:
        os.close(fd)
        if not complete:
            os.unlink(part)
    os.rename(part, path)


def imported(site: Site, asked: SnapshotRequest) -> Kept:
    """Make a snapshot of an archive; nothing when the snapshot is there."""
    path = _path(asked)
    before = store.identifiers(site, asked.sandbox) if asked.sandbox else []
    if asked.name and asked.name in before:
        return Kept([], store.load(site, asked.sandbox, asked.name).facts(), before, before)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "copy the archive there first: it is a path of the host"
        raise SpecError("path", path, f"can't be read: {error.strerror}", hint=hint) from error
    try:
        if not asked.check:
            return received(site, asked, fd)
    finally:
        os.close(fd)
    # A check reads nothing of an archive that may be hostile, so it has the names that are given.
    subject = asked.sandbox or "snapshots"
    which = f"snapshot {asked.name}" if asked.name else f"a snapshot from {path}"
    actions = descriptions([Operation(subject, f"import {which}")])
    return Kept(actions, None, before, [*before, *([asked.name] if asked.name else [])])


def received(site: Site, asked: SnapshotRequest, fd: int) -> Kept:
    """Make a snapshot of the archive that a descriptor gives."""
    with arrival.arriving(site, fd) as directory:
        snapshot = arrival.described(directory, asked.sandbox, asked.name)
        left_out = arrival.to_bring(directory)
        with lock.exclusive(site):
            before = store.identifiers(site, snapshot.sandbox)
            if snapshot.id in before:
                return _known(site, snapshot, before)
            arrival.keep(site, directory, snapshot)
    actions = descriptions([Operation(snapshot.sandbox, f"import snapshot {snapshot.id}")])
    more = {"warnings": [_left_out(snapshot, left_out)]} if left_out else {}
    return Kept(actions, snapshot.facts(), before, [*before, snapshot.id], more)


def _left_out(snapshot: Snapshot, contents: List[str]) -> str:
    return (
        f"snapshot {snapshot.name} has no contents of {'; '.join(contents)}: give them to the"
        " sandbox when you deploy it, or in options when you clone the snapshot"
    )


def _known(site: Site, snapshot: Snapshot, before: List[str]) -> Kept:
    known = store.load(site, snapshot.sandbox, snapshot.id)
    if known.created != snapshot.created:
        raise SandlotError(
            f"{snapshot.sandbox} has another snapshot {snapshot.id!r}",
            hint="give the one in the archive another name",
        )
    return Kept([], known.facts(), before, before)
