# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Looks at what a layer holds, in a bounded walk by descriptors that follows nothing.

The files are a tenant's: names, depth and number of entries are its choice.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Set, Tuple

from ..kernel import mounts

# Enough for a system with a few packages more than its image: 0.1 s.
MOST = 20_000
DEEPEST = 64
# Places of mounts that every root has.
_ALWAYS = ("/proc", "/sys", "/dev", "/tmp", "/etc")
_MACHINE_ID = frozenset(("etc/machine-id", "etc/.machine-id.sandlot", "var/lib/dbus/machine-id"))
_ID_LENGTH = 33
_SECTOR = 512  # the unit of st_blocks (inode(7))
# Marks of overlayfs: a directory that replaces, or is, one of another name.
_MARKS = ("trusted.overlay.opaque", "trusted.overlay.redirect")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INSIDE = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV
# The sandbox may run, and somebody may have mounted something.
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
_Entry = Tuple[str, os.stat_result, bool]


@dataclass(frozen=True)
class Contents:
    """The part of a layer that its sandbox wrote: bytes on disk and files, and ``more`` than that.

    Without ``own``, the layer holds nothing but what sandlot itself put there.
    """

    size: int = 0
    files: int = 0
    more: bool = False
    own: bool = False


def look(upper: str, launch: Mapping[str, Any], *, most: int = MOST) -> Contents:
    """``launch`` is the launch file of the sandbox; {} when it is unknown."""
    places, counted, size, files, own = _places(launch), 0, 0, 0, False
    linked: Set[Tuple[int, int]] = set()
    for path, status, marked in _walk(upper):
        if counted == most or path.count("/") >= DEEPEST:
            return Contents(size, files, True, True)
        counted += 1
        if not (marked or _is_own(path, status, places)):
            continue
        own = True
        files += not stat.S_ISDIR(status.st_mode)
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if identity in linked:
                continue
            linked.add(identity)
        size += status.st_blocks * _SECTOR
    return Contents(size, files, False, own)


def has_own(upper: str, launch: Mapping[str, Any]) -> bool:
    """Whether the sandbox wrote anything; the walk ends at the first such file."""
    places = _places(launch)
    return any(
        marked or path.count("/") >= DEEPEST or _is_own(path, status, places)
        for path, status, marked in _walk(upper)
    )


def _places(launch: Mapping[str, Any]) -> Set[str]:
    """Paths where sandlot makes a directory or an empty file to mount something on."""
    given = [launch.get(key) or () for key in ("tmpfs", "files", "directories")]
    targets = [entry.get("target", "") for entry in launch.get("mounts") or ()]
    known = {f"/{path}" for path in _MACHINE_ID}
    known.update(*given, _ALWAYS, targets, [launch.get("cwd") or "/"])
    places: Set[str] = set()
    for target in known:
        parts = [part for part in str(target).split("/") if part]
        places.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return places


def _is_own(path: str, status: os.stat_result, places: Set[str]) -> bool:
    if stat.S_ISDIR(status.st_mode):
        return path not in places
    if stat.S_ISREG(status.st_mode):
        if path in _MACHINE_ID:
            return status.st_size > _ID_LENGTH
        return status.st_size > 0 or path not in places
    return True


def _walk(upper: str) -> Iterator[_Entry]:
    """Every entry with its path, its status, and whether overlayfs marked it; parents first."""
    try:
        top = os.open(upper, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        yield from _entries(top, "")
    finally:
        os.close(top)


def _entries(directory: int, prefix: str) -> Iterator[_Entry]:
    with os.scandir(directory) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            try:
                status = entry.stat(follow_symlinks=False)
                child = _opened(directory, entry.name) if stat.S_ISDIR(status.st_mode) else -1
            except OSError as error:
                if error.errno in _CHANGED:
                    continue
                raise
            if child == -1:
                yield path, status, False
                continue
            try:
                yield path, status, _is_marked(child)
                yield from _entries(child, f"{path}/")
            finally:
                os.close(child)


def _opened(directory: int, name: str) -> int:
    return mounts.openat2(directory, name, _DIRECTORY, _INSIDE)


def _is_marked(directory: int) -> bool:
    for name in _MARKS:
        try:
            os.getxattr(directory, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
            continue
        return True
    return False
