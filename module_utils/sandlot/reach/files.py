# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads and writes files of a running sandbox: the client of init/files.py.

All paths are resolved inside. Answers are a tenant's, so numbers, names and lengths are checked
here, and contents arrive by a pipe that this process has made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .. import wire
from ..errors import SandlotError
from ..init import files as server
from ..kernel.filedata import extents
from ..kernel.files import write_all
from ..kernel.text import harmless
from ..sandbox import headroom, runtime
from ..sandbox.runtime import Running
from ..site import Site
from . import command
from .errors import NotStarted, ReachError, Vanished

Owner = Optional[Tuple[int, int]]

# A longest name of Linux; names of one directory.
_NAME, MOST_NAMES = 255, 1 << 20
# Bytes that names of a directory and those around it take in this process; beyond its text, each.
MOST_HELD, _HELD = 96 << 20, 49
_ANSWER = 32768
_LINK = 4096
_IDS = 65536
_F_SETPIPE_SZ = 1031
_PIPE = 1 << 20
_ZEROS = bytes(server.CHUNK)
_ENDING = 0.5
_ENDLESS = 1 << 62

_PROBLEMS = {
    server.NOT_A_FILE: "it is neither a file nor a directory",
    server.SHRUNK: "it changed while it was copied",
    server.TOO_SHORT: "the file is shorter than the offset",
    server.UNKNOWN: wire.OLDER,
    errno.ELOOP: "it is a symbolic link, or leads through one that can't be followed",
}
_ROOM = "make room in the sandbox, or raise its disk_size or the size of its tmpfs"
_RIGHTS = (
    "name a user with the right to it: -u USER; rights of root are capabilities of the sandbox"
)
_HINTS = {
    server.NOT_A_FILE: "use a program inside for FIFOs, sockets and devices: sandlot exec",
    server.SHRUNK: "stop what writes to it, and copy again",
    server.TOO_SHORT: "copy the parts in their order, the first without an offset",
    server.UNKNOWN: "restart the sandbox",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "copy to a volume or a tmpfs: the rest of the sandbox is read_only",
    errno.EISDIR: "name a file",
    errno.ETXTBSY: "a process runs that file: stop it, or copy to a new name and rename it",
    errno.EMFILE: "raise nofile of ulimits",
    errno.EFBIG: "raise fsize of ulimits",
}


class FileError(ReachError):
    """An operation that failed inside; ``code`` is its errno, or a number of init/files.py."""

    def __init__(self, sandbox: str, path: str, code: int) -> None:
        self.path = path
        problem = _PROBLEMS.get(code) or os.strerror(code)
        super().__init__(
            f"{sandbox}:{path}: {problem}", hint=_HINTS.get(code, "correct the path"), code=code
        )


