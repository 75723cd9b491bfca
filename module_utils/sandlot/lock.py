# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One writer per host: an flock, which the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import Iterator

from .errors import SandlotError, StateError
from .kernel import flock, processes
from .site import Site

WAIT_SECONDS = 300.0
POLL_SECONDS = 0.1


@contextlib.contextmanager
def exclusive(site: Site, *, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the host's writer lock; wait up to ``wait`` seconds for another run to finish."""
    fd, fresh = _locked(site, time.monotonic() + wait, wait)
    try:
        yield
    finally:
        if fresh and os.path.isdir(site.state):
            # A run that made the state directory and wrote nothing removes it again.
            if os.listdir(site.state) == [os.path.basename(site.lock)]:
                os.unlink(site.lock)
                os.rmdir(site.state)
        os.close(fd)


def _locked(site: Site, deadline: float, wait: float) -> tuple[int, bool]:
    """Lock the lock file; its descriptor, and whether the state directory is new.

    A teardown removes the lock file with the state while it holds the lock, so a locked file may
    no longer be the one at the path.
    """
    while True:
        fresh = not os.path.isdir(site.state)
        os.makedirs(site.state, mode=0o700, exist_ok=True)
        fd = _open(site.lock)
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, fd)
            if not flock.take_until(fd, deadline, POLL_SECONDS):
                raise _held(site.lock, wait)
            if flock.in_place(fd, site.lock):
                closing.pop_all()
                return fd, fresh


def _open(path: str) -> int:
    try:
        # Without O_NONBLOCK, opening a FIFO in its place would block.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise
        raise _no_lock(path) from error
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise _no_lock(path)


def _no_lock(path: str) -> StateError:
    return StateError(f"{path} is not the lock file of sandlot", hint=f"remove {path}, run again")


def _held(path: str, wait: float) -> SandlotError:
    holder = processes.flock_holder(path)
    by = f"another sandlot run, {processes.describe(holder)}," if holder else "another sandlot run"
    hint = "let it finish, or end it; the lock is released with its process"
    if holder and processes.is_stopped(holder):
        hint = f"continue it: kill -CONT {holder}; or end it, which releases the lock"
    return SandlotError(f"{by} has held {path} for {wait:.0f} seconds", hint=hint)
