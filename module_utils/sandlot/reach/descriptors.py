# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Decides what of the caller's descriptors a command in a sandbox may hold.

An open file description can do more than its owner meant: a process may clear its O_APPEND and then
read, rewrite and truncate the file; a socket works in both directions; a terminal takes input that
a process pushes into it (TIOCSTI); an open directory is a way out. So a command gets ends of pipes
only, and /dev/null, for which init takes the sandbox's own. The client opens a pipe of its caller
again, as O_NONBLOCK belongs to the description.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Callable, Optional

_NULL = (1, 3)
_PTMX = (5, 2)
# Permissions by which a sandbox may open a pipe at paths such as /dev/stderr: to the owner, all its
# users are others. No other process of the host reaches that path (ptrace access mode of proc(5)).
_OPENABLE = {os.O_RDONLY: 0o044, os.O_WRONLY: 0o022}
_BOTH = 0o066


def passable(fd: int, mode: int) -> Optional[int]:
    """A descriptor like ``fd`` for the command; None if the client has to relay its bytes."""
    state = os.fstat(fd)
    if stat.S_ISCHR(state.st_mode) and _device(state) == _NULL:
        return os.dup(fd)
    if not _is_anonymous_pipe(fd, state):
        return None
    permissions = stat.S_IMODE(state.st_mode)
    if permissions & _BOTH & ~_OPENABLE[mode]:
        return None  # at its other end is a command that may open it by its path
    try:
        ours = os.open(f"/proc/self/fd/{fd}", mode | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None  # nobody reads it any more
    os.set_blocking(ours, True)
    os.fchmod(ours, permissions | _OPENABLE[mode])
    return ours


def _is_anonymous_pipe(fd: int, state: os.stat_result) -> bool:
    """Whether it is a pipe without a name, the permissions of which nobody else relies on."""
    return stat.S_ISFIFO(state.st_mode) and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")


def pipe(mode: int) -> tuple[int, int]:
    """(the command's end, our end) of a new pipe; ``mode`` is that of the command's end."""
    reader, writer = os.pipe()
    theirs, ours = (reader, writer) if mode == os.O_RDONLY else (writer, reader)
    os.set_blocking(ours, False)
    os.fchmod(theirs, 0o600 | _OPENABLE[mode])
    return theirs, ours


def reopened(fd: int, mode: int) -> int:
    """A descriptor of the same file that never blocks; O_NONBLOCK does not affect other holders.

    A file or block device has a position, which a new description would not share; its reads and
    writes don't wait for anybody.
    """
    state = os.fstat(fd)
    waits = stat.S_ISFIFO(state.st_mode) or stat.S_ISCHR(state.st_mode)
    if waits and _device(state) != _PTMX:
        try:
            return os.open(f"/proc/self/fd/{fd}", mode | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            pass  # a terminal of another user, or a pipe that nobody reads: ``fd`` itself will do
    return os.dup(fd)


def writer(fd: int) -> Callable[[int, bytes], int]:
    """The function that writes to ``fd``, from ``reopened``, without blocking."""
    return _send if stat.S_ISSOCK(os.fstat(fd).st_mode) else os.write


def _send(fd: int, data: bytes) -> int:
    """Write to a socket, which has no path to open it again."""
    connection = socket.socket(fileno=fd)
    try:
        return connection.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        connection.detach()


def _device(state: os.stat_result) -> tuple[int, int]:
    return os.major(state.st_rdev), os.minor(state.st_rdev)
