# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Requests for a snapshot, and their outcome."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Sequence

Json = Dict[str, Any]


@dataclass(frozen=True)
class SnapshotRequest:
    """The options of the module, or the words of the command."""

    sandbox: str = ""
    name: str = ""
    state: str = "create"
    volumes: bool = True
    force: bool = False
    into: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    check: bool = False


@dataclass(frozen=True)
class Kept:
    """The outcome: actions done or due, and facts of the snapshot that they are about."""

    actions: List[str]
    snapshot: Json | None = None
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    """Warnings and failures of a run."""

    def to_json(self) -> Json:
        return {
            "changed": bool(self.actions),
            "actions": self.actions,
            "snapshot": self.snapshot,
            "diff": {"before": _text(self.before), "after": _text(self.after)},
            **self.more,
        }


def _text(identifiers: Sequence[str]) -> str:
    return json.dumps({"snapshots": sorted(identifiers)}, indent=4) + "\n"
