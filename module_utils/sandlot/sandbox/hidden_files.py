# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Finds files of a layer that hide what another image changed.

The trees of both images are compared where the layer has something; the layer may be as large as a
tenant likes. It may change meanwhile, so nothing in it is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field
from typing import Collection, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from ..idmap import IdRange
from ..kernel import mounts
from ..kernel.text import harmless

# Paths in a result.
MOST_PATHS = 100
# Contents that one sandbox has compared; beyond it, times tell.
MOST_BYTES = 256 << 20
# A sandbox has its own of these, whatever its image has.
PROVIDED = frozenset(
    {
        *("/dev", "/proc", "/sys", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"),
        *("/etc/machine-id", "/var/lib/dbus/machine-id"),
    }
)
_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_BENEATH = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV
_OPAQUE, _REDIRECT = "trusted.overlay.opaque", "trusted.overlay.redirect"
# The entry is gone, has become something else, is a mount, or can't be opened without waiting.
_ELSEWHERE = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV),
        *(errno.EAGAIN, errno.ENXIO, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM),
    }
)


@dataclass
class Hidden:
    """The first paths and the number of all; without ``complete``, there may be more."""

    paths: List[str] = field(default_factory=list)
    count: int = 0
    complete: bool = True

    def add(self, path: str) -> None:
        self.count += 1
        if len(self.paths) < MOST_PATHS:
            self.paths.append(harmless(path))


@dataclass(frozen=True)
class Trees:
    """The trees of an image, the topmost first, with the owners that files have inside."""

    paths: Tuple[str, ...]

    def are_there(self) -> bool:
        return bool(self.paths) and all(os.path.isdir(path) for path in self.paths)


@dataclass(frozen=True)
class _Entry:
    """A file of one directory; ``first`` is the id on disk of root inside.

    ``merged`` numbers the trees that a directory consists of.
    """

    directory: int
    name: str
    status: os.stat_result
    first: int = 0
    merged: Tuple[int, ...] = ()

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.status.st_mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def attributes(self) -> Tuple[int, int, int]:
        status = self.status
        return status.st_mode, status.st_uid - self.first, status.st_gid - self.first


@dataclass(frozen=True)
class _Pending:
    """A directory to look into; in a ``covered`` one, nothing of the image shows."""

    path: str
    covered: bool
    old: Tuple[int, ...]
    new: Tuple[int, ...]


class Comparison:
    """Compares two images, for any number of sandboxes that move from one to the other."""

    def __init__(self, old: Trees, new: Trees) -> None:
        self._old, self._new = old, new
        self._changed: Dict[str, bool] = {}

    def hidden(self, upper: str, ids: IdRange, covered: Collection[str] = ()) -> Optional[Hidden]:
        """Files below ``upper`` that hide a change, None when a tree is not there.

        ``covered`` are the places of mounts, which hide both.
        """
        if self._old.paths == self._new.paths or not os.path.isdir(upper):
            return None
        if not (self._old.are_there() and self._new.are_there()):
            return None
        own = PROVIDED.union(covered)
        return _Search(self._old, self._new, self._changed, ids.start, own).run(upper)


