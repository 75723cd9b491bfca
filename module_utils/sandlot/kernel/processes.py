# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Finds the holder of a lock, and the reason why a process does not run, in procfs."""

from __future__ import annotations

import os
import time

from .signals import signal
from .text import harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator

STOPPED = ("T", "t")
TRACED_SECONDS = 1.0
# A zombie runs no code.
DEAD = ("Z", "X")
_WORDS = {
    "T": "which is stopped",
    "t": "which a debugger has stopped",
    "D": "which waits inside the kernel",
}


def state(pid: int) -> str:
    """The state of a process, a letter of proc(5); "" when there is no such process."""
    return name_and_state(pid)[1]


def name_and_state(pid: int) -> tuple[str, str]:
    head, dummy, tail = _read(f"/proc/{pid}/stat").rpartition(")")
    return head.partition("(")[2], tail.strip()[:1]


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped; a traced one has a second to go on."""
    # A tracer such as strace stops it for a moment at each system call (ptrace(2)).
    deadline = time.monotonic() + TRACED_SECONDS
    while (letter := state(pid)) == "t" and time.monotonic() < deadline:
        time.sleep(0.01)
    return letter in STOPPED


def name(pid: int) -> str:
    """The name that a process gave itself."""
    return harmless(_read(f"/proc/{pid}/comm").strip())


def describe(pid: int) -> str:
    """The process for messages, as "process 12 (python3), which is stopped"."""
    words = _WORDS.get(state(pid))
    return f"process {pid} ({name(pid)})" + (f", {words}" if words else "")


def waits_in(pid: int) -> str:
    """The kernel function in which a process waits, "" when the kernel hides it."""
    text = _read(f"/proc/{pid}/wchan").strip()
    return "" if text == "0" else text


def children(pid: int, thread: int = 0) -> list[int]:
    """The children of one thread, the first one unless another is given."""
    return [int(word) for word in _read(f"/proc/{pid}/task/{thread or pid}/children").split()]


def fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)); [] when there is no process."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def below(pid: int) -> Iterator[int]:
    """Yield the process and its descendants."""
    pids = [pid]
    for child in pids:
        yield child
        pids += children(child)


def send_signal(pid: int, number: int, is_meant: Callable[[int], bool]) -> None:
    """Signal a process, unless another process has got its pid meanwhile."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_meant(pid):
            signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status; none of a process that has ended."""
    # A process may put what str.splitlines takes for an end of line into its name.
    lines = _read(f"/proc/{pid}/status").split("\n")
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as handle:
            return handle.read().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def flock_holder(path: str) -> int | None:
    """The pid of the process that holds an flock on a file; None when it is unknown."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for line in _read("/proc/locks").splitlines():
        # "1: FLOCK  ADVISORY  WRITE 123 00:2a:456 0 EOF"; lines of waiting processes have an arrow.
        words = line.split()
        if words[1] == "FLOCK" and words[5] == f"{device}:{status.st_ino}" and int(words[4]) > 0:
            return int(words[4])
    return None
