# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Serving exec: init forks the command, so its confinement is the workload's by construction.

Requests come over a socket only host root reaches. One connection is one command: the request with
three descriptors (or none and tty, then the pty's master is sent back), signals, the exit code.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

from ..launcher import protocol
from . import child

if TYPE_CHECKING:
    from .supervisor import Supervisor

_TIOCSWINSZ = 0x5414
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
MAX_CONNECTIONS = 256


class _Command:
    """One exec: its process, who asked, and the pty's master until it is handed over."""

    def __init__(self, process: child.Child, connection: socket.socket, master: List[int]) -> None:
        self.process = process
        self.connection = connection
        self.master = master


class ExecServer:
    """Connections and the commands they started."""

    def __init__(self, supervisor: Supervisor, listener: socket.socket, pts: int) -> None:
        self._supervisor = supervisor
        self._listener = listener
        self._pts = pts
        self._connections: Dict[int, socket.socket] = {}
        self._commands: Dict[int, _Command] = {}
        listener.setblocking(False)
        supervisor.watch(listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            _reply(connection, {"error": "too many exec sessions", "code": child.NOT_EXECUTABLE})
            connection.close()
            return
        connection.setblocking(False)
        self._connections[connection.fileno()] = connection
        self._supervisor.watch(connection.fileno(), lambda: self._on_message(connection))

    def _on_message(self, connection: socket.socket) -> None:
        try:
            message, fds = protocol.receive(connection)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            message, fds = None, []
        if message is None:
            self._close(connection)
            return
        try:
            self._dispatch(connection, message, fds)
        finally:
            protocol.close_all(fds)

    def _dispatch(
        self, connection: socket.socket, message: protocol.Message, fds: List[int]
    ) -> None:
        operation = message["op"]
        if operation == "exec":
            self._run(connection, message, fds)
        elif operation == "signal":
            self._signal(connection, message["signal"])
        elif operation == "stop":
            _reply(connection, {})
            self._supervisor.stop()
        elif operation == "configure":
            self._supervisor.configure(message["config"])
            _reply(connection, {})

    def _run(self, connection: socket.socket, message: Mapping[str, Any], fds: List[int]) -> None:
        tty = bool(message["tty"])
        try:
            master, stdio = self._open_pty(message.get("size")) if tty else ([], fds)
            process = child.spawn(self._command(message), stdio, tty=tty)
        except OSError as error:
            reason = f"starting the command: {error.strerror}"
            _reply(connection, {"error": reason, "code": child.NOT_EXECUTABLE})
            return
        if tty:
            os.close(stdio[0])
        command = self._commands[process.pid] = _Command(process, connection, master)
        if process.report is not None:
            self._supervisor.watch(process.report, lambda: self._decided(command))

    def _command(self, message: Mapping[str, Any]) -> Dict[str, Any]:
        config = self._supervisor.config
        return {
            "argv": message["argv"],
            "env": {**config["env"], **message["env"]},
            "cwd": message["cwd"] or config["cwd"],
            "user": message["user"],
            "rlimits": config["rlimits"],
        }

    def _open_pty(self, size: Optional[List[int]]) -> Tuple[List[int], List[int]]:
        """([master], [slave] * 3) of a pty of the sandbox's own devpts; size is rows, columns."""
        master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=self._pts)
        if size:
            fcntl.ioctl(master, _TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        return [master], [slave] * 3

    def _decided(self, command: _Command) -> None:
        """Exec worked or failed: say so once, and hand over the pty."""
        report = command.process.report
        outcome = command.process.outcome()
        if report is None or outcome is None:
            return
        self._supervisor.unwatch(report)
        if outcome:
            del self._commands[command.process.pid]
            _reply(command.connection, outcome)
        else:
            _reply(command.connection, {"pid": command.process.pid}, command.master)
        protocol.close_all(command.master)

    def _signal(self, connection: socket.socket, number: int) -> None:
        for pid in [p for p, c in self._commands.items() if c.connection is connection]:
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue

    def on_exit(self, pid: int, code: int) -> None:
        command = self._commands.get(pid)
        if command is None:
            return
        self._decided(command)
        if self._commands.pop(pid, None) is not None:
            _reply(command.connection, {"exit": code})

    def _close(self, connection: socket.socket) -> None:
        """The caller is gone; its command goes on, as with other runtimes."""
        self._supervisor.unwatch(connection.fileno())
        del self._connections[connection.fileno()]
        connection.close()


def _reply(
    connection: socket.socket, message: Mapping[str, Any], fds: Optional[List[int]] = None
) -> None:
    """Answer, unless the caller has gone."""
    try:
        protocol.send(connection, dict(message), fds or [])
    except OSError:
        return
