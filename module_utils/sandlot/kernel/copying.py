# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies trees of files that others can write to: by descriptors, without following a link.

A tree may be as deep as a tenant likes. No more than a few descriptors are open at a time, and no
path is ever longer than a name.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from . import mounts
from .attributes import Owner, copy_attributes
from .filedata import DataCopier

Identity = Tuple[int, int]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_INSIDE = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV
# Levels whose descriptors stay open, two each; deeper trees come back up through "..".
_LEVELS = 64
_SECTOR = 512  # the unit of st_blocks (inode(7))
# overlayfs: a name that the layer hides from the image.
_WHITEOUT = os.makedev(0, 0)


@dataclass
class Copied:
    """The outcome of a copy."""

    directories: int = 0
    # All entries but directories.
    files: int = 0
    # The sum of the sizes of files, and the part of it that shares its blocks with the source.
    size: int = 0
    shared: int = 0
    # The bytes that the source takes on disk.
    stored: int = 0
    # Sockets, and devices that are no whiteouts.
    skipped: int = 0
    # Entries that vanished meanwhile, or became something else; a tree that stands still has none.
    vanished: int = 0


class Shift:
    """Moves owners from one range of ids to another of the same size.

    An id beyond the range becomes "nobody", which is what the sandbox saw there.
    """

    NOBODY = 65534

    def __init__(self, old: int, new: int, size: int) -> None:
        self._old, self._new, self._size = old, new, size

    def __call__(self, owner: int) -> int:
        inside = owner - self._old
        return self._new + (inside if 0 <= inside < self._size else self.NOBODY)


def same(owner: int) -> int:
    """The owner, for copies that keep it."""
    return owner


def copy_tree(source: int, target: int, owner: Owner = same) -> Copied:
    """Copy what the directory ``source`` holds, and its attributes, to the empty one ``target``.

    Both are descriptors. The copy has mode, times, extended attributes, hard links and holes of
    the source, and overlayfs's marks; ``owner`` gives each uid and gid its new value. Files share
    their blocks with the source where the file system has reflinks. A mount in the source is an
    error (EXDEV). After an error, the target holds a part of the copy.
    """
    walk = _Walk(owner)
    try:
        walk.run(_Level("", os.dup(source), os.dup(target)))
    finally:
        walk.close()
    return walk.copied


def copy_directory(source: str, target: str, owner: Owner = same) -> Copied:
    """``copy_tree`` by paths, of which the last name may be no link."""
    reading = os.open(source, _DIRECTORY)
    try:
        writing = os.open(target, _DIRECTORY)
        try:
            return copy_tree(reading, writing, owner)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


@dataclass
class _Level:
    name: str
    source: int
    target: int
    pending: Optional[List[str]] = None
    identities: Tuple[Identity, Identity] = ((0, 0), (0, 0))

    def close(self) -> None:
        for fd in (self.source, self.target):
            if fd >= 0:
                os.close(fd)
        self.source = self.target = -1


