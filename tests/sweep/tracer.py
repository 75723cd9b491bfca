# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Follows processes and their children call by call (ptrace(2)), and makes one call fail.

strace counts the calls of each process and of each name by themselves, so that a child's first
calls are out of its reach once its parent does as many. Here they are counted across all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Optional, Protocol, Union

from sandlot.kernel import namespaces

SEIZE, INTERRUPT, GET_EVENT_MESSAGE, GET_SYSCALL_INFO = 0x4206, 0x4207, 0x4201, 0x420E
LISTEN, CONT, GETREGS, SETREGS, DETACH, SYSCALL = 0x4208, 7, 12, 13, 17, 24
# TRACESYSGOOD, fork, vfork, clone, exec
OPTIONS = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4
EVENTS_FORK, EVENT_EXEC, EVENT_STOP = (1, 2, 3), 4, 128
CALL_STOP = signal.SIGTRAP | 0x80
ENTRY, EXIT = 1, 2
ALL_CHILDREN = 0x40000000  # __WALL
ORIG_RAX, RAX = 15, 10
NO_CALL = ctypes.c_ulong(-1).value


class Call(NamedTuple):
    """A system call that a process is about to make; ``program`` is what it has exec'ed."""

    pid: int
    number: int
    arguments: tuple[int, ...]
    program: tuple[str, ...] = ()

    def path(self, position: int) -> str:
        """The text that an argument points to."""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            try:
                memory.seek(self.arguments[position])
                return memory.read(256).partition(b"\0")[0].decode(errors="replace")
            except (OSError, OverflowError):
                return "?"

    def file(self, position: int = 0) -> str:
        """What the descriptor in an argument refers to, "" if nothing."""
        try:
            return os.readlink(f"/proc/{self.pid}/fd/{self.arguments[position]}")
        except OSError:
            return ""


# An error number, or a signal to the process that makes the call; None lets it pass.
Verdict = Union[int, signal.Signals, None]


class Judge(Protocol):
    def judge(self, call: Call) -> Verdict: ...

    def is_interested(self, pid: int) -> bool:
        """Whether further calls of it have to be judged: that is what costs time."""


def command(pid: int) -> tuple[str, ...]:
    with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as handle:
        return tuple(handle.read().split("\0")[:-1])


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info, as far as the entry goes."""

    _fields_ = [
        ("op", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    ]


_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


def supported() -> bool:
    return platform.machine() == "x86_64"


class Gone(Exception):
    """The traced process has died meanwhile."""


def _request(number: int, pid: int, address: Any = 0, data: Any = 0) -> None:
    if _ptrace(number, pid, address, data) >= 0:
        return
    code = ctypes.get_errno()
    if code == errno.ESRCH:
        raise Gone
    raise OSError(code, f"ptrace {number:#x} of {pid}: {os.strerror(code)}")


class Tracer:
    """``judge`` is asked about each call; with ``leave_programs``, not about what is exec'ed."""

    def __init__(self, judge: Judge, *, leave_programs: bool = False) -> None:
        self.judge = judge
        self.leave_programs = leave_programs
        self.traced: set[int] = set()
        self.reported: set[int] = set()
        self.failing: dict[int, int] = {}
        self.programs: dict[int, tuple[str, ...]] = {}
        self.leaving = False
        self._info = _Info()
        self._registers = (ctypes.c_ulong * 27)()

    def follow(self, pid: int) -> None:
        """Nothing is followed when it has died meanwhile: the kernel says EPERM of a zombie."""
        try:
            _request(SEIZE, pid, 0, OPTIONS)
        except (Gone, PermissionError):
            if namespaces.start_time(pid) is not None:
                raise
            return
        self.traced.add(pid)
        _request(INTERRUPT, pid)

    def until(self, ended: Callable[[], bool], seconds: float) -> None:
        """Follow until the condition holds, which the end of a child may make true."""
        with _alarm(seconds):
            while not ended():
                self._next()

    def wait_for(self, child: int, seconds: float) -> int:
        """Follow until this child of ours ends; its wait status. TimeoutError."""
        self.status: Optional[int] = None
        self.child = child
        self.until(lambda: self.status is not None, seconds)
        assert self.status is not None
        return self.status

    child = 0
    status: Optional[int] = None

    def leave(self, seconds: float = 20.0) -> None:
        """Let all go on untraced."""
        self.leaving = True
        for pid in list(self.traced):
            with contextlib.suppress(Gone):
                _request(INTERRUPT, pid)
        self.until(lambda: not self.traced, seconds)

    def _next(self) -> None:
        pid, status = os.waitpid(-1, ALL_CHILDREN)
        self.reported.add(pid)
        if not os.WIFSTOPPED(status):
            self.traced.discard(pid)
            self.failing.pop(pid, None)
            self.programs.pop(pid, None)
            if pid == self.child:
                self.status = status
            return
        self.traced.add(pid)
        with contextlib.suppress(Gone):
            self._stopped(pid, os.WSTOPSIG(status), status >> 16)

    def _stopped(self, pid: int, number: int, event: int) -> None:
        passed, resume = 0, SYSCALL
        if number == CALL_STOP:
            self._on_call(pid)
        elif event in EVENTS_FORK:
            self._on_fork(pid)
        elif event == EVENT_EXEC:
            self.programs[pid] = command(pid)
        elif event == EVENT_STOP and number != signal.SIGTRAP:
            resume = LISTEN
        elif not event:
            passed = number
        if self.leaving or (event == EVENT_EXEC and self.leave_programs):
            if pid not in self.failing:
                self.traced.discard(pid)
                resume = DETACH
        if resume == SYSCALL and pid not in self.failing and not self.judge.is_interested(pid):
            resume = CONT
        _request(resume, pid, 0, passed)

    def _on_fork(self, pid: int) -> None:
        """The child is traced, and stops, before or after this: leaving has to wait for it."""
        message = ctypes.c_ulong()
        _request(GET_EVENT_MESSAGE, pid, 0, ctypes.addressof(message))
        if message.value not in self.reported:
            self.traced.add(message.value)

    def _on_call(self, pid: int) -> None:
        info = self._info
        _request(GET_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op == EXIT:
            if pid in self.failing:
                self._set(pid, RAX, ctypes.c_ulong(-self.failing.pop(pid)).value)
            return
        if info.op != ENTRY or self.leaving:
            return
        arguments = tuple(info.arguments)
        verdict = self.judge.judge(Call(pid, info.number, arguments, self.programs.get(pid, ())))
        if isinstance(verdict, signal.Signals):
            os.kill(pid, verdict)
        elif verdict is not None:
            self.failing[pid] = verdict
            self._set(pid, ORIG_RAX, NO_CALL)

    def _set(self, pid: int, register: int, value: int) -> None:
        registers = self._registers
        _request(GETREGS, pid, 0, ctypes.addressof(registers))
        registers[register] = value
        _request(SETREGS, pid, 0, ctypes.addressof(registers))


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
