# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Phases of a run: what each asks of the host, for all sandboxes at once."""

from __future__ import annotations

from functools import partial
from typing import Dict, Sequence

from .. import cgroups, idmap, images, network, store
from ..build import places
from ..launcher.client import Launcher
from ..plan import Change, Failures, Operation, batch, of_one
from ..sandbox import (
    devices,
    etcfiles,
    last_words,
    launchfile,
    layers,
    live,
    logs,
    mount_state,
    record,
)
from ..sandbox.record import PRESENT, REBUILDING, STOPPED, Record
from ..site import Site
from ..snapshots.content import fill_layer
from . import dependencies, drops, rebuild, sizing
from .context import Context, LastLog
from .decide import NO_PINS, Decision, Observed, namespace_lines, record_lines, run_lines
from .observe import NamespaceRecord, write_namespace_record


def record_images(context: Context) -> list[Operation]:
    """Record images; their trees were built before the lock was taken."""
    planned = context.request.image_plan
    return [making.operation(making.record) for making in planned.makings] if planned else []


def announce_rebuilds(context: Context) -> list[Operation]:
    return [
        line
        for name, entry in context.rebuilds.items()
        for line in (
            *rebuild.announce(context.site, entry),
            *drops.lines(context.drops.get(name)),
        )
    ]


def shift_next_slot(context: Context) -> list[Operation]:
    return _shift(context, next_slot=True)


def prepare_rebuilds(context: Context) -> list[Operation]:
    return rebuild.prepare(context.site, context.rebuilds, context.drops)


def write_records(context: Context) -> list[Operation]:
    decisions = context.decisions
    ordered = dependencies.for_recording({name: d.record for name, d in decisions.items()})
    return [
        operation
        for decision in (decisions[name] for name in ordered)
        if decision.write_record and not decision.next_slot
        for operation in (
            *record_lines(decision),
            *_keep_record(context, decision),
            _write_record(context.site, decision.record),
        )
    ]


def _keep_record(context: Context, decision: Decision) -> list[Operation]:
    """A killed run leaves the way back to the next one."""
    name, observed = decision.name, context.observed.sandboxes[decision.name]
    old = decision.way_back(observed)
    if observed.previous or old is None:
        return []
    keep = partial(record.keep, context.site, old)
    return [Operation(name, "keep the old record", keep, subject=name, silent=True)]


def _write_record(site: Site, entry: Record) -> Operation:
    save = partial(record.save, site, entry)
    return Operation(entry.name, "write record", save, subject=entry.name, silent=True)


def stop(context: Context) -> list[Operation]:
    """Stop sandboxes, dependents first. Lines announce stops here, and restarts at the start.

    The run also stops sandboxes that it changes and that do not run: the launcher may be about to
    revive them after a crash.
    """
    observed = context.observed.sandboxes
    decisions = context.decisions
    stopping = [name for name, d in decisions.items() if d.stop or _may_revive(d, observed[name])]
    stopping += context.followers
    removed = [
        n for n in context.resolved.removed if observed[n].running or observed[n].pins != NO_PINS
    ]
    launcher = Launcher(context.site)

    def stop_all(names: Sequence[str], failures: Failures) -> None:
        failures.update(launcher.stop(names))

    known = {**context.observed.records.good, **{name: d.record for name, d in decisions.items()}}
    levels = dependencies.stops([*removed, *stopping], known)
    lines = {name: run_lines(d) for name, d in decisions.items() if d.stop and not d.start}
    return [
        operation
        for level in levels
        for operation in batch("stop", level, stop_all, sum((lines.get(n, []) for n in level), []))
    ]


def _may_revive(decision: Decision, observed: Observed) -> bool:
    changes = decision.write_record or decision.start or decision.rebuild or decision.destroy
    down = not observed.running and observed.succeeded is None
    return bool(changes) and down and observed.pins != NO_PINS


def note_logs(context: Context) -> list[Operation]:
    """Keep the ends of the logs of the versions that have stopped, for the message of a failure."""

    def note(names: Sequence[str], failures: Failures) -> None:
        for sandbox in map(context.site.sandbox, names):
            # Lines before its start are those of other versions, such as one that was rolled back.
            begun = context.observed.sandboxes[sandbox.name].since
            lines = last_words.last_log(sandbox, after=begun) if begun else []
            context.last_logs[sandbox.name] = LastLog(lines, logs.sizes(sandbox))

    return batch("note the logs", [*context.rebuilds, *context.changed_by_restart], note)


