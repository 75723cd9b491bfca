# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs: look, plan, apply. Modules and the CLI call these and nothing deeper."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import Iterable, Mapping, Sequence

from .. import lock, network
from ..errors import LaunchError, SpecError
from ..host import payload
from ..images import ImageSpec, setup
from ..launcher.client import Launcher
from ..sandbox import health, record, runtime
from ..sandbox.record import STARTED, STOPPED, Records
from ..site import Site
from ..spec import Spec
from . import dependencies, rollback
from .decide import ABSENT, HEALTHY, Desired
from .observe import Observation, observe
from .planner import plan
from .report import Result, result
from .resolve import Request, foresee, removed
from .steps import Failures, Step, apply_all
from .transaction import carry_out


def request(
    specs: Iterable[Spec],
    *,
    purge: bool = False,
    recreate: bool = False,
    restart: bool = False,
    check: bool = False,
    expected_images: Iterable[ImageSpec] = (),
    expected_networks: Mapping[str, network.Network] | None = None,
    management_ports: Iterable[int] = (),
) -> Request:
    """A request for these specs, with the state each of them asks for."""
    specs = tuple(specs)
    setup.check_free(spec.name for spec in specs if spec.state != ABSENT)
    return Request(
        tuple(_wish(spec, recreate=recreate, restart=restart) for spec in specs),
        purge=purge,
        check=check,
        images=tuple(expected_images),
        networks=expected_networks or {},
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
    """Take the host to what is wanted; in check mode say how, touching nothing."""
    if wanted.check:
        return _run(site, wanted)
    with lock.exclusive(site):
        done = _run(site, wanted)
    return _await_health(site, wanted, done)


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
        done.results.setdefault(name, {"name": name})["failed"] = str(error)
    failed = {name: str(error) for name, error in failures.items()}
    return replace(done, failed={**done.failed, **failed})


def _run(site: Site, wanted: Request) -> Result:
    seen = _look(site, wanted)
    wanted, seen, undone, failures = _rolled_back(site, wanted, seen)
    if wanted.check:
        seen = foresee(site, wanted, seen)
    planned = plan(site, wanted, seen)
    if wanted.check:
        return result(planned, seen, {}, undone)
    again = partial(_run, site)
    failures.update(carry_out(site, wanted, seen, planned, again))
    Launcher(site).wake()
    return result(planned, seen, failures, undone)


def _look(site: Site, wanted: Request) -> Observation:
    specs = [wish.spec for wish in wanted.wishes if wish.spec]
    attached = {item.name for spec in specs for item in spec.networks}
    seen = observe(site, [wish.name for wish in wanted.wishes], attached)
    return replace(seen, images={**seen.images, **wanted.made}) if wanted.made else seen


def _rolled_back(
    site: Site, wanted: Request, seen: Observation
) -> tuple[Request, Observation, Sequence[Step], Failures]:
    """Rebuilds that a killed run left are no part of a plan: they are undone before it is made."""
    found = rollback.unfinished(seen, removed(site, wanted, seen))
    if wanted.repair or not (found.undo or found.clean):
        return wanted, seen, (), {}
    wanted = rollback.joined(wanted, found.undo, seen.records)
    steps = rollback.steps(site, found, seen.records)
    if wanted.check:
        return wanted, rollback.foreseen(site, found, seen), steps, {}
    failures = apply_all(steps)
    wanted = replace(wanted, wishes=tuple(w for w in wanted.wishes if w.name not in failures))
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
