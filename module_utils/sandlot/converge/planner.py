# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The plan of a run: its phases, in order.

Intent records come first; then what has to go is stopped and unmade; ids, networks and rules are
made right for the new whole; the removed are cleaned up; the rest is prepared, made and started.
Networks and images go last, when all has gone well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Sequence

from ..plan import Operation
from ..sandbox import etcfiles
from ..site import Site
from . import phases, removal
from .context import Context, context
from .observe import Observation
from .resolve import Request

Phase = Callable[[Context], Sequence[Operation]]

FIRST: tuple[Phase, ...] = (phases.record_images,)
# Running sandboxes are left alone here: one that fails drops out.
PREPARATION: tuple[Phase, ...] = (
    phases.announce_rebuilds,
    phases.shift_next_slot,
    phases.prepare_rebuilds,
)
STEPS: tuple[Phase, ...] = (
    removal.announce,
    phases.write_records,
    phases.stop,
    phases.switch,
    phases.destroy,
    phases.ids,
    phases.networks,
    removal.clean,
    phases.shift,
    phases.prepare,
    phases.update_hosts,
    phases.create,
    phases.plug,
    phases.limit,
    phases.start,
    phases.await_rebuilds,
    phases.settle,
    phases.watch,
)
LAST: tuple[Phase, ...] = (removal.remove_networks, removal.remove_images)


@dataclass(frozen=True)
class Plan:
    """``last`` is left out when a sandbox failed, which may need what would go."""

    context: Context
    first: Sequence[Operation]
    preparation: Sequence[Operation]
    steps: Sequence[Operation]
    last: Sequence[Operation]
    warnings: Sequence[str]

    @property
    def operations(self) -> list[Operation]:
        return [*self.first, *self.preparation, *self.steps, *self.last]

    def without_last(self) -> Plan:
        """The plan of a run that failed: it keeps every network and image."""
        found, request = self.context, self.context.request
        if request.image_plan:
            kept = replace(request.image_plan, absent=frozenset(), purge=False)
            request = replace(request, image_plan=kept)
        remaining = {**found.observed.before.networks, **found.remaining}
        return replace(self, context=replace(found, request=request, remaining=remaining), last=())


def plan(site: Site, request: Request, observed: Observation) -> Plan:
    situation = context(site, request, observed)
    records = [target.record for target in situation.resolved.targets.values()]
    warnings = etcfiles.warnings(records, observed.networks)
    if request.repair:
        # The network of what there is: a repair starts, makes and records nothing.
        repairs = [*phases.networks(situation), *phases.plug(situation)]
        return Plan(situation, (), (), repairs, (), warnings)
    first, preparation, steps, last = (
        [operation for phase in part for operation in phase(situation)]
        for part in (FIRST, PREPARATION, STEPS, LAST)
    )
    return Plan(situation, first, preparation, steps, last, warnings)
