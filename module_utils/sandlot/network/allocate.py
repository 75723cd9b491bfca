# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Gives sandboxes their interfaces: addresses asked for first, then kept ones, then free ones."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence

from ..errors import SpecError
from ..paths import Paths
from .ifnames import interface_names
from .model import ANY, Interface, Network, Publication, sandbox_mac

if TYPE_CHECKING:
    from ..spec import Attachment, PublishedPort


class Pool:
    """The addresses of one network and who has them."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._range = network.addresses()
        self._next = int(self._range.network_address) + 1
        self._holders = {int(ipaddress.IPv4Address(network.ipv4_gateway)): "the gateway"}

    def has(self, address: str) -> bool:
        """Whether ``address`` is a host address of this network."""
        ends = (self._range.network_address, self._range.broadcast_address)
        value = ipaddress.IPv4Address(address)
        return value in self._range and value not in ends

    def holder(self, address: str) -> str | None:
        return self._holders.get(int(ipaddress.IPv4Address(address)))

    def take(self, address: str, holder: str) -> None:
        self._holders[int(ipaddress.IPv4Address(address))] = holder

    def take_asked(self, address: str, sandbox: str) -> None:
        """Reserve an address a user asked for; SpecError when it can't be had."""
        _check_ipv4(address)
        name = self.network.name
        if not self.has(address):
            raise SpecError(
                "ipv4_address",
                address,
                f"of sandbox {sandbox} is no host address in {self._range} of network {name}",
                hint=f"use one from {self._range[1]} to {self._range[-2]}, or none",
            )
        holder = self.holder(address)
        if holder is not None:
            problem = f"of sandbox {sandbox} is in use by {holder}"
            raise SpecError("ipv4_address", address, problem, hint="choose another, or none")
        self.take(address, f"sandbox {sandbox}")

    def take_free(self, sandbox: str) -> str:
        """Reserve the lowest free address; SpecError when there is none."""
        while self._next in self._holders:
            self._next += 1
        if self._next >= int(self._range.broadcast_address):
            raise SpecError(
                "networks",
                self.network.name,
                f"has no free address in {self._range} for sandbox {sandbox}",
                hint="declare the network with a larger ipv4_subnet, or use another network",
            )
        address = str(ipaddress.IPv4Address(self._next))
        self.take(address, f"sandbox {sandbox}")
        return address


def allocate(
    paths: Paths,
    networks: Mapping[str, Network],
    wanted: Mapping[str, Sequence[Attachment]],
    kept: Mapping[str, Sequence[Interface]],
) -> dict[str, list[Interface]]:
    """Interfaces of each wanted sandbox.

    ``kept`` are the recorded interfaces of every sandbox that stays on the host; those that are
    not in ``wanted`` only hold their addresses. An address stays with its sandbox and network
    unless the attachment asks for another or the network no longer contains it.
    """
    _check_attachments(networks, wanted)
    pools = {name: Pool(network) for name, network in networks.items()}
    _hold_unchanged(pools, wanted, kept)
    chosen = _asked(pools, wanted)
    _keep(pools, wanted, kept, chosen)
    for sandbox, attachments in wanted.items():
        for attachment in attachments:
            key = (sandbox, attachment.name)
            if key not in chosen:
                chosen[key] = pools[attachment.name].take_free(sandbox)
    result = {}
    for sandbox, attachments in wanted.items():
        names = interface_names([item.name for item in attachments], kept.get(sandbox, ()))
        result[sandbox] = [
            _interface(paths, networks[item.name], sandbox, names[item.name], item, chosen)
            for item in attachments
        ]
    _check_macs(result, kept)
    return result


def publications(
    sandbox: str, interfaces: Sequence[Interface], ports: Iterable[PublishedPort]
) -> list[Publication]:
    """Where the published ports of a sandbox lead: to the address of its first interface."""
    ports = list(ports)
    if ports and not interfaces:
        raise SpecError(
            "published_ports",
            ports[0].host_port,
            f"can't be published: sandbox {sandbox} is on no network",
            hint="attach it to one with the option networks",
        )
    return [
        Publication(
            sandbox, port.host_ip or ANY, port.host_port, port.protocol, interfaces[0].address,
            port.port,
        )
        for port in ports
    ]  # fmt: skip


