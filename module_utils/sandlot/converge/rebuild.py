# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Rebuilds as transactions: make the new version, switch to it, keep it if it runs well.

A rebuild keeps the new and the old version in two slots, directories of the sandbox. The record
stays the old one, in phase rebuilding, until the commit; ``rollback`` undoes a rebuild without one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence

from .. import network, store
from ..cgroups import freezing
from ..errors import LaunchError, SandlotError
from ..kernel import mount_points
from ..launcher.client import Launcher
from ..oserrors import explained
from ..plan import Failures, Operation, batch
from ..sandbox import crash, health, launchfile, layers, mounts, record, runtime
from ..sandbox.record import PRESENT, REBUILDING, Record
from ..site import NEXT, OLD, Site
from ..snapshots import aside, exchange, model
from ..snapshots.aside import Drop
from ..snapshots.content import fill_layer
from . import drops
from .decide import Decision, Observed, Target, preparation_line, record_lines, switch_line
from .observe import NamespaceRecord, write_namespace_record


@dataclass(frozen=True)
class Rebuild:
    """The rebuild of one sandbox."""

    decision: Decision
    old: Record
    launch: Mapping[str, Any]
    namespaces: NamespaceRecord
    ran: bool

    @property
    def name(self) -> str:
        return self.decision.name

    @property
    def new(self) -> Record:
        return self.decision.record.in_phase(PRESENT)


def rebuilds(
    decisions: Mapping[str, Decision],
    targets: Mapping[str, Target],
    observed: Mapping[str, Observed],
) -> Dict[str, Rebuild]:
    planned = {}
    for name, decision in decisions.items():
        old = observed[name].record
        if decision.next_slot and old is not None:
            namespaces = NamespaceRecord(targets[name].namespaces, decision.record.interfaces)
            ran = observed[name].running is not None
            planned[name] = Rebuild(decision, old, targets[name].launch, namespaces, ran)
    return planned


def act_on_each(
    what: str, names: Iterable[str], failures: Failures, action: Callable[[str], None]
) -> None:
    """Act on each sandbox that has not failed; a failure concerns that sandbox alone."""
    for name in [name for name in names if name not in failures]:
        try:
            action(name)
        except OSError as error:
            failures[name] = explained(error, what)
        except SandlotError as error:
            failures[name] = error


# -- while the old version runs


def announce(site: Site, rebuild: Rebuild) -> list[Operation]:
    """Make the directory, then set the phase: together they mark a rebuild that can be undone."""

    def save() -> None:
        os.makedirs(site.sandbox(rebuild.name).rebuild, mode=0o700, exist_ok=True)
        record.save(site, rebuild.old.in_phase(REBUILDING))

    mark = Operation(rebuild.name, "mark for a rebuild", save, subject=rebuild.name, silent=True)
    return [*record_lines(rebuild.decision), mark]


def prepare(
    site: Site, planned: Mapping[str, Rebuild], dropped: Mapping[str, Drop]
) -> list[Operation]:
    def make(rebuild: Rebuild) -> None:
        drops.begin(site, dropped.get(rebuild.name))
        slot = site.sandbox(rebuild.name).in_slot(NEXT)
        layers.make(slot, rebuild.new.ids, rebuild.new.spec.disk_size)
        if rebuild.decision.content:
            fill_layer(site, rebuild.decision.content, slot, rebuild.new.ids)
            exchange.prepare(site, rebuild.decision.content, site.sandbox(rebuild.name))
        launchfile.write(slot, launchfile.encoded(rebuild.launch))
        write_namespace_record(slot, rebuild.namespaces)

    def pin(names: Sequence[str], failures: Failures) -> None:
        slots = {site.sandbox(name).in_slot(NEXT).address: name for name in names}
        for address, failure in Launcher(site).create(slots).items():
            failures[slots[address]] = failure

    prepared = [
        replace(
            preparation_line(rebuild.decision), action=partial(make, rebuild), subject=rebuild.name
        )
        for rebuild in planned.values()
    ]
    return [*prepared, *batch("prepare namespaces", list(planned), pin)]


# -- while neither version runs


