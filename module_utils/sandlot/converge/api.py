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
from ..images import ImageSpec
from ..launcher.client import Launcher
from ..sandbox import health, record, runtime
from ..sandbox.names import SETUP, check_free, is_setup_running
from ..sandbox.record import STARTED, STOPPED, Records
from ..site import Paths
from ..spec import Spec
from . import dependencies, rollback
from .decide import ABSENT, HEALTHY, Wish
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
    check_free(spec.name for spec in specs if spec.state != ABSENT)
    return Request(
        tuple(_wish(spec, recreate=recreate, restart=restart) for spec in specs),
        purge=purge,
        check=check,
        images=tuple(expected_images),
        networks=expected_networks or {},
        management_ports=tuple(management_ports),
    )


def _wish(spec: Spec, *, recreate: bool, restart: bool) -> Wish:
    healthy = spec.state == HEALTHY
    return Wish(
        name=spec.name,
        state=STARTED if healthy else spec.state,
        spec=None if spec.state == ABSENT else spec,
        restart=restart or spec.restart,
        recreate=recreate or spec.recreate,
        healthy=healthy,
    )


def converge(paths: Paths, wanted: Request) -> Result:
    """Take the host to what is wanted; in check mode say how, touching nothing."""
    if wanted.check:
        return _run(paths, wanted)
    with lock.exclusive(paths):
        done = _run(paths, wanted)
    return _await_health(paths, wanted, done)


def _await_health(paths: Paths, wanted: Request, done: Result) -> Result:
    """Without the lock, so that a slow sandbox keeps nobody from stopping it."""
    now = time.monotonic()
    specs = [wish.spec for wish in wanted.wishes if wish.healthy and wish.spec]
    deadlines = {
        spec.name: now + (spec.healthy_wait_timeout or health.patience_of(paths, spec.name))
        for spec in specs
        if spec.name not in done.failed
    }
    failures = health.wait_each(paths, deadlines) if deadlines else {}
    for name, error in failures.items():
        done.results.setdefault(name, {"name": name})["failed"] = str(error)
    failed = {name: str(error) for name, error in failures.items()}
    return replace(done, failed={**done.failed, **failed})


def _run(paths: Paths, wanted: Request) -> Result:
    seen = _look(paths, wanted)
    wanted, seen, undone, failures = _rolled_back(paths, wanted, seen)
    if wanted.check:
        seen = foresee(paths, wanted, seen)
    planned = plan(paths, wanted, seen)
    if wanted.check:
        return result(planned, seen, {}, undone)
    again = partial(_run, paths)
    failures.update(carry_out(paths, wanted, seen, planned, again))
    Launcher(paths).wake()
    return result(planned, seen, failures, undone)


def _look(paths: Paths, wanted: Request) -> Observation:
    specs = [wish.spec for wish in wanted.wishes if wish.spec]
    attached = {item.name for spec in specs for item in spec.networks}
    seen = observe(paths, [wish.name for wish in wanted.wishes], attached)
    return replace(seen, images={**seen.images, **wanted.made}) if wanted.made else seen


def _rolled_back(
    paths: Paths, wanted: Request, seen: Observation
) -> tuple[Request, Observation, Sequence[Step], Failures]:
    """Rebuilds that a killed run left are no part of a plan: they are undone before it is made."""
    found = rollback.unfinished(seen, removed(paths, wanted, seen))
    if wanted.repair or not (found.undo or found.clean):
        return wanted, seen, (), {}
    wanted = rollback.joined(wanted, found.undo, seen.records)
    steps = rollback.steps(paths, found, seen.records)
    if wanted.check:
        return wanted, rollback.foreseen(paths, found, seen), steps, {}
    failures = apply_all(steps)
    wanted = replace(wanted, wishes=tuple(w for w in wanted.wishes if w.name not in failures))
    return wanted, _look(paths, wanted), steps, failures


def up(paths: Paths) -> Result:
    """After a boot: every sandbox as its record wants it; a broken record fails alone."""
    with lock.exclusive(paths):
        records = record.load_all(paths)
        wishes = tuple(_wish_at_boot(entry, records) for entry in _idle(paths, records))
        done = _run(paths, Request(wishes))
    broken = {name: str(error) for name, error in records.broken.items()}
    return replace(done, failed={**done.failed, **broken})


def repair(paths: Paths, *, check: bool = False) -> Result:
    """The network as the records want it; a broken record fails alone."""
    with contextlib.ExitStack() as stack:
        if not check:
            stack.enter_context(lock.exclusive(paths))
        records = record.load_all(paths)
        wishes = tuple(
            _stored_wish(entry.name, "present", records) for entry in _idle(paths, records)
        )
        done = _run(paths, Request(wishes, check=check, repair=True))
    broken = {name: str(error) for name, error in records.broken.items()}
    return replace(done, failed={**done.failed, **broken})


def _idle(paths: Paths, records: Records) -> list[record.Record]:
    return [entry for entry in _whole(records) if not is_setup_running(paths, entry.name)]


def _wish_at_boot(entry: record.Record, records: Records) -> Wish:
    if SETUP.fullmatch(entry.name):
        return Wish(entry.name, ABSENT)
    return _stored_wish(entry.name, entry.wanted, records)


def down(paths: Paths) -> dict[str, str]:
    """Before the host goes down: end what runs. What is wanted stays, so `up` starts it again."""
    launcher = Launcher(paths, python=payload.python())
    with lock.exclusive(paths):
        if not launcher.exists():
            return {}
        known = record.load_all(paths).good
        failures: dict[str, LaunchError] = {}
        for level in dependencies.stops(runtime.names(paths), known):
            failures.update(launcher.stop(level))
    return {name: str(failure) for name, failure in failures.items()}


def _whole(records: Records) -> list[record.Record]:
    return [entry for entry in records.good.values() if entry.phase != record.REMOVING]


def lifecycle(paths: Paths, names: Sequence[str], action: str) -> Result:
    """`start`, `stop` or `restart` of existing sandboxes; what is wanted outlives a reboot."""
    state = STOPPED if action == "stop" else STARTED
    with lock.exclusive(paths):
        records = record.load_all(paths)
        wishes = [_stored_wish(name, state, records) for name in names]
        if action == "restart":
            wishes = [replace(wish, restart=True) for wish in wishes]
        return _run(paths, Request(tuple(wishes)))


def _stored_wish(name: str, state: str, records: Records) -> Wish:
    if name in records.broken:
        raise records.broken[name]
    if name not in records.good:
        known = ", ".join(sorted(records.good)) or "there is none"
        raise SpecError("name", name, "is no sandbox of this host", hint=f"known: {known}")
    return Wish(name, state, records.good[name].spec, keep_image=True)


def remove(paths: Paths, names: Iterable[str], *, check: bool = False) -> Result:
    return converge(paths, Request(tuple(Wish(name, ABSENT) for name in names), check=check))
