# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Collects the refused calls of a traced run, each once, with its remedy."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ..kernel import mounts, processes
from ..kernel.text import harmless
from ..sandbox.strace_lines import Died, Event, Foreign, Refused
from ..security import refusals
from ..security.refusals import Answer, Call, Confinement, File
from ..spec.confinement import CAPABILITIES

# A tenant may be refused without end.
_MOST = 200
_SHOWN = 160
# Data may be secret.
_DATA = re.compile(r'"(?:[^"\\]|\\.)*"(?:\.\.\.)?')
_SENDS = frozenset("pwrite64 pwritev pwritev2 sendmmsg sendmsg sendto write writev".split())
# Pointers tell nothing, and are others in each run.
_POINTER = re.compile(r"\b0x[0-9a-f]{5,}\b")


@dataclass
class Finding:
    pid: int
    call: str
    arguments: str
    error: str
    path: str
    by: str
    remedy: str
    capabilities: Tuple[str, ...]
    harmless: bool
    count: int = 1

    def to_json(self) -> Dict[str, Any]:
        return {**asdict(self), "capabilities": list(self.capabilities)}

    def __str__(self) -> str:
        by = "the filter refuses it; " if self.by == refusals.FILTER else ""
        times = f" ({self.count} times)" if self.count > 1 else ""
        mark = " (usually harmless)" if self.harmless else ""
        return f"{self.call}({self.arguments}) {self.error}{times}: {by}{self.remedy}{mark}"


class Findings:
    """``init`` is the sandbox's init, whose rights are those of the traced command."""

    def __init__(self, init: int, launch: Mapping[str, Any]) -> None:
        self._init = init
        self._ids = launch["ids"]
        self.first = 0
        self.left_out = 0
        self.killed = ""
        self._has = confinement(init, read_only=bool(launch.get("read_only")))
        self._foreign: Dict[int, str] = {}
        self._entries: Dict[Tuple[str, str, str], Finding] = {}

    def add(self, event: Event) -> None:
        if isinstance(event, Foreign):
            self._foreign[event.pid] = event.mode
        elif isinstance(event, Died):
            self._died(event)
        else:
            self._refused(event)

    def _refused(self, event: Refused) -> None:
        call = event.call
        if event.pid in self._foreign and call.error == "EPERM":
            mode = self._foreign[event.pid]
            remedy = f"the program is a {mode} one: give it seccomp_architectures: [x86]"
            entry = Finding(event.pid, mode, "", "EPERM", "", refusals.FILTER, remedy, (), False)
            self._keep((mode, "", ""), entry)
            return
        answer = refusals.answer(call, self._has)
        if answer is None:
            return
        words = _DATA.sub('"..."', call.arguments) if call.name in _SENDS else call.arguments
        shown = _POINTER.sub("0x...", harmless(words))
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        key = (call.name, call.error, call.path or shown)
        if key in self._entries:
            self._entries[key].count += 1
            return
        if len(self._entries) < _MOST:
            answer = self._with_file(event.pid, call, answer)
        self._keep(
            key, Finding(event.pid, call.name, shown, call.error, harmless(call.path), *_of(answer))
        )

    def _keep(self, key: Tuple[str, str, str], entry: Finding) -> None:
        if key in self._entries:
            self._entries[key].count += 1
        elif len(self._entries) < _MOST:
            self._entries[key] = entry
        else:
            self.left_out += 1

    def _died(self, event: Died) -> None:
        self.killed = event.signal if event.pid == self.first else self.killed
        if event.signal == "SIGSYS":
            # The sandbox's filter kills nobody. The kernel may not name the call (seccomp(2)).
            call = event.call or "a call"
            remedy = "a filter that the program gave itself ends it there: see its own settings"
            entry = Finding(event.pid, call, "", event.signal, "", "program", remedy, (), False)
            if event.call or not any(each.error == "SIGSYS" for each in self._entries.values()):
                self._keep((call, event.signal, ""), entry)

    def _with_file(self, pid: int, call: Call, answer: Answer) -> Answer:
        """Say whose the file is, where its permissions are what refuses."""
        if not answer.of_file or not call.path:
            return answer
        user = user_of(pid, self._ids)
        file = self._blocking(call.path, user)
        if file is None or refusals.is_open_to(file, user):
            return answer
        return refusals.of_file(file, user, self._has)

    def _blocking(self, path: str, user: int) -> Optional[File]:
        """The first directory on the way that keeps ``user`` out, or else the file."""
        if not path.startswith("/"):
            return None
        steps = path.strip("/").split("/")
        last = None
        root = os.open(f"/proc/{self._init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for count in range(len(steps) + 1):
                file = self._look(root, "/" + "/".join(steps[:count]))
                if file is None:
                    break
                last = file
                if count < len(steps) and not may_enter(file, user):
                    break
        finally:
            os.close(root)
        return last

    def _look(self, root: int, path: str) -> Optional[File]:
        try:
            fd = mounts.openat2(root, path.lstrip("/") or ".", os.O_PATH, mounts.RESOLVE_IN_ROOT)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        owner, group = inside(status.st_uid, self._ids), inside(status.st_gid, self._ids)
        mode = stat.S_IMODE(status.st_mode)
        shown = harmless(posixpath.normpath(path))
        return File(shown, owner, group, mode, stat.S_ISDIR(status.st_mode))

    def entries(self) -> List[Finding]:
        """The refusals, with the harmless ones last."""
        return sorted(self._entries.values(), key=lambda entry: entry.harmless)

    def lines(self) -> List[str]:
        entries = self.entries()
        more = [f"{self.left_out} more refusals are left out"] if self.left_out else []
        return [*map(str, entries), *more] or ["no call was refused"]


def _of(answer: Answer) -> Tuple[str, str, Tuple[str, ...], bool]:
    return answer.by, answer.remedy, answer.capabilities, answer.harmless


def confinement(init: int, *, read_only: bool) -> Confinement:
    """The confinement of a running init, as the kernel has it."""
    status = processes.status(init)
    mask = int(status.get("CapBnd", "0"), 16)
    granted = (name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)
    filtered = status.get("Seccomp") == "2"
    return Confinement(frozenset(granted), filtered, read_only)


def user_of(pid: int, ids: Mapping[str, int]) -> int:
    """The file user of a process, inside; root when it has ended."""
    words = processes.status(pid).get("Uid", "").split()
    return (inside(int(words[3]), ids) or 0) if len(words) > 3 else 0


def inside(number: int, ids: Mapping[str, int]) -> Optional[int]:
    """An id of the host as the sandbox sees it; None when it has no such id."""
    number -= ids["uid"]
    return number if 0 <= number < ids["size"] else None


def may_enter(directory: File, user: int) -> bool:
    """Whether the owner's or everybody's bits let a user pass a directory."""
    return bool(directory.mode & (0o100 if directory.owner == user else 0o001))
