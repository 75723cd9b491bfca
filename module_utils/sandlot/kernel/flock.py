# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""flock(2), which the kernel releases when its holder dies.

Imported by the launcher: imports as little as possible.
"""

from __future__ import annotations

import fcntl
import os
import time


def take(fd: int) -> None:
    """Wait for the lock, however long another process holds it."""
    fcntl.flock(fd, fcntl.LOCK_EX)


def try_take(fd: int, *, shared: bool = False) -> bool:
    """Take the lock; False when another process holds it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take_until(fd: int, deadline: float, pause: float) -> bool:
    """Take the lock before ``deadline`` (of time.monotonic); False when that has passed."""
    while not try_take(fd):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def is_held(path: str) -> bool:
    """Whether another process holds the lock of a file."""
    try:
        # Without O_NONBLOCK, opening a FIFO in its place would block.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_take(fd, shared=True)
    finally:
        os.close(fd)


def in_place(fd: int, path: str) -> bool:
    """Whether the path still leads to the locked file; its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
