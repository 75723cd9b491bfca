# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Measures the memory, CPU time and processes of a sandbox."""

from __future__ import annotations

from dataclasses import dataclass

from ..kernel import files
from ..site import Site
from .layout import Layout, detect


@dataclass(frozen=True)
class Usage:
    """A sandbox's usage; None where the host lacks the controller or the sandbox its cgroup."""

    memory: int | None
    cpu_seconds: float | None
    pids: int | None
    oom_kills: int | None
    refused_processes: int | None = None
    """How often pids_limit has refused a process since the cgroup was made."""


def usage(site: Site, name: str, layout: Layout | None = None) -> Usage:
    layout = layout or detect()
    unified = next((hierarchy for hierarchy in layout.hierarchies if hierarchy.unified), None)

    def directory(controller: str) -> str:
        hierarchy = layout.having(controller) or unified
        return hierarchy.sandbox(site, name) if hierarchy else ""

    memory = directory("memory")
    oom_kills = files.read_field(f"{memory}/memory.events", "oom_kill")
    if oom_kills is None:
        oom_kills = files.read_field(f"{memory}/memory.oom_control", "oom_kill")
    cpu = directory("cpuacct")
    ticks, scale = files.read_number(f"{cpu}/cpuacct.usage"), 1e9
    if ticks is None:
        ticks, scale = files.read_field(f"{cpu}/cpu.stat", "usage_usec"), 1e6
    return Usage(
        memory=_all_memory(memory),
        cpu_seconds=None if ticks is None else ticks / scale,
        pids=files.read_number(f"{directory('pids')}/pids.current"),
        oom_kills=oom_kills,
        refused_processes=files.read_field(f"{directory('pids')}/pids.events", "max"),
    )


def _all_memory(directory: str) -> int | None:
    """Memory with that of sockets, which version 1 counts apart."""
    memory = used_memory(directory)
    return None if memory is None else memory + (used_by_sockets(directory) or 0)


def used_by_sockets(directory: str) -> int | None:
    return files.read_number(f"{directory}/memory.kmem.tcp.usage_in_bytes")


def used_memory(directory: str) -> int | None:
    new = files.read_number(f"{directory}/memory.current")
    return new if new is not None else files.read_number(f"{directory}/memory.usage_in_bytes")
