# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Networks, interfaces and publications, and the identities derived from their names."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Mapping, Union

from ...site import Site
from ...spec.grants import Grants
from ...spec.option import strings
from ...spec.table import networks

Json = Dict[str, Any]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
IpNetwork = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

DEFAULT_NAME = networks.DEFAULT_NAME
DEFAULT_SUBNET = ipaddress.IPv4Network(networks.DEFAULT_SUBNET)
DEFAULT_MTU = networks.DEFAULT_MTU
ANY = "0.0.0.0"
ANY6 = "::"
BRIDGE_LINK_LOCAL = "fe80::1/64"
# A limit, as unlinking tries all link names that derive from a sandbox's name, without a record.
MAX_INTERFACES = 16


@dataclass(frozen=True)
class Range:
    """The addresses of a network in one family (IPv4 or IPv6)."""

    version: int
    subnet: IpNetwork
    gateway: str

    @property
    def option(self) -> str:
        return f"ipv{self.version}_subnet"

    @property
    def first(self) -> int:
        return int(self.subnet[1])

    @property
    def last(self) -> int:
        """The last host address: in IPv4 before the broadcast address, which IPv6 lacks."""
        return int(self.subnet[-2 if self.version == 4 else -1])

    def has(self, address: Address) -> bool:
        """Whether ``address`` is a host address of this range."""
        return address in self.subnet and self.first <= int(address) <= self.last


@dataclass(frozen=True)
class Network:
    """A bridge of this host."""

    name: str
    bridge: str
    ipv4_subnet: str
    ipv4_gateway: str
    nat: bool = True
    isolated: bool = False
    mtu: int | None = None
    dns_servers: tuple[str, ...] = ()
    internal: bool = False
    egress: Grants | None = None
    host_access: Grants = ()
    ipv6_subnet: str | None = None
    ipv6_gateway: str | None = None

    @property
    def link_mtu(self) -> int:
        """The MTU of the bridge and of both ends of each link."""
        return self.mtu or DEFAULT_MTU

    @property
    def gateway_interfaces(self) -> tuple[str, ...]:
        """The bridge's own addresses, as "address/prefix"."""
        return tuple(f"{each.gateway}/{each.subnet.prefixlen}" for each in self.ranges())

    @property
    def bridge_addresses(self) -> tuple[str, ...]:
        """The gateways, and for IPv6 the link-local address that neighbour discovery needs."""
        link_local = (BRIDGE_LINK_LOCAL,) if self.ipv6_subnet else ()
        return (*self.gateway_interfaces, *link_local)

    def ranges(self) -> list[Range]:
        """The ranges of the network, IPv4 first."""
        four = Range(4, ipaddress.ip_network(self.ipv4_subnet), self.ipv4_gateway)
        if self.ipv6_subnet is None or self.ipv6_gateway is None:
            return [four]
        return [four, Range(6, ipaddress.ip_network(self.ipv6_subnet), self.ipv6_gateway)]

    def to_json(self) -> Json:
        """Leaves out later options at their default: older versions refuse unknown fields."""
        lists = {key: strings(x) for key, x in vars(self).items() if isinstance(x, tuple)}
        data = {**vars(self), **lists}
        del data["bridge"]
        for row in networks.OPTIONS:
            if row.later and getattr(self, row.name) == row.value(None):
                del data[row.name]
        return data

    @classmethod
    def from_json(cls, site: Site, data: Mapping[str, Any]) -> Network:
        rows = [row for row in networks.OPTIONS if row.type == "list"]
        given = [row for row in rows if data.get(row.name) is not None]
        lists = {row.name: row.parse(row.name, data[row.name]) for row in given}
        return cls(**{**data, "bridge": site.bridge(data["name"]), **lists})


