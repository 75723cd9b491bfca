# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Allocates the interfaces of sandboxes: requested addresses first, then kept, then free ones."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address
from itertools import count
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence, Tuple

from ...errors import SpecError
from ...site import Site
from .model import (
    MAX_INTERFACES,
    Address,
    Interface,
    Network,
    Range,
    sandbox_mac,
)

if TYPE_CHECKING:
    from ...spec import Attachment

VERSIONS = (4, 6)
# BR_MAX_PORTS of the kernel is 1024, and it gives number 0 to none (net/bridge/br_if.c).
MAX_PORTS = 1023

# (sandbox, network, version of IP)
Key = Tuple[str, str, int]


class Pool:
    """The addresses of one network in one family, and their holders."""

    def __init__(self, name: str, addresses: Range) -> None:
        self.name = name
        self._range = addresses
        self._next = addresses.first
        self._holders = {int(ip_address(addresses.gateway)): "the gateway"}

    def has(self, address: Address) -> bool:
        return self._range.has(address)

    def holder(self, address: Address) -> str | None:
        return self._holders.get(int(address))

    def take(self, address: Address, holder: str) -> None:
        self._holders[int(address)] = holder

    def take_asked(self, address: Address, sandbox: str) -> Address:
        """Reserve an address that a user asked for; SpecError when it is taken or unfit."""
        subnet = self._range.subnet
        option = f"ipv{self._range.version}_address"
        if not self.has(address):
            raise SpecError(
                option,
                str(address),
                f"of sandbox {sandbox} is no host address in {subnet} of network {self.name}",
                hint=f"use one from {subnet[1]} to {subnet[-2]}, or none",
            )
        holder = self.holder(address)
        if holder is not None:
            problem = f"of sandbox {sandbox} is in use by {holder}"
            raise SpecError(option, str(address), problem, hint="choose another, or none")
        self.take(address, f"sandbox {sandbox}")
        return address

    def take_free(self, sandbox: str) -> Address:
        """Reserve the lowest free address; SpecError in a full network."""
        while self._next in self._holders:
            self._next += 1
        if self._next > self._range.last:
            raise SpecError(
                "networks",
                self.name,
                f"has no free address in {self._range.subnet} for sandbox {sandbox}",
                hint=f"declare it with a larger {self._range.option}, or use another network",
            )
        address = self._range.subnet[self._next - self._range.first + 1]
        self.take(address, f"sandbox {sandbox}")
        return address


def allocate(
    site: Site,
    networks: Mapping[str, Network],
    desired: Mapping[str, Sequence[Attachment]],
    kept: Mapping[str, Sequence[Interface]],
) -> dict[str, list[Interface]]:
    """Allocate the interfaces of each desired sandbox.

    ``kept`` are the recorded interfaces of all sandboxes that stay on the host; a sandbox that is
    not in ``desired`` only keeps its addresses taken. A sandbox keeps its address in a network,
    unless the attachment asks for another or the network no longer contains it.
    """
    _check_attachments(networks, desired)
    pools = {
        (name, each.version): Pool(name, each)
        for name, network in networks.items()
        for each in network.ranges()
    }
    _hold_unchanged(pools, desired, kept)
    chosen = _asked(pools, desired)
    _keep(pools, desired, kept, chosen)
    for sandbox, attachments in desired.items():
        for attachment in attachments:
            for version in VERSIONS:
                key = (sandbox, attachment.name, version)
                if key not in chosen and (attachment.name, version) in pools:
                    chosen[key] = pools[attachment.name, version].take_free(sandbox)
    result = {}
    for sandbox, attachments in desired.items():
        names = interface_names([item.name for item in attachments], kept.get(sandbox, ()))
        result[sandbox] = [
            _interface(site, networks[item.name], sandbox, names[item.name], item, chosen)
            for item in attachments
        ]
    _check_apart({**kept, **result})
    _check_ports(kept, result)
    return result


def interface_names(networks: Sequence[str], kept: Iterable[Interface]) -> dict[str, str]:
    """Interface names by network: the present one, which no change renames, or the lowest free."""
    before = {item.network: item.ifname for item in kept}
    named = {network: before[network] for network in networks if network in before}
    free = (name for name in (f"eth{index}" for index in count()) if name not in named.values())
    return {network: named.get(network) or next(free) for network in networks}


def _check_attachments(
    networks: Mapping[str, Network], desired: Mapping[str, Sequence[Attachment]]
) -> None:
    for sandbox, attachments in desired.items():
        names = [attachment.name for attachment in attachments]
        for name in names:
            if name not in networks:
                known = ", ".join(sorted(networks)) or "none"
                raise SpecError(
                    "networks",
                    name,
                    f"of sandbox {sandbox} is not a network of this host",
                    hint=f"declare it in sandbox_networks; there are: {known}",
                )
            if names.count(name) > 1:
                problem = f"is listed twice for sandbox {sandbox}"
                raise SpecError("networks", name, problem, hint="keep one of them")
        if len(names) > MAX_INTERFACES:
            problem = f"are more than {MAX_INTERFACES} for sandbox {sandbox}"
            raise SpecError("networks", len(names), problem, hint="attach it to fewer networks")


