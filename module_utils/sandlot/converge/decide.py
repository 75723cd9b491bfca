# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Decides the steps of one sandbox from its desired and observed state; a pure function."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping

from ..errors import SpecError
from ..plan import Change, Operation
from ..sandbox.process import changes
from ..sandbox.record import PRESENT, REBUILDING, REMOVING, STARTED, STOPPED, Record
from ..spec import Difference, Spec
from ..spec.options import SECRET

ABSENT = "absent"
HEALTHY = "healthy"
NO_PINS = "none"
SOME_PINS = "partial"
ALL_PINS = "whole"
# Longer values, and those of variables, belong in the diff only.
_BRIEF = 80


@dataclass(frozen=True)
class Desired:
    """One sandbox as requested; an absent one has no ``spec``.

    With ``healthy``, the run waits for its health; waiting is no change. With ``keep_image``, the
    sandbox keeps its image, even when the image's name means a newer one now.
    """

    name: str
    state: str
    spec: Spec | None = None
    restart: bool = False
    recreate: bool = False
    keep_image: bool = False
    healthy: bool = False

    @property
    def wanted_spec(self) -> Spec:
        if self.spec is None:
            raise SpecError("state", self.state, f"of sandbox {self.name} needs a spec")
        return self.spec


@dataclass(frozen=True)
class Target:
    """A desired sandbox, resolved: its record and launch file, and the digest of its namespaces."""

    desired: Desired
    record: Record
    launch: Mapping[str, Any] = field(hash=False)
    namespaces: str


@dataclass(frozen=True)
class Observed:
    """One sandbox as observed on the host; ``namespaces`` and ``running`` are digests.

    A ``detached`` sandbox runs in another network namespace than the one it would join now. With
    ``rebuild``, files of an unfinished rebuild exist. ``previous`` is the record of the version
    that ran before an unfinished restart. One that is running does so ``since`` a time.
    """

    record: Record | None = None
    layer: bool = False
    pins: str = NO_PINS
    namespaces: str | None = None
    running: str | None = None
    detached: bool = False
    rebuild: bool = False
    previous: Record | None = None
    since: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The steps that a sandbox takes, with reasons; the planner orders them.

    With ``next_slot``, a rebuild makes the new version in slot "next" and keeps the old one to go
    back to.
    """

    name: str
    record: Record
    write_record: bool = False
    new: bool = False
    rebuild: str = ""
    next_slot: bool = False
    destroy: str = ""
    create: bool = False
    stop: bool = False
    start: str = ""
    differences: tuple[Difference, ...] = ()
    old_image: str = ""
    looped: bool = False
    """Whether the old version ended again and again: there is no way back to it."""

    @property
    def announced(self) -> bool:
        """A line about the whole sandbox announces all its changes; other lines stay silent."""
        return self.new or bool(self.rebuild)

    def way_back(self, observed: Observed) -> Record | None:
        """The record of the last version that ran, when a start changes it; its layer stays."""
        old = observed.previous
        if old is None and self.stop and self.write_record:
            old = observed.record
        if self.looped and observed.previous is None:
            return None
        changed = old is not None and old.phase == PRESENT and old != self.record
        return old if changed and self.start and not self.rebuild else None


def run_state(desired: Desired, record: Record | None) -> str:
    """The run state for the record, which reboots keep; "present" leaves it alone."""
    if desired.state in (STARTED, STOPPED):
        return desired.state
    return record.wanted if record else STOPPED


def decide(target: Target, observed: Observed, rejoin: str = "") -> Decision:
    """``rejoin`` is the reason to join another sandbox's network namespace again, "" for none."""
    record = observed.record
    rebuild = _rebuild_reason(target, observed)
    next_slot = bool(rebuild) and record is not None and record.phase == PRESENT and observed.layer
    destroy = "" if next_slot else _destroy_reason(target, observed)
    running = observed.running is not None
    stop, start = running, ""
    if target.desired.state != STOPPED:
        reason = _restart_reason(target, observed, rebuild, destroy) or rejoin if running else ""
        stop, start = bool(reason), f"restart: {reason}" if reason else ""
    if target.desired.state == STARTED and not running:
        start = "start"
    intent = target.record.in_phase(REBUILDING if rebuild else PRESENT)
    return Decision(
        name=target.desired.name,
        record=intent,
        write_record=record != intent,
        new=record is None,
        rebuild=rebuild,
        next_slot=next_slot,
        destroy=destroy,
        create=next_slot or bool(destroy) or observed.pins == NO_PINS,
        stop=stop,
        start=start,
        differences=tuple(changes(record, target.record)) if record else (),
        old_image=record.image.digest if record else "",
    )


