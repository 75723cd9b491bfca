# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Steps of a sweep as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

Steps = list[dict[str, Any]]
HEADS = ("whose calls", "fault", "deploy", "update", "rebuild", "teardown")
# As engine and faults have them; a table is made without importing the engine.
TARGETS = {"run": "run", "launcher": "launcher"}
MISSED = "missed"


def load(path: str) -> Steps:
    with open(path, encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def table(steps: Steps) -> str:
    """A row for each target and fault; "injected/converged", "..." where the end is not reached."""
    rows = dict.fromkeys((step["target"], step["fault"]) for step in steps)
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    for target, fault in rows:
        of_row = [step for step in steps if (step["target"], step["fault"]) == (target, fault)]
        cells = [_cell(step for step in of_row if step["scenario"] == name) for name in HEADS[2:]]
        lines.append(f"| {target} | {fault} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _sum(steps)])


def _cell(steps: Iterable[dict[str, Any]]) -> str:
    steps = list(steps)
    if not steps:
        return ""
    complete = any(step["outcome"] == MISSED for step in steps)
    return f"{_counts(steps)}{'' if complete else ' ...'}"


def _counts(steps: Steps) -> str:
    injected = [step for step in steps if step["outcome"] != MISSED]
    return f"{len(injected)}/{sum(not step['problem'] for step in injected)}"


def _sum(steps: Steps) -> str:
    injected, converged = _counts(steps).split("/")
    return f"{injected} faults injected, {converged} converged."
