# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The build namespace: a mount namespace with few mounts; each root is built in a copy of it.

The kernel copies a mount namespace mount by mount, and the host's has four pins for each sandbox.
A sandbox built here never holds the host's tree, and its mount table names no path of the host.
"""

from __future__ import annotations

import os

from ..kernel import mounts, namespaces
from ..kernel.fork import Held
from .operations import MERGED, MOUNT_POINTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Sequence

    from .operations import RootOperation


def make(directory: str) -> int:
    """Make the namespace: a descriptor. Only its maker sees the tmpfs on ``directory``."""
    with Held(lambda: _furnish(directory), "making the build namespace") as pid:
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _furnish(directory: str) -> None:
    """Mount proc and sysfs: only next to complete ones may a sandbox mount its own."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount("none", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount("tmpfs", directory, "tmpfs", data="mode=755,size=64k")
    for name in ("proc", "sys"):
        os.mkdir(f"{directory}/{name}")
        mounts.attach(mounts.clone_tree(f"/{name}"), f"{directory}/{name}")
    for path in MOUNT_POINTS:
        os.mkdir(f"{directory}{path}", 0o755)
        os.chmod(f"{directory}{path}", 0o755)
    os.chdir(directory)
    mounts.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)


def enter(namespace: int, operations: Sequence[RootOperation], pins: Mapping[str, int]) -> None:
    """Enter a copy of the build namespace, and in it the sandbox's merged root."""
    namespaces.setns(namespace, namespaces.CLONE_NEWNS)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    for operation in operations:
        operation.stack(pins)
    os.chdir(MERGED)
