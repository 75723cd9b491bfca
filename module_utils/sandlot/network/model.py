# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Networks, interfaces and publications, and the identities derived from their names."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Any, Dict, Mapping

from ..paths import Paths

Json = Dict[str, Any]

DEFAULT_NAME = "default"
DEFAULT_SUBNET = "10.77.0.0/22"
ANY = "0.0.0.0"
# More names than a sandbox will ever have; unlinking works from the name, not from a record.
MAX_INTERFACES = 16


@dataclass(frozen=True)
class Network:
    """A bridge of this host; ``mtu`` None leaves the kernel's own."""

    name: str
    bridge: str
    ipv4_subnet: str
    ipv4_gateway: str
    nat: bool = True
    isolated: bool = False
    mtu: int | None = None
    dns_servers: tuple[str, ...] = ()
    internal: bool = False
    egress: tuple[str, ...] | None = None
    host_access: tuple[str, ...] = ()

    @property
    def prefix(self) -> int:
        return int(self.ipv4_subnet.partition("/")[2])

    @property
    def gateway_interface(self) -> str:
        """The bridge's own address, as "address/prefix"."""
        return f"{self.ipv4_gateway}/{self.prefix}"

    def addresses(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.ipv4_subnet)

    def to_json(self) -> Json:
        lists = {key: list(x) for key, x in vars(self).items() if isinstance(x, tuple)}
        data = {**vars(self), **lists}
        del data["bridge"]
        return data

    @classmethod
    def from_json(cls, paths: Paths, data: Mapping[str, Any]) -> Network:
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        return cls(**{**data, "bridge": paths.bridge(data["name"]), **lists})


@dataclass(frozen=True)
class Interface:
    """One end of a sandbox on a network; ``link`` is the host end, ``ifname`` the end inside."""

    sandbox: str
    network: str
    ifname: str
    link: str
    mac: str
    ipv4: str
    gateway: str

    @property
    def address(self) -> str:
        return self.ipv4.partition("/")[0]

    @property
    def prefix(self) -> int:
        return int(self.ipv4.partition("/")[2])

    def to_json(self) -> Json:
        data = dict(vars(self))
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
        return self.host_ip == other.host_ip or ANY in (self.host_ip, other.host_ip)

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host_port}/{self.protocol}"


def _mac(seed: str) -> str:
    digest = hashlib.sha256(seed.encode()).digest()
    return bytes([2, *digest[:5]]).hex(":")


def identity(paths: Paths, link: str) -> str:
    """The MAC address by which a link of ours on the host is told from a foreign one."""
    return _mac(f"{paths.root}:link:{link}")


def sandbox_mac(paths: Paths, sandbox: str, ifname: str) -> str:
    """The MAC address of a sandbox's interface when its spec names none."""
    return _mac(f"{paths.root}:sandbox:{sandbox}:{ifname}")


def owner_mark(paths: Paths) -> str:
    """Name of an empty chain that tells our nftables tables from foreign ones."""
    return f"owner_{hashlib.sha256(f'{paths.root}:nft'.encode()).hexdigest()[:12]}"
