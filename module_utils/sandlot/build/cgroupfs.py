# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandbox's own cgroups below /sys/fs/cgroup, where programs look up their limits."""

from __future__ import annotations

import os

from ..kernel import hierarchies, mounts
from . import rootfs
from .operations import OWN, SAFE_READ_ONLY, RootOperation, built, option_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Mapping, Sequence, Tuple

    from .operations import Points

PLACE = "sys/fs/cgroup"
_DIRECTORIES = f"{OWN}/cgroup"


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

    def stack(self, pins: Mapping[str, int]) -> None:
        if not any(self.shown):
            return
        mask = os.umask(0)
        os.mkdir(_DIRECTORIES, 0o755)
        for dummy, name in hierarchies.places(self.shown):
            os.mkdir(f"{_DIRECTORIES}/{name}", 0o755)
        os.umask(mask)
        for name, target in self._links():
            os.symlink(target, f"{_DIRECTORIES}/{name}")
        self.mount = mounts.clone_tree(_DIRECTORIES)
        mounts.set_attributes(self.mount, SAFE_READ_ONLY)

    def apply(self, root: int) -> None:
        made = hierarchies.mounted(self.shown, SAFE_READ_ONLY)
        if made and any(self.shown):
            rootfs.attach(root, PLACE, self.mount)
        for mount, (dummy, name) in zip(made, hierarchies.places(self.shown)):
            rootfs.attach(root, f"{PLACE}/{name}", mount)

    def points(self) -> Points:
        places = [PLACE] if any(self.shown) else []
        places += [f"{PLACE}/{name}".rstrip("/") for dummy, name in hierarchies.places(self.shown)]
        return {f"/{place}": SAFE_READ_ONLY for place in places}

    def outside(self) -> List[str]:
        if not any(self.shown):
            return []
        names = [name for dummy, name in hierarchies.places(self.shown)]
        paths = " ".join(built(f"{_DIRECTORIES}/{name}") for name in names)
        links = [f"ln -s {to} {built(f'{_DIRECTORIES}/{name}')}" for name, to in self._links()]
        return [f"mkdir {built(_DIRECTORIES)} {paths}", *links]

    def command(self) -> List[str]:
        place, named = f"./{PLACE}", hierarchies.places(self.shown)
        lines = []
        if any(self.shown):
            lines.append(f"mount --bind ..{_DIRECTORIES} {place}")
            lines.append(f"mount -o remount,bind,{option_words(SAFE_READ_ONLY)} {place}")
        for names, name in named:
            kind, options = hierarchies.filesystem(names)
            words = option_words(SAFE_READ_ONLY, options)
            lines.append(f"mount -t {kind} -o {words} none {place}/{name}".rstrip("/"))
        return lines
