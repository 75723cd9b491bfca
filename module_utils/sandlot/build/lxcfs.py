# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The files of lxcfs over those of proc and sysfs that show the host."""

from __future__ import annotations

import os

from ..kernel import mounts
from ..sandbox import lxcfs
from . import rootfs
from .operations import SAFE_READ_ONLY, RootOperation, built, option_words, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Mapping

    from .operations import Points

_COPY = "/lxcfs"


class Lxcfs(RootOperation):
    """Files of the lxcfs that is mounted at ``directory``, read-only."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def open(self, pins: Mapping[str, int]) -> None:
        self.mounts = lxcfs.opened(self.directory, SAFE_READ_ONLY)

    def apply(self, root: int) -> None:
        for path, mount in self.mounts.items():
            target = rootfs.existing(root, path)
            if target is not None:
                mounts.attach(mount, target_fd=target)
                os.close(target)
            os.close(mount)

    def points(self) -> Points:
        known = (f"/{path}" for path in (*lxcfs.FILES, lxcfs.CPU))
        return {path: SAFE_READ_ONLY for path in known if os.path.exists(self.directory + path)}

    def outside(self) -> List[str]:
        return [f"mkdir {built(_COPY)}", f"mount --bind {quote(self.directory)} {built(_COPY)}"]

    def command(self) -> List[str]:
        return [
            f"cpu={lxcfs.CPU}",
            f'[ -e "..{_COPY}/$cpu/uevent" ] || cpu=$cpu/online',
            f'for path in {" ".join(lxcfs.FILES)} "$cpu"; do',
            f'  if [ -e "..{_COPY}/$path" ] && [ -e "./$path" ]; then',
            f'    mount --bind "..{_COPY}/$path" "./$path"',
            f'    mount -o remount,bind,{option_words(SAFE_READ_ONLY)} "./$path"',
            "  fi",
            "done",
        ]
