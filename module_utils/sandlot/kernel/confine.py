# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a process gives up: capabilities, privileges, dumpability, keyring, system calls."""

from __future__ import annotations

import errno
import struct
from ctypes import addressof, c_char_p, c_int, c_long, c_ulong, create_string_buffer

from .libc import SYS_KEYCTL, SYS_SECCOMP, bind, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SECCOMP_SET_MODE_FILTER = 1
_CAPABILITY_VERSION_3 = 0x20080522

CAP_SYS_ADMIN = 21
ALL_CAPABILITIES = (1 << 64) - 1

_prctl = bind("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_capset = bind("capset", c_char_p, c_char_p)
_syscall = bind("syscall", c_long, c_long, c_long, c_char_p)


def prctl(option: int, first: int = 0, second: int = 0) -> int:
    return check(_prctl(option, first, second, 0, 0), "prctl")


def set_name(name: str) -> None:
    """What ps shows, at most 15 characters."""
    buffer = create_string_buffer(name.encode())
    prctl(PR_SET_NAME, addressof(buffer))


def last_capability() -> int:
    """The highest capability number this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as handle:
        return int(handle.read())


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of the calling process; each set is a bit mask."""
    sets = (effective, permitted, inheritable)
    low_high = [(s >> shift) & 0xFFFFFFFF for shift in (0, 32) for s in sets]
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    check(_capset(header, struct.pack("6I", *low_high)), "capset")


def drop_bounding(numbers: Iterable[int]) -> None:
    """Take capabilities out of the bounding set."""
    for number in numbers:
        prctl(PR_CAPBSET_DROP, number)


def set_ambient(numbers: Iterable[int]) -> None:
    """Exactly these, which have to be permitted and inheritable."""
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in numbers:
        prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def new_session_keyring() -> None:
    """An empty session keyring keeps the operator's keys out; ENOSYS is a kernel without keys."""
    try:
        check(_syscall(SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, 0, None), "keyctl")
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise


def load_seccomp(program: bytes) -> None:
    """Install a classic BPF program (struct sock_filter[], 8 bytes each); needs no_new_privs."""
    buffer = create_string_buffer(program, len(program))
    fprog = struct.pack("HP", len(program) // 8, addressof(buffer))
    check(_syscall(SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, 0, fprog), "seccomp")
