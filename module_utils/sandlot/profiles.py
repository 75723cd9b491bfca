# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Security profiles: named sets of capabilities.

`sandlot list` has to start fast, so this module imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional, Sequence, Tuple

OPTION = "security_profile"
STRICT, DAEMON = "strict", "daemon"
# In the kernel's order. Each acts on the ids, sockets and trees of the sandbox only.
CAPABILITIES: Mapping[str, Tuple[str, ...]] = {
    STRICT: (),
    DAEMON: (
        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
        *("NET_BIND_SERVICE", "SYS_CHROOT", "SETFCAP"),
    ),
}


def chosen(own: Optional[str], config: Mapping[str, Any]) -> str:
    """The profile of a sandbox: its own option, or the default that came with its image."""
    return str(own or config.get(OPTION) or STRICT)


def effective(profile: str, granted: Sequence[str]) -> Tuple[str, ...]:
    """The capabilities of a profile and of the option ``capabilities``."""
    of_profile = CAPABILITIES.get(profile, ())
    return (*of_profile, *(name for name in granted if name not in of_profile))
