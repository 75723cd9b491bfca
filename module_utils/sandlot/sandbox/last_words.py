# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The end of a sandbox's log and of its healthcheck's output, for messages."""

from __future__ import annotations

import time
from typing import List, Mapping, Sequence

from ..kernel.text import harmless
from ..site import SandboxPaths
from . import logs

LINES = 5
LONGEST = 256
_TAIL = 8192
_OUTPUT = 4096


def last_log(
    sandbox: SandboxPaths,
    count: int = LINES,
    since: Mapping[str, int] | None = None,
    *,
    after: float = 0.0,
) -> List[str]:
    """The last lines of the log that are not blank, oldest first, without times.

    With ``since`` (sizes of the files) or ``after`` (a time of time.time), newer lines only.
    """
    lines = logs.tail(sandbox, _TAIL, since)
    if after:
        seconds, nanoseconds = divmod(int(after * 1_000_000_000), 1_000_000_000)
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"
        lines = [line for line in lines if line.time >= stamp]
    texts = [line.text for line in lines if line.text.strip()]
    return [shown(text)[:LONGEST] for text in texts[-count:]]


def quoted(title: str, lines: Sequence[str]) -> str:
    """The title with the lines below it, each on its own: they may contain any mark."""
    return "".join((f"{title}:", *(f"\n    {line}" for line in lines)))


def explained(problem: str, remedy: str) -> str:
    """A message of several lines, with the remedy in the last one."""
    return f"{problem}\n  remedy: {remedy}" if remedy else problem


def last_output(sandbox: SandboxPaths) -> str:
    """The output of the last healthcheck, "" when it printed nothing."""
    text = logs.read_end(sandbox.health, _OUTPUT).rstrip(b"\0")
    return "\n".join(shown(line.rstrip()) for line in text.strip().split(b"\n"))


def shown(text: bytes) -> str:
    return harmless(text.decode("utf-8", "replace"))
