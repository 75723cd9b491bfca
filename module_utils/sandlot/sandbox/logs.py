# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads the log ring that init writes (``init.ring``), also while init writes.

Init appends to one file; when the file is full, init empties the other file and goes on there. So a
reader stays with its file until the other one starts over, reads the rest, and follows. Init is no
more trusted than its workload: the reader reads bounded pieces and follows no link.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from ..init import ring
from ..site import SandboxPaths

CHUNK = 1 << 18
# A line starts with its time in nanoseconds: this much of a file tells it from its successor.
_HEAD = 64
_LONGEST = 1 << 15
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_STREAMS = (b"stdout", b"stderr")


@dataclass(frozen=True)
class Line:
    """``time`` is RFC 3339 in UTC with nine decimals, so times sort as text."""

    time: str
    stream: str
    text: bytes


def tail(sandbox: SandboxPaths, size: int, since: Mapping[str, int] | None = None) -> List[Line]:
    """The last lines, oldest first, from ``size`` bytes of each file; a long line comes in parts.

    ``since`` maps files to earlier sizes: only bytes beyond them are read.
    """
    files = [_File(path) for path in sandbox.logs]
    try:
        paths = [file.path for file in sorted(files, key=_File.age)]
    finally:
        for file in files:
            file.close()
    begun = since or {}
    ends = (read_end(path, size, begun.get(path, 0)) for path in paths)
    return [line for data in ends for line, dummy in _entries(data.split(b"\n"))]


def sizes(sandbox: SandboxPaths) -> Dict[str, int]:
    """The sizes of the files, for ``tail`` to skip the lines up to now."""
    return {path: os.stat(path).st_size for path in sandbox.logs if os.path.exists(path)}


def read_end(path: str, size: int, begin: int = 0) -> bytes:
    """The last ``size`` bytes after ``begin``; of the whole file if it became shorter."""
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        return b""
    try:
        length = os.fstat(fd).st_size
        return os.pread(fd, size, max(begin if begin <= length else 0, length - size))
    finally:
        os.close(fd)


def _entries(raw: Iterable[bytes]) -> Iterator[Tuple[Line, bool]]:
    """(line, whether it is complete); the next line of its stream continues an incomplete one."""
    for line in raw:
        fields = line.split(b" ", 3)
        if len(fields) == 4 and fields[1] in _STREAMS:
            stamp, stream, tag, text = fields
            yield Line(stamp.decode("ascii", "replace"), stream.decode(), text), tag != b"P"
        # Other lines have lost their beginning, or init never wrote them.


class _File:
    """One of the two files, with the reader's position and the first bytes that it read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd: Optional[int] = None
        self._offset = 0
        self._head = b""

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def _beginning(self) -> bytes:
        if self._fd is None:
            try:
                self._fd = os.open(self.path, _READ)
            except FileNotFoundError:
                return b""
        return os.pread(self._fd, _HEAD, 0)

    def age(self) -> Tuple[bool, int, bytes]:
        """The key to sort the files; within one clock tick, the first line's time decides."""
        head = self._beginning()
        return (*(ring.age(self._fd) if self._fd is not None else (False, 0)), head)

    def starts_over(self) -> bool:
        """Whether init has emptied the file since the reader began with it."""
        head = self._beginning()
        return bool(head) and not (self._head and head.startswith(self._head))

    def restart(self) -> None:
        """Read the file from its beginning."""
        self._offset = 0
        self._head = self._beginning()

    def read(self) -> bytes:
        """The bytes since the last call; b"" once the file starts over."""
        if self._fd is None or self.starts_over():
            return b""
        self._head = self._beginning() or self._head
        data = os.pread(self._fd, CHUNK, self._offset)
        if self.starts_over():
            return b""
        self._offset += len(data)
        return data


class Ring:
    """Joins the lines of both files, in the order of writing."""

    def __init__(self, paths: SandboxPaths) -> None:
        self._files = sorted((_File(path) for path in paths.logs), key=_File.age)
        self._rest = b""
        self._parts: Dict[str, bytes] = {}

    def close(self) -> None:
        for file in self._files:
            file.close()

    def lines(self) -> Iterator[Line]:
        """All lines since the last call."""
        while True:
            if self._files[0].starts_over():
                # The first look, or the writer has come round meanwhile.
                self._files.sort(key=_File.age)
                self._begin()
            yield from self._read_current()
            if self._files[1].starts_over():
                # Init no longer writes to the current file: read its last lines.
                yield from self._read_current()
                self._files.reverse()
                self._begin()
            elif not self._files[0].starts_over():
                return

    def _begin(self) -> None:
        self._files[0].restart()
        self._rest = b""

    def _read_current(self) -> Iterator[Line]:
        while True:
            data = self._files[0].read()
            if not data:
                return
            lines = (self._rest + data).split(b"\n")
            # Init never writes so long a line, but a tenant who controls init may, or make holes.
            rest = lines.pop()
            self._rest = rest if len(rest) <= _LONGEST else b""
            for line, is_whole in _entries(lines):
                text = self._parts.pop(line.stream, b"") + line.text
                if is_whole:
                    yield Line(line.time, line.stream, text)
                else:
                    self._parts[line.stream] = text
