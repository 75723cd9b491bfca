# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs: look, plan, apply. Modules and the CLI call these and nothing deeper."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import Iterable, Mapping, Sequence

from .. import images, lock, network
from ..errors import LaunchError, SpecError
from ..host import payload
from ..images import ImageSpec, setup, with_uploads
from ..images.build import ATTEMPTS
from ..images.setup import Runner
from ..launcher.client import Launcher
from ..network import Network
from ..plan import Failures, Operation, apply_all, apply_each
from ..sandbox import health, record, runtime
from ..sandbox.record import STARTED, STOPPED, Records
from ..site import Site
from ..spec import Spec
from . import dependencies, rollback, throwaway
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
    purge: bool = False,
    prune: bool = False,
    recreate: bool = False,
    restart: bool = False,
    check: bool = False,
    uploads: Mapping[str, str] | None = None,
    management_ports: Iterable[int] = (),
) -> Request:
    """A request for all there is to be of each kind; None leaves a kind alone."""
    wishes = None
    if specs is not None:
        specs = tuple(specs)
        setup.check_free(spec.name for spec in specs if spec.state != ABSENT)
        wishes = tuple(_wish(spec, recreate=recreate, restart=restart) for spec in specs)
    return Request(
        sandboxes=wishes,
        networks=networks,
        images=None if images is None else tuple(with_uploads(tuple(images), uploads)),
        purge=purge,
        prune=prune,
        check=check,
        uploads=uploads,
        management_ports=tuple(management_ports),
    )


def _wish(spec: Spec, *, recreate: bool, restart: bool) -> Desired:
    healthy = spec.state == HEALTHY
    return Desired(
        name=spec.name,
        state=STARTED if healthy else spec.state,
        spec=None if spec.state == ABSENT else spec,
        restart=restart or spec.restart,
        recreate=recreate or spec.recreate,
        healthy=healthy,
    )


def converge(site: Site, wanted: Request) -> Result:
    """Take the host to what is wanted; in check mode say how, touching nothing.

    Images take long to make, so that is done before the one time the lock is taken.
    """
    wanted = _with_image_plan(site, wanted)
    planned = wanted.image_plan
    if wanted.check:
        return _run(site, wanted)
    if planned and wanted.uploads is not None:
        needed = images.uploads_needed(site, wanted.images or (), planned.wanted)
        if needed:
            return replace(NOTHING, uploads_needed=needed)
    if planned and (planned.makings or planned.sweeps):
        return _make_and_run(site, wanted, planned)
    with lock.exclusive(site):
        done = _run(site, wanted)
    return _await_health(site, wanted, done)


def setup_runner(site: Site, networks: Mapping[str, Network | None] | None = None) -> Runner:
    """Runs the setup of images; ``networks`` are made for it as for any sandbox."""
    there = networks and {name: item for name, item in networks.items() if item is not None}

    def converge_one(wanted: Request) -> Result:
        return converge(site, replace(wanted, networks=there))

    return throwaway.runner(site, converge_one)


def _with_image_plan(site: Site, wanted: Request) -> Request:
    if wanted.images is None:
        return wanted
    planned = images.planned(
        site,
        wanted.images,
        purge=wanted.purge,
        prune=wanted.prune,
        run_setup=setup_runner(site, wanted.networks),
    )
    abandoned = throwaway.leftovers(site, partial(converge, site))
    return replace(wanted, image_plan=replace(planned, sweeps=[*abandoned, *planned.sweeps]))


def _make_and_run(site: Site, wanted: Request, planned: images.ImagePlan) -> Result:
    """The plan is announced first, so that nothing is made for a run that will be refused."""
    announced = _run(site, replace(wanted, check=True))
    apply_all(planned.sweeps)
    attempts = ATTEMPTS
    while True:
        attempts -= 1
        seconds = images.make_trees(site, planned.makings)
        with lock.exclusive(site):
            # Until it is recorded, another run may remove a tree that nothing refers to.
            if all(making.is_whole() for making in planned.makings) or not attempts:
                done = _run(site, replace(wanted, image_plan=planned.as_made()))
                break
    # The networks of a setup are made before their turn comes.
    told = replace(done, changed=announced.changed, actions=announced.actions, diff=announced.diff)
    made = images.done(site, planned.makings, seconds)
    return _await_health(site, wanted, replace(told, images_made=made))


def _await_health(site: Site, wanted: Request, done: Result) -> Result:
    """Without the lock, so that a slow sandbox keeps nobody from stopping it."""
    now = time.monotonic()
    specs = [wish.spec for wish in wanted.wishes if wish.healthy and wish.spec]
    deadlines = {
        spec.name: now + (spec.healthy_wait_timeout or health.patience_of(site, spec.name))
        for spec in specs
        if spec.name not in done.failed
    }
    failures = health.wait_each(site, deadlines) if deadlines else {}
    for name, error in failures.items():
        done.sandboxes.setdefault(name, {"name": name})["failed"] = str(error)
    failed = {name: str(error) for name, error in failures.items()}
    return replace(done, failed={**done.failed, **failed})


