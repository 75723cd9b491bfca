# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes the mounts of running sandboxes, and brings back those that somebody took away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, List, Mapping, Optional

from ..build import live_mounts
from ..plan import Failures, Operation
from ..sandbox.mount_state import Plan, described
from ..site import Site
from .context import Context


@dataclass(frozen=True)
class _Change(Operation):
    """All changes in one sandbox; only the kernel knows which mounts are busy."""

    site: Optional[Site] = field(default=None, compare=False)
    plan: Plan = Plan()
    launch: Mapping[str, Any] = field(default_factory=dict, compare=False)
    busy: List[str] = field(default_factory=list, compare=False)

    def describe(self) -> str:
        text = super().describe()
        if not self.busy:
            return text
        return f"{text}; programs keep what they have open in the old {', '.join(self.busy)}"

    def apply(self, failures: Optional[Failures] = None) -> None:
        if self.site is None:
            return
        sandbox, ids = self.site.sandbox(self.target), self.launch["ids"]
        gone = live_mounts.change(sandbox, self.plan, ids, self.site.run)
        self.busy.extend(each.target for each in gone if each.busy)


def change_mounts(context: Context) -> list[Operation]:
    """A start has made the mounts of all others."""
    return [
        _Change(
            name,
            _summary(decision.mounts),
            subject=name,
            site=context.site,
            plan=decision.mounts,
            launch=context.resolved.targets[name].launch,
        )
        for name, decision in context.decisions.items()
        if decision.mounts
    ]


def _summary(plan: Plan) -> str:
    added = {entry["target"] for entry in plan.add}
    removed = [each.target for each in plan.remove]
    lines = [f"unmount {target}" for target in removed if target not in added]
    for entry in plan.add:
        again = " again" if entry["target"] in removed else ""
        gone = ", which was gone" if entry["target"] in plan.lost else ""
        lines.append(f"mount {described(entry)}{again}{gone}")
    return ", ".join(lines)