def _hold_unchanged(
    pools: Mapping[tuple[str, int], Pool],
    desired: Mapping[str, Sequence[Attachment]],
    kept: Mapping[str, Sequence[Interface]],
) -> None:
    for sandbox, interfaces in kept.items():
        if sandbox in desired:
            continue
        for interface in interfaces:
            for version, address in zip(VERSIONS, map(ip_address, interface.addresses)):
                pool = pools.get((interface.network, version))
                if pool is not None and pool.has(address):
                    pool.take(address, f"sandbox {sandbox}")


def _asked(
    pools: Mapping[tuple[str, int], Pool], desired: Mapping[str, Sequence[Attachment]]
) -> dict[Key, Address]:
    chosen: dict[Key, Address] = {}
    for sandbox, attachments in desired.items():
        for attachment in attachments:
            asked = (attachment.ipv4_address, attachment.ipv6_address)
            for version, address in zip(VERSIONS, asked):
                if address is None:
                    continue
                pool = pools.get((attachment.name, version))
                if pool is None:
                    problem = f"of sandbox {sandbox} is on a network without IPv6"
                    hint = f"give network {attachment.name} an ipv6_subnet"
                    raise SpecError("ipv6_address", str(address), problem, hint=hint)
                chosen[sandbox, attachment.name, version] = pool.take_asked(address, sandbox)
    return chosen


def _keep(
    pools: Mapping[tuple[str, int], Pool],
    desired: Mapping[str, Sequence[Attachment]],
    kept: Mapping[str, Sequence[Interface]],
    chosen: dict[Key, Address],
) -> None:
    for sandbox, attachments in desired.items():
        before = {interface.network: interface for interface in kept.get(sandbox, ())}
        for attachment in attachments:
            interface = before.get(attachment.name)
            if interface is None:
                continue
            for version, address in zip(VERSIONS, map(ip_address, interface.addresses)):
                pool = pools.get((attachment.name, version))
                key = (sandbox, attachment.name, version)
                if key in chosen or pool is None:
                    continue
                if pool.has(address) and pool.holder(address) is None:
                    pool.take(address, f"sandbox {sandbox}")
                    chosen[key] = address


def _check_ports(
    kept: Mapping[str, Sequence[Interface]], result: Mapping[str, Sequence[Interface]]
) -> None:
    """SpecError for a new interface that finds no port at its bridge; present ones stay."""
    used = Counter(item.network for items in {**kept, **result}.values() for item in items)
    for sandbox, interfaces in result.items():
        present = {item.network for item in kept.get(sandbox, ())}
        for item in interfaces:
            number = used[item.network]
            if item.network not in present and number > MAX_PORTS:
                raise SpecError(
                    "networks",
                    item.network,
                    f"would have {number} sandboxes, and its bridge has {MAX_PORTS} ports",
                    hint=f"attach {number - MAX_PORTS} of them to another network",
                )


def _interface(
    site: Site,
    network: Network,
    sandbox: str,
    ifname: str,
    attachment: Attachment,
    chosen: Mapping[Key, Address],
) -> Interface:
    cidrs = {
        each.version: f"{chosen[sandbox, network.name, each.version]}/{each.subnet.prefixlen}"
        for each in network.ranges()
    }
    return Interface(
        sandbox=sandbox,
        network=network.name,
        ifname=ifname,
        link=site.link(sandbox, ifname),
        mac=attachment.mac_address or sandbox_mac(site, sandbox, ifname),
        ipv4=cidrs[4],
        gateway=network.ipv4_gateway,
        ipv6=cidrs.get(6, ""),
        gateway6=network.ipv6_gateway or "",
    )


def _check_apart(interfaces_of: Mapping[str, Sequence[Interface]]) -> None:
    """Refuse a MAC address that is twice on a network: frames would go to either interface.

    Refuse equal link names too: they are digests, cut to the kernel's length.
    """
    macs: dict[tuple[str, str], str] = {}
    links: dict[str, str] = {}
    for sandbox, interfaces in interfaces_of.items():
        for interface in interfaces:
            other = macs.setdefault((interface.network, interface.mac), sandbox)
            if other != sandbox:
                problem = f"of sandbox {sandbox} is in use by sandbox {other}"
                raise SpecError("mac_address", interface.mac, problem, hint="choose another")
            other = links.setdefault(interface.link, sandbox)
            if other != sandbox:
                problem = f"would have the same interface, {interface.link}, as sandbox {other}"
                raise SpecError("name", sandbox, problem, hint="choose another name for one")
