# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Applies an image's layers in order, with their whiteouts, as the OCI image specification says.

It runs in a process whose root is the destination, so a link in one layer can't lead files of the
next layer out of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from dataclasses import replace
from typing import Callable, List, Sequence, Set

from .. import decompress
from ..extract import DAMAGED, Outcome, confined, drain, explained, open_archive
from ..tarstream import (
    BLOCK_DEVICE,
    CHARACTER,
    FIFO,
    HARD_LINK,
    ArchiveError,
    Member,
    Stream,
    TarStream,
)
from ..unpack import Bounds, Unpacker, check_depth, check_mountpoints, is_directory, relative

WHITEOUT = b".wh."
# Names of AUFS's own files.
_RESERVED = WHITEOUT + WHITEOUT
_OPAQUE = _RESERVED + b".opq"
_LEFT_OUT = (CHARACTER, BLOCK_DEVICE, FIFO)
_MAKE_AGAIN = "build the image again, or fetch it from where it is whole"


def apply(
    fds: Sequence[int],
    diff_ids: Sequence[str],
    destination: str,
    bounds: Bounds,
    watch: Callable[[int], None],
) -> List[str]:
    """Unpack the layers in these files, the lowest first; returns warnings.

    ``diff_ids`` are the digests of the uncompressed layers; ``watch`` gets the bytes read so far.
    """

    def report_read() -> None:
        # The child reads through the same descriptions of open files.
        watch(sum(os.lseek(fd, 0, os.SEEK_CUR) for fd in fds))

    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(decompress.readable(fd)) for fd in fds]

        def work() -> Outcome:
            return explained(lambda: _unpacked(streams, diff_ids, bounds))

        return confined(streams, destination, work, report_read)


def _unpacked(fds: Sequence[int], diff_ids: Sequence[str], bounds: Bounds) -> List[str]:
    unpacker = LayerUnpacker(bounds)
    for number, (fd, diff_id) in enumerate(zip(fds, diff_ids), start=1):
        try:
            with open(fd, "rb", closefd=False) as raw:
                stream = _Hashed(open_archive(raw), bounds.max_size)
                unpacker.apply(TarStream(stream))
                stream.finish(diff_id)
        except ArchiveError as error:
            raise ArchiveError(f"layer {number}: {error.message}", hint=error.hint) from error
        except DAMAGED as error:
            raise ArchiveError(f"layer {number} is truncated or corrupt: {error}") from error
    return unpacker.finish()


class _Hashed:
    """A stream that is hashed while it is read; ``finish`` verifies the digest."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        chunk = self._stream.read(size)
        self._hash.update(chunk)
        return chunk

    def finish(self, digest: str) -> None:
        drain(self, self._limit)
        actual = f"sha256:{self._hash.hexdigest()}"
        if actual != digest:
            problem = f"its content has the digest {actual}, not {digest} as the config says"
            raise ArchiveError(problem, hint=_MAKE_AGAIN)


class LayerUnpacker(Unpacker):
    """Unpacks one layer after another; the bounds cover the whole image."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(TarStream(io.BytesIO()), bounds)
        # Paths that this layer has placed, and the directories that lead there.
        self._placed: Set[bytes] = set()

    def apply(self, archive: TarStream) -> None:
        self._archive = archive
        self._archive.limit = self._bounds.stream
        self._placed = {b"."}
        for member in archive:
            self._check_bounds(member)
            try:
                self._apply(_inside(member))
            except DAMAGED:  # some of them are OSErrors
                raise
            except OSError as error:
                raise ArchiveError(f"member {member}: {error.strerror}") from error
        self._finish_directories()
        self._directories.clear()

    def finish(self) -> List[str]:
        if not self._count:
            raise ArchiveError("the image has no files", hint=_MAKE_AGAIN)
        check_mountpoints()
        return self._warnings()

    def _apply(self, member: Member) -> None:
        path = relative(member, member.name)
        *above, name = path.split(b"/")
        if any(part.startswith(_RESERVED) for part in above):
            return
        if any(part.startswith(WHITEOUT) for part in above):
            problem = f"member {member} lies below a whiteout"
            raise ArchiveError(problem, hint=_MAKE_AGAIN)
        if name.startswith(WHITEOUT):
            self._whiteout(member, b"/".join(above), name[len(WHITEOUT) :])
        else:
            self._place(member, path)
            if member.kind not in _LEFT_OUT:
                self._mark(path)

    def _clear(self, path: bytes) -> None:
        self._dropped.discard(path)
        _remove(path)
        _make_parents(path)

    def _mark(self, path: bytes) -> None:
        while path and path not in self._placed:
            self._placed.add(path)
            path = os.path.dirname(path)

    def _whiteout(self, member: Member, parent: bytes, name: bytes) -> None:
        """Remove entries of lower layers; entries of this layer stay, whichever came first."""
        if WHITEOUT + name == _OPAQUE:
            if is_directory(parent or b"."):
                self._empty(parent)
        elif name in (b"", b".", b".."):
            raise ArchiveError(f"member {member} is a whiteout of nothing", hint=_MAKE_AGAIN)
        elif not name.startswith(WHITEOUT):
            self._hide(os.path.join(parent, name))

    def _hide(self, path: bytes) -> None:
        if path not in self._placed:
            _remove(path)
        elif is_directory(path):
            self._empty(path)

    def _empty(self, directory: bytes) -> None:
        for name in os.listdir(directory or b"."):
            self._hide(os.path.join(directory, name))


def _inside(member: Member) -> Member:
    """The name below the root; some builders write absolute names, as docker accepts them."""
    name = member.name.lstrip(b"/") or b"."
    link = member.link.lstrip(b"/") if member.kind == HARD_LINK else member.link
    return replace(member, name=name, link=link)


def _remove(path: bytes) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if is_directory(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _make_parents(path: bytes) -> None:
    """Make parent directories, also where a link leads, such as /run for /var/run."""
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        os.makedirs(os.path.realpath(parent), 0o755, exist_ok=True)
        check_depth(parent)
