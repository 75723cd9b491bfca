# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Veth pairs: one end a port of a network's bridge, the other in a sandbox's network namespace."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass
from typing import Iterable, Mapping, Sequence

from ...errors import HostError
from ...kernel import netlink
from ...kernel.namespaces import is_namespace_file
from ...kernel.netlink import RT_TABLE_MAIN, Link, entered, opened
from ...plan import Operation
from ...site import Site
from ...spec.table.networks import MIN_MTU_IPV6
from ..common.model import MAX_INTERFACES, Interface, Network, default_routes, identity
from . import adapter, announce, sysctls
from .observe import BridgeState, is_ours, our_ports, our_shapers, owned

DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True)
class Inside:
    """A sandbox's network namespace as observed; default routes map gateway, link to metrics."""

    links: Mapping[str, Link]
    addresses: Mapping[int, tuple[str, ...]]
    default_routes: Mapping[tuple[str, int], Sequence[int]]
    subnets: frozenset[tuple[str, int]]


def look_inside(netns: str) -> Inside:
    with entered(netns), netlink.connect() as sock:
        links = {link.name: link for link in netlink.links(sock)}
        addresses: dict[int, tuple[str, ...]] = {}
        for item in netlink.addresses(sock):
            addresses[item.index] = (*addresses.get(item.index, ()), item.address)
        routes = netlink.routes(sock, RT_TABLE_MAIN)
    defaults: dict[tuple[str, int], list[int]] = {}
    for route in routes:
        if route.destination in DEFAULT_ROUTES:
            key = (route.gateway or route.destination, route.index)
            defaults.setdefault(key, []).append(route.metric)
    subnets = frozenset((route.destination, route.index) for route in routes if not route.gateway)
    return Inside(links, addresses, defaults, subnets)


def link_operations(
    site: Site,
    known: Mapping[str, Network],
    interfaces: Sequence[Interface],
    netns: str,
    state: BridgeState,
) -> list[Operation]:
    """Operations that plug one sandbox in; [] when its links are right, on the host and inside."""
    if not interfaces:
        return []
    networks = {item.network: known[item.network] for item in interfaces}
    outers = [owned(site, state.links, item.link, "veth") for item in interfaces]
    # A look inside is useless while a host end is missing.
    if all(outers) and is_namespace_file(netns):
        problems = _problems(networks, interfaces, look_inside(netns), state)
        if not problems:
            return []
        summary = f"repair interfaces ({', '.join(problems)})"
    else:
        missing = [item for item, link in zip(interfaces, outers) if link is None or all(outers)]
        plugs = [
            f"{item.ifname} {' and '.join(item.cidrs)} into {item.network}" for item in missing
        ]
        summary = f"plug {', '.join(plugs)}"
    adapter.require(foreseen=state.foreseen)
    return [
        Operation(interfaces[0].sandbox, summary, lambda: plug(site, networks, interfaces, netns))
    ]


def unlink_operations(
    site: Site, sandbox: str, state: BridgeState, keep: Iterable[Interface] = ()
) -> list[Operation]:
    """Operations that unplug one sandbox, except ``keep``; link names derive from its name."""
    kept = {item.ifname for item in keep}
    names = {
        link: ifname
        for link, ifname in _links_of(site, sandbox, state).items()
        if ifname not in kept
    }
    if not names:
        return []
    adapter.require()
    summary = f"unplug {', '.join(names.values())}"
    return [Operation(sandbox, summary, lambda: _unplug(site, list(names)))]


def unlink(site: Site, sandboxes: Iterable[str], state: BridgeState) -> list[Operation]:
    """Unplug many sandboxes, hardly slower than one; link names derive from their names."""
    names = [name for sandbox in sandboxes for name in _links_of(site, sandbox, state)]
    if not names:
        return []
    adapter.require()
    return [Operation("network", f"unplug {len(names)} interface(s)", lambda: _unplug(site, names))]


def _links_of(site: Site, sandbox: str, state: BridgeState) -> dict[str, str]:
    """The present host ends and shapers of a sandbox, each with its interface."""
    names = {}
    for ifname in (f"eth{index}" for index in range(MAX_INTERFACES)):
        for link, kind in (
            (site.link(sandbox, ifname), "veth"),
            (site.shaper(sandbox, ifname), "ifb"),
        ):
            if owned(site, state.links, link, kind):
                names[link] = ifname
    return names


