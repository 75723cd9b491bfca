# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""An ext4 file system in a sparse file: made, mounted, grown.

The file takes the space that its content needs, and gives it back when files are removed (discard).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

from ..errors import HostError
from ..kernel import confine, libc, loop_devices, mountinfo, mounts, program
from ..kernel.mounts import MS_NODEV, MS_NOSUID
from ..kernel.trees import refuse_mounts
from .model import BLOCK, Place, inodes, whole_blocks
from .ways import MKFS

# Nothing is kept for root, who is outside. Holes are zeros already, so nobody writes any: neither
# mkfs (lazy) nor the kernel in the background (noinit_itable).
_MKFS = [MKFS, "-q", "-F", "-m", "0", "-b", str(BLOCK), "-I", "256", "-e", "remount-ro"]
_LAZY = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
_OPTIONS = "discard,noinit_itable"
_RESIZE = 0x40086610  # EXT4_IOC_RESIZE_FS
_SUPERBLOCK = 1024
_SMALLER = "make room, or choose another size"
FSCK = "e2fsck"
_UNREPAIRED = 4  # e2fsck(8), exit code
# A sandbox that has ended takes its mounts down some time later.
_PATIENCE, _POLL = 20.0, 0.02
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_ioctl = libc.bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def make(image: str, size: int) -> None:
    """Make a file system of ``size`` bytes in a new file."""
    fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, whole_blocks(size))
    except OSError as error:
        raise HostError(f"{image}, of {size} bytes: {error.strerror}", hint=_SMALLER) from error
    finally:
        os.close(fd)
    program.check([*_MKFS, "-N", str(inodes(size)), "-E", _LAZY, image], hint=_SMALLER)


def is_mounted(place: Place) -> bool:
    """Whether the file system in the file is what ``directory`` shows."""
    try:
        device = os.stat(place.directory, follow_symlinks=False).st_dev
    except FileNotFoundError:
        return False
    if not os.path.exists(place.image):
        # Without ours, a loop device there is one that the host mounts itself.
        return False
    return loop_devices.backs(place.image, device)


def mount(place: Place) -> None:
    """Mount the file system, closed for the host: its files belong to a tenant."""
    os.makedirs(place.directory, mode=0o700, exist_ok=True)
    refuse_mounts(place.directory)
    with loop_devices.held(place.image) as device:
        mounts.mount(device, place.directory, "ext4", MS_NOSUID | MS_NODEV, _OPTIONS)
    # Programs take a directory with it for one that is in use.
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(f"{place.directory}/lost+found")


def unmount(place: Place) -> None:
    """Take the mount away; a process that still uses it keeps the file system alive."""
    while is_mounted(place):
        mounts.umount(place.directory)


def has_failed(place: Place) -> bool:
    """Whether an error has made the mounted file system read-only, such as a full disk below it."""
    device = os.stat(place.directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounted = (options for which, dummy, options in mountinfo.seen_by("self") if which == number)
    # Until Linux 6.14 "ro", also in statvfs(2).
    return any(not {"ro", "emergency_ro"}.isdisjoint(options) for options in mounted)


def renew(place: Place) -> None:
    """Mount a file system again that has failed, once nobody uses it any more."""
    unmount(place)
    deadline = time.monotonic() + _PATIENCE
    while loop_devices.is_bound(place.image):
        if time.monotonic() > deadline:
            hint = f"end what holds files of it (fuser -m {place.directory}), and run again"
            raise HostError(f"the file system in {place.image} is still in use", hint=hint)
        time.sleep(_POLL)
    done = program.run([FSCK, "-p", place.image])
    if done.returncode >= _UNREPAIRED:
        complaint = program.complaint(done)
        hint = f"look at it with {FSCK} {place.image}, or restore what it held from elsewhere"
        raise HostError(f"the file system in {place.image} has errors: {complaint}", hint=hint)
    mount(place)


def size_of(place: Place) -> int:
    """The size of the file system, which a run that was killed may have left behind the file's."""
    device = os.stat(place.directory).st_dev
    fd = os.open(loop_devices.path_of(os.minor(device)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        block = os.pread(fd, BLOCK, 0)[_SUPERBLOCK:]
    finally:
        os.close(fd)
    low, high = (int.from_bytes(block[at : at + 4], "little") for at in (0x4, 0x150))
    return (high << 32 | low) * BLOCK


def may_grow() -> bool:
    """Whether the kernel lets this process change the size of a mounted file system."""
    return bool(confine.capabilities()[0] >> confine.CAP_SYS_RESOURCE & 1)


def grow(place: Place, size: int) -> None:
    """Grow the file, its device and the file system, while it is used."""
    size = whole_blocks(size)
    if os.stat(place.image).st_size < size:
        os.truncate(place.image, size)
    loop_devices.grow(place.image)
    fd = os.open(place.directory, _DIRECTORY)
    try:
        count = ctypes.c_uint64(size // BLOCK)
        libc.check(_ioctl(fd, _RESIZE, ctypes.byref(count)), "EXT4_IOC_RESIZE_FS", place.directory)
    except OSError as error:
        hint = "stop what uses it and give it the size again, or choose a smaller one"
        raise HostError(f"{place.image} can't grow: {error.strerror}", hint=hint) from error
    finally:
        os.close(fd)
