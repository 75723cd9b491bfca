# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Refuses a plan that would change a sandbox more than its option allow_changes allows."""

from __future__ import annotations

from ..errors import SpecError
from ..images import setup
from ..plan import Change
from ..sandbox.record import REMOVING
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


def is_set(request: Request) -> bool:
    """Whether the request forbids any change."""
    items = request.sandboxes or ()
    allowed = {request.allow_changes, *(item.allow_changes for item in items)}
    return allowed != {Change.REBUILD}


def check(request: Request, plan: Plan) -> None:
    if not is_set(request):
        return
    lines = report.lines(operation for operation in plan.operations if not operation.silent)
    needed = {
        name: _COSTS.get(change, Change.LIVE)
        for name, change in report.changes(plan.context, lines).items()
    }
    allowed = {item.name: item.allow_changes for item in request.sandboxes or ()}
    over = [
        name
        for name, change in needed.items()
        if not _is_left_over(plan, name)
        and _ORDER.index(change) > _ORDER.index(allowed.get(name, request.allow_changes))
    ]
    if over:
        name = over[0]
        others = f"; it forbids changes of {', '.join(over[1:])} too" if over[1:] else ""
        error = SpecError(
            "allow_changes",
            allowed.get(name, request.allow_changes).value,
            f"forbids what this run would do: {'; '.join(lines.get(name, ()))}{others}",
            hint=f"allow it by {needed[name].value}, or leave the sandbox as it is",
        )
        error.name(f"sandbox {name!r}")
        raise error


def _is_left_over(plan: Plan, name: str) -> bool:
    """Whether a killed run left the sandbox: half removed, or a throw-away one of an image."""
    known = plan.context.observed.records.good.get(name)
    return bool(setup.SANDBOX.fullmatch(name)) or (known is not None and known.phase == REMOVING)
