# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Stops a process at the first instruction of the program that it executes (ptrace(2)).

A tracer of fewer rights can then attach: at exec the memory becomes that of the process's own user
namespace.
"""

from __future__ import annotations

import os
import time
from ctypes import c_long, c_void_p

from .libc import bind, check
from .signals import signal

_SEIZE, _DETACH, _CONT = 0x4206, 17, 7
_TRACE_EXEC = 1 << 4  # PTRACE_O_TRACEEXEC
_EVENT_EXEC = 4
_ALL_CHILDREN = 0x40000000  # __WALL
# SIGCHLD wakes the wait; the limit is for a signal that was merged with another.
_LONGEST_WAIT = 0.05

_ptrace = bind("ptrace", c_long, c_long, c_void_p, c_void_p)


def seize(pid: int) -> None:
    """Become the tracer of a process, which goes on."""
    check(_ptrace(_SEIZE, pid, None, _TRACE_EXEC), f"ptrace {pid}")


def stop_at_exec(pid: int, deadline: float) -> bool:
    """Wait until a seized process has executed a program, stop it there and let it go.

    False when the process ended first. TimeoutError after ``deadline`` of the monotonic clock.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    try:
        while True:
            stopped, status = os.waitpid(pid, os.WNOHANG | _ALL_CHILDREN)
            if not stopped:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"process {pid} executes nothing")
                signal.sigtimedwait((signal.SIGCHLD,), _LONGEST_WAIT)
            elif not os.WIFSTOPPED(status):
                return False
            elif status >> 16 == _EVENT_EXEC:
                os.kill(pid, signal.SIGSTOP)
                check(_ptrace(_DETACH, pid, None, None), f"ptrace {pid}")
                return True
            else:
                event = status >> 16
                check(_ptrace(_CONT, pid, None, None if event else os.WSTOPSIG(status)), "ptrace")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))
