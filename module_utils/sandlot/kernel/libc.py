# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Calls the kernel: libc through ctypes, errors as OSError(errno, what, path).

Imported by the launcher and so by every init: imports nothing beyond ctypes and os. Functions that
init calls are bound here once, as each lookup makes objects in the memory of its process.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

libc = ctypes.CDLL(None, use_errno=True)

AARCH64 = os.uname().machine == "aarch64"
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# Calls that glibc 2.31 has no wrapper for. From 424 on the numbers are the same everywhere.
SYS_RT_SIGACTION = 134 if AARCH64 else 13
SYS_CLONE = 220 if AARCH64 else 56
SYS_MMAP = 222 if AARCH64 else 9
SYS_PIVOT_ROOT = 41 if AARCH64 else 155
SYS_KEYCTL = 219 if AARCH64 else 250
SYS_RENAMEAT2 = 276 if AARCH64 else 316
SYS_SECCOMP = 277 if AARCH64 else 317
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442


def bind(name: str, *types: Any) -> Callable[..., int]:
    """A function of libc; ctypes converts its arguments."""
    # Not getattr, which gives all callers the same object.
    function = libc[name]
    function.argtypes = types
    return function


def check(result: int, what: str, path: str = "") -> int:
    """Return the result of a libc call, or raise OSError from errno."""
    if result >= 0:
        return result
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}", path or None)


# c_void_p takes integers of any sign, bytes, arrays and what byref gives.
_syscall = libc["syscall"]
_syscall.argtypes = [ctypes.c_long, *[ctypes.c_void_p] * 6]
_syscall.restype = ctypes.c_long


def syscall(number: int, what: str, *arguments: Any, path: str = "") -> int:
    """Make a raw system call; bytes travel as the address of their content."""
    return check(_syscall(number, *(*arguments, 0, 0, 0, 0, 0, 0)[:6]), what, path)


def renameat2(old: str, new: str, flags: int) -> None:
    paths = (AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new))
    syscall(SYS_RENAMEAT2, "renameat2", *paths, flags, path=new)


_SIGNAL_SET_SIZE = 8
_INTERNAL_SIGNALS = (32, 33)


def default_signals() -> None:
    """Reset glibc's own two signals if they are ignored, as every workload would inherit that.

    posix_spawn(3), which make uses, ignores them in its child; only the raw call resets them.
    """
    action = bytes(40)  # struct sigaction of the kernel: SIG_DFL, no flags, no mask
    for number in _INTERNAL_SIGNALS:
        what = f"rt_sigaction {number}"
        syscall(SYS_RT_SIGACTION, what, number, action, 0, _SIGNAL_SET_SIZE)


# Keeps the interpreter's lock across the call, as the child goes on in the interpreter.
_fork = ctypes.PyDLL(None, use_errno=True)["fork"]


def fork() -> int:
    """Call fork(2) without os.fork's repair of locks, which costs a child memory."""
    return check(_fork(), "fork")


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` on (close_range(2))."""
    syscall(SYS_CLOSE_RANGE, "close_range", first, 0xFFFFFFFF, 0)


def close_between(first: int, last: int) -> None:
    """Close descriptors ``first`` to ``last``, both included."""
    if first <= last:
        syscall(SYS_CLOSE_RANGE, "close_range", first, last, 0)


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor from 3 on but ``kept``."""
    low = 3
    for fd in sorted(kept):
        close_between(low, fd - 1)
        low = max(low, fd + 1)
    close_from(low)