class _Walk:
    def __init__(self, owner: Owner) -> None:
        self.copied = Copied()
        self._owner = owner
        self._data = DataCopier()
        self._levels: List[_Level] = []
        self._links: Optional[_Links] = None

    def close(self) -> None:
        for level in self._levels:
            level.close()
        if self._links is not None:
            self._links.close()

    def run(self, top: _Level) -> None:
        self._levels.append(top)
        while self._levels:
            level = self._levels[-1]
            if level.pending is None:
                level.pending = self._fill(level)
            if level.pending:
                self._descend(level, level.pending.pop())
            else:
                self._ascend()

    def _descend(self, level: _Level, name: str) -> None:
        try:
            source = mounts.openat2(level.source, name, _DIRECTORY, _INSIDE)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            self.copied.vanished += 1
            return
        try:
            os.mkdir(name, 0o700, dir_fd=level.target)
            target = os.open(name, _DIRECTORY, dir_fd=level.target)
        except OSError:
            os.close(source)
            raise
        self._levels.append(_Level(name, source, target))
        self.copied.directories += 1
        if len(self._levels) > _LEVELS:
            far = self._levels[-1 - _LEVELS]
            far.identities = (_identity(far.source), _identity(far.target))
            far.close()

    def _ascend(self) -> None:
        level = self._levels[-1]
        if len(self._levels) == 1 and self._links is not None:
            self._links.close()
            self._links = None
        status = os.fstat(level.source)
        self._dress(level.source, level.target, status)
        above = self._levels[-2] if len(self._levels) > 1 else None
        if above is not None and above.source < 0:
            above.source = _parent(level.source, above.identities[0], level.name)
            above.target = _parent(level.target, above.identities[1], level.name)
        self._levels.pop()
        level.close()

    def _fill(self, level: _Level) -> List[str]:
        """Copy all entries but directories, which are returned."""
        directories = []
        # The caller's descriptor may have been read, and shares its position.
        os.lseek(level.source, 0, os.SEEK_SET)
        with os.scandir(level.source) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        directories.append(entry.name)
                    else:
                        self._entry(level, entry.name, status)
                except FileNotFoundError:
                    self.copied.vanished += 1
                except OSError as error:
                    error.filename = error.filename or entry.name
                    raise
        return directories

    def _entry(self, level: _Level, name: str, status: os.stat_result) -> None:
        mode = status.st_mode
        special = stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and status.st_rdev == _WHITEOUT)
        if not (special or stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            self.copied.skipped += 1
            return
        if status.st_nlink > 1 and self._linked(level, name, status):
            self.copied.files += 1
            return
        make = self._file if stat.S_ISREG(mode) else self._special
        if not make(level, name, status):
            self.copied.vanished += 1
            return
        self.copied.files += 1
        if status.st_nlink > 1 and self._links is not None:
            self._links.keep(_key(status), level.target, name, status.st_nlink)

    def _linked(self, level: _Level, name: str, status: os.stat_result) -> bool:
        """Whether an earlier name of the file was copied; then this one is a link to it."""
        if self._links is None:
            self._links = _Links(self._levels[0].target)
        return self._links.place(_key(status), level.target, name)

    def _file(self, level: _Level, name: str, listed: os.stat_result) -> bool:
        """Copy a regular file; False when it is something else by now."""
        try:
            source = os.open(name, _FILE, dir_fd=level.source)
        except OSError as error:
            # A link, a whiteout or a socket took its place.
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return False
            raise
        try:
            status = os.fstat(source)
            if _key(status) != _key(listed):
                return False
            target = os.open(name, _NEW, 0o600, dir_fd=level.target)
            try:
                if self._data.copy(source, target, status.st_size):
                    self.copied.shared += status.st_size
                self._dress(source, target, status)
            finally:
                os.close(target)
            self.copied.size += status.st_size
            self.copied.stored += status.st_blocks * _SECTOR
        finally:
            os.close(source)
        return True

    def _dress(self, source: int, target: int, status: os.stat_result) -> None:
        # Owner first: chown clears file capabilities and the setuid bit.
        os.fchown(target, self._owner(status.st_uid), self._owner(status.st_gid))
        copy_attributes(source, target, self._owner)
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _special(self, level: _Level, name: str, status: os.stat_result) -> bool:
        """Copy a symbolic link, a FIFO or a whiteout; False when a link is none by now."""
        if stat.S_ISLNK(status.st_mode):
            try:
                text = os.readlink(name, dir_fd=level.source)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return False
                raise
            os.symlink(text, name, dir_fd=level.target)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=level.target)
        uid, gid = self._owner(status.st_uid), self._owner(status.st_gid)
        os.chown(name, uid, gid, dir_fd=level.target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            # By name: nobody else writes to the copy, and opening a whiteout fails.
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=level.target)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=level.target, follow_symlinks=False)
        return True


class _Links:
    """One more name of each file that has several, in a directory of its own: no name is too deep.

    The last name of a file is this one, renamed, as the number of links may be the largest.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._name = f".{secrets.token_hex(8)}-links"
        os.mkdir(self._name, 0o700, dir_fd=top)
        self._fd = os.open(self._name, _DIRECTORY, dir_fd=top)
        self._missing: Dict[Identity, int] = {}

    def keep(self, key: Identity, directory: int, name: str, links: int) -> None:
        os.link(name, _named(key), src_dir_fd=directory, dst_dir_fd=self._fd, follow_symlinks=False)
        self._missing[key] = links - 1

    def place(self, key: Identity, directory: int, name: str) -> bool:
        if key not in self._missing:
            return False
        self._missing[key] -= 1
        if self._missing[key] > 0:
            os.link(
                _named(key), name, src_dir_fd=self._fd, dst_dir_fd=directory, follow_symlinks=False
            )
        else:
            os.rename(_named(key), name, src_dir_fd=self._fd, dst_dir_fd=directory)
            del self._missing[key]
        return True

    def close(self) -> None:
        """Remove what is left: files with other names outside of the tree."""
        try:
            for key in self._missing:
                os.unlink(_named(key), dir_fd=self._fd)
        finally:
            os.close(self._fd)
        os.rmdir(self._name, dir_fd=self._top)


def _named(key: Identity) -> str:
    return f"{key[0]}-{key[1]}"


def _key(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _identity(fd: int) -> Identity:
    return _key(os.fstat(fd))


def _parent(fd: int, identity: Identity, name: str) -> int:
    """The directory above, if it is the one that the walk came from."""
    parent = os.open("..", _DIRECTORY, dir_fd=fd)
    if _identity(parent) != identity:
        os.close(parent)
        raise OSError(errno.ESTALE, "somebody moved this directory while it was copied", name)
    return parent
