# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Refuses a subnet the host already has a use for, before anything is changed."""

from __future__ import annotations

import ipaddress
from typing import Iterable, Mapping

from ...errors import SpecError
from ...site import Site
from ..common.files import host_resolvers
from ..common.model import IpNetwork, Network, Range
from ..common.publications import management_peers
from .observe import NetworkState, our_bridges

ANOTHER = "choose another {} for this network in sandbox_networks"


def check_subnets(site: Site, networks: Mapping[str, Network], state: NetworkState) -> None:
    """SpecError when a network that is not up yet overlaps something of the host.

    A network that is up is left alone: it works, and what came later must not stop a deploy.
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


def _is_up(network: Network, each: Range, state: NetworkState) -> bool:
    link = state.links.get(network.bridge)
    address = f"{each.gateway}/{each.subnet.prefixlen}"
    return link is not None and address in state.addresses.get(link.index, ())


def foreign_routes(site: Site, state: NetworkState) -> dict[str, IpNetwork]:
    """Routes of the host that don't lead to a bridge of ours; the default route is everywhere."""
    ours = {state.links[name].index for name in our_bridges(site, state.links)}
    found = {}
    for route in state.routes:
        destination = ipaddress.ip_network(route.destination)
        if route.index not in ours and destination.prefixlen:
            found[f"this host's route to {destination}"] = destination
    return found


def _as_networks(what: str, addresses: Iterable[str]) -> dict[str, IpNetwork]:
    found: dict[str, IpNetwork] = {}
    for text in addresses:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            continue
        found[f"{what} {address}"] = ipaddress.ip_network(address)
    return found
