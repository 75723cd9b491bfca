# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A sandbox's writable layer: made whole or not at all, removed without trusting what is in it."""

from __future__ import annotations

import os
import stat

from ..idmap import IdRange
from ..kernel.trees import refuse_mounts, remove_tree
from ..site import SandboxPaths

__all__ = ["complete", "discard", "exists", "make", "remove_tree"]


def complete(sandbox: SandboxPaths) -> bool:
    """OSError when that can't be seen: a layer that is taken for missing is made anew."""
    return all(map(_is_directory, (sandbox.upper, sandbox.work)))


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def exists(path: str) -> bool:
    """OSError when that can't be seen: what a rebuild set aside is not to be overlooked."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def make(sandbox: SandboxPaths, ids: IdRange) -> None:
    """A fresh, empty layer in place of whatever is there; it appears with its owner set."""
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
