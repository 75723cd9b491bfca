# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of confinement."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ...plan import Change
from ...profiles import CAPABILITIES, OPTION
from .. import confinement, devices, names, quantities, text
from ..option import Option, Reach, record, strings
from ..text import refusal
from ..values import TimeOffset

if TYPE_CHECKING:
    from ..model import Spec

SECCOMP_PROFILES = ("default", "unconfined")
# Those that the kernel of a machine runs as well, by libseccomp's names.
ARCHITECTURES = {"x86": "x86_64"}
# The kernel's bound is 146 years from the clock's zero; a century leaves room to run.
MAX_OFFSET = 3_000_000_000

_seconds = partial(quantities.number, minimum=-MAX_OFFSET, maximum=MAX_OFFSET, digits=6)
_CLOCK_FIELDS = (
    Option("monotonic", "float", _seconds, ["Seconds added to C(CLOCK_MONOTONIC)."], default=0),
    Option("boottime", "float", _seconds, ["Seconds added to C(CLOCK_BOOTTIME)."], default=0),
)


def _fits_clocks(spec: Spec) -> None:
    """The kernel refuses a clock below zero."""
    offset = spec.time_offset or TimeOffset()
    for name, clock in (("monotonic", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME)):
        seconds = getattr(offset, name)
        if seconds + time.clock_gettime(clock) < 0:
            option = f"time_offset.{name}"
            hint = f"the host's clock is at {time.clock_gettime(clock):.0f} seconds"
            raise refusal(option, seconds, "turns the clock back below zero", hint=hint)


def _of_own_network(spec: Spec) -> None:
    foreign = [key for key, dummy in spec.sysctls if key.startswith("net.")]
    if foreign and not spec.owns_network:
        problem = f"is not this sandbox's to set with network_mode {spec.network_mode}"
        hint = "set it for the owner of that network, or leave it out"
        raise refusal("sysctls", foreign[0], problem, hint=hint)


def _architectures(option: str, value: Any) -> tuple[str, ...]:
    items = enumerate(text.sequence(option, value))
    return tuple(
        sorted({text.choice(f"{option}[{i}]", item, choices=ARCHITECTURES) for i, item in items})
    )


def _of_this_machine(spec: Spec) -> None:
    machine = os.uname().machine
    for name in spec.seccomp_architectures:
        if ARCHITECTURES[name] != machine:
            problem = f"is not run by the kernel of {machine} machines"
            raise refusal("seccomp_architectures", name, problem, hint="leave it out")
        if spec.seccomp_profile == "unconfined":
            problem = "has no meaning with seccomp_profile unconfined, which has no filter"
            raise refusal("seccomp_architectures", name, problem, hint="leave one of them out")


OPTIONS = (
    Option(
        OPTION,
        "str",
        partial(text.choice, choices=tuple(CAPABILITIES)),
        [
            "Capabilities that the root user of the sandbox has in the sandbox's own user "
            "namespace. V(strict) has none.",
            "V(daemon) has what servers need that start as root: "
            f"{', '.join(CAPABILITIES['daemon'])}.",
            "By default V(daemon) for images of source V(oci), V(strict) for all others.",
        ],
        reaches={Reach.CONFINEMENT},
        change=Change.RESTART,
        choices=tuple(CAPABILITIES),
        later=True,
    ),
    Option(
        "capabilities",
        "list",
        confinement.capabilities,
        [
            "Capabilities granted in the sandbox's own user namespace, to any user, beyond those "
            "of O(security_profile).",
            "With or without C(CAP_), in any case. V(ALL) is refused.",
        ],
        reaches={Reach.CONFINEMENT},
        change=Change.RESTART,
        default=[],
        dump=list,
        elements="str",
    ),
    Option(
        "no_new_privileges",
        "bool",
        text.flag,
        [
            "Whether programs are kept from gaining rights when they start: set-user-id bits and "
            "file capabilities then have no effect.",
            "V(false) lets C(sudo), C(su) and such work inside, within the capabilities of "
            "O(security_profile) and O(capabilities), and is listed in C(relaxed).",
        ],
        reaches={Reach.CONFINEMENT, Reach.ROOT},
        change=Change.RESTART,
        default=True,
        later=True,
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
        "seccomp_architectures",
        "list",
        _architectures,
        [
            "More architectures of programs that the sandbox may run. V(x86) stands for 32-bit "
            "programs on x86_64. Without this, the filter refuses each of their calls, and they "
            "die of C(SIGSEGV).",
            "The same policy holds for them, except for families of sockets: 32-bit programs name "
            "them in memory, and a filter sees registers only.",
        ],
        reaches={Reach.CONFINEMENT},
        change=Change.RESTART,
        default=[],
        dump=list,
        elements="str",
        choices=tuple(ARCHITECTURES),
        later=True,
        check=_of_this_machine,
    ),
    Option(
        "devices",
        "list",
        devices.devices,
        [
            "Devices of the host, as C(HOST_PATH:PATH_INSIDE:MODE). C(PATH_INSIDE) is below "
            "C(/dev), and C(HOST_PATH) by default; C(MODE) is of C(r), C(w) and C(m), by default "
            "all.",
            "The node inside has the owner, group and permissions of the host's, by number, as far "
            "as the mode allows. The cgroup of the sandbox then denies all other devices.",
            "Each is listed in C(relaxed). Refused are block devices that the host uses, and "
            "devices that are the host's own, as C(/dev/mem).",
        ],
        reaches={Reach.ROOT},
        change=Change.RESTART,
        default=[],
        dump=strings,
        elements="str",
        later=True,
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
        check=_of_own_network,
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
        dump=lambda offset: dict(vars(offset)) if offset else None,
        suboptions=_CLOCK_FIELDS,
        check=_fits_clocks,
    ),
)
