# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Stops sandboxes: asks inits over their sockets, waits on their pidfds, kills those that are late.

One loop stops many: it asks all before it waits for any. Killing init ends everything in its pid
namespace (pid_namespaces(7)), a fork bomb included. Each wait has a limit, as the workload may
control its init.
"""

from __future__ import annotations

import os
import time

from .. import store, wire
from ..errors import LaunchError, SandlotError, StateError
from ..kernel import processes
from ..kernel.files import write_value
from ..kernel.loop import Loop
from ..kernel.signals import signal
from ..sandbox import oom, runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any, Callable, List, Mapping, Optional, Sequence

    from ..site import SandboxPaths

    Report = Callable[[str, Optional[SandlotError]], None]

# On top of stop_timeout: init has to notice the end, kill the other processes and exit.
MARGIN = 2.0
KILL_DEADLINE = 30.0
# The timeout of a sandbox whose launch file can't be read.
USUAL_TIMEOUT = 10.0
# poll can't wait for room in a full backlog, so connecting is retried after this time.
ASK_AGAIN = 0.05


class _Stop:
    """The stop of one sandbox; ``due`` is the end of its present step."""

    def __init__(self, paths: SandboxPaths, launch: Mapping[str, Any], pidfd: int) -> None:
        self.paths = paths
        self.launch = launch
        self.pidfd = pidfd
        self.connection: Optional[_socket.socket] = None
        self.patience = time.monotonic() + MARGIN
        self.due = self.patience
        self.killed = False
        # Why its cgroup could not be thawed; harmless unless it is frozen.
        self.frozen = ""


def stop_all(sandboxes: Sequence[SandboxPaths], report: Report) -> None:
    """End inits, gracefully if they answer; report each one when it has ended."""
    stops = _Stops(report)
    for paths in sandboxes:
        stops.begin(paths)
    stops.run()


class _Stops:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.loop = Loop()
        self.stops: List[_Stop] = []

    def run(self) -> None:
        while self.stops:
            wait = min(stop.due for stop in self.stops) - time.monotonic()
            self.loop.turn(wait)
            now = time.monotonic()
            for stop in [each for each in self.stops if each.due <= now]:
                if stop.killed:
                    self._drop(stop)
                    self.report(stop.paths.name, _survived(stop))
                elif stop.connection is None and now < stop.patience:
                    self._ask(stop)
                else:
                    self._kill(stop)

    def begin(self, paths: SandboxPaths) -> None:
        self._explained(paths, lambda: self._begin(paths))

    def _explained(self, paths: SandboxPaths, action: Callable[[], None]) -> None:
        """Call ``action``; report an error as this sandbox's failure."""
        try:
            action()
        except SandlotError as error:
            self.report(paths.name, error)
        except OSError as error:
            self.report(paths.name, runtime.explained(paths, "stop", error))

    def _begin(self, paths: SandboxPaths) -> None:
        launch = _launch(paths)
        pidfd = runtime.open_init(paths)
        if pidfd is None:
            self._settle(paths, launch)
            return
        stop = _Stop(paths, launch, pidfd)
        _thaw(stop)
        self.stops.append(stop)
        self.loop.watch(pidfd, lambda: self._gone(stop))
        self._ask(stop)

    def _ask(self, stop: _Stop) -> None:
        try:
            connection = wire.dial(stop.paths.socket, timeout=0)
        except BlockingIOError:
            stop.due = min(time.monotonic() + ASK_AGAIN, stop.patience)
            return
        except OSError:
            self._kill(stop)  # its socket is gone
            return
        stop.connection = connection
        stop.due = stop.patience
        self.loop.watch(connection.fileno(), lambda: self._answered(stop, connection))
        try:
            wire.send(connection, {"op": "stop"})
        except OSError:
            self._kill(stop)

    def _answered(self, stop: _Stop, connection: _socket.socket) -> None:
        try:
            agreed = wire.receive(connection)[0] is not None
        except BlockingIOError:
            return
        except (OSError, LaunchError):
            agreed = False
        if not agreed:
            self._kill(stop)  # its answer is invalid, or init has gone
            return
        self._hang_up(stop)
        stop.due = time.monotonic() + _timeout(stop.launch) + MARGIN

    def _hang_up(self, stop: _Stop) -> None:
        if stop.connection is not None:
            self.loop.unwatch(stop.connection.fileno())
            stop.connection.close()
            stop.connection = None

    def _kill(self, stop: _Stop) -> None:
        self._hang_up(stop)
        stop.killed = True
        stop.due = time.monotonic() + KILL_DEADLINE
        try:
            signal.pidfd_send_signal(stop.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return  # its pidfd is readable
        _thaw(stop)

    def _gone(self, stop: _Stop) -> None:
        self._drop(stop)
        self._explained(stop.paths, lambda: self._settle(stop.paths, stop.launch))

    def _drop(self, stop: _Stop) -> None:
        self._hang_up(stop)
        self.loop.unwatch(stop.pidfd)
        os.close(stop.pidfd)
        self.stops.remove(stop)

    def _settle(self, paths: SandboxPaths, launch: Mapping[str, Any]) -> None:
        """Remove the files of an init that has ended."""
        oom.note(paths, _cgroups(launch))
        runtime.finish(paths, "stopped")
        store.remove(paths.init)
        store.remove(paths.socket)
        self.report(paths.name, None)


def stop_timeout(paths: SandboxPaths) -> float:
    """Seconds that the workload has to end, by its launch file."""
    return _timeout(_launch(paths))


def prepares(paths: SandboxPaths) -> bool:
    """Whether init runs a command before the workload, by the launch file."""
    return "first_start" in _launch(paths)


def _timeout(launch: Mapping[str, Any]) -> float:
    try:
        return float(launch["stop"]["timeout"])
    except (KeyError, TypeError, ValueError):
        return USUAL_TIMEOUT


def _cgroups(launch: Mapping[str, Any]) -> List[str]:
    paths = launch.get("cgroups")
    return [each for each in paths if isinstance(each, str)] if isinstance(paths, list) else []


def _launch(paths: SandboxPaths) -> Mapping[str, Any]:
    """The launch file; {} when it is unreadable."""
    try:
        return store.read(paths.launch) or {}
    except StateError:
        return {}


def _thaw(stop: _Stop) -> None:
    """Thaw a sandbox: frozen processes get no signals, in cgroups v1 not even SIGKILL.

    A sandbox that can't be thawed is stopped all the same, as few are frozen.
    """
    for directory in _cgroups(stop.launch):
        for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            try:
                write_value(f"{directory}/{file}", value)
            except FileNotFoundError:
                continue  # of the other version, or the cgroup has gone
            except OSError as error:
                stop.frozen = f"{directory}/{file}: {error.strerror}"


def _survived(stop: _Stop) -> LaunchError:
    paths = stop.paths
    init = runtime.last_started(paths)
    pids = processes.below(init.pid) if init else ()
    stuck = {pid: processes.waits_in(pid) for pid in pids if processes.state(pid) == "D"}
    listed = ", ".join(f"{processes.describe(pid)} in {place}" for pid, place in stuck.items())
    hint = "a process in it hangs in the kernel: thaw its cgroup, or see /proc/PID/stack"
    if any("fuse" in place or place == "request_wait_answer" for place in stuck.values()):
        hint = "its file server (FUSE) does not answer: end that one, or abort the connection by "
        hint += "writing 1 to /sys/fs/fuse/connections/NUMBER/abort, and run again"
    where = f": {listed}" if listed else ""
    where += f"; it could not be thawed: {stop.frozen}" if stop.frozen else ""
    return LaunchError(
        f"{paths.name}: init survived SIGKILL for {KILL_DEADLINE:.0f} seconds{where}", hint=hint
    )
