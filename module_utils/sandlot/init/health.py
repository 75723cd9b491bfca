# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs the healthcheck: a command inside the sandbox, or a connection in init's own loop.

Until the first success, the pause between checks grows from 0.1 s to the interval, so that a fast
workload becomes healthy fast. Failures count as if checks were one interval apart.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time

from . import child
from .status import NO_HEALTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Mapping, Optional, Protocol, Sequence, Tuple, Union

    from ..kernel.loop import Loop
    from .status import Status

    # Runs a command with a descriptor for its output.
    Spawn = Callable[[Sequence[str], int], child.Child]
    Probe = Union["Command", "Connection"]

    Saved = Tuple[int, bool, float, float, bytes, bool]

    class Done(Protocol):
        def __call__(self, output: bytes, *, ok: bool) -> None:
            """Note the output and the outcome of a probe."""

    class Condemn(Protocol):
        def __call__(self, streak: int, *, proven: bool) -> None:
            """End a workload that has failed ``streak`` probes in a row."""


STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
# The last bytes of a check's output that are kept.
OUTPUT = 4096
FIRST_PAUSE = 0.1
CHECK = "check"


class Health:
    """Checks a running workload and writes the verdict to the status file."""

    def __init__(
        self,
        loop: Loop,
        status: Status,
        config: Mapping[str, Any],
        *,
        output: int,
        spawn: Spawn,
        condemn: Condemn,
    ) -> None:
        self.config = config
        self._loop = loop
        self._status = status
        self._output = output
        self._spawn = spawn
        self._condemn = condemn
        self._probe: Optional[Probe] = None
        # The pid of a command that outlived its timeout, until it is reaped.
        self._overdue = 0
        self._proven = False
        self._pause = FIRST_PAUSE
        self._counts = 0.0
        self._shown = b""

    @property
    def checking(self) -> bool:
        return self._probe is not None

    @property
    def pids(self) -> List[int]:
        """Processes to hear of when another supervisor goes on."""
        return [self._overdue] if self._overdue else []

    def saved(self) -> Saved:
        return self._overdue, self._proven, self._pause, self._counts, self._shown, self.checking

    def restore(self, saved: Saved) -> None:
        """Go on; a check that was being made is made again."""
        self._overdue, self._proven, self._pause, self._counts, self._shown, checking = saved
        if checking:
            self._loop.after(CHECK, 0.0, self.check)

    def begin(self) -> None:
        """Begin to check: the workload has been started."""
        self._proven = False
        self._pause = FIRST_PAUSE
        self._counts = time.monotonic() + self.config["start_period"]
        self._tell(STARTING, 0)
        self._loop.after(CHECK, FIRST_PAUSE, self.check)

    def end(self) -> None:
        """Stop checking, as the workload ends; the present check does not count."""
        self._loop.cancel(CHECK)
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.kill()
            probe.close()

    def remove(self) -> None:
        self.end()
        self._status.update(health=NO_HEALTH, failing_streak=0)
        self._keep(b"")

    def warm_up(self) -> None:
        """Run the code of every check without making one."""
        self.begin()
        self._finished(b"x", ok=False)
        self._finished(b"", ok=True)
        Connection(self._loop, {"address": "127.0.0.1", "port": 1}).close()
        self.remove()

    def on_exit(self, pid: int, code: int) -> bool:
        """Handle the exit of a check's process; False for any other process."""
        if pid == self._overdue:
            self._overdue = 0
            return True
        probe = self._probe
        if probe is None or probe.pid != pid:
            return False
        self._finished(probe.output(), ok=code == 0)
        return True

    # -- one check

    def check(self) -> None:
        if self._overdue:
            self._finished(b"the last check still runs, though it was killed", ok=False)
            return
        self._loop.after(CHECK, self.config["timeout"], self.time_is_up)
        try:
            probe: Probe
            if "argv" in self.config:
                probe = Command(self._loop, self.config["argv"], self._spawn)
            else:
                probe = Connection(self._loop, self.config)
            self._probe = probe
            probe.start(self._finished)
        except OSError as error:
            self._finished(_text(error), ok=False)

    def time_is_up(self) -> None:
        probe = self._probe
        if probe is None:
            return
        self._overdue = probe.pid
        probe.kill()
        output = probe.output()
        text = b"no result within %g s" % self.config["timeout"]
        self._finished((output.rstrip() + b"\n" + text).lstrip(), ok=False)

    def _finished(self, output: bytes, *, ok: bool) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.close()
        self._loop.cancel(CHECK)
        self._keep(output)
        if not ok:
            self._failed()
            return
        self._proven = True
        self._tell(HEALTHY, 0)
        self._loop.after(CHECK, self.config["interval"], self.check)

    # -- the verdict

    def _failed(self) -> None:
        interval = self.config["interval"]
        health = str(self._status.values["health"])
        streak = int(self._status.values["failing_streak"])
        if health != STARTING or time.monotonic() >= self._counts + interval:
            self._counts = time.monotonic()
            streak += 1
        if streak >= self.config["retries"]:
            health = UNHEALTHY
        if health == UNHEALTHY and self.config["action"] == "restart":
            self.end()
            self._condemn(streak, proven=self._proven)
            return
        self._tell(health, streak)
        pause = interval
        if health == STARTING:
            pause = min(self._pause, interval, self._counts + interval - time.monotonic())
            self._pause *= 2
        self._loop.after(CHECK, max(0.0, pause), self.check)

    def _tell(self, health: str, streak: int) -> None:
        """Write the verdict only when it has changed, as each write wakes readers."""
        values = self._status.values
        if (values["health"], values["failing_streak"]) != (health, streak):
            self._status.update(health=health, failing_streak=streak)

    def _keep(self, output: bytes) -> None:
        output = output[-OUTPUT:]
        if output == self._shown:
            return
        self._shown = output
        try:
            os.pwrite(self._output, output.ljust(OUTPUT, b"\0"), 0)
        except OSError:
            pass  # a full host disk must not stop the workload; the verdict stands without output


