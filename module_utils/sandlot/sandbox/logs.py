# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reading the log ring that init writes (``init.logs``), also while it is being written.

The writer appends to one file; when it is full it empties the other one and goes on there. So a
reader stays with its file until the other one has begun anew, reads what is left, and follows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Tuple

from ..init import ring
from ..site import SandboxPaths

CHUNK = 1 << 18
# A line starts with its time in nanoseconds: this much of a file tells it from its successor.
_HEAD = 64
_LONGEST = 1 << 15
_STREAMS = (b"stdout", b"stderr")


@dataclass(frozen=True)
class Line:
    """``time`` is RFC 3339 in UTC with nine decimals, so times sort as text."""

    time: str
    stream: str
    text: bytes


class _File:
    """One of the two files, its position, and the beginning of what was read from it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: Optional[int] = None
        self._offset = 0
        self._head = b""

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def _beginning(self) -> bytes:
        if self._fd is None:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return b""
        return os.pread(self._fd, _HEAD, 0)

    def age(self) -> Tuple[bool, int, bytes]:
        """Sorts the files; within one tick of the clock the first line's time decides."""
        head = self._beginning()
        return (*(ring.age(self._fd) if self._fd is not None else (False, 0)), head)

    def begun_anew(self) -> bool:
        """Whether it holds something else than what was read from it."""
        head = self._beginning()
        return bool(head) and not (self._head and head.startswith(self._head))

    def restart(self) -> None:
        """Read it from its beginning."""
        self._offset = 0
        self._head = self._beginning()

    def read(self) -> bytes:
        """What was added since the last call; nothing once it has begun anew."""
        if self._fd is None or self.begun_anew():
            return b""
        self._head = self._beginning() or self._head
        data = os.pread(self._fd, CHUNK, self._offset)
        if self.begun_anew():
            return b""
        self._offset += len(data)
        return data


class Ring:
    """Whole lines of both files in the order of writing."""

    def __init__(self, paths: SandboxPaths) -> None:
        self._files = sorted((_File(path) for path in paths.logs), key=_File.age)
        self._rest = b""
        self._parts: Dict[bytes, bytes] = {}

    def close(self) -> None:
        for file in self._files:
            file.close()

    def lines(self) -> Iterator[Line]:
        """All lines since the last call."""
        while True:
            if self._files[0].begun_anew():
                # The first look, or the writer has come round meanwhile.
                self._files.sort(key=_File.age)
                self._begin()
            yield from self._read_current()
            if self._files[1].begun_anew():
                # Nothing is written to the current file any more: what it got since is the last.
                yield from self._read_current()
                self._files.reverse()
                self._begin()
            elif not self._files[0].begun_anew():
                return

    def _begin(self) -> None:
        self._files[0].restart()
        self._rest = b""

    def _read_current(self) -> Iterator[Line]:
        while True:
            data = self._files[0].read()
            if not data:
                return
            whole = (self._rest + data).split(b"\n")
            # Init writes no such line; one that was taken over may, and a file with holes for free.
            rest = whole.pop()
            self._rest = rest if len(rest) <= _LONGEST else b""
            yield from self._parse(whole)

    def _parse(self, raw: List[bytes]) -> Iterator[Line]:
        for line in raw:
            fields = line.split(b" ", 3)
            if len(fields) < 4 or fields[1] not in _STREAMS:
                continue  # the end of a line whose beginning has been overwritten
            stamp, stream, tag, text = fields
            text = self._parts.pop(stream, b"") + text
            if tag == b"P":
                self._parts[stream] = text
            else:
                yield Line(stamp.decode("ascii", "replace"), stream.decode(), text)
