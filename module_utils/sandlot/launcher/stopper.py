# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Stop: ask init over its socket, wait on its pidfd, kill it when the time is up.

Killing init ends everything in its pid namespace (pid_namespaces(7)), a fork bomb included.
"""

from __future__ import annotations

import os
import select
import signal
from typing import Any, Mapping

from .. import runtime, store
from ..errors import LaunchError
from ..kernel import namespaces
from ..paths import SandboxPaths
from . import protocol

# On top of stop_timeout: init has to notice, kill what is left and go.
MARGIN = 2.0
KILL_DEADLINE = 30.0


def stop(paths: SandboxPaths, launch: Mapping[str, Any] | None) -> None:
    """End the sandbox's init, gracefully when it answers; forget it only when it is gone."""
    running = runtime.running(paths.host, paths.name)
    if running is not None:
        pidfd = namespaces.pidfd_open(running.pid)
        try:
            if namespaces.start_time(running.pid) == running.start_time:
                timeout = launch["stop"]["timeout"] if launch else 0.0
                _end(paths, pidfd, timeout)
        finally:
            os.close(pidfd)
        _mark_stopped(paths)
    store.remove(paths.init)
    store.remove(paths.socket)


def _end(paths: SandboxPaths, pidfd: int, timeout: float) -> None:
    if _ask(paths) and _gone(pidfd, timeout + MARGIN):
        return
    try:
        namespaces.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    if not _gone(pidfd, KILL_DEADLINE):
        raise LaunchError(
            f"{paths.name}: init survived SIGKILL for {KILL_DEADLINE:.0f} seconds",
            hint="a process in it hangs in the kernel (a frozen cgroup, a dead file server)",
        )


def _ask(paths: SandboxPaths) -> bool:
    try:
        with protocol.connect(paths.socket) as connection:
            connection.settimeout(MARGIN)
            protocol.send(connection, {"op": "stop"})
            return protocol.receive(connection)[0] is not None
    except OSError:
        return False  # init hangs or its socket is gone: it is killed instead


def _gone(pidfd: int, seconds: float) -> bool:
    """A pidfd is readable once its process has ended (pidfd_open(2))."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def _mark_stopped(paths: SandboxPaths) -> None:
    """An init killed in mid-run could not say so itself."""
    _finish(paths, "exited")


def mark_crashed(paths: SandboxPaths) -> None:
    """Init died and the restart policy is "no"."""
    _finish(paths, "crashed")


def _finish(paths: SandboxPaths, state: str) -> None:
    status = runtime.status(paths.host, paths.name)
    if status and not status.get("final"):
        status.update(state=state, final=True)
        status.setdefault("exit_code", 128 + signal.SIGKILL)
        store.write(paths.status, status, durable=False)
