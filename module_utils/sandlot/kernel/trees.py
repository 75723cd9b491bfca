# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removes, copies and syncs trees of files that others can write to."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from ctypes import c_int
from typing import Iterator

from ..errors import ForeignError
from . import libc, mountinfo, mounts

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
    if not os.path.lexists(path):
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


def remove_entry(path: str) -> None:
    """Remove a tree, a file or a link, if it exists."""
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def refuse_mounts(path: str) -> None:
    points = mountinfo.within(path)
    if points:
        raise ForeignError(
            f"{path} can't be removed: somebody has mounted {', '.join(points)}",
            hint=f"unmount it (umount {points[-1]}), or lazily if it hangs (umount -l), run again",
        )


def _empty(top: int) -> None:
    """Empty a directory; nested ones are moved to its top, so depth and descriptors are bounded."""
    prefix = f".{secrets.token_hex(8)}-"
    serial = 0
    entries = _entries(top)
    while entries:
        for name, is_directory in entries:
            if is_directory:
                serial = _hoist(top, name, prefix, serial)
            else:
                os.unlink(name, dir_fd=top)
        entries = _entries(top)


def _hoist(top: int, name: str, prefix: str, serial: int) -> int:
    child = mounts.openat2(top, name, _DIRECTORY, _INSIDE)
    try:
        for inner, is_directory in _entries(child):
            if is_directory:
                serial += 1
                os.rename(inner, f"{prefix}{serial}", src_dir_fd=child, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=child)
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=top)
    return serial


def _entries(directory: int) -> list[tuple[str, bool]]:
    with os.scandir(directory) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
