# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies the data of files: shared blocks where the file system has them, and holes stay holes.

Imported by the launcher and so by every init: imports as little as possible.
"""

from __future__ import annotations

import errno
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

_FICLONE = 0x40049409  # ioctl_ficlone(2)
_CHUNK = 1 << 26
# No file of these two file systems can share blocks with the other's.
_NEVER = (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.ENOSYS)
# This file can't: a swap file, or one that the file system keeps in place.
_NOT_THIS = (*_NEVER, errno.EINVAL, errno.ETXTBSY, errno.EPERM)


class DataCopier:
    """Copies files between the same two file systems; learns from the first what these can."""

    def __init__(self) -> None:
        self.clones = True
        self._ranges = True

    def copy(self, source: int, target: int, size: int) -> bool:
        """Copy ``size`` bytes to an empty file; True when the two share their blocks now."""
        if size and self.clones and self._cloned(source, target):
            return True
        for start, end in extents(source, size):
            self._copy_range(source, target, start, end)
        os.ftruncate(target, size)
        return False

    def _cloned(self, source: int, target: int) -> bool:
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if error.errno not in _NOT_THIS:
                raise
            self.clones = error.errno not in _NEVER
            return False
        return True

    def _copy_range(self, source: int, target: int, start: int, end: int) -> None:
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            copied = self._copy_some(source, target, start, min(end - start, _CHUNK))
            if not copied:
                return  # the file shrank meanwhile
            start += copied

    def _copy_some(self, source: int, target: int, offset: int, count: int) -> int:
        if self._ranges:
            try:
                return os.copy_file_range(source, target, count, offset, offset)
            except OSError as error:
                if error.errno not in _NOT_THIS:
                    raise
                self._ranges = False
                os.lseek(target, offset, os.SEEK_SET)
        return os.sendfile(target, source, offset, count)


def extents(fd: int, size: int, end: int = 0) -> Iterator[tuple[int, int]]:
    """(start, end) of each part that holds data, from the offset ``end`` up to ``size``."""
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            if error.errno == errno.EINVAL:
                yield end, size  # procfs and sysfs know no holes
                return
            raise
        if start >= size:
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end
