# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Network namespaces by path: opens nothing else, compares them, mounts their sysfs.

A sandbox may join a network namespace that its user namespace does not own. Only host root can join
it and mount its sysfs; the sandbox's capabilities have no effect on it (user_namespaces(7)).

This module is not in ``network``, as the launcher's workers use it: every sandbox would share or
copy the memory of that package.
"""

from __future__ import annotations

import fcntl
import os

from ..errors import LaunchError
from . import mountinfo, mounts, namespaces

HOST = "/proc/self/ns/net"
_NS_GET_NSTYPE = 0xB703


def open_foreign(path: str) -> int:
    """Open a network namespace as ``open_verified`` does; refuse the host's own."""
    fd = open_verified(path)
    if os.fstat(fd).st_ino != identity(HOST):
        return fd
    os.close(fd)
    hint = "use network_mode: host with allow_host_network: true if that is meant"
    raise LaunchError(f"{path} is the host's own network namespace", hint=hint)


def open_verified(path: str) -> int:
    """A descriptor of the network namespace mounted at ``path``; no other file is opened."""
    hint = "make it first, as with: ip netns add NAME, for ns:/run/netns/NAME"
    kind = mountinfo.server_of(path)
    if kind:
        # A file server's file is no namespace, and opening it may hang.
        raise LaunchError(f"{path} is no network namespace but on a file system {kind}", hint=hint)
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}", hint=hint) from error
    try:
        # Opening a FIFO would wait, and opening a device may do something.
        if os.fstat(place).st_dev == os.stat(HOST).st_dev:
            fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
            if fcntl.ioctl(fd, _NS_GET_NSTYPE) == namespaces.CLONE_NEWNET:
                return fd
            os.close(fd)
    finally:
        os.close(place)
    raise LaunchError(f"{path} is no network namespace", hint=hint)


def identity(path: str) -> int | None:
    """The inode number of the network namespace at a path; None without one.

    Two live namespaces never have the same number.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino if status.st_dev == os.stat(HOST).st_dev else None


def sysfs(netns: int, attributes: int) -> int:
    """Enter the namespace; a detached sysfs that shows its links."""
    namespaces.setns(netns, namespaces.CLONE_NEWNET)
    return mounts.new_mount("sysfs", {}, attributes)
