# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The operations of a run: from the observed to the desired networks, and removals at its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable, Mapping

from ...errors import SpecError
from ...plan import Operation
from ...site import Site
from ..common.desired import Desired, Member, Plan, Steps
from ..common.model import DEFAULT_NAME, Interface, Network
from . import nft
from .bridges import network_operations, removal_operations, teardown_operations
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


def remaining(
    networks: Mapping[str, Network],
    listed: Mapping[str, Network | None],
    interfaces: Iterable[Interface],
    *,
    purge: bool,
) -> dict[str, Network]:
    """The networks of a host in the end; ``listed`` has None for one that is to be absent.

    ``purge`` leaves those that are listed, and the default one while a sandbox uses it.
    """
    used = {item.network for item in interfaces}
    left = {
        name: network
        for name, network in networks.items()
        if (not purge or name in listed or (name == DEFAULT_NAME and name in used))
        and listed.get(name, network) is not None
    }
    for name in sorted(set(networks) - set(left)):
        users = sorted({item.sandbox for item in interfaces if item.network == name})
        if users:
            more = f" and {len(users) - 3} more" if len(users) > 3 else ""
            raise SpecError(
                "networks",
                name,
                f"can't be removed: used by {', '.join(users[:3])}{more}",
                hint="remove these sandboxes or attach them to another network first",
            )
    return left


def shrink_operations(
    site: Site,
    before: Mapping[str, Network],
    desired: Desired,
    state: BridgeState,
    unlinked: Iterable[str],
) -> list[Operation]:
    """Takes the host from the networks ``before``, which are in order, to the desired ones.

    ``unlinked`` are sandboxes whose present links are gone by then.
    """
    after = desired.networks
    if after and set(before) == set(after):
        return []
    state = state.without(*unlinked)
    if not after:
        return teardown_operations(site, state)
    held = replace(state.tables, present=nft.FAMILIES, listed="")
    state = replace(state, tables=held)
    return [
        *rules_operations(site, desired, state),
        *removal_operations(site, before, after, state),
    ]
