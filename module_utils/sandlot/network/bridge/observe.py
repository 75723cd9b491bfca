# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Observes links, addresses, routes, forwarding and rules of the host."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from socket import socket
from typing import Mapping, Sequence

from ...errors import ForeignError
from ...kernel import netlink, traffic
from ...kernel.netlink import Link, Route
from ...kernel.traffic import Traffic
from ...site import Site
from ..common import declare
from ..common.model import MAX_INTERFACES, Interface, identity
from . import forwarding, nft, sysctls
from .forwarding import Forwarding
from .nft import Tables


@dataclass(frozen=True)
class BridgeState:
    """The observed host: links by name, addresses ("address/prefix") by link index, our rules.

    A check (``foreseen``) may come before the programs that change them are installed.
    """

    site: Site
    links: Mapping[str, Link]
    addresses: Mapping[int, tuple[str, ...]]
    routes: tuple[Route, ...]
    settings: Mapping[str, Mapping[str, str]]
    forwarding: Forwarding
    tables: Tables
    forwarding6: Forwarding = Forwarding(enabled=False, prior=None)
    traffic: Mapping[int, Traffic] = field(default_factory=dict)
    foreseen: bool = False

    def ports(self, bridge: str) -> list[str]:
        """The ports of a bridge."""
        link = self.links.get(bridge)
        index = link.index if link else -1
        return [name for name, port in self.links.items() if port.master == index]

    def without(self, *sandboxes: str) -> BridgeState:
        """The state without the links of some sandboxes, which go with their namespaces."""
        gone = {
            link
            for sandbox in sandboxes
            for ifname in (f"eth{index}" for index in range(MAX_INTERFACES))
            for link in (self.site.link(sandbox, ifname), self.site.shaper(sandbox, ifname))
        }
        links = {name: link for name, link in self.links.items() if name not in gone}
        return replace(self, links=links)


def observe(site: Site, interfaces: Sequence[Interface] | None = None) -> BridgeState:
    """Observe the host; with ``interfaces``, without the links of others."""
    with netlink.connect() as sock:
        links = {
            link.name: link
            for link in (
                netlink.links(sock) if interfaces is None else _chosen(site, sock, interfaces)
            )
        }
        addresses = netlink.addresses(sock)
        routes = tuple(netlink.routes(sock))
        limited = [
            links[name].index for name in (*our_ports(site, links), *our_shapers(site, links))
        ]
        shaped = (
            traffic.traffic(sock, limited)
            if interfaces is None
            else {index: traffic.traffic_of(sock, index) for index in limited}
        )
    by_index: dict[int, tuple[str, ...]] = {}
    for item in addresses:
        by_index[item.index] = (*by_index.get(item.index, ()), item.address)
    return BridgeState(
        site=site,
        links=links,
        addresses=by_index,
        routes=routes,
        settings={name: sysctls.settings(name) for name in our_bridges(site, links)},
        forwarding=forwarding.observe(site, 4),
        tables=nft.observe(site),
        forwarding6=forwarding.observe(site, 6),
        traffic=shaped,
    )


def _chosen(site: Site, sock: socket, interfaces: Sequence[Interface]) -> list[Link]:
    """Our bridges, and the links of some interfaces."""
    names = [network.bridge for network in declare.load(site).values()]
    for item in interfaces:
        names += [item.link, site.shaper(item.sandbox, item.ifname)]
    return [link for link in (netlink.link(sock, name) for name in names) if link is not None]


def is_ours(site: Site, link: Link) -> bool:
    """Whether a link is ours: its MAC address derives from our root and its name."""
    return link.mac == identity(site, link.name)


def our_bridges(site: Site, links: Mapping[str, Link]) -> list[str]:
    return _ours(site, links, "bridge")


def our_ports(site: Site, links: Mapping[str, Link]) -> list[str]:
    """Host ends of sandboxes' veth pairs."""
    return _ours(site, links, "veth")


def our_shapers(site: Site, links: Mapping[str, Link]) -> list[str]:
    """Links in which packets from sandboxes wait."""
    return _ours(site, links, "ifb")


def _ours(site: Site, links: Mapping[str, Link], kind: str) -> list[str]:
    return [name for name, link in links.items() if link.kind == kind and is_ours(site, link)]


def owned(site: Site, links: Mapping[str, Link], name: str, kind: str) -> Link | None:
    """Our link of that name, None if missing; ForeignError if it is somebody else's."""
    link = links.get(name)
    if link is None or (link.kind == kind and is_ours(site, link)):
        return link
    raise ForeignError(
        f"the link {name} ({link.kind or 'no'} kind, {link.mac}) was not made by sandlot",
        hint=f"rename or remove it (ip link show {name}); sandlot needs that name",
    )
