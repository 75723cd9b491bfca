# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tells for a refused system call who refused it, and which option would allow it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import FrozenSet, Tuple

from .. import profiles
from ..errors import SandlotError
from ..spec.confinement import sysctl_name
from . import policy
from .refused_calls import FALLS_BACK, FILE_ERRORS, INSTEAD, NEVER, ROWS, TOLD, Row

FILTER, KERNEL = "filter", "kernel"
_NEW_NAMESPACE = re.compile(r"CLONE_NEW(NS|CGROUP|UTS|IPC|USER|PID|NET)\b")
_NETLINK = re.compile(r"(AF|PF)_NETLINK, [^,]*, (?!NETLINK_ROUTE\b)")
_PACKET = re.compile(r"(AF|PF)_INET, [^,]*SOCK_PACKET")
_OPEN_FAMILIES = re.compile(r"(AF|PF)_(UNIX|LOCAL|INET|INET6|NETLINK)\b")
_PSEUDO = re.compile(r"/(proc|sys)(/|$)")

_LACKED = (
    "the sandbox has {0}; this process lacks it (it gave it up, or is not root's and capabilities"
    " does not list it), or the object is not the sandbox's"
)


@dataclass(frozen=True)
class Call:
    """A failed call; ``arguments`` are as strace writes them, ``path`` is the file's, or ""."""

    name: str
    error: str
    arguments: str = ""
    path: str = ""


@dataclass(frozen=True)
class Confinement:
    """The rights of the caller: its capabilities, and whether the filter is in force."""

    capabilities: FrozenSet[str] = frozenset()
    filtered: bool = True
    read_only: bool = False


@dataclass(frozen=True)
class File:
    """A file that the caller can't use; ids are those inside, None is an id of nobody inside."""

    path: str
    owner: int | None
    group: int | None
    mode: int
    is_directory: bool = False


@dataclass(frozen=True)
class Answer:
    """``capabilities`` are those that would allow the call.

    ``of_file`` says that the permissions of the file may be the cause.
    """

    by: str
    remedy: str
    capabilities: Tuple[str, ...] = ()
    harmless: bool = False
    of_file: bool = False


def answer(call: Call, has: Confinement) -> Answer | None:
    """The cause and the remedy; None for errors that are a program's everyday life."""
    if has.filtered and call.error == filter_error(call, has.capabilities):
        return _filtered(call, has)
    row = _row(call)
    if row is not None:
        return _refused(row, has)
    if call.error not in TOLD:
        return None
    if call.error in FILE_ERRORS and call.path:
        return _of_path(call, has)
    if call.error == "ENOSYS":
        return Answer(KERNEL, "the kernel of the host has no such call", harmless=True)
    return Answer(KERNEL, "the kernel refuses it; no option is known")


def filter_error(call: Call, granted: FrozenSet[str]) -> str:
    """The error that the filter (seccomp.py) has for a call, "" if it lets the call pass."""
    if call.name in policy.INSPECTED:
        return _inspected(call, granted)
    keys = [name for name, calls in policy.GRANTED.items() if call.name in calls]
    if call.name in policy.DENIED or (keys and not granted.intersection(keys)):
        return "EPERM"
    return "" if keys or call.name in policy.ALLOWED else "ENOSYS"


def _inspected(call: Call, granted: FrozenSet[str]) -> str:
    words = call.arguments
    if call.name in ("clone", "clone3"):
        if "SYS_ADMIN" in granted:
            return ""
        return (
            "ENOSYS" if call.name == "clone3" else "EPERM" if _NEW_NAMESPACE.search(words) else ""
        )
    if call.name == "ioctl":
        return "EPERM" if re.search(r"\bTIOC(STI|LINUX)\b", words) else ""
    if call.name == "personality":
        return "EPERM"  # the kernel refuses none
    if call.name == "socketpair":
        return "" if re.match(r"(AF|PF)_(UNIX|LOCAL)\b", words) else "EPERM"
    if _NETLINK.match(words):
        return "" if "NET_ADMIN" in granted else "EPROTONOSUPPORT"
    raw = "NET_RAW" in granted
    if _PACKET.match(words) or re.match(r"(AF|PF)_PACKET\b", words):
        return "" if raw else "EPERM"
    return "" if _OPEN_FAMILIES.match(words) else "EPERM"


