# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The ordered steps that take a host from what is seen to what is wished.

Intent records come first; then what has to go is stopped and unmade; ids, networks and rules are
made right for the new whole; the removed are cleaned up; the rest is prepared, made and started.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterable, Mapping, Sequence

from .. import cgroups, idmap, images, network
from ..host import payload, probe
from ..launcher.client import Launcher
from ..plan import Change, Operation
from ..sandbox import etcfiles, launchfile, layers, live, record
from ..sandbox.record import PRESENT, REBUILDING, Record
from ..site import Site
from . import dependencies, netns_sharing, rebuild, removal
from .decide import NO_PINS, Decision, Observed, decide, namespace_lines, record_lines, run_lines
from .observe import NamespaceRecord, Observation, write_namespace_record
from .rebuild import Rebuild
from .resolve import Request, Resolved, resolve
from .steps import Failures, Line, Step, batch, single


@dataclass(frozen=True)
class Plan:
    """``preparation`` comes first, and leaves alone what runs: who fails there drops out."""

    preparation: Sequence[Step]
    steps: Sequence[Step]
    resolved: Resolved
    decisions: Mapping[str, Decision]
    rebuilds: Mapping[str, Rebuild]
    followers: Mapping[str, str]
    warnings: Sequence[str]


@dataclass(frozen=True)
class _Context:
    site: Site
    seen: Observation
    resolved: Resolved
    decisions: Mapping[str, Decision]
    rebuilds: Mapping[str, Rebuild]
    followers: Mapping[str, str]
    files: Mapping[str, _Files]


@dataclass(frozen=True)
class _Files:
    """The host-made files of one sandbox, and which of them are not right yet."""

    record: Record
    contents: etcfiles.Files
    outdated: Sequence[str]

    def due(self) -> etcfiles.Files:
        return {file: self.contents[file] for file in self.outdated}


def plan(site: Site, request: Request, seen: Observation) -> Plan:
    resolved = resolve(site, request, seen)
    decisions = _decisions(resolved, seen)
    if any(decision.create or decision.start for decision in decisions.values()):
        probe.require()
    followers = _followers(resolved, decisions, seen)
    _check_running(resolved, decisions, followers, seen)
    files = _all_files(site, seen, resolved)
    rebuilds = rebuild.rebuilds(decisions, resolved.targets, resolved.launches, seen.seen)
    context = _Context(site, seen, resolved, decisions, rebuilds, followers, files)
    records = [target.record for target in resolved.targets.values()]
    warnings = etcfiles.warnings(records, seen.networks)
    preparation = [] if request.repair else _preparation(context)
    steps = _repairs(context) if request.repair else _steps(context)
    return Plan(preparation, steps, resolved, decisions, rebuilds, followers, warnings)


def _repairs(context: _Context) -> list[Step]:
    """The network of what there is: it starts, makes and records nothing."""
    there = {name: d for name, d in context.decisions.items() if not d.create}
    return [*_networks(context), *_plug(replace(context, decisions=there))]


def _decisions(resolved: Resolved, seen: Observation) -> dict[str, Decision]:
    """Those that share another's network come last, as they follow what happens to it."""
    decisions: dict[str, Decision] = {}
    ordered = sorted(resolved.targets.items(), key=lambda item: item[1].record.spec.network_partner)
    for name, target in ordered:
        rejoin = netns_sharing.reason(target.record, decisions, seen.seen[name])
        decisions[name] = decide(target, seen.seen[name], rejoin)
    return {name: decisions[name] for name in resolved.targets}


def _followers(
    resolved: Resolved, decisions: Mapping[str, Decision], seen: Observation
) -> dict[str, str]:
    """Running bystanders that share the network of one of this run's sandboxes: why to restart."""
    reasons = {
        name: netns_sharing.reason(entry, decisions, seen.seen[name])
        for name, entry in resolved.bystanders.items()
        if entry.spec.network_partner in decisions and seen.seen[name].running
    }
    return {name: reason for name, reason in reasons.items() if reason}


def _check_running(
    resolved: Resolved,
    decisions: Mapping[str, Decision],
    followers: Mapping[str, str],
    seen: Observation,
) -> None:
    """What is started from its record alone is left to the start, where one fails for itself."""
    starting = {name: resolved.bystanders[name] for name in followers}
    starting.update(
        (name, decision.record)
        for name, decision in decisions.items()
        if decision.start and not resolved.targets[name].wish.keep_image
    )
    dependencies.check_running(starting, decisions, seen.seen)


