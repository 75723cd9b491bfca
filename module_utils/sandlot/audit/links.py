# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The inside of a sandbox's network namespace: links, addresses and routes.

A repair compares those of the record; here is what the record does not have.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from typing import Dict, Iterator, List, Sequence

from ..kernel import netlink
from ..kernel.confine import CAP_NET_ADMIN
from ..kernel.netlink import RT_TABLE_LOCAL, RT_TABLE_MAIN, Link, Route
from ..sandbox.record import Record
from .subject import Look, Subject

_LOOPBACK = {"127.0.0.1/8", "::1/128"}
# The kernel makes them for each link with IPv6.
_OF_IPV6 = {"fe80::/64", "ff00::/8"}


def addresses(subject: Subject) -> Look:
    """No link is up, and there is no address of lo and no route, but those of the record."""
    if not subject.record.spec.owns_network:
        return Look(f"of {subject.record.spec.network_mode}")
    with netlink.entered(f"/proc/{subject.init.pid}/ns/net"), netlink.connect() as sock:
        # A host with tunnels gives each namespace some that are down.
        links = [link for link in netlink.links(sock) if link.up]
        by_index: Dict[int, List[str]] = defaultdict(list)
        for entry in netlink.addresses(sock):
            by_index[entry.index].append(entry.address)
        routes = netlink.routes(sock)
    look = Look(_shown(links, by_index))
    # With the capability a sandbox changes all of it.
    if subject.launch["capabilities"] >> CAP_NET_ADMIN & 1:
        return look
    known = {"lo", *(entry.ifname for entry in subject.record.interfaces)}
    for link in links:
        if link.name not in known:
            look.expect("interface", "none", link.name)
        for address in {*by_index[link.index]} - _LOOPBACK if link.name == "lo" else ():
            look.expect("address", "none", f"{address} of lo")
    names = {link.index: link.name for link in links}
    for route in _others(subject.record, routes, names):
        look.expect("route", "none", f"{route.destination} by {names.get(route.index, 'none')}")
    return look


def _shown(links: Sequence[Link], by_index: Dict[int, List[str]]) -> str:
    return ", ".join(
        f"{link.name} {' '.join(by_index[link.index])}" for link in links if link.name != "lo"
    )


def _others(record: Record, routes: Sequence[Route], names: Dict[int, str]) -> Iterator[Route]:
    """Routes but defaults, which a repair compares, and those of subnets and the kernel."""
    subnets = {
        (str(ipaddress.ip_interface(cidr).network), entry.ifname)
        for entry in record.interfaces
        for cidr in entry.cidrs
    }
    for route in routes:
        name = names.get(route.index, "")
        is_default = ipaddress.ip_network(route.destination).prefixlen == 0
        if route.table == RT_TABLE_LOCAL or name == "lo" and route.destination == "::1/128":
            continue
        is_known = is_default or (route.destination, name) in subnets
        if route.table != RT_TABLE_MAIN or not (is_known or route.destination in _OF_IPV6):
            yield route