def destroy(context: Context) -> list[Operation]:
    removed = [n for n in context.resolved.removed if context.observed.sandboxes[n].pins != NO_PINS]
    remade = [name for name, d in context.decisions.items() if d.destroy]
    rebuilt = [n for n in context.resolved.removed if context.observed.sandboxes[n].rebuild]
    launcher = Launcher(context.site)

    def destroy_all(names: Sequence[str], failures: Failures) -> None:
        failures.update(launcher.destroy(names))

    # A network namespace dies some time after its pin; its links have to be gone at once.
    created = [name for name, d in context.decisions.items() if d.create and not d.next_slot]
    unlinking = [*context.resolved.removed, *created]
    unlinked = network.unlink(context.site, unlinking, context.observed.network)
    return [
        *of_one("", unlinked, silent=True),
        *batch("destroy namespaces", [*removed, *remade], destroy_all),
        *batch("destroy", rebuilt, lambda n, f: f.update(rebuild.unpin(context.site, n))),
    ]


def switch(context: Context) -> list[Operation]:
    return rebuild.switch(context.site, context.rebuilds, context.observed.network)


def ids(context: Context) -> list[Operation]:
    if context.request.sandboxes is None:
        return []
    resolved = context.resolved
    present = {name: target.record.ids for name, target in resolved.targets.items()}
    present.update({name: entry.ids for name, entry in resolved.bystanders.items()})
    return idmap.operations(context.site, context.observed.ids, present, resolved.removed)


def networks(context: Context) -> list[Operation]:
    """Rules and bridges of all networks; networks to remove stay until the end of the run."""
    return list(context.network_plan.shared)


def shift(context: Context) -> list[Operation]:
    return _shift(context, next_slot=False)


def _shift(context: Context, *, next_slot: bool) -> list[Operation]:
    """Copy images with shifted owners, on hosts that can't map ids on a mount."""
    steps = []
    decisions = {name: d for name, d in context.decisions.items() if d.next_slot is next_slot}
    for name, decision in decisions.items():
        ref = decision.record.image
        image = context.observed.images.get(ref.name)
        if image and image.digest == ref.digest and launchfile.is_shifted(ref):
            operations = images.shift_operations(context.site, image, decision.record.ids)
            steps += of_one(name, operations, silent=False)
    return steps


def prepare(context: Context) -> list[Operation]:
    """Write the layer, host-made files and launch file of each sandbox, in one operation."""
    steps: list[Operation] = []
    for name, decision in context.decisions.items():
        operation = _prepare_one(context, decision)
        if operation is not None:
            steps += [
                *([] if decision.next_slot else drops.lines(context.drops.get(name))),
                operation,
            ]
    return steps


def _prepare_one(context: Context, decision: Decision) -> Operation | None:
    paths, name = context.site, decision.name
    fresh = not decision.next_slot and drops.drops_layer(decision, context.observed.sandboxes[name])
    files = context.files[name]
    launch = context.resolved.targets[name].launch
    current = launchfile.current(paths, name)
    encoded = launchfile.encoded(launch)
    relaunch = current != encoded and not decision.next_slot
    stays = context.observed.sandboxes[name].running and not decision.stop
    old = launchfile.decoded(current) if relaunch else {}
    reconfigure = relaunch and stays and live.differs(old, launch)
    # A change of what runs takes its places away itself.
    left = [] if stays or fresh else mount_state.withdrawn(old, launch)

    def write() -> None:
        if fresh:
            drops.give_up(paths, context.drops.get(name), paths.sandbox(name))
            layers.make(paths.sandbox(name), decision.record.ids, decision.record.spec.disk_size)
            if decision.content:
                fill_layer(paths, decision.content, paths.sandbox(name), decision.record.ids)
        if files.outdated:
            etcfiles.write(paths, decision.record, files.due())
        if reconfigure:
            live.configure(paths.sandbox(name), launch)
        if left:
            places.leave(paths.sandbox(name).upper, left)
        if relaunch:
            launchfile.write(paths.sandbox(name), encoded)

    parts = [*(["layer"] if fresh else []), *files.outdated]
    parts += ["launch.json"] if relaunch else []
    if parts in ([], ["hosts"]):
        return None
    announced = decision.announced or decision.write_record
    return Operation(name, f"write {', '.join(parts)}", write, subject=name, silent=announced)


def size_layers(context: Context) -> list[Operation]:
    return sizing.operations(context.site, context.decisions, context.observed.sandboxes)


def update_hosts(context: Context) -> list[Operation]:
    """Update hosts files of sandboxes whose neighbours changed, and all files of bystanders."""
    due = {
        name: files
        for name, files in context.files.items()
        if files.outdated == ["hosts"] or (files.outdated and name not in context.decisions)
    }

    def update(names: Sequence[str], failures: Failures) -> None:
        for name in names:
            etcfiles.write(context.site, due[name].record, due[name].due())

    announced = any(decision.announced for decision in context.decisions.values())
    count = f"{len(due)} file{'s' if len(due) > 1 else ''}"
    lines = [] if announced or context.resolved.removed else [Operation("hosts", f"update {count}")]
    return batch("update hosts files", list(due), update, lines)


