# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""mount(2), the descriptor-based mount API, openat2(2) and pivot_root(2)."""

from __future__ import annotations

import ctypes
import os
import struct

from .libc import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    SYS_FSCONFIG,
    SYS_FSMOUNT,
    SYS_FSOPEN,
    SYS_MOUNT_SETATTR,
    SYS_MOVE_MOUNT,
    SYS_OPEN_TREE,
    SYS_OPENAT2,
    SYS_PIVOT_ROOT,
    check,
    libc,
    syscall,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_IDMAP = 0x00100000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_MOVE_MOUNT_BENEATH = 0x200
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_CLOEXEC = 1
_TRIES = 10000

libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]


# struct mount_attr: set, clear, propagation, descriptor of a user namespace (mount_setattr(2)).
_MOUNT_ATTR = struct.Struct("=4Q")
# struct open_how: flags, mode, resolve (openat2(2)).
_OPEN_HOW = struct.Struct("=3Q")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    result = libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode())
    check(result, f"mount {kind or source}", target)


def umount(target: str, flags: int = MNT_DETACH | UMOUNT_NOFOLLOW) -> None:
    check(libc.umount2(os.fsencode(target), flags), "umount", target)


def pivot_root(new: str, old: str) -> None:
    syscall(SYS_PIVOT_ROOT, "pivot_root", new.encode(), old.encode(), path=new)


def clone_tree(path: str, *, dir_fd: int = AT_FDCWD, recursive: bool = False) -> int:
    """A descriptor of a detached copy of the mount at ``path`` ("" is ``dir_fd`` itself)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    flags |= AT_RECURSIVE if recursive else 0
    flags |= 0 if path else AT_EMPTY_PATH
    return syscall(SYS_OPEN_TREE, "open_tree", dir_fd, path.encode(), flags, path=path)


def set_attributes(
    fd: int,
    attributes: int,
    *,
    userns: int | None = None,
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) on a mount descriptor; ``userns`` (a descriptor) id-maps it."""
    if userns is not None:
        attributes |= MOUNT_ATTR_IDMAP
    attr = _MOUNT_ATTR.pack(attributes, clear, propagation, userns or 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(SYS_MOUNT_SETATTR, "mount_setattr", fd, b"", flags, attr, len(attr))


def new_mount(kind: str, options: Mapping[str, str], attributes: int = 0) -> int:
    """A descriptor of a new, detached file system (fsopen, fsconfig, fsmount)."""
    context = syscall(SYS_FSOPEN, f"fsopen {kind}", kind.encode(), _CLOEXEC)
    try:
        for key, value in options.items():
            command = _FSCONFIG_SET_STRING if value else _FSCONFIG_SET_FLAG
            what, text = f"fsconfig {kind} {key}={value}", value.encode() or 0
            syscall(SYS_FSCONFIG, what, context, command, key.encode(), text, 0)
        syscall(SYS_FSCONFIG, f"fsconfig {kind}", context, _FSCONFIG_CMD_CREATE, 0, 0, 0)
        return syscall(SYS_FSMOUNT, f"fsmount {kind}", context, _CLOEXEC, attributes)
    finally:
        os.close(context)


def attach(fd: int, target: str = "", *, target_fd: int = AT_FDCWD, beneath: bool = False) -> None:
    """Attach a detached mount at a path, or at the place of ``target_fd``.

    With ``beneath``, it goes below the mount of that descriptor (Linux 6.5).
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (0 if target else _MOVE_MOUNT_T_EMPTY_PATH)
    flags |= _MOVE_MOUNT_BENEATH if beneath else 0
    what = f"move_mount to fd {target_fd}" if not target else "move_mount"
    syscall(SYS_MOVE_MOUNT, what, fd, b"", target_fd, target.encode(), flags, path=target)


def openat2(dir_fd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, resolve | RESOLVE_NO_MAGICLINKS)
    # A tenant's names need not be UTF-8.
    name = os.fsencode(path)
    for left in reversed(range(_TRIES)):
        try:
            return syscall(SYS_OPENAT2, "openat2", dir_fd, name, how, len(how), path=path)
        except BlockingIOError:
            # A mount or rename anywhere on the host, while the kernel followed "..".
            if not left:
                raise
    raise AssertionError
