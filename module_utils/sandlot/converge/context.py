# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The decisions that all phases of a run are planned from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Dict, List, Mapping, Sequence

from .. import network, volumes
from ..host import probe
from ..network import Network
from ..sandbox import crash, etcfiles, lxcfs, reloading
from ..sandbox.mount_state import Plan
from ..sandbox.record import STARTED, Record
from ..site import Site
from ..snapshots.aside import Drop
from ..snapshots.retention import Due
from . import dependencies, drops, rebuild, sizing, storage
from .decide import NO_PINS, Decision, Observed, decide
from .observe import Observation
from .rebuild import Rebuild
from .resolve import Request, Resolved, resolve


@dataclass(frozen=True)
class HostFiles:
    """The host-made files of one sandbox; the run writes the ``outdated`` ones."""

    record: Record
    contents: etcfiles.Files
    outdated: Sequence[str]

    def due(self) -> etcfiles.Files:
        return {file: self.contents[file] for file in self.outdated}


@dataclass(frozen=True)
class LastLog:
    """The last lines that the old version logged, and the sizes of its log files then."""

    lines: List[str]
    sizes: Dict[str, int]


@dataclass(frozen=True)
class Context:
    """``followers`` maps running bystanders to the reason for their restart.

    ``final_networks`` are the networks that the host has after the run, ``volume_users`` the
    sandboxes that use each volume then, ``drops`` the layers that the run drops, and ``due`` the
    snapshots that are not to be kept any longer. The run fills
    ``last_logs``, once the old versions have stopped, and ``reloaded`` with the workloads
    that it has signalled.
    """

    site: Site
    request: Request
    observed: Observation
    resolved: Resolved
    decisions: Mapping[str, Decision]
    rebuilds: Mapping[str, Rebuild]
    followers: Mapping[str, str]
    files: Mapping[str, HostFiles]
    final_networks: Mapping[str, Network]
    network_plan: network.Plan
    volume_plan: volumes.Plan
    volume_users: volumes.Users
    drops: Mapping[str, Drop] = field(default_factory=dict)
    due: Sequence[Due] = ()
    last_logs: Dict[str, LastLog] = field(default_factory=dict, compare=False)
    reloaded: Dict[str, reloading.Signalled] = field(default_factory=dict, compare=False)

    # Both are looked up for each sandbox.
    @cached_property
    def restarts(self) -> Sequence[str]:
        """Sandboxes that the run stops and starts again, without its rebuilds.

        A killed run may have done either already.
        """
        back = self.changed_by_restart
        decided = [n for n, d in self.decisions.items() if (d.start and d.stop) or n in back]
        return [name for name in (*decided, *self.followers) if name not in self.rebuilds]

    @cached_property
    def changed_by_restart(self) -> Mapping[str, Record]:
        """The old record of each sandbox that a restart changes: the way back."""
        observed = self.observed.sandboxes
        known = {name: d.way_back(observed[name]) for name, d in self.decisions.items()}
        return {name: old for name, old in known.items() if old}


def context(site: Site, request: Request, observed: Observation) -> Context:
    resolved = resolve(site, request, observed)
    decisions = _decisions(site, resolved, observed)
    if any(decision.create or decision.start for decision in decisions.values()):
        probe.require()
    for name, decision in decisions.items():
        if not resolved.targets[name].desired.keep_image:
            sizing.check(site, resolved.targets[name], observed.sandboxes[name], decision)
    followers = _followers(resolved, decisions, observed)
    stopping = {*followers, *(name for name, decision in decisions.items() if decision.stop)}
    running = {name for name, item in observed.sandboxes.items() if item.running}
    busy = running - stopping - {*resolved.removed}
    starting = {name: resolved.bystanders[name] for name in followers}
    # A start from the record alone is not checked here: it fails for its own sandbox only.
    starting.update(
        (name, decision.record)
        for name, decision in decisions.items()
        if decision.start and not resolved.targets[name].desired.keep_image
    )
    if any(record.spec.lxcfs for record in starting.values()):
        lxcfs.check(site.lxcfs)
    dependencies.check_running(starting, decisions, observed.sandboxes)
    final_networks: Mapping[str, Network] = observed.networks
    if request.networks is not None:
        listed, plugs = request.networks, resolved.plugs
        final_networks = network.remaining(final_networks, listed, plugs, purge=request.purge)
    return Context(
        site=site,
        request=request,
        observed=observed,
        resolved=resolved,
        decisions=decisions,
        rebuilds=rebuild.rebuilds(decisions, resolved.targets, observed.sandboxes),
        followers=followers,
        files=_files(site, request, observed, resolved),
        final_networks=final_networks,
        network_plan=_network_plan(site, request, observed, resolved, decisions, final_networks),
        volume_plan=storage.plan(site, request, observed, resolved, busy),
        volume_users=storage.users(resolved),
        drops=drops.drops(site, request, resolved, decisions, observed),
    )


