# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tests abilities of the kernel by using them; nothing is left behind."""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial
from typing import Iterator

from .. import cgroups
from ..errors import HostError
from ..kernel import files, hierarchies, mounts, namespaces
from ..kernel.fork import Held

FILESYSTEMS = "/proc/filesystems"
USER_NAMESPACES = "/proc/sys/user/max_user_namespaces"
NO_USER_NAMESPACES = (
    "user namespaces are disabled on this host",
    "set the sysctl user.max_user_namespaces, for instance to 10000",
)
NO_OVERLAY = (
    "the kernel has no overlayfs",
    "boot a kernel with overlayfs, or install its modules",
)
_REFUSALS = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})


def require() -> None:
    """HostError when this kernel can't run any sandbox."""
    if not user_namespaces():
        raise HostError(NO_USER_NAMESPACES[0], hint=NO_USER_NAMESPACES[1])
    if not overlay():
        raise HostError(NO_OVERLAY[0], hint=NO_OVERLAY[1])


def user_namespaces() -> int:
    """The number of user namespaces that the host allows."""
    return files.read_number(USER_NAMESPACES) or 0


def overlay() -> bool:
    """Whether overlayfs is built in, loaded, or a module that mount(2) loads by itself."""
    with open(FILESYSTEMS, encoding="ascii") as handle:
        if "\toverlay\n" in handle.read():
            return True
    modules = f"/lib/modules/{os.uname().release}/modules.dep"
    try:
        with open(modules, encoding="utf-8") as handle:
            return any("/overlay.ko" in line.partition(":")[0] for line in handle)
    except FileNotFoundError:
        return False


def maps_ids(directory: str) -> bool:
    """Whether mounts of the file system at ``directory`` can be id-mapped (mount_setattr(2))."""
    directory = files.existing(directory)
    try:
        with user_namespace() as userns:
            tree = mounts.clone_tree(directory)
            try:
                mounts.set_attributes(tree, 0, userns=userns)
            finally:
                os.close(tree)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        return False
    return True


def shows_cgroups(layout: cgroups.Layout) -> bool:
    """Whether a user namespace may mount the cgroups that a sandbox has limits in."""
    shown = cgroups.shown(layout)

    def mount() -> None:
        namespaces.unshare(namespaces.CLONE_NEWUSER)
        namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWCGROUP)
        if len(hierarchies.mounted(shown, mounts.MOUNT_ATTR_RDONLY)) < len(shown):
            raise OSError(errno.EPERM, "refused")

    try:
        with Held(mount, "mounting cgroups"):
            return bool(shown)
    except OSError as error:
        if error.errno not in _REFUSALS | {errno.ENOSPC}:
            raise
        return False


@contextlib.contextmanager
def user_namespace() -> Iterator[int]:
    """A descriptor of a user namespace with one id mapped; closing it ends the namespace."""
    prepare = partial(namespaces.unshare, namespaces.CLONE_NEWUSER)
    with Held(prepare, "making a user namespace") as pid:
        for kind in ("uid_map", "gid_map"):
            files.write_value(f"/proc/{pid}/{kind}", "0 0 1")
        userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield userns
    finally:
        os.close(userns)
