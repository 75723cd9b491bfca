# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Asks the zygote for joiners, on behalf of the launcher."""

from __future__ import annotations

import _socket
import errno
import os
import struct

from .. import wire
from ..errors import LaunchError
from ..init.process import FIRST, PEER
from ..kernel.call_table import Table
from ..kernel.signals import signal

INT = struct.Struct("i")
# A zygote answers within a millisecond; one that was stopped gets SIGCONT.
_PATIENCE_SECONDS, _ATTEMPTS = 1.0, 10
# The most that one table collects.
_REAPED = 500


class Zygote:
    """Forks joiners: clean processes that become init."""

    def __init__(self, pid: int, control: _socket.socket, buffer: int) -> None:
        """``buffer`` is the address at which the zygote, joiners and inits receive tables."""
        self.pid = pid
        self.buffer = buffer
        self._control = control
        self._fork = _fork(buffer)
        control.settimeout(_PATIENCE_SECONDS)

    def fork(self, peer: _socket.socket) -> int:
        """Fork a joiner that listens to ``peer``; return its pid."""
        try:
            wire.transmit(self._control, self._fork, [peer.fileno()])
            answer = self._answer()
        except ConnectionError:
            answer = b""
        if not answer:
            raise LaunchError("the zygote has died", hint="run again; the launcher restarts itself")
        pid = int(INT.unpack(answer)[0])
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

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

    def reap(self, joiners: int) -> None:
        """Make the zygote collect joiners that have forked init and ended, and one left before."""
        try:
            wire.transmit(self._control, _reap(self.buffer, joiners + 1), [])
        except (ConnectionError, _socket.timeout):
            return  # the launcher notices when it reaps the zygote

    def end(self) -> None:
        """End the zygote before the launcher: systemd keeps the cgroup of a unit with processes."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _fork(buffer: int) -> bytes:
    """The zygote forks a joiner, which gets the socket that comes with this, and tells its pid."""
    table = Table("forking", buffer)
    # Joiners that were given up, as the launcher could not start their worker, count as processes.
    for dummy in range(2):
        _wait(table)
    table.fork()
    table.add("close", FIRST)
    table.add("write", PEER, table.pid_at, INT.size, tolerated=errno.EPIPE)
    table.child()
    # In place of the connection to the launcher.
    table.add("dup3", FIRST, PEER, os.O_CLOEXEC)
    table.add("close", FIRST)
    return table.encoded(1, FIRST)


def _reap(buffer: int, joiners: int) -> bytes:
    table = Table("reaping", buffer)
    for dummy in range(min(joiners, _REAPED)):
        _wait(table)
    return table.encoded(0, FIRST)


def _wait(table: Table) -> None:
    table.add("wait4", -1, 0, os.WNOHANG, tolerated=errno.ECHILD)
