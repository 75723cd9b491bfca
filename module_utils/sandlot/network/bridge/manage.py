# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Plans the operations of a run: the changes to networks, and removals at its end."""

from __future__ import annotations

from dataclasses import replace

from ...plan import Operation
from ...site import Site
from ..common.desired import Desired, Member, Plan, Steps
from . import nft
from .bridges import network_operations, removal_operations, teardown_operations
from .links import link_operations, unlink_operations
from .observe import BridgeState, our_ports, our_shapers
from .rates import rate_operations
from .rules import rules_operations


def plan(site: Site, desired: Desired, state: BridgeState) -> Plan:
    """The operations of a run; rules come first, as they may name links to come."""
    if desired.foreseen:
        state = replace(state, foreseen=True)
    if desired.addresses is not None:
        return Plan(rules_operations(site, desired, state))
    shared = []
    if desired.networks:
        shared += rules_operations(site, desired, state) if desired.rules else []
        shared += network_operations(site, desired.networks, state)
    strays = bool(desired.members) and _has_strays(site, desired, state)
    members = {
        member.name: _member(site, desired, member, state, strays=strays)
        for member in desired.members
    }
    return Plan(shared, members, _last(site, desired, state))


def _has_strays(site: Site, desired: Desired, state: BridgeState) -> bool:
    """Whether we have links that no interface has."""
    expected = {
        name
        for item in desired.interfaces
        for name in (item.link, site.shaper(item.sandbox, item.ifname))
    }
    return not expected.issuperset((*our_ports(site, state.links), *our_shapers(site, state.links)))


def _member(
    site: Site, desired: Desired, member: Member, state: BridgeState, *, strays: bool
) -> Steps:
    name, interfaces, networks = member.name, member.interfaces, desired.networks
    # The links of a network namespace go with it.
    unplugged = replace(state, links={})
    state = unplugged if member.fresh else state
    netns = site.sandbox(name).pin("net")
    links = [
        # To look for them takes a digest for each name that a sandbox could have.
        *(unlink_operations(site, name, state, interfaces) if strays else []),
        *link_operations(site, networks, interfaces, netns, state),
    ]
    rates = rate_operations(site, networks, interfaces, member.rates, state)
    if links and not rates:
        # To plug a sandbox may mean new links, which have no limits yet.
        rates = rate_operations(site, networks, interfaces, member.rates, unplugged)
    return Steps(links, rates)


def _last(site: Site, desired: Desired, state: BridgeState) -> list[Operation]:
    """Operations that remove all networks but the final ones; all are in order by then."""
    before, after = desired.networks, desired.final_networks
    if after is None or (after and set(before) == set(after)):
        return []
    state = state.without(*desired.unlinked)
    if not after:
        return teardown_operations(site, state)
    held = replace(state.tables, present=nft.FAMILIES, listed="")
    state = replace(state, tables=held)
    return [
        *rules_operations(site, replace(desired, networks=after), state),
        *removal_operations(site, before, after, state),
    ]
