# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies a sandbox's writable layer into a layer for images, with owners counted from 0.

The sandbox is stopped, but a tenant made its files. So they are reached by descriptors only and are
bounded in number, size and depth. Only files, directories and links are copied, with overlayfs's
whiteouts and opaque marks.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import AbstractSet, Dict, List, Tuple

from ..errors import SandlotError
from ..idmap import IdRange
from ..kernel.trees import copied_file
from . import identity
from .model import Built
from .unpack import MAX_DEPTH, MAX_WARNINGS, Bounds

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Marks that only the kernel and host root can set.
_MARKS = ("trusted.overlay.opaque", "trusted.overlay.redirect")
_COPIED_UP = "trusted.overlay.origin"
# Mount points of the host-made files, put there by the builder (build.operations.File).
_PLACEHOLDERS = frozenset(("etc/hosts", "etc/resolv.conf", "etc/hostname"))


def harvest(
    upper: str, root: str, ids: IdRange, bounds: Bounds, given: AbstractSet[str] = frozenset()
) -> Built:
    """Fill the empty directory ``root``, with warnings about files that were left out.

    Files that identify a machine are left out as well, apart from ``given``: those that the user
    wrote by name.
    """
    with ExitStack() as stack:
        source = os.open(upper, _DIRECTORY)
        stack.callback(os.close, source)
        target = os.open(root, _DIRECTORY)
        stack.callback(os.close, target)
        copy = _Harvest(target, ids, bounds, given)
        copy.directory(source, target, "", 1)
        return Built(copy.warnings(), {identity.FIRST_START: True} if copy.had_keys else {})


class _Harvest:
    def __init__(self, root: int, ids: IdRange, bounds: Bounds, given: AbstractSet[str]) -> None:
        self._root = root
        self._ids = ids
        self._bounds = bounds
        self._count = 0
        self._size = 0
        self._linked: Dict[Tuple[int, int], str] = {}
        self._dropped: List[str] = []
        self._given = given
        self.had_keys = False

    def directory(self, source: int, target: int, path: str, depth: int) -> None:
        """Copy a directory's entries, then its owner, mode, marks and times."""
        if depth > MAX_DEPTH:
            raise _refused(f"/{path[:200]} lies more than {MAX_DEPTH} directories deep")
        for name in sorted(os.listdir(source)):
            below = f"{path}/{name}" if path else name
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            self._check_bounds(status)
            if stat.S_ISDIR(status.st_mode):
                self._subdirectory(source, target, name, below, depth)
            elif below not in _PLACEHOLDERS:
                self._entry(source, target, name, below, status)
        status = os.fstat(source)
        if path:
            os.fchown(target, *self._owner(status, path))
            os.fchmod(target, stat.S_IMODE(status.st_mode))
        for name in set(os.listxattr(source)) & set(_MARKS):
            os.setxattr(target, name, os.getxattr(source, name))
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _check_bounds(self, status: os.stat_result) -> None:
        self._count += 1
        self._size += status.st_size if stat.S_ISREG(status.st_mode) else 0
        if self._count > self._bounds.max_files:
            raise _refused(f"there are more than {self._bounds.max_files} files (max_files)")
        if self._size > self._bounds.max_size:
            raise _refused(f"they take more than {self._bounds.max_size} bytes (max_size)")

    def _subdirectory(self, source: int, target: int, name: str, path: str, depth: int) -> None:
        os.mkdir(name, 0o700, dir_fd=target)
        with ExitStack() as stack:
            inner = os.open(name, _DIRECTORY, dir_fd=source)
            stack.callback(os.close, inner)
            made = os.open(name, _DIRECTORY, dir_fd=target)
            stack.callback(os.close, made)
            self.directory(inner, made, path, depth + 1)

    def _entry(
        self, source: int, target: int, name: str, path: str, status: os.stat_result
    ) -> None:
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            # A whiteout; the kernel links one shared node, owned by host root.
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)
            return
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            self._dropped.append(path)
            return
        if path not in self._given and self._identifies(source, target, name, path, status):
            return
        inode = (status.st_dev, status.st_ino)
        if inode in self._linked:
            known = self._linked[inode]
            os.link(known, name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, *self._owner(status, path), dir_fd=target, follow_symlinks=False)
        else:
            with copied_file(source, target, name, status.st_size) as writing:
                # chown clears the setuid bit, so the mode comes after it.
                os.fchown(writing, *self._owner(status, path))
                os.fchmod(writing, stat.S_IMODE(status.st_mode))
        times = (status.st_mtime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
        if status.st_nlink > 1:
            self._linked[inode] = path

    def _identifies(
        self, source: int, target: int, name: str, path: str, status: os.stat_result
    ) -> bool:
        """Leave out a file that identifies a machine, also one of the image below."""
        if stat.S_ISREG(status.st_mode) and path in identity.MACHINE_IDS:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444, dir_fd=target))
            return True
        is_key = identity.is_any(path, identity.HOST_KEYS)
        if is_key or identity.is_any(path, identity.SEEDS):
            self.had_keys |= is_key
            # Only where a directory of the image below shows: elsewhere, whiteouts are listed.
            if _COPIED_UP in os.listxattr(source):
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)
            return True
        return False

    def _owner(self, status: os.stat_result, path: str) -> Tuple[int, int]:
        owner = (status.st_uid - self._ids.start, status.st_gid - self._ids.start)
        if not all(0 <= number < self._ids.size for number in owner):
            shown = f"{status.st_uid}:{status.st_gid}"
            raise _refused(f"/{path[:200]} belongs to {shown}, which is none of the sandbox's ids")
        return owner

    def warnings(self) -> List[str]:
        shown = [f"left out {path!r}: a socket or FIFO" for path in self._dropped[:MAX_WARNINGS]]
        more = len(self._dropped) - MAX_WARNINGS
        return [*shown, *([f"left out {more} more sockets and FIFOs"] if more > 0 else [])]


def _refused(problem: str) -> SandlotError:
    return SandlotError(f"what the setup wrote can't be kept: {problem}", hint="change the steps")
