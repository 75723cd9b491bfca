# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Decides the steps of one sandbox from its desired and observed state; a pure function."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from .. import image_change
from ..errors import SpecError
from ..plan import Change, Operation
from ..sandbox import mount_state, mounts
from ..sandbox.mount_state import SandboxMount
from ..sandbox.process import changes
from ..sandbox.record import PRESENT, REBUILDING, REMOVING, STARTED, STOPPED, Record
from ..sizes import Bound
from ..snapshots.content import Content
from ..spec import Difference, Spec
from ..spec.options import SECRET
from . import configured
from .configured import Changed

ABSENT = "absent"
HEALTHY = "healthy"
NO_PINS = "none"
SOME_PINS = "partial"
ALL_PINS = "whole"
_NONE = mount_state.Plan()
# Longer values, and those of variables, belong in the diff only.
_BRIEF = 80


@dataclass(frozen=True)
class Desired:
    """One sandbox as requested; an absent one has no ``spec``.

    With ``healthy``, the run waits for its health; waiting is no change. With ``keep_image``, the
    sandbox keeps its image, even when the image's name means a newer one now. With ``content``, it
    gets a layer from a snapshot. With ``again``, a job that is done is started too. A run that
    needs a greater change than ``allow_changes`` is refused.
    """

    name: str
    state: str
    spec: Spec | None = None
    restart: bool = False
    recreate: bool = False
    keep_image: bool = False
    healthy: bool = False
    content: Content | None = None
    again: bool = False
    allow_changes: Change = Change.REBUILD

    @property
    def wanted_spec(self) -> Spec:
        if self.spec is None:
            raise SpecError("state", self.state, f"of sandbox {self.name} needs a spec")
        return self.spec


@dataclass(frozen=True)
class Target:
    """A desired sandbox, resolved: its record and launch file, and the digest of its namespaces.

    Other sandboxes wait for the end of one that is a ``job``.
    """

    desired: Desired
    record: Record
    launch: Mapping[str, Any] = field(hash=False)
    namespaces: str
    job: bool = False


@dataclass(frozen=True)
class Observed:
    """One sandbox as observed on the host; ``namespaces`` and ``running`` are digests.

    A ``detached`` sandbox runs in another network namespace than the one it would join now. With
    ``rebuild``, files of an unfinished rebuild exist. ``previous`` is the record of the version
    that ran before an unfinished restart. One that is running does so ``since`` a time, and has
    ``mounts`` and, by its launch file, ``devices``; it ``shows`` files and secrets with ids of
    their contents, and ``reload`` has signals that a killed run owes it. ``bound`` tells what
    limits the layer's size. ``succeeded`` is the digest of a workload that has ended by itself,
    with exit code 0.
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
    bound: Bound = Bound()
    mounts: tuple[SandboxMount, ...] = ()
    devices: Sequence[Mapping[str, Any]] = ()
    succeeded: str | None = None
    shows: Mapping[str, str] = field(default_factory=dict)
    reload: tuple[int, ...] = ()


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
    mounts: mount_state.Plan = mount_state.Plan()
    """Mounts to change while it runs."""
    configuration: tuple[Changed, ...] = ()
    """Files and secrets that change while it runs."""
    signals: tuple[int, ...] = ()
    """Signals to its workload after that."""
    content: Content | None = None
    looped: bool = False
    """Whether the old version ended again and again: there is no way back to it."""

    @property
    def announced(self) -> bool:
        """A line about the whole sandbox announces all its changes; other lines stay silent."""
        return self.new or bool(self.rebuild)

    def way_back(self, observed: Observed) -> Record | None:
        """The record of the last version that ran, when a start changes it; its layer stays.

        A killed run may have started the new version, which has not proved itself yet.
        """
        old = observed.previous
        if old is None and self.stop and self.write_record:
            old = observed.record
        if self.looped and observed.previous is None:
            return None
        changed = old is not None and old.phase == PRESENT and old != self.record
        unproved = observed.previous is not None and observed.running and not self.stop
        return old if changed and (self.start or unproved) and not self.rebuild else None


def run_state(desired: Desired, record: Record | None) -> str:
    """The run state for the record, which reboots keep; "present" leaves it alone."""
    if desired.state in (STARTED, STOPPED):
        return desired.state
    return record.wanted if record else STOPPED


def decide(target: Target, observed: Observed, rejoin: str = "") -> Decision:
    """``rejoin`` is the reason to join another sandbox's network namespace again, "" for none."""
    record = observed.record
    rebuild = rebuild_reason(target.desired, target.record, observed)
    next_slot = bool(rebuild) and record is not None and record.phase == PRESENT and observed.layer
    destroy = "" if next_slot else _destroy_reason(target, observed)
    running = observed.running is not None
    changed = (
        mount_state.plan(observed.mounts, target.launch.get(mounts.KEY, ())) if running else _NONE
    )
    known = observed.previous, record
    given = configured.changes(observed.shows, known, target.record) if running else ()
    stop, start = running, ""
    if target.desired.state != STOPPED:
        reason = _restart_reason(target, observed, rebuild, destroy) or rejoin if running else ""
        reason = reason or configured.restarting(given)
        blocked = mount_state.obstacle(changed, target.launch)
        reason = reason or (f"its mounts: {blocked}" if blocked else "")
        stop, start = bool(reason), f"restart: {reason}" if reason else ""
    done = not rebuild and not destroy and _is_done(target, observed)
    if target.desired.state == STARTED and not running and not done:
        start = "start"
    content = target.desired.content
    # A new sandbox without its content is none yet.
    unfinished = rebuild or (record is None and content)
    intent = target.record.in_phase(REBUILDING if unfinished else PRESENT)
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
        mounts=_NONE if stop else changed,
        configuration=() if stop else given,
        signals=() if stop or not running else _signals(given, observed),
        content=content,
    )


