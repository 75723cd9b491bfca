# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The memory that PID 1 and its supervisors share: processes and their ends, the saved state.

It is a file that only descriptors of PID 1 lead to, and the sandbox can't inspect those processes
(dumpable 0). Its first page is mapped. A word of it is written at once, whenever its writer dies.
"""

from __future__ import annotations

import errno
import marshal
import os
from ctypes import c_char

from ..kernel import calls, libc, pid_one
from ..kernel.signals import NOT_FORWARDED, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, List, Optional, Sequence, Tuple

PAGE = calls.PAGE
# Longs of the page. The parts of the state: where each is, and its length.
CONFIG, STATE = 0, 1
# When a supervisor is to wake up, in nanoseconds, 0 for never; a struct timespec of PID 1.
DUE, SECONDS, NANOSECONDS = 2, 3, 4
# Integers of the page. Descriptors: of this file, of signals, of the pipe that tells of ends.
FILE, QUEUE, ENDED, END = range(10, 14)
# The supervisor that runs, and how the last one has ended; the end that PID 1 reaps (wait(2)).
SUPERVISOR, OUTCOME, REAPED = range(14, 17)
# The index of the workload, 0 for none; the index after the last process; whether each end is told.
MAIN, LAST, EVERY = range(17, 20)
# How many descriptors PID 1 waits for; whether it is a sandbox's own.
COUNT, INSIDE = range(20, 22)
# Bytes of the page: struct pollfd, the first for signals; signals that are read; processes.
POLLED, SIGNALS, PROCESSES = 256, 768, 1280
SIGNALS_ROOM = PROCESSES - SIGNALS
RUNNING = -1
POLLIN = 1
_FIRST = PROCESSES // 4
_MOST_POLLED = (SIGNALS - POLLED) // 8

CAUGHT = tuple(sorted(int(number) for number in signal.valid_signals() - NOT_FORWARDED))
CAUGHT_SET = pid_one.signal_set(CAUGHT)

# Small parts have half a page each, large ones a range of the file, of which nothing is allocated.
_SMALL, _LARGE = 2048, 1 << 24
_MARSHAL_VERSION = 2
_CLONE_PARENT, _CLONE_PARENT_SETTID = 0x8000, 0x100000
# Made once, as a type takes much memory.
_Page = c_char * PAGE


# Descriptors that the saved state still has: until the next one, their numbers are not reused.
retired: List[int] = []


class TakeOver(Exception):
    """A supervisor can fork no process; PID 1 itself can, or report why not."""


class Memory:
    """The page at an address, with the same calls in all processes."""

    def __init__(self, address: int) -> None:
        self.address = address
        page = memoryview(_Page.from_address(address)).cast("B")
        self.words = page.cast("q")
        self.ints = page.cast("i")

    def open(self) -> None:
        """Make file, pipe and queue as init does by its table of calls (build/init_calls.py)."""
        fd = os.memfd_create("init")
        os.ftruncate(fd, PAGE)
        mapping = (self.address, PAGE, calls.PROT_READ_WRITE, calls.MAP_SHARED_FIXED, fd, 0)
        libc.check(calls.call(libc.SYS_MMAP, *mapping), "mmap")
        ends = os.pipe()
        for end in ends:
            os.set_blocking(end, False)
        self.ints[FILE], (self.ints[ENDED], self.ints[END]) = fd, ends
        self.ints[QUEUE] = pid_one.signal_queue(CAUGHT_SET)

    def close(self) -> None:
        for fd in self.descriptors:
            os.close(fd)

    @property
    def descriptors(self) -> List[int]:
        return self.ints[FILE : END + 1].tolist()

    @property
    def inside(self) -> bool:
        """Whether PID 1 is a sandbox's own; elsewhere, kill(-1) would end all of the host."""
        return self.ints[INSIDE] == 1

    # -- the state

    def save(self, part: int, value: Any) -> None:
        """Save beside what is saved, then switch."""
        data = marshal.dumps(value, _MARSHAL_VERSION)
        if len(data) > _LARGE:
            raise OSError(errno.EFBIG, "the state is too large")
        places = _places(part, len(data))
        place = places[1] if self.words[part] >> 32 == places[0] else places[0]
        if os.pwrite(self.ints[FILE], data, place) < len(data):
            raise OSError(errno.ENOSPC, "the state has no room")
        self.words[part] = place << 32 | len(data)

    def load(self, part: int) -> Any:
        """The saved value, None before the first."""
        place, size = self.words[part] >> 32, self.words[part] & 0xFFFFFFFF
        return marshal.loads(os.pread(self.ints[FILE], size, place)) if size else None

    # -- processes

    def _known(self) -> Iterator[Tuple[int, int, int]]:
        """Index, pid and wait status (RUNNING) of each process."""
        for at in range(_FIRST, self.ints[LAST], 2):
            if self.ints[at]:
                yield at, self.ints[at], self.ints[at + 1]

    def clone(self) -> int:
        """Fork a child of PID 1, whose end the supervisor learns."""
        at = next((n for n in range(_FIRST, PAGE // 4, 2) if not self.ints[n]), None)
        if at is None:
            raise BlockingIOError(errno.EAGAIN, "too many processes")
        self.ints[at + 1] = RUNNING
        self.ints[LAST] = max(self.ints[LAST], at + 2)
        by_init = os.getpid() == 1
        # The kernel writes the pid before the child runs, so it is known whoever is killed now.
        flags = signal.SIGCHLD | _CLONE_PARENT_SETTID | (0 if by_init else _CLONE_PARENT)
        try:
            pid = self.address + 4 * at
            return libc.check(calls.call(libc.SYS_CLONE, flags, 0, pid, 0, 0, 0), "clone")
        except OSError as error:
            if by_init:
                raise
            raise TakeOver from error

    def set_main(self, pid: int) -> None:
        """Let PID 1 pass signals on to this process; to none for 0."""
        indices = [at for at, known, dummy in self._known() if known == pid]
        self.ints[MAIN] = indices[0] if indices else 0

    def tell_all(self, *, every: bool) -> None:
        """Whether ENDED tells of every end, not only of those of our processes."""
        self.ints[EVERY] = every

    def ends(self) -> List[Tuple[int, int]]:
        """Processes that have ended, until ``forget``: pid and wait status."""
        return [(pid, status) for dummy, pid, status in self._known() if status != RUNNING]

    def running(self) -> List[int]:
        return [pid for dummy, pid, status in self._known() if status == RUNNING]

    def forget(self, pid: int) -> None:
        for at, known, dummy in self._known():
            if known == pid:
                self.ints[at] = 0

    def drain(self) -> None:
        try:
            os.read(self.ints[ENDED], 1 << 16)
        except BlockingIOError:
            return

    # -- sleep

    def sleep(self, watched: Sequence[int], due: Optional[float]) -> None:
        """Set what PID 1 wakes a supervisor for: descriptors, and a time of the monotonic clock."""
        for index, fd in enumerate(watched, 1):
            self.poll(index, fd)
        self.ints[COUNT] = len(watched) + 1
        self.words[DUE] = 0 if due is None else max(1, int(due * 1e9))

    def poll(self, index: int, fd: int) -> None:
        at = POLLED // 4 + 2 * index
        self.ints[at], self.ints[at + 1] = fd, POLLIN


def retire(fd: int) -> None:
    """Close a descriptor after the next save."""
    retired.append(fd)


def close_retired() -> None:
    while retired:
        os.close(retired.pop())


def can_watch(count: int) -> bool:
    return count < _MOST_POLLED


def _places(part: int, size: int) -> Tuple[int, int]:
    if size <= _SMALL:
        first = PAGE + part * 2 * _SMALL
        return first, first + _SMALL
    first = _LARGE * (1 + 2 * part)
    return first, first + _LARGE
