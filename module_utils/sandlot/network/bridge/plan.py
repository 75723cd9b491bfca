# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""From the observed network of a host to the desired one: rules, bridges, links, bandwidth."""

from __future__ import annotations

from ...plan import Operation
from ...site import Site
from ..common.desired import Desired, Member, Plan, Steps
from .bridges import network_operations
from .links import link_operations, unlink_operations
from .observe import BridgeState
from .rates import rate_operations
from .rules import rules_operations


def plan(site: Site, desired: Desired, state: BridgeState) -> Plan:
    """A host without networks is left alone: teardown is a call of its own."""
    shared = shared_operations(site, desired, state) if desired.networks else []
    members = {member.name: _member(site, desired, member, state) for member in desired.members}
    return Plan(shared, members)


def shared_operations(site: Site, desired: Desired, state: BridgeState) -> list[Operation]:
    """Rules name links that need not exist yet, so they come first."""
    rules = rules_operations(site, desired, state)
    return [*rules, *network_operations(site, desired.networks, state)]


def _member(site: Site, desired: Desired, member: Member, state: BridgeState) -> Steps:
    name, interfaces, networks = member.name, member.interfaces, desired.networks
    # The links of a network namespace go with it.
    state = state.without(name) if member.fresh else state
    netns = site.sandbox(name).pin("net")
    links = [
        *unlink_operations(site, name, state, interfaces),
        *link_operations(site, networks, interfaces, netns, state),
    ]
    rates = rate_operations(site, networks, interfaces, member.rates, state)
    if links and not rates:
        # To plug a sandbox may mean new links, which have no limits yet.
        rates = rate_operations(site, networks, interfaces, member.rates, state.without(name))
    return Steps(links, rates)
