# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A launcher that is stopped or hangs: continued, or ended, which no sandbox notices.

It is found by the lock it holds, as one that is stopped tells nobody its pid.
"""

from __future__ import annotations

import contextlib
import os
from typing import Iterator

from ..errors import LaunchError
from ..kernel import namespaces, processes
from ..kernel.signals import signal
from ..site import Site

KILL_SECONDS = 10.0


def pid(site: Site) -> int | None:
    """The launcher's; None when there is none."""
    return processes.flock_holder(f"{site.run}/launcher.lock")


def is_stopped(site: Site) -> bool:
    found = pid(site)
    return found is not None and processes.is_stopped(found)


def wake(site: Site) -> None:
    """Continue what is stopped of it: the launcher, its zygote, its workers; no init."""
    with _held(site) as launcher:
        if launcher is None:
            return
        found, pidfd = launcher
        if processes.is_stopped(found):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        for child in processes.children(found):
            if processes.is_stopped(child) and _same_program(child, found):
                _continue_child(child, found)


def _same_program(child: int, launcher: int) -> bool:
    """Inits are children of the launcher as well, in a user namespace of their own."""
    try:
        places = [os.readlink(f"/proc/{each}/ns/user") for each in (child, launcher)]
    except OSError:
        return False
    return places[0] == places[1]


def _continue_child(child: int, launcher: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(child)
        try:
            if child in processes.children(launcher):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        finally:
            os.close(pidfd)


def end(site: Site) -> None:
    """SIGKILL; LaunchError when that does not help."""
    with _held(site) as launcher:
        if launcher is None:
            return
        found, pidfd = launcher
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not namespaces.pidfd_ends(pidfd, KILL_SECONDS):
            raise LaunchError(
                f"the launcher, {processes.describe(found)}, does not answer"
                f" and has survived SIGKILL for {KILL_SECONDS:.0f} seconds",
                hint=f"thaw its cgroup, or see /proc/{found}/stack for what it waits for",
            )


@contextlib.contextmanager
def _held(site: Site) -> Iterator[tuple[int, int] | None]:
    """Its pid and a pidfd; it still holds its lock then, so the pid was not given away."""
    found = pid(site)
    try:
        pidfd = os.pidfd_open(found) if found else None
    except ProcessLookupError:
        pidfd = None
    if found is None or pidfd is None:
        yield None
        return
    try:
        yield (found, pidfd) if pid(site) == found else None
    finally:
        os.close(pidfd)
