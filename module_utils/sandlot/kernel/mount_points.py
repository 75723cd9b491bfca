# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Mount points at and below paths, for a look before something is removed or moved."""

from __future__ import annotations

import _thread
import bisect
import contextlib
import os
import select
from typing import Iterator

from . import mountinfo


class _Kept:
    """The mount points as they were read; the kernel wakes who polls the list when it changes.

    A child after fork(2) and another thread would take that news away from each other.
    """

    def __init__(self) -> None:
        self.user = os.getpid(), _thread.get_ident()
        self.fd = os.open(mountinfo.PATH, os.O_RDONLY | os.O_CLOEXEC)
        self.points: list[str] | None = None
        self._poller = select.poll()
        self._poller.register(self.fd, select.POLLPRI)

    def has_none(self, real: str) -> bool:
        if self._poller.poll(0):
            self.points = None
        if self.points is None:
            self.points = sorted(point for point, dummy in mountinfo.points())
        at, below = (bisect.bisect_left(self.points, path) for path in (real, f"{real}/"))
        return self.points[at : at + 1] != [real] and not any(
            point.startswith(f"{real}/") for point in self.points[below : below + 1]
        )


_kept: _Kept | None = None


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let ``within`` read the list again when it has changed only, for many paths.

    Whoever renames a directory with mounts in it calls ``renamed``.
    """
    global _kept
    if _kept is not None:
        yield
        return
    _kept = _Kept()
    try:
        yield
    finally:
        os.close(_kept.fd)
        _kept = None


def renamed() -> None:
    """Forget the paths of mounts: the kernel tells nobody of those that a rename changes."""
    if _kept is not None:
        _kept.points = None


def within(path: str) -> list[str]:
    """Mount points at or below a path; links in its parents are followed."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if _kept and _kept.user == (os.getpid(), _thread.get_ident()) and _kept.has_none(real):
        return []
    return [
        point
        for point, dummy in mountinfo.points()
        if point == real or point.startswith(f"{real}/")
    ]
