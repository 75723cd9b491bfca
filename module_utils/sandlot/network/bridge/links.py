# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Veth pairs: one end a port of a network's bridge, the other in a sandbox's network namespace."""

from __future__ import annotations

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
from ..common.model import MAX_INTERFACES, Interface, Network, default_routes, identity
from . import adapter, sysctls
from .announce import announce
from .observe import BridgeState, is_ours, owned

DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True)
class Inside:
    """A sandbox's network namespace; of default routes the metrics by gateway and link."""

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
        routes = netlink.routes(sock)
    defaults: dict[tuple[str, int], list[int]] = {}
    for route in routes:
        if route.destination in DEFAULT_ROUTES and route.table == RT_TABLE_MAIN:
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
    """Plugs one sandbox in; [] when the host's links and those inside are right already."""
    if not interfaces:
        return []
    networks = {item.network: known[item.network] for item in interfaces}
    found = [owned(site, state.links, item.link, "veth") for item in interfaces]
    # Without all host ends there is no use in looking inside.
    if all(found) and is_namespace_file(netns):
        problems = _problems(networks, interfaces, look_inside(netns), state)
        if not problems:
            return []
        summary = f"repair interfaces ({', '.join(problems)})"
    else:
        missing = [item for item, link in zip(interfaces, found) if link is None or all(found)]
        plugs = [
            f"{item.ifname} {' and '.join(item.cidrs)} into {item.network}" for item in missing
        ]
        summary = f"plug {', '.join(plugs)}"
    adapter.require()
    return [
        Operation(interfaces[0].sandbox, summary, lambda: plug(site, networks, interfaces, netns))
    ]


def unlink_operations(
    site: Site, sandbox: str, state: BridgeState, keep: Iterable[Interface] = ()
) -> list[Operation]:
    """What unplugs one sandbox but for ``keep``, found by names derived from its own."""
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
    """One operation for many sandboxes, found by names derived from their own."""
    names = [name for sandbox in sandboxes for name in _links_of(site, sandbox, state)]
    if not names:
        return []
    adapter.require()
    return [Operation("network", f"unplug {len(names)} interface(s)", lambda: _unplug(site, names))]


def _links_of(site: Site, sandbox: str, state: BridgeState) -> dict[str, str]:
    """Host ends that there are, with the interface each is the other end of, or shapes."""
    names = {}
    for ifname in (f"eth{index}" for index in range(MAX_INTERFACES)):
        for link, kind in (
            (site.link(sandbox, ifname), "veth"),
            (site.shaper(sandbox, ifname), "ifb"),
        ):
            if owned(site, state.links, link, kind):
                names[link] = ifname
    return names


def _unplug(site: Site, names: Sequence[str]) -> None:
    with netlink.connect() as sock:
        found = [netlink.link(sock, name) for name in names]
    ours = [link.name for link in found if link is not None and is_ours(site, link)]
    if ours:
        with adapter.host() as connection:
            connection.delete(ours)


def _problems(
    networks: Mapping[str, Network],
    interfaces: Sequence[Interface],
    inside: Inside,
    state: BridgeState,
) -> list[str]:
    found = [] if _is_up(inside, "lo") else ["lo is down"]
    for item in interfaces:
        network = networks[item.network]
        bridge = state.links.get(network.bridge)
        outer = state.links[item.link]
        inner = inside.links.get(item.ifname)
        if bridge is None or not _is_port(outer, bridge, network):
            found.append(f"{item.link} is not a port of its bridge")
        elif not outer.up:
            found.append(f"{item.link} is down")
        elif network.mtu not in (None, outer.mtu):
            found.append(f"{item.link} has mtu {outer.mtu}")
        if inner is None or not _is_pair(outer, inner):
            found.append(f"{item.ifname} is missing")
        else:
            found += _inner_problems(item, inner, inside)
    return [*found, *_route_problems(networks, interfaces, inside)]


def _is_up(inside: Inside, ifname: str) -> bool:
    link = inside.links.get(ifname)
    return link is not None and link.up


def _is_port(outer: Link, bridge: Link, network: Network) -> bool:
    modes = (outer.isolated, outer.hairpin, outer.learning)
    wanted = (network.isolated, not network.isolated, False)
    return outer.master == bridge.index and modes == wanted


def _is_pair(outer: Link, inner: Link | None) -> bool:
    return inner is not None and (inner.index, inner.peer) == (outer.peer, outer.index)


def _inner_problems(item: Interface, inner: Link, inside: Inside) -> list[str]:
    found = []
    if inner.mac != item.mac:
        found.append(f"{item.ifname} has MAC {inner.mac}")
    if not inner.up:
        found.append(f"{item.ifname} is down")
    addresses = inside.addresses.get(inner.index, ())
    if sorted(addresses) != sorted(item.inner_addresses):
        found.append(f"{item.ifname} has {', '.join(addresses) or 'no address'}")
    return found


def _route_problems(
    networks: Mapping[str, Network], interfaces: Sequence[Interface], inside: Inside
) -> list[str]:
    found = [
        f"no route to {subnet}"
        for item in interfaces
        for subnet, _ in _lost_subnets(item, inside.links.get(item.ifname), inside)
    ]
    wanted = _wanted_routes(networks, interfaces, inside)
    return found if set(inside.default_routes) == wanted else [*found, "default route differs"]