def _filtered(call: Call, has: Confinement) -> Answer:
    harmless = call.name in FALLS_BACK
    if call.name == "clone3":
        return Answer(FILTER, "libc uses clone in its place", harmless=True)
    if call.name == "socket":
        return _socket(call)
    if call.name in NEVER:
        return Answer(FILTER, NEVER[call.name], harmless=harmless)
    if call.name == "socketpair":
        return Answer(FILTER, "no option allows pairs of another family than AF_UNIX")
    keys = _keys(call.name)
    if not keys:
        return Answer(FILTER, "this sandlot does not know the call; libc falls back", harmless=True)
    instead = INSTEAD.get(call.name, "")
    text = f"nothing allows it but {granting(keys)}"
    if instead:
        text = f"{instead}; nothing else allows it but {granting(keys)}"
    return Answer(FILTER, text, keys, harmless)


def _keys(name: str) -> Tuple[str, ...]:
    if name == "clone":
        return ("SYS_ADMIN",)
    return tuple(sorted(key for key, calls in policy.GRANTED.items() if name in calls))


def _socket(call: Call) -> Answer:
    if _NETLINK.match(call.arguments):
        if "NETLINK_AUDIT" in call.arguments:
            text = "the audit log is the host's; programs go on without it"
            return Answer(FILTER, text, harmless=True)
        return Answer(FILTER, f"needs {granting(('NET_ADMIN',))}", ("NET_ADMIN",))
    if re.search(r"PACKET", call.arguments):
        return Answer(FILTER, f"needs {granting(('NET_RAW',))}", ("NET_RAW",))
    return Answer(FILTER, "no option allows sockets of this family")


def _row(call: Call) -> Row | None:
    fits = (row for row in ROWS if call.name in row.calls and call.error in row.errors)
    return next((row for row in fits if re.search(row.words, call.arguments)), None)


def _refused(row: Row, has: Confinement) -> Answer:
    if not row.needs:
        return Answer(KERNEL, row.text, of_file=row.of_file)
    if row.needs in has.capabilities:
        return Answer(KERNEL, _LACKED.format(row.needs))
    return Answer(KERNEL, f"needs {granting((row.needs,))}", (row.needs,))


def granting(names: Tuple[str, ...]) -> str:
    """The capabilities, and the options that grant them."""
    options = f"capabilities: [{names[0]}]"
    if set(names) <= set(profiles.CAPABILITIES[profiles.DAEMON]):
        options += f" or {profiles.OPTION}: {profiles.DAEMON}"
    return f"capability {' or '.join(names)} ({options})"


# -- files


def _of_path(call: Call, has: Confinement) -> Answer:
    if _PSEUDO.match(call.path):
        text = "files of the kernel are read-only inside, or masked; no option"
        if call.path.startswith("/proc/sys/"):
            text = _of_setting(call.path[len("/proc/sys/") :].replace("/", "."))
        return Answer(KERNEL, text)
    if call.error == "EROFS":
        text = "it is mounted read-only"
        if has.read_only:
            text = "the root is read-only: list the directory in tmpfs"
        return Answer(KERNEL, text)
    return Answer(KERNEL, "a flag of the mount, or a security module", of_file=True)


def _of_setting(name: str) -> str:
    try:
        sysctl_name("sysctls", name)
    except SandlotError:
        return f"{name} is the host's: set it there"
    return f"settings are read-only inside: set {name} in sysctls"


def is_open_to(file: File, user: int) -> bool:
    """Whether the permissions give a user all but the execution of a program.

    Groups are not known, so the bits of the group count for everybody.
    """
    bits = file.mode >> 6 if file.owner == user else file.mode | file.mode >> 3
    wanted = 0o7 if file.is_directory else 0o6
    return bits & wanted == wanted


def of_file(file: File, user: int, has: Confinement) -> Answer:
    """The remedy where the permissions of a file or of a directory on the way refuse."""
    owner = "nobody inside" if file.owner is None else f"user {file.owner}"
    what = "directory" if file.is_directory else "file"
    where = f"the {what} {file.path} belongs to {owner}, mode {file.mode:04o}; runs as {user}"
    if file.owner is None:
        return Answer(KERNEL, f"{where}: give it to a user of the sandbox, on the host")
    if user == 0 and "DAC_OVERRIDE" not in has.capabilities:
        remedy = f"without {granting(('DAC_OVERRIDE',))}, or set user: {file.owner}"
        return Answer(KERNEL, f"{where} {remedy}", ("DAC_OVERRIDE",))
    if user == file.owner or user == 0:
        return Answer(KERNEL, f"{where}: change its mode (chmod)")
    return Answer(KERNEL, f"{where}: change its owner (chown), or set user: {file.owner}")
