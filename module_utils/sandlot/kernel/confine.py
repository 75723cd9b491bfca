# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Drops capabilities, privileges, dumpability, keys and system calls of the calling process."""

from __future__ import annotations

import errno
import os
import struct
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_int,
    c_long,
    c_ulong,
    c_ushort,
    create_string_buffer,
)

from .libc import SYS_KEYCTL, SYS_SECCOMP, bind, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
KEYCTL_JOIN_SESSION_KEYRING = 1
SECCOMP_SET_MODE_FILTER = 1

_LOW = 0xFFFFFFFF

CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24

_setfsuid = bind("setfsuid", c_int)
_prctl = bind("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_prctl_text = bind("prctl", c_int, c_char_p)
_capget = bind("capget", c_char_p, c_char_p)
_capset = bind("capset", c_char_p, c_char_p)
_keyctl = bind("syscall", c_long, c_long, c_char_p)


class _SockFprog(Structure):
    _fields_ = [("length", c_ushort), ("filter", c_char_p)]


_seccomp = bind("syscall", c_long, c_long, c_long, POINTER(_SockFprog))
CAPABILITY_HEADER = struct.pack("Ii", 0x20080522, 0)
_CAPABILITY_SETS = struct.Struct("6I")


def prctl(option: int, first: int = 0, second: int = 0) -> int:
    return check(_prctl(option, first, second, 0, 0), "prctl")


def set_name(name: str) -> None:
    """Set the name that ps shows, at most 15 characters."""
    check(_prctl_text(PR_SET_NAME, name.encode()), "prctl")


def last_capability() -> int:
    """The highest capability number this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as handle:
        return int(handle.read())


def capabilities() -> tuple[int, int, int]:
    """The effective, permitted and inheritable capabilities of this process (capget(2))."""
    sets = create_string_buffer(_CAPABILITY_SETS.size)
    check(_capget(CAPABILITY_HEADER, sets), "capget")
    words = _CAPABILITY_SETS.unpack(sets.raw)
    effective, permitted, inheritable = (words[at] | words[at + 3] << 32 for at in range(3))
    return effective, permitted, inheritable


def capability_sets(effective: int, permitted: int, inheritable: int) -> bytes:
    """The sets of capset(2) as the kernel takes them; each one here is a bit mask."""
    low = (effective & _LOW, permitted & _LOW, inheritable & _LOW)
    high = (effective >> 32, permitted >> 32, inheritable >> 32)
    return _CAPABILITY_SETS.pack(*low, *high)


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Call capset(2) for this process."""
    sets = capability_sets(effective, permitted, inheritable)
    check(_capset(CAPABILITY_HEADER, sets), "capset")


def set_file_user(uid: int) -> None:
    """Set the uid for access to files; root loses its effective capabilities for files by that."""
    _setfsuid(uid)
    # The call returns the uid before, also when it fails; -1 is no uid and changes nothing.
    if _setfsuid(-1) != uid:
        raise OSError(errno.EPERM, f"setfsuid {uid}: {os.strerror(errno.EPERM)}")


def drop_bounding(numbers: Iterable[int]) -> None:
    """Remove capabilities from the bounding set."""
    for number in numbers:
        prctl(PR_CAPBSET_DROP, number)


def new_session_keyring() -> None:
    """Join an empty session keyring, without the operator's keys; do nothing without keyrings."""
    try:
        check(_keyctl(SYS_KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise


def load_seccomp(program: bytes) -> None:
    """Install a classic BPF program (struct sock_filter[], 8 bytes each).

    The caller needs no_new_privs, or CAP_SYS_ADMIN in its user namespace.
    """
    fprog = _SockFprog(len(program) // 8, program)
    check(_seccomp(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, 0, byref(fprog)), "seccomp")
