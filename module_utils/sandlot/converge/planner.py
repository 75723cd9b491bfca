# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The plan of a run: its phases, in order.

A run first records its intent, then stops sandboxes and unmakes namespaces that have to go. It
cleans up removed sandboxes, sets ids, networks and rules, then prepares, creates and starts others.
Networks, images and volumes are removed last, and only if everything before succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Mapping, Sequence

from ..configuration import texts
from ..mask import Mask
from ..plan import Operation
from ..sandbox import etcfiles
from ..sandbox.hidden_files import Hidden
from ..site import Site
from . import (
    bind_checks,
    cloning,
    configuring,
    drops,
    hidden,
    mounting,
    phases,
    placing,
    removal,
    volume_phases,
)
from .context import Context, context
from .observe import Observation
from .resolve import Request

Phase = Callable[[Context], Sequence[Operation]]

FIRST: tuple[Phase, ...] = (phases.record_images,)
# Running sandboxes are left alone here: a rebuild that can't be prepared is dropped.
PREPARATION: tuple[Phase, ...] = (
    configuring.keep_for_rebuilds,
    phases.announce_rebuilds,
    phases.shift_next_slot,
    phases.prepare_rebuilds,
    removal.begin_snapshots,
)
STEPS: tuple[Phase, ...] = (
    removal.announce,
    configuring.keep,
    configuring.mark,
    phases.write_records,
    phases.stop,
    phases.note_logs,
    phases.switch,
    phases.destroy,
    # Before all that needs space, as it gives space back.
    removal.clean,
    phases.ids,
    phases.networks,
    removal.forget,
    phases.shift,
    # Before the launch file names them: the launcher may be about to revive a sandbox.
    configuring.announce,
    configuring.place,
    phases.prepare,
    phases.size_layers,
    phases.update_hosts,
    volume_phases.make,
    cloning.fill_volumes,
    phases.create,
    phases.plug,
    phases.limit,
    volume_phases.populate,
    mounting.change_mounts,
    configuring.reload,
    phases.start,
    phases.await_changed,
    phases.settle,
    configuring.tidy,
    cloning.end,
    volume_phases.settle,
    phases.watch,
)
LAST: tuple[Phase, ...] = (
    removal.remove_networks,
    removal.remove_snapshots,
    removal.remove_images,
    volume_phases.remove,
    volume_phases.reopen,
)


@dataclass(frozen=True)
class Plan:
    """A run with a failed sandbox skips ``last``, as the sandbox may need what it removes.

    ``room`` comes before all: it removes old snapshots, which may make room for the run. ``texts``
    are the files that change, which a run removes when it is done.
    """

    context: Context
    room: Sequence[Operation]
    first: Sequence[Operation]
    preparation: Sequence[Operation]
    steps: Sequence[Operation]
    last: Sequence[Operation]
    warnings: Sequence[str]
    hidden: Mapping[str, Hidden] = field(default_factory=dict)
    texts: Sequence[Dict[str, Any]] = field(default=(), repr=False)

    @property
    def operations(self) -> list[Operation]:
        return [*self.room, *self.first, *self.preparation, *self.steps, *self.last]

    def without_last(self) -> Plan:
        """The plan of a run that failed: it keeps every network, image and volume."""
        request = self.context.request
        if request.image_plan:
            image_plan = replace(request.image_plan, absent=frozenset(), purge=False)
            request = replace(request, image_plan=image_plan)
        networks = {**self.context.observed.before.networks, **self.context.final_networks}
        volumes = {**self.context.observed.volumes.good, **self.context.volume_plan.after}
        volume_plan = replace(self.context.volume_plan, after=volumes)
        changed = replace(
            self.context, request=request, final_networks=networks, volume_plan=volume_plan
        )
        return replace(self, context=changed, last=())


def plan(site: Site, request: Request, observed: Observation) -> Plan:
    situation = context(site, request, observed)
    records = [target.record for target in situation.resolved.targets.values()]
    warnings = [*etcfiles.warnings(records, observed.networks), *bind_checks.warnings(records)]
    warnings += [line for entry in records for line in placing.warnings(entry)]
    if request.repair:
        # A repair sets the network of existing sandboxes; it starts, makes and records nothing.
        repairs = [*phases.networks(situation), *phases.plug(situation)]
        return Plan(situation, (), (), (), repairs, (), warnings)
    first, preparation, steps = (_of(part, situation) for part in (FIRST, PREPARATION, STEPS))
    hiding = hidden.hidden_files(site, situation.decisions, observed.sandboxes)
    shown = _texts(situation) if request.diff else ()
    if request.scope is not None:
        # Only a run that looks at all sandboxes knows what none of them uses.
        return Plan(situation, (), first, preparation, steps, (), warnings, hiding, shown)
    if request.tidy or any(not item.silent for item in (*first, *preparation, *steps)):
        due = drops.going(site, request, situation.resolved, observed, situation.drops)
        situation = replace(situation, due=due)
    surplus = [entry for entry in situation.due if entry.surplus]
    others = [entry for entry in situation.due if not entry.surplus]
    room = [*drops.tidy(site, observed), *drops.removals(site, others)]
    steps += drops.removals(site, surplus, situation.drops)
    last = _of(LAST, situation)
    return Plan(situation, room, first, preparation, steps, last, warnings, hiding, shown)


def _texts(situation: Context) -> list[Dict[str, Any]]:
    known = situation.observed.records.good
    left = {name: decision.record for name, decision in situation.decisions.items()}
    names = [*left, *situation.resolved.removed]
    pairs = [(name, known.get(name), left.get(name)) for name in names]
    mask = Mask(situation.site, is_first=situation.request.has_no_mask)
    return [entry for pair in pairs for entry in texts.changed(situation.site, *pair, mask)]


def _of(phases: Sequence[Phase], situation: Context) -> list[Operation]:
    return [operation for phase in phases for operation in phase(situation)]
