# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Capability names, their numbers and masks."""

from __future__ import annotations

from typing import Iterable

from ..errors import SpecError

# In the order of include/uapi/linux/capability.h: a name's index is its number.
NAMES: tuple[str, ...] = tuple(
    """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
    SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
    WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
    """.split()
)
NUMBERS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}


def canonical(name: str) -> str:
    """The name as in ``NAMES``: upper case, without the CAP_ prefix; SpecError when unknown."""
    upper = name.upper()
    short = upper[4:] if upper.startswith("CAP_") else upper
    if short not in NUMBERS:
        raise SpecError(
            "capabilities",
            name,
            "is not a Linux capability",
            hint="use a name from capabilities(7), such as NET_RAW",
        )
    return short


def mask(names: Iterable[str]) -> int:
    """The names as a capability bit mask."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[canonical(name)]
    return bits
