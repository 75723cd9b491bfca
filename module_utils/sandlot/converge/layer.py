# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A sandbox's writable layer: made whole or not at all, removed without trusting what is in it."""

from __future__ import annotations

import os
import secrets
import stat

from ..idmap import IdRange
from ..paths import SandboxPaths

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
    remove_tree(old)
    try:
        os.rename(sandbox.layer, old)
    except FileNotFoundError:
        return
    remove_tree(old)


def remove_tree(path: str) -> None:
    """Remove a tree a tenant wrote: by descriptors, never following a link, whatever its depth."""
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(top: int) -> None:
    """Hoist nested directories to the top until all are leaves: constant depth and descriptors."""
    prefix = f".{secrets.token_hex(8)}-"
    serial = 0
    entries = _entries(top)
    while entries:
        for name, is_directory in entries:
            if is_directory:
                serial = _hoist(top, name, prefix, serial)
            else:
                os.unlink(name, dir_fd=top)
        entries = _entries(top)


def _hoist(top: int, name: str, prefix: str, serial: int) -> int:
    child = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        for inner, is_directory in _entries(child):
            if is_directory:
                serial += 1
                os.rename(inner, f"{prefix}{serial}", src_dir_fd=child, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=child)
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=top)
    return serial


def _entries(directory: int) -> list[tuple[str, bool]]:
    with os.scandir(directory) as found:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