def _all_files(site: Site, seen: Observation, resolved: Resolved) -> dict[str, _Files]:
    """Of the wished sandboxes, and of the others as far as they have namespaces."""
    records = {name: target.record for name, target in resolved.targets.items()}
    records.update(
        (name, entry)
        for name, entry in resolved.bystanders.items()
        if seen.seen[name].pins != NO_PINS
    )
    everyone = {**resolved.bystanders, **{n: t.record for n, t in resolved.targets.items()}}
    around = etcfiles.surroundings(seen.networks, everyone, resolved.interfaces)
    files = {}
    for name, entry in records.items():
        contents = etcfiles.contents(entry, around)
        files[name] = _Files(entry, contents, etcfiles.outdated(site, name, contents))
    return files


def _preparation(context: _Context) -> list[Step]:
    paths, rebuilds = context.site, context.rebuilds
    return [
        *(rebuild.announce(paths, one) for one in rebuilds.values()),
        *_shift(context, beside=True),
        *rebuild.prepare(paths, rebuilds),
    ]


def _steps(context: _Context) -> list[Step]:
    paths, seen, removed = context.site, context.seen, context.resolved.removed
    return [
        *removal.announce(paths, seen, removed),
        *_write_records(context),
        *_stop(context),
        *rebuild.switch(paths, context.rebuilds, seen.network),
        *_destroy(context),
        *_shared(context),
        *removal.clean(paths, seen, removed),
        *_shift(context, beside=False),
        *_prepare(context),
        *_update_hosts(context),
        *_create(context),
        *_plug(context),
        *_limit(context),
        *_start(context),
        *rebuild.await_all(paths, context.rebuilds),
        *_settle(context),
        *_watch(context),
    ]


def _write_records(context: _Context) -> list[Step]:
    decisions = context.decisions
    ordered = dependencies.for_recording({name: d.record for name, d in decisions.items()})
    return [
        _record_step(context.site, decision.record, record_lines(decision))
        for decision in (decisions[name] for name in ordered)
        if decision.write_record and not decision.beside
    ]


def _record_step(site: Site, entry: Record, lines: Sequence[Line] = ()) -> Step:
    def save(failures: Failures) -> None:
        record.save(site, entry)

    return Step(f"{entry.name}: write record", save, tuple(lines), entry.name)


def _stop(context: _Context) -> list[Step]:
    """What is depended on last. Those that only stop say so here, a restart where it starts.

    So are those that this run changes and that do not run: they may have crashed, and the launcher
    would revive them in the middle of it.
    """
    seen = context.seen.seen
    decisions = context.decisions
    stopping = [name for name, d in decisions.items() if d.stop or _may_revive(d, seen[name])]
    stopping += context.followers
    removed = [n for n in context.resolved.removed if seen[n].running or seen[n].pins != NO_PINS]
    launcher = Launcher(context.site, python=payload.python())

    def stop(names: list[str], failures: Failures) -> None:
        failures.update(launcher.stop(names))

    known = {**context.seen.records.good, **{name: d.record for name, d in decisions.items()}}
    levels = dependencies.stops([*removed, *stopping], known)
    return [
        step
        for level in levels
        for step in batch("stop", level, stop, _stop_lines(decisions, level))
    ]


def _stop_lines(decisions: Mapping[str, Decision], names: Iterable[str]) -> list[Line]:
    stopping = [decisions[name] for name in names if name in decisions]
    return [ln for d in stopping if d.stop and not d.start for ln in run_lines(d)]


def _may_revive(decision: Decision, seen: Observed) -> bool:
    changes = decision.write_record or decision.start or decision.rebuild or decision.destroy
    return bool(changes) and not seen.running and seen.pins != NO_PINS


