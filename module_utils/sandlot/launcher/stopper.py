# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Stop: ask init over its socket, wait on its pidfd, kill it when the time is up.

Killing init ends everything in its pid namespace (pid_namespaces(7)), a fork bomb included. Nothing
here waits for an init without a limit, as it may have been taken over by the workload.
"""

from __future__ import annotations

import os
import select

from .. import runtime, store
from ..errors import LaunchError
from ..init import status
from ..kernel import namespaces
from ..kernel.signals import signal
from . import oom, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

    from ..paths import SandboxPaths

# On top of stop_timeout: init has to notice, kill what is left and go.
MARGIN = 2.0
KILL_DEADLINE = 30.0
KILLED = 128 + int(signal.SIGKILL)


def stop(paths: SandboxPaths, launch: Mapping[str, Any] | None) -> None:
    """End the sandbox's init, gracefully when it answers; forget it only when it is gone."""
    pidfd = runtime.open_init(paths.host, paths.name)
    if pidfd is not None:
        try:
            _end(paths, pidfd, launch["stop"]["timeout"] if launch else 0.0)
        finally:
            os.close(pidfd)
    if launch:
        oom.note(paths, launch["cgroups"])
    finish(paths, "exited")
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


def still_runs(paths: SandboxPaths) -> bool:
    """Whether init runs and is not about to end, which is waited for."""
    pidfd = runtime.open_init(paths.host, paths.name)
    if pidfd is None:
        return False
    try:
        ending = runtime.status(paths.host, paths.name).get("final")
        return not (ending and _gone(pidfd, MARGIN))
    finally:
        os.close(pidfd)


def _ask(paths: SandboxPaths) -> bool:
    try:
        connection = protocol.dial(paths.socket, timeout=MARGIN)
        protocol.send(connection, {"op": "stop"})
        return protocol.receive(connection)[0] is not None
    except (OSError, LaunchError):
        return False  # init hangs, talks nonsense or its socket is gone: it is killed instead


def _gone(pidfd: int, seconds: float) -> bool:
    """A pidfd is readable once its process has ended (pidfd_open(2))."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def finish(paths: SandboxPaths, state: str, exit_code: int = KILLED) -> None:
    """Say for an init that was killed in mid-run what it could not say itself."""
    found = runtime.status(paths.host, paths.name)
    if not os.path.exists(paths.status) or found.get("final"):
        return
    found.update(state=state, final=True)
    if "exit_code" not in found:
        found.update(exit_code=exit_code, signal=max(0, exit_code - 128))
    store.replace(paths.status, status.encoded(found), durable=False)
