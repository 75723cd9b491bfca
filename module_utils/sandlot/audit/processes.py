# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Namespaces, ids and confinement of a sandbox's processes, by /proc/PID of the host (proc(5))."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Dict, List

from ..kernel import processes
from ..kernel.files import read_value
from ..site import PINNED
from ..spec.confinement import CAPABILITIES
from .subject import Look, Subject

_KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def by_pid_namespace() -> Dict[str, List[int]]:
    """The processes of the host by their pid namespace, as /proc names it."""
    known: Dict[str, List[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit():
            known[namespace(int(name), "pid")].append(int(name))
    return known


def namespace(pid: int, kind: str) -> str:
    """A namespace as "net:[4026531840]"; "" of a process that has ended or is hidden."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        # A security module may hide processes of the host, even from root.
        return ""


def namespaces(subject: Subject) -> Look:
    """Each namespace is the pinned one, and none is the host's unless the sandbox joins that."""
    init, joined = subject.init.pid, subject.launch.get("netns")
    look = Look(", ".join(_KINDS if not joined else (kind for kind in _KINDS if kind != "net")))
    for kind in _KINDS:
        place = subject.site.sandbox(subject.record.name).pin(kind) if kind in PINNED else ""
        if kind == "net" and joined:
            place = joined["path"]
        elif namespace(init, kind) == namespace(os.getpid(), kind):
            look.expect(f"namespace {kind}", "of its own", "of the host")
        if place:
            look.expect(f"namespace {kind}", _mounted_at(place, kind), namespace(init, kind))
    return look


def _mounted_at(path: str, kind: str) -> str:
    try:
        return f"{kind}:[{os.stat(path).st_ino}]"
    except FileNotFoundError:
        return f"none at {path}"


def ids(subject: Subject) -> Look:
    """The map of ids is the range of the record."""
    ids = subject.record.ids
    look = Look(f"{ids.start}-{ids.last}")
    for name in ("uid_map", "gid_map"):
        text = read_value(f"/proc/{subject.init.pid}/{name}") or ""
        look.expect(name, f"0 {ids.start} {ids.size}", " ".join(text.split()))
    return look


def confinement(subject: Subject) -> Look:
    """No process has more capabilities than the sandbox, nor less of a filter, nor other limits."""
    mask = subject.launch["capabilities"]
    owned = _names(mask) or "no capability"
    filtered = subject.launch["seccomp"] is not None
    secured = subject.launch.get("no_new_privileges", True)
    words = [owned, *(["filter"] if filtered else []), *(["no_new_privs"] if secured else [])]
    look = Look(f"{', '.join(words)}; {len(subject.pids)} processes")
    cgroups, user = _cgroups(subject.init.pid), namespace(subject.init.pid, "user")
    for pid in subject.pids:
        status = processes.status(pid)
        if not status or processes.state(pid) in processes.DEAD:
            continue
        who = f"process {pid} ({processes.name(pid)})"
        if "SYS_ADMIN" not in owned and namespace(pid, "user") not in (user, ""):
            look.expect(who, "of the sandbox", "entered from outside")
            continue
        for kind in _SETS:
            more = _names(int(status[kind], 16) & ~mask)
            look.expect(f"{kind} of {who}", owned, f"{owned} and {more}" if more else owned)
        look.expect(f"Seccomp of {who}", "2" if filtered else "0", status["Seccomp"])
        look.expect(f"NoNewPrivs of {who}", "1" if secured else "0", status["NoNewPrivs"])
        look.expect(f"cgroups of {who}", cgroups, _cgroups(pid) or cgroups)
    return look


def _names(mask: int) -> str:
    return " ".join(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


def _cgroups(pid: int) -> str:
    return " ".join((read_value(f"/proc/{pid}/cgroup") or "").split("\n"))
