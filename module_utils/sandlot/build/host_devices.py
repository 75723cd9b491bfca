# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Devices of the host below the sandbox's /dev, as nodes of its own.

The nodes are on read-only mounts, on which devices can be written to: their owner inside changes no
mode. The cgroup of the sandbox restricts them as well.
"""

from __future__ import annotations

import os
import stat

from ..errors import LaunchError
from ..kernel import mounts
from ..kernel.mounts import MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY
from . import rootfs
from .operations import DEVICE_NODES, RootOperation, built, option_words, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Sequence, Tuple

    from .operations import Points

_NODES = {"size": "4k", "nr_inodes": "64", "mode": "755"}
_FLAGS = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_RDONLY
_BITS = {"r": 0o444, "w": 0o222, "m": 0}


class HostDevices(RootOperation):
    """Nodes with the host's owner, group and mode, by the numbers inside, as far as asked for."""

    def __init__(self, entries: Sequence[Mapping[str, Any]], ids: Mapping[str, int]) -> None:
        self.entries = entries
        self.ids = ids

    def open(self, pins: Mapping[str, int]) -> None:
        self.mount = mounts.new_mount("tmpfs", _NODES, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
        for number, entry in enumerate(self.entries):
            kind, mode, uid, gid = self._node(entry)
            name = str(number)
            os.mknod(name, kind | 0o600, os.makedev(*entry["number"]), dir_fd=self.mount)
            os.chown(name, uid, gid, dir_fd=self.mount)
            os.chmod(name, mode, dir_fd=self.mount)

    def _node(self, entry: Mapping[str, Any]) -> Tuple[int, int, int, int]:
        """The type, mode, user and group of the node, from the host's as it is now."""
        # Imported here, in a process that ends soon: sandboxes share the memory of the launcher.
        from ..sandbox import devices

        status = devices.examined(entry["source"])
        number = [os.major(status.st_rdev), os.minor(status.st_rdev)]
        kind = stat.S_IFMT(status.st_mode)
        if entry["number"] != number or entry["kind"] != ("b" if stat.S_ISBLK(kind) else "c"):
            hint = "deploy again, which gives the sandbox the device that is there now"
            raise LaunchError(f"devices: {entry['source']} is another device now", hint=hint)
        mode = stat.S_IMODE(status.st_mode) & _bits(entry["access"])
        size = self.ids["size"]
        uid, gid = (each if each < size else 0 for each in (status.st_uid, status.st_gid))
        return kind, mode, self.ids["uid"] + uid, self.ids["gid"] + gid

    def stack(self, pins: Mapping[str, int]) -> None:
        mounts.attach(self.mount, DEVICE_NODES)
        count = range(len(self.entries))
        self.mounts = [mounts.clone_tree(f"{DEVICE_NODES}/{number}") for number in count]
        for mount in self.mounts:
            mounts.set_attributes(mount, _FLAGS)

    def apply(self, root: int) -> None:
        for entry, mount in zip(self.entries, self.mounts):
            parent, dummy, leaf = entry["path"].rpartition("/")
            holder = rootfs.directory(root, parent)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            file = mounts.openat2(holder, leaf, flags, rootfs.STRICT, 0o600)
            mounts.attach(mount, target_fd=file)
            os.close(file)
            os.close(holder)

    def points(self) -> Points:
        return {entry["path"]: _FLAGS for entry in self.entries}

    def outside(self) -> List[str]:
        options = option_words(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, _NODES)
        place = built(DEVICE_NODES)
        lines = [f"mkdir {place}", f"mount -t tmpfs -o {options} none {place}"]
        for number, entry in enumerate(self.entries):
            dummy, mode, uid, gid = self._node(entry)
            node, (major, minor) = f"{place}/{number}", entry["number"]
            lines += [
                f"mknod -m {mode:03o} {node} {entry['kind']} {major} {minor}",
                f"chown {uid}:{gid} {node}",
            ]
        return lines

    def command(self) -> List[str]:
        lines = []
        for number, entry in enumerate(self.entries):
            path = quote(f".{entry['path']}")
            parent = quote(f".{os.path.dirname(entry['path'])}")
            lines += [
                f"mkdir -p {parent}",
                f"touch {path} && mount --bind ..{DEVICE_NODES}/{number} {path}",
                f"mount -o remount,bind,{option_words(_FLAGS)} {path}",
            ]
        return lines


def _bits(access: str) -> int:
    bits = 0
    for letter in access:
        bits |= _BITS[letter]
    return bits
