# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Refuses a subnet that the host already uses, before any change."""

from __future__ import annotations

import ipaddress
from typing import Iterable, Mapping

from ...errors import SpecError
from ...site import Site
from ..common.files import host_resolvers
from ..common.model import IpNetwork, Network, Range
from ..common.publications import management_peers
from .observe import BridgeState, our_bridges

ANOTHER = "choose another {} for this network in sandbox_networks"


def check_subnets(site: Site, networks: Mapping[str, Network], state: BridgeState) -> None:
    """SpecError when a new network overlaps a route or an address of the host.

    A network that is up is not checked: it works, and a later route must not stop a deploy.
    """
    fresh = [
        (network, each)
        for network in networks.values()
        for each in network.ranges()
        if not _is_up(network, each, state)
    ]
    if not fresh:
        return
    routes = foreign_routes(site, state)
    peers = {
        **_as_networks("the SSH client", management_peers()),
        **_as_networks("the resolver", host_resolvers()),
    }
    for network, each in fresh:
        for what, taken in {**routes, **peers}.items():
            if each.subnet.overlaps(taken):
                problem = f"of network {network.name} overlaps {what}"
                hint = ANOTHER.format(each.option)
                raise SpecError(each.option, str(each.subnet), problem, hint=hint)


def _is_up(network: Network, each: Range, state: BridgeState) -> bool:
    link = state.links.get(network.bridge)
    address = f"{each.gateway}/{each.subnet.prefixlen}"
    return link is not None and address in state.addresses.get(link.index, ())


def foreign_routes(site: Site, state: BridgeState) -> dict[str, IpNetwork]:
    """Routes of the host, except to our bridges and default routes."""
    ours = {state.links[name].index for name in our_bridges(site, state.links)}
    routes = {}
    for route in state.routes:
        destination = ipaddress.ip_network(route.destination)
        if route.index not in ours and destination.prefixlen:
            routes[f"this host's route to {destination}"] = destination
    return routes


def _as_networks(what: str, addresses: Iterable[str]) -> dict[str, IpNetwork]:
    networks: dict[str, IpNetwork] = {}
    for text in addresses:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            continue
        networks[f"{what} {address}"] = ipaddress.ip_network(address)
    return networks
