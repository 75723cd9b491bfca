# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removes from a layer what tells a machine from others, so that a clone makes its own.

The files are a tenant's: links are not followed, and only files and links are removed.
"""

from __future__ import annotations

import errno
import os
import stat
from fnmatch import fnmatchcase

from ..images.identity import HOST_KEYS, MACHINE_IDS, SEEDS
from ..kernel import mounts

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INSIDE = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def forget(upper: int) -> None:
    """Remove the machine id, host keys and seeds of random numbers from a layer."""
    for pattern in (*MACHINE_IDS, *HOST_KEYS, *SEEDS):
        _each(upper, pattern, remove=True)


def has_host_keys(upper: int) -> bool:
    return any(_each(upper, pattern, remove=False) for pattern in HOST_KEYS)


def _each(upper: int, pattern: str, *, remove: bool) -> bool:
    """Whether there are such files; ``remove`` takes them away."""
    directory, dummy, leaf = pattern.rpartition("/")
    try:
        holder = mounts.openat2(upper, directory, _DIRECTORY, _INSIDE)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    try:
        names = [name for name in os.listdir(holder) if fnmatchcase(name, leaf)]
        known = [name for name in names if _is_file(holder, name)]
        for name in known if remove else ():
            os.unlink(name, dir_fd=holder)
    finally:
        os.close(holder)
    return bool(known)


def _is_file(directory: int, name: str) -> bool:
    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)
