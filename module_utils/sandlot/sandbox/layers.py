# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Operations on writable layers: make, discard, and set aside and restore with their pins.

A layer appears complete or not at all. Its files are a tenant's, so nothing in it is trusted.
"""

from __future__ import annotations

import contextlib
import os
import stat

from .. import sizes
from ..idmap import IdRange
from ..kernel import mount_points
from ..kernel.trees import refuse_mounts, remove_tree
from ..site import NEXT, OLD, SandboxPaths, SnapshotPaths

OPTION = "disk_size"
_TREES = ("upper", "work")


def place(sandbox: SandboxPaths) -> sizes.Place:
    """The layer as a directory with a size: overlayfs moves files from ``work`` to ``upper``."""
    return sizes.Place(sandbox.layer, sandbox.layer_image, _TREES)


def is_whole(sandbox: SandboxPaths) -> bool:
    """Whether the layer exists; OSError when that is unknown, as a missing layer is replaced."""
    layer = place(sandbox)
    if exists(layer.image) and not sizes.is_mounted(layer):
        return True
    try:
        statuses = [os.stat(path, follow_symlinks=False) for path in (sandbox.upper, sandbox.work)]
    except FileNotFoundError:
        return False
    return all(stat.S_ISDIR(status.st_mode) for status in statuses)


def exists(path: str) -> bool:
    """Whether ``path`` exists; OSError when that is unknown, so that no version is overlooked."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def make(sandbox: SandboxPaths, ids: IdRange, size: int | None = None) -> None:
    """Replace the layer by an empty one, which has its owner and size when it appears."""
    fresh = place(sandbox).replacement
    os.makedirs(sandbox.state, mode=0o700, exist_ok=True)
    sizes.prepare(sandbox.site, fresh, size, OPTION)
    upper, work = fresh.paths
    os.mkdir(work, 0o700)
    os.mkdir(upper)
    os.chown(upper, ids.start, ids.start)
    os.chmod(upper, 0o755)
    sizes.finish(sandbox.site, fresh, size)
    sizes.discard(place(sandbox))
    sizes.move(fresh, place(sandbox))


def discard(sandbox: SandboxPaths) -> None:
    """Remove the layer, at once: a kill never leaves half a layer in use."""
    layer = place(sandbox)
    # A killed run may have left a replacement, and mounted.
    sizes.discard(layer.replacement)
    sizes.discard(layer)


def give(source: SandboxPaths, target: SnapshotPaths) -> None:
    """Move the layer of a sandbox or slot to a snapshot, by one rename."""
    if not exists(place(source).image):
        refuse_mounts(source.layer)
    sizes.move(place(source), sizes.Place(target.layer, target.image, _TREES), mounted=False)


def is_set_aside(sandbox: SandboxPaths) -> bool:
    """Whether a switch to the next version has begun."""
    return exists(sandbox.in_slot(OLD).state)


def set_aside(sandbox: SandboxPaths) -> None:
    """Switch to the version in slot "next", by renames only; pins move with their directory.

    The directory of slot "old" is made first: it tells that the switch has begun.
    """
    old, new = sandbox.in_slot(OLD), sandbox.in_slot(NEXT)
    os.makedirs(old.state, mode=0o700, exist_ok=True)
    os.makedirs(old.run, mode=0o700, exist_ok=True)
    sizes.move(place(sandbox), place(old), mounted=False)
    sizes.move(place(new), place(sandbox))
    _move(sandbox.namespaces, old.namespaces)
    _move(sandbox.pins, old.pins)
    os.rename(new.pins, sandbox.pins)
    os.rename(new.namespaces, sandbox.namespaces)
    os.rename(new.launch, sandbox.launch)


def restore(sandbox: SandboxPaths) -> None:
    """Undo ``set_aside``, however far it got: both versions move back."""
    old, new = sandbox.in_slot(OLD), sandbox.in_slot(NEXT)
    put_back(sandbox)
    if exists(old.pins):
        # Remove the new namespace record first: it must never describe the old pins. Without a
        # record, the next run makes pins again.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(sandbox.namespaces)
        _move(old.namespaces, sandbox.namespaces)
        _move(sandbox.pins, new.pins)
        os.rename(old.pins, sandbox.pins)


def put_back(sandbox: SandboxPaths) -> None:
    """Move the old layer back to its place, and the new one to its slot."""
    old, new = sandbox.in_slot(OLD), sandbox.in_slot(NEXT)
    if sizes.exists(place(old)):
        if sizes.exists(place(sandbox)):
            sizes.move(place(sandbox), place(new), mounted=False)
        sizes.move(place(old), place(sandbox))
        mount_points.renamed()


def _move(source: str, target: str) -> None:
    """Rename a path that may be missing, or that a killed run has moved already."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(source, target)


def remove_slots(sandbox: SandboxPaths) -> None:
    """Remove both slots; their state directory, which marks the rebuild, goes last."""
    for slot in (NEXT, OLD):
        discard(sandbox.in_slot(slot))
    remove_tree(f"{sandbox.run}/{os.path.basename(sandbox.rebuild)}")
    remove_tree(sandbox.rebuild)
