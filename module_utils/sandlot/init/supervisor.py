# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""PID 1: one poll loop with timers only for pending work, so an idle sandbox never wakes up."""

from __future__ import annotations

import os
import time

from .. import wire
from ..kernel import pid_one
from ..kernel.loop import Loop
from ..kernel.signals import NOT_FORWARDED, signal
from . import child
from .exec import ExecServer
from .health import STARTING, UNHEALTHY, Health
from .logs import Log
from .policy import Policy
from .status import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any, Dict, List, Mapping, Optional, Sequence

_STREAMS = ("stdout", "stderr")
# The timer that starts and ends the workload.
MAIN = "main"
CAUGHT = tuple(sorted(int(number) for number in signal.valid_signals() - NOT_FORWARDED))
# Making keys takes a second or two, and longer when many sandboxes do so at once.
PREPARATION_SECONDS = 120.0
# How long a held start waits for the command that is to be traced in its place.
HOLD_SECONDS = 30.0
# How often a start looks whether a command is still traced.
TRACE_PAUSE = 0.2
# Made here, as the numbers on the way to it would take memory in each sandbox.
_CAUGHT_SET = pid_one.signal_set(CAUGHT)
_WARM_UP = {"interval": 1.0, "timeout": 1.0, "retries": 3, "start_period": 0.0, "action": "none"}