def _network_plan(
    site: Site,
    request: Request,
    observed: Observation,
    resolved: Resolved,
    decisions: Mapping[str, Decision],
    final_networks: Mapping[str, Network],
) -> network.Plan:
    """A repair leaves out sandboxes without namespaces, a run for images only all networks.

    Links of bystanders follow their networks.
    """
    if request.sandboxes is None and request.networks is None:
        return network.Plan()
    members = [
        _member(decision.record, fresh=decision.create)
        for decision in decisions.values()
        if not (request.repair and decision.create)
    ]
    if request.networks is not None:
        members += [_member(entry) for entry in _pinned_bystanders(resolved, observed).values()]
    desired = resolved.desired_network(observed.networks if final_networks else {}, members)
    if request.networks is not None:
        gone = (*resolved.targets, *resolved.removed)
        desired = replace(desired, final_networks=final_networks, unlinked=gone)
    desired = replace(desired, foreseen=request.check, rules=request.scope is None)
    return network.plan(site, desired, observed.network)


def _member(record: Record, *, fresh: bool = False) -> network.Member:
    spec = record.spec
    rates = network.Rates(spec.ingress_rate, spec.egress_rate)
    return network.Member(record.name, spec.network_mode, record.interfaces, rates, fresh)


def _pinned_bystanders(resolved: Resolved, observed: Observation) -> dict[str, Record]:
    """Bystanders that have namespaces."""
    return {
        name: entry
        for name, entry in resolved.bystanders.items()
        if observed.sandboxes[name].pins != NO_PINS
    }


def _decisions(site: Site, resolved: Resolved, observed: Observation) -> dict[str, Decision]:
    """Owners of a network first: a sandbox that joins one restarts when it is made again."""
    decisions: dict[str, Decision] = {}
    ordered = sorted(resolved.targets.items(), key=lambda item: item[1].record.spec.network_partner)
    for name, target in ordered:
        rejoin = _rejoin(target.record, decisions, observed.sandboxes[name])
        reason = rejoin or sizing.restart_reason(target, observed.sandboxes[name])
        decisions[name] = decide(target, observed.sandboxes[name], reason)
    return {name: _of_looped(site, decisions[name]) for name in resolved.targets}


def _of_looped(site: Site, decision: Decision) -> Decision:
    """A change of a workload that ends again and again is tried at once, and not taken back."""
    stays = not decision.stop and not decision.start
    if decision.rebuild or not decision.write_record or not (stays or decision.stop):
        return decision
    if not crash.loops(site, decision.name):
        return decision
    if not stays:
        return replace(decision, looped=bool(decision.start))
    if decision.record.wanted != STARTED:
        return decision
    stopped = replace(decision, mounts=Plan(), configuration=(), signals=())
    return replace(stopped, looped=True, stop=True, start="restart: its workload kept ending")


def _rejoin(record: Record, decisions: Mapping[str, Decision], observed: Observed) -> str:
    """The reason for a running sandbox to join its network namespace again, "" for none."""
    partner = decisions.get(record.spec.network_partner)
    if partner and partner.create:
        return f"namespaces of {partner.name} made again"
    return "its network namespace is another now" if observed.detached else ""


def _followers(
    resolved: Resolved, decisions: Mapping[str, Decision], observed: Observation
) -> dict[str, str]:
    """Running bystanders that share the network of a sandbox of this run, and why they restart."""
    reasons = {
        name: _rejoin(entry, decisions, observed.sandboxes[name])
        for name, entry in resolved.bystanders.items()
        if entry.spec.network_partner in decisions and observed.sandboxes[name].running
    }
    return {name: reason for name, reason in reasons.items() if reason}


def _files(
    site: Site, request: Request, observed: Observation, resolved: Resolved
) -> dict[str, HostFiles]:
    """Files of the desired sandboxes, and of bystanders that have namespaces."""
    if request.sandboxes is None and request.networks is None:
        return {}
    records = {name: target.record for name, target in resolved.targets.items()}
    records.update(_pinned_bystanders(resolved, observed))
    everyone = {**resolved.bystanders, **{n: t.record for n, t in resolved.targets.items()}}
    around = etcfiles.surroundings(observed.networks, everyone, resolved.interfaces)
    files = {}
    for name, entry in records.items():
        contents = etcfiles.contents(entry, around)
        if request.scope is not None:
            # It names sandboxes that the run does not look at, and it is right already.
            del contents["hosts"]
        files[name] = HostFiles(entry, contents, etcfiles.outdated(site, name, contents))
    return files
