# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Waits for changes in directories (inotify(7))."""

from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Optional, Type

from .libc import check, libc

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
_BUFFER = 65536


class Watch:
    """A descriptor that is readable after a change in one of the directories."""

    def __init__(self, *directories: str) -> None:
        self.fd = check(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify_init1")
        try:
            for directory in directories:
                self.add(directory)
        except OSError:
            os.close(self.fd)
            raise

    def add(self, directory: str) -> None:
        mask = ctypes.c_uint32(IN_MODIFY | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF)
        result = libc.inotify_add_watch(self.fd, os.fsencode(directory), mask)
        check(result, "inotify_add_watch", directory)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        os.close(self.fd)

    def clear(self) -> None:
        """Forget the changes so far, before a look at the directories."""
        try:
            while os.read(self.fd, _BUFFER):
                continue
        except BlockingIOError:
            return
