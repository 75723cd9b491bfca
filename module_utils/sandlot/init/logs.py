# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The log ring: two files of half the size each, held open, written without ever naming a path.

Lines are in the format of Kubernetes' CRI: time, stream, F (full line) or P (part of one), text.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

MAX_LINE = 16384


class LogRing:
    """Appends to one of two files; when it is full the other one is emptied and becomes current."""

    def __init__(
        self, fds: Tuple[int, int], max_size: int, place: Tuple[int, int] = (0, 0)
    ) -> None:
        """``place`` is what ``newest`` found."""
        self.lost = 0
        self.half = max_size // 2
        self._fds = fds
        self._partial = {"stdout": b"", "stderr": b""}
        self._current, self._size = place

    def feed(self, stream: str, data: bytes) -> None:
        """Log what the workload wrote; an unfinished line waits for its end."""
        lines = (self._partial[stream] + data).split(b"\n")
        rest = lines.pop()
        stamp = _timestamp()
        entries = [entry for line in lines for entry in _entries(stamp, stream, line)]
        while len(rest) >= MAX_LINE:
            entries.append(_entry(stamp, stream, b"P", rest[:MAX_LINE]))
            rest = rest[MAX_LINE:]
        self._partial[stream] = rest
        self._append(entries)

    def flush(self, stream: str) -> None:
        """End of file of a stream: what is left is a line of its own."""
        rest, self._partial[stream] = self._partial[stream], b""
        if rest:
            self._append(_entries(_timestamp(), stream, rest))

    def _append(self, entries: list[bytes]) -> None:
        """Write as many entries at once as the current file has room for."""
        batch: list[bytes] = []
        size = self._size
        for entry in entries:
            if size + len(entry) > self.half and size:
                self._write(b"".join(batch))
                self._turn()
                batch, size = [], 0
            batch.append(entry)
            size += len(entry)
        self._write(b"".join(batch))

    def _turn(self) -> None:
        self._current = 1 - self._current
        os.ftruncate(self._fds[self._current], 0)
        self._size = 0

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            if data:
                written = os.pwrite(self._fds[self._current], data, self._size)
        except OSError:
            pass  # a full host disk must not stop the workload; the loss shows in its status
        self._size += written
        self.lost += len(data) - written


def newest(fds: Tuple[int, int]) -> Tuple[int, int]:
    """Which of the two files is written to, and where it ends; found by the builder."""
    states = [os.fstat(fd) for fd in fds]
    newer = states[1].st_size and states[1].st_mtime_ns > states[0].st_mtime_ns
    current = 1 if newer else 0
    return current, states[current].st_size


def _entries(stamp: str, stream: str, line: bytes) -> list[bytes]:
    """A whole line: parts of MAX_LINE bytes, the last one marked as full."""
    entries = []
    while len(line) > MAX_LINE:
        entries.append(_entry(stamp, stream, b"P", line[:MAX_LINE]))
        line = line[MAX_LINE:]
    return [*entries, _entry(stamp, stream, b"F", line)]


def _entry(stamp: str, stream: str, tag: bytes, text: bytes) -> bytes:
    return f"{stamp} {stream} ".encode() + tag + b" " + text + b"\n"


def _timestamp() -> str:
    nanoseconds = time.time_ns()
    t = time.gmtime(nanoseconds // 1_000_000_000)
    date = f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}"
    clock = f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
    return f"{date}T{clock}.{nanoseconds % 1_000_000_000:09d}Z"
