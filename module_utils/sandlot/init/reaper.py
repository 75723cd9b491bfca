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
import time

from ..kernel import pid_one
from ..kernel.calls import call
from ..kernel.confine import set_name
from ..kernel.libc import AARCH64, SYS_CLONE
from ..kernel.signals import signal
from . import memory
from .memory import COUNT, DUE, MAIN, OUTCOME, POLLIN, QUEUE, REAPED, RUNNING, SUPERVISOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Protocol

    class Work(Protocol):
        """A supervisor."""

        def run(self, init: Optional[Reaper]) -> int: ...

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
# PID 1 keeps the memory that it uses as a supervisor.
_ATTEMPTS = (1, 2)


class Reaper:
    """PID 1."""

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
        ints[memory.INSIDE] = os.getpid()
        self.memory.poll(0, ints[QUEUE])
        ints[COUNT] = 1
        while self._supervise(first, later) != DONE:
            self._sleep()
            first = later

    def warm_up(self) -> None:
        """Run the code of a life without work."""
        ints = self._ints
        self.memory.poll(0, ints[QUEUE])
        self.memory.tell_all(every=True)
        self._note_end(1, 0)
        self.memory.sleep([ints[memory.ENDED]], time.monotonic() + 1)
        self._sleep()
        self.memory.sleep([], time.monotonic() + 1e-4)
        self._sleep()
        ints[OUTCOME] = ASLEEP << 8
        self._wait(0)
        self.on_signals()

    def _supervise(self, begin: Begin, resume: Begin) -> int:
        """Let a supervisor do what there is to do: ASLEEP or DONE. A tenant may kill both."""
        for dummy in _ATTEMPTS:
            pid = call(SYS_CLONE, _CLONE_FLAGS, 0, 0, 0, 0, 0)
            if pid == 0:
                _child(begin, self.memory)
            if pid < 0:
                break
            status = self._wait(pid)
            if status in (ASLEEP, DONE):
                return status
            begin = resume
            if status == TAKE_OVER:
                break
        status = begin(self.memory).run(self)
        # Its cycles would stay, as nothing else collects them.
        gc.collect()
        return status

    def _wait(self, pid: int) -> int:
        """Reap until the supervisor has ended; its exit status, 0 when it was killed."""
        ints = self._ints
        ints[SUPERVISOR] = pid
        while ints[SUPERVISOR]:
            call(_PPOLL, self._polled, 1, 0, 0, _SET_SIZE, 0)
            self.on_signals()
        outcome = ints[OUTCOME]
        return 0 if outcome & 0xFF else outcome >> 8

    def _sleep(self) -> None:
        """Reap until there is work for a supervisor: an end, a time, a descriptor."""
        ints, words = self._ints, self._words
        while True:
            for at in range(_FIRST, ints[memory.LAST], 2):
                if ints[at] and ints[at + 1] != RUNNING:
                    return
            timeout = 0
            if words[DUE]:
                left = words[DUE] - time.monotonic_ns()
                if left <= 0:
                    return
                timeout = self._timeout
                words[memory.SECONDS], words[memory.NANOSECONDS] = divmod(left, _SECOND)
            ready = call(_PPOLL, self._polled, ints[COUNT], timeout, 0, _SET_SIZE, 0)
            if ready > 0 and ints[_EVENTS] != POLLIN:
                ready -= 1
                self.on_signals()
            if ready > 0:
                return

    def on_signals(self) -> None:
        """Pass signals on in the order of the queue, then reap."""
        ints = self._ints
        size = memory.SIGNALS_ROOM
        while size == memory.SIGNALS_ROOM:
            size = call(_READ, ints[QUEUE], self._read_to, memory.SIGNALS_ROOM, 0, 0, 0)
            for at in range(_SIGNALS, _SIGNALS + size // 4, _SIGNAL):
                main = ints[MAIN]
                if ints[at] != _SIGCHLD and main and ints[main + 1] == RUNNING:
                    call(_KILL, ints[main], ints[at], 0, 0, 0, 0)
        self._reap()

    def _reap(self) -> None:
        """Collect every dead child: ours, the supervisor's (CLONE_PARENT), or adopted."""
        ints = self._ints
        while True:
            pid = call(_WAIT4, -1, self._reaped, _WNOHANG_WUNTRACED, 0, 0, 0)
            if pid <= 0:
                return
            status = ints[REAPED]
            if status & 0xFF == 0x7F:
                self._stopped(pid, status)
            elif pid == ints[SUPERVISOR]:
                ints[SUPERVISOR], ints[OUTCOME] = 0, status
            else:
                self._note_end(pid, status)

    def _note_end(self, pid: int, status: int) -> None:
        """Note the end of a process if a supervisor wants to know it."""
        ints = self._ints
        wanted = ints[memory.EVERY]
        for at in range(_FIRST, ints[memory.LAST], 2):
            if ints[at] == pid and ints[at + 1] == RUNNING:
                ints[at + 1] = status
                wanted = 1
        if wanted:
            # Without room in the pipe, it is readable anyway.
            call(_WRITE, ints[memory.END], self._read_to, 1, 0, 0, 0)

    def _stopped(self, pid: int, status: int) -> None:
        """End a supervisor that the tenant has stopped; let go of a child that we trace."""
        if pid == self._ints[SUPERVISOR]:
            call(_KILL, pid, _SIGKILL, 0, 0, 0, 0)
        else:
            pid_one.let_go(pid, status)


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
