# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes to the host's journal: the builder opens and names one stream for stdout and stderr each.

The header of a stream has its name, ahead of the lines, so that no line can change it.
"""

from __future__ import annotations

import _socket
import os

from .memory import retire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Optional, Sequence, Tuple

    from ..site import SandboxPaths

    # Whether the journal has ended the stream, lost bytes, the rest of a line.
    Saved = Tuple[bool, int, bytes]

# As docker and podman do: informational, and errors (syslog(3)).
_LEVELS = {"stdout": 6, "stderr": 3}
_SHUT_RD = 0


class Journal:
    """Sends lines without time, stream and tag."""

    # The ring has the lines that the journal misses.
    lost = 0
    sample = (len(_LEVELS), None)

    @staticmethod
    def open(paths: SandboxPaths) -> Tuple[List[int], None]:
        return streams(paths), None

    def __init__(self, fds: Sequence[int], _state: None) -> None:
        self._streams = dict(zip(_LEVELS, map(Stream, fds)))

    def saved(self) -> List[Saved]:
        return [stream.saved() for stream in self._streams.values()]

    def restore(self, saved: Sequence[Saved]) -> None:
        for stream, state in zip(self._streams.values(), saved):
            stream.restore(state)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Do nothing: the journal has no settings."""

    def write(self, stream: str, entries: List[bytes]) -> None:
        self._streams[stream].write(b"".join([entry.split(b" ", 3)[3] for entry in entries]))


class Stream:
    """Sends complete lines, as long as the journal takes them without waiting."""

    def __init__(self, fd: int) -> None:
        self.lost = 0
        self._fd: Optional[int] = fd
        self._cut = b""

    def saved(self) -> Saved:
        return self._fd is None, self.lost, self._cut

    def restore(self, saved: Saved) -> None:
        ended, self.lost, self._cut = saved
        if ended:
            self._fd = None

    def write(self, lines: bytes) -> None:
        """Send lines; drop lines without room, and send their size once there is room again."""
        if self._fd is None:
            return
        try:
            self._cut = self._cut[_sent(self._fd, self._cut) :]
            note = b"sandlot: %d bytes are missing here\n" % self.lost if self.lost else b""
            data = note + lines
            sent = 0 if self._cut else _sent(self._fd, data)
        except OSError:
            # The journal has ended. Only the next init gets a new connection.
            retire(self._fd)
            self._fd = None
            return
        if not sent:
            self.lost += len(lines)
            return
        end = data.find(b"\n", sent - 1) + 1
        self._cut = data[sent:end]
        self.lost = len(data) - end


def _sent(fd: int, data: bytes) -> int:
    """Send; the number of bytes that the journal took."""
    try:
        return os.write(fd, data) if data else 0
    except BlockingIOError:
        return 0


def streams(paths: SandboxPaths) -> List[int]:
    """Descriptors for stdout and stderr that never block; [] without a journal."""
    identifier = f"sandlot/{paths.name}"
    opened: List[_socket.socket] = []
    try:
        for level in _LEVELS.values():
            opened.append(_stream(paths.site.journal, identifier, level))
    except OSError:
        # journald is missing or hangs: the log ring has all lines.
        for sock in opened:
            sock.close()
        return []
    return [sock.detach() for sock in opened]


def _stream(path: str, identifier: str, level: int) -> _socket.socket:
    """Open a stream with systemd's header: identifier, unit, level, then four flags, all unset:
    levels at the start of lines, and copies for syslog, the kernel's log and the console."""
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
