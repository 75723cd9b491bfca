# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The log ring: two files of half the size each, held open, written without ever naming a path.

Lines are in the format of Kubernetes' CRI: time, stream, F (full line) or P (part of one), text.
Where the host has a journal, it is sent the same lines; it may take them or not.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence, Tuple

MAX_LINE = 16384
# Closes a full half. An entry has no empty line, and whoever reads passes over one.
_END = b"\n"


class Journal:
    """A stream of the host's journal: whole lines, as long as it takes them without waiting."""

    def __init__(self, fd: int) -> None:
        self.lost = 0
        self._fd: Optional[int] = fd
        self._cut = b""

    def write(self, lines: bytes) -> None:
        """What does not fit is dropped; how much, it is told as soon as there is room again."""
        if self._fd is None:
            return
        try:
            self._cut = self._cut[_sent(self._fd, self._cut) :]
            note = b"sandlot: %d bytes are missing here\n" % self.lost if self.lost else b""
            data = note + lines
            sent = 0 if self._cut else _sent(self._fd, data)
        except OSError:
            # The journal has gone. Only the next init gets another way to it.
            os.close(self._fd)
            self._fd = None
            return
        if not sent:
            self.lost += len(lines)
            return
        end = data.find(b"\n", sent - 1) + 1
        self._cut = data[sent:end]
        self.lost = len(data) - end


def _sent(fd: int, data: bytes) -> int:
    """How much of it the journal took."""
    try:
        return os.write(fd, data) if data else 0
    except BlockingIOError:
        return 0


class LogRing:
    """Appends to one of two files; when it is full the other one is emptied and becomes current."""

    def __init__(
        self,
        fds: Tuple[int, int],
        max_size: int,
        place: Tuple[int, int] = (0, 0),
        journal: Sequence[int] = (),
    ) -> None:
        """``place`` is what ``newest`` found; ``journal`` has a descriptor for each stream."""
        self.lost = 0
        self.half = max_size // 2
        self._fds = fds
        self._partial = {"stdout": b"", "stderr": b""}
        self._current, self._size = place
        self._journal = dict(zip(("stdout", "stderr"), map(Journal, journal)))

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
        self._append(stream, entries)

    def flush(self, stream: str) -> None:
        """End of file of a stream: what is left is a line of its own."""
        rest, self._partial[stream] = self._partial[stream], b""
        if rest:
            self._append(stream, _entries(_timestamp(), stream, rest))

    def _append(self, stream: str, entries: list[bytes]) -> None:
        """Write as many entries at once as the current file has room for."""
        batch: list[bytes] = []
        size = self._size
        for entry in entries:
            if size + len(entry) > self.half - len(_END) and size:
                self._write(b"".join(batch))
                self._turn()
                batch, size = [], 0
            batch.append(entry)
            size += len(entry)
        self._write(b"".join(batch))
        if entries and stream in self._journal:
            texts = [entry.split(b" ", 3)[3] for entry in entries]
            self._journal[stream].write(b"".join(texts))

    def _turn(self) -> None:
        try:
            os.pwrite(self._fds[self._current], _END, self._size)
        except OSError:
            pass  # a full disk, as below: then the times of the files decide
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


def age(fd: int) -> Tuple[bool, int]:
    """Sorts the two files: a closed one is the older, whatever the clock was set to meanwhile."""
    state = os.fstat(fd)
    closed = os.pread(fd, 2, max(state.st_size - 2, 0)) == b"\n" + _END
    return not closed, state.st_mtime_ns if state.st_size else 0


def newest(fds: Tuple[int, int]) -> Tuple[int, int]:
    """Which of the two files is written to, and where it ends; found by the builder."""
    current = 1 if age(fds[1]) > age(fds[0]) else 0
    return current, os.fstat(fds[current]).st_size


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
