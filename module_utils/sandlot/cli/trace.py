# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot trace: runs a sandbox's command once more, traced, and tells what was refused.

Init starts the command as it starts those of exec, so it has the workload's confinement. Before
exec, the command waits at a socket, by which the kernel names it to us. It is stopped at the first
instruction of its program, where strace attaches.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .. import converge, store, wire
from ..errors import SandlotError
from ..kernel import namespaces, tracing
from ..kernel.text import harmless
from ..reach import command, descriptors
from ..sandbox import headroom, names, runtime, strace, strace_lines
from ..site import Site
from . import output
from .findings import Findings

_CREDENTIALS = struct.Struct("3i")  # struct ucred
_TAIL = 8192
_LINES, _LONGEST = 5, 256
INTERRUPTED = 130  # as of the command
_READ = 65536
# The limit for what follows on the time limit: the report of strace that is still in its pipe.
_REST = 1 << 20


def run(site: Site, options: argparse.Namespace) -> int:
    tracer = strace.find()
    handlers = {number: signal.signal(number, _interrupt) for number in _ENDING}
    try:
        names.check(site, options.name)
        if runtime.settled(site.sandbox(options.name)) is None:
            converge.start_held(site, options.name)
        traced = _Traced(site, options.name, options.argv, options.timeout)
        traced.run(tracer)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if options.format == "json":
        output.print_json(traced.to_json())
    else:
        sys.stdout.writelines(f"{line}\n" for line in traced.lines())
    return INTERRUPTED if traced.interrupted else 0


_ENDING = (signal.SIGTERM, signal.SIGHUP)


def _interrupt(_number: int, _frame: object) -> None:
    """Let a signal end the trace as the keyboard does, so that nothing traced is left."""
    raise KeyboardInterrupt