class Command:
    """A check by a command, run as the workload would run it; keeps the end of its output."""

    def __init__(self, loop: Loop, argv: Sequence[str], spawn: Spawn) -> None:
        self._loop = loop
        self._argv = argv
        self._spawn = spawn
        self._process: Optional[child.Child] = None
        self._reader = -1
        self._output = b""

    def start(self, _done: Done) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._loop.watch(self._reader, self._read)
        try:
            self._process = self._spawn(self._argv, writer)
        finally:
            os.close(writer)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def _read(self) -> bool:
        """Read once; False when no more output waits."""
        try:
            data = os.read(self._reader, child.READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self._close_reader()
            return False
        self._output = (self._output + data)[-OUTPUT:]
        return True

    def output(self) -> bytes:
        """The output so far, or the reason why the command could not be run."""
        for dummy in range(child.FULL_PIPE_READS):
            if self._reader < 0 or not self._read():
                break
        process = self._process
        if process and process.decided() and process.failure:
            return process.failure[1].encode("utf-8", "backslashreplace")
        return self._output

    def kill(self) -> None:
        if self._process is not None:
            child.kill(self.pid)

    def close(self) -> None:
        self._close_reader()
        if self._process and self._process.report is not None:
            os.close(self._process.report)
            self._process.report = None

    def _close_reader(self) -> None:
        if self._reader >= 0:
            self._loop.unwatch(self._reader)
            os.close(self._reader)
            self._reader = -1


class Connection:
    """A check by a TCP connection, and by an HTTP request if the healthcheck has one."""

    pid = 0

    def __init__(self, loop: Loop, config: Mapping[str, Any]) -> None:
        self._loop = loop
        self._config = config
        self._answer = b""
        family = _socket.AF_INET6 if ":" in config["address"] else _socket.AF_INET
        self._socket = _socket.socket(family, _socket.SOCK_STREAM)
        self._watched = -1

    def start(self, done: Done) -> None:
        self._done = done
        self._socket.setblocking(False)
        code = self._socket.connect_ex((self._config["address"], self._config["port"]))
        if code == errno.EINPROGRESS:
            self._watch(self._on_connected, select.POLLOUT)
        else:
            self._connected(code)

    def _watch(self, handler: Callable[[], object], events: int) -> None:
        self._unwatch()
        self._watched = self._socket.fileno()
        self._loop.watch(self._watched, handler, events)

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.unwatch(self._watched)
            self._watched = -1

    def _on_connected(self) -> None:
        self._connected(self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR))

    def _connected(self, code: int) -> None:
        request = self._config.get("request")
        if code or not request:
            self._done(os.strerror(code).encode() if code else b"", ok=not code)
            return
        try:
            # Requests are shorter than the buffer of a new connection.
            self._socket.send(request.encode(), _socket.MSG_NOSIGNAL)
        except OSError as error:
            self._done(_text(error), ok=False)
            return
        self._watch(self._on_answer, select.POLLIN)

    def _on_answer(self) -> None:
        """Judge by the first line; keep everything that came with it."""
        try:
            data = self._socket.recv(OUTPUT)
        except BlockingIOError:
            return
        except OSError as error:
            self._done(_text(error), ok=False)
            return
        self._answer += data
        if not data or b"\n" in self._answer or len(self._answer) >= OUTPUT:
            self._done(self._answer or b"no answer", ok=_is_good(self._answer))

    def output(self) -> bytes:
        return self._answer

    def kill(self) -> None:
        """Do nothing: this check has no process."""

    def close(self) -> None:
        self._unwatch()
        self._socket.close()


def _is_good(answer: bytes) -> bool:
    """Whether a response's status is from 200 to 399."""
    words = answer.split(b"\n", 1)[0].split()
    status = words[1] if len(words) > 1 and words[0].startswith(b"HTTP/") else b""
    return len(status) == 3 and status.isdigit() and status[:1] in b"23"


def _text(error: OSError) -> bytes:
    return (error.strerror or "the check could not be made").encode()
