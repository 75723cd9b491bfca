# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Calls that only init makes: it reads signals in their order, and lets go of what it traces."""

from __future__ import annotations

import os
from ctypes import c_char_p, c_int, c_long, c_void_p

from .libc import bind, check
from .signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Sequence

# sizeof(struct signalfd_siginfo); the number of the signal comes first.
_RECORD = 128
_RECORDS = 64
# sizeof(sigset_t) of glibc.
_SET = 128
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_PTRACE_DETACH = 17

_signalfd = bind("signalfd", c_int, c_char_p, c_int)
_ptrace = bind("ptrace", c_long, c_long, c_void_p, c_void_p)


def signal_set(numbers: Sequence[int]) -> bytes:
    """The sigset_t of these signals."""
    return sum([1 << (number - 1) for number in numbers]).to_bytes(_SET, "little")


def signal_queue(signals: bytes) -> int:
    """A descriptor of the caller's pending signals in a set, which have to be blocked.

    Handlers would run in the reverse order, and a set of them keeps one of each (signal(7)).
    """
    return check(_signalfd(-1, signals, _FLAGS), "signalfd")


def queued(fd: int) -> Iterator[int]:
    """Yield the numbers of signals as the kernel delivers them: the lowest first, then by time."""
    try:
        data = os.read(fd, _RECORD * _RECORDS)
    except BlockingIOError:
        return
    for offset in range(0, len(data), _RECORD):
        yield int.from_bytes(data[offset : offset + 4], "little")


def let_go(pid: int, wait_status: int) -> None:
    """Continue a child that made us its tracer (PTRACE_TRACEME) and stopped at a signal."""
    number = os.WSTOPSIG(wait_status)
    # The kernel adds this one at exec, for tracers only.
    passed = 0 if number == signal.SIGTRAP else number
    try:
        check(_ptrace(_PTRACE_DETACH, pid, None, passed), "ptrace")
    except OSError:
        return  # it has been killed, or the filter of system calls forbids it
