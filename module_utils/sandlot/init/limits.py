# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sets resource limits (setrlimit(2)): host root raises them first, init sets them before exec."""

from __future__ import annotations

import resource

from ..errors import LaunchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Tuple

    Limits = Mapping[str, List[int]]

_NOFILE_HARD = 524288


def complete(limits: Limits) -> Dict[int, Tuple[int, int]]:
    """All limits by number; the defaults are no core dumps and the usual 1024 files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    nofile = min(hard, _NOFILE_HARD) if hard != resource.RLIM_INFINITY else _NOFILE_HARD
    named = {"core": [0, 0], "nofile": [min(1024, nofile), nofile], **limits}
    return {
        int(getattr(resource, f"RLIMIT_{name.upper()}")): (_value(soft), _value(hard))
        for name, (soft, hard) in named.items()
    }


def _value(limit: int) -> int:
    return resource.RLIM_INFINITY if limit < 0 else limit


def raise_hard(pid: int, limits: Mapping[int, Tuple[int, int]]) -> None:
    """Raise hard limits of ``pid`` if the sandbox wants more; needs CAP_SYS_RESOURCE."""
    for number, (dummy, wanted) in limits.items():
        soft, hard = resource.prlimit(pid, number)
        if hard == resource.RLIM_INFINITY or 0 <= wanted <= hard:
            continue
        try:
            resource.prlimit(pid, number, (soft, wanted))
        except (ValueError, PermissionError) as error:
            raise LaunchError(
                f"ulimits: limit {number} of {wanted} is more than this host's {hard}",
                hint="lower it; root on this host lacks CAP_SYS_RESOURCE or fs.nr_open is smaller",
            ) from error


def apply(limits: Mapping[int, Tuple[int, int]]) -> None:
    for number, values in limits.items():
        resource.setrlimit(number, values)
