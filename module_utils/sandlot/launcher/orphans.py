# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Ends inits whose state file was lost, so that two never run at once."""

from __future__ import annotations

import os

from ..errors import LaunchError
from ..kernel import namespaces
from ..kernel.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Sequence

KILL_SECONDS = 30.0


def end(name: str, cgroups: Sequence[str]) -> None:
    """End all inits in a sandbox's cgroups, before a start."""
    for pid in {pid for directory in cgroups for pid in _inits(directory)}:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            _kill(name, pid, pidfd)
        finally:
            os.close(pidfd)


def _inits(directory: str) -> Iterator[int]:
    """Yield the processes of a cgroup that are PID 1 of a pid namespace."""
    with open(f"{directory}/cgroup.procs", encoding="ascii") as handle:
        pids = handle.read().split()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", "rb") as handle:
                fields = handle.read().partition(b"\nNSpid:")[2].partition(b"\n")[0].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if len(fields) > 1 and fields[-1] == b"1":
            yield int(pid)


def _kill(name: str, pid: int, pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    if not namespaces.pidfd_ends(pidfd, KILL_SECONDS):
        raise LaunchError(
            f"{name}: process {pid}, an earlier init, survived SIGKILL for {KILL_SECONDS:.0f} s",
            hint="a process in it hangs in the kernel (a frozen cgroup, a dead file server)",
        )
