# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The host's side of networks: their bridges, forwarding, and taking all of it away."""

from __future__ import annotations

import os
import socket
from typing import Mapping

from ... import store
from ...errors import HostError, SpecError
from ...kernel import linkflags, netlink
from ...plan import Operation
from ...site import Site
from ..common import declare
from ..common.model import Network, Range, identity
from . import adapter, forwarding, nft, overlap, sysctls
from .observe import BridgeState, our_bridges, our_ports, our_shapers, owned

TARGET = "network"
DOWN = "down"


def network_operations(
    site: Site, networks: Mapping[str, Network], state: BridgeState
) -> list[Operation]:
    """What makes ``networks`` the networks of this host, and removes those not among them."""
    declare.check_disjoint(networks)
    overlap.check_subnets(site, networks, state)
    stored = declare.load(site)
    changes = [
        *_removals(site, networks, stored, state),
        *(op for network in networks.values() for op in _bridge(site, network, state)),
    ]
    changes = [*_forwarding(site, networks, state), *changes]
    if stored != dict(networks):
        changes.insert(0, Operation(TARGET, "record the networks", lambda: _save(site, networks)))
    return changes


def removal_operations(
    site: Site, before: Mapping[str, Network], after: Mapping[str, Network], state: BridgeState
) -> list[Operation]:
    """Take the host from the networks ``before``, which are in order, to fewer of them."""
    found = [Operation(TARGET, "record the networks", lambda: _save(site, after))]
    if not any(network.ipv6_subnet for network in after.values()):
        found += _restore_forwarding6(site, state)
    return [*found, *_removals(site, after, before, state)]


def _forwarding(site: Site, networks: Mapping[str, Network], state: BridgeState) -> list[Operation]:
    found = []
    if networks and state.forwarding.due:
        found.append(_switch(site, 4, state.forwarding))
    six = next((network for network in networks.values() if network.ipv6_subnet), None)
    if six is None:
        return [*found, *_restore_forwarding6(site, state)]
    if not sysctls.has_ipv6():
        hint = "leave it out, or boot the kernel without ipv6.disable=1"
        problem = f"of network {six.name} needs IPv6, which this kernel does not have"
        raise SpecError("ipv6_subnet", six.ipv6_subnet, problem, hint=hint)
    if state.forwarding6.due:
        found.append(_switch(site, 6, state.forwarding6))
    return found


def _switch(site: Site, version: int, found: forwarding.Forwarding) -> Operation:
    verb = "share" if found.shared else "switch on"
    action = f"{verb} IPv{version} forwarding"
    return Operation(TARGET, action, lambda: forwarding.enable(site, version))


def _restore_forwarding6(site: Site, state: BridgeState) -> list[Operation]:
    if state.forwarding6.prior is None:
        return []
    action = "restore IPv6 forwarding"
    return [Operation(TARGET, action, lambda: forwarding.restore(site, 6))]


def teardown_operations(site: Site, state: BridgeState) -> list[Operation]:
    """Take away every link, table, setting and file of ours; nothing that is not ours."""
    operations = []
    ports, bridges = our_ports(site, state.links), our_bridges(site, state.links)
    ports += our_shapers(site, state.links)
    if ports or bridges:
        adapter.require()
        summary = f"delete {len(ports)} interface(s) and {len(bridges)} bridge(s)"
        links = [*ports, *bridges]
        operations.append(Operation(TARGET, summary, lambda: _delete(site, links)))
    switched = {"IPv4": state.forwarding.prior, "IPv6": state.forwarding6.prior}
    families = [family for family, prior in switched.items() if prior is not None]
    if families:
        summary = f"restore {' and '.join(families)} forwarding"
        operations.append(Operation(TARGET, summary, lambda: forwarding.leave(site)))
    operations += nft.remove_operations(site, state.tables)
    if any(os.path.exists(path) for path in _files(site)):
        operations.append(Operation(TARGET, "forget the networks", lambda: _forget(site)))
    return operations


def _files(site: Site) -> tuple[str, ...]:
    return (
        site.networks_file,
        *(forwarding.file(site, version) for version in forwarding.FORWARD),
        site.names_file,
    )


def _save(site: Site, networks: Mapping[str, Network]) -> None:
    os.makedirs(site.state, mode=0o700, exist_ok=True)
    declare.save(site, networks)


def _forget(site: Site) -> None:
    for path in _files(site):
        store.remove(path)


def _delete(site: Site, names: list[str]) -> None:
    with netlink.connect() as sock:
        links = {link.name: link for link in netlink.links(sock)}
    ours = {*our_ports(site, links), *our_shapers(site, links), *our_bridges(site, links)}
    with adapter.host() as connection:
        connection.delete(name for name in names if name in ours)


