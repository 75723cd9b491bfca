# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of resource limits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ...plan import Change
from .. import confinement, quantities
from ..option import Option, Reach, strings
from ..text import flag, refusal

if TYPE_CHECKING:
    from ..model import Spec

MAX_PIDS = 4_194_304
LEAST = quantities.readable(quantities.MEMORY_MINIMUM)


def _fits_memory(spec: Spec) -> None:
    if spec.memory_swap is None:
        return
    if spec.memory is None:
        hint = "set memory as well"
        raise refusal("memory_swap", spec.memory_swap, "is given without memory", hint=hint)
    if spec.memory_swap != quantities.UNLIMITED and spec.memory_swap < spec.memory:
        problem = f"is less than memory ({spec.memory})"
        hint = "it is the sum of memory and swap"
        raise refusal("memory_swap", spec.memory_swap, problem, hint=hint)


def _fits_below_memory(spec: Spec) -> None:
    reservation = spec.memory_reservation
    if reservation is not None and spec.memory is not None and reservation > spec.memory:
        problem = f"is more than memory ({spec.memory})"
        hint = "lower it, or raise memory"
        raise refusal("memory_reservation", reservation, problem, hint=hint)


OPTIONS = (
    Option(
        "memory",
        "str",
        partial(quantities.size, minimum=quantities.MEMORY_MINIMUM),
        [
            f"Memory limit, at least V({LEAST}); a number of bytes, or with a unit of "
            "V(b), V(k), V(m), V(g) or V(t). O(memory_swap) bounds swap.",
            "It includes the buffers of network sockets; version 1 of cgroups counts those apart, "
            "up to the same limit.",
        ],
        numeric=True,
        reaches={Reach.CGROUP},
        change=Change.LIVE,
    ),
    Option(
        "memory_reservation",
        "str",
        partial(quantities.size, minimum=quantities.MEMORY_MINIMUM),
        [
            f"Memory that the sandbox keeps while the host is short of it, at least V({LEAST}), in "
            "the notation of O(memory) and not above that.",
            "The kernel takes memory first from what lies above its owner's reservation.",
        ],
        numeric=True,
        reaches={Reach.CGROUP},
        change=Change.LIVE,
        later=True,
        check=_fits_below_memory,
    ),
    Option(
        "memory_swap",
        "str",
        quantities.swap,
        [
            "Limit of memory and swap together, not below O(memory), which it needs.",
            "Without it, twice O(memory): the sandbox swaps as much as it has of memory. The same "
            "as O(memory) is no swap, V(-1) leaves swap without a limit.",
        ],
        numeric=True,
        reaches={Reach.CGROUP},
        change=Change.LIVE,
        check=_fits_memory,
    ),
    Option(
        "cpus",
        "float",
        partial(quantities.number, minimum=0.01, maximum=quantities.MAX_CPUS, digits=5),
        ["CPU time limit, in CPUs; V(0.5) is half of one."],
        reaches={Reach.CGROUP},
        change=Change.LIVE,
    ),
    Option(
        "cpu_shares",
        "int",
        partial(quantities.integer, minimum=2, maximum=262144),
        ["Weight when CPUs are contended, from 2 to 262144; 1024 is that of other processes."],
        reaches={Reach.CGROUP},
        change=Change.LIVE,
    ),
    Option(
        "cpuset_cpus",
        "str",
        quantities.cpu_set,
        ["CPUs the sandbox may run on, such as V(0-3) or V(0,2)."],
        dump=quantities.show_cpus,
        numeric=True,
        reaches={Reach.CGROUP},
        change=Change.LIVE,
    ),
    Option(
        "pids_limit",
        "int",
        partial(quantities.pids, maximum=MAX_PIDS),
        [
            "How many processes and threads may exist in the sandbox, its init included.",
            "V(-1) leaves it without a limit.",
        ],
        reaches={Reach.CGROUP},
        change=Change.LIVE,
        default=2048,
    ),
    Option(
        "ulimits",
        "list",
        confinement.ulimits,
        [
            "Resource limits of each process, as V(NAME:SOFT:HARD) or V(NAME:BOTH).",
            "V(-1) is unlimited. Names are those of setrlimit(2), in lower case: V(nofile).",
        ],
        reaches={Reach.CONFINEMENT},
        key="rlimits",
        change=Change.RESTART,
        default=[],
        dump=strings,
        elements="str",
    ),
    Option(
        "lxcfs",
        "bool",
        flag,
        [
            "Whether C(/proc/meminfo), C(/proc/cpuinfo) and others that show the host show the "
            "sandbox's limits, for C(free), C(top) and C(uptime).",
            "The host needs lxcfs, mounted at C(/var/lib/lxcfs); a program of the host's root "
            "answers the sandbox's reads then.",
        ],
        reaches={Reach.ROOT},
        change=Change.RESTART,
        default=False,
        later=True,
    ),
    Option(
        "disk_size",
        "str",
        partial(quantities.size, minimum=quantities.DISK_MINIMUM),
        [
            "The most that the sandbox may write into its root, at least V(16m), in the notation "
            "of O(memory).",
            "The kernel enforces it: by a project quota where the file system has one, else by a "
            "file system of that size in a sparse file. Where neither works it is refused, as it "
            "is for roots in memory.",
            "A change by which the layer has to move restarts the sandbox.",
        ],
        numeric=True,
        reaches={Reach.CONVERGE},
        change=Change.LIVE,
        later=True,
    ),
    Option(
        "ingress_rate",
        "str",
        quantities.bit_rate,
        [
            "Bits a second that each of the sandbox's interfaces takes in, from V(8kbit) to "
            "V(34gbit); a number, or with a unit of V(k), V(m) or V(g), as in V(10mbit).",
        ],
        numeric=True,
        reaches={Reach.INTERFACES},
        change=Change.LIVE,
    ),
    Option(
        "egress_rate",
        "str",
        quantities.bit_rate,
        [
            "Bits a second that each of the sandbox's interfaces sends, in the notation of "
            "O(ingress_rate). It is kept outside the sandbox, out of its reach.",
        ],
        numeric=True,
        reaches={Reach.INTERFACES},
        change=Change.LIVE,
    ),
)
