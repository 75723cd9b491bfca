# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a sandbox said last: ends of its log and of its healthcheck's output, as harmless text.

Both files are written by init, which is no more trusted than its workload: they are read up to a
bound from their end, and what could command a terminal is escaped.
"""

from __future__ import annotations

import os
from typing import Dict, List, Mapping

from ..init import ring
from ..kernel.text import harmless
from ..site import SandboxPaths

LINES = 5
LONGEST = 256
_TAIL = 8192
_OUTPUT = 4096
_STREAMS = (b"stdout", b"stderr")


def last_log(
    sandbox: SandboxPaths, count: int = LINES, since: Mapping[str, int] | None = None
) -> List[str]:
    """The last lines of the log, oldest first, without times; with ``since``, newer ones only."""
    files = sorted(sandbox.logs, key=_age)
    begun = since or {}
    lines = [ln for path in files for ln in _log_lines(_tail(path, _TAIL, begun.get(path, 0)))]
    return lines[-count:]


def log_sizes(sandbox: SandboxPaths) -> Dict[str, int]:
    """What tells later lines from those there are."""
    return {path: os.stat(path).st_size for path in sandbox.logs if os.path.exists(path)}


def _age(path: str) -> tuple[bool, int]:
    fd = _opened(path)
    if fd is None:
        return False, 0
    try:
        return ring.age(fd)
    finally:
        os.close(fd)


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _tail(path: str, size: int, begin: int = 0) -> bytes:
    """The end of what there is after ``begin``; of all, when the file has begun anew."""
    fd = _opened(path)
    if fd is None:
        return b""
    try:
        length = os.fstat(fd).st_size
        return os.pread(fd, size, max(begin if begin <= length else 0, length - size))
    finally:
        os.close(fd)


def _log_lines(data: bytes) -> List[str]:
    """Texts of whole lines as init.logs writes them; the rest of a cut one is left out."""
    fields = [line.split(b" ", 3) for line in data.split(b"\n")]
    return [_shown(f[3])[:LONGEST] for f in fields if len(f) == 4 and f[1] in _STREAMS]


def last_output(sandbox: SandboxPaths) -> str:
    """What the last healthcheck printed, "" when it printed nothing."""
    text = _tail(sandbox.health, _OUTPUT).rstrip(b"\0")
    return "\n".join(_shown(line.rstrip()) for line in text.strip().split(b"\n"))


def _shown(text: bytes) -> str:
    return harmless(text.decode("utf-8", "replace"))
