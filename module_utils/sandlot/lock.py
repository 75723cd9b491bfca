# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One writer per host: an flock, which the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import Iterator

from .errors import SandlotError
from .paths import Paths

WAIT_SECONDS = 300.0
POLL_SECONDS = 0.1


@contextlib.contextmanager
def exclusive(paths: Paths, *, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the host's writer lock; wait up to ``wait`` seconds for another run to finish."""
    os.makedirs(paths.state, mode=0o700, exist_ok=True)
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _acquire(fd, paths.lock, wait)
        yield
    finally:
        os.close(fd)


def _acquire(fd: int, path: str, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= deadline:
            raise SandlotError(
                f"another sandlot run has held {path} for {wait:.0f} seconds",
                hint="let it finish, or end it; the lock is released with its process",
            )
        time.sleep(POLL_SECONDS)