def _rebuild_reason(target: Target, observed: Observed) -> str:
    record = observed.record
    if record is None:
        return ""
    if record.phase != PRESENT:
        return "its removal was under way" if record.phase == REMOVING else "begun before"
    if target.desired.recreate:
        return "recreate"
    if not observed.layer:
        return "its layer is missing"
    differing = changes(record, target.record)
    options = [entry.option for entry in differing if entry.change is Change.REBUILD]
    return f"{_listed(options)} changed" if options else ""


def _destroy_reason(target: Target, observed: Observed) -> str:
    if observed.record is None and (observed.pins != NO_PINS or observed.running):
        return "left over from a lost record"
    if observed.pins == NO_PINS:
        return "it runs without" if observed.running else ""
    if observed.pins == SOME_PINS:
        return "some are missing"
    if observed.namespaces != target.namespaces:
        return "they are made with other settings"
    return ""


def _restart_reason(target: Target, observed: Observed, rebuild: str, destroy: str) -> str:
    if target.desired.restart:
        return "asked"
    if rebuild:
        return "rebuilt"
    if destroy:
        return "namespaces made again"
    if observed.running == str(target.launch["digest"]):
        return ""
    old, new = observed.record, target.record
    if old is None:
        return "launch file changed"
    options = [entry.option for entry in changes(old, new) if entry.change is not Change.LIVE]
    if options:
        return f"{_listed(options)} changed"
    return "image updated" if old.image.digest != new.image.digest else "launch file changed"


def _listed(options: list[str]) -> str:
    return ", ".join(sorted(options))


def record_lines(decision: Decision) -> list[Operation]:
    """Lines that announce a new sandbox, a rebuild or changed options."""
    name = decision.name
    changed = []
    for difference in decision.differences:
        before, after = _shown(difference.before), _shown(difference.after)
        brief = difference.option not in SECRET and len(before) + len(after) <= _BRIEF
        summary = f"{difference.option} {f'{before} -> {after}' if brief else 'changed'}"
        changed.append(Operation(name, summary, change=difference.change))
    old, new = decision.old_image, decision.record.image.digest
    if not decision.rebuild and not decision.new and old != new:
        summary = f"image updated, {old[:12]} -> {new[:12]}"
        changed.append(Operation(name, summary, change=Change.RESTART))
    if decision.new:
        return [Operation(name, f"create from {decision.record.image.name}")]
    if decision.rebuild:
        return [*changed, Operation(name, f"rebuild: {decision.rebuild}", change=Change.REBUILD)]
    if decision.write_record and not changed:
        return [Operation(name, "update record")]
    return changed


def _shown(value: object) -> str:
    """A value in a line: unset is a word of its own."""
    if value is None or value == "":
        return "unset"
    return value if isinstance(value, str) else json.dumps(value)


def preparation_line(decision: Decision) -> Operation:
    return Operation(decision.name, "prepare a new layer and namespaces beside the old")


def switch_line(decision: Decision) -> Operation:
    return Operation(decision.name, "switch to the new layer and namespaces", change=Change.REBUILD)


def namespace_lines(decision: Decision) -> list[Operation]:
    if decision.destroy:
        summary = f"make namespaces again: {decision.destroy}"
        return [Operation(decision.name, summary, change=Change.RESTART)]
    if decision.create and not decision.announced:
        return [Operation(decision.name, "make namespaces")]
    return []


def run_lines(decision: Decision) -> list[Operation]:
    if decision.start:
        change = Change.RESTART if decision.stop else Change.LIVE
        return [Operation(decision.name, decision.start, change=change)]
    return [Operation(decision.name, "stop")] if decision.stop else []
