# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The reach of each interface, by the lists of its sandbox, else by those of its network."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Iterable, Mapping, Sequence, Tuple

from ...errors import SpecError
from ...spec.grants import DNS, DNS_PORT, Grant, Grants, IPNetwork, merged
from .files import host_resolvers
from .model import Interface, Network, Publication

ANYWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))

# First and last address, first and last port.
Box = Tuple[int, int, int, int]


@dataclass(frozen=True)
class SandboxPolicy:
    """The lists of one sandbox; None stands for those of its networks."""

    egress: Grants | None = None
    host_access: Grants | None = None
    dns_servers: tuple[str, ...] = ()


# A broken record has no known policy: deny everything.
CLOSED = SandboxPolicy(egress=(), host_access=())


@dataclass(frozen=True)
class Policy:
    """The policy in force for one interface; ``egress`` None allows everything."""

    egress: Grants | None
    host_access: Grants
    resolvers: tuple[str, ...] = ()

    @property
    def egress_key(self) -> str:
        return _key(*map(str, self.egress or ()), "", *self.resolvers)

    @property
    def host_key(self) -> str:
        return _key(*map(str, self.host_access))


def _key(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:10]


def effective(
    networks: Mapping[str, Network],
    interfaces: Iterable[Interface],
    own: Mapping[str, SandboxPolicy],
) -> list[tuple[Interface, Policy]]:
    """The policy of each interface on these networks."""
    host = tuple(_global(host_resolvers()))
    plugged = [item for item in interfaces if item.network in networks]
    return [
        (item, _effective(networks[item.network], own.get(item.sandbox, SandboxPolicy()), host))
        for item in plugged
    ]


def _effective(network: Network, own: SandboxPolicy, host: tuple[str, ...]) -> Policy:
    egress = network.egress if own.egress is None else own.egress
    services = network.host_access if own.host_access is None else own.host_access
    servers: Sequence[str] = ()
    if egress and any(map(asks_dns, egress)):
        servers = own.dns_servers or network.dns_servers or host
    return Policy(egress, services, tuple(servers))


def asks_dns(grant: Grant) -> bool:
    """Whether a list needs DNS: a sandbox that may reach a name has to resolve it."""
    return isinstance(grant.to, str)


def _global(servers: Iterable[str]) -> list[str]:
    """The name servers that files.resolv_conf chooses from."""
    reachable = []
    for server in servers:
        try:
            address = ipaddress.ip_address(server)
        except ValueError:
            continue
        if not address.is_loopback and str(address) not in reachable:
            reachable.append(str(address))
    return reachable


def names(networks: Mapping[str, Network], own: Mapping[str, SandboxPolicy]) -> set[str]:
    """The host names in all lists."""
    lists = [item.egress or () for item in networks.values()]
    lists += [item.egress or () for item in own.values()]
    named = {grant.name for entries in lists for grant in entries}
    return {name for name in named if name is not None}


@dataclass(frozen=True)
class Reach:
    """The addresses that one list allows in one family: whole ranges, and boxes by protocol."""

    ranges: tuple[tuple[int, int], ...]
    tcp: tuple[Box, ...]
    udp: tuple[Box, ...]


def reach(policy: Policy, addresses: Mapping[str, Iterable[str]], version: int) -> Reach:
    """The reach of a policy; ``addresses`` are those of the names in its list."""
    ranges, boxes = [], {"tcp": [], "udp": []}  # type: list[tuple[int, int]], dict[str, list[Box]]
    for grant in policy.egress or ():
        for low, high in _spans(_targets(grant, addresses), version):
            if grant.protocol is None:
                ranges.append((low, high))
            else:
                boxes[grant.protocol] += [(low, high, *ports) for ports in grant.ports]
    for low, high in _spans([ipaddress.ip_network(item) for item in policy.resolvers], version):
        for allowed in boxes.values():
            allowed.append((low, high, DNS_PORT, DNS_PORT))
    return Reach(merged(ranges), disjoint(boxes["tcp"]), disjoint(boxes["udp"]))


def _targets(grant: Grant, addresses: Mapping[str, Iterable[str]]) -> Sequence[IPNetwork]:
    if grant.to is None:
        return ANYWHERE
    if grant.to == DNS:
        return ()
    if isinstance(grant.to, str):
        return [ipaddress.ip_network(item) for item in addresses.get(grant.to, ())]
    return [grant.to]


def _spans(ranges: Iterable[IPNetwork], version: int) -> list[tuple[int, int]]:
    return [
        (int(item.network_address), int(item.broadcast_address))
        for item in ranges
        if item.version == version
    ]


def disjoint(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Split boxes so that no two overlap, as the kernel requires; they cover the same."""
    cuts = sorted({box[0] for box in boxes} | {box[1] + 1 for box in boxes})
    rows: list[tuple[int, int, tuple[tuple[int, int], ...]]] = []
    for low, end in zip(cuts, cuts[1:]):
        ports = merged((box[2], box[3]) for box in boxes if box[0] <= low and end - 1 <= box[1])
        if rows and ports == rows[-1][2] and rows[-1][1] == low - 1:
            rows[-1] = (rows[-1][0], end - 1, ports)
        elif ports:
            rows.append((low, end - 1, ports))
    return tuple((low, high, *span) for low, high, ports in rows for span in ports)


def check(
    networks: Mapping[str, Network],
    interfaces: Iterable[Interface],
    publications: Iterable[Publication],
) -> None:
    """SpecError for a port that is published from an internal network."""
    internal = {name for name, network in networks.items() if network.internal}
    closed = {
        address: item.network
        for item in interfaces
        if item.network in internal
        for address in item.addresses
    }
    for publication in publications:
        network = closed.get(publication.address)
        if network is not None:
            raise SpecError(
                "published_ports",
                str(publication),
                f"of sandbox {publication.sandbox} is on the internal network {network}",
                hint="list a network that is not internal first, or publish nothing",
            )
