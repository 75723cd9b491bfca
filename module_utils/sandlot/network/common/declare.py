# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The networks a user asked for: validated, stored, loaded."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from typing import Any, Iterable, Mapping

from ... import store
from ...errors import SpecError, StateError
from ...site import Site
from . import policy
from .model import DEFAULT_NAME, DEFAULT_SUBNET, IpNetwork, Network, Range

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
OPTIONS = frozenset(
    (
        "name", "ipv4_subnet", "ipv4_gateway", "ipv6_subnet", "ipv6_gateway", "nat", "isolated",
        "mtu", "dns_servers", "internal", "egress", "host_access",
    )
)  # fmt: skip
ARGUMENTS: Mapping[str, Any] = {
    "name": {"type": "str", "required": True},
    "ipv4_subnet": {"type": "str"},
    "ipv4_gateway": {"type": "str"},
    "ipv6_subnet": {"type": "str"},
    "ipv6_gateway": {"type": "str"},
    "nat": {"type": "bool", "default": True},
    "isolated": {"type": "bool", "default": False},
    "mtu": {"type": "int"},
    "dns_servers": {"type": "list", "elements": "str", "default": []},
    "internal": {"type": "bool", "default": False},
    "egress": {"type": "list", "elements": "raw"},
    "host_access": {"type": "list", "elements": "raw", "default": []},
}
MIN_MTU = 576
MAX_MTU = 65535
MIN_MTU_IPV6 = 1280
MAX_PREFIX = {4: 30, 6: 126}
EXAMPLE = {4: "10.77.4.0/24", 6: "fd77:0:0:4::/64"}
# Loopback, unspecified and mapped addresses; those of one link; multicast.
UNFIT6 = tuple(ipaddress.IPv6Network(text) for text in ("::/8", "fe80::/9", "ff00::/8"))


def argument_spec() -> Mapping[str, Any]:
    """Ansible's argument spec of one network."""
    return ARGUMENTS


def normalise(site: Site, raw: Iterable[Mapping[str, Any]]) -> dict[str, Network]:
    """Networks by name, validated one by one and against each other; SpecError names the option."""
    networks: dict[str, Network] = {}
    for item in raw:
        network = _network(site, {key: value for key, value in item.items() if value is not None})
        if network.name in networks:
            raise SpecError("name", network.name, "is listed twice", hint="keep one of them")
        networks[network.name] = network
    check_disjoint(networks)
    _check_bridges(networks)
    return networks


def _check_bridges(networks: Mapping[str, Network]) -> None:
    """Names of bridges are digests cut to what the kernel takes, so two can be the same."""
    holders: dict[str, str] = {}
    for network in networks.values():
        other = holders.setdefault(network.bridge, network.name)
        if other != network.name:
            problem = f"would have the same bridge, {network.bridge}, as network {other}"
            raise SpecError("name", network.name, problem, hint="choose another name for one")


def check_disjoint(networks: Mapping[str, Network]) -> None:
    """SpecError when two networks overlap. Neighbours in order of address are enough to look at."""
    pairs = [(each, network.name) for network in networks.values() for each in network.ranges()]
    ordered = sorted(pairs, key=_place)
    for (lower, below), (upper, above) in zip(ordered, ordered[1:]):
        if lower.subnet.overlaps(upper.subnet):
            raise SpecError(
                upper.option,
                str(upper.subnet),
                f"of network {above} overlaps {lower.subnet} of network {below}",
                hint="give each network a range of its own",
            )


def _place(pair: tuple[Range, str]) -> tuple[int, int, int]:
    subnet = pair[0].subnet
    return subnet.version, int(subnet.network_address), subnet.prefixlen


def default(site: Site) -> Network:
    """The network that exists when a sandbox uses "default" and nobody declared it."""
    return _network(site, {"name": DEFAULT_NAME})


def load(site: Site) -> dict[str, Network]:
    """The stored networks by name."""
    path = site.networks_file
    hint = f"restore it from a backup, or remove {path} and declare the networks again"
    data = store.read(path, hint=hint)
    if data is None:
        return {}
    try:
        networks = [Network.from_json(site, item) for item in data["networks"]]
        for network in networks:
            network.ranges()
        return {network.name: network for network in networks}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{path} lacks or has an unknown field: {error}"
        raise StateError(problem, hint=hint) from error


def load_for(site: Site, used: Iterable[str]) -> dict[str, Network]:
    """The stored networks, and the default one when it is used without having been declared."""
    networks = load(site)
    if DEFAULT_NAME not in networks and DEFAULT_NAME in set(used):
        networks[DEFAULT_NAME] = default(site)
    return networks


