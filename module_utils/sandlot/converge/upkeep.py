# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs from the records alone: boots, shutdowns, commands of the CLI, repairs."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import Iterable, Sequence

from .. import lock, network, store
from ..errors import LaunchError, SpecError
from ..images import setup
from ..launcher.client import Launcher
from ..plan import apply_all, descriptions
from ..sandbox import job_slots, record, runtime
from ..sandbox.record import PRESENT, REMOVING, STARTED, STOPPED, Record, Records
from ..site import Site
from . import crashes, dependencies, scope
from .api import converge, run
from .decide import ABSENT, Desired
from .observe import observe
from .report import Result
from .resolve import Request, resolve


def up(site: Site, *, watch: float = 0.0) -> Result:
    """Start sandboxes after a boot, as their records say; a broken record fails alone.

    A workload that ends within ``watch`` seconds is a warning.
    """
    with lock.exclusive(site):
        records = record.load_all(site)
        desired = (
            Desired(entry.name, ABSENT)
            if setup.SANDBOX.fullmatch(entry.name)
            else _stored(entry.name, entry.wanted, records)
            for entry in _idle(site, records)
        )
        request = Request(tuple(desired), watch=watch, tidy=True)
        done = _with_broken(run(site, request), records)
    return crashes.noted(site, request, done, boots=True)


def repair(site: Site, *, check: bool = False) -> Result:
    """Restore the network from the records; a broken record fails alone."""
    with contextlib.ExitStack() as stack:
        if not check:
            stack.enter_context(lock.exclusive(site))
        records = record.load_all(site)
        desired = (_stored(entry.name, PRESENT, records) for entry in _idle(site, records))
        done = run(site, Request(tuple(desired), check=check, repair=True))
    return _with_broken(done, records)


def _with_broken(done: Result, records: Records) -> Result:
    broken = {name: str(error) for name, error in records.broken.items()}
    return replace(done, failed={**done.failed, **broken})


def _idle(site: Site, records: Records) -> list[Record]:
    """Records of sandboxes, without those being removed and running setups."""
    return [
        entry
        for entry in records.good.values()
        if entry.phase != REMOVING and not setup.is_running(site, entry.name)
    ]


def down(site: Site) -> dict[str, str]:
    """Stop all sandboxes before a shutdown; records keep their state, so `up` starts them again."""
    launcher = Launcher(site)
    job_slots.end_all(site)
    with lock.exclusive(site):
        if not launcher.exists():
            return {}
        known = record.load_all(site).good
        failures: dict[str, LaunchError] = {}
        for level in dependencies.stops(runtime.names(site), known):
            failures.update(launcher.stop(level))
    return {name: str(failure) for name, failure in failures.items()}


def lifecycle(site: Site, names: Sequence[str], action: str, *, watch: float = 0.0) -> Result:
    """Start, stop or restart existing sandboxes; the new state survives a reboot.

    A sandbox whose workload ends within ``watch`` seconds fails.
    """
    state = STOPPED if action == "stop" else STARTED
    with lock.exclusive(site):
        around = scope.around(site, names)
        records = record.load_all(site, around)
        desired = (
            replace(_stored(name, state, records), restart=action == "restart", again=True)
            for name in names
        )
        request = Request(tuple(desired), watch=watch, scope=around)
        done = run(site, request)
    return crashes.noted(site, request, done)


def start_held(site: Site, name: str) -> None:
    """Start a sandbox whose workload ended by itself; the next traced command is its run."""
    with lock.exclusive(site):
        records = record.load_all(site)
        desired = _stored(name, STARTED, records)
        if records.good[name].wanted != STARTED:
            raise LaunchError(f"{name} is stopped", hint=f"start it: sandlot start {name}")
        mark = site.sandbox(name).held
        try:
            os.makedirs(os.path.dirname(mark), mode=0o700, exist_ok=True)
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            done = run(site, Request((desired,)))
        finally:
            store.remove(mark)
    if name in done.failed:
        raise LaunchError(done.failed[name])


def _stored(name: str, state: str, records: Records) -> Desired:
    if name in records.broken:
        raise records.broken[name]
    if name not in records.good:
        known = ", ".join(sorted(records.good)) or "there is none"
        raise SpecError("name", name, "is no sandbox of this host", hint=f"known: {known}")
    return Desired(name, state, records.good[name].spec, keep_image=True)


def remove(site: Site, names: Iterable[str], *, check: bool = False) -> Result:
    return converge(site, Request(tuple(Desired(name, ABSENT) for name in names), check=check))


def remove_kept(site: Site, names: Sequence[str], *, force: bool) -> Result:
    """Remove sandboxes, and keep what they wrote as snapshots; running ones only by ``force``."""
    with lock.exclusive(site):
        running = [name for name in names if runtime.settled(site.sandbox(name))]
        if running and not force:
            subject = ", ".join(running)
            raise LaunchError(
                f"{subject}: not removed, as {'it runs' if len(running) == 1 else 'they run'}",
                hint=f"stop it first: sandlot stop {' '.join(running)}; or: sandlot rm --force",
            )
        absent = tuple(Desired(name, ABSENT) for name in names)
        return run(site, Request(absent, set_aside=True))


def refresh(site: Site) -> list[str]:
    """Resolve the names of egress lists again; the actions, [] for a host without names."""
    if not os.path.exists(site.names_file):
        return []
    with lock.exclusive(site):
        if not os.path.exists(site.names_file):
            return []  # a teardown was under way
        observed = observe(site, [])
        resolved = resolve(site, Request(()), observed)
        names = network.policy_names(observed.networks, resolved.policies)
        addresses = network.resolve_names(site, names)
        desired = resolved.desired_network(observed.networks)
        operations = network.refresh_operations(site, desired, observed.network, addresses)
        apply_all(operations)
        # Save even without a change: an address is kept for a time after its last answer.
        network.save_names(site, addresses)
        return descriptions(operations)
