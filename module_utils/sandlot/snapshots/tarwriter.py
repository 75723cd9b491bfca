# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes tar streams (ustar with pax headers) to a descriptor, in bounded memory."""

from __future__ import annotations

import os
from typing import List, Mapping, Sequence, Tuple

from ..kernel.files import write_all

BLOCK = 512
_CHUNK = 1 << 20
_RECORD = 10240
FILE, HARD_LINK, SYMLINK, CHARACTER, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"5", b"6"
# The largest numbers that octal digits in a header hold.
_MOST = 8**11 - 1
_MOST_ID = 8**7 - 1
# More parts than readers take: then holes are stored as zeros.
MAX_PARTS = 1 << 15
_ATTRIBUTE = "SCHILY.xattr."


class TarWriter:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._written = 0

    def add(
        self,
        name: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        owner: Tuple[int, int],
        link: bytes = b"",
        attributes: Mapping[str, bytes] | None = None,
    ) -> None:
        """Add a member without data."""
        self._header(name, kind, status, owner, 0, link, self._extended(status, attributes))

    def add_file(
        self,
        name: bytes,
        source: int,
        status: os.stat_result,
        parts: Sequence[Tuple[int, int]],
        *,
        owner: Tuple[int, int],
        attributes: Mapping[str, bytes],
    ) -> None:
        """Add a file; ``parts`` are (start, end) of what it holds beside holes."""
        extended = self._extended(status, attributes)
        table, size = b"", status.st_size
        whole = [(0, size)] if size else []
        if list(parts) == whole or len(parts) > MAX_PARTS:
            parts = whole
        else:
            table = _map(parts)
            extended += [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]
            extended += [("GNU.sparse.name", name), ("GNU.sparse.realsize", b"%d" % size)]
            size = len(table) + sum(end - start for start, end in parts)
        self._header(name, FILE, status, owner, size, b"", extended)
        self._write(table)
        for start, end in parts:
            self._copy(source, start, end)
        self._pad(BLOCK)

    def add_text(self, name: bytes, content: bytes, when: float) -> None:
        """Add a file of ours."""
        block = _block(name, FILE, 0o600, (0, 0), len(content), int(when), b"")
        self._write(block)
        self._write(content)
        self._pad(BLOCK)

    def close(self) -> None:
        """End the archive as tar does, with blocks of zeros up to a record."""
        self._write(bytes(2 * BLOCK))
        self._pad(_RECORD)

    @staticmethod
    def _extended(
        status: os.stat_result, attributes: Mapping[str, bytes] | None
    ) -> List[Tuple[str, bytes]]:
        extended = [("mtime", _decimal(status.st_mtime_ns))]
        extended += [
            (_ATTRIBUTE + _keyword(key), value) for key, value in (attributes or {}).items()
        ]
        return extended

    def _header(
        self,
        name: bytes,
        kind: bytes,
        status: os.stat_result,
        owner: Tuple[int, int],
        size: int,
        link: bytes,
        extended: List[Tuple[str, bytes]],
    ) -> None:
        if len(name) > 100:
            extended.append(("path", name))
        if len(link) > 100:
            extended.append(("linkpath", link))
        if size > _MOST:
            extended.append(("size", b"%d" % size))
        records = b"".join(_record(key, value) for key, value in extended)
        seconds = max(0, min(status.st_mtime_ns // 10**9, _MOST))
        self._write(_block(b"././@PaxHeader", b"x", 0o600, (0, 0), len(records), 0, b""))
        self._write(records)
        self._pad(BLOCK)
        mode, shown = status.st_mode & 0o7777, min(size, _MOST)
        self._write(_block(name[:100], kind, mode, owner, shown, seconds, link[:100]))

    def _copy(self, source: int, start: int, end: int) -> None:
        while start < end:
            chunk = os.pread(source, min(end - start, _CHUNK), start)
            # A file that shrank is filled up, as its size is written already.
            chunk = chunk or bytes(min(end - start, _CHUNK))
            self._write(chunk)
            start += len(chunk)

    def _write(self, data: bytes) -> None:
        write_all(self._fd, data)
        self._written += len(data)

    def _pad(self, unit: int) -> None:
        self._write(bytes(-self._written % unit))


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    owner: Tuple[int, int],
    size: int,
    seconds: int,
    link: bytes,
) -> bytes:
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        mode,
        min(owner[0], _MOST_ID),
        min(owner[1], _MOST_ID),
        size,
        seconds,
    )
    tail = kind + link.ljust(100, b"\0") + b"ustar\00000" + bytes(64)
    tail += b"%07o\0%07o\0" % (0, 0)
    block = (name.ljust(100, b"\0") + numbers + b" " * 8 + tail).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: str, value: bytes) -> bytes:
    """A pax record: its length counts the digits of the length."""
    keyword = os.fsencode(key)
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def _keyword(name: str) -> str:
    """The name of an attribute as GNU tar writes it: a record's first "=" ends the key."""
    return name.replace("%", "%25").replace("=", "%3D")


def _decimal(nanoseconds: int) -> bytes:
    seconds, rest = divmod(max(nanoseconds, 0), 10**9)
    return b"%d.%09d" % (seconds, rest)


def _map(parts: Sequence[Tuple[int, int]]) -> bytes:
    """The map of a sparse file (GNU format 1.0), in whole blocks."""
    numbers = [len(parts), *(number for start, end in parts for number in (start, end - start))]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + bytes(-len(text) % BLOCK)
