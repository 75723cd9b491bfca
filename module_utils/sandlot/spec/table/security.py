# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of confinement."""

from __future__ import annotations

from functools import partial

from ...plan import Change
from .. import confinement, names, quantities, text
from ..option import Option, Reach, record
from ..values import TimeOffset

SECCOMP_PROFILES = ("default", "unconfined")
# The kernel's bound is 146 years from the clock's zero; a century leaves room to run.
MAX_OFFSET = 3_000_000_000

_seconds = partial(quantities.number, minimum=-MAX_OFFSET, maximum=MAX_OFFSET, digits=6)
_CLOCK_FIELDS = (
    Option("monotonic", "float", _seconds, ["Seconds added to C(CLOCK_MONOTONIC)."], default=0),
    Option("boottime", "float", _seconds, ["Seconds added to C(CLOCK_BOOTTIME)."], default=0),
)


def _dump_offset(offset: TimeOffset | None) -> dict[str, float] | None:
    return dict(vars(offset)) if offset else None


OPTIONS = (
    Option(
        "capabilities",
        "list",
        confinement.capabilities,
        [
            "Capabilities granted in the sandbox's own user namespace; without this, none.",
            "With or without C(CAP_), in any case. V(ALL) is refused.",
        ],
        reaches={Reach.CONFINEMENT},
        change=Change.RESTART,
        default=[],
        dump=list,
        elements="str",
    ),
    Option(
        "seccomp_profile",
        "str",
        partial(text.choice, choices=SECCOMP_PROFILES),
        ["System calls the sandbox may make; V(unconfined) leaves out the filter."],
        reaches={Reach.CONFINEMENT},
        change=Change.RESTART,
        default="default",
        choices=SECCOMP_PROFILES,
    ),
    Option(
        "sysctls",
        "dict",
        partial(names.pairs, key=confinement.sysctl_name, item=confinement.sysctl_value),
        [
            "Kernel parameters of the sandbox's namespaces.",
            "Only C(net.*), C(kernel.shm*), C(kernel.msg*), C(kernel.sem) and C(fs.mqueue.*).",
        ],
        reaches={Reach.NAMESPACES},
        change=Change.RESTART,
        default={},
        dump=dict,
    ),
    Option(
        "time_offset",
        "dict",
        partial(record, fields=_CLOCK_FIELDS, make=TimeOffset),
        [
            "Gives the sandbox a time namespace, with clocks ahead of the host's by these seconds.",
            "Fractions count to the microsecond. Negative seconds turn a clock back, "
            "never below zero.",
        ],
        reaches={Reach.NAMESPACES},
        change=Change.RESTART,
        dump=_dump_offset,
        suboptions=_CLOCK_FIELDS,
    ),
)
