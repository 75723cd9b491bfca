# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a process gives up: capabilities, privileges, dumpability, keyring, system calls."""

from __future__ import annotations

import ctypes
import errno

from .libc import SYS_CAPSET, SYS_KEYCTL, SYS_SECCOMP, check, libc, syscall

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
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


def prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    return check(libc.prctl(option, *padded), f"prctl {option}")


def set_name(name: str) -> None:
    """What ps shows, at most 15 characters."""
    check(libc.prctl(PR_SET_NAME, name.encode()), "prctl PR_SET_NAME")


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of the calling process; each set is a bit mask."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (effective, permitted, inheritable)
    low_high = [(s >> shift) & 0xFFFFFFFF for shift in (0, 32) for s in sets]
    syscall(SYS_CAPSET, "capset", ctypes.byref(header), (ctypes.c_uint32 * 6)(*low_high))


def drop_bounding_except(mask: int) -> None:
    """Leave ``mask`` in the bounding set; EINVAL ends the loop at the kernel's last capability."""
    for number in range(64):
        if mask >> number & 1:
            continue
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return
            raise


def set_ambient(mask: int) -> None:
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(64):
        if mask >> number & 1:
            prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def new_session_keyring() -> None:
    """An empty session keyring keeps the operator's keys out; ENOSYS is a kernel without keys."""
    try:
        syscall(SYS_KEYCTL, "keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def load_seccomp(program: bytes) -> None:
    """Install a classic BPF program (struct sock_filter[], 8 bytes each); needs no_new_privs."""
    fprog = _SockFprog(len(program) // 8, program)
    syscall(SYS_SECCOMP, "seccomp", _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(fprog))
