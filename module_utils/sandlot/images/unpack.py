# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes the members of an archive below the current root directory.

Runs in a process whose root is the destination: whatever links the archive holds, no path can
leave it. Members are refused here for their effect on a sandbox or on its host.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from ..kernel.files import NO_ROOM, pwrite_all
from .tarstream import (
    DIRECTORY,
    FILE,
    HARD_LINK,
    SYMLINK,
    ArchiveError,
    Member,
    TarStream,
    shown,
)

MAX_ID = 65535
MAX_WARNINGS = 20
# Overhead of a member: header, padding, a pax header with long names and a few attributes.
_HEADERS = 8192
# Trees are removed and copied recursively, and Python stops at a thousand levels.
MAX_DEPTH = 200
SPACE = "free space and inodes where images are kept, then run again"
_LAST_TIME = 2**33
# A sandbox gets mounts in these directories.
MOUNTPOINTS = {"dev": 0o755, "proc": 0o755, "sys": 0o755, "etc": 0o755, "run": 0o755, "tmp": 0o1777}
# The builder follows links inside the sandbox's root, but not to the trees of the kernel.
_NO_LINKS = frozenset({"dev", "proc", "sys"})


@dataclass(frozen=True)
class Bounds:
    max_size: int
    max_files: int

    @property
    def stream(self) -> int:
        """The largest archive that these bounds allow, in bytes."""
        return self.max_size + (self.max_files + 1) * _HEADERS


class Unpacker:
    def __init__(self, archive: TarStream, bounds: Bounds) -> None:
        self._archive = archive
        self._archive.limit = bounds.stream
        self._bounds = bounds
        self._size = 0
        self._count = 0
        self._dropped: set[bytes] = set()
        self._directories: dict[bytes, Member] = {}

    def run(self) -> list[str]:
        """Extract everything; returns warnings about members that were left out."""
        for member in self._archive:
            self._check_bounds(member)
            try:
                self._place(member, relative(member, member.name))
            except OSError as error:
                hint = SPACE if error.errno in NO_ROOM else ""
                raise ArchiveError(f"member {member}: {error.strerror}", hint=hint) from error
        if not self._count:
            raise ArchiveError("the archive has no members", hint="make the archive again")
        self._finish_directories()
        check_mountpoints()
        cut = "the archive lacks the blocks of zeros at its end; it may be truncated"
        return [*([] if self._archive.ended else [cut]), *self._warnings()]

    def _check_bounds(self, member: Member) -> None:
        self._count += 1
        self._size += self._weight(member)
        if self._size > self._bounds.max_size:
            hint = "raise max_size if that much is right"
            raise ArchiveError(f"it unpacks to more than {self._bounds.max_size} bytes", hint=hint)
        if self._count > self._bounds.max_files:
            hint = "raise max_files if that many are right"
            raise ArchiveError(f"it has more than {self._bounds.max_files} members", hint=hint)
        if not (0 <= member.uid <= MAX_ID and 0 <= member.gid <= MAX_ID):
            owner = f"{member.uid}:{member.gid}"
            hint = f"a sandbox has the ids 0 to {MAX_ID}; change the owner and make it again"
            raise ArchiveError(f"member {member} belongs to {owner}", hint=hint)

    def _weight(self, member: Member) -> int:
        """The bytes of a member that count."""
        return member.size

    def _place(self, member: Member, path: bytes) -> None:
        if member.kind == DIRECTORY:
            self._directory(member, path)
        elif path == b".":
            raise ArchiveError(f"member {member} replaces the root with a {member.kind}")
        elif member.kind == HARD_LINK:
            self._hard_link(member, path)
        else:
            self._clear(path)
            if member.kind == SYMLINK:
                os.symlink(member.link, path)
                os.lchown(path, member.uid, member.gid)
                os.utime(path, ns=_times(member), follow_symlinks=False)
            elif member.kind == FILE:
                self._file(member, path)
            else:
                self._dropped.add(path)

    def _clear(self, path: bytes) -> None:
        """Make way for a member that can be made: nothing of this name, directories above it."""
        self._dropped.discard(path)
        try:
            (os.rmdir if is_directory(path) else os.unlink)(path)
        except FileNotFoundError:
            parent = os.path.dirname(path)
            if parent:
                os.makedirs(parent, 0o755, exist_ok=True)
                check_depth(parent)

    def _file(self, member: Member, path: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            for offset, chunk in self._archive.pieces():
                pwrite_all(fd, chunk, offset)
            if member.parts is not None:
                os.ftruncate(fd, member.size)
            # chown clears the setuid bit, so the mode comes after it.
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)
            os.utime(fd, ns=_times(member))
        finally:
            os.close(fd)

    def _directory(self, member: Member, path: bytes) -> None:
        if path != b"." and not is_directory(path):
            self._clear(path)
            os.mkdir(path, 0o755)
            check_depth(path)
        os.lchown(path, member.uid, member.gid)
        self._directories[path] = member

    def _hard_link(self, member: Member, path: bytes) -> None:
        target = relative(member, member.link)
        if target in self._dropped:
            if path != target:
                self._clear(path)
            self._dropped.add(path)
            return
        if not os.path.lexists(target):
            problem = f"member {member} links to {shown(member.link)}, which is not in the archive"
            raise ArchiveError(problem, hint="make the archive again, with what it links to")
        # As GNU tar does: a link to itself keeps the file, whichever way its two names lead there.
        if not _is_same(path, target):
            self._clear(path)
            os.link(target, path, follow_symlinks=False)

    def _finish_directories(self) -> None:
        """Set modes and times, deepest first; a later member may have replaced a directory."""
        for path, member in sorted(self._directories.items(), reverse=True):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(path, flags)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                os.fchmod(fd, member.mode)
                os.utime(fd, ns=_times(member))
            finally:
                os.close(fd)

    def _warnings(self) -> list[str]:
        names = sorted(self._dropped)
        warnings = [f"left out {shown(name)}: a device or FIFO" for name in names[:MAX_WARNINGS]]
        if len(names) > MAX_WARNINGS:
            warnings.append(f"left out {len(names) - MAX_WARNINGS} more devices and FIFOs")
        return warnings


