# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Continues a launcher that is stopped, and ends one that hangs; sandboxes run on.

The pid is that of the launcher's lock, as a stopped launcher does not answer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Iterator, NamedTuple

from .. import wire
from ..errors import LaunchError
from ..kernel import namespaces, processes
from ..kernel.signals import signal
from ..site import Site

KILL_SECONDS = 10.0
# struct ucred: pid, uid, gid (unix(7))
_UCRED = struct.Struct("3i")
# The name of the launcher, which its workers inherit.
WORKER = "sandlot"


class Holder(NamedTuple):
    pid: int
    pidfd: int


def pid(site: Site) -> int | None:
    """The pid of the launcher; None when there is none."""
    return processes.flock_holder(site.launcher_lock)


def is_stopped(site: Site) -> bool:
    launcher = pid(site)
    return launcher is not None and processes.is_stopped(launcher)


def runs(site: Site) -> bool:
    """Whether the process at the launcher's socket runs; False when that is unknown.

    The kernel tells its pid at once; before it lists locks, it waits for all that take one.
    """
    try:
        with wire.connect(site.launcher_socket, timeout=0) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError:
        return False
    launcher = int(_UCRED.unpack(credentials)[0])
    return launcher > 0 and not processes.is_stopped(launcher)


def wake(site: Site) -> None:
    """Continue the launcher, its zygote and its workers if they are stopped, but no init."""
    with _held(site) as launcher:
        if launcher is None:
            return
        number = launcher.pid
        if processes.is_stopped(number):
            signal.pidfd_send_signal(launcher.pidfd, signal.SIGCONT)
        _wake_below(number, number)


def _wake_below(parent: int, launcher: int) -> None:
    for child in processes.children(parent):
        name, state = processes.name_and_state(child)
        stopped = state in processes.STOPPED
        # A worker has children of its own. Inits are many, and have another name.
        if (stopped or name == WORKER) and _same_program(child, launcher):
            if stopped:
                processes.send_signal(
                    child, signal.SIGCONT, lambda pid: pid in processes.children(parent)
                )
            _wake_below(child, launcher)


def wake_own(site: Site, own: str | None) -> None:
    """Continue its zygote and its workers, which the launcher named; an older one names none."""
    pids = [pid for word in (own or "").split() for pid in processes.below(int(word))]
    if own is None or any(processes.is_stopped(pid) for pid in pids):
        wake(site)


def _same_program(child: int, launcher: int) -> bool:
    """Whether a child is the launcher's own process; an init has another user namespace."""
    try:
        places = [os.readlink(f"/proc/{process}/ns/user") for process in (child, launcher)]
    except OSError:
        return False
    return places[0] == places[1]


def end(site: Site) -> None:
    """Kill the launcher; LaunchError when it survives."""
    with _held(site) as launcher:
        if launcher is None:
            return
        number, pidfd = launcher.pid, launcher.pidfd
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not namespaces.pidfd_ends(pidfd, KILL_SECONDS):
            raise LaunchError(
                f"the launcher, {processes.describe(number)}, does not answer"
                f" and has survived SIGKILL for {KILL_SECONDS:.0f} seconds",
                hint=f"thaw its cgroup, or see /proc/{number}/stack for what it waits for",
            )


@contextlib.contextmanager
def _held(site: Site) -> Iterator[Holder | None]:
    """The launcher; it still holds its lock, so the pid has not been reused."""
    holder = pid(site)
    try:
        pidfd = os.pidfd_open(holder) if holder else None
    except ProcessLookupError:
        pidfd = None
    if holder is None or pidfd is None:
        yield None
        return
    try:
        yield Holder(holder, pidfd) if pid(site) == holder else None
    finally:
        os.close(pidfd)
