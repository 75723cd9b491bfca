# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandbox's own cgroups below /sys/fs/cgroup, where programs look up their limits."""

from __future__ import annotations

import os

from ..kernel import hierarchies, mounts
from . import rootfs
from .operations import SAFE, SAFE_READ_ONLY, RootOperation, option_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Sequence, Tuple

PLACE = "sys/fs/cgroup"
_TMPFS = {"size": "4k", "nr_inodes": "16", "mode": "755"}


class Cgroups(RootOperation):
    """The file systems of ``shown`` hierarchies, read-only; nothing if the kernel refuses one.

    A new mount shows the cgroup namespace of its maker, so the mounter has joined init's.
    """

    def __init__(self, shown: Sequence[str]) -> None:
        self.shown = list(shown)

    def _links(self) -> Iterator[Tuple[str, str]]:
        """Yield a link for each controller that shares its hierarchy with others."""
        for names in self.shown:
            if "," in names:
                yield from ((name, names) for name in names.split(","))

    def apply(self, root: int) -> None:
        made = hierarchies.mounted(self.shown, SAFE_READ_ONLY)
        if made and any(self.shown):
            rootfs.attach(root, PLACE, self._directories())
        for mount, (dummy, name) in zip(made, hierarchies.places(self.shown)):
            rootfs.attach(root, f"{PLACE}/{name}", mount)

    def _directories(self) -> int:
        directories = mounts.new_mount("tmpfs", _TMPFS, SAFE)
        for dummy, name in hierarchies.places(self.shown):
            os.mkdir(name, 0o755, dir_fd=directories)
        for name, target in self._links():
            os.symlink(target, name, dir_fd=directories)
        mounts.set_attributes(directories, SAFE_READ_ONLY)
        return directories

    def command(self) -> List[str]:
        place, named = f"./{PLACE}", hierarchies.places(self.shown)
        lines = []
        if any(self.shown):
            lines.append(f"mount -t tmpfs -o {option_words(SAFE, _TMPFS)} none {place}")
            lines += [f"mkdir {place}/{name}" for dummy, name in named]
            lines += [f"ln -s {target} {place}/{name}" for name, target in self._links()]
            lines.append(f"mount -o remount,bind,{option_words(SAFE_READ_ONLY)} {place}")
        for names, name in named:
            kind, options = hierarchies.filesystem(names)
            words = option_words(SAFE_READ_ONLY, options)
            lines.append(f"mount -t {kind} -o {words} none {place}/{name}".rstrip("/"))
        return lines