def _destroy(context: _Context) -> list[Step]:
    removed = [n for n in context.resolved.removed if context.seen.seen[n].pins != NO_PINS]
    remade = [name for name, d in context.decisions.items() if d.destroy]
    rebuilt = [n for n in context.resolved.removed if context.seen.seen[n].rebuild]
    launcher = Launcher(context.site, python=payload.python())

    def destroy(names: list[str], failures: Failures) -> None:
        failures.update(launcher.destroy(names))

    # A network namespace dies some time after its pin; its links have to be gone at once.
    made = [name for name, d in context.decisions.items() if d.create and not d.beside]
    gone = [*context.resolved.removed, *made]
    unlinked = network.unlink_all(context.site, gone, context.seen.network)
    return [
        *(single(operation, silent=True) for operation in unlinked),
        *batch("destroy namespaces", [*removed, *remade], destroy),
        *batch("destroy", rebuilt, lambda n, f: f.update(rebuild.unpin(context.site, n))),
    ]


def _shared(context: _Context) -> list[Step]:
    """What belongs to the host as a whole: id files, networks, packet filter."""
    paths, seen, resolved = context.site, context.seen, context.resolved
    present = {name: target.record.ids for name, target in resolved.targets.items()}
    present.update({name: entry.ids for name, entry in resolved.bystanders.items()})
    operations = idmap.operations(paths, seen.ids, present, resolved.removed)
    return [*(single(operation) for operation in operations), *_networks(context)]


def _networks(context: _Context) -> list[Step]:
    paths, seen, resolved = context.site, context.seen, context.resolved
    interfaces = [entry for entries in resolved.interfaces.values() for entry in entries]
    operations = []
    if seen.networks:
        operations += network.rules_operations(
            paths,
            seen.networks,
            interfaces,
            resolved.publications,
            seen.network,
            policies=resolved.policies,
        )
        operations += network.network_operations(paths, seen.networks, seen.network)
    return [single(operation) for operation in operations]


def _shift(context: _Context, *, beside: bool) -> list[Step]:
    """Copies of images for the sandboxes of a host that can't map ids on a mount."""
    steps = []
    decisions = {name: d for name, d in context.decisions.items() if d.beside is beside}
    for name, decision in decisions.items():
        ref = decision.record.image
        image = context.seen.images.get(ref.name)
        if image and image.digest == ref.digest and launchfile.is_shifted(ref):
            found = images.shift_operations(context.site, image, decision.record.ids)
            steps += _of_one(name, found, silent=False)
    return steps


def _prepare(context: _Context) -> list[Step]:
    """Layer, host-made files and launch file of each sandbox; one step, for it is one sandbox's."""
    steps = [_prepare_one(context, decision) for decision in context.decisions.values()]
    return [step for step in steps if step is not None]


def _prepare_one(context: _Context, decision: Decision) -> Step | None:
    paths, name = context.site, decision.name
    fresh = not decision.beside and (decision.told or not context.seen.seen[name].layer)
    files = context.files[name]
    launch = context.resolved.launches[name]
    current = launchfile.current(paths, name)
    encoded = launchfile.encoded(launch)
    relaunch = current != encoded and not decision.beside
    stays = context.seen.seen[name].running and not decision.stop
    told_live = relaunch and stays and live.differs(launchfile.decoded(current), launch)

    def prepare(failures: Failures) -> None:
        if fresh:
            layers.make(paths.sandbox(name), decision.record.ids)
        if files.outdated:
            etcfiles.write(paths, decision.record, files.due())
        if told_live:
            live.configure(paths.sandbox(name), launch)
        if relaunch:
            launchfile.write(paths.sandbox(name), encoded)

    parts = [*(["layer"] if fresh else []), *files.outdated]
    parts += ["launch.json"] if relaunch else []
    if parts in ([], ["hosts"]):
        return None
    told = decision.told or decision.write_record
    lines = () if told else (Line(name, f"write {', '.join(parts)}"),)
    return Step(f"{name}: prepare", prepare, lines, name)


def _update_hosts(context: _Context) -> list[Step]:
    """Neighbours come and go, so hosts files of sandboxes that do not change otherwise follow."""
    due = {name: files for name, files in context.files.items() if files.outdated == ["hosts"]}

    def update(names: list[str], failures: Failures) -> None:
        for name in names:
            etcfiles.write(context.site, due[name].record, due[name].due())

    told = any(decision.told for decision in context.decisions.values())
    count = f"{len(due)} file{'s' if len(due) > 1 else ''}"
    lines = [] if told or context.resolved.removed else [Line("hosts", f"update {count}")]
    return batch("update hosts files", list(due), update, lines)


