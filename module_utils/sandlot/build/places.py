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

from ..kernel import mounts

_MARK = "user.sandlot.place"
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