class _Traced:
    """One traced run of a command."""

    def __init__(self, site: Site, name: str, argv: Sequence[str], seconds: float) -> None:
        self._site = site
        self._sandbox = site.sandbox(name)
        self._connection = command.connect(site, name)
        launch: Mapping[str, Any] = store.read(self._sandbox.launch) or {}
        if not launch:
            hint = "deploy the sandbox again"
            raise SandlotError(f"{name}: there is no {self._sandbox.launch}", hint=hint)
        self.argv: List[str] = [command.text(word) for word in argv or launch["argv"]]
        command.check_size(name, self.argv, {})
        self._name = name
        self._seconds = seconds
        self._init = command.find(site, name).pid
        self._tail = b""
        self._report = strace_lines.Lines()
        self.code: Optional[int] = None
        self.problem = ""
        self.timed_out = self.interrupted = False
        self.findings = Findings(self._init, launch)

    def run(self, path: str) -> None:
        ours, gate = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        theirs, self._output = descriptors.pipe(os.O_WRONLY)
        with self._connection, ours:
            try:
                with gate, headroom.for_a_command(self._sandbox):
                    self._ask([null, theirs, theirs, gate.fileno()])
                    os.close(theirs)
                    pid = self._wait_started(ours, gate)
                self._trace(path, pid, ours)
                self._drain()
            finally:
                os.close(null)
                os.close(self._output)

    def _ask(self, fds: Sequence[int]) -> None:
        request: wire.Message = {"op": "trace", "argv": self.argv, "env": {}, "cwd": ""}
        wire.send(self._connection, {**request, "user": None, "tty": False}, fds)

    def _wait_started(self, ours: socket.socket, gate: socket.socket) -> int:
        """The pid of the command, which waits at the gate."""
        gate.close()
        ready = select.select([ours], [], [], command.START_SECONDS)[0]
        if not ready:
            raise command.silent(self._name)
        data, ancillary, dummy, dummy = ours.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
        for level, kind, payload in ancillary:
            if data and (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                return int(_CREDENTIALS.unpack(payload)[0])
        # Nobody has the gate any more.
        self._on_message()
        hint = f"an init from before an upgrade has to be restarted: sandlot restart {self._name}"
        raise SandlotError(f"{self._name}: {self.problem}", hint=hint)

    def _trace(self, path: str, pid: int, ours: socket.socket) -> None:
        """Trace the waiting command to its end or the time limit; nothing traced is left then."""
        pidfd = os.pidfd_open(pid)
        try:
            self._check_inside(pid)
            self._seize(pid)
            if namespaces.pidfd_ends(pidfd, 0.0):
                return self._await_code()  # the pid may be another's by now
            ours.send(b"!")
            deadline = time.monotonic() + command.START_SECONDS
            if not tracing.stop_at_exec(pid, deadline):
                return self._await_code()
            self.findings.first = pid
            tracer = strace.Strace(path, pid, self._init, self._seconds)
            try:
                tracer.wait_attached()
                self._take(tracer.first)
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                self._follow(tracer.output)
            except KeyboardInterrupt:
                self.interrupted, self.problem = True, "was interrupted, and ended"
            finally:
                tracer.end()
        finally:
            self._kill(pidfd)
            os.close(pidfd)
        return None

    def _check_inside(self, pid: int) -> None:
        """Refuse a process that is not in the sandbox: init is no more trusted than a workload."""
        spaces = {os.stat(f"/proc/{each}/ns/pid").st_ino for each in (pid, self._init)}
        if len(spaces) != 1:
            raise SandlotError(f"init of {self._name} names a process outside of the sandbox")

    @staticmethod
    def _seize(pid: int) -> None:
        try:
            tracing.seize(pid)
        except PermissionError as error:
            raise SandlotError(
                "root of this host may not trace processes",
                hint="see kernel.yama.ptrace_scope (3 forbids it) and the host's own container",
            ) from error

    @staticmethod
    def _kill(pidfd: int) -> None:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    # -- what comes meanwhile

    def _follow(self, report: int) -> None:
        """Take reports and output until the command ends or time is up."""
        poller = select.poll()
        for fd in (report, self._output, self._connection.fileno()):
            poller.register(fd, select.POLLIN)
        deadline = time.monotonic() + self._seconds
        while self.code is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self.timed_out = True
                break
            for fd, dummy in poller.poll(left * 1000):
                if fd == self._connection.fileno():
                    self._on_message()
                elif not self._read(fd, report):
                    poller.unregister(fd)
        taken = 0
        while taken < _REST and self._read(report, report):
            taken += _READ

    def _read(self, fd: int, report: int) -> bool:
        """Take what waits at a descriptor; False at its end, and when nothing waits."""
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return False
        if fd == report:
            self._take(data)
        else:
            self._tail = (self._tail + data)[-_TAIL:]
        return bool(data)

    def _take(self, data: bytes) -> None:
        for line in self._report.feed(data):
            event = strace_lines.event(line, self.findings.first)
            if event is not None:
                self.findings.add(event)

    def _drain(self) -> None:
        """Take the output that is still in the pipe, which others may hold open."""
        taken = 0
        while taken < _REST and self._read(self._output, -1):
            taken += _READ

    def _await_code(self) -> None:
        """Wait for init's answer about a command that executed nothing."""
        while self.code is None:
            self._on_message()

    def _on_message(self) -> None:
        self._connection.settimeout(command.START_SECONDS)
        message, fds = wire.receive(self._connection)
        wire.close_all(fds)
        if message is None:
            self.code, self.problem = runtime.KILLED, "the sandbox was stopped meanwhile"
        elif "error" in message:
            self.code = int(message["code"])
            self.problem = f"could not be started: {message['error']}"
        elif "exit" in message:
            self.code = int(message["exit"])

    # -- the report

    @property
    def ended(self) -> str:
        if self.problem:
            return self.problem
        if self.timed_out or self.code is None:
            return f"still ran after {self._seconds:g} seconds, and was ended"
        number = self.code - 128
        if number > 0 and self.findings.killed:
            return f"was ended by {self.findings.killed}"
        return f"ended with exit code {self.code}"

    def last_output(self) -> List[str]:
        lines = self._tail.decode("utf-8", "replace").splitlines()[-_LINES:]
        return [harmless(line)[:_LONGEST] for line in lines]

    def to_json(self) -> Dict[str, Any]:
        return {
            "name": self._name,
            "command": [harmless(word) for word in self.argv],
            "ended": self.ended,
            "exit_code": None if self.timed_out else self.code,
            "timed_out": self.timed_out,
            "output": self.last_output(),
            "refusals": [entry.to_json() for entry in self.findings.entries()],
            "left_out": self.findings.left_out,
        }

    def lines(self) -> List[str]:
        words = " ".join(harmless(word) for word in self.argv)
        words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."
        return [
            f"{self._name}: {words} {self.ended}",
            *(f"output: {line}" for line in self.last_output()),
            *self.findings.lines(),
        ]
