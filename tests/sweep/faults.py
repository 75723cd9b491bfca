# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Which faults can befall which system calls of x86-64.

Errors are those of the manual pages, and EIO wherever a file system is reached, for disks do that.
mmap and brk are left out: without memory of its own, the interpreter can't even say so.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Optional

from .tracer import Call, Verdict

SIGNALS = ("SIGKILL", "SIGTERM")
ERRORS = ("ENOSPC", "EIO", "EPERM", "ENOMEM", "EMFILE")
FAULTS = (*SIGNALS, *ERRORS)
Errors = frozenset[str]
NONE: Errors = frozenset()

_F_DUPFD, _F_DUPFD_CLOEXEC = 0, 1030
_SIOCSIFFLAGS = 0x8914
# Written through descriptors that lead into the kernel, and to no disk.
_KERNEL = ("/proc/", "/sys/", "/dev/")


@dataclass(frozen=True)
class Rule:
    """``shown`` is the position of a path, or -1 - that of a descriptor, None without one."""

    name: str
    family: str
    errors: Errors
    possible: Optional[Callable[[Call, Errors], Errors]] = None
    changes: Optional[Callable[[Call], bool]] = None
    shown: Optional[int] = None

    def can_be(self, call: Call) -> Errors:
        possible = self.possible(call, self.errors) if self.possible else self.errors
        # The kernel's own files lie on no disk.
        unreal = {"EIO", "ENOSPC"} if self.object(call).startswith(_KERNEL) else NONE
        return possible - unreal

    def has_effect(self, call: Call) -> bool:
        """Dying at a call that has none leaves what dying at the next one leaves."""
        return self.changes(call) if self.changes else self.family not in ("read", "look")

    def object(self, call: Call) -> str:
        if self.shown is None:
            return ""
        return call.path(self.shown) if self.shown >= 0 else call.file(-1 - self.shown)

    def describe(self, call: Call) -> str:
        return f"{self.name} {self.object(call)}".rstrip()


def _opening(position: int) -> Callable[[Call, Errors], Errors]:
    """Space is needed to create, and a file that may not be changed may still be read."""

    def possible(call: Call, errors: Errors) -> Errors:
        flags = call.arguments[position]
        reading = {"EPERM"} if flags & os.O_ACCMODE == os.O_RDONLY else NONE
        return errors - reading - (NONE if flags & os.O_CREAT else {"ENOSPC"})

    return possible


def _creates(position: int) -> Callable[[Call], bool]:
    return lambda call: bool(call.arguments[position] & (os.O_CREAT | os.O_TRUNC))


def _never(call: Call) -> bool:
    return False


def _of_files(call: Call, errors: Errors) -> Errors:
    """Pipes and sockets have no disk that could fail."""
    return errors if call.file().startswith("/") else NONE


def _with_path(call: Call, errors: Errors) -> Errors:
    """Not of what is open already."""
    return errors if call.path(1) else NONE


def _duplicating(call: Call, errors: Errors) -> Errors:
    return errors if call.arguments[1] in (_F_DUPFD, _F_DUPFD_CLOEXEC) else NONE


def _setting_flags(call: Call, errors: Errors) -> Errors:
    return errors if call.arguments[1] == _SIOCSIFFLAGS else NONE


def _setting_limits(call: Call, errors: Errors) -> Errors:
    return errors if call.arguments[2] else NONE


def _set(words: str) -> Errors:
    return frozenset(words.split())


_DISK = _set("ENOSPC EIO EPERM")
_ENTRY = _set("EIO EPERM")
_FD = _set("EMFILE ENOMEM")


def _rules(family: str, errors: Errors, shown: Optional[int], **numbers: int) -> dict[int, Rule]:
    return {number: Rule(name, family, errors, shown=shown) for name, number in numbers.items()}


