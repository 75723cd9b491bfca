# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The limits of a spec as values of files, for each version of cgroups.

Values are compared in the form the kernel shows them, with "unlimited" for both versions' ways to
say it. An option that is not set stands for the kernel's default, so a withdrawn one is noticed.

``memory_swap`` is docker's: memory and swap together, unlimited when -1, and twice ``memory`` when
only that is set. Version 2 counts swap by itself, so there it is the difference.

Version 1 counts the memory of TCP and UDP sockets by itself, and only below a limit of their own;
it is as high as ``memory``. Version 2 counts them as memory.

``memory_reservation`` is a soft limit in version 1 and protected memory in version 2, as with the
OCI runtimes.

``cpu_shares`` becomes a weight of version 2 by the curve the OCI runtimes agreed on, which takes
2, 1024 and 262144 to 1, 100 and 10000.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Mapping

from ..kernel import cpulist

if TYPE_CHECKING:
    from ..spec import Spec

UNLIMITED = "unlimited"
PERIOD = 100000

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST = (2**63 - 1) // _PAGE * _PAGE  # what version 1 shows for no limit
_SHARES = (2, 262144)
SOCKETS_FILE = "memory.kmem.tcp.limit_in_bytes"  # UDP too, whatever the name says


@dataclass(frozen=True)
class Host:
    """CPUs and memory nodes a sandbox may use."""

    cpus: frozenset[int]
    mems: frozenset[int]


@dataclass(frozen=True)
class Knob:
    """One file: its value for a spec, and how "unlimited" is written.

    The first word of ``label`` is the option. ``fresh`` is the text in a new cgroup of version 2.
    """

    label: str
    controller: str
    file: str
    wanted: Callable[[Spec, Host], str]
    unlimited: str = "max"
    show: Callable[[str], str] = str
    parse: Callable[[str], str] = str
    fresh: str = "max"

    @property
    def option(self) -> str:
        return self.label.split()[0]

    def canonical(self, text: str | None) -> str | None:
        if text is None:
            return None
        if text in ("max", "-1") or (text.isdigit() and int(text) >= _MOST):
            return UNLIMITED
        return self.parse(text)

    def spelled(self, value: str) -> str:
        return self.unlimited if value == UNLIMITED else value


def memory(spec: Spec) -> int | None:
    return None if spec.memory is None else _pages(spec.memory)


def reservation(spec: Spec) -> int | None:
    return None if spec.memory_reservation is None else _pages(spec.memory_reservation)


def memory_and_swap(spec: Spec) -> int | None:
    if spec.memory is None or spec.memory_swap == -1:
        return None
    return _pages(spec.memory_swap or 2 * spec.memory)


def quota(spec: Spec) -> int | None:
    return None if spec.cpus is None else round(spec.cpus * PERIOD)


def shares(asked: int | None) -> int:
    low, high = _SHARES
    return 1024 if asked is None else min(max(asked, low), high)


def weight(asked: int | None) -> int:
    logarithm = math.log2(shares(asked))
    exponent = (logarithm**2 + 125 * logarithm) / 612 - 7 / 34
    # Rounded first: the curve meets whole numbers, and a float may be a hair above them.
    return max(1, math.ceil(round(10**exponent, 6)))


def _pages(size: int) -> int:
    return size // _PAGE * _PAGE


def _or_unlimited(value: int | None) -> str:
    return UNLIMITED if value is None or value >= _MOST else str(value)


def _pids(spec: Spec, host: Host) -> str:
    return _or_unlimited(None if spec.pids_limit < 0 else spec.pids_limit)


def _memory(spec: Spec, host: Host) -> str:
    return _or_unlimited(memory(spec))


def _swap(spec: Spec, host: Host) -> str:
    total, own = memory_and_swap(spec), memory(spec)
    return _or_unlimited(None if total is None or own is None else total - own)


def _bandwidth(spec: Spec, host: Host) -> str:
    return UNLIMITED if spec.cpus is None else f"{quota(spec)} {PERIOD}"


def _show_cpus(value: str) -> str:
    """The CPUs of a quota, with or without its period."""
    words = value.split()
    return value if value == UNLIMITED else f"{int(words[0]) / PERIOD:.6g}"


# In the order they are written in; a process may join only where cpuset has CPUs and nodes.
VERSION_1: tuple[Knob, ...] = (
    Knob("cpuset_mems", "cpuset", "cpuset.mems", lambda spec, host: cpulist.render(host.mems)),
    Knob(
        "cpuset_cpus",
        "cpuset",
        "cpuset.cpus",
        lambda spec, host: cpulist.render(spec.cpuset_cpus or host.cpus),
    ),
    Knob(
        "memory_swap",
        "memory",
        "memory.memsw.limit_in_bytes",
        lambda spec, host: _or_unlimited(memory_and_swap(spec)),
        "-1",
    ),
    Knob("memory", "memory", "memory.limit_in_bytes", _memory, "-1"),
    Knob("memory of sockets", "memory", SOCKETS_FILE, _memory, "-1"),
    Knob(
        "memory_reservation",
        "memory",
        "memory.soft_limit_in_bytes",
        lambda spec, host: _or_unlimited(reservation(spec)),
        "-1",
    ),
    Knob("cpus period", "cpu", "cpu.cfs_period_us", lambda spec, host: str(PERIOD)),
    Knob(
        "cpus",
        "cpu",
        "cpu.cfs_quota_us",
        lambda spec, host: _or_unlimited(quota(spec)),
        "-1",
        _show_cpus,
    ),
    Knob("cpu_shares", "cpu", "cpu.shares", lambda spec, host: str(shares(spec.cpu_shares))),
    Knob("pids_limit", "pids", "pids.max", _pids),
    Knob("freezer", "freezer", "freezer.state", lambda spec, host: "THAWED"),
)
VERSION_2: tuple[Knob, ...] = (
    Knob(
        "cpuset_cpus",
        "cpuset",
        "cpuset.cpus",
        lambda spec, host: cpulist.render(spec.cpuset_cpus or ()),
        fresh="",
    ),
    Knob("memory_swap beyond memory", "memory", "memory.swap.max", _swap),
    Knob("memory", "memory", "memory.max", _memory),
    Knob(
        "memory_reservation",
        "memory",
        "memory.low",
        lambda spec, host: str(reservation(spec) or 0),
        fresh="0",
    ),
    Knob(
        "cpus",
        "cpu",
        "cpu.max",
        _bandwidth,
        "max",
        _show_cpus,
        lambda text: UNLIMITED if text.startswith("max") else text,
        fresh=f"max {PERIOD}",
    ),
    Knob(
        "cpu_shares as weight",
        "cpu",
        "cpu.weight",
        lambda spec, host: str(weight(spec.cpu_shares)),
        fresh="100",
    ),
    Knob("pids_limit", "pids", "pids.max", _pids),
    Knob("freezer", "cgroup", "cgroup.freeze", lambda spec, host: "0", fresh="0"),
)

SWAP_FILES = frozenset(("memory.memsw.limit_in_bytes", "memory.swap.max"))

# Knobs that no option sets.
_FIXED = frozenset(("cpuset_mems", "freezer"))
# The controller that each option of either version needs.
CONTROLLERS: Mapping[str, str] = {
    knob.option: knob.controller for knob in (*VERSION_1, *VERSION_2) if knob.option not in _FIXED
}
