# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes the log ring: two files of half the size each, held open, so init needs no path."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Sequence, Tuple

    from ..site import SandboxPaths

# Marks a full file as closed. Entries have no empty lines, and readers skip them.
_END = b"\n"


class Ring:
    """Appends to one of two files; when it is full the other one is emptied and becomes current."""

    sample = (2, (0, 0))

    @staticmethod
    def open(paths: SandboxPaths) -> Tuple[List[int], Tuple[int, int]]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fds = [os.open(path, flags, 0o600) for path in paths.logs]
        return fds, newest(fds)

    def __init__(self, fds: Sequence[int], place: Tuple[int, int]) -> None:
        """``place`` is the result of ``newest``."""
        self.lost = 0
        self._half = 0
        self._fds = fds
        self._current, self._size = place

    def saved(self) -> int:
        return self.lost

    def restore(self, saved: int) -> None:
        """Go on where the files end: their last writer may have been killed."""
        self.lost = saved
        self._current, self._size = newest(self._fds)

    def configure(self, config: Mapping[str, Any]) -> None:
        self._half = config["log_max_size"] // 2

    def write(self, _stream: str, entries: List[bytes]) -> None:
        """Write entries; one write takes as many as the current file has room for."""
        batch: List[bytes] = []
        size = self._size
        for entry in entries:
            if size + len(entry) > self._half - len(_END) and size:
                self._append(b"".join(batch))
                self._turn()
                batch, size = [], 0
            batch.append(entry)
            size += len(entry)
        self._append(b"".join(batch))

    def _turn(self) -> None:
        try:
            os.pwrite(self._fds[self._current], _END, self._size)
        except OSError:
            pass  # a full disk, as below: then the times of the files decide
        self._current = 1 - self._current
        os.ftruncate(self._fds[self._current], 0)
        self._size = 0

    def _append(self, data: bytes) -> None:
        written = 0
        try:
            if data:
                written = os.pwrite(self._fds[self._current], data, self._size)
        except OSError:
            pass  # a full host disk must not stop the workload; the loss shows in its status
        self._size += written
        self.lost += len(data) - written


def age(fd: int) -> Tuple[bool, int]:
    """The key to sort the two files: a closed one is older, even if the clock was set back."""
    state = os.fstat(fd)
    closed = os.pread(fd, 2, max(state.st_size - 2, 0)) == b"\n" + _END
    return not closed, state.st_mtime_ns if state.st_size else 0


def newest(fds: Sequence[int]) -> Tuple[int, int]:
    """The number of the current file, and its end."""
    current = 1 if age(fds[1]) > age(fds[0]) else 0
    return current, os.fstat(fds[current]).st_size