def save(site: Site, networks: Mapping[str, Network]) -> None:
    items = [networks[name].to_json() for name in sorted(networks)]
    store.write(site.networks_file, {"networks": items})


def _network(site: Site, raw: Mapping[str, Any]) -> Network:
    unknown = sorted(set(raw) - OPTIONS)
    if unknown:
        raise SpecError(
            "networks",
            unknown[0],
            "is no option of a network",
            hint=f"use {', '.join(sorted(OPTIONS))}",
        )
    name = _name(raw.get("name"))
    subnet = _subnet(4, _required(name, raw.get("ipv4_subnet")))
    network = Network(
        name=name,
        bridge=site.bridge(name),
        ipv4_subnet=str(subnet),
        ipv4_gateway=_gateway(subnet, raw.get("ipv4_gateway")),
        nat=bool(raw.get("nat", True)),
        isolated=bool(raw.get("isolated", False)),
        mtu=_mtu(raw.get("mtu")),
        dns_servers=tuple(_server(server) for server in raw.get("dns_servers", ())),
        **policy.declared(raw),
    )
    return _with_ipv6(network, raw.get("ipv6_subnet"), raw.get("ipv6_gateway"))


def _with_ipv6(network: Network, subnet: object, gateway: object) -> Network:
    if subnet is None:
        if gateway is None:
            return network
        hint = f"give ipv6_subnet too, such as {EXAMPLE[6]}"
        raise SpecError("ipv6_gateway", gateway, "has no subnet to be in", hint=hint)
    found = _subnet(6, subnet)
    if network.mtu is not None and network.mtu < MIN_MTU_IPV6:
        hint = f"use {MIN_MTU_IPV6} or more, or leave out ipv6_subnet"
        raise SpecError("mtu", network.mtu, "is too small for IPv6", hint=hint)
    return replace(network, ipv6_subnet=str(found), ipv6_gateway=_gateway(found, gateway))


def _name(name: object) -> str:
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    raise SpecError(
        "name",
        name,
        "is no network name",
        hint="use up to 63 lower-case letters, digits, '_', '.' and '-', first a letter or digit",
    )


def _required(name: str, value: object) -> object:
    if value is None and name != DEFAULT_NAME:
        hint = f"give an IPv4 range such as {EXAMPLE[4]}"
        raise SpecError("ipv4_subnet", None, f"is missing for network {name}", hint=hint)
    return DEFAULT_SUBNET if value is None else value


def _subnet(version: int, value: object) -> IpNetwork:
    option = f"ipv{version}_subnet"
    hint = f"give an IPv{version} range such as {EXAMPLE[version]}"
    parse = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    try:
        subnet: IpNetwork = parse(str(value))
    except ValueError as error:
        problem = f"is no IPv{version} subnet ({error})"
        raise SpecError(option, value, problem, hint=hint) from error
    longest = MAX_PREFIX[version]
    if subnet.prefixlen > longest:
        remedy = f"use /{longest} or larger"
        raise SpecError(option, value, "has no room for a sandbox", hint=remedy)
    if not _is_fit(subnet):
        problem = "is not a range hosts can have addresses in"
        remedy = f"give a private range such as {EXAMPLE[version]}"
        raise SpecError(option, value, problem, hint=remedy)
    return subnet


def _is_fit(subnet: IpNetwork) -> bool:
    if isinstance(subnet, ipaddress.IPv6Network):
        return not any(subnet.overlaps(other) for other in UNFIT6)
    return _assignable(subnet.network_address) and _assignable(subnet.broadcast_address)


def _assignable(address: ipaddress.IPv4Address) -> bool:
    special = address.is_loopback or address.is_multicast or address.is_link_local
    return not (
        special or address in ipaddress.IPv4Network("0.0.0.0/8") or int(address) >> 28 == 15
    )


def _gateway(subnet: IpNetwork, value: object) -> str:
    if value is None:
        return str(subnet[1])
    version = subnet.version
    option = f"ipv{version}_gateway"
    parse = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    try:
        address = str(parse(str(value)))
    except ValueError as error:
        hint = f"write it like {subnet[1]}, without a prefix"
        raise SpecError(option, value, f"is no IPv{version} address", hint=hint) from error
    known = Range(version, subnet, address)
    if "%" in address or not known.has(address):
        hint = f"use one from {subnet[1]} to {subnet[-2]}"
        raise SpecError(option, value, f"is no host address in {subnet}", hint=hint)
    return address


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
