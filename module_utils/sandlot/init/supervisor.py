# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Supervises the workload: one poll loop, in a child of PID 1 that ends when nothing is to be done.

After each turn it saves its state, from which another supervisor, or PID 1 itself, goes on: when it
has ended for lack of work, and when it was killed. Nothing is lost by that but an interrupted turn,
which is made again.
"""

from __future__ import annotations

import _socket
import os
import time

from .. import wire
from ..kernel.loop import Loop
from ..kernel.signals import signal
from . import child, memory, resume
from .exec import ExecServer
from .health import STARTING, UNHEALTHY, Health
from .logs import Log
from .policy import Policy
from .reaper import ASLEEP, DONE
from .status import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Sequence

    from .reaper import Reaper

    # Descriptors by name: lists for ``named`` (readers of FIFOs, for output that is written to
    # process 1) and ``sinks``.
    Files = Mapping[str, Any]

_STREAMS = ("stdout", "stderr")
# The timer that starts and ends the workload.
MAIN = resume.MAIN
# Making keys takes a second or two, and longer when many sandboxes do so at once.
PREPARATION_SECONDS = 120.0
# How long a held start waits for the command that is to be traced in its place.
HOLD_SECONDS = 30.0
# How often a start looks whether a command is still traced.
TRACE_PAUSE = 0.2
# How long a supervisor waits for more work: starting another one costs as much CPU as ten turns.
LINGER = 2.0
_WARM_UP = {"interval": 1.0, "timeout": 1.0, "retries": 3, "start_period": 0.0, "action": "none"}


class Supervisor:
    """Runs the workload, restarts it by policy, logs its output, checks its health, serves exec."""

    def __init__(self, shared: memory.Memory, config: Dict[str, Any], files: Files) -> None:
        self.memory = shared
        self.config = config
        self.files = files
        self.peer: Optional[_socket.socket] = None
        self.logs = Log(config["logs"], files["sinks"], config)
        self.status = Status(files["status"], config["restarts"])
        self.policy = Policy(config["restart"], config["stop"])
        self.null = files["null"]
        self.main: Optional[child.Child] = None
        self.streams: Dict[int, str] = {}
        self.loop = Loop()
        listener = _socket.socket(fileno=files["listener"])
        served = (self.stop, self.kill, self.configure, shared)
        self.exec = ExecServer(self.loop, config, listener, self.null, files["pts"], *served)
        self.health: Optional[Health] = None
        self.ending = False
        self.preparing = False
        self.held = False
        self.done = False
        self.saved: Dict[str, Any] = {}
        self.changed = True
        # Processes whose end has been handled, which is to be saved.
        self._handled: List[int] = []

    def begin(self, peer: Optional[_socket.socket]) -> None:
        """Begin the life of a sandbox; ``peer`` is told of the first start."""
        self.peer = peer
        for stream, reader in zip(_STREAMS, self.files["named"]):
            self.watch_output(stream, reader)
        self.set_healthcheck(self.config["healthcheck"])
        if self.config.pop("held", False) or "job" in self.config:
            self._hold()
        elif "first_start" in self.config:
            self.preparing = True
            self.loop.after(MAIN, 0.0, self.prepare)
        else:
            self.loop.after(MAIN, 0.0, self.start)
        self.save()

    def run(self, init: Optional[Reaper]) -> int:
        """Work until there is nothing to do: ASLEEP, or DONE; ``init`` is given in PID 1 alone."""
        if init is not None:
            self.loop.watch(self.memory.ints[memory.QUEUE], init.on_signals)
        self.loop.watch(self.memory.ints[memory.ENDED], self.reap)
        self.reap()
        while not self.done:
            resting = self._may_rest()
            try:
                acted = self.loop.turn(LINGER if resting else None)
            except memory.TakeOver:
                # PID 1 does again all that is due, but this request has been received.
                self.save(unserved=self.exec.unserved)
                raise
            if self.save() and resting and not acted:
                due = [due for dummy, due, dummy in self.loop.timers]
                readers = [self.files["listener"], *self.streams]
                self.memory.sleep(readers, min(due) if due else None)
                self.exec.rest()
                return ASLEEP
        return DONE

    def _may_rest(self) -> bool:
        """Whether all that can happen next is in the state: timers, the workload, descriptors."""
        if self.peer or self.preparing or self.held or self.ending or self.policy.stopping:
            return False
        starting = self.main is not None and self.main.report is not None
        checking = self.health is not None and self.health.checking
        busy = starting or checking or self.exec.busy
        return not busy and memory.can_watch(1 + len(self.streams))

    # -- the state

    def save(self, **more: Any) -> bool:
        """Save what has changed; the next supervisor begins with that."""
        try:
            if self.changed:
                self.memory.save(memory.CONFIG, (self.config, self.files))
                self.changed = False
            state = {**resume.state(self), **more}
            if state != self.saved:
                self.memory.save(memory.STATE, state)
                self.saved = state
        except OSError:
            return False  # the sandbox has used up its memory; saved again after the next turn
        for pid in self._handled:
            self.memory.forget(pid)
        self._handled = []
        memory.close_retired()
        return True

    def warm_up(self) -> None:
        """Run the code of a start and of idle supervision, without a workload."""
        self.status.update(state="running", pid=1, since=time.time())
        self.logs.feed("stderr", b"x\n")
        self.healthcheck(_WARM_UP).warm_up()
        self.set_main(child.Child(0, None))
        self.save()
        resume.restore(self, self.memory.load(memory.STATE))
        # A separate loop for the events, as no handler of the real loop may run.
        loop = Loop()
        loop.watch(self.null, lambda: None)
        loop.after(MAIN, 0.0, lambda: None)
        loop.turn(0.0)
        self.exec.rest()

    # -- children

    def set_main(self, main: Optional[child.Child]) -> None:
        self.main = main
        self.memory.set_main(main.pid if main is not None else 0)
        if main is not None and main.report is not None:
            report = main.report
            self.loop.watch(report, lambda: self._exec_decided(main, report))

    def reap(self) -> None:
        """Handle the ends of our processes."""
        self.memory.drain()
        for pid, wait_status in self.memory.ends():
            if pid not in self._handled:
                self._handled.append(pid)
                self._on_exit(pid, wait_status)
        if self.ending and self.main is None and self._is_alone():
            self.drained()

    def _is_alone(self) -> bool:
        """Whether the sandbox has no process but PID 1 and this one (kill(2))."""
        if not self.memory.inside:
            return False
        try:
            os.kill(-1, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _on_exit(self, pid: int, wait_status: int) -> None:
        if self.main is not None and pid == self.main.pid:
            self._main_exited(self.main, wait_status)
            return
        code = child.exit_code(wait_status)
        if self.health is not None and self.health.on_exit(pid, code):
            return
        if self.exec.on_exit(pid, code) and self.held:
            self.held = False
            if "job" in self.config:
                self.stop()
            else:
                self._run_ended(wait_status)

    # -- the workload

    def prepare(self) -> None:
        """Run the image's preparation first; the workload follows, however that ends."""
        self._run({**self.config, "argv": self.config["first_start"]})
        self.loop.after(MAIN, PREPARATION_SECONDS, self.kill_all)

    def _prepared(self, code: int) -> None:
        self.preparing = False
        self.config.pop("first_start", None)
        self.changed = True
        self.loop.cancel(MAIN)
        self._drain_output()
        if code:
            self.logs.feed("stderr", b"sandlot: the first start ended with status %d\n" % code)
        if self.policy.stopping:
            self.drained()
        else:
            self.loop.after(MAIN, 0.0, self.start)

    def _hold(self) -> None:
        """Let the next traced command be this run; without one, start the workload after a time."""
        self.held = True
        self.policy.started()
        self.loop.after(MAIN, HOLD_SECONDS, self.start)
        # Before the builder is told, who takes the sandbox for started by that.
        self.save()
        if self.peer is not None:
            self.peer.send(b"started 1")
            memory.retire(self.peer.detach())
            self.peer = None

    def start(self) -> None:
        if "job" in self.config:
            if not self.exec.is_tracing:
                self.stop()  # its client is gone
            return
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
            main = child.spawn(self.memory.clone, command, [self.null, ends[1], ends[3]])
        except OSError as error:
            wire.close_all(ends)
            self._not_spawned(error)
            return
        for stream, reader, writer in zip(_STREAMS, ends[::2], ends[1::2]):
            os.close(writer)
            os.set_blocking(reader, False)
            self.watch_output(stream, reader)
        self.set_main(main)

    def _not_spawned(self, error: OSError) -> None:
        text = f"starting the workload: {error.strerror}"
        self.logs.feed("stderr", f"sandlot: {text}\n".encode())
        self.status.values.update(exit_code=child.NOT_EXECUTABLE, signal=0)
        if self.peer is None:
            self.drained()
            return
        wire.reply(self.peer, {"error": text, "errno": error.errno or 0})
        self.status.update(state="exited", final=True)
        self.done = True

    def watch_output(self, stream: str, reader: int) -> None:
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
        memory.retire(reader)
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
        memory.retire(peer.detach())
        self.peer = None

    def _main_exited(self, main: child.Child, wait_status: int) -> None:
        if main.report is not None:
            self._exec_decided(main, main.report)
        if self.done:
            return
        self.set_main(None)
        if self.preparing:
            self._prepared(child.exit_code(wait_status))
            return
        self._run_ended(wait_status)

    def _run_ended(self, wait_status: int) -> None:
        self.ending = True
        self.memory.tell_all(every=True)
        # Before the status: a reader of the final status looks at the last lines of the log.
        self._drain_output()
        if self.health is not None:
            self.health.end()
            self.status.values.update(health=STARTING, failing_streak=0)
        number = os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else 0
        self.status.values.update(exit_code=child.exit_code(wait_status), signal=number)
        self.status.update(state="stopping", lost_log_bytes=self.logs.lost)
        self.loop.cancel(MAIN)
        if self.policy.stopping:
            self.drained()
            return
        self.end_rest()

    def end_rest(self) -> None:
        """End what the workload left, once no command is traced any more."""
        if self.exec.is_tracing and not self.policy.stopping:
            self.loop.after(MAIN, TRACE_PAUSE, self.end_rest)
            return
        self._signal_all(signal.SIGTERM)
        self.loop.after(MAIN, self.policy.stop_timeout, self.kill_rest)

    def kill_rest(self) -> None:
        """Kill processes that ignored SIGTERM; those beyond our rights end with init."""
        self.kill_all()
        self.loop.after(MAIN, 1.0, self.drained)

    def kill_all(self) -> None:
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: int) -> None:
        """Signal all processes of the sandbox, but PID 1 and this one."""
        if self.memory.inside:
            send_signal(-1, number)

    def drained(self) -> None:
        """Start again by policy, or end, after the last process of a run has ended."""
        self.ending = False
        self.memory.tell_all(every=False)
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
        main = self._last_run()
        if main is not None:
            self._end_main(main)

    def _last_run(self) -> Optional[child.Child]:
        """Let no further start follow; the workload, None between two runs."""
        self.policy.stopping = True
        self.status.update(state="stopping")
        if self.main is None and not self.ending:
            self.drained()
        if self.main is not None and self.health is not None:
            self.health.end()
        return self.main

    def kill(self, number: int) -> wire.Message:
        """Signal the workload; SIGKILL and its stop signal are its end, as with docker kill.

        The answer names a workload that has another user, which only the host may signal.
        """
        ends = number in (signal.SIGKILL, self.policy.stop_signal)
        main = self._last_run() if ends else self.main
        if main is None:
            return {} if ends else {"error": "the workload does not run now"}
        try:
            os.kill(main.pid, number)
        except PermissionError:
            return {"pid": main.pid}
        except ProcessLookupError:
            pass  # it has ended just now
        return {}

    def _end_main(self, main: child.Child) -> None:
        send_signal(main.pid, self.policy.stop_signal)
        self.loop.after(MAIN, self.policy.stop_timeout, self.kill_all)

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
        self.changed = True
        self.policy.configure(self.config["restart"], self.config["stop"])
        self.logs.configure(self.config)
        self.set_healthcheck(self.config.get("healthcheck"))

    def set_healthcheck(self, config: Optional[Mapping[str, Any]]) -> None:
        """Start over with the checks if the healthcheck has changed."""
        if config == (self.health.config if self.health is not None else None):
            return
        if self.health is not None:
            self.health.remove()
        self.health = self.healthcheck(config) if config else None
        if self.health is not None:
            self.status.update(health=STARTING, failing_streak=0)
            if self.status.values["state"] == "running":
                self.health.begin()

    def healthcheck(self, config: Mapping[str, Any]) -> Health:
        return Health(
            self.loop,
            self.status,
            config,
            output=self.files["health"],
            spawn=self._spawn_check,
            condemn=self.condemn,
        )

    def _spawn_check(self, argv: Sequence[str], writer: int) -> child.Child:
        """Run a check's command as the workload would run it."""
        stdio = [self.null, writer, writer]
        return child.spawn(self.memory.clone, {**self.config, "argv": argv}, stdio)


def send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
