# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Resource limits (setrlimit(2)): raised while still host root, set exactly just before exec."""

from __future__ import annotations

import resource
from typing import Dict, List, Mapping

from ..errors import LaunchError

Limits = Mapping[str, List[int]]
_NOFILE_HARD = 524288


def complete(limits: Limits) -> Dict[str, List[int]]:
    """What the spec gave over our defaults: no core dumps, and the usual 1024 open files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    nofile = min(hard, _NOFILE_HARD) if hard != resource.RLIM_INFINITY else _NOFILE_HARD
    return {"core": [0, 0], "nofile": [min(1024, nofile), nofile], **limits}


def raise_hard(limits: Limits) -> None:
    """Lift hard limits where the sandbox asks for more than is inherited (CAP_SYS_RESOURCE)."""
    for name, (_, hard) in limits.items():
        number = _number(name)
        soft_now, hard_now = resource.getrlimit(number)
        wanted = _value(hard)
        if hard_now == resource.RLIM_INFINITY or 0 <= wanted <= hard_now:
            continue
        try:
            resource.setrlimit(number, (soft_now, wanted))
        except ValueError as error:
            raise LaunchError(
                f"ulimits: {name}: {hard} is more than this host's {hard_now}",
                hint="lower it; root on this host lacks CAP_SYS_RESOURCE or fs.nr_open is smaller",
            ) from error


def apply(limits: Limits) -> None:
    for name, (soft, hard) in limits.items():
        resource.setrlimit(_number(name), (_value(soft), _value(hard)))


def _number(name: str) -> int:
    return int(getattr(resource, f"RLIMIT_{name.upper()}"))


def _value(limit: int) -> int:
    return resource.RLIM_INFINITY if limit < 0 else limit