def relative(member: Member, name: bytes) -> bytes:
    """``name`` as a path below the root; a name that leads elsewhere is refused."""
    parts = name.split(b"/")
    if name.startswith(b"/") or b".." in parts or not name:
        what = "has the name" if name == member.name else "links to"
        problem = f"member {member} {what} {shown(name)}, which leaves the image"
        raise ArchiveError(problem, hint="make the archive with relative names")
    kept = [part for part in parts if part not in (b"", b".")]
    if len(kept) > MAX_DEPTH:
        problem = f"member {member} lies more than {MAX_DEPTH} directories deep"
        raise ArchiveError(problem, hint="make the archive without it")
    return b"/".join(kept) or b"."


def check_depth(directory: bytes) -> None:
    """Refuse a directory that is too deep; links lead deeper than names tell."""
    os.chdir(directory)
    try:
        depth = os.getcwdb().count(b"/")
    finally:
        os.chdir("/")
    if depth > MAX_DEPTH:
        problem = f"directory {shown(directory)} lies more than {MAX_DEPTH} directories deep"
        raise ArchiveError(problem, hint="make the archive without it")


def is_directory(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_same(path: bytes, target: bytes) -> bool:
    return os.path.lexists(path) and os.path.samestat(os.lstat(path), os.lstat(target))


def _times(member: Member) -> tuple[int, int]:
    seconds = min(max(member.mtime, 0.0), _LAST_TIME) if member.mtime == member.mtime else 0.0
    # Split, as a float can't hold so many nanoseconds.
    nanoseconds = int(seconds) * 10**9 + int(seconds % 1 * 1e9)
    return nanoseconds, nanoseconds


def check_mountpoints() -> None:
    for name, mode in MOUNTPOINTS.items():
        try:
            entry = os.lstat(name).st_mode
        except FileNotFoundError:
            os.mkdir(name)
            os.chmod(name, mode)
            continue
        if not is_mountpoint(name, entry):
            problem = f"member {name!r} is not a directory, and a sandbox mounts something there"
            raise ArchiveError(problem, hint="make it a directory in the image")


def is_mountpoint(name: str, mode: int) -> bool:
    """Whether the builder can mount at this entry of MOUNTPOINTS."""
    return stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and name not in _NO_LINKS)