class Status(NamedTuple):
    """The status of a file, by the sandbox's own word."""

    mode: int
    uid: int
    gid: int
    size: int
    # In nanoseconds since 1970.
    mtime: int
    device: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Files:
    """A connection to a file server inside; names are bytes, as in init/files.py."""

    def __init__(
        self, sandbox: str, init: Running, connection: socket.socket, server: socket.socket
    ) -> None:
        self._sandbox = sandbox
        self._init = init
        self._connection = connection
        self._server = server
        self._entered: List[bytes] = []
        self._room = MOST_HELD

    def path(self, name: bytes = b"") -> str:
        """The path inside, as messages show it."""
        parts = [part for part in (*self._entered, name) if part not in (b"", b".")]
        return harmless(os.fsdecode(b"/".join(parts).replace(b"//", b"/")) or "/")

    # -- messages

    def _send(self, request: wire.Message, fds: Sequence[int] = ()) -> None:
        try:
            wire.send(self._server, request, fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._gone() from error

    def _receive(self, name: bytes) -> Tuple[bool, bytes]:
        """Whether more answers follow, and what the operation returns."""
        try:
            data, dummy, flags, dummy = self._server.recvmsg(_ANSWER)
        except ConnectionResetError:
            data, flags = b"", 0
        if not data:
            raise self._gone()
        if len(data) < server.CODE.size or flags & socket.MSG_TRUNC:
            raise self._invalid(name)
        code = int(server.CODE.unpack_from(data)[0])
        if code not in (0, server.MORE):
            raise FileError(self._sandbox, self.path(name), code)
        return code != 0, data[server.CODE.size :]

    def _ask(self, operation: str, name: bytes, **values: Any) -> bytes:
        """Make an operation with one answer."""
        self._send({"op": operation, "name": name, **values})
        more, answer = self._receive(name)
        if more:
            raise self._invalid(name)
        return answer

    def _invalid(self, name: bytes) -> SandlotError:
        return SandlotError(
            f"{self._sandbox}:{self.path(name)}: the sandbox sent an invalid answer"
        )

    def _gone(self) -> SandlotError:
        """The error of a server that has closed its socket."""
        self._connection.settimeout(_ENDING)
        message: Optional[wire.Message] = None
        with contextlib.suppress(socket.timeout, ConnectionResetError):
            message, fds = wire.receive(self._connection)
            wire.close_all(fds)
        if runtime.has_ended(self._init, _ENDING):
            return Vanished(
                f"{self._sandbox}: the sandbox ended while files were copied",
                hint=f"see why: sandlot logs {self._sandbox}",
            )
        code = f" with status {message['exit']}" if message and "exit" in message else ""
        return SandlotError(
            f"{self._sandbox}: the process that copies inside has ended{code}",
            hint="the sandbox stops, or something in it killed that process; try again",
        )

    # -- entries

    @contextlib.contextmanager
    def inside(self, name: bytes) -> Iterator[None]:
        """Let names be those of entries of a directory."""
        self._ask("enter", name)
        self._entered.append(name)
        room = self._room
        yield
        self._room = room
        self._entered.pop()
        self._ask("leave", b"")

    def stat(self, name: bytes) -> Status:
        """The status of what a path leads to, or of an entry, which may be a link."""
        return self._status(name, self._ask("stat", name))

    def _status(self, name: bytes, answer: bytes) -> Status:
        if len(answer) != server.STATUS.size:
            raise self._invalid(name)
        status = Status(*server.STATUS.unpack(answer))
        if status.size < 0 or not (0 <= status.uid < _IDS and 0 <= status.gid < _IDS):
            raise self._invalid(name)
        return status

    def exists(self, name: bytes) -> bool:
        try:
            self.stat(name)
        except FileError as error:
            if error.code == errno.ENOENT:
                return False
            raise
        return True

    def list(self) -> List[bytes]:
        """The names in the directory that was entered last, sorted."""
        self._send({"op": "list"})
        names: List[bytes] = []
        more = True
        while more:
            more, answer = self._receive(b"")
            received = answer.split(b"/") if answer else []
            names += received
            self._room -= len(answer) + len(received) * _HELD
            if len(names) > MOST_NAMES or self._room < 0:
                most = (
                    f"{MOST_NAMES} names in a directory, or {MOST_HELD >> 20} MiB of them at a time"
                )
                raise SandlotError(
                    f"{self._sandbox}:{self.path()}: more than {most}",
                    hint="copy its files by name, or an archive of it",
                )
        if not all(map(_is_name, names)):
            raise self._invalid(b"")
        return sorted(names)

    def readlink(self, name: bytes) -> bytes:
        target = self._ask("readlink", name)
        if not 0 < len(target) < _LINK or b"\0" in target:
            raise self._invalid(name)
        return target

    def mkdir(self, name: bytes) -> bool:
        """Make a directory for its owner alone; False when there is something already."""
        try:
            self._ask("mkdir", name)
        except FileError as error:
            if error.code != errno.EEXIST:
                raise
            return False
        return True

    def symlink(self, target: bytes, name: bytes) -> None:
        """Make a symbolic link, in place of anything but a directory."""
        self._ask("symlink", name, target=target)

    def set(
        self, name: bytes, *, owner: Owner = None, mode: Optional[int] = None, mtime: int
    ) -> None:
        """Set attributes of a directory or a link, which has no mode."""
        self._ask("set", name, owner=owner, mode=mode, mtime=mtime)

    # -- contents

    def get(
        self,
        name: bytes,
        target: int,
        *,
        sparse: bool,
        offset: int = 0,
        length: Optional[int] = None,
    ) -> Status:
        """Write a file to ``target``, and the size that the kernel knows for it as a part of it.

        With ``sparse``, the position of ``target`` moves over holes; otherwise zeros are written.
        """
        reader, writer = os.pipe()
        try:
            request = {"op": "get", "name": name, "offset": offset, "length": length}
            try:
                self._send(request, [writer])
            finally:
                os.close(writer)
            status = self._status(name, self._receive(name)[1])
            if status.size > server.CHUNK:
                _enlarge(reader)
            self._get_parts(name, status, reader, target, (offset, length), sparse=sparse)
        finally:
            os.close(reader)
        return status

    def _get_parts(
        self,
        name: bytes,
        status: Status,
        pipe: int,
        target: int,
        wanted: Tuple[int, Optional[int]],
        *,
        sparse: bool,
    ) -> None:
        at, length = wanted
        most = status.size or server.MOST_UNSIZED
        most = most if length is None else min(most, at + length)
        more = True
        while more:
            more, answer = self._receive(name)
            if len(answer) != server.PART.size:
                raise self._invalid(name)
            start, end = server.PART.unpack(answer)
            if not more:
                start = end  # the last answer says where the content ends
            if not at <= start <= end <= max(most, at) or (more and start == end):
                raise self._invalid(name)
            _skip(target, start - at, sparse=sparse)
            at = start + _take(pipe, target, end - start)

    def put(self, name: bytes, source: int, *, owner: Owner = None, mode: int, mtime: int) -> None:
        """Write a whole file; OSError if ``source``, an open file, changes meanwhile."""
        size = os.fstat(source).st_size
        values = {"offset": 0, "owner": owner, "mode": mode, "mtime": mtime}
        self._put(name, source, extents(source, size), size, values)

    def put_stream(self, name: bytes, source: int, offset: int = 0) -> None:
        """Write what comes from a descriptor to the end of a file that begins at ``offset``."""
        values = {"offset": offset, "owner": None, "mode": None, "mtime": None}
        self._put(name, source, [(offset, None)], None, values)

    def _put(
        self,
        name: bytes,
        source: int,
        parts: Iterable[Tuple[int, Optional[int]]],
        size: Optional[int],
        values: wire.Message,
    ) -> None:
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            try:
                self._send({"op": "put", "name": name, **values}, [reader])
            finally:
                os.close(reader)
            self._receive(name)
            if size is None or size > server.CHUNK:
                _enlarge(writer)
            # When the server reads no more, its answer says why.
            with contextlib.suppress(BrokenPipeError):
                self._put_parts(source, writer, parts)
            pipe.close()
            self._send({"size": size})
            self._receive(name)

    def _put_parts(
        self, source: int, pipe: int, parts: Iterable[Tuple[int, Optional[int]]]
    ) -> None:
        for start, end in parts:
            self._send({"start": start, "end": end})
            if end is None:
                self._relay(source, pipe)
                return
            os.lseek(source, start, os.SEEK_SET)
            if server.copy(source, pipe, end - start) < end - start:
                raise OSError(errno.ESTALE, _PROBLEMS[server.SHRUNK])

    def _relay(self, source: int, pipe: int) -> None:
        """Copy to the end of the source, or until the server answers, which reads no more then."""
        waiting = select.poll()
        waiting.register(source, select.POLLIN)
        waiting.register(self._server.fileno(), select.POLLIN)
        while not any(fd == self._server.fileno() for fd, dummy in waiting.poll()):
            try:
                data = os.read(source, server.CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return
            write_all(pipe, data)


def _enlarge(pipe: int) -> None:
    """Let a pipe hold more, unless fs.pipe-max-size forbids it."""
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE)


def _is_name(name: bytes) -> bool:
    return 0 < len(name) <= _NAME and name not in (b".", b"..") and b"\0" not in name


def _skip(target: int, count: int, *, sparse: bool) -> None:
    if sparse:
        os.lseek(target, count, os.SEEK_CUR)
        return
    while count:
        zeros = _ZEROS[:count]
        _write(target, zeros)
        count -= len(zeros)


def _write(target: int, data: bytes) -> None:
    """Write all, also where somebody else has made the descriptor non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(target, select.POLLOUT)
            waiting.poll()


def _take(pipe: int, target: int, count: int) -> int:
    """Copy up to ``count`` bytes from the sandbox; how many there were."""
    left = count
    while left:
        data = os.read(pipe, min(server.CHUNK, left))
        if not data:
            break
        _write(target, data)
        left -= len(data)
    return count - left


@contextlib.contextmanager
def opened(site: Site, name: str, user: Optional[str] = None) -> Iterator[Files]:
    """A file server in the sandbox, with the rights of ``user``, else of the sandbox's own user.

    Missing, Stopped or Vanished as for a command.
    """
    init = command.find(site, name)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, command.dial(site, name, init) as connection:
        with theirs, headroom.for_a_command(site.sandbox(name)):
            _start(name, init, connection, theirs, user)
        yield Files(name, init, connection, ours)


def _start(
    name: str,
    init: Running,
    connection: socket.socket,
    served: socket.socket,
    user: Optional[str],
) -> None:
    request: wire.Message = {
        "op": "files",
        "argv": [],
        "env": {},
        "cwd": "/",
        "user": user,
        "tty": False,
    }
    connection.settimeout(command.START_SECONDS)
    try:
        wire.send(connection, request, [served.fileno()])
        message, fds = wire.receive(connection)
    except socket.timeout as error:
        raise command.silent(name) from error
    except OSError as error:
        problem = f"{name}: init takes no request: {error.strerror}"
        raise SandlotError(problem) from error
    wire.close_all(fds)
    if message is None:
        raise command.lost(name, init)
    if message.get("error") == wire.OLDER:
        hint = f"restart the sandbox: sandlot restart {name}"
        raise SandlotError(f"{name}: {wire.OLDER}, which can't copy files", hint=hint)
    if "error" in message:
        raise NotStarted(f"{name}: {message['error']}", int(message["code"]))
