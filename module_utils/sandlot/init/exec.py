# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Serves exec: init forks the command, which so inherits the workload's confinement.

Only host root reaches the socket. A connection serves one command: the request with three
descriptors (or with tty and none; then the answer has the pty's master), signals, exit code. A
command that is to be traced has a fourth descriptor, at which it waits for its tracer. The
operation "files" has one, a socket, on which a child serves files (``files``) as a command would
run.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from .. import wire
from ..errors import LaunchError
from . import child
from .memory import TakeOver, retire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

    from ..kernel.loop import Loop
    from .memory import Memory

    # A connection, its request, the descriptors of that.
    Unserved = Tuple[int, wire.Message, List[int]]
    # Pid, connection, master of the pty, whether it is traced, report.
    SavedCommand = Tuple[int, int, List[int], bool, int]
    Saved = Tuple[List[int], List[SavedCommand]]

_TIOCSWINSZ = 0x5414
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
MAX_COMMANDS = 256
# Operations that run a command in place of the workload, until their client is gone.
AS_WORKLOAD = ("trace", "job")
ACCEPT, _PAUSE = "accept", 1.0


class _Command:
    """One exec: its process, the client's connection, and the pty's master until it is sent."""

    def __init__(
        self,
        process: child.Child,
        connection: _socket.socket,
        master: List[int],
        *,
        traced: bool = False,
    ) -> None:
        self.process = process
        self.connection = connection
        self.master = master
        self.traced = traced


class ExecServer:
    """Serves connections and the commands that they start."""

    def __init__(
        self,
        loop: Loop,
        config: Mapping[str, Any],
        listener: _socket.socket,
        null: int,
        pts: int,
        stop: Callable[[], None],
        kill: Callable[[int], wire.Message],
        configure: Callable[[Mapping[str, Any]], None],
        shared: Memory,
    ) -> None:
        self._loop = loop
        self._memory = shared
        # A request that this process could not fork for.
        self.unserved: Optional[Unserved] = None
        self._config = config
        self._stop = stop
        self._kill = kill
        self._configure = configure
        self._listener = listener
        self._null = null
        self._pts = pts
        self._connections: Dict[int, _socket.socket] = {}
        self._commands: Dict[int, _Command] = {}
        self.listen()

    @property
    def busy(self) -> bool:
        """Whether a client waits for something, or a client that could not be accepted."""
        return bool(self._connections) or not self._listening

    @property
    def pids(self) -> List[int]:
        return list(self._commands)

    @property
    def descriptors(self) -> List[int]:
        """All that this server has open beside its listener."""
        masters = [fd for command in self._commands.values() for fd in command.master]
        reports = [c.process.report for c in self._commands.values()]
        return [*self._connections, *masters, *[fd for fd in reports if fd is not None]]

    def saved(self) -> Saved:
        commands = [
            (pid, c.connection.fileno(), c.master, c.traced, c.process.report or -1)
            for pid, c in self._commands.items()
        ]
        return list(self._connections), commands

    def restore(self, saved: Saved, unserved: Optional[Unserved]) -> None:
        connections, commands = saved
        for fd in connections:
            self._serve(_socket.socket(fileno=fd))
        for pid, fd, master, traced, report in commands:
            if fd not in self._connections:
                self._memory.forget(pid)
                continue
            process = child.Child(pid, report if report >= 0 else None)
            self._watch(_Command(process, self._connections[fd], master, traced=traced))
        if unserved is not None and unserved[0] in self._connections:
            fd, message, fds = unserved
            self._handle(self._connections[fd], message, fds)

    def close_unserved(self) -> None:
        """Close connections whose request is lost, as their clients would wait for ever."""
        served = [command.connection for command in self._commands.values()]
        for connection in list(self._connections.values()):
            if connection not in served and not _has_message(connection):
                self._close(connection)

    def rest(self) -> None:
        """Leave everything to another process; commands without a client just run on."""
        for pid in self._commands:
            self._memory.forget(pid)
        self._listener.detach()

    def listen(self) -> None:
        self._listening = True
        self._loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection = wire.accept(self._listener)
        except OSError:
            # The host has no descriptor left, and the client waits in the backlog.
            self._listening = False
            self._loop.unwatch(self._listener.fileno())
            self._loop.after(ACCEPT, _PAUSE, self.listen)
            return
        if connection is not None:
            connection.setblocking(False)
            self._serve(connection)

    def _serve(self, connection: _socket.socket) -> None:
        self._connections[connection.fileno()] = connection
        self._loop.watch(connection.fileno(), lambda: self._on_message(connection))

    def _on_message(self, connection: _socket.socket) -> None:
        try:
            message, fds = wire.receive_request(connection)
        except BlockingIOError:
            return
        except (OSError, LaunchError, TypeError, ValueError, EOFError):
            # Not a request of our client.
            self._close(connection)
            return
        if message is None:
            self._close(connection)
        else:
            self._handle(connection, message, fds)

    def _handle(self, connection: _socket.socket, message: wire.Message, fds: List[int]) -> None:
        try:
            self._dispatch(connection, message, fds)
        except TakeOver:
            self.unserved = (connection.fileno(), message, fds)
            raise
        except (OSError, LaunchError, LookupError, TypeError, ValueError):
            self._close(connection)
        wire.close_all(fds)

    def _dispatch(self, connection: _socket.socket, message: wire.Message, fds: List[int]) -> None:
        operation = message["op"]
        if operation in ("exec", "files", *AS_WORKLOAD):
            self._run(connection, message, fds)
        elif operation == "signal":
            number = message["signal"]
            for pid in [p for p, c in self._commands.items() if c.connection is connection]:
                try:
                    os.kill(pid, number)
                except OSError:
                    continue  # it has ended or changed its user, or there is no such signal
        elif operation == "stop":
            wire.reply(connection, {})
            self._stop()
        elif operation == "kill":
            wire.reply(connection, self._kill(message["signal"]))
        elif operation == "configure":
            self._configure(message["config"])
            wire.reply(connection, {})
        else:
            wire.reply(connection, {"error": wire.OLDER})

    def _run(self, connection: _socket.socket, message: Mapping[str, Any], fds: List[int]) -> None:
        config, env = self._config, dict(self._config["env"])
        login = [name for name in config["login"] if name not in message["env"]]
        if message["user"]:
            # Another user may have fewer of them.
            env = {name: text for name, text in env.items() if name not in login}
        command = {
            **config,
            "argv": message["argv"],
            "env": {**env, **message["env"]},
            "login": login,
            "cwd": message["cwd"] or config["cwd"],
            "user": message["user"],
        }
        if message["op"] == "files":
            command["op"] = "files"
        if len(self._commands) >= MAX_COMMANDS:
            reason = f"{MAX_COMMANDS} commands run in this sandbox already"
            wire.reply(connection, {"error": reason, "code": child.NOT_EXECUTABLE})
            return
        tty = bool(message["tty"])
        master: List[int] = []
        stdio: Sequence[int] = [] if tty else [self._own(fd) for fd in fds]
        try:
            if tty:
                master.append(self._open_master(message.get("size")))
                slave_flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
                stdio = [fcntl.ioctl(master[0], _TIOCGPTPEER, slave_flags)] * 3
            process = child.spawn(self._memory.clone, command, stdio, tty=tty)
        except OSError as error:
            wire.close_all(master)
            reason = f"starting the command: {error.strerror}"
            wire.reply(connection, {"error": reason, "code": child.NOT_EXECUTABLE})
            return
        finally:
            if tty and stdio:
                os.close(stdio[0])
        traced = message["op"] in AS_WORKLOAD
        self._watch(_Command(process, connection, master, traced=traced))

    def _watch(self, command: _Command) -> None:
        self._commands[command.process.pid] = command
        if command.process.report is not None:
            self._loop.watch(command.process.report, lambda: self._decided(command))

    def _own(self, fd: int) -> int:
        """The sandbox's null device in place of the host's, whose locks and times all share."""
        return self._null if os.fstat(fd).st_rdev == os.fstat(self._null).st_rdev else fd

    def _open_master(self, size: Optional[Tuple[int, int]]) -> int:
        """Open a pty of the sandbox's own devpts; ``size`` is rows and columns."""
        master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=self._pts)
        if size:
            fcntl.ioctl(master, _TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        return master

    def _decided(self, command: _Command) -> None:
        """Answer once exec has worked or failed, and hand over the pty."""
        report = command.process.report
        if report is None or not command.process.decided():
            return
        self._loop.unwatch(report)
        if command.process.failure:
            del self._commands[command.process.pid]
            code, text = command.process.failure
            wire.reply(command.connection, {"error": text, "code": code})
        else:
            wire.reply(command.connection, {"pid": command.process.pid}, command.master)
        for fd in command.master:
            retire(fd)
        command.master = []

    @property
    def is_tracing(self) -> bool:
        """Whether a command is traced, as if it were the workload."""
        return any(command.traced for command in self._commands.values())

    def on_exit(self, pid: int, code: int) -> bool:
        """Report the end of a command; whether it was a traced one that had started."""
        command = self._commands.get(pid)
        if command is None:
            return False
        self._decided(command)
        if self._commands.pop(pid, None) is None:
            return False
        wire.reply(command.connection, {"exit": code})
        return command.traced

    def _close(self, connection: _socket.socket) -> None:
        """Forget a client that is gone; its command runs on, unless it is traced."""
        for pid in [p for p, c in self._commands.items() if c.connection is connection]:
            if self._commands[pid].traced:
                child.kill(pid)
        self._loop.unwatch(connection.fileno())
        del self._connections[connection.fileno()]
        retire(connection.detach())
        if "job" in self._config:
            self._stop()


def _has_message(connection: _socket.socket) -> bool:
    try:
        connection.recv_into(bytearray(1), 1, _socket.MSG_PEEK)
    except OSError:
        return False
    return True
