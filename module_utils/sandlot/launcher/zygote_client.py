# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Asks the zygote for joiners, on behalf of the launcher."""

from __future__ import annotations

import _socket
import os
import struct

from ..errors import LaunchError
from ..kernel.signals import signal

INT = struct.Struct("i")
_FORK, _REAP = b"f", b"r"
# A zygote answers within a millisecond; one that was stopped gets SIGCONT.
_PATIENCE_SECONDS, _ATTEMPTS = 1.0, 10


class Zygote:
    """Forks joiners: clean processes that become init."""

    def __init__(self, pid: int, control: _socket.socket, buffer: int) -> None:
        """``buffer`` is the address of the memory that joiners and inits play tables from."""
        self.pid = pid
        self.buffer = buffer
        self._control = control
        control.settimeout(_PATIENCE_SECONDS)

    def fork(self, peer: _socket.socket) -> int:
        """Fork a joiner that listens to ``peer``; return its pid."""
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, INT.pack(peer.fileno()))]
        try:
            self._control.sendmsg([_FORK], rights, _socket.MSG_NOSIGNAL)
            answer = self._answer()
        except ConnectionError:
            answer = b""
        if not answer:
            raise LaunchError("the zygote has died", hint="run again; the launcher restarts itself")
        return int(INT.unpack(answer)[0])

    def _answer(self) -> bytes:
        """The pid as sent; b"" when the zygote does not answer, in which case it is killed."""
        for dummy in range(_ATTEMPTS):
            try:
                return self._control.recv(INT.size)
            except _socket.timeout:
                # The zygote is not reaped yet, so its pid has not been reused.
                os.kill(self.pid, signal.SIGCONT)
        os.kill(self.pid, signal.SIGKILL)
        return b""

    def reap(self) -> None:
        """Make the zygote collect joiners that have forked init and ended."""
        try:
            self._control.send(_REAP, _socket.MSG_NOSIGNAL)
        except (ConnectionError, _socket.timeout):
            return  # the launcher notices when it reaps the zygote

    def end(self) -> None:
        """End the zygote before the launcher: systemd keeps the cgroup of a unit with processes."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
