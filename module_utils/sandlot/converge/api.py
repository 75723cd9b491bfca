# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A run: observe, plan, apply; modules call these and nothing deeper."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Iterable, Mapping, Sequence

from .. import images, lock, network
from ..cgroups import freezing
from ..configuration import sealing
from ..errors import LaunchError, SpecError
from ..images import ImageSpec, progress, setup, with_uploads
from ..images.build import ATTEMPTS
from ..images.setup import Runner
from ..launcher.client import Launcher
from ..mask import Mask
from ..network import Network
from ..plan import Change, Failures, Operation, apply_all, apply_each
from ..sandbox import job_slots
from ..sandbox.record import STARTED, Records
from ..site import Site
from ..spec import Spec, comparisons
from ..volumes import VolumeSpec
from . import ceiling, cloning, crashes, rollback, scope, throwaway
from .decide import ABSENT, HEALTHY, Desired
from .observe import Observation, observe
from .planner import plan
from .report import NOTHING, Result, result
from .resolve import Request, removed, with_desired
from .transaction import carry_out


def request(
    specs: Iterable[Spec] | None,
    *,
    images: Iterable[ImageSpec] | None = None,
    networks: Mapping[str, Network | None] | None = None,
    volumes: Mapping[str, VolumeSpec] | None = None,
    purge: bool = False,
    purge_volumes: bool = False,
    purge_snapshots: bool = False,
    prune: bool = False,
    recreate: bool = False,
    restart: bool = False,
    only: Sequence[str] | None = None,
    check: bool = False,
    diff: bool = False,
    watch: float = 0.0,
    uploads: Mapping[str, str] | None = None,
    management_ports: Iterable[int] = (),
    allow_changes: Change = Change.REBUILD,
) -> Request:
    """Request the listed sandboxes, images, networks and volumes; None leaves a kind alone.

    With ``only``, the request is about the sandboxes of these names.
    """
    sandboxes = None
    if specs is not None:
        specs = tuple(specs) if only is None else _chosen(tuple(specs), only, purge=purge)
        setup.check_free(spec.name for spec in specs if spec.state != ABSENT)
        sandboxes = tuple(_desired(spec, recreate=recreate, restart=restart) for spec in specs)
    return Request(
        sandboxes=sandboxes,
        networks=networks,
        images=None if images is None else tuple(with_uploads(tuple(images), uploads)),
        volumes=volumes,
        purge=purge,
        purge_volumes=purge_volumes,
        purge_snapshots=purge_snapshots,
        prune=prune,
        check=check,
        diff=diff,
        watch=watch,
        uploads=uploads,
        management_ports=tuple(management_ports),
        allow_changes=allow_changes,
    )


def _chosen(specs: tuple[Spec, ...], only: Sequence[str], *, purge: bool) -> tuple[Spec, ...]:
    if purge:
        hint = "leave one of them out"
        raise SpecError("only", list(only), "can't be combined with purge", hint=hint)
    known = [spec.name for spec in specs]
    for name in only:
        if name not in known:
            hint = "correct the name, which the role takes from sandbox_rebuild; listed: "
            problem = "is not a listed sandbox"
            raise SpecError("only", name, problem, hint=hint + (", ".join(known) or "none"))
    return tuple(spec for spec in specs if spec.name in only)


def _desired(spec: Spec, *, recreate: bool, restart: bool) -> Desired:
    healthy = spec.state == HEALTHY
    return Desired(
        name=spec.name,
        state=STARTED if healthy else spec.state,
        spec=None if spec.state == ABSENT else spec,
        restart=restart or spec.restart,
        recreate=recreate or spec.recreate,
        healthy=healthy,
        allow_changes=Change(spec.allow_changes),
    )


def converge(site: Site, request: Request) -> Result:
    """Bring the host to the request; a check tells how and touches nothing.

    Images take long to build, so they are built before the lock is taken.
    """
    request = replace(request, has_no_mask=not os.path.exists(site.mask))
    if request.images is not None:
        purge, prune = request.purge, request.prune
        runner = setup_runner(site, request.networks)
        images_plan = images.planned(
            site, request.images, purge=purge, prune=prune, run_setup=runner
        )
        sweeps = [*throwaway.leftovers(site, partial(converge, site)), *images_plan.sweeps]
        request = replace(request, image_plan=replace(images_plan, sweeps=sweeps))
    planned = request.image_plan
    if request.check:
        return run(site, request)
    if planned and request.uploads is not None:
        needed = images.uploads_needed(site, request.images or (), planned.wanted)
        if needed:
            # A run that will be refused gets no archive.
            run(site, replace(request, check=True))
            return replace(NOTHING, uploads_needed=needed)
    if planned and (planned.makings or planned.sweeps):
        return _make_and_run(site, request, planned)
    with lock.exclusive(site):
        done = run(site, request)
    return crashes.noted(site, request, done)


