# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs commands, and says what each took."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from dataclasses import dataclass
from typing import Mapping, Sequence

LIMIT_SECONDS = 600


class Failed(Exception):
    """A command failed; the message ends with what it printed last."""


@dataclass(frozen=True)
class Done:
    """Wall-clock time, CPU time with that of all processes it waited for, and output."""

    seconds: float
    cpu: float
    output: str


def run(command: Sequence[str], *, environment: Mapping[str, str], cwd: str = "/") -> Done:
    started, used = time.monotonic(), _cpu_seconds()
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    seconds, cpu = time.monotonic() - started, _cpu_seconds() - used
    if done.returncode:
        words = " ".join(word for word in command[:8] if len(word) < 100)
        raise Failed(f"{words} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return Done(seconds, cpu, done.stdout)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
