# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Back ends: four functions for each kind of ``network_mode``.

``observe`` looks at the host once. ``plan`` tells the operations from there to the desired network.
``unlink`` takes sandboxes off the host by name alone. ``netns_of`` tells the network namespace of a
sandbox. A kind without links has nothing to observe, plan or unlink.

A further back end is a kind in ``spec.netmode``, a folder beside ``bridge`` and a row here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Sequence

from ..kernel.netns import HOST
from ..plan import Operation
from ..site import Site
from ..spec import netmode
from . import bridge
from .common.desired import Desired, Member, Netns, Plan
from .common.model import Interface
from .common.resolution import Resolution


@dataclass(frozen=True)
class State:
    """The observation of each back end by its kind; only that back end reads it.

    The links of ``unlinked`` sandboxes will be gone when the operations run.
    """

    kinds: Mapping[str, Any]
    unlinked: frozenset[str] = frozenset()

    def without(self, sandbox: str) -> State:
        """The state of the host after a sandbox is unlinked."""
        return replace(self, unlinked=self.unlinked | {sandbox})


class Backend(NamedTuple):
    netns_of: Callable[[Site, str, str], Netns]
    observe: Callable[[Site, Sequence[Interface] | None], Any] = lambda site, interfaces: None
    plan: Callable[[Site, Desired, Any], Plan] = lambda site, desired, state: Plan()
    unlink: Callable[[Site, Sequence[str], Any], list[Operation]] = lambda site, names, state: []


def _own(site: Site, name: str, mode: str) -> Netns:
    return Netns(site.sandbox(name).pin("net"), own=True)


def _partner(site: Site, name: str, mode: str) -> Netns:
    return Netns(site.sandbox(netmode.partner(mode)).pin("net"), own=False)


BACKENDS: Mapping[str, Backend] = {
    "bridge": Backend(_own, bridge.observe, bridge.plan, bridge.unlink),
    "none": Backend(_own),
    "host": Backend(lambda site, name, mode: Netns(HOST, own=False)),
    "container": Backend(_partner),
    "ns": Backend(lambda site, name, mode: Netns(netmode.pin(mode), own=False)),
}


def observe(site: Site, interfaces: Sequence[Interface] | None = None) -> State:
    """Observe the network of the host; no side effect.

    With ``interfaces``, other links of sandboxes are left out.
    """
    return State({kind: backend.observe(site, interfaces) for kind, backend in BACKENDS.items()})


def rules_hold(site: Site, desired: Desired, state: State) -> bool:
    """Whether the rules in force are the host's and have all that some sandboxes need."""
    return bridge.rules_hold(site, desired, state.kinds["bridge"])


def plan(site: Site, desired: Desired, state: State) -> Plan:
    """The operations of all back ends; SpecError for a network that this host can't have."""
    by_kind: dict[str, list[Member]] = {kind: [] for kind in BACKENDS}
    for member in desired.members:
        fresh = member.fresh or member.name in state.unlinked
        by_kind[netmode.kind(member.mode)].append(replace(member, fresh=fresh))
    plans = [
        backend.plan(site, replace(desired, members=by_kind[kind]), state.kinds[kind])
        for kind, backend in BACKENDS.items()
    ]
    return Plan(
        [operation for each in plans for operation in each.shared],
        {name: steps for each in plans for name, steps in each.members.items()},
        [operation for each in plans for operation in each.last],
    )


def unlink(site: Site, names: Iterable[str], state: State) -> list[Operation]:
    """Operations that unlink sandboxes; many at once take hardly longer than one."""
    names = [name for name in names if name not in state.unlinked]
    return [
        operation
        for kind, backend in BACKENDS.items()
        for operation in backend.unlink(site, names, state.kinds[kind])
    ]


def netns_of(site: Site, name: str, mode: str) -> Netns:
    return BACKENDS[netmode.kind(mode)].netns_of(site, name, mode)


def teardown_operations(site: Site, state: State) -> list[Operation]:
    """Operations that remove every link, table, setting and file of ours and nothing else."""
    return list(plan(site, Desired({}, [], final_networks={}), state).last)


def refresh_operations(
    site: Site, desired: Desired, state: State, addresses: Resolution
) -> list[Operation]:
    """Operations that put ``addresses``, those of names, into the rules and change no link."""
    return list(plan(site, replace(desired, addresses=addresses), state).shared)
