# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies of an image with owners moved into a sandbox's range, for hosts whose kernel or file
system can't map ids on a mount."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import Dict, Tuple

from ..errors import SandlotError
from ..idmap import IdRange
from ..kernel.trees import copied_file
from ..plan import Operation
from ..site import Site
from .model import Image
from .workspace import install, private_directory, temporary, tree

_Copied = Dict[Tuple[int, int], str]


def shifted(site: Site, image: Image, ids: IdRange) -> str:
    """The path of the copy for this range, whether or not it exists."""
    return f"{tree(site, image.digest)}/shifted-{ids.start}"


def shift_operations(site: Site, image: Image, ids: IdRange) -> list[Operation]:
    destination = shifted(site, image, ids)
    if os.path.isdir(destination):
        return []

    def shift() -> None:
        try:
            private_directory(site.images)
            with temporary(site, f"{image.digest}-{ids.start}") as directory:
                _copy_tree(image.root, f"{directory}/root", ids)
                if not os.path.isdir(destination):
                    install(site, f"{directory}/root", destination)
        except OSError as error:
            raise SandlotError(
                f"image {image.name!r} can't be copied for the ids {ids.start}: {error}",
                hint=f"see to space and rights in {site.images}, then run again",
            ) from error

    return [Operation(f"image {image.name}", f"copy with owners moved to {ids.start}", shift)]


def _copy_tree(source: str, destination: str, ids: IdRange) -> None:
    copied: _Copied = {}
    os.mkdir(destination)
    for here, directories, files, fd in os.fwalk(source, topdown=True):
        relative = os.path.relpath(here, source)
        with ExitStack() as stack:
            target = os.open(f"{destination}/{relative}", os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, target)
            for name in [*directories, *files]:
                _copy_entry(fd, target, name, f"{destination}/{relative}/{name}", ids, copied)
    # Times last: filling a directory changes its own.
    for here, dummy, dummy, fd in os.fwalk(source, topdown=False):
        status, path = os.fstat(fd), f"{destination}/{os.path.relpath(here, source)}"
        with ExitStack() as stack:
            made = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, made)
            os.fchown(made, *_moved(status, ids))
            os.fchmod(made, stat.S_IMODE(status.st_mode))
            os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_entry(
    source: int, target: int, name: str, path: str, ids: IdRange, copied: _Copied
) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        return
    identity = (status.st_dev, status.st_ino)
    if identity in copied:
        os.link(copied[identity], name, dst_dir_fd=target, follow_symlinks=False)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISREG(status.st_mode):
        with copied_file(source, target, name, status.st_size):
            pass  # owner, mode and times are set below, by name, as for a link
    else:
        raise SandlotError(f"{path} is neither file, directory nor link", hint="make it again")
    uid, gid = _moved(status, ids)
    os.chown(name, uid, gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        # After chown, which clears the setuid bit. We made the entry, so it is no link.
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
    if status.st_nlink > 1:
        copied[identity] = path


def _moved(status: os.stat_result, ids: IdRange) -> tuple[int, int]:
    for value in (status.st_uid, status.st_gid):
        if value >= ids.size:
            problem = f"a file of the image belongs to {value}, beyond the {ids.size} ids"
            raise SandlotError(problem, hint="remove the image and make it again")
    return ids.start + status.st_uid, ids.start + status.st_gid