def _create(context: _Context) -> list[Step]:
    making = {name: d for name, d in context.decisions.items() if d.create and not d.beside}
    lines = [line for decision in making.values() for line in namespace_lines(decision)]
    targets = context.resolved.targets
    launcher = Launcher(context.site, python=payload.python())

    def create(names: list[str], failures: Failures) -> None:
        for name in names:
            made = NamespaceRecord(targets[name].namespaces, targets[name].record.interfaces)
            write_namespace_record(context.site.sandbox(name), made)
        failures.update(launcher.create(names))

    return batch("make namespaces", list(making), create, lines)


def _plug(context: _Context) -> list[Step]:
    steps = []
    for name, decision in context.decisions.items():
        interfaces = decision.record.interfaces
        state = context.seen.network
        if decision.create:
            state = state.without(name)
        netns = context.site.sandbox(name).pin("net")
        found = [
            *network.unlink_operations(context.site, name, state, interfaces),
            *network.link_operations(context.site, interfaces, netns, state),
        ]
        if found and not decision.create:
            steps.append(_note_interfaces(context, decision))
        steps += _of_one(name, found, silent=decision.create)
        steps += _shape(context, decision, plugged=bool(found))
    return steps


def _note_interfaces(context: _Context, decision: Decision) -> Step:
    """Beside the pins, where they are found when the record is damaged."""
    name = decision.name

    def note(failures: Failures) -> None:
        made = NamespaceRecord(
            context.resolved.targets[name].namespaces, decision.record.interfaces
        )
        write_namespace_record(context.site.sandbox(name), made)

    return Step(f"{name}: note interfaces", note, (), name)


def _shape(context: _Context, decision: Decision, *, plugged: bool) -> list[Step]:
    """Bandwidth; what plugs a sandbox may make its links anew, without their limits."""
    spec, interfaces = decision.record.spec, decision.record.interfaces
    rates = network.Rates(spec.ingress_rate, spec.egress_rate)
    state = context.seen.network
    states = [state, state.without(decision.name)] if plugged else [state]
    plans = (network.rate_operations(context.site, interfaces, rates, each) for each in states)
    return _of_one(decision.name, next(filter(None, plans), []), silent=plugged)


def _limit(context: _Context) -> list[Step]:
    steps = []
    for name, decision in context.decisions.items():
        spec = decision.record.spec
        found = cgroups.operations(context.site, name, spec, context.seen.cgroups)
        steps += _of_one(name, found, silent=decision.new)
    return steps


def _of_one(name: str, operations: Sequence[Operation], *, silent: bool) -> list[Step]:
    return [single(operation, subject=name, silent=silent) for operation in operations]


def _start(context: _Context) -> list[Step]:
    starting = {name: d for name, d in context.decisions.items() if d.start}
    lines = {name: run_lines(decision) for name, decision in starting.items()}
    lines.update(
        (name, [Line(name, f"restart: {reason}", Change.RESTART)])
        for name, reason in context.followers.items()
    )
    everyone = {**context.resolved.bystanders}
    everyone.update((name, decision.record) for name, decision in context.decisions.items())
    launcher = Launcher(context.site, python=payload.python())
    names = [*starting, *context.followers]
    starts = dependencies.Starts(context.site, launcher, names, everyone)
    return [
        step
        for level in starts.levels()
        for step in batch("start", level, starts.start, sum((lines[n] for n in level), []))
    ]


def _watch(context: _Context) -> list[Step]:
    """Sandboxes outlive their launcher; who crashes without one is not revived."""
    running = any(context.seen.seen[name].running for name in context.decisions)
    if context.seen.launcher or not running:
        return []
    launcher = Launcher(context.site, python=payload.python())

    def ensure(failures: Failures) -> None:
        launcher.ensure()

    return [Step("launcher: start", ensure, (Line("launcher", "start"),))]


def _settle(context: _Context) -> list[Step]:
    """A rebuild is over once its layer is new and it does well; until then the record says so."""
    rebuilds = context.rebuilds
    return [
        *(rebuild.commit(context.site, one) for one in rebuilds.values()),
        *rebuild.discard(context.site, list(rebuilds)),
        *(
            _record_step(context.site, decision.record.in_phase(PRESENT))
            for decision in context.decisions.values()
            if decision.record.phase == REBUILDING and not decision.beside
        ),
    ]
