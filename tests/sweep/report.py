# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Steps of a sweep as tables and as a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Step = dict[str, Any]
SCENARIOS = ("deploy", "update", "rebuild", "teardown")
MISSED = "missed"
BEGIN, END = "<!-- sweep: written by make sweep -->\n", "<!-- /sweep -->\n"


def load(path: str) -> list[Step]:
    with open(path, encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def summary(steps: Iterable[Step]) -> list[Step]:
    """One entry for each target, fault and scenario."""
    groups: dict[tuple[str, str, str], list[Step]] = {}
    for step in steps:
        groups.setdefault((step["target"], step["fault"], step["scenario"]), []).append(step)
    return [_entry(key, group) for key, group in groups.items()]


def _entry(key: tuple[str, str, str], group: list[Step]) -> Step:
    injected = [step for step in group if step["outcome"] != MISSED]
    return {
        "target": key[0],
        "fault": key[1],
        "scenario": key[2],
        "injected": len(injected),
        "converged": sum(not step["problem"] for step in injected),
        "stride": max(step["stride"] for step in group),
        "complete": any(step["outcome"] == MISSED for step in group),
        "outcomes": Counter(step["outcome"] for step in injected),
        "families": Counter(step["family"] for step in injected),
        "problems": [step for step in injected if step["problem"]],
    }


def document(entries: list[Step]) -> str:
    """Both tables, what did not converge, and the sum."""
    parts = [_by_fault(entries), _by_family(entries), _problems(entries), _total(entries)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _by_fault(entries: list[Step]) -> str:
    rows = dict.fromkeys((entry["target"], entry["fault"]) for entry in entries)
    table = [["calls of", "fault", *SCENARIOS]]
    for target, fault in rows:
        cells = {e["scenario"]: e for e in entries if (e["target"], e["fault"]) == (target, fault)}
        table.append([target, fault, *(_cell(cells.get(name)) for name in SCENARIOS)])
    return _table(table)


def _cell(entry: Step | None) -> str:
    if entry is None:
        return ""
    share = f" (1 in {entry['stride']})" if entry["stride"] > 1 else ""
    end = "" if entry["complete"] else " …"
    return f"{entry['injected']} / {entry['converged']}{share}{end}"


def _by_family(entries: list[Step]) -> str:
    injected: Counter[str] = sum((Counter(e["families"]) for e in entries), Counter())
    failed = Counter(step["family"] for entry in entries for step in entry["problems"])
    rows = [[name, f"{count} / {count - failed[name]}"] for name, count in injected.most_common()]
    return _table([["family", "injected / converged"], *rows])


def _problems(entries: list[Step]) -> str:
    steps = [step for entry in entries for step in entry["problems"]]
    return "\n".join(
        f"- {s['target']}, {s['scenario']}, {s['fault']} at {s['call']}: {s['problem']}"
        for s in steps
    )


def _total(entries: list[Step]) -> str:
    injected, converged = (sum(e[key] for e in entries) for key in ("injected", "converged"))
    done = sum(entry["complete"] for entry in entries)
    return (
        f"{injected} faults injected, {converged} converged; "
        f"{done} of {len(entries)} cells swept to the end."
    )


def _table(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])


def replace_in(page: Path, text: str) -> None:
    """Put the tables in the place of those that are there."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
