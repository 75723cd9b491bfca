# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Which system calls a sandbox may make.

Every name of the tables in ``syscalls`` is in exactly one of ``ALLOWED``, ``INSPECTED``,
``GRANTED`` and ``DENIED``, so a call added to a table is a decision and never an accident.
"""

from __future__ import annotations

from typing import Mapping

ALLOWED = frozenset(
    # files and directories
    """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat
    faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
    flock fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 lchown link linkat
    lseek lstat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 read
    readahead readlink readlinkat rename renameat renameat2 rmdir sendfile stat statfs statx symlink
    symlinkat sync sync_file_range syncfs truncate umask unlink unlinkat utime utimensat utimes
    write cachestat file_getattr file_setattr listmount statmount
    """
    # extended attributes
    """
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat
    llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
    """
    # input and output
    """
    io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit pipe pipe2 pread64 preadv
    preadv2 pwrite64 pwritev pwritev2 readv splice tee vmsplice writev
    """
    # waiting for events
    """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll ppoll pselect6 select
    signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
    """
    # sockets; making one is inspected
    """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg
    sendmmsg sendmsg sendto setsockopt shutdown
    """
    # memory
    """
    brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall
    mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    process_mrelease remap_file_pages
    """
    # processes and threads; clone is inspected
    """
    arch_prctl execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv
    futex_wake get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getsid gettid
    pidfd_open prctl restart_syscall rseq set_robust_list set_thread_area set_tid_address setpgid
    setsid uprobe uretprobe vfork wait4 waitid
    """
    # signals
    """
    kill pause pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack tgkill tkill
    """
    # users, groups, capabilities
    """
    capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid
    setgid setgroups setregid setresgid setresuid setreuid setuid
    """
    # confining oneself further
    """
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr
    lsm_list_modules seccomp
    """
    # time and timers
    """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer
    time timer_create timer_delete timer_getoverrun timer_gettime timer_settime times
    """
    # scheduling and resource limits
    """
    getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield setpriority setrlimit
    """
    # System V and POSIX interprocess communication
    """
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv
    msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget
    """
    # the system
    """
    getrandom sysinfo uname
    """.split()
)

# Allowed or not by their arguments, see seccomp.py.
INSPECTED = frozenset("clone clone3 ioctl personality socket socketpair".split())

# Capability: calls it is the key to. Several capabilities may open the same call.
GRANTED: Mapping[str, frozenset[str]] = {
    name: frozenset(calls.split())
    for name, calls in {
        "BPF": "bpf",
        "DAC_READ_SEARCH": "open_by_handle_at",
        "PERFMON": "perf_event_open",
        "SYS_ADMIN": """
            bpf fanotify_init fanotify_mark fsconfig fsmount fsopen fspick lookup_dcookie mount
            mount_setattr move_mount open_tree open_tree_attr perf_event_open pivot_root quotactl
            quotactl_fd setdomainname sethostname setns syslog umount2 unshare
            """,
        "SYS_BOOT": "reboot",
        "SYS_CHROOT": "chroot",
        "SYS_MODULE": "delete_module finit_module init_module",
        "SYS_NICE": """
            get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node
            """,
        "SYS_PACCT": "acct",
        "SYS_PTRACE": """
            kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace
            """,
        "SYS_RAWIO": "ioperm iopl",
        "SYS_TIME": "adjtimex clock_adjtime clock_settime settimeofday",
        "SYS_TTY_CONFIG": "vhangup",
        "SYSLOG": "syslog",
    }.items()
}

DENIED = frozenset(
    # kernel surface that attacks use far more than programs do
    """
    add_key io_uring_enter io_uring_register io_uring_setup keyctl modify_ldt request_key
    userfaultfd
    """
    # act on the whole host, whatever a sandbox is granted
    """
    kexec_file_load kexec_load swapoff swapon
    """
    # would change the label a security module gave
    """
    lsm_set_self_attr
    """
    # obsolete, most of them without an implementation
    """
    _sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms getpmsg
    nfsservctl putpmsg query_module security sysfs tuxcall uselib ustat vserver
    """.split()
)
