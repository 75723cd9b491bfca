#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""An interpreter that runs the module on its standard input and dies, as by kill -9, on the way.

KILLED_AT is "EVENT COUNT": one of Python's audit events, and at which of its kind to die.
"""

from __future__ import annotations

import os
import signal
import sys

EVENT, COUNT = os.environ["KILLED_AT"].split()
SELF = os.getpid()
seen = 0


def hook(event: str, _: tuple[object, ...]) -> None:
    global seen
    if event != EVENT or os.getpid() != SELF:
        return
    seen += 1
    if seen == int(COUNT):
        os.kill(SELF, signal.SIGKILL)


program = compile(sys.stdin.read(), "<stdin>", "exec")
sys.addaudithook(hook)
exec(program, {"__name__": "__main__"})