@dataclass(frozen=True)
class Interface:
    """One end of a sandbox on a network; ``link`` is the host end, ``ifname`` the end inside.

    ``ipv6`` and ``gateway6`` are "" on a network with IPv4 only.
    """

    sandbox: str
    network: str
    ifname: str
    link: str
    mac: str
    ipv4: str
    gateway: str
    ipv6: str = ""
    gateway6: str = ""

    @property
    def address(self) -> str:
        return self.ipv4.partition("/")[0]

    @property
    def address6(self) -> str:
        return self.ipv6.partition("/")[0]

    @property
    def prefix(self) -> int:
        return int(self.ipv4.partition("/")[2])

    @property
    def cidrs(self) -> tuple[str, ...]:
        """The addresses of the interface, as "address/prefix"."""
        return (self.ipv4, self.ipv6) if self.ipv6 else (self.ipv4,)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(cidr.partition("/")[0] for cidr in self.cidrs)

    @property
    def inner_addresses(self) -> tuple[str, ...]:
        """``cidrs`` and, for IPv6, the link-local address."""
        return (*self.cidrs, f"{self.link_local}/64") if self.ipv6 else self.cidrs

    @property
    def link_local(self) -> str:
        """The address made from the MAC address (RFC 4291, appendix A), which makes it unique."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        suffix = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
        return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + suffix))

    def to_json(self) -> Json:
        """The interface for a record; without empty values, as in records from before IPv6."""
        data = {key: value for key, value in vars(self).items() if value}
        del data["sandbox"]
        return data

    @classmethod
    def from_json(cls, sandbox: str, data: Mapping[str, Any]) -> Interface:
        return cls(sandbox=sandbox, **data)


@dataclass(frozen=True)
class Publication:
    """A port of the host that leads to a port of a sandbox."""

    sandbox: str
    host_ip: str
    host_port: int
    protocol: str
    address: str
    port: int

    def collides(self, other: Publication) -> bool:
        if (self.protocol, self.host_port) != (other.protocol, other.host_port):
            return False
        if self.version != other.version:
            return False
        return self.host_ip == other.host_ip or self.everywhere or other.everywhere

    @property
    def version(self) -> int:
        return 6 if ":" in self.host_ip else 4

    @property
    def everywhere(self) -> bool:
        """Whether the port is published on all addresses of its family."""
        return self.host_ip in (ANY, ANY6)

    def __str__(self) -> str:
        host = f"[{self.host_ip}]" if self.version == 6 else self.host_ip
        return f"{host}:{self.host_port}/{self.protocol}"


@dataclass(frozen=True)
class Rates:
    """Bits a second that each interface of a sandbox takes in and sends; None for no limit."""

    ingress: int | None = None
    egress: int | None = None

    def __str__(self) -> str:
        parts = (("in", self.ingress), ("out", self.egress))
        return ", ".join(f"{way} {_readable(rate)}" for way, rate in parts if rate is not None)


def _readable(rate: int) -> str:
    for scale, unit in ((10**9, "g"), (10**6, "m"), (10**3, "k")):
        if rate % scale == 0:
            return f"{rate // scale}{unit}bit"
    return f"{rate}bit"


def by_family(interfaces: Iterable[Interface]) -> dict[int, Interface]:
    """A sandbox's first interface of each family; default routes and ports use it."""
    homes: dict[int, Interface] = {}
    for interface in interfaces:
        homes.setdefault(4, interface)
        if interface.ipv6:
            homes.setdefault(6, interface)
    return homes


def default_routes(
    networks: Mapping[str, Network], interfaces: Iterable[Interface]
) -> list[tuple[Interface, str]]:
    """(interface, gateway) in each family: a sandbox on several networks uses the first that is
    not internal."""
    open_ones = [item for item in interfaces if not networks[item.network].internal]
    return [
        (home, home.gateway6 if version == 6 else home.gateway)
        for version, home in by_family(open_ones).items()
    ]


def _mac(seed: str) -> str:
    digest = hashlib.sha256(seed.encode()).digest()
    return bytes([2, *digest[:5]]).hex(":")


def identity(site: Site, link: str) -> str:
    """The MAC address that marks a link of the host as ours."""
    return _mac(f"{site.root}:link:{link}")


def sandbox_mac(site: Site, sandbox: str, ifname: str) -> str:
    """The MAC address of a sandbox's interface unless its spec names one."""
    return _mac(f"{site.root}:sandbox:{sandbox}:{ifname}")


def owner_mark(site: Site) -> str:
    """The name of an empty chain that marks an nftables table as ours."""
    return f"owner_{hashlib.sha256(f'{site.root}:nft'.encode()).hexdigest()[:12]}"
