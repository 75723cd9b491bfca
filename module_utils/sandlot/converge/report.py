# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a run tells its caller: actions, diffs and facts, the same before and after applying."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Sequence

from .. import security
from ..sandbox import process
from ..sandbox.record import Record
from ..spec import differences, render, render_differences
from .observe import Observation
from .planner import Plan
from .steps import Failures, Step, lines

Json = Dict[str, Any]


@dataclass(frozen=True)
class Result:
    """``results`` are the facts of each sandbox asked for; ``failed`` maps names to messages."""

    changed: bool
    actions: list[str]
    results: dict[str, Json]
    diff: Json
    relaxed: dict[str, list[str]]
    failed: dict[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def result(
    plan: Plan, seen: Observation, failures: Failures, before: Sequence[Step] = ()
) -> Result:
    """``before`` are steps that had to be taken before there could be a plan."""
    said = lines([*before, *plan.preparation, *plan.steps])
    actions: dict[str, list[str]] = {}
    for line in said:
        actions.setdefault(line.target, []).append(line.describe())
    records = {name: target.record for name, target in plan.resolved.targets.items()}
    results = {name: facts(record) for name, record in records.items()}
    results.update({name: {"name": name, "state": "absent"} for name in plan.resolved.removed})
    for name, entry in results.items():
        own = actions.get(name, [])
        entry.update({"changed": bool(own), "actions": own})
        if name in failures:
            entry["failed"] = str(failures[name])
    return Result(
        changed=bool(said),
        actions=[line.describe() for line in said],
        results=results,
        diff=_diff(plan, seen),
        relaxed={name: entry["relaxed"] for name, entry in results.items() if entry.get("relaxed")},
        failed={name: str(error) for name, error in failures.items()},
        warnings=plan.warnings,
    )


def facts(record: Record) -> Json:
    """What is known of a sandbox without asking what runs."""
    return {
        "name": record.name,
        "state": record.wanted,
        "image": record.image.name,
        "ids": {"uid": record.ids.start, "gid": record.ids.start, "size": record.ids.size},
        "network_mode": record.spec.network_mode,
        "addresses": [text for interface in record.interfaces for text in interface.addresses],
        "interfaces": [interface.to_json() for interface in record.interfaces],
        "published_ports": [str(port) for port in record.spec.published_ports],
        "relaxed": relaxed(record),
        "labels": process.labels(record),
    }


def relaxed(record: Record) -> list[str]:
    """What spec and image loosened."""
    shown = record.image.host.get("show", [])
    host = [f"image: {record.image.name} (the host's programs and configuration)"]
    host += [f"image: {record.image.name} (the host's {path})" for path in shown]
    return [*(host if record.image.host else []), *security.relaxed(record.spec)]


def _diff(plan: Plan, seen: Observation) -> Json:
    """Specs before and after, where they differ; each changed option with what it costs."""
    before: Json = {}
    after: Json = {}
    known = seen.records.good
    for name, decision in plan.decisions.items():
        old = known.get(name)
        shown = _spec_diff(old, decision.record)
        if shown["before"] or shown["after"]:
            before[name], after[name] = shown["before"], shown["after"]
    for name in plan.resolved.removed:
        before[name] = render(known[name].spec) if name in known else {}
    return {"before": before, "after": after}


def _spec_diff(old: Record | None, new: Record) -> Mapping[str, Json]:
    if old is None:
        return {"before": {}, "after": render(new.spec)}
    return render_differences(differences(old.spec, new.spec))