def unowned(site: Site, sandboxes: Iterable[str]) -> list[str]:
    """Our links on the host that belong to none of these sandboxes."""
    with netlink.connect() as sock:
        links = {link.name: link for link in netlink.links(sock)}
    ours = {*our_ports(site, links), *our_shapers(site, links)}
    for sandbox in sandboxes:
        for ifname in (f"eth{index}" for index in range(MAX_INTERFACES) if ours):
            ours -= {site.link(sandbox, ifname), site.shaper(sandbox, ifname)}
    return sorted(ours)


def _unplug(site: Site, names: Sequence[str]) -> None:
    with netlink.connect() as sock:
        links = [netlink.link(sock, name) for name in names]
    ours = [link.name for link in links if link is not None and is_ours(site, link)]
    if ours:
        with adapter.host() as connection:
            connection.delete(ours)


def _problems(
    networks: Mapping[str, Network],
    interfaces: Sequence[Interface],
    inside: Inside,
    state: BridgeState,
) -> list[str]:
    problems = [] if _is_up(inside, "lo") else ["lo is down"]
    for item in interfaces:
        network = networks[item.network]
        bridge = state.links.get(network.bridge)
        outer = state.links[item.link]
        inner = inside.links.get(item.ifname)
        modes = (outer.isolated, outer.hairpin, outer.learning)
        right = modes == (network.isolated, not network.isolated, False)
        if bridge is None or outer.master != bridge.index or not right:
            problems.append(f"{item.link} is not a port of its bridge")
        elif not outer.up:
            problems.append(f"{item.link} is down")
        elif outer.mtu != network.link_mtu:
            problems.append(f"{item.link} has mtu {outer.mtu}")
        if inner is None or not _is_pair(outer, inner):
            problems.append(f"{item.ifname} is missing")
        else:
            problems += _inner_problems(item, network, inner, inside)
    return [*problems, *_route_problems(networks, interfaces, inside)]


def _is_up(inside: Inside, ifname: str) -> bool:
    link = inside.links.get(ifname)
    return link is not None and link.up


def _is_pair(outer: Link, inner: Link | None) -> bool:
    return inner is not None and (inner.index, inner.peer) == (outer.peer, outer.index)


def _inner_problems(item: Interface, network: Network, inner: Link, inside: Inside) -> list[str]:
    problems = []
    if inner.mtu != network.link_mtu:
        problems.append(f"{item.ifname} has mtu {inner.mtu}")
    if inner.mac != item.mac:
        problems.append(f"{item.ifname} has MAC {inner.mac}")
    if not inner.up:
        problems.append(f"{item.ifname} is down")
    addresses = inside.addresses.get(inner.index, ())
    if sorted(addresses) != sorted(item.inner_addresses):
        problems.append(f"{item.ifname} has {', '.join(addresses) or 'no address'}")
    return problems


def _route_problems(
    networks: Mapping[str, Network], interfaces: Sequence[Interface], inside: Inside
) -> list[str]:
    problems = [
        f"no route to {subnet}"
        for item in interfaces
        for subnet, dummy in _lost_subnets(item, inside.links.get(item.ifname), inside)
    ]
    if set(inside.default_routes) != _desired_routes(networks, interfaces, inside):
        problems.append("default route differs")
    return problems


def _desired_routes(
    networks: Mapping[str, Network], interfaces: Sequence[Interface], inside: Inside
) -> set[tuple[str, int]]:
    return {
        (gateway, inside.links[home.ifname].index)
        for home, gateway in default_routes(networks, interfaces)
        if home.ifname in inside.links
    }


def _lost_subnets(item: Interface, inner: Link | None, inside: Inside) -> list[tuple[str, str]]:
    """(subnet, address) of the routes that a link has lost.

    A link that is down or lacks an address gets its routes back with the address.
    """
    if inner is None or not inner.up or _has_moved(item, inside):
        return []
    subnets = [(str(ipaddress.ip_interface(cidr).network), cidr) for cidr in item.cidrs]
    return [
        (subnet, cidr) for subnet, cidr in subnets if (subnet, inner.index) not in inside.subnets
    ]


def plug(
    site: Site, networks: Mapping[str, Network], interfaces: Sequence[Interface], netns: str
) -> None:
    """Make the links of one sandbox right, from any state."""
    with netlink.connect() as sock, adapter.host() as host:
        outers = [netlink.link(sock, item.link) for item in interfaces]
        inside = look_inside(netns) if any(outers) else Inside({}, {}, {}, frozenset())
        for item, outer in zip(interfaces, outers):
            owned(site, {outer.name: outer} if outer else {}, item.link, "veth")
            inner = inside.links.get(item.ifname)
            network = networks[item.network]
            # Another bridge's MTU and forwarding entries would come along with the link.
            places = (0, _bridge_index(network)) if outer else ()
            if (
                outer is None
                or not _is_pair(outer, inner)
                or outer.master not in places
                or _revives_ipv6(network, outer, inner)
            ):
                _make_pair(site, host, item, network, netns)
                continue
            host.set_link(outer.name, master=_bridge_index(network), state="up")
            host.set_port(outer.name, item.mac, isolated=network.isolated)
            if outer.mtu != network.link_mtu:
                host.set_link(outer.name, mtu=network.link_mtu)
    _settle_inside(networks, interfaces, netns)


