# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Mounts below a mount that is there, also on kernels before 6.5, which have no call for that.

Since Linux 4.11, a mount that propagates to a place where something is mounted goes below that
(propagate_mnt() in the kernel's fs/pnode.c). So a copy of the mount around the place is attached in
a second namespace, becomes its master, and gets the new mount at the same place.
"""

from __future__ import annotations

import errno
import os

from ..kernel import mounts, namespaces
from .operations import MOUNTS
from .rootfs import STRICT


def attach(mount: int, place: int) -> bool:
    """Attach below the mount of ``place``; whether this kernel has the call."""
    try:
        mounts.attach(mount, target_fd=place, beneath=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def propagate(mount: int, around: int, holder: int, leaf: str, *, space: int, stage: int) -> None:
    """Let a copy of a mount appear below what is mounted at ``leaf`` in the directory ``holder``.

    ``around`` is the root of the mount that ``holder`` lies in. ``space`` is the mount namespace of
    both, ``stage`` the second one.
    """
    mounts.set_attributes(around, 0, propagation=mounts.MS_SHARED)
    try:
        copy = mounts.clone_tree("", dir_fd=holder)
        # Nothing that a tenant mounts reaches the copy.
        mounts.set_attributes(around, 0, propagation=mounts.MS_SLAVE)
        namespaces.setns(stage, namespaces.CLONE_NEWNS)
        mounts.attach(copy, MOUNTS)
        below = mounts.openat2(copy, leaf, os.O_PATH | os.O_NOFOLLOW, STRICT)
        mounts.attach(mount, target_fd=below)
        os.close(below)
        os.close(copy)
    finally:
        namespaces.setns(space, namespaces.CLONE_NEWNS)
        # Before the second namespace ends, and with it the master.
        mounts.set_attributes(around, 0, propagation=mounts.MS_PRIVATE)
