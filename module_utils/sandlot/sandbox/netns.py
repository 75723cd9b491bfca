# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A network namespace that a sandbox joins instead of having its own: the host's, another's.

Its owner is not the sandbox's user namespace. So only host root can join it and mount its sysfs,
and capabilities that the sandbox is granted have no effect on it (user_namespaces(7)).
"""

from __future__ import annotations

import fcntl
import os

from ..errors import LaunchError
from ..kernel import mountinfo, mounts, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

HOST = "/proc/self/ns/net"
_NS_GET_NSTYPE = 0xB703


def open_joined(name: str, netns: Mapping[str, str]) -> int:
    """What launch.json says under "netns": ``mode`` as in the spec, and the path to open."""
    mode, path = netns["mode"], netns["path"]
    try:
        return open_verified(path) if mode == "host" else open_foreign(path)
    except LaunchError as error:
        kind, _, partner = mode.partition(":")
        hint = f"start sandbox {partner} first" if kind == "container" else error.hint
        raise LaunchError(f"{name}: network_mode: {error.message}", hint=hint) from error


def open_foreign(path: str) -> int:
    """The same as below, but never the host's."""
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
        # No namespace is there, and opening it would wait for a server that hangs.
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
    """What tells one network namespace from any other that lives; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino if found.st_dev == os.stat(HOST).st_dev else None


def sysfs(netns: int, attributes: int) -> int:
    """A detached sysfs that shows this namespace's links; the caller is in it afterwards."""
    namespaces.setns(netns, namespaces.CLONE_NEWNET)
    return mounts.new_mount("sysfs", {}, attributes)
