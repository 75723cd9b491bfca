# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The wants of refused system calls, as data for ``refusals``.

Capabilities are those of capabilities(7) and of the call's own manual page. Where the kernel asks
for one in the host's user namespace (``capable()`` in its source), granting it has no effect.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Tuple

# -- calls that the filter refuses: what to do in place of a capability, or why there is none

_MOUNTS = "list what it mounts in tmpfs"
_NAMESPACES = "the sandbox is its namespaces: one that makes more of them belongs on the host"
_HOSTS = "it acts on the whole host: do it there"
_CLOCK = "the clock is the host's: set it there (time_offset shifts monotonic and boot time)"
_GONE = "Linux has no such call any more; programs go on without it"
_ON_PURPOSE = "refused on purpose, no option allows it alone"

# Call: what helps, for calls whose capability is of use.
INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(
        """
        fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree open_tree_attr
        pivot_root umount2
        """.split(),
        _MOUNTS,
    ),
    **dict.fromkeys("clone setns unshare".split(), _NAMESPACES),
    "setdomainname": "the domain is part of the option hostname",
    "sethostname": "set the option hostname",
    "syslog": "the kernel's log is the host's: read it there",
    "reboot": "end the workload; restart_policy starts it again",
}

# Call: why no option allows it: the kernel asks for a capability of the host (or the policy does).
NEVER: Mapping[str, str] = {
    **dict.fromkeys("io_uring_enter io_uring_register io_uring_setup".split(), _ON_PURPOSE),
    **dict.fromkeys("add_key keyctl request_key".split(), f"{_ON_PURPOSE}: keys are the host's"),
    **dict.fromkeys("modify_ldt userfaultfd lsm_set_self_attr".split(), _ON_PURPOSE),
    **dict.fromkeys("kexec_file_load kexec_load swapoff swapon".split(), _HOSTS),
    **dict.fromkeys(
        """
        _sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms getpmsg
        lookup_dcookie nfsservctl putpmsg query_module security sysfs tuxcall uselib ustat vserver
        """.split(),
        _GONE,
    ),
    **dict.fromkeys("acct delete_module finit_module init_module ioperm iopl".split(), _HOSTS),
    **dict.fromkeys("quotactl quotactl_fd vhangup".split(), _HOSTS),
    **dict.fromkeys("adjtimex clock_adjtime clock_settime settimeofday".split(), _CLOCK),
    "bpf": "eBPF is the host's: load it there",
    "personality": f"{_ON_PURPOSE}: it would weaken the layout of memory",
    "ioctl": f"{_ON_PURPOSE}: it types into terminals",
}

# Refused by the filter, and programs usually go on.
FALLS_BACK = frozenset(
    """
    clone3 get_mempolicy io_uring_setup keyctl mbind perf_event_open set_mempolicy
    set_mempolicy_home_node userfaultfd
    """.split()
)


# -- calls that the filter allows and the kernel refuses


class Row(NamedTuple):
    """``words`` is a pattern in the arguments; without ``needs``, ``text`` is all there is."""

    calls: Tuple[str, ...]
    errors: Tuple[str, ...]
    words: str = ""
    needs: str = ""
    text: str = ""
    of_file: bool = False


def _row(
    calls: str,
    errors: str,
    words: str = "",
    *,
    needs: str = "",
    text: str = "",
    of_file: bool = False,
) -> Row:
    names, numbers = tuple(calls.split()), tuple(errors.split())
    return Row(names, numbers, words, needs, text, of_file=of_file)


_CHOWN = "chown fchown fchownat lchown"
_CHMOD = "chmod fchmod fchmodat fchmodat2"
_TIMES = "futimesat utime utimensat utimes"
_XATTR = "fremovexattr fsetxattr lremovexattr lsetxattr removexattr setxattr setxattrat"
_SETGID = "setgid setresgid setregid setfsgid setgroups"
_SETUID = "setuid setresuid setreuid setfsuid"
_KILL = "kill pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo tgkill tkill"
_MLOCK = "mlock mlock2 mlockall"
_NICE = "setpriority sched_setattr sched_setparam sched_setscheduler"
_FORK = "clone clone3 fork vfork"
_OPEN = "creat open openat openat2"
_DESCRIPTORS = "accept accept4 dup dup2 epoll_create1 eventfd2 fcntl pipe pipe2 socket"
_EXEC = "execve execveat"
_WRITE = "copy_file_range fallocate ftruncate pwrite64 pwritev pwritev2 write writev"
_SEND = "sendmmsg sendmsg sendto write"