def switch(site: Site, planned: Mapping[str, Rebuild], state: network.State) -> list[Operation]:
    """Unlink the old interfaces first, as the new ones have the same names and addresses."""
    lines = [
        line
        for rebuild in planned.values()
        for line in (*_backup_lines(rebuild), switch_line(rebuild.decision))
    ]

    known = cache(lambda: record.load_all(site).good)

    def switch_one(name: str) -> None:
        layers.set_aside(site.sandbox(name))
        exchange.exchange(site, site.sandbox(name))
        volumes = backed_up(planned[name])
        if volumes:
            with freezing.frozen(site, _writers(site, name, volumes, known())):
                exchange.back_up(site, site.sandbox(name), volumes)

    def switch_all(names: Sequence[str], failures: Failures) -> None:
        for operation in network.unlink(site, names, state):
            operation.apply()
        act_on_each("switch to the new", names, failures, switch_one)

    return batch("switch", list(planned), switch_all, lines)


def backed_up(rebuild: Rebuild) -> List[str]:
    """The volumes that are copied before the new version gets them."""
    asked = model.REBUILD in rebuild.new.spec.snapshot_before and not rebuild.decision.content
    return mounts.volume_names(rebuild.old) if asked else []


def _backup_lines(rebuild: Rebuild) -> List[Operation]:
    names = backed_up(rebuild)
    summary = f"copy volumes {', '.join(names)} for the snapshot of its layer"
    return [Operation(rebuild.name, summary)] if names else []


def _writers(
    site: Site, name: str, volumes: Sequence[str], known: Mapping[str, Record]
) -> List[str]:
    """Other running sandboxes that use the volumes."""
    return [
        other
        for other, entry in known.items()
        if other != name
        and not set(volumes).isdisjoint(mounts.volume_names(entry))
        and runtime.running(site.sandbox(other))
    ]


# -- while the new version runs


def await_all(
    site: Site, renewed: Mapping[str, Record], restarted: Mapping[str, Record], watch: float
) -> list[Operation]:
    """Wait for changed sandboxes: none may end while it is watched.

    A ``renewed`` one has a new root: it has to become healthy, or to run for STEADY_SECONDS.
    ``watch`` is the default of ``fail_on_crash``.
    """
    records = {**restarted, **renewed}
    specs = {name: entry.spec for name, entry in records.items()}
    seconds = {name: spec.fail_on_crash for name, spec in specs.items()}

    def wait(names: Sequence[str], failures: Failures) -> None:
        checked = {name for name in names if health.launched(site, name)}
        limits = {
            name: max(watch, health.STEADY_SECONDS if name in renewed else 0.0) for name in names
        }
        limits.update((n, given) for n in names if (given := seconds[n]) is not None)
        watched = [name for name in names if limits[name]]
        awaited = {
            name: specs[name].healthy_wait_timeout
            for name in checked
            if name in renewed or (name in watched and seconds[name] is None)
        }
        unhealthy = health.wait_each(site, health.deadlines(site, awaited), watched)
        by_limit = [n for n in watched if n not in awaited or seconds[n] is not None]
        crash.watch(site, {name: limits[name] for name in by_limit})
        for name in names:
            known = records[name]
            end = crash.look(site, name, fresh=True, known=known) if name in watched else None
            if end:
                failures[name] = crash.Crashed(end)
            elif name in unhealthy and name in renewed:
                # The caller knows which version wrote the log.
                failures[name] = LaunchError(unhealthy[name].problem)

    return batch("wait", list(specs), wait)


def commit(site: Site, rebuild: Rebuild) -> Operation:
    """Make the new version the sandbox's own; only the removal of the old one is left to do."""

    def save() -> None:
        store.sync_directory(site.sandbox(rebuild.name).in_slot(OLD).state)
        record.save(site, rebuild.new)

    return Operation(rebuild.name, "commit the rebuild", save, subject=rebuild.name, silent=True)


def discard(site: Site, names: Sequence[str]) -> list[Operation]:
    """Remove the old version; the directory that marks the rebuild goes last."""
    return batch("discard what was set aside", names, lambda n, f: discard_all(site, n, f))


def discard_all(site: Site, names: Sequence[str], failures: Failures) -> None:
    failures.update(unpin(site, names))

    def end(name: str) -> None:
        aside.finish(site, site.sandbox(name).in_slot(OLD))
        layers.remove_slots(site.sandbox(name))

    with mount_points.kept():
        act_on_each("remove what was set aside", names, failures, end)


def unpin(site: Site, names: Sequence[str]) -> Failures:
    slots = {
        site.sandbox(name).in_slot(slot).address: name for name in names for slot in (NEXT, OLD)
    }
    failed = Launcher(site).destroy(slots)
    return {slots[address]: failure for address, failure in failed.items()}
