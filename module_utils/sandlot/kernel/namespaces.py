# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Calls unshare(2) and setns(2), uses pidfds, and identifies processes."""

from __future__ import annotations

import fcntl
import os
import select
from ctypes import c_char_p, c_int, c_size_t

from .libc import bind, check

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_NS_GET_USERNS = 0xB701

FLAGS = {
    "user": CLONE_NEWUSER,
    "net": CLONE_NEWNET,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "time": CLONE_NEWTIME,
    "pid": CLONE_NEWPID,
    "mnt": CLONE_NEWNS,
    "cgroup": CLONE_NEWCGROUP,
}

_unshare = bind("unshare", c_int)
_setns = bind("setns", c_int, c_int)
_sethostname = bind("sethostname", c_char_p, c_size_t)


def unshare(flags: int) -> None:
    check(_unshare(flags), "unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Join the namespace ``fd`` refers to, which must be of ``kind`` (a CLONE_NEW flag)."""
    check(_setns(fd, kind), "setns")


def pidfd_ends(pidfd: int, seconds: float) -> bool:
    """Whether the process ends within ``seconds``; its pidfd is then readable (pidfd_open(2))."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def start_time(pid: int) -> int | None:
    """The start of a process in clock ticks since boot (proc(5), stat field 22); None if dead.

    A zombie counts as dead: it holds no namespace and runs no code.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as handle:
            fields = handle.read().rsplit(b")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def set_hostname(name: str) -> None:
    raw = name.encode()
    check(_sethostname(raw, len(raw)), f"sethostname {name}")


def is_owned_by(namespace: int, user: int) -> bool:
    """Whether the user namespace ``user`` owns the other one (both are descriptors)."""
    try:
        owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    except PermissionError:
        return False  # an owner outside our own user namespace
    try:
        return os.fstat(owner).st_ino == os.fstat(user).st_ino
    finally:
        os.close(owner)


def is_namespace_file(path: str, device: int | None = None) -> bool:
    """Whether a namespace is mounted at ``path``; ``device`` is the number of nsfs, if known."""
    try:
        device = os.stat("/proc/self/ns/user").st_dev if device is None else device
        return os.stat(path).st_dev == device
    except FileNotFoundError:
        return False
