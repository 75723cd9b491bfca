# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Looks at the files of a sandbox from the host, as overlayfs joins them, without entering it.

While init lives, its root is the only tree; else the trees are the sandbox's layer and those of its
image. Other mounts are not entered, as the file system of one may hang.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import dataclass, field
from typing import List, Sequence

from ..idmap import IdRange
from ..kernel import mounts

# The program headers of a program, and the longest "#!" line.
HEAD = 4096
KERNELS = ("/proc", "/sys", "/dev")
_BENEATH = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV
_LINKS = 40  # as many as the kernel follows
# What overlayfs notes on a directory: "y" hides lower ones, a redirect names another one.
_OPAQUE, _REDIRECT = "trusted.overlay.opaque", "trusted.overlay.redirect"


class Unknown(Exception):
    """The host can't tell what is there."""


@dataclass(frozen=True)
class Entry:
    """A file at ``path``, without links; ``owner`` and ``group`` are ids inside."""

    path: str
    mode: int
    owner: int
    group: int
    head: bytes = b""
    """The first bytes of a regular file."""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_executable(self) -> bool:
        return stat.S_ISREG(self.mode) and bool(self.mode & 0o111)


@dataclass(frozen=True)
class RootView:
    """``trees`` come from the top; ``covered`` are the places of mounts over them.

    Of a regular file, ``head`` bytes are read.
    """

    trees: Sequence[str]
    ids: IdRange
    covered: Sequence[str] = field(default=KERNELS)
    head: int = HEAD

    def entry(self, path: str) -> Entry | None:
        """The file at an absolute path, None if there is none; Unknown if that can't be told."""
        waiting = [part for part in path.split("/") if part][::-1]
        if not self.trees:
            raise Unknown
        trees, here, links = list(self.trees), "/", 0
        entry = self._top()
        while waiting:
            place = posixpath.normpath(posixpath.join(here, waiting.pop()))
            if place in self.covered:
                raise Unknown
            present = self._lookup(trees, place) if place != "/" else self._top()
            if isinstance(present, str):
                links += 1
                if links > _LINKS:
                    raise Unknown
                waiting += [part for part in present.split("/") if part][::-1]
                here = "/" if present.startswith("/") else here
                trees = list(self.trees) if present.startswith("/") else trees
                continue
            if present is None or (waiting and not present.is_directory):
                return None
            here, entry = place, present
        return entry

    def _top(self) -> Entry | None:
        present = self._lookup(list(self.trees), "/")
        return None if isinstance(present, str) else present

    def _lookup(self, trees: List[str], place: str) -> Entry | str | None:
        """The file, or the target of the link, at a place; an opaque directory cuts ``trees``."""
        for number, tree in enumerate(trees):
            fd = _opened(tree, place)
            if fd is None:
                continue
            try:
                status = os.fstat(fd)
                if stat.S_ISLNK(status.st_mode):
                    return os.readlink("", dir_fd=fd)
                # Character device 0:0 is the mark of a removed file.
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    return None
                if stat.S_ISDIR(status.st_mode) and _note(fd, _REDIRECT):
                    raise Unknown
                if stat.S_ISDIR(status.st_mode) and _note(fd, _OPAQUE) == b"y":
                    del trees[number + 1 :]
                return self._entry(fd, place, status)
            finally:
                os.close(fd)
        return None

    def _entry(self, fd: int, place: str, status: os.stat_result) -> Entry:
        head = b""
        if stat.S_ISREG(status.st_mode):
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            readable = os.open(f"/proc/self/fd/{fd}", flags)
            try:
                head = os.read(readable, self.head)
            finally:
                os.close(readable)
        owner, group = self._inside(status.st_uid), self._inside(status.st_gid)
        return Entry(place, status.st_mode, owner, group, head)

    def _inside(self, number: int) -> int:
        """The id inside; an image whose ids are mapped by the mount has those of inside."""
        offset = number - self.ids.start
        return offset if 0 <= offset < self.ids.size else number


def _opened(tree: str, place: str) -> int | None:
    """A descriptor of what is at a place of one tree, which may be a link; None for nothing."""
    try:
        top = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unknown from error
    try:
        relative = place.lstrip("/") or "."
        return mounts.openat2(top, relative, os.O_PATH | os.O_NOFOLLOW, _BENEATH)
    except OSError as error:
        # A link or a file of this tree hides what would be below a directory of lower ones.
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise Unknown from error
    finally:
        os.close(top)


def _note(fd: int, name: str) -> bytes:
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise Unknown from error
