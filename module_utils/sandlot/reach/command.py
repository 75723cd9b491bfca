# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs a command in a sandbox: the caller's end of init's exec socket.

The command gets the caller's pipes directly, so no byte passes through here. Pipes, or a pty made
inside whose master comes back, take the place of everything else and are relayed.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import socket
import stat
import time
from typing import ContextManager, List, Mapping, Optional, Sequence, Set

from .. import wire
from ..errors import SandlotError
from ..kernel import processes
from ..sandbox import headroom, names, runtime
from ..sandbox.runtime import Running
from ..site import SandboxPaths, Site
from . import descriptors
from .ending import Tree
from .errors import Missing, NotStarted, Stopped, TimedOut, TooMuchOutput, Vanished
from .relay import END_OF_TRANSMISSION, Limit, Loop, Pump, waiting
from .terminal import Forwarder, Terminal

HUNG_UP = 128 + signal.SIGHUP
# Nobody reads the output any more; the command notices by itself.
_NO_READER = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
_STDIN, _STDOUT, _STDERR = 0, 1, 2
CONNECT_SECONDS = 10.0
# The limit from a request to the answer that the command runs; the command itself has no limit.
START_SECONDS = 30.0
# Overhead of a request in bytes: for each word, and for the rest.
_WORD, _MARGIN = 16, 16384
# Another process in the sandbox may hold the pty open; this many silent seconds end the wait.
_PTY_SILENCE = 0.2
# More than a pty holds.
_PTY_MOST = 1 << 17
# A killed init closes its connections a moment before it has ended.
ENDING = 2.0
# A job that ignores such a signal is killed after a while, as by docker stop, or by a second one.
_ENDING_A_JOB = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_JOB_GRACE = 10.0
# poll(2) takes milliseconds as an int.
LONGEST = 2_000_000.0


def execute(
    site: Site,
    name: str,
    argv: Sequence[str],
    *,
    stdin_fd: Optional[int] = None,
    stdout_fd: int = 1,
    stderr_fd: int = 2,
    env: Optional[Mapping[str, str]] = None,
    cwd: str = "",
    user: Optional[str] = None,
    tty: bool = False,
    forward_signals: bool = False,
    timeout: Optional[float] = None,
    output_limit: Optional[int] = None,
    detach: bool = False,
    python: bool = False,
    job: Optional[Running] = None,
    raises_refusal: bool = False,
) -> int:
    """Run ``argv`` to its end; its exit code, or 128 + n after signal n, as init reports it.

    A command that runs longer than ``timeout`` seconds, or writes more than ``output_limit`` bytes
    to both outputs, is ended: TimedOut, TooMuchOutput. One that is detached has /dev/null for all
    three, and its code is 0 once it runs.

    127 means a missing command and 126 one that can't be run; the reason goes to ``stderr_fd``, or
    is an error (NotStarted) with ``raises_refusal``.
    A failure of sandlot itself is an error: Missing, Stopped, Vanished or any other SandlotError.
    ``stdin_fd`` None is /dev/null. With ``python``, the sandbox has the host's meanwhile. ``job``
    is the init of a job, which ends with the command.
    """
    request = {
        "op": "job" if job else "exec",
        "argv": [text(word) for word in argv],
        "env": {text(key): text(value) for key, value in (env or {}).items()},
        "cwd": text(cwd),
        "user": user,
        "tty": tty,
    }
    check_size(name, argv, env or {})
    init = job or find(site, name)
    shown = _interpreter(site.sandbox(name), init, wanted=python, stays=detach)
    with shown, dial(site, name, init) as connection:
        stdio = (stdin_fd, stdout_fd, stderr_fd)
        session = _Session(name.lstrip("."), init, connection, stdio, tty=tty)
        session.timeout, session.detach, session.is_job = timeout, detach, job is not None
        session.raises_refusal = raises_refusal
        session.limit = None if output_limit is None else Limit(output_limit)
        session.headroom = headroom.for_a_command(site.sandbox(name))
        with Forwarder(session.on_signal, active=forward_signals) as forwarder:
            session.watch(forwarder)
            return session.run(request)


