# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Serves operations on files, by which the host copies into the sandbox and out of it.

The server is a child of init and as confined as a command, so a path means what it means inside. It
takes requests of host root over a socket until that closes; contents go through pipes. Before the
first ``enter``, a name is a path whose links are followed. After it, a name is one entry of the
directory that was entered last, and never leads through a link.
"""

from __future__ import annotations

import _socket
import errno
import os
import stat
import struct

from .. import wire
from ..kernel import confine, libc, mounts
from ..kernel.filedata import extents
from ..kernel.files import write_all
from ..kernel.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional

    Request = Mapping[str, Any]

# An answer: an errno or one of these numbers, and what the operation returns.
CODE = struct.Struct("=i")
MORE, NOT_A_FILE, SHRUNK, TOO_SHORT, UNKNOWN = -1, -2, -3, -4, -5
# Mode, uid, gid, size, nanoseconds of the last change, device.
STATUS = struct.Struct("=6q")
# Where a part of a file begins and ends.
PART = struct.Struct("=2q")
# Content beyond the size that a file claims, as those of procfs do.
MOST_UNSIZED = 1 << 26
CHUNK = 1 << 18
_ENDLESS = 1 << 62
_LAST = (1 << 63) - 1
# A FIFO, a device or a lease holds up nobody, and a terminal does not become the server's own.
_FLAGS = os.O_NONBLOCK | os.O_NOCTTY


def serve(fd: int) -> NoReturn:
    """Serve the socket ``fd``, and close all descriptors above it, so that no path leads there."""
    code = 1
    try:
        confine.set_name("sandlot-files")
        # Errors tell the client more than the death of this process.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        os.umask(0o022)
        libc.close_from(fd + 1)
        _Server(_socket.socket(fileno=fd)).run()
        code = 0
    finally:
        # This process must never return into the code of init.
        os._exit(code)


class _Server:
    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self._entered: List[int] = []
        self._operations: Dict[str, Callable[..., bytes]] = {
            "stat": self._stat,
            "list": self._list,
            "readlink": self._readlink,
            "enter": self._enter,
            "leave": self._leave,
            "mkdir": self._mkdir,
            "symlink": self._symlink,
            "set": self._set,
            "get": self._get,
            "put": self._put,
        }

    def run(self) -> None:
        while True:
            message, fds = wire.receive_request(self._socket)
            if message is None:
                return
            if "op" not in message:
                continue  # a part of a file that could not be written
            operation = self._operations.get(message["op"])
            code, answer = UNKNOWN, b""
            try:
                if operation is not None:
                    answer = operation(message, *fds)
                    code = 0
            except OSError as error:
                code = error.errno or errno.EIO
            wire.close_all(fds)
            self._tell(code, answer)

    def _tell(self, code: int, answer: bytes = b"") -> None:
        wire.transmit(self._socket, CODE.pack(code) + answer, ())

    @property
    def _directory(self) -> Optional[int]:
        return self._entered[-1] if self._entered else None

    def _open(self, name: bytes, flags: int, mode: int = 0) -> int:
        if not self._entered:
            return mounts.openat2(libc.AT_FDCWD, os.fsdecode(name), flags, 0, mode)
        # Not RESOLVE_BENEATH: for a directory that is moved meanwhile, it means EXDEV.
        path, flags, resolve = os.fsdecode(name), flags | os.O_NOFOLLOW, mounts.RESOLVE_NO_SYMLINKS
        return mounts.openat2(self._entered[-1], path, flags, resolve, mode)

    # -- entries

    def _stat(self, request: Request) -> bytes:
        fd = self._open(request["name"], os.O_PATH)
        try:
            return _packed(os.fstat(fd))
        finally:
            os.close(fd)

    def _list(self, _request: Request) -> bytes:
        """The names in the directory, which a name can't have a slash between."""
        names: List[bytes] = []
        fd = self._open(b".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    names.append(os.fsencode(entry.name))
                    if len(names) == 32:
                        self._tell(MORE, b"/".join(names))
                        names.clear()
        finally:
            os.close(fd)
        return b"/".join(names)

    def _readlink(self, request: Request) -> bytes:
        name: bytes = request["name"]
        return os.readlink(name, dir_fd=self._directory)

    def _enter(self, request: Request) -> bytes:
        self._entered.append(self._open(request["name"], os.O_PATH | os.O_DIRECTORY))
        return b""

    def _leave(self, _request: Request) -> bytes:
        os.close(self._entered.pop())
        return b""

    def _mkdir(self, request: Request) -> bytes:
        os.mkdir(request["name"], 0o700, dir_fd=self._directory)
        return b""

    def _symlink(self, request: Request) -> bytes:
        try:
            os.symlink(request["target"], request["name"], dir_fd=self._directory)
        except FileExistsError:
            os.unlink(request["name"], dir_fd=self._directory)
            os.symlink(request["target"], request["name"], dir_fd=self._directory)
        return b""

    def _set(self, request: Request) -> bytes:
        """Set owner, mode and time of a directory or a link, which has no mode."""
        name, where = request["name"], self._directory
        if request["owner"]:
            os.chown(name, *request["owner"], dir_fd=where, follow_symlinks=False)
        if request["mode"] is not None:
            os.chmod(name, request["mode"], dir_fd=where)
        if request["mtime"] is not None:
            times = (request["mtime"], request["mtime"])
            os.utime(name, ns=times, dir_fd=where, follow_symlinks=False)
        return b""

    # -- contents

    def _get(self, request: Request, pipe: int) -> bytes:
        """Send a part of a file without its holes; where the content ends."""
        fd = self._open(request["name"], os.O_RDONLY | _FLAGS)
        try:
            status = _regular(fd)
            self._tell(MORE, _packed(status))
            start, length = request["offset"], request["length"]
            size = status.st_size or MOST_UNSIZED
            end = size if length is None else min(size, start + length)
            at = start
            # procfs tells no sizes.
            whole = [(start, end)] if start < end else []
            for first, last in extents(fd, end, start) if status.st_size else whole:
                self._tell(MORE, PART.pack(first, last))
                os.lseek(fd, first, os.SEEK_SET)
                at = first + copy(fd, pipe, last - first)
                if at < last:
                    if os.fstat(fd).st_size < status.st_size:
                        raise OSError(SHRUNK, "")
                    return PART.pack(start, at)
            if at == MOST_UNSIZED and not status.st_size:
                raise OSError(errno.EFBIG, "")
            return PART.pack(start, max(start, end) if status.st_size else at)
        finally:
            os.close(fd)

    def _put(self, request: Request, pipe: int) -> bytes:
        """Write the parts that follow to a file, which ends after the last."""
        fd = self._writable(request["name"], request["mode"])
        try:
            status = _regular(fd)
            if status.st_size < request["offset"]:
                raise OSError(TOO_SHORT, "")
            os.ftruncate(fd, request["offset"])
            self._tell(MORE)
            os.ftruncate(fd, self._receive(fd, pipe))
            if request["owner"]:
                os.fchown(fd, *request["owner"])
            if request["mode"] is not None:
                os.fchmod(fd, request["mode"])
            if request["mtime"] is not None:
                os.utime(fd, ns=(request["mtime"], request["mtime"]))
        finally:
            os.close(fd)
        return b""

    def _receive(self, fd: int, pipe: int) -> int:
        at = 0
        while True:
            part = wire.receive_request(self._socket)[0]
            if part is None:
                raise SystemExit  # the client has failed, or was interrupted
            if "size" in part:
                return at if part["size"] is None else int(part["size"])
            at = os.lseek(fd, part["start"], os.SEEK_SET)
            at += copy(pipe, fd, (part["end"] or _ENDLESS) - at)

    def _writable(self, name: bytes, mode: Optional[int]) -> int:
        """Open a file, or a new one: also in place of an entry that is a link of either kind."""
        try:
            fd = self._open(name, os.O_WRONLY | _FLAGS)
            status = os.fstat(fd)
            if not (self._entered and stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
                return fd
            os.close(fd)
            os.unlink(name, dir_fd=self._directory)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise OSError(NOT_A_FILE, "") from error  # a FIFO without a reader, or a socket
            if error.errno == errno.ELOOP and self._entered:
                os.unlink(name, dir_fd=self._directory)
            elif error.errno != errno.ENOENT:
                raise
        first = 0o666 if mode is None else 0o600
        return self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, first)


def _packed(status: os.stat_result) -> bytes:
    return STATUS.pack(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_size,
        # A tmpfs takes any time, such as the year 3000000.
        max(-_LAST, min(_LAST, status.st_mtime_ns)),
        status.st_dev,
    )


def _regular(fd: int) -> os.stat_result:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(status.st_mode) else NOT_A_FILE, "")
    return status


def copy(source: int, target: int, count: int) -> int:
    """Copy at most ``count`` bytes, up to the end of the source; how many there were."""
    left = count
    while left:
        data = os.read(source, min(CHUNK, left))
        if not data:
            break
        write_all(target, data)
        left -= len(data)
    return count - left
