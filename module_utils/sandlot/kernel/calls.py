# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Plays tables of system calls, which another process compiles (``call_table``), from one buffer.

Code of Python that runs writes to the pages of its objects, and each init would have its own copy
of them. Playing hundreds of calls touches those of one loop. Whoever sends a table makes its
player do anything: it may come from host root only.

glibc's syscall() takes its arguments from the registers of a function with seven longs, variadic
or not, on x86-64 and arm64 alike: only Apple passes variadic ones on the stack.
"""

from __future__ import annotations

import ctypes
import errno

from .libc import AARCH64, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

SYS_MADVISE = 233 if AARCH64 else 28
_SYS_MMAP = 222 if AARCH64 else 9
_SYS_RECVMSG = 212 if AARCH64 else 47
_PROT_READ_WRITE = 3
_MAP_PRIVATE_ANONYMOUS = 0x22
_MSG_CMSG_CLOEXEC = 0x40000000
_MSG_TRUNC, _MSG_CTRUNC = 0x20, 0x8

LONG = 8
# A row: the number of a call, six arguments, and the errno that is no failure.
ROW = 8
MAX_FDS = 24
SIZE = 1 << 17
PAGE = 4096
# Bytes of the buffer that ``receive`` needs; those up to TABLE are the player's own.
OWN, TABLE = 256, 1024
# Longs before the rows: the bytes of the table, where its rows begin and end in the buffer, its
# descriptors and the number of the first.
HEAD = 5
# Places in longs: struct msghdr, then its struct iovec, then its struct cmsghdr.
_CONTROL_SIZE, _FLAGS, _IOVEC, _CONTROL = 5, 6, 7, 9
_RIGHTS = _CONTROL + 2
_CONTROL_ROOM = 16 + 4 * MAX_FDS
_SCM_RIGHTS = 1 << 32 | 1  # cmsg_type and cmsg_level

# Keeps the interpreter's lock across the call, as a child may go on in the interpreter.
call = ctypes.PyDLL(None, use_errno=True)["syscall"]
call.argtypes = [ctypes.c_long] * 7
call.restype = ctypes.c_long
# The errno of the last call.
failed = ctypes.get_errno


class Buffer:
    """Memory of one address in all forks of the process that makes it."""

    def __init__(self) -> None:
        flags = (_PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, -1, 0)
        self.address = check(call(_SYS_MMAP, 0, SIZE, *flags), "mmap")
        memory = memoryview((ctypes.c_char * SIZE).from_address(self.address)).cast("B")
        self.longs = memory.cast("q")
        self._ints = memory.cast("i")
        header = (0, 0, _IOVEC, 1, _CONTROL, _CONTROL_ROOM, 0, TABLE // LONG, SIZE - TABLE)
        for at, value in enumerate(header):
            self.longs[at] = value
        for at, pointed in ((2, _IOVEC), (4, _CONTROL), (_IOVEC, TABLE // LONG)):
            self.longs[at] = self.address + pointed * LONG

    def receive(self, sock: int) -> Tuple[int, int]:
        """Receive a table and its descriptors; where its rows begin and end.

        ConnectionResetError if the sender is gone, EPROTO for anything that is no whole table, or
        for descriptors of other numbers than it uses.
        """
        longs = self.longs
        longs[_CONTROL_SIZE] = _CONTROL_ROOM
        size = check(call(_SYS_RECVMSG, sock, self.address, _MSG_CMSG_CLOEXEC, 0, 0, 0), "recvmsg")
        if size == 0:
            raise ConnectionResetError(errno.ECONNRESET, "the sender is gone")
        at = TABLE // LONG
        begin, end = longs[at + 1], longs[at + 2]
        if (
            size < HEAD * LONG
            or size != longs[at]
            or longs[_FLAGS] & (_MSG_TRUNC | _MSG_CTRUNC)
            or not at + HEAD <= begin <= end <= at + size // LONG
            or (end - begin) % ROW
            or not self._has_descriptors(longs[at + 3], longs[at + 4])
        ):
            raise OSError(errno.EPROTO, "what was received is no whole table")
        return begin, end

    def _has_descriptors(self, count: int, first: int) -> bool:
        """Whether these descriptors were received, and only these."""
        longs, ints = self.longs, self._ints
        if not count:
            return not longs[_CONTROL_SIZE]
        if longs[_CONTROL] != 16 + 4 * count or longs[_CONTROL + 1] != _SCM_RIGHTS:
            return False
        for number in range(count):
            if ints[_RIGHTS * 2 + number] != first + number:
                return False
        return True

    def play(self, at: int, end: int) -> int:
        """Make the calls from ``at`` on; the place of the one that ``failed``, or ``end``."""
        row = self.longs
        while at < end:
            if (
                call(
                    row[at],
                    row[at + 1],
                    row[at + 2],
                    row[at + 3],
                    row[at + 4],
                    row[at + 5],
                    row[at + 6],
                )
                < 0
                and failed() != row[at + 7]
            ):
                return at
            at += ROW
        return end
