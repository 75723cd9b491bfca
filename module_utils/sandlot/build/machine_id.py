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
from .operations import LAYER, MERGED, RootOperation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Mapping, Optional

# The second is that of D-Bus, on most systems a link to the first.
PATHS = ("etc/machine-id", "var/lib/dbus/machine-id")
_NEW = ".machine-id.sandlot"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LENGTH = 33
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class MachineId(RootOperation):
    """A new id over each one of the image: the layer tells which the sandbox has already."""

    def __init__(self) -> None:
        self.kept: List[str] = []

    def stack(self, pins: Mapping[str, int]) -> None:
        merged, layer = os.open(MERGED, _DIRECTORY), os.open(f"{LAYER}/upper", _DIRECTORY)
        self.kept = [path for path in PATHS if _is_kept(merged, layer, path)]
        os.close(merged)
        os.close(layer)

    def apply(self, root: int) -> None:
        content = b""
        for path in (*self.kept, *PATHS):
            directory, dummy, leaf = path.rpartition("/")
            holder = _holder(root, directory)
            if holder is None:
                continue
            if _is_file(holder, leaf):
                if path in self.kept:
                    content = content or _known_id(holder, leaf)
                else:
                    content = content or _new_id()
                    _replace(holder, leaf, content)
            os.close(holder)

    def outside(self) -> List[str]:
        """No command: the layer of a script is new, so nothing is kept."""
        return []

    def command(self) -> List[str]:
        # Run for a new layer, where each start is the first.
        lines = ["id=$(tr -d - </proc/sys/kernel/random/uuid)"]
        for path in (f"./{path}" for path in PATHS):
            test = f"[ -L {path} ] || [ ! -f {path} ]"
            lines.append(f"{test} || {{ rm {path}; echo $id >{path}; chmod 444 {path}; }}")
        return lines


def _holder(root: int, directory: str) -> Optional[int]:
    """The directory, below the root also where links lead; None when there is none."""
    try:
        return mounts.openat2(root, directory, _DIRECTORY, mounts.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def _is_kept(merged: int, layer: int, path: str) -> bool:
    """Whether the layer has the path; a whiteout is the sandbox's own work as well."""
    directory, dummy, leaf = path.rpartition("/")
    holder = _holder(merged, directory)
    if holder is None:
        return False
    place = os.readlink(f"/proc/self/fd/{holder}")[len(MERGED) :]
    os.close(holder)
    try:
        os.close(mounts.openat2(layer, f".{place}/{leaf}", _NODE, rootfs.STRICT))
    except FileNotFoundError:
        return False
    return True


def _is_file(directory: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _known_id(directory: int, name: str) -> bytes:
    """The id in a file of the sandbox; empty when it holds something else."""
    fd = mounts.openat2(directory, name, os.O_RDONLY | os.O_NONBLOCK, rootfs.STRICT)
    content = os.read(fd, _LENGTH + 1)
    os.close(fd)
    return content if len(content) == _LENGTH and content[:-1].isalnum() else b""


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
