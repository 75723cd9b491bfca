# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""FIFOs in the place of /proc/1/fd/1 and 2, for images that write to the output of process 1.

There it is the workload's own; here process 1 is init, which reads the FIFOs into the log. Its own
descriptors are out of reach, as it can't be traced from inside (proc(5)).
"""

from __future__ import annotations

import os

from ..kernel import mounts
from . import rootfs
from .operations import SAFE, SAFE_READ_ONLY, RootOperation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

    from .operations import Points

_NAMES = ("1", "2")
_OPTIONS = {"size": "4k", "nr_inodes": "3", "mode": "555"}


class LogFiles(RootOperation):
    """The FIFOs, on a read-only tmpfs over /proc/1/fd."""

    def apply(self, root: int) -> None:
        target = mounts.openat2(root, "proc/1/fd", os.O_PATH | os.O_DIRECTORY, rootfs.STRICT)
        mount = mounts.new_mount("tmpfs", _OPTIONS, SAFE)
        for name in _NAMES:
            # As the workload's pipes are: any user writes, nobody reads another one's output.
            os.mkfifo(name, 0o622, dir_fd=mount)
            # Also for writing, so that no writer's end is the end of the file (fifo(7)).
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
            self.for_init = (*self.for_init, os.open(name, flags, dir_fd=mount))
        mounts.set_attributes(mount, SAFE_READ_ONLY)
        mounts.attach(mount, target_fd=target)
        os.close(mount)
        os.close(target)

    def points(self) -> Points:
        return {"/proc/1/fd": SAFE_READ_ONLY}

    def command(self) -> List[str]:
        return ["# /proc/1/fd: the workload of this script is process 1, which has its own"]
