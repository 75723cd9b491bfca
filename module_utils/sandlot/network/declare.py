# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The networks a user asked for: validated, stored, loaded."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Iterable, Mapping

from .. import store
from ..errors import SpecError, StateError
from ..paths import Paths
from . import policy
from .model import DEFAULT_NAME, DEFAULT_SUBNET, Network

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
OPTIONS = frozenset(
    ("name", "ipv4_subnet", "ipv4_gateway", "nat", "isolated", "mtu", "dns_servers")
    + ("internal", "egress", "host_access")
)
MIN_MTU = 576
MAX_MTU = 65535
MAX_PREFIX = 30


def normalise(paths: Paths, raw: Iterable[Mapping[str, Any]]) -> dict[str, Network]:
    """Networks by name, validated one by one and against each other; SpecError names the option."""
    networks: dict[str, Network] = {}
    for item in raw:
        network = _network(paths, {key: value for key, value in item.items() if value is not None})
        if network.name in networks:
            raise SpecError("name", network.name, "is listed twice", hint="keep one of them")
        networks[network.name] = network
    check_disjoint(networks)
    return networks


def check_disjoint(networks: Mapping[str, Network]) -> None:
    """SpecError when two networks overlap. Neighbours in order of address are enough to look at."""
    ordered = sorted(networks.values(), key=lambda network: network.addresses())
    for lower, upper in zip(ordered, ordered[1:]):
        if lower.addresses().overlaps(upper.addresses()):
            raise SpecError(
                "ipv4_subnet",
                upper.ipv4_subnet,
                f"of network {upper.name} overlaps {lower.ipv4_subnet} of network {lower.name}",
                hint="give each network a range of its own",
            )


def default(paths: Paths) -> Network:
    """The network that exists when a sandbox uses "default" and nobody declared it."""
    return _network(paths, {"name": DEFAULT_NAME})


def load(paths: Paths) -> dict[str, Network]:
    """The stored networks by name."""
    data = store.read(paths.networks_file)
    if data is None:
        return {}
    try:
        networks = [Network.from_json(paths, item) for item in data["networks"]]
    except (KeyError, TypeError) as error:
        raise StateError(
            f"{paths.networks_file} lacks or has an unknown field: {error}",
            hint="restore it from a backup, or remove it and declare the networks again",
        ) from error
    return {network.name: network for network in networks}


def load_for(paths: Paths, used: Iterable[str]) -> dict[str, Network]:
    """The stored networks, and the default one when it is used without having been declared."""
    networks = load(paths)
    if DEFAULT_NAME not in networks and DEFAULT_NAME in set(used):
        networks[DEFAULT_NAME] = default(paths)
    return networks


def save(paths: Paths, networks: Mapping[str, Network]) -> None:
    items = [networks[name].to_json() for name in sorted(networks)]
    store.write(paths.networks_file, {"networks": items})


def _network(paths: Paths, raw: Mapping[str, Any]) -> Network:
    unknown = sorted(set(raw) - OPTIONS)
    if unknown:
        raise SpecError(
            "networks",
            unknown[0],
            "is no option of a network",
            hint=f"use {', '.join(sorted(OPTIONS))}",
        )
    name = _name(raw.get("name"))
    subnet = _subnet(name, raw.get("ipv4_subnet"))
    return Network(
        name=name,
        bridge=paths.bridge(name),
        ipv4_subnet=str(subnet),
        ipv4_gateway=_gateway(subnet, raw.get("ipv4_gateway")),
        nat=bool(raw.get("nat", True)),
        isolated=bool(raw.get("isolated", False)),
        mtu=_mtu(raw.get("mtu")),
        dns_servers=tuple(_server(server) for server in raw.get("dns_servers", ())),
        **policy.declared(raw),
    )


def _name(name: object) -> str:
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    raise SpecError(
        "name",
        name,
        "is no network name",
        hint="use up to 63 lower-case letters, digits, '_', '.' and '-', first a letter or digit",
    )


def _subnet(name: str, value: object) -> ipaddress.IPv4Network:
    if value is None and name != DEFAULT_NAME:
        hint = "give an IPv4 range such as 10.77.4.0/24"
        raise SpecError("ipv4_subnet", None, f"is missing for network {name}", hint=hint)
    text = DEFAULT_SUBNET if value is None else str(value)
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        hint = "give an IPv4 range such as 10.77.4.0/24"
        raise SpecError("ipv4_subnet", value, f"is no IPv4 subnet ({error})", hint=hint) from error
    if subnet.prefixlen > MAX_PREFIX:
        raise SpecError("ipv4_subnet", value, "has no room for a sandbox", hint="use /30 or larger")
    if not _assignable(subnet.network_address) or not _assignable(subnet.broadcast_address):
        problem = "is not a range hosts can have addresses in"
        hint = "give a private range such as 10.77.4.0/24"
        raise SpecError("ipv4_subnet", value, problem, hint=hint)
    return subnet


def _assignable(address: ipaddress.IPv4Address) -> bool:
    special = address.is_loopback or address.is_multicast or address.is_link_local
    return not (
        special or address in ipaddress.IPv4Network("0.0.0.0/8") or int(address) >> 28 == 15
    )


def _gateway(subnet: ipaddress.IPv4Network, value: object) -> str:
    if value is None:
        return str(subnet.network_address + 1)
    try:
        address = ipaddress.IPv4Address(str(value))
    except ValueError as error:
        hint = "write it like 10.77.0.1, without a prefix"
        raise SpecError("ipv4_gateway", value, "is no IPv4 address", hint=hint) from error
    if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
        hint = f"use one from {subnet[1]} to {subnet[-2]}"
        raise SpecError("ipv4_gateway", value, f"is no host address in {subnet}", hint=hint)
    return str(address)


def _mtu(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and MIN_MTU <= value <= MAX_MTU:
        return value
    hint = f"use a number from {MIN_MTU} to {MAX_MTU}"
    raise SpecError("mtu", value, "is out of range", hint=hint)


def _server(value: object) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError as error:
        hint = "write it like 9.9.9.9 or 2620:fe::fe"
        raise SpecError("dns_servers", value, "is no IP address", hint=hint) from error
