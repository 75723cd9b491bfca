# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Operations on writable layers: make, discard, and set aside and restore with their pins.

A layer appears whole or not at all, and nothing in it is trusted.
"""

from __future__ import annotations

import contextlib
import os
import stat

from ..idmap import IdRange
from ..kernel.trees import refuse_mounts, remove_tree
from ..site import NEXT, OLD, SandboxPaths


def is_whole(sandbox: SandboxPaths) -> bool:
    """OSError when that can't be seen: a layer that is taken for missing is replaced."""
    try:
        found = [os.stat(path, follow_symlinks=False) for path in (sandbox.upper, sandbox.work)]
    except FileNotFoundError:
        return False
    return all(stat.S_ISDIR(each.st_mode) for each in found)


def exists(path: str) -> bool:
    """OSError when that can't be seen: nothing that was set aside may be overlooked."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def make(sandbox: SandboxPaths, ids: IdRange) -> None:
    """Put a fresh, empty layer in place of the present one; it appears with its owner set."""
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
    """Remove the layer; renamed first, so that a killed removal never leaves half of one in use."""
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
    """Switch to the version in slot next, by renames only; pins move with their directory.

    The directory of slot old comes first and says that the switch has begun.
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
    """Undo ``set_aside``, however far it got: both versions go where they came from."""
    old, new = sandbox.in_slot(OLD), sandbox.in_slot(NEXT)
    if exists(old.layer):
        _move(sandbox.layer, new.layer)
        os.rename(old.layer, sandbox.layer)
    if exists(old.pins):
        # The new version's record is never beside the old pins: without one, pins are remade.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(sandbox.namespaces)
        _move(old.namespaces, sandbox.namespaces)
        _move(sandbox.pins, new.pins)
        os.rename(old.pins, sandbox.pins)


def _move(source: str, target: str) -> None:
    """Rename what may be missing, or was moved by a run that was killed."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(source, target)


def remove_slots(sandbox: SandboxPaths) -> None:
    """Remove what was set aside; the state, which says that there is something, goes last."""
    remove_tree(f"{sandbox.run}/{os.path.basename(sandbox.rebuild)}")
    remove_tree(sandbox.rebuild)
