# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The log ring: two files of half the size each, held open, written without ever naming a path.

Lines are in the format of Kubernetes' CRI: time, stream, F (full line) or P (part of one), text.
"""

from __future__ import annotations

import os
import time

MAX_LINE = 16384


class LogRing:
    """Appends to one of two files; when it is full the other one is emptied and becomes current."""

    def __init__(self, fds: tuple[int, int], max_size: int) -> None:
        self.lost = 0
        self.half = max_size // 2
        self._fds = fds
        self._partial: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        states = [os.fstat(fd) for fd in fds]
        newer = states[1].st_size and states[1].st_mtime_ns > states[0].st_mtime_ns
        self._current = 1 if newer else 0
        self._size = states[self._current].st_size

    def feed(self, stream: str, data: bytes) -> None:
        """Log what the workload wrote; an unfinished line waits for its end."""
        lines = (self._partial[stream] + data).split(b"\n")
        rest = lines.pop()
        stamp = _timestamp()
        full = f"{stamp} {stream} F ".encode()
        parts = [b"%s%s\n" % (full, line) for line in lines]
        while len(rest) >= MAX_LINE:
            parts.append(f"{stamp} {stream} P ".encode() + rest[:MAX_LINE] + b"\n")
            rest = rest[MAX_LINE:]
        self._partial[stream] = rest
        if parts:
            self._append(b"".join(parts))

    def flush(self, stream: str) -> None:
        """End of file of a stream: what is left is a line of its own."""
        rest, self._partial[stream] = self._partial[stream], b""
        if rest:
            self._append(f"{_timestamp()} {stream} F ".encode() + rest + b"\n")

    def _append(self, data: bytes) -> None:
        if self._size + len(data) > self.half:
            self._current = 1 - self._current
            os.ftruncate(self._fds[self._current], 0)
            self._size = 0
            data = data[-self.half :]
        try:
            self._size += os.pwrite(self._fds[self._current], data, self._size)
        except OSError:
            # A full host disk must not stop the workload; the loss is counted and shown in status.
            self.lost += len(data)


def _timestamp() -> str:
    nanoseconds = time.time_ns()
    t = time.gmtime(nanoseconds // 1_000_000_000)
    date = f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}"
    clock = f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
    return f"{date}T{clock}.{nanoseconds % 1_000_000_000:09d}Z"
