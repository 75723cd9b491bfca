# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Gives a sandbox a machine id of its own (machine-id(5)) in place of the one in its image.

The id is a file of the sandbox's layer, written at the first start: later ones, and the sandbox
itself, find it there. An image without such a file gets none.
"""

from __future__ import annotations

import errno
import os
import stat

from ..kernel import mounts
from ..kernel.files import write_all
from . import rootfs
from .operations import RootOperation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Mapping

# The second is that of D-Bus, on most systems a link to the first.
PATHS = ("etc/machine-id", "var/lib/dbus/machine-id")
_NEW = ".machine-id.sandlot"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class MachineId(RootOperation):
    """A new id over the image's; ``upper`` is the sandbox's layer, "" for one in memory."""

    def __init__(self, upper: str) -> None:
        self.upper = upper
        self.fresh = True

    def open(self, pins: Mapping[str, int]) -> None:
        if self.upper:
            upper = os.open(self.upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.fresh = not any(_is_there(upper, path) for path in PATHS)
            os.close(upper)

    def apply(self, root: int) -> None:
        if not self.fresh:
            return
        content = _new_id()
        for path in PATHS:
            directory, dummy, leaf = path.rpartition("/")
            try:
                holder = mounts.openat2(root, directory, _DIRECTORY, rootfs.STRICT)
                mode = os.stat(leaf, dir_fd=holder, follow_symlinks=False).st_mode
            except OSError as error:
                if error.errno in _ABSENT:
                    continue
                raise
            if stat.S_ISREG(mode):
                _replace(holder, leaf, content)
            os.close(holder)

    def command(self) -> List[str]:
        # Run for a new layer, where each start is the first.
        lines = ["id=$(tr -d - </proc/sys/kernel/random/uuid)"]
        for path in (f"./{path}" for path in PATHS):
            test = f"[ -L {path} ] || [ ! -f {path} ]"
            lines.append(f"{test} || {{ rm {path}; echo $id >{path}; chmod 444 {path}; }}")
        return lines


def _is_there(directory: int, path: str) -> bool:
    """Whether the layer has the path; a link on the way is the sandbox's own work as well."""
    try:
        os.close(mounts.openat2(directory, path, os.O_PATH | os.O_NOFOLLOW, rootfs.STRICT))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
    return True


def _new_id() -> bytes:
    """A version 4 UUID, as systemd makes it."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return raw.hex().encode() + b"\n"


def _replace(directory: int, name: str, content: bytes) -> None:
    """Rename a new file over the old one, so that a start that is killed is no first start."""
    try:
        os.unlink(_NEW, dir_fd=directory)
    except FileNotFoundError:
        pass  # no start was killed in between
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(_NEW, flags, 0o444, dir_fd=directory)
    try:
        write_all(fd, content)
        os.fchmod(fd, 0o444)
    finally:
        os.close(fd)
    os.rename(_NEW, name, src_dir_fd=directory, dst_dir_fd=directory)
