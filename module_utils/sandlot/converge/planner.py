# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The ordered steps that take a host from what is seen to what is wished.

Intent records come first; then what has to go is stopped and unmade; ids, networks and rules are
made right for the new whole; the removed are cleaned up; the rest is prepared, made and started.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Mapping, Sequence

from .. import cgroups, idmap, network
from ..launcher.client import Launcher
from ..paths import Paths
from ..plan import Operation
from . import etcfiles, launchfile, layer, record, removal
from .decide import NO_PINS, Decision, decide, namespace_lines, record_lines, run_lines
from .observe import Made, Observation, write_made
from .record import PRESENT, REBUILDING, Record
from .resolve import Request, Resolved, resolve
from .steps import Failures, Line, Step, batch, single


@dataclass(frozen=True)
class Plan:
    steps: Sequence[Step]
    resolved: Resolved
    decisions: Mapping[str, Decision]


@dataclass(frozen=True)
class _Context:
    paths: Paths
    seen: Observation
    resolved: Resolved
    decisions: Mapping[str, Decision]


def plan(paths: Paths, request: Request, seen: Observation) -> Plan:
    resolved = resolve(paths, request, seen)
    decisions = {name: decide(target, seen.seen[name]) for name, target in resolved.targets.items()}
    context = _Context(paths, seen, resolved, decisions)
    return Plan(_steps(context), resolved, decisions)


def _steps(context: _Context) -> list[Step]:
    paths, seen, removed = context.paths, context.seen, context.resolved.removed
    return [
        *removal.announce(paths, seen, removed),
        *_write_records(context),
        *_stop(context),
        *_destroy(context),
        *_shared(context),
        *removal.clean(paths, seen, removed),
        *_prepare(context),
        *_update_hosts(context),
        *_create(context),
        *_plug(context),
        *_limit(context),
        *_start(context),
        *_settle(context),
    ]


def _write_records(context: _Context) -> list[Step]:
    return [
        _record_step(context.paths, decision.record, record_lines(decision))
        for decision in context.decisions.values()
        if decision.write_record
    ]


def _record_step(paths: Paths, entry: Record, lines: Sequence[Line] = ()) -> Step:
    def save(failures: Failures) -> None:
        record.save(paths, entry)

    return Step(f"{entry.name}: write record", save, tuple(lines), entry.name)


def _stop(context: _Context) -> list[Step]:
    """Those that only stop say so here; a restart is told where it starts."""
    stopping = {name: d for name, d in context.decisions.items() if d.stop}
    lines = [line for d in stopping.values() if not d.start for line in run_lines(d)]
    running = [name for name in context.resolved.removed if context.seen.seen[name].running]
    launcher = Launcher(context.paths)

    def stop(names: list[str], failures: Failures) -> None:
        failures.update(launcher.stop(names))

    return batch("stop", [*running, *stopping], stop, lines)


def _destroy(context: _Context) -> list[Step]:
    removed = [n for n in context.resolved.removed if context.seen.seen[n].pins != NO_PINS]
    remade = [name for name, d in context.decisions.items() if d.destroy]
    launcher = Launcher(context.paths)

    def destroy(names: list[str], failures: Failures) -> None:
        failures.update(launcher.destroy(names))

    # A network namespace dies some time after its pin; its links have to be gone at once.
    gone = [*context.resolved.removed, *(name for name, d in context.decisions.items() if d.create)]
    unlinked = network.unlink_all(context.paths, gone, context.seen.network)
    return [
        *(single(operation, silent=True) for operation in unlinked),
        *batch("destroy namespaces", [*removed, *remade], destroy),
    ]


def _shared(context: _Context) -> list[Step]:
    """What belongs to the host as a whole: id files, networks, packet filter."""
    paths, seen, resolved = context.paths, context.seen, context.resolved
    present = {name: target.record.ids for name, target in resolved.targets.items()}
    present.update({name: entry.ids for name, entry in resolved.bystanders.items()})
    interfaces = [entry for entries in resolved.interfaces.values() for entry in entries]
    operations = idmap.operations(paths, seen.ids, present, resolved.removed)
    if seen.networks:
        operations += network.rules_operations(
            paths, seen.networks, interfaces, resolved.publications, seen.network
        )
        operations += network.network_operations(paths, seen.networks, seen.network)
    return [single(operation) for operation in operations]


def _prepare(context: _Context) -> list[Step]:
    """Layer, host-made files and launch file of each sandbox; one step, for it is one sandbox's."""
    steps = [_prepare_one(context, decision) for decision in context.decisions.values()]
    return [step for step in steps if step is not None]


