# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Confinement of a sandbox: capabilities, resource limits, sysctls, tmpfs mounts."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Callable, Iterable

from .names import MAX_ID, absolute_path
from .quantities import UNLIMITED, integer, size
from .text import digits, line, refusal, sequence, text, unique
from .values import Tmpfs, Ulimit

# In the order of include/uapi/linux/capability.h: the index is the capability's number.
CAPABILITIES = tuple(
    """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
    SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
    WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
    """.split()
)
# Names of RLIMIT_* in lower case.
ULIMITS = tuple(
    """
    as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending
    stack
    """.split()
)
MAX_LIMIT = 2**62

_SYSCTL = re.compile(r"(?:net|kernel|fs)(?:\.[a-zA-Z0-9_-]+)+")
_NAMESPACED = re.compile(
    r"net\..+|fs\.mqueue\.[a-z_]+|kernel\.(?:shm[a-z_]+|msg[a-z_]+|sem|sem_next_id)"
)
_ULIMIT = re.compile(r"([a-z]+)[:=](-1|unlimited|[0-9]{1,19})(?::(-1|unlimited|[0-9]{1,19}))?")
_MODE = re.compile(r"0?[0-7]{3,4}")
# Mounted by sandlot itself, with the masks that make them safe.
KERNEL_TREES = re.compile(r"/|/(?:proc|sys)(?:/.*)?|/dev(?!/shm$)(?:/.*)?")


def capabilities(option: str, value: Any) -> tuple[str, ...]:
    """Capabilities without CAP_, in upper case, in the kernel's order."""
    chosen = set()
    for index, item in enumerate(sequence(option, value)):
        path = f"{option}[{index}]"
        given = text(path, item)
        name = given.upper() if given.isascii() else given
        name = name[4:] if name.startswith("CAP_") else name
        if name == "ALL":
            hint = "name the capabilities the workload needs"
            raise refusal(path, item, "would grant every capability", hint=hint)
        if name not in CAPABILITIES:
            hint = "use a name from capabilities(7), such as NET_RAW"
            raise refusal(path, item, "is not a capability", hint=hint)
        chosen.add(name)
    return tuple(name for name in CAPABILITIES if name in chosen)


def mask(capabilities: Iterable[str]) -> int:
    """The capabilities as a bit mask."""
    return sum(1 << CAPABILITIES.index(name) for name in capabilities)


def ulimits(option: str, value: Any) -> tuple[Ulimit, ...]:
    limits = []
    for index, item in enumerate(sequence(option, value)):
        path = f"{option}[{index}]"
        match = _ULIMIT.fullmatch(text(path, item))
        if not match or match[1] not in ULIMITS:
            hint = f"write NAME:SOFT:HARD with a NAME of {', '.join(ULIMITS)}"
            raise refusal(path, item, "is not a limit", hint=hint)
        soft, hard = (_ulimit_value(path, item, part) for part in (match[2], match[3] or match[2]))
        if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
            hint = "raise the hard limit"
            raise refusal(path, item, "has a soft limit above the hard one", hint=hint)
        if match[1] == "nofile" and hard == UNLIMITED:
            hint = "give a number, such as 1048576"
            raise refusal(path, item, "can't be unlimited: the kernel refuses it", hint=hint)
        limits.append(Ulimit(match[1], soft, hard))
    unique(option, (limit.name for limit in limits), what="limit")
    return tuple(sorted(limits, key=lambda limit: limit.name))


def _ulimit_value(option: str, value: Any, part: str) -> int:
    if part in ("-1", "unlimited"):
        return UNLIMITED
    if int(part) > MAX_LIMIT:
        raise refusal(option, value, "is out of range", hint="use -1 for unlimited")
    return int(part)


def sysctl_name(option: str, value: Any) -> str:
    name = line(option, value)
    if not _SYSCTL.fullmatch(name) or not _NAMESPACED.fullmatch(name):
        hint = (
            "only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* belong to a sandbox"
        )
        raise refusal(option, value, "is not a sysctl of a sandbox", hint=hint)
    return name


def sysctl_value(option: str, value: Any) -> str:
    # Kernel files separate several numbers with tabs.
    string = line(option, " ".join(value.split("\t")) if isinstance(value, str) else digits(value))
    if not string.strip():
        raise refusal(option, value, "is empty", hint="give the value the kernel is to have")
    return string.strip()


def tmpfs(option: str, value: Any) -> tuple[Tmpfs, ...]:
    items = enumerate(sequence(option, value))
    mounts = [_tmpfs(f"{option}[{index}]", item) for index, item in items]
    unique(option, (mount.path for mount in mounts), what="path")
    return tuple(sorted(mounts, key=lambda mount: mount.path))


def _tmpfs(option: str, value: Any) -> Tmpfs:
    path, dummy, words = line(option, value).partition(":")
    place = absolute_path(option, path)
    if KERNEL_TREES.fullmatch(place):
        hint = "mount elsewhere; below /dev, only /dev/shm can be resized"
        raise refusal(option, value, "would hide what sandlot mounts there", hint=hint)
    return tmpfs_entry(option, place, words.split(","))


def tmpfs_entry(option: str, place: str, words: Iterable[str]) -> Tmpfs:
    """The tmpfs at a place, from words such as "size=64m" and "exec"."""
    data: dict[str, int] = {}
    flags: set[str] = set()
    for word in filter(None, words):
        key, equals, setting = word.partition("=")
        if not equals and key in _FLAGS:
            flags.add(key)
        elif equals and key in _SETTINGS and key not in data:
            data[key] = _SETTINGS[key](option, setting)
        else:
            known = ", ".join([*(f"{key}=" for key in _SETTINGS), *sorted(_FLAGS)])
            raise refusal(option, word, "is unknown or given twice", hint=f"use {known}")
    if {"exec", "noexec"} <= flags:
        raise refusal(option, place, "has both exec and noexec", hint="keep one of them")
    return Tmpfs(place, **data, executable="exec" in flags, copy_up="tmpcopyup" in flags)


def _mode(option: str, value: Any) -> int:
    if not _MODE.fullmatch(value) or int(value, 8) > 0o1777:
        hint = "use an octal mode up to 1777"
        raise refusal(option, value, "is not a mode of a directory", hint=hint)
    return int(value, 8)


# Always nosuid and nodev; read-only or not is no question for an empty file system.
_FLAGS = frozenset({"exec", "noexec", "nosuid", "nodev", "rw", "tmpcopyup"})
_owner = partial(integer, minimum=0, maximum=MAX_ID)
_SETTINGS: dict[str, Callable[[str, Any], int]] = {
    "size": partial(size, minimum=4096),
    "nr_inodes": partial(size, minimum=2),
    "mode": _mode,
    "uid": _owner,
    "gid": _owner,
}
