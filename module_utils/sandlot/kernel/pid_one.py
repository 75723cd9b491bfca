# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Calls that only init makes: it queues its signals, and lets go of what it traces."""

from __future__ import annotations

import os
from ctypes import c_char_p, c_int, c_long, c_void_p

from .libc import bind, check
from .signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

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


def let_go(pid: int, wait_status: int) -> None:
    """Continue a child that made us its tracer (PTRACE_TRACEME) and stopped at a signal."""
    number = os.WSTOPSIG(wait_status)
    # The kernel adds this one at exec, for tracers only.
    passed = 0 if number == signal.SIGTRAP else number
    try:
        check(_ptrace(_PTRACE_DETACH, pid, None, passed), "ptrace")
    except OSError:
        return  # it has been killed, or the filter of system calls forbids it
