# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Messages between client, launcher and init: one in each datagram, with descriptors.

SOCK_SEQPACKET keeps message boundaries, so no side ever parses a partial request. Requests come
from host root and are marshalled: init decodes them, and a JSON decoder would cost memory in every
sandbox. Answers may come from an init under the workload's control. So they are bounded lines of
"key value", where the key tells a number from a text; anything else is refused.
"""

from __future__ import annotations

import _socket
import marshal
import os
import struct

from .errors import LaunchError
from .kernel.text import harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

    Message = Dict[str, Any]
    Socket = Union[_socket.socket, socket.socket]

MAX_MESSAGE = 1 << 20
MAX_FDS = 16
_MAX_ANSWER = 16384
# A request beyond that many bytes, and the message in its place; no marshalled value begins so.
_LARGE = 1 << 16
_IN_FILE = b"file"
# The format that all Python versions read and write alike.
_MARSHAL_VERSION = 2
_SO_SNDBUFFORCE = 32
_INT_SIZE = struct.calcsize("i")
_ANCILLARY_SIZE = _socket.CMSG_SPACE(MAX_FDS * _INT_SIZE)
_NUMBERS = frozenset(
    ("call", "code", "errno", "exit", "gid", "mounted", "pid", "restarts", "started", "uid")
)
# Variables that a login sets.
LOGIN = ("HOME", "USER", "LOGNAME", "SHELL")
_TEXTS = frozenset(("error", "hint", "mounts", "name", "own", "what", "version", *LOGIN))
_NOT_EXECUTABLE = 126
# The answer of an init to an operation that it does not know.
OLDER = "this init is of an older sandlot"


def send(sock: Socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send a request."""
    transmit(sock, marshal.dumps(message, _MARSHAL_VERSION), fds)


def send_any_size(sock: Socket, message: Message, fds: Sequence[int]) -> None:
    """Send a request to a process of the same version; a large one goes by a file in memory.

    The kernel needs contiguous memory for a datagram (sock_alloc_send_pskb()).
    """
    data = marshal.dumps(message, _MARSHAL_VERSION)
    if len(data) <= _LARGE:
        transmit(sock, data, fds)
        return
    # Not at the top, as init imports this module and never sends.
    from .kernel.files import write_all

    fd = os.memfd_create("request")
    try:
        write_all(fd, data)
        transmit(sock, _IN_FILE, [*fds, fd])
    finally:
        os.close(fd)


def receive_request(sock: Socket) -> Tuple[Optional[Message], List[int]]:
    """The next request and its descriptors; (None, []) when the peer is gone."""
    try:
        # Ask for the size first: the process would keep the memory for the longest message.
        size = sock.recv_into(bytearray(1), 1, _socket.MSG_PEEK | _socket.MSG_TRUNC)
        data, fds = _receive(sock, min(size, MAX_MESSAGE))
    except ConnectionResetError:
        return None, []
    if data == _IN_FILE and fds:
        data = _content(fds.pop())
    return (marshal.loads(data), fds) if data else (None, [])


def _content(fd: int) -> bytes:
    """The content of a file in memory, which is closed."""
    size = os.fstat(fd).st_size
    data = b""
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    os.close(fd)
    return data


def answer(sock: Socket, message: Message, fds: Sequence[int] = ()) -> None:
    lines = [f"{key} {value}".replace("\n", " ") for key, value in message.items()]
    data = "\n".join(lines or ["ok"]).encode("utf-8", "backslashreplace")
    transmit(sock, data[:_MAX_ANSWER], fds)


def reply(sock: Socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Answer a client; if the client is gone, its request still counts as done."""
    try:
        answer(sock, message, fds)
    except OSError:
        return


def receive(sock: Socket) -> Tuple[Optional[Message], List[int]]:
    """The next answer and its descriptors; (None, []) when the peer is gone."""
    try:
        data, fds = _receive(sock, _MAX_ANSWER)
    except ConnectionResetError:
        return None, []
    if not data:
        return None, []
    try:
        return _parse(data.decode("utf-8", "replace")), fds
    except ValueError as error:
        close_all(fds)
        raise LaunchError(f"init or the launcher sent an invalid answer: {error}") from error


def _parse(text: str) -> Message:
    message: Message = {}
    for line in text.split("\n"):
        key, dummy, value = line.partition(" ")
        if key in _NUMBERS and value.isascii() and value.isdigit() and len(value) < 10:
            message[key] = int(value)
        elif key in _TEXTS:
            message[key] = harmless(value)
        elif line != "ok":
            raise ValueError(repr(line[:80]))
    if "error" in message:
        message.setdefault("code", _NOT_EXECUTABLE)
    return message


def transmit(sock: Socket, data: bytes, fds: Sequence[int]) -> None:
    """Send one datagram with descriptors."""
    ancillary = []
    if fds:
        packed = struct.pack(f"{len(fds)}i", *fds)
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
    sock.sendmsg([data], ancillary, _socket.MSG_NOSIGNAL)


def _receive(sock: Socket, size: int) -> Tuple[bytes, List[int]]:
    data, ancillary, flags, dummy = sock.recvmsg(size, _ANCILLARY_SIZE, _socket.MSG_CMSG_CLOEXEC)
    fds: List[int] = []
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            count = len(payload) // _INT_SIZE
            fds += struct.unpack(f"{count}i", payload[: count * _INT_SIZE])
    if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
        close_all(fds)
        raise LaunchError(f"a message has more than {size} bytes or {MAX_FDS} descriptors")
    if not data:
        close_all(fds)
        return b"", []
    return data, fds


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def pair() -> Tuple[_socket.socket, _socket.socket]:
    """A connected pair whose buffers hold a whole message (root may exceed wmem_max)."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    _enlarge(ours)
    _enlarge(theirs)
    return ours, theirs


def _enlarge(sock: Socket) -> None:
    sock.setsockopt(_socket.SOL_SOCKET, _SO_SNDBUFFORCE, MAX_MESSAGE * 2)


def connect(path: str, *, timeout: Optional[float] = None) -> socket.socket:
    """Connect a client, which may import the whole socket module."""
    import socket

    sock = socket.socket(fileno=dial(path, timeout=timeout).detach())
    sock.settimeout(timeout)
    return sock


def dial(path: str, *, timeout: Optional[float] = None) -> _socket.socket:
    """Connect without that module; BlockingIOError if the backlog stays full until ``timeout``."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        if timeout:
            # Only a blocking connect waits for room (unix(7)), and this option limits the wait.
            limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1_000_000))
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
        sock.setblocking(timeout != 0)
        sock.connect(path)
        sock.settimeout(timeout)
        _enlarge(sock)
    except OSError:
        sock.close()
        raise
    return sock


def listen(path: str) -> _socket.socket:
    """A listening socket at ``path``, for root only; replaces a stale socket."""
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    sock.bind(temporary)
    os.chmod(temporary, 0o600)
    sock.listen(128)
    sock.setblocking(False)
    os.rename(temporary, path)
    return sock


def accept(listener: _socket.socket) -> Optional[_socket.socket]:
    """Wait for the next connection; None when the client is gone already."""
    try:
        fd, dummy = listener._accept()  # type: ignore[attr-defined]
    except (BlockingIOError, ConnectionAbortedError):
        return None
    return _socket.socket(fileno=fd)
