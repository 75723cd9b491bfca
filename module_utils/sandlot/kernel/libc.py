# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The way into the kernel: libc through ctypes, errors as OSError(errno, what, path).

Imported by the launcher and so by every init: imports nothing beyond ctypes and os.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)

AARCH64 = os.uname().machine == "aarch64"
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# Calls that glibc 2.31 has no wrapper for. From 424 on the numbers are the same everywhere.
SYS_PIVOT_ROOT = 41 if AARCH64 else 155
SYS_CAPGET = 90 if AARCH64 else 125
SYS_CAPSET = 91 if AARCH64 else 126
SYS_KEYCTL = 219 if AARCH64 else 250
SYS_SECCOMP = 277 if AARCH64 else 317
SYS_PIDFD_SEND_SIGNAL = 424
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_PIDFD_OPEN = 434
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442


def check(result: int, what: str, path: str = "") -> int:
    """``result`` of a libc call, or OSError from errno."""
    if result >= 0:
        return result
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}", path or None)


def syscall(number: int, what: str, *arguments: Any, path: str = "") -> int:
    """A raw system call; ints travel as C long, bytes and ctypes objects as they are."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(libc.syscall(ctypes.c_long(number), *converted), what, path)