def _is_done(target: Target, observed: Observed) -> bool:
    """Whether a job has succeeded as it is desired now, and nobody asks for another run."""
    asked = target.desired.restart or target.desired.again
    return target.job and not asked and observed.succeeded == target.launch["digest"]


def _signals(given: Sequence[Changed], observed: Observed) -> tuple[int, ...]:
    return tuple(sorted({*configured.signals(given), *observed.reload}))


def rebuild_reason(desired: Desired, new: Record, observed: Observed) -> str:
    """The reason for a fresh layer in place of the sandbox's own, "" for none."""
    record = observed.record
    if record is None:
        return ""
    if record.phase != PRESENT:
        return "its removal was under way" if record.phase == REMOVING else "begun before"
    if desired.content:
        return f"restore snapshot {desired.content.snapshot.id}"
    if desired.recreate:
        return "recreate"
    if not observed.layer:
        return "its layer is missing"
    differing = [entry for entry in changes(record, new) if entry.change is Change.REBUILD]
    if any(entry.option == "image" for entry in differing):
        return f"{_changed(differing)}, {image_change.OPTION} is {image_change.FRESH}"
    return _changed(differing)


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
    differing = [entry for entry in changes(old, new) if entry.change is not Change.LIVE]
    return _changed(differing) or _other_device(target, observed) or "launch file changed"


def _other_device(target: Target, observed: Observed) -> str:
    numbers = {each["source"]: each["number"] for each in observed.devices}
    for each in target.launch.get("devices", ()):
        if numbers.get(each["source"], each["number"]) != each["number"]:
            return f"{each['source']} is another device now"
    return ""


def _changed(differences: list[Difference]) -> str:
    """The changed options in words, "" for none."""
    updates = [entry for entry in differences if _is_update(entry)]
    options = sorted(entry.option for entry in differences if entry not in updates)
    words = [f"{', '.join(options)} changed"] if options else []
    return ", ".join([*words, *("image updated" for dummy in updates)])


def _is_update(difference: Difference) -> bool:
    """Whether an image has become another one under its name."""
    if difference.option != "image" or difference.change is Change.LIVE:
        return False
    return image_change.plain(difference.before) == image_change.plain(difference.after)


def record_lines(decision: Decision) -> list[Operation]:
    """Lines that announce a new sandbox, a rebuild or changed options."""
    name = decision.name
    changed = []
    for difference in decision.differences:
        before, after = _shown(difference.before), _shown(difference.after)
        brief = difference.option not in SECRET and len(before) + len(after) <= _BRIEF
        summary = f"{difference.option} {f'{before} -> {after}' if brief else 'changed'}"
        change = difference.change
        if difference.option == "image" and change is not Change.LIVE:
            summary = _image_summary(decision, difference)
            change = Change.REBUILD if decision.rebuild else change
        changed.append(Operation(name, summary, change=change))
    if decision.new and decision.content:
        source = decision.content.snapshot.name
        return [Operation(name, f"clone from snapshot {source}")]
    if decision.new:
        return [Operation(name, f"create from {decision.record.image.name}")]
    if decision.rebuild:
        return [*changed, Operation(name, f"rebuild: {decision.rebuild}", change=Change.REBUILD)]
    if decision.write_record and not changed:
        return [Operation(name, "update record")]
    return changed


def _image_summary(decision: Decision, difference: Difference) -> str:
    old, new = decision.old_image[:12], decision.record.image.digest[:12] or "not made yet"
    text = f"image {difference.before} -> {difference.after}"
    if _is_update(difference):
        text = f"image updated, {old} -> {new}"
    return f"{text}, {'gets a fresh' if decision.rebuild else 'keeps its'} layer"


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
