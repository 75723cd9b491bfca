# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sets links up and down (netdevice(7)), for processes that import as little as possible."""

from __future__ import annotations

import _socket
import errno
import fcntl
import struct

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
_REQUEST = struct.Struct("16sH22x")


def change(name: str, *, up: bool) -> bool:
    """Set a link up or down; False when there is no such link."""
    kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC
    sock = _socket.socket(_socket.AF_UNIX, kind)
    try:
        request = fcntl.ioctl(sock.fileno(), SIOCGIFFLAGS, _REQUEST.pack(name.encode(), 0))
        flags = _REQUEST.unpack(request)[1]
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(sock.fileno(), SIOCSIFFLAGS, _REQUEST.pack(name.encode(), flags))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False
    finally:
        sock.close()
    return True
