# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The stage: a mount namespace with next to nothing in it, where roots are put together.

Copying a mount namespace costs per mount, and the host's has four pins for each sandbox. From here
a sandbox never holds the host's tree either, and its mount table names no path of the host.
"""

from __future__ import annotations

import os

from ..kernel import mounts, namespaces
from ..kernel.fork import Held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .lower_layers import Opened

LOWER, LAYER, MERGED = "/lower", "/layer", "/merged"
VEIL, HOST, VEILED = "/veil", "/host", "/veiled"
# Of an image: what its source made, and what setup put above it.
MAX_LAYERS = 4
_FLAGS = mounts.MS_NODEV | mounts.MS_NOSUID


def make(directory: str) -> int:
    """A descriptor of a new stage; ``directory`` is covered while it is made, for nobody else."""
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
    for path in (*lowers, LAYER, MERGED, VEIL, HOST, VEILED):
        os.mkdir(f"{directory}{path}", 0o755)
        os.chmod(f"{directory}{path}", 0o755)
    os.chdir(directory)
    mounts.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)


def enter(stage: int, lowers: Opened, layer: int) -> None:
    """Stand in a sandbox's merged root, in a copy of the stage of our own.

    Mounted by host root, so overlayfs keeps its attributes in trusted.* where no tenant reaches
    them. ``layer`` is a detached mount too.
    """
    namespaces.setns(stage, namespaces.CLONE_NEWNS)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    directories = [f"{LOWER}{number}" for number in range(len(lowers.layers))]
    for fd, directory in zip(lowers.layers, directories):
        mounts.attach(fd, directory)
    if lowers.host is not None:
        directories.append(_veiled(lowers))
    mounts.attach(layer, LAYER)
    layers = f"lowerdir={':'.join(directories)},upperdir={LAYER}/upper,workdir={LAYER}/work"
    mounts.mount("overlay", MERGED, "overlay", _FLAGS, f"{layers},index=off,metacopy=off")
    os.chdir(MERGED)


def _veiled(lowers: Opened) -> str:
    """The host's root below its veil, as an overlay of its own.

    The kernel refuses a writable layer that lies within a lower one (ovl_check_layer), and ours is
    on the host's root; it looks for that within one file system only.
    """
    mounts.attach(lowers.veil or -1, VEIL)
    mounts.attach(lowers.host or -1, HOST)
    flags = _FLAGS | mounts.MS_RDONLY
    mounts.mount("overlay", VEILED, "overlay", flags, f"lowerdir={VEIL}:{HOST},index=off")
    return VEILED