RULES: dict[int, Rule] = {
    2: Rule("open", "open", _DISK | _FD, _opening(1), _creates(1), 0),
    257: Rule("openat", "open", _DISK | _FD, _opening(2), _creates(2), 1),
    437: Rule("openat2", "open", _ENTRY | _FD, None, _never, 1),
    0: Rule("read", "read", _set("EIO"), _of_files, None, -1),
    17: Rule("pread64", "read", _set("EIO"), _of_files, None, -1),
    217: Rule("getdents64", "read", _set("EIO"), _of_files, None, -1),
    **_rules("read", _set("EIO"), 0, readlink=89),
    **_rules("read", _set("EIO"), 1, readlinkat=267),
    **_rules("look", _set("EIO"), 0, stat=4, lstat=6, access=21),
    **_rules("look", _set("EIO"), 1, statx=332, faccessat2=439),
    262: Rule("newfstatat", "look", _set("EIO"), _with_path, None, 1),
    1: Rule("write", "write", _set("ENOSPC EIO EPERM"), _of_files, None, -1),
    18: Rule("pwrite64", "write", _set("ENOSPC EIO EPERM"), _of_files, None, -1),
    20: Rule("writev", "write", _set("ENOSPC EIO EPERM"), _of_files, None, -1),
    **_rules("write", _set("EIO EPERM"), -1, ftruncate=77),
    **_rules("write", _set("ENOSPC EIO"), -1, fsync=74, fdatasync=75),
    **_rules("names", _DISK, 0, mkdir=83, rename=82, link=86, symlink=88, mknod=133),
    **_rules("names", _DISK, 1, mkdirat=258, renameat=264, renameat2=316, mknodat=259),
    **_rules("names", _DISK, 1, linkat=265, symlinkat=266),
    **_rules("names", _ENTRY, 0, rmdir=84, unlink=87, chmod=90, chown=92, lchown=94),
    **_rules("names", _ENTRY, 1, unlinkat=263, fchmodat=268, fchownat=260),
    **_rules("names", _set("EIO EPERM"), -1, fchmod=91, fchown=93),
    **_rules("descriptors", _FD, None, socket=41, accept4=288, epoll_create1=291, eventfd2=290),
    **_rules("descriptors", _FD, None, inotify_init1=294, memfd_create=319, pidfd_open=434),
    **_rules("descriptors", _set("EMFILE"), None, socketpair=53, pipe2=293, pipe=22),
    **_rules("descriptors", _set("EMFILE"), None, dup=32, dup3=292),
    72: Rule("fcntl", "descriptors", _set("EMFILE"), _duplicating, _never),
    **_rules("messages", _set("ENOMEM"), None, sendto=44, sendmsg=46, connect=42, bind=49),
    45: Rule("recvfrom", "messages", _set("ENOMEM"), None, _never),
    47: Rule("recvmsg", "messages", _set("ENOMEM"), None, _never),
    **_rules("namespaces", _set("ENOMEM EPERM"), 1, mount=165, mount_setattr=442, pivot_root=155),
    **_rules("namespaces", _set("ENOMEM EPERM"), 0, umount2=166),
    **_rules("namespaces", _set("ENOMEM EPERM"), -1, setns=308, move_mount=429, fsconfig=431),
    **_rules("namespaces", _FD | {"EPERM"}, 1, open_tree=428),
    **_rules("namespaces", _FD | {"EPERM"}, 0, fsopen=430),
    **_rules("namespaces", _FD | {"EPERM", "ENOSPC"}, None, fsmount=432),
    **_rules("namespaces", _set("ENOMEM EPERM ENOSPC"), None, unshare=272),
    **_rules("processes", _set("ENOMEM"), None, clone=56, clone3=435, fork=57, vfork=58),
    **_rules("processes", _set("ENOMEM EPERM EIO EMFILE"), 0, execve=59),
    **_rules("rights", _set("EPERM"), None, setresuid=117, setresgid=119, capset=126),
    **_rules("rights", _set("EPERM"), None, sethostname=170, pidfd_send_signal=424, kill=62),
    **_rules("rights", _set("EPERM ENOMEM"), None, setgroups=116),
    **_rules("rights", _set("ENOMEM"), None, seccomp=317),
    302: Rule("prlimit64", "rights", _set("EPERM"), _setting_limits),
    16: Rule("ioctl", "rights", _set("EPERM"), _setting_flags, _never),
}


# What has been seen of a program that was run.
BEGUN, SENT, OVER = "begun", "sent", "over"


class Injection:
    """One fault at the ``number``th call it can befall; ``call`` says which that was.

    Of the calls called ``only``, if any are named.
    """

    def __init__(self, fault: str, number: int, only: Collection[str] = ()) -> None:
        self.fault = fault
        self.only = only
        self.number = number
        self.seen = 0
        self.call = ""
        self.family = ""
        self._programs: dict[int, str] = {}

    def is_interested(self, pid: int) -> bool:
        return not self.call and self._programs.get(pid) != OVER

    def judge(self, call: Call) -> Verdict:
        rule = RULES.get(call.number)
        if rule is None or self.call:
            return None
        if not self._befalls(rule, call):
            self._pass_by(rule, call)
            return None
        if call.program and not self._stands_for_others(rule, call):
            return None
        self.seen += 1
        if self.seen != self.number:
            return None
        self.call, self.family = rule.describe(call), rule.family
        if self.fault in SIGNALS:
            return signal.Signals[self.fault]
        code: int = getattr(errno, self.fault)
        return code

    def _befalls(self, rule: Rule, call: Call) -> bool:
        if self.only and rule.name not in self.only:
            return False
        if self.fault in SIGNALS:
            return rule.has_effect(call)
        return self.fault in rule.errors and self.fault in rule.can_be(call)

    def _pass_by(self, rule: Rule, call: Call) -> None:
        """A program that has come so far unharmed, and only reads, is left alone."""
        if call.program and rule.family == "messages" and "-f" not in call.program:
            self._programs.setdefault(call.pid, OVER)

    def _stands_for_others(self, rule: Rule, call: Call) -> bool:
        """Of nft, only whether it fails and whether its transaction took place is ever seen.

        So its first call, its transaction, and the call after it are enough.
        """
        stage = self._programs.get(call.pid)
        sends = rule.name == "sendmsg"
        if stage is None:
            self._programs[call.pid] = BEGUN if "-f" in call.program else OVER
        elif sends or stage == SENT:
            self._programs[call.pid] = SENT if sends else OVER
        else:
            return False
        return True
