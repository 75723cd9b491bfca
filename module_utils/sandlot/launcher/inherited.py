# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Undoes what the launcher inherits from its starter, as every sandbox would inherit it too.

A deploy may run under nice, taskset, ulimit or numactl. The launcher gets what the first process of
a host has: the defaults of the kernel, and the processors of PID 1.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource

from ..kernel import confine, libc
from ..kernel.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, Tuple

_SYS_IOPRIO_SET = 30 if libc.AARCH64 else 251
_SYS_SET_MEMPOLICY = 237 if libc.AARCH64 else 238
_IOPRIO_WHO_PROCESS = 1
_PR_SET_TIMERSLACK = 29
_PR_MCE_KILL, _PR_MCE_KILL_CLEAR = 33, 0
_PR_SET_THP_DISABLE = 41
_PR_SET_IO_FLUSHER = 57
_TIMER_SLACK_NANOSECONDS = 50_000
_READ_PERSONALITY = 0xFFFFFFFF
# The files of procfs that fork(2) and execve(2) pass on, with their defaults.
_FILES = {"oom_score_adj": "0", "coredump_filter": "0x33", "loginuid": "4294967295"}
_NOFILE_HARD = 524288
_MIB = 1 << 20


def forget() -> None:
    """Reset everything; a launcher's service keeps its cgroup and its protection from OOM kills."""
    is_service = "INVOCATION_ID" in os.environ  # systemd.exec(5)
    _reset_signals()
    if not is_service:
        _leave_cgroups()
    _set_scheduling()
    _call(_SYS_IOPRIO_SET, "ioprio_set", _IOPRIO_WHO_PROCESS, 0, 0)
    _call(_SYS_SET_MEMPOLICY, "set_mempolicy", 0, 0, 0)
    _prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NANOSECONDS)
    _prctl(_PR_MCE_KILL, _PR_MCE_KILL_CLEAR)
    _prctl(_PR_SET_THP_DISABLE, 0)
    _prctl(_PR_SET_IO_FLUSHER, 0)
    for number, limit in _limits().items():
        set_limit(number, *limit)
    for name, value in _FILES.items():
        if not (is_service and name == "oom_score_adj" and _protected()):
            _write(f"/proc/self/{name}", value)


def personality_changed() -> bool:
    """Whether the starter had changed it (setarch(8)); now reset, for programs executed later."""
    personality = libc.bind("personality", ctypes.c_ulong)
    return personality(_READ_PERSONALITY) != 0 and personality(0) != 0


def _reset_signals() -> None:
    # Python has its own dispositions of these two; KILL and STOP have none.
    fixed = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGKILL, signal.SIGSTOP)
    for number in signal.valid_signals():
        if number not in fixed:
            signal.signal(number, signal.SIG_DFL)
    libc.default_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _set_scheduling() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except PermissionError:
        pass  # without CAP_SYS_NICE, as in some containers, nobody here can raise it
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(1))
    except OSError as error:
        if error.errno != errno.EINVAL:  # our cpuset has none of these processors
            raise


def _limits() -> Dict[int, Tuple[int, int]]:
    """The kernel's own limits for PID 1 (asm-generic/resource.h), with more descriptors."""
    infinity = resource.RLIM_INFINITY
    # fork_init() in kernel/fork.c
    processes = _number("threads-max") // 2
    files = min(_NOFILE_HARD, _number("../fs/nr_open"))
    names = ("CPU", "FSIZE", "DATA", "RSS", "AS")
    return {
        **{int(getattr(resource, f"RLIMIT_{name}")): (infinity, infinity) for name in names},
        resource.RLIMIT_STACK: (8 * _MIB, infinity),
        resource.RLIMIT_CORE: (0, infinity),
        resource.RLIMIT_NPROC: (processes, processes),
        resource.RLIMIT_NOFILE: (files, files),
        resource.RLIMIT_MEMLOCK: (8 * _MIB, 8 * _MIB),
        resource.RLIMIT_SIGPENDING: (processes, processes),
        resource.RLIMIT_MSGQUEUE: (819200, 819200),
        resource.RLIMIT_NICE: (0, 0),
        resource.RLIMIT_RTPRIO: (0, 0),
        resource.RLIMIT_RTTIME: (infinity, infinity),
    }


def _number(name: str) -> int:
    with open(f"/proc/sys/kernel/{name}", encoding="ascii") as handle:
        return int(handle.read())


def set_limit(number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError:
        # Without CAP_SYS_RESOURCE, as in some containers, nobody here can raise it.
        hard = resource.getrlimit(number)[1]
        resource.setrlimit(number, (soft if 0 <= soft <= hard else hard, hard))


def _call(number: int, what: str, *arguments: int) -> None:
    try:
        libc.syscall(number, what, *arguments)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # a kernel without NUMA or block devices
            raise


def _prctl(option: int, value: int) -> None:
    try:
        confine.prctl(option, value)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):  # an older kernel, a smaller root
            raise


def _protected() -> bool:
    """Whether the service's unit protects the launcher; the builder takes that from sandboxes."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as handle:
        return int(handle.read()) < 0


def _write(path: str, value: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as handle:
            handle.write(value)
    except (FileNotFoundError, PermissionError):
        return  # a kernel without it; fixed login ids (auditctl(8)); no CAP_SYS_RESOURCE


def _leave_cgroups() -> None:
    """Move to the root of each hierarchy, out of the cgroups of the session that starts us."""
    for directory in _hierarchies():
        try:
            with open(f"{directory}/cgroup.procs", "w", encoding="ascii") as handle:
                handle.write("0")
        except OSError as error:
            # A container's root takes no process once it has controllers (cgroups(7)), and may be
            # mounted read-only.
            if error.errno not in (errno.EBUSY, errno.EROFS, errno.EACCES, errno.EPERM):
                raise


def _hierarchies() -> Iterator[str]:
    """Yield the root directory of each mounted hierarchy."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as handle:
        lines = handle.read().splitlines()
    for line in lines:
        before, dummy, after = line.partition(" - ")
        fields = before.split()
        if after.partition(" ")[0] in ("cgroup", "cgroup2") and fields[3] == "/":
            yield fields[4]
