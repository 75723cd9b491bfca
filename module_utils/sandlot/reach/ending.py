# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Ends a command of a sandbox with the processes that it started.

Host root does so from outside, as init may not signal processes that have changed their user. Each
command leads a session. Its processes are those of the session, and descendants whose parents all
live; one that has left the session and lost its parent, as a daemon does, goes on.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Dict, Iterator, List, Optional, Sequence

from ..kernel import namespaces, processes
from ..kernel.signals import signal
from ..sandbox.runtime import Running
from .relay import Loop

# The time between SIGTERM and SIGKILL for a command that runs too long.
GRACE = 5.0
# So many are waited for at a time; each takes a descriptor.
_AT_ONCE = 256
# Processes that fork while they are killed need another round.
_KILL_SECONDS, _PAUSE = 2.0, 0.005
# PIDFD_SIGNAL_PROCESS_GROUP, since Linux 6.9.
_PROCESS_GROUP = 4
# Fields of processes.fields.
_PARENT, _GROUP, _SESSION, _START = 1, 2, 3, 19


class Tree:
    """The processes of a command."""

    def __init__(self, init: Running, inside: int) -> None:
        """``inside`` is the pid of the command as init, which is its parent, sees it."""
        self._init = init
        self._session = child(init, inside)
        # Held, so that its number stands for no other group.
        self._leader = _pidfd(self._session) if self._session else None
        # Start times of processes that were signalled, which later lose their parents.
        self._known: Dict[int, str] = {}

    def signal(self, number: int) -> bool:
        """Signal all; whether any of them lives on, as far as that shows at once."""
        by_group = self._signal_group(number)
        members = self._members()
        for pid, start in members.items():
            if not by_group or _group(pid) != self._session:
                processes.send_signal(pid, number, functools.partial(_is_same, start))
        return bool(members)

    def _stop(self) -> None:
        """Stop the group, so that no descendant loses its parent before it is known."""
        self._signal_group(signal.SIGSTOP)
        self._known.update(self._members())

    def _signal_group(self, number: int) -> bool:
        """Signal the group of the command at once, as one that forks on and on outruns us.

        False when this kernel can't do so by a pidfd.
        """
        if self._leader is None:
            return False
        try:
            signal.pidfd_send_signal(self._leader, number, None, _PROCESS_GROUP)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self._leader is not None:
            os.close(self._leader)

    def kill(self) -> None:
        self._stop()
        deadline = time.monotonic() + _KILL_SECONDS
        while self.signal(signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(_PAUSE)

    def end(self, loop: Loop) -> None:
        """Ask all to end, and relay what they write for as long as they may take."""
        self._stop()
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            pidfds = self._open()
            if not pidfds:
                return
            _await(loop, pidfds, deadline)

    def _open(self) -> List[int]:
        """Pidfds of living processes, of some if there are many."""
        pidfds = []
        for pid, start in list(self._members().items())[:_AT_ONCE]:
            pidfd = _pidfd(pid)
            if pidfd is not None and _is_same(start, pid):
                pidfds.append(pidfd)
            elif pidfd is not None:
                os.close(pidfd)
        return pidfds

    def _members(self) -> Dict[int, str]:
        """Pids and start times; init is no more trusted than its workload, and none of them."""
        members: Dict[int, str] = {}
        if not self._session or namespaces.start_time(self._init.pid) != self._init.start_time:
            return members
        below = {self._session}
        for pid in _below(self._init.pid):
            fields = processes.fields(pid)
            if len(fields) <= _START:
                continue
            known = self._known.get(pid) == fields[_START]
            if known or int(fields[_SESSION]) == self._session or int(fields[_PARENT]) in below:
                below.add(pid)
                if fields[0] not in processes.DEAD:
                    members[pid] = fields[_START]
        return members


def child(init: Running, inside: int) -> int:
    """The pid of a child of init, given by its pid inside; 0 when there is none."""
    pids = reversed(processes.children(init.pid))
    return next((pid for pid in pids if _pid_inside(pid) == inside), 0)


def _await(loop: Loop, pidfds: Sequence[int], deadline: float) -> None:
    """Wait until these processes have ended, or until the deadline; close their pidfds."""
    left = set(pidfds)

    def forget(pidfd: int) -> None:
        left.discard(pidfd)
        del loop.handlers[pidfd]
        os.close(pidfd)

    for pidfd in pidfds:
        loop.handlers[pidfd] = functools.partial(forget, pidfd)
    try:
        while left and time.monotonic() < deadline:
            loop.turn(max(0.0, deadline - time.monotonic()))
    finally:
        for pidfd in list(left):
            forget(pidfd)


def _below(pid: int) -> Iterator[int]:
    """Yield descendants, parents first; each thread has children of its own (proc(5))."""
    pids = [pid]
    for parent in pids:
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for thread in threads:
            children = processes.children(parent, int(thread))
            yield from children
            pids += children


def _pidfd(pid: int) -> Optional[int]:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _is_same(start: str, pid: int) -> bool:
    return _start(pid) == start


def _group(pid: int) -> int:
    fields = processes.fields(pid)
    return int(fields[_GROUP]) if fields else 0


def _start(pid: int) -> str:
    fields = processes.fields(pid)
    return fields[_START] if len(fields) > _START and fields[0] not in processes.DEAD else ""


def _pid_inside(pid: int) -> int:
    words = processes.status(pid).get("NSpid", "").split()
    return int(words[-1]) if words else 0
