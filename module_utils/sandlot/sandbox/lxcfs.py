# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The files of lxcfs, a FUSE server that shows each reader the limits of its own cgroups.

Whoever opens or reads a file of a server that hangs, hangs as well. So a child does it, which can
be killed meanwhile, and hands on mounts; whoever only attaches a mount asks the server nothing.
"""

from __future__ import annotations

import _socket
import os

from .. import wire
from ..errors import LaunchError
from ..kernel import libc, mountinfo, mounts, namespaces
from ..kernel.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Tuple

KIND = "fuse.lxcfs"
PATIENCE_SECONDS = 5.0
CPU = "sys/devices/system/cpu"
# Versions before 4.0.9 show one file of the directory.
FILES = (
    *(f"proc/{name}" for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "stat", "swaps")),
    *("proc/uptime", "proc/slabinfo"),
)
_HINT = "start it (Debian: apt install lxcfs; systemctl restart lxcfs), or leave lxcfs out"


def check(directory: str) -> None:
    """LaunchError unless lxcfs is mounted at ``directory`` and answers in time."""
    wire.close_all([*opened(directory, 0).values()])


def opened(directory: str, attributes: int) -> Dict[str, int]:
    """Detached mounts of the files of lxcfs, by their paths below the root."""
    if mountinfo.server_of(directory) != KIND:
        raise LaunchError(f"lxcfs is not mounted at {directory}", hint=_HINT)
    ours, theirs = wire.pair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _clone(directory, attributes, theirs)
    theirs.close()
    ours.settimeout(PATIENCE_SECONDS)
    try:
        message, fds = wire.receive(ours)
    except _socket.timeout as error:
        text = f"lxcfs does not answer within {PATIENCE_SECONDS:.0f} seconds at {directory}"
        raise LaunchError(text, hint=_HINT) from error
    finally:
        ours.close()
        _end(pid)
    if message is None or "error" in message:
        problem = message["error"] if message else "its reader died"
        raise LaunchError(f"lxcfs at {directory} does not work: {problem}", hint=_HINT)
    return dict(zip(message["what"].split(), fds))


def _end(pid: int) -> None:
    """Kill and collect the child; one that waits for a server that hangs is left behind.

    The kernel does not end it before the server does (request_wait_answer() in fs/fuse/dev.c).
    """
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    namespaces.pidfd_ends(pidfd, 0.2)
    os.close(pidfd)
    os.waitpid(pid, os.WNOHANG)


def _clone(directory: str, attributes: int, peer: _socket.socket) -> None:
    """Open in the child, and end it; it keeps no lock and no socket while it hangs."""
    libc.close_between(3, peer.fileno() - 1)
    libc.close_from(peer.fileno() + 1)
    try:
        # A server that has died leaves its mount, whose files can't be read.
        with open(f"{directory}/proc/meminfo", "rb") as handle:
            handle.read(1)
        paths, fds = _mounts(directory, attributes)
        wire.reply(peer, {"what": " ".join(paths)}, fds)
    except OSError as error:
        wire.reply(peer, {"error": error.strerror or str(error)})
    finally:
        os._exit(0)


def _mounts(directory: str, attributes: int) -> Tuple[List[str], List[int]]:
    whole = os.path.exists(f"{directory}/{CPU}/uevent")
    named = [*FILES, CPU if whole else f"{CPU}/online"]
    paths = [path for path in named if os.path.exists(f"{directory}/{path}")]
    fds = [mounts.clone_tree(f"{directory}/{path}") for path in paths]
    for fd in fds:
        mounts.set_attributes(fd, attributes)
    return paths, fds


def device(pid: int | str) -> str:
    """The device number of the lxcfs that a process sees; "" when it sees none.

    lxcfs has another one after it was started again, as long as anybody has its old mounts.
    """
    numbers = [number for number, kind, dummy in mountinfo.seen_by(pid) if kind == KIND]
    return numbers[-1] if numbers else ""