def _run(site: Site, wanted: Request) -> Result:
    seen = _look(site, wanted)
    wanted, seen, undone, failures = _rolled_back(site, wanted, seen)
    planned = plan(site, wanted, with_desired(wanted, seen))
    told = [*(wanted.image_plan.sweeps if wanted.image_plan else ()), *undone]
    if wanted.check:
        return result(planned, {}, told)
    apply_all(planned.first)
    failures.update(carry_out(site, planned, partial(_run, site)))
    if not failures:
        with network.session():
            apply_all(planned.last)
    Launcher(site).wake()
    return result(planned, failures, told)


def _look(site: Site, wanted: Request) -> Observation:
    specs = [wish.spec for wish in wanted.wishes if wish.spec]
    attached = {item.name for spec in specs for item in spec.networks}
    return observe(site, [wish.name for wish in wanted.wishes], attached)


def _rolled_back(
    site: Site, wanted: Request, seen: Observation
) -> tuple[Request, Observation, Sequence[Operation], Failures]:
    """Rebuilds that a killed run left are no part of a plan: they are undone before it is made."""
    found = rollback.unfinished(seen, removed(site, wanted, seen))
    if wanted.sandboxes is None or wanted.repair or not (found.undo or found.clean):
        return wanted, seen, (), {}
    wanted = rollback.joined(wanted, found.undo, seen.records)
    steps = rollback.steps(site, found, seen.records)
    if wanted.check:
        return wanted, rollback.foreseen(site, found, seen), steps, {}
    failures = apply_each(steps)
    wanted = replace(wanted, sandboxes=tuple(w for w in wanted.wishes if w.name not in failures))
    return wanted, _look(site, wanted), steps, failures


def up(site: Site) -> Result:
    """After a boot: every sandbox as its record wants it; a broken record fails alone."""
    with lock.exclusive(site):
        records = record.load_all(site)
        wishes = tuple(_wish_at_boot(entry, records) for entry in _idle(site, records))
        done = _run(site, Request(wishes))
    broken = {name: str(error) for name, error in records.broken.items()}
    return replace(done, failed={**done.failed, **broken})


def repair(site: Site, *, check: bool = False) -> Result:
    """The network as the records want it; a broken record fails alone."""
    with contextlib.ExitStack() as stack:
        if not check:
            stack.enter_context(lock.exclusive(site))
        records = record.load_all(site)
        wishes = tuple(
            _stored_wish(entry.name, "present", records) for entry in _idle(site, records)
        )
        done = _run(site, Request(wishes, check=check, repair=True))
    broken = {name: str(error) for name, error in records.broken.items()}
    return replace(done, failed={**done.failed, **broken})


def _idle(site: Site, records: Records) -> list[record.Record]:
    return [entry for entry in _whole(records) if not setup.is_running(site, entry.name)]


def _wish_at_boot(entry: record.Record, records: Records) -> Desired:
    if setup.SANDBOX.fullmatch(entry.name):
        return Desired(entry.name, ABSENT)
    return _stored_wish(entry.name, entry.wanted, records)


def down(site: Site) -> dict[str, str]:
    """Before the host goes down: end what runs. What is wanted stays, so `up` starts it again."""
    launcher = Launcher(site, python=payload.python())
    with lock.exclusive(site):
        if not launcher.exists():
            return {}
        known = record.load_all(site).good
        failures: dict[str, LaunchError] = {}
        for level in dependencies.stops(runtime.names(site), known):
            failures.update(launcher.stop(level))
    return {name: str(failure) for name, failure in failures.items()}


def _whole(records: Records) -> list[record.Record]:
    return [entry for entry in records.good.values() if entry.phase != record.REMOVING]


def lifecycle(site: Site, names: Sequence[str], action: str) -> Result:
    """`start`, `stop` or `restart` of existing sandboxes; what is wanted outlives a reboot."""
    state = STOPPED if action == "stop" else STARTED
    with lock.exclusive(site):
        records = record.load_all(site)
        wishes = [_stored_wish(name, state, records) for name in names]
        if action == "restart":
            wishes = [replace(wish, restart=True) for wish in wishes]
        return _run(site, Request(tuple(wishes)))


def _stored_wish(name: str, state: str, records: Records) -> Desired:
    if name in records.broken:
        raise records.broken[name]
    if name not in records.good:
        known = ", ".join(sorted(records.good)) or "there is none"
        raise SpecError("name", name, "is no sandbox of this host", hint=f"known: {known}")
    return Desired(name, state, records.good[name].spec, keep_image=True)


def remove(site: Site, names: Iterable[str], *, check: bool = False) -> Result:
    return converge(site, Request(tuple(Desired(name, ABSENT) for name in names), check=check))
