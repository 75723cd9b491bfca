# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""How a directory is bounded, what is due for a size, and the steps to it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import HostError, SpecError
from ..kernel import quotas
from ..kernel.copying import copy_directory
from ..kernel.files import NO_ROOM
from ..kernel.trees import sync
from ..site import Site
from . import filesystem, projects
from .model import (
    FILE,
    LIVE,
    MAX_FILE,
    OFFLINE,
    PROJECT,
    Due,
    Place,
    inodes,
    readable,
    whole_blocks,
)
from .places import commit, discard, finish, mount, prepare
from .ways import choose


@dataclass(frozen=True)
class Bound:
    """How a directory is bounded now; ``way`` is "" for one without any limit.

    ``size`` is None without a limit in force. One that is not ``ready`` waits for its mount, or for
    the number of its project. ``used`` is what it holds, in bytes, as far as that is counted.
    """

    way: str = ""
    size: int | None = None
    ready: bool = True
    used: int = 0
    off: bool = False
    """Whether the file system has ceased to enforce limits of projects."""
    grows: bool = True
    """Whether this process may let a file system grow that is in use."""
    failed: bool = False
    """Whether an error has made its file system read-only."""

    def to_json(self) -> dict[str, object]:
        return {"way": self.way, "size": self.size, "used": self.used}


def look(site: Site, place: Place) -> Bound:
    if os.path.exists(place.image):
        return _of_file(place)
    ours = projects.recorded(site)
    present = [path for path in place.paths if ours and os.path.isdir(path)]
    numbers = [quotas.project_of(path) for path in present]
    number = next((number for number in numbers if number in ours), 0)
    if not number:
        return Bound()
    same = all(other == number for other in numbers)
    if not quotas.enforced(present[0]):
        return Bound(PROJECT, None, same, off=True)
    limits = quotas.limits(present[0], number)
    ready = same and limits.inodes == inodes(limits.size)
    return Bound(PROJECT, limits.size or None, ready or not limits.size, limits.used)


def _of_file(place: Place) -> Bound:
    size = os.stat(place.image).st_size
    if not filesystem.is_mounted(place):
        return Bound(FILE, size, ready=False, grows=filesystem.may_grow())
    room = os.statvfs(place.directory)
    used = (room.f_blocks - room.f_bfree) * room.f_frsize
    size = min(size, filesystem.size_of(place))
    failed = filesystem.has_failed(place)
    return Bound(FILE, size, used=used, grows=filesystem.may_grow(), failed=failed)


def due(bound: Bound, size: int | None) -> Due | None:
    """The step from a bound to a size, None when there is none to take."""
    now, wanted = bound.size, None if size is None else whole_blocks(size)
    if bound.way == FILE:
        return _due_of_file(bound, wanted)
    if bound.way == PROJECT and wanted is None:
        return Due("withdraw the limit") if now else None
    if wanted is None:
        return None
    if not bound.way:
        return Due(f"limit to {readable(wanted)}", OFFLINE)
    if now == wanted and bound.ready:
        return None
    return Due(f"limit to {readable(wanted)}")


def _due_of_file(bound: Bound, wanted: int | None) -> Due | None:
    now = bound.size or 0
    if bound.failed:
        return Due("mount the file system again, which an error has made read-only", OFFLINE)
    if wanted is None:
        return Due("move out of the file system that limits it", OFFLINE)
    if wanted < now:
        return Due(f"shrink from {readable(now)} to {readable(wanted)}", OFFLINE)
    if wanted > now:
        needs = LIVE if bound.grows else OFFLINE
        return Due(f"grow from {readable(now)} to {readable(wanted)}", needs)
    return None if bound.ready else Due("mount the file system")


def check(bound: Bound, place: Place, size: int | None, option: str) -> None:
    """SpecError or HostError for a size that can't be enforced, or that would lose something."""
    step = due(bound, size)
    if size is None or step is None:
        return
    way = bound.way or choose(os.path.dirname(place.directory)).name
    if bound.off or not way:
        _refuse(place, option)
    if way == FILE and whole_blocks(size) >= MAX_FILE:
        problem = "is more than a file system in a file can have"
        hint = f"use less than {readable(MAX_FILE)}, or turn project quotas on"
        raise SpecError(option, readable(size), problem, hint=hint)
    if bound.used > whole_blocks(size):
        raise _too_small(option, size, bound.used)


def _refuse(place: Place, option: str) -> None:
    way = choose(os.path.dirname(place.directory))
    remedy = way.remedy or f"leave {option} out"
    if way.name == FILE:
        message = "the project quota that limited it is off"
        raise HostError(f"{option} can't be enforced: {message}", hint=remedy)
    raise HostError(f"{option} can't be enforced: {way.detail}", hint=remedy)


def _too_small(option: str, size: int, used: int) -> SpecError:
    problem = f"is less than what it holds ({readable(used)})"
    return SpecError(option, readable(size), problem, hint="use more, or remove files first")


def apply(site: Site, place: Place, size: int | None, option: str) -> None:
    """Take the step that is due, if users may go on meanwhile (LIVE)."""
    bound = look(site, place)
    check(bound, place, size, option)
    if bound.way == FILE:
        mount(place)
        if size is not None and (look(site, place).size or 0) < whole_blocks(size):
            filesystem.grow(place, size)
    elif bound.way == PROJECT:
        _set_project(site, place, 0 if size is None else whole_blocks(size))


def _set_project(site: Site, place: Place, size: int) -> None:
    ours = projects.recorded(site)
    number = next(n for n in map(quotas.project_of, place.paths) if n in ours)
    quotas.set_limits(place.directory, number, size, inodes(size) if size else 0)
    for path in place.paths:
        if quotas.project_of(path) != number:
            quotas.set_project(path, number)


def remake(site: Site, place: Place, size: int | None, option: str) -> None:
    """Take a step that nobody may meanwhile use the directory for (OFFLINE): most copy it."""
    mount(place)
    if look(site, place).failed:
        filesystem.renew(place)
    bound = look(site, place)
    step = due(bound, size)
    if step is None or step.needs == LIVE:
        apply(site, place, size, option)
        return
    check(bound, place, size, option)
    fresh = place.replacement
    prepare(site, fresh, size, option)
    try:
        for path in fresh.paths:
            os.makedirs(path, exist_ok=True)
        finish(site, fresh, size)
        for source, target in zip(place.paths, fresh.paths):
            copy_directory(source, target)
        sync(fresh.directory)
    except OSError as error:
        discard(fresh)
        if error.errno not in NO_ROOM or size is None:
            raise
        raise _too_small(option, size, look(site, place).used) from error
    commit(fresh, place)
    projects.sweep(site)
