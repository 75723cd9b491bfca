# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Edits /etc/subuid and /etc/subgid: adds and removes our lines, keeps every other byte."""

from __future__ import annotations

import bisect
import errno
import functools
import itertools
import os
import stat
from typing import Iterable, Mapping, Sequence

from .. import store
from ..errors import ForeignError, HostError
from ..plan import Operation
from ..site import Site
from . import created, lockfile
from .files import IdFile, IdFiles, IdRange, Line, conflict, line_of, owner, parse, read

_SHOWN = 8
_ATTRIBUTES = {"security.selinux", "system.posix_acl_access"}


def operations(
    site: Site,
    files: IdFiles,
    present: Mapping[str, IdRange],
    absent: Iterable[str] = (),
) -> list[Operation]:
    """At most one operation for each file, subuid first; the next run completes half a pair."""
    for name in present:
        owner(name)
    ordered = sorted(present.items(), key=lambda item: item[1].start)
    for (name, ids), (other, following) in zip(ordered, ordered[1:]):
        if ids.overlaps(following):
            raise ForeignError(
                f"the sandboxes {name!r} and {other!r} have overlapping ids at {following.start}",
                hint="remove the one whose record is wrong",
            )
    gone = [name for name in absent if name not in present]
    planned = []
    for file in files.both:
        owned = file.owned()
        add = {name: ids for name, ids in present.items() if _due(owned.get(name, ()), name, ids)}
        drop = [name for name in gone if name in owned]
        summary = _summary(file, list(add), drop)
        if summary:
            apply = functools.partial(_apply, site, file.path, add, drop)
            planned.append(Operation(file.path, summary, apply))
    return planned


def _due(lines: Sequence[Line], name: str, ids: IdRange) -> bool:
    """Whether a file with these lines of the sandbox lacks its line, or has it twice."""
    for line in lines:
        if line.ids != ids:
            raise ForeignError(
                f"{line} is not the range {ids.start}:{ids.size} that sandbox {name!r} has",
                hint="restore that line; the sandbox's files belong to its range",
            )
    return len(lines) != 1


def _summary(file: IdFile, add: list[str], drop: list[str]) -> str:
    # Our file is empty, or we noted a file and were killed before we made it.
    unused = file.created and not file.content and not add
    parts = [
        f"add {_listed(add)}" if add else "",
        f"remove {_listed(drop)}" if drop else "",
        "clean up after an interrupted run" if file.leftovers or unused else "",
    ]
    return ", ".join(part for part in parts if part)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return " ".join(names[:_SHOWN]) + more


def _apply(site: Site, path: str, add: Mapping[str, IdRange], drop: Iterable[str]) -> None:
    """Edit the present content, as useradd may have changed the file since the observation."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with lockfile.locked(path):
            _edit(site, path, add, {*add, *drop})
    except OSError as error:
        raise HostError(
            f"cannot edit {path}: {error.strerror}",
            hint=f"make {os.path.dirname(path)} writable, with free space, then run again",
        ) from error


def _edit(site: Site, path: str, add: Mapping[str, IdRange], replaced: set[str]) -> None:
    target = os.path.realpath(path)
    for leftover in lockfile.stale_files(path, target):
        # FILE.lock names this process now.
        if leftover != f"{path}.lock":
            store.unlink(leftover)
    content = read(target)
    lines = list(parse(path, content or b""))
    _refuse_overlaps(add, lines)
    added = b"".join(line_of(name, ids, "the new line").raw for name, ids in add.items())
    kept = b"".join(line.raw for line in lines if line.name not in replaced)
    # Insert before a last line that has no newline, so that it stays unchanged.
    end = kept.rfind(b"\n") + 1
    edited = kept[:end] + added + kept[end:]
    if not edited and created.recorded(site, path):
        store.unlink(target)
        created.forget(site, path)
    elif edited != (content or b""):
        if content is None:
            created.record(site, path)
        _replace(target, edited)


def _refuse_overlaps(add: Mapping[str, IdRange], lines: Sequence[Line]) -> None:
    """ForeignError for a new line whose range a line of somebody else has, too."""
    spans = sorted((line.ids.start, line.ids.last) for line in lines if line.ids)
    starts = [start for start, dummy in spans]
    # The furthest id of all ranges up to each one.
    reach = list(itertools.accumulate((last for dummy, last in spans), max))
    for name, ids in add.items():
        before = bisect.bisect_right(starts, ids.last)
        if not before or reach[before - 1] < ids.start:
            continue
        for line in lines:
            if line.name != name and line.ids and line.ids.overlaps(ids):
                raise conflict(line_of(name, ids, "the new line"), line)


def _replace(target: str, content: bytes) -> None:
    """Replace the file by rename; the new one has the mode, owner and attributes of the old."""
    new = lockfile.temporary(target)
    store.unlink(new)
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as handle:
            handle.write(content)
            handle.flush()
            _copy_attributes(target, fd)
            os.fsync(fd)
        os.rename(new, target)
    except OSError:
        store.unlink(new)
        raise
    store.sync_directory(os.path.dirname(target))


def _copy_attributes(target: str, fd: int) -> None:
    try:
        old = os.stat(target)
    except FileNotFoundError:
        os.fchmod(fd, 0o644)
        return
    os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, stat.S_IMODE(old.st_mode))
    try:
        present = os.listxattr(target)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return
    for name in _ATTRIBUTES.intersection(present):
        os.setxattr(fd, name, os.getxattr(target, name))