def _check_attachments(
    networks: Mapping[str, Network], wanted: Mapping[str, Sequence[Attachment]]
) -> None:
    for sandbox, attachments in wanted.items():
        names = [attachment.name for attachment in attachments]
        for name in names:
            if name not in networks:
                there = ", ".join(sorted(networks)) or "none"
                raise SpecError(
                    "networks",
                    name,
                    f"of sandbox {sandbox} is not a network of this host",
                    hint=f"declare it in sandbox_networks; there are: {there}",
                )
            if names.count(name) > 1:
                problem = f"is listed twice for sandbox {sandbox}"
                raise SpecError("networks", name, problem, hint="keep one of them")


def _hold_unchanged(
    pools: Mapping[str, Pool],
    wanted: Mapping[str, Sequence[Attachment]],
    kept: Mapping[str, Sequence[Interface]],
) -> None:
    for sandbox, interfaces in kept.items():
        if sandbox in wanted:
            continue
        for interface in interfaces:
            pool = pools.get(interface.network)
            if pool is not None and pool.has(interface.address):
                pool.take(interface.address, f"sandbox {sandbox}")


def _asked(
    pools: Mapping[str, Pool], wanted: Mapping[str, Sequence[Attachment]]
) -> dict[tuple[str, str], str]:
    chosen = {}
    for sandbox, attachments in wanted.items():
        for attachment in attachments:
            if attachment.ipv4_address:
                pools[attachment.name].take_asked(attachment.ipv4_address, sandbox)
                chosen[sandbox, attachment.name] = attachment.ipv4_address
    return chosen


def _keep(
    pools: Mapping[str, Pool],
    wanted: Mapping[str, Sequence[Attachment]],
    kept: Mapping[str, Sequence[Interface]],
    chosen: dict[tuple[str, str], str],
) -> None:
    for sandbox, attachments in wanted.items():
        before = {interface.network: interface for interface in kept.get(sandbox, ())}
        for attachment in attachments:
            interface = before.get(attachment.name)
            if interface is None or (sandbox, attachment.name) in chosen:
                continue
            pool = pools[attachment.name]
            if pool.has(interface.address) and pool.holder(interface.address) is None:
                pool.take(interface.address, f"sandbox {sandbox}")
                chosen[sandbox, attachment.name] = interface.address


def _interface(
    paths: Paths,
    network: Network,
    sandbox: str,
    ifname: str,
    attachment: Attachment,
    chosen: Mapping[tuple[str, str], str],
) -> Interface:
    mac = attachment.mac_address
    return Interface(
        sandbox=sandbox,
        network=network.name,
        ifname=ifname,
        link=paths.link(sandbox, ifname),
        mac=_unicast(mac, sandbox) if mac else sandbox_mac(paths, sandbox, ifname),
        ipv4=f"{chosen[sandbox, network.name]}/{network.prefix}",
        gateway=network.ipv4_gateway,
    )


def _check_ipv4(address: str) -> None:
    try:
        ipaddress.IPv4Address(address)
    except ValueError as error:
        hint = "write it like 10.77.0.5, without a prefix"
        raise SpecError("ipv4_address", address, "is no IPv4 address", hint=hint) from error


def _unicast(mac: str, sandbox: str) -> str:
    parts = mac.lower().replace("-", ":").split(":")
    valid = len(parts) == 6 and all(len(part) == 2 for part in parts)
    try:
        raw = bytes.fromhex("".join(parts)) if valid else b""
    except ValueError:
        raw = b""
    if raw and not raw[0] & 1 and any(raw):
        return raw.hex(":")
    raise SpecError(
        "mac_address",
        mac,
        f"of sandbox {sandbox} is no unicast MAC address",
        hint="use one such as 02:00:00:00:00:01",
    )


def _check_macs(
    result: Mapping[str, Sequence[Interface]], kept: Mapping[str, Sequence[Interface]]
) -> None:
    """A MAC address twice on one network would make the bridge send frames to either."""
    holders: dict[tuple[str, str], str] = {}
    for sandbox, interfaces in {**kept, **result}.items():
        for interface in interfaces:
            other = holders.setdefault((interface.network, interface.mac), sandbox)
            if other != sandbox:
                problem = f"of sandbox {sandbox} is in use by sandbox {other}"
                raise SpecError("mac_address", interface.mac, problem, hint="choose another")