def setup_runner(site: Site, networks: Mapping[str, Network | None] | None = None) -> Runner:
    """The runner of image setups; it makes ``networks`` first, as a run does for any sandbox."""
    present = networks and {name: item for name, item in networks.items() if item is not None}

    def converge_one(request: Request) -> Result:
        return converge(site, replace(request, networks=present))

    return throwaway.runner(site, converge_one)


def _make_and_run(site: Site, request: Request, planned: images.ImagePlan) -> Result:
    """A check comes first, so that a run which will be refused builds no image."""
    announced = run(site, replace(request, check=True))
    apply_all(planned.sweeps)
    attempts = ATTEMPTS
    with progress.Run(site, [making.name for making in planned.makings]) as announcement:
        while True:
            attempts -= 1
            seconds = images.make_trees(site, planned.makings, announcement)
            with lock.exclusive(site):
                # Another run may remove a tree until a record refers to it.
                if all(making.is_whole() for making in planned.makings) or not attempts:
                    done = run(site, replace(request, image_plan=planned.as_made()))
                    break
    actions = announced.actions
    if done.failed:
        actions = actions[: len(actions) - announced.removals]
    done = replace(
        done,
        # A setup makes networks early, so only the check's plan has all changes.
        changed=announced.changed,
        actions=actions,
        diff=done.diff if done.failed else announced.diff,
        images_made=images.done(site, planned.makings, seconds),
    )
    return crashes.noted(site, request, done)


def run(site: Site, request: Request) -> Result:
    """Observe, plan, apply; the caller holds the lock, except for a check."""
    left: dict[str, LaunchError] = {}
    if not request.check:
        freezing.thaw_left(site)
        left = job_slots.sweep(site, is_writer=True) if request.scope is None else {}
    request = _sealed(site, request)
    observed = _look(site, request)
    request = _compared(request, observed.records)
    if request.scope is not None and not scope.suffices(site, observed, request.desired):
        request = replace(request, scope=None)
        observed = _look(site, request)
    request = cloning.resumed(site, request, observed.records)
    request, observed, undone, failures = _rolled_back(site, request, observed)
    failures.update(left)
    planned = plan(site, request, with_desired(request, observed))
    before = [*(request.image_plan.sweeps if request.image_plan else ()), *undone]
    ceiling.check(request, planned)
    if request.check:
        return result(planned, {}, before)
    written = [item.record for item in planned.context.decisions.values() if item.write_record]
    if written:
        # Without its key, nobody could tell later whether a value is another one.
        Mask(site, keep=True).prepare(needed=any(sealing.values(entry.spec) for entry in written))
    failures.update(apply_each(planned.room))
    apply_all(planned.first)
    failures.update(carry_out(site, planned, partial(run, site)))
    if failures:
        planned = planned.without_last()
    with network.session():
        apply_all(planned.last)
    Launcher(site).wake()
    return result(planned, failures, before)


def _sealed(site: Site, request: Request) -> Request:
    """The request with digests for the values that it brings; records have no more of them."""
    mask = Mask(site)
    sandboxes = [
        replace(item, spec=sealing.sealed(item.spec, mask))
        if item.spec and sealing.values(item.spec)
        else item
        for item in request.sandboxes or ()
    ]
    return replace(request, sandboxes=tuple(sandboxes)) if sandboxes else request


def _compared(request: Request, records: Records) -> Request:
    """The request without the differences that its sandboxes ignore."""
    sandboxes = [
        replace(item, spec=comparisons.compared(item.spec, records.good[item.name].spec))
        if item.spec and item.spec.comparisons and item.name in records.good
        else item
        for item in request.sandboxes or ()
    ]
    return replace(request, sandboxes=tuple(sandboxes)) if sandboxes else request


def _look(site: Site, request: Request) -> Observation:
    desired = request.desired
    attached = {item.name for sandbox in desired.values() for item in sandbox.wanted_spec.networks}
    return observe(site, {*desired, *request.absent}, attached, scope=request.scope)


def _rolled_back(
    site: Site, request: Request, observed: Observation
) -> tuple[Request, Observation, Sequence[Operation], Failures]:
    """Undo the rebuilds that a killed run left, before anything is planned."""
    unfinished = rollback.unfinished(observed, removed(site, request, observed))
    if request.sandboxes is None or request.repair or not (unfinished.undo or unfinished.clean):
        return request, observed, (), {}
    if not request.check and unfinished.undo and ceiling.is_set(request):
        run(site, replace(request, check=True))
    request = rollback.with_undone(request, unfinished.undo, observed.records)
    steps = rollback.steps(site, unfinished, observed.records)
    if request.check:
        return request, rollback.foreseen(site, unfinished, observed), steps, {}
    failures = apply_each(steps)
    sandboxes = (desired for desired in request.sandboxes or () if desired.name not in failures)
    request = replace(request, sandboxes=tuple(sandboxes))
    return request, _look(site, request), steps, failures
