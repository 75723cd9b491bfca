# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot stats: what sandboxes use of processors, memory, network and disks; docker's columns."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import sys
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .. import cgroups
from ..cgroups import statistics
from ..sandbox import names, runtime
from ..site import Site
from . import output

Json = Dict[str, Any]
# A rate needs two looks.
SECONDS = 1.0
HEADS = ("NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS")
_TOP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def run(site: Site, options: argparse.Namespace) -> int:
    for name in options.name:
        names.check(site, name)
    asked = list(dict.fromkeys(options.name))
    streams = sys.stdout.isatty() and not options.no_stream and options.format == "text"
    before = _cpu_times(site, asked)
    while True:
        # A pause without a process or a descriptor to wait for.
        select.select([], [], [], SECONDS)
        after = _cpu_times(site, asked)
        entries = [_entry(site, name, before.get(name), now) for name, now in after.items()]
        before = after
        if options.format == "json":
            output.print_json(entries)
        elif streams:
            _redraw(_table(entries))
        else:
            sys.stdout.write(_table(entries))
        if not streams:
            return 0


def _cpu_times(site: Site, asked: Sequence[str]) -> Dict[str, Tuple[float, Optional[float]]]:
    """The moment, and the seconds of CPU so far, of those asked for, else of all that run."""
    layout = cgroups.detect()
    running = (name for name in names.recorded(site) if runtime.running(site.sandbox(name)))
    return {
        name: (time.monotonic(), cgroups.usage(site, name, layout).cpu_seconds)
        for name in asked or running
    }


def _entry(
    site: Site,
    name: str,
    before: Optional[Tuple[float, Optional[float]]],
    now: Tuple[float, Optional[float]],
) -> Json:
    layout = cgroups.detect()
    usage = cgroups.usage(site, name, layout)
    limit = statistics.memory_limit(site, name, layout)
    received, sent = network_bytes(site, name) or (None, None)
    read, written = statistics.block_io(site, name, layout) or (None, None)
    return {
        "name": name,
        "cpu_percent": _cpu_percent(before, now),
        "memory": usage.memory,
        "memory_limit": limit,
        "memory_percent": round(100 * usage.memory / limit, 2) if limit and usage.memory else None,
        "network_received": received,
        "network_sent": sent,
        "block_read": read,
        "block_written": written,
        "pids": usage.pids,
    }


def _cpu_percent(
    before: Optional[Tuple[float, Optional[float]]], now: Tuple[float, Optional[float]]
) -> Optional[float]:
    """The share of one processor; a sandbox that was started meanwhile has none yet."""
    if before is None or before[1] is None or now[1] is None or now[1] < before[1]:
        return None
    return round(100 * (now[1] - before[1]) / (now[0] - before[0]), 2)


def network_bytes(site: Site, name: str) -> Optional[Tuple[int, int]]:
    """Bytes (received, sent) as the sandbox counts them, without loopback.

    None for a sandbox in the network namespace of the host.
    """
    init = runtime.running(site.sandbox(name))
    if init is None:
        return None
    process = f"/proc/{init.pid}"
    try:
        if os.stat(f"{process}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            return None
        with open(f"{process}/net/dev", encoding="utf-8", errors="replace") as handle:
            lines = [line.rpartition(":") for line in handle.readlines()[2:]]
    except (FileNotFoundError, ProcessLookupError):
        return None
    counts = [fields.split() for link, dummy, fields in lines if link.strip() != "lo"]
    return sum(int(words[0]) for words in counts), sum(int(words[8]) for words in counts)


def _table(entries: Sequence[Mapping[str, Any]]) -> str:
    return output.table(HEADS, [_row(entry) for entry in entries], right=HEADS[1:])


def _row(entry: Mapping[str, Any]) -> List[str]:
    return [
        entry["name"],
        _percent(entry["cpu_percent"]),
        _pair(entry["memory"], entry["memory_limit"]),
        _percent(entry["memory_percent"]),
        _pair(entry["network_received"], entry["network_sent"]),
        _pair(entry["block_read"], entry["block_written"]),
        output.NOTHING if entry["pids"] is None else str(entry["pids"]),
    ]


def _percent(value: Optional[float]) -> str:
    return output.NOTHING if value is None else f"{value:.2f}%"


def _pair(first: Optional[int], second: Optional[int]) -> str:
    if first is None and second is None:
        return output.NOTHING
    return f"{output.size(first)} / {output.size(second)}"


def _redraw(text: str) -> None:
    """Draw over what is on the screen; what does not fit is left out."""
    columns, rows = shutil.get_terminal_size()
    lines = [line[:columns] for line in text.splitlines()[: rows - 1]]
    body = "".join(f"{line}{_CLEAR_LINE}\n" for line in lines)
    sys.stdout.write(f"{_TOP}{body}{_CLEAR_BELOW}")
    sys.stdout.flush()