def _removals(
    site: Site,
    networks: Mapping[str, Network],
    stored: Mapping[str, Network],
    state: BridgeState,
) -> list[Operation]:
    wanted = {network.bridge for network in networks.values()}
    names = {network.bridge: network.name for network in stored.values()}
    operations = []
    for bridge in our_bridges(site, state.links):
        if bridge in wanted:
            continue
        name = names.get(bridge, bridge)
        _refuse_used(site, name, bridge, state)
        operations.append(_removal(site, name, bridge))
    return operations


def _removal(site: Site, name: str, bridge: str) -> Operation:
    adapter.require()
    summary = f"delete bridge {bridge}"
    return Operation(f"network {name}", summary, lambda: _delete(site, [bridge]))


def _refuse_used(site: Site, name: str, bridge: str, state: BridgeState) -> None:
    ports = state.ports(bridge)
    if ports:
        raise SpecError(
            "networks",
            name,
            f"can't be removed: {len(ports)} interface(s) are plugged into it",
            hint="remove its sandboxes or attach them to another network first",
        )


def _bridge(site: Site, network: Network, state: BridgeState) -> list[Operation]:
    link = owned(site, state.links, network.bridge, "bridge")
    where = f"{network.bridge} with {' and '.join(network.gateway_interfaces)}"
    if link is None:
        summary = f"create bridge {where}"
    else:
        problems = _problems(network, link, state)
        if not problems:
            return []
        summary = f"repair bridge {where} ({', '.join(problems)})"
        if problems == [DOWN]:
            return [Operation(f"network {network.name}", summary, lambda: _raise(site, network))]
    adapter.require()
    return [Operation(f"network {network.name}", summary, lambda: ensure_bridge(site, network))]


def _problems(network: Network, link: netlink.Link, state: BridgeState) -> list[str]:
    addresses = state.addresses.get(link.index, ())
    found = []
    if sorted(addresses) != sorted(network.bridge_addresses):
        found.append(f"addresses {', '.join(addresses) or 'none'}")
    if not link.up:
        found.append(DOWN)
    elif not found:
        found += [f"no route to {each.subnet}" for each in _unreached(network, link, state)]
    if network.mtu not in (None, link.mtu):
        found.append(f"mtu {link.mtu}")
    known = state.settings.get(network.bridge, {})
    found += [f"setting {key}" for key in _wrong_settings(network, known)]
    return found


def _unreached(network: Network, link: netlink.Link, state: BridgeState) -> list[Range]:
    """The kernel makes these routes with the addresses, and takes them away with the link."""
    routes = {(item.destination, item.index, item.gateway) for item in state.routes}
    return [each for each in network.ranges() if (str(each.subnet), link.index, "") not in routes]


def _raise(site: Site, network: Network) -> None:
    """The launcher takes bridges down while rules are missing; up again in no time."""
    with netlink.connect() as sock:
        link = netlink.link(sock, network.bridge)
    found = {link.name: link} if link else {}
    if owned(site, found, network.bridge, "bridge") is None:
        ensure_bridge(site, network)
    else:
        linkflags.change(network.bridge, up=True)


def ensure_bridge(site: Site, network: Network) -> None:
    """Make the bridge what it should be, whatever it is now."""
    # Another root may have left, and switched it off, since this run looked.
    for each in network.ranges():
        forwarding.enable(site, each.version)
    with netlink.connect() as sock, adapter.host() as connection:
        link = netlink.link(sock, network.bridge)
        if owned(site, {link.name: link} if link else {}, network.bridge, "bridge") is None:
            connection.add_bridge(network.bridge, identity(site, network.bridge))
            link = netlink.link(sock, network.bridge)
        if link is None:
            raise HostError(f"the bridge {network.bridge} went away while it was being set up")
        # Before it comes up, so that it never speaks IPv6 that is not wanted.
        known = sysctls.settings(network.bridge)
        for key, value in _wrong_settings(network, known).items():
            sysctls.write(key, value)
        _set_mtu(connection, network, link)
        if not link.up:
            connection.set_link(network.bridge, state="up")
        _set_addresses(sock, connection, network, link)
        for address in network.gateway_interfaces:
            connection.set_subnet_route(network.bridge, address)


def _set_mtu(connection: adapter.Links, network: Network, link: netlink.Link) -> None:
    if network.mtu not in (None, link.mtu):
        connection.set_link(network.bridge, mtu=network.mtu)


def _wrong_settings(network: Network, known: Mapping[str, str]) -> dict[str, str]:
    return sysctls.wrong_settings(known, network.bridge, ipv6=network.ipv6_subnet is not None)


def _set_addresses(
    sock: socket.socket, connection: adapter.Links, network: Network, link: netlink.Link
) -> None:
    current = [item.address for item in netlink.addresses(sock) if item.index == link.index]
    connection.set_addresses(network.bridge, network.bridge_addresses, instead_of=current)
