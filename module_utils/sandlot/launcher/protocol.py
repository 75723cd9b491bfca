# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Messages between client, launcher and init: one JSON object per datagram, descriptors beside it.

SOCK_SEQPACKET keeps message boundaries, so no side ever parses a partial request.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, Dict, Sequence

Message = Dict[str, Any]
MAX_MESSAGE = 1 << 20
MAX_FDS = 16
_INT = array.array("i").itemsize


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    data = json.dumps(message).encode()
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message | None, list[int]]:
    """The next message and the descriptors that came with it; (None, []) when the peer is gone."""
    flags = socket.MSG_CMSG_CLOEXEC
    data, ancillary, result_flags, _ = sock.recvmsg(
        MAX_MESSAGE, socket.CMSG_SPACE(MAX_FDS * _INT), flags
    )
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % _INT])
    if result_flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise ValueError(f"message of more than {MAX_MESSAGE} bytes or {MAX_FDS} descriptors")
    if not data:
        close_all(fds)
        return None, []
    return dict(json.loads(data)), list(fds)


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair whose buffers hold a whole message (root may exceed wmem_max)."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        enlarge(end)
    return ends


def enlarge(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, 32, MAX_MESSAGE * 2)  # SO_SNDBUFFORCE, socket(7)


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
        enlarge(sock)
    except OSError:
        sock.close()
        raise
    return sock


def listen(path: str) -> socket.socket:
    """A listening socket at ``path``, for root only, in place of a stale one."""
    temporary = f"{path}.new"
    for stale in (temporary,):
        if os.path.lexists(stale):
            os.unlink(stale)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(temporary)
    os.chmod(temporary, 0o600)
    sock.listen(128)
    os.rename(temporary, path)
    return sock
