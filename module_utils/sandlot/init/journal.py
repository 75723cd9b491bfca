# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The host's journal: one stream for each of the workload's, opened and named by the builder.

What a stream is called is said once, ahead of the lines, so whoever writes them can't change it.
"""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..site import SandboxPaths

# As docker and podman do: informational, and errors (syslog(3)).
_LEVELS = (6, 3)
_SHUT_RD = 0


def streams(paths: SandboxPaths) -> list[int]:
    """Descriptors for stdout and stderr that never block; none where nobody takes them."""
    identifier = f"sandlot/{paths.name}"
    found: list[_socket.socket] = []
    try:
        for level in _LEVELS:
            found.append(_stream(paths.site.journal, identifier, level))
    except OSError:
        # No journald, or one that hangs: the log ring has it all.
        for sock in found:
            sock.close()
        return []
    return [sock.detach() for sock in found]


def _stream(path: str, identifier: str, level: int) -> _socket.socket:
    """systemd's header: identifier, unit, level, then four flags, of which none is set: levels at
    the start of lines, and copies for syslog, the kernel's log and the console."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
        sock.shutdown(_SHUT_RD)
        header = f"{identifier}\n\n{level}\n0\n0\n0\n0\n".encode()
        if sock.send(header) != len(header):
            raise BlockingIOError
    except OSError:
        sock.close()
        raise
    return sock