def _interpreter(
    sandbox: SandboxPaths, init: Running, *, wanted: bool, stays: bool
) -> ContextManager[None]:
    if not wanted and not os.path.exists(sandbox.python):
        return contextlib.nullcontext()
    # Imported here, as most commands need none of it.
    from . import interpreter

    if wanted:
        return interpreter.shown(sandbox, init, stays=stays)
    interpreter.clean(sandbox)
    return contextlib.nullcontext()


def check_size(name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Refuse a request that is too long: init would drop it, which looks like the death of init."""
    words = [*argv, *env, *env.values()]
    if sum(len(os.fsencode(word)) + _WORD for word in words) > wire.MAX_MESSAGE - _MARGIN:
        raise SandlotError(
            f"{name}: arguments and environment take too much room",
            hint=f"pass what is beyond {wire.MAX_MESSAGE >> 10} KiB on standard input",
        )


def text(word: str) -> str:
    """Decode a word for init, which always uses UTF-8; its bytes are kept."""
    return os.fsencode(word).decode("utf-8", "surrogateescape")


def connect(site: Site, name: str) -> socket.socket:
    """A connection to the sandbox's init; Missing or Stopped when there is none."""
    return dial(site, name, find(site, name))


def find(site: Site, name: str) -> Running:
    """The sandbox's init; Missing or Stopped when there is none."""
    try:
        names.check(site, name)
    except SandlotError as error:
        raise Missing(error.message, hint=error.hint) from error
    # One that is ending would take a command and drop it, which looks like its end meanwhile.
    running = runtime.settled(site.sandbox(name))
    if running is None:
        raise Stopped(f"{name} is not running", hint=f"start it: sandlot start {name}")
    return running


def dial(site: Site, name: str, running: Running) -> socket.socket:
    runtime.check_protocol(name, running)
    # Its supervisor may run and start the command, but could not learn its end.
    if processes.is_stopped(running.pid):
        raise silent(name)
    try:
        connection = wire.connect(site.sandbox(name).socket, timeout=CONNECT_SECONDS)
        connection.settimeout(None)
        return connection
    except (BlockingIOError, socket.timeout) as error:
        raise silent(name) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Stopped(f"{name} is starting or ending now", hint="try again") from error


def lost(name: str, init: Running) -> SandlotError:
    """The error of a command whose connection init has closed."""
    if runtime.has_ended(init, ENDING):
        problem = f"{name}: the sandbox ended while the command ran"
        return Vanished(problem, hint=f"see why: sandlot logs {name}")
    return SandlotError(
        f"{name}: init has let go of the command, which may run on",
        hint="something in the sandbox killed the process that serves commands; try again",
    )


def silent(name: str) -> SandlotError:
    return SandlotError(
        f"init of {name} does not answer",
        hint=f"it is stopped, frozen or hangs: sandlot restart {name}",
    )


class _Session:
    """One command: its messages, and the relay of its descriptors."""

    def __init__(
        self,
        name: str,
        init: Running,
        connection: socket.socket,
        stdio: tuple[Optional[int], int, int],
        *,
        tty: bool,
    ) -> None:
        self._name = name
        self._init = init
        self._connection = connection
        self._stdin, self._stdout, self._stderr = stdio
        self._terminal = Terminal(self._stdin, self._stdout) if tty else None
        self._loop = Loop()
        self._outputs: List[Pump] = []
        self._typed: Optional[Pump] = None
        self._file: Optional[_FileInput] = None
        self._opened: List[int] = []
        self._asked = self._started = False
        self._early: Set[int] = set()
        self._code: Optional[int] = None
        self._lost = False
        self._tree: Optional[Tree] = None
        self._deadline = math.inf
        self._late = False
        # Held while the command starts.
        self.headroom: ContextManager[None] = contextlib.nullcontext()
        self.timeout: Optional[float] = None
        self.limit: Optional[Limit] = None
        self.detach = self.raises_refusal = False
        self._refusal = ""
        # Init kills all of a job when the connection is closed.
        self.is_job = False
        self._ended_by = 0

    def watch(self, forwarder: Forwarder) -> None:
        fd = forwarder.fileno()
        if fd is not None:
            self._loop.handlers[fd] = forwarder.deliver

    def run(self, request: wire.Message) -> int:
        try:
            fds = [] if self._terminal else self._stdio()
            if self._terminal:
                request["size"] = self._terminal.size()
            with self.headroom:
                self._start(request, fds)
            if self.detach:
                return 0 if self._started else self._result()
            while not self._has_ended and not self._is_over() and not self._has_hung_up():
                self._loop.turn(self._left())
            self._end()
            del self._loop.handlers[self._connection.fileno()]
            # Output that the command wrote before its end may still be in a pipe.
            for pump in self._outputs:
                if self._terminal:
                    self._loop.drain(pump, _PTY_MOST, patience=_PTY_SILENCE)
                elif not pump.done:
                    self._loop.drain(pump, waiting(pump.source) if pump.source is not None else 0)
            self._report_unwritten()
        finally:
            if self._terminal:
                self._terminal.restore()
            if self._file:
                self._file.give_back()
            if self._tree:
                self._tree.close()
            for pump in self._loop.pumps:
                pump.finish()
            self._close(list(self._opened))
        return self._result()

    def _result(self) -> int:
        name = self._name
        if self.limit and self.limit.exceeded:
            raise TooMuchOutput(
                f"{name}: the command wrote more than {self.limit.most} bytes, and was killed",
                hint="raise the limit of its output, or let it write into a file",
            )
        if self._late and self._ended_by:
            return 128 + self._ended_by
        if self._late:
            raise TimedOut(
                f"{name}: the command ran for more than {self.timeout:g} s, and was ended"
            )
        if self._lost:
            raise lost(name, self._init)
        if self._refusal and self.raises_refusal:
            raise NotStarted(self._refusal, self._code or 0)
        return HUNG_UP if self._code is None else self._code

    @property
    def _has_ended(self) -> bool:
        return self._lost or self._code is not None

    # -- limits

    def _left(self) -> Optional[float]:
        """Seconds that the command may still run, None without a limit."""
        left = self._deadline - time.monotonic()
        return None if self._deadline == math.inf else max(0.0, min(left, LONGEST))

    def _is_over(self) -> bool:
        """Whether the command has used up its time or its output."""
        self._late = time.monotonic() >= self._deadline
        return self._late or bool(self.limit and self.limit.exceeded)

    def _end(self) -> None:
        """End a command that is over a limit: after a grace if it is late, else at once."""
        if self._tree is None or not (self._late or (self.limit and self.limit.exceeded)):
            return
        if self._late and not self._ended_by:
            self._tree.end(self._loop)
        if not self.is_job:
            self._tree.kill()

    def _start(self, request: wire.Message, fds: Sequence[int]) -> None:
        try:
            wire.send(self._connection, request, fds)
        except (BrokenPipeError, ConnectionResetError):
            self._lost = True
        except OSError as error:
            problem = f"{self._name}: init takes no request: {error.strerror}"
            raise SandlotError(problem) from error
        self._asked = True
        self._close(fds)
        self._loop.handlers[self._connection.fileno()] = self._on_message
        deadline = time.monotonic() + START_SECONDS
        while not self._has_ended and not self._started:
            left = deadline - time.monotonic()
            if left <= 0:
                raise silent(self._name)
            self._loop.turn(left)

    def _has_hung_up(self) -> bool:
        """Whether the caller's terminal is gone; closing the pty tells the command by SIGHUP."""
        if self._terminal is None or not self._outputs:
            return False
        typed = self._typed if self._terminal.types else None
        if self._outputs[0].error or (typed and typed.source is None):
            self._outputs[0].finish()
            return True
        return False

    def _report_unwritten(self) -> None:
        for error in filter(None, (pump.error for pump in self._outputs)):
            if error.errno not in _NO_READER:
                raise SandlotError(
                    f"{self._name}: the output can't be written: {error.strerror}",
                    hint="the command ran; make room and run it again",
                )

    # -- descriptors

    def _stdio(self) -> List[int]:
        """Three descriptors for the command: the caller's own, or relayed pipes."""
        if self.detach:
            return [self._keep(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))] * 3
        stdin, stdout = self._input(self._stdin), self._output(self._stdout)
        if self._outputs and os.path.sameopenfile(self._stdout, self._stderr):
            return [stdin, stdout, stdout]  # one pipe keeps the order of what is written to both
        return [stdin, stdout, self._output(self._stderr)]

    def _input(self, fd: Optional[int]) -> int:
        if fd is None:
            return self._keep(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        passed = descriptors.passable(fd, os.O_RDONLY)
        if passed is not None:
            return self._keep(passed)
        theirs, ours = descriptors.pipe(os.O_RDONLY)
        source = self._keep(descriptors.reopened(fd, os.O_RDONLY))
        pump = Pump(source, ours, owns_target=True)
        self._loop.pumps.append(pump)
        if stat.S_ISREG(os.fstat(source).st_mode):
            self._file = _FileInput(pump, source, self._keep(os.dup(theirs)))
        return self._keep(theirs)

    def _output(self, fd: int) -> int:
        # Bytes that a limit counts have to pass through here.
        passed = None if self.limit else descriptors.passable(fd, os.O_WRONLY)
        if passed is not None:
            return self._keep(passed)
        theirs, ours = descriptors.pipe(os.O_WRONLY)
        self._relay_output(ours, fd, owns_source=True)
        return self._keep(theirs)

    def _relay_output(self, source: int, fd: int, *, owns_source: bool = False) -> None:
        target = self._keep(descriptors.reopened(fd, os.O_WRONLY))
        write = descriptors.writer(target)
        if self.limit:
            write = self.limit.counting(write)
        pump = Pump(source, target, owns_source=owns_source, write=write)
        self._outputs.append(pump)
        self._loop.pumps.append(pump)

    def _keep(self, fd: int) -> int:
        """Note a descriptor to close at the end."""
        self._opened.append(fd)
        return fd

    def _close(self, fds: Sequence[int]) -> None:
        """Close the descriptors that are ours."""
        for fd in fds:
            if fd in self._opened:
                self._opened.remove(fd)
                os.close(fd)

    # -- messages

    def _on_message(self) -> None:
        try:
            message, fds = wire.receive(self._connection)
        except ConnectionResetError:
            message, fds = None, []
        if message is None:
            self._lost = True
        elif "error" in message:
            self._code = int(message["code"])
            self._refusal = f"{self._name}: {message['error']}"
            if not self.raises_refusal:
                os.write(self._stderr, f"sandlot: {self._refusal}\n".encode())
        elif "exit" in message:
            self._code = int(message["exit"])
        else:
            self._started = True
            if self.timeout or self.limit:
                self._tree = Tree(self._init, int(message.get("pid", 0)))
            if self.timeout:
                self._deadline = time.monotonic() + self.timeout
            self._attach(fds)

    def _attach(self, fds: Sequence[int]) -> None:
        """Relay between the caller's terminal and the master of the inner pty."""
        if not fds or self._terminal is None:
            return
        master = self._keep(fds[0])
        os.set_blocking(master, False)
        self._terminal.attach(master)
        self._relay_output(master, self._stdout)
        if self._stdin is not None:
            source = self._keep(descriptors.reopened(self._stdin, os.O_RDONLY))
            self._typed = Pump(source, master, farewell=END_OF_TRANSMISSION)
            self._loop.pumps.append(self._typed)

    def on_signal(self, number: int) -> None:
        if self._terminal and number == signal.SIGWINCH:
            self._terminal.resize()
        elif self._has_ended:
            for pump in self._outputs:  # the command has ended, and its output has no taker
                pump.finish()
        elif self._started or (self._asked and number not in self._early):
            self._early.add(number)
            # If init has just died, its end of the connection closes and tells it.
            with contextlib.suppress(OSError):
                wire.send(self._connection, {"op": "signal", "signal": number})
            if self.is_job and number in _ENDING_A_JOB:
                grace = 0.0 if self._ended_by else _JOB_GRACE
                self._ended_by = number
                self._deadline = min(self._deadline, time.monotonic() + grace)
        else:
            raise KeyboardInterrupt  # there is no command yet, or init does not say so


class _FileInput:
    """A file as standard input: the command's reads move its position, as those of a shell do."""

    def __init__(self, pump: Pump, file: int, pipe: int) -> None:
        """``pipe`` is a reader of the pipe to the command, which so keeps its content."""
        self._pump = pump
        self._file = file
        self._pipe = pipe

    def give_back(self) -> None:
        """Set the position of the file to what the command has read."""
        unread = waiting(self._pipe) + self._pump.unwritten
        if unread:
            os.lseek(self._file, -unread, os.SEEK_CUR)
