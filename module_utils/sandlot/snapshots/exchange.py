# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Puts copies from a snapshot in the place of volumes, and keeps what was there.

Both versions are in the slots of a rebuild, which a failure or the next run undoes: "next" has the
copies, and "old" what a volume held before. Volumes change places by renames; one with a size of
its own gets its content copied, as its directory has to stay.
"""

from __future__ import annotations

import contextlib
import os
from typing import Callable, Iterator, List, Sequence

from .. import sizes
from ..kernel import files, mounts
from ..kernel.copying import copy_directory
from ..kernel.trees import empty, remove_tree, sync
from ..site import NEXT, OLD, SandboxPaths, Site, SnapshotPaths
from .content import Content, volume_of

_PART = ".part-"
_Move = Callable[[str, str], None]


def prepare(site: Site, content: Content, sandbox: SandboxPaths) -> None:
    """Copy the snapshot's volumes to slot "next", while the sandbox still runs."""
    paths = site.snapshot(content.snapshot.sandbox, content.snapshot.id)
    for source, name in content.volumes.items():
        _copy(volume_of(paths, source), _kept(sandbox, NEXT), name)


def back_up(site: Site, sandbox: SandboxPaths, names: Sequence[str]) -> None:
    """Copy volumes before a rebuild; the copies go to the snapshot of the layer."""
    for name in names:
        place = sizes.of_volume(site, name)
        if sizes.exists(place):
            _copy(sizes.opened(place), _backup(sandbox.in_slot(OLD)), name)


def exchange(site: Site, sandbox: SandboxPaths) -> None:
    """Give each volume its new content, and keep the old one."""
    for name in _names(sandbox, NEXT):
        new, old = f"{_kept(sandbox, NEXT)}/{name}", f"{_kept(sandbox, OLD)}/{name}"
        data = sizes.opened(sizes.of_volume(site, name))
        if _stays(site, name):
            _copy(data, _kept(sandbox, OLD), name)
            _refill(data, new)
            remove_tree(new)
        else:
            os.makedirs(os.path.dirname(old), mode=0o700, exist_ok=True)
            with _underneath(site) as move:
                move(data, old)
                move(new, data)


def take_back(site: Site, sandbox: SandboxPaths) -> None:
    """Undo ``exchange``, however far it got."""
    for name in _names(sandbox, OLD):
        old = f"{_kept(sandbox, OLD)}/{name}"
        data = sizes.opened(sizes.of_volume(site, name))
        if _stays(site, name):
            _refill(data, old)
            remove_tree(old)
        else:
            with _underneath(site) as move:
                if os.path.lexists(data):
                    remove_tree(f"{_kept(sandbox, NEXT)}/{name}")
                    move(data, f"{_kept(sandbox, NEXT)}/{name}")
                move(old, data)


def kept(slot: SandboxPaths, target: SnapshotPaths) -> List[str]:
    """The volumes whose former content is in slot "old", or on its way to a snapshot."""
    places = (_directory(slot), _backup(slot), target.volumes)
    return sorted({name for place in places for name in _in(place)})


def backed_up(slot: SandboxPaths) -> List[str]:
    return _in(_backup(slot))


def give(slot: SandboxPaths, target: SnapshotPaths) -> None:
    """Move the former content of volumes to the snapshot of the layer that they belong to."""
    os.makedirs(target.volumes, mode=0o700, exist_ok=True)
    for directory in (_directory(slot), _backup(slot)):
        for name in _in(directory):
            os.rename(f"{directory}/{name}", volume_of(target, name))


def _directory(slot: SandboxPaths) -> str:
    return f"{slot.state}/volumes"


def _backup(slot: SandboxPaths) -> str:
    """The directory of copies that a rollback does not put back."""
    return f"{slot.state}/backup"


def _kept(sandbox: SandboxPaths, slot: str) -> str:
    return _directory(sandbox.in_slot(slot))


def _names(sandbox: SandboxPaths, slot: str) -> List[str]:
    return _in(_kept(sandbox, slot))


def _in(directory: str) -> List[str]:
    return [name for name in files.directories(directory) if not name.startswith(_PART)]


def _copy(source: str, directory: str, name: str) -> None:
    """Copy a tree to a directory, where it appears whole."""
    part, whole = f"{directory}/{_PART}{name}", f"{directory}/{name}"
    if os.path.lexists(whole):
        return
    remove_tree(part)
    os.makedirs(part, mode=0o700)
    copy_directory(source, part)
    sync(part)
    os.rename(part, whole)


def _stays(site: Site, name: str) -> bool:
    """Whether a volume has a size: then its directory is a mount, or carries a number."""
    return bool(sizes.look(site, sizes.of_volume(site, name)).way)


def _refill(data: str, source: str) -> None:
    empty(data)
    copy_directory(source, data)
    sync(data)


@contextlib.contextmanager
def _underneath(site: Site) -> Iterator[_Move]:
    """A function that renames below the state directory.

    The directory of volumes is mounted on itself, and rename(2) goes across no mount. A detached
    mount of the directory above shows the same files without that one.
    """
    top = mounts.clone_tree(site.state)
    try:

        def move(old: str, new: str) -> None:
            paths = [os.path.relpath(path, site.state) for path in (old, new)]
            os.rename(*paths, src_dir_fd=top, dst_dir_fd=top)

        yield move
    finally:
        os.close(top)
