# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Loop devices (loop(4)): a file as a block device, which goes with its last user.

A file has one device at most, as two would be two file systems that overwrite each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from typing import Iterator

from . import libc

CONTROL = "/dev/loop-control"
MAJOR = 7
_BLOCK = "/sys/block"
_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_GET_STATUS = 0x4C05
_SET_CAPACITY = 0x4C07
_AUTOCLEAR, _DIRECT_IO = 4, 16
_TRIES = 1000
# Of a device that is free, gone, or about to be either.
_NOT_BOUND = (errno.ENXIO, errno.ENOENT, errno.ENODEV)

_ioctl = libc.bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class _Info(ctypes.Structure):
    """struct loop_info64 (linux/loop.h)."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("device", "inode", "rdevice", "offset", "limit")),
        *((name, ctypes.c_uint32) for name in ("number", "encryption", "key_size", "flags")),
        ("file_name", ctypes.c_char * 64),
        ("rest", ctypes.c_char * 112),
    ]


class _Config(ctypes.Structure):
    """struct loop_config (linux/loop.h)."""

    _fields_ = [
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _Info),
        ("reserved", ctypes.c_uint64 * 8),
    ]


def path_of(number: int) -> str:
    return f"/dev/loop{number}"


@contextlib.contextmanager
def held(file: str) -> Iterator[str]:
    """The device of a file, which stays at least until the block ends.

    A device that the file has already is taken, also of a file system that is nowhere mounted any
    more while a process still uses it.
    """
    for dummy in range(_TRIES):
        fd = _found(file)
        if fd is None:
            fd = _bound(file)
        if fd is not None:
            try:
                yield os.readlink(f"/proc/self/fd/{fd}")
            finally:
                os.close(fd)
            return
    raise OSError(errno.EBUSY, "no loop device is free", file)


def backs(file: str, device: int) -> bool:
    """Whether the file is behind the device of a number (st_dev)."""
    if os.major(device) != MAJOR:
        return False
    fd = _opened(os.minor(device), file)
    if fd is None:
        return False
    os.close(fd)
    return True


def is_bound(file: str) -> bool:
    """Whether a device has the file behind it."""
    fd = _found(file)
    if fd is None:
        return False
    os.close(fd)
    return True


def grow(file: str) -> None:
    """Tell the device of a file that the file has grown."""
    with held(file) as device:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc.check(_ioctl(fd, _SET_CAPACITY, None), "LOOP_SET_CAPACITY", device)
        finally:
            os.close(fd)


def _found(file: str) -> int | None:
    for name in os.listdir(_BLOCK):
        match = re.fullmatch("loop([0-9]+)", name)
        if match and os.path.isdir(f"{_BLOCK}/{name}/loop"):
            fd = _opened(int(match[1]), file)
            if fd is not None:
                return fd
    return None


def _opened(number: int, file: str) -> int | None:
    """The device if the file is behind it; read-only, as udev acts when a writer closes it."""
    try:
        fd = os.open(path_of(number), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_BOUND:
            return None
        raise
    info, status = _status(fd), os.stat(file)
    if info is not None and (info.device, info.inode) == (status.st_dev, status.st_ino):
        return fd
    os.close(fd)
    return None


def _status(fd: int) -> _Info | None:
    info = _Info()
    try:
        libc.check(_ioctl(fd, _GET_STATUS, ctypes.byref(info)), "LOOP_GET_STATUS64")
    except OSError as error:
        if error.errno in _NOT_BOUND:
            return None
        raise
    return info


def _bound(file: str) -> int | None:
    """A device bound to the file; None if somebody else was faster."""
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        number = libc.check(_ioctl(control, _GET_FREE, None), "LOOP_CTL_GET_FREE", CONTROL)
    finally:
        os.close(control)
    device = path_of(number)
    backing = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            # Without direct I/O, memory would hold each page twice. Where the file system below has
            # none, the kernel leaves the flag out.
            info = _Info(flags=_AUTOCLEAR | _DIRECT_IO, file_name=os.fsencode(file)[-63:])
            config = _Config(fd=backing, info=info)
            libc.check(_ioctl(fd, _CONFIGURE, ctypes.byref(config)), "LOOP_CONFIGURE", device)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EBUSY, *_NOT_BOUND):
                return None
            raise
        return fd
    finally:
        os.close(backing)
