# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The launcher's way to the zygote."""

from __future__ import annotations

import _socket
import os
import struct

from ..errors import LaunchError
from ..kernel.signals import signal

INT = struct.Struct("i")
_FORK, _REAP = b"f", b"r"
# A zygote answers within a millisecond; one that somebody has stopped is continued.
_PATIENCE_SECONDS, _ATTEMPTS = 1.0, 10


class Zygote:
    """Forks joiners: clean processes that become init."""

    def __init__(self, pid: int, control: _socket.socket) -> None:
        self.pid = pid
        self._control = control
        control.settimeout(_PATIENCE_SECONDS)

    def fork(self, peer: _socket.socket) -> int:
        """Fork a joiner that listens to ``peer``; its pid."""
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, INT.pack(peer.fileno()))]
        try:
            self._control.sendmsg([_FORK], rights, _socket.MSG_NOSIGNAL)
            answer = self._answer()
        except ConnectionError:
            answer = b""
        if not answer:
            raise LaunchError("the zygote has died", hint="run again; the launcher starts anew")
        return int(INT.unpack(answer)[0])

    def _answer(self) -> bytes:
        """What it says; b"" once it is given up, when the launcher starts anew."""
        for _ in range(_ATTEMPTS):
            try:
                return self._control.recv(INT.size)
            except _socket.timeout:
                # Our child, and not reaped yet: the pid is its.
                os.kill(self.pid, signal.SIGCONT)
        os.kill(self.pid, signal.SIGKILL)
        return b""

    def reap(self) -> None:
        """Have it collect joiners that have become init's parent and ended."""
        try:
            self._control.send(_REAP, _socket.MSG_NOSIGNAL)
        except (ConnectionError, _socket.timeout):
            return  # noticed and made good when its end is reported

    def end(self) -> None:
        """Ahead of the launcher: systemd leaves behind the cgroup of a unit that anybody is in."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
