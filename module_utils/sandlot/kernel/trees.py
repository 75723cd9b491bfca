# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removes, copies and syncs trees of files that others can write to."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from ctypes import c_int
from typing import Iterator

from ..errors import ForeignError
from . import libc, mount_points, mounts
from .files import NO_ROOM

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 24
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INSIDE = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV

_syncfs = libc.bind("syncfs", c_int)


@contextlib.contextmanager
def copied_file(source: int, target: int, name: str, most: int) -> Iterator[int]:
    """Copy up to ``most`` bytes of a file to another directory, readable by root only."""
    reading = os.open(name, _FILE, dir_fd=source)
    try:
        writing = os.open(name, _NEW, 0o600, dir_fd=target)
        try:
            while most:
                sent = os.sendfile(writing, reading, None, min(most, _CHUNK))
                if not sent:
                    break
                most -= sent
            yield writing
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def sync(directory: str) -> None:
    """Sync the file system of a directory; sync(2) would also wait for file systems that hang."""
    fd = os.open(directory, _DIRECTORY)
    try:
        libc.check(_syncfs(fd), "syncfs", directory)
    finally:
        os.close(fd)


def remove_tree(path: str) -> None:
    """Remove a tree of any depth by descriptors, without following a link or entering a mount.

    A mount in the tree is somebody else's, and its file server may hang: ForeignError, and nothing
    is removed.
    """
    if not _is_there(path):
        return
    refuse_mounts(path)
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        refuse_mounts(path)
        raise
    finally:
        os.close(top)
    os.rmdir(path)


def empty(directory: str) -> None:
    """Remove all that a directory holds, as ``remove_tree`` does."""
    top = os.open(directory, _DIRECTORY)
    try:
        _empty(top)
    finally:
        os.close(top)


def remove_entry(path: str) -> None:
    """Remove a tree, a file or a link, if it exists."""
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def refuse_mounts(path: str) -> None:
    """ForeignError for mounts at or below a path."""
    # The kernel's list has a line for each mount of all sandboxes.
    points = mount_points.within(path) if _is_there(path) else []
    if points:
        raise ForeignError(
            f"{path} can't be removed: somebody has mounted {', '.join(points)}",
            hint=f"unmount it (umount {points[-1]}), or lazily if it hangs (umount -l), run again",
        )


def _is_there(path: str) -> bool:
    """Unlike os.path.lexists, raises OSError for what can't be looked at."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _empty(top: int) -> None:
    """Empty a directory; nested ones are moved to its top, so depth and descriptors are bounded.

    On a full disk, its top may have no room for more names. Then directories that need none go
    first. Without any, each one holds others; the one to descend into is one of so many that the
    depth stays small.
    """
    prefix = f".{os.urandom(8).hex()}-"
    fresh = (f"{prefix}{serial}" for serial in itertools.count())
    while True:
        directories = _unlinked(top)
        full = [name for name in directories if not _hoisted(top, name, fresh)]
        if not directories:
            return
        if full == directories:
            child = mounts.openat2(top, full[0], _DIRECTORY, _INSIDE)
            try:
                _empty(child)
            finally:
                os.close(child)


def _hoisted(top: int, name: str, fresh: Iterator[str]) -> bool:
    """Move what a directory holds to the top, and remove it; False if the disk has no room."""
    child = mounts.openat2(top, name, _DIRECTORY, _INSIDE)
    try:
        for inner in _unlinked(child):
            os.rename(inner, next(fresh), src_dir_fd=child, dst_dir_fd=top)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return False
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=top)
    return True


def _unlinked(directory: int) -> list[str]:
    """Unlink all but directories, which are returned."""
    # btrfs lists the names that were there at the last open or rewind.
    os.lseek(directory, 0, os.SEEK_SET)
    with os.scandir(directory) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listed:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
    return [name for name, is_directory in listed if is_directory]