def _revives_ipv6(network: Network, *ends: Link | None) -> bool:
    """Whether a new MTU would start IPv6 on an end, with the kernel's settings in place of ours."""
    small = any(end is not None and end.mtu < MIN_MTU_IPV6 for end in ends)
    return small and network.link_mtu >= MIN_MTU_IPV6


def _make_pair(
    site: Site, host: adapter.Links, item: Interface, network: Network, netns: str
) -> None:
    host.delete([item.link])
    bridge = _bridge_index(network)
    # A killed run may have left a link of that name inside.
    with entered(netns):
        if any(name == item.ifname for dummy, name in socket.if_nameindex()):
            with adapter.opened() as within:
                within.delete([item.ifname])
    with opened(netns) as descriptor:
        mac = identity(site, item.link)
        host.add_veth(item, mac, master=bridge, netns=descriptor, mtu=network.link_mtu)
    # The link has no carrier until its other end comes up, so it has sent nothing yet.
    sysctls.silence_ipv6(item.link)
    host.set_port(item.link, item.mac, isolated=network.isolated)
    # The address may have been another sandbox's a moment ago.
    host.forget_neighbours(bridge, item.addresses)
    try:
        host.announce(item, network.bridge)
    except OSError as error:
        # The launcher takes a bridge down while rules are missing; then it carries nothing.
        if error.errno != errno.ENETDOWN:
            raise


def _bridge_index(network: Network) -> int:
    try:
        return socket.if_nametoindex(network.bridge)
    except OSError as error:
        raise HostError(
            f"the bridge {network.bridge} of network {network.name} is missing",
            hint="run again: the networks are put right before the sandboxes",
        ) from error


def _settle_inside(
    networks: Mapping[str, Network], interfaces: Sequence[Interface], netns: str
) -> None:
    inside = look_inside(netns)
    stale = set(inside.default_routes) - _desired_routes(networks, interfaces, inside)
    with entered(netns):
        if stale:
            # A batch of its own: the IPv6 settings below take effect at once and clear routes.
            with adapter.batched() as within:
                for route in stale:
                    for metric in inside.default_routes[route]:
                        within.remove_default_route(*route, metric)
        with adapter.batched() as within:
            if not _is_up(inside, "lo"):
                within.set_link("lo", state="up")
            for item in interfaces:
                inner = inside.links[item.ifname]
                _mend_inner(
                    within,
                    item,
                    networks[item.network],
                    inner,
                    inside.addresses.get(inner.index, ()),
                )
                for dummy, address in _lost_subnets(item, inner, inside):
                    within.set_subnet_route(item.ifname, address)
            # The kernel removes routes with the last address of a link.
            moved = any(_has_moved(item, inside) for item in interfaces)
            if moved or _route_problems(networks, interfaces, inside):
                for home, gateway in default_routes(networks, interfaces):
                    within.set_default_route(home.ifname, gateway)
        for item in interfaces:
            if inside.links[item.ifname].up and _has_moved(item, inside):
                with announce.opened() as sock:
                    announce.send(sock, item, item.ifname)


def _has_moved(item: Interface, inside: Inside) -> bool:
    inner = inside.links[item.ifname]
    addresses = inside.addresses.get(inner.index, ())
    return (inner.mac, sorted(addresses)) != (item.mac, sorted(item.inner_addresses))


def _mend_inner(
    within: adapter.Changes,
    item: Interface,
    network: Network,
    inner: Link,
    addresses: tuple[str, ...],
) -> None:
    if inner.mtu != network.link_mtu:
        within.set_link(item.ifname, mtu=network.link_mtu)
    if inner.mac != item.mac:
        within.set_link(item.ifname, address=item.mac)
    wrong = sorted(addresses) != sorted(item.inner_addresses)
    if wrong or not inner.up:
        set_ipv6 = sysctls.prepare_ipv6 if item.ipv6 else sysctls.silence_ipv6
        set_ipv6(item.ifname)
        # The link loses its IPv6 addresses by that.
        addresses = tuple(address for address in addresses if ":" not in address)
    if not inner.up:
        within.set_link(item.ifname, state="up")
    within.set_addresses(item.ifname, item.inner_addresses, instead_of=addresses)
