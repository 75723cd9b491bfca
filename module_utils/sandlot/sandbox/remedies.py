# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Guesses what would help a workload that ended: from its spec, its status and its last words.

The words are those of libc and of common programs. A guess counts only where the spec agrees: a
capability that is not granted, a limit that is set.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Sequence, Tuple

from ..errors import SandlotError
from ..kernel.signals import signal
from . import runtime
from .elf_class import is_32_bit
from .process import Process, capabilities, process
from .record import Record

# Programs that want to be PID 1, or to run containers, by the name that starts them.
_INITS = frozenset(("systemd", "init", "openrc-init", "runit-init", "s6-svscan"))
_MANAGERS = frozenset(("dockerd", "containerd", "podman", "crio", "snapd", "lxd", "kubelet"))
_NOT_PID_1 = re.compile(
    r"not been booted with systemd|must be run as pid 1|can only run as pid 1|not running as pid 1"
    r"|trying to run as user instance|system has not been booted",
    re.I,
)
# Calls by their names in messages, and the capabilities that allow them.
_CAPABILITIES: Sequence[Tuple[str, Tuple[str, ...]]] = (
    (r"setgroups|initgroups|setgid|setresgid|setegid", ("SETGID",)),
    (r"setuid|setresuid|seteuid|switching (user|to)|su-exec|gosu|setpriv", ("SETUID", "SETGID")),
    (r"chown|changing owner", ("CHOWN",)),
    (r"chroot", ("SYS_CHROOT",)),
    (r"raw socket|\bping\b|packet socket", ("NET_RAW",)),
    (r"chmod|utime|setting times", ("FOWNER",)),
    (r"\bnice|setpriority|sched_set", ("SYS_NICE",)),
)


@dataclass(frozen=True)
class _Case:
    record: Record
    runs: Process
    code: int
    kills: int
    words: str
    roots: Sequence[str]

    @property
    def is_root(self) -> bool:
        return self.runs.user.partition(":")[0] in ("0", "root")

    @property
    def capabilities(self) -> Sequence[str]:
        """The capabilities that the workload starts with."""
        return capabilities(self.record) if self.is_root else self.record.spec.capabilities


def remedy(
    known: Record,
    status: Mapping[str, Any],
    kills: int,
    lines: List[str],
    roots: Sequence[str] = (),
) -> str:
    """The most likely remedy; "" when no fact gives one. ``roots`` are the trees of its root."""
    try:
        runs = process(known)
    except SandlotError:
        return ""
    code = int(status.get("exit_code", 0))
    case = _Case(known, runs, code, kills, "\n".join(lines), roots)
    return next((text for rule in _RULES if (text := rule(case))), "")


def _memory(case: _Case) -> str:
    limit = case.record.spec.memory
    killed = case.kills and case.code == runtime.KILLED
    if limit and (killed or _says(case, "cannot allocate memory|out of memory|bad_alloc")):
        return "give it more memory, or make it use less"
    return ""


def _init(case: _Case) -> str:
    name = posixpath.basename(case.runs.argv[0])
    if name in _INITS or _NOT_PID_1.search(case.words):
        return (
            f"{name} has to be PID 1, which is the sandbox's own init: name the service's own "
            "program as its command, one sandbox for each service"
        )
    if name in _MANAGERS:
        return (
            f"{name} makes mounts, namespaces and cgroups, which a sandbox may not: make its "
            "containers sandboxes of the host"
        )
    return ""


def _refused(case: _Case) -> str:
    granted = case.capabilities
    for line in case.words.splitlines():
        if not re.search("not permitted|permission denied", line, re.I):
            continue
        for calls, needed in _CAPABILITIES:
            missing = [name for name in needed if name not in granted]
            if missing and re.search(calls, line, re.I):
                return f"it may need capabilities: [{', '.join(missing)}]"
        if re.search(r"\bu?mount|unshare|pivot_root|namespace", line, re.I):
            return "a sandbox makes no mounts and namespaces: list what it mounts in tmpfs"
    return ""


def _read_only(case: _Case) -> str:
    if not _says(case, "read-only file ?system"):
        return ""
    if case.record.spec.read_only:
        return "its root is read-only: list the directories that it writes to in tmpfs"
    return "files of the kernel are read-only inside: see sysctls for those below /proc/sys"


def _user(case: _Case) -> str:
    if _says(case, "unknown user|no such user|unable to find user|getpwnam|no matching entries"):
        return "add the user to the image, or name one that it has"
    if not _says(case, "permission denied"):
        return ""
    user = case.runs.user
    if case.is_root:
        if "DAC_OVERRIDE" in case.capabilities:
            return ""
        return (
            "root of a sandbox may not pass over the permissions of files: run it as their owner "
            "(user), or give it capabilities: [DAC_OVERRIDE]"
        )
    return f"the file has to be {user}'s, or user has to be another one"


def _limits(case: _Case) -> str:
    spec = case.record.spec
    if spec.pids_limit and _says(case, "resource temporarily unavailable|fork|create.{0,20}thread"):
        return f"pids_limit is {spec.pids_limit}: give it more"
    if _says(case, "too many open files"):
        return "raise nofile in ulimits"
    if _says(case, "no space left on device"):
        return "free space on the host, or give the tmpfs that it fills a larger size"
    return ""


def _address(case: _Case) -> str:
    if not _says(case, "address (already )?in use"):
        return ""
    mode = case.record.spec.network_mode
    if mode.startswith("container:"):
        return f"it shares the ports of {mode.partition(':')[2]}: one of them has to use another"
    if mode == "host":
        return "it shares the ports of the host: it has to use another one"
    return "two of its processes want the same port"


def _missing(case: _Case) -> str:
    if case.code == 127 or _says(case, "no such file or directory|can't open|cannot find"):
        return "a file or program that it needs is not in its root: compare the image"
    return ""


def _says(case: _Case, words: str) -> bool:
    return re.search(words, case.words, re.I) is not None


def _foreign(case: _Case) -> str:
    """A refused 32-bit program dies of its own next instruction, or ends with any code."""
    spec, runs = case.record.spec, case.runs
    open_already = spec.seccomp_architectures or spec.seccomp_profile == "unconfined"
    if open_already or not is_32_bit(case.roots, runs.argv[0], runs.env):
        return ""
    return f"{runs.argv[0]} is a 32-bit program: give it seccomp_architectures: [x86]"


def _unknown(case: _Case) -> str:
    """Without a better fact, a traced run knows which call was refused."""
    refused = _says(case, "operation not permitted|permission denied|bad system call")
    if refused or case.code == 128 + signal.SIGSYS:
        return f"see which call was refused: sandlot trace {case.record.name}"
    return ""


_RULES: Tuple[Callable[[_Case], str], ...] = (
    _memory,
    _foreign,
    _init,
    _refused,
    _read_only,
    _user,
    _limits,
    _address,
    _missing,
    _unknown,
)
