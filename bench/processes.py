# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the kernel says of processes and directories."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Iterable

KIB = 1024
BLOCK = 512  # st_blocks, whatever the file system


def pss(pid: int) -> int:
    """Proportional set size in bytes: shared pages divided by the number of sharers."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * KIB
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Pss line")


def cpu_seconds(pid: int) -> float:
    """Of the process and all children that it waited for."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wakeups(pid: int) -> int:
    """Voluntary context switches of all threads: each is one time the process went to sleep."""
    return sum(_switches(task) for task in Path(f"/proc/{pid}/task").iterdir())


def _switches(task: Path) -> int:
    for line in (task / "status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    raise ValueError(f"{task}/status has no voluntary_ctxt_switches line")


def wakeups_during(pids: Iterable[int], seconds: float) -> dict[int, int]:
    before = {pid: wakeups(pid) for pid in pids}
    time.sleep(seconds)
    return {pid: wakeups(pid) - count for pid, count in before.items()}


def disk_usage(directory: str) -> int:
    """Bytes allocated below ``directory``, itself included."""
    total = os.lstat(directory).st_blocks
    for parent, directories, files in os.walk(directory):
        total += sum(
            os.lstat(os.path.join(parent, name)).st_blocks for name in (*directories, *files)
        )
    return total * BLOCK


def mentioning(text: str) -> list[int]:
    """Other processes with ``text`` in their command line."""
    return [pid for pid in _pids() if pid != os.getpid() and text in _command_line(pid)]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
