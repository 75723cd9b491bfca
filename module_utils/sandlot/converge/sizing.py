# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sizes of layers: refuses those that can't be enforced, and gives layers the size they lack."""

from __future__ import annotations

from functools import partial
from typing import Callable, Mapping

from .. import sizes
from ..errors import SandlotError, SpecError
from ..plan import Change, Operation
from ..sandbox import layers
from ..site import Site
from .decide import Decision, Observed, Target


def restart_reason(target: Target, observed: Observed) -> str:
    """The reason to stop a running sandbox: its layer has to move, "" for none."""
    step = sizes.due(observed.bound, target.record.spec.disk_size)
    moves = step is not None and step.needs == sizes.OFFLINE
    return "its layer gets another size" if moves else ""


def check(site: Site, target: Target, observed: Observed, decision: Decision) -> None:
    """SpecError or HostError for a size that this host can't give the layer."""
    size = target.record.spec.disk_size
    if size is None:
        return
    bound = sizes.Bound() if decision.announced or not observed.layer else observed.bound
    try:
        if target.record.image.tmpfs:
            hint = "leave it out; the option size of its image is what limits it"
            raise SpecError("disk_size", size, "has no effect on a root in memory", hint=hint)
        sizes.check(bound, layers.place(site.sandbox(decision.name)), size, layers.OPTION)
    except SandlotError as error:
        # An error about a value does not name the sandbox.
        error.name(f"sandbox {decision.name!r}")
        raise


def operations(
    site: Site, decisions: Mapping[str, Decision], observed: Mapping[str, Observed]
) -> list[Operation]:
    """Steps for layers that stay; a fresh one is made with its size."""
    steps = []
    for name, decision in decisions.items():
        fresh = decision.announced or not observed[name].layer
        size = decision.record.spec.disk_size
        step = None if fresh else sizes.due(observed[name].bound, size)
        if step:
            act, change = _act_on(step)
            action = partial(act, site, layers.place(site.sandbox(name)), size, layers.OPTION)
            steps.append(Operation(name, f"layer: {step.summary}", action, change, subject=name))
    return steps


def _act_on(step: sizes.Due) -> tuple[Callable[..., None], Change]:
    if step.needs == sizes.OFFLINE:
        return sizes.remake, Change.RESTART
    return sizes.apply, Change.LIVE
