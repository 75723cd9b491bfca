# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The host's side of networks: bridges, forwarding, and the teardown of both."""

from __future__ import annotations

import functools
import os
from ipaddress import ip_interface
from typing import Mapping

from ... import store
from ...errors import HostError, SpecError
from ...kernel import linkflags, netlink, program
from ...plan import Operation
from ...site import Site
from ...spec.table.networks import MIN_MTU_IPV6
from ..common import declare
from ..common.model import Network, identity
from . import adapter, forwarding, nft, overlap, sysctls
from .observe import BridgeState, our_bridges, our_ports, our_shapers, owned

TARGET = "network"
DOWN = "down"
UDEV = "/run/udev/control"


def network_operations(
    site: Site, networks: Mapping[str, Network], state: BridgeState
) -> list[Operation]:
    """Operations that make ``networks`` right and remove all other networks of the host."""
    declare.check_disjoint(networks)
    overlap.check_subnets(site, networks, state)
    stored = declare.load(site)
    changes = [
        *_removals(site, networks, stored, state),
        *(op for network in networks.values() for op in _bridge(site, network, state)),
    ]
    changes = [*_forwarding(site, networks, state), *_vacate(site, networks, state), *changes]
    if stored != dict(networks):
        changes.insert(0, Operation(TARGET, "record the networks", lambda: _save(site, networks)))
    return changes


def _vacate(site: Site, networks: Mapping[str, Network], state: BridgeState) -> list[Operation]:
    """Operations that remove addresses in ranges which move from one bridge to another.

    The kernel keeps one route for a range, at the bridge that had the range first.
    """
    ranges = {(each.subnet, name) for name, item in networks.items() for each in item.ranges()}
    left: dict[str, list[str]] = {}
    for name, network in networks.items():
        link = owned(site, state.links, network.bridge, "bridge")
        known = state.addresses.get(link.index, ()) if link else ()
        left[network.bridge] = [
            address
            for address in known
            if address not in network.bridge_addresses
            and any(ip_interface(address).ip in subnet for subnet, other in ranges if other != name)
        ]
    return [
        Operation(TARGET, f"vacate {bridge}", functools.partial(_take, bridge, old), silent=True)
        for bridge, old in left.items()
        if old
    ]


def _take(bridge: str, addresses: list[str]) -> None:
    with netlink.connect() as sock, adapter.host() as connection:
        link = netlink.link(sock, bridge)
        index = link.index if link else None
        current = [item.address for item in netlink.addresses(sock) if item.index == index]
        gone = [address for address in addresses if address in current]
        if gone:
            connection.set_addresses(bridge, [], instead_of=gone)


def removal_operations(
    site: Site, before: Mapping[str, Network], after: Mapping[str, Network], state: BridgeState
) -> list[Operation]:
    """Operations that remove networks of ``before``, all of which are in order."""
    changes = [Operation(TARGET, "record the networks", lambda: _save(site, after))]
    if not any(network.ipv6_subnet for network in after.values()):
        changes += _restore_forwarding6(site, state)
    return [*changes, *_removals(site, after, before, state)]


def _forwarding(site: Site, networks: Mapping[str, Network], state: BridgeState) -> list[Operation]:
    changes = []
    if networks and state.forwarding.due:
        changes.append(_switch(site, 4, state.forwarding))
    six = next((network for network in networks.values() if network.ipv6_subnet), None)
    if six is None:
        return [*changes, *_restore_forwarding6(site, state)]
    if not sysctls.has_ipv6():
        hint = "leave it out, or boot the kernel without ipv6.disable=1"
        problem = f"of network {six.name} needs IPv6, which this kernel does not have"
        raise SpecError("ipv6_subnet", six.ipv6_subnet, problem, hint=hint)
    if state.forwarding6.due:
        changes.append(_switch(site, 6, state.forwarding6))
    return changes


def _switch(site: Site, version: int, state: forwarding.Forwarding) -> Operation:
    verb = "share" if state.shared else "switch on"
    action = f"{verb} IPv{version} forwarding"
    return Operation(TARGET, action, lambda: forwarding.enable(site, version))


def _restore_forwarding6(site: Site, state: BridgeState) -> list[Operation]:
    if state.forwarding6.prior is None:
        return []
    action = "restore IPv6 forwarding"
    return [Operation(TARGET, action, lambda: forwarding.restore(site, 6))]


def teardown_operations(site: Site, state: BridgeState) -> list[Operation]:
    """Operations that remove every link, table, setting and file of ours and nothing else."""
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
    records = [forwarding.file(site, version) for version in forwarding.FORWARD]
    files = [site.networks_file, *records, site.names_file]

    def forget() -> None:
        for path in files:
            store.remove(path)

    if any(map(os.path.exists, files)):
        operations.append(Operation(TARGET, "forget the networks", forget))
    return operations


