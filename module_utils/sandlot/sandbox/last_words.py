# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The end of a sandbox's log and of its healthcheck's output, for messages."""

from __future__ import annotations

from typing import List, Mapping

from ..kernel.text import harmless
from ..site import SandboxPaths
from . import logs

LINES = 5
LONGEST = 256
_TAIL = 8192
_OUTPUT = 4096


def last_log(
    sandbox: SandboxPaths, count: int = LINES, since: Mapping[str, int] | None = None
) -> List[str]:
    """The last lines of the log, oldest first, without times; with ``since``, newer ones only."""
    return [shown(line.text)[:LONGEST] for line in logs.tail(sandbox, _TAIL, since)[-count:]]


def last_output(sandbox: SandboxPaths) -> str:
    """The output of the last healthcheck, "" when it printed nothing."""
    text = logs.read_end(sandbox.health, _OUTPUT).rstrip(b"\0")
    return "\n".join(shown(line.rstrip()) for line in text.strip().split(b"\n"))


def shown(text: bytes) -> str:
    return harmless(text.decode("utf-8", "replace"))