def _wanted_routes(
    networks: Mapping[str, Network], interfaces: Sequence[Interface], inside: Inside
) -> set[tuple[str, int]]:
    return {
        (gateway, inside.links[home.ifname].index)
        for home, gateway in default_routes(networks, interfaces)
        if home.ifname in inside.links
    }


def _lost_subnets(item: Interface, inner: Link | None, inside: Inside) -> list[tuple[str, str]]:
    """(subnet, address) of routes that are gone; of a link that is up with its addresses, else
    these come first and bring the routes."""
    if inner is None or not inner.up or _has_moved(item, inside):
        return []
    subnets = [(str(ipaddress.ip_interface(cidr).network), cidr) for cidr in item.cidrs]
    return [
        (subnet, cidr) for subnet, cidr in subnets if (subnet, inner.index) not in inside.subnets
    ]


def plug(
    site: Site, networks: Mapping[str, Network], interfaces: Sequence[Interface], netns: str
) -> None:
    """Make the links of one sandbox right, whatever they are now."""
    inside = look_inside(netns)
    with netlink.connect() as sock, adapter.host() as host:
        for item in interfaces:
            outer = netlink.link(sock, item.link)
            owned(site, {outer.name: outer} if outer else {}, item.link, "veth")
            inner = inside.links.get(item.ifname)
            if (
                outer is None
                or not _is_pair(outer, inner)
                or _is_elsewhere(outer, networks[item.network])
            ):
                _make_pair(site, host, item, networks[item.network], netns)
            else:
                _mend_outer(host, outer, item, networks[item.network])
    _settle_inside(networks, interfaces, netns)


def _is_elsewhere(outer: Link, network: Network) -> bool:
    """On another network's bridge, whose MTU and forwarding entries it would bring along."""
    return outer.master not in (0, _bridge_index(network))


def _make_pair(
    site: Site, host: adapter.Links, item: Interface, network: Network, netns: str
) -> None:
    host.delete([item.link])
    bridge = _bridge_index(network)
    _clear_name(item.ifname, netns)
    with opened(netns) as descriptor:
        mac = identity(site, item.link)
        host.add_veth(item, mac, master=bridge, netns=descriptor, mtu=network.mtu)
    # The link has no carrier before its other end comes up, so it has not spoken yet.
    sysctls.silence_ipv6(item.link)
    host.set_port(item.link, item.mac, isolated=network.isolated)


def _clear_name(ifname: str, netns: str) -> None:
    """Delete what a killed run may have left inside under that name."""
    with entered(netns):
        if any(name == ifname for _, name in socket.if_nameindex()):
            with adapter.opened() as within:
                within.delete([ifname])


def _mend_outer(host: adapter.Links, outer: Link, item: Interface, network: Network) -> None:
    host.set_link(outer.name, master=_bridge_index(network), state="up")
    host.set_port(outer.name, item.mac, isolated=network.isolated)
    if network.mtu not in (None, outer.mtu):
        host.set_link(outer.name, mtu=network.mtu)


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
    with entered(netns):
        with adapter.batched() as within:
            for route in set(inside.default_routes) - _wanted_routes(networks, interfaces, inside):
                for metric in inside.default_routes[route]:
                    within.remove_default_route(*route, metric)
            if not _is_up(inside, "lo"):
                within.set_link("lo", state="up")
            for item in interfaces:
                inner = inside.links[item.ifname]
                _mend_inner(within, item, inner, inside.addresses.get(inner.index, ()))
                for _, address in _lost_subnets(item, inner, inside):
                    within.set_subnet_route(item.ifname, address)
            # The kernel removes routes with the last address of a link.
            moved = any(_has_moved(item, inside) for item in interfaces)
            if moved or _route_problems(networks, interfaces, inside):
                for home, gateway in default_routes(networks, interfaces):
                    within.set_default_route(home.ifname, gateway)
        for item in interfaces:
            if inside.links[item.ifname].up and _has_moved(item, inside):
                announce(item)


def _has_moved(item: Interface, inside: Inside) -> bool:
    inner = inside.links[item.ifname]
    addresses = inside.addresses.get(inner.index, ())
    return (inner.mac, sorted(addresses)) != (item.mac, sorted(item.inner_addresses))


def _mend_inner(
    within: adapter.Links, item: Interface, inner: Link, addresses: tuple[str, ...]
) -> None:
    if inner.mac != item.mac:
        within.set_link(item.ifname, address=item.mac)
    wrong = sorted(addresses) != sorted(item.inner_addresses)
    if wrong or not inner.up:
        _set_ipv6(item)
        # That takes what there is of IPv6 from it.
        addresses = tuple(address for address in addresses if ":" not in address)
    if not inner.up:
        within.set_link(item.ifname, state="up")
    within.set_addresses(item.ifname, item.inner_addresses, instead_of=addresses)


def _set_ipv6(item: Interface) -> None:
    if item.ipv6:
        sysctls.prepare_ipv6(item.ifname)
    else:
        sysctls.silence_ipv6(item.ifname)
