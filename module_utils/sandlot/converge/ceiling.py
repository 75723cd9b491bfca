# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Refuses a plan that would change a sandbox more than its option allow_changes allows."""

from __future__ import annotations

from ..errors import SpecError
from ..plan import Change
from . import report
from .planner import Plan
from .resolve import Request

# The cost of a change beyond a live one; a new sandbox has nothing to lose.
_COSTS = {
    "rebuilt": Change.REBUILD,
    "removed": Change.REBUILD,
    "restarted": Change.RESTART,
    "stopped": Change.RESTART,
}
_ORDER = [*Change]


def check(request: Request, plan: Plan) -> None:
    desired = [item for item in request.sandboxes or () if item.allow_changes is not _ORDER[-1]]
    if not desired:
        return
    lines = report.lines(operation for operation in plan.operations if not operation.silent)
    changes = report.changes(plan.context, lines)
    for item in desired:
        needed = _COSTS.get(changes.get(item.name, ""), Change.LIVE)
        if _ORDER.index(needed) > _ORDER.index(item.allow_changes):
            error = SpecError(
                "allow_changes",
                item.allow_changes.value,
                f"forbids what this run would do: {'; '.join(lines[item.name])}",
                hint=f"allow it by {needed.value}, or leave the sandbox as it is",
            )
            error.name(f"sandbox {item.name!r}")
            raise error
