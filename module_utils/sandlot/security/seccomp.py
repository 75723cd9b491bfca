# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The seccomp filter: an allow-list, compiled to classic BPF.

============================================  ============================================
call                                          result
============================================  ============================================
another architecture's entry (i386, arm32)    EPERM; one that is opened has the same policy
with the x32 bit                              EPERM
unknown number, newer than the tables         ENOSYS, so libc falls back
clone3                                        ENOSYS, so libc falls back to clone, whose flags
                                              are in a register and can be read by a filter
known, not allowed                            EPERM
netlink protocol other than ROUTE             EPROTONOSUPPORT, as on a kernel without it: PAM
                                              and sudo take EPERM from the audit socket as
                                              fatal
============================================  ============================================

Filters see registers, not memory. Only arguments that the kernel itself cuts to 32 bits are
inspected, so garbage in the upper half changes nothing.
"""

from __future__ import annotations

import errno
import platform
from typing import Iterable, Iterator, Mapping, Sequence, Tuple

from ..errors import HostError
from . import bpf, policy
from .bpf import ALLOW, Block, branch, fail, load, load_argument, masked, select
from .syscalls import ARCHITECTURES, FOREIGN

_X32_BIT = 0x40000000
_EPERM = fail(errno.EPERM)
_ENOSYS = fail(errno.ENOSYS)

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. CLONE_NEWTIME (0x80) lies in
# the exit signal's byte, which clone(2) strips from the flags: only unshare and clone3 know it.
_NEW_NAMESPACE = 0x7E020000

_TIOCSTI = 0x5412  # types into the terminal
_TIOCLINUX = 0x541C  # pastes into a console

# Native execution and Linux 2.6 version emulation with or without PER_LINUX32's uname, and the
# value that only asks. No flag that weakens address randomisation or read protection.
_PERSONALITIES = (0, 0xFFFFFFFF, 0x0008, 0x20000, 0x20008)

_SYNCING = ("fdatasync", "fsync", "sync", "sync_file_range", "syncfs")

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _AF_PACKET = 1, 2, 10, 16, 17
_SOCK_TYPE = 0xF
_SOCK_PACKET = 10
_NETLINK_ROUTE = 0


def program(
    *,
    profile: str = "default",
    capabilities: Iterable[str] = (),
    architectures: Iterable[str] = (),
    machine: str = platform.machine(),
) -> bytes | None:
    """The filter as ``struct sock_filter[]``; None when the profile is "unconfined".

    ``architectures`` are the foreign entries that are open, with the policy of the native one.
    """
    if profile == "unconfined":
        return None
    if machine not in ARCHITECTURES:
        raise HostError(
            f"there is no seccomp filter for {machine} machines",
            hint=f"use a host with {' or '.join(ARCHITECTURES)}",
        )
    architecture, granted = ARCHITECTURES[machine], frozenset(capabilities)
    names = {number: name for name, number in architecture.numbers.items()}
    entries = [(architecture.audit, _numbers(names, granted, x32=architecture.x32))]
    for name, foreign in FOREIGN.get(machine, {}).items():
        if name in architectures:
            entries.append((foreign.audit, _numbers(foreign.names, granted)))
    return bpf.pack(load(bpf.ARCHITECTURE_OFFSET, select(entries, _EPERM)))


def unsynced(machine: str = platform.machine()) -> bytes:
    """A filter whose only effect: calls that wait for a disk succeed at once, without a write.

    It is for programs whose files are copied when they have ended. A machine that is not in the
    tables, and foreign entries, sync as ever.
    """
    architecture = ARCHITECTURES.get(machine)
    if architecture is None:
        return bpf.pack(ALLOW)
    calls = [(architecture.numbers[name], fail(0)) for name in _SYNCING]
    entry = (architecture.audit, load(bpf.NUMBER_OFFSET, select(calls, ALLOW)))
    return bpf.pack(load(bpf.ARCHITECTURE_OFFSET, select([entry], ALLOW)))


def _numbers(names: Mapping[int, str], granted: frozenset[str], *, x32: bool = False) -> Block:
    """The outcome of each number; numbers in a row with the same outcome share it."""
    ranges: list[Tuple[int, Block]] = []
    for number, outcome in _outcomes(names, granted, x32=x32):
        if not ranges or ranges[-1][1] != outcome:
            ranges.append((number, outcome))
    return load(bpf.NUMBER_OFFSET, bpf.search(ranges))


def _outcomes(
    names: Mapping[int, str], granted: frozenset[str], *, x32: bool
) -> Iterator[Tuple[int, Block]]:
    allowed = policy.ALLOWED.union(*(policy.GRANTED.get(name, ()) for name in granted))
    last = max(names)
    for number in range(last + 1):
        name = names.get(number)
        if name is None:
            yield number, _ENOSYS
        elif name in policy.INSPECTED:
            yield number, _inspection(name, granted)
        else:
            yield number, ALLOW if name in allowed else _EPERM
    yield last + 1, _ENOSYS
    if x32:
        yield _X32_BIT, _EPERM


def _inspection(name: str, granted: frozenset[str]) -> Block:
    if name in ("clone", "clone3") and "SYS_ADMIN" in granted:
        return ALLOW
    if name == "clone":
        return load_argument(0, branch(bpf.ANY_BIT, _NEW_NAMESPACE, _EPERM, ALLOW))
    if name == "clone3":
        return _ENOSYS
    if name == "ioctl":
        return load_argument(1, _one_of((_TIOCSTI, _TIOCLINUX), _EPERM, ALLOW))
    if name == "personality":
        return load_argument(0, _one_of(_PERSONALITIES, ALLOW, _EPERM))
    if name == "socketpair":
        return load_argument(0, _one_of((_AF_UNIX,), ALLOW, _EPERM))
    return _socket(granted)


def _one_of(values: Sequence[int], yes: Block, no: Block) -> Block:
    return select([(value, yes) for value in values], no)


def _socket(granted: frozenset[str]) -> Block:
    # The kernel turns socket(AF_INET, SOCK_PACKET) into a packet socket.
    packet = branch(bpf.EQUAL, _SOCK_PACKET, _EPERM, ALLOW)
    not_packet = load_argument(1, masked(_SOCK_TYPE, packet))
    refused = fail(errno.EPROTONOSUPPORT)
    route_only = load_argument(2, branch(bpf.EQUAL, _NETLINK_ROUTE, ALLOW, refused))
    families = [
        (_AF_UNIX, ALLOW),
        (_AF_INET6, ALLOW),
        (_AF_INET, ALLOW if "NET_RAW" in granted else not_packet),
        (_AF_NETLINK, ALLOW if "NET_ADMIN" in granted else route_only),
    ]
    if "NET_RAW" in granted:
        families.append((_AF_PACKET, ALLOW))
    return load_argument(0, select(families, _EPERM))