class Supervisor:
    """Runs the workload, restarts it by policy, reaps everything, forwards signals, serves exec."""

    def __init__(
        self,
        config: Dict[str, Any],
        peer: _socket.socket,
        listener: _socket.socket,
        logs: Log,
        *,
        status: int,
        health: int,
        null: int,
        pts: int,
        named: Sequence[int] = (),
    ) -> None:
        self.config = config
        self.peer: Optional[_socket.socket] = peer
        self.logs = logs
        self.status = Status(status, config["restarts"])
        self.policy = Policy(config["restart"], config["stop"])
        self.null = null
        # Readers of FIFOs, for output that is written to process 1.
        self.named = named
        self.main: Optional[child.Child] = None
        self.streams: Dict[int, str] = {}
        self.loop = Loop()
        self.exec = ExecServer(self.loop, config, listener, null, pts, self.stop, self.configure)
        self.health_output = health
        self.health: Optional[Health] = None
        self.ending = False
        self.preparing = False
        self.held = False
        self.done = False

    def run(self) -> None:
        self._watch_signals()
        for stream, reader in zip(_STREAMS, self.named):
            self._watch_output(stream, reader)
        self._set_healthcheck(self.config["healthcheck"])
        if self.config.pop("held", False):
            self._hold()
        elif "first_start" in self.config:
            self._prepare(self.config.pop("first_start"))
        else:
            self.start()
        while not self.done:
            self.loop.turn()

    def warm_up(self) -> None:
        """Run the code of a start and of idle supervision, without a workload."""
        self._watch_signals()
        self.status.update(state="running", pid=1, since=time.time())
        self.logs.feed("stderr", b"x\n")
        self._healthcheck(_WARM_UP).warm_up()
        # A separate loop for the events, as no handler of the real loop may run.
        loop = Loop()
        loop.watch(self.null, lambda: None)
        loop.after(MAIN, 0.0, lambda: None)
        loop.turn(0.0)
        os.close(self.signals)

    # -- signals and children

    def _watch_signals(self) -> None:
        # The zygote has blocked them for all inits.
        self.signals = pid_one.signal_queue(_CAUGHT_SET)
        self.loop.watch(self.signals, self._on_signals)

    def _on_signals(self) -> None:
        for number in pid_one.queued(self.signals):
            if number != signal.SIGCHLD and self.main is not None:
                send_signal(self.main.pid, number)
        self.reap()

    def reap(self) -> None:
        """Collect every dead child, ours or adopted."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                return
            if os.WIFSTOPPED(wait_status):
                pid_one.let_go(pid, wait_status)
            else:
                self._on_exit(pid, wait_status)
        if self.ending and self.main is None:
            self._drained()

    def _on_exit(self, pid: int, wait_status: int) -> None:
        if self.main is not None and pid == self.main.pid:
            self._main_exited(self.main, wait_status)
            return
        code = exit_code(wait_status)
        if self.health is not None and self.health.on_exit(pid, code):
            return
        if self.exec.on_exit(pid, code) and self.held:
            self.held = False
            self._run_ended(wait_status)

    # -- the workload

    def _prepare(self, argv: Sequence[str]) -> None:
        """Run the image's preparation first; the workload follows, however that ends."""
        self.preparing = True
        self._run({**self.config, "argv": argv})
        self.loop.after(MAIN, PREPARATION_SECONDS, lambda: signal_all(signal.SIGKILL))

    def _prepared(self, code: int) -> None:
        self.preparing = False
        self.loop.cancel(MAIN)
        self._drain_output()
        if code:
            self.logs.feed("stderr", b"sandlot: the first start ended with status %d\n" % code)
        if self.policy.stopping:
            self._drained()
        else:
            self.start()

    def _hold(self) -> None:
        """Let the next traced command be this run; without one, start the workload after a time."""
        self.held = True
        self.policy.started()
        self.loop.after(MAIN, HOLD_SECONDS, self.start)
        if self.peer is not None:
            self.peer.send(b"started 1")
            self.peer.close()
            self.peer = None

    def start(self) -> None:
        if self.exec.is_tracing:
            # The traced copy is this run: both would want the same ports and locks.
            self.loop.after(MAIN, TRACE_PAUSE, self.start)
            return
        self.ending = self.held = False
        self._run(self.config)

    def _run(self, command: Mapping[str, Any]) -> None:
        """Run the workload; a run for which no process or descriptor is left has failed."""
        ends: List[int] = []
        try:
            for _stream in _STREAMS:
                ends += os.pipe()
                # A server that has dropped its rights may open /dev/stderr, too.
                os.fchmod(ends[-1], 0o622)
            self.main = main = child.spawn(command, [self.null, ends[1], ends[3]])
        except OSError as error:
            wire.close_all(ends)
            self._not_spawned(error)
            return
        for stream, reader, writer in zip(_STREAMS, ends[::2], ends[1::2]):
            os.close(writer)
            os.set_blocking(reader, False)
            self._watch_output(stream, reader)
        report = main.report
        if report is not None:
            self.loop.watch(report, lambda: self._exec_decided(main, report))

    def _not_spawned(self, error: OSError) -> None:
        text = f"starting the workload: {error.strerror}"
        self.logs.feed("stderr", f"sandlot: {text}\n".encode())
        self.status.values.update(exit_code=child.NOT_EXECUTABLE, signal=0)
        if self.peer is None:
            self._drained()
            return
        wire.reply(self.peer, {"error": text, "errno": error.errno or 0})
        self.status.update(state="exited", final=True)
        self.done = True

    def _watch_output(self, stream: str, reader: int) -> None:
        self.streams[reader] = stream
        self.loop.watch(reader, lambda: self._on_output(reader))

    def _on_output(self, reader: int) -> bool:
        """Log one read of output; False when no more output waits."""
        stream = self.streams[reader]
        try:
            data = os.read(reader, child.READ_SIZE)
        except BlockingIOError:
            return False
        if data:
            self.logs.feed(stream, data)
            return True
        self.logs.flush(stream)
        del self.streams[reader]
        self.loop.unwatch(reader)
        os.close(reader)
        return False

    def _drain_output(self) -> None:
        """Log the output of the workload that is still in its pipes."""
        for reader in list(self.streams):
            for dummy in range(child.FULL_PIPE_READS):
                if not self._on_output(reader):
                    break

    def _exec_decided(self, main: child.Child, report: int) -> None:
        if not main.decided():
            return
        self.loop.unwatch(report)
        if main.failure:
            self.logs.feed("stderr", f"sandlot: {main.failure[1]}\n".encode())
        elif not self.preparing:
            self.policy.started()
            self.status.update(state="running", pid=main.pid, since=time.time())
            if self.health is not None:
                self.health.begin()
        if self.peer is not None and not self.preparing:
            self._report_first_start(self.peer, main)

    def _report_first_start(self, peer: _socket.socket, main: child.Child) -> None:
        """Answer the builder; if the command can't be run at all, end the sandbox."""
        try:
            if main.failure:
                code, text = main.failure
                self.status.update(state="exited", exit_code=code, final=True)
                self.done = True
                wire.answer(peer, {"error": text, "code": code})
            else:
                peer.send(b"started 1")
        except OSError:
            pass  # the builder was killed after it had recorded init; the sandbox goes on
        peer.close()
        self.peer = None

    def _main_exited(self, main: child.Child, wait_status: int) -> None:
        if main.report is not None:
            self._exec_decided(main, main.report)
        if self.done:
            return
        self.main = None
        if self.preparing:
            self._prepared(exit_code(wait_status))
            return
        self._run_ended(wait_status)

    def _run_ended(self, wait_status: int) -> None:
        self.ending = True
        # Before the status: a reader of the final status looks at the last lines of the log.
        self._drain_output()
        if self.health is not None:
            self.health.end()
            self.status.values.update(health=STARTING, failing_streak=0)
        number = os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else 0
        self.status.values.update(exit_code=exit_code(wait_status), signal=number)
        self.status.update(state="stopping", lost_log_bytes=self.logs.lost)
        self.loop.cancel(MAIN)
        if self.policy.stopping:
            self._drained()
            return
        self._end_rest()

    def _end_rest(self) -> None:
        """End what the workload left, once no command is traced any more."""
        if self.exec.is_tracing and not self.policy.stopping:
            self.loop.after(MAIN, TRACE_PAUSE, self._end_rest)
            return
        signal_all(signal.SIGTERM)
        self.loop.after(MAIN, self.policy.stop_timeout, self._kill_rest)

    def _kill_rest(self) -> None:
        """Kill processes that ignored SIGTERM; those beyond our rights end with init."""
        signal_all(signal.SIGKILL)
        self.loop.after(MAIN, 1.0, self._drained)

    def _drained(self) -> None:
        """Start again by policy, or end, after the last process of a run has ended."""
        self.ending = False
        self.loop.cancel(MAIN)
        code = int(self.status.values["exit_code"])
        delay = self.policy.restart_delay(code)
        if delay is None:
            self._drain_output()
            for stream in self.streams.values():
                self.logs.flush(stream)
            state = "stopped" if self.policy.stopping else "exited"
            self.status.update(state=state, final=True, lost_log_bytes=self.logs.lost)
            self.done = True
            return
        state = "crash-loop" if self.policy.looping else "backoff"
        self.status.update(state=state, restarts=int(self.status.values["restarts"]) + 1)
        self.loop.after(MAIN, delay, self.start)

    # -- requests of the host

    def stop(self) -> None:
        """Send the stop signal, then SIGKILL after the timeout; do not start again."""
        self.policy.stopping = True
        self.status.update(state="stopping")
        if self.main is None:
            if not self.ending:
                self._drained()
            return
        if self.health is not None:
            self.health.end()
        self._end_main(self.main)

    def _end_main(self, main: child.Child) -> None:
        send_signal(main.pid, self.policy.stop_signal)
        self.loop.after(MAIN, self.policy.stop_timeout, lambda: signal_all(signal.SIGKILL))

    def condemn(self, streak: int, *, proven: bool) -> None:
        """End an unhealthy workload as a stop does, then start it again."""
        if self.main is None:
            return
        self.status.update(state="stopping", health=UNHEALTHY, failing_streak=streak)
        self.logs.feed("stderr", b"sandlot: unhealthy after %d failed checks\n" % streak)
        self.policy.condemn(proven=proven)
        self._end_main(self.main)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Apply live settings, also to later commands; None is a setting's default."""
        for key, value in config.items():
            if value is None:
                self.config.pop(key, None)
            else:
                self.config[key] = value
        self.policy.configure(self.config["restart"], self.config["stop"])
        self.logs.configure(self.config)
        self._set_healthcheck(self.config.get("healthcheck"))

    def _set_healthcheck(self, config: Optional[Mapping[str, Any]]) -> None:
        """Start over with the checks if the healthcheck has changed."""
        if config == (self.health.config if self.health is not None else None):
            return
        if self.health is not None:
            self.health.remove()
        self.health = self._healthcheck(config) if config else None
        if self.health is not None and self.status.values["state"] == "running":
            self.health.begin()

    def _healthcheck(self, config: Mapping[str, Any]) -> Health:
        return Health(
            self.loop,
            self.status,
            config,
            output=self.health_output,
            spawn=self._spawn_check,
            condemn=self.condemn,
        )

    def _spawn_check(self, argv: Sequence[str], writer: int) -> child.Child:
        """Run a check's command as the workload would run it."""
        return child.spawn({**self.config, "argv": argv}, [self.null, writer, writer])


def send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def signal_all(number: int) -> None:
    """Signal all processes of the sandbox; called outside of PID 1, all of the host."""
    if os.getpid() == 1:
        send_signal(-1, number)


def exit_code(wait_status: int) -> int:
    """The exit code as a shell shows it: 0-255, or 128 + the signal's number."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code
