# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Empty files in the sandbox's layer that its files and secrets are mounted on, and go with them.

They have a mark, as an empty file may be the tenant's. A tenant that makes the mark loses an empty
file, when the file that is mounted on it is withdrawn.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Iterable

from ..kernel import mounts

_MARK = "user.sandlot.place"
_BENEATH = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV
# File systems without such attributes, read-only and full ones, and what a tenant did meanwhile.
_STAYS = frozenset(
    (
        *(errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSPC),
        *(errno.EDQUOT, errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EBUSY, errno.EISDIR),
    )
)


def mark(fd: int) -> None:
    """Mark a file that was just made and is open."""
    try:
        os.setxattr(fd, _MARK, b"1")
    except OSError as error:
        if error.errno not in _STAYS:
            raise


def give_up(holder: int, leaf: str) -> None:
    """Remove a marked and empty place; it stays where that is in doubt."""
    try:
        _give_up(holder, leaf)
    except OSError as error:
        if error.errno not in _STAYS:
            raise


def leave(upper: str, targets: Iterable[str]) -> None:
    """Remove places from the layer of a sandbox that does not run."""
    try:
        top = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # a layer in memory
    try:
        for target in targets:
            directory, leaf = os.path.split(target)
            _leave(top, directory.strip("/") or ".", leaf)
    finally:
        os.close(top)


def _leave(top: int, directory: str, leaf: str) -> None:
    try:
        holder = mounts.openat2(top, directory, os.O_PATH | os.O_DIRECTORY, _BENEATH)
    except OSError as error:
        # The way leads over links of the tenant, or into the image.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            return
        raise
    try:
        give_up(holder, leaf)
    finally:
        os.close(holder)


def _give_up(holder: int, leaf: str) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(leaf, flags, dir_fd=holder)
    try:
        os.getxattr(fd, _MARK)
        status = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size or status.st_nlink != 1:
        return
    writable = holder
    if os.statvfs(holder).f_flag & os.ST_RDONLY:
        # Root of a sandbox with a read-only root may make a writable copy of its mount.
        writable = mounts.clone_tree("", dir_fd=holder)
        mounts.set_attributes(writable, 0, clear=mounts.MOUNT_ATTR_RDONLY)
    try:
        os.unlink(leaf, dir_fd=writable)
    finally:
        if writable != holder:
            os.close(writable)
