# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Parses the lines of strace, which quote what a tenant chose; nothing in them is trusted."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import List, Optional, Union

from ..security.refusals import Call

_PREFIX = re.compile(r"\[pid +(\d+)\] ")
_FAILED = re.compile(r"(\w+)\((.*)\) += -1 (E[A-Z0-9]+)(?: \(.*\))?$", re.S)
_KILLED = re.compile(r"\+\+\+ killed by (SIG\w+)")
_SECCOMP = re.compile(r"--- SIGSYS \{.*si_code=SYS_SECCOMP.*si_syscall=(?:__NR_)?(\w+)")
_FAULT = re.compile(r"--- (SIG(?:SEGV|BUS|ILL|FPE|ABRT)) ")
_FOREIGN = re.compile(r"strace: \[ Process PID=(\d+) runs in (32 bit|x32) mode")
# A descriptor with what it refers to; strace escapes "<" and ">" in names.
_DESCRIPTOR = re.compile(r"(?:AT_FDCWD|\d+)<(/[^<>]*)>")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\.\.\.)?')
# The first string of a call is its path, except of these.
_NO_PATH = frozenset(
    """
    connect bind sendto sendmsg write pwrite64 sethostname setdomainname memfd_create mount socket
    ioctl prctl
    """.split()
)


@dataclass(frozen=True)
class Refused:
    pid: int
    call: Call


@dataclass(frozen=True)
class Died:
    """A fatal signal; ``call`` is the one that the process's own filter forbids."""

    pid: int
    signal: str
    call: str = ""


@dataclass(frozen=True)
class Foreign:
    """The process runs a program of another entry of the kernel: "32 bit" or "x32"."""

    pid: int
    mode: str


Event = Union[Refused, Died, Foreign]


def event(line: str, first: int) -> Optional[Event]:
    """The event of a line; ``first`` is the process of lines without a pid."""
    foreign = _FOREIGN.match(line)
    if foreign:
        return Foreign(int(foreign[1]), foreign[2])
    prefix = _PREFIX.match(line)
    pid = int(prefix[1]) if prefix else first
    rest = line[prefix.end() :] if prefix else line
    failed = _FAILED.match(rest)
    if failed:
        name, arguments, error = failed.groups()
        return Refused(pid, Call(name, error, arguments, path(name, arguments)))
    seccomp = _SECCOMP.match(rest)
    if seccomp:
        return Died(pid, "SIGSYS", seccomp[1])
    killed = _KILLED.match(rest) or _FAULT.match(rest)
    return Died(pid, killed[1]) if killed else None


def path(name: str, arguments: str) -> str:
    """The absolute path of the file that a call is about, "" when it has none."""
    if name in _NO_PATH:
        return ""
    first = _STRING.search(arguments)
    at = _DESCRIPTOR.match(arguments)
    directory = _unescaped(at[1]) if at else ""
    if not first or first[2]:
        return directory if not first else ""
    text = _unescaped(first[1])
    if text.startswith("/"):
        return posixpath.normpath(text)
    return posixpath.normpath(posixpath.join(directory, text)) if directory else text


def _unescaped(text: str) -> str:
    """A string without C's escapes; bytes that are no UTF-8 stay surrogates."""
    raw = re.sub(r"\\([0-7]{1,3}|x[0-9a-f]{2}|.)", _character, text)
    return raw.encode("latin-1", "replace").decode("utf-8", "surrogateescape")


_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "b": "\b"}


def _character(match: re.Match[str]) -> str:
    word = match[1]
    if word[0] in "01234567":
        return chr(int(word, 8) & 0xFF)
    return chr(int(word[1:], 16)) if word[0] == "x" else _LETTERS.get(word, word)


class Lines:
    """Splits a stream into lines; the rest of a line that is too long is dropped."""

    LONGEST = 16384

    def __init__(self) -> None:
        self._rest = b""
        self._dropping = False

    def feed(self, data: bytes) -> List[str]:
        """Return the lines that are complete now."""
        *complete, rest = (self._rest + data).split(b"\n")
        lines = []
        for raw in complete:
            if not self._dropping and len(raw) <= self.LONGEST:
                lines.append(raw.decode("utf-8", "replace"))
            self._dropping = False
        if len(rest) > self.LONGEST:
            rest, self._dropping = b"", True
        self._rest = rest
        return lines
