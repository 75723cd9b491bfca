# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Operations on writable layers: make, discard, and set aside and restore with their pins.

A layer appears complete or not at all. Its files are a tenant's, so nothing in it is trusted.
"""

from __future__ import annotations

import contextlib
import os
import stat

from ..idmap import IdRange
from ..kernel.trees import refuse_mounts, remove_tree
from ..site import NEXT, OLD, SandboxPaths


def is_whole(sandbox: SandboxPaths) -> bool:
    """Whether the layer exists; OSError when that is unknown, as a missing layer is replaced."""
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


def make(sandbox: SandboxPaths, ids: IdRange) -> None:
    """Replace the layer by an empty one, which has its owner set when it appears."""
    fresh = f"{sandbox.layer}.new"
    remove_tree(fresh)
    os.makedirs(sandbox.state, mode=0o700, exist_ok=True)
    os.mkdir(fresh, 0o700)
    os.mkdir(f"{fresh}/work", 0o700)
    upper = f"{fresh}/upper"
    os.mkdir(upper)
    os.chown(upper, ids.start, ids.start)
    os.chmod(upper, 0o755)
    discard(sandbox)
    os.rename(fresh, sandbox.layer)


def discard(sandbox: SandboxPaths) -> None:
    """Rename the layer, then remove it, so that a kill never leaves half a layer in use."""
    old = f"{sandbox.layer}.old"
    refuse_mounts(sandbox.layer)
    remove_tree(old)
    try:
        os.rename(sandbox.layer, old)
    except FileNotFoundError:
        return
    remove_tree(old)


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
    os.rename(sandbox.layer, old.layer)
    os.rename(new.layer, sandbox.layer)
    _move(sandbox.namespaces, old.namespaces)
    _move(sandbox.pins, old.pins)
    os.rename(new.pins, sandbox.pins)
    os.rename(new.namespaces, sandbox.namespaces)
    os.rename(new.launch, sandbox.launch)


def restore(sandbox: SandboxPaths) -> None:
    """Undo ``set_aside``, however far it got: both versions move back."""
    old, new = sandbox.in_slot(OLD), sandbox.in_slot(NEXT)
    if exists(old.layer):
        _move(sandbox.layer, new.layer)
        os.rename(old.layer, sandbox.layer)
    if exists(old.pins):
        # Remove the new namespace record first: it must never describe the old pins. Without a
        # record, the next run makes pins again.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(sandbox.namespaces)
        _move(old.namespaces, sandbox.namespaces)
        _move(sandbox.pins, new.pins)
        os.rename(old.pins, sandbox.pins)


def _move(source: str, target: str) -> None:
    """Rename a path that may be missing, or that a killed run has moved already."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(source, target)


def remove_slots(sandbox: SandboxPaths) -> None:
    """Remove both slots; their state directory, which marks the rebuild, goes last."""
    remove_tree(f"{sandbox.run}/{os.path.basename(sandbox.rebuild)}")
    remove_tree(sandbox.rebuild)
