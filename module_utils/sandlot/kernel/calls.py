# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Follows tables of system calls, which another process compiles (``call_table``), in one buffer.

Code of Python that runs writes to the pages of its objects: of each function, module and name. Each
init would have its own copy of them. To follow a table of any length takes the pages of one loop.
Whoever sends tables makes their follower do anything, so they come from host root only.

glibc's syscall() takes its arguments from the registers of a function with seven longs, variadic
or not, on x86-64 and arm64 alike: only Apple passes variadic ones on the stack.
"""

from __future__ import annotations

import ctypes
import errno

from .libc import AARCH64, SYS_CLONE, SYS_MMAP, check

_SYS_RECVMSG = 212 if AARCH64 else 47
_SIGCHLD = 17
PROT_READ_WRITE = 3
MAP_SHARED_FIXED = 0x11
_MAP_PRIVATE_ANONYMOUS = 0x22
_MSG_CMSG_CLOEXEC = 0x40000000
_CUT = 0x20 | 0x8  # MSG_TRUNC, MSG_CTRUNC

SIZE = 1 << 17
PAGE = 4096
LONG = 8
# A row: the number of a call, six arguments, and the errno that is no failure.
ROW = 8
# Places in longs: struct msghdr, struct iovec, struct cmsghdr; a spare long; the table.
_CONTROL_SIZE, _FLAGS, _IOVEC, _CONTROL = 5, 6, 7, 9
_RIGHTS = _CONTROL + 2
SPARE, TABLE = 31, 128
MAX_FDS = 24
_CONTROL_ROOM = 16 + 4 * MAX_FDS
_SCM_RIGHTS = 1 << 32 | 1  # cmsg_type and cmsg_level
# The longs before the rows: the bytes of the table; where its rows begin and end in the buffer,
# then those of the parent and the child of a fork; the number of descriptors, and of the first one;
# what follows.
HEAD = 8
_TOTAL, _BEGIN, _END, _PARENT, _CHILD, _COUNT, _FIRST, _THEN = range(TABLE, TABLE + HEAD)
LAST, NEXT, FORK = 0, 1, 2

# Keeps the interpreter's lock across the call, as a child goes on in the interpreter.
call = ctypes.PyDLL(None, use_errno=True)["syscall"]
call.argtypes = [ctypes.c_long] * 7
call.restype = ctypes.c_long
# The errno of the last call.
failed = ctypes.get_errno


class Buffer:
    """Memory of one address in all forks of the process that makes it."""

    def __init__(self) -> None:
        flags = (PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, -1, 0)
        self.address = check(call(SYS_MMAP, 0, SIZE + PAGE, *flags), "mmap")
        # A page for its user, who may map something else in its place.
        self.shared = self.address + SIZE
        memory = memoryview((ctypes.c_char * SIZE).from_address(self.address)).cast("B")
        self._longs = memory.cast("q")
        self._ints = memory.cast("i")
        header = (0, 0, _IOVEC, 1, _CONTROL, _CONTROL_ROOM, 0, TABLE, SIZE - TABLE * LONG)
        for at, value in enumerate(header):
            self._longs[at] = value
        for at in (2, 4, _IOVEC):
            self._longs[at] = self.address + self._longs[at] * LONG

    def follow(self, sock: int) -> int:
        """Follow the tables that come by a socket; the number of the call that failed, or -1.

        A table may fork. Its child goes on here, its parent too if its calls don't end it. They
        find the pid, or a negative errno, in the spare long. ConnectionError if the sender is gone,
        EPROTO for anything that is no whole table, or for descriptors of other numbers than its.
        """
        # One function, as each further one is pages of its own, and so are slices. Nor does a raw
        # clone write to memory as fork(3) does, which repairs locks of threads.
        make, error, longs, ints = call, failed, self._longs, self._ints
        address = self.address
        while True:
            longs[_CONTROL_SIZE] = _CONTROL_ROOM
            size = make(_SYS_RECVMSG, sock, address, _MSG_CMSG_CLOEXEC, 0, 0, 0)
            if size <= 0:
                raise ConnectionResetError(errno.ECONNRESET, "the sender of tables is gone")
            begin, end, parent, child = longs[_BEGIN], longs[_END], longs[_PARENT], longs[_CHILD]
            count, number, then = longs[_COUNT], longs[_FIRST], longs[_THEN]
            whole = (
                size == longs[_TOTAL] >= HEAD * LONG
                and not longs[_FLAGS] & _CUT
                and TABLE + HEAD <= begin <= end <= parent <= child <= TABLE + size // LONG
                and not (end - begin | parent - end | child - parent) % ROW
                and longs[_CONTROL_SIZE] == (16 + 4 * count + 7 & ~7 if count else 0)
                and (not count or longs[_CONTROL] == 16 + 4 * count)
                and (not count or longs[_CONTROL + 1] == _SCM_RIGHTS)
            )
            for place in range(2 * _RIGHTS, 2 * _RIGHTS + (count if whole else 0)):
                whole = whole and ints[place] == number
                number += 1
            if not whole:
                raise OSError(errno.EPROTO, "what was received is no whole table")
            at = begin
            while True:
                while at < end:
                    result = make(
                        longs[at],
                        longs[at + 1],
                        longs[at + 2],
                        longs[at + 3],
                        longs[at + 4],
                        longs[at + 5],
                        longs[at + 6],
                    )
                    if result < 0 and error() != longs[at + 7]:
                        return (at - begin) // ROW
                    at += ROW
                if then != FORK:
                    break
                then = NEXT
                pid = make(SYS_CLONE, _SIGCHLD, 0, 0, 0, 0, 0)
                if pid == 0:
                    at, end = parent, child
                else:
                    longs[SPARE] = pid if pid > 0 else -error()
                    end = parent
            if then == LAST:
                return -1
