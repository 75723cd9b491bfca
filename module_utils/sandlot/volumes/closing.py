# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Closes the directory of volumes for the host: a mount on itself, with nosuid and nodev.

Files of a volume have the ids inside, 0 for root: on the host, a setuid program among them would be
one of host root.
"""

from __future__ import annotations

import os
from typing import List

from .. import sizes
from ..kernel import mountinfo, mounts
from ..kernel.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MS_PRIVATE
from ..site import Site
from ..sizes import Place
from .records import names, place, remove_empty

_FLAGS = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
_OPTIONS = frozenset({"nosuid", "nodev"})


def is_closed(site: Site) -> bool:
    """Whether the mount at the directory has the flags; it may be the user's own."""
    stack = mountinfo.stack(site.volumes)
    return bool(stack) and stack[-1][0].options >= _OPTIONS


def is_mounted(site: Site) -> bool:
    """Whether the directory is mounted on itself, as ``close`` does."""
    stack = mountinfo.stack(site.volumes)
    return bool(stack) and stack[-1][1]


def close(site: Site) -> None:
    """Mount the directory on itself; file systems that are mounted below stay where they are."""
    os.makedirs(site.volumes, mode=0o700, exist_ok=True)
    mounted = _unmount_all(site)
    mount = mounts.clone_tree(site.volumes, recursive=True)
    try:
        mounts.set_attributes(mount, _FLAGS)
        mounts.attach(mount, site.volumes)
    finally:
        os.close(mount)
    # Shared with other namespaces of the host, each one would have to be told when it goes.
    mounts.mount("none", site.volumes, flags=MS_PRIVATE)
    for volume in mounted:
        sizes.mount(volume)


def _unmount_all(site: Site) -> List[Place]:
    """Unmount file systems of volumes, which no path would lead to under the mount above."""
    places = (place(site, name) for name in names(site))
    mounted = [volume for volume in places if sizes.is_mounted(volume)]
    for volume in mounted:
        sizes.unmount(volume)
    return mounted


def release(site: Site) -> None:
    """Unmount all volumes, and the mount that closes them."""
    _unmount_all(site)
    reopen(site)


def reopen(site: Site) -> None:
    """Take the mount away; one that a user made at the directory stays."""
    while is_mounted(site):
        mounts.umount(site.volumes)
    remove_empty(site)
