# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Project quotas (quotactl(2)): a limit for all files that carry the number of a project."""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from typing import Iterator

from . import libc, mountinfo

PROJID = "/etc/projid"
_PRJQUOTA = 2
_Q_GETQUOTA = 0x800007
_Q_SETQUOTA = 0x800008
_Q_GETNEXTQUOTA = 0x800009
_Q_XGETQSTATV = 0x5808
_SYS_QUOTACTL = 60 if libc.AARCH64 else 179
_SYS_QUOTACTL_FD = 443
_LIMITS = 1 | 4  # QIF_BLIMITS, QIF_ILIMITS
_BLOCK = 1024  # QIF_DQBLKSIZE
_ENFORCED = 1 << 5  # FS_QUOTA_PDQ_ENFD
_FS_IOC_FSGETXATTR = 0x801C581F
_FS_IOC_FSSETXATTR = 0x401C5820
_PROJINHERIT = 0x200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Of file systems without project quotas, or of kernels without them.
_OFF = (errno.ENOSYS, errno.EINVAL, errno.ESRCH, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOTBLK)
_NO_PROJECTS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_ioctl = libc.bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class _Attributes(ctypes.Structure):
    """struct fsxattr (linux/fs.h)."""

    _fields_ = [
        *((n, ctypes.c_uint32) for n in ("flags", "extent", "extents", "project", "cow_extent")),
        ("rest", ctypes.c_char * 8),
    ]


class _Usage(ctypes.Structure):
    """struct if_nextdqblk (linux/quota.h), of which if_dqblk is the beginning."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("blocks", "blocks_soft", "space")),
        *((name, ctypes.c_uint64) for name in ("inodes", "inodes_soft", "inodes_used")),
        *((name, ctypes.c_uint64) for name in ("block_time", "inode_time")),
        ("valid", ctypes.c_uint32),
        ("project", ctypes.c_uint32),
    ]


class _State(ctypes.Structure):
    """struct fs_quota_statv (linux/dqblk_xfs.h)."""

    _fields_ = [
        ("version", ctypes.c_int8),
        ("pad", ctypes.c_uint8),
        ("flags", ctypes.c_uint16),
        ("rest", ctypes.c_char * 156),
    ]


@dataclass(frozen=True)
class Limits:
    """Limit and use of a project, in bytes and inodes; 0 is no limit."""

    size: int
    inodes: int
    used: int
    inodes_used: int


def enforced(directory: str) -> bool:
    """Whether the file system at a directory enforces limits of projects."""
    state = _State(version=1)
    try:
        _quotactl(directory, _Q_XGETQSTATV, 0, state)
    except OSError as error:
        if error.errno not in _OFF:
            raise
        return False
    return bool(state.flags & _ENFORCED)


def limits(directory: str, project: int) -> Limits:
    usage = _Usage()
    try:
        _quotactl(directory, _Q_GETQUOTA, project, usage)
    except OSError as error:
        # XFS has no entry of a project that nobody has used.
        if error.errno != errno.ENOENT:
            raise
    return Limits(usage.blocks * _BLOCK, usage.inodes, usage.space, usage.inodes_used)


def set_limits(directory: str, project: int, size: int, inodes: int) -> None:
    """Limit a project; 0 withdraws a limit. A size is rounded up to the kernel's unit."""
    usage = _Usage(blocks=-(-size // _BLOCK), inodes=inodes, valid=_LIMITS)
    _quotactl(directory, _Q_SETQUOTA, project, usage)


def known(directory: str) -> Iterator[int]:
    """The projects that the file system at a directory counts or limits."""
    project = 0
    while True:
        usage = _Usage()
        try:
            _quotactl(directory, _Q_GETNEXTQUOTA, project, usage)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):
                raise
            return
        yield usage.project
        if usage.project == 0xFFFFFFFF:
            return
        project = usage.project + 1


def project_of(directory: str) -> int:
    """The project of a directory whose new files get it too; 0 for none."""
    fd = os.open(directory, _DIRECTORY)
    try:
        attributes = _attributes(fd, directory)
    except OSError as error:
        if error.errno not in _NO_PROJECTS:
            raise
        return 0
    finally:
        os.close(fd)
    return attributes.project if attributes.flags & _PROJINHERIT else 0


def set_project(directory: str, project: int) -> None:
    """Put a directory into a project; what it holds already stays where it is."""
    fd = os.open(directory, _DIRECTORY)
    try:
        attributes = _attributes(fd, directory)
        attributes.project = project
        attributes.flags |= _PROJINHERIT
        pointer = ctypes.byref(attributes)
        libc.check(_ioctl(fd, _FS_IOC_FSSETXATTR, pointer), "FS_IOC_FSSETXATTR", directory)
    finally:
        os.close(fd)


def _attributes(fd: int, path: str) -> _Attributes:
    attributes = _Attributes()
    pointer = ctypes.byref(attributes)
    libc.check(_ioctl(fd, _FS_IOC_FSGETXATTR, pointer), "FS_IOC_FSGETXATTR", path)
    return attributes


def _quotactl(directory: str, command: int, project: int, data: ctypes.Structure) -> None:
    words = (command << 8 | _PRJQUOTA, project, ctypes.byref(data))
    fd = os.open(directory, _DIRECTORY)
    try:
        libc.syscall(
            _SYS_QUOTACTL_FD, "quotactl_fd", fd, words[0], project, words[2], path=directory
        )
        return
    except OSError as error:
        # ENOSYS also says that quotas are off; a kernel before 5.14 lacks the call itself.
        if error.errno != errno.ENOSYS:
            raise
        device = mountinfo.device_of(os.fstat(fd).st_dev)
    finally:
        os.close(fd)
    if not device:
        raise OSError(errno.ENODEV, "quotactl: the file system has no device", directory)
    libc.syscall(
        _SYS_QUOTACTL, "quotactl", words[0], device.encode(), project, words[2], path=directory
    )
