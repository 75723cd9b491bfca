# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Compiles tables of system calls for a buffer of ``calls`` in another process."""

from __future__ import annotations

import os
import struct

from ..errors import LaunchError
from . import calls
from .libc import AARCH64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence, Union

# On x86-64 and arm64.
PAIRS = {
    "capset": (126, 91),
    "chdir": (80, 49),
    "close": (3, 57),
    "dup3": (292, 24),
    "keyctl": (250, 219),
    "madvise": (28, 233),
    "prctl": (157, 167),
    "seccomp": (317, 277),
    "setgroups": (116, 159),
    "setns": (308, 268),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "setsid": (112, 157),
    "umask": (95, 166),
    "unshare": (272, 97),
}


class Table:
    """The calls of one step, which errors name, in order."""

    def __init__(self, step: str, address: int) -> None:
        """``address`` is that of the player's buffer."""
        self._step = step
        self._data_at = address + calls.TABLE + calls.HEAD * calls.LONG
        self._data = bytearray()
        self._names: List[str] = []
        self._rows: List[int] = []

    def add(self, name: str, *arguments: Union[int, bytes], tolerated: int = 0) -> None:
        """Add a call; ``tolerated`` is an errno that is no failure. Bytes travel by address."""
        values = [self.place(a) if isinstance(a, bytes) else a for a in arguments]
        values += [0] * (calls.ROW - 2 - len(values))
        self._names.append(name)
        self._rows += [PAIRS[name][AARCH64], *values, tolerated]

    def place(self, data: bytes) -> int:
        """Put data beside the calls; its address in the player."""
        address = self._data_at + len(self._data)
        self._data += data + bytes(-len(data) % calls.LONG)
        return address

    def encoded(self, descriptors: int, first: int) -> bytes:
        """The table for ``Buffer.receive``; its descriptors will have numbers from ``first`` on."""
        begin = calls.TABLE // calls.LONG + calls.HEAD + len(self._data) // calls.LONG
        end = begin + len(self._rows)
        size = end * calls.LONG - calls.TABLE
        room = calls.SIZE - calls.TABLE
        if size > room:
            raise LaunchError(f"{self._step}: its system calls take {size} bytes of {room}")
        head = struct.pack(f"{calls.HEAD}q", size, begin, end, descriptors, first)
        rows = struct.pack(f"{len(self._rows)}q", *self._rows)
        return head + bytes(self._data) + rows

    def failure(self, at: int, code: int) -> str:
        """The error of the call at this place, counted from the first."""
        name = self._names[at] if at < len(self._names) else "?"
        return f"{self._step}: {name}: {os.strerror(code)}"


def ids(values: Sequence[int]) -> bytes:
    """An array of ids, as setgroups(2) takes it."""
    return struct.pack(f"{len(values)}I", *values)
