# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes the mounts of running sandboxes, and brings back those that somebody took away."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ..build import live_mounts
from ..plan import Failures, Operation
from ..sandbox.mount_state import Plan, described, is_of_record
from ..site import Site
from ..spec.values import SECRETS
from .configured import WITHDRAW
from .context import Context
from .decide import Decision


@dataclass(frozen=True)
class _Change(Operation):
    """All changes in one sandbox; only the kernel knows which mounts are busy."""

    site: Optional[Site] = field(default=None, compare=False)
    plan: Plan = Plan()
    launch: Mapping[str, Any] = field(default_factory=dict, compare=False)
    shared: Mapping[str, bool] = field(default_factory=dict)
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
        seen = {
            f"{SECRETS}/{name}": _identity(f"{sandbox.named_secrets}/{name}") if stays else None
            for name, stays in self.shared.items()
        }
        gone = live_mounts.change(sandbox, self.plan, ids, self.site.run, seen)
        self.busy.extend(each.target for each in gone if each.busy)


def change_mounts(context: Context) -> list[Operation]:
    """A start has made the mounts of all others."""
    return [
        _Change(
            name,
            _summary(decision.mounts) or "check what it shows",
            subject=name,
            # Lines of their own announce files and secrets.
            silent=not _summary(decision.mounts),
            site=context.site,
            plan=decision.mounts,
            launch=context.resolved.targets[name].launch,
            shared=_shared(decision),
        )
        for name, decision in context.decisions.items()
        if decision.mounts or _shared(decision)
    ]


def _shared(decision: Decision) -> Dict[str, bool]:
    """The secrets that a rename at /run/secrets changes, and whether they are there afterwards."""
    return {
        change.target[len(SECRETS) + 1 :]: change.verb != WITHDRAW
        for change in decision.configuration
        if change.target.startswith(f"{SECRETS}/")
    }


def _identity(path: str) -> Tuple[int, int]:
    """Device and inode of a file."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _summary(plan: Plan) -> str:
    added = {entry["target"] for entry in plan.add}
    removed = [each.target for each in plan.remove if not is_of_record(each.entry)]
    lines = [f"unmount {target}" for target in removed if target not in added]
    for entry in plan.add:
        if is_of_record(entry):
            continue
        again = " again" if entry["target"] in removed else ""
        gone = ", which was gone" if entry["target"] in plan.lost else ""
        lines.append(f"mount {described(entry)}{again}{gone}")
    return ", ".join(lines)
