# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The life of PID 1: it reaps, passes signals on, and forks a supervisor when there is work.

A supervisor ends when it has nothing to do, and frees its memory. Whatever else ends it, a tenant
included, PID 1 goes on in its place: it can be neither killed nor stopped from inside
(pid_namespaces(7)), and needs no further process.

PID 1 makes raw system calls, and has its numbers in the shared page: each object that it touches
would cost every sandbox a page.
"""

from __future__ import annotations

import gc
import os
from time import monotonic_ns

from ..kernel import pid_one
from ..kernel.calls import call
from ..kernel.confine import set_name
from ..kernel.libc import AARCH64, SYS_CLONE
from ..kernel.signals import signal
from . import memory
from .memory import (
    COUNT,
    DUE,
    END,
    EVERY,
    INSIDE,
    LAST,
    MAIN,
    NANOSECONDS,
    OUTCOME,
    POLLIN,
    QUEUE,
    REAPED,
    RUNNING,
    SECONDS,
    SIGNALS_ROOM,
    SUPERVISOR,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Protocol

    class Work(Protocol):
        """A supervisor."""

        def run(self, init: Optional[Reaper]) -> int:
            """Supervise until the end; the exit code of init."""

    Begin = Callable[[memory.Memory], Work]

# How a supervisor ends; by any other status, it has been killed.
ASLEEP, DONE, TAKE_OVER = 3, 4, 5

_READ, _WRITE, _WAIT4, _KILL, _PPOLL = (63, 64, 260, 129, 73) if AARCH64 else (0, 1, 61, 62, 271)
# With one table of descriptors for both: those that the supervisor opens outlive it.
_CLONE_FLAGS = signal.SIGCHLD | 0x400
_WNOHANG_WUNTRACED = 3
_SIGCHLD = int(signal.SIGCHLD)
_SIGKILL = int(signal.SIGKILL)
_SET_SIZE = 8
# In integers: one struct signalfd_siginfo, which begins with the number of the signal.
_SIGNAL = 32
_FIRST = memory.PROCESSES // 4
_EVENTS = memory.POLLED // 4 + 1
_SIGNALS = memory.SIGNALS // 4
_SECOND = 1_000_000_000
_PAUSE = _SECOND // 10
# Ends and stops between two looks at all else: a tenant makes stops as fast as they are read.
_AT_ONCE = range(64)
# PID 1 keeps the memory that it uses as a supervisor.
_ATTEMPTS = 2


class Reaper:
    """PID 1. Most of it is one function, as the code of each further one is pages of its own."""

    def __init__(self, shared: memory.Memory) -> None:
        self.memory = shared
        self._words, self._ints = shared.words, shared.ints
        at = shared.address
        self._polled, self._read_to = at + memory.POLLED, at + memory.SIGNALS
        self._timeout, self._reaped = at + 8 * memory.SECONDS, at + 4 * REAPED

    def live(self, first: Begin, later: Begin) -> None:
        """Return when the sandbox is to end."""
        ints = self._ints
        # As the table of calls has made them, one after the other.
        ints[memory.FILE], ints[QUEUE] = ints[memory.ENDED] - 1, ints[memory.END] + 1
        ints[INSIDE] = os.getpid()
        ints[_EVENTS - 1], ints[_EVENTS] = ints[QUEUE], POLLIN
        begin, attempts = first, 0
        while True:
            # Of a tenant that hunts supervisors, the third one is PID 1 itself. So is one that
            # can't be forked, or could not fork.
            pid = call(SYS_CLONE, _CLONE_FLAGS, 0, 0, 0, 0, 0) if attempts < _ATTEMPTS else -1
            if pid == 0:
                _child(begin, self.memory)
            if pid > 0:
                ints[SUPERVISOR] = pid
                self.wait()
                status, begin = ints[OUTCOME], later
            else:
                status = begin(self.memory).run(self) << 8
                # Its cycles would stay, as nothing else collects them.
                gc.collect()
            if status == DONE << 8:
                return
            attempts = _ATTEMPTS if status == TAKE_OVER << 8 else attempts + 1
            if status == ASLEEP << 8:
                attempts = 0
                self.wait()
            begin = later

    def wait(self, *, turn: bool = False) -> None:
        """Pass signals on and reap until the supervisor has ended; without one, until it has work.

        For a ``turn``, do what there is to do.
        """
        make, ints, words = call, self._ints, self._words
        supervised = ints[SUPERVISOR]
        while True:
            count, timeout = 1, 0
            if not supervised and not turn:
                for at in range(_FIRST, ints[LAST], 2):
                    if ints[at] and ints[at + 1] != RUNNING:
                        return
                count = ints[COUNT]
                if words[DUE]:
                    left = words[DUE] - monotonic_ns()
                    if left <= 0:
                        return
                    timeout = self._timeout
                    words[SECONDS] = left // _SECOND
                    words[NANOSECONDS] = left % _SECOND
            ready = 0 if turn else make(_PPOLL, self._polled, count, timeout, 0, _SET_SIZE, 0)
            if ready < 0:
                # A tenant allows too few descriptors (poll(2)); without any, this is a pause.
                words[SECONDS], words[NANOSECONDS] = 0, _PAUSE
                make(_PPOLL, 0, 0, self._timeout, 0, _SET_SIZE, 0)
            if turn or ready < 0 or (ready and ints[_EVENTS] != POLLIN):
                ready -= 1
                # Not all that wait, as a tenant may send signals faster than this reads.
                size = make(_READ, ints[QUEUE], self._read_to, SIGNALS_ROOM, 0, 0, 0)
                for at in range(_SIGNALS, _SIGNALS + size // 4, _SIGNAL):
                    main = ints[MAIN]
                    if ints[at] != _SIGCHLD and main and ints[main + 1] == RUNNING:
                        make(_KILL, ints[main], ints[at], 0, 0, 0, 0)
                # Ours, the supervisor's (CLONE_PARENT), adopted ones.
                for dummy in _AT_ONCE:
                    pid = make(_WAIT4, -1, self._reaped, _WNOHANG_WUNTRACED, 0, 0, 0)
                    if pid <= 0:
                        break
                    status = ints[REAPED]
                    if status & 0xFF == 0x7F:
                        self._stopped(pid, status)
                        continue
                    if pid == ints[SUPERVISOR]:
                        ints[SUPERVISOR], ints[OUTCOME] = 0, status
                        continue
                    wanted = ints[EVERY]
                    for at in range(_FIRST, ints[LAST], 2):
                        if ints[at] == pid and ints[at + 1] == RUNNING:
                            ints[at + 1] = status
                            wanted = 1
                    if wanted:
                        # Without room in the pipe, it is readable anyway.
                        make(_WRITE, ints[END], self._read_to, 1, 0, 0, 0)
                else:
                    # Those that are left have no signal of their own (signal(7)).
                    make(_KILL, ints[INSIDE], _SIGCHLD, 0, 0, 0, 0)
            if turn or (not ints[SUPERVISOR] if supervised else ready):
                return

    def on_signals(self) -> None:
        """Do PID 1's own part of the work, as the supervisor that it is now."""
        self.wait(turn=True)

    def _stopped(self, pid: int, status: int) -> None:
        """End a supervisor that the tenant has stopped; let go of a child that we trace."""
        if pid == self._ints[SUPERVISOR]:
            call(_KILL, pid, _SIGKILL, 0, 0, 0, 0)
        else:
            pid_one.let_go(pid, status)

    def warm_up(self) -> None:
        """Run the code of a life without work."""
        ints = self._ints
        ints[_EVENTS - 1], ints[_EVENTS] = ints[QUEUE], POLLIN
        self.memory.sleep([ints[memory.ENDED]], monotonic_ns() / 1e9 + 1)
        ints[EVERY] = 1
        call(_WRITE, ints[END], self._read_to, 1, 0, 0, 0)
        self.wait()
        self.memory.sleep([], monotonic_ns() / 1e9 + 1e-4)
        self.wait()
        self.on_signals()


def _child(begin: Begin, shared: memory.Memory) -> None:
    """Be a supervisor; this process must never return into the code of PID 1."""
    status = 1
    try:
        set_name("sandlot-super")
        status = begin(shared).run(None)
    except memory.TakeOver:
        status = TAKE_OVER
    finally:
        os._exit(status)