def create(context: Context) -> list[Operation]:
    making = {name: d for name, d in context.decisions.items() if d.create and not d.next_slot}
    lines = [line for decision in making.values() for line in namespace_lines(decision)]
    launcher = Launcher(context.site)

    def create_all(names: Sequence[str], failures: Failures) -> None:
        for name in names:
            _note_namespaces(context, name)
        failures.update(launcher.create(names))

    return batch("make namespaces", list(making), create_all, lines)


def _note_namespaces(context: Context, name: str) -> None:
    """Write the namespace record next to the pins: it survives a damaged record.json."""
    target = context.resolved.targets[name]
    namespaces = NamespaceRecord(target.namespaces, target.record.interfaces)
    write_namespace_record(context.site.sandbox(name), namespaces)


def plug(context: Context) -> list[Operation]:
    """Plug links, then set their bandwidth, as a new link has no limits yet."""
    steps = []
    for name, member in context.network_plan.members.items():
        decision = context.decisions.get(name)
        fresh = decision is not None and decision.create
        if member.links and decision is not None and not fresh:
            note = partial(_note_namespaces, context, name)
            steps.append(Operation(name, "note interfaces", note, subject=name, silent=True))
        steps += of_one(name, member.links, silent=fresh)
        steps += of_one(name, member.rates, silent=bool(member.links))
    return steps


def limit(context: Context) -> list[Operation]:
    steps = []
    for name, decision in context.decisions.items():
        spec = decision.record.spec
        operations = cgroups.operations(context.site, name, spec, context.observed.cgroups)
        steps += of_one(name, operations, silent=decision.new)
        steps += _restrict_again(context, decision)
    return steps


def _restrict_again(context: Context, decision: Decision) -> list[Operation]:
    """A start sets the rules of devices; here somebody else changed them since."""
    name, launch = decision.name, context.resolved.targets[decision.name].launch
    stays = context.observed.sandboxes[name].running and not decision.stop
    if not (stays and launch.get("devices")) or devices.are_restricted(launch):
        return []
    sandbox = context.site.sandbox(name)
    action = partial(devices.restrict, sandbox, launch)
    return [Operation(name, "cgroup: allow its devices only", action, subject=name)]


def start(context: Context) -> list[Operation]:
    starting = {name: d for name, d in context.decisions.items() if d.start}
    lines = {name: run_lines(decision) for name, decision in starting.items()}
    lines.update(
        (name, [Operation(name, f"restart: {reason}", change=Change.RESTART)])
        for name, reason in context.followers.items()
    )
    everyone = {**context.resolved.bystanders}
    everyone.update((name, decision.record) for name, decision in context.decisions.items())
    launcher = Launcher(context.site)
    names = [*starting, *context.followers]
    resume = context.request.resume
    starts = dependencies.Starts(context.site, launcher, names, everyone, resume=resume)
    return [
        operation
        for level in starts.levels()
        for operation in batch("start", level, starts.start, sum((lines[n] for n in level), []))
    ]


def watch(context: Context) -> list[Operation]:
    """Without a launcher, a crashed sandbox stays down."""
    running = any(context.observed.sandboxes[name].running for name in context.decisions)
    if context.observed.launcher or not running:
        return []
    launcher = Launcher(context.site)
    return [Operation("launcher", "start", launcher.ensure)]


def await_changed(context: Context) -> list[Operation]:
    """Wait for what can go back: rebuilds, and restarts that change something."""
    renewed = {name: e.new for name, e in context.rebuilds.items() if e.decision.start}
    restarted: Dict[str, Record] = {}
    for name, old in context.changed_by_restart.items():
        entry = context.decisions[name].record
        updated = entry.image.digest != old.image.digest
        (renewed if updated else restarted)[name] = entry
    return rebuild.await_all(context.site, renewed, restarted, context.request.watch)


def settle(context: Context) -> list[Operation]:
    """End rebuilds and restarts whose new version runs well.

    Only now do records leave the phase "rebuilding", and the records of old versions go.
    """
    rebuilds = context.rebuilds
    replaced = [name for name, d in context.decisions.items() if _has_replaced(context, d)]
    return [
        *(rebuild.commit(context.site, entry) for entry in rebuilds.values()),
        *rebuild.discard(context.site, list(rebuilds)),
        *(
            _write_record(context.site, decision.record.in_phase(PRESENT))
            for decision in context.decisions.values()
            if decision.record.phase == REBUILDING and not decision.next_slot
        ),
        *(_forget_previous(context.site, name) for name in replaced),
    ]


def _has_replaced(context: Context, decision: Decision) -> bool:
    """Whether the sandbox needs its previous record no more; one that stays down may."""
    observed = context.observed.sandboxes[decision.name]
    if observed.previous is None:
        return decision.way_back(observed) is not None
    stopped = decision.record.wanted == STOPPED
    return bool(decision.start or decision.rebuild or observed.running or stopped)


def _forget_previous(site: Site, name: str) -> Operation:
    forget = partial(store.unlink, site.sandbox(name).previous)
    return Operation(name, "forget the old record", forget, subject=name, silent=True)
