# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The system calls by which a clean fork of the zygote becomes init, as tables that it plays."""

from __future__ import annotations

import base64
import errno
import os
import struct

from ..init import memory
from ..init.process import FIRST, NULL, PEER
from ..kernel import calls, confine, namespaces
from ..kernel.call_table import Table, ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Mapping

_MADV_DONTNEED = 4
_UMASK = 0o022
PID = struct.Struct("i")
_MFD_CLOEXEC = 1
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_SIGNAL_SET_SIZE = 8


def joiner(buffer: int, kinds: Iterable[str]) -> Table:
    """The joiner: enter the pins, become root of the sandbox, fork init in namespaces of its own.

    ``buffer`` is the address of the buffer that all forks of the zygote have.
    """
    table = Table("entering the namespaces", buffer)
    for fd, kind in enumerate(kinds, FIRST):
        table.add("setns", fd, namespaces.FLAGS[kind])
        table.add("close", fd)
    table.add("setgroups", 0, 0)
    table.add("setresgid", 0, 0, 0)
    table.add("setresuid", 0, 0, 0)
    table.add("unshare", namespaces.CLONE_NEWPID | namespaces.CLONE_NEWCGROUP)
    table.fork()
    # As a number: credentials on the socket would have no pid in the builder's namespace.
    table.add("write", PEER, table.pid_at, PID.size)
    table.add("exit_group", 0)
    table.child()
    table.add("prctl", confine.PR_SET_NAME, b"sandlot-init\0")
    return table


def init(buffer: int, mount: int, launch: Mapping[str, Any], user: Mapping[str, Any]) -> Table:
    """Init: enter the root of descriptor ``mount`` and get what the workload gets, no way back."""
    table = Table("confining init", buffer, last=True)
    table.add("setsid")
    table.add("setns", mount, namespaces.CLONE_NEWNS)
    table.add("close", mount)
    table.add("chdir", b"/\0")
    table.add("umask", _UMASK)
    for standard in (0, 1, 2):
        table.add("dup3", NULL, standard, 0)
    # An empty session keyring, without the operator's keys; a kernel may have no keyrings.
    table.add("keyctl", confine.KEYCTL_JOIN_SESSION_KEYRING, 0, tolerated=errno.ENOSYS)
    mask = launch["capabilities"]
    for number in range(confine.last_capability() + 1):
        if not mask >> number & 1:
            table.add("prctl", confine.PR_CAPBSET_DROP, number)
    if launch["seccomp"]:
        # While CAP_SYS_ADMIN is there: without it, no_new_privs would have to be set (seccomp(2)).
        program = base64.b64decode(launch["seccomp"])
        filter_ = struct.pack("H6xQ", len(program) // 8, table.place(program))
        table.add("seccomp", confine.SECCOMP_SET_MODE_FILTER, 0, filter_)
    _become(table, user, mask, launch.get("ambient", mask))
    if launch.get("no_new_privileges", True):
        table.add("prctl", confine.PR_SET_NO_NEW_PRIVS, 1)
    table.add("prctl", confine.PR_SET_DUMPABLE, 0)
    # The mount's descriptor is the first to be free again; these take the next ones.
    table.add("memfd_create", b"init\0", _MFD_CLOEXEC)
    table.add("ftruncate", mount, calls.PAGE)
    page = buffer + calls.SIZE
    flags = (calls.PROT_READ_WRITE, calls.MAP_SHARED_FIXED)
    table.add("mmap", page, calls.PAGE, *flags, mount, 0)
    table.add("pipe2", page + 4 * memory.ENDED, _FLAGS)
    signals = memory.CAUGHT_SET[:_SIGNAL_SET_SIZE]
    table.add("signalfd4", -1, signals, _SIGNAL_SET_SIZE, _FLAGS)
    # The last call, as it takes away the rows.
    table.add("madvise", buffer + calls.PAGE, calls.SIZE - calls.PAGE, _MADV_DONTNEED)
    return table


def _become(table: Table, user: Mapping[str, Any], mask: int, ambient: int) -> None:
    """Become the workload's user, with no capability beyond those of the sandbox in any set.

    For uid 0 the bounding set decides what exec yields; for another uid granted capabilities have
    to be ambient to survive exec (capabilities(7)). Init itself has all of them: a command of exec
    may be another user's.
    """
    uid, gid, groups = user["uid"], user["gid"], user["groups"]
    inherited = ambient if uid else 0
    table.add("setgroups", len(groups), ids(groups))
    table.add("setresgid", gid, gid, gid)
    table.add("prctl", confine.PR_SET_KEEPCAPS, 1)
    table.add("setresuid", uid, uid, uid)
    table.add("prctl", confine.PR_SET_KEEPCAPS, 0)
    table.add("capset", confine.CAPABILITY_HEADER, confine.capability_sets(mask, mask, inherited))
    table.add("prctl", confine.PR_CAP_AMBIENT, confine.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(confine.last_capability() + 1):
        if inherited >> number & 1:
            table.add("prctl", confine.PR_CAP_AMBIENT, confine.PR_CAP_AMBIENT_RAISE, number)