def _save(site: Site, networks: Mapping[str, Network]) -> None:
    os.makedirs(site.state, mode=0o700, exist_ok=True)
    declare.save(site, networks)


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
    desired = {network.bridge for network in networks.values()}
    names = {network.bridge: network.name for network in stored.values()}
    operations = []
    for bridge in our_bridges(site, state.links):
        if bridge in desired:
            continue
        name, ports = names.get(bridge, bridge), state.ports(bridge)
        if ports:
            raise SpecError(
                "networks",
                name,
                f"can't be removed: {len(ports)} interface(s) are plugged into it",
                hint="remove its sandboxes or attach them to another network first",
            )
        adapter.require()
        delete = functools.partial(_delete, site, [bridge])
        operations.append(Operation(f"network {name}", f"delete bridge {bridge}", delete))
    return operations


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
    adapter.require(foreseen=state.foreseen)
    return [Operation(f"network {network.name}", summary, lambda: ensure_bridge(site, network))]


def _problems(network: Network, link: netlink.Link, state: BridgeState) -> list[str]:
    addresses = state.addresses.get(link.index, ())
    problems = []
    if sorted(addresses) != sorted(network.bridge_addresses):
        problems.append(f"addresses {', '.join(addresses) or 'none'}")
    if not link.up:
        problems.append(DOWN)
    elif not problems:
        # The kernel makes these routes with the addresses, and takes them away with the link.
        routes = {(item.destination, item.index, item.gateway) for item in state.routes}
        subnets = [str(each.subnet) for each in network.ranges()]
        problems += [f"no route to {x}" for x in subnets if (x, link.index, "") not in routes]
    if link.mtu != network.link_mtu:
        problems.append(f"mtu {link.mtu}")
    known = state.settings.get(network.bridge, {})
    problems += [f"setting {key}" for key in _wrong_settings(network, known)]
    return problems


def _raise(site: Site, network: Network) -> None:
    """Bring up a bridge that the launcher took down when rules were missing; without pyroute2."""
    with netlink.connect() as sock:
        link = netlink.link(sock, network.bridge)
    if owned(site, {link.name: link} if link else {}, network.bridge, "bridge") is None:
        ensure_bridge(site, network)
    else:
        linkflags.change(network.bridge, up=True)


def ensure_bridge(site: Site, network: Network) -> None:
    """Make the bridge right, from any state."""
    # Another root may have been torn down, and forwarding switched off, since the observation.
    for each in network.ranges():
        forwarding.enable(site, each.version)
    with netlink.connect() as sock, adapter.host() as connection:
        link = netlink.link(sock, network.bridge)
        if owned(site, {link.name: link} if link else {}, network.bridge, "bridge") is None:
            connection.add_bridge(network.bridge, identity(site, network.bridge))
            await_udev()
            link = netlink.link(sock, network.bridge)
        if link is None:
            raise HostError(f"the bridge {network.bridge} went away while it was being set up")
        starts_down = not link.up
        if link.mtu != network.link_mtu:
            # Above this MTU the kernel starts IPv6 with its own settings.
            if link.mtu < MIN_MTU_IPV6 <= network.link_mtu:
                connection.set_link(network.bridge, state="down")
                starts_down = True
            connection.set_link(network.bridge, mtu=network.link_mtu)
        # Before the bridge comes up, so that it never sends unwanted IPv6 packets.
        known = sysctls.settings(network.bridge)
        for key, value in _wrong_settings(network, known).items():
            sysctls.write(key, value)
        if starts_down:
            connection.set_link(network.bridge, state="up")
        current = [item.address for item in netlink.addresses(sock) if item.index == link.index]
        addresses = network.bridge_addresses
        connection.set_addresses(network.bridge, addresses, instead_of=current)
        for address in network.gateway_interfaces:
            connection.set_subnet_route(network.bridge, address)


def await_udev() -> None:
    """Wait until udev has handled the new link.

    Its rules write settings of sysctl.d(5), such as rp_filter, to each new link (99-systemd.rules),
    and would otherwise overwrite ours later.
    """
    if os.path.exists(UDEV):
        hint = "udevadm monitor shows what keeps udev busy; run again"
        program.check(["udevadm", "settle", "--timeout=60"], hint=hint)


def _wrong_settings(network: Network, known: Mapping[str, str]) -> dict[str, str]:
    return sysctls.wrong_settings(known, network.bridge, ipv6=network.ipv6_subnet is not None)