class _Search:
    def __init__(
        self, old: Trees, new: Trees, changed: Dict[str, bool], first: int, own: Collection[str]
    ) -> None:
        self._old, self._new, self._changed = old, new, changed
        self._first, self._own_places = first, own
        self._left = MOST_BYTES
        self._found = Hidden()

    def run(self, upper: str) -> Hidden:
        pending = [
            _Pending("", False, *(tuple(range(len(x.paths))) for x in (self._old, self._new)))
        ]
        while pending:
            pending += self._directory(upper, pending.pop())
        return self._found

    def _directory(self, upper: str, here: _Pending) -> List[_Pending]:
        with contextlib.ExitStack() as stack:
            layer = self._opened(stack, [upper], (0,), here, may_miss=here.covered).get(0)
            if layer is None and not here.covered:
                return []
            old = self._opened(stack, self._old.paths, here.old, here)
            new = self._opened(stack, self._new.paths, here.new, here)
            names: Set[str] = set()
            names.update(*(os.listdir(fd) for fd in (*old.values(), *new.values())))
            below: List[_Pending] = []
            for name in sorted(names):
                path = f"{here.path}/{name}"
                if path in self._own_places:
                    continue
                mine = None if layer is None else self._own(layer, name)
                if mine is None and not here.covered:
                    continue
                before, after = self._merged(old, name), self._merged(new, name)
                if self._differs(path, before, after) and self._differs("", mine, after):
                    self._found.add(path)
                below += self._below(path, mine, before, after, covered=here.covered)
            return below[::-1]

    def _opened(
        self,
        stack: contextlib.ExitStack,
        trees: Sequence[str],
        numbers: Sequence[int],
        here: _Pending,
        *,
        may_miss: bool = False,
    ) -> Dict[int, int]:
        """Descriptors of one directory in the trees that have it."""
        opened = {}
        for number in numbers:
            top = os.open(trees[number], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fd = mounts.openat2(top, here.path.lstrip("/") or ".", _DIRECTORY, _BENEATH)
            except OSError as error:
                if error.errno not in _ELSEWHERE:
                    raise
                self._found.complete &= may_miss and error.errno in (errno.ENOENT, errno.ENOTDIR)
                continue
            finally:
                os.close(top)
            stack.callback(os.close, fd)
            opened[number] = fd
        return opened

    def _own(self, layer: int, name: str) -> _Entry | None:
        """The layer's entry; a whiteout counts as one without a file."""
        status = _status(layer, name)
        return None if status is None else _Entry(layer, name, status, self._first)

    def _merged(self, directories: Dict[int, int], name: str) -> _Entry | None:
        """The entry as overlayfs joins the trees of an image."""
        uppermost: _Entry | None = None
        merged: List[int] = []
        for number, fd in directories.items():
            status = _status(fd, name)
            if status is None:
                continue
            entry = _Entry(fd, name, status)
            if _is_whiteout(status) or (uppermost and not entry.is_directory):
                break
            uppermost = uppermost or entry
            if not entry.is_directory:
                return uppermost
            merged.append(number)
            if self._mark(entry, _OPAQUE) == b"y":
                break
        return uppermost and _Entry(
            uppermost.directory, name, uppermost.status, merged=tuple(merged)
        )

    def _below(
        self,
        path: str,
        mine: _Entry | None,
        before: _Entry | None,
        after: _Entry | None,
        *,
        covered: bool,
    ) -> Iterator[_Pending]:
        old = before.merged if before else ()
        new = after.merged if after else ()
        if mine is None or not mine.is_directory:
            covered = True
        elif not covered:
            covered = self._mark(mine, _OPAQUE) == b"y"
            if self._mark(mine, _REDIRECT):
                self._found.complete = False
                return
        if new or (old and not covered):
            yield _Pending(path, covered, old, new)

    def _mark(self, entry: _Entry, name: str) -> bytes:
        try:
            fd = os.open(entry.name, _DIRECTORY | os.O_CLOEXEC, dir_fd=entry.directory)
        except OSError as error:
            if error.errno not in _ELSEWHERE:
                raise
            return b""
        try:
            return os.getxattr(fd, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
            return b""
        finally:
            os.close(fd)

    # -- comparing

    def _differs(self, path: str, one: _Entry | None, two: _Entry | None) -> bool:
        """Whether two entries differ; a ``path`` of the images is compared once for all."""
        if path in self._changed:
            return self._changed[path]
        differs = self._compared(one, two)
        if path:
            self._changed[path] = differs
        return differs

    def _compared(self, one: _Entry | None, two: _Entry | None) -> bool:
        if one is not None and _is_whiteout(one.status):
            one = None
        if one is None or two is None:
            # The files in it tell that a directory came or went.
            present = one or two
            return present is not None and not present.is_directory
        if one.attributes != two.attributes:
            return True
        if one.kind in (stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK):
            return False
        if one.kind == stat.S_IFREG:
            return self._content_differs(one, two)
        if one.kind == stat.S_IFLNK:
            return _link(one) != _link(two)
        return one.status.st_rdev != two.status.st_rdev

    def _content_differs(self, one: _Entry, two: _Entry) -> bool:
        first, second = one.status, two.status
        if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
            return False
        if first.st_size != second.st_size:
            return True
        if first.st_size > self._left:
            self._found.complete = False
            return first.st_mtime_ns != second.st_mtime_ns
        self._left -= first.st_size
        with contextlib.ExitStack() as stack:
            files = [self._file(stack, entry) for entry in (one, two)]
            if None in files:
                return True
            while True:
                chunks = [os.read(fd, _CHUNK) for fd in files if fd is not None]
                if chunks[0] != chunks[1]:
                    return True
                if not chunks[0]:
                    return False

    def _file(self, stack: contextlib.ExitStack, entry: _Entry) -> Optional[int]:
        try:
            fd = os.open(entry.name, _FILE, dir_fd=entry.directory)
        except OSError as error:
            if error.errno not in _ELSEWHERE:
                raise
            return None
        stack.callback(os.close, fd)
        return fd if stat.S_ISREG(os.fstat(fd).st_mode) else None


def _status(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _link(entry: _Entry) -> str:
    try:
        return os.readlink(entry.name, dir_fd=entry.directory)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise
        return ""
