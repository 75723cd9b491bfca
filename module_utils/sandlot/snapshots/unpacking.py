# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Unpacks the archive of a snapshot, which may be hostile, in a confined child.

The child's root is the new directory. No member goes through a link of the archive: the parent
moves the trees by their names, so they have to be directories. The child may not set overlayfs's
marks (trusted.*), so it notes them in other attributes of directories, and the parent makes marks
of these (``convert``).
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from ..images.extract import Outcome, confined, drain, explained, open_archive
from ..images.tarstream import (
    CHARACTER,
    DIRECTORY,
    FIFO,
    FILE,
    HARD_LINK,
    ArchiveError,
    Member,
    TarStream,
)
from ..images.unpack import MAX_ID, SPACE, Bounds, Unpacker, relative
from ..kernel import mounts
from ..kernel.files import NO_ROOM
from ..kernel.libc import AT_FDCWD
from .archive import LAYER, MANIFEST, VOLUMES

MAX_MANIFEST = 1 << 20
_MAX_FILE = (1 << 63) - 1
_CAP_SETFCAP = 1 << 31
_NOTE = "user.sandlot."
_OVERLAY = "trusted.overlay."
_MARKS = ("opaque", "redirect")
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_CAPABILITY = "security.capability"
_REVISION_2 = 0x02000000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INSIDE = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV
_WHOLE = "export the snapshot again, and import it whole"


def unpack(fd: int, directory: str, bounds: Bounds) -> list[str]:
    """Unpack the stream ``fd`` into an empty directory; returns warnings."""
    warnings = confined([fd], directory, lambda: _outcome(fd, bounds), rights=_CAP_SETFCAP)
    _check_top(directory)
    return warnings


def _check_top(directory: str) -> None:
    """Refuse what the parent would take for something else, whatever the child let through."""
    kinds = {MANIFEST: stat.S_IFREG, LAYER: stat.S_IFDIR, VOLUMES: stat.S_IFDIR}
    with os.scandir(directory) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_IFMT(mode) != kinds.get(entry.name):
                raise ArchiveError(f"it unpacks to a foreign {entry.name!r}", hint=_WHOLE)


def _outcome(fd: int, bounds: Bounds) -> Outcome:
    def work() -> list[str]:
        with open(fd, "rb", closefd=False) as raw:
            stream = open_archive(raw)
            warnings = SnapshotUnpacker(TarStream(stream), bounds).run()
            drain(stream, bounds.max_size)
            return warnings

    return explained(work)


class SnapshotUnpacker(Unpacker):
    def run(self) -> list[str]:
        for member in self._archive:
            self._check_bounds(member)
            try:
                self._place(member, relative(member, member.name))
            except OSError as error:
                hint = SPACE if error.errno in NO_ROOM else ""
                raise ArchiveError(f"member {member}: {error.strerror}", hint=hint) from error
        if not self._archive.ended or not os.path.isdir(LAYER):
            raise ArchiveError("the archive is truncated", hint=_WHOLE)
        self._finish_directories()
        for path, member in self._directories.items():
            self._set_attributes(path, member)
        return self._warnings()

    def _weight(self, member: Member) -> int:
        """Holes take no space, and files of a sandbox may have large ones."""
        return member.stored

    def _place(self, member: Member, path: bytes) -> None:
        self._check_place(member, path)
        if member.kind == CHARACTER and member.device == (0, 0):
            self._special(member, path, stat.S_IFCHR)
        elif member.kind == FIFO:
            self._special(member, path, stat.S_IFIFO)
        else:
            super()._place(member, path)

    def _check_place(self, member: Member, path: bytes) -> None:
        top = path.split(b"/")[0].decode("utf-8", "replace")
        is_manifest = path == MANIFEST.encode()
        if self._count == 1:
            if not is_manifest or member.kind != FILE or member.size > MAX_MANIFEST:
                raise ArchiveError("it is no archive of a snapshot", hint=_WHOLE)
        elif is_manifest or top not in (LAYER, VOLUMES):
            raise ArchiveError(f"member {member} belongs to no snapshot", hint=_WHOLE)
        elif path.count(b"/") == (0 if top == LAYER else 1) and member.kind != DIRECTORY:
            raise ArchiveError(f"member {member} is not a directory", hint=_WHOLE)
        _check_way(member, path)
        if member.kind == HARD_LINK:
            _check_way(member, relative(member, member.link))

    def _special(self, member: Member, path: bytes, kind: int) -> None:
        """Make a whiteout of overlayfs, for which the kernel asks no right, or a FIFO."""
        self._clear(path)
        os.mknod(path, kind | 0o600, 0)
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        os.chmod(path, member.mode)

    def _file(self, member: Member, path: bytes) -> None:
        if member.size > _MAX_FILE:
            raise ArchiveError(f"member {member} is larger than any file", hint=_WHOLE)
        super()._file(member, path)
        self._set_attributes(path, member)

    def _set_attributes(self, path: bytes, member: Member) -> None:
        for name, value in member.attributes.items():
            target, kept = _checked(name, value, is_directory=member.kind == DIRECTORY)
            if target:
                os.setxattr(path, target, kept, follow_symlinks=False)


def _check_way(member: Member, path: bytes) -> None:
    """Refuse a path through a link: an export has none, and it could lead to another tree."""
    parent = os.fsdecode(os.path.dirname(path)) or "."
    try:
        os.close(mounts.openat2(AT_FDCWD, parent, os.O_PATH, mounts.RESOLVE_NO_SYMLINKS))
    except FileNotFoundError:
        return  # its directories are made
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ArchiveError(f"member {member} leads through a link", hint=_WHOLE) from error


def _checked(name: str, value: bytes, *, is_directory: bool) -> tuple[str, bytes]:
    """The attribute to set in place of one in the archive; "" for one that is left out."""
    if "\0" in name:
        return "", b""
    if name.startswith("user.") and not name.startswith(_NOTE):
        return name, value
    if name.startswith(_OVERLAY) and is_directory and name[len(_OVERLAY) :] in _MARKS:
        return _NOTE + name[len(_OVERLAY) :], value
    if name == _CAPABILITY and len(value) == 20:
        # Capabilities of root inside; others have a longer value, with its uid.
        (magic,) = struct.unpack_from("<I", value)
        return (name, value) if magic & 0xFF000000 == _REVISION_2 else ("", b"")
    if name in _ACLS and len(value) % 8 == 4:
        named = [who for tag, dummy, who in struct.iter_unpack("<HHI", value[4:]) if tag & 0x0A]
        return (name, value) if all(who <= MAX_ID for who in named) else ("", b"")
    return "", b""


def convert(directory: int) -> None:
    """Make overlayfs's marks of the notes on the directories of a layer."""
    for mark in _MARKS:
        try:
            value = os.getxattr(directory, _NOTE + mark)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                continue
            raise
        os.removexattr(directory, _NOTE + mark)
        if _is_mark(mark, value):
            os.setxattr(directory, _OVERLAY + mark, value)
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        child = mounts.openat2(directory, name, _DIRECTORY, _INSIDE)
        try:
            convert(child)
        finally:
            os.close(child)


def _is_mark(mark: str, value: bytes) -> bool:
    if mark == "opaque":
        return value == b"y"
    parts = value.split(b"/")
    return bool(value) and b".." not in parts and (value[:1] == b"/" or len(parts) == 1)
