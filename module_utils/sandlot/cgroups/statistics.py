# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads the limit of a sandbox's memory, and the bytes that it has read and written."""

from __future__ import annotations

from typing import Optional, Tuple

from ..kernel import files
from ..site import Site
from .layout import Layout, detect

_MEMINFO = "/proc/meminfo"
# Version 1 counts what the throttling layer sees, with children.
_VERSION_1 = "blkio.throttle.io_service_bytes_recursive"


def memory_limit(site: Site, name: str, layout: Layout | None = None) -> Optional[int]:
    """The limit in bytes, at most the memory of the host; None without the controller."""
    directory = _directory(site, name, "memory", layout or detect())
    if not directory:
        return None
    limit = files.read_number(f"{directory}/memory.max")
    if limit is None:
        limit = files.read_number(f"{directory}/memory.limit_in_bytes")
    host = host_memory()
    return host if limit is None else min(limit, host)


def host_memory() -> int:
    with open(_MEMINFO, encoding="ascii") as handle:
        return int(handle.readline().split()[1]) << 10


def block_io(site: Site, name: str, layout: Layout | None = None) -> Optional[Tuple[int, int]]:
    """(bytes read from block devices, bytes written to them); None without the controller."""
    layout = layout or detect()
    unified = _directory(site, name, "io", layout)
    if unified:
        text = files.read_value(f"{unified}/io.stat")
        return None if text is None else _unified(text)
    directory = _directory(site, name, "blkio", layout)
    text = files.read_value(f"{directory}/{_VERSION_1}") if directory else None
    return None if text is None else _version_1(text)


def _unified(text: str) -> Tuple[int, int]:
    """Parse lines of a device and KEY=VALUE."""
    pairs = [word.partition("=") for word in text.split() if "=" in word]
    sums = {
        wanted: sum(int(value) for key, dummy, value in pairs if key == wanted and value.isdigit())
        for wanted in ("rbytes", "wbytes")
    }
    return sums["rbytes"], sums["wbytes"]


def _version_1(text: str) -> Tuple[int, int]:
    """Parse lines of a device, an operation and a number."""
    lines = [line.split() for line in text.splitlines()]
    sums = {
        wanted: sum(int(words[2]) for words in lines if len(words) == 3 and words[1] == wanted)
        for wanted in ("Read", "Write")
    }
    return sums["Read"], sums["Write"]


def _directory(site: Site, name: str, controller: str, layout: Layout) -> str:
    hierarchy = layout.having(controller)
    return hierarchy.sandbox(site, name) if hierarchy else ""