def _prepare_one(context: _Context, decision: Decision) -> Step | None:
    paths, name = context.paths, decision.name
    fresh = decision.told or not context.seen.seen[name].layer
    files = _files(context, decision.record)
    outdated = etcfiles.outdated(paths, name, files)
    launch = context.resolved.launches[name]
    relaunch = launchfile.current(paths, name) != launchfile.encoded(launch)
    if outdated == ["hosts"] and not fresh and not relaunch:
        return None

    def prepare(failures: Failures) -> None:
        if fresh:
            layer.make(paths.sandbox(name), decision.record.ids)
        if outdated:
            etcfiles.write(paths, decision.record, {file: files[file] for file in outdated})
        if relaunch:
            launchfile.write(paths, launch)

    parts = [*(["layer"] if fresh else []), *outdated, *(["launch.json"] if relaunch else [])]
    if not parts:
        return None
    told = decision.told or decision.write_record
    lines = () if told else (Line(name, f"write {', '.join(parts)}"),)
    return Step(f"{name}: prepare", prepare, lines, name)


def _files(context: _Context, entry: Record) -> etcfiles.Files:
    return etcfiles.contents(entry, context.seen.networks, context.resolved.interfaces)


def _update_hosts(context: _Context) -> list[Step]:
    """Neighbours come and go, so hosts files of sandboxes that do not change otherwise follow."""
    everyone = {name: target.record for name, target in context.resolved.targets.items()}
    everyone.update(
        (name, entry)
        for name, entry in context.resolved.bystanders.items()
        if context.seen.seen[name].pins != NO_PINS
    )
    due = {}
    for name, entry in everyone.items():
        files = _files(context, entry)
        if etcfiles.outdated(context.paths, name, files) == ["hosts"]:
            due[name] = (entry, {"hosts": files["hosts"]})

    def update(names: list[str], failures: Failures) -> None:
        for name in names:
            etcfiles.write(context.paths, *due[name])

    told = any(decision.told for decision in context.decisions.values())
    count = f"{len(due)} file{'s' if len(due) > 1 else ''}"
    lines = [] if told or context.resolved.removed else [Line("hosts", f"update {count}")]
    return batch("update hosts files", list(due), update, lines)


def _create(context: _Context) -> list[Step]:
    making = {name: d for name, d in context.decisions.items() if d.create}
    lines = [line for decision in making.values() for line in namespace_lines(decision)]
    targets = context.resolved.targets
    launcher = Launcher(context.paths)

    def create(names: list[str], failures: Failures) -> None:
        for name in names:
            made = Made(targets[name].namespaces, targets[name].record.interfaces)
            write_made(context.paths, name, made)
        failures.update(launcher.create(names))

    return batch("make namespaces", list(making), create, lines)


def _plug(context: _Context) -> list[Step]:
    steps = []
    for name, decision in context.decisions.items():
        interfaces = decision.record.interfaces
        state = context.seen.network
        if decision.create:
            ours = {interface.link for interface in interfaces}
            links = {link: entry for link, entry in state.links.items() if link not in ours}
            state = replace(state, links=links)
        netns = context.paths.sandbox(name).pin("net")
        found = network.link_operations(context.paths, interfaces, netns, state)
        steps += _of_one(name, found, silent=decision.create)
    return steps


def _limit(context: _Context) -> list[Step]:
    steps = []
    for name, decision in context.decisions.items():
        limits = decision.record.spec.limits
        found = cgroups.operations(context.paths, name, limits, context.seen.cgroups)
        steps += _of_one(name, found, silent=decision.new)
    return steps


def _of_one(name: str, operations: Sequence[Operation], *, silent: bool) -> list[Step]:
    return [single(operation, subject=name, silent=silent) for operation in operations]


def _start(context: _Context) -> list[Step]:
    starting = {name: d for name, d in context.decisions.items() if d.start}
    lines = [line for decision in starting.values() for line in run_lines(decision)]
    launcher = Launcher(context.paths)

    def start(names: list[str], failures: Failures) -> None:
        failures.update(launcher.start(names))

    return batch("start", list(starting), start, lines)


def _settle(context: _Context) -> list[Step]:
    """A rebuild is over once its layer is new; until then the record says so."""
    return [
        _record_step(context.paths, decision.record.in_phase(PRESENT))
        for decision in context.decisions.values()
        if decision.record.phase == REBUILDING
    ]
