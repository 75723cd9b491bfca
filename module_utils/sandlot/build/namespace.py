# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The build namespace: mounts next to nothing, and roots are put together in copies of it.

Copying a mount namespace costs per mount, and the host's has four pins for each sandbox. From here
a sandbox never holds the host's tree either, and its mount table names no path of the host.
"""

from __future__ import annotations

import os

from ..kernel import mounts, namespaces
from ..kernel.fork import Held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Sequence

    from .operations import Operation

LOWER, LAYER, MERGED = "/lower", "/layer", "/merged"
HOST, HOST_MASK, MASKED_HOST = "/host", "/host_mask", "/masked_host"
# Of an image: what its source made, and what setup put above it.
MAX_LAYERS = 4


def make(directory: str) -> int:
    """A descriptor of a new one; ``directory`` is covered meanwhile, for its maker alone."""
    with Held(lambda: _furnish(directory), "making the build namespace") as pid:
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _furnish(directory: str) -> None:
    """proc and sysfs have to be in sight, whole, for the kernel to allow a sandbox its own."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount("none", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount("tmpfs", directory, "tmpfs", data="mode=755,size=64k")
    for name in ("proc", "sys"):
        os.mkdir(f"{directory}/{name}")
        mounts.attach(mounts.clone_tree(f"/{name}"), f"{directory}/{name}")
    lowers = [f"{LOWER}{number}" for number in range(MAX_LAYERS)]
    for path in (*lowers, LAYER, MERGED, HOST, HOST_MASK, MASKED_HOST):
        os.mkdir(f"{directory}{path}", 0o755)
        os.chmod(f"{directory}{path}", 0o755)
    os.chdir(directory)
    mounts.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)


def enter(namespace: int, operations: Sequence[Operation], pins: Mapping[str, int]) -> None:
    """Stand in a sandbox's merged root, in a copy of the build namespace of our own."""
    namespaces.setns(namespace, namespaces.CLONE_NEWNS)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    for operation in operations:
        operation.stack(pins)
    os.chdir(MERGED)
