# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Directories with a size on disk: made, moved, replaced and removed, whatever bounds them.

Where the file of a file system exists, it is the truth, and the directory is its mount point. Each
change becomes valid by one rename, so a killed run leaves the old state or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os

from .. import store
from ..errors import ForeignError
from ..kernel import libc, quotas
from ..kernel.trees import refuse_mounts, remove_tree
from ..site import Site
from . import filesystem, projects
from .model import FILE, Place, whole_blocks
from .ways import require

# On a directory that is no longer valid, or not yet, in favour of a file beside it.
_REPLACED = "trusted.sandlot.replaced"
_RENAME_EXCHANGE = 2


def of_volume(site: Site, name: str) -> Place:
    """The files of a volume, which may have a size."""
    paths = site.volume(name)
    return Place(paths.data, paths.image)


def exists(place: Place) -> bool:
    return os.path.lexists(place.image) or os.path.lexists(place.directory)


def prepare(site: Site, place: Place, size: int | None, option: str) -> None:
    """Make an empty directory, for a size in the way of this host; ``finish`` has to follow.

    A killed run leaves half of it: it belongs beside the place that ``commit`` then replaces.
    """
    by_file = size is not None and require(os.path.dirname(place.directory), option).name == FILE
    discard(place)
    if by_file and size is not None:
        filesystem.make(place.image, size)
        mount(place)
        os.chmod(place.directory, 0o700)
    else:
        os.mkdir(place.directory, 0o700)


def finish(site: Site, place: Place, size: int | None) -> None:
    """Bound the trees of a place, which now exist, before they get any content."""
    if size is None or os.path.exists(place.image):
        return
    number = projects.allocate(site, os.path.dirname(place.directory), whole_blocks(size))
    for path in place.paths:
        quotas.set_project(path, number)


def mount(place: Place) -> None:
    """Mount the file system in the file, unless it is; nothing for a place without one."""
    if not os.path.exists(place.image) or filesystem.is_mounted(place):
        return
    refuse_mounts(place.directory)
    if os.path.isdir(place.directory) and _is_replaced(place.directory):
        # Also when it is empty: the mark would say of files to come that they are not valid.
        _remove(place.directory)
    elif os.path.isdir(place.directory) and os.listdir(place.directory):
        raise ForeignError(
            f"{place.directory} holds files, which the file system in {place.image} would hide",
            hint="move them elsewhere, and run again",
        )
    filesystem.mount(place)


def opened(place: Place) -> str:
    """The directory, with its content in it also after somebody's umount, or a boot."""
    mount(place)
    return place.directory


def move(place: Place, target: Place, *, mounted: bool = True) -> None:
    """Move a directory, with all that bounds it, to a place where there is none."""
    if not os.path.exists(place.image):
        os.rename(place.directory, target.directory)
        return
    _take_down(place)
    os.rename(place.image, target.image)
    if mounted:
        mount(target)


def commit(place: Place, target: Place) -> None:
    """Put a complete directory in the place of another one, which is removed."""
    by_file = os.path.exists(place.image)
    if by_file:
        _take_down(place)
        if os.path.exists(target.image):
            filesystem.unmount(target)
        elif os.path.isdir(target.directory):
            _mark(target.directory)
        os.rename(place.image, target.image)
        mount(target)
    elif os.path.exists(target.image):
        _mark(place.directory)
        _take_down(target)
        os.rename(place.directory, target.directory)
        os.unlink(target.image)
        os.removexattr(target.directory, _REPLACED)
    elif os.path.isdir(target.directory):
        refuse_mounts(target.directory)
        libc.renameat2(place.directory, target.directory, _RENAME_EXCHANGE)
        remove_tree(place.directory)
    else:
        os.rename(place.directory, target.directory)


def discard(place: Place) -> None:
    """Remove a directory: a rename first, so that a kill never leaves half of it in use."""
    filesystem.unmount(place)
    refuse_mounts(place.directory)
    _remove(place.directory)
    store.unlink(place.image)


def _take_down(place: Place) -> None:
    filesystem.unmount(place)
    refuse_mounts(place.directory)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(place.directory)


def _remove(directory: str) -> None:
    old = f"{directory}.old"
    remove_tree(old)
    try:
        # Without a mount inside, as the caller knows, so no path of one changes.
        os.rename(directory, old)
    except FileNotFoundError:
        return
    remove_tree(old)


def _mark(directory: str) -> None:
    os.setxattr(directory, _REPLACED, b"y", follow_symlinks=False)


def _is_replaced(directory: str) -> bool:
    try:
        return bool(os.getxattr(directory, _REPLACED, follow_symlinks=False))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return False