# The first row that fits counts.
ROWS: Tuple[Row, ...] = (
    _row(_CHOWN, "EPERM", needs="CHOWN"),
    _row(
        f"{_CHOWN} {_SETUID} {_SETGID}",
        "EINVAL",
        text="the id is beyond those of the sandbox: use one below 65536",
    ),
    _row(_XATTR, "EPERM", r'"security\.capability"', needs="SETFCAP"),
    _row(_XATTR, "EPERM", r'"(security|trusted)\.', text="no option: the attribute is the host's"),
    _row(f"{_CHMOD} {_TIMES} {_XATTR}", "EPERM EACCES", needs="FOWNER"),
    _row(f"{_OPEN} fcntl", "EPERM", r"O_NOATIME", needs="FOWNER"),
    # In a sticky directory, and of a file of somebody else (path_resolution(7), link(2)).
    _row("link linkat rename renameat renameat2 rmdir unlink unlinkat", "EPERM", needs="FOWNER"),
    _row(_SETGID, "EPERM", needs="SETGID"),
    _row(_SETUID, "EPERM", needs="SETUID"),
    _row(_SETUID, "EAGAIN", text="nproc in ulimits is reached: raise it"),
    _row("prctl", "EPERM", r"PR_CAPBSET_DROP|PR_SET_SECUREBITS", needs="SETPCAP"),
    _row("prctl", "EPERM", r"PR_CAP_AMBIENT", text="grant the capability that it raises"),
    _row(
        "capset",
        "EPERM",
        text="it raises a capability that it does not hold: list it in capabilities",
    ),
    _row("prctl", "EPERM EACCES", r"PR_SET_MM", text="no option: the host's alone"),
    _row("seccomp prctl", "EACCES", text="set no_new_privs first (prctl(2)), or no_new_privileges"),
    _row(_KILL, "EPERM", needs="KILL"),
    _row("bind", "EACCES", r"sin6?_port", needs="NET_BIND_SERVICE"),
    _row("bind", "EADDRINUSE", text="the port is in use"),
    _row(
        "bind",
        "EADDRNOTAVAIL",
        text="the sandbox has no such address: bind to 0.0.0.0, or set it in networks",
    ),
    _row("socket", "EACCES EPERM", r"AF_PACKET|SOCK_RAW", needs="NET_RAW"),
    _row("setsockopt", "EPERM", r"SO_BINDTODEVICE", needs="NET_RAW"),
    _row(
        "setsockopt",
        "EPERM EACCES",
        r"SO_MARK|SO_PRIORITY|SO_\w+BUFFORCE|SO_BUSY_POLL|IP_TRANSPARENT|IPT_|IPV6_TRANSPARENT",
        needs="NET_ADMIN",
    ),
    _row("ioctl", "EPERM EACCES", r"SIOC", needs="NET_ADMIN"),
    _row("ioctl", "EPERM", r"FS_IOC_(FS)?SETFLAGS|FS_IOC_FSSETXATTR", text="no option: immutable"),
    _row("socket", "EAFNOSUPPORT", text="the kernel lacks that family; programs use another"),
    _row(_MLOCK, "EPERM ENOMEM EAGAIN", text="raise memlock in ulimits"),
    _row("mmap shmget shmctl", "EPERM EAGAIN", text="raise memlock in ulimits"),
    _row(_NICE, "EPERM EACCES", r"SCHED_(FIFO|RR)", text="raise rtprio in ulimits"),
    _row(_NICE, "EPERM EACCES", text="raise nice in ulimits (40 is the nice value -20)"),
    _row("ioprio_set", "EPERM", text="no option: it needs SYS_NICE of the host"),
    _row("sched_setaffinity", "EINVAL", text="cpuset_cpus has none of these processors"),
    _row("prlimit64 setrlimit", "EPERM", text="the hard limit is lower: raise it in ulimits"),
    _row("mknod mknodat", "EPERM", r"S_IF(BLK|CHR)", text="no option makes devices inside"),
    _row("timer_create timerfd_create", "EPERM", text="no option: alarms wake the whole host"),
    _row("fcntl", "EACCES", r"F_SETLEASE", text="no option: it needs LEASE of the host"),
    _row(_FORK, "EAGAIN", text="pids_limit, or nproc in ulimits, is reached: raise it"),
    _row(
        f"{_OPEN} accept accept4 dup dup2 fcntl pipe pipe2 socket",
        "EMFILE",
        text="raise nofile in ulimits",
    ),
    _row(f"{_FORK} brk mmap mprotect mremap", "ENOMEM", text="raise memory, or let it use less"),
    _row(
        f"{_OPEN} {_WRITE} mkdir mkdirat mknod mknodat rename renameat renameat2 symlink symlinkat",
        "ENOSPC EDQUOT",
        text="free space on the host, or give the tmpfs that it fills a larger size",
    ),
    _row(_WRITE, "EFBIG", text="raise fsize in ulimits"),
    _row(_EXEC, "ENOENT", text="the program is missing in the image, or its interpreter is"),
    _row(_EXEC, "ENOEXEC", text="it is no program of this machine: compare the image's platform"),
    _row(
        _EXEC,
        "EACCES",
        text="it may not be executed: a file without x, or a mount with noexec",
        of_file=True,
    ),
    _row(_EXEC, "E2BIG", text="shorten env and arguments, or raise stack in ulimits"),
    _row(_EXEC, "EPERM", text="the file's capabilities are more than the sandbox's: grant them"),
    _row("connect sendto sendmsg", "EACCES EPERM", text="egress in networks does not allow it"),
    _row("connect", "ECONNREFUSED", text="nothing listens there: compare address and port"),
    _row("connect", "ENETUNREACH EHOSTUNREACH", text="no network leads there: see networks"),
)
# Errors of calls with a path that the permissions, or the mount, of a file explain.
FILE_ERRORS = ("EACCES", "EROFS")
# Errors of any call that are worth a line; others (ENOENT of a look, EAGAIN, ENOTTY) are the
# program's everyday life.
TOLD = frozenset(("EPERM", "EACCES", "ENOSYS", "EROFS", "EPROTONOSUPPORT"))
