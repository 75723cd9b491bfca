# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Mounts volumes and paths of the host into a sandbox's root.

Sources are opened by host root on the host, targets by root of the sandbox's user namespace inside.
In between, the kernel locks the flags of the mounts: a copy of the build namespace for a less
privileged user namespace has them all locked (mount_namespaces(7)), and so have the copies of its
mounts. A sandbox that may mount can't make a read-only one writable.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import LaunchError
from ..kernel import mounts
from ..sandbox import mount_state
from . import places, rootfs, sources
from .operations import MOUNTS, Filesystem, RootOperation, built, option_words, quote
from .stacking import mapped_bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Mapping, Optional

    from .operations import Points

    Made = Optional[Callable[[int], None]]

_STAGE = {"size": "64k", "mode": "755"}


class Stage(RootOperation):
    """A tmpfs of the build namespace, for this start, that has a place for each mount."""

    def stack(self, pins: Mapping[str, int]) -> None:
        stage()

    def outside(self) -> List[str]:
        return [f"mkdir {built(MOUNTS)}"]


class Mounted(RootOperation):
    """A volume or a path of the host; ``below`` is the mount that its target lies in."""

    def __init__(
        self,
        entry: Mapping[str, Any],
        number: int,
        ids: Mapping[str, int],
        below: Optional[Mounted] = None,
    ) -> None:
        self.entry = entry
        self.place = f"{MOUNTS}/{number}"
        self.ids = ids
        self.below = below

    def open(self, pins: Mapping[str, int]) -> None:
        self.mount = sources.opened(self.entry, pins["user"])

    def stack(self, pins: Mapping[str, int]) -> None:
        put(self.mount, self.place)

    def lock(self) -> None:
        self.mount = locked(self.place)

    def apply(self, root: int) -> None:
        target = self.entry["target"]
        if self.below:
            self.below.attach(target, self.mount)
        else:
            attach(root, target, self.mount, target, follow=True, made=made_for(self.entry))

    def attach(self, target: str, mount: int) -> None:
        """Attach another mount in this one, without following a link in it."""
        within = target[len(self.entry["target"]) :]
        attach(self.mount, within, mount, target, follow=False)

    def outside(self) -> List[str]:
        """Commands for a directory or a file, whichever the source is when they run."""
        source, place = quote(self._path()), built(self.place)
        words = option_words(sources.attributes(self.entry))
        make = f"if [ -d {source} ]; then mkdir {place}; else touch {place}; fi"
        bind = [f"mount --rbind --make-rprivate {source} {place}"]
        if sources.maps_ids(self.entry):
            bind = mapped_bind(self._path(), self.place, self.ids)
        elif self.entry.get("propagation"):
            bind = [f"mount --rbind --make-{self.entry['propagation']} {source} {place}"]
        return [make, *bind, f"mount -o remount,bind,{words} {place}"]

    def points(self) -> Points:
        return {self.entry["target"]: sources.attributes(self.entry)}

    def _path(self) -> str:
        subpath = self.entry.get("subpath")
        return f"{self.entry['path']}/{subpath}" if subpath else str(self.entry["path"])

    def command(self) -> List[str]:
        target, place = quote(f".{self.entry['target']}"), f"..{self.place}"
        parent = quote(f".{os.path.dirname(self.entry['target'])}")
        return [
            f"if [ -d {place} ]; then mkdir -p {target}",
            f"else mkdir -p {parent}; [ -e {target} ] || touch {target}; fi",
            f"mount --rbind {place} {target}",
        ]


class MemoryInside(RootOperation):
    """A tmpfs in a volume or a path of the host; it starts empty."""

    def __init__(self, memory: Filesystem, below: Mounted) -> None:
        self.memory = Filesystem(memory.kind, memory.path, memory.flags, memory.options)
        self.below = below

    def apply(self, root: int) -> None:
        memory = self.memory
        self.below.attach(memory.path, mounts.new_mount("tmpfs", memory.options, memory.flags))

    def command(self) -> List[str]:
        return self.memory.command()

    def points(self) -> Points:
        return self.memory.points()


def stage() -> None:
    """Mount the tmpfs that detached mounts are attached in; as host root, in a copy of the build
    namespace."""
    mounts.attach(mounts.new_mount("tmpfs", _STAGE), MOUNTS)


def put(mount: int, place: str) -> None:
    """Attach a detached mount at a new place in the stage."""
    if stat.S_ISDIR(os.fstat(mount).st_mode):
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    mounts.attach(mount, place)


def locked(place: str) -> int:
    """A detached copy with locked flags; as root of the sandbox, in its copy of the namespace."""
    return mounts.clone_tree(place, recursive=True)


def made_for(entry: Mapping[str, Any]) -> Made:
    """The function to call with a file that is made for an entry, None for most."""
    return places.mark if mount_state.is_of_record(entry) else None


def make_place(root: int, target: str, mount: int, made: Made = None) -> None:
    """Make the target of a mount below a root, where links are followed, if it is missing."""
    if stat.S_ISDIR(os.fstat(mount).st_mode):
        os.close(rootfs.directory(root, target, follow=True))
    else:
        os.close(rootfs.file_target(root, target, follow=True, made=made))


def attach(
    base: int,
    path: str,
    mount: int,
    target: str,
    *,
    follow: bool,
    own: Optional[int] = None,
    made: Made = None,
) -> None:
    """Attach a detached mount at a path below ``base``; ``target`` is its path for messages.

    ``own`` is the directory of our descriptors, where /proc inside does not show us.

    Without ``follow``, links are refused: in a directory that others write to, they may be planted.
    """
    try:
        if stat.S_ISDIR(os.fstat(mount).st_mode):
            rootfs.attach(base, path, mount, follow=follow, own=own)
        else:
            rootfs.attach_to_file(base, path, mount, follow=follow, own=own, made=made)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT):
            raise
        raise LaunchError(
            f"{target} can't be mounted: {error.strerror}",
            hint="make the place in the image or in the mount around it: a directory for a "
            "directory, a file for a file",
        ) from error
