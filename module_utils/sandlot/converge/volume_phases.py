# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The phases of a run that are about volumes."""

from __future__ import annotations

from functools import partial
from typing import List

from ..plan import Operation
from ..sandbox import mounted
from ..volumes import closing
from .context import Context


def make(context: Context) -> List[Operation]:
    """Make and change volumes, and close their directory for the host while it is in use."""
    steps = list(context.volume_plan.steps)
    in_use = any(mounted.volumes(d.record) for d in context.decisions.values())
    if in_use and not closing.is_closed(context.site):
        close = partial(closing.close, context.site)
        steps.append(Operation("volumes", "mount with nosuid and nodev", close))
    return steps


def remove(context: Context) -> List[Operation]:
    return list(context.volume_plan.last)


def reopen(context: Context) -> List[Operation]:
    """Take the mount away when no sandbox uses a volume any more."""
    broken = set(context.observed.records.broken) - set(context.resolved.removed)
    if context.volume_users or broken or not closing.is_mounted(context.site):
        return []
    reopen = partial(closing.reopen, context.site)
    return [Operation("volumes", "unmount", reopen, silent=True)]
