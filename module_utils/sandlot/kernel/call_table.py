# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Compiles tables of system calls, which another process follows (``calls``)."""

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
    "exit_group": (231, 94),
    "ftruncate": (77, 46),
    "keyctl": (250, 219),
    "madvise": (28, 233),
    "memfd_create": (319, 279),
    "mmap": (9, 222),
    "pipe2": (293, 59),
    "prctl": (157, 167),
    "seccomp": (317, 277),
    "setgroups": (116, 159),
    "setns": (308, 268),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "setsid": (112, 157),
    "signalfd4": (289, 74),
    "umask": (95, 166),
    "unshare": (272, 97),
    "wait4": (61, 260),
    "write": (1, 64),
}


class Table:
    """The calls of one step, which errors name, in order."""

    def __init__(self, step: str, buffer: int, *, last: bool = False) -> None:
        """``buffer`` is the address of the follower's, who receives no table after the last."""
        self.step = step
        self._last = last
        # Where the kernel reads the pid from.
        self.pid_at = buffer + calls.SPARE * calls.LONG
        self._data_at = buffer + (calls.TABLE + calls.HEAD) * calls.LONG
        self._data = bytearray()
        self._names: List[str] = []
        self._rows: List[int] = []
        self._ends: List[int] = []

    def add(self, name: str, *arguments: Union[int, bytes], tolerated: int = 0) -> None:
        """Add a call; ``tolerated`` is an errno that is no failure. Bytes travel by address."""
        values = [self.place(a) if isinstance(a, bytes) else a for a in arguments]
        values += [0] * (calls.ROW - 2 - len(values))
        self._names.append(name)
        self._rows += [PAIRS[name][AARCH64], *values, tolerated]

    def fork(self) -> None:
        """Fork after the calls so far; those to come are the parent's, whom ``pid_at`` tells."""
        self._ends.append(len(self._rows))

    def child(self) -> None:
        """The calls to come are the child's; the pid is a negative errno if there is none."""
        self._ends.append(len(self._rows))

    def place(self, data: bytes) -> int:
        """Put data beside the calls; its address in the follower."""
        address = self._data_at + len(self._data)
        self._data += data + bytes(-len(data) % calls.LONG)
        return address

    def encoded(self, descriptors: int, first: int) -> bytes:
        """The table as it is sent; its descriptors will have numbers from ``first`` on."""
        begin = calls.TABLE + calls.HEAD + len(self._data) // calls.LONG
        ends = [*self._ends, len(self._rows), len(self._rows), len(self._rows)][:3]
        places = [begin, *[begin + end for end in ends]]
        then = calls.FORK if self._ends else calls.LAST if self._last else calls.NEXT
        room = calls.SIZE - calls.TABLE * calls.LONG
        size = (places[-1] - calls.TABLE) * calls.LONG
        if size > room:
            raise LaunchError(f"{self.step}: its system calls take {size} bytes of {room}")
        head = struct.pack(f"{calls.HEAD}q", size, *places, descriptors, first, then)
        rows = struct.pack(f"{len(self._rows)}q", *self._rows)
        return head + bytes(self._data) + rows

    def failure(self, at: int, code: int) -> str:
        """The error of the call at this place, counted from the first."""
        name = self._names[at] if at < len(self._names) else "?"
        return f"{self.step}: {name}: {os.strerror(code)}"


def ids(values: Sequence[int]) -> bytes:
    """An array of ids, as setgroups(2) takes it."""
    return struct.pack(f"{len(values)}I", *values)
